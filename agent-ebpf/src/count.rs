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
    place::PLACES,
    record::{RUN_TIME_UNKNOWN, Reason, SyncRecord},
    stats::ClassStats,
    sync::SyncStart,
    target::Target,
};
use etcdmon_histogram::{BUCKETS, bucket_of};

use crate::{
    file::{self, ClassOfName},
    maps::{CALLS, CallStart, FileKey, LOSS, RECORDS, STATS, SYNC_PLACES, SYNCS, TARGETS, WRITTEN, Written},
    read::{Checked, Read, add, fetch_add, unknown},
    under_way::{self, Put},
};

const NO_REPLACE: u64 = 1;
const EEXIST: i32 = -17;
const EBADF: i64 = -9;
const EINVAL: i64 = -22;
const EROFS: i64 = -30;

/// The calling process and thread, if it is watched by one of these hooks. The only thing that a foreign process runs.
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

/// Counters of a slot and the class with this index; the last class if there is none.
#[inline(always)]
fn stats(slot: u32, class: u32) -> Option<*mut ClassStats> {
    STATS
        .get_ptr_mut(slot * CLASSES as u32 + if class < CLASSES as u32 { class } else { Class::Other as u32 })
}

#[inline(always)]
fn run_delay<R: Read>() -> u64 {
    R::field(R::current_task(), Field::TaskRunDelay).unwrap_or_default()
}

#[inline(always)]
fn processor() -> u32 {
    // SAFETY: takes nothing.
    unsafe { bpf_get_smp_processor_id() }
}

/// How long the current thread had run and since when it runs, as of the scheduler's last look: `sum_exec_runtime` and
/// `exec_start`.
#[inline(always)]
fn run_time<R: Read>() -> Option<(u64, u64)> {
    let task = R::current_task();
    Some((R::field(task, Field::TaskRunTime)?, R::field(task, Field::TaskRunStart)?))
}

