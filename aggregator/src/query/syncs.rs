//! Rows and counts of syncs.

use chrono::{DateTime, Utc};
use etcdmon_proto::v1::FileClass;
use serde::Deserialize;
use uuid::Uuid;

use super::{IN_RANGE, MAX_ROWS, Query, QueryError, TimeRange, wall};

/// Which syncs are asked for.
#[derive(Clone, Debug)]
pub struct SyncFilter {
    /// Only this member.
    pub member: Option<u64>,
    /// Only this file class.
    pub class: Option<FileClass>,
    /// Begin of the sync.
    pub range: TimeRange,
    /// Most rows wanted; at most [`MAX_ROWS`] are given.
    pub limit: u64,
}

/// A sync that has a row of its own: a slow one or one of the sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync {
    /// etcd member id.
    pub member: u64,
    /// File class by name.
    pub class: String,
    /// When it began.
    pub at: DateTime<Utc>,
    /// How long it took.
    pub latency_ns: u64,
    /// Kernel thread that called it.
    pub thread_id: u32,
    /// Time in it that the thread waited for a CPU.
    pub run_delay_ns: u64,
    /// Bytes written to the file since its last sync.
    pub written_bytes: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Device number, `(major << 20) | minor`.
    pub device: u32,
    /// 0 or a negative errno.
    pub result: i32,
    /// `slow` or `sample`.
    pub reason: String,
    /// The sample holds one in so many of the others.
    pub sample_every: u32,
    /// Slow means at least this long.
    pub slow_ns: u64,
    /// Agent that saw it.
    pub agent: Uuid,
}

/// How many syncs a member did, counted on the stored histograms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncCount {
    /// etcd member id.
    pub member: u64,
    /// File class by name.
    pub class: String,
    /// Syncs, failed ones included.
    pub count: u64,
    /// Syncs that returned an error.
    pub errors: u64,
}

#[derive(clickhouse::Row, Deserialize)]
struct Found {
    member: u64,
    class: String,
    at_ns: i64,
    latency_ns: u64,
    thread_id: u32,
    run_delay_ns: u64,
    written_bytes: u64,
    inode: u64,
    device: u32,
    result: i32,
    reason: String,
    sample_every: u32,
    slow_ns: u64,
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
}

#[derive(clickhouse::Row, Deserialize)]
struct Counted {
    member: u64,
    class: String,
    total: u64,
    failed: u64,
}

impl Query {
    /// Syncs with rows of their own, the newest first.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn syncs(&self, cluster: Uuid, filter: &SyncFilter) -> Result<Vec<Sync>, QueryError> {
        let found: Vec<Found> = self
            .select(
                "syncs",
                "SELECT member, class, toUnixTimestamp64Nano(at) AS at_ns, latency_ns, thread_id, run_delay_ns, written_bytes, \
                 inode, device, result, reason, sample_every, slow_ns, agent FROM syncs WHERE cluster = {cluster:String} AND",
            )
            .sql(IN_RANGE)
            .cluster(cluster)
            .range(filter.range)
            .member(filter.member)
            .class(filter.class)
            .sql(" ORDER BY at DESC LIMIT {limit:UInt64}")
            .unsigned("limit", filter.limit.min(MAX_ROWS))
            .fetch()
            .await?;
        Ok(found.into_iter().map(Sync::from).collect())
    }

    /// Syncs of a cluster by member and class in seconds that begin in `range`.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn sync_counts(
        &self,
        cluster: Uuid,
        member: Option<u64>,
        range: TimeRange,
    ) -> Result<Vec<SyncCount>, QueryError> {
        let select = self.select(
            "sync_counts",
            "SELECT member, class, sum(count) AS total, sum(errors) AS failed FROM sync_histograms \
             WHERE cluster = {cluster:String} AND",
        );
        let found: Vec<Counted> = select
            .sql(IN_RANGE)
            .cluster(cluster)
            .range(range)
            .member(member)
            .sql(" GROUP BY member, class ORDER BY member, class")
            .fetch()
            .await?;
        let count =
            |f: Counted| SyncCount { member: f.member, class: f.class, count: f.total, errors: f.failed };
        Ok(found.into_iter().map(count).collect())
    }
}

impl From<Found> for Sync {
    fn from(found: Found) -> Self {
        Self {
            member: found.member,
            class: found.class,
            at: wall(found.at_ns),
            latency_ns: found.latency_ns,
            thread_id: found.thread_id,
            run_delay_ns: found.run_delay_ns,
            written_bytes: found.written_bytes,
            inode: found.inode,
            device: found.device,
            result: found.result,
            reason: found.reason,
            sample_every: found.sample_every,
            slow_ns: found.slow_ns,
            agent: found.agent,
        }
    }
}
