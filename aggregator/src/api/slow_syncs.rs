//! Why syncs were slow, and who did it, from what was stored.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::{self, Cluster, Parameters};
use super::problem::Failures;
use super::telemetry::SyncScope;
use super::{Context, Problem};
use crate::query::{self, SlowSyncFilter};
use crate::view::hex;

/// Slow syncs that were examined.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SlowSyncs {
    /// Newest first.
    pub slow_syncs: Vec<SlowSync>,
}

/// A slow sync, where its time went, and who else used its disks.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SlowSync {
    /// Its member, 16 hexadecimal digits.
    pub member: String,
    /// File class.
    pub class: String,
    /// Its start.
    pub at: DateTime<Utc>,
    /// How long it took, in nanoseconds.
    pub latency_ns: u64,
    /// Slow meant at least this for this member and class then, in nanoseconds; a few that are quicker are examined as well.
    pub threshold_ns: u64,
    /// Thread that made it.
    pub thread_id: u32,
    /// Inode of the file.
    pub inode: u64,
    /// Device of the filesystem, as `major:minor`.
    pub device: String,
    /// Where the time went; adds up to `latency_ns`.
    pub parts: Parts,
    /// More of `parts.journal_ns`.
    pub journal: JournalParts,
    /// Of `parts.run_queue_ns`: the cgroup's CPU quota was used up.
    pub cpu_quota_ns: u64,
    /// Time in which it waited for disks, in nanoseconds: what culprits share.
    pub wait_ns: u64,
    /// Who else used the disks, the worst first.
    pub culprits: Vec<Culprit>,
    /// What could not be seen: `requests`, `commits`, `overwritten`; empty = nothing is missing.
    pub gaps: Vec<String>,
    /// Agent that saw it.
    pub agent: Uuid,
}

/// Where the time of a slow sync went, in nanoseconds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Parts {
    /// The thread ran.
    pub on_cpu_ns: u64,
    /// It could have run, but had no CPU.
    pub run_queue_ns: u64,
    /// The filesystem's journal committed.
    pub journal_ns: u64,
    /// A request for the file waited for the device.
    pub queue_ns: u64,
    /// The device worked on it.
    pub device_ns: u64,
    /// The device wrote its cache to its medium.
    pub flush_ns: u64,
    /// The cgroup's IO limit held the file's pages back.
    pub throttle_ns: u64,
    /// The hypervisor gave the CPU to others.
    pub steal_ns: u64,
    /// No evidence.
    pub unexplained_ns: u64,
}

/// What the journal did, in nanoseconds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JournalParts {
    /// The device worked on its request.
    pub device_ns: u64,
    /// Its request waited for the device.
    pub queue_ns: u64,
    /// It waited for a flush.
    pub flush_ns: u64,
}

/// Somebody who used the disks while the sync waited for them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Culprit {
    /// `process` submitted its requests itself, `itself` is the process that waited, for `writeback` workers of the kernel acted,
    /// `journal` is that of another filesystem.
    pub origin: String,
    /// `high`, `medium` or `low`.
    pub certainty: String,
    /// Process id on the member's node; where workers acted, whoever has the file open for writing, 0 when not known.
    pub process_id: u32,
    /// Name of the thread.
    pub comm: String,
    /// Name of the process and the first word of its command line; empty when it was gone.
    pub process: String,
    /// Path of its cgroup; empty when not known.
    pub cgroup: String,
    /// Container; empty outside of one.
    pub container_id: String,
    /// Kubernetes pod; empty outside of one.
    pub pod_uid: String,
    /// Inode of the file of its largest request where workers acted; 0 when not known.
    pub inode: u64,
    /// Disk of that request, as `major:minor`.
    pub device: String,
    /// Requests that were under way in the sync, or whose data its flush had to write.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that asked for a flush.
    pub syncs: u64,
    /// Its part of the sync's `wait_ns`.
    pub wait_ns: u64,
    /// The same as a share, 0 to 1.
    pub share: f64,
}

/// As it is stored.
#[derive(Deserialize)]
struct StoredCulprit {
    origin: String,
    certainty: String,
    process_id: u32,
    comm: String,
    process: String,
    cgroup: String,
    container_id: String,
    pod_uid: String,
    inode: u64,
    device: u32,
    requests: u64,
    bytes: u64,
    syncs: u64,
    wait_ns: u64,
}

fn device(number: u32) -> String {
    format!("{}:{}", number >> 20, number & 0xf_ffff)
}

impl Culprit {
    fn of(stored: StoredCulprit, wait_ns: u64) -> Self {
        Self {
            origin: stored.origin,
            certainty: stored.certainty,
            process_id: stored.process_id,
            comm: stored.comm,
            process: stored.process,
            cgroup: stored.cgroup,
            container_id: stored.container_id,
            pod_uid: stored.pod_uid,
            inode: stored.inode,
            device: device(stored.device),
            requests: stored.requests,
            bytes: stored.bytes,
            syncs: stored.syncs,
            wait_ns: stored.wait_ns,
            share: if wait_ns == 0 { 0.0 } else { stored.wait_ns as f64 / wait_ns as f64 },
        }
    }
}

