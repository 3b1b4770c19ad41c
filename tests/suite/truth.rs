//! Truth: what is stored is what the kernel did, to the last sync, on every supported version of etcd.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use etcdmon_tests::api::{Api, WAL_CLASSES, from_now};
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::load::{Load, Plan};
use etcdmon_tests::metrics::{Metrics, WAL_FSYNC, normalised, shares_between};
use etcdmon_tests::node::{Agent, Aggregator};
use etcdmon_tests::oracle::SyncCount;
use etcdmon_tests::place::Place;
use etcdmon_tests::stand::VISIBLE_LIMIT;
use etcdmon_tests::suite::{by_tier, run, skip_without_root};
use etcdmon_tests::{disk::Medium, tools, wait};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Time before and after the load in which etcd must be at rest.
const REST: Duration = Duration::from_secs(2);

/// Largest difference of a bucket's share, and what a bucket must hold to count as one of those that matter.
const TOLERANCE: f64 = 0.02;
const MATTERS: f64 = 0.05;

/// One etcd with an agent of its own.
struct Subject {
    load: Load,
    _agent: Agent,
    cluster: Cluster,
    api: Api,
    id: String,
    since: SystemTime,
    perf: PathBuf,
}

/// S2: the sum over all file classes equals perf's count of fsync and fdatasync entries, WAL and directory syncs equal
/// etcd's own count, both exactly; and with programmed delays every bucket's share agrees with etcd's histogram.
#[test]
fn stored_syncs_equal_perf_and_etcds_own_count_on_every_version() {
    if skip_without_root("probes and perf") {
        return;
    }
    run(async |place| {
        let aggregator = Aggregator::start(&place, "aggregator", &[]).await?;
        // Latencies are compared in few versions at a time: with all under load, etcd's own clock also measures
        // waiting for a processor after the kernel is done.
        let turns = Semaphore::new(2);
        let check = async |version: &str| {
            check(&place, &aggregator, version, &turns).await.with_context(|| format!("etcd {version}"))
        };
        let [first, second, third, fourth] = tools::ETCD_VERSIONS;
        let outcomes = tokio::join!(check(first), check(second), check(third), check(fourth));
        let failures: Vec<String> = [outcomes.0, outcomes.1, outcomes.2, outcomes.3]
            .into_iter()
            .filter_map(Result::err)
            .map(|error| format!("{error:#}"))
            .collect();
        ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        Ok(())
    });
}

/// S2 on xfs, where the filesystem shows no end of a sync and another hook is used.
#[test]
fn stored_syncs_equal_perf_and_etcds_own_count_on_xfs() {
    if skip_without_root("probes and perf") {
        return;
    }
    run(async |place| {
        let aggregator = Aggregator::start(&place, "aggregator", &[]).await?;
        let subject = Subject::start(&place, &aggregator, &tools::default_version()?, Medium::Xfs).await?;
        subject.check_counts().await
    });
}

async fn check(place: &Place, aggregator: &Aggregator, version: &str, turns: &Semaphore) -> Result<()> {
    if tools::skip_without_etcd(version) {
        return Ok(());
    }
    let subject = Subject::start(place, aggregator, version, Medium::Ext4).await?;
    subject.check_counts().await?;
    subject.check_shares(version, turns).await
}

impl Subject {
    async fn start(place: &Place, aggregator: &Aggregator, version: &str, medium: Medium) -> Result<Self> {
        let since = from_now();
        let name = format!("v{}", version.replace('.', ""));
        let builder = Cluster::builder(&name).members(1).version(version).medium(medium).slow_disk(0);
        let cluster = builder.start(place).await?;
        let agent = Agent::start(place, &format!("agent-{name}"), &aggregator.ingest, &cluster).await?;
        let api = aggregator.client()?;
        let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
        let plan = Plan { rate: by_tier(Some(400), Some(1_000)), clients: 4, ..Plan::default() };
        let load = Load::start(&cluster, &plan)?;
        let perf = place.path().join(format!("perf-{name}"));
        let subject = Self { load, _agent: agent, cluster, api, id, since, perf };
        wait::until("stored WAL syncs", VISIBLE_LIMIT, async || {
            Ok((subject.stored(&["wal"]).await? > 0).then_some(()))
        })
        .await?;
        subject.rest().await?;
        Ok(subject)
    }

    async fn stored(&self, classes: &[&str]) -> Result<u64> {
        self.api.stored(&self.id, self.since, classes).await
    }

    async fn settled(&self, classes: &[&str]) -> Result<u64> {
        let (calm, limit) = (Duration::from_secs(4), Duration::from_secs(60));
        wait::settled("the stored count", calm, limit, async || self.stored(classes).await).await
    }

