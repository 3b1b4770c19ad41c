//! The kernel probes: load, attach, count, degrade with a reason.
//!
//! Stands at the left end of the data path: what it yields are cumulative [`TargetCounters`] per watched process, read
//! without a syscall, and [`SyncRecord`]s of slow and sampled syncs. Kernel layouts end here.
//!
//! ```no_run
//! # use std::{path::PathBuf, time::Duration};
//! # use etcdmon_agent::ebpf::{ProbeConfig, Probes};
//! # fn main() -> Result<(), etcdmon_agent::ebpf::ProbeError> {
//! let probes = Probes::load(&ProbeConfig::default())?;
//! let watch = probes.add_target(4711, &[PathBuf::from("/proc/4711/root/var/lib/etcd")])?;
//! println!("{:?}: {}", watch.hook, watch.reason);
//! let mut records = probes.take_records().expect("nobody took them before");
//! std::thread::spawn(move || loop {
//!     records.drain(|record| println!("{record:?}"));
//!     std::thread::sleep(Duration::from_millis(20));
//! });
//! let before = probes.snapshot(4711);
//! # Ok(())
//! # }
//! ```
//!
//! # Which hook
//! A process whose directories are all on ext4 is counted by the filesystem's own tracepoints, which cost other
//! processes nothing; its write calls are seen in write slots only. Any other process is counted by syscall
//! tracepoints, at the expense of every process on the host. Hooks are attached while a process needs them.
//!
//! # Invariants
//! - Counters of a process agree with what it did since [`Watch::since_mono_ns`], to the last sync, but for what
//!   [`Probes::losses`] counts.
//! - Nothing is pinned and no map is shared: agents on one host don't know of each other, and nothing outlives the
//!   process.

mod btf;
mod circular;
mod counters;
mod devices;
mod disk;
mod error;
mod evidence;
mod filesystem;
mod loss;
mod mapped;
mod metadata;
mod offsets;
mod places;
mod programs;
mod record;
mod signals;
mod start;
mod targets;
mod tracepoint;
mod typed;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap, RingBuf},
};
use aya_log::EbpfLogger;
use etcdmon_agent_ebpf::stats::SLOTS;
use etcdmon_proto::v1::Hook;

use crate::autopsy::evidence::{Commit, Request};

#[cfg(test)]
pub use self::circular::test_positions;
pub use self::{
    btf::BtfError,
    circular::Position,
    counters::{ClassCounters, TargetCounters},
    devices::RequestFailures,
    disk::disks_of,
    error::ProbeError,
    loss::{LossCount, Lost},
    metadata::MetadataUsage,
    offsets::{KERNEL_BTF, OffsetError, SUBCOMMAND as OFFSETS_SUBCOMMAND, print_offsets},
    programs::ProgramRuns,
    record::{Records, SyncRecord},
    signals::Signal,
    targets::Begun,
    typed::Untyped,
};
use self::{
    devices::Devices,
    mapped::Mapped,
    metadata::Metadata,
    offsets::{Feature, Offsets},
    programs::{Programs, Set},
    signals::Signals,
    start::map_error,
    targets::{SyncPlaces, Targets},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/etcd-monitor.bpf.o"));

/// What the programs are loaded with.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// A sync at least this long has a record.
    pub slow_threshold: Duration,
    /// Of the other syncs of a class one in so many has a record; 0 = none, 1 = every one.
    pub sample_every: u32,
    /// Size of the ring of records; rounded up to a power of two of pages. A record takes 72 bytes.
    pub ring_bytes: u32,
    /// Runs `PROGRAM btf-offsets` to read the kernel's type information; `None` reads it in this process.
    pub offsets_program: Option<PathBuf>,
    /// Whether the sample must be exact. If not, or if the kernel is older than 5.12, concurrent syncs may shift it.
    pub exact_sample: bool,
    /// Whether programs hang on typed tracepoints where the kernel has them. If not they read each field by a helper, which
    /// takes longer, as they do in kernels before 5.12 and where ext4 is a module.
    pub typed: bool,
    /// Whether the submission of requests is seen by `block_io_start`. If not, or before 6.5, it is by `block_getrq`.
    pub block_io_start: bool,
    /// Whether the programs log what should not happen, through the `log` crate at debug level.
    pub kernel_log: bool,
}

