//! Clusters and members as metrics. Labels are those of alerts: `cluster` (name), `cluster_id` (UUID), `member` (16 hexadecimal
//! digits), `member_name`.
//!
//! Cardinality is bounded: for each cluster a dozen series, for each member some 40 and [`BOUNDS`] of each file class in which
//! it syncs, for each stream and reason of its ledger one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use etcdmon_histogram::bucket_of;
use etcdmon_proto::v1;
use uuid::Uuid;

use super::family::{Families, Histogram, Kind, Label, Value};
use crate::cluster::Cumulative;
use crate::store::Tally;
use crate::view::{ClusterView, MemberView, View, hex};

/// Upper bounds of sync latencies in nanoseconds: the usual ones of Prometheus's client libraries, with a decade below. All are
/// edges of the histogram that everything here is counted in, so nothing is interpolated.
pub const BOUNDS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const STATES: [&str; 4] = ["ok", "degraded", "no_leader", "unknown"];

const HEALTHS: [&str; 5] = ["healthy", "unresponsive", "down", "unreachable", "unknown"];

/// Everything of all clusters.
pub fn fleet(families: &mut Families, view: &View, tally: &Tally) {
    for cluster in view.clusters.values() {
        let labels = of_cluster(cluster);
        about_cluster(families, cluster, &labels);
        for member in &cluster.members {
            about_member(families, member, &labels);
        }
    }
    alerts(families, view);
    tallied(families, view, tally);
}

fn of_cluster(cluster: &ClusterView) -> Vec<Label> {
    vec![label("cluster", &cluster.summary.name), label("cluster_id", &cluster.summary.id.to_string())]
}

fn of_member(cluster: &[Label], id: &str, name: &str) -> Vec<Label> {
    let mut labels = cluster.to_vec();
    labels.push(label("member", id));
    if !name.is_empty() {
        labels.push(label("member_name", name));
    }
    labels
}

fn label(name: &'static str, value: &str) -> Label {
    (Cow::Borrowed(name), value.to_owned())
}

