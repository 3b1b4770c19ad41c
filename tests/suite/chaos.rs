//! Chaos: kill -9 of agent, aggregator and engine under load; what was seen is stored exactly once, the rest accounted.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use etcdmon_tests::api::WAL_CLASSES;
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::load::Plan;
use etcdmon_tests::oracle::{SyncSeries, count_within};
use etcdmon_tests::stand::Stand;
use etcdmon_tests::suite::{by_tier, run, skip_without_root};
use etcdmon_tests::wait;
use tokio::time::sleep;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Aggregator,
    Engine,
}

/// How far before its death an agent may have syncs in memory that it takes along.
const IN_MEMORY: Duration = Duration::from_secs(10);

/// What an agent logs for each process when its probes see it.
const ATTACHED: &str = "watching syncs";

/// How long what was spooled may take to be stored once all run again.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What is known at a moment of rest.
#[derive(Debug)]
struct Books {
    stored_all: u64,
    stored_wal: u64,
    dropped: u64,
    blind: usize,
    etcd_wal: u64,
}

async fn books(stand: &Stand) -> Result<Books> {
    let stored_all = stand.settled(&[]).await?;
    let stored_wal = stand.api.stored(&stand.id, stand.since, &WAL_CLASSES).await?;
    let (dropped, blind) = stand.losses().await?;
    Ok(Books {
        stored_all,
        stored_wal,
        dropped,
        blind: blind.len(),
        etcd_wal: stand.wal_syncs_by_etcd().await?,
    })
}

/// S10, T4: whoever dies, what was spooled is stored exactly once, and what is missing is accounted for.
#[test]
fn nothing_spooled_is_lost_or_doubled_whoever_is_killed() {
    if skip_without_root("probes and perf") {
        return;
    }
    run(async |place| {
        let plan = Plan { rate: Some(200), ..Plan::default() };
        let mut stand = Stand::start(&place, Cluster::builder("chaos"), &plan).await?;
        for round in 1..=by_tier(1, 5) {
            for victim in [Victim::Aggregator, Victim::Engine, Victim::Agent] {
                stretch(&mut stand, victim, round).await?;
            }
        }
        stand.finish()
    });
}

/// A stretch of load with one death in it, and a balance drawn at rest on both sides.
async fn stretch(stand: &mut Stand, victim: Victim, round: u32) -> Result<()> {
    stand.rest().await?;
    let before = books(stand).await?;
    let series: Vec<SyncSeries> =
        stand.cluster.members.iter().map(|member| SyncSeries::start(member.pid()?)).collect::<Result<_>>()?;
    stand.load.resume();
    // Before an agent dies there must be syncs that are too old to die with it.
    let before_kill =
        if victim == Victim::Agent { IN_MEMORY + Duration::from_secs(4) } else { IN_MEMORY / 2 };
    sleep(before_kill).await;
    let killed = SystemTime::now();
    kill_and_revive(stand, victim).await?;
    let revived = SystemTime::now();
    sleep(Duration::from_secs(5)).await;
    stand.rest().await?;
    let mut rows = Vec::new();
    for series in series {
        rows.extend(series.stop()?);
    }
    let total: u64 = rows.iter().map(|row| row.count).sum();
    if victim != Victim::Agent {
        return balance(stand, &before, victim, round, total).await;
    }
    let (gap_from, gap_to) = (killed - IN_MEMORY, revived);
    let begin = rows.iter().map(|row| row.at).min().unwrap_or(killed);
    let end = rows.iter().map(|row| row.at).max().unwrap_or(revived);
    let outside = count_within(&rows, begin, gap_from) + count_within(&rows, gap_to, end);
    let after = books(stand).await?;
    let accounted = after.stored_all - before.stored_all + after.dropped - before.dropped;
    println!(
        "round {round}, agent killed for {:?}: accounted {accounted}, perf {total}, of these {outside} outside the gap",
        revived.duration_since(killed).unwrap_or_default()
    );
    ensure!(accounted >= outside, "accounted {accounted}, but perf saw {outside} outside the gap");
    ensure!(accounted <= total, "accounted {accounted}, but perf saw only {total}: something counts twice");
    let (_, blind) = stand.losses().await?;
    ensure!(blind.len() > before.blind, "an agent was dead and no blind stretch is told");
    for stretch in &blind[before.blind..] {
        let (from, to) = (SystemTime::from(stretch.from), SystemTime::from(stretch.to));
        ensure!(
            from >= gap_from && to <= gap_to,
            "blind {stretch:?} is not within {gap_from:?} .. {gap_to:?}"
        );
    }
    Ok(())
}

async fn kill_and_revive(stand: &mut Stand, victim: Victim) -> Result<()> {
    match victim {
        Victim::Agent => {
            stand.agent.daemon.kill();
            sleep(Duration::from_secs(3)).await;
            let members = stand.cluster.members.len();
            let attached = |stand: &Stand| stand.agent.daemon.output().matches(ATTACHED).count();
            let before = attached(stand);
            stand.agent.daemon.start().await?;
            wait::until("the agent to attach again", Duration::from_secs(10), async || {
                Ok((attached(stand) >= before + members).then_some(()))
            })
            .await?;
        }
        Victim::Aggregator => {
            stand.aggregator.daemon.kill();
            sleep(Duration::from_secs(3)).await;
            stand.aggregator.daemon.start().await?;
        }
        Victim::Engine => {
            let old = stand.aggregator.engine_pid()?;
            stand.aggregator.kill_engine()?;
            wait::until("a new engine", Duration::from_secs(60), async || {
                Ok((stand.aggregator.engine_pid()? != old).then_some(()))
            })
            .await?;
        }
    }
    Ok(())
}

/// Nothing was out of sight: stored and dropped are what etcd counted, to the last one.
async fn balance(stand: &Stand, before: &Books, victim: Victim, round: u32, perf: u64) -> Result<()> {
    let etcd = stand.wal_syncs_by_etcd().await? - before.etcd_wal;
    let what = format!("round {round}, {victim:?} killed");
    // Reaching the number is not enough: it must stay there.
    let caught_up = wait::until(&what, CATCH_UP, async || {
        let stored = stand.api.stored(&stand.id, stand.since, &WAL_CLASSES).await? - before.stored_wal;
        let (dropped, _) = stand.losses().await?;
        ensure!(
            stored + dropped - before.dropped >= etcd,
            "stored {stored} of {etcd}, dropped {dropped} in all"
        );
        Ok(Some(()))
    })
    .await;
    caught_up?;
    let after = books(stand).await?;
    let stored = after.stored_wal - before.stored_wal;
    let dropped = after.dropped - before.dropped;
    println!(
        "{what}: stored {stored}, dropped {dropped}, etcd counted {etcd}; all classes {}, perf {perf}",
        after.stored_all - before.stored_all
    );
    ensure!(stored + dropped == etcd, "{what}: stored {stored}, dropped {dropped}, etcd counted {etcd}");
    ensure!(after.blind == before.blind, "{what}: blind although the agent lived");
    ensure!(dropped > 0 || after.stored_all - before.stored_all == perf, "{what}: perf counted {perf}");
    Ok(())
}
