//! Signals to watched processes (include/trace/events/signal.h, 5.8 to 7.3): who sent them is only known when they are
//! generated. Every signal of the host runs the first two lines; most are Go's own SIGURG, which end there.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use etcdmon_agent_ebpf::{
    offset::Field,
    signal::{BY_KERNEL, RECORDED, SIGNALS as ENTRIES, SignalRecord, TO_PROCESS},
};

use crate::{
    circular, count, device,
    maps::{SIGNALS, TARGETS},
    read::{Checked, Read as _},
};

/// What stands in place of a `kernel_siginfo *` when the kernel sends of its own accord (include/linux/sched/signal.h).
/// `SEND_SIG_NOINFO`, which is 0, says that the current task sends; kill(2) has it from 7.3 on.
const SEND_SIG_PRIV: u64 = 1;

/// `signal_generate(int sig, struct kernel_siginfo *, struct task_struct *, int group, int result)`, in the sender.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_generate(context: RawTracePointContext) -> i32 {
    generate::<true>(&context);
    0
}

/// The same for kernels before 5.12.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_generate_inexact(context: RawTracePointContext) -> i32 {
    generate::<false>(&context);
    0
}

#[inline(always)]
fn generate<const EXACT: bool>(context: &RawTracePointContext) {
    let signal: u32 = context.arg(0);
    if signal > 63 || RECORDED >> signal & 1 == 0 {
        return;
    }
    let task: u64 = context.arg(2);
    let Some(process_id) = Checked::field::<u32>(task, Field::TaskProcess) else { return };
    // SAFETY: nothing of the element is read.
    if unsafe { TARGETS.get(process_id) }.is_none() {
        return;
    }
    let by_kernel = context.arg::<u64>(1) == SEND_SIG_PRIV;
    let to_process = context.arg::<u32>(3) != 0;
    let mut record = SignalRecord {
        sequence: 0,
        at_ns: count::now(),
        cgroup: device::own_cgroup(),
        process_id,
        sender_process_id: (bpf_get_current_pid_tgid() >> 32) as u32,
        signal,
        flags: if by_kernel { BY_KERNEL } else { 0 } | if to_process { TO_PROCESS } else { 0 },
        result: context.arg(4),
        padding: 0,
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    circular::append::<EXACT, _>(
        &SIGNALS,
        ENTRIES,
        // SAFETY: points into the map's value.
        |heads| unsafe { &raw mut (*heads).signals },
        &mut record,
    );
}
