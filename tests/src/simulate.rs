//! Simulated agents: many nodes' worth of real gRPC streams, each with one member, from one process.
//!
//! What they send is a function of (seed, agent, sequence), so a batch is byte-identical however often it is sent, a
//! backlog of any length costs no memory, and [`Simulation::check`] can say exactly what must be stored. Facts are those
//! of the passing wall clock, whether or not anybody is connected: agents that are cut off send what they missed
//! afterwards, marked as perhaps sent before where that is so.
//!
//! | part | what |
//! |---|---|
//! | [`content`] | what an agent says; pure |
//! | [`agent`] | its streams: window, resends, pauses |
//! | [`check`] | the books over the API against what was produced |
//! | [`command`] | `etcdmon-lab simulate` |
//! | [`soak`] | `etcdmon-lab bench soak` |

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{Api, stamp};
use crate::wait;

mod agent;
mod check;
pub mod command;
mod content;
pub mod soak;

use agent::{Agent, Counters, Live, Orders};
pub use content::{Content, Produced, STREAMS};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Agents, each with one member.
    pub agents: usize,
    /// Members that form a cluster.
    pub members_per_cluster: usize,
    /// Series of each agent, sampled once a second.
    pub series: u32,
    /// Syncs a second of an agent's WAL; the backend has a quarter of them.
    pub syncs: u32,
    /// Most syncs of a class and second that have a row of their own.
    pub sync_rows: u32,
    /// Seconds that a batch covers.
    pub batch_seconds: u32,
    /// Whether agents send live summaries as well. Without them the API does not list their clusters.
    pub live: bool,
    /// Without any reply for so long, an agent begins its stream anew.
    pub stall: Duration,
    /// Makes all ids and contents; a random one when `None`. Two simulations in one store need different ones.
    pub seed: Option<u64>,
}

impl Default for Plan {
    /// 130,000 samples a second.
    fn default() -> Self {
        Self {
            agents: 100,
            members_per_cluster: 3,
            series: 1_300,
            syncs: 30,
            sync_rows: 3,
            batch_seconds: 2,
            live: true,
            stall: Duration::from_secs(120),
            seed: None,
        }
    }
}

/// How far a simulation is; sums over all agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Batches complete by now.
    pub produced: u64,
    /// Batches sent at least once.
    pub sent: u64,
    /// Times that a batch was sent again.
    pub resent: u64,
    /// Batches acknowledged.
    pub acknowledged: u64,
    /// Batches refused for good.
    pub refused: u64,
    /// Batch streams that stood, over all agents and time.
    pub connections: u64,
    /// Live messages sent.
    pub live: u64,
}

impl Progress {
    /// Batches that are complete and neither acknowledged nor refused.
    pub fn backlog(&self) -> u64 {
        self.produced.saturating_sub(self.acknowledged + self.refused)
    }
}

struct Running {
    content: Content,
    phase: Duration,
    target: watch::Sender<Option<Arc<str>>>,
    counters: Arc<Counters>,
    tasks: Vec<JoinHandle<()>>,
}

/// Agents at work. Dropped, all of them are gone at once.
pub struct Simulation {
    plan: Plan,
    begin: i64,
    ingest: Arc<str>,
    last: watch::Sender<Option<u64>>,
    agents: Vec<Running>,
}

impl Simulation {
    /// Starts agents that send to this address (`host:port`). Their first facts are those of the next second.
    pub fn start(plan: Plan, ingest: &str) -> Self {
        let seed = plan.seed.unwrap_or_else(rand::random);
        let begin = agent::wall_ns().div_euclid(1_000_000_000) + 1;
        let ingest: Arc<str> = ingest.into();
        let last = watch::Sender::new(None);
        let first = Content::new(&plan, seed, begin, 0);
        let mut simulation = Self { begin, ingest, last, agents: Vec::new(), plan };
        for index in 0..simulation.plan.agents {
            simulation.add(first.of_agent(index), index);
        }
        simulation
    }

