//! What the kernel probes know about a disk: requests, commits of journals, and who used it.
//!
//! All times are CLOCK_MONOTONIC in nanoseconds, 0 = not known or not yet. A device is a whole disk, not a partition,
//! encoded as (major << 20) | minor.

/// What a request asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read.
    Read,
    /// Write of data.
    Write,
    /// Nothing but a flush of the disk's cache. A task's own has a process; the one that the kernel sends to the disk for
    /// all who wait for a flush at that time has none.
    Flush,
    /// Discard.
    Discard,
    /// Anything else, such as writing zeros by command.
    Other,
}

/// A request to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Disk.
    pub device: u32,
    /// What is asked.
    pub operation: Operation,
    /// `REQ_SYNC`: somebody waits for it.
    pub sync: bool,
    /// `REQ_META` or `REQ_PRIO`: the filesystem's own.
    pub meta: bool,
    /// `REQ_FUA` or `REQ_PREFLUSH`: to be on the medium, or all before it, when it is done.
    pub fua: bool,
    /// Length.
    pub bytes: u32,
    /// Made and handed to the block layer (6.5+: block_io_start; else `rq.start_time_ns`).
    pub queued_ns: u64,
    /// Given to the disk, the last time if that was more than once (block_rq_issue). Of a [`Operation::Flush`] of a task
    /// that of the kernel's flush which served it.
    pub issued_ns: u64,
    /// Done to the last byte (block_rq_complete).
    pub completed_ns: u64,
    /// 0 or a negative errno.
    pub error: i32,
    /// Thread as seen at submission, never at completion; 0 = unknown or the block layer's own.
    pub thread_id: u32,
    /// Its process.
    pub process_id: u32,
    /// Its name.
    pub comm: [u8; 16],
    /// Cgroup of the submitting task in the default hierarchy or, v1, of its blkio controller; 0 = unknown.
    pub cgroup: u64,
    /// Cgroup that is charged for it (`rq.bio.bi_blkg`); 0 = unknown.
    pub charged: u64,
    /// Inode number of the file it writes, only looked for where a kernel thread (kworker, jbd2) submits; 0 = unknown.
    pub inode: u64,
}

/// A commit of a jbd2 journal. Each phase ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Disk of the filesystem.
    pub device: u32,
    /// Begin.
    pub start_ns: u64,
    /// Begins to wait for handles that are still open.
    pub locking_ns: u64,
    /// Begins to write the data of files.
    pub flushing_ns: u64,
    /// Begins to write the journal.
    pub logging_ns: u64,
    /// End; those who wait for it are woken then.
    pub end_ns: u64,
    /// Number of the transaction.
    pub transaction: u32,
}

/// Totals by who used a device since loading: differences are usage. The charged cgroup is the key's where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Disk.
    pub device: u32,
    /// Submitting process; 0 = unknown.
    pub process_id: u32,
    /// Name of its thread that came first.
    pub comm: [u8; 16],
    /// Cgroup.
    pub cgroup: u64,
    /// Completed requests, flushes included.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that only flush.
    pub flushes: u64,
    /// Sum of the times from queued to issued.
    pub queue_ns: u64,
    /// Sum of the times from issued to completed.
    pub device_ns: u64,
}
