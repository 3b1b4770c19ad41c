//! The begin of a sync, as it lies in the array `SYNC_PLACES` and in the hash `SYNCS` until the sync ends, by thread.

/// Everything that its end has to know: the end looks at no file and asks for no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SyncStart {
    /// Begin, CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// `task_struct.sched_info.run_delay` at that time.
    pub run_delay_ns: u64,
    /// `task_struct.se.sum_exec_runtime` at that time.
    pub run_time_ns: u64,
    /// `task_struct.se.exec_start` at that time.
    pub run_start_ns: u64,
    /// Bytes written to the file since its last sync began.
    pub written_bytes: u64,
    /// Inode number.
    pub inode: u64,
    /// [`crate::target::Target::slow_ns`].
    pub slow_ns: u64,
    /// Process in the initial pid namespace.
    pub process_id: u32,
    /// Device of the filesystem, encoded as (major << 20) | minor.
    pub device: u32,
    /// Processor at that time.
    pub processor: u32,
    /// [`crate::target::Target::sample_every`].
    pub sample_every: u32,
    /// Index of the [`crate::class::Class`]; [`crate::class::CLASSES`] if it could not be read.
    pub class: u32,
    /// [`crate::target::FILESYSTEM`] or [`crate::target::SYSCALL`]: the kind of hook that began it has to end it.
    pub hook: u32,
    /// [`crate::target::Target::slot`].
    pub slot: u64,
}

/// Words of a [`SyncStart`]: user space reads it as such.
pub const SYNC_START_WORDS: usize = size_of::<SyncStart>() / 8;

const _: () = assert!(size_of::<SyncStart>() == 88, "no padding: the kernel copies bytes");
