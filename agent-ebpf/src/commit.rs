//! A commit of a jbd2 journal, as it lies in the circular array `COMMITS` (read as described in [`crate::request`]) and,
//! while under way, in the hash `COMMITTING`.

/// Entries of the array `COMMITS`, a power of two. A journal under constant syncs commits a few hundred times a second.
pub const COMMITS: usize = 1024;

/// One commit. All times CLOCK_MONOTONIC; 0 is a phase whose begin was not seen. Every phase ends where the next one begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CommitRecord {
    /// Number of the record plus one, or [`crate::request::BEING_WRITTEN`].
    pub sequence: u64,
    /// jbd2_start_commit.
    pub start_ns: u64,
    /// jbd2_commit_locking: waits for handles that are still open.
    pub locking_ns: u64,
    /// jbd2_commit_flushing: writes the data of files and waits for it.
    pub flushing_ns: u64,
    /// jbd2_commit_logging: writes metadata to the journal, then the commit block.
    pub logging_ns: u64,
    /// jbd2_end_commit; those who wait are woken after it.
    pub end_ns: u64,
    /// Disk of the filesystem, encoded as (major << 20) | minor.
    pub device: u32,
    /// Number of the transaction.
    pub transaction: u32,
}

/// Words of a [`CommitRecord`].
pub const COMMIT_WORDS: usize = size_of::<CommitRecord>() / 8;

const _: () = assert!(size_of::<CommitRecord>() == 56, "no padding; the array is sized by this");
const _: () = assert!(COMMITS.is_power_of_two(), "a number is turned into an index by a mask");
