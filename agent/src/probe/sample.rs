//! Which syncs have a row: the slow ones, and one in so many of the others. Pure.

use std::collections::HashMap;

use etcdmon_proto::v1::{FileClass, SyncReason};

use crate::discover::ProcessId;
use crate::ebpf::SyncRecord;
use crate::encode::Sampling;

/// Counts the syncs that were not slow, by process and class: the sample is exact.
#[derive(Debug, Default)]
pub struct Sampler {
    counts: HashMap<(ProcessId, FileClass), u64>,
}

impl Sampler {
    /// Why a sync has a row; `None` when it has none.
    pub fn reason(
        &mut self,
        sampling: &Sampling,
        process: ProcessId,
        sync: &SyncRecord,
    ) -> Option<SyncReason> {
        if sync.latency.as_nanos() >= u128::from(sampling.slow_ns) {
            return Some(SyncReason::Slow);
        }
        let count = self.counts.entry((process, sync.class)).or_default();
        let earlier = std::mem::replace(count, count.wrapping_add(1));
        let every = u64::from(sampling.sample_every);
        (every > 0 && earlier.is_multiple_of(every)).then_some(SyncReason::Sample)
    }

    /// Forgets a process that is gone.
    pub fn forget(&mut self, process: ProcessId) {
        self.counts.retain(|(known, _), _| *known != process);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PROCESS: ProcessId = ProcessId { boot_id: [9; 16], pid: 7, start_ticks: 100 };

    fn sync(class: FileClass, latency_ms: u64) -> SyncRecord {
        SyncRecord {
            pid: 7,
            thread_id: 8,
            class,
            reason: SyncReason::Sample,
            start_mono_ns: 0,
            latency: Duration::from_millis(latency_ms),
            run_delay: Duration::ZERO,
            run_time: None,
            written_bytes: 0,
            inode: 1,
            device: 2,
            result: 0,
        }
    }

    fn rows(sampler: &mut Sampler, sample_every: u32, class: FileClass, latency_ms: u64) -> Vec<usize> {
        let sampling = Sampling { sample_every, slow_ns: 10_000_000 };
        let sync = sync(class, latency_ms);
        (0..10).filter(|_| sampler.reason(&sampling, PROCESS, &sync).is_some()).collect()
    }

    #[test]
    fn slow_ones_always_have_a_row_and_of_the_others_exactly_one_in_so_many_by_class() {
        let mut sampler = Sampler::default();
        assert_eq!(rows(&mut sampler, 4, FileClass::Wal, 1), [0, 4, 8]);
        assert_eq!(rows(&mut sampler, 4, FileClass::Wal, 10).len(), 10, "slow");
        assert_eq!(rows(&mut sampler, 4, FileClass::Wal, 1), [2, 6], "slow ones do not count");
        assert_eq!(rows(&mut sampler, 4, FileClass::Backend, 1), [0, 4, 8]);
        assert_eq!(rows(&mut sampler, 0, FileClass::Wal, 1), [0; 0]);
        assert_eq!(rows(&mut sampler, 1, FileClass::Wal, 1).len(), 10);
    }
}
