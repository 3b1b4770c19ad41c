//! The thread that reads the kernel probes.
//!
//! An OS thread of its own, with raised priority where that is allowed: it drains the ring of sync records on a timer, and at
//! each whole second of the wall clock takes a snapshot of every process's counters, from which the rows of that second
//! follow. It must not wait for anything: when the hub's channel is full, a snapshot is put off and its counts fall into
//! the next second; single records that find no room are counted as lost.
//!
//! A sync belongs to the second in which it ended, as seen by the snapshot at its end.
//!
//! The kernel hands over every sync; which of them have a row is decided here ([`sample`]), and all of them go to the
//! [flight recorder](flight), whose dumps begin here or are asked for from outside. Slow ones ([`slow`]) are examined a little later, on a
//! thread of its own ([`examine`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use etcdmon_proto::v1::{Degradation, FileClass, Hook};
use etcdmon_service::logging::ErrorChain;
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Reading, SECOND_NS, mono_ns};
use crate::discover::{EtcdProcess, ProcFs, ProcessId};
use crate::ebpf::{ProbeConfig, Probes, Records, TargetCounters, disks_of};
use crate::encode::Sampling;
use crate::fact::{Event, Fact, SyncRow};
use crate::hub::Note;
use crate::hub::told::Told;
use crate::patience::Patience;
use crate::priority;
use crate::telemetry::Telemetry;
use crate::vitals::journal::JournalSlot;
use crate::vitals::{self, VitalsHandle};

pub mod examine;
pub mod flight;
mod gather;
mod losses;
mod report;
mod sample;
pub mod second;
mod slow;

use examine::{Beside, Examiner};
use flight::{Recorder, Trigger};
use gather::gather;
use losses::Losses;
use sample::Sampler;
use slow::{SlowSyncs, left_out};

/// Pause between two drains. The ring of 1 MiB holds 14,000 records: 290,000 a second.
const DRAIN_EVERY: Duration = Duration::from_millis(50);

/// Commands that may wait: far more than processes can come and go between two drains. Whoever sends another one waits.
const COMMANDS_LIMIT: usize = 256;

/// After failing to watch a process, the next attempt.
const RETRY_AFTER_NS: i64 = 15 * SECOND_NS;

/// Most rows of a dump that are handed over with one drain: 20,000 a second.
const DUMP_SLICE: usize = 1_000;

/// Seconds after which the disks of all processes are looked up again: queues come and go.
const DISKS_EVERY: i64 = 10;

/// Slots of channel left for others when records are handed over.
const RESERVE: usize = 64;

/// How the probes are used.
#[derive(Debug, Clone)]
pub struct ProbeSettings {
    /// Whether they are on at all.
    pub enabled: bool,
    /// What they are loaded with.
    pub config: ProbeConfig,
    /// Memory of the flight recorder.
    pub flight_bytes: usize,
    /// What can be changed while they run.
    pub tuning: Tuning,
}

/// What of the probes can be changed while they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Which syncs have a row.
    pub sampling: Sampling,
    /// A sync that takes at least this long triggers a dump of the flight recorder; zero = none does.
    pub dump_latency: Duration,
    /// Length of a write slot; zero = none.
    pub write_slot: Duration,
    /// A write slot begins on every whole second that is a multiple of this.
    pub write_period: Duration,
}

enum Command {
    Add(Box<EtcdProcess>),
    Remove(ProcessId, oneshot::Sender<()>),
    Enable(bool, oneshot::Sender<Result<(), String>>),
    Tune(Tuning),
    Dump(Option<ProcessId>, Trigger),
    Stop(oneshot::Sender<()>),
}

/// How the rest of the agent talks to the thread.
#[derive(Clone)]
pub struct ProbeHandle {
    commands: SyncSender<Command>,
    probes: Option<Arc<Probes>>,
}

impl std::fmt::Debug for ProbeHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ProbeHandle").field("loaded", &self.probes.is_some()).finish_non_exhaustive()
    }
}

impl ProbeHandle {
    /// Begins to watch a process.
    pub fn add(&self, process: EtcdProcess) {
        let _thread_ended = self.commands.send(Command::Add(Box::new(process)));
    }

