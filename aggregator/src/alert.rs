//! Alerts and their life: inactive → pending → firing → resolved. Pure: evaluations and a time in, changes out.
//!
//! Invariants
//! - An alert is its label set: at most one alert that is not resolved exists per fingerprint.
//! - *Unknown* and *quiet* never resolve a firing alert by themselves: unknown holds it for as long as it lasts, quiet for
//!   [`QUIET_HOLD`].
//! - An alert that nobody evaluates is unknown, unless its subject is positively gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::At;
use crate::rule::{Evaluation, Labels, Severity, Verdict};

mod fingerprint;
mod record;

pub use fingerprint::Fingerprint;

/// How long a firing alert outlives its last breach when too little happens to judge: a disk that hangs completely shows
/// no syncs at all.
pub const QUIET_HOLD: Duration = Duration::from_secs(60);

/// How long a pending alert waits for news when nobody reports.
pub const PENDING_UNKNOWN: Duration = Duration::from_secs(300);

/// How long resolved alerts are shown.
pub const RESOLVED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Most alerts, resolved ones included; the oldest resolved ones go first.
pub const MAX_ALERTS: usize = 10_000;

/// Where an alert is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The condition holds, not yet for long enough.
    Pending,
    /// It is a fact.
    Firing,
    /// It was one.
    Resolved,
}

impl State {
    /// The word in API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// An alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Its identity.
    pub labels: Labels,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is in its life.
    pub state: State,
    /// Evidence of the last breach, summary and next step.
    pub annotations: Labels,
    /// The value of the last breach.
    pub value: f64,
    /// First breach.
    pub started_at: At,
    /// When it began to fire.
    pub fired_at: Option<At>,
    /// When it ended.
    pub resolved_at: Option<At>,
    /// First delivery of its firing to a receiver.
    pub notified_at: Option<At>,
    /// Last breach.
    pub breached_at: At,
    /// Since when nobody can tell, and why.
    pub unknown: Option<(At, String)>,
}

/// Whether the subject of an alert that was not evaluated is positively gone, with the reason.
pub type GoneFor<'a> = &'a dyn Fn(&Labels) -> Option<String>;

/// All alerts.
#[derive(Debug, Clone, Default)]
pub struct Alerts {
    alerts: BTreeMap<Fingerprint, Alert>,
    refused: u64,
}

/// What a step changed and must be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Alerts that entered a new state.
    pub changed: Vec<(Fingerprint, State)>,
    /// Alerts that are forgotten.
    pub removed: Vec<Fingerprint>,
}

impl Alerts {
    /// Takes the evaluations of one moment.
    pub fn step(&mut self, at: At, evaluations: &[Evaluation], gone: GoneFor<'_>) -> Step {
        let mut step = Step::default();
        let mut evaluated = BTreeSet::new();
        for evaluation in evaluations {
            let id = Fingerprint::of(&evaluation.labels);
            // The first verdict on a subject counts: two can only come from two rules with the same labels.
            if evaluated.insert(id) {
                self.take(at, id, evaluation, &mut step);
            }
        }
        self.take_unevaluated(at, &evaluated, gone, &mut step);
        self.forget_old(at, &mut step);
        step
    }

    /// Every alert with its identity.
    pub fn iter(&self) -> impl Iterator<Item = (Fingerprint, &Alert)> {
        self.alerts.iter().map(|(id, alert)| (*id, alert))
    }

    /// One alert.
    pub fn get(&self, id: Fingerprint) -> Option<&Alert> {
        self.alerts.get(&id)
    }

    /// Puts back an alert that was kept. Nobody vouches for it until it is evaluated again.
    pub fn restore(&mut self, alert: Alert) {
        self.alerts.insert(Fingerprint::of(&alert.labels), alert);
    }

    /// Notes the first delivery of an alert's firing. True when that is news.
    pub fn note_delivery(&mut self, id: Fingerprint, at: At) -> bool {
        match self.alerts.get_mut(&id) {
            Some(alert) if alert.notified_at.is_none() && alert.fired_at.is_some_and(|fired| fired <= at) => {
                alert.notified_at = Some(at);
                true
            }
            _ => false,
        }
    }

    /// Alerts that were not raised because of [`MAX_ALERTS`].
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    fn take(&mut self, at: At, id: Fingerprint, evaluation: &Evaluation, step: &mut Step) {
        let rule = &evaluation.rule;
        let active = self.alerts.get_mut(&id).filter(|alert| alert.state != State::Resolved);
        let Some(alert) = active else {
            if let Verdict::Breached(_) = evaluation.verdict {
                self.raise(at, id, evaluation, step);
            }
            return;
        };
        match &evaluation.verdict {
            Verdict::Breached(evidence) => {
                alert.unknown = None;
                alert.breached_at = at;
                alert.value = evidence.value;
                alert.annotations = annotations(evaluation, &evidence.annotations);
                if alert.state == State::Pending && at.since(alert.started_at) >= rule.hold {
                    alert.fire(at);
                    step.changed.push((id, State::Firing));
                }
            }
            Verdict::Fine => self.calm(at, id, rule.keep_firing_for, step),
            Verdict::Quiet => self.calm(at, id, rule.keep_firing_for.max(QUIET_HOLD), step),
            Verdict::Unknown(reason) => self.lose_sight(at, id, reason, step),
        }
    }

