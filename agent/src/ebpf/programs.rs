//! The loaded programs, what they hang on, and what each may be missing.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::{
    Ebpf,
    programs::{
        BtfTracePoint, Program as AyaProgram, ProgramError, ProgramFd, RawTracePoint, TracePoint,
        raw_trace_point::RawTracePointLink, tp_btf::BtfTracePointLink,
    },
};
use etcdmon_agent_ebpf::loss::{PROGRAMS, Program};
use etcdmon_service::logging::ErrorChain;

use super::{
    tracepoint::Tracefs,
    typed::{self, Function, Untyped},
};

/// A program and the events it hangs on.
struct Hooking {
    program: Program,
    events: &'static [&'static str],
    /// Without all its events the set is of no use; else one event is enough, and the others need not exist on every
    /// kernel.
    all: bool,
}

const FILESYSTEM: &[Hooking] = &[
    Hooking { program: Program::SyncExitFilesystem, events: &["ext4_sync_file_exit"], all: true },
    Hooking {
        program: Program::WriteEndFilesystem,
        events: &["ext4_da_write_end", "ext4_write_end", "ext4_journalled_write_end"],
        all: false,
    },
    Hooking { program: Program::SyncEnterFilesystem, events: &["ext4_sync_file_enter"], all: true },
];

const SYNC_CALLS: &[Hooking] = &[
    Hooking {
        program: Program::SyncExitSyscall,
        events: &["syscalls/sys_exit_fdatasync", "syscalls/sys_exit_fsync"],
        all: true,
    },
    Hooking {
        program: Program::SyncEnterSyscall,
        events: &["syscalls/sys_enter_fdatasync", "syscalls/sys_enter_fsync"],
        all: true,
    },
];

const WRITE_CALLS: &[Hooking] = &[
    Hooking {
        program: Program::WriteExitSyscall,
        events: &[
            "syscalls/sys_exit_write",
            "syscalls/sys_exit_pwrite64",
            "syscalls/sys_exit_writev",
            "syscalls/sys_exit_pwritev",
            "syscalls/sys_exit_pwritev2",
        ],
        all: false,
    },
    Hooking {
        program: Program::WriteEnterSyscall,
        events: &[
            "syscalls/sys_enter_write",
            "syscalls/sys_enter_pwrite64",
            "syscalls/sys_enter_writev",
            "syscalls/sys_enter_pwritev",
            "syscalls/sys_enter_pwritev2",
        ],
        all: false,
    },
    Hooking {
        program: Program::RangeEnterSyscall,
        events: &["syscalls/sys_enter_sync_file_range"],
        all: false,
    },
];

const WRITE_SLOT: &[Hooking] = &[
    Hooking { program: Program::CallExitSlot, events: &["sys_exit"], all: true },
    Hooking { program: Program::CallEnterSlot, events: &["sys_enter"], all: true },
];

const REQUESTS: &[Hooking] = &[
    Hooking { program: Program::BlockComplete, events: &["block_rq_complete"], all: true },
    Hooking { program: Program::BlockIssue, events: &["block_rq_issue"], all: true },
];

const SUBMISSIONS: &[Hooking] = &[
    Hooking { program: Program::BlockMerge, events: &["block_rq_merge"], all: true },
    Hooking { program: Program::BlockStart, events: &["block_io_start"], all: true },
];

const SUBMISSIONS_BY_BIO: &[Hooking] = &[
    Hooking { program: Program::BlockMerge, events: &["block_rq_merge"], all: false },
    Hooking { program: Program::BlockSubmit, events: &["block_getrq"], all: true },
];

const COMMITS: &[Hooking] = &[
    Hooking { program: Program::JournalEnd, events: &["jbd2_end_commit"], all: true },
    Hooking { program: Program::JournalLogging, events: &["jbd2_commit_logging"], all: true },
    Hooking { program: Program::JournalFlushing, events: &["jbd2_commit_flushing"], all: true },
    Hooking { program: Program::JournalLocking, events: &["jbd2_commit_locking"], all: true },
    Hooking { program: Program::JournalStart, events: &["jbd2_start_commit"], all: true },
];

const SIGNALS: &[Hooking] =
    &[Hooking { program: Program::SignalGenerate, events: &["signal_generate"], all: true }];

