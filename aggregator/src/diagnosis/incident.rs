//! Incidents: findings that are believed, and their life: pending → open → closed. Pure: findings and a time in, changes out.
//!
//! Invariants
//! - At most one incident per member and cause is pending or open.
//! - A finding is believed once as many messages in a row say so as it asks for, so that a flicker opens nothing; an incident
//!   is over once the member's messages have not said so for [`QUIET`], so that a flicker closes nothing.
//! - Who says nothing takes nothing back: while nobody reports the member, its incidents stay open, for [`UNHEARD`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Cause, Confidence, Culprit, DiagnosisView, Finding, Shown};
use crate::clock::At;

/// An incident is over when it was not seen for this long.
pub const QUIET: Duration = Duration::from_secs(10);

/// Incidents of a member that nobody reports are closed after this long.
pub const UNHEARD: Duration = Duration::from_secs(300);

/// Most incidents that are kept, open ones included; the oldest closed ones go first.
pub const MAX_KEPT: usize = 10_000;

/// Most incidents pending or open at a time.
const MAX_OPEN: usize = 2_000;

/// Closed incidents are kept for this long.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

/// An open incident that goes on is written to the state so often.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// A member of a cluster.
pub type Place = (Uuid, u64);

#[derive(Debug, Clone)]
struct Pending {
    onset: At,
    messages: u32,
    finding: Finding,
}

#[derive(Debug, Clone)]
struct Open {
    id: Uuid,
    opened_at: At,
    onset_at: At,
    /// Last message that showed it.
    seen_at: At,
    written_at: At,
    /// The most harm that a window showed, of late.
    peak_ns: u64,
    /// When `finding` was said.
    said_at: At,
    finding: Finding,
}

#[derive(Debug, Clone)]
struct Closed {
    cluster: Uuid,
    closed_at: At,
    view: Arc<DiagnosisView>,
}

/// As it stands in the state.
#[derive(Serialize, Deserialize)]
struct Record {
    cluster: Uuid,
    #[serde(flatten)]
    view: DiagnosisView,
}

/// What a step changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// Incidents that were opened, with what a log should say.
    pub opened: Vec<(Place, Cause, String)>,
    /// Incidents that were closed.
    pub closed: Vec<(Place, Cause)>,
    /// Records to be written, by id.
    pub written: Vec<(Uuid, Value)>,
    /// Records to be removed.
    pub removed: Vec<Uuid>,
}

impl Step {
    /// Adds what another one changed.
    pub fn append(&mut self, mut more: Self) {
        self.opened.append(&mut more.opened);
        self.closed.append(&mut more.closed);
        self.written.append(&mut more.written);
        self.removed.append(&mut more.removed);
    }
}

/// What an alert of a member says of its cause.
#[derive(Debug, Clone, PartialEq)]
pub struct Mention {
    /// The incident; `None` while it is only suspected.
    pub id: Option<Uuid>,
    /// `open`, `suspected` or `closed`.
    pub state: &'static str,
    /// The cause.
    pub cause: Cause,
    /// How sure it is.
    pub confidence: Confidence,
    /// Who did it.
    pub culprit: Option<Culprit>,
    /// Its part of the harm.
    pub share: f64,
    /// In a sentence.
    pub summary: String,
    /// What a person should do.
    pub next_step: String,
    /// Other causes that are open at the same time.
    pub also: Vec<Cause>,
}

/// All incidents.
#[derive(Debug, Clone, Default)]
pub struct Incidents {
    pending: BTreeMap<(Place, Cause), Pending>,
    open: BTreeMap<(Place, Cause), Open>,
    /// Oldest first.
    closed: VecDeque<Closed>,
    refused: u64,
    shown: Option<Shown>,
}

