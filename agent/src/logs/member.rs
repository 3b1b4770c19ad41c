//! One member's log over the restarts of its process, and what is concluded from how it starts and ends.

use etcdmon_proto::v1;
use serde_json::json;

use super::Home;
use super::find::Source;
use super::follow::Follow;
use super::incident::{Incident, Incidents};
use super::outside;
use super::verdict::{Exit, Facts, Verdict, judge};
use crate::clock::{Reading, SECOND_NS};
use crate::discover::{EtcdProcess, ProcFs};
use crate::fact::{Event, Fact};
use crate::hub::Note;

/// What a process wrote last is waited for so long.
const DRAIN_NS: i64 = 300_000_000;

/// A process that does not serve after so long is looked at, and again every so often.
const PATIENCE_NS: i64 = 4 * SECOND_NS;

/// A process that does not serve is not looked at any more after so long.
const INTEREST_NS: i64 = 120 * SECOND_NS;

/// Without a log, a process that ends within so long of its start did not start; one that lives longer serves.
const BRIEF_NS: i64 = 30 * SECOND_NS;

/// See the module.
#[derive(Debug)]
pub struct Member {
    /// What stays.
    pub home: Home,
    /// Its log.
    pub follow: Follow,
    process: EtcdProcess,
    user: u32,
    sources: Vec<Source>,
    started_ns: i64,
    gone: Option<Gone>,
    looked_ns: i64,
    told_waiting: Option<&'static str>,
}

#[derive(Debug)]
struct Gone {
    at_ns: i64,
    exit: Option<Exit>,
    concluded: bool,
}

impl Member {
    /// A process just found. `fresh`: it began while the agent ran.
    pub fn new(process: EtcdProcess, user: u32, sources: Vec<Source>, started_ns: i64, fresh: bool) -> Self {
        Self {
            home: Home::of(&process),
            follow: Follow::new(process.id, started_ns, fresh, sources.clone()),
            process,
            user,
            sources,
            started_ns,
            gone: None,
            looked_ns: 0,
            told_waiting: None,
        }
    }

    /// Its next process.
    pub fn restarted(&mut self, process: EtcdProcess, user: u32, sources: Vec<Source>, started_ns: i64) {
        if self.sources == sources {
            self.follow.restarted(process.id, started_ns);
        } else {
            self.follow = Follow::new(process.id, started_ns, true, sources.clone());
            self.sources = sources;
        }
        (self.process, self.user, self.started_ns) = (process, user, started_ns);
        (self.gone, self.looked_ns, self.told_waiting) = (None, 0, None);
    }

    /// Its process has ended; the first word on that counts.
    pub fn ended(&mut self, exit: Option<Exit>, now: Reading) {
        self.gone.get_or_insert(Gone { at_ns: now.wall_ns, exit, concluded: false });
    }

    /// Whether its process has ended and nobody said so.
    pub fn is_lost(&self, proc: &ProcFs) -> bool {
        let id = self.process.id;
        self.gone.is_none() && proc.stat(id.pid).is_none_or(|stat| stat.start_ticks != id.start_ticks)
    }

