//! The main job, end to end: kernel-measured syncs over the API, a slow disk to a page, a dead leader, a dead receiver.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::load::Plan;
use etcdmon_tests::receiver::{Behaviour, Receiver};
use etcdmon_tests::stand::Stand;
use etcdmon_tests::suite::{by_tier, run, skip_without_root};
use etcdmon_tests::{place::Place, wait};
use std::sync::{Arc, LazyLock};
use tokio::sync::Mutex;

/// What a page may take from the breach.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// Beyond every threshold of the built-in rules on the 99th percentile.
const SLOW: Duration = Duration::from_millis(150);

/// Beyond what begins a dump of the flight recorder.
const VERY_SLOW: Duration = Duration::from_millis(400);

/// One stand at a time: these tests measure seconds, and the machine may have two processors.
static ONE_AT_A_TIME: LazyLock<Mutex<()>> = LazyLock::new(|| Mutex::new(()));

async fn stand(place: &Arc<Place>) -> Result<Stand> {
    let plan = Plan { rate: Some(40), ..Plan::default() };
    Stand::start(place, Cluster::builder("main").slow_disk(0), &plan).await
}

async fn member_hex(stand: &Stand, member: usize) -> Result<String> {
    Ok(format!("{:016x}", stand.cluster.member_id(member).await?))
}

/// S1, S2, S10, T3: with TLS and no configuration, syncs of every member are read back over the API, and so are the
/// members and who leads.
#[test]
fn syncs_measured_in_the_kernel_are_read_back_over_the_api() {
    if skip_without_root("probes") {
        return;
    }
    run(async |place| {
        let _turn = ONE_AT_A_TIME.lock().await;
        let plan = Plan { rate: Some(40), ..Plan::default() };
        let stand = Stand::start(&place, Cluster::builder("tls").tls(true), &plan).await?;
        let base = format!("/api/v1/clusters/{}", stand.id);
        let members = stand.api.members(&stand.id).await?;
        ensure!(members.len() == 3, "three members, not {members:?}");
        let leader = stand.cluster.leader().await?;
        let expected = member_hex(&stand, leader).await?;
        wait::until("the API to know the leader", Duration::from_secs(5), async || {
            let told = stand.api.get(&format!("{base}/leader")).await?;
            ensure!(told["leader"] == expected.as_str(), "leader {told}, not {expected}");
            Ok(Some(()))
        })
        .await?;
        let latency = stand.api.get(&format!("{base}/latency?class=wal")).await?;
        let (p50, p99) = (latency["p50_ns"].as_u64(), latency["p99_ns"].as_u64());
        ensure!(p50.is_some_and(|p50| p50 > 1_000) && p99 >= p50, "no percentiles: {latency}");
        let samples = stand.api.get(&format!("{base}/metrics/current")).await?;
        ensure!(samples["samples"].as_array().is_some_and(|all| !all.is_empty()), "no samples: {samples}");
        let agents = stand.api.agents().await?;
        ensure!(agents.len() == 1, "one agent, not {agents:?}");
        stand.finish()
    });
}

/// A1, A7, A8: from the first slow sync to the page less than five seconds; no page before; resolved when it is over.
#[test]
fn a_slow_disk_pages_within_five_seconds() {
    if skip_without_root("probes and disks") {
        return;
    }
    run(async |place| {
        let _turn = ONE_AT_A_TIME.lock().await;
        let stand = stand(&place).await?;
        let member = member_hex(&stand, 0).await?;
        let delays = stand.cluster.members[0].delays()?;
        ensure!(
            stand.receiver.deliveries().iter().all(|sent| sent.alerts("EtcdFsyncSlow", "firing").is_empty())
        );
        delays.set_syncs(&[SLOW]);
        let page = stand
            .receiver
            .wait_for("EtcdFsyncSlow", "firing", Duration::from_secs(20), |labels| {
                labels["severity"] == "critical" && labels["member"] == member.as_str()
            })
            .await?;
        let breach = delays.slow_since().context("a page, but no sync was slow yet")?;
        let took = page.at - breach;
        println!("paged {took:?} after the first slow sync");
        ensure!(took < PAGE_LIMIT, "the page took {took:?}");
        delays.clear();
        stand
            .receiver
            .wait_for("EtcdFsyncSlow", "resolved", Duration::from_secs(60), |labels| {
                labels["severity"] == "critical"
            })
            .await?;
        stand.finish()
    });
}