impl Incidents {
    /// Takes what the message of a member that came at `at` says. `new_id` makes random ids; `offset_ns` is how far the wall clock
    /// is ahead of steady time.
    pub fn note(
        &mut self,
        at: At,
        offset_ns: i64,
        place: Place,
        findings: Vec<Finding>,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Step {
        let mut step = Step::default();
        let said = |cause: Cause| findings.iter().any(|finding| finding.cause == cause);
        self.pending.retain(|(of, cause), _| *of != place || said(*cause));
        for finding in findings {
            let key = (place, finding.cause);
            if let Some(open) = self.open.get_mut(&key) {
                open.take(at, finding);
                self.shown = None;
                if at.since(open.written_at) >= WRITE_EVERY {
                    open.written_at = at;
                    step.written.push(record(place, &open.view(place, offset_ns)));
                }
            } else if self.believes(at, key, finding) {
                self.raise(at, offset_ns, key, new_id(), &mut step);
            }
        }
        step
    }

    /// Whether a finding was said often enough.
    fn believes(&mut self, at: At, key: (Place, Cause), finding: Finding) -> bool {
        if !self.pending.contains_key(&key) && self.pending.len() + self.open.len() >= MAX_OPEN {
            self.refused += 1;
            return false;
        }
        let needed = finding.confirmations;
        let onset = finding.onset.min(at);
        let pending = self.pending.entry(key).or_insert_with(|| Pending {
            onset,
            messages: 0,
            finding: finding.clone(),
        });
        pending.messages = pending.messages.saturating_add(1);
        pending.onset = pending.onset.min(onset);
        pending.finding = finding;
        pending.messages >= needed
    }

    fn raise(&mut self, at: At, offset_ns: i64, key: (Place, Cause), id: Uuid, step: &mut Step) {
        let Some(Pending { onset, finding, .. }) = self.pending.remove(&key) else { return };
        let open = Open {
            id,
            opened_at: at,
            onset_at: onset,
            seen_at: at,
            written_at: at,
            peak_ns: finding.weight_ns,
            said_at: at,
            finding,
        };
        step.opened.push((key.0, key.1, open.finding.summary.clone()));
        step.written.push(record(key.0, &open.view(key.0, offset_ns)));
        self.open.insert(key, open);
        self.shown = None;
    }

    /// Lets time pass. `heard` is the last message of a member that could have said something.
    pub fn tick(&mut self, at: At, offset_ns: i64, heard: &dyn Fn(Place) -> Option<At>) -> Step {
        let mut step = Step::default();
        let is_over = |place: Place, open: &Open| {
            let heard = heard(place).unwrap_or(open.seen_at).max(open.seen_at);
            heard.since(open.seen_at) >= QUIET || at.since(heard) >= UNHEARD
        };
        let over: Vec<(Place, Cause)> = self
            .open
            .iter()
            .filter(|((place, _), open)| is_over(*place, open))
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            let Some(open) = self.open.remove(&key) else { continue };
            let mut view = open.view(key.0, offset_ns);
            view.state = "closed".to_owned();
            view.closed_at = Some(at.shifted(offset_ns).date());
            step.written.push(record(key.0, &view));
            step.closed.push(key);
            self.closed.push_back(Closed { cluster: key.0.0, closed_at: at, view: Arc::new(view) });
            self.shown = None;
        }
        self.pending.retain(|(place, _), _| heard(*place).is_some_and(|heard| at.since(heard) < UNHEARD));
        self.forget(at, &mut step);
        step
    }

    fn forget(&mut self, at: At, step: &mut Step) {
        while let Some(oldest) = self.closed.front() {
            let is_surplus = self.closed.len() + self.open.len() > MAX_KEPT;
            if !is_surplus && at.since(oldest.closed_at) <= KEPT_FOR {
                break;
            }
            step.removed.push(oldest.view.id);
            self.closed.pop_front();
            self.shown = None;
        }
    }

    /// Puts back what was kept, in any order. Whoever's incident is open has until `at` + [`QUIET`] to say that it goes on.
    ///
    /// # Errors
    /// When the record has another shape.
    pub fn restore(&mut self, at: At, offset_ns: i64, json: &Value) -> Result<(), serde_json::Error> {
        let Record { cluster, view } = Record::deserialize(json)?;
        let steady = |date: DateTime<Utc>| {
            At::from_nanos(date.timestamp_nanos_opt().unwrap_or(i64::MAX)).shifted(offset_ns.saturating_neg())
        };
        let member = u64::from_str_radix(&view.member, 16).map_err(serde::de::Error::custom)?;
        self.shown = None;
        if let Some(closed_at) = view.closed_at {
            let closed_at = steady(closed_at);
            let place = self.closed.partition_point(|closed| closed.closed_at <= closed_at);
            self.closed.insert(place, Closed { cluster, closed_at, view: Arc::new(view) });
            return Ok(());
        }
        let open = Open {
            id: view.id,
            opened_at: steady(view.opened_at),
            onset_at: steady(view.onset_at),
            seen_at: at,
            written_at: at,
            peak_ns: 0,
            said_at: at,
            finding: Finding {
                cause: view.cause,
                share: view.share,
                confidence: view.confidence,
                culprits: view.culprit.into_iter().chain(view.culprits).collect(),
                summary: view.summary,
                evidence: view.evidence,
                ruled_out: view.ruled_out,
                next_step: view.next_step,
                onset: steady(view.onset_at),
                weight_ns: 0,
                confirmations: 1,
            },
        };
        self.open.insert(((cluster, member), view.cause), open);
        Ok(())
    }

