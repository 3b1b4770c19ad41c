//! jbd2's tracepoints (include/trace/events/jbd2.h, 5.8 to 6.18), by name so that jbd2 may be a module. Those of commits have
//! `(journal_t *, transaction_t *)` and run in the journal's own thread; that of handles runs in whoever changes something.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use etcdmon_agent_ebpf::{
    commit::{COMMITS as ENTRIES, CommitRecord},
    loss::{Program, Reason},
    metadata::{MetadataTotals, MetadataUser},
    offset::Field,
};

use crate::{
    circular, count, device,
    maps::{COMMITS, COMMITTING, JOURNALS, METADATA},
    read::{Checked, Read as _, add},
};

const NO_REPLACE: u64 = 1;

/// `jbd2_start_commit`.
#[raw_tracepoint(tracepoint = "jbd2_start_commit")]
pub fn journal_start(context: RawTracePointContext) -> i32 {
    let _ = try_start(context.arg(0), context.arg(1));
    0
}

#[inline(always)]
fn try_start(journal: u64, transaction: u64) -> Option<()> {
    let start_ns = count::now();
    let block_device: u64 = Checked::field(journal, Field::JournalDevice)?;
    let disk: u64 = Checked::field(block_device, Field::BlockDeviceDisk)?;
    let device = device::number::<Checked>(disk)?;
    device::watched(device)?;
    let record = CommitRecord {
        sequence: 0,
        start_ns,
        locking_ns: 0,
        flushing_ns: 0,
        logging_ns: 0,
        end_ns: 0,
        device,
        transaction: Checked::field(transaction, Field::TransactionNumber).unwrap_or_default(),
    };
    if COMMITTING.insert(&journal, &record, NO_REPLACE).is_err() {
        // One that was left by a journal that is gone makes room.
        count::lose(Program::JournalStart, Reason::NoEnd);
        if COMMITTING.insert(&journal, &record, 0).is_err() {
            count::lose(Program::JournalStart, Reason::InFlightFull);
        }
    }
    Some(())
}

/// Notes when the commit of a journal came to a phase.
#[inline(always)]
fn note(journal: u64, time: impl Fn(*mut CommitRecord) -> *mut u64) {
    if let Some(record) = COMMITTING.get_ptr_mut(journal) {
        // SAFETY: points into the map's value, which only this journal's one thread touches.
        unsafe { *time(record) = count::now() };
    }
}

/// `jbd2_commit_locking`.
#[raw_tracepoint(tracepoint = "jbd2_commit_locking")]
pub fn journal_locking(context: RawTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note(context.arg(0), |record| unsafe { &raw mut (*record).locking_ns });
    0
}

/// `jbd2_commit_flushing`.
#[raw_tracepoint(tracepoint = "jbd2_commit_flushing")]
pub fn journal_flushing(context: RawTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note(context.arg(0), |record| unsafe { &raw mut (*record).flushing_ns });
    0
}

/// `jbd2_commit_logging`.
#[raw_tracepoint(tracepoint = "jbd2_commit_logging")]
pub fn journal_logging(context: RawTracePointContext) -> i32 {
    // SAFETY: points into the map's value.
    note(context.arg(0), |record| unsafe { &raw mut (*record).logging_ns });
    0
}

/// `jbd2_end_commit`.
#[raw_tracepoint(tracepoint = "jbd2_end_commit")]
pub fn journal_end(context: RawTracePointContext) -> i32 {
    end::<true>(context.arg(0));
    0
}

/// The same for kernels before 5.12.
#[raw_tracepoint(tracepoint = "jbd2_end_commit")]
pub fn journal_end_inexact(context: RawTracePointContext) -> i32 {
    end::<false>(context.arg(0));
    0
}

/// A commit whose begin was not seen is of another disk, or was under way when the program was attached.
#[inline(always)]
fn end<const EXACT: bool>(journal: u64) {
    let Some(kept) = COMMITTING.get_ptr_mut(journal) else { return };
    // SAFETY: points into the map's value, which only this journal's one thread touches.
    let mut record = unsafe { *kept };
    record.end_ns = count::now();
    circular::append::<EXACT, _>(
        &COMMITS,
        ENTRIES,
        // SAFETY: points into the map's value.
        |heads| unsafe { &raw mut (*heads).commits },
        &mut record,
    );
    let _ = COMMITTING.remove(journal);
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