    /// Ends watching a process; returns when its last counts are on their way.
    pub async fn remove(&self, process: ProcessId) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Remove(process, done)).is_ok() {
            let _thread_ended = wait.await;
        }
    }

    /// Switches the probes on or off.
    ///
    /// # Errors
    /// In words, when they are not loaded.
    pub async fn enable(&self, enabled: bool) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        let ended = "the probes' thread has ended".to_owned();
        self.commands.send(Command::Enable(enabled, done)).map_err(|_gone| ended.clone())?;
        wait.await.map_err(|_gone| ended)?
    }

    /// Changes what can be changed. False when the thread is too busy to take it now.
    pub fn tune(&self, tuning: Tuning) -> bool {
        self.commands.try_send(Command::Tune(tuning)).is_ok()
    }

    /// Where dumps of the flight recorder are asked for.
    pub fn dumps(&self) -> Dumps {
        Dumps { commands: Some(self.commands.clone()) }
    }

    /// What the probes are and do, as JSON; `None` when they are not loaded.
    pub async fn report(&self) -> Option<serde_json::Value> {
        let probes = self.probes.clone()?;
        tokio::task::spawn_blocking(move || report::report(&probes)).await.ok()
    }

    /// Ends the thread; returns when all counts are on their way.
    pub async fn stop(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).is_ok() {
            let _thread_ended = wait.await;
        }
    }

    /// Syncs of WAL files and directories of a process since it is watched; `None` when it is not.
    pub fn wal_syncs(&self, process: ProcessId) -> Option<u64> {
        self.probes.as_ref()?.snapshot(process.pid).map(|counters| second::wal_syncs(&counters))
    }
}

/// Asks for dumps of the flight recorder; never waits.
#[derive(Clone, Default)]
pub struct Dumps {
    commands: Option<SyncSender<Command>>,
}

impl std::fmt::Debug for Dumps {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Dumps").finish_non_exhaustive()
    }
}

impl Dumps {
    /// Asks for a dump of one process, or of all. False when the probes' thread is too busy to take it.
    pub fn ask(&self, process: Option<ProcessId>, trigger: Trigger) -> bool {
        self.commands
            .as_ref()
            .is_some_and(|commands| commands.try_send(Command::Dump(process, trigger)).is_ok())
    }
}

/// Loads the probes and starts the thread. Probes that can't be had are reported as degraded; the thread then only
/// keeps time.
///
/// # Errors
/// When the thread can't be started.
pub fn start(
    settings: ProbeSettings,
    notes: mpsc::Sender<Note>,
    telemetry: Arc<Telemetry>,
) -> std::io::Result<ProbeHandle> {
    let loaded = Probes::load(&settings.config);
    let probes = match loaded {
        Ok(probes) => Some(Arc::new(probes)),
        Err(error) => {
            let degraded = degradation("ebpf", &ErrorChain(&error).to_string(), error.remedy());
            // The channel is empty: nothing else runs yet.
            let _full = notes.try_send(Note::Degraded(degraded));
            None
        }
    };
    let (commands, receiver) = sync_channel(COMMANDS_LIMIT);
    let proc = ProcFs::new("/proc");
    let beside = Beside { journals: Arc::new(JournalSlot::new(probes.clone())), ..Beside::default() };
    let examiner = match &probes {
        Some(_) => Some(Examiner::start(proc.clone(), notes.clone(), beside.clone())?),
        None => None,
    };
    let vitals = vitals::start(proc.clone(), probes.clone(), notes.clone(), beside)?;
    let handle = ProbeHandle { commands, probes: probes.clone() };
    let thread = ProbeThread {
        enabled: settings.enabled,
        tuning: settings.tuning,
        recorder: Recorder::new(settings.flight_bytes),
        sampler: Sampler::default(),
        slow: SlowSyncs::new(examiner),
        vitals,
        records: probes.as_ref().and_then(|probes| probes.take_records()),
        probes,
        notes,
        telemetry,
        targets: BTreeMap::new(),
        grounds: Patience::default(),
        proc: proc.clone(),
        losses: Losses::default(),
        slot_opened: None,
        slot_off: None,
        disks_off: None,
        told: Told::default(),
        rows: Vec::new(),
    };
    std::thread::Builder::new().name("probes".to_owned()).spawn(move || thread.run(&receiver))?;
    Ok(handle)
}

