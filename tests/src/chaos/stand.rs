//! What the faults hit: a cluster under load, an agent and an aggregator with a small disk each, a relay between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::api::LedgerRow;
use crate::chaos::plan::Victim;
use crate::disk::{Disk, Medium};
use crate::engine::{Engine, TABLES};
use crate::etcd::Cluster;
use crate::fault::{FullDisk, Relay, Stopped};
use crate::load::Plan;
use crate::place::Place;
use crate::stand::{Centre, Stand};
use crate::wait;

/// Puts a second on each cluster.
const RATE: u32 = 200;

/// Room for identity and spool.
const AGENT_DISK: u64 = 64 << 20;

/// Room for state and tables. The file is sparse.
const AGGREGATOR_DISK: u64 = 1 << 30;

/// Agents close a batch each second, so that there is an insert under way more often.
const BATCH_INTERVAL: &str = "500ms";

/// How long the engine may take to be there again.
const ENGINE_LIMIT: Duration = Duration::from_secs(60);

/// How long after its minutes a lost part may take to be in the ledger.
const WRITE_OFF_LIMIT: Duration = Duration::from_secs(150);

/// The running whole. Fields are in the order in which they go.
#[derive(Debug)]
pub struct ChaosStand {
    /// What is stopped now.
    pub stopped: Vec<(Victim, Stopped)>,
    /// What has no room now.
    pub full: Vec<(Victim, FullDisk)>,
    /// Cluster, load, agent, aggregator.
    pub stand: Stand,
    /// Between agent and aggregator.
    pub relay: Relay,
    agent_disk: Disk,
    aggregator_disk: Disk,
}

impl ChaosStand {
    /// Starts all of it, waits until syncs can be read back, and leaves the load paused.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(place: &Arc<Place>, members: usize) -> Result<Self> {
        Self::with(place, members, &[]).await
    }

    /// The same with these flags of the aggregator.
    ///
    /// # Errors
    /// As [`ChaosStand::start`].
    pub async fn with(place: &Arc<Place>, members: usize, flags: &[(&str, &str)]) -> Result<Self> {
        let agent_disk = Disk::with_size(&place.directory("agent-disk")?, Medium::Ext4, false, AGENT_DISK)?;
        let aggregator_disk =
            Disk::with_size(&place.directory("aggregator-disk")?, Medium::Ext4, false, AGGREGATOR_DISK)?;
        let mut centre = Centre::prepare(place).await?;
        let relay = Relay::start(&centre.aggregator.ingest).await?;
        let state = aggregator_disk.path().join("state");
        centre.aggregator.daemon = centre
            .aggregator
            .daemon
            .set("--state-dir", state.to_string_lossy())
            .set("--ingest-batch-interval", BATCH_INTERVAL);
        for (flag, value) in flags {
            centre.aggregator.daemon = centre.aggregator.daemon.set(flag, *value);
        }
        centre.aggregator.state = state;
        let plan = Plan { rate: Some(RATE), ..Plan::default() };
        let cluster = Cluster::builder("chaos").members(members);
        let agent_state = agent_disk.path().join("state");
        let stand = Stand::around(place, centre, cluster, &plan, &relay.address, Some(&agent_state)).await?;
        stand.wait_visible().await?;
        // What was not seen before the probes were attached is told within some seconds.
        tokio::time::sleep(Duration::from_secs(5)).await;
        stand.rest().await?;
        Ok(Self { stopped: Vec::new(), full: Vec::new(), stand, relay, agent_disk, aggregator_disk })
    }

    /// Process id of a victim.
    ///
    /// # Errors
    /// When it is not running, and the engine does not come in time.
    pub async fn pid(&mut self, victim: Victim) -> Result<u32> {
        match victim {
            Victim::Agent => Ok(self.stand.agent.daemon.process()?.pid()),
            Victim::Aggregator => Ok(self.stand.aggregator.daemon.process()?.pid()),
            Victim::Engine => {
                let aggregator = &mut self.stand.aggregator;
                wait::until("an engine", ENGINE_LIMIT, async || aggregator.engine_pid().map(Some)).await
            }
        }
    }

    /// The disk under a victim's state directory.
    pub const fn disk(&self, victim: Victim) -> &Disk {
        match victim {
            Victim::Agent => &self.agent_disk,
            Victim::Aggregator | Victim::Engine => &self.aggregator_disk,
        }
    }

    /// The end: both end in order and never panicked, no table has a row twice, and the tables hold what the API said.
    ///
    /// # Errors
    /// When one of these does not hold.
    pub async fn finish(mut self) -> Result<String> {
        let stand = &mut self.stand;
        let told = stand.settled(&[]).await?;
        let command = stand.aggregator.engine_command()?;
        // It ends with an account of all it made, and waits until that is stored.
        stand.agent.daemon.terminate()?;
        let rows = wait::settled("the ledger", Duration::from_secs(3), ENGINE_LIMIT, async || {
            stand.api.ledger(&stand.id, stand.since).await
        });
        let mut ledger = rows.await?;
        // What was lost with a part is written off once its minutes are over.
        let deadline = Instant::now() + WRITE_OFF_LIMIT;
        while unaccounted(&ledger).is_err() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_secs(3)).await;
            ledger = stand.api.ledger(&stand.id, stand.since).await?;
        }
        let accounted = unaccounted(&ledger);
        let unannounced: u64 = ledger.iter().map(|row| row.unannounced).sum();
        stand.aggregator.daemon.terminate()?;
        stand.agent.daemon.check_never_panicked()?;
        stand.aggregator.daemon.check_never_panicked()?;
        let log = stand.place.path().join("engine-afterwards.log");
        let engine = Engine::open(&command, &log).await?;
        if let Err(error) = accounted {
            bail!("{error:#}\n{}", explain(&engine).await);
        }
        let mut rows = 0;
        for table in TABLES {
            let (all, doubled) = engine.doubled(table).await?;
            ensure!(doubled == 0, "{doubled} of {all} rows of {table} are there more than once");
            rows += all;
        }
        let id = &stand.id;
        let stored = engine
            .ask(&format!("SELECT sum(count) FROM etcdmon.sync_histograms WHERE cluster = '{id}'"))
            .await?;
        let stored: u64 = stored.trim().parse().with_context(|| format!("sum of counts: {stored}"))?;
        // The agent may have seen some more while it ended.
        ensure!(stored >= told, "the tables hold {stored} syncs, the API told of {told}");
        Ok(format!("{rows} rows, none twice, {unannounced} without an account; {stored} syncs stored"))
    }
}

