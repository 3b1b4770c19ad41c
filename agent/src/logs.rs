//! etcd's own log, found and read: typed events, counts by level, and why an etcd does not start.
//!
//! ```text
//! find → tail | container frames | journald → line → event → facts
//!                                                └→ boot → verdict
//! ```
//!
//! A thread of its own reads: files block, and a slow disk must not hold up the runtime. It is told of processes that came and
//! went, and looks five times a second. Nothing of the log itself leaves the node: only what [`event`] takes from it. What
//! it can't keep up with is counted in the stream `log` of the ledger, where produced equals dropped: lines that were
//! read are counted in `etcdmon_etcd_log_messages_total` and have no rows.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use etcdmon_proto::v1;
use tokio::sync::mpsc;

use crate::clock::{Reading, SECOND_NS, process_start_wall_ns};
use crate::discover::{EtcdProcess, ProcFs, ProcessId};
use crate::fact::Fact;
use crate::hub::Note;

pub mod boot;
pub mod event;
pub mod find;
pub mod follow;
pub mod frame;
pub mod limit;
pub mod line;
pub mod tail;
pub mod time;

use find::{Missing, Places, Source};
use follow::Follow;

/// Pause between two looks.
const POLL_PERIOD: Duration = Duration::from_millis(200);

/// Processes that came or went and were not taken note of yet. Discovery finds a handful at a time; beyond this the log of
/// a process is not followed, and the agent says so.
const TOLD_LIMIT: usize = 256;

/// A process that is gone is still followed so long: the next one of its member writes to the same place.
const LINGER_NS: i64 = 600 * SECOND_NS;

/// Name of the capability.
const CAPABILITY: &str = "log";

#[derive(Debug)]
enum Told {
    Appeared(Box<EtcdProcess>),
    Gone(ProcessId),
}

/// The thread's other end; dropping it ends the thread.
#[derive(Debug)]
pub struct LogsHandle {
    told: SyncSender<Told>,
}

impl LogsHandle {
    /// A process to follow.
    pub fn appeared(&self, process: &EtcdProcess) {
        self.tell(Told::Appeared(Box::new(process.clone())));
    }

    /// A process has ended.
    pub fn gone(&self, process: ProcessId) {
        self.tell(Told::Gone(process));
    }

    fn tell(&self, told: Told) {
        if let Err(TrySendError::Full(told)) = self.told.try_send(told) {
            tracing::warn!(?told, "too many etcd processes at once: not followed in the log");
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
        proc,
        places,
        notes,
        began_ns: Reading::now().wall_ns,
        members: Vec::new(),
        missing: BTreeMap::new(),
    };
    std::thread::Builder::new().name("logs".to_owned()).spawn(move || logs.run(&inbox))?;
    Ok(LogsHandle { told })
}

/// What stays the same over restarts of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    data_dir: std::path::PathBuf,
    pod_uid: String,
}

impl Home {
    fn of(process: &EtcdProcess) -> Self {
        Self { data_dir: process.data_dir.clone(), pod_uid: process.placement.pod_uid.clone() }
    }
}

/// A member's log.
#[derive(Debug)]
struct Member {
    home: Home,
    sources: Vec<Source>,
    follow: Follow,
    gone_ns: Option<i64>,
}

/// The thread.
#[derive(Debug)]
struct Logs {
    proc: ProcFs,
    places: Places,
    notes: mpsc::Sender<Note>,
    /// When this agent began: processes that began later are new.
    began_ns: i64,
    members: Vec<Member>,
    missing: BTreeMap<ProcessId, Missing>,
}

impl Logs {
    fn run(mut self, inbox: &Receiver<Told>) {
        loop {
            match inbox.recv_timeout(POLL_PERIOD) {
                Ok(Told::Appeared(process)) => self.appeared(&process, Reading::now()),
                Ok(Told::Gone(process)) => self.gone(process, Reading::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.poll(Reading::now()) {
                return;
            }
        }
    }

    fn appeared(&mut self, process: &EtcdProcess, now: Reading) {
        let sources = match find::find(&self.proc, process, &self.places) {
            Ok(sources) => {
                let places: Vec<String> = sources.iter().map(Source::describe).collect();
                tracing::info!(pid = process.id.pid, sources = places.join(", "), "reading etcd's log");
                sources
            }
            Err(missing) => {
                self.missing.insert(process.id, missing);
                self.tell_missing();
                Vec::new()
            }
        };
        let started_ns = process_start_wall_ns(process.id.start_ticks);
        let home = Home::of(process);
        let known = self.members.iter_mut().find(|member| member.home == home && member.gone_ns.is_some());
        match known {
            Some(member) if member.sources == sources => {
                member.gone_ns = None;
                member.follow.restarted(process.id, started_ns);
            }
            _ => {
                self.members.retain(|member| member.home != home || member.gone_ns.is_none());
                let fresh = started_ns >= self.began_ns;
                let follow = Follow::new(process.id, started_ns, fresh, sources.clone());
                self.members.push(Member { home, sources, follow, gone_ns: None });
            }
        }
        self.poll(now);
    }

    fn gone(&mut self, process: ProcessId, now: Reading) {
        if let Some(member) = self.members.iter_mut().find(|member| member.follow.process() == process) {
            member.gone_ns = Some(now.wall_ns);
        }
        if self.missing.remove(&process).is_some() {
            self.tell_missing();
        }
    }

    fn tell_missing(&self) {
        let note = match self.missing.values().next() {
            None => Note::Restored(CAPABILITY),
            Some(first) => Note::Degraded(v1::Degradation {
                capability: CAPABILITY.to_owned(),
                reason: first.reason.clone(),
                remedy: first.remedy.clone(),
            }),
        };
        let _hub_ended = self.notes.blocking_send(note);
    }

    /// False when nobody listens any more.
    fn poll(&mut self, now: Reading) -> bool {
        let mut facts: Vec<Fact> = Vec::new();
        for member in &mut self.members {
            member.follow.poll(now, &mut facts);
        }
        self.members.retain(|member| member.gone_ns.is_none_or(|gone_ns| now.wall_ns - gone_ns < LINGER_NS));
        facts.is_empty() || self.notes.blocking_send(Note::Facts(facts)).is_ok()
    }
}