    fn add(&mut self, content: Content, index: usize) {
        let span = Duration::from_secs(u64::from(self.plan.batch_seconds.max(1)));
        let share = u32::try_from(self.plan.agents.max(1)).unwrap_or(u32::MAX);
        let phase = span / share * u32::try_from(index).unwrap_or(0);
        let target = watch::Sender::new(Some(self.ingest.clone()));
        let orders =
            Orders { target: target.subscribe(), last: self.last.subscribe(), stall: self.plan.stall };
        let counters = Arc::new(Counters::default());
        let agent = Agent::new(content.clone(), phase, orders.clone(), counters.clone());
        let mut tasks = vec![tokio::spawn(agent.run())];
        if self.plan.live {
            let live = Live::new(content.clone(), phase, counters.clone());
            tasks.push(tokio::spawn(live.run(orders)));
        }
        self.agents.push(Running { content, phase, target, counters, tasks });
    }

    /// What is simulated.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Breaks the connections of these agents and leaves them none.
    pub fn cut_off(&self, agents: Range<usize>) {
        self.agents[agents].iter().for_each(|agent| drop(agent.target.send_replace(None)));
    }

    /// Lets these agents connect, to this address from now on; those that are connected connect anew.
    pub fn connect(&self, agents: Range<usize>, ingest: &str) {
        let ingest: Arc<str> = ingest.into();
        self.agents[agents].iter().for_each(|agent| drop(agent.target.send_replace(Some(ingest.clone()))));
    }

    /// Lets agents that were cut off connect again where they did at first.
    pub fn heal(&self, agents: Range<usize>) {
        self.connect(agents, &self.ingest);
    }

    /// Every agent stops after the batches that all have complete by now. What is not acknowledged is still sent.
    pub fn stop_producing(&self) {
        let last = self.agents.iter().map(|agent| Agent::complete(&agent.content, agent.phase, None)).max();
        self.last.send_replace(Some(last.unwrap_or(0)));
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for (agent, produced) in self.agents.iter().zip(self.complete()) {
            let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            progress.produced += produced;
            progress.sent += read(&agent.counters.sent);
            progress.resent += read(&agent.counters.resent);
            progress.acknowledged += read(&agent.counters.acknowledged);
            progress.refused += read(&agent.counters.refused);
            progress.connections += read(&agent.counters.connections);
            progress.live += read(&agent.counters.live);
        }
        progress
    }

    /// The highest complete sequence of each agent.
    fn complete(&self) -> Vec<u64> {
        let last = *self.last.borrow();
        self.agents.iter().map(|agent| Agent::complete(&agent.content, agent.phase, last)).collect()
    }

    /// Waits until everything that was produced is acknowledged. Needs [`Simulation::stop_producing`] before.
    ///
    /// # Errors
    /// When it takes longer than `limit`, or a batch was refused.
    pub async fn drained(&self, limit: Duration) -> Result<()> {
        ensure!(self.last.borrow().is_some(), "agents that go on producing are never done");
        wait::until("all batches to be acknowledged", limit, async || {
            let progress = self.progress();
            let all = self.last.borrow().unwrap_or(0) * self.agents.len() as u64;
            ensure!(progress.produced == all && progress.backlog() == 0, "{progress:?} of {all}");
            Ok(Some(()))
        })
        .await?;
        let refused = self.progress().refused;
        ensure!(refused == 0, "{refused} batches were refused");
        Ok(())
    }

    /// What was produced so far, over all agents.
    pub fn produced(&self) -> Produced {
        let mut all = Produced::default();
        for (agent, last) in self.agents.iter().zip(self.complete()) {
            (1..=last).for_each(|sequence| all.add(&agent.content.produced(sequence)));
        }
        all
    }

    /// Compares stored sums over the API (ledger by member and stream, histograms by cluster) with what was produced, to
    /// the last sync. Needs [`Simulation::drained`] before. Returns what was produced.
    ///
    /// # Errors
    /// At the first difference, or when the API does not answer.
    pub async fn check(&self, api: &Api) -> Result<Produced> {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(self.begin.unsigned_abs());
        let to = SystemTime::now() + Duration::from_secs(60);
        let range = format!("from={}&to={}", stamp(from), stamp(to));
        let agents: Vec<(Content, u64)> =
            self.agents.iter().map(|agent| agent.content.clone()).zip(self.complete()).collect();
        let mut all = Produced::default();
        for cluster in agents.chunks(self.plan.members_per_cluster.max(1)) {
            all.add(&check::cluster(api, &range, cluster).await?);
        }
        Ok(all)
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.agents.iter().flat_map(|agent| &agent.tasks).for_each(JoinHandle::abort);
    }
}
