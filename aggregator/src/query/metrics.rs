//! Newest samples of metric series.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{IN_RANGE, MAX_ROWS, Query, QueryError, TimeRange, wall};

/// How far back a sample counts as current, in seconds.
const CURRENT_SECONDS: i64 = 120;

/// Newest sample of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricSample {
    /// etcd member id; 0 = the node.
    pub member: u64,
    /// Prometheus name with its unit.
    pub name: String,
    /// Label names and values.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
    /// When it was taken.
    pub at: DateTime<Utc>,
}

#[derive(clickhouse::Row, Deserialize)]
struct Found {
    member: u64,
    name: String,
    labels: String,
    newest: f64,
    newest_ns: i64,
}

impl Query {
    /// The newest sample of every series of a cluster, and of the nodes that report it, taken within two minutes before
    /// `now`; at most [`MAX_ROWS`], ordered by name, member, labels.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn current_metrics(
        &self,
        cluster: Uuid,
        member: Option<u64>,
        name: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Vec<MetricSample>, QueryError> {
        let range = TimeRange {
            from: now - TimeDelta::seconds(CURRENT_SECONDS),
            to: now + TimeDelta::seconds(CURRENT_SECONDS),
        };
        let mut select = self
            .select(
                "current_metrics",
                "SELECT member, name, labels, argMax(value, at) AS newest, toUnixTimestamp64Nano(max(at)) AS newest_ns FROM metrics WHERE (cluster = {cluster:String} OR (cluster = \
                 '00000000-0000-0000-0000-000000000000' AND member = 0 AND agent IN (SELECT DISTINCT agent FROM metrics \
                 WHERE cluster = {cluster:String} AND",
            )
            .sql(IN_RANGE)
            .sql("))) AND")
            .sql(IN_RANGE)
            .cluster(cluster)
            .range(range)
            .member(member);
        if let Some(name) = name {
            select = select.sql(" AND name = {name:String}").text("name", name);
        }
        let found: Vec<Found> = select
            .sql(" GROUP BY name, member, labels ORDER BY name, member, labels LIMIT {limit:UInt64}")
            .unsigned("limit", MAX_ROWS)
            .fetch()
            .await?;
        Ok(found.into_iter().map(MetricSample::from).collect())
    }
}

impl From<Found> for MetricSample {
    fn from(found: Found) -> Self {
        Self {
            member: found.member,
            name: found.name,
            // The store writes a JSON object; another writer's text is not worth losing the sample for.
            labels: serde_json::from_str(&found.labels).unwrap_or_default(),
            value: found.newest,
            at: wall(found.newest_ns),
        }
    }
}