impl From<query::SlowSync> for SlowSync {
    fn from(sync: query::SlowSync) -> Self {
        // This program wrote them; rows of another writer have none that can be read.
        let culprits: Vec<StoredCulprit> = serde_json::from_str(&sync.culprits).unwrap_or_default();
        Self {
            member: hex(sync.member),
            at: sync.at(),
            latency_ns: sync.latency_ns,
            threshold_ns: sync.threshold_ns,
            thread_id: sync.thread_id,
            inode: sync.inode,
            device: device(sync.device),
            parts: Parts {
                on_cpu_ns: sync.on_cpu_ns,
                run_queue_ns: sync.run_queue_ns,
                journal_ns: sync.journal_ns,
                queue_ns: sync.queue_ns,
                device_ns: sync.device_ns,
                flush_ns: sync.flush_ns,
                throttle_ns: sync.throttle_ns,
                steal_ns: sync.steal_ns,
                unexplained_ns: sync.unexplained_ns,
            },
            journal: JournalParts {
                device_ns: sync.journal_device_ns,
                queue_ns: sync.journal_queue_ns,
                flush_ns: sync.journal_flush_ns,
            },
            cpu_quota_ns: sync.cpu_quota_ns,
            wait_ns: sync.wait_ns,
            culprits: culprits.into_iter().map(|culprit| Culprit::of(culprit, sync.wait_ns)).collect(),
            gaps: sync.gaps.split(',').filter(|gap| !gap.is_empty()).map(str::to_owned).collect(),
            agent: sync.agent,
            class: sync.class,
        }
    }
}

/// Slow syncs: where the time of each went, and who else used its disks. Which are slow is a matter of each member's own
/// disk; of those that are, so many a second are examined, and the others are dropped rows of the ledger's stream `autopsy`.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/slow-syncs", tag = "telemetry", operation_id = "listSlowSyncs",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), SyncScope),
    responses(
        (status = 200, body = SlowSyncs),
        Failures,
    )
)]
pub async fn slow_syncs(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<SyncScope>,
) -> Result<Json<SlowSyncs>, Problem> {
    let filter = SlowSyncFilter {
        member: extract::member(scope.member.as_deref())?,
        class: extract::class(scope.class.as_deref())?,
        range: extract::range(scope.from.as_deref(), scope.to.as_deref(), context.now())?,
        limit: extract::limit(scope.limit)?,
    };
    let _turn = context.turn().await?;
    let found = context.shared.query.slow_syncs(cluster.summary.id, &filter).await?;
    Ok(Json(SlowSyncs { slow_syncs: found.into_iter().map(SlowSync::from).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(culprits: &str, gaps: &str) -> query::SlowSync {
        query::SlowSync {
            member: 0xa1,
            class: "wal".to_owned(),
            at_ns: 1_795_255_200_000_000_005,
            latency_ns: 45,
            thread_id: 7,
            inode: 9,
            device: 254 << 20 | 1,
            threshold_ns: 10,
            on_cpu_ns: 1,
            run_queue_ns: 2,
            journal_ns: 3,
            queue_ns: 4,
            device_ns: 5,
            flush_ns: 6,
            throttle_ns: 7,
            steal_ns: 8,
            unexplained_ns: 9,
            journal_device_ns: 1,
            journal_queue_ns: 1,
            journal_flush_ns: 1,
            cpu_quota_ns: 2,
            wait_ns: 20,
            gaps: gaps.to_owned(),
            culprits: culprits.to_owned(),
            agent: Uuid::nil(),
        }
    }

    #[test]
    fn a_culprit_has_its_share_of_the_wait() {
        let culprits = r#"[{"origin":"process","certainty":"high","process_id":600,"comm":"fio","process":"fio","cgroup":"/lab",
            "container_id":"","pod_uid":"","inode":0,"device":266338304,"requests":3,"bytes":12288,"syncs":1,"wait_ns":5,
            "of_a_later_version":true}]"#;
        let shown = SlowSync::from(stored(culprits, "requests,overwritten"));
        assert_eq!((shown.member.as_str(), shown.device.as_str()), ("00000000000000a1", "254:1"));
        assert_eq!((shown.culprits.len(), shown.culprits[0].share), (1, 0.25));
        assert_eq!((shown.culprits[0].device.as_str(), shown.culprits[0].process_id), ("254:0", 600));
        assert_eq!(shown.gaps, ["requests", "overwritten"]);
        let Parts {
            on_cpu_ns,
            run_queue_ns,
            journal_ns,
            queue_ns,
            device_ns,
            flush_ns,
            throttle_ns,
            steal_ns,
            unexplained_ns,
        } = shown.parts;
        let parts = [
            on_cpu_ns,
            run_queue_ns,
            journal_ns,
            queue_ns,
            device_ns,
            flush_ns,
            throttle_ns,
            steal_ns,
            unexplained_ns,
        ];
        assert_eq!(parts, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(parts.iter().sum::<u64>(), shown.latency_ns);
    }

    #[test]
    fn what_another_writer_left_is_no_culprit() {
        for culprits in ["", "[]", "{}", "[1]", "nonsense"] {
            let shown = SlowSync::from(stored(culprits, ""));
            assert!(shown.culprits.is_empty() && shown.gaps.is_empty(), "{culprits:?}");
        }
    }
}
