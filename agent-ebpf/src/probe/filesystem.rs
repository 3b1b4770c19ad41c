//! ext4's own tracepoints: typed where ext4 is in the kernel itself, and by name as it may be a module. They cost other
//! processes nothing: one look-up each time one of them syncs or writes on ext4. Arguments by position
//! (include/trace/events/ext4.h, 5.8 to 7.3).

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use etcdmon_agent_ebpf::{loss::Program, target::FILESYSTEM};

use crate::{
    count, file,
    read::{Checked, Read, Typed},
};

/// `ext4_sync_file_enter(struct file *, int datasync)`; every enter has its exit (fs/ext4/fsync.c).
#[btf_tracepoint(function = "ext4_sync_file_enter")]
pub fn sync_enter_typed(context: BtfTracePointContext) -> i32 {
    sync_enter::<Typed>(context.arg(0));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "ext4_sync_file_enter")]
pub fn sync_enter_filesystem(context: RawTracePointContext) -> i32 {
    sync_enter::<Checked>(context.arg(0));
    0
}

#[inline(always)]
fn sync_enter<R: Read>(file: u64) {
    if let Some((process, thread, target)) = count::target(FILESYSTEM) {
        count::sync_begin::<R>(Program::SyncEnterFilesystem, FILESYSTEM, process, thread, target, file);
    }
}

/// `ext4_sync_file_exit(struct inode *, int ret)`.
#[btf_tracepoint(function = "ext4_sync_file_exit")]
pub fn sync_exit_typed(context: BtfTracePointContext) -> i32 {
    sync_exit::<true, Typed>(&context, context.arg(1))
}

/// The same by name.
#[raw_tracepoint(tracepoint = "ext4_sync_file_exit")]
pub fn sync_exit_filesystem(context: RawTracePointContext) -> i32 {
    sync_exit::<true, Checked>(&context, context.arg(1))
}

/// The same for kernels before 5.12.
#[raw_tracepoint(tracepoint = "ext4_sync_file_exit")]
pub fn sync_exit_filesystem_inexact(context: RawTracePointContext) -> i32 {
    sync_exit::<false, Checked>(&context, context.arg(1))
}

#[inline(always)]
fn sync_exit<const EXACT: bool, R: Read>(context: &impl EbpfContext, result: i32) -> i32 {
    count::sync_end::<EXACT, R>(context, Program::SyncExitFilesystem, FILESYSTEM, result as i64);
    0
}

/// `ext4_da_write_end(struct inode *, loff_t pos, unsigned len, unsigned copied)`, once per folio. `copied` is what was
/// written, `len` what was asked for.
#[btf_tracepoint(function = "ext4_da_write_end")]
pub fn write_end_typed(context: BtfTracePointContext) -> i32 {
    write_end::<Typed>(context.arg(0), context.arg(3))
}

/// `ext4_write_end`, with the same arguments.
#[btf_tracepoint(function = "ext4_write_end")]
pub fn write_end_at_once_typed(context: BtfTracePointContext) -> i32 {
    write_end::<Typed>(context.arg(0), context.arg(3))
}

/// `ext4_journalled_write_end`, with the same arguments.
#[btf_tracepoint(function = "ext4_journalled_write_end")]
pub fn write_end_journalled_typed(context: BtfTracePointContext) -> i32 {
    write_end::<Typed>(context.arg(0), context.arg(3))
}

/// All three by name.
#[raw_tracepoint(tracepoint = "ext4_da_write_end")]
pub fn write_end_filesystem(context: RawTracePointContext) -> i32 {
    write_end::<Checked>(context.arg(0), context.arg(3))
}

#[inline(always)]
fn write_end<R: Read>(inode: u64, copied: u32) -> i32 {
    if let Some((_, _, target)) = count::target(FILESYSTEM) {
        let (key, name) = (file::key::<R>(inode), file::name_of_inode::<R>(inode));
        count::written(Program::WriteEndFilesystem, target, key, name, copied as u64);
    }
    0
}
