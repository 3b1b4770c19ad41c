//! The one owner of model, alerts and notices: takes live facts, evaluates the rules four times a second, commits what changed
//! and hands notices to the outbox.
//!
//! It never waits for ClickHouse, and for its own state no longer than [`COMMIT_PATIENCE`]: a notice whose commit hangs or
//! fails is delivered from memory, and the transaction is tried again until it succeeds.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::alert::{Alert, Alerts, Fingerprint};
use crate::clock::{At, Clock};
use crate::cluster::{LiveMessage, Model};
use crate::diagnosis::{Incidents, Watch};
use crate::expose::Deliveries;
use crate::ingest::LiveFact;
use crate::notify::outbox::{Order, Outcome, OutcomeKind};
use crate::notify::{Notices, Situation};
use crate::registry::Registry;
use crate::rule::{Labels, Profile, evaluate};
use crate::state::{Change, Expected, State, StateError, kind, log};
use crate::view::View;

mod carry;
mod keep;
mod story;

use keep::Keeper;
use story::Story;

/// How often rules are evaluated: half of it is what an alert loses on average on its way to the receiver.
const EVALUATE_EVERY: Duration = Duration::from_millis(250);

/// How long a notice waits for its commit before it is delivered from memory.
pub const COMMIT_PATIENCE: Duration = Duration::from_secs(2);

/// What the evaluation works with.
pub struct Parts {
    /// Its clock.
    pub clock: Clock,
    /// Rules, inhibitions, pace.
    pub profile: Profile,
    /// Names and ids of clusters.
    pub registry: Registry,
    /// Where everything is kept.
    pub state: State,
    /// Ids of the channels.
    pub receivers: Vec<String>,
    /// Where the API is reached.
    pub external_url: String,
    /// To the outbox.
    pub outbox: mpsc::Sender<Order>,
    /// What became of notices, for `/metrics`.
    pub deliveries: Deliveries,
    /// Where the API looks.
    pub view: watch::Sender<Arc<View>>,
}

/// The evaluation. Run it as a task.
pub struct Evaluation {
    parts: Parts,
    model: Model,
    alerts: Alerts,
    diagnoses: Watch,
    story: Story,
    notices: Notices,
    keeper: Keeper,
}

impl Evaluation {
    /// Takes up alerts and notices where the last process left them.
    ///
    /// # Errors
    /// When the state can't be read.
    pub async fn restore(parts: Parts) -> Result<Self, StateError> {
        let offset_ns = parts.clock.offset_ns();
        let mut alerts = Alerts::default();
        for entity in parts.state.list(kind::ALERT).await? {
            match Alert::from_record(&entity.json, offset_ns) {
                Ok(alert) => alerts.restore(alert),
                Err(error) => {
                    tracing::warn!(alert = entity.id, %error, "alert in the state does not parse, skipped")
                }
            }
        }
        let (mut incidents, mut story) = (Incidents::default(), Story::default());
        for entity in parts.state.list(kind::DIAGNOSIS).await? {
            if let Err(error) = incidents.restore(parts.clock.now(), offset_ns, &entity.json) {
                tracing::warn!(diagnosis = entity.id, %error, "diagnosis in the state does not parse, skipped");
            }
            story.restore(&entity.json);
        }
        let diagnoses = Watch::new(incidents);
        let notices = Notices::restore(&parts.state.list(kind::NOTICE).await?, offset_ns);
        let (model, keeper) = (Model::default(), Keeper::default());
        Ok(Self { parts, model, alerts, diagnoses, story, notices, keeper })
    }

