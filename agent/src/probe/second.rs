//! Counters of the kernel to rows. Pure.

use etcdmon_proto::v1::Hook;

use super::WAL_CLASSES;
use crate::discover::ProcessId;
use crate::ebpf::{ClassCounters, SyncRecord, TargetCounters};
use crate::fact::{Fact, SyncRow, SyncSecond, WriteSecond};

/// Rows of one process for one second, from what was counted in it. Classes without a sync or a write have none.
pub fn facts(process: ProcessId, second: i64, hook: Hook, delta: &TargetCounters) -> Vec<Fact> {
    let observed_ns = u64::try_from(delta.observed.as_nanos()).unwrap_or(u64::MAX).min(1_000_000_000);
    let mut facts = Vec::new();
    for counters in &delta.classes {
        let syncs = sparse(&counters.sync_histogram);
        if !syncs.is_empty() {
            facts.push(Fact::SyncSecond(SyncSecond {
                process,
                class: counters.class,
                second,
                buckets: syncs,
                sum_ns: counters.sync_sum_ns,
                errors: counters.sync_errors,
                run_delay_ns: counters.sync_run_delay_ns,
                hook,
            }));
        }
        let calls = counters.calls();
        if counters.written_bytes > 0 || calls > 0 || counters.sync_file_range_calls > 0 {
            facts.push(Fact::WriteSecond(WriteSecond {
                process,
                class: counters.class,
                second,
                written_bytes: counters.written_bytes,
                observed_ns,
                calls,
                buckets: sparse(&counters.call_histogram),
                sum_ns: counters.call_sum_ns,
                sync_file_range_calls: counters.sync_file_range_calls,
            }));
        }
    }
    facts
}

/// Syncs that etcd's own WAL histogram counts as well.
pub fn wal_syncs(counters: &TargetCounters) -> u64 {
    WAL_CLASSES.iter().filter_map(|class| counters.of(*class)).map(ClassCounters::syncs).sum()
}

/// A row from a record of the ring.
pub fn row(process: ProcessId, record: &SyncRecord) -> SyncRow {
    let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    SyncRow {
        process,
        class: record.class,
        start_mono_ns: record.start_mono_ns,
        latency_ns: nanoseconds(record.latency),
        thread_id: record.thread_id,
        run_delay_ns: nanoseconds(record.run_delay),
        written_bytes: record.written_bytes,
        inode: record.inode,
        device: record.device,
        result: record.result,
        reason: record.reason,
    }
}

fn sparse(counts: &[u64]) -> Vec<(u16, u64)> {
    (0u16..).zip(counts).filter(|(_, count)| **count > 0).map(|(bucket, count)| (bucket, *count)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etcdmon_histogram::BUCKETS;
    use etcdmon_proto::v1::FileClass;

    use super::*;

    const PROCESS: ProcessId = ProcessId { boot_id: [1; 16], pid: 2, start_ticks: 3 };

    fn counters() -> TargetCounters {
        let class = |class| ClassCounters {
            class,
            sync_histogram: vec![0; BUCKETS],
            sync_sum_ns: 0,
            sync_errors: 0,
            sync_run_delay_ns: 0,
            written_bytes: 0,
            call_histogram: vec![0; BUCKETS],
            call_sum_ns: 0,
            sync_file_range_calls: 0,
        };
        TargetCounters { classes: FileClass::ALL.into_iter().map(class).collect(), observed: Duration::ZERO }
    }

    #[test]
    fn only_classes_in_which_something_happened_have_rows() {
        let mut delta = counters();
        assert_eq!(facts(PROCESS, 7, Hook::Filesystem, &delta), []);
        delta.classes[0].sync_histogram[100] = 2;
        delta.classes[0].sync_histogram[811] = 1;
        delta.classes[1].written_bytes = 4096;
        delta.observed = Duration::from_secs(3);
        let rows = facts(PROCESS, 7, Hook::Filesystem, &delta);
        let [Fact::SyncSecond(sync), Fact::WriteSecond(write)] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((sync.class, sync.buckets.as_slice()), (FileClass::Wal, [(100, 2), (811, 1)].as_slice()));
        assert_eq!((write.class, write.written_bytes, write.calls), (FileClass::Backend, 4096, 0));
        assert_eq!(write.observed_ns, 1_000_000_000, "a late snapshot still is about one second");
    }

    #[test]
    fn etcd_counts_syncs_of_wal_files_and_directories_alike() {
        let mut delta = counters();
        for class in &mut delta.classes {
            class.sync_histogram[5] = 10;
        }
        assert_eq!(wal_syncs(&delta), 20);
    }
}