/// In every stream of every member, over all minutes: produced = stored + dropped + blind. The minutes that do not balance by
/// themselves are named when that is not so.
fn unaccounted(rows: &[LedgerRow]) -> Result<()> {
    let mut sums = BTreeMap::<(&str, &str), i128>::new();
    for row in rows {
        *sums.entry((&row.stream, &row.member)).or_default() += row.difference();
    }
    sums.retain(|_, difference| *difference != 0);
    let minutes = rows.iter().filter(|row| {
        row.difference() != 0 && sums.contains_key(&(row.stream.as_str(), row.member.as_str()))
    });
    let minutes: Vec<String> = minutes.map(|row| format!("{row:?}")).collect();
    ensure!(sums.is_empty(), "books that do not balance: {sums:?}\n{}", minutes.join("\n"));
    Ok(())
}

/// Batches with rows and no account, or the other way round, and parts that the engine could not read: for whoever asks why
/// books do not balance.
async fn explain(engine: &Engine) -> String {
    let mut text = String::new();
    for table in TABLES {
        let batch = "agent, epoch, sequence";
        let sql = format!(
            "SELECT '{table}', epoch, sequence, count(), min(at), max(at) FROM etcdmon.{table} WHERE ({batch}) NOT IN \
             (SELECT {batch} FROM etcdmon.ledger) GROUP BY epoch, sequence LIMIT 20"
        );
        text += &engine.ask(&sql).await.unwrap_or_else(|error| format!("{error:#}\n"));
    }
    let detached = "SELECT 'detached', table, name, reason, disk FROM system.detached_parts LIMIT 20";
    text + &engine.ask(detached).await.unwrap_or_else(|error| format!("{error:#}\n"))
}