    /// Evaluates until `end` is cancelled.
    pub async fn run(
        mut self,
        mut facts: mpsc::Receiver<LiveFact>,
        mut outcomes: mpsc::Receiver<Outcome>,
        end: CancellationToken,
    ) {
        let mut ticks = interval(EVALUATE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = end.cancelled() => break,
                _ = ticks.tick() => self.beat(&mut facts, &mut outcomes).await,
                Some(outcome) = outcomes.recv() => self.note(&outcome),
                Some(fact) = facts.recv() => self.apply(&fact),
            }
        }
        self.keeper.finish(&self.parts.state, COMMIT_PATIENCE).await;
    }

    /// Judges what has come, and only then evaluates: ticks that take longer than their time follow each other, and must not keep
    /// anything from being seen at all.
    async fn beat(&mut self, facts: &mut mpsc::Receiver<LiveFact>, outcomes: &mut mpsc::Receiver<Outcome>) {
        waiting(outcomes).for_each(|outcome| self.note(&outcome));
        waiting(facts).for_each(|fact| self.apply(&fact));
        self.tick().await;
    }

    /// Takes a message as of its arrival: how long it waited here says nothing about the member.
    fn apply(&mut self, fact: &LiveFact) {
        let at = self.parts.clock.at(fact.received);
        let registry = &self.parts.registry;
        let message = LiveMessage {
            agent: fact.agent,
            version: &fact.hello.version,
            node: &fact.hello.node,
            allowed_commands: &fact.hello.allowed_commands,
            live: &fact.live,
        };
        let applied = self.model.apply(at, message, |etcd_id| registry.cluster_of(etcd_id));
        for (cluster, change) in applied.leader_changes {
            tracing::info!(
                cluster = %cluster, from = %format_args!("{:016x}", change.from),
                to = %format_args!("{:016x}", change.to), term = change.term, "leader changed"
            );
            let json = json!({
                "cluster": cluster, "from": crate::view::hex(change.from), "to": crate::view::hex(change.to),
                "term": change.term, "late": applied.late,
            });
            self.keeper.keep(Change::Append { log: log::LEADER, at_ns: self.wall_ns(change.at), json });
        }
    }

    fn note(&mut self, outcome: &Outcome) {
        self.parts.deliveries.count(outcome);
        if outcome.kind != OutcomeKind::Delivered {
            return;
        }
        let at = self.parts.clock.now();
        for id in outcome.firing.iter().filter_map(|id| id.parse::<Fingerprint>().ok()) {
            if self.alerts.note_delivery(id, at) {
                self.keep_alert(id);
            }
        }
    }

    async fn tick(&mut self) {
        let at = self.parts.clock.now();
        self.model.tick(at);
        self.diagnose(at);
        self.evaluate(at);
        let plan = self.notices.plan(Situation {
            at,
            offset_ns: self.parts.clock.offset_ns(),
            alerts: &self.alerts,
            profile: &self.parts.profile,
            receivers: &self.parts.receivers,
            external_url: &self.parts.external_url,
        });
        let offset_ns = self.parts.clock.offset_ns();
        let diagnoses = self.diagnoses.shown(offset_ns);
        let view = View::make(at, offset_ns, &self.model, &self.parts.registry, &self.alerts, diagnoses);
        self.parts.view.send_replace(Arc::new(view));
        self.parts.registry.take_unsaved().into_iter().for_each(|change| self.keeper.keep(change));
        plan.changes.into_iter().for_each(|change| self.keeper.keep(change));
        let orders = self.keeper.commit(&self.parts.state, plan.notices, COMMIT_PATIENCE).await;
        for order in orders {
            if self.parts.outbox.send(order).await.is_err() {
                tracing::error!("the outbox has ended; the notice stays in the state");
            }
        }
    }

    fn diagnose(&mut self, at: At) {
        let offset_ns = self.parts.clock.offset_ns();
        let step = self.diagnoses.step(at, offset_ns, &self.model, &mut Uuid::new_v4);
        for ((cluster, member), cause, summary) in step.opened {
            let (cause, member) = (cause.name(), crate::view::hex(member));
            tracing::info!(%cluster, member, cause, summary, "diagnosis opened");
        }
        for ((cluster, member), cause) in step.closed {
            let (cause, member) = (cause.name(), crate::view::hex(member));
            tracing::info!(%cluster, member, cause, "diagnosis closed");
        }
        for (id, json) in step.written {
            if let Some(line) = self.story.line(&json) {
                self.keeper.keep(Change::Append { log: log::DIAGNOSIS, at_ns: self.wall_ns(at), json: line });
            }
            let (id, expected) = (id.to_string(), Expected::Anything);
            self.keeper.keep(Change::Put { kind: kind::DIAGNOSIS, id, expected, json });
        }
        for id in step.removed {
            self.story.forget(id);
            self.keeper.keep(Change::Delete { kind: kind::DIAGNOSIS, id: id.to_string() });
        }
    }

    fn evaluate(&mut self, at: At) {
        let mut evaluations = evaluate(at, &self.model, &self.parts.profile.rules, &self.parts.registry);
        let carry = carry::Carry { at, diagnoses: &self.diagnoses, external_url: &self.parts.external_url };
        let news = carry.add(&mut evaluations, &self.alerts);
        let (model, profile) = (&self.model, &self.parts.profile);
        let step = self.alerts.step(at, &evaluations, &|labels| gone(at, model, profile, labels));
        for id in news {
            self.keep_alert(id);
        }
        for (id, state) in &step.changed {
            self.keep_alert(*id);
            let Some(alert) = self.alerts.get(*id) else { continue };
            tracing::info!(
                alert = alert.label("alertname"),
                state = state.name(),
                severity = alert.severity.name(),
                cluster = alert.label("cluster"),
                member = alert.label("member"),
                "alert"
            );
            let json = json!({
                "fingerprint": id.to_string(), "state": state.name(), "labels": alert.labels, "annotations": alert.annotations,
                "value": alert.value, "started_at": alert.started_at.shifted(self.parts.clock.offset_ns()).date(),
            });
            self.keeper.keep(Change::Append { log: log::ALERT, at_ns: self.wall_ns(at), json });
        }
        for id in step.removed {
            self.keeper.keep(Change::Delete { kind: kind::ALERT, id: id.to_string() });
        }
    }

    fn keep_alert(&mut self, id: Fingerprint) {
        let Some(alert) = self.alerts.get(id) else { return };
        let json = alert.to_record(self.parts.clock.offset_ns());
        let id = id.to_string();
        self.keeper.keep(Change::Put { kind: kind::ALERT, id, expected: Expected::Anything, json });
    }

    fn wall_ns(&self, at: At) -> i64 {
        at.shifted(self.parts.clock.offset_ns()).nanos()
    }
}

/// What waits in a queue now; what comes meanwhile waits for the next time.
fn waiting<T>(queue: &mut mpsc::Receiver<T>) -> impl Iterator<Item = T> {
    (0..queue.len()).map_while(|_| queue.try_recv().ok())
}

/// Why the subject of an alert that was not evaluated is positively gone.
fn gone(at: At, model: &Model, profile: &Profile, labels: &Labels) -> Option<String> {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    if profile.rule(label("alertname"), label("severity")).is_none() {
        return Some("the rule no longer exists".to_owned());
    }
    let cluster = label("cluster_id").parse().ok()?;
    let member = u64::from_str_radix(label("member"), 16).ok();
    if member.is_some_and(|member| model.is_removed(at, cluster, member)) {
        return Some("the member was removed from the cluster".to_owned());
    }
    // The alert would be evaluated if its labels were still those of its subject.
    let known = model.cluster(cluster)?;
    let renamed = match member {
        Some(member) => known.members.get(&member).is_some_and(|member| member.is_reported()),
        None => true,
    };
    renamed.then(|| "its subject has another name now".to_owned())
}

#[cfg(test)]
mod tests;
