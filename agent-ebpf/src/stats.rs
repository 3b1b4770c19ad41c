//! Counters of one (slot, class). They only grow.

use etcdmon_histogram::BUCKETS;

use crate::class::CLASSES;

/// Processes that can be watched at the same time; members on one node are few.
pub const SLOTS: usize = 16;

/// Entries of the array `STATS`: index = slot * [`CLASSES`] + class.
pub const STATS: usize = SLOTS * CLASSES;

/// What is counted of one process and file class. Every field is added to atomically and never reset.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct ClassStats {
    /// Ended syncs by latency; their sum is the number of syncs.
    pub sync_histogram: [u64; BUCKETS],
    /// Sum of the latencies of the syncs.
    pub sync_sum_ns: u64,
    /// Syncs that returned an error; they are in the histogram as well.
    pub sync_errors: u64,
    /// Time the syncing threads waited for a CPU between start and end of their syncs.
    pub sync_run_delay_ns: u64,
    /// Syncs that were candidates for the sample: not slow, or no threshold met.
    pub sync_unslow: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// write, pwrite64, writev, pwritev, pwritev2 calls on regular files, while a hook that shows calls is on, by
    /// latency.
    pub call_histogram: [u64; BUCKETS],
    /// Sum of the latencies of those calls.
    pub call_sum_ns: u64,
    /// sync_file_range calls while such a hook is on.
    pub sync_file_range_calls: u64,
}

/// Words of a [`ClassStats`]: user space reads it as an array of counters.
pub const CLASS_STATS_WORDS: usize = size_of::<ClassStats>() / 8;

const _: () = assert!(size_of::<ClassStats>() == 8 * (2 * BUCKETS + 7), "no padding between kernel and user");
