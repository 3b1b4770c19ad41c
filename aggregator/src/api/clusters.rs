//! What is now: clusters, members, leaders, alerts, agents.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Cluster, Parameters};
use super::{Context, Problem};
use crate::view::{AgentView, AlertView, ClusterSummary, LeaderView, MemberView};

/// All clusters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Clusters {
    /// By id.
    pub clusters: Vec<ClusterSummary>,
}

/// Every cluster that is heard of or known from earlier.
#[utoipa::path(
    get, path = "/api/v1/clusters", tag = "clusters", operation_id = "listClusters",
    responses(
        (status = 200, body = Clusters),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn clusters(State(context): State<Context>) -> Json<Clusters> {
    let view = context.shared.view.borrow().clone();
    Json(Clusters { clusters: view.clusters.values().map(|cluster| cluster.summary.clone()).collect() })
}

/// One cluster.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}", tag = "clusters", operation_id = "getCluster",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name")),
    responses(
        (status = 200, body = ClusterSummary),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several clusters have this name"),
    )
)]
pub async fn cluster(Cluster(cluster): Cluster) -> Json<ClusterSummary> {
    Json(cluster.summary)
}

/// All members of a cluster.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Members {
    /// By id.
    pub members: Vec<MemberView>,
}

/// The members of a cluster as their agents report them now.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/members", tag = "clusters", operation_id = "listMembers",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name")),
    responses(
        (status = 200, body = Members),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several clusters have this name"),
    )
)]
pub async fn members(Cluster(cluster): Cluster) -> Json<Members> {
    Json(Members { members: cluster.members })
}

/// Who leads a cluster now, and the changes seen.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/leader", tag = "clusters", operation_id = "getLeader",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name")),
    responses(
        (status = 200, body = LeaderView),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several clusters have this name"),
    )
)]
pub async fn leader(Cluster(cluster): Cluster) -> Json<LeaderView> {
    Json(cluster.leader)
}

/// Which alerts.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AlertFilter {
    /// Only those in this state: `pending`, `firing` or `resolved`.
    state: Option<String>,
}

/// All alerts that fit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Alerts {
    /// Firing ones first, then pending, then resolved; newest first.
    pub alerts: Vec<AlertView>,
}

/// Alerts that are pending or firing, and those resolved in the last day.
#[utoipa::path(
    get, path = "/api/v1/alerts", tag = "alerts", operation_id = "listAlerts", params(AlertFilter),
    responses(
        (status = 200, body = Alerts),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "No such state"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn alerts(
    State(context): State<Context>,
    Parameters(filter): Parameters<AlertFilter>,
) -> Result<Json<Alerts>, Problem> {
    if let Some(state) = &filter.state
        && !["pending", "firing", "resolved"].contains(&state.as_str())
    {
        let detail = format!("state: {state:?} is not pending, firing or resolved");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let view = context.shared.view.borrow().clone();
    let fits = |alert: &&AlertView| filter.state.as_ref().is_none_or(|state| *state == alert.state);
    Ok(Json(Alerts { alerts: view.alerts.iter().filter(fits).cloned().collect() }))
}

/// All agents.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Agents {
    /// By id.
    pub agents: Vec<AgentView>,
}

/// The agents heard of since the aggregator began.
#[utoipa::path(
    get, path = "/api/v1/agents", tag = "clusters", operation_id = "listAgents",
    responses(
        (status = 200, body = Agents),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn agents(State(context): State<Context>) -> Json<Agents> {
    Json(Agents { agents: context.shared.view.borrow().agents.clone() })
}
