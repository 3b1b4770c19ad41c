//! One etcd with an agent and an aggregator, and the switch of the agent's probes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::sleep;

use crate::etcd::Cluster;
use crate::node::{Agent, Aggregator, data_dirs};
use crate::place::Place;

/// After a switch, before the clock of a slot starts.
const SETTLE: Duration = Duration::from_millis(150);

/// Of etcd's disk: ten minutes at full speed without compaction, on a machine that does 6,000 puts a second. Only what is written
/// takes room.
const DISK: u64 = 8 << 30;

/// The agent with its aggregator.
pub(super) struct Watch {
    aggregator: Aggregator,
    agent: Agent,
    http: reqwest::Client,
}

impl Watch {
    /// Starts both; the agent watches what writes below these directories.
    pub(super) async fn start(place: &Place, directories: &[PathBuf]) -> Result<Self> {
        let aggregator = Aggregator::start(place, "aggregator", &[]).await?;
        let mut agent = Agent::prepare(place, "agent", &aggregator.ingest, directories)?;
        agent.daemon = agent.daemon.args(["--listen-admin-control", "true"]);
        agent.daemon.start().await?;
        // A connection of its own for each request: one that was idle may be closed just as it is used again.
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { aggregator, agent, http })
    }

    /// Switches the probes, and returns when that has settled.
    pub(super) async fn switch(&self, enabled: bool) -> Result<()> {
        let url = format!("http://{}/probes?enabled={enabled}", self.agent.admin);
        let answer = self.http.put(url).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "switch the probes: {status}: {}", answer.text().await?);
        sleep(SETTLE).await;
        Ok(())
    }

    /// What the agent says of its probes.
    pub(super) async fn report(&self) -> Result<Value> {
        let answer = self.http.get(format!("http://{}/probes", self.agent.admin)).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "ask for the probes: {status}: {text}");
        serde_json::from_str(&text).context("understand what the agent says of its probes")
    }

    /// CPU time that the agent has used.
    pub(super) fn agent_cpu(&mut self) -> Result<Duration> {
        process_cpu(self.agent.daemon.process()?.pid())
    }

    /// The agent's memory.
    pub(super) fn agent_rss(&mut self) -> Result<u64> {
        resident_bytes(self.agent.daemon.process()?.pid())
    }

    /// CPU time that the aggregator and its engine have used.
    pub(super) fn centre_cpu(&mut self) -> Result<Duration> {
        Ok(process_cpu(self.aggregator.daemon.process()?.pid())?
            + process_cpu(self.aggregator.engine_pid()?)?)
    }
}

/// An etcd of one member on ext4, and its agent.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) watch: Watch,
}

impl Stage {
    pub(super) async fn start(place: &Place) -> Result<Self> {
        let cluster = Cluster::builder("bench").members(1).disk_size(DISK).start(place).await?;
        let watch = Watch::start(place, &data_dirs(&cluster)).await?;
        Ok(Self { cluster, watch })
    }

    /// CPU time that etcd has used.
    pub(super) fn etcd_cpu(&self) -> Result<Duration> {
        process_cpu(self.cluster.members[0].pid()?)
    }
}

/// CPU time of the whole host, everything but idle and waiting for a disk. Steal is left out: others took it.
pub(super) fn host_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    ensure!(fields.len() >= 7, "unexpected /proc/stat: {line}");
    // user, nice, system, idle, iowait, irq, softirq
    Ok(ticks(fields[0] + fields[1] + fields[2] + fields[5] + fields[6]))
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
