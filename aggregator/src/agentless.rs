//! Clusters that are watched without agents: the aggregator asks their endpoints itself, with the agents' own code.
//!
//! What comes of it goes the same two ways as an agent's: a live message a second to the cluster model, so rules, alerts and API
//! work alike, and batches to the store, through the same decoder, exactly once and with their account. The sender is a
//! pseudo-agent with a lasting id of this installation and an epoch of this process.
//!
//! [`Runner`] is the one owner; [`point`]s ask and send it findings over one bounded channel; a point that finds it full waits.
//! What an agent reports is not asked for: the poller stands down for that member. Without a spool, what waits for ClickHouse is
//! bounded by [`WRITES`] batches and the open one; beyond that samples are dropped and accounted for. docs/agentless.md says
//! what is missing without an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::Utc;
use etcdmon_proto::v1;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::{At, Clock};
use crate::ingest::{HelloFacts, LiveFact};
use crate::registry::Registry;
use crate::store::{BatchId, Store, decode};
use crate::view::View;

mod batch;
mod handle;
mod pace;
mod point;
mod shown;
mod spec;
mod watched;

use batch::{Batch, Reading};
pub use handle::{Agentless, ChangeError, Edit};
use point::{Finding, Limits, Point};
pub use shown::{EndpointView, Origin, TargetView};
pub use spec::{Spec, Target};
use watched::{Told, Watched};

/// Most clusters.
pub const MAX_TARGETS: usize = 200;

/// Findings that may wait; a point that finds no room waits.
const FINDINGS: usize = 256;

/// Orders from the API that may wait.
const ORDERS: usize = 16;

/// Batches that may wait for the store at the same time.
const WRITES: usize = 8;

/// How long after a member was found its samples are not stored yet: an agent may be about to report it.
const SETTLE: Duration = Duration::from_secs(5);

/// How long after an agent last saw a member running the poller still stands down: the agent knows best that it is gone.
const STAND_DOWN: Duration = Duration::from_secs(30);

/// Time at the end for batches that wait for the store.
const END_GRACE: Duration = Duration::from_secs(3);

/// What no one can see over the network.
const MISSING: [(&str, &str); 4] = [
    (
        "kernel",
        "no sync and write latencies from the kernel: slow disks show only in etcd's own coarse histograms, and no rule on sync latency applies",
    ),
    ("culprit", "no cgroups, processes and block devices: what else uses the disk is not known"),
    (
        "node",
        "no node, disk and process samples, no restarts by pid: a member that does not answer is judged by its peers",
    ),
    ("logs", "etcd's log is not read"),
];

/// What agentless watching is made of.
pub struct Parts {
    /// The installation's random id.
    pub installation: Uuid,
    /// Its clock.
    pub clock: Clock,
    /// Where batches go.
    pub store: Store,
    /// Names and ids of clusters.
    pub registry: Registry,
    /// To the evaluation.
    pub live: mpsc::Sender<LiveFact>,
    /// What agents report.
    pub view: watch::Receiver<Arc<View>>,
    /// How long samples gather before a batch is closed.
    pub batch_interval: Duration,
}

struct Watch {
    watched: Watched,
    points: BTreeMap<u64, Point>,
    origin: Origin,
    spec: Spec,
    /// Members with the time at which they were found.
    found: BTreeMap<u64, At>,
}

/// The owner of everything that is watched without agents. Run it as a task.
pub struct Runner {
    parts: Parts,
    hello: Arc<HelloFacts>,
    started: Instant,
    watches: BTreeMap<String, Watch>,
    whose: BTreeMap<u64, String>,
    next_point: u64,
    /// When an agent last saw a member running.
    seen_by_agents: BTreeMap<(u64, u64), At>,
    findings: (mpsc::Sender<Finding>, mpsc::Receiver<Finding>),
    orders: mpsc::Receiver<handle::Order>,
    limits: Arc<Limits>,
    open: Batch,
    closed_at: Instant,
    sequence: u64,
    number: u64,
    writes: Arc<Semaphore>,
    tasks: TaskTracker,
    shown: watch::Sender<Arc<Vec<TargetView>>>,
}

