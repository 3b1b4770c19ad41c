//! What the kernel says of block requests and journal commits.
//!
//! All times are CLOCK_MONOTONIC in nanoseconds; 0 = not known, or not yet. Devices are `(major << 20) | minor` of the whole
//! disk, not of the partition, unless a field says otherwise.

/// What a request does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Reads.
    Read,
    /// Writes; with [`Request::fua`] and no bytes it only asks for a flush.
    Write,
    /// The device's cache is written to its medium. Made by the flush machinery, which has no submitter.
    Flush,
    /// Discards, also write zeroes.
    Discard,
    /// Anything else.
    #[default]
    Other,
}

/// A block request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The disk.
    pub device: u32,
    /// What it does.
    pub operation: Operation,
    /// REQ_SYNC: somebody waits for it.
    pub sync: bool,
    /// REQ_META or REQ_PRIO.
    pub meta: bool,
    /// REQ_FUA or REQ_PREFLUSH.
    pub fua: bool,
    /// Bytes.
    pub bytes: u32,
    /// It came to be: block_io_start (6.5), before that the request's own start time.
    pub queued_ns: u64,
    /// The device got it: block_rq_issue.
    pub issued_ns: u64,
    /// Its last bytes were done: block_rq_complete.
    pub completed_ns: u64,
    /// 0 or a negative errno.
    pub error: i32,
    /// Submitting thread, in the initial pid namespace; 0 = nobody (the flush machinery).
    pub thread_id: u32,
    /// Its process.
    pub process_id: u32,
    /// Its name, as seen at submission.
    pub comm: [u8; 16],
    /// Cgroup of the submitting task: on the default hierarchy, or on version 1 that of blkio; 0 = unknown.
    pub cgroup: u64,
    /// Cgroup that the request is charged to, whoever submits it; 0 = unknown.
    pub charged: u64,
    /// Inode of the file whose page it begins with; looked for only in what kworkers and jbd2 submit; 0 = unknown.
    pub inode: u64,
}

/// A commit of a jbd2 journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit {
    /// Device of the filesystem, as in the records of its syncs; that of the whole disk is understood as well, but does not
    /// tell two filesystems of one disk from each other.
    pub device: u32,
    /// jbd2_start_commit.
    pub start_ns: u64,
    /// jbd2_commit_locking: nobody gets a handle until `flushing_ns`.
    pub locking_ns: u64,
    /// jbd2_commit_flushing: data first.
    pub flushing_ns: u64,
    /// jbd2_commit_logging: then the journal's blocks.
    pub logging_ns: u64,
    /// jbd2_end_commit; its waiters are woken right after.
    pub end_ns: u64,
    /// Number of the transaction.
    pub transaction: u32,
}

impl Request {
    /// Asks for a flush and carries nothing.
    pub const fn is_flush(&self) -> bool {
        matches!(self.operation, Operation::Flush) || (self.fua && self.bytes == 0)
    }

    /// Made by the flush machinery itself.
    pub const fn is_machinery(&self) -> bool {
        matches!(self.operation, Operation::Flush) && self.thread_id == 0
    }

    /// Submitted by a worker of the kernel, on somebody's behalf.
    pub fn is_by_kworker(&self) -> bool {
        self.comm.starts_with(b"kworker/")
    }

    /// Submitted by a worker that is bound to a CPU, as those of blk-throttle are and those of writeback are not
    /// (`kworker/u…`).
    pub fn is_by_bound_kworker(&self) -> bool {
        self.is_by_kworker() && self.comm[8].is_ascii_digit()
    }

    /// Submitted by a jbd2 journal's thread.
    pub fn is_by_jbd2(&self) -> bool {
        self.comm.starts_with(b"jbd2/")
    }
}
