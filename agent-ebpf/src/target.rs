//! What user space tells the programs about a watched process: the value in the hash `TARGETS`, by process id.

/// Syncs and written bytes are counted by the filesystem's tracepoints.
pub const FILESYSTEM: u32 = 1;
/// Syncs and written bytes are counted by the syscall tracepoints.
pub const SYSCALL: u32 = 2;
/// Write calls and their latency are counted (the syscall tracepoints are on).
pub const CALLS: u32 = 4;

/// A watched process. Replaced as a whole, so a program sees either the old or the new settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// A sync at least this long has a record.
    pub slow_ns: u64,
    /// Of the other syncs of a class one in this many has a record; 0 = none, 1 = every one.
    pub sample_every: u32,
    /// Where its counters are.
    pub slot: u32,
    /// [`FILESYSTEM`], [`SYSCALL`], [`CALLS`].
    pub flags: u32,
    /// A write call that began under another generation is not counted at its end: the hooks were away meanwhile.
    pub generation: u32,
}

const _: () = assert!(size_of::<Target>() == 24, "no padding: the kernel compares and copies bytes");