impl Runner {
    fn new(
        parts: Parts,
        orders: mpsc::Receiver<handle::Order>,
        shown: watch::Sender<Arc<Vec<TargetView>>>,
    ) -> Self {
        let hello = HelloFacts {
            agent: pseudo_agent(parts.installation),
            epoch: Uuid::new_v4(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: "agentless".to_owned(),
            protocol: etcdmon_proto::PROTOCOL,
            ..HelloFacts::default()
        };
        Self {
            parts,
            hello: Arc::new(hello),
            started: Instant::now(),
            watches: BTreeMap::new(),
            whose: BTreeMap::new(),
            next_point: 0,
            seen_by_agents: BTreeMap::new(),
            findings: mpsc::channel(FINDINGS),
            orders,
            limits: Arc::default(),
            open: Batch::default(),
            closed_at: Instant::now(),
            sequence: 0,
            number: 0,
            writes: Arc::new(Semaphore::new(WRITES)),
            tasks: TaskTracker::new(),
            shown,
        }
    }

    /// Asks until `stop` is cancelled, then hands on what is left. The store must still run then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = seconds.tick() => self.second(),
                Some(finding) = self.findings.1.recv() => self.take(finding),
                Some(order) = self.orders.recv() => self.obey(order),
            }
        }
        self.watches.clear();
        self.close();
        self.tasks.close();
        if tokio::time::timeout(END_GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("what was polled last is not stored: the store did not take it in time");
        }
    }

    fn obey(&mut self, order: handle::Order) {
        match order {
            handle::Order::Put(spec, target, origin) => self.put(*spec, *target, origin),
            handle::Order::Remove(name) => self.remove(&name),
        }
        self.show();
    }

    fn put(&mut self, spec: Spec, target: Target, origin: Origin) {
        self.remove(&spec.name);
        let next = &mut self.next_point;
        let watched = Watched::new(target, || next_number(next));
        let name = spec.name.clone();
        tracing::info!(cluster = name, endpoints = spec.endpoints.len(), "watching without agents");
        let new: Vec<_> =
            watched.points.iter().map(|(number, seen)| (*number, seen.endpoint.clone())).collect();
        let watch = Watch { watched, points: BTreeMap::new(), origin, spec, found: BTreeMap::new() };
        self.watches.insert(name.clone(), watch);
        self.start(&name, new);
    }

    fn remove(&mut self, name: &str) {
        if self.watches.remove(name).is_some() {
            self.whose.retain(|_, whose| whose != name);
        }
    }

    fn start(&mut self, name: &str, points: Vec<(u64, etcdmon_etcd::Endpoint)>) {
        let Some(watch) = self.watches.get_mut(name) else { return };
        for (number, endpoint) in points {
            let (findings, limits) = (self.findings.0.clone(), self.limits.clone());
            let point = Point::start(number, &watch.watched.target, &endpoint, findings, limits);
            watch.points.insert(number, point);
            self.whose.insert(number, name.to_owned());
        }
    }

    fn take(&mut self, finding: Finding) {
        let Finding { point, answer } = finding;
        let at = self.parts.clock.now();
        let Some(name) = self.whose.get(&point).cloned() else { return };
        let Some(watch) = self.watches.get_mut(&name) else { return };
        let before = watch.watched.cluster;
        let taken = watch.watched.take(point, answer, at);
        if let Some(told) = &taken.told {
            tell(&watch.watched, point, told);
        }
        if before != watch.watched.cluster
            && let Some(id) = watch.watched.cluster
        {
            self.parts.registry.suggest_name(id, &name);
        }
        if let Some((member, page)) = taken.samples {
            self.keep(&name, &member, *page, at);
        }
        let next = &mut self.next_point;
        let Some(watch) = self.watches.get_mut(&name) else { return };
        let (new, over) = watch.watched.reconcile(|| next_number(next));
        for number in over {
            watch.points.remove(&number);
            self.whose.remove(&number);
        }
        self.start(&name, new);
    }

    /// Puts a page's samples into the open batch, unless an agent does or may soon.
    fn keep(&mut self, name: &str, member: &v1::Member, page: point::Page, at: At) {
        let covered = self.is_covered((member.cluster_id, member.member_id), at);
        let Some(watch) = self.watches.get_mut(name) else { return };
        let found = *watch.found.entry(member.member_id).or_insert(at);
        if covered || at.since(found) < SETTLE {
            return;
        }
        let mono = page.mono.unwrap_or(self.started).saturating_duration_since(self.started);
        let now = self.reading();
        let taken = Reading {
            mono_ns: nanos(mono),
            wall_ns: now.wall_ns.saturating_sub_unsigned(now.mono_ns.saturating_sub(nanos(mono))),
        };
        let dropped = self.open.add(member, taken, &page.changed);
        if dropped > 0 {
            tracing::debug!(dropped, "no room for samples: the store is behind");
        }
        for (reason, count) in page.lost {
            self.open.lost(member, taken, reason, count);
        }
        if self.open.samples() >= batch::MAX_SAMPLES / 2 {
            self.close();
        }
    }

    fn second(&mut self) {
        let at = self.parts.clock.now();
        self.note_agents(at);
        let mut members = Vec::new();
        for watch in self.watches.values() {
            let covered = self.covered(&watch.watched, at);
            members.extend(watch.watched.live(at, &covered));
            for (number, point) in &watch.points {
                point.set_mode(watch.watched.mode(*number, &covered));
            }
            for number in watch.watched.to_look_at(at, &covered) {
                if let Some(point) = watch.points.get(&number) {
                    point.want_page();
                }
            }
        }
        // Nothing to watch is no agent; once something was, its end has to be told as well.
        if !self.watches.is_empty() || self.number > 0 {
            self.number += 1;
            self.send_live(members);
        }
        if self.closed_at.elapsed() + Duration::from_millis(100) >= self.parts.batch_interval {
            self.close();
        }
        self.show();
    }

    fn send_live(&self, members: Vec<v1::LiveMember>) {
        let now = self.reading();
        let degraded = MISSING.iter().map(|(capability, reason)| v1::Degradation {
            capability: (*capability).to_owned(),
            reason: format!("not available without an agent: {reason}"),
            remedy: "run an agent on the member's node".to_owned(),
        });
        let live = v1::Live {
            epoch: self.hello.epoch.as_bytes().to_vec(),
            number: self.number,
            sent_mono_ns: now.mono_ns,
            wall_minus_mono_ns: now.wall_ns.saturating_sub_unsigned(now.mono_ns),
            members,
            degraded: degraded.collect(),
            ..v1::Live::default()
        };
        let (hello, agent) = (self.hello.clone(), self.hello.agent);
        let fact = LiveFact { agent, hello, live, received_at: Utc::now(), received: Instant::now() };
        if self.parts.live.try_send(fact).is_err() {
            // The model is behind; the next message says it all again.
            tracing::debug!("live message of polled members dropped");
        }
    }

    /// Closes the open batch and hands it to the store, if that takes one more.
    fn close(&mut self) {
        self.closed_at = Instant::now();
        if self.open.is_empty() {
            return;
        }
        let Ok(permit) = self.writes.clone().try_acquire_owned() else { return };
        self.sequence += 1;
        let id = BatchId { agent: self.hello.agent, epoch: self.hello.epoch, sequence: self.sequence };
        let payload = std::mem::take(&mut self.open).encode(*id.agent.as_bytes(), self.reading());
        let (store, registry) = (self.parts.store.clone(), self.parts.registry.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            let decoded = tokio::task::spawn_blocking(move || decode::decode(id, &payload, &registry)).await;
            match decoded {
                // Waits for ClickHouse; fails only at the end of the process.
                Ok(Ok(decoded)) => {
                    let _stopping = store.write(decoded, false).await;
                }
                Ok(Err(error)) => tracing::error!(%error, batch = %id, "batch of polled members refused"),
                Err(error) => tracing::error!(%error, batch = %id, "batch of polled members not decoded"),
            }
        });
    }

    /// Notes which members agents see running.
    fn note_agents(&mut self, at: At) {
        let view = self.parts.view.borrow().clone();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        for cluster in view.clusters.values() {
            let Some(cluster_id) = hex(&cluster.summary.etcd_cluster_id) else { continue };
            let seen = cluster
                .members
                .iter()
                .filter(|member| member.source.as_deref() == Some("agent") && member.running == Some(true));
            for member in seen.filter_map(|member| hex(&member.id)) {
                self.seen_by_agents.insert((cluster_id, member), at);
            }
            // An agent that fell silent vouches for nothing.
            for member in cluster.members.iter().filter(|member| member.running.is_none()) {
                if let Some(id) = hex(&member.id) {
                    self.seen_by_agents.remove(&(cluster_id, id));
                }
            }
        }
        self.seen_by_agents.retain(|_, seen| at.since(*seen) < STAND_DOWN);
    }

    fn is_covered(&self, member: (u64, u64), at: At) -> bool {
        self.seen_by_agents.get(&member).is_some_and(|seen| at.since(*seen) < STAND_DOWN)
    }

    /// Members of this cluster that agents watch.
    fn covered(&self, watched: &Watched, at: At) -> BTreeSet<u64> {
        let Some(cluster) = watched.cluster else { return BTreeSet::new() };
        let all = self.seen_by_agents.range((cluster, 0)..=(cluster, u64::MAX));
        all.filter(|(_, seen)| at.since(**seen) < STAND_DOWN).map(|((_, member), _)| *member).collect()
    }

    fn show(&self) {
        let at = self.parts.clock.now();
        let view = |watch: &Watch| {
            let covered = self.covered(&watch.watched, at);
            let cost = |number: u64| {
                let cost = watch.points.get(&number).map(|point| &point.cost);
                cost.map_or((0, 0), |cost| {
                    (cost.requests.load(Ordering::Relaxed), cost.bytes.load(Ordering::Relaxed))
                })
            };
            let cluster = watch.watched.cluster.map(|id| self.parts.registry.cluster_of(id));
            shown::target(&watch.spec, watch.origin, &watch.watched, cluster, &covered, cost, |at| {
                self.parts.clock.wall(at)
            })
        };
        self.shown.send_replace(Arc::new(self.watches.values().map(view).collect()));
    }

    fn reading(&self) -> Reading {
        Reading {
            mono_ns: nanos(self.started.elapsed()),
            wall_ns: Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX),
        }
    }
}

const fn next_number(next: &mut u64) -> u64 {
    *next += 1;
    *next
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn tell(watched: &Watched, number: u64, told: &Told) {
    let Some(point) = watched.points.get(&number) else { return };
    let (cluster, endpoint) = (&watched.target.name, &point.endpoint);
    match told {
        Told::Failing(reason) => tracing::warn!(cluster, %endpoint, reason, "endpoint can't be watched"),
        Told::Answers => tracing::info!(cluster, %endpoint, "endpoint answers again"),
    }
}

/// The lasting id under which this installation stores what it polls.
fn pseudo_agent(installation: Uuid) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"agentless");
    hash.update(installation.as_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests;
