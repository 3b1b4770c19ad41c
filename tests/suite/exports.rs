//! Exports: a real Prometheus scrapes the aggregator and takes its OTLP, and its numbers are those of our API.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::load::Plan;
use etcdmon_tests::metrics::WAL_FSYNC;
use etcdmon_tests::prometheus::{self, Prometheus};
use etcdmon_tests::stand::{Centre, Stand, VISIBLE_LIMIT};
use etcdmon_tests::suite::{run, skip_without_root};
use etcdmon_tests::wait;

/// How long the load is measured.
const MEASURED: Duration = Duration::from_secs(6);

/// Bounds of the exported histogram, in seconds.
const BOUNDS: [f64; 16] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts by member and class.
type Counts = BTreeMap<(String, String), u64>;

/// Sync counts as a job of Prometheus has them.
async fn counts(prometheus: &Prometheus, job: &str) -> Result<Counts> {
    let found = prometheus.query(&format!("etcdmon_sync_latency_seconds_count{{job={job:?}}}")).await?;
    let of = |labels: &BTreeMap<String, String>, name: &str| labels.get(name).cloned().unwrap_or_default();
    let count = |value: f64| value as u64;
    Ok(found
        .into_iter()
        .map(|(labels, value)| ((of(&labels, "member"), of(&labels, "class")), count(value)))
        .collect())
}

/// Waits until a job has the counts of our API, and those no longer change.
async fn same_counts(stand: &Stand, prometheus: &Prometheus, job: &str) -> Result<Counts> {
    wait::until(&format!("{job} and the API to count alike"), VISIBLE_LIMIT, async || {
        let stored = stand.api.sync_counts(&stand.id, stand.since).await?;
        let stored: Counts =
            stored.into_iter().map(|count| ((count.member, count.class), count.count)).collect();
        let found = counts(prometheus, job).await?;
        ensure!(!found.is_empty() && found == stored, "Prometheus {found:?}, API {stored:?}");
        Ok(Some(found))
    })
    .await
}

/// M7, P6: counts equal, rates and quantiles agree, etcd's own families are there by their names, the page is as promtool wants
/// it; by scrape and by OTLP.
#[test]
fn a_real_prometheus_has_the_numbers_of_our_api() {
    if skip_without_root("probes") || prometheus::skip_without() {
        return;
    }
    run(async |place| {
        let mut centre = Centre::prepare(&place).await?;
        let mut prometheus = Prometheus::prepare(&place, &centre.aggregator.api)?;
        let mut daemon = centre.aggregator.daemon.set("--export-members", "true");
        if let Some(endpoint) = prometheus.otlp() {
            daemon = daemon.set("--export-otlp-endpoint", endpoint).set("--export-otlp-interval", "1s");
        }
        centre.aggregator.daemon = daemon;
        prometheus.start().await?;
        let ingest = centre.aggregator.ingest.clone();
        let cluster = Cluster::builder("etcd");
        let stand = Stand::around(&place, centre, cluster, &Plan::default(), &ingest, None).await?;
        stand.wait_visible().await?;

        tokio::time::sleep(MEASURED + Duration::from_secs(2)).await;
        rates_agree(&stand, &prometheus).await?;
        stand.rest().await?;
        let scraped = same_counts(&stand, &prometheus, "scraped").await?;
        println!("scraped: {scraped:?}");
        quantiles_agree(&stand, &prometheus).await?;
        members_families_are_theirs(&stand, &prometheus).await?;
        page_is_sound(&stand, &prometheus).await?;

        if prometheus.otlp().is_none() {
            println!("skipped: OTLP, which this Prometheus does not take");
            return stand.finish();
        }
        let pushed = same_counts(&stand, &prometheus, "etcd-monitor-aggregator").await?;
        println!("pushed: {pushed:?}");
        outage_heals(&stand, &mut prometheus).await?;
        stand.finish()
    });
}

/// Syncs a second over the last seconds, by Prometheus and by our API.
async fn rates_agree(stand: &Stand, prometheus: &Prometheus) -> Result<()> {
    let seconds = MEASURED.as_secs();
    let expression =
        format!("sum(rate(etcdmon_sync_latency_seconds_count{{job=\"scraped\",class=\"wal\"}}[{seconds}s]))");
    let rate = prometheus.number(&expression).await?;
    // What is stored comes a few seconds later.
    let to = SystemTime::now();
    let stored = wait::settled(
        "what was stored of those seconds",
        Duration::from_secs(4),
        VISIBLE_LIMIT,
        async || {
            let buckets = stand.api.latency(&stand.id, "wal", to - MEASURED, to).await?;
            Ok(buckets.iter().map(|bucket| bucket.count).sum::<u64>())
        },
    )
    .await?;
    let expected = stored as f64 / MEASURED.as_secs_f64();
    println!("{rate:.1} syncs a second by Prometheus, {expected:.1} by our API");
    ensure!(rate > 0.6 * expected && rate < 1.6 * expected, "{rate} against {expected}");
    Ok(())
}

