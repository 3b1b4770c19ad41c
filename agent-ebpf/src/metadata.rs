//! Totals by who changed metadata of a filesystem through its jbd2 journal: the hash `METADATA`.

/// Users kept apart; the one that was quiet for longest makes room for a new one.
pub const METADATA: usize = 1024;

/// Filesystems at most whose journals are watched at a time.
pub const JOURNALS: usize = 64;

/// Who changed metadata of which filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct MetadataUser {
    /// Device of the filesystem (a partition, usually), encoded as (major << 20) | minor.
    pub filesystem: u32,
    /// The process in the initial pid namespace.
    pub process_id: u32,
    /// Its cgroup in the default hierarchy.
    pub cgroup: u64,
}

/// What it changed since it is in the hash. Every number is added to atomically, when a handle ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MetadataTotals {
    /// Handles: operations, roughly.
    pub handles: u64,
    /// Blocks that they dirtied.
    pub dirtied_blocks: u64,
    /// Blocks of the journal that they asked for.
    pub requested_blocks: u64,
    /// Name of the thread whose handle was the first.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<MetadataUser>() == 16 && size_of::<MetadataTotals>() == 40, "no padding");
