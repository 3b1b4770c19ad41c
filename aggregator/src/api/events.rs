//! What happened, from what was stored.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{self, Cluster, Parameters};
use super::problem::Failures;
use super::{Context, Problem};
use crate::query::{self, EventFilter};
use crate::view::hex;

/// Longest kind that is looked for.
const KIND_LIMIT: usize = 64;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventScope {
    /// Only this member: 16 hexadecimal digits.
    member: Option<String>,
    /// Only this kind, such as `raft.leader_elected`, or all that begin with it when it ends with a dot, such as `raft.`.
    kind: Option<String>,
    /// Inclusive begin: RFC 3339, Unix seconds, or before now such as `-1h`; an hour before `to` when left out.
    from: Option<String>,
    /// Exclusive end, in the same ways; now when left out.
    to: Option<String>,
    /// Most events, 1 to 10000; 1000 when left out.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u64>,
}

/// Events.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// Newest first.
    pub events: Vec<Event>,
}

/// Something that happened.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its member, 16 hexadecimal digits; zeros for the node itself, and for a member that never came so far as to have an id.
    pub member: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Stable name.
    pub kind: String,
    /// What is known of it, by kind; units are part of the names.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
    /// Agent that told it.
    pub agent: Uuid,
}

/// Elections, changes of members, compactions, defragmentations, snapshots, alarms, starts and failed starts, slow requests,
/// and what happened to the node and its agent.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/events", tag = "telemetry", operation_id = "listEvents",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), EventScope),
    responses(
        (status = 200, body = Events),
        Failures,
    )
)]
pub async fn events(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<EventScope>,
) -> Result<Json<Events>, Problem> {
    let limit = extract::limit(scope.limit)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte);
    if let Some(kind) = &scope.kind
        && !(kind.len() <= KIND_LIMIT && kind.bytes().all(plain))
    {
        let detail = "kind: is not a name such as raft.leader_elected, or the begin of one such as raft.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let filter = EventFilter {
        member: extract::member(scope.member.as_deref())?,
        kind: scope.kind.filter(|kind| !kind.is_empty()),
        range: extract::range(scope.from.as_deref(), scope.to.as_deref(), context.now())?,
        limit,
    };
    let _turn = context.turn().await?;
    let found = context.shared.query.events(cluster.summary.id, &filter).await?;
    let event = |event: query::Event| Event {
        member: hex(event.member),
        at: event.at,
        kind: event.kind,
        // Agents write objects; another writer's text is shown as it is.
        details: serde_json::from_str(&event.details).unwrap_or(serde_json::Value::String(event.details)),
        agent: event.agent,
    };
    Ok(Json(Events { events: found.into_iter().map(event).collect() }))
}
