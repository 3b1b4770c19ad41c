//! Syscall tracepoints: the fallback where the filesystem has none. While one is attached every syscall of every process
//! on the host takes the slow path.

use core::ffi::c_void;

use aya_ebpf::programs::TracePointContext;
use etcdmon_agent_ebpf::{
    loss::Program,
    target::{CALLS, SYSCALL},
};

use crate::{count, file, read::Checked};

/// First argument and result in every `events/syscalls/*/format`: after 8 common bytes, the call's number and padding.
const VALUE: usize = 16;

/// What every program returns: 0 takes the event away from everybody else who watches it by perf (kernel/trace/
/// trace_syscalls.c). aya's macro for tracepoints returns 0 whatever the function says, so it is not used here.
const PASS: u32 = 1;

#[inline(always)]
fn value(context: &TracePointContext) -> Option<u64> {
    // SAFETY: the tracepoint's record has at least one argument; the helper checks the address.
    unsafe { context.read_at(VALUE) }.ok()
}

/// fsync, fdatasync.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub extern "C" fn sync_enter_syscall(context: *mut c_void) -> u32 {
    let context = TracePointContext::new(context);
    let Some((process, thread, target)) = count::target(SYSCALL) else { return PASS };
    // A descriptor that can't be followed or synced has no begin; what came of it is told by its end.
    if let Some(file) = value(&context).and_then(file::of_descriptor)
        && file::inode_of::<Checked>(file).is_some_and(file::is_syncable)
    {
        count::sync_begin::<Checked>(Program::SyncEnterSyscall, SYSCALL, process, thread, target, file);
    }
    PASS
}

/// fsync, fdatasync.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub extern "C" fn sync_exit_syscall(context: *mut c_void) -> u32 {
    sync_exit::<true>(&TracePointContext::new(context))
}

/// The same for kernels before 5.12.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub extern "C" fn sync_exit_syscall_inexact(context: *mut c_void) -> u32 {
    sync_exit::<false>(&TracePointContext::new(context))
}

#[inline(always)]
fn sync_exit<const EXACT: bool>(context: &TracePointContext) -> u32 {
    if let Some(result) = value(context) {
        count::sync_end::<EXACT, Checked>(context, Program::SyncExitSyscall, SYSCALL, result as i64);
    }
    PASS
}

/// write, pwrite64, writev, pwritev, pwritev2.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub extern "C" fn write_enter_syscall(context: *mut c_void) -> u32 {
    let context = TracePointContext::new(context);
    let Some((_, thread, target)) = count::target(SYSCALL | CALLS) else { return PASS };
    // Most writes of etcd go to sockets: nothing is kept for those.
    if let Some(file) = value(&context).and_then(file::of_descriptor)
        && file::inode_of::<Checked>(file).is_some_and(file::is_regular)
    {
        count::call_begin(Program::WriteEnterSyscall, thread, target, file);
    }
    PASS
}

/// write, pwrite64, writev, pwritev, pwritev2.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub extern "C" fn write_exit_syscall(context: *mut c_void) -> u32 {
    let context = TracePointContext::new(context);
    if let Some((_, thread, target)) = count::target(SYSCALL | CALLS)
        && let Some(result) = value(&context)
    {
        let bytes = target.flags & SYSCALL != 0;
        let calls = target.flags & CALLS != 0;
        count::call_end(Program::WriteExitSyscall, thread, target, result as i64, bytes, calls);
    }
    PASS
}

/// sync_file_range.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint")]
pub extern "C" fn range_enter_syscall(context: *mut c_void) -> u32 {
    let context = TracePointContext::new(context);
    if let Some((_, _, target)) = count::target(CALLS)
        && let Some(file) = value(&context).and_then(file::of_descriptor)
    {
        count::range_call(target, file);
    }
    PASS
}
