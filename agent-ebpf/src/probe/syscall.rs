//! Syscall tracepoints: the fallback where the filesystem has none. While one is attached every syscall of every process
//! on the host takes the slow path.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use etcdmon_agent_ebpf::{
    loss::Program,
    target::{CALLS, SYSCALL},
};

use crate::{count, file};

/// First argument and result in every `events/syscalls/*/format`: after 8 common bytes, the call's number and padding.
const VALUE: usize = 16;

#[inline(always)]
fn value(context: &TracePointContext) -> Option<u64> {
    // SAFETY: the tracepoint's record has at least one argument; the helper checks the address.
    unsafe { context.read_at(VALUE) }.ok()
}

/// fsync, fdatasync.
#[tracepoint]
pub fn sync_enter_syscall(context: TracePointContext) -> u32 {
    let Some((_, thread, target)) = count::target(SYSCALL) else { return 0 };
    // A descriptor that can't be followed or synced has no begin; what came of it is told by its end.
    if let Some(file) = value(&context).and_then(file::of_descriptor)
        && file::inode_of(file).is_some_and(file::is_syncable)
    {
        count::sync_begin(Program::SyncEnterSyscall, thread, target, file);
    }
    0
}

/// fsync, fdatasync.
#[tracepoint]
pub fn sync_exit_syscall(context: TracePointContext) -> u32 {
    if let Some((process, thread, target)) = count::target(SYSCALL)
        && let Some(result) = value(&context)
    {
        count::sync_end(&context, Program::SyncExitSyscall, process, thread, target, result as i64);
    }
    0
}

/// write, pwrite64, writev, pwritev, pwritev2.
#[tracepoint]
pub fn write_enter_syscall(context: TracePointContext) -> u32 {
    let Some((_, thread, target)) = count::target(SYSCALL | CALLS) else { return 0 };
    // Most writes of etcd go to sockets: nothing is kept for those.
    if let Some(file) = value(&context).and_then(file::of_descriptor)
        && file::inode_of(file).is_some_and(file::is_regular)
    {
        count::call_begin(Program::WriteEnterSyscall, thread, target, file);
    }
    0
}

/// write, pwrite64, writev, pwritev, pwritev2.
#[tracepoint]
pub fn write_exit_syscall(context: TracePointContext) -> u32 {
    if let Some((_, thread, target)) = count::target(SYSCALL | CALLS)
        && let Some(result) = value(&context)
    {
        let bytes = target.flags & SYSCALL != 0;
        let calls = target.flags & CALLS != 0;
        count::call_end(Program::WriteExitSyscall, thread, target, result as i64, bytes, calls);
    }
    0
}

/// sync_file_range.
#[tracepoint]
pub fn range_enter_syscall(context: TracePointContext) -> u32 {
    if let Some((_, _, target)) = count::target(CALLS)
        && let Some(file) = value(&context).and_then(file::of_descriptor)
        && let Some(inode) = file::inode_of(file)
    {
        count::range_call(target, file, inode);
    }
    0
}
