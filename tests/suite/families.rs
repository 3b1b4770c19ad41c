//! Families: every metric family of etcd 3.4 to 3.7 arrives by its right name and type.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcdmon_tests::engine::Engine;
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::node::{Agent, Aggregator, data_dirs};
use etcdmon_tests::stand::VISIBLE_LIMIT;
use etcdmon_tests::suite::run;
use etcdmon_tests::{tools, wait};

/// What a family is on etcd's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// All versions, and those from one on.
const ALL: (u32, u32) = (4, 7);
const FROM_3_5: (u32, u32) = (5, 7);
const FROM_3_6: (u32, u32) = (6, 7);
const ONLY_3_4: (u32, u32) = (4, 4);
const ONLY_3_7: (u32, u32) = (7, 7);

/// Families that a cluster of one member has after a put and a range, with the first and the last minor version.
/// By their names some gauges are counters: `proposals_committed_total` is raft's commit index, and falls on a restart.
const FAMILIES: &[(&str, Kind, (u32, u32))] = &[
    ("etcd_cluster_version", Gauge, ALL),
    ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", Histogram, ALL),
    ("etcd_debugging_disk_backend_commit_spill_duration_seconds", Histogram, ALL),
    ("etcd_debugging_disk_backend_commit_write_duration_seconds", Histogram, ALL),
    ("etcd_debugging_lease_granted_total", Counter, ALL),
    ("etcd_debugging_lease_renewed_total", Counter, ALL),
    ("etcd_debugging_lease_revoked_total", Counter, ALL),
    ("etcd_debugging_lease_ttl_total", Histogram, ALL),
    ("etcd_debugging_mvcc_compact_revision", Gauge, ALL),
    ("etcd_debugging_mvcc_current_revision", Gauge, ALL),
    ("etcd_debugging_mvcc_db_compaction_keys_total", Counter, ALL),
    ("etcd_debugging_mvcc_db_compaction_last", Gauge, FROM_3_5),
    ("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", Histogram, ALL),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", Histogram, ALL),
    ("etcd_debugging_mvcc_db_total_size_in_bytes", Gauge, ONLY_3_4),
    ("etcd_debugging_mvcc_put_total", Counter, ONLY_3_4),
    ("etcd_debugging_mvcc_range_total", Counter, (4, 5)),
    ("etcd_debugging_mvcc_events_total", Counter, ALL),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", Histogram, ALL),
    ("etcd_debugging_mvcc_keys_total", Gauge, ALL),
    ("etcd_debugging_mvcc_pending_events_total", Gauge, ALL),
    ("etcd_debugging_mvcc_slow_watcher_total", Gauge, ALL),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", Gauge, ALL),
    ("etcd_debugging_mvcc_watch_stream_total", Gauge, ALL),
    ("etcd_debugging_mvcc_watcher_total", Gauge, ALL),
    ("etcd_debugging_server_lease_expired_total", Counter, ALL),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", Histogram, ONLY_3_7),
    ("etcd_debugging_snap_save_total_duration_seconds", Histogram, ALL),
    ("etcd_disk_backend_commit_duration_seconds", Histogram, ALL),
    ("etcd_disk_backend_defrag_duration_seconds", Histogram, ALL),
    ("etcd_disk_backend_snapshot_duration_seconds", Histogram, ALL),
    ("etcd_disk_defrag_inflight", Gauge, ALL),
    ("etcd_disk_wal_fsync_duration_seconds", Histogram, ALL),
    ("etcd_disk_wal_write_bytes_total", Gauge, ALL),
    ("etcd_disk_wal_write_duration_seconds", Histogram, FROM_3_5),
    ("etcd_mvcc_db_open_read_transactions", Gauge, ALL),
    ("etcd_mvcc_db_total_size_in_bytes", Gauge, ALL),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", Gauge, ALL),
    ("etcd_mvcc_delete_total", Counter, ALL),
    ("etcd_mvcc_hash_duration_seconds", Histogram, ALL),
    ("etcd_mvcc_hash_rev_duration_seconds", Histogram, ALL),
    ("etcd_mvcc_put_total", Counter, ALL),
    ("etcd_mvcc_range_total", Counter, ALL),
    ("etcd_mvcc_txn_total", Counter, ALL),
    ("etcd_network_client_grpc_received_bytes_total", Counter, ALL),
    ("etcd_network_client_grpc_sent_bytes_total", Counter, ALL),
    ("etcd_network_known_peers", Gauge, FROM_3_6),
    ("etcd_server_apply_duration_seconds", Histogram, FROM_3_5),
    ("etcd_server_client_requests_total", Counter, ALL),
    ("etcd_server_feature_enabled", Gauge, FROM_3_6),
    ("etcd_server_go_version", Gauge, ALL),
    ("etcd_server_has_leader", Gauge, ALL),
    ("etcd_server_health_failures", Counter, ALL),
    ("etcd_server_health_success", Counter, ALL),
    ("etcd_server_heartbeat_send_failures_total", Counter, ALL),
    ("etcd_server_id", Gauge, ALL),
    ("etcd_server_is_leader", Gauge, ALL),
    ("etcd_server_is_learner", Gauge, ALL),
    ("etcd_server_leader_changes_seen_total", Counter, ALL),
    ("etcd_server_learner_promote_successes", Counter, ALL),
    ("etcd_server_proposals_applied_total", Gauge, ALL),
    ("etcd_server_proposals_committed_total", Gauge, ALL),
    ("etcd_server_proposals_failed_total", Counter, ALL),
    ("etcd_server_proposals_pending", Gauge, ALL),
    ("etcd_server_quota_backend_bytes", Gauge, ALL),
    ("etcd_server_range_duration_seconds", Histogram, FROM_3_6),
    ("etcd_server_read_indexes_failed_total", Counter, ALL),
    ("etcd_server_request_duration_seconds", Histogram, ONLY_3_7),
    ("etcd_server_slow_apply_total", Counter, ALL),
    ("etcd_server_slow_read_indexes_total", Counter, ALL),
    ("etcd_server_snapshot_apply_in_progress_total", Gauge, ALL),
    ("etcd_server_version", Gauge, ALL),
    ("etcd_snap_db_fsync_duration_seconds", Histogram, ALL),
    ("etcd_snap_db_save_total_duration_seconds", Histogram, ALL),
    ("etcd_snap_fsync_duration_seconds", Histogram, ALL),
    ("go_gc_duration_seconds_count", Counter, ALL),
    ("grpc_server_handled_total", Counter, ALL),
    ("grpc_server_msg_received_total", Counter, ALL),
    ("grpc_server_msg_sent_total", Counter, ALL),
    ("grpc_server_started_total", Counter, ALL),
    ("os_fd_limit", Gauge, ALL),
    ("os_fd_used", Gauge, ALL),
    ("process_cpu_seconds_total", Counter, ALL),
    ("process_max_fds", Gauge, ALL),
    ("process_open_fds", Gauge, ALL),
    ("process_resident_memory_bytes", Gauge, ALL),
];