struct Target {
    process: EtcdProcess,
    watch: Option<(Hook, TargetCounters)>,
    retry_at_ns: i64,
    /// Why its syncs are not counted, or what that costs others.
    off: Option<Degradation>,
}

struct ProbeThread {
    enabled: bool,
    tuning: Tuning,
    recorder: Recorder,
    sampler: Sampler,
    slow: SlowSyncs,
    vitals: VitalsHandle,
    probes: Option<Arc<Probes>>,
    records: Option<Records>,
    notes: mpsc::Sender<Note>,
    telemetry: Arc<Telemetry>,
    targets: BTreeMap<ProcessId, Target>,
    grounds: Patience<()>,
    proc: ProcFs,
    losses: Losses,
    slot_opened: Option<std::time::Instant>,
    /// Why write calls are not seen, and why disks are not.
    slot_off: Option<Degradation>,
    disks_off: Option<Degradation>,
    told: Told,
    rows: Vec<SyncRow>,
}

impl ProbeThread {
    fn run(mut self, commands: &Receiver<Command>) {
        priority::raise(priority::PROBES);
        let mut second = Reading::now().wall_ns.div_euclid(SECOND_NS);
        loop {
            let pause = DRAIN_EVERY.min(Reading::now().until_next_second()).min(self.slot_left());
            match commands.recv_timeout(pause) {
                Ok(Command::Stop(done)) => {
                    self.switch(false);
                    self.tell_left_out();
                    self.slow.finish();
                    self.finish_dumps();
                    let _nobody_waits = done.send(());
                    return;
                }
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.drain();
            self.examine();
            self.dump();
            let now = Reading::now();
            let now_second = now.wall_ns.div_euclid(SECOND_NS);
            if now_second != second {
                second = now_second;
                self.end_second(now);
            }
            self.end_write_slot();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(process) => {
                let id = process.id;
                self.vitals.add((*process).clone());
                self.targets.insert(id, Target { process: *process, watch: None, retry_at_ns: 0, off: None });
                self.attach(id);
            }
            Command::Remove(process, done) => {
                // Signals to it are told apart by its being watched: what was seen of its end is read first.
                self.vitals.remove(process);
                self.detach(process);
                self.targets.remove(&process);
                self.grounds.keep(|asked| self.targets.contains_key(&asked));
                self.sampler.forget(process);
                self.recorder.gone(process, mono_ns());
                let _nobody_waits = done.send(());
            }
            Command::Enable(enabled, done) => {
                let outcome = match &self.probes {
                    Some(_) => {
                        self.switch(enabled);
                        Ok(())
                    }
                    None => Err("the probes are not loaded".to_owned()),
                };
                let _nobody_waits = done.send(outcome);
            }
            Command::Tune(tuning) => self.tuning = tuning,
            Command::Dump(process, trigger) => self.trigger(process, trigger),
            Command::Stop(_) => {}
        }
    }

    fn switch(&mut self, enabled: bool) {
        self.enabled = enabled;
        let processes: Vec<ProcessId> = self.targets.keys().copied().collect();
        for process in processes {
            if enabled {
                self.attach(process);
            } else {
                self.detach(process);
            }
        }
    }

    fn attach(&mut self, id: ProcessId) {
        let Some(probes) = self.probes.clone().filter(|_| self.enabled) else { return };
        let Some(target) = self.targets.get_mut(&id).filter(|target| target.watch.is_none()) else { return };
        // One that has ended already, as those of a moment have, would seem to be on no filesystem at all.
        if !is_there(&self.proc, &target.process) {
            return;
        }
        if !answers(&self.grounds, &target.process) {
            let reason = format!("the filesystems of pid {} do not answer", id.pid);
            target.off = Some(degradation("sync.hook", &reason, "look whether they hang"));
            return;
        }
        match probes.add_target(id.pid, &directories(&target.process)) {
            // Its number may have been given to another process, or it runs another program: that is not what was to be watched.
            Ok(_) if !is_there(&self.proc, &target.process) => drop(probes.remove_target(id.pid)),
            Ok(watch) => {
                let Some(zero) = probes.snapshot(id.pid) else { return };
                // Nothing can have been missed between the two, but something may have been counted already.
                let start = zero.since(&zero);
                target.watch = Some((watch.hook, start));
                target.off = (watch.hook == Hook::Syscall).then(|| {
                    let reason = format!("{}; cost: {}", watch.reason, watch.cost());
                    degradation("sync.hook", &reason, "put etcd's directories on ext4")
                });
                let at = Reading::now();
                let details = serde_json::json!({
                    "hook": watch.hook.name(), "reason": watch.reason, "cost": watch.cost(),
                });
                tracing::info!(
                    pid = id.pid,
                    hook = watch.hook.name(),
                    reason = watch.reason,
                    "watching syncs"
                );
                let event = Event { process: Some(id), mono_ns: at.mono_ns, kind: "member.watched", details };
                self.tell(Note::Attached { process: id, at });
                self.tell(Note::Facts(vec![Fact::Event(event)]));
                self.watch_disks();
            }
            Err(error) => {
                target.retry_at_ns = Reading::now().wall_ns + RETRY_AFTER_NS;
                target.off = Some(degradation("sync.hook", &ErrorChain(&error).to_string(), error.remedy()));
            }
        }
    }

    fn detach(&mut self, id: ProcessId) {
        let probes = self.probes.clone();
        let last = probes.as_ref().and_then(|probes| probes.remove_target(id.pid));
        // Nothing of it comes any more: its last records are in the ring.
        self.drain();
        self.slow.gone(id, || gather(probes.as_deref()));
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.off = None;
        let Some((hook, before)) = target.watch.take() else { return };
        if let Some(last) = last {
            let now = Reading::now();
            let facts = second::facts(id, now.wall_ns.div_euclid(SECOND_NS), hook, &last.since(&before));
            self.tell_ended(id, facts, now, &last);
        }
    }

    /// Rows of the second that just ended.
    fn end_second(&mut self, now: Reading) {
        if self.notes.capacity() < RESERVE {
            // Put off: the counts stay in the kernel and fall into the next second.
            self.telemetry.snapshots_put_off.inc();
            return;
        }
        self.tell(Note::Facts(vec![Fact::TimeBase(now)]));
        let second = now.wall_ns.div_euclid(SECOND_NS) - 1;
        let Some(probes) = self.probes.clone() else { return };
        let processes: Vec<ProcessId> = self.targets.keys().copied().collect();
        for id in processes {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            let Some((hook, before)) = &mut target.watch else {
                if now.wall_ns >= target.retry_at_ns {
                    self.attach(id);
                }
                continue;
            };
            let Some(after) = probes.snapshot(id.pid) else { continue };
            let (hook, delta) = (*hook, after.since(before));
            *before = after.clone();
            let facts = second::facts(id, second, hook, &delta);
            self.slow.learn(&facts);
            self.tell_ended(id, facts, now, &after);
        }
        self.tell_left_out();
        if now.wall_ns.div_euclid(SECOND_NS).rem_euclid(DISKS_EVERY) == 0 {
            self.watch_disks();
            probes.sweep();
            gather::give_up(&probes);
        }
        let lost = self.losses.since_last(&probes.losses(), now, &self.telemetry);
        if !lost.is_empty() {
            self.tell(Note::Facts(lost));
        }
        self.telemetry.flight(self.recorder.usage(), self.recorder.take_suppressed());
        self.begin_write_slot(second + 1);
        self.tell_degraded(&probes);
    }

    /// Tells what is off now, and what no longer is.
    fn tell_degraded(&mut self, probes: &Probes) {
        if self.notes.capacity() < RESERVE {
            return;
        }
        let of_kernel = probes.facts().degraded.into_iter();
        let of_kernel = of_kernel.map(|off| degradation(&off.capability, &off.reason, off.remedy));
        let of_targets = self.targets.values().filter_map(|target| target.off.clone());
        let of_disks = self.slot_off.iter().chain(&self.disks_off).cloned();
        for note in self.told.update(of_kernel.chain(of_targets).chain(of_disks)) {
            self.tell(note);
        }
    }

    fn tell_ended(&mut self, process: ProcessId, facts: Vec<Fact>, at: Reading, counters: &TargetCounters) {
        if !facts.is_empty() {
            self.tell(Note::Facts(facts));
        }
        let own_wal_syncs = second::wal_syncs(counters);
        self.tell(Note::SecondEnded { process, until_ns: at.wall_ns, own_wal_syncs });
    }

    fn begin_write_slot(&mut self, second: i64) {
        let period = i64::try_from(self.tuning.write_period.as_secs()).unwrap_or(i64::MAX).max(1);
        let due = !self.tuning.write_slot.is_zero() && second.rem_euclid(period) == 0;
        let Some(probes) = self.probes.as_ref().filter(|_| due && self.enabled && self.slot_opened.is_none())
        else {
            return;
        };
        match probes.open_write_slot() {
            Ok(()) => {
                self.slot_opened = Some(std::time::Instant::now());
                self.slot_off = None;
            }
            Err(error) => {
                let reason = ErrorChain(&error).to_string();
                self.slot_off = Some(degradation("write.calls", &reason, error.remedy()));
            }
        }
    }

    /// Until the open write slot is to end.
    fn slot_left(&self) -> Duration {
        let left = |opened: std::time::Instant| self.tuning.write_slot.saturating_sub(opened.elapsed());
        self.slot_opened.map_or(Duration::MAX, left)
    }

    fn end_write_slot(&mut self) {
        let over = self.slot_opened.is_some_and(|opened| opened.elapsed() >= self.tuning.write_slot);
        if let Some(probes) = self.probes.as_ref().filter(|_| over) {
            probes.close_write_slot();
            self.slot_opened = None;
        }
    }

    /// Tells the kernel which disks are below the processes' directories.
    fn watch_disks(&mut self) {
        let Some(probes) = self.probes.clone().filter(|_| self.enabled) else { return };
        let watched = self.targets.values().filter(|target| target.watch.is_some());
        let watched = watched.filter(|target| answers(&self.grounds, &target.process));
        let below = |target: &Target| -> Vec<u32> {
            let directories = directories(&target.process).into_iter();
            directories
                .filter_map(|directory| disks_of(target.process.id.pid, &directory).ok())
                .flatten()
                .collect()
        };
        let disks: Vec<u32> = watched.flat_map(below).collect();
        let outcome = probes.watch_devices(&disks);
        self.disks_off = outcome
            .err()
            .map(|error| degradation("block.hooks", &ErrorChain(&error).to_string(), error.remedy()));
    }

    /// Hands over the slow syncs whose evidence has come.
    fn examine(&mut self) {
        let probes = self.probes.as_deref();
        self.slow.examine_due(mono_ns(), || gather(probes));
    }

    fn tell_left_out(&mut self) {
        let left_out = self.slow.left_out();
        if !left_out.is_empty() {
            self.tell(Note::Facts(left_out));
        }
    }

    /// Empties the ring.
    fn drain(&mut self) {
        let Some(records) = &mut self.records else { return };
        let (targets, rows) = (&self.targets, &mut self.rows);
        let (sampler, recorder, tuning) = (&mut self.sampler, &mut self.recorder, &self.tuning);
        let (slow_syncs, vitals, now_ns) = (&mut self.slow, &self.vitals, mono_ns());
        let mut slow = None;
        records.drain(|record| {
            // A record of a process that was removed meanwhile has nobody to belong to.
            let Some(process) = targets.keys().find(|id| id.pid == record.pid) else { return };
            let reason = sampler.reason(&tuning.sampling, *process, &record);
            rows.extend(reason.map(|reason| SyncRow { reason, ..second::row(*process, &record) }));
            recorder.push(*process, &record, reason.is_some());
            slow_syncs.take(*process, &record, now_ns);
            if record.result < 0 {
                vitals.sync_failed(*process, record.result);
            }
            if !tuning.dump_latency.is_zero() && record.latency >= tuning.dump_latency {
                slow = Some(*process);
            }
        });
        if slow.is_some() {
            self.trigger(slow, Trigger::SlowSync);
        }
        if self.rows.is_empty() {
            return;
        }
        let facts: Vec<Fact> = self.rows.drain(..).map(Fact::Sync).collect();
        let count = facts.len() as u64;
        if self.notes.capacity() < RESERVE || self.notes.try_send(Note::Facts(facts)).is_err() {
            self.losses.add_rows(count);
        }
    }

    fn trigger(&mut self, process: Option<ProcessId>, trigger: Trigger) {
        let begun = self.recorder.trigger(process, trigger, mono_ns());
        if begun > 0 {
            tracing::info!(trigger = trigger.name(), members = begun, "dump of the flight recorder begins");
        }
    }

    /// Hands over the next rows of dumps that are under way, when there is room to spare.
    fn dump(&mut self) {
        if self.recorder.is_busy() && self.notes.capacity() > self.notes.max_capacity() / 2 {
            self.dump_slice(mono_ns());
        }
    }

    /// At the end there is no later: what can be handed over goes now. Whether a dump is under way still.
    fn dump_slice(&mut self, now_ns: u64) -> bool {
        let (rows, finished) = self.recorder.take(now_ns, DUMP_SLICE);
        self.telemetry.flight_rows.inc_by(rows.len() as u64);
        let mut facts: Vec<Fact> = rows.into_iter().map(Fact::Sync).collect();
        let at = Reading::now();
        facts.extend(finished.into_iter().map(|dump| {
            self.telemetry.flight_dumps.inc();
            let wall_ns = |mono_ns: u64| mono_ns.cast_signed().saturating_add(at.wall_minus_mono_ns());
            let details = serde_json::json!({
                "trigger": dump.trigger.name(), "at_ns": wall_ns(dump.at_ns), "rows": dump.rows,
                "from_ns": wall_ns(dump.from_ns), "to_ns": wall_ns(dump.until_ns),
            });
            let process = Some(dump.process);
            Fact::Event(Event { process, mono_ns: at.mono_ns, kind: "flight.dumped", details })
        }));
        if !facts.is_empty() {
            self.tell(Note::Facts(facts));
        }
        self.recorder.is_busy()
    }

    fn finish_dumps(&mut self) {
        while self.notes.capacity() > RESERVE && self.dump_slice(u64::MAX) {}
    }

    /// Room was checked for, or the note is one of a few.
    fn tell(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.telemetry.notes_lost.inc();
            tracing::error!("a note of the probes found no room");
        }
    }
}

