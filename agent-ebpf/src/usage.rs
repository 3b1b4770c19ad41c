//! Totals by who used a device: the hash `USAGE`.

/// Users kept apart; the one that was quiet for longest makes room for a new one.
pub const USERS: usize = 2048;

/// Who used which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct User {
    /// Disk, encoded as (major << 20) | minor.
    pub device: u32,
    /// Submitting process in the initial pid namespace.
    pub process_id: u32,
    /// The cgroup charged for it; where that is not known the submitter's.
    pub cgroup: u64,
}

/// What it used since it is in the hash. Every number is added to atomically, when a request completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UsageTotals {
    /// Completed requests, flushes included.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of the requests those that only flush.
    pub flushes: u64,
    /// Sum of the times from queued to issued.
    pub queue_ns: u64,
    /// Sum of the times from issued to completed.
    pub device_ns: u64,
    /// Name of the thread whose request was the first.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<User>() == 16 && size_of::<UsageTotals>() == 56, "no padding");