fn with(labels: &[Label], name: &'static str, value: &str) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push(label(name, value));
    labels
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn about_cluster(families: &mut Families, cluster: &ClusterView, labels: &[Label]) {
    let summary = &cluster.summary;
    let etcd_id = with(labels, "etcd_cluster_id", &summary.etcd_cluster_id);
    families.gauge("etcdmon_cluster_info", "A cluster that is known; always 1", &etcd_id, 1.0);
    for state in STATES {
        let help = "Whether the cluster is in this state: one of them is 1";
        families.gauge(
            "etcdmon_cluster_state",
            help,
            &with(labels, "state", state),
            truth(summary.state == state),
        );
    }
    families.gauge("etcdmon_cluster_members", "Members that the cluster has", labels, summary.members as f64);
    // A cluster of which nothing is heard has no leader that is known, which is not the same as none.
    if summary.state != "unknown" {
        let has = truth(summary.leader.is_some());
        families.gauge("etcdmon_cluster_has_leader", "Whether a member is known to lead", labels, has);
    }
    let changes = cluster.leader.changes_total as f64;
    let help = "Changes of leader seen since the aggregator began";
    families.counter("etcdmon_cluster_leader_changes_total", help, labels, changes);
}

fn about_member(families: &mut Families, member: &MemberView, cluster: &[Label]) {
    let labels = of_member(cluster, &member.id, &member.name);
    let mut info = with(&labels, "version", &member.version);
    info.push(label("node", member.node.as_deref().unwrap_or_default()));
    info.push(label("source", member.source.as_deref().unwrap_or_default()));
    families.gauge("etcdmon_member_info", "A member that is known; always 1", &info, 1.0);
    for health in HEALTHS {
        let help = "Whether the member is in this state: one of them is 1";
        families.gauge(
            "etcdmon_member_health",
            help,
            &with(&labels, "health", health),
            truth(member.health == health),
        );
    }
    for open in &member.diagnoses {
        let labels = with(&labels, "cause", open.cause.name());
        families.gauge("etcdmon_member_diagnosis_open", "Why the member is slow; 1 while open", &labels, 1.0);
    }
    if member.health == "unknown" {
        return;
    }
    let scraped = truth(member.scrape_ok);
    families.gauge("etcdmon_member_scrape_ok", "Whether etcd answered the last scrape", &labels, scraped);
    // What etcd said last is not what is while it does not answer.
    if member.scrape_ok {
        let gauges: [(&'static str, &'static str, f64); 8] = [
            ("etcdmon_member_is_leader", "Whether the member leads", truth(member.is_leader)),
            ("etcdmon_member_is_learner", "Whether it has no vote", truth(member.is_learner)),
            ("etcdmon_member_raft_term", "Raft term", member.raft_term as f64),
            ("etcdmon_member_raft_index", "Raft index", member.raft_index as f64),
            (
                "etcdmon_member_raft_applied_index",
                "Raft index that is applied",
                member.raft_applied_index as f64,
            ),
            ("etcdmon_member_db_size_bytes", "Size of the database's file", member.db_size_bytes as f64),
            ("etcdmon_member_db_in_use_bytes", "Part of it that is in use", member.db_in_use_bytes as f64),
            ("etcdmon_member_db_quota_bytes", "Limit of its size", member.quota_bytes as f64),
        ];
        gauges.into_iter().for_each(|(name, help, value)| families.gauge(name, help, &labels, value));
    }
    for (class, syncs) in &member.counted.syncs {
        let labels = with(&labels, "class", class.name());
        let help = "Latency of fsync and fdatasync as the kernel measured it, by class of file";
        let value = Value::Histogram(histogram(syncs));
        families.add("etcdmon_sync_latency_seconds", help, Kind::Histogram, labels, value);
    }
    if let Some(vitals) = &member.counted.vitals {
        about_process(families, vitals, &labels);
    }
    if let Some(slow) = &member.counted.slow_syncs {
        about_slow_syncs(families, slow, &labels);
    }
}

/// The histogram with these bounds. Bounds are inclusive there and exclusive here: a latency of exactly a bound, to the
/// nanosecond, counts above it.
pub fn histogram(syncs: &Cumulative) -> Histogram {
    let mut pairs = syncs.pairs.iter().peekable();
    let mut seen = 0;
    let buckets = BOUNDS.map(|bound| {
        while let Some((_, count)) = pairs.next_if(|(bucket, _)| usize::from(*bucket) < bucket_of(bound)) {
            seen += count;
        }
        (seconds(bound), seen)
    });
    let rest: u64 = pairs.map(|(_, count)| count).sum();
    Histogram { buckets: buckets.to_vec(), sum: seconds(syncs.sum_ns), count: seen + rest }
}

fn about_process(families: &mut Families, vitals: &v1::LiveVitals, labels: &[Label]) {
    let counters: [(&'static str, &'static str, Option<u64>); 5] = [
        ("etcdmon_member_on_cpu_seconds_total", "Time that etcd's threads ran", vitals.on_cpu_ns_total),
        (
            "etcdmon_member_run_delay_seconds_total",
            "Time that etcd's threads could have run, but had no CPU",
            vitals.run_delay_ns_total,
        ),
        (
            "etcdmon_member_cpu_throttled_seconds_total",
            "CPU time that the quota of etcd's cgroup refused",
            vitals.cpu_throttled_ns_total,
        ),
        ("etcdmon_member_stopped_seconds_total", "Time that etcd was stopped", vitals.stopped_ns_total),
        ("etcdmon_node_steal_seconds_total", "CPU time that the hypervisor took", vitals.steal_ns_total),
    ];
    for (name, help, ns) in counters {
        if let Some(ns) = ns {
            families.counter(name, help, labels, seconds(ns));
        }
    }
    let counters: [(&'static str, &'static str, Option<u64>); 2] = [
        (
            "etcdmon_member_disk_errors_total",
            "Requests on etcd's disks that ended with an error",
            vitals.io_errors_total,
        ),
        (
            "etcdmon_member_sync_errors_total",
            "Syncs of etcd that returned an error",
            vitals.sync_errors_total,
        ),
    ];
    for (name, help, count) in counters {
        if let Some(count) = count {
            families.counter(name, help, labels, count as f64);
        }
    }
    let gauges: [(&'static str, &'static str, Option<u64>); 2] = [
        ("etcdmon_member_disk_free_bytes", "What etcd may still write on its disk", vitals.disk_free_bytes),
        ("etcdmon_member_disk_size_bytes", "Size of etcd's filesystem", vitals.disk_size_bytes),
    ];
    for (name, help, bytes) in gauges {
        if let Some(bytes) = bytes {
            families.gauge(name, help, labels, bytes as f64);
        }
    }
}

fn about_slow_syncs(families: &mut Families, slow: &v1::LiveSlowSyncs, labels: &[Label]) {
    let help = "Slow syncs whose time was split into parts";
    families.counter("etcdmon_slow_syncs_examined_total", help, labels, slow.examined_total as f64);
    let help = "Slow syncs that were not examined because there were too many";
    families.counter("etcdmon_slow_syncs_left_out_total", help, labels, slow.left_out_total as f64);
    let parts = slow.parts_total.unwrap_or_default();
    for (part, ns) in [
        ("on_cpu", parts.on_cpu_ns),
        ("run_queue", parts.run_queue_ns),
        ("journal", parts.journal_ns),
        ("queue", parts.queue_ns),
        ("device", parts.device_ns),
        ("flush", parts.flush_ns),
        ("throttle", parts.throttle_ns),
        ("steal", parts.steal_ns),
        ("unexplained", parts.unexplained_ns),
    ] {
        let help = "Where the time of examined slow syncs went";
        families.counter("etcdmon_slow_sync_seconds_total", help, &with(labels, "part", part), seconds(ns));
    }
}

/// What pends and fires, as Prometheus shows its own alerts.
fn alerts(families: &mut Families, view: &View) {
    for alert in view.alerts.iter().filter(|alert| alert.state != "resolved") {
        let mut labels: Vec<Label> =
            alert.labels.iter().map(|(name, value)| (Cow::Owned(name.clone()), value.clone())).collect();
        labels.retain(|(name, _)| name != "alertstate");
        labels.push(label("alertstate", &alert.state));
        families.gauge("etcdmon_alert", "An alert that pends or fires; 1 as long as it does", &labels, 1.0);
    }
}

/// What stored batches said, since the aggregator began.
fn tallied(families: &mut Families, view: &View, tally: &Tally) {
    let places = Places::new(view);
    for ((cluster, member, class), writes) in tally.writes() {
        let labels = with(&places.labels(cluster, member), "class", &class);
        let help = "Bytes that etcd wrote, by class of file; of stored batches";
        families.counter("etcdmon_written_bytes_total", help, &labels, writes as f64);
    }
    for ((cluster, member, class), delay_ns) in tally.run_delays() {
        let labels = with(&places.labels(cluster, member), "class", &class);
        let help = "Time that syncing threads waited for a CPU during their syncs; of stored batches";
        families.counter("etcdmon_sync_run_delay_seconds_total", help, &labels, seconds(delay_ns));
    }
    for ((cluster, member, stream, kind, reason), account) in tally.ledger() {
        let mut labels = with(&places.labels(cluster, member), "stream", &stream);
        let (name, help): (&'static str, &'static str) = match kind {
            "produced" => ("etcdmon_ledger_produced_total", "What agents made, by stream"),
            "dropped" => ("etcdmon_ledger_dropped_total", "What was dropped on its way, and why"),
            _ => (
                "etcdmon_ledger_blind_total",
                "What is known to have happened while nothing was seen, and why",
            ),
        };
        if kind != "produced" {
            labels.push(label("reason", &reason));
        }
        families.counter(name, help, &labels, account.count as f64);
        if kind == "blind" {
            let help = "Time in which nothing was seen, and why";
            families.counter("etcdmon_ledger_blind_seconds_total", help, &labels, seconds(account.blind_ns));
        }
    }
}

/// Labels of clusters and members by their ids.
struct Places {
    clusters: BTreeMap<Uuid, Vec<Label>>,
    names: BTreeMap<(Uuid, String), String>,
}

impl Places {
    fn new(view: &View) -> Self {
        let clusters = view.clusters.iter().map(|(id, cluster)| (*id, of_cluster(cluster))).collect();
        let of = |id: Uuid, member: &MemberView| ((id, member.id.clone()), member.name.clone());
        let members =
            view.clusters.iter().flat_map(|(id, cluster)| cluster.members.iter().map(|m| of(*id, m)));
        Self { clusters, names: members.collect() }
    }

    /// A node has no cluster and no member: it is all nodes together.
    fn labels(&self, cluster: Uuid, member: u64) -> Vec<Label> {
        if cluster.is_nil() && member == 0 {
            return Vec::new();
        }
        let unknown = || vec![label("cluster_id", &cluster.to_string())];
        let labels = self.clusters.get(&cluster).cloned().unwrap_or_else(unknown);
        let member = hex(member);
        let name = self.names.get(&(cluster, member.clone())).map_or("", String::as_str);
        of_member(&labels, &member, name)
    }
}

#[cfg(test)]
mod tests;