    fn raise(&mut self, at: At, id: Fingerprint, evaluation: &Evaluation, step: &mut Step) {
        let Verdict::Breached(evidence) = &evaluation.verdict else { return };
        if !self.alerts.contains_key(&id) && self.alerts.len() >= MAX_ALERTS {
            self.refused += 1;
            return;
        }
        let mut alert = Alert {
            labels: evaluation.labels.clone(),
            severity: evaluation.rule.severity,
            state: State::Pending,
            annotations: annotations(evaluation, &evidence.annotations),
            value: evidence.value,
            started_at: at,
            fired_at: None,
            resolved_at: None,
            notified_at: None,
            breached_at: at,
            unknown: None,
        };
        if evaluation.rule.hold.is_zero() {
            alert.fire(at);
        }
        step.changed.push((id, alert.state));
        self.alerts.insert(id, alert);
    }

    /// The condition is gone; after `hold` that is believed.
    fn calm(&mut self, at: At, id: Fingerprint, hold: Duration, step: &mut Step) {
        let Some(alert) = self.alerts.get_mut(&id) else { return };
        alert.unknown = None;
        match alert.state {
            State::Pending => {
                self.alerts.remove(&id);
                step.removed.push(id);
            }
            State::Firing if at.since(alert.breached_at) >= hold => {
                alert.resolve(at);
                step.changed.push((id, State::Resolved));
            }
            State::Firing | State::Resolved => {}
        }
    }

    fn lose_sight(&mut self, at: At, id: Fingerprint, reason: &str, step: &mut Step) {
        let Some(alert) = self.alerts.get_mut(&id) else { return };
        let (since, _) = alert.unknown.get_or_insert_with(|| (at, reason.to_owned()));
        if alert.state == State::Pending && at.since(*since) >= PENDING_UNKNOWN {
            self.alerts.remove(&id);
            step.removed.push(id);
        }
    }

    fn take_unevaluated(
        &mut self,
        at: At,
        evaluated: &BTreeSet<Fingerprint>,
        gone: GoneFor<'_>,
        step: &mut Step,
    ) {
        let forgotten: Vec<Fingerprint> = self
            .alerts
            .iter()
            .filter(|(id, alert)| alert.state != State::Resolved && !evaluated.contains(*id))
            .map(|(id, _)| *id)
            .collect();
        for id in forgotten {
            let Some(alert) = self.alerts.get_mut(&id) else { continue };
            match gone(&alert.labels) {
                Some(reason) => {
                    alert.annotations.insert("resolved_because".to_owned(), reason);
                    self.calm(at, id, Duration::ZERO, step);
                }
                None => self.lose_sight(at, id, "nobody reports it", step),
            }
        }
    }

    fn forget_old(&mut self, at: At, step: &mut Step) {
        let surplus = self.alerts.len().saturating_sub(MAX_ALERTS * 9 / 10);
        let mut resolved: Vec<(At, Fingerprint)> =
            self.alerts.iter().filter_map(|(id, alert)| Some((alert.resolved_at?, *id))).collect();
        resolved.sort_unstable();
        for (position, (resolved_at, id)) in resolved.into_iter().enumerate() {
            if at.since(resolved_at) > RESOLVED_KEPT || position < surplus {
                self.alerts.remove(&id);
                step.removed.push(id);
            }
        }
    }
}

impl Alert {
    fn fire(&mut self, at: At) {
        self.state = State::Firing;
        self.fired_at = Some(at);
    }

    fn resolve(&mut self, at: At) {
        self.state = State::Resolved;
        self.resolved_at = Some(at);
    }

    /// A label's value; empty when it has none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

fn annotations(evaluation: &Evaluation, evidence: &Labels) -> Labels {
    let cluster_id = evaluation.labels.get("cluster_id").map_or("", String::as_str);
    let mut all = evidence.clone();
    all.insert("summary".to_owned(), evaluation.rule.summary.clone());
    // Evidence that knows the cause knows a better next step than the rule.
    all.entry("next_step".to_owned())
        .or_insert_with(|| evaluation.rule.next_step.replace("{cluster_id}", cluster_id));
    all
}

#[cfg(test)]
mod tests;