impl Default for ProbeConfig {
    /// 10 ms, exactly 1 in 100, 1 MiB, this program, no log.
    fn default() -> Self {
        Self {
            slow_threshold: Duration::from_millis(10),
            sample_every: 100,
            ring_bytes: 1 << 20,
            offsets_program: Some(PathBuf::from("/proc/self/exe")),
            exact_sample: true,
            typed: true,
            block_io_start: true,
            kernel_log: false,
        }
    }
}

/// How a process is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The process.
    pub pid: u32,
    /// The hook that counts its syncs and written bytes.
    pub hook: Hook,
    /// Why this hook.
    pub reason: String,
    /// From when on (CLOCK_MONOTONIC, ns) every sync that begins is counted.
    pub since_mono_ns: u64,
}

impl Watch {
    /// What the hook costs, in words.
    pub const fn cost(&self) -> &'static str {
        match self.hook {
            Hook::Filesystem => "none for other processes",
            _ => "every syscall of every process on this host takes about 40 % longer (65 ns)",
        }
    }
}

/// Something that is off, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Stable name, such as `sync.run_delay` or `program.write_end_filesystem`.
    pub capability: String,
    /// Why.
    pub reason: String,
    /// What a person can do about it.
    pub remedy: &'static str,
}

/// What the probes are and do at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProbeFacts {
    /// Watched processes.
    pub watches: Vec<Watch>,
    /// Events on which a program hangs.
    pub attached: Vec<&'static str>,
    /// Programs that cost more than they would on another kernel.
    pub untyped: Vec<Untyped>,
    /// What is off.
    pub degraded: Vec<Degraded>,
}

/// What this kernel took of everything the programs offer, whether any process needs it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Each program with the functions that were loaded for it, or why none was.
    pub programs: Vec<(&'static str, Result<Vec<&'static str>, String>)>,
    /// Each feature with the fields that it lacks; it is on where it lacks none.
    pub features: Vec<(&'static str, Vec<&'static str>)>,
}

/// The loaded probes. Dropping them takes everything out of the kernel.
#[derive(Debug)]
pub struct Probes {
    config: ProbeConfig,
    offsets: Offsets,
    loss: Mapped,
    devices: Devices,
    signals: Signals,
    metadata: Metadata,
    records: Mutex<Option<Records>>,
    /// Locked before `state` where both are.
    programs: Mutex<Programs>,
    state: Mutex<State>,
}

struct State {
    targets: Targets,
    watches: Vec<Watch>,
    degraded: Vec<Degraded>,
    /// Why signals are not seen.
    signals_off: Option<Degraded>,
    slot_open: Option<Instant>,
}