/// S16: one sync that is slow, and every sync around it has a row, to the last one that was counted.
#[test]
fn a_slow_sync_leaves_every_sync_around_it() {
    if skip_without_root("probes and disks") {
        return;
    }
    run(async |place| {
        let _turn = ONE_AT_A_TIME.lock().await;
        let stand = stand(&place).await?;
        let member = member_hex(&stand, 0).await?;
        let delays = stand.cluster.members[0].delays()?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        delays.set_syncs(&[VERY_SLOW]);
        wait::until("a sync to be slow", Duration::from_secs(20), async || Ok(delays.slow_since())).await?;
        delays.clear();
        tokio::time::sleep(Duration::from_secs(2)).await;
        stand.load.pause().await?;
        let dump = wait::until("the dump to be told", Duration::from_secs(40), async || {
            let told = stand.api.events(&stand.id, "flight.dumped", stand.since).await?;
            Ok(told.into_iter().find(|event| event["member"] == member.as_str()))
        })
        .await?;
        ensure!(dump["details"]["trigger"] == "slow_sync", "{dump}");
        stand.settled(&[]).await?;
        let counts = stand.api.sync_counts(&stand.id, stand.since).await?;
        let wal = counts.iter().find(|count| count.member == member && count.class == "wal");
        let counted = wal.context("no WAL syncs of the member")?.count;
        let rows = stand.api.sync_rows(&stand.id, &member, "wal", stand.since).await?;
        let kept = rows.iter().filter(|row| row["reason"] == "flight").count();
        println!("{counted} syncs, {} rows, {kept} of them the flight recorder's", rows.len());
        ensure!(rows.len() as u64 == counted, "{} rows of {counted} syncs", rows.len());
        ensure!(kept > 100, "only {kept} rows are the flight recorder's");
        stand.finish()
    });
}

/// A1, A8: the leader is killed; with the receiver dead at that time the alert waits for it and comes exactly once.
#[test]
fn a_dead_leader_is_told_even_to_a_receiver_that_was_dead_too() {
    if skip_without_root("probes") {
        return;
    }
    run(async |place| {
        let _turn = ONE_AT_A_TIME.lock().await;
        let mut stand = stand(&place).await?;
        let leader = stand.cluster.leader().await?;
        let member = member_hex(&stand, leader).await?;
        stand.receiver.down();
        let killed = Instant::now();
        stand.cluster.members[leader].kill();
        wait::until("the alert to fire", Duration::from_secs(30), async || {
            let firing = stand.api.alerts(Some("firing")).await?;
            Ok(firing.iter().any(|alert| alert["name"] == "EtcdMemberDown").then_some(()))
        })
        .await?;
        println!("firing {:?} after the kill", killed.elapsed());
        let away = by_tier(Duration::from_secs(20), Duration::from_secs(60));
        tokio::time::sleep(away.saturating_sub(killed.elapsed())).await;
        stand.receiver.behave(Behaviour::Fail);
        stand.receiver.up().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        stand.receiver.behave(Behaviour::Accept);
        let back = Instant::now();
        let about = |labels: &serde_json::Value| labels["member"] == member.as_str();
        let limit = Duration::from_secs(45);
        stand.receiver.wait_for("EtcdMemberDown", "firing", limit, about).await?;
        println!("delivered {:?} after the receiver was back", back.elapsed());
        tokio::time::sleep(Duration::from_secs(3)).await;
        let times = times_told(&stand.receiver, &member);
        ensure!(times == 1, "told {times} times: {}", stand.receiver.summary());
        stand.cluster.members[leader].start()?;
        stand.cluster.wait_ready().await?;
        stand.receiver.wait_for("EtcdMemberDown", "resolved", limit, about).await?;
        stand.finish()
    });
}

fn times_told(receiver: &Receiver, member: &str) -> usize {
    let deliveries = receiver.deliveries();
    let alerts = deliveries.iter().flat_map(|delivery| delivery.alerts("EtcdMemberDown", "firing"));
    alerts.filter(|alert| alert["labels"]["member"] == member).count()
}