const HANDLES: &[Hooking] =
    &[Hooking { program: Program::JournalHandle, events: &["jbd2_handle_stats"], all: true }];

/// A set of hooks that is attached and detached as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// ext4's tracepoints: syncs and written bytes.
    Filesystem,
    /// The syscall tracepoints of syncs.
    SyncCalls,
    /// The syscall tracepoints of writes and sync_file_range.
    WriteCalls,
    /// The tracepoints of all syscalls, for writes and sync_file_range in a short slot: dearer while they are attached,
    /// but attached and detached at once.
    WriteSlot,
    /// Requests of watched disks from issue to completion.
    Requests,
    /// Who submitted them and when (6.5+).
    Submissions,
    /// The same before 6.5, and without requests that are made of nothing but a command.
    SubmissionsByBio,
    /// Commits of journals on watched disks.
    Commits,
    /// Signals to watched processes.
    Signals,
    /// Who changes metadata of watched filesystems; only while that is asked for.
    Handles,
}

impl Set {
    const fn hooks(self) -> &'static [Hooking] {
        match self {
            Self::Filesystem => FILESYSTEM,
            Self::SyncCalls => SYNC_CALLS,
            Self::WriteCalls => WRITE_CALLS,
            Self::WriteSlot => WRITE_SLOT,
            Self::Requests => REQUESTS,
            Self::Submissions => SUBMISSIONS,
            Self::SubmissionsByBio => SUBMISSIONS_BY_BIO,
            Self::Commits => COMMITS,
            Self::Signals => SIGNALS,
            Self::Handles => HANDLES,
        }
    }
}

/// Dropping it detaches.
#[derive(Debug)]
#[expect(dead_code, reason = "held for their drop")]
enum Link {
    RawTracepoint(RawTracePointLink),
    TypedTracepoint(BtfTracePointLink),
    PerfEvent(OwnedFd),
}

/// What was loaded for a program.
#[derive(Debug)]
enum Loaded {
    /// A function that hangs on any of its events by name.
    ByName(&'static str),
    /// A function for each event.
    Typed(Vec<Function>),
}

impl Loaded {
    fn functions(&self) -> Vec<&'static str> {
        match self {
            Self::ByName(function) => vec![function],
            Self::Typed(functions) => functions.iter().map(|(_, function)| *function).collect(),
        }
    }

    /// The function for an event, if this kernel has it.
    fn function(&self, event: &str) -> Option<&'static str> {
        match self {
            Self::ByName(function) => Some(function),
            Self::Typed(functions) => {
                functions.iter().find(|(tracepoint, _)| *tracepoint == event).map(|(_, function)| *function)
            }
        }
    }
}

/// How often a program ran, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramRuns {
    /// Name of the program.
    pub program: &'static str,
    /// Runs while kernel.bpf_stats_enabled was 1.
    pub runs: u64,
    /// Time they took.
    pub run_time_ns: u64,
    /// Events at which the kernel could not run it, because a program ran on that CPU already (5.12+).
    pub missed: u64,
}

/// The programs in the kernel. Dropping it detaches and unloads all.
pub struct Programs {
    ebpf: Ebpf,
    /// What was loaded for a program, or why the kernel refused it, by index.
    loaded: [Result<Loaded, String>; PROGRAMS],
    untyped: Vec<Untyped>,
    tracefs: Option<Tracefs>,
    attached: Vec<(Set, &'static str, Link)>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Programs").field("attached", &self.attached()).finish_non_exhaustive()
    }
}

/// What a person can use of an error: of a refused program the verifier's verdict, not its thousand lines before.
pub(super) fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            format!("the kernel refused it: {io_error}: {}", verdict(&log).unwrap_or("no verifier log"))
        }
        other => ErrorChain(other).to_string(),
    }
}

/// The last line of a verifier's log that is not statistics.
fn verdict(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["processed", "stack depth", "verification time"];
    let says = |line: &&str| !line.trim().is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word));
    log.lines().rev().find(says)
}

