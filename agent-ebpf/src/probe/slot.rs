//! Every call of every process, for the short time of a write slot. One tracepoint each instead of one for each call:
//! those of single calls take the kernel a grace period each to detach, together far longer than the slot.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use etcdmon_agent_ebpf::{
    call::{NO_CALL, NUMBERS, WRITES},
    loss::Program,
    offset::Field,
    target::CALLS,
};

use crate::{
    count, file,
    read::{Checked, Read as _},
};

/// Written by user space before loading, constant afterwards.
#[unsafe(no_mangle)]
static CALL_NUMBERS: [u32; NUMBERS] = [NO_CALL; NUMBERS];

#[inline(always)]
fn is_call(number: u64, index: usize) -> bool {
    // SAFETY: in bounds, as the callers pass constants; volatile because user space changes the value before loading.
    number == unsafe { core::ptr::read_volatile(&raw const CALL_NUMBERS[index]) } as u64
}

#[inline(always)]
fn is_write(number: u64) -> bool {
    const { assert!(WRITES == 5, "as many comparisons as there are calls") };
    is_call(number, 0) || is_call(number, 1) || is_call(number, 2) || is_call(number, 3) || is_call(number, 4)
}

/// `sys_enter(struct pt_regs *, long id)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn call_enter_slot(context: RawTracePointContext) -> i32 {
    let number: u64 = context.arg(1);
    let is_range = is_call(number, WRITES);
    if !is_range && !is_write(number) {
        return 0;
    }
    let Some((_, thread, target)) = count::target(CALLS) else { return 0 };
    let descriptor = Checked::field(context.arg(0), Field::RegistersFirst);
    let Some(file) = descriptor.and_then(file::of_descriptor) else { return 0 };
    if is_range {
        count::range_call(target, file);
    } else if file::inode_of::<Checked>(file).is_some_and(file::is_regular) {
        count::call_begin(Program::CallEnterSlot, thread, target, file);
    }
    0
}

/// `sys_exit(struct pt_regs *, long ret)`. Only calls whose begin was kept have an end here.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn call_exit_slot(context: RawTracePointContext) -> i32 {
    if let Some((_, thread, target)) = count::target(CALLS) {
        count::call_end(Program::CallExitSlot, thread, target, context.arg(1), false, true);
    }
    0
}
