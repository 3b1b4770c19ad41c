//! Counting: what a sync or a write adds to the maps. Every hook ends here, so all hooks count alike.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    },
};
use aya_log_ebpf::debug;
use etcdmon_agent_ebpf::{
    class::{CLASSES, Class},
    loss::{Program, Reason as LossReason},
    offset::Field,
    record::{RUN_TIME_UNKNOWN, Reason, SyncRecord},
    stats::ClassStats,
    target::Target,
};
use etcdmon_histogram::{BUCKETS, bucket_of};

use crate::{
    file,
    maps::{CALLS, CallStart, LOSS, RECORDS, STATS, SYNCS, SyncStart, TARGETS, UNSYNCED},
    read::{add, current_task, fetch_add, field, offset, unknown, word},
};

const NO_REPLACE: u64 = 1;
const EEXIST: i32 = -17;
const EBADF: i64 = -9;
const EINVAL: i64 = -22;
const EROFS: i64 = -30;

/// The calling process if it is watched by one of these hooks. The only thing that a foreign process runs.
#[inline(always)]
pub fn target(flags: u32) -> Option<(u32, u32, &'static Target)> {
    let ids = bpf_get_current_pid_tgid();
    let process = (ids >> 32) as u32;
    // SAFETY: user space replaces elements as a whole; one that is replaced meanwhile stays valid until we return.
    let target = unsafe { TARGETS.get(process) }?;
    if target.flags & flags == 0 { None } else { Some((process, ids as u32, target)) }
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

/// Counts something missed.
#[inline(always)]
pub fn lose(program: Program, reason: LossReason) {
    if let Some(loss) = LOSS.get_ptr_mut(0) {
        // SAFETY: points into the map's value, the indices are in bounds by their types.
        unsafe { add(&raw mut (*loss).counts[program as usize][reason as usize], 1) };
    }
}

#[inline(always)]
fn stats(slot: u32, class: Class) -> Option<*mut ClassStats> {
    STATS.get_ptr_mut(slot * CLASSES as u32 + class as u32)
}

#[inline(always)]
fn run_delay() -> u64 {
    field(current_task(), Field::TaskRunDelay).unwrap_or_default()
}

#[inline(always)]
fn processor() -> u32 {
    // SAFETY: takes nothing.
    unsafe { bpf_get_smp_processor_id() }
}

/// How long the current thread had run and since when it runs, as of the scheduler's last look: `sum_exec_runtime` and
/// `exec_start`.
#[inline(always)]
fn run_time() -> Option<(u64, u64)> {
    let (start, sum) = (offset(Field::TaskRunStart)?, offset(Field::TaskRunTime)?);
    let task = current_task();
    if sum == start + 8 {
        // One read for both, as every kernel has them side by side.
        let [start_ns, sum_ns]: [u64; 2] = word(task + start)?;
        return Some((sum_ns, start_ns));
    }
    Some((word(task + sum)?, word(task + start)?))
}

/// Time that the current thread has run since the begin of its sync.
#[inline(always)]
fn ran_since(start: &SyncStart, latency_ns: u64) -> u32 {
    let Some((sum_ns, start_ns)) = run_time() else { return RUN_TIME_UNKNOWN };
    let seen_ns = sum_ns.wrapping_sub(start.run_time_ns);
    // What the scheduler has not looked at yet, at both ends. Its clocks differ by processor; from one to another the
    // error of at most a tick stays.
    let ran_ns = if start.processor == processor() {
        seen_ns.wrapping_add(latency_ns).wrapping_sub(start_ns.wrapping_sub(start.run_start_ns))
    } else {
        seen_ns
    };
    // A clock that stood still for interrupts may make it a little less than nothing.
    let ran_ns = if (ran_ns as i64) < 0 { 0 } else { ran_ns };
    let ran_ns = if ran_ns > latency_ns { latency_ns } else { ran_ns };
    if ran_ns < RUN_TIME_UNKNOWN as u64 { ran_ns as u32 } else { RUN_TIME_UNKNOWN - 1 }
}

/// Adds a latency to a histogram and its sum.
///
/// # Safety
/// Both point into a map value.
#[inline(always)]
unsafe fn observe(histogram: *mut [u64; BUCKETS], sum_ns: *mut u64, latency_ns: u64) {
    let bucket = unknown(bucket_of(latency_ns) as u64);
    if bucket < BUCKETS as u64 {
        // SAFETY: in bounds by the test above, points into a map value by the contract of this function.
        unsafe {
            add(histogram.cast::<u64>().add(bucket as usize), 1);
            add(sum_ns, latency_ns);
        }
    }
}

/// Notes the begin of a sync of `file` by this thread.
#[inline(always)]
pub fn sync_begin(program: Program, thread: u32, target: &Target, file: u64) {
    let written_bytes = take_unsynced(file);
    let (run_time_ns, run_start_ns) = run_time().unwrap_or_default();
    let mut start = SyncStart {
        start_ns: 0,
        run_delay_ns: run_delay(),
        run_time_ns,
        run_start_ns,
        file,
        written_bytes,
        processor: processor(),
        padding: 0,
        slot: target.slot as u64,
    };
    // Last, so that our own work above is not part of the latency.
    start.start_ns = now();
    match SYNCS.insert(&thread, &start, NO_REPLACE) {
        Ok(()) => {}
        Err(EEXIST) => {
            lose(program, LossReason::NoEnd);
            if SYNCS.insert(&thread, &start, 0).is_err() {
                lose(program, LossReason::InFlightFull);
            }
        }
        Err(_) => lose(program, LossReason::InFlightFull),
    }
}

/// Counts the end of this thread's sync, and hands over a record of it if it is slow or falls into the sample. The sample
/// is exact with an add that returns what was there; kernels before 5.12 refuse programs that have one.
#[inline(always)]
pub fn sync_end<const EXACT: bool>(
    context: &impl EbpfContext,
    program: Program,
    process: u32,
    thread: u32,
    target: &Target,
    result: i64,
) {
    let end_ns = now();
    // SAFETY: only this thread writes or removes the element.
    let Some(start) = (unsafe { SYNCS.get(thread) }).copied() else {
        // A call on something that can't be synced has no begin here.
        if !matches!(result, EBADF | EINVAL | EROFS) {
            lose(program, LossReason::NoBegin);
            debug!(context, "sync of thread {} ended without a begin", thread);
        }
        return;
    };
    let _ = SYNCS.remove(thread);
    if start.slot != target.slot as u64 {
        lose(program, LossReason::NoBegin);
        return;
    }
    let latency_ns = end_ns.saturating_sub(start.start_ns);
    let run_delay_ns = run_delay().saturating_sub(start.run_delay_ns);
    let inode = file::inode_of(start.file).unwrap_or_default();
    let class = match file::class_of_file(start.file, inode) {
        Some(class) => class,
        None => {
            lose(program, LossReason::Unreadable);
            Class::Other
        }
    };
    let Some(stats) = stats(target.slot, class) else { return };
    // SAFETY: points to the map's value.
    let reason = unsafe {
        observe(&raw mut (*stats).sync_histogram, &raw mut (*stats).sync_sum_ns, latency_ns);
        add(&raw mut (*stats).sync_run_delay_ns, run_delay_ns);
        if result < 0 {
            add(&raw mut (*stats).sync_errors, 1);
        }
        if latency_ns >= target.slow_ns {
            Reason::Slow
        } else {
            let counter = &raw mut (*stats).sync_unslow;
            let earlier = if EXACT {
                fetch_add(counter, 1)
            } else {
                let earlier = *counter;
                add(counter, 1);
                earlier
            };
            let every = target.sample_every as u64;
            if every == 0 || earlier % every != 0 {
                return;
            }
            Reason::Sample
        }
    };
    let record = SyncRecord {
        start_ns: start.start_ns,
        latency_ns,
        run_delay_ns,
        written_bytes: start.written_bytes,
        inode: file::number(inode),
        thread_id: thread,
        device: file::device(inode),
        result: result as i32,
        slot: target.slot as u8,
        class: class as u8,
        reason: reason as u8,
        reserved: 0,
        process_id: process,
        run_time_ns: ran_since(&start, latency_ns),
    };
    if RECORDS.output::<SyncRecord>(&record, BPF_RB_NO_WAKEUP as u64).is_err() {
        lose(program, LossReason::RingFull);
    }
}

/// Bytes written to the file up to now; the count begins anew.
#[inline(always)]
fn take_unsynced(file: u64) -> u64 {
    let Some(inode) = file::inode_of(file) else { return 0 };
    let Some(bytes) = UNSYNCED.get_ptr_mut(file::key(inode)) else { return 0 };
    // SAFETY: points into the map's value. Taken off rather than set to zero: what is added meanwhile stays.
    unsafe {
        let taken = *bytes;
        add(bytes, taken.wrapping_neg());
        taken
    }
}

/// Counts bytes written to a regular file.
#[inline(always)]
pub fn written(program: Program, target: &Target, inode: u64, class: Option<Class>, bytes: u64) {
    if class.is_none() {
        lose(program, LossReason::Unreadable);
    }
    if let Some(stats) = stats(target.slot, class.unwrap_or(Class::Other)) {
        // SAFETY: points into the map's value.
        unsafe { add(&raw mut (*stats).written_bytes, bytes) };
    }
    let key = file::key(inode);
    if let Some(unsynced) = UNSYNCED.get_ptr_mut(key) {
        // SAFETY: points into the map's value.
        unsafe { add(unsynced, bytes) };
    } else if UNSYNCED.insert(&key, &bytes, 0).is_err() {
        lose(program, LossReason::InFlightFull);
    }
}

/// Notes the begin of a write call of this thread on a regular file.
#[inline(always)]
pub fn call_begin(program: Program, thread: u32, target: &Target, file: u64) {
    let mut start = CallStart { start_ns: 0, file, slot: target.slot, generation: target.generation };
    start.start_ns = now();
    if CALLS.insert(&thread, &start, 0).is_err() {
        lose(program, LossReason::InFlightFull);
    }
}

/// Counts the end of this thread's write call: the call where calls are counted, the bytes where no better hook does.
#[inline(always)]
pub fn call_end(
    program: Program,
    thread: u32,
    target: &Target,
    result: i64,
    count_bytes: bool,
    count_calls: bool,
) {
    let end_ns = now();
    // SAFETY: only this thread writes or removes the element.
    let Some(start) = (unsafe { CALLS.get(thread) }).copied() else { return };
    let _ = CALLS.remove(thread);
    if start.slot != target.slot || start.generation != target.generation {
        return;
    }
    let inode = file::inode_of(start.file).unwrap_or_default();
    let class = file::class_of_file(start.file, inode);
    if count_bytes && result > 0 {
        written(program, target, inode, class, result as u64);
    }
    if count_calls && let Some(stats) = stats(target.slot, class.unwrap_or(Class::Other)) {
        // SAFETY: points into the map's value.
        unsafe {
            observe(
                &raw mut (*stats).call_histogram,
                &raw mut (*stats).call_sum_ns,
                end_ns.saturating_sub(start.start_ns),
            );
        }
    }
}

/// Counts a sync_file_range call.
#[inline(always)]
pub fn range_call(target: &Target, file: u64, inode: u64) {
    let class = file::class_of_file(file, inode).unwrap_or(Class::Other);
    if let Some(stats) = stats(target.slot, class) {
        // SAFETY: points into the map's value.
        unsafe { add(&raw mut (*stats).sync_file_range_calls, 1) };
    }
}
