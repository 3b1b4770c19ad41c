//! Named selections of metrics: what a process, a node, a disk, a cgroup uses, and how raft goes.

use uuid::Uuid;

use super::super::{Query, QueryError};
use super::fold;
use super::metrics::{Found, Function, Id, MetricScope, is_same_series};
use super::plan::Plan;
use super::{History, Series, made};

/// A selection of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// etcd's process: CPU, memory, descriptors, IO, waiting for a CPU.
    Process,
    /// The node: CPU, memory, load, pressure, network.
    Node,
    /// The disks below etcd's directories, and their room.
    Disk,
    /// Limits and use of etcd's cgroup.
    Cgroup,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Process, Self::Node, Self::Disk, Self::Cgroup];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Node => "node",
            Self::Disk => "disk",
            Self::Cgroup => "cgroup",
        }
    }

    /// The group of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }

    /// Series of it; `docs/formats/series.md` says what they are.
    pub const fn metrics(self) -> &'static [&'static str] {
        match self {
            Self::Process => &[
                "etcdmon_process_cpu_seconds_total",
                "etcdmon_process_run_delay_seconds_total",
                "etcdmon_process_resident_bytes",
                "etcdmon_process_threads",
                "etcdmon_process_open_descriptors",
                "etcdmon_process_descriptor_limit",
                "etcdmon_process_read_bytes_total",
                "etcdmon_process_written_bytes_total",
                "etcdmon_process_major_faults_total",
            ],
            Self::Node => &[
                "etcdmon_node_cpus",
                "etcdmon_node_cpu_seconds_total",
                "etcdmon_node_memory_bytes",
                "etcdmon_node_memory_available_bytes",
                "etcdmon_node_load1",
                "etcdmon_node_pressure_seconds_total",
                "etcdmon_node_network_bytes_total",
                "etcdmon_node_tcp_retransmitted_segments_total",
            ],
            Self::Disk => &[
                "etcdmon_disk_busy_seconds_total",
                "etcdmon_disk_operations_total",
                "etcdmon_disk_operation_seconds_total",
                "etcdmon_disk_bytes_total",
                "etcdmon_disk_queue_seconds_total",
                "etcdmon_disk_size_bytes",
                "etcdmon_disk_available_bytes",
                "etcdmon_disk_available_inodes",
            ],
            Self::Cgroup => &[
                "etcdmon_cgroup_cpu_limit_cores",
                "etcdmon_cgroup_cpu_seconds_total",
                "etcdmon_cgroup_cpu_throttled_seconds_total",
                "etcdmon_cgroup_memory_limit_bytes",
                "etcdmon_cgroup_memory_used_bytes",
                "etcdmon_cgroup_memory_events_total",
                "etcdmon_cgroup_io_bytes_total",
                "etcdmon_cgroup_io_operations_total",
            ],
        }
    }
}

/// etcd's metrics of raft.
const COMMITTED: &str = "etcd_server_proposals_committed_total";
const APPLIED: &str = "etcd_server_proposals_applied_total";
const PENDING: &str = "etcd_server_proposals_pending";
const FAILED: &str = "etcd_server_proposals_failed_total";
const LEADER_CHANGES: &str = "etcd_server_leader_changes_seen_total";
const IS_LEADER: &str = "etcd_server_is_leader";
const RAFT: [&str; 6] = [COMMITTED, APPLIED, PENDING, FAILED, LEADER_CHANGES, IS_LEADER];

/// Never negative, and unknown stays unknown.
fn behind(lag: f64) -> f64 {
    if lag < 0.0 { 0.0 } else { lag }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Query {
    /// Resources of some groups: counters by their growth, everything else by its values.
    ///
    /// # Errors
    /// When ClickHouse is away, the query fails, or the answer would be too large.
    pub(super) async fn resources(
        &self,
        cluster: Uuid,
        members: &[u64],
        groups: &[Group],
        plan: &Plan,
    ) -> Result<History, QueryError> {
        let names: Vec<String> = groups.iter().flat_map(|group| owned(group.metrics())).collect();
        let scope = MetricScope {
            members: members.to_vec(),
            names,
            // A node has no member to ask for.
            nodes: groups.contains(&Group::Node) && members.is_empty(),
            ..MetricScope::default()
        };
        self.metric_history(cluster, &scope, plan).await
    }

    /// Raft of each member: proposals committed and applied a second, pending and failed ones, how far behind applying
    /// is, whether it leads, and changes of the leader that it saw.
    ///
    /// # Errors
    /// The same as [`Query::resources`].
    pub(super) async fn raft(
        &self,
        cluster: Uuid,
        members: &[u64],
        plan: &Plan,
    ) -> Result<History, QueryError> {
        // The order of samples within a step is needed of the indexes as well, which etcd calls gauges.
        let scope = MetricScope {
            members: members.to_vec(),
            names: owned(&RAFT),
            function: Function::Growth,
            ..MetricScope::default()
        };
        let found = self.metric_steps(cluster, &scope, plan).await?;
        made(plan, move |plan| of_raft(plan, cluster, found)).await
    }
}

/// A series of each member.
fn of_raft(plan: &Plan, cluster: Uuid, found: Found) -> Vec<Series> {
    let Found { mut rows, gaps } = found;
    rows.sort_by(|a, b| (a.member, &a.name, a.step_at).cmp(&(b.member, &b.name, b.step_at)));
    let series = rows.chunk_by(|a, b| a.member == b.member).map(|of_member| {
        let newest_ns = of_member.iter().map(|row| row.last_ns).max().unwrap_or(i64::MIN);
        let mut id = Id::of(&of_member[0]);
        id.name = "raft".to_owned();
        id.labels.clear();
        let of = |name: &str| {
            let mut chunks = of_member.chunk_by(is_same_series);
            chunks.find(|rows| rows[0].name == name).unwrap_or_default()
        };
        let growth = |name: &str| fold::growth(plan, of(name), &gaps, id.who());
        let gauge = |name: &str| fold::gauge(plan, of(name), &gaps, id.who());
        let (committed, applied) = (gauge(COMMITTED).last, gauge(APPLIED).last);
        let columns = vec![
            ("committed_per_second", growth(COMMITTED).per_second),
            ("applied_per_second", growth(APPLIED).per_second),
            ("pending", gauge(PENDING).high),
            ("failed", growth(FAILED).increase),
            ("leader_changes", growth(LEADER_CHANGES).increase),
            ("is_leader", gauge(IS_LEADER).last),
            // Both are read in one scrape; the applied one may be read a moment later.
            ("apply_lag", committed.iter().zip(&applied).map(|(of, done)| behind(of - done)).collect()),
            ("committed", committed),
        ];
        id.series(cluster, plan, &gaps, newest_ns, columns)
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_their_names() {
        for group in Group::ALL {
            assert_eq!(Group::by_name(group.name()), Some(group));
        }
        assert_eq!(Group::by_name("cpu"), None);
    }

    #[test]
    fn every_metric_of_a_group_is_one_that_agents_make() {
        let known = include_str!("../../../../docs/formats/series.md");
        for name in Group::ALL.into_iter().flat_map(Group::metrics) {
            assert!(known.contains(&format!("`{name}`")), "{name} is not in docs/formats/series.md");
        }
    }
}