/// Prefixes of what is collected of a page.
const KEPT: [&str; 5] = ["etcd_", "grpc_server_", "process_", "go_gc", "os_fd_"];

/// Names and types that are stored of a member.
type Stored = BTreeMap<String, BTreeSet<String>>;

/// What is expected of a version by the list.
fn missing(minor: u32, stored: &Stored) -> Vec<String> {
    let mut wrong = Vec::new();
    for (family, kind, (first, last)) in FAMILIES {
        let (name, stored_type) = match kind {
            Histogram => (format!("{family}_bucket"), "counter"),
            Counter => ((*family).to_owned(), "counter"),
            Gauge => ((*family).to_owned(), "gauge"),
        };
        let found = stored.get(&name);
        let expected = (*first..=*last).contains(&minor);
        let right = found.is_some_and(|types| types.len() == 1 && types.contains(stored_type));
        if expected && !right {
            wrong.push(format!("3.{minor} has {name} ({stored_type}), stored: {found:?}"));
        }
        if !expected && found.is_some() {
            wrong.push(format!("3.{minor} has no {name}, but it is stored"));
        }
    }
    wrong
}

/// Names with samples on etcd's own page, of the families that are collected.
fn names_of(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| KEPT.iter().any(|prefix| line.starts_with(prefix)));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

