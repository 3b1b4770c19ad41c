//! Slow syncs that were examined.

use chrono::{DateTime, Utc};
use etcdmon_proto::v1::FileClass;
use serde::Deserialize;
use uuid::Uuid;

use super::{IN_RANGE, MAX_ROWS, Query, QueryError, TimeRange, wall};

/// Which slow syncs are asked for.
#[derive(Clone, Debug)]
pub struct SlowSyncFilter {
    /// Only this member.
    pub member: Option<u64>,
    /// Only this file class.
    pub class: Option<FileClass>,
    /// Begin of the sync.
    pub range: TimeRange,
    /// Most rows wanted; at most [`MAX_ROWS`] are given.
    pub limit: u64,
}

/// A slow sync, where its time went, and who else used its disks. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Deserialize, clickhouse::Row)]
pub struct SlowSync {
    /// etcd member id.
    pub member: u64,
    /// File class by name.
    pub class: String,
    /// When it began, Unix nanoseconds.
    pub at_ns: i64,
    /// How long it took.
    pub latency_ns: u64,
    /// Kernel thread that called it.
    pub thread_id: u32,
    /// Inode of the file.
    pub inode: u64,
    /// Device number, `(major << 20) | minor`.
    pub device: u32,
    /// Slow meant at least this.
    pub threshold_ns: u64,
    /// The thread ran.
    pub on_cpu_ns: u64,
    /// It could have run, but had no CPU.
    pub run_queue_ns: u64,
    /// The journal committed.
    pub journal_ns: u64,
    /// A request waited for the device.
    pub queue_ns: u64,
    /// The device worked on it.
    pub device_ns: u64,
    /// The device wrote its cache.
    pub flush_ns: u64,
    /// A limit of IO held pages back.
    pub throttle_ns: u64,
    /// The hypervisor gave the CPU to others.
    pub steal_ns: u64,
    /// No evidence.
    pub unexplained_ns: u64,
    /// Of `journal_ns`: on the device.
    pub journal_device_ns: u64,
    /// Of `journal_ns`: waiting for it.
    pub journal_queue_ns: u64,
    /// Of `journal_ns`: flushes.
    pub journal_flush_ns: u64,
    /// Of `run_queue_ns`: a CPU quota was used up.
    pub cpu_quota_ns: u64,
    /// Waiting for disks: what culprits share.
    pub wait_ns: u64,
    /// What could not be seen, with commas.
    pub gaps: String,
    /// A JSON array.
    pub culprits: String,
    /// Agent that saw it.
    #[serde(with = "clickhouse::serde::uuid")]
    pub agent: Uuid,
}

impl SlowSync {
    /// When it began.
    pub fn at(&self) -> DateTime<Utc> {
        wall(self.at_ns)
    }
}

impl Query {
    /// Slow syncs that were examined, the newest first.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn slow_syncs(
        &self,
        cluster: Uuid,
        filter: &SlowSyncFilter,
    ) -> Result<Vec<SlowSync>, QueryError> {
        self.select(
            "slow_syncs",
            "SELECT member, class, toUnixTimestamp64Nano(at) AS at_ns, latency_ns, thread_id, inode, device, threshold_ns, \
             on_cpu_ns, run_queue_ns, journal_ns, queue_ns, device_ns, flush_ns, throttle_ns, steal_ns, unexplained_ns, \
             journal_device_ns, journal_queue_ns, journal_flush_ns, cpu_quota_ns, wait_ns, gaps, culprits, agent \
             FROM autopsies WHERE cluster = {cluster:String} AND",
        )
        .sql(IN_RANGE)
        .cluster(cluster)
        .range(filter.range)
        .member(filter.member)
        .class(filter.class)
        .sql(" ORDER BY at DESC LIMIT {limit:UInt64}")
        .unsigned("limit", filter.limit.min(MAX_ROWS))
        .fetch()
        .await
    }
}