/// Time that the current thread has run since the begin of its sync.
#[inline(always)]
fn ran_since<R: Read>(start: &SyncStart, latency_ns: u64) -> u32 {
    let Some((sum_ns, start_ns)) = run_time::<R>() else { return RUN_TIME_UNKNOWN };
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
pub fn sync_begin<R: Read>(
    program: Program,
    hook: u32,
    process: u32,
    thread: u32,
    target: &Target,
    file: u64,
) {
    let inode = file::inode_of::<R>(file).unwrap_or_default();
    let key = file::key::<R>(inode);
    let (written_bytes, class) = class_and_unsynced::<R>(file, key);
    let (run_time_ns, run_start_ns) = run_time::<R>().unwrap_or_default();
    let mut start = SyncStart {
        start_ns: 0,
        run_delay_ns: run_delay::<R>(),
        run_time_ns,
        run_start_ns,
        written_bytes,
        inode: key.number,
        slow_ns: target.slow_ns,
        process_id: process,
        device: file::device::<R>(inode),
        processor: processor(),
        sample_every: target.sample_every,
        class,
        hook,
        slot: target.slot as u64,
    };
    // Last, so that our own work above is not part of the latency.
    start.start_ns = now();
    if R::USES_PLACES {
        match under_way::put(&SYNC_PLACES, place_of(thread), thread as u64, &start) {
            Put::New => return,
            Put::Again => return lose(program, LossReason::NoEnd),
            Put::Taken => {}
        }
    }
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

/// Neighbours have places beside each other: a process's threads are numbered in a row.
#[inline(always)]
fn place_of(thread: u32) -> u32 {
    thread & (PLACES as u32 - 1)
}

/// Bytes written to a file that is being synced up to now, whose count begins anew, and the index of its class.
#[inline(always)]
fn class_and_unsynced<R: Read>(file: u64, key: FileKey) -> (u64, u32) {
    if file::is_directory::<R>(key.inode) {
        return (0, Class::Directory as u32);
    }
    let mut unsynced_bytes = 0;
    let mut known = ClassOfName::NOTHING;
    if let Some(written) = WRITTEN.get_ptr_mut(key) {
        // SAFETY: points into the map's value. Taken off rather than set to zero: what is added meanwhile stays.
        unsafe {
            known = ClassOfName::from_word((*written).class);
            unsynced_bytes = (*written).unsynced_bytes;
            add(&raw mut (*written).unsynced_bytes, unsynced_bytes.wrapping_neg());
        }
    }
    (unsynced_bytes, known.now::<R>(file::name_of_file::<R>(file)).index())
}

/// The begin of this thread's sync, which is forgotten. `None` if none was seen by this kind of hook.
#[inline(always)]
fn take_begin<R: Read>(hook: u32, thread: u32) -> Option<SyncStart> {
    if R::USES_PLACES
        && let Some(place) = under_way::find(&SYNC_PLACES, place_of(thread), thread as u64)
    {
        // SAFETY: points into the map's value, which only this thread writes to.
        unsafe {
            let start = (*place).value;
            if start.hook != hook {
                return None;
            }
            under_way::give_back(place);
            return Some(start);
        }
    }
    // SAFETY: only this thread writes or removes the element.
    let start = unsafe { SYNCS.get(thread) }.copied()?;
    if start.hook != hook {
        return None;
    }
    let _ = SYNCS.remove(thread);
    Some(start)
}

/// Counts the end of this thread's sync, and hands over a record of it if it is slow or falls into the sample. The sample
/// is exact with an add that returns what was there; kernels before 5.12 refuse programs that have one.
#[inline(always)]
pub fn sync_end<const EXACT: bool, R: Read>(
    context: &impl EbpfContext,
    program: Program,
    hook: u32,
    result: i64,
) {
    let thread = bpf_get_current_pid_tgid() as u32;
    let Some(start) = take_begin::<R>(hook, thread) else {
        // A call on something that can't be synced has no begin here, and what is not watched has none at all.
        if !matches!(result, EBADF | EINVAL | EROFS) && target(hook).is_some() {
            lose(program, LossReason::NoBegin);
            debug!(context, "sync of thread {} ended without a begin", thread);
        }
        return;
    };
    let latency_ns = now().saturating_sub(start.start_ns);
    let run_delay_ns = run_delay::<R>().saturating_sub(start.run_delay_ns);
    if start.class >= CLASSES as u32 {
        lose(program, LossReason::Unreadable);
    }
    let Some(stats) = stats(start.slot as u32, start.class) else { return };
    // SAFETY: points to the map's value.
    let reason = unsafe {
        observe(&raw mut (*stats).sync_histogram, &raw mut (*stats).sync_sum_ns, latency_ns);
        add(&raw mut (*stats).sync_run_delay_ns, run_delay_ns);
        if result < 0 {
            add(&raw mut (*stats).sync_errors, 1);
        }
        if latency_ns >= start.slow_ns {
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
            let every = start.sample_every as u64;
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
        inode: start.inode,
        thread_id: thread,
        device: start.device,
        result: result as i32,
        slot: start.slot as u8,
        class: if start.class < CLASSES as u32 { start.class as u8 } else { Class::Other as u8 },
        reason: reason as u8,
        reserved: 0,
        process_id: start.process_id,
        run_time_ns: ran_since::<R>(&start, latency_ns),
    };
    if RECORDS.output::<SyncRecord>(&record, BPF_RB_NO_WAKEUP as u64).is_err() {
        lose(program, LossReason::RingFull);
    }
}

/// Counts bytes written to the regular file with this key and name, and returns the index of its class.
#[inline(always)]
pub fn written(program: Program, target: &Target, key: FileKey, dentry: Option<u64>, bytes: u64) -> u32 {
    let written = WRITTEN.get_ptr_mut(key);
    let known = match written {
        // SAFETY: points into the map's value; the class and its name are one word.
        Some(written) => unsafe { core::ptr::read_volatile(&raw const (*written).class) },
        None => 0,
    };
    let class = ClassOfName::from_word(known).now::<Checked>(dentry);
    if class.index() >= CLASSES as u32 {
        lose(program, LossReason::Unreadable);
    }
    if let Some(stats) = stats(target.slot, class.index()) {
        // SAFETY: points into the map's value.
        unsafe { add(&raw mut (*stats).written_bytes, bytes) };
    }
    match written {
        // SAFETY: points into the map's value.
        Some(written) => unsafe {
            if class.word() != known {
                core::ptr::write_volatile(&raw mut (*written).class, class.word());
            }
            add(&raw mut (*written).unsynced_bytes, bytes);
        },
        None => {
            let first = Written { unsynced_bytes: bytes, class: class.word() };
            if WRITTEN.insert(&key, &first, 0).is_err() {
                lose(program, LossReason::InFlightFull);
            }
        }
    }
    class.index()
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
    let inode = file::inode_of::<Checked>(start.file).unwrap_or_default();
    let name = file::name_of_file::<Checked>(start.file);
    let class = if count_bytes && result > 0 {
        written(program, target, file::key::<Checked>(inode), name, result as u64)
    } else {
        ClassOfName::NOTHING.now::<Checked>(name).index()
    };
    if count_calls && let Some(stats) = stats(target.slot, class) {
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
pub fn range_call(target: &Target, file: u64) {
    let class = ClassOfName::NOTHING.now::<Checked>(file::name_of_file::<Checked>(file)).index();
    if let Some(stats) = stats(target.slot, class) {
        // SAFETY: points into the map's value.
        unsafe { add(&raw mut (*stats).sync_file_range_calls, 1) };
    }
}