fn load(program: &mut AyaProgram) -> Result<(), ProgramError> {
    match program {
        AyaProgram::RawTracePoint(program) => program.load(),
        AyaProgram::TracePoint(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Loads the first of these functions that the kernel takes, and says which; else why it did not take the first.
fn load_first(
    ebpf: &mut Ebpf,
    functions: impl Iterator<Item = &'static str>,
) -> Result<&'static str, String> {
    let mut verdict = Err("not in the object".to_owned());
    for (position, function) in functions.enumerate() {
        match ebpf.program_mut(function).map(load) {
            Some(Ok(())) => return Ok(function),
            Some(Err(error)) if position == 0 => verdict = Err(reason(&error)),
            _ => {}
        }
    }
    verdict
}

/// Which of several functions is loaded for a program.
#[derive(Clone, Copy, Debug)]
pub struct Variants {
    /// Those for 5.12 and later, which the others stand in for where the kernel refuses them.
    pub exact: bool,
    /// Those for tracepoints that begin with the queue, by program.
    pub after_queue: [bool; PROGRAMS],
    /// Those for typed tracepoints, which the others stand in for.
    pub typed: bool,
}

impl Programs {
    /// Loads each program. One that the kernel refuses is remembered with the reason.
    pub fn load(mut ebpf: Ebpf, variants: Variants) -> Self {
        let mut typed = if variants.typed { typed::load(&mut ebpf) } else { typed::Loaded::default() };
        let loaded = Program::ALL.map(|program| {
            if let Some(position) = typed.functions.iter().position(|(of, _)| *of == program) {
                return Ok(Loaded::Typed(typed.functions.swap_remove(position).1));
            }
            if variants.after_queue[program as usize] && program.after_queue().is_some() {
                return load_first(&mut ebpf, program.after_queue().into_iter()).map(Loaded::ByName);
            }
            let exact = (variants.exact || program.inexact().is_none()).then_some(program.name());
            load_first(&mut ebpf, exact.into_iter().chain(program.inexact())).map(Loaded::ByName)
        });
        Self { ebpf, loaded, untyped: typed.untyped, tracefs: None, attached: Vec::new() }
    }

    /// The object, for its maps.
    pub const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Each program with the functions that were loaded for it, or why the kernel refused it.
    pub fn functions(&self) -> Vec<(&'static str, Result<Vec<&'static str>, String>)> {
        let functions = self.loaded.iter().map(|loaded| match loaded {
            Ok(loaded) => Ok(loaded.functions()),
            Err(reason) => Err(reason.clone()),
        });
        Program::ALL.into_iter().map(Program::name).zip(functions).collect()
    }

    /// Programs that the kernel refused, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = Program::ALL.into_iter().zip(&self.loaded);
        all.filter_map(|(program, loaded)| Some((program.name(), loaded.as_ref().err()?.as_str())))
    }

    /// Programs that there is for typed tracepoints, and which were loaded the other way.
    pub fn untyped(&self) -> &[Untyped] {
        &self.untyped
    }

    /// Whether the sample of records is exact.
    pub fn is_exact(&self) -> bool {
        Program::ALL.into_iter().zip(&self.loaded).all(|(program, loaded)| {
            // No variant, or not the one that was loaded.
            program
                .inexact()
                .is_none_or(|variant| !matches!(loaded, Ok(Loaded::ByName(found)) if *found == variant))
        })
    }

    /// Whether a set is attached.
    pub fn is_attached(&self, set: Set) -> bool {
        self.attached.iter().any(|(of, _, _)| *of == set)
    }

    /// The events on which a program hangs.
    pub fn attached(&self) -> Vec<&'static str> {
        self.attached.iter().map(|(_, event, _)| *event).collect()
    }

    /// Detaches a set.
    pub fn detach(&mut self, set: Set) {
        self.attached.retain(|(of, _, _)| *of != set);
    }

    /// Attaches a set, unless it is.
    ///
    /// # Errors
    /// Why it can't be, in words; nothing of it is left attached then.
    pub fn attach(&mut self, set: Set) -> Result<(), String> {
        if self.is_attached(set) {
            return Ok(());
        }
        set.hooks()
            .iter()
            .try_for_each(|hooking| self.attach_one(set, hooking))
            .inspect_err(|_| self.detach(set))
    }

    fn attach_one(&mut self, set: Set, hooking: &Hooking) -> Result<(), String> {
        let of_program = |reason: &str| format!("program {}: {reason}", hooking.program.name());
        let loaded = self.loaded[hooking.program as usize].as_ref().map_err(|reason| of_program(reason))?;
        let functions: Vec<_> = hooking.events.iter().map(|event| (*event, loaded.function(event))).collect();
        let mut last = None;
        let mut found = false;
        for (event, function) in functions {
            let link = match function {
                Some(function) => self.link(function, event),
                None => Err(of_program(&format!("this kernel has no {event}"))),
            };
            match link {
                Ok(link) => {
                    self.attached.push((set, event, link));
                    found = true;
                }
                Err(reason) if hooking.all => return Err(reason),
                Err(reason) => last = Some(reason),
            }
        }
        match last {
            Some(reason) if !found => Err(reason),
            _ => Ok(()),
        }
    }

    fn link(&mut self, function: &str, event: &str) -> Result<Link, String> {
        let missing = || format!("program {function} is not in the object");
        match self.ebpf.program_mut(function).ok_or_else(missing)? {
            AyaProgram::RawTracePoint(program) => raw_link(program, event),
            AyaProgram::BtfTracePoint(program) => typed_link(program, event),
            AyaProgram::TracePoint(program) => {
                if self.tracefs.is_none() {
                    self.tracefs = Some(Tracefs::open().map_err(|error| ErrorChain(&error).to_string())?);
                }
                let tracefs = self.tracefs.as_ref().ok_or_else(missing)?;
                perf_link(program, tracefs, event)
            }
            _ => Err(missing()),
        }
    }

    /// How often each program ran and was missed.
    pub fn runs(&self) -> Vec<ProgramRuns> {
        let runs = |program: Program| {
            let functions = self.loaded[program as usize].as_ref().ok()?.functions();
            let mut sum = [0_u64; 3];
            for function in functions {
                let counts = run_counts(self.ebpf.program(function)?.fd().ok()?)?;
                sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
            let [run_time_ns, runs, missed] = sum;
            Some(ProgramRuns { program: program.name(), runs, run_time_ns, missed })
        };
        Program::ALL.into_iter().filter_map(runs).collect()
    }
}

fn typed_link(program: &mut BtfTracePoint, event: &str) -> Result<Link, String> {
    let attached = program.attach().and_then(|id| program.take_link(id));
    attached.map(Link::TypedTracepoint).map_err(|error| format!("attach to {event}: {}", reason(&error)))
}

fn raw_link(program: &mut RawTracePoint, event: &str) -> Result<Link, String> {
    let attached = program.attach(event).and_then(|id| program.take_link(id));
    attached.map(Link::RawTracepoint).map_err(|error| format!("attach to {event}: {}", reason(&error)))
}

fn perf_link(program: &TracePoint, tracefs: &Tracefs, event: &str) -> Result<Link, String> {
    let descriptor = program.fd().map_err(|error| reason(&error))?;
    let attached = tracefs.attach(descriptor.as_fd(), event);
    attached.map(Link::PerfEvent).map_err(|error| ErrorChain(&error).to_string())
}

/// run_time_ns, run_cnt and recursion_misses of bpf_prog_info (include/uapi/linux/bpf.h), which follow each other.
fn run_counts(program: &ProgramFd) -> Option<[u64; 3]> {
    const OBJECT_INFO_BY_DESCRIPTOR: libc::c_int = 15;
    const INFO_WORDS: usize = 28;
    const FIRST_COUNT: usize = 24;
    #[repr(C)]
    struct Request {
        descriptor: u32,
        length: u32,
        info: u64,
    }
    let mut info = [0_u64; INFO_WORDS];
    let request = Request {
        descriptor: program.as_fd().as_raw_fd().cast_unsigned(),
        length: (INFO_WORDS * 8) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is alive during the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, OBJECT_INFO_BY_DESCRIPTOR, &raw const request, size_of::<Request>())
    };
    (result == 0).then(|| std::array::from_fn(|index| info[FIRST_COUNT + index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_of_a_verifier_stands_before_its_statistics() {
        let log = "0: R1=ctx R10=fp0\n; let x = 1;\ninvalid mem access 'inv'\nverification time 71 usec\n\
                   stack depth 216+0+0\nprocessed 9 insns (limit 1000000)\n\n";
        assert_eq!(verdict(log), Some("invalid mem access 'inv'"));
        assert_eq!(verdict("\n"), None);
    }
}
