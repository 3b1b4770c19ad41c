//! jbd2's tracepoints (include/trace/events/jbd2.h, 5.8 to 7.3): typed where jbd2 is in the kernel itself, and by name as it may
//! be a module. Those of commits have
//! `(journal_t *, transaction_t *)` and run in the journal's own thread; that of handles runs in whoever changes something.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use etcdmon_agent_ebpf::{
    commit::{COMMITS as ENTRIES, CommitRecord},
    loss::{Program, Reason},
    metadata::{MetadataTotals, MetadataUser},
    offset::Field,
    place::Place,
};

use crate::{
    circular, count, device,
    maps::{COMMIT_PLACES, COMMITS, COMMITTING, JOURNALS, METADATA},
    read::{Checked, Read, Typed, add},
    under_way::{self, Put},
};

const NO_REPLACE: u64 = 1;

/// `jbd2_start_commit`.
#[btf_tracepoint(function = "jbd2_start_commit")]
pub fn journal_start_typed(context: BtfTracePointContext) -> i32 {
    let _ = try_start::<Typed>(context.arg(0), context.arg(1));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "jbd2_start_commit")]
pub fn journal_start(context: RawTracePointContext) -> i32 {
    let _ = try_start::<Checked>(context.arg(0), context.arg(1));
    0
}

#[inline(always)]
fn try_start<R: Read>(journal: u64, transaction: u64) -> Option<()> {
    let start_ns = count::now();
    let block_device: u64 = R::field(journal, Field::JournalDevice)?;
    let disk: u64 = R::field(block_device, Field::BlockDeviceDisk)?;
    let device = device::number::<R>(disk)?;
    device::watched(device)?;
    let record = CommitRecord {
        sequence: 0,
        start_ns,
        locking_ns: 0,
        flushing_ns: 0,
        logging_ns: 0,
        end_ns: 0,
        device,
        transaction: R::field(transaction, Field::TransactionNumber).unwrap_or_default(),
    };
    if R::USES_PLACES {
        match under_way::put(&COMMIT_PLACES, under_way::place_of::<R>(journal), journal, &record) {
            Put::New => return Some(()),
            Put::Again => {
                // One that was left by a journal that is gone makes room.
                count::lose(Program::JournalStart, Reason::NoEnd);
                return Some(());
            }
            Put::Taken => {}
        }
    }
    if COMMITTING.insert(&journal, &record, NO_REPLACE).is_err() {
        count::lose(Program::JournalStart, Reason::NoEnd);
        if COMMITTING.insert(&journal, &record, 0).is_err() {
            count::lose(Program::JournalStart, Reason::InFlightFull);
        }
    }
    Some(())
}

/// The place of a commit that is under way, if it has one.
#[inline(always)]
fn place<R: Read>(journal: u64) -> Option<*mut Place<CommitRecord>> {
    if !R::USES_PLACES {
        return None;
    }
    under_way::find(&COMMIT_PLACES, under_way::place_of::<R>(journal), journal)
}

/// Notes when the commit of a journal came to a phase.
#[inline(always)]
fn note<R: Read>(journal: u64, time: impl Fn(*mut CommitRecord) -> *mut u64) -> i32 {
    let record = match place::<R>(journal) {
        // SAFETY: points into the map's value.
        Some(place) => Some(unsafe { &raw mut (*place).value }),
        None => COMMITTING.get_ptr_mut(journal),
    };
    if let Some(record) = record {
        // SAFETY: points into the map's value, which only this journal's one thread touches.
        unsafe { *time(record) = count::now() };
    }
    0
}

/// `jbd2_commit_locking`.
#[btf_tracepoint(function = "jbd2_commit_locking")]
pub fn journal_locking_typed(context: BtfTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note::<Typed>(context.arg(0), |record| unsafe { &raw mut (*record).locking_ns })
}

/// The same by name.
#[raw_tracepoint(tracepoint = "jbd2_commit_locking")]
pub fn journal_locking(context: RawTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note::<Checked>(context.arg(0), |record| unsafe { &raw mut (*record).locking_ns })
}

/// `jbd2_commit_flushing`.
#[btf_tracepoint(function = "jbd2_commit_flushing")]
pub fn journal_flushing_typed(context: BtfTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note::<Typed>(context.arg(0), |record| unsafe { &raw mut (*record).flushing_ns })
}