/// Percentiles lie between the same two bounds.
async fn quantiles_agree(stand: &Stand, prometheus: &Prometheus) -> Result<()> {
    for (share, field) in [(0.5, "p50_ns"), (0.99, "p99_ns")] {
        let expression = format!(
            "histogram_quantile({share}, sum by (le) (etcdmon_sync_latency_seconds_bucket{{job=\"scraped\",class=\"wal\"}}))"
        );
        let quantile = prometheus.number(&expression).await?;
        let from = etcdmon_tests::api::stamp(stand.since);
        let path = format!("/api/v1/clusters/{}/latency?class=wal&from={from}", stand.id);
        let ours = stand.api.get(&path).await?[field].as_u64().context("no percentile")? as f64 / 1e9;
        let above = BOUNDS.partition_point(|bound| *bound < ours);
        let lower = above.checked_sub(1).map_or(0.0, |below| BOUNDS[below]);
        let upper = BOUNDS.get(above).copied().unwrap_or(f64::INFINITY);
        println!("{field}: {quantile} by Prometheus, {ours} by our API, between {lower} and {upper}");
        // Ours is a bucket's middle, up to 5 % off, and may fall on the other side of a bound.
        ensure!(
            quantile >= lower * 0.95 && quantile <= upper * 1.05,
            "{quantile} is not in {lower}..{upper}"
        );
    }
    Ok(())
}

/// What etcd exposes itself, by its own names and types, as it exposes it.
async fn members_families_are_theirs(stand: &Stand, prometheus: &Prometheus) -> Result<()> {
    for index in 0..stand.cluster.members.len() {
        let member = format!("{:016x}", stand.cluster.member_id(index).await?);
        let expression = format!("{WAL_FSYNC}_count{{job=\"scraped\",member={member:?}}}");
        wait::until("the count that etcd shows itself", VISIBLE_LIMIT, async || {
            let shown = stand.cluster.metrics(index).await?.count(WAL_FSYNC)? as f64;
            let found = prometheus.number(&expression).await?;
            ensure!(found == shown, "{found} instead of {shown}");
            Ok(Some(()))
        })
        .await?;
        let leads = format!("etcd_server_has_leader{{job=\"scraped\",member={member:?}}}");
        ensure!(prometheus.number(&leads).await? == 1.0, "{member} has no leader");
    }
    let known = prometheus.get("/api/v1/metadata", &[]).await?;
    for (name, kind) in [
        (WAL_FSYNC, "histogram"),
        ("etcd_server_proposals_committed_total", "gauge"),
        ("etcd_mvcc_db_total_size_in_bytes", "gauge"),
        ("grpc_server_started_total", "counter"),
        ("etcdmon_sync_latency_seconds", "histogram"),
    ] {
        // OpenMetrics calls a counter's family without its suffix.
        let told = [name, name.trim_end_matches("_total")].map(|name| &known[name][0]["type"]);
        ensure!(told.iter().any(|told| **told == kind), "{name} is {told:?}, not {kind}");
    }
    Ok(())
}

/// Prometheus reads the page without complaint, and promtool has none of ours.
async fn page_is_sound(stand: &Stand, prometheus: &Prometheus) -> Result<()> {
    ensure!(prometheus.number("up{job=\"scraped\"}").await? == 1.0, "the target is down");
    let targets = prometheus.get("/api/v1/targets", &[]).await?;
    ensure!(targets["activeTargets"][0]["lastError"] == "", "{targets}");
    let (status, page) = stand.api.raw("/metrics").await?;
    ensure!(status == 200, "{status}: {page}");
    // etcd's names are its own, and promtool has something to say of some.
    let ours: Vec<String> = prometheus::check(stand.place.path(), &page)?
        .into_iter()
        .filter(|line| line.starts_with("etcdmon_"))
        .collect();
    ensure!(ours.is_empty(), "{ours:#?}");
    Ok(())
}

/// A receiver that is away for a while is served again, and nothing else suffers.
async fn outage_heals(stand: &Stand, prometheus: &mut Prometheus) -> Result<()> {
    let own = async |name: &str| {
        let (_, page) = stand.api.raw("/metrics").await?;
        let line = page.lines().find(|line| line.starts_with(&format!("etcdmon_aggregator_otlp_{name} ")));
        let value = line.and_then(|line| line.rsplit(' ').next()).context("no such counter")?;
        Ok::<f64, anyhow::Error>(value.parse()?)
    };
    prometheus.kill();
    wait::until("points to wait", VISIBLE_LIMIT, async || {
        Ok((own("waiting_points").await? > 0.0 && own("failures_total").await? > 0.0).then_some(()))
    })
    .await?;
    ensure!(stand.api.members(&stand.id).await?.len() == 3, "the API suffers");
    let before = own("delivered_points_total").await?;
    prometheus.start().await?;
    wait::until("points to be delivered again", VISIBLE_LIMIT, async || {
        Ok((own("delivered_points_total").await? > before).then_some(()))
    })
    .await
}
