//! Put load of a bounded rate that can be paused, and etcd's official benchmark.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::etcd::{Client, Cluster};
use crate::process::Process;
use crate::{tools, wait};

/// A put that takes longer counts as failed.
const PUT_LIMIT: Duration = Duration::from_secs(5);

/// How much is put.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Puts a second over all clients; none means as fast as they are answered.
    pub rate: Option<u32>,
    /// Clients, each with one put under way.
    pub clients: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Distinct keys, so that the database stays small.
    pub keys: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { rate: Some(100), clients: 4, value_bytes: 256, keys: 1_000 }
    }
}

#[derive(Debug, Default)]
struct Shared {
    paused: AtomicBool,
    in_flight: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// Of the puts that succeeded, since somebody asked for them.
    latencies: Mutex<Option<Vec<Duration>>>,
}

/// Running clients. Dropping it stops them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    _clients: JoinSet<()>,
}

impl Load {
    /// Starts the clients, each with a connection of its own.
    ///
    /// # Errors
    /// When a client can't be made.
    pub fn start(cluster: &Cluster, plan: &Plan) -> Result<Self> {
        let mut connections = Vec::new();
        for _client in 0..plan.clients {
            connections.push(cluster.client()?);
        }
        Ok(Self::over(connections, plan))
    }

    /// Starts a client over each of the given connections.
    pub fn over(connections: Vec<Client>, plan: &Plan) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        let pace = plan
            .rate
            .map(|rate| Duration::from_secs(1).mul_f64(connections.len() as f64 / f64::from(rate.max(1))));
        for connection in connections {
            clients.spawn(put_forever(connection, shared.clone(), plan.clone(), pace));
        }
        Self { shared, _clients: clients }
    }

    /// No new puts; returns when those under way are answered.
    ///
    /// # Errors
    /// When one stays unanswered for longer than a put may take.
    pub async fn pause(&self) -> Result<()> {
        self.shared.paused.store(true, Ordering::SeqCst);
        wait::until("the load to pause", PUT_LIMIT + Duration::from_secs(2), async || {
            Ok((self.shared.in_flight.load(Ordering::SeqCst) == 0).then_some(()))
        })
        .await
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Puts that etcd acknowledged.
    pub fn succeeded(&self) -> u64 {
        self.shared.succeeded.load(Ordering::Relaxed)
    }

    /// How long each put took that was acknowledged since the last call; nothing at the first one, from which on they are
    /// kept.
    pub fn take_latencies(&self) -> Vec<Duration> {
        let mut kept = self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        kept.replace(Vec::new()).unwrap_or_default()
    }

    /// Puts that failed or took too long.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }
}

async fn put_forever(mut connection: Client, shared: Arc<Shared>, plan: Plan, pace: Option<Duration>) {
    let value = vec![b'x'; plan.value_bytes];
    let mut ticks = pace.map(|pace| {
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    loop {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        // Counted before the look at the switch: a pause sees either the put or that none will come.
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        if shared.paused.load(Ordering::SeqCst) {
            shared.in_flight.fetch_sub(1, Ordering::SeqCst);
            sleep(Duration::from_millis(20)).await;
            continue;
        }
        let key = format!("/lab/{}", rand::random_range(0..plan.keys));
        let begin = Instant::now();
        let put = tokio::time::timeout(PUT_LIMIT, connection.put(key, value.clone())).await;
        let latency = begin.elapsed();
        shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        if matches!(put, Ok(Ok(()))) {
            shared.succeeded.fetch_add(1, Ordering::Relaxed);
            let mut latencies = shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.iter_mut().for_each(|kept| kept.push(latency));
        } else {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Puts with etcd's official benchmark, an independent count of what was asked of the cluster.
///
/// # Errors
/// When it is not installed, fails, or takes longer than `limit`.
pub async fn official_benchmark(endpoints: &[String], puts: u32, log: &Path, limit: Duration) -> Result<()> {
    let mut command = Command::new(tools::benchmark()?);
    command
        .arg(format!("--endpoints={}", endpoints.join(",")))
        .args(["--clients=4", "--conns=4", "put", "--key-size=16", "--val-size=256", "--key-space-size=1000"])
        .arg(format!("--total={puts}"));
    let mut process = Process::start("benchmark", command, log, &[])?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        match process.ended() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("benchmark: {status}\n{}", process.output()),
            None => sleep(Duration::from_millis(50)).await,
        }
    }
    Err(process.wait(Duration::ZERO).err().context("the benchmark ended at the last moment")?)
}
