//! What was counted of a process, by file class.

use std::time::Duration;

use etcdmon_agent_ebpf::{
    class::CLASSES,
    stats::{CLASS_STATS_WORDS, ClassStats},
};
use etcdmon_histogram::BUCKETS;
use etcdmon_proto::v1::FileClass;

/// Where in a [`ClassStats`] a counter lies, in words.
macro_rules! word_of {
    ($field:ident) => {
        std::mem::offset_of!(ClassStats, $field) / 8
    };
}

/// Counters of one file class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassCounters {
    /// The class.
    pub class: FileClass,
    /// Syncs by latency, [`BUCKETS`] entries.
    pub sync_histogram: Vec<u64>,
    /// Sum of their latencies.
    pub sync_sum_ns: u64,
    /// Those that returned an error.
    pub sync_errors: u64,
    /// Time their threads waited for a CPU meanwhile.
    pub sync_run_delay_ns: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Write calls by latency, [`BUCKETS`] entries; only while they were observed ([`TargetCounters::observed`]).
    pub call_histogram: Vec<u64>,
    /// Sum of their latencies.
    pub call_sum_ns: u64,
    /// sync_file_range calls, while calls were observed.
    pub sync_file_range_calls: u64,
}

impl ClassCounters {
    /// From the words of a [`ClassStats`] in the kernel's order.
    fn from_words(class: FileClass, words: &[u64]) -> Self {
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let histogram = |at: usize| (at..at + BUCKETS).map(word).collect();
        Self {
            class,
            sync_histogram: histogram(word_of!(sync_histogram)),
            sync_sum_ns: word(word_of!(sync_sum_ns)),
            sync_errors: word(word_of!(sync_errors)),
            sync_run_delay_ns: word(word_of!(sync_run_delay_ns)),
            written_bytes: word(word_of!(written_bytes)),
            call_histogram: histogram(word_of!(call_histogram)),
            call_sum_ns: word(word_of!(call_sum_ns)),
            sync_file_range_calls: word(word_of!(sync_file_range_calls)),
        }
    }

    /// Number of syncs.
    pub fn syncs(&self) -> u64 {
        self.sync_histogram.iter().sum()
    }

    /// Number of write calls observed.
    pub fn calls(&self) -> u64 {
        self.call_histogram.iter().sum()
    }

    /// What was added since an earlier reading of the same class.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |now: &[u64], then: &[u64]| {
            now.iter().zip(then).map(|(now, then)| now.saturating_sub(*then)).collect()
        };
        Self {
            class: self.class,
            sync_histogram: difference(&self.sync_histogram, &earlier.sync_histogram),
            sync_sum_ns: self.sync_sum_ns.saturating_sub(earlier.sync_sum_ns),
            sync_errors: self.sync_errors.saturating_sub(earlier.sync_errors),
            sync_run_delay_ns: self.sync_run_delay_ns.saturating_sub(earlier.sync_run_delay_ns),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            call_histogram: difference(&self.call_histogram, &earlier.call_histogram),
            call_sum_ns: self.call_sum_ns.saturating_sub(earlier.call_sum_ns),
            sync_file_range_calls: self.sync_file_range_calls.saturating_sub(earlier.sync_file_range_calls),
        }
    }
}

/// Counters of one process, cumulative since it is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCounters {
    /// By class, in the order of [`FileClass::ALL`].
    pub classes: Vec<ClassCounters>,
    /// How long write calls were observed: all the time with the syscall hook, else the sum of the write slots.
    pub observed: Duration,
}

impl TargetCounters {
    /// From the words of all classes of a slot, one after the other.
    pub(super) fn from_words(words: &[u64], observed: Duration) -> Self {
        let classes = FileClass::ALL.into_iter().zip(words.chunks(CLASS_STATS_WORDS));
        Self {
            classes: classes.map(|(class, words)| ClassCounters::from_words(class, words)).collect(),
            observed,
        }
    }

    /// What was added since an earlier reading of the same process.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let classes = self.classes.iter().zip(&earlier.classes);
        Self {
            classes: classes.map(|(now, then)| now.since(then)).collect(),
            observed: self.observed.saturating_sub(earlier.observed),
        }
    }

    /// The counters of a class.
    pub fn of(&self, class: FileClass) -> Option<&ClassCounters> {
        self.classes.iter().find(|counters| counters.class == class)
    }

    /// Syncs of all classes.
    pub fn syncs(&self) -> u64 {
        self.classes.iter().map(ClassCounters::syncs).sum()
    }
}

/// Words of all classes of a slot.
pub(super) const SLOT_WORDS: usize = CLASSES * CLASS_STATS_WORDS;

/// Where in a slot the errors of each class are.
pub(super) fn sync_error_words() -> impl Iterator<Item = usize> {
    (0..CLASSES).map(|class| class * CLASS_STATS_WORDS + word_of!(sync_errors))
}

#[cfg(test)]
mod tests {
    use etcdmon_agent_ebpf::class::Class;

    use super::*;

    #[test]
    fn every_counter_comes_from_its_own_word() {
        let words: Vec<u64> = (0..SLOT_WORDS as u64).collect();
        let all = TargetCounters::from_words(&words, Duration::ZERO);
        assert_eq!(all.classes.len(), CLASSES);
        let base = CLASS_STATS_WORDS as u64 * Class::Backend as u64;
        let backend = all.of(FileClass::Backend).expect("a class");
        let buckets = BUCKETS as u64;
        assert_eq!(backend.sync_histogram, (base..base + buckets).collect::<Vec<_>>());
        assert_eq!(backend.sync_sum_ns, base + buckets);
        assert_eq!(backend.sync_errors, base + buckets + 1);
        assert_eq!(backend.sync_run_delay_ns, base + buckets + 2);
        assert_eq!(backend.written_bytes, base + buckets + 4);
        let errors: Vec<u64> = all.classes.iter().map(|class| class.sync_errors).collect();
        assert_eq!(errors, sync_error_words().map(|word| word as u64).collect::<Vec<_>>());
        assert_eq!(backend.call_histogram[0], base + buckets + 5);
        assert_eq!(backend.call_sum_ns, base + 2 * buckets + 5);
        assert_eq!(backend.sync_file_range_calls, base + 2 * buckets + 6);
    }

    #[test]
    fn a_difference_counts_what_came_in_between() {
        let mut words = vec![0; SLOT_WORDS];
        words[7] = 3;
        let then = TargetCounters::from_words(&words, Duration::from_secs(1));
        words[7] = 5;
        words[CLASS_STATS_WORDS * 5 + 100] = 1;
        let now = TargetCounters::from_words(&words, Duration::from_secs(3));
        let between = now.since(&then);
        assert_eq!(between.syncs(), 3);
        assert_eq!(between.of(FileClass::Wal).map(ClassCounters::syncs), Some(2));
        assert_eq!(between.of(FileClass::Other).map(ClassCounters::syncs), Some(1));
        assert_eq!(between.observed, Duration::from_secs(2));
    }

    #[test]
    fn kernel_classes_and_wire_classes_are_in_the_same_order() {
        for (kernel, wire) in Class::ALL.into_iter().zip(FileClass::ALL) {
            assert_eq!(format!("{kernel:?}"), format!("{wire:?}"));
        }
    }
}
