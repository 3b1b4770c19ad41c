//! Who is told of which alerts, and when: inhibit → group → dedup → outbox → send with retry → log.
//!
//! [`Notices::plan`] is the first half in one pure function; its result is committed in one transaction with the alerts it
//! speaks of, and only then handed to [`outbox`], the second half.
//!
//! # What a crash can do
//! A notice is in the outbox if and only if the mark "this receiver was told of these alerts" is in the state. So a crash
//! - before the commit loses both, and the next process plans the same notice again;
//! - between commit and delivery leaves the notice in the outbox, and the next process delivers it;
//! - between the receiver's 2xx and the removal from the outbox delivers it a second time, with the same
//!   `Idempotency-Key`: the one place where *at least once* shows. Nothing else can double a notice.
//!
//! When the state can't be written at all (full or hanging disk), notices are delivered from memory: a page that may
//! come twice after a restart is better than none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::alert::{Alert, Alerts, Fingerprint, State as AlertState};
use crate::clock::At;
use crate::rule::{Inhibition, Labels, Pace, Profile, Severity};
use crate::state::{Change, Entity, Expected, kind};

pub mod channel;
mod mark;
pub mod outbox;
mod payload;
pub(crate) mod retry;

pub use payload::MAX_ALERTS_PER_NOTICE;

/// Labels that make a group: alerts that agree in them are told together.
const GROUP_BY: [&str; 3] = ["alertname", "cluster_id", "severity"];

/// Why a notice is sent, in the words of Alertmanager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// First notice of the group.
    First,
    /// Alerts were added to the group.
    NewAlerts,
    /// Alerts of the group were resolved.
    Resolved,
    /// Nothing changed for long.
    Repeat,
}

impl Reason {
    /// The word in the webhook's body.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first notification",
            Self::NewAlerts => "new alerts in group",
            Self::Resolved => "alerts resolved",
            Self::Repeat => "repeat interval elapsed",
        }
    }
}

/// A notice to be delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Random id of the delivery, the same on every attempt.
    pub delivery: String,
    /// For whom: id of a channel.
    pub receiver: String,
    /// Which group.
    pub group: String,
    /// When it was planned, in Unix nanoseconds.
    pub created_at_ns: i64,
    /// The body, in Alertmanager's webhook format version 4.
    pub body: Value,
}

/// What a receiver was told of a group.
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    /// The last notice.
    last_at: At,
    /// Alerts that it was told fire, and not yet that they were resolved.
    told: BTreeMap<Fingerprint, Told>,
}

#[derive(Debug, Clone, PartialEq)]
struct Told {
    /// Begin of the firing that was told: another one is another alert.
    fired_at: At,
    labels: Labels,
    annotations: Labels,
}

type Place = (String, String);

/// What every receiver was told.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    marks: BTreeMap<Place, Mark>,
}

/// The notices of one moment and what must be committed with them.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Notices, each with its [`Change::Enqueue`] in `changes`, in the same order.
    pub notices: Vec<Notice>,
    /// The transaction.
    pub changes: Vec<Change>,
}

/// What planning looks at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Now.
    pub at: At,
    /// How far the wall clock is ahead of steady time, in nanoseconds.
    pub offset_ns: i64,
    /// All alerts.
    pub alerts: &'a Alerts,
    /// Inhibitions and pace.
    pub profile: &'a Profile,
    /// Ids of the channels.
    pub receivers: &'a [String],
    /// Where the API is reached, for links in notices.
    pub external_url: &'a str,
}

/// Alerts of a group that fire and are not inhibited.
type Group<'a> = BTreeMap<Fingerprint, &'a Alert>;

impl Notices {
    /// From what the state kept; marks that do not parse are dropped, which can repeat a notice but lose none.
    /// `offset_ns` is how far the wall clock is ahead of steady time.
    pub fn restore(entities: &[Entity], offset_ns: i64) -> Self {
        let marks = entities.iter().filter_map(|entity| {
            let (receiver, group) = entity.id.split_once(' ')?;
            let mark = Mark::from_record(&entity.json, offset_ns)?;
            Some(((receiver.to_owned(), group.to_owned()), mark))
        });
        Self { marks: marks.collect() }
    }

