//! ext4's own tracepoints, by name so that ext4 may be a module. They cost other processes nothing: one look-up each
//! time one of them syncs or writes on ext4. Arguments by position (include/trace/events/ext4.h, 5.8 to 6.18).

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use etcdmon_agent_ebpf::{loss::Program, target::FILESYSTEM};

use crate::{count, file};

/// `ext4_sync_file_enter(struct file *, int datasync)`; every enter has its exit (fs/ext4/fsync.c).
#[raw_tracepoint(tracepoint = "ext4_sync_file_enter")]
pub fn sync_enter_filesystem(context: RawTracePointContext) -> i32 {
    if let Some((_, thread, target)) = count::target(FILESYSTEM) {
        count::sync_begin(Program::SyncEnterFilesystem, thread, target, context.arg(0));
    }
    0
}

/// `ext4_sync_file_exit(struct inode *, int ret)`.
#[raw_tracepoint(tracepoint = "ext4_sync_file_exit")]
pub fn sync_exit_filesystem(context: RawTracePointContext) -> i32 {
    sync_exit::<true>(&context)
}

/// The same for kernels before 5.12.
#[raw_tracepoint(tracepoint = "ext4_sync_file_exit")]
pub fn sync_exit_filesystem_inexact(context: RawTracePointContext) -> i32 {
    sync_exit::<false>(&context)
}

#[inline(always)]
fn sync_exit<const EXACT: bool>(context: &RawTracePointContext) -> i32 {
    if let Some((process, thread, target)) = count::target(FILESYSTEM) {
        let result = context.arg::<i32>(1) as i64;
        count::sync_end::<EXACT>(context, Program::SyncExitFilesystem, process, thread, target, result);
    }
    0
}

/// `ext4_da_write_end`, `ext4_write_end`, `ext4_journalled_write_end` `(struct inode *, loff_t pos, unsigned len,
/// unsigned copied)`, once per folio. `copied` is what was written, `len` what was asked for.
#[raw_tracepoint(tracepoint = "ext4_da_write_end")]
pub fn write_end_filesystem(context: RawTracePointContext) -> i32 {
    if let Some((_, _, target)) = count::target(FILESYSTEM) {
        let inode: u64 = context.arg(0);
        let copied: u32 = context.arg(3);
        count::written(
            Program::WriteEndFilesystem,
            target,
            inode,
            file::class_of_inode(inode),
            copied as u64,
        );
    }
    0
}
