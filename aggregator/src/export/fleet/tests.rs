use std::sync::Arc;

use etcdmon_histogram::lower_ns;
use serde_json::json;

use super::super::text::Format;
use super::*;
use crate::view::{ClusterSummary, Counted, LeaderView};

fn cumulative(pairs: &[(u64, u64)]) -> Cumulative {
    let bucket = |ns| u16::try_from(bucket_of(ns)).unwrap();
    let pairs: Vec<_> = pairs.iter().map(|(ns, count)| (bucket(*ns), *count)).collect();
    Cumulative { pairs: pairs.into(), sum_ns: 1_500_000_000 }
}

fn member(health: &str, scrape_ok: bool) -> MemberView {
    let member = json!({
        "id": "00000000000000a1", "name": "m1", "running": true, "health": health, "source": "agent", "is_leader": true,
        "is_learner": false, "version": "3.6.16", "raft_term": 3, "raft_index": 70, "raft_applied_index": 69,
        "db_size_bytes": 4096, "db_in_use_bytes": 2048, "quota_bytes": 8192, "agent": null, "node": "n\"1",
        "last_seen": null, "scrape_ok": scrape_ok, "scrape_error": "", "errors": [], "degraded": [], "process": null,
        "peer_urls": [], "client_urls": [], "data_dir": "", "boot_failure": null, "diagnoses": [],
    });
    let member: MemberView = serde_json::from_value(member).unwrap();
    let vitals = v1::LiveVitals { run_delay_ns_total: Some(2_500_000_000), ..v1::LiveVitals::default() };
    let syncs = vec![(v1::FileClass::Wal, cumulative(&[(999_999, 1), (1_000_000, 2), (20_000_000_000, 4)]))];
    Counted { syncs, vitals: Some(vitals), slow_syncs: None }.of(member)
}

impl Counted {
    fn of(self, member: MemberView) -> MemberView {
        MemberView { counted: self, ..member }
    }
}

fn page(member: MemberView, tally: &Tally) -> String {
    let id = Uuid::from_u128(7);
    let summary = ClusterSummary {
        id,
        etcd_cluster_id: "00000000000000c1".to_owned(),
        name: "prod".to_owned(),
        members: 1,
        leader: Some(member.id.clone()),
        state: "ok".to_owned(),
        last_seen: None,
        diagnoses: Vec::new(),
    };
    let cluster = ClusterView { summary, leader: LeaderView::default(), members: vec![member] };
    let view = View { clusters: BTreeMap::from([(id, cluster)]), ..View::default() };
    let mut families = Families::default();
    fleet(&mut families, &Arc::new(view), tally);
    Format::Prometheus.write(&families.into_vec())
}

/// Labels of the only member.
const OF: &str = "cluster=\"prod\",cluster_id=\"00000000-0000-0000-0000-000000000007\",member=\"00000000000000a1\",member_name=\"m1\"";

#[test]
fn every_bound_is_an_edge_of_our_buckets() {
    for bound in BOUNDS {
        assert_eq!(lower_ns(bucket_of(bound)), bound);
    }
    assert!(BOUNDS.is_sorted());
}

#[test]
fn buckets_count_up_to_their_bounds() {
    let counts =
        histogram(&cumulative(&[(50, 1), (999_999, 1), (1_000_000, 2), (9_999_999, 8), (20_000_000_000, 4)]));
    let up_to = |bound: f64| counts.buckets.iter().find(|(known, _)| *known == bound).unwrap().1;
    assert_eq!((up_to(0.0001), up_to(0.001), up_to(0.0025), up_to(0.01), up_to(10.0)), (1, 2, 4, 12, 12));
    assert_eq!((counts.count, counts.sum), (16, 1.5));
}

#[test]
fn a_member_that_answers_shows_everything() {
    let text = page(member("healthy", true), &Tally::default());
    for line in [
        format!("etcdmon_sync_latency_seconds_bucket{{{OF},class=\"wal\",le=\"0.001\"}} 1"),
        format!("etcdmon_sync_latency_seconds_bucket{{{OF},class=\"wal\",le=\"+Inf\"}} 7"),
        format!("etcdmon_sync_latency_seconds_sum{{{OF},class=\"wal\"}} 1.5"),
        format!("etcdmon_member_run_delay_seconds_total{{{OF}}} 2.5"),
        format!("etcdmon_member_health{{{OF},health=\"healthy\"}} 1"),
        format!("etcdmon_member_health{{{OF},health=\"down\"}} 0"),
        format!("etcdmon_member_is_leader{{{OF}}} 1"),
        format!("etcdmon_member_db_in_use_bytes{{{OF}}} 2048"),
        format!("etcdmon_member_info{{{OF},version=\"3.6.16\",node=\"n\\\"1\",source=\"agent\"}} 1"),
        "etcdmon_cluster_has_leader{cluster=\"prod\",cluster_id=\"00000000-0000-0000-0000-000000000007\"} 1"
            .to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    assert!(!text.contains("etcdmon_member_on_cpu_seconds_total"), "what is not known is not zero");
}

#[test]
fn what_nobody_tells_now_is_left_out() {
    let silent = MemberView { counted: Counted::default(), ..member("unknown", false) };
    let text = page(silent, &Tally::default());
    assert!(text.contains("health=\"unknown\"} 1"));
    for gone in ["etcdmon_sync_latency", "etcdmon_member_db_size", "etcdmon_member_scrape_ok"] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
    let hangs = page(member("unresponsive", false), &Tally::default());
    assert!(hangs.contains("etcdmon_sync_latency") && !hangs.contains("etcdmon_member_db_size"), "{hangs}");
}