    /// All that are kept, as the API shows them.
    pub fn shown(&mut self, offset_ns: i64) -> Shown {
        if let Some(shown) = &self.shown {
            return shown.clone().with_refused(self.refused);
        }
        let open = self.open.iter();
        let open = open.map(|((place, _), open)| (place.0, Arc::new(open.view(*place, offset_ns))));
        let closed = self.closed.iter().map(|closed| (closed.cluster, Arc::clone(&closed.view)));
        let shown = Shown::new(open.chain(closed));
        self.shown = Some(shown.clone());
        shown.with_refused(self.refused)
    }

    /// What an alert of a member says of its cause: what is open, else what is suspected, else what was closed at `since` or later.
    pub fn mention(&self, place: Place, since: At) -> Option<Mention> {
        let all = (place, Cause::DiskNeighbour)..=(place, Cause::Unknown);
        let mut open: Vec<&Open> = self.open.range(all.clone()).map(|(_, open)| open).collect();
        open.sort_by(|a, b| a.finding.rank().total_cmp(&b.finding.rank()).reverse());
        if let Some(first) = open.first() {
            let also = open.iter().skip(1).map(|open| open.finding.cause).collect();
            return Some(Mention { also, ..first.finding.mention("open", Some(first.id)) });
        }
        let pending = self.pending.range(all).map(|(_, pending)| &pending.finding);
        if let Some(finding) = pending.max_by(|a, b| a.rank().total_cmp(&b.rank())) {
            return Some(finding.mention("suspected", None));
        }
        let member = format!("{:016x}", place.1);
        let mut closed = self.closed.iter().rev().take_while(|closed| closed.closed_at >= since);
        let last = closed.find(|closed| closed.cluster == place.0 && closed.view.member == member)?;
        let view = &last.view;
        Some(Mention {
            id: Some(view.id),
            state: "closed",
            cause: view.cause,
            confidence: view.confidence,
            culprit: view.culprit.clone(),
            share: view.share,
            summary: view.summary.clone(),
            next_step: view.next_step.clone(),
            also: Vec::new(),
        })
    }
}

impl Open {
    /// A window with little harm, as at the end, does not replace what one with much said, unless it is the first to see who did it,
    /// or that was long ago; nor does one that no longer sees who did it take the name back.
    fn take(&mut self, at: At, mut finding: Finding) {
        self.seen_at = self.seen_at.max(at);
        let is_less = finding.weight_ns.saturating_mul(5) < self.peak_ns.saturating_mul(4);
        let names_first = self.finding.culprits.is_empty() && !finding.culprits.is_empty();
        let is_past = at.since(self.said_at) >= QUIET;
        if is_less && !names_first && !is_past {
            return;
        }
        self.peak_ns = if is_past { finding.weight_ns } else { self.peak_ns.max(finding.weight_ns) };
        self.said_at = at;
        if finding.culprits.is_empty() {
            finding.culprits = std::mem::take(&mut self.finding.culprits);
        }
        self.finding = finding;
    }

    fn view(&self, place: Place, offset_ns: i64) -> DiagnosisView {
        let date = |at: At| at.shifted(offset_ns).date();
        let finding = &self.finding;
        DiagnosisView {
            id: self.id,
            member: format!("{:016x}", place.1),
            state: "open".to_owned(),
            cause: finding.cause,
            opened_at: date(self.opened_at),
            onset_at: date(self.onset_at),
            updated_at: date(self.seen_at),
            closed_at: None,
            share: finding.share,
            confidence: finding.confidence,
            culprit: finding.culprits.first().cloned(),
            culprits: finding.culprits.iter().skip(1).cloned().collect(),
            summary: finding.summary.clone(),
            evidence: finding.evidence.clone(),
            ruled_out: finding.ruled_out.clone(),
            next_step: finding.next_step.clone(),
        }
    }
}

impl Finding {
    /// Which of several an alert names first: what explains most; what explains nothing comes last.
    fn rank(&self) -> f64 {
        match self.cause {
            Cause::Unknown => -2.0,
            Cause::DiskNearlyFull => -1.0,
            _ => self.share,
        }
    }

    fn mention(&self, state: &'static str, id: Option<Uuid>) -> Mention {
        Mention {
            id,
            state,
            cause: self.cause,
            confidence: self.confidence,
            culprit: self.culprits.first().cloned(),
            share: self.share,
            summary: self.summary.clone(),
            next_step: self.next_step.clone(),
            also: Vec::new(),
        }
    }
}

fn record(place: Place, view: &DiagnosisView) -> (Uuid, Value) {
    let record = Record { cluster: place.0, view: view.clone() };
    (view.id, serde_json::to_value(record).expect("text keys and finite numbers always serialise"))
}
