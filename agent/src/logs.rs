//! etcd's own log, found and read: typed events, counts by level, and why an etcd does not start.
//!
//! ```text
//! find → tail → container frames ┐
//!      └→ journal ───────────────┴→ line → event → facts
//!                                        └→ boot, exit, outside → verdict → incident
//! ```
//!
//! A thread of its own reads: files block, and a slow disk must not hold up the runtime. It is told of processes that came and
//! went, and looks five times a second. Nothing of the log itself leaves the node: only what [`event`] takes from it, and
//! the one line that a verdict rests on. What it can't keep up with is counted in the stream `log` of the ledger, where
//! produced equals dropped: lines that were read are counted in `etcdmon_etcd_log_messages_total` and have no rows.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use etcdmon_proto::v1;
use tokio::sync::mpsc;

use crate::clock::{Reading, SECOND_NS, process_start_wall_ns};
use crate::discover::{EtcdProcess, ProcFs, ProcessId};
use crate::fact::Fact;
use crate::hub::Note;
use crate::patience::Patience;

pub mod boot;
pub mod event;
pub mod find;
pub mod follow;
pub mod frame;
pub mod incident;
pub mod journal;
pub mod limit;
pub mod line;
mod member;
pub mod outside;
pub mod tail;
pub mod time;
pub mod verdict;
mod wal;

use find::{Missing, Places, Source};
use incident::Incidents;
use member::Member;
use verdict::Exit;

/// Pause between two looks.
const POLL_PERIOD: Duration = Duration::from_millis(200);

/// Processes that came or went and were not taken note of yet. Discovery finds a handful at a time; beyond this the log of
/// a process is not followed, and the agent says so.
const TOLD_LIMIT: usize = 256;

/// A process that is gone is still followed so long: the next one of its member writes to the same place.
const LINGER_NS: i64 = 600 * SECOND_NS;

/// What a member that is gone did not start for is shown so long.
const INCIDENT_KEPT_NS: i64 = 24 * 3600 * SECOND_NS;

/// How often it is looked for processes whose end was not told, as when too many ended at once.
const LOST_EVERY_NS: i64 = 30 * SECOND_NS;

/// Where a log is, is asked once: a busy machine may take long to answer.
const FIND_WITHIN: Duration = Duration::from_millis(500);

/// Members followed; beyond it the one that is gone longest is given up.
const MEMBERS_LIMIT: usize = 64;

/// Names of the capabilities.
const LOG: &str = "log";
const BOOT: &str = "etcd.boot";

/// What stays the same over restarts of a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// Data directory as etcd sees it.
    pub data_dir: PathBuf,
    /// Its pod; empty outside of one.
    pub pod_uid: String,
}

impl Home {
    /// Of a process.
    pub fn of(process: &EtcdProcess) -> Self {
        Self { data_dir: process.data_dir.clone(), pod_uid: process.placement.pod_uid.clone() }
    }
}

#[derive(Debug)]
enum Told {
    Appeared(Box<Found>),
    Gone(ProcessId, Option<Exit>),
}

/// What is seen of a process while it lives.
#[derive(Debug)]
struct Found {
    process: EtcdProcess,
    user: u32,
    sources: Result<Vec<Source>, Missing>,
}

/// The thread's other end; dropping all of them ends the thread.
#[derive(Debug, Clone)]
pub struct LogsHandle {
    proc: ProcFs,
    places: Places,
    told: SyncSender<Told>,
    /// Where their logs are; whoever looks may hang.
    found: Patience<Result<Vec<Source>, Missing>>,
}

impl LogsHandle {
    /// A process to follow; once is enough.
    pub fn appeared(&self, process: &EtcdProcess) {
        let (proc, of, places) = (self.proc.clone(), process.clone(), self.places.clone());
        let sources =
            self.found.ask(process.id, move || find::find(&proc, &of, &places)).unwrap_or_else(|| {
                let pid = process.id.pid;
                Err(format!("log of etcd (pid {pid}) can't be read: its place does not answer").into())
            });
        self.found.keep(|asked| asked == process.id);
        let user = self.proc.user(process.id.pid).unwrap_or(0);
        self.tell(Told::Appeared(Box::new(Found { process: process.clone(), user, sources })));
    }

    /// A process has ended, as `exit` says where somebody saw it.
    pub fn gone(&self, process: ProcessId, exit: Option<Exit>) {
        self.tell(Told::Gone(process, exit));
    }

