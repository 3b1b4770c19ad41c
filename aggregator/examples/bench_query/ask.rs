//! The named queries, asked of the query layer and of the HTTP API.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta};
use etcdmon_aggregator::Aggregator;
use etcdmon_aggregator::config;
use etcdmon_aggregator::query::{
    Ask, DEFAULT_POINTS, Group, MetricScope, OthersScope, Plan, Query, Question, SyncScope, TimeRange,
};
use etcdmon_aggregator::store::Retention;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What was measured of a query.
pub struct Found {
    pub name: &'static str,
    pub range: &'static str,
    pub p50_ms: f64,
    pub p95_ms: f64,
}

/// The ranges before the newest rows: an hour and 90 days, in seconds.
const RANGES: [(&str, i64); 2] = [("hour", 3_600), ("90 days", 90 * 86_400)];

/// The named queries: what is asked, and the same as a path of the API.
fn questions() -> Vec<(&'static str, Question, String)> {
    let metrics = |name: &str| {
        let names = vec![name.to_owned()];
        Question::Metrics(MetricScope { names, ..MetricScope::default() })
    };
    let metric_path = |name: &str| format!("metrics/history?name={name}");
    let resources = |group| Question::Resources { members: Vec::new(), groups: vec![group] };
    const SIZE: &str = "etcd_mvcc_db_total_size_in_use_in_bytes";
    const WRITTEN: &str = "etcdmon_process_written_bytes_total";
    const FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds";
    let others = OthersScope { members: Vec::new(), class: None, top: 10 };
    vec![
        ("latency", Question::Latency(SyncScope::default()), "latency/history?".to_owned()),
        ("syncs", Question::Syncs(SyncScope::default()), "syncs/history?".to_owned()),
        ("writes", Question::Writes(SyncScope::default()), "writes/history?".to_owned()),
        ("gauge", metrics(SIZE), metric_path(SIZE)),
        ("counter", metrics(WRITTEN), metric_path(WRITTEN)),
        ("etcd_histogram", metrics(FSYNC), metric_path(FSYNC)),
        ("raft", Question::Raft { members: Vec::new() }, "raft?".to_owned()),
        ("io_by_others", Question::IoByOthers(others), "io/others?".to_owned()),
        ("resources_process", resources(Group::Process), "resources?group=process".to_owned()),
        ("resources_node", resources(Group::Node), "resources?group=node".to_owned()),
        ("resources_disk", resources(Group::Disk), "resources?group=disk".to_owned()),
        ("resources_cgroup", resources(Group::Cgroup), "resources?group=cgroup".to_owned()),
    ]
}

/// Through the query layer.
pub async fn layer(query: &Query, cluster: Uuid, newest: i64, rounds: usize) -> anyhow::Result<Vec<Found>> {
    let mut all = Vec::new();
    let now = DateTime::from_timestamp(newest, 0).context("time of the newest row")?;
    for (range, seconds) in RANGES {
        for (name, question, _) in questions() {
            let mut times = Vec::new();
            for round in 0..=rounds {
                let asked = TimeRange { from: now - TimeDelta::seconds(seconds), to: now };
                let ask = Ask { range: asked, step_seconds: None, max_points: DEFAULT_POINTS };
                let plan = Plan::new(&ask, &Retention::default(), now)?;
                let began = Instant::now();
                let history = query.history(cluster, &question, &plan, &[]).await.with_context(|| name)?;
                // The first one reads from disk what the others find in memory.
                if round > 0 {
                    times.push(began.elapsed());
                }
                let values =
                    || history.series.iter().flat_map(|series| &series.columns).flat_map(|(_, it)| it);
                let known = values().filter(|value| !value.is_nan()).count();
                ensure!(
                    known * 2 > values().count(),
                    "{name} over {range}: {known} of {} values",
                    values().count()
                );
            }
            all.push(summary("layer", name, range, times));
        }
    }
    Ok(all)
}

/// Through the HTTP API of an aggregator on this store.
pub async fn api(directory: &Path, cluster: Uuid, newest: i64, rounds: usize) -> anyhow::Result<Vec<Found>> {
    let arguments = ["bench", "--listen-api", "127.0.0.1:0", "--listen-ingest", "127.0.0.1:0", "--state-dir"];
    let arguments =
        arguments.map(std::ffi::OsString::from).into_iter().chain([directory.as_os_str().to_owned()]);
    let flags = config::SCHEMA.add_flags(clap::Command::new("bench")).try_get_matches_from(arguments)?;
    let (config, _) =
        config::load(&flags, std::iter::empty()).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let aggregator = Aggregator::build(config).await?;
    let url = format!("http://{}", aggregator.api_address()?);
    let end = CancellationToken::new();
    let running = tokio::spawn(aggregator.run(end.clone()));
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let first = format!("{url}/api/v1/clusters/{cluster}/raft");
    while !http.get(&first).send().await.is_ok_and(|answer| answer.status().is_success()) {
        ensure!(Instant::now() < deadline, "the aggregator does not answer");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut all = Vec::new();
    for (range, seconds) in RANGES {
        let from = newest - seconds;
        for (name, _, path) in questions() {
            let url = format!("{url}/api/v1/clusters/{cluster}/{path}&from={from}&to={newest}");
            let mut times = Vec::new();
            for round in 0..=rounds {
                let began = Instant::now();
                let answer = http.get(&url).send().await?;
                let status = answer.status();
                let body = answer.bytes().await?;
                if round > 0 {
                    times.push(began.elapsed());
                }
                ensure!(status.is_success() && body.len() > 1_000, "{url}: {status}: {body:?}");
            }
            all.push(summary("api", name, range, times));
        }
    }
    end.cancel();
    running.await??;
    Ok(all)
}

fn summary(way: &str, name: &'static str, range: &'static str, mut times: Vec<Duration>) -> Found {
    times.sort();
    let at = |share: f64| {
        let position = (share * times.len() as f64).ceil() as usize;
        times.get(position.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    let found = Found { name, range, p50_ms: at(0.5), p95_ms: at(0.95) };
    eprintln!("{way:6} {name:20} {range:>8}  p50 {:7.1} ms  p95 {:7.1} ms", found.p50_ms, found.p95_ms);
    found
}