/// The same by name.
#[raw_tracepoint(tracepoint = "jbd2_commit_flushing")]
pub fn journal_flushing(context: RawTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note::<Checked>(context.arg(0), |record| unsafe { &raw mut (*record).flushing_ns })
}

/// `jbd2_commit_logging`.
#[btf_tracepoint(function = "jbd2_commit_logging")]
pub fn journal_logging_typed(context: BtfTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note::<Typed>(context.arg(0), |record| unsafe { &raw mut (*record).logging_ns })
}

/// The same by name.
#[raw_tracepoint(tracepoint = "jbd2_commit_logging")]
pub fn journal_logging(context: RawTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note::<Checked>(context.arg(0), |record| unsafe { &raw mut (*record).logging_ns })
}

/// `jbd2_end_commit`.
#[btf_tracepoint(function = "jbd2_end_commit")]
pub fn journal_end_typed(context: BtfTracePointContext) -> i32 {
    end::<true, Typed>(context.arg(0));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "jbd2_end_commit")]
pub fn journal_end(context: RawTracePointContext) -> i32 {
    end::<true, Checked>(context.arg(0));
    0
}

/// The same for kernels before 5.12.
#[raw_tracepoint(tracepoint = "jbd2_end_commit")]
pub fn journal_end_inexact(context: RawTracePointContext) -> i32 {
    end::<false, Checked>(context.arg(0));
    0
}

/// A commit whose begin was not seen is of another disk, or was under way when the program was attached.
#[inline(always)]
fn end<const EXACT: bool, R: Read>(journal: u64) {
    if let Some(place) = place::<R>(journal) {
        // SAFETY: points into the map's value, which only this journal's one thread touches; found by its address.
        unsafe {
            hand_over::<EXACT>((*place).value);
            under_way::give_back(place);
        }
        return;
    }
    let Some(kept) = COMMITTING.get_ptr_mut(journal) else { return };
    // SAFETY: as above.
    hand_over::<EXACT>(unsafe { *kept });
    let _ = COMMITTING.remove(journal);
}

#[inline(always)]
fn hand_over<const EXACT: bool>(mut record: CommitRecord) {
    record.end_ns = count::now();
    circular::append::<EXACT, _>(
        &COMMITS,
        ENTRIES,
        // SAFETY: points into the map's value.
        |heads| unsafe { &raw mut (*heads).commits },
        &mut record,
    );
}

/// `jbd2_handle_stats(dev_t, tid_t, unsigned type, unsigned line, int interval, int sync, int requested, int dirtied)`, at the
/// end of each handle of any journal: only attached while somebody asks for it.
#[raw_tracepoint(tracepoint = "jbd2_handle_stats")]
pub fn journal_handle(context: RawTracePointContext) -> i32 {
    let filesystem: u32 = context.arg(0);
    // SAFETY: nothing of the element is read.
    if unsafe { JOURNALS.get(filesystem) }.is_some() {
        use_up(filesystem, context.arg(6), context.arg(7));
    }
    0
}

/// Adds to the totals of the current process.
#[inline(always)]
fn use_up(filesystem: u32, requested: i32, dirtied: i32) {
    let process_id = (bpf_get_current_pid_tgid() >> 32) as u32;
    let user = MetadataUser { filesystem, process_id, cgroup: device::own_cgroup() };
    // A handle that gave blocks back counts for none.
    let requested_blocks = if requested > 0 { requested as u64 } else { 0 };
    let dirtied_blocks = if dirtied > 0 { dirtied as u64 } else { 0 };
    let Some(totals) = METADATA.get_ptr_mut(user) else {
        let comm = bpf_get_current_comm().unwrap_or_default();
        let first = MetadataTotals { handles: 1, dirtied_blocks, requested_blocks, comm };
        if METADATA.insert(&user, &first, NO_REPLACE).is_err() {
            count::lose(Program::JournalHandle, Reason::InFlightFull);
        }
        return;
    };
    // SAFETY: points into the map's value.
    unsafe {
        add(&raw mut (*totals).handles, 1);
        add(&raw mut (*totals).dirtied_blocks, dirtied_blocks);
        add(&raw mut (*totals).requested_blocks, requested_blocks);
    }
}
