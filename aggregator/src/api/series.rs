//! History over time: metrics, latencies, syncs, writes, IO by others, resources, raft; of one cluster or of several side
//! by side, and of two times. As JSON, CSV or an Arrow stream.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::json;

use super::extract::{self, Cluster, Parameters};
use super::problem::Failures;
use super::{Context, Problem};
use crate::query::{Function, Group, History, MetricScope, OthersScope, Question, SyncScope};
use crate::view::ClusterView;
use render::Format;
use scope::{
    Common, Comparison, IoByOthers, LatencyHistory, MetricHistory, RaftHistory, Resources, SyncHistory,
    WriteHistory,
};

mod arrow;
mod render;
mod scope;

pub use render::HistoryAnswer;

/// Most clusters that are compared at once.
const MAX_CLUSTERS: usize = 20;

/// Most metrics in one question.
const MAX_NAMES: usize = 50;

/// Culprits of a member when no number is asked for.
const DEFAULT_TOP: u64 = 10;

/// Most culprits of a member.
const MAX_TOP: u64 = 100;

/// Metrics over time: gauges by mean, min, max and last, counters by their growth, etcd's histograms by percentiles.
///
/// A series has one value a step and column; `values` is as long as `at`. What nobody saw is null, and `gaps` says why. A value
/// that agents did not send again because it did not change counts for two minutes.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/metrics/history", tag = "series", operation_id = "metricHistory",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), MetricHistory),
    responses(
        (status = 200, description = "Values over time", content(
            (HistoryAnswer = "application/json", example = json!(example())),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn metrics(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<MetricHistory>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let question = Question::Metrics(metric_scope(&scope.name, &scope.r#as, &scope.r#where, scope.common())?);
    answer(&context, &[cluster], &question, scope.common(), &headers).await
}

/// Latency of syncs over time, out of merged histograms: percentiles, at most 5 % off, and counts. Every sync is in them.
///
/// The newest seconds, which are not stored yet, come from the live stream (`live_from`).
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/latency/history", tag = "series", operation_id = "latencyHistory",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), LatencyHistory),
    responses(
        (status = 200, description = "Latencies in nanoseconds", content(
            (HistoryAnswer = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn latency(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<LatencyHistory>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let question = Question::Latency(sync_scope(&scope.class, &scope.by, scope.common())?);
    answer(&context, &[cluster], &question, scope.common(), &headers).await
}

/// Numbers of syncs over time, errors, and time that their threads waited for a CPU.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/syncs/history", tag = "series", operation_id = "syncHistory",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), SyncHistory),
    responses(
        (status = 200, description = "Counts", content(
            (HistoryAnswer = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn syncs(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<SyncHistory>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let question = Question::Syncs(sync_scope(&scope.class, &scope.by, scope.common())?);
    answer(&context, &[cluster], &question, scope.common(), &headers).await
}

/// Writes over time: bytes, calls and their latency. Bytes are complete; calls are seen in a part of the time, and their rate
/// is that of the part.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/writes/history", tag = "series", operation_id = "writeHistory",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), WriteHistory),
    responses(
        (status = 200, description = "Bytes, calls, latencies", content(
            (HistoryAnswer = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn writes(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<WriteHistory>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let question = Question::Writes(sync_scope(&scope.class, &scope.by, scope.common())?);
    answer(&context, &[cluster], &question, scope.common(), &headers).await
}

/// Who else used the disks while slow syncs waited, over time: the culprits of all autopsies, by process, cgroup, container
/// and pod, the worst of each member.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/io/others", tag = "series", operation_id = "ioByOthers",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), IoByOthers),
    responses(
        (status = 200, description = "Waiting, bytes, requests", content(
            (HistoryAnswer = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn io_others(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<IoByOthers>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let question = Question::IoByOthers(others_scope(&scope.class, scope.top, scope.common())?);
    answer(&context, &[cluster], &question, scope.common(), &headers).await
}

/// What process, node, disk and cgroup use, over time.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/resources", tag = "series", operation_id = "resources",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), Resources),
    responses(
        (status = 200, description = "Metrics of the groups", content(
            (HistoryAnswer = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn resources(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<Resources>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let question = resource_question(&scope.group, scope.common())?;
    answer(&context, &[cluster], &question, scope.common(), &headers).await
}

/// Raft of each member over time: proposals committed and applied a second, pending and failed ones, how far behind applying
/// is, who leads.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/raft", tag = "series", operation_id = "raftHistory",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), RaftHistory),
    responses(
        (status = 200, description = "Raft of each member", content(
            (HistoryAnswer = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn raft(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<RaftHistory>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let question = Question::Raft { members: extract::members(scope.common().members)? };
    answer(&context, &[cluster], &question, scope.common(), &headers).await
}

/// The same history of several clusters side by side. Parameters are those of the history that `of` names.
#[utoipa::path(
    get, path = "/api/v1/compare", tag = "series", operation_id = "compareClusters",
    params(Comparison),
    responses(
        (status = 200, description = "Series of all clusters, at the same steps", content(
            (HistoryAnswer = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        Failures,
    )
)]
pub async fn compare(
    State(context): State<Context>,
    Parameters(scope): Parameters<Comparison>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let common = scope.common();
    let question = match scope.of.as_str() {
        "metrics" => Question::Metrics(metric_scope(
            scope.name.as_deref().unwrap_or_default(),
            &scope.r#as,
            &scope.r#where,
            common,
        )?),
        "latency" => Question::Latency(sync_scope(&scope.class, &scope.by, common)?),
        "syncs" => Question::Syncs(sync_scope(&scope.class, &scope.by, common)?),
        "writes" => Question::Writes(sync_scope(&scope.class, &scope.by, common)?),
        "io-others" => Question::IoByOthers(others_scope(&scope.class, scope.top, common)?),
        "resources" => resource_question(&scope.group, common)?,
        "raft" => Question::Raft { members: extract::members(common.members)? },
        other => {
            let known = "metrics, latency, syncs, writes, io-others, resources or raft";
            return Err(extract::bad(format!("of: {other:?} is not one of {known}")));
        }
    };
    let view = context.shared.view.borrow().clone();
    let named: Vec<&str> = extract::list(Some(&scope.clusters)).collect();
    if named.is_empty() || named.len() > MAX_CLUSTERS {
        return Err(extract::bad(format!("clusters: names 1 to {MAX_CLUSTERS} clusters, with commas")));
    }
    let mut clusters: Vec<ClusterView> = Vec::new();
    for name in named {
        let cluster = extract::cluster(&view, name)?;
        if clusters.iter().all(|known| known.summary.id != cluster.summary.id) {
            clusters.push(cluster.clone());
        }
    }
    answer(&context, &clusters, &question, common, &headers).await
}

fn metric_scope(
    names: &str,
    function: &Option<String>,
    labels: &Option<String>,
    common: Common<'_>,
) -> Result<MetricScope, Problem> {
    let names: Vec<String> = extract::list(Some(names)).map(str::to_owned).collect();
    if names.is_empty() || names.len() > MAX_NAMES {
        return Err(extract::bad(format!("name: names 1 to {MAX_NAMES} metrics, with commas")));
    }
    let function = match function.as_deref() {
        None | Some("auto") => Function::Auto,
        Some("values") => Function::Values,
        Some("growth") => Function::Growth,
        Some(other) => return Err(extract::bad(format!("as: {other:?} is not auto, values or growth"))),
    };
    let label = |text: &str| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(extract::bad(format!("where: {text:?} is not label=value"))),
    };
    let labels = extract::list(labels.as_deref()).map(label).collect::<Result<_, _>>()?;
    let members = extract::members(common.members)?;
    // Node series have no member to ask for.
    Ok(MetricScope { nodes: members.is_empty(), members, names, labels, function })
}

fn sync_scope(class: &Option<String>, by: &Option<String>, common: Common<'_>) -> Result<SyncScope, Problem> {
    let mut apart = crate::query::Apart { members: by.is_none(), classes: by.is_none() };
    for what in extract::list(by.as_deref()) {
        match what {
            "member" => apart.members = true,
            "class" => apart.classes = true,
            "cluster" => {}
            other => {
                return Err(extract::bad(format!("by: {other:?} is not member, class or cluster")));
            }
        }
    }
    let class = extract::class(class.as_deref())?;
    Ok(SyncScope { members: extract::members(common.members)?, class, apart })
}

fn others_scope(
    class: &Option<String>,
    top: Option<u64>,
    common: Common<'_>,
) -> Result<OthersScope, Problem> {
    let top = top.unwrap_or(DEFAULT_TOP);
    if !(1..=MAX_TOP).contains(&top) {
        return Err(extract::bad(format!("top: {top} is not between 1 and {MAX_TOP}")));
    }
    let class = extract::class(class.as_deref())?;
    Ok(OthersScope { members: extract::members(common.members)?, class, top })
}

fn resource_question(group: &Option<String>, common: Common<'_>) -> Result<Question, Problem> {
    let known = |name: &str| {
        let names = Group::ALL.map(Group::name).join(", ");
        Group::by_name(name).ok_or_else(|| extract::bad(format!("group: {name:?} is not one of {names}")))
    };
    let mut groups = extract::list(group.as_deref()).map(known).collect::<Result<Vec<_>, _>>()?;
    if groups.is_empty() {
        groups = Group::ALL.into();
    }
    Ok(Question::Resources { members: extract::members(common.members)?, groups })
}

/// Asks, for each cluster and each of the times, and renders.
async fn answer(
    context: &Context,
    clusters: &[ClusterView],
    question: &Question,
    common: Common<'_>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let format = Format::choose(common.format, headers)?;
    let query = &context.shared.query;
    let (plan, earlier) = common.plans(query.retention(), context.now())?;
    let _turn = context.turn().await?;
    let mut history: Option<History> = None;
    for cluster in clusters {
        for (plan, recent) in [(Some(plan), cluster.recent_syncs.as_slice()), (earlier, &[])] {
            let Some(plan) = plan else { continue };
            let found = query.history(cluster.summary.id, question, &plan, recent).await?;
            match &mut history {
                Some(history) => history.add(found)?,
                None => history = Some(found),
            }
        }
    }
    match history {
        Some(history) => Ok(render::respond(history, format)),
        None => Err(extract::bad("clusters: names none")),
    }
}

fn example() -> serde_json::Value {
    json!({
        "from": "2026-11-21T10:00:00Z", "to": "2026-11-21T10:01:00Z", "step_seconds": 15, "resolution": "raw",
        "at": [1_795_255_200, 1_795_255_215, 1_795_255_230, 1_795_255_245],
        "series": [{
            "cluster": "6f1d2c1e-6a39-4b58-9d5c-4f3f9d1f2a60", "offset_seconds": 0,
            "name": "etcd_server_leader_changes_seen_total", "member": "8e9e05c52164694d", "agent": null, "labels": {},
            "values": {"per_second": [0.0, 0.0, null, 0.2], "increase": [0.0, 0.0, null, 3.0]},
            "gaps": [{"from": 1_795_255_230, "to": 1_795_255_245, "reason": "agent_down", "lost": 0, "partial": false}],
            "live_from": null,
        }],
    })
}

#[cfg(test)]
mod tests;