    /// Decides what is told to whom now, and takes it as told.
    pub fn plan(&mut self, situation: Situation<'_>) -> Plan {
        let groups = group(&situation);
        let mut places: BTreeSet<Place> = self.marks.keys().cloned().collect();
        for receiver in situation.receivers {
            places.extend(groups.keys().map(|group| (receiver.clone(), group.clone())));
        }
        let none = Group::new();
        let mut plan = Plan::default();
        for place in places {
            let firing = groups.get(&place.1).unwrap_or(&none);
            if situation.receivers.contains(&place.0) {
                self.plan_one(&situation, place, firing, &mut plan);
            } else {
                // The receiver is no longer configured.
                plan.changes.push(forget(&place));
                self.marks.remove(&place);
            }
        }
        plan
    }

    fn plan_one(&mut self, situation: &Situation<'_>, place: Place, firing: &Group<'_>, plan: &mut Plan) {
        let mark = self.marks.get(&place);
        let ended = mark.map(|mark| ended(mark, situation)).unwrap_or_default();
        let Some(reason) = due(situation, mark, firing, &ended) else { return };
        let body = payload::body(situation, &place.1, firing, &ended, reason);
        let now_ns = situation.at.shifted(situation.offset_ns).nanos();
        let mut told = mark.map(|mark| mark.told.clone()).unwrap_or_default();
        ended.keys().for_each(|id| drop(told.remove(id)));
        for (id, alert) in firing {
            told.insert(*id, Told::of(alert));
        }
        if told.is_empty() {
            plan.changes.push(forget(&place));
            self.marks.remove(&place);
        } else {
            let mark = Mark { last_at: situation.at, told };
            plan.changes.push(remember(&place, &mark, situation.offset_ns));
            self.marks.insert(place.clone(), mark);
        }
        let notice = Notice {
            delivery: Uuid::new_v4().to_string(),
            receiver: place.0,
            group: place.1,
            created_at_ns: now_ns,
            body,
        };
        plan.changes.push(notice.enqueue());
        plan.notices.push(notice);
    }
}

impl Notice {
    fn enqueue(&self) -> Change {
        Change::Enqueue {
            delivery: self.delivery.clone(),
            receiver: self.receiver.clone(),
            group: self.group.clone(),
            created_at_ns: self.created_at_ns,
            json: self.body.clone(),
        }
    }
}

impl Told {
    fn of(alert: &Alert) -> Self {
        Self {
            fired_at: fired_at(alert),
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
        }
    }
}

/// Inhibit, then group.
fn group<'a>(situation: &Situation<'a>) -> BTreeMap<String, Group<'a>> {
    let firing: Vec<(Fingerprint, &Alert)> =
        situation.alerts.iter().filter(|(_, alert)| alert.state == AlertState::Firing).collect();
    let silencers: Vec<Silencers<'_>> =
        situation.profile.inhibitions.iter().map(|rule| Silencers::of(rule, &firing)).collect();
    let mut groups: BTreeMap<String, Group<'a>> = BTreeMap::new();
    for (id, alert) in &firing {
        let inhibited = silencers.iter().any(|it| it.silence(alert));
        if !inhibited && situation.profile.notify.contains_key(&alert.severity) {
            groups.entry(group_key(alert)).or_default().insert(*id, alert);
        }
    }
    groups
}

fn group_key(alert: &Alert) -> String {
    let parts: Vec<String> = GROUP_BY.iter().map(|name| format!("{name}={:?}", alert.label(name))).collect();
    format!("{{{}}}", parts.join(","))
}

/// What silences by one inhibition. Looked up, not searched: in a large outage there are as many sources as targets.
struct Silencers<'a> {
    rule: &'a Inhibition,
    /// Values of the labels that source and target have in common, and whether the source is a target as well: those do not
    /// silence each other.
    sources: BTreeSet<(Vec<&'a str>, bool)>,
}

impl<'a> Silencers<'a> {
    fn of(rule: &'a Inhibition, firing: &[(Fingerprint, &'a Alert)]) -> Self {
        let sources = firing.iter().map(|(_, alert)| *alert).filter(|alert| has(alert, &rule.source));
        Self { rule, sources: sources.map(|alert| (rule.common(alert), has(alert, &rule.target))).collect() }
    }

    fn silence(&self, target: &Alert) -> bool {
        if !has(target, &self.rule.target) {
            return false;
        }
        let (common, is_source) = (self.rule.common(target), has(target, &self.rule.source));
        self.sources.contains(&(common.clone(), false))
            || (!is_source && self.sources.contains(&(common, true)))
    }
}