    async fn rest(&self) -> Result<()> {
        self.load.pause().await?;
        sleep(REST).await;
        Ok(())
    }

    async fn check_counts(&self) -> Result<()> {
        let all_before = self.settled(&[]).await?;
        let wal_before = self.settled(&WAL_CLASSES).await?;
        let etcd_before = self.cluster.metrics(0).await?.count(WAL_FSYNC)?;
        let perf = SyncCount::start(self.cluster.members[0].pid()?, &self.perf)?;
        self.load.resume();
        sleep(by_tier(Duration::from_secs(10), Duration::from_secs(30))).await;
        self.rest().await?;
        let perf = perf.stop()?;
        let etcd = self.cluster.metrics(0).await?.count(WAL_FSYNC)? - etcd_before;
        let all = self.settled(&[]).await? - all_before;
        let wal = self.settled(&WAL_CLASSES).await? - wal_before;
        println!(
            "etcd {}: stored {all}, perf {perf}; WAL and directory {wal}, etcd's own count {etcd}",
            self.cluster.version
        );
        ensure!(perf > 100, "only {perf} syncs: no load to speak of");
        ensure!(all == perf, "stored {all}, perf counted {perf}: {}", self.by_class().await?);
        ensure!(wal == etcd, "WAL and directory {wal}, etcd counted {etcd}: {}", self.by_class().await?);
        Ok(())
    }

    async fn by_class(&self) -> Result<String> {
        let counts = self.api.sync_counts(&self.id, self.since).await?;
        let text: Vec<String> =
            counts.iter().map(|count| format!("{} {}", count.class, count.count)).collect();
        Ok(format!("since the start {}", text.join(", ")))
    }

    async fn check_shares(&self, version: &str, turns: &Semaphore) -> Result<()> {
        let delays = self.cluster.members[0].delays()?;
        let turn = turns.acquire().await?;
        let from = from_now();
        let stored_before = self.settled(&WAL_CLASSES).await?;
        let before = self.cluster.metrics(0).await?;
        self.load.resume();
        let stretch = by_tier(Duration::from_secs(12), Duration::from_secs(60));
        delays.spread(stretch).await;
        self.rest().await?;
        drop(turn);
        let to = SystemTime::now() + Duration::from_secs(1);
        let after = self.cluster.metrics(0).await?;
        let expected = after.count(WAL_FSYNC)? - before.count(WAL_FSYNC)?;
        let stored = self.settled(&WAL_CLASSES).await? - stored_before;
        ensure!(stored == expected, "stored {stored}, etcd counted {expected}");
        let edges = edges(&after);
        let ours = self.shares(&edges, from, to).await?;
        let theirs = shares_between(&before, &after, WAL_FSYNC);
        println!("etcd {version}, {expected} syncs, shares in buckets up to {edges:?} s:");
        println!("  etcd {}", percent(&theirs));
        println!("  ours {}", percent(&ours));
        let matter = theirs.iter().filter(|share| **share >= MATTERS).count();
        ensure!(matter >= 4, "only {matter} buckets hold 5 %: {}", percent(&theirs));
        for ((edge, ours), theirs) in edges.iter().zip(&ours).zip(&theirs) {
            ensure!(
                (ours - theirs).abs() <= TOLERANCE,
                "bucket up to {edge} s: {ours:.4} against {theirs:.4}"
            );
        }
        Ok(())
    }

    /// Our stored buckets folded to etcd's edges, each as a share of all.
    async fn shares(&self, edges: &[f64], from: SystemTime, to: SystemTime) -> Result<Vec<f64>> {
        let mut counts = vec![0_u64; edges.len()];
        for class in WAL_CLASSES {
            for bucket in self.api.latency(&self.id, class, from, to).await? {
                #[expect(clippy::cast_precision_loss, reason = "at most 100 s, exact in a double")]
                let upper = bucket.upper_ns.map_or(f64::INFINITY, |upper| upper as f64 / 1e9);
                let index = edges
                    .iter()
                    .position(|edge| upper <= edge * 1.000_001)
                    .context("the last is infinite")?;
                counts[index] += bucket.count;
            }
        }
        Ok(normalised(
            &counts
                .iter()
                .map(|count| f64::from(u32::try_from(*count).unwrap_or(u32::MAX)))
                .collect::<Vec<_>>(),
        ))
    }
}

fn edges(metrics: &Metrics) -> Vec<f64> {
    metrics.buckets(WAL_FSYNC).into_iter().map(|(edge, _)| edge).collect()
}

fn percent(shares: &[f64]) -> String {
    shares.iter().map(|share| format!("{:5.1}", share * 100.0)).collect::<Vec<_>>().join(" ")
}