fn degradation(capability: &str, reason: &str, remedy: &str) -> Degradation {
    Degradation { capability: capability.to_owned(), reason: reason.to_owned(), remedy: remedy.to_owned() }
}

/// Whether the process is the one that was found, and runs what it ran then.
fn is_there(proc: &ProcFs, process: &EtcdProcess) -> bool {
    let stat = proc.stat(process.id.pid).filter(|stat| !stat.is_dead());
    stat.is_some_and(|stat| stat.is(process.id.start_ticks, process.image))
}

/// Whether the filesystems of a process answer: this thread must not wait for one that hangs.
fn answers(grounds: &Patience<()>, process: &EtcdProcess) -> bool {
    let of = process.clone();
    let look = move || {
        for directory in directories(&of) {
            // What it says is asked for again by whoever needs it.
            let _answer = disks_of(of.id.pid, &directory);
        }
    };
    grounds.ask(process.id, look).is_some()
}

/// The directories that decide the hook. One that etcd has not made yet will be made on the filesystem of what is there.
fn directories(process: &EtcdProcess) -> Vec<PathBuf> {
    let existing = |path: &Path| path.ancestors().find(|path| path.exists()).map(Path::to_owned);
    let mut found: Vec<PathBuf> = [&process.data_dir_here, &process.wal_dir_here]
        .into_iter()
        .filter_map(|path| existing(path))
        .collect();
    found.dedup();
    found
}

/// Classes that etcd's own WAL histogram counts: records, and the directory at a cut.
const WAL_CLASSES: [FileClass; 2] = [FileClass::Wal, FileClass::Directory];