impl Inhibition {
    fn common<'a>(&self, alert: &'a Alert) -> Vec<&'a str> {
        self.equal.iter().map(|name| alert.label(name)).collect()
    }
}

/// Whether an alert has all these labels.
fn has(alert: &Alert, labels: &Labels) -> bool {
    labels.iter().all(|(name, value)| alert.label(name) == value)
}

/// Alerts that the receiver believes to fire and that no longer do (resolved, gone, or firing anew), with their end.
type Ended = BTreeMap<Fingerprint, (Told, At)>;

fn ended(mark: &Mark, situation: &Situation<'_>) -> Ended {
    let end = |id: &Fingerprint, told: &Told| match situation.alerts.get(*id) {
        Some(alert) if alert.state == AlertState::Firing && is_same_firing(alert, told) => None,
        alert => Some(alert.and_then(|alert| alert.resolved_at).unwrap_or(situation.at)),
    };
    mark.told.iter().filter_map(|(id, told)| Some((*id, (told.clone(), end(id, told)?)))).collect()
}

fn fired_at(alert: &Alert) -> At {
    alert.fired_at.unwrap_or(alert.started_at)
}

/// Alert and mark are kept in wall time; what a step of the clock between their two commits can do is less than this.
const SAME_FIRING: Duration = Duration::from_millis(500);

fn is_same_firing(alert: &Alert, told: &Told) -> bool {
    fired_at(alert).since(told.fired_at).max(told.fired_at.since(fired_at(alert))) <= SAME_FIRING
}

/// Whether the receiver must be told something now.
fn due(situation: &Situation<'_>, mark: Option<&Mark>, firing: &Group<'_>, ended: &Ended) -> Option<Reason> {
    let at = situation.at;
    let severity = firing
        .values()
        .map(|alert| alert.severity)
        .next()
        .or_else(|| ended.values().next().and_then(|(told, _)| severity_of(&told.labels)));
    let pace = situation.profile.notify.get(&severity?)?;
    let waited = |alerts: &mut dyn Iterator<Item = &&Alert>| {
        alerts
            .filter_map(|alert| alert.fired_at)
            .min()
            .is_some_and(|fired| at.since(fired) >= pace.group_wait)
    };
    let Some(mark) = mark else {
        return waited(&mut firing.values()).then_some(Reason::First);
    };
    let since_last = at.since(mark.last_at);
    let new: Vec<&&Alert> = firing
        .iter()
        .filter(|(id, alert)| mark.told.get(id).is_none_or(|told| !is_same_firing(alert, told)))
        .map(|(_, alert)| alert)
        .collect();
    if !new.is_empty() {
        let soon = pace.hurry && waited(&mut new.into_iter());
        return (soon || since_last >= pace.group_interval).then_some(Reason::NewAlerts);
    }
    if !ended.is_empty() {
        return (since_last >= pace.group_interval).then_some(Reason::Resolved);
    }
    repeats(pace, since_last, firing).then_some(Reason::Repeat)
}

fn repeats(pace: &Pace, since_last: Duration, firing: &Group<'_>) -> bool {
    !firing.is_empty() && since_last >= pace.repeat_interval
}

fn severity_of(labels: &Labels) -> Option<Severity> {
    let name = labels.get("severity")?;
    [Severity::Info, Severity::Warning, Severity::Critical].into_iter().find(|s| s.name() == name)
}

/// Receiver ids hold no space, so the first one ends the receiver.
fn mark_id(place: &Place) -> String {
    format!("{} {}", place.0, place.1)
}

fn remember(place: &Place, mark: &Mark, offset_ns: i64) -> Change {
    let json = mark.to_record(offset_ns);
    Change::Put { kind: kind::NOTICE, id: mark_id(place), expected: Expected::Anything, json }
}

fn forget(place: &Place) -> Change {
    Change::Delete { kind: kind::NOTICE, id: mark_id(place) }
}

#[cfg(test)]
mod tests;