async fn page(http: &reqwest::Client, url: &str) -> Result<String> {
    let response = http.get(format!("{url}/metrics")).timeout(Duration::from_secs(5)).send().await?;
    Ok(response.error_for_status()?.text().await?)
}

/// A put and a range, so that series that begin with the first request have begun.
async fn ask_something(http: &reqwest::Client, url: &str) -> Result<()> {
    for (path, body) in [("put", r#"{"key":"YQ==","value":"YQ=="}"#), ("range", r#"{"key":"YQ=="}"#)] {
        let request = http.post(format!("{url}/v3/kv/{path}")).timeout(Duration::from_secs(5)).body(body);
        request.send().await?.error_for_status().with_context(|| path.to_owned())?;
    }
    Ok(())
}

async fn stored(engine: &Engine, member: u64) -> Result<Stored> {
    let sql = format!("SELECT DISTINCT name, type FROM etcdmon.metrics WHERE member = {member} FORMAT TSV");
    let mut stored = Stored::new();
    for line in engine.ask(&sql).await?.lines() {
        let (name, kind) = line.split_once('\t').context("two columns")?;
        stored.entry(name.to_owned()).or_default().insert(kind.to_owned());
    }
    Ok(stored)
}

/// M5: the metrics of all supported versions, by their right names and types, none refused and none malformed.
#[test]
fn all_families_of_all_versions_arrive_by_their_right_name_and_type() {
    let versions: Vec<&str> =
        tools::ETCD_VERSIONS.into_iter().filter(|version| !tools::skip_without_etcd(version)).collect();
    if versions.is_empty() {
        return;
    }
    run(async |place| {
        let mut aggregator = Aggregator::prepare(&place, "aggregator", &[])?;
        aggregator.daemon.spawn()?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut clusters = Vec::new();
        for version in &versions {
            let builder =
                Cluster::builder(&format!("v{}", version.replace('.', "-"))).members(1).version(version);
            let cluster = builder.start(&place).await?;
            ask_something(&http, cluster.members[0].client_url()).await?;
            clusters.push(cluster);
        }
        aggregator.daemon.wait_ready().await?;
        let directories: Vec<_> = clusters.iter().flat_map(data_dirs).collect();
        let mut agent = Agent::prepare(&place, "agent", &aggregator.ingest, &directories)?;
        agent.daemon.start().await?;
        let api = aggregator.client()?;
        let (mut members, mut pages) = (Vec::new(), Vec::new());
        for cluster in &clusters {
            let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
            let path = format!("/api/v1/clusters/{id}/metrics/current?name=grpc_server_handled_total");
            wait::until("etcd's own metrics to be readable over the API", VISIBLE_LIMIT, async || {
                let samples = api.get(&path).await?;
                ensure!(samples["samples"].as_array().is_some_and(|all| !all.is_empty()), "{samples}");
                Ok(Some(()))
            })
            .await?;
            members.push(cluster.member_id(0).await?);
            pages.push(names_of(&page(&http, cluster.members[0].client_url()).await?));
        }
        // What came onto the pages meanwhile is scraped within a second.
        tokio::time::sleep(Duration::from_secs(3)).await;
        agent.daemon.terminate()?;
        let command = aggregator.engine_command()?;
        aggregator.daemon.terminate()?;

        let engine = Engine::open(&command, &place.path().join("engine.log")).await?;
        let mut wrong = Vec::new();
        for ((version, member), page) in versions.iter().zip(members).zip(pages) {
            let stored = stored(&engine, member).await?;
            let minor =
                version.split('.').nth(1).and_then(|minor| minor.parse().ok()).context("a version")?;
            wrong.extend(missing(minor, &stored));
            let lost: Vec<&String> = page.iter().filter(|name| !stored.contains_key(*name)).collect();
            wrong.extend(
                lost.iter().map(|name| format!("{version}: {name} is on etcd's page, but not stored")),
            );
            println!("{version}: {} names on etcd's page, {} stored with ours", page.len(), stored.len());
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        let sql = "SELECT reason, sum(count) FROM etcdmon.ledger WHERE stream = 'metric' AND kind = 'dropped' GROUP BY reason";
        let dropped = engine.ask(sql).await?;
        ensure!(dropped.trim().is_empty(), "samples were dropped: {dropped}");
        Ok(())
    });
}
