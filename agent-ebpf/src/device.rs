//! Requests on watched disks: from the block layer's structures to records.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_cgroup_id,
};
use etcdmon_agent_ebpf::{
    failure::Failure,
    loss::{Program, Reason},
    offset::Field,
    request::{Device, FLUSH, FUA, OPERATION, Queue, REQUESTS as ENTRIES, RequestRecord},
    usage::{UsageTotals, User},
};

use crate::{
    circular, count, file,
    maps::{DEVICES, FAILURES, IN_FLIGHT, QUEUES, REQUESTS, USAGE},
    read::{add, current_task, field},
};

const NO_REPLACE: u64 = 1;
const EEXIST: i32 = -17;

/// `PF_KTHREAD` of `task_struct.flags` (include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Whether bios are charged to a hierarchy of their own (cgroup v1), where the submitter's place in the default one says
/// nothing. Written by user space before loading, constant afterwards.
#[unsafe(no_mangle)]
static SEPARATE_IO_CGROUPS: u32 = 0;

#[inline(always)]
fn has_separate_io_cgroups() -> bool {
    // SAFETY: a constant that only user space changes, before loading.
    unsafe { core::ptr::read_volatile(&raw const SEPARATE_IO_CGROUPS) != 0 }
}

/// Cgroup of the current task in the default hierarchy; 0 where that one says nothing of it.
#[inline(always)]
pub fn own_cgroup() -> u64 {
    if has_separate_io_cgroups() {
        return 0;
    }
    // SAFETY: takes nothing.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The number of the disk.
#[inline(always)]
pub fn number(disk: u64) -> Option<u32> {
    let major: u32 = field(disk, Field::DiskMajor)?;
    let minor: u32 = field(disk, Field::DiskFirstMinor)?;
    Some(major << 20 | minor)
}

/// The watched disk with this number.
#[inline(always)]
pub fn watched(number: u32) -> Option<Device> {
    // SAFETY: user space replaces elements as a whole; one that is replaced meanwhile stays valid until we return.
    unsafe { DEVICES.get(number) }.copied()
}

/// What is known of a queue, if its disk is watched. The only thing that something on another disk costs. `disk` finds the
/// disk of a queue that was never seen.
#[inline(always)]
fn known(program: Program, queue: u64, disk: impl Fn() -> Option<u64>) -> Option<*mut Queue> {
    let known = match QUEUES.get_ptr_mut(queue) {
        Some(known) => known,
        // A disk that is being made has a queue before it has a number: nothing is remembered then.
        None => meet(program, queue, number(disk()?)?)?,
    };
    // SAFETY: points into the map's value.
    if unsafe { (*known).since_ns } == 0 { None } else { Some(known) }
}

/// Finds out whether a queue that was never seen belongs to a watched disk, and remembers that.
#[inline(always)]
fn meet(program: Program, queue: u64, device: u32) -> Option<*mut Queue> {
    let since_ns = watched(device).map_or(0, |device| device.since_ns);
    let known = Queue { since_ns, flush_issued_ns: 0, device, padding: 0 };
    // Another processor may have been faster. No room for a disk that is not watched means only that this is done again.
    if QUEUES.insert(&queue, &known, NO_REPLACE).is_err_and(|error| error != EEXIST) && since_ns != 0 {
        count::lose(program, Reason::InFlightFull);
    }
    QUEUES.get_ptr_mut(queue)
}

#[inline(always)]
fn queue_of(program: Program, request: u64) -> Option<*mut Queue> {
    let queue: u64 = field(request, Field::RequestQueue)?;
    known(program, queue, || match field(queue, Field::QueueDisk) {
        Some(disk) => Some(disk),
        None => field(request, Field::RequestDisk),
    })
}

#[inline(always)]
fn queue_of_bio(program: Program, bio: u64) -> Option<*mut Queue> {
    let disk: u64 = match field(bio, Field::BioDevice) {
        Some(device) => field(device, Field::BlockDeviceDisk)?,
        None => field(bio, Field::BioDisk)?,
    };
    known(program, field(disk, Field::DiskQueue)?, || Some(disk))
}

#[inline(always)]
fn is_kernel_thread() -> bool {
    field::<u32>(current_task(), Field::TaskFlags).is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// The cgroup that a bio is charged to; 0 if unknown.
#[inline(always)]
fn charged_to(bio: u64) -> u64 {
    let walk = || {
        let group: u64 = field(bio, Field::BioGroup)?;
        let policy: u64 = field(group, Field::GroupPolicy)?;
        let cgroup: u64 = field(policy, Field::PolicyCgroup)?;
        let node: u64 = field(cgroup, Field::CgroupNode)?;
        field(node, Field::NodeId)
    };
    walk().unwrap_or_default()
}

/// The inode of the file whose page comes first in a bio; 0 for anything but a file.
#[inline(always)]
fn file_of(bio: u64) -> u64 {
    let walk = || {
        let vectors: u64 = field(bio, Field::BioVectors)?;
        let page: u64 = field(vectors, Field::VectorPage)?;
        let head: u64 = field(page, Field::PageHead)?;
        let page = if head & 1 == 1 { head - 1 } else { page };
        let mapping: u64 = field(page, Field::PageMapping)?;
        // The lowest bits tell memory that belongs to no file.
        if mapping & 3 != 0 {
            return None;
        }
        let inode: u64 = field(mapping, Field::MappingHost)?;
        file::is_regular(inode).then(|| file::number(inode))
    };
    walk().unwrap_or_default()
}

/// A request on a disk as far as its structure tells, without times and submitter.
#[inline(always)]
const fn blank(device: u32, bytes: u32, flags: u32) -> RequestRecord {
    RequestRecord {
        sequence: 0,
        queued_ns: 0,
        issued_ns: 0,
        completed_ns: 0,
        cgroup: 0,
        charged: 0,
        inode: 0,
        device,
        bytes,
        thread_id: 0,
        process_id: 0,
        error: 0,
        flags,
        comm: [0; 16],
    }
}

#[inline(always)]
fn describe(request: u64, device: u32) -> RequestRecord {
    let bytes = field(request, Field::RequestLength).unwrap_or_default();
    blank(device, bytes, field(request, Field::RequestFlags).unwrap_or_default())
}

/// Adds who submits it, which is the current task, and for whom, which the first bio tells.
#[inline(always)]
fn add_submitter(record: &mut RequestRecord, bio: u64) {
    let ids = bpf_get_current_pid_tgid();
    record.thread_id = ids as u32;
    record.process_id = (ids >> 32) as u32;
    record.comm = bpf_get_current_comm().unwrap_or_default();
    // SAFETY: takes nothing.
    record.cgroup = unsafe { bpf_get_current_cgroup_id() };
    let separate = has_separate_io_cgroups();
    let kernel_thread = is_kernel_thread();
    if !separate && !kernel_thread {
        // A task of its own accord is charged itself.
        record.charged = record.cgroup;
        return;
    }
    record.charged = charged_to(bio);
    if separate && record.charged != 0 {
        record.cgroup = record.charged;
    }
    if kernel_thread {
        record.inode = file_of(bio);
    }
}

#[inline(always)]
fn keep(program: Program, request: u64, record: &RequestRecord) {
    match IN_FLIGHT.insert(&request, record, NO_REPLACE) {
        Ok(()) => {}
        Err(EEXIST) => {
            count::lose(program, Reason::NoEnd);
            if IN_FLIGHT.insert(&request, record, 0).is_err() {
                count::lose(program, Reason::InFlightFull);
            }
        }
        Err(_) => count::lose(program, Reason::InFlightFull),
    }
}

/// Notes a request that the current task submits.
#[inline(always)]
pub fn begin(request: u64) {
    let Some(queue) = queue_of(Program::BlockStart, request) else { return };
    let queued_ns = count::now();
    // SAFETY: points into the map's value.
    let mut record = describe(request, unsafe { (*queue).device });
    record.queued_ns = queued_ns;
    add_submitter(&mut record, field(request, Field::RequestBio).unwrap_or_default());
    keep(Program::BlockStart, request, &record);
}

/// The same where the kernel only shows the bio that the request is going to be made of: the record is kept under the bio's
/// address until the request is seen.
#[inline(always)]
pub fn begin_by_bio(bio: u64) {
    let Some(queue) = queue_of_bio(Program::BlockSubmit, bio) else { return };
    let queued_ns = count::now();
    let bytes = field(bio, Field::BioLength).unwrap_or_default();
    let flags = field(bio, Field::BioFlags).unwrap_or_default();
    // SAFETY: points into the map's value.
    let mut record = blank(unsafe { (*queue).device }, bytes, flags);
    record.queued_ns = queued_ns;
    add_submitter(&mut record, bio);
    keep(Program::BlockSubmit, bio, &record);
}

/// Takes what was kept under the address of the bio that a request was made of. Others may have joined it since, before
/// or after that one.
#[inline(always)]
fn take_by_bio(request: u64) -> Option<RequestRecord> {
    let first: u64 = field(request, Field::RequestBio)?;
    if first == 0 {
        return None;
    }
    take(first).or_else(|| take(field(request, Field::RequestTail)?))
}

#[inline(always)]
fn take(bio: u64) -> Option<RequestRecord> {
    // SAFETY: only the events of this bio's request touch the element, one after the other.
    let record = unsafe { IN_FLIGHT.get(bio) }.copied()?;
    let _ = IN_FLIGHT.remove(bio);
    Some(record)
}

/// Notes that a request goes to the driver. One that was not seen to begin is the flush machinery's own, or this kernel
/// does not show begins: its submitter is not known.
#[inline(always)]
pub fn issue(request: u64) {
    let Some(queue) = queue_of(Program::BlockIssue, request) else { return };
    let issued_ns = count::now();
    if let Some(record) = IN_FLIGHT.get_ptr_mut(request) {
        let bytes = field(request, Field::RequestLength);
        // SAFETY: points into the map's value, which only this request's events touch, one after the other.
        unsafe {
            // The machinery has one request of its own for all flushes of a queue. Begun anew, its last end was not seen.
            if is_machinerys_own(&*record) {
                let start_ns = field(request, Field::RequestStart).unwrap_or_default();
                if (*record).queued_ns != start_ns {
                    count::lose(Program::BlockIssue, Reason::NoEnd);
                    (*record).queued_ns = start_ns;
                }
            }
            (*record).issued_ns = issued_ns;
            if let Some(bytes) = bytes {
                (*record).bytes = bytes;
            }
        }
        return;
    }
    // SAFETY: points into the map's value.
    let seen = describe(request, unsafe { (*queue).device });
    let mut record = match take_by_bio(request) {
        Some(mut begun) => {
            begun.bytes = seen.bytes;
            begun
        }
        None => {
            let mut unseen = seen;
            unseen.queued_ns = field(request, Field::RequestStart).unwrap_or_default();
            unseen.charged = charged_to(field(request, Field::RequestBio).unwrap_or_default());
            unseen
        }
    };
    record.issued_ns = issued_ns;
    keep(Program::BlockIssue, request, &record);
}

/// Forgets a request that became part of another one.
#[inline(always)]
pub fn merge(request: u64) {
    if queue_of(Program::BlockMerge, request).is_some() && IN_FLIGHT.remove(request).is_err() {
        take_by_bio(request);
    }
}

/// Hands over a request that completes, if this is its last completion.
#[inline(always)]
pub fn complete<const EXACT: bool>(request: u64, error: i32, done_bytes: u32) {
    let Some(queue) = queue_of(Program::BlockComplete, request) else { return };
    let completed_ns = count::now();
    // SAFETY: only this request's events touch the element, one after the other.
    let kept = unsafe { IN_FLIGHT.get(request) }.copied();
    // One that never went to the driver, such as a flush without data, may only be known by its bio.
    let Some(mut record) = kept.or_else(|| take_by_bio(request)) else {
        // SAFETY: points into the map's value.
        let since_ns = unsafe { (*queue).since_ns };
        if field::<u64>(request, Field::RequestStart).is_some_and(|start_ns| start_ns >= since_ns) {
            count::lose(Program::BlockComplete, Reason::NoBegin);
        }
        return;
    };
    if !is_last(request, record.flags, done_bytes) {
        return;
    }
    record.completed_ns = completed_ns;
    record.error = error;
    if error != 0 {
        fail(&record);
    }
    // SAFETY: points into the map's value. One word; the last of concurrent flushes is as good as any.
    let last_flush_ns = unsafe { &raw mut (*queue).flush_issued_ns };
    let machinerys_own = is_machinerys_own(&record);
    if machinerys_own {
        // SAFETY: as above.
        unsafe { *last_flush_ns = record.issued_ns };
    } else if record.issued_ns == 0 {
        // A flush without data never goes to the driver: the machinery's own does, and that has just completed.
        // SAFETY: as above.
        let issued_ns = unsafe { *last_flush_ns };
        if issued_ns >= record.queued_ns {
            record.issued_ns = issued_ns;
        }
    }
    circular::append::<EXACT, _>(
        &REQUESTS,
        ENTRIES,
        // SAFETY: points into the map's value.
        |heads| unsafe { &raw mut (*heads).requests },
        &mut record,
    );
    // What the machinery does by itself is counted with those for whom it does it.
    if !machinerys_own {
        use_up(&record);
    }
    let _ = IN_FLIGHT.remove(request);
}

/// Whether the flush machinery made it.
#[inline(always)]
const fn is_machinerys_own(record: &RequestRecord) -> bool {
    record.flags & OPERATION == FLUSH && record.thread_id == 0
}

/// Whether a request will not complete once more.
#[inline(always)]
fn is_last(request: u64, flags: u32, done_bytes: u32) -> bool {
    if field::<u32>(request, Field::RequestLength).is_some_and(|left| left > done_bytes) {
        return false;
    }
    // What has to be flushed before or after completes again when the flush machinery, which holds it, gives it back. The
    // machinery's own request is always held.
    flags & FUA == 0
        || flags & OPERATION == FLUSH
        || field::<u64>(request, Field::RequestEndIo).is_none_or(|end| end == 0)
}

/// Counts a request that ended with an error. What a person or a tool sends to a disk beside reads and writes may fail as
/// it likes.
#[inline(always)]
fn fail(record: &RequestRecord) {
    if record.flags & OPERATION > FLUSH {
        return;
    }
    let failure = Failure { device: record.device, error: record.error };
    // Another processor may have been faster than the insertion.
    if FAILURES.get_ptr_mut(failure).is_none() {
        let _there_by_now = FAILURES.insert(&failure, &0_u64, NO_REPLACE);
    }
    match FAILURES.get_ptr_mut(failure) {
        // SAFETY: points into the map's value.
        Some(count) => unsafe { add(count, 1) },
        None => count::lose(Program::BlockComplete, Reason::InFlightFull),
    }
}

/// Adds to its user's totals.
#[inline(always)]
fn use_up(record: &RequestRecord) {
    let cgroup = if record.charged != 0 { record.charged } else { record.cgroup };
    let user = User { device: record.device, process_id: record.process_id, cgroup };
    let issued_ns = if record.issued_ns == 0 { record.completed_ns } else { record.issued_ns };
    let queue_ns = issued_ns.saturating_sub(record.queued_ns);
    let device_ns = record.completed_ns.saturating_sub(issued_ns);
    let flushes = if record.bytes == 0 { 1 } else { 0 };
    let bytes = record.bytes as u64;
    let Some(totals) = USAGE.get_ptr_mut(user) else {
        let first = UsageTotals { requests: 1, bytes, flushes, queue_ns, device_ns, comm: record.comm };
        if USAGE.insert(&user, &first, NO_REPLACE).is_err() {
            count::lose(Program::BlockComplete, Reason::InFlightFull);
        }
        return;
    };
    // SAFETY: points into the map's value.
    unsafe {
        add(&raw mut (*totals).requests, 1);
        add(&raw mut (*totals).bytes, bytes);
        add(&raw mut (*totals).flushes, flushes);
        add(&raw mut (*totals).queue_ns, queue_ns);
        add(&raw mut (*totals).device_ns, device_ns);
    }
}
