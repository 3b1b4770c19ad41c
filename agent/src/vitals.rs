//! What an etcd process gets of its node (CPU, room and faults of its disks, being left to run), and who takes the rest: once a
//! second into the live stream, for the diagnosis.
//!
//! A thread of its own beside the probes': everything it asks answers at once, so that it reports in the very moments when a disk hangs or
//! CPUs are scarce. What may hang is asked by others: filesystems by a thread for each member ([`space`]). What is dear is
//! asked only while there is reason to: users of CPUs while etcd waits for one, who fills a disk while it is nearly full, who changes
//! metadata while the journal makes syncs slow.
//!
//! ```text
//! probe ── add, remove, failed sync ──→ vitals ──→ hub
//!                      quota, journal ←──┴──→ probe::examine
//! ```
//!
//! # What is missing is absent
//! A value that can't be had is absent, never zero.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use etcdmon_proto::v1;
use tokio::sync::mpsc;

use crate::clock::{Reading, SECOND_NS};
use crate::discover::{EtcdProcess, ProcFs, ProcessId};
use crate::ebpf::{Position, Probes, RequestFailures, Signal};
use crate::hub::Note;
use crate::priority;
use crate::probe::examine::Beside;
use crate::probe::examine::names::Names;
use crate::probe::examine::steal;

mod cpu;
mod fillers;
pub mod journal;
mod member;
pub mod quota;
mod space;
mod stops;
mod threads;

use cpu::CpuUsers;
use member::{Asked, Member, Node};

/// Pause between two looks at signals and quotas, which cost next to nothing.
const TICK: Duration = Duration::from_millis(100);

/// Vitals are taken so long after a second began: the probes' counts of that second are there, and the hub has not yet sent its
/// summary.
const PHASE_NS: i64 = 50_000_000;

/// Commands that may wait: far more than processes come and go between two ticks.
const COMMANDS: usize = 256;

/// Slots of the hub's channel left for others.
const RESERVE: usize = 64;

/// Threads of etcd that wait for a CPU for longer than this in a second are a reason to ask who has it.
const DELAY_NS: u64 = 30_000_000;

enum Command {
    Add(Box<EtcdProcess>),
    Remove(ProcessId),
    SyncFailed(ProcessId, i32),
}

/// How the probes' thread talks to this one; never waits. Dropping all of them ends the thread.
#[derive(Clone)]
pub struct VitalsHandle {
    commands: SyncSender<Command>,
}

impl std::fmt::Debug for VitalsHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("VitalsHandle").finish_non_exhaustive()
    }
}

impl VitalsHandle {
    /// Begins to look at a process.
    pub fn add(&self, process: EtcdProcess) {
        self.tell(Command::Add(Box::new(process)));
    }

    /// Ends it; what was seen of its end goes out before.
    pub fn remove(&self, process: ProcessId) {
        self.tell(Command::Remove(process));
    }

    /// A sync of the process returned this negative errno. What finds no room is forgotten; it is counted elsewhere.
    pub fn sync_failed(&self, process: ProcessId, result: i32) {
        // The next one says the same: a disk that is gone fails all of them.
        let _behind = self.commands.try_send(Command::SyncFailed(process, result));
    }

