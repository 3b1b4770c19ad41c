//! What was missed, by program and reason: the one value of the array `LOSS`.

/// Number of programs.
pub const PROGRAMS: usize = 22;

/// A kernel program. The numbers are indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Program {
    /// ext4_sync_file_enter.
    SyncEnterFilesystem = 0,
    /// ext4_sync_file_exit.
    SyncExitFilesystem = 1,
    /// ext4_da_write_end and its siblings.
    WriteEndFilesystem = 2,
    /// sys_enter_fsync, sys_enter_fdatasync.
    SyncEnterSyscall = 3,
    /// sys_exit_fsync, sys_exit_fdatasync.
    SyncExitSyscall = 4,
    /// sys_enter_write and its siblings.
    WriteEnterSyscall = 5,
    /// sys_exit_write and its siblings.
    WriteExitSyscall = 6,
    /// sys_enter_sync_file_range.
    RangeEnterSyscall = 7,
    /// sys_enter, every call, in a write slot.
    CallEnterSlot = 8,
    /// sys_exit, every call, in a write slot.
    CallExitSlot = 9,
    /// block_io_start.
    BlockStart = 10,
    /// block_rq_issue.
    BlockIssue = 11,
    /// block_rq_complete.
    BlockComplete = 12,
    /// block_rq_merge.
    BlockMerge = 13,
    /// jbd2_start_commit.
    JournalStart = 14,
    /// jbd2_commit_locking.
    JournalLocking = 15,
    /// jbd2_commit_flushing.
    JournalFlushing = 16,
    /// jbd2_commit_logging.
    JournalLogging = 17,
    /// jbd2_end_commit.
    JournalEnd = 18,
    /// block_getrq.
    BlockSubmit = 19,
    /// signal_generate.
    SignalGenerate = 20,
    /// jbd2_handle_stats.
    JournalHandle = 21,
}

impl Program {
    /// Every program, by index.
    pub const ALL: [Self; PROGRAMS] = [
        Self::SyncEnterFilesystem,
        Self::SyncExitFilesystem,
        Self::WriteEndFilesystem,
        Self::SyncEnterSyscall,
        Self::SyncExitSyscall,
        Self::WriteEnterSyscall,
        Self::WriteExitSyscall,
        Self::RangeEnterSyscall,
        Self::CallEnterSlot,
        Self::CallExitSlot,
        Self::BlockStart,
        Self::BlockIssue,
        Self::BlockComplete,
        Self::BlockMerge,
        Self::JournalStart,
        Self::JournalLocking,
        Self::JournalFlushing,
        Self::JournalLogging,
        Self::JournalEnd,
        Self::BlockSubmit,
        Self::SignalGenerate,
        Self::JournalHandle,
    ];

    /// The name of its function, which is its name in the object and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SyncEnterFilesystem => "sync_enter_filesystem",
            Self::SyncExitFilesystem => "sync_exit_filesystem",
            Self::WriteEndFilesystem => "write_end_filesystem",
            Self::SyncEnterSyscall => "sync_enter_syscall",
            Self::SyncExitSyscall => "sync_exit_syscall",
            Self::WriteEnterSyscall => "write_enter_syscall",
            Self::WriteExitSyscall => "write_exit_syscall",
            Self::RangeEnterSyscall => "range_enter_syscall",
            Self::CallEnterSlot => "call_enter_slot",
            Self::CallExitSlot => "call_exit_slot",
            Self::BlockStart => "block_start",
            Self::BlockIssue => "block_issue",
            Self::BlockComplete => "block_complete",
            Self::BlockMerge => "block_merge",
            Self::JournalStart => "journal_start",
            Self::JournalLocking => "journal_locking",
            Self::JournalFlushing => "journal_flushing",
            Self::JournalLogging => "journal_logging",
            Self::JournalEnd => "journal_end",
            Self::BlockSubmit => "block_submit",
            Self::SignalGenerate => "signal_generate",
            Self::JournalHandle => "journal_handle",
        }
    }
}

impl Program {
    /// The functions that do the same by typed tracepoints, behind the tracepoint; none where there is only the other kind.
    pub const fn typed(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::SyncEnterFilesystem => &[("ext4_sync_file_enter", "sync_enter_typed")],
            Self::SyncExitFilesystem => &[("ext4_sync_file_exit", "sync_exit_typed")],
            Self::WriteEndFilesystem => &[
                ("ext4_da_write_end", "write_end_typed"),
                ("ext4_write_end", "write_end_at_once_typed"),
                ("ext4_journalled_write_end", "write_end_journalled_typed"),
            ],
            Self::BlockStart => &[("block_io_start", "block_start_typed")],
            Self::BlockIssue => &[("block_rq_issue", "block_issue_typed")],
            Self::BlockComplete => &[("block_rq_complete", "block_complete_typed")],
            Self::BlockMerge => &[("block_rq_merge", "block_merge_typed")],
            Self::BlockSubmit => &[("block_getrq", "block_submit_typed")],
            Self::JournalStart => &[("jbd2_start_commit", "journal_start_typed")],
            Self::JournalLocking => &[("jbd2_commit_locking", "journal_locking_typed")],
            Self::JournalFlushing => &[("jbd2_commit_flushing", "journal_flushing_typed")],
            Self::JournalLogging => &[("jbd2_commit_logging", "journal_logging_typed")],
            Self::JournalEnd => &[("jbd2_end_commit", "journal_end_typed")],
            _ => &[],
        }
    }

    /// The function that does the same where the tracepoint begins with the queue: 5.10 and before.
    pub const fn after_queue(self) -> Option<&'static str> {
        match self {
            Self::BlockSubmit => Some("block_submit_after_queue"),
            Self::BlockIssue => Some("block_issue_after_queue"),
            Self::BlockMerge => Some("block_merge_after_queue"),
            _ => None,
        }
    }

    /// The function that does the same on kernels before 5.12, but for an exact sample and, of the circular arrays, for
    /// records that two processors begin at the same time.
    pub const fn inexact(self) -> Option<&'static str> {
        match self {
            Self::SyncExitFilesystem => Some("sync_exit_filesystem_inexact"),
            Self::SyncExitSyscall => Some("sync_exit_syscall_inexact"),
            Self::BlockComplete => Some("block_complete_inexact"),
            Self::JournalEnd => Some("journal_end_inexact"),
            Self::SignalGenerate => Some("signal_generate_inexact"),
            _ => None,
        }
    }
}

/// Number of reasons.
pub const REASONS: usize = 5;

/// Why something was missed. The numbers are indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reason {
    /// The ring was full: the sync is counted, its record is lost.
    RingFull = 0,
    /// No room to keep the begin of a sync, call, request or commit: it is not counted.
    InFlightFull = 1,
    /// The end of a sync, request or commit whose begin was not seen (the program was attached meanwhile): it is not
    /// counted.
    NoBegin = 2,
    /// A thread began a sync, or a request or journal was used anew, while the last one had not ended: the end of that one
    /// was missed, it is not counted.
    NoEnd = 3,
    /// A kernel structure could not be read: counted as class `other`, or not at all where there is no file to count.
    Unreadable = 4,
}

impl Reason {
    /// Every reason, by index.
    pub const ALL: [Self; REASONS] =
        [Self::RingFull, Self::InFlightFull, Self::NoBegin, Self::NoEnd, Self::Unreadable];

    /// Its name in metrics and in the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::InFlightFull => "in_flight_full",
            Self::NoBegin => "no_begin",
            Self::NoEnd => "no_end",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Counts by program and reason. They only grow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Loss {
    /// `counts[program][reason]`.
    pub counts: [[u64; REASONS]; PROGRAMS],
}
