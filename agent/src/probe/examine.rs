//! The thread that examines slow syncs: from a sync and what the kernel saw around it to an autopsy with names.
//!
//! Apart from the probes' own thread, which must never wait: who a culprit is stands in `/proc`, and some of what is asked there waits for
//! the process that is asked about. When this thread is behind, cases are left out and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::autopsy::waiting::Held;
use crate::autopsy::{Autopsy, Certainty, Commit, Counters, Culprit, Gaps, Origin, Request, Window, autopsy};
use crate::clock::mono_ns;
use crate::discover::ProcFs;
use crate::fact::{CulpritName, Fact, SlowSync};
use crate::hub::Note;
use crate::vitals::journal::{JournalSlot, blame};
use crate::vitals::quota::Quotas;

mod context;
mod holders;
pub mod names;
pub mod steal;

use context::{Contexts, number_of};
use holders::{File, Holders};
use names::Names;
use steal::Steal;

/// Cases that may wait for this thread; what comes when they do is left out and counted.
const CASES: usize = 8;

/// Steal is sampled at least this often.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Slots of the hub's channel left for others.
const RESERVE: usize = 64;

/// What the kernel saw of the time around some syncs.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Requests of all disks that are watched.
    pub requests: Vec<Request>,
    /// Commits of journals.
    pub commits: Vec<Commit>,
    /// Everything since then is in it (CLOCK_MONOTONIC, ns); 0 = nothing is missing.
    pub complete_since_ns: u64,
    /// What this machine does not show.
    pub unseen: Gaps,
}

/// Syncs that are examined together, by the same evidence.
#[derive(Debug)]
pub struct Case {
    /// The syncs.
    pub syncs: Vec<Held>,
    /// What was seen.
    pub evidence: Evidence,
}

/// What others know of the time of a sync.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// CPU quotas and what they refused.
    pub quotas: Arc<Quotas>,
    /// Who changes metadata.
    pub journals: Arc<JournalSlot>,
}

/// How cases reach the thread. Dropping it ends the thread once it has examined what waits.
#[derive(Debug)]
pub struct Examiner {
    cases: SyncSender<Case>,
    open: Arc<AtomicU64>,
}

impl Examiner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(proc: ProcFs, notes: mpsc::Sender<Note>, beside: Beside) -> std::io::Result<Self> {
        let (cases, receiver) = sync_channel(CASES);
        let open = Arc::new(AtomicU64::new(0));
        let bench = Bench {
            contexts: Contexts::new(proc.clone(), "/sys".into()),
            names: Names::new(proc.clone()),
            holders: Holders::new(proc.clone()),
            steal: Steal::default(),
            proc,
            notes,
            beside,
            open: Arc::clone(&open),
        };
        std::thread::Builder::new().name("examine".to_owned()).spawn(move || bench.run(&receiver))?;
        Ok(Self { cases, open })
    }

    /// Hands a case over; gives its syncs back when the thread is behind.
    ///
    /// # Errors
    /// The syncs, which will not be examined.
    pub fn take(&self, case: Case) -> Result<(), Vec<Held>> {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.cases.try_send(case).map_err(|refused| {
            self.open.fetch_sub(1, Ordering::AcqRel);
            let (TrySendError::Full(case) | TrySendError::Disconnected(case)) = refused;
            case.syncs
        })
    }

    /// Waits until everything that was handed over is examined, or the time is over.
    pub fn finish(&self, within: Duration) {
        let until = std::time::Instant::now() + within;
        while self.open.load(Ordering::Acquire) > 0 && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Bench {
    proc: ProcFs,
    contexts: Contexts,
    names: Names,
    holders: Holders,
    steal: Steal,
    notes: mpsc::Sender<Note>,
    beside: Beside,
    open: Arc<AtomicU64>,
}

impl Bench {
    fn run(mut self, cases: &Receiver<Case>) {
        loop {
            let next = cases.recv_timeout(SAMPLE_EVERY);
            if let Some(sample) = steal::read(&self.proc) {
                self.steal.note(mono_ns(), sample);
            }
            let case = match next {
                Ok(case) => case,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let facts = self.examine(&case);
            let count = facts.len();
            if self.notes.capacity() < RESERVE || self.notes.try_send(Note::Facts(facts)).is_err() {
                tracing::warn!(syncs = count, "examined slow syncs found no room");
                self.tell_lost(&case);
            }
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The loss is small; when even that finds no room, the hub is gone.
    fn tell_lost(&self, case: &Case) {
        let facts = case.syncs.iter().map(|held| super::left_out(held.process, "agent_busy", 1)).collect();
        let _hub_is_gone = self.notes.try_send(Note::Facts(facts));
    }

    fn examine(&mut self, case: &Case) -> Vec<Fact> {
        let now_ns = mono_ns();
        // What a quota refused is known up to the last reading only.
        self.beside.quotas.measure(now_ns);
        let evidence = &case.evidence;
        let one = |held: &Held| {
            let (window, counters) = self.contexts.of(held, evidence, now_ns);
            let steal_ns = self.steal.during(window.start_ns, window.end_ns());
            let (from_ns, until_ns) = (window.start_ns, window.end_ns());
            let cpu_throttled_ns = self.beside.quotas.during(held.process, from_ns, until_ns);
            let counters = Counters { steal_ns, cpu_throttled_ns, ..counters };
            let mut autopsy = autopsy(&window, &evidence.requests, &evidence.commits, &counters);
            self.beside.journals.note(&window, &autopsy, now_ns);
            let users = self.beside.journals.users(window.filesystem, from_ns, until_ns, now_ns);
            let block_bytes = self.beside.journals.block_bytes(window.filesystem);
            blame(&mut autopsy, &window, &users, block_bytes);
            for culprit in &mut autopsy.culprits {
                find_holder(&mut self.holders, &window, culprit, now_ns);
            }
            let names: Vec<CulpritName> =
                autopsy.culprits.iter().map(|culprit| self.names.of(culprit, now_ns)).collect();
            Fact::SlowSync(Box::new(fact(held, &window, autopsy, names)))
        };
        case.syncs.iter().map(one).collect()
    }
}

/// Whose pages writeback wrote, where only the file is known: whoever has it open for writing, most likely.
fn find_holder(holders: &mut Holders, window: &Window, culprit: &mut Culprit, now_ns: u64) {
    if culprit.origin != Origin::Writeback || culprit.cgroup != 0 {
        return;
    }
    let devices = [window.filesystem, culprit.device].map(number_of);
    if let Some(pid) = holders.of(File { inode: culprit.inode, devices }, now_ns) {
        culprit.process_id = pid;
        culprit.certainty = Certainty::Medium;
    }
}

fn fact(held: &Held, window: &Window, autopsy: Autopsy, names: Vec<CulpritName>) -> SlowSync {
    SlowSync {
        process: held.process,
        class: window.class,
        start_mono_ns: window.start_ns,
        latency_ns: window.latency_ns,
        thread_id: window.thread_id,
        inode: window.inode,
        device: window.filesystem,
        threshold_ns: held.threshold_ns,
        autopsy,
        names,
    }
}

#[cfg(test)]
mod tests;