    /// Whether its process has ended.
    pub const fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Whether its process ended before `then_ns`.
    pub fn is_gone_since(&self, then_ns: i64) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.at_ns < then_ns)
    }

    /// What is to be told now.
    pub fn consider(&mut self, proc: &ProcFs, incidents: &mut Incidents, now: Reading) -> Vec<Note> {
        match &self.gone {
            Some(gone) if !gone.concluded && now.wall_ns - gone.at_ns >= DRAIN_NS => {
                self.conclude(proc, incidents, now)
            }
            Some(_) => Vec::new(),
            None if self.serves(now) => self.recovered(incidents, now),
            None => self.wait(proc, incidents, now),
        }
    }

    /// What its end means, once.
    pub fn conclude(&mut self, proc: &ProcFs, incidents: &mut Incidents, now: Reading) -> Vec<Note> {
        let lived = self.gone.as_ref().map_or(0, |gone| gone.at_ns - self.started_ns);
        // Of one that ran for long, what tells that it served may lie in a log that was rotated away.
        let served = self.serves(now) || lived > INTEREST_NS;
        let Some(gone) = self.gone.as_mut().filter(|gone| !gone.concluded) else { return Vec::new() };
        gone.concluded = true;
        let (exit, at_ns) = (gone.exit, gone.at_ns);
        let findings = match served {
            true => Vec::new(),
            false => outside::look(proc, &self.process, self.user, true, now.wall_ns),
        };
        let boot = &mut self.follow.boot;
        let facts =
            Facts { exit, ended: true, stopping: boot.stopping, findings: &findings, lines: boot.lines() };
        let Some(verdict) = judge(&facts) else { return Vec::new() };
        let lived_ns = at_ns.saturating_sub(self.started_ns).max(0);
        if served {
            return vec![self.event("etcd.crashed", details(&verdict, exit, lived_ns), now)];
        }
        self.failed(verdict, exit, lived_ns, incidents, now)
    }

    /// Whether it serves, or did until it ended.
    fn serves(&self, now: Reading) -> bool {
        let until_ns = self.gone.as_ref().map_or(now.wall_ns, |gone| gone.at_ns);
        let unread = self.sources.is_empty();
        self.follow.boot.ready || (unread && until_ns - self.started_ns > BRIEF_NS)
    }

    /// It runs and does not serve yet.
    fn wait(&mut self, proc: &ProcFs, incidents: &mut Incidents, now: Reading) -> Vec<Note> {
        let age_ns = now.wall_ns - self.started_ns;
        let looked = now.wall_ns - self.looked_ns < PATIENCE_NS / 2;
        // One that was there before the agent: where its log was rotated since, nothing tells that it serves.
        if !(PATIENCE_NS..INTEREST_NS).contains(&age_ns) || looked {
            return Vec::new();
        }
        self.looked_ns = now.wall_ns;
        let findings = outside::look(proc, &self.process, self.user, false, now.wall_ns);
        let lines = self.follow.boot.lines();
        let facts = Facts { exit: None, ended: false, stopping: false, findings: &findings, lines };
        if let Some(verdict) = judge(&facts) {
            if self.told_waiting.replace(verdict.cause) == Some(verdict.cause) {
                return Vec::new();
            }
            return self.failed(verdict, None, age_ns, incidents, now);
        }
        // Peers that do not answer are named by the log; without one, nothing is known.
        let alone = lines.iter().any(|line| {
            line.text.contains("prober detected unhealthy status")
                || line.text.starts_with("health check for peer")
        });
        if alone && self.told_waiting.is_none() {
            self.told_waiting = Some("no_quorum");
            let details = json!({
                "cause": "no_quorum",
                "detail": "etcd runs and waits for a majority of its peers; that is no failure of its own",
                "waited_ns": age_ns,
            });
            return vec![self.event("etcd.boot_waiting", details, now)];
        }
        Vec::new()
    }

    fn failed(
        &self,
        verdict: Verdict,
        exit: Option<Exit>,
        lived_ns: i64,
        incidents: &mut Incidents,
        now: Reading,
    ) -> Vec<Note> {
        let told = details(&verdict, exit, lived_ns);
        let (incident, first, forgotten) = incidents.failed(&self.home, verdict, now.wall_ns);
        let mut notes = vec![Note::Boot(self.home.clone(), Some(wire(incident)))];
        notes.extend(forgotten.map(|home| Note::Boot(home, None)));
        if first {
            let verdict = &incident.verdict;
            tracing::warn!(
                name = self.process.name,
                data_dir = %self.home.data_dir.display(),
                cause = verdict.cause,
                evidence = verdict.evidence,
                "etcd does not start"
            );
            notes.push(self.event("etcd.boot_failed", told, now));
        }
        notes
    }

    fn recovered(&self, incidents: &mut Incidents, now: Reading) -> Vec<Note> {
        let Some(incident) = incidents.recovered(&self.home) else { return Vec::new() };
        let details = json!({
            "cause": incident.verdict.cause,
            "failures": incident.failures,
            "for_ns": now.wall_ns - incident.first_ns,
        });
        vec![Note::Boot(self.home.clone(), None), self.event("etcd.boot_recovered", details, now)]
    }

    fn event(&self, kind: &'static str, mut details: serde_json::Value, now: Reading) -> Note {
        details["name"] = json!(self.process.name);
        details["data_dir"] = json!(self.home.data_dir);
        let process = Some(self.process.id);
        Note::Facts(vec![Fact::Event(Event { process, mono_ns: now.mono_ns, kind, details })])
    }
}

fn details(verdict: &Verdict, exit: Option<Exit>, lived_ns: i64) -> serde_json::Value {
    json!({
        "cause": verdict.cause,
        "detail": verdict.detail,
        "evidence": verdict.evidence,
        "next_step": verdict.next_step,
        "exit": exit.map(Exit::describe),
        "lived_ns": lived_ns,
    })
}

fn wire(incident: &Incident) -> v1::BootFailure {
    let Incident { verdict, failures, first_ns, last_ns } = incident;
    v1::BootFailure {
        cause: verdict.cause.to_owned(),
        detail: verdict.detail.clone(),
        evidence: verdict.evidence.clone(),
        next_step: verdict.next_step.to_owned(),
        failures: *failures,
        first_wall_ns: *first_ns,
        last_wall_ns: *last_ns,
    }
}
