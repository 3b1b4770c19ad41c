//! What an agent sends of a member: which series, how often, and how large.

/// etcd ids of the clusters; the first is the one that is asked about, and the dense one.
pub const CLUSTERS: [u64; 6] = [0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6];

/// Members of each cluster, each on a node of its own.
pub const MEMBERS: u64 = 3;

/// A series of a member or node.
pub struct Shape {
    pub name: &'static str,
    pub labels: String,
    pub kind: &'static str,
    /// A sample in so many seconds: 1 for what changes all the time, 30 for what does not.
    pub period: u32,
    /// What a counter grows by in a second, or a gauge lies around.
    pub scale: f64,
    /// Of the node, not of the member.
    pub node: bool,
}

/// Bounds of etcd's histogram of WAL syncs.
const WAL_FSYNC: [&str; 15] = [
    "0.001", "0.002", "0.004", "0.008", "0.016", "0.032", "0.064", "0.128", "0.256", "0.512", "1.024",
    "2.048", "4.096", "8.192", "+Inf",
];

/// All series of a member and its node.
pub fn series() -> Vec<Shape> {
    let mut all = Vec::new();
    let mut add = |name, labels: &str, kind, period, scale, node| {
        all.push(Shape { name, labels: labels.to_owned(), kind, period, scale, node });
    };
    for (number, le) in WAL_FSYNC.iter().enumerate() {
        // Every count changes with every quick sync: cumulative buckets share their growth.
        let scale = 900.0 + 10.0 * number as f64;
        add(
            "etcd_disk_wal_fsync_duration_seconds_bucket",
            &format!(r#"{{"le":"{le}"}}"#),
            "counter",
            1,
            scale,
            false,
        );
    }
    add("etcd_disk_wal_fsync_duration_seconds_sum", "{}", "counter", 1, 2.0, false);
    for (name, kind, period, scale) in [
        ("etcd_mvcc_db_total_size_in_bytes", "gauge", 30, 2e9),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", 1, 1.5e9),
        ("etcd_server_proposals_committed_total", "gauge", 1, 1_000.0),
        ("etcd_server_proposals_applied_total", "gauge", 1, 1_000.0),
        ("etcd_server_proposals_pending", "gauge", 5, 3.0),
        ("etcd_server_proposals_failed_total", "counter", 30, 0.0),
        ("etcd_server_leader_changes_seen_total", "counter", 30, 0.0),
        ("etcd_server_is_leader", "gauge", 30, 1.0),
        ("etcdmon_process_run_delay_seconds_total", "counter", 1, 0.01),
        ("etcdmon_process_resident_bytes", "gauge", 2, 2e8),
        ("etcdmon_process_threads", "gauge", 10, 14.0),
        ("etcdmon_process_open_descriptors", "gauge", 10, 40.0),
        ("etcdmon_process_descriptor_limit", "gauge", 30, 65_536.0),
        ("etcdmon_process_read_bytes_total", "counter", 30, 0.0),
        ("etcdmon_process_written_bytes_total", "counter", 1, 4e6),
        ("etcdmon_process_major_faults_total", "counter", 30, 0.0),
        ("etcdmon_cgroup_cpu_limit_cores", "gauge", 30, 2.0),
        ("etcdmon_cgroup_cpu_seconds_total", "counter", 1, 0.4),
        ("etcdmon_cgroup_memory_limit_bytes", "gauge", 30, 2e9),
        ("etcdmon_cgroup_memory_used_bytes", "gauge", 1, 4e8),
    ] {
        add(name, "{}", kind, period, scale, false);
    }
    for mode in ["user", "system"] {
        add(
            "etcdmon_process_cpu_seconds_total",
            &format!(r#"{{"mode":"{mode}"}}"#),
            "counter",
            1,
            0.2,
            false,
        );
    }
    for directory in ["data", "wal"] {
        for layer in ["volume", "disk"] {
            let place = format!(r#""device":"8:0","directory":"{directory}","layer":"{layer}""#);
            for name in ["etcdmon_disk_busy_seconds_total", "etcdmon_disk_queue_seconds_total"] {
                add(name, &format!("{{{place}}}"), "counter", 1, 0.5, false);
            }
            for operation in ["read", "write", "discard", "flush"] {
                let labels = format!(r#"{{{place},"operation":"{operation}"}}"#);
                let period = if operation == "write" || operation == "flush" { 1 } else { 30 };
                for name in [
                    "etcdmon_disk_operations_total",
                    "etcdmon_disk_operation_seconds_total",
                    "etcdmon_disk_bytes_total",
                ] {
                    add(name, &labels, "counter", period, 300.0, false);
                }
            }
        }
        let labels = format!(r#"{{"directory":"{directory}"}}"#);
        for name in
            ["etcdmon_disk_size_bytes", "etcdmon_disk_available_bytes", "etcdmon_disk_available_inodes"]
        {
            add(name, &labels, "gauge", 10, 1e10, false);
        }
    }
    for mode in ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"] {
        add("etcdmon_node_cpu_seconds_total", &format!(r#"{{"mode":"{mode}"}}"#), "counter", 1, 0.2, true);
    }
    for (name, kind, period, scale) in [
        ("etcdmon_node_cpus", "gauge", 30, 4.0),
        ("etcdmon_node_memory_bytes", "gauge", 30, 1.6e10),
        ("etcdmon_node_memory_available_bytes", "gauge", 1, 8e9),
        ("etcdmon_node_load1", "gauge", 5, 1.0),
        ("etcdmon_node_tcp_retransmitted_segments_total", "counter", 5, 0.1),
    ] {
        add(name, "{}", kind, period, scale, true);
    }
    for resource in ["cpu", "io", "memory"] {
        let labels = format!(r#"{{"resource":"{resource}","share":"some"}}"#);
        add("etcdmon_node_pressure_seconds_total", &labels, "counter", 1, 0.02, true);
    }
    for direction in ["received", "sent"] {
        let labels = format!(r#"{{"device":"eth0","direction":"{direction}"}}"#);
        add("etcdmon_node_network_bytes_total", &labels, "counter", 1, 3e6, true);
    }
    all
}