    fn tell(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::error!("the vitals' thread is behind: a command found no room");
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// When it can't be started.
pub fn start(
    proc: ProcFs,
    probes: Option<Arc<Probes>>,
    notes: mpsc::Sender<Note>,
    beside: Beside,
) -> std::io::Result<VitalsHandle> {
    let (commands, receiver) = sync_channel(COMMANDS);
    let vitals = Vitals {
        names: Names::new(proc.clone()),
        proc,
        probes,
        notes,
        beside,
        members: BTreeMap::new(),
        signals: Position::default(),
        read: Vec::new(),
        cpu_users: CpuUsers::default(),
    };
    std::thread::Builder::new().name("vitals".to_owned()).spawn(move || vitals.run(&receiver))?;
    Ok(VitalsHandle { commands })
}

struct Vitals {
    proc: ProcFs,
    probes: Option<Arc<Probes>>,
    names: Names,
    notes: mpsc::Sender<Note>,
    beside: Beside,
    members: BTreeMap<ProcessId, Member>,
    /// Up to where signals were read.
    signals: Position,
    /// Kept for its memory.
    read: Vec<Signal>,
    cpu_users: CpuUsers,
}

impl Vitals {
    fn run(mut self, commands: &Receiver<Command>) {
        priority::raise(priority::PROBES);
        let second_of = |now: Reading| (now.wall_ns - PHASE_NS).div_euclid(SECOND_NS);
        let mut second = second_of(Reading::now());
        loop {
            match commands.recv_timeout(TICK) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Reading::now();
            self.take_signals(now);
            self.beside.quotas.measure(now.mono_ns);
            if second_of(now) != second {
                second = second_of(now);
                self.second(now);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Reading::now();
        match command {
            Command::Add(process) => {
                let id = process.id;
                self.members.entry(id).or_insert_with(|| Member::new(*process));
            }
            Command::Remove(id) => {
                self.take_signals(now);
                self.beside.quotas.forget(id);
                let failures = self.failures();
                let sync_errors = self.probes.as_ref().and_then(|probes| probes.sync_errors(id.pid));
                if let Some(mut member) = self.members.remove(&id) {
                    member.note_errors(sync_errors, failures.as_deref());
                    // Its last moments: what ended it, above all.
                    self.tell(id, member.last());
                }
            }
            Command::SyncFailed(id, result) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.failed(result);
                }
            }
        }
    }

    /// Requests that failed, by disk; `None` where requests are not seen.
    fn failures(&self) -> Option<Vec<RequestFailures>> {
        let probes = self.probes.as_ref().filter(|probes| probes.sees_requests())?;
        Some(probes.request_failures())
    }

    fn take_signals(&mut self, now: Reading) {
        let Some(probes) = &self.probes else { return };
        self.read.clear();
        self.signals = probes.signals(self.signals, &mut self.read);
        for signal in &self.read {
            let to = self.members.iter_mut().find(|(id, _)| id.pid == signal.process_id);
            if let Some((_, member)) = to {
                member.take_signal(signal, &self.proc, &mut self.names, now);
            }
        }
    }

    /// What is due once a second.
    fn second(&mut self, now: Reading) {
        self.beside.journals.tick(now.mono_ns);
        let node = Node {
            times: steal::read(&self.proc),
            failures: self.failures(),
            sees_signals: self.probes.as_ref().is_some_and(|probes| probes.sees_signals()),
        };
        let mut waits_for_cpu = false;
        for (id, member) in &mut self.members {
            let sync_errors = self.probes.as_ref().and_then(|probes| probes.sync_errors(id.pid));
            let delay_ns = member.sample(&self.proc, &self.beside.quotas, &node, sync_errors, now);
            waits_for_cpu |= delay_ns >= DELAY_NS;
        }
        let forgotten: Vec<ProcessId> =
            self.members.iter().filter(|(_, member)| member.is_forgotten()).map(|(id, _)| *id).collect();
        for id in forgotten {
            self.members.remove(&id);
            self.beside.quotas.forget(id);
        }
        if waits_for_cpu {
            self.cpu_users.look(&self.proc, now.mono_ns);
        } else {
            self.cpu_users.forget();
        }
        let mut all = Vec::with_capacity(self.members.len());
        for (id, member) in &mut self.members {
            let asked = Asked { journals: &self.beside.journals, cpu_users: &self.cpu_users };
            all.push((*id, member.vitals(&asked, &node, &mut self.names, now)));
        }
        for (id, vitals) in all {
            self.tell(id, vitals);
        }
    }

    /// The next one says the same and more, so one that finds no room is no loss.
    fn tell(&self, process: ProcessId, vitals: v1::LiveVitals) {
        if self.notes.capacity() < RESERVE
            || self.notes.try_send(Note::Vitals(process, Box::new(vitals))).is_err()
        {
            tracing::debug!("vitals found no room");
        }
    }
}

/// The last ones of something.
#[derive(Debug, Clone)]
struct Last<T> {
    most: usize,
    kept: VecDeque<T>,
}

impl<T: Clone> Last<T> {
    const fn new(most: usize) -> Self {
        Self { most, kept: VecDeque::new() }
    }

    fn push(&mut self, one: T) {
        if self.kept.len() >= self.most {
            self.kept.pop_front();
        }
        self.kept.push_back(one);
    }

    fn to_vec(&self) -> Vec<T> {
        self.kept.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
