//! What the kernel side missed, by program and reason.

use etcdmon_agent_ebpf::loss::{PROGRAMS, Program, REASONS, Reason};

use super::{mapped::Mapped, programs::ProgramRuns};

/// What is lost when something is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// A sync is in no histogram.
    Sync,
    /// A sync is counted, but its record is lost.
    SyncRecord,
    /// Written bytes or a write call are not counted.
    Write,
    /// Counted, but as class `other`.
    Class,
    /// Nothing is known of a request on a watched disk.
    Request,
    /// Nothing is known of a commit of a journal on a watched disk.
    Commit,
    /// Nothing is known of a signal to a watched process.
    Signal,
    /// A change of metadata is counted for nobody.
    Metadata,
    /// A sync that the next begin of its thread tells as well, as one whose end was not seen.
    Twice,
}

/// A count of what was missed, since the programs were loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossCount {
    /// Name of the program.
    pub program: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// What is lost.
    pub lost: Lost,
    /// How many.
    pub count: u64,
}

/// Words of the kernel's table.
pub(super) const LOSS_WORDS: usize = PROGRAMS * REASONS;

const fn lost(program: Program, reason: Reason) -> Lost {
    match (program, reason) {
        (_, Reason::RingFull) => Lost::SyncRecord,
        (
            Program::SyncExitFilesystem | Program::SyncExitSyscall | Program::WriteEndFilesystem,
            Reason::Unreadable,
        ) => Lost::Class,
        (
            Program::SyncEnterFilesystem
            | Program::SyncExitFilesystem
            | Program::SyncEnterSyscall
            | Program::SyncExitSyscall,
            _,
        ) => Lost::Sync,
        (
            Program::BlockStart
            | Program::BlockSubmit
            | Program::BlockIssue
            | Program::BlockComplete
            | Program::BlockMerge,
            _,
        ) => Lost::Request,
        (
            Program::JournalStart
            | Program::JournalLocking
            | Program::JournalFlushing
            | Program::JournalLogging
            | Program::JournalEnd,
            _,
        ) => Lost::Commit,
        (Program::SignalGenerate, _) => Lost::Signal,
        (Program::JournalHandle, _) => Lost::Metadata,
        (
            Program::WriteEndFilesystem
            | Program::WriteEnterSyscall
            | Program::WriteExitSyscall
            | Program::RangeEnterSyscall
            | Program::CallEnterSlot
            | Program::CallExitSlot,
            _,
        ) => Lost::Write,
    }
}

/// What is lost when a program does not run: somebody's event, as if its begin had been missed.
const fn lost_run(program: Program) -> Lost {
    match program {
        Program::SyncExitFilesystem | Program::SyncExitSyscall => Lost::Twice,
        program => lost(program, Reason::NoBegin),
    }
}

/// Every count that is not zero. `given_up` are the requests whose end user space gave up waiting for.
pub(super) fn losses(table: &Mapped, runs: &[ProgramRuns], given_up: u64) -> Vec<LossCount> {
    let mut all = counts(|index| table.word(index), runs);
    if given_up > 0 {
        let program = Program::BlockComplete.name();
        all.push(LossCount { program, reason: "given_up", lost: Lost::Request, count: given_up });
    }
    all
}

fn counts(word: impl Fn(usize) -> u64, runs: &[ProgramRuns]) -> Vec<LossCount> {
    let mut all = Vec::new();
    for program in Program::ALL {
        for reason in Reason::ALL {
            let count = word(program as usize * REASONS + reason as usize);
            all.push(LossCount {
                program: program.name(),
                reason: reason.name(),
                lost: lost(program, reason),
                count,
            });
        }
        // What the kernel did not run may have been anybody's event: an upper bound.
        let missed = runs.iter().find(|run| run.program == program.name()).map_or(0, |run| run.missed);
        let lost = lost_run(program);
        all.push(LossCount { program: program.name(), reason: "not_run", lost, count: missed });
    }
    all.retain(|loss| loss.count > 0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_found_at_its_place_and_zeros_are_left_out() {
        let at = Program::SyncExitSyscall as usize * REASONS + Reason::NoBegin as usize;
        let found = counts(|index| if index == at { 7 } else { 0 }, &[]);
        let expected =
            LossCount { program: "sync_exit_syscall", reason: "no_begin", lost: Lost::Sync, count: 7 };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn events_at_which_a_program_did_not_run_are_a_loss() {
        let runs = ProgramRuns { program: "write_exit_syscall", runs: 9, run_time_ns: 9, missed: 2 };
        let found = counts(|_| 0, &[runs]);
        let expected =
            LossCount { program: "write_exit_syscall", reason: "not_run", lost: Lost::Write, count: 2 };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_sync_whose_end_did_not_run_is_not_lost_twice() {
        let at = Program::SyncEnterFilesystem as usize * REASONS + Reason::NoEnd as usize;
        let runs = ProgramRuns { program: "sync_exit_filesystem", runs: 9, run_time_ns: 9, missed: 2 };
        let found = counts(|index| if index == at { 2 } else { 0 }, &[runs]);
        let syncs: u64 = found.iter().filter(|loss| loss.lost == Lost::Sync).map(|loss| loss.count).sum();
        assert_eq!((syncs, found.len()), (2, 2));
    }

    #[test]
    fn a_full_ring_loses_the_record_and_not_the_sync() {
        assert_eq!(lost(Program::SyncExitFilesystem, Reason::RingFull), Lost::SyncRecord);
        assert_eq!(lost(Program::SyncExitFilesystem, Reason::NoBegin), Lost::Sync);
        assert_eq!(lost(Program::SyncEnterSyscall, Reason::Unreadable), Lost::Sync);
        assert_eq!(lost(Program::SyncExitSyscall, Reason::Unreadable), Lost::Class);
        assert_eq!(lost(Program::WriteEndFilesystem, Reason::Unreadable), Lost::Class);
        assert_eq!(lost(Program::WriteEnterSyscall, Reason::InFlightFull), Lost::Write);
        assert_eq!(lost(Program::BlockStart, Reason::InFlightFull), Lost::Request);
        assert_eq!(lost(Program::JournalStart, Reason::NoEnd), Lost::Commit);
        assert_eq!(lost(Program::JournalHandle, Reason::InFlightFull), Lost::Metadata);
    }
}