impl State {
    /// Switches the counting of calls off, and says how long it was on.
    fn end_slot(&mut self) -> Duration {
        if let Err(error) = self.targets.observe_calls(false) {
            tracing::warn!(%error, "close a write slot");
        }
        self.slot_open.take().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("State").field("watches", &self.watches).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left behind is still consistent: every change is one assignment or one syscall.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Probes {
    /// Loads the programs that the agent carries. Nothing is attached yet.
    ///
    /// # Errors
    /// When the agent carries none, the process may not load them, or the kernel can't run any.
    pub fn load(config: &ProbeConfig) -> Result<Self, ProbeError> {
        Self::load_object(config, OBJECT)
    }

    /// Loads the programs in an object.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_object(config: &ProbeConfig, object: &[u8]) -> Result<Self, ProbeError> {
        if object.is_empty() {
            return Err(ProbeError::ObjectMissing);
        }
        start::check_privilege(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())?;
        start::check_pid_namespace()?;
        let offsets = start::find_offsets(config)?;
        let missing = offsets.lacks(Feature::FileClass);
        if !missing.is_empty() {
            return Err(ProbeError::Fields { fields: missing.join(", ") });
        }
        let mut programs =
            Programs::load(start::open(config, &offsets, object)?, start::variants(config, &offsets));
        let ebpf = programs.ebpf();
        let map =
            |ebpf: &mut Ebpf, name| ebpf.take_map(name).ok_or_else(|| map_error(name, "not in the object"));
        let stats = start::mapped(map(ebpf, "STATS")?, "STATS", SLOTS * counters::SLOT_WORDS)?;
        let loss = start::mapped(map(ebpf, "LOSS")?, "LOSS", loss::LOSS_WORDS)?;
        let target_map =
            HashMap::try_from(map(ebpf, "TARGETS")?).map_err(|source| map_error("TARGETS", source))?;
        let syncs = HashMap::try_from(map(ebpf, "SYNCS")?).map_err(|source| map_error("SYNCS", source))?;
        let sync_places = SyncPlaces::new(map(ebpf, "SYNC_PLACES")?, "SYNC_PLACES")?;
        let calls = HashMap::try_from(map(ebpf, "CALLS")?).map_err(|source| map_error("CALLS", source))?;
        let ring = RingBuf::try_from(map(ebpf, "RECORDS")?).map_err(|source| map_error("RECORDS", source))?;
        let devices = Devices::new(ebpf)?;
        let signals = Signals::new(ebpf)?;
        let metadata = Metadata::new(ebpf)?;
        let log = if config.kernel_log { EbpfLogger::init(ebpf).ok() } else { None };
        let degraded = start::degraded(&offsets, &programs);
        for of in programs.untyped() {
            tracing::info!(programs = ?of.programs, reason = of.reason, "programs read by helpers, which costs more");
        }
        start::give_back_memory();
        let targets = Targets::new(target_map, syncs, sync_places, calls, stats);
        Ok(Self {
            config: config.clone(),
            offsets,
            loss,
            devices,
            signals,
            metadata,
            records: Mutex::new(Some(Records::new(ring, log))),
            programs: Mutex::new(programs),
            state: Mutex::new(State {
                targets,
                watches: Vec::new(),
                degraded,
                signals_off: None,
                slot_open: None,
            }),
        })
    }

    /// Begins to count a process. `directories` are all directories it writes to, as this process reaches them
    /// (`/proc/PID/root/…` for one in a container): they decide the hook. A process that is watched already keeps its
    /// watch.
    ///
    /// # Errors
    /// When no hook can be attached, or as many processes are watched as can be.
    pub fn add_target(&self, pid: u32, directories: &[PathBuf]) -> Result<Watch, ProbeError> {
        let mut choice = filesystem::choose(directories, |directory| filesystem::look(pid, directory));
        let mut programs = lock(&self.programs);
        let mut state = lock(&self.state);
        if let Some(watch) = state.watches.iter().find(|watch| watch.pid == pid) {
            return Ok(watch.clone());
        }
        let slot = state.targets.free_slot().ok_or(ProbeError::NoSlot { slots: SLOTS })?;
        let mut first_failure = None;
        if choice.hook == Hook::Filesystem
            && let Err(reason) = self.attach(&mut programs, Hook::Filesystem)
        {
            choice.hook = Hook::Syscall;
            choice.reason = format!("the filesystem's tracepoints can't be used: {reason}");
            first_failure = Some(reason);
        }
        if choice.hook == Hook::Syscall
            && let Err(syscall) = self.attach(&mut programs, Hook::Syscall)
        {
            Needs::of(&state.targets).detach_others(&mut programs);
            return Err(ProbeError::NoHook {
                pid,
                filesystem: first_failure.unwrap_or(choice.reason),
                syscall,
            });
        }
        let (slow, sample_every) = (self.config.slow_threshold, self.config.sample_every);
        if let Err(source) = state.targets.insert(slot, pid, choice.hook, slow, sample_every) {
            Needs::of(&state.targets).detach_others(&mut programs);
            return Err(map_error("TARGETS", source));
        }
        let watch = Watch { pid, hook: choice.hook, reason: choice.reason, since_mono_ns: monotonic_ns() };
        state.watches.push(watch.clone());
        // Whoever stops it is named by this hook alone; without it, it is counted all the same.
        state.signals_off = self.attach_one_of(&mut programs, &[(Set::Signals, Feature::Signals)]).err();
        drop(state);
        if self.devices.any_wanted() && !programs.is_attached(Set::Requests) {
            // Without evidence the process is still counted.
            if let Err(error) = self.settle_devices(&mut programs) {
                tracing::warn!(%error, "watch disks");
            }
        }
        Ok(watch)
    }

    /// Sets which disks are watched: those beneath the directories of all targets ([`disks_of`]), encoded as
    /// (major << 20) | minor. The hooks are attached while there is a target and a disk; other disks cost one look-up for
    /// each event. Call it now and then even if nothing changed: the kernel's queues come and go.
    ///
    /// # Errors
    /// When there are too many, or the kernel refuses to update the maps. Hooks that can't be attached are told by
    /// [`Self::facts`], and the rest goes on.
    pub fn watch_devices(&self, devices: &[u32]) -> Result<(), ProbeError> {
        let mut programs = lock(&self.programs);
        self.devices.want(devices)?;
        self.settle_devices(&mut programs)
    }

    /// Attaches the hooks of disks and tells the programs which disks, or takes both away.
    fn settle_devices(&self, programs: &mut Programs) -> Result<(), ProbeError> {
        let watch = self.devices.any_wanted() && lock(&self.state).targets.hooks().next().is_some();
        let mut degraded = Vec::new();
        if watch {
            let alternatives = [
                &[(Set::Requests, Feature::Requests)][..],
                if self.config.block_io_start { SUBMISSIONS } else { &SUBMISSIONS[1..] },
                &[(Set::Commits, Feature::Commits)],
            ];
            for sets in alternatives {
                degraded.extend(self.attach_one_of(programs, sets).err());
            }
        } else {
            for set in [Set::Requests, Set::Submissions, Set::SubmissionsByBio, Set::Commits] {
                programs.detach(set);
            }
        }
        self.devices.settle(watch, degraded)
    }

    /// Attaches the first of these sets that can be, or says what is off without and why.
    fn attach_one_of(&self, programs: &mut Programs, sets: &[(Set, Feature)]) -> Result<(), Degraded> {
        let mut first = None;
        for (set, feature) in sets {
            let missing = self.offsets.lacks(*feature);
            let attached = if missing.is_empty() {
                programs.attach(*set)
            } else {
                Err(format!("this kernel has no {}", missing.join(", ")))
            };
            match attached {
                Ok(()) => return Ok(()),
                Err(reason) => first = first.or_else(|| Some(start::device_degraded(*set, reason))),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Appends the requests of watched disks that completed since a position, as far as the kernel's circular buffer still
    /// holds them, in the order in which they completed. The position that is returned is where to go on, and says how many
    /// were overwritten. Costs no syscall.
    pub fn requests(&self, since: Position, into: &mut Vec<Request>) -> Position {
        self.devices.requests(since, into)
    }

    /// The same for commits of the journals on watched disks, in the order in which they ended.
    pub fn commits(&self, since: Position, into: &mut Vec<Commit>) -> Position {
        self.devices.commits(since, into)
    }

    /// Requests that were submitted and have not completed, in no order.
    pub fn requests_under_way(&self) -> Vec<Request> {
        self.devices.requests_under_way()
    }

    /// Forgets requests under way that `is_over` says have ended unseen. They are losses of the reason `given_up`.
    pub fn give_up_requests(&self, is_over: impl Fn(&Request) -> bool) {
        self.devices.give_up_requests(is_over);
    }

    /// Commits that began and have not ended, in no order.
    pub fn commits_under_way(&self) -> Vec<Commit> {
        self.devices.commits_under_way()
    }

    /// Errors of requests on watched disks since loading.
    pub fn request_failures(&self) -> Vec<RequestFailures> {
        self.devices.failures()
    }

    /// Appends the signals that stop, continue or end watched processes, sent since a position, in the order in which they
    /// were sent. The position that is returned is where to go on. Costs no syscall.
    pub fn signals(&self, since: Position, into: &mut Vec<Signal>) -> Position {
        self.signals.read(self.devices.heads(), since, into)
    }

    /// Whether requests on watched disks are seen.
    pub fn sees_requests(&self) -> bool {
        self.devices.are_seen()
    }

    /// Whether signals to watched processes are seen.
    pub fn sees_signals(&self) -> bool {
        // Not asked of the programs: whoever has them may hold them for a second.
        let state = lock(&self.state);
        state.signals_off.is_none() && !state.watches.is_empty()
    }

    /// Sets the filesystems of which it is summed up who changes metadata (their devices, `(major << 20) | minor`); none
    /// takes the hook away and forgets the sums. While it hangs, each change of metadata on the host costs a look-up.
    ///
    /// # Errors
    /// When the hook can't be attached, or the kernel refuses to update the maps.
    pub fn watch_journals(&self, filesystems: &[u32]) -> Result<(), ProbeError> {
        let mut programs = lock(&self.programs);
        if filesystems.is_empty() {
            programs.detach(Set::Handles);
            return self.metadata.watch(filesystems);
        }
        self.metadata.watch(filesystems)?;
        programs.attach(Set::Handles).map_err(|reason| ProbeError::Journals { reason })
    }

    /// Who changed metadata of the filesystems of [`Self::watch_journals`], in no order; whoever was quiet for long is
    /// forgotten.
    pub fn metadata_usage(&self) -> Vec<MetadataUsage> {
        self.metadata.usage()
    }

    fn attach(&self, programs: &mut Programs, hook: Hook) -> Result<(), String> {
        if hook == Hook::Filesystem {
            return programs.attach(Set::Filesystem);
        }
        let missing = self.offsets.lacks(Feature::Descriptor);
        if !missing.is_empty() {
            return Err(format!("this kernel has no {}", missing.join(", ")));
        }
        programs.attach(Set::SyncCalls)?;
        programs.attach(Set::WriteCalls)?;
        // An open slot goes on with these; with both a call would be seen twice.
        programs.detach(Set::WriteSlot);
        Ok(())
    }

    /// Ends counting a process and returns its last counts. Hooks that nobody needs any more are detached. `None` if it
    /// was not watched.
    pub fn remove_target(&self, pid: u32) -> Option<TargetCounters> {
        let mut programs = lock(&self.programs);
        let (last, needs) = {
            let mut state = lock(&self.state);
            let last = state.targets.remove(pid);
            state.watches.retain(|watch| watch.pid != pid);
            (last, Needs::of(&state.targets))
        };
        // Takes the kernel a second for the syscall tracepoints; snapshots of others go on meanwhile.
        needs.detach_others(&mut programs);
        if !needs.filesystem
            && !needs.syscall
            && let Err(error) = self.settle_devices(&mut programs)
        {
            tracing::warn!(%error, "end watching disks");
        }
        let sees_calls = programs.is_attached(Set::WriteSlot) || programs.is_attached(Set::WriteCalls);
        let mut state = lock(&self.state);
        if !needs.filesystem && !needs.syscall {
            state.signals_off = None;
        }
        if state.slot_open.is_some() && !sees_calls {
            // The slot lived on hooks that have just gone with the process.
            state.end_slot();
        }
        last
    }

    /// What was counted of a process since it is watched. `None` if it is not. Costs no syscall.
    pub fn snapshot(&self, pid: u32) -> Option<TargetCounters> {
        lock(&self.state).targets.counters(pid)
    }

    /// Syncs of a process that returned an error, as [`Self::snapshot`] has them by class. Costs next to nothing.
    pub fn sync_errors(&self, pid: u32) -> Option<u64> {
        lock(&self.state).targets.sync_errors(pid)
    }

    /// Syncs and write calls that have begun and not ended.
    pub fn begun(&self) -> Begun {
        lock(&self.state).targets.begun()
    }

    /// Forgets what threads had begun that are gone; call it now and then. The end of a call may have been missed, and then
    /// nothing else would take its begin away.
    pub fn sweep(&self) {
        let is_alive = |thread: u32| Path::new(&format!("/proc/{thread}")).exists();
        lock(&self.state).targets.sweep_dead(monotonic_ns(), is_alive);
    }

    /// Changes which syncs have a record, of one process or of all; a process added later has the configured values.
    ///
    /// # Errors
    /// When the kernel refuses to update the map.
    pub fn set_records(&self, pid: Option<u32>, slow: Duration, sample_every: u32) -> Result<(), ProbeError> {
        let mut state = lock(&self.state);
        state.targets.set_records(pid, slow, sample_every).map_err(|source| map_error("TARGETS", source))
    }

    /// The reading end of the ring of records; `None` from the second call on.
    pub fn take_records(&self) -> Option<Records> {
        lock(&self.records).take()
    }

    /// What was missed since the programs were loaded; counts that are zero are left out.
    pub fn losses(&self) -> Vec<LossCount> {
        let runs = self.runs();
        loss::losses(&self.loss, &runs, self.devices.given_up())
    }

    /// How often each program ran, and how long while kernel.bpf_stats_enabled is 1.
    pub fn runs(&self) -> Vec<ProgramRuns> {
        lock(&self.programs).runs()
    }

    /// Begins to observe the write calls of processes whose filesystem does not show them. Until the slot is closed every
    /// syscall of every process on the host pays for it. Does nothing when there is no such process.
    ///
    /// # Errors
    /// When they can't be attached; what the filesystem's hook counts goes on.
    pub fn open_write_slot(&self) -> Result<(), ProbeError> {
        let mut programs = lock(&self.programs);
        if !lock(&self.state).targets.any(Hook::Filesystem) {
            return Ok(());
        }
        if !programs.is_attached(Set::WriteCalls) {
            let missing = self.offsets.lacks(Feature::Slot);
            if !missing.is_empty() {
                let reason = format!("this kernel has no {}", missing.join(", "));
                return Err(ProbeError::WriteSlot { reason });
            }
            programs.attach(Set::WriteSlot).map_err(|reason| ProbeError::WriteSlot { reason })?;
        }
        let mut state = lock(&self.state);
        if state.slot_open.is_none() {
            state.slot_open = Some(Instant::now());
        }
        state.targets.observe_calls(true).map_err(|source| map_error("TARGETS", source))
    }

    /// Ends the open write slot and says how long it was; zero if none was open.
    pub fn close_write_slot(&self) -> Duration {
        let mut programs = lock(&self.programs);
        let length = lock(&self.state).end_slot();
        programs.detach(Set::WriteSlot);
        length
    }

    /// What this kernel took of everything the programs offer.
    pub fn inventory(&self) -> Inventory {
        let features = Feature::ALL.map(|feature| (feature.name(), self.offsets.lacks(feature)));
        Inventory { programs: lock(&self.programs).functions(), features: features.into() }
    }

    /// What the probes are and do at the moment.
    pub fn facts(&self) -> ProbeFacts {
        let (attached, untyped) = {
            let programs = lock(&self.programs);
            (programs.attached(), programs.untyped().to_vec())
        };
        let of_devices = self.devices.degraded();
        let state = lock(&self.state);
        let degraded = state.degraded.iter().chain(&state.signals_off).cloned().chain(of_devices).collect();
        ProbeFacts { watches: state.watches.clone(), attached, untyped, degraded }
    }
}

/// How submissions are seen, the best first, and what each needs.
const SUBMISSIONS: &[(Set, Feature)] =
    &[(Set::Submissions, Feature::Requests), (Set::SubmissionsByBio, Feature::SubmitterByBio)];

/// Which hooks the watched processes need.
struct Needs {
    filesystem: bool,
    syscall: bool,
}

impl Needs {
    fn of(targets: &Targets) -> Self {
        Self { filesystem: targets.any(Hook::Filesystem), syscall: targets.any(Hook::Syscall) }
    }

    /// Takes away the hooks that no process needs.
    fn detach_others(&self, programs: &mut Programs) {
        if !self.filesystem {
            programs.detach(Set::Filesystem);
            programs.detach(Set::WriteSlot);
        }
        if !self.syscall {
            programs.detach(Set::SyncCalls);
            programs.detach(Set::WriteCalls);
        }
        if !self.filesystem && !self.syscall {
            programs.detach(Set::Signals);
        }
    }
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests;