    fn tell(&self, told: Told) {
        if let Err(TrySendError::Full(_)) = self.told.try_send(told) {
            tracing::warn!("too many etcd processes at once: one is not followed in its log");
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// When it can't be started.
pub fn start(proc: ProcFs, places: Places, notes: mpsc::Sender<Note>) -> io::Result<LogsHandle> {
    let (told, inbox) = sync_channel(TOLD_LIMIT);
    let logs = Logs {
        proc: proc.clone(),
        notes,
        began_ns: Reading::now().wall_ns,
        members: Vec::new(),
        missing: BTreeMap::new(),
        incidents: Incidents::default(),
        looked_ns: 0,
    };
    std::thread::Builder::new().name("logs".to_owned()).spawn(move || logs.run(&inbox))?;
    Ok(LogsHandle { proc, places, told, found: Patience::of(FIND_WITHIN) })
}

/// The thread.
#[derive(Debug)]
struct Logs {
    proc: ProcFs,
    notes: mpsc::Sender<Note>,
    /// When this agent began: processes that began later are new.
    began_ns: i64,
    members: Vec<Member>,
    missing: BTreeMap<ProcessId, Missing>,
    incidents: Incidents,
    looked_ns: i64,
}

impl Logs {
    fn run(mut self, inbox: &Receiver<Told>) {
        loop {
            let notes = match inbox.recv_timeout(POLL_PERIOD) {
                Ok(Told::Appeared(found)) => self.appeared(*found, Reading::now()),
                Ok(Told::Gone(process, exit)) => self.gone(process, exit, Reading::now()),
                Err(RecvTimeoutError::Timeout) => self.poll(Reading::now()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for note in notes {
                if self.notes.blocking_send(note).is_err() {
                    return;
                }
            }
        }
    }

    fn appeared(&mut self, found: Found, now: Reading) -> Vec<Note> {
        let is_known = |member: &Member| member.follow.process() == found.process.id && !member.is_gone();
        if self.members.iter().any(is_known) {
            return Vec::new();
        }
        // What the one before wrote last is its own.
        let mut notes = self.poll(now);
        let id = found.process.id;
        let sources = match found.sources {
            Ok(sources) => {
                let places: Vec<String> = sources.iter().map(Source::describe).collect();
                tracing::info!(pid = id.pid, sources = places.join(", "), "reading etcd's log");
                sources
            }
            Err(missing) => {
                self.missing.insert(id, missing);
                notes.push(self.tell_missing());
                Vec::new()
            }
        };
        let started_ns = process_start_wall_ns(id.start_ticks);
        let home = Home::of(&found.process);
        let known = self.members.iter().position(|member| member.home == home && member.is_gone());
        let before = known.map(|at| self.members.remove(at));
        let member = match before {
            Some(mut member) => {
                notes.extend(member.conclude(&self.proc, &mut self.incidents, now));
                member.restarted(found.process, found.user, sources, started_ns);
                member
            }
            None => Member::new(found.process, found.user, sources, started_ns, started_ns >= self.began_ns),
        };
        if self.members.len() >= MEMBERS_LIMIT
            && let Some(at) = self.members.iter().position(Member::is_gone)
        {
            self.members.remove(at);
        }
        self.members.push(member);
        notes
    }

    fn gone(&mut self, process: ProcessId, exit: Option<Exit>, now: Reading) -> Vec<Note> {
        if let Some(member) = self.members.iter_mut().find(|member| member.follow.process() == process) {
            member.ended(exit, now);
        }
        if self.missing.remove(&process).is_some() { vec![self.tell_missing()] } else { Vec::new() }
    }

    fn tell_missing(&self) -> Note {
        match self.missing.values().next() {
            None => Note::Restored(LOG.into()),
            Some(first) => Note::Degraded(v1::Degradation {
                capability: LOG.to_owned(),
                reason: first.reason.clone(),
                remedy: first.remedy.clone(),
            }),
        }
    }

    fn poll(&mut self, now: Reading) -> Vec<Note> {
        let mut facts: Vec<Fact> = Vec::new();
        let mut notes = Vec::new();
        for member in &mut self.members {
            member.follow.poll(now, &mut facts);
            notes.extend(member.consider(&self.proc, &mut self.incidents, now));
        }
        self.members.retain(|member| !member.is_gone_since(now.wall_ns - LINGER_NS));
        if (now.wall_ns - self.looked_ns).abs() >= LOST_EVERY_NS {
            self.looked_ns = now.wall_ns;
            notes.extend(self.look_for_lost(now));
        }
        if !facts.is_empty() {
            notes.insert(0, Note::Facts(facts));
        }
        if notes.iter().any(|note| matches!(note, Note::Boot(..))) {
            notes.push(self.tell_incidents());
        }
        notes
    }

    fn look_for_lost(&mut self, now: Reading) -> Vec<Note> {
        for member in self.members.iter_mut().filter(|member| member.is_lost(&self.proc)) {
            member.ended(None, now);
        }
        let runs = |home: &Home| self.members.iter().any(|member| member.home == *home && !member.is_gone());
        let over = self.incidents.forget_old(now.wall_ns - INCIDENT_KEPT_NS, runs);
        let mut notes: Vec<Note> = over.into_iter().map(|home| Note::Boot(home, None)).collect();
        let (before, proc) = (self.missing.len(), &self.proc);
        self.missing.retain(|id, _| proc.stat(id.pid).is_some_and(|stat| stat.start_ticks == id.start_ticks));
        if self.missing.len() != before {
            notes.push(self.tell_missing());
        }
        notes
    }

    /// The agent's own list says so too: a member that never joined has no cluster to be shown in.
    fn tell_incidents(&self) -> Note {
        match self.incidents.any() {
            None => Note::Restored(BOOT.into()),
            Some((home, incident)) => Note::Degraded(v1::Degradation {
                capability: BOOT.to_owned(),
                reason: format!(
                    "etcd of {} does not serve: {}: {}",
                    home.data_dir.display(),
                    incident.verdict.cause,
                    incident.verdict.detail
                ),
                remedy: incident.verdict.next_step.to_owned(),
            }),
        }
    }
}
