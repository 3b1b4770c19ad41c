//! How databases and their disks filled, and what prefixes of keys hold.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{IN_RANGE, Query, QueryError, TimeRange, wall};
use crate::capacity::Sample;

/// How far back a forecast looks.
const PAST: TimeDelta = TimeDelta::days(30);

/// Most prefixes that are told.
const MAX_PREFIXES: u64 = 1_000;

/// SQL condition on the series that fill.
const FILLING: &str = " AND name IN ('etcd_mvcc_db_total_size_in_bytes', 'etcd_mvcc_db_total_size_in_use_in_bytes', \
                       'etcd_server_quota_backend_bytes', 'etcdmon_disk_available_bytes') \
                       AND (name != 'etcdmon_disk_available_bytes' OR JSONExtractString(labels, 'directory') = 'data')";

/// How a member's database and disk filled, by rising time, an entry for each five minutes in which there was a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fill {
    /// The largest size of the database's file.
    pub total: Vec<Sample>,
    /// The most pages in use.
    pub in_use: Vec<Sample>,
    /// The least that etcd may still write on the disk of its data directory.
    pub available: Vec<Sample>,
    /// Newest quota.
    pub quota: Option<f64>,
}

/// What a prefix of keys holds, as it was last measured.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefixSize {
    /// The prefix, or its hash.
    pub prefix: String,
    /// When it was measured.
    pub at: DateTime<Utc>,
    /// Keys that live.
    pub keys: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Bytes of all revisions.
    pub total_bytes: u64,
    /// Growth of `total_bytes` a day over the measurements of 30 days; `None` with fewer than two.
    pub bytes_per_day: Option<f64>,
}

#[derive(clickhouse::Row, Deserialize)]
struct Filled {
    member: u64,
    name: String,
    bins: Vec<u32>,
    extremes: Vec<f64>,
}

#[derive(clickhouse::Row, Deserialize)]
struct Measured {
    prefix: String,
    newest_ns: i64,
    newest_keys: u64,
    newest_live: u64,
    newest_total: u64,
    grown: f64,
    days: f64,
}

impl Query {
    /// How each member of a cluster filled in the 30 days before `now`.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn fill(&self, cluster: Uuid, now: DateTime<Utc>) -> Result<BTreeMap<u64, Fill>, QueryError> {
        let range = TimeRange { from: now - PAST, to: now };
        let found: Vec<Filled> = self
            .select(
                "fill",
                "SELECT member, name, groupArray(bin) AS bins, groupArray(extreme) AS extremes FROM (\
                 SELECT member, name, toUInt32(intDiv(toUnixTimestamp(at), 300) * 300) AS bin, \
                 if(name = 'etcdmon_disk_available_bytes', min(low), max(high)) AS extreme FROM (\
                 SELECT member, name, labels, toDateTime(at, 'UTC') AS at, value AS low, value AS high FROM metrics \
                 WHERE cluster = {cluster:String} AND at >= fromUnixTimestamp64Nano({to:Int64}, 'UTC') - INTERVAL 2 DAY AND",
            )
            .sql(IN_RANGE)
            .sql(FILLING)
            // A minute's extremes never change by being counted twice, or too early.
            .sql(
                " UNION ALL SELECT member, name, labels, at, min AS low, max AS high FROM metrics_1m \
                 WHERE cluster = {cluster:String} AND",
            )
            .sql(IN_RANGE)
            .sql(FILLING)
            .sql(
                ") GROUP BY member, name, bin ORDER BY member, name, bin) GROUP BY member, name ORDER BY member, name",
            )
            .cluster(cluster)
            .range(range)
            .fetch()
            .await?;
        let mut members: BTreeMap<u64, Fill> = BTreeMap::new();
        for series in found.into_iter().filter(|series| series.member != 0) {
            let fill = members.entry(series.member).or_default();
            let sample = |(bin, value): (u32, f64)| Sample { at: f64::from(bin), value };
            let samples: Vec<Sample> = series.bins.into_iter().zip(series.extremes).map(sample).collect();
            match series.name.as_str() {
                "etcd_mvcc_db_total_size_in_bytes" => fill.total = samples,
                "etcd_mvcc_db_total_size_in_use_in_bytes" => fill.in_use = samples,
                "etcdmon_disk_available_bytes" => fill.available = samples,
                _ => fill.quota = samples.last().map(|sample| sample.value).filter(|quota| *quota > 0.0),
            }
        }
        Ok(members)
    }

    /// What prefixes of a cluster's keys hold, the largest first.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn prefix_sizes(&self, cluster: Uuid) -> Result<Vec<PrefixSize>, QueryError> {
        let found: Vec<Measured> = self
            .select(
                "prefix_sizes",
                "SELECT prefix, toUnixTimestamp64Nano(max(at)) AS newest_ns, argMax(keys, at) AS newest_keys, \
                 argMax(live_bytes, at) AS newest_live, argMax(total_bytes, at) AS newest_total, \
                 toFloat64(argMax(total_bytes, at)) - toFloat64(argMin(total_bytes, at)) AS grown, \
                 (toUnixTimestamp64Milli(max(at)) - toUnixTimestamp64Milli(min(at))) / 86400000 AS days \
                 FROM prefix_sizes WHERE cluster = {cluster:String} AND at > now64(9) - INTERVAL 30 DAY \
                 GROUP BY prefix ORDER BY newest_total DESC, prefix LIMIT {limit:UInt64}",
            )
            .cluster(cluster)
            .unsigned("limit", MAX_PREFIXES)
            .fetch()
            .await?;
        let size = |found: Measured| PrefixSize {
            prefix: found.prefix,
            at: wall(found.newest_ns),
            keys: found.newest_keys,
            live_bytes: found.newest_live,
            total_bytes: found.newest_total,
            bytes_per_day: (found.days > 0.0).then(|| found.grown / found.days),
        };
        Ok(found.into_iter().map(size).collect())
    }
}
