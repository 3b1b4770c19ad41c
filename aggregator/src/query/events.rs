//! Things that happened.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{IN_RANGE, MAX_ROWS, Query, QueryError, TimeRange, wall};

/// Which events are asked for.
#[derive(Clone, Debug)]
pub struct EventFilter {
    /// Only this member.
    pub member: Option<u64>,
    /// Only events whose kind is this, or begins with it when it ends with a dot.
    pub kind: Option<String>,
    /// When they happened.
    pub range: TimeRange,
    /// Most rows wanted; at most [`MAX_ROWS`] are given.
    pub limit: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// etcd member id; 0 = the node, or a member whose ids are not known.
    pub member: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// Stable name, such as `raft.leader_elected`.
    pub kind: String,
    /// A JSON object, as its agent wrote it.
    pub details: String,
    /// Agent that told it.
    pub agent: Uuid,
}

#[derive(clickhouse::Row, Deserialize)]
struct Found {
    member: u64,
    at_ns: i64,
    kind: String,
    details: String,
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
}

impl Query {
    /// Events of a cluster, and of the nodes that report it, the newest first.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn events(&self, cluster: Uuid, filter: &EventFilter) -> Result<Vec<Event>, QueryError> {
        let mut select = self
            .select(
                "events",
                "SELECT member, toUnixTimestamp64Nano(at) AS at_ns, kind, details, agent FROM events WHERE \
                 (cluster = {cluster:String} OR (cluster = '00000000-0000-0000-0000-000000000000' AND member = 0 AND \
                 agent IN (SELECT DISTINCT agent FROM ledger WHERE cluster = {cluster:String} AND",
            )
            .sql(IN_RANGE)
            .sql("))) AND")
            .sql(IN_RANGE)
            .cluster(cluster)
            .range(filter.range)
            .member(filter.member);
        if let Some(kind) = &filter.kind {
            let condition = match kind.ends_with('.') {
                true => " AND startsWith(kind, {kind:String})",
                false => " AND kind = {kind:String}",
            };
            select = select.sql(condition).text("kind", kind.as_str());
        }
        let found: Vec<Found> = select
            .sql(" ORDER BY at DESC, agent, sequence DESC, row DESC LIMIT {limit:UInt64}")
            .unsigned("limit", filter.limit.min(MAX_ROWS))
            .fetch()
            .await?;
        let event = |found: Found| Event {
            member: found.member,
            at: wall(found.at_ns),
            kind: found.kind,
            details: found.details,
            agent: found.agent,
        };
        Ok(found.into_iter().map(event).collect())
    }
}
