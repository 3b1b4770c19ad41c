//! The one owner of what the agent knows: members, the open batch, the live summary.
//!
//! All sources send it [`Note`]s over one bounded channel; a source that finds it full waits, except the probes, which count
//! what they could not hand over. The hub turns notes into rows of the open batch, closes it when the aggregator's pace says
//! so, and once a second publishes the live summary.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcdmon_etcd::Gauges;
use etcdmon_etcd::status::Status;
use etcdmon_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::clock::{Reading, SECOND_NS};
use crate::discover::{EtcdProcess, MemberIdentity, ProcessId};
use crate::encode::{Account, Builder, Roster, Sampling, wire_process};
use crate::fact::{Blind, Event, Fact, Lost};
use crate::logs::Home;
use crate::probe::Dumps;
use crate::probe::flight::Trigger;
use crate::send::live::Outlet;
use crate::spool::thread::SpoolHandle;
use crate::spool::{Batch, BatchId, Checkpoint, Coverage};
use crate::telemetry::Telemetry;

pub mod blind;
pub mod member;
pub mod slow;
pub mod told;

use blind::Question;
use member::MemberState;

/// Notes that may wait. At a dozen a second and member this is a minute's worth.
pub const NOTES_LIMIT: usize = 1024;

/// The live summary goes out this long after a second began, so that the second's syncs and the scrape are in it.
const LIVE_PHASE: Duration = Duration::from_millis(250);

/// A member that is gone is shown as not running so long, unless its next process is found before.
const GONE_SHOWN_NS: i64 = 24 * 3600 * SECOND_NS;

/// Members that are gone and shown: one of each data directory. Beyond it the one that is gone longest is forgotten.
const GONE_LIMIT: usize = 64;

/// A process that nothing else is known of any more keeps its cluster and member this long for rows that come late, such as
/// those of a dump; at most so many do.
const DEPARTED_KEPT_NS: i64 = 300 * SECOND_NS;
const DEPARTED_LIMIT: usize = 512;

/// The wall clock stepped if it moved against the monotonic clock by more than this between two seconds.
const CLOCK_STEP_NS: i64 = 100_000_000;

/// What sources tell the hub.
#[derive(Debug)]
pub enum Note {
    /// Discovery found a process; its ids if its WAL names them.
    Appeared(Box<EtcdProcess>, Option<MemberIdentity>),
    /// The WAL of a known process names its ids now.
    Identified(ProcessId, MemberIdentity),
    /// A process is gone.
    Gone(ProcessId),
    /// The probes watch a process from now on.
    Attached {
        /// Which.
        process: ProcessId,
        /// Since when.
        at: Reading,
    },
    /// All syncs of a process up to a second's end have been sent as facts.
    SecondEnded {
        /// Which.
        process: ProcessId,
        /// End of the second, Unix nanoseconds.
        until_ns: i64,
        /// Syncs of WAL and directories since it is watched.
        own_wal_syncs: u64,
    },
    /// Rows.
    Facts(Vec<Fact>),
    /// `/metrics` was read, or not.
    Scraped {
        /// Of whom.
        process: ProcessId,
        /// What it said, or why it was not read.
        outcome: Result<Gauges, String>,
        /// Syncs of WAL and directories that the probes had counted at that moment.
        own_wal_syncs: Option<u64>,
    },
    /// Status answered, or not.
    Status {
        /// Of whom.
        process: ProcessId,
        /// What it said, or why it did not.
        outcome: Result<Box<Status>, String>,
    },
    /// The member list.
    Peers {
        /// Whose view.
        process: ProcessId,
        /// The members.
        peers: Vec<v1::PeerMember>,
    },
    /// What a process gets of its node.
    Vitals(ProcessId, Box<v1::LiveVitals>),
    /// Why the member at home there does not start; `None` once it serves.
    Boot(Home, Option<v1::BootFailure>),
    /// Single syncs are chosen otherwise from now on.
    Sampling(Sampling),
    /// A capability is degraded.
    Degraded(v1::Degradation),
    /// A capability is whole again.
    Restored(Cow<'static, str>),
}

/// What the hub is made of.
#[derive(Debug)]
pub struct Parts {
    /// Identity of the agent.
    pub agent_id: [u8; 16],
    /// Identity of this agent process.
    pub epoch: [u8; 16],
    /// Kernel boot.
    pub boot_id: [u8; 16],
    /// How single syncs are chosen.
    pub sampling: Sampling,
    /// What an earlier agent process had kept.
    pub checkpoint: Checkpoint,
    /// Account of batches that were dropped; filled by the spool's thread.
    pub dropped: Arc<Mutex<Account>>,
    /// Where batches go.
    pub spool: SpoolHandle,
    /// The pace that the aggregator asks for.
    pub batch_interval: watch::Receiver<Duration>,
    /// Where the live summary goes.
    pub live: Outlet,
    /// Where dumps of the flight recorder are asked for.
    pub dumps: Dumps,
    /// The agent's own counters.
    pub telemetry: Arc<Telemetry>,
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    parts: Parts,
    members: BTreeMap<ProcessId, MemberState>,
    /// Processes that are gone, and when.
    gone_ns: BTreeMap<ProcessId, i64>,
    /// Processes whose place the next one of their member took, as they were known, and since when.
    departed: BTreeMap<ProcessId, (v1::Member, i64)>,
    /// Processes of the checkpoint that are no more, to be taken off it by the next batch.
    ended: Vec<ProcessId>,
    degraded: BTreeMap<String, v1::Degradation>,
    /// By the member that does not start; the logs' thread bounds it.
    boot_failures: BTreeMap<Home, v1::BootFailure>,
    builder: Builder,
    sequence: u64,
    live_number: u64,
    last_base: Option<Reading>,
    backlog: Option<Box<Batch>>,
}

struct Members<'a> {
    present: &'a BTreeMap<ProcessId, MemberState>,
    departed: &'a BTreeMap<ProcessId, (v1::Member, i64)>,
}

