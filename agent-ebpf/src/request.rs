//! A block request, as it lies in the circular array `REQUESTS` and, while under way, in the hash `IN_FLIGHT`.
//!
//! # The circular array
//! The `n`-th request to complete since loading (counted from 0) lies at index `n % REQUESTS`; `Heads::requests` says how
//! many there were. A program first takes its number, sets the `sequence` of its place to [`BEING_WRITTEN`], writes the
//! rest, and sets `sequence` to `n + 1` last. A reader that finds `n + 1` before and after it copied the rest has a whole
//! record; one that finds less has to come again, one that finds more is too late.

/// Entries of the array `REQUESTS`, a power of two: at 10,000 requests a second what happened within 0.8 s.
pub const REQUESTS: usize = 8192;

/// The sequence of a record that is being written.
pub const BEING_WRITTEN: u64 = 0;

/// The operation in [`RequestRecord::flags`]: the kernel's `REQ_OP_MASK` (include/linux/blk_types.h).
pub const OPERATION: u32 = 0xff;
/// `REQ_OP_READ`.
pub const READ: u32 = 0;
/// `REQ_OP_WRITE`.
pub const WRITE: u32 = 1;
/// `REQ_OP_FLUSH`.
pub const FLUSH: u32 = 2;
/// `REQ_OP_DISCARD`.
pub const DISCARD: u32 = 3;
/// `REQ_SYNC`; this bit and those below are the same from 4.10 to 6.18.
pub const SYNC: u32 = 1 << 11;
/// `REQ_META | REQ_PRIO`.
pub const META: u32 = 1 << 12 | 1 << 13;
/// `REQ_FUA | REQ_PREFLUSH`.
pub const FUA: u32 = 1 << 17 | 1 << 18;

/// One request. All times CLOCK_MONOTONIC; 0 is a time not known or not yet come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RequestRecord {
    /// Number of the record plus one, or [`BEING_WRITTEN`]; of no meaning in flight.
    pub sequence: u64,
    /// Made from a bio and handed to the queue.
    pub queued_ns: u64,
    /// Given to the driver, the last time if that was more than once.
    pub issued_ns: u64,
    /// Done with the last byte.
    pub completed_ns: u64,
    /// Cgroup of the submitting task in the default hierarchy.
    pub cgroup: u64,
    /// Cgroup that the bio is charged to.
    pub charged: u64,
    /// Inode number of the file of the first page; only looked for where a kernel thread submits.
    pub inode: u64,
    /// Disk, encoded as (major << 20) | minor.
    pub device: u32,
    /// Length when it was given to the driver, else when it was made.
    pub bytes: u32,
    /// Submitting thread in the initial pid namespace; 0 for what the flush machinery sends by itself.
    pub thread_id: u32,
    /// Its process.
    pub process_id: u32,
    /// As the tracepoint has it: a negative errno or, from 5.16 on, a `blk_status_t`.
    pub error: i32,
    /// `request.cmd_flags` at submission.
    pub flags: u32,
    /// Name of the submitting thread.
    pub comm: [u8; 16],
}

/// Words of a [`RequestRecord`]: user space reads it as such.
pub const REQUEST_WORDS: usize = size_of::<RequestRecord>() / 8;

const _: () = assert!(size_of::<RequestRecord>() == 96, "no padding; the array is sized by this");
const _: () = assert!(REQUESTS.is_power_of_two(), "a number is turned into an index by a mask");

/// How many records were ever begun: the one value of the array `HEADS`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Heads {
    /// In `REQUESTS`.
    pub requests: u64,
    /// In `COMMITS`.
    pub commits: u64,
    /// In `SIGNALS`.
    pub signals: u64,
}

/// A watched disk: the value in the hash `DEVICES`, by device number. Written by user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Device {
    /// From when on (CLOCK_MONOTONIC) all its requests are seen to begin.
    pub since_ns: u64,
}

/// What is known of a request queue: the value in the hash `QUEUES`, by the queue's address. Written by the programs when
/// they see a queue for the first time; user space empties the hash when the watched disks change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Queue {
    /// [`Device::since_ns`]; 0 if the disk is not watched.
    pub since_ns: u64,
    /// When the flush that completed last was given to the driver.
    pub flush_issued_ns: u64,
    /// The disk.
    pub device: u32,
    /// Zero.
    pub padding: u32,
}

/// Watched disks at most: every member's, with the layers below.
pub const DEVICES: usize = 64;
