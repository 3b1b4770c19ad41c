//! Requests on watched disks: from the block layer's structures to records.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_get_current_cgroup_id,
};
use etcdmon_agent_ebpf::{
    failure::Failure,
    loss::{Program, Reason},
    offset::Field,
    page::first_of_folio,
    place::Place,
    request::{Device, FLUSH, FUA, OPERATION, Queue, REQUESTS as ENTRIES, RequestRecord},
};

use crate::{
    circular, count, file,
    maps::{DEVICES, FAILURES, IN_FLIGHT, QUEUES, REQUEST_PLACES, REQUESTS},
    read::{Checked, Read, add},
    under_way::{self, Put},
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
pub fn number<R: Read>(disk: u64) -> Option<u32> {
    let major: u32 = R::field(disk, Field::DiskMajor)?;
    let minor: u32 = R::field(disk, Field::DiskFirstMinor)?;
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
fn known<R: Read>(program: Program, queue: u64, disk: impl Fn() -> Option<u64>) -> Option<*mut Queue> {
    let known = match QUEUES.get_ptr_mut(queue) {
        Some(known) => known,
        // A disk that is being made has a queue before it has a number: nothing is remembered then.
        None => meet(program, queue, number::<R>(disk()?)?)?,
    };
    // SAFETY: points into the map's value.
    if unsafe { (*known).since_ns } == 0 { None } else { Some(known) }
}

/// Finds out whether a queue that was never seen belongs to a watched disk, and remembers that.
#[inline(always)]
fn meet(program: Program, queue: u64, device: u32) -> Option<*mut Queue> {
    let since_ns = watched(device).map_or(0, |device| device.since_ns);
    let known = Queue { since_ns, flush_issued_ns: 0, device, padding: 0 };
    // Another processor may have been faster.
    let _ = QUEUES.insert(&queue, &known, NO_REPLACE);
    let known = QUEUES.get_ptr_mut(queue);
    // There was no room, or user space has just emptied it. For a disk that is not watched this is only done again.
    if known.is_none() && since_ns != 0 {
        count::lose(program, Reason::InFlightFull);
    }
    known
}

#[inline(always)]
fn queue_of<R: Read>(program: Program, request: u64) -> Option<*mut Queue> {
    let queue: u64 = R::field(request, Field::RequestQueue)?;
    known::<R>(program, queue, || match R::field(queue, Field::QueueDisk) {
        Some(disk) => Some(disk),
        None => R::field(request, Field::RequestDisk),
    })
}

#[inline(always)]
fn queue_of_bio<R: Read>(program: Program, bio: u64) -> Option<*mut Queue> {
    let disk: u64 = match R::field(bio, Field::BioDevice) {
        Some(device) => R::field(device, Field::BlockDeviceDisk)?,
        None => R::field(bio, Field::BioDisk)?,
    };
    known::<R>(program, R::field(disk, Field::DiskQueue)?, || Some(disk))
}

#[inline(always)]
fn is_kernel_thread<R: Read>() -> bool {
    R::field::<u32>(R::current_task(), Field::TaskFlags).is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// The cgroup that a bio is charged to; 0 if unknown.
#[inline(always)]
fn charged_to<R: Read>(bio: u64) -> u64 {
    let walk = || {
        let group: u64 = R::field(bio, Field::BioGroup)?;
        let policy: u64 = R::field(group, Field::GroupPolicy)?;
        let cgroup: u64 = R::field(policy, Field::PolicyCgroup)?;
        let node: u64 = R::field(cgroup, Field::CgroupNode)?;
        R::field(node, Field::NodeId)
    };
    walk().unwrap_or_default()
}

/// The inode of the file whose page comes first in a bio; 0 for anything but a file. A page is of many types, and there are
/// flags in addresses: only for the checked way to read.
#[inline(always)]
fn file_of(bio: u64) -> u64 {
    let walk = || {
        let vectors: u64 = Checked::field(bio, Field::BioVectors)?;
        let page: u64 = Checked::field(vectors, Field::VectorPage)?;
        let first = first_of_folio(page, Checked::field(page, Field::PageHead)?);
        let mapping: u64 = Checked::field(first, Field::PageMapping)?;
        // The lowest bits tell memory that belongs to no file.
        if mapping & 3 != 0 {
            return None;
        }
        let inode: u64 = Checked::field(mapping, Field::MappingHost)?;
        file::is_regular(inode).then(|| file::number::<Checked>(inode))
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
fn describe<R: Read>(request: u64, device: u32) -> RequestRecord {
    let bytes = R::field(request, Field::RequestLength).unwrap_or_default();
    blank(device, bytes, R::field(request, Field::RequestFlags).unwrap_or_default())
}

/// Adds who submits it, which is the current task, and for whom, which the first bio tells.
#[inline(always)]
fn add_submitter<R: Read>(record: &mut RequestRecord, bio: u64) {
    let ids = bpf_get_current_pid_tgid();
    record.thread_id = ids as u32;
    record.process_id = (ids >> 32) as u32;
    record.comm = bpf_get_current_comm().unwrap_or_default();
    // SAFETY: takes nothing.
    record.cgroup = unsafe { bpf_get_current_cgroup_id() };
    let separate = has_separate_io_cgroups();
    let kernel_thread = is_kernel_thread::<R>();
    if !separate && !kernel_thread {
        // A task of its own accord is charged itself.
        record.charged = record.cgroup;
        return;
    }
    record.charged = charged_to::<R>(bio);
    if separate && record.charged != 0 {
        record.cgroup = record.charged;
    }
    // An empty flush has no page.
    if kernel_thread && record.bytes != 0 {
        record.inode = file_of(bio);
    }
}

/// The place of a request that is under way, if it has one. Only watched disks' requests do.
#[inline(always)]
fn place<R: Read>(request: u64) -> Option<*mut Place<RequestRecord>> {
    if R::USES_PLACES {
        under_way::find(&REQUEST_PLACES, under_way::place_of::<R>(request), request)
    } else {
        None
    }
}

#[inline(always)]
fn keep<R: Read>(program: Program, request: u64, record: &RequestRecord) {
    if R::USES_PLACES {
        match under_way::put(&REQUEST_PLACES, under_way::place_of::<R>(request), request, record) {
            Put::New => return,
            Put::Again => return count::lose(program, Reason::NoEnd),
            Put::Taken => {}
        }
    }
    keep_in_hash(program, request, record);
}

#[inline(always)]
fn keep_in_hash(program: Program, address: u64, record: &RequestRecord) {
    match IN_FLIGHT.insert(&address, record, NO_REPLACE) {
        Ok(()) => {}
        Err(EEXIST) => {
            count::lose(program, Reason::NoEnd);
            if IN_FLIGHT.insert(&address, record, 0).is_err() {
                count::lose(program, Reason::InFlightFull);
            }
        }
        Err(_) => count::lose(program, Reason::InFlightFull),
    }
}

/// Notes a request that the current task submits.
#[inline(always)]
pub fn begin<R: Read>(request: u64) {
    let Some(queue) = queue_of::<R>(Program::BlockStart, request) else { return };
    let queued_ns = count::now();
    // SAFETY: points into the map's value.
    let mut record = describe::<R>(request, unsafe { (*queue).device });
    record.queued_ns = queued_ns;
    add_submitter::<R>(&mut record, R::field(request, Field::RequestBio).unwrap_or_default());
    keep::<R>(Program::BlockStart, request, &record);
}

/// The same where the kernel only shows the bio that the request is going to be made of: the record is kept under the bio's
/// address until the request is seen.
#[inline(always)]
pub fn begin_by_bio<R: Read>(bio: u64) {
    let Some(queue) = queue_of_bio::<R>(Program::BlockSubmit, bio) else { return };
    let queued_ns = count::now();
    let bytes = R::field(bio, Field::BioLength).unwrap_or_default();
    let flags = R::field(bio, Field::BioFlags).unwrap_or_default();
    // SAFETY: points into the map's value.
    let mut record = blank(unsafe { (*queue).device }, bytes, flags);
    record.queued_ns = queued_ns;
    add_submitter::<R>(&mut record, bio);
    keep_in_hash(Program::BlockSubmit, bio, &record);
}

/// What is kept under the address of the bio that a request was made of, with that address. Others may have joined it since,
/// before or after that one.
#[inline(always)]
fn kept_by_bio<R: Read>(request: u64) -> Option<(u64, *mut RequestRecord)> {
    let kept = |bio| Some((bio, IN_FLIGHT.get_ptr_mut(bio)?));
    let first: u64 = R::field(request, Field::RequestBio)?;
    if first == 0 {
        return None;
    }
    kept(first).or_else(|| kept(R::field(request, Field::RequestTail)?))
}

/// Takes it.
#[inline(always)]
fn take_by_bio<R: Read>(request: u64) -> Option<RequestRecord> {
    let (bio, record) = kept_by_bio::<R>(request)?;
    // SAFETY: points into the map's value, which only the events of this bio's request touch, one after the other.
    let record = unsafe { *record };
    let _ = IN_FLIGHT.remove(bio);
    Some(record)
}

/// Notes that a request goes to the driver. One that was not seen to begin is the flush machinery's own, or this kernel
/// does not show begins: its submitter is not known.
#[inline(always)]
pub fn issue<R: Read>(request: u64) {
    if let Some(place) = place::<R>(request) {
        // SAFETY: points into the map's value.
        return issue_known::<R>(request, unsafe { &raw mut (*place).value });
    }
    let Some(queue) = queue_of::<R>(Program::BlockIssue, request) else { return };
    if let Some(record) = IN_FLIGHT.get_ptr_mut(request) {
        return issue_known::<R>(request, record);
    }
    let issued_ns = count::now();
    // A way for each: 5.10 refuses to read what only some ways have filled.
    let Some((bio, begun)) = kept_by_bio::<R>(request) else {
        // SAFETY: points into the map's value.
        let mut unseen = describe::<R>(request, unsafe { (*queue).device });
        unseen.queued_ns = R::field(request, Field::RequestStart).unwrap_or_default();
        unseen.charged = charged_to::<R>(R::field(request, Field::RequestBio).unwrap_or_default());
        unseen.issued_ns = issued_ns;
        return keep::<R>(Program::BlockIssue, request, &unseen);
    };
    // SAFETY: points into the map's value, which only the events of this bio's request touch, one after the other.
    let mut begun = unsafe { *begun };
    begun.bytes = R::field(request, Field::RequestLength).unwrap_or_default();
    begun.issued_ns = issued_ns;
    keep::<R>(Program::BlockIssue, request, &begun);
    let _ = IN_FLIGHT.remove(bio);
}

/// The same for one that was seen before.
#[inline(always)]
fn issue_known<R: Read>(request: u64, record: *mut RequestRecord) {
    // SAFETY: points into a map's value, which only this request's events touch, one after the other.
    unsafe {
        // The machinery has one request of its own for all flushes of a queue. Begun anew, its last end was not seen.
        if is_machinerys_own(&*record) {
            let start_ns = R::field(request, Field::RequestStart).unwrap_or_default();
            if (*record).queued_ns != start_ns {
                count::lose(Program::BlockIssue, Reason::NoEnd);
                (*record).queued_ns = start_ns;
            }
        }
        (*record).issued_ns = count::now();
        // Not an option that lives on: 5.10 refuses to read what only some ways have filled.
        (*record).bytes = R::field(request, Field::RequestLength).unwrap_or((*record).bytes);
    }
}

/// Forgets a request that became part of another one.
#[inline(always)]
pub fn merge<R: Read>(request: u64) {
    if let Some(place) = place::<R>(request) {
        // SAFETY: it was found by this request's address.
        unsafe { under_way::give_back(place) };
    } else if queue_of::<R>(Program::BlockMerge, request).is_some() && IN_FLIGHT.remove(request).is_err() {
        take_by_bio::<R>(request);
    }
}

/// Hands over a request that completes, if this is its last completion.
#[inline(always)]
pub fn complete<const EXACT: bool, R: Read>(request: u64, error: i32, done_bytes: u32) {
    if let Some(place) = place::<R>(request) {
        // SAFETY: points into the map's value, which only this request's events touch, one after the other.
        let record = unsafe { (*place).value };
        if hand_over::<EXACT, R>(request, record, error, done_bytes) {
            // SAFETY: it was found by this request's address.
            unsafe { under_way::give_back(place) };
        }
        return;
    }
    let Some(queue) = queue_of::<R>(Program::BlockComplete, request) else { return };
    // SAFETY: only this request's events touch the element, one after the other.
    let kept = unsafe { IN_FLIGHT.get(request) }.copied();
    // One that never went to the driver, such as a flush without data, may only be known by its bio.
    let Some(record) = kept.or_else(|| take_by_bio::<R>(request)) else {
        // SAFETY: points into the map's value.
        let since_ns = unsafe { (*queue).since_ns };
        if R::field::<u64>(request, Field::RequestStart).is_some_and(|start_ns| start_ns >= since_ns) {
            count::lose(Program::BlockComplete, Reason::NoBegin);
        }
        return;
    };
    if hand_over::<EXACT, R>(request, record, error, done_bytes) {
        let _ = IN_FLIGHT.remove(request);
    }
}

/// Appends the record of a request to the circular array, and says so, unless it will complete once more.
#[inline(always)]
fn hand_over<const EXACT: bool, R: Read>(
    request: u64,
    mut record: RequestRecord,
    error: i32,
    done_bytes: u32,
) -> bool {
    if !is_last::<R>(request, record.flags, done_bytes) {
        return false;
    }
    record.completed_ns = count::now();
    record.error = error;
    if error != 0 {
        fail(&record);
    }
    note_flush::<R>(request, &mut record);
    circular::append::<EXACT, _>(
        &REQUESTS,
        ENTRIES,
        // SAFETY: points into the map's value.
        |heads| unsafe { &raw mut (*heads).requests },
        &mut record,
    );
    true
}

/// A flush without data never goes to the driver: the machinery's own does, which has completed just before.
#[inline(always)]
fn note_flush<R: Read>(request: u64, record: &mut RequestRecord) {
    let machinerys_own = is_machinerys_own(record);
    if !machinerys_own && record.issued_ns != 0 {
        return;
    }
    let Some(queue) = queue_of::<R>(Program::BlockComplete, request) else { return };
    // SAFETY: points into the map's value. One word; the last of concurrent flushes is as good as any.
    unsafe {
        let last_flush_ns = &raw mut (*queue).flush_issued_ns;
        if machinerys_own {
            *last_flush_ns = record.issued_ns;
        } else if *last_flush_ns >= record.queued_ns {
            record.issued_ns = *last_flush_ns;
        }
    }
}

/// Whether the flush machinery made it.
#[inline(always)]
const fn is_machinerys_own(record: &RequestRecord) -> bool {
    record.flags & OPERATION == FLUSH && record.thread_id == 0
}

/// Whether a request will not complete once more.
#[inline(always)]
fn is_last<R: Read>(request: u64, flags: u32, done_bytes: u32) -> bool {
    if R::field::<u32>(request, Field::RequestLength).is_some_and(|left| left > done_bytes) {
        return false;
    }
    // What has to be flushed before or after completes again when the flush machinery, which holds it, gives it back. The
    // machinery's own request is always held.
    flags & FUA == 0
        || flags & OPERATION == FLUSH
        || R::field::<u64>(request, Field::RequestEndIo).is_none_or(|end| end == 0)
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
