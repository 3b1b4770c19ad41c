//! Quiet: on an idle cluster neither the raft index nor a count of syncs moves because of us.

use std::time::Duration;

use anyhow::{Result, ensure};
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::load::Plan;
use etcdmon_tests::metrics::Metrics;
use etcdmon_tests::oracle::SyncCount;
use etcdmon_tests::stand::Stand;
use etcdmon_tests::suite::{by_tier, run, skip_without_root};

/// Raft indexes of all members, committed and applied.
async fn raft(cluster: &Cluster) -> Result<Vec<(f64, f64)>> {
    let mut all = Vec::new();
    for member in 0..cluster.members.len() {
        let metrics = cluster.metrics(member).await?;
        let index = |name: &str| metrics.value(&format!("etcd_server_proposals_{name}_total"));
        all.push((index("committed")?, index("applied")?));
    }
    Ok(all)
}

/// Every collector of the agent; all of them are on by default.
const COLLECTORS: [&str; 8] =
    ["metrics", "status", "process", "threads", "cgroup", "disk", "node", "network"];

/// A series of each that reads the kernel, to see that it yields what it should.
const SERIES: [&str; 6] = [
    "etcdmon_process_resident_bytes",
    "etcdmon_process_run_delay_seconds_total",
    "etcdmon_cgroup_info",
    "etcdmon_disk_operations_total",
    "etcdmon_node_cpu_seconds_total",
    "etcdmon_node_network_bytes_total",
];

/// S8: every collector ran, and none that reads the kernel failed. etcd may be late with an answer on a busy machine: how often
/// is printed.
async fn check_collectors(stand: &Stand) -> Result<()> {
    let page = reqwest::get(format!("http://{}/metrics", stand.agent.admin)).await?.text().await?;
    let metrics = Metrics::parse(&page);
    let mut all = [0.0; 3];
    for collector in COLLECTORS {
        let outcomes = ["ok", "late", "failed"].map(|outcome| {
            let series =
                format!(r#"etcdmon_agent_collections_total{{collector="{collector}",outcome="{outcome}"}}"#);
            metrics.value(&series).unwrap_or(0.0)
        });
        all.iter_mut().zip(outcomes).for_each(|(sum, count)| *sum += count);
        let [ok, late, failed] = outcomes;
        let may_fail = ["metrics", "status"].contains(&collector);
        ensure!(
            ok > 0.0 && (may_fail || failed == 0.0),
            "{collector}: {ok} ok, {late} late, {failed} failed\n{page}"
        );
    }
    let [ok, late, failed] = all;
    println!("{ok} collections in time, {late} late, {failed} failed");
    for name in SERIES {
        let path = format!("/api/v1/clusters/{}/metrics/current?name={name}", stand.id);
        let samples = stand.api.get(&path).await?;
        ensure!(samples["samples"].as_array().is_some_and(|all| !all.is_empty()), "no {name}");
    }
    Ok(())
}

/// S8, S2: default collectors cost etcd no raft proposal and no sync.
#[test]
fn watching_an_idle_cluster_costs_it_no_proposal_and_no_sync() {
    if skip_without_root("probes and perf") {
        return;
    }
    run(async |place| {
        let mut stand = Stand::start(&place, Cluster::builder("quiet"), &Plan::default()).await?;
        stand.rest().await?;
        stand.settled(&[]).await?;
        let mut counts = Vec::new();
        for (index, member) in stand.cluster.members.iter().enumerate() {
            counts.push(SyncCount::start(member.pid()?, &place.path().join(format!("perf-{index}")))?);
        }
        let before =
            (raft(&stand.cluster).await?, stand.wal_syncs_by_etcd().await?, stand.settled(&[]).await?);
        tokio::time::sleep(by_tier(Duration::from_secs(45), Duration::from_secs(600))).await;
        stand.agent.daemon.check_healthy()?;
        let after =
            (raft(&stand.cluster).await?, stand.wal_syncs_by_etcd().await?, stand.settled(&[]).await?);
        ensure!(
            before == after,
            "raft indexes, WAL syncs and stored syncs moved from {before:?} to {after:?}"
        );
        check_collectors(&stand).await?;
        for count in counts {
            let syncs = count.stop()?;
            ensure!(syncs == 0, "perf saw {syncs} syncs of an idle member");
        }
        stand.finish()
    });
}
