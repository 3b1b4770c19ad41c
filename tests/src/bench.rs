//! `etcdmon-lab bench overhead`: what the agent costs, on one running etcd.
//!
//! Comparing two runs of etcd says little: the same build differs by a third from run to run. So one etcd runs under a
//! saturating load, and the agent attaches and detaches its probes in place over hundreds of slots of one second in
//! random order. The first figure is the host's CPU time per put, the load generator's own included and the
//! aggregator's left out (it belongs on another machine). Intervals come from resampling the slots.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::sleep;

use crate::etcd::Cluster;
use crate::load::{Load, Plan};
use crate::node::{Agent, Aggregator};
use crate::place::Place;
use crate::tools;

mod figures;

use figures::{Slot, interval, ratio};

/// After a switch, before the clock of a slot starts.
const SETTLE: Duration = Duration::from_millis(150);

/// Length of a slot.
const SLOT: Duration = Duration::from_secs(1);

/// The fixed rate at which the agent's own CPU is promised.
const FIXED_RATE: u32 = 1_000;

/// How long that rate is held.
const FIXED_TIME: Duration = Duration::from_secs(30);

/// Runs the benchmark; prints what it does, and the figures as JSON on the last line.
///
/// # Errors
/// When something does not start, or the agent can't switch its probes.
pub async fn overhead(slots: u32) -> Result<()> {
    ensure!(tools::is_root(), "needs root for probes");
    let place = Place::new()?;
    let outcome = measure(&place, slots).await;
    if outcome.is_err() {
        eprintln!("{}", place.log_tails(20));
    }
    outcome
}

async fn measure(place: &Place, count: u32) -> Result<()> {
    let mut aggregator = Aggregator::start(place, "aggregator", &[]).await?;
    let cluster = Cluster::builder("bench").members(1).start(place).await?;
    let mut agent = Agent::prepare(place, "agent", &aggregator.ingest, &crate::node::data_dirs(&cluster))?;
    agent.daemon = agent.daemon.args(["--listen-admin-control", "true"]);
    agent.daemon.start().await?;
    let centre = [aggregator.daemon.process()?.pid(), aggregator.engine_pid()?];
    let switch = Switch::new(&agent.admin)?;

    let load = Load::start(&cluster, &Plan { rate: None, clients: 4, value_bytes: 256, keys: 10_000 })?;
    sleep(Duration::from_secs(3)).await;
    println!("{count} slots of {SLOT:?}, probes on or off at random, 4 clients at full speed");
    let mut slots = Vec::new();
    for _slot in 0..count {
        let probed = rand::random();
        switch.set(probed).await?;
        sleep(SETTLE).await;
        slots.push(slot(&load, &centre, probed).await?);
    }
    ensure!(load.failed() == 0, "{} puts failed", load.failed());
    drop(load);

    switch.set(true).await?;
    println!("agent alone at {FIXED_RATE} puts/s for {FIXED_TIME:?}");
    let load =
        Load::start(&cluster, &Plan { rate: Some(FIXED_RATE), clients: 16, value_bytes: 256, keys: 10_000 })?;
    sleep(Duration::from_secs(2)).await;
    let pid = agent.daemon.process()?.pid();
    let (begin, cpu, puts) = (Instant::now(), process_cpu(pid)?, load.succeeded());
    sleep(FIXED_TIME).await;
    let seconds = begin.elapsed().as_secs_f64();
    let agent_cpu = (process_cpu(pid)? - cpu).as_secs_f64() / seconds;
    #[expect(clippy::cast_precision_loss, reason = "a count of puts in half a minute")]
    let rate = (load.succeeded() - puts) as f64 / seconds;
    println!("{rate:.0} puts/s were reached");
    report(&slots, agent_cpu, resident_bytes(pid)?);
    Ok(())
}

fn report(slots: &[Slot], agent_cpu: f64, agent_rss: u64) {
    let cpu_per_put = |slot: &Slot| slot.cpu_us / slot.puts;
    let puts = |slot: &Slot| slot.puts;
    let (cpu, throughput) = (ratio(slots, cpu_per_put), ratio(slots, puts));
    let (cpu_range, throughput_range) = (interval(slots, cpu_per_put), interval(slots, puts));
    println!("host CPU per put, probes on / off: {cpu:.4} (95 %: {:.4} to {:.4})", cpu_range.0, cpu_range.1);
    println!(
        "throughput, probes on / off: {throughput:.4} (95 %: {:.4} to {:.4})",
        throughput_range.0, throughput_range.1
    );
    let figure = |name: &str, value: f64, unit: &str, goal: f64, better: &str| json!({"name": name, "value": value, "unit": unit, "goal": goal, "better": better});
    let mut first = figure("host_cpu_us_per_put_ratio", cpu, "ratio", 1.03, "lower");
    first["interval"] = json!([cpu_range.0, cpu_range.1]);
    let mut second = figure("throughput_ratio", throughput, "ratio", 0.97, "higher");
    second["interval"] = json!([throughput_range.0, throughput_range.1]);
    #[expect(clippy::cast_precision_loss, reason = "a size in memory, far below 2^53")]
    let rss = figure("agent_rss", agent_rss as f64, "bytes", 67_108_864.0, "lower");
    let third = figure("agent_cpu", agent_cpu, "cores", 0.01, "lower");
    println!("{}", json!({"bench": "overhead", "figures": [first, second, third, rss]}));
}

async fn slot(load: &Load, centre: &[u32], probed: bool) -> Result<Slot> {
    let (puts, cpu, theirs) = (load.succeeded(), host_cpu()?, cpu_of_all(centre)?);
    sleep(SLOT).await;
    let cpu = (host_cpu()? - cpu).saturating_sub(cpu_of_all(centre)? - theirs);
    #[expect(clippy::cast_precision_loss, reason = "a count of puts in a second")]
    let puts = (load.succeeded() - puts) as f64;
    ensure!(puts > 0.0, "a slot without a put");
    Ok(Slot { probed, puts, cpu_us: cpu.as_secs_f64() * 1e6 })
}

/// The agent's switch for its probes.
struct Switch {
    http: reqwest::Client,
    url: String,
}

impl Switch {
    fn new(admin: &str) -> Result<Self> {
        // A connection of its own for each request: one that was idle may be closed just as it is used again.
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { http, url: format!("http://{admin}/probes?enabled=") })
    }

    async fn set(&self, enabled: bool) -> Result<()> {
        let answer = self.http.put(format!("{}{enabled}", self.url)).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "switch the probes: {status}: {}", answer.text().await?);
        Ok(())
    }
}

/// CPU time of the whole host, everything but idle and waiting for a disk. Steal is left out: others took it.
fn host_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    ensure!(fields.len() >= 7, "unexpected /proc/stat: {line}");
    // user, nice, system, idle, iowait, irq, softirq
    Ok(ticks(fields[0] + fields[1] + fields[2] + fields[5] + fields[6]))
}

fn cpu_of_all(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| process_cpu(*pid)).sum()
}

/// CPU time that a process has used.
pub(crate) fn process_cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read a process's CPU time")?;
    let rest = stat.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<&str> = rest.split(' ').collect();
    // utime and stime are the 14th and 15th field, the name in brackets being the 2nd.
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    Ok(ticks(field(11).zip(field(12)).map(|(user, system)| user + system).context("unexpected stat")?))
}

fn ticks(count: u64) -> Duration {
    // SAFETY: sysconf takes a constant and has no memory to get wrong.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1).unsigned_abs();
    Duration::from_micros(count * 1_000_000 / per_second)
}

/// Memory of a process that is resident.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1024)
}