impl Roster for Members<'_> {
    fn member(&self, process: ProcessId) -> v1::Member {
        let departed = || self.departed.get(&process).map(|(member, _)| member.clone());
        let known = self.present.get(&process).map(MemberState::wire).or_else(departed);
        known.unwrap_or_else(|| v1::Member { process: Some(wire_process(process)), ..v1::Member::default() })
    }
}

impl Hub {
    /// Nothing known yet, at `now`.
    pub fn new(parts: Parts, now: Reading) -> Self {
        Self {
            builder: Builder::new(parts.agent_id, parts.boot_id, parts.sampling, now),
            parts,
            members: BTreeMap::new(),
            gone_ns: BTreeMap::new(),
            departed: BTreeMap::new(),
            ended: Vec::new(),
            degraded: BTreeMap::new(),
            boot_failures: BTreeMap::new(),
            sequence: 0,
            live_number: 0,
            last_base: None,
            backlog: None,
        }
    }

    /// Runs until every source has hung up, then closes the last batch.
    pub async fn run(mut self, mut notes: mpsc::Receiver<Note>, stop: CancellationToken) {
        let start = Instant::now() + Reading::now().until_next_second() + LIVE_PHASE;
        let mut seconds = tokio::time::interval_at(start, Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut opened = Instant::now();
        loop {
            let interval = *self.parts.batch_interval.borrow();
            tokio::select! {
                note = notes.recv() => match note {
                    Some(note) => self.take(note, Reading::now()),
                    None => break,
                },
                _ = seconds.tick() => {
                    self.second(Reading::now());
                    if opened.elapsed() + LIVE_PHASE >= interval {
                        opened = Instant::now();
                        self.close(Reading::now());
                    }
                }
                () = stop.cancelled(), if !notes.is_closed() => notes.close(),
            }
            if self.builder.is_full() {
                self.close(Reading::now());
            }
        }
        let now = Reading::now();
        self.release_all(now);
        self.close(now);
        if let Some(batch) = self.backlog.take() {
            self.parts.spool.push(batch).await;
        }
    }

    /// Adds one note.
    pub fn take(&mut self, note: Note, now: Reading) {
        match note {
            Note::Appeared(process, identity) => self.appeared(*process, identity, now),
            Note::Identified(process, identity) => {
                let held = self.members.get_mut(&process).map(|member| member.identified(identity));
                self.add_all(held.unwrap_or_default(), now);
            }
            Note::Gone(process) => self.gone(process, now),
            Note::Attached { process, at } => self.attached(process, at),
            Note::SecondEnded { process, until_ns, own_wal_syncs } => {
                if let Some(member) = self.members.get_mut(&process) {
                    member.second_ended(until_ns, own_wal_syncs);
                }
            }
            Note::Facts(facts) => self.facts(facts, now),
            Note::Scraped { process, outcome, own_wal_syncs } => {
                self.scraped(process, outcome, own_wal_syncs, now);
            }
            Note::Status { process, outcome } => self.answered(process, outcome, now),
            Note::Peers { process, peers } => {
                if let Some(member) = self.members.get_mut(&process) {
                    member.met(peers);
                }
            }
            Note::Vitals(process, vitals) => {
                if let Some(member) = self.members.get_mut(&process) {
                    member.vitals = Some(*vitals);
                }
            }
            Note::Boot(home, Some(failure)) => drop(self.boot_failures.insert(home, failure)),
            Note::Boot(home, None) => drop(self.boot_failures.remove(&home)),
            Note::Sampling(sampling) => {
                // A batch states one sampling.
                self.close(now);
                self.parts.sampling = sampling;
                self.builder.set_sampling(sampling);
            }
            Note::Degraded(degradation) => self.degrade(degradation, now),
            Note::Restored(capability) => self.restore(&capability, now),
        }
    }

    fn appeared(&mut self, process: EtcdProcess, identity: Option<MemberIdentity>, now: Reading) {
        let id = process.id;
        tracing::info!(
            pid = id.pid,
            name = process.name,
            data_dir = %process.data_dir.display(),
            member = identity.map(|identity| format!("{:016x}", identity.member_id)),
            "found etcd"
        );
        for note in &process.notes {
            tracing::warn!(pid = id.pid, note, "etcd is not seen whole");
        }
        let details = serde_json::json!({
            "name": process.name, "pid": id.pid, "data_dir": process.data_dir, "notes": process.notes,
        });
        if self.members.contains_key(&id) {
            // The process runs another etcd now: what it did before belongs to the one before.
            self.close(now);
        }
        // The next process of a member takes the place of the one that is gone.
        let replaced: Vec<ProcessId> = self
            .members
            .iter()
            .filter(|(_, known)| {
                let same_place = known.process.data_dir_here == process.data_dir_here;
                // In a container every process has another path here.
                !known.running && (same_place || (identity.is_some() && known.identity == identity))
            })
            .map(|(id, _)| *id)
            .collect();
        for old in replaced {
            self.depart(old, now);
        }
        // The same process may run another etcd now.
        self.gone_ns.remove(&id);
        self.members.insert(id, MemberState::new(process, identity, now));
        self.event(Some(id), "member.started", details, now);
    }

    fn gone(&mut self, process: ProcessId, now: Reading) {
        let Some(member) = self.members.get_mut(&process) else { return };
        member.running = false;
        let held = member.release(Reading { wall_ns: i64::MAX, ..now });
        tracing::info!(pid = process.pid, name = member.process.name, "etcd is gone");
        let details = serde_json::json!({ "name": member.process.name, "pid": process.pid });
        self.gone_ns.insert(process, now.wall_ns);
        self.ended.push(process);
        self.add_all(held.unwrap_or_default(), now);
        self.event(Some(process), "member.gone", details, now);
    }

    /// Takes a process off the members. Rows of it that wait or come late keep its cluster and member.
    fn depart(&mut self, process: ProcessId, now: Reading) {
        self.gone_ns.remove(&process);
        let Some(member) = self.members.remove(&process) else { return };
        if self.departed.len() >= DEPARTED_LIMIT
            && let Some(oldest) = self.departed.iter().min_by_key(|(_, (_, since))| *since).map(|(id, _)| *id)
        {
            self.departed.remove(&oldest);
        }
        self.departed.insert(process, (member.wire(), now.wall_ns));
    }

    fn attached(&mut self, process: ProcessId, at: Reading) {
        let kept = self.parts.checkpoint.processes.remove(&process);
        let Some(member) = self.members.get_mut(&process) else { return };
        let question = match member.covered() {
            Some(covered) => Question::after_pause(process, at.wall_ns, covered),
            None => {
                let started_ns = crate::clock::process_start_wall_ns(process.start_ticks);
                Question::new(process, started_ns, at.wall_ns, kept)
            }
        };
        member.watched_from(at.wall_ns, question);
    }

    fn scraped(
        &mut self,
        process: ProcessId,
        outcome: Result<Gauges, String>,
        own_wal_syncs: Option<u64>,
        now: Reading,
    ) {
        let Some(member) = self.members.get_mut(&process) else { return };
        let reference = member.scraped(outcome, own_wal_syncs);
        let Some(question) = &mut member.question else { return };
        let answer = reference.and_then(|(etcd, own)| question.read(etcd, own));
        if let Some(answer) = answer.or_else(|| question.give_up(now.wall_ns)) {
            member.question = None;
            self.add_all(answer.map(Fact::Blind).into_iter().collect(), now);
        }
    }

    fn answered(&mut self, process: ProcessId, outcome: Result<Box<Status>, String>, now: Reading) {
        let Some(member) = self.members.get_mut(&process) else { return };
        let is_answer = outcome.is_ok();
        let held = member.answered(outcome);
        let has_other_leader = is_answer && member.has_other_leader();
        self.add_all(held, now);
        if has_other_leader {
            // Whether it is taken shows in the dump's event; there is nothing else to do about it.
            let _too_busy = self.parts.dumps.ask(Some(process), Trigger::LeaderChange);
        }
    }

    fn facts(&mut self, facts: Vec<Fact>, now: Reading) {
        for fact in facts {
            if let Fact::TimeBase(base) = &fact {
                self.check_clock(*base);
            }
            let member = fact.process().and_then(|process| self.members.get_mut(&process));
            let fact = match member {
                Some(member) => {
                    match &fact {
                        Fact::SyncSecond(second) => member.add_syncs(second),
                        Fact::SlowSync(sync) => {
                            let offset_ns = now.wall_minus_mono_ns();
                            member.slow.add(sync, sync.start_mono_ns.cast_signed().wrapping_add(offset_ns));
                        }
                        Fact::Lost(lost) if lost.stream == "autopsy" => member.slow.left_out(lost.count),
                        _ => {}
                    }
                    member.hold(fact)
                }
                None => Some(fact),
            };
            self.add_all(fact.into_iter().collect(), now);
        }
    }

    fn add_all(&mut self, facts: Vec<Fact>, now: Reading) {
        for fact in facts {
            self.builder.add(fact, now);
        }
    }

    fn event(
        &mut self,
        process: Option<ProcessId>,
        kind: &'static str,
        details: serde_json::Value,
        now: Reading,
    ) {
        let fact = Fact::Event(Event { process, mono_ns: now.mono_ns, kind, details });
        self.facts(vec![fact], now);
    }

    fn check_clock(&mut self, base: Reading) {
        let Some(last) = self.last_base.replace(base) else { return };
        let step_ns = base.wall_minus_mono_ns() - last.wall_minus_mono_ns();
        if step_ns.abs() > CLOCK_STEP_NS {
            tracing::warn!(step_ns, "the wall clock stepped");
            self.event(None, "clock.step", serde_json::json!({ "step_ns": step_ns }), base);
        }
    }

    fn degrade(&mut self, degradation: v1::Degradation, now: Reading) {
        let known = self.degraded.insert(degradation.capability.clone(), degradation.clone());
        if known.as_ref() == Some(&degradation) {
            return;
        }
        let v1::Degradation { capability, reason, remedy } = degradation;
        tracing::warn!(capability, reason, remedy, "capability degraded");
        let details = serde_json::json!({ "capability": capability, "reason": reason, "remedy": remedy });
        self.event(None, "capability.degraded", details, now);
    }

    fn restore(&mut self, capability: &str, now: Reading) {
        if self.degraded.remove(capability).is_some() {
            tracing::info!(capability, "capability restored");
            self.event(None, "capability.restored", serde_json::json!({ "capability": capability }), now);
        }
    }

    /// What is due once a second.
    fn second(&mut self, now: Reading) {
        let due: Vec<Fact> = self.members.values_mut().filter_map(|m| m.release(now)).flatten().collect();
        if !due.is_empty() {
            tracing::warn!(facts = due.len(), "ids of a member not known in time: its facts go without");
            self.parts.telemetry.unidentified_facts.inc_by(due.len() as u64);
            self.add_all(due, now);
        }
        self.account_for_held_back(now);
        self.forget_gone(now);
        let running = self.members.values().filter(|member| member.running).count();
        self.parts.telemetry.members.set(running as i64);
        let live = self.live(now);
        self.parts.live.publish(live);
    }

    fn forget_gone(&mut self, now: Reading) {
        let mut gone: Vec<(i64, ProcessId)> = self.gone_ns.iter().map(|(id, since)| (*since, *id)).collect();
        gone.sort_unstable();
        let surplus = gone.len().saturating_sub(GONE_LIMIT);
        let is_over = |(place, (since_ns, _)): &(usize, (i64, ProcessId))| {
            *place < surplus || now.wall_ns - since_ns >= GONE_SHOWN_NS
        };
        for (_, (_, process)) in gone.into_iter().enumerate().filter(is_over) {
            self.depart(process, now);
        }
        self.departed.retain(|_, (_, since_ns)| now.wall_ns - *since_ns < DEPARTED_KEPT_NS);
    }

    fn account_for_held_back(&mut self, now: Reading) {
        let mut lost = Vec::new();
        for (process, member) in &mut self.members {
            let count = std::mem::take(&mut member.held_back_dropped);
            if count > 0 {
                lost.push(Fact::Lost(Lost {
                    process: Some(*process),
                    wall_ns: now.wall_ns,
                    stream: "fact",
                    reason: "held_back".to_owned(),
                    count,
                }));
            }
        }
        self.add_all(lost, now);
    }

    fn live(&mut self, now: Reading) -> v1::Live {
        self.live_number += 1;
        v1::Live {
            epoch: self.parts.epoch.to_vec(),
            number: self.live_number,
            sent_mono_ns: now.mono_ns,
            wall_minus_mono_ns: now.wall_minus_mono_ns(),
            members: self.members.values().map(|member| self.live_member(member)).collect(),
            degraded: self.degraded.values().cloned().collect(),
            late: false,
        }
    }

    fn live_member(&self, member: &MemberState) -> v1::LiveMember {
        let failure = self.boot_failures.get(&Home::of(&member.process));
        v1::LiveMember { boot_failure: failure.cloned(), ..member.live() }
    }

    fn release_all(&mut self, now: Reading) {
        let over = Reading { wall_ns: i64::MAX, ..now };
        let mut held: Vec<Fact> =
            self.members.values_mut().filter_map(|m| m.release(over)).flatten().collect();
        for member in self.members.values_mut() {
            if let Some(answer) = member.question.as_ref().and_then(Question::conclude) {
                member.question = None;
                held.extend(answer.map(Fact::Blind));
            }
        }
        self.add_all(held, now);
    }

    /// Closes the open batch and hands it to the spool.
    fn close(&mut self, now: Reading) {
        self.account_for_ended(now);
        if let Some(batch) = self.backlog.take() {
            // The spool's thread is stuck: the open batch goes on growing, up to its limit.
            self.backlog = self.parts.spool.try_push(batch).err();
        }
        if self.backlog.is_some() && !self.builder.is_full() {
            return;
        }
        let account = match self.parts.dropped.lock() {
            Ok(mut account) => std::mem::take(&mut *account),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        };
        self.builder.add_account(&account, now);
        let members = Members { present: &self.members, departed: &self.departed };
        let Some(closed) = self.builder.close(&members) else { return };
        self.sequence += 1;
        let mut coverage: Vec<Coverage> = self.members.values().filter_map(MemberState::coverage).collect();
        coverage.extend(self.ended.drain(..).map(|process| Coverage { process, kept: None }));
        self.parts.telemetry.closed(&closed);
        let batch = Box::new(Batch {
            id: BatchId { epoch: self.parts.epoch, sequence: self.sequence },
            payload: closed.payload,
            counts: closed.counts,
            span_ns: closed.span_ns,
            oldest_mono_ns: closed.oldest_mono_ns,
            coverage,
        });
        match self.backlog.take() {
            None => self.backlog = self.parts.spool.try_push(batch).err(),
            Some(older) => {
                // Two full batches wait: the older one is given up, and accounted for.
                self.parts.spool.give_up(&older, &self.parts.dropped);
                self.backlog = Some(batch);
            }
        }
    }

    /// Processes that the checkpoint knows and that were not found any more: what they did after it nobody knows.
    fn account_for_ended(&mut self, now: Reading) {
        let patience_over = self.live_number > 5;
        if !patience_over || self.parts.checkpoint.processes.is_empty() {
            return;
        }
        for (process, kept) in std::mem::take(&mut self.parts.checkpoint.processes) {
            if self.members.get(&process).is_some_and(|member| member.running) {
                // Found, but not attached yet (or eBPF is degraded): the question comes with the attachment.
                self.parts.checkpoint.processes.insert(process, kept);
                continue;
            }
            self.ended.push(process);
            let blind = Blind {
                process,
                from_ns: kept.until_ns,
                to_ns: now.wall_ns.max(kept.until_ns),
                count: 0,
                reason: "agent_down",
                ids: Some((kept.cluster_id, kept.member_id)),
            };
            self.add_all(vec![Fact::Blind(blind)], now);
        }
    }
}

#[cfg(test)]
mod tests;
