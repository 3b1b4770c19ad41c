//! The record of one sync, as it lies in the ring buffer.

/// Why a sync has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It took at least the threshold.
    Slow = 1,
    /// It is the one of so many.
    Sample = 2,
}

/// One sync. 64 bytes, so that with its header it costs 72 bytes of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SyncRecord {
    /// Begin, CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// End minus begin.
    pub latency_ns: u64,
    /// Time the thread waited for a CPU meanwhile.
    pub run_delay_ns: u64,
    /// Bytes written to the file since its last sync began.
    pub written_bytes: u64,
    /// Inode number.
    pub inode: u64,
    /// Thread, in the initial pid namespace.
    pub thread_id: u32,
    /// Encoded as (major << 20) | minor.
    pub device: u32,
    /// 0 or a negative errno.
    pub result: i32,
    /// Where its process is counted.
    pub slot: u8,
    /// Index of the [`crate::class::Class`].
    pub class: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// Zero.
    pub reserved: u8,
    /// Process, in the initial pid namespace: tells a stale record of an earlier process of the slot.
    pub process_id: u32,
    /// Time the thread ran on a CPU meanwhile, or [`RUN_TIME_UNKNOWN`]. More than four seconds stay four seconds.
    pub run_time_ns: u32,
}

/// This kernel does not tell how long a thread ran.
pub const RUN_TIME_UNKNOWN: u32 = u32::MAX;

const _: () = assert!(size_of::<SyncRecord>() == 64, "the ring is sized by this");
