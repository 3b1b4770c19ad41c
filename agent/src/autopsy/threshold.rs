//! From when on a sync is slow: several times what the member's syncs of that class usually take, within bounds. Pure.
//!
//! Usual is the median of the last minutes, so that a disk that just became slow is not at once taken for a slow one.

use std::collections::HashMap;

use etcdmon_histogram::{BUCKETS, quantile_ns};
use etcdmon_proto::v1::FileClass;

use crate::discover::ProcessId;

/// Faster ones are never slow.
pub const LEAST_NS: u64 = 10_000_000;

/// Slower ones always are, however slow the disk is.
pub const MOST_NS: u64 = 50_000_000;

/// Slow is so many times the median.
const TIMES: u64 = 8;

/// Fewer syncs than this say nothing of what is usual.
const FEWEST: u64 = 20;

/// So many seconds lose an eighth of their weight: half of it after five minutes.
const FADE_EVERY: u32 = 60;

/// Fraction bits of the counts, so that small ones fade as well.
const SCALE_BITS: u32 = 10;

#[derive(Debug)]
struct Recent {
    counts: Vec<u64>,
    seconds: u32,
    threshold_ns: u64,
}

/// By process and class.
#[derive(Debug, Default)]
pub struct Thresholds {
    recent: HashMap<(ProcessId, FileClass), Recent>,
}

impl Thresholds {
    /// Takes in the syncs of a second, by bucket of the histogram.
    pub fn note(&mut self, process: ProcessId, class: FileClass, buckets: &[(u16, u64)]) {
        let empty = || Recent { counts: vec![0; BUCKETS], seconds: 0, threshold_ns: LEAST_NS };
        let recent = self.recent.entry((process, class)).or_insert_with(empty);
        for (bucket, count) in buckets {
            if let Some(sum) = recent.counts.get_mut(usize::from(*bucket)) {
                // Below what the sum over all buckets could overflow with.
                *sum = sum.saturating_add((*count).min(1 << 32) << SCALE_BITS).min(1 << 50);
            }
        }
        recent.seconds += 1;
        if recent.seconds.is_multiple_of(FADE_EVERY) {
            recent.counts.iter_mut().for_each(|count| *count -= *count / 8);
        }
        recent.threshold_ns = threshold(&recent.counts);
    }

    /// Slow means at least this.
    pub fn threshold_ns(&self, process: ProcessId, class: FileClass) -> u64 {
        self.recent.get(&(process, class)).map_or(LEAST_NS, |recent| recent.threshold_ns)
    }

    /// Forgets a process that is gone.
    pub fn forget(&mut self, process: ProcessId) {
        self.recent.retain(|(known, _), _| *known != process);
    }
}

fn threshold(counts: &[u64]) -> u64 {
    let total: u64 = counts.iter().sum();
    if total < FEWEST << SCALE_BITS {
        return LEAST_NS;
    }
    let median_ns = quantile_ns(counts.iter().copied().enumerate(), 0.5).unwrap_or(0);
    median_ns.saturating_mul(TIMES).clamp(LEAST_NS, MOST_NS)
}

#[cfg(test)]
mod tests {
    use etcdmon_histogram::bucket_of;

    use super::*;

    const A: ProcessId = ProcessId { boot_id: [1; 16], pid: 7, start_ticks: 9 };
    const MS: u64 = 1_000_000;

    fn seconds(thresholds: &mut Thresholds, count: u32, latency_ns: u64, syncs: u64) -> u64 {
        for _ in 0..count {
            thresholds.note(A, FileClass::Wal, &[(bucket_of(latency_ns) as u16, syncs)]);
        }
        thresholds.threshold_ns(A, FileClass::Wal)
    }

    #[test]
    fn it_follows_the_median_within_its_bounds() {
        for (usual_ns, expected_ns) in
            [(MS / 2, LEAST_NS), (3 * MS, 8 * 3_050_000), (20 * MS, MOST_NS), (u64::MAX, MOST_NS)]
        {
            assert_eq!(seconds(&mut Thresholds::default(), 10, usual_ns, 100), expected_ns, "{usual_ns}");
        }
    }

    #[test]
    fn few_syncs_say_nothing() {
        assert_eq!(seconds(&mut Thresholds::default(), 1, 3 * MS, 19), LEAST_NS);
        assert!(seconds(&mut Thresholds::default(), 1, 3 * MS, 20) > LEAST_NS);
    }

    #[test]
    fn a_disk_that_just_became_slow_does_not_move_it_and_one_that_stays_slow_does() {
        let mut thresholds = Thresholds::default();
        assert_eq!(seconds(&mut thresholds, 300, MS, 1_000), LEAST_NS);
        assert_eq!(seconds(&mut thresholds, 60, 5 * MS, 200), LEAST_NS);
        assert!(seconds(&mut thresholds, 1_800, 5 * MS, 200) > 4 * LEAST_NS);
    }

    #[test]
    fn classes_and_processes_are_apart_and_absurd_counts_do_no_harm() {
        let mut thresholds = Thresholds::default();
        for _ in 0..100 {
            thresholds.note(A, FileClass::Wal, &[(700, u64::MAX), (811, u64::MAX), (9_999, 1)]);
        }
        assert_eq!(thresholds.threshold_ns(A, FileClass::Wal), MOST_NS);
        assert_eq!(thresholds.threshold_ns(A, FileClass::Backend), LEAST_NS);
        assert_eq!(thresholds.threshold_ns(ProcessId { pid: 8, ..A }, FileClass::Wal), LEAST_NS);
        thresholds.forget(A);
        assert_eq!(thresholds.threshold_ns(A, FileClass::Wal), LEAST_NS);
    }
}
