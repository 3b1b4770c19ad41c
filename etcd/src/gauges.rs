//! The few values of `/metrics` that tell how a member is.

/// Gauges and counters of `/metrics` that the live stream carries, and etcd's own count of WAL syncs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauges {
    /// `etcd_server_has_leader`.
    pub has_leader: bool,
    /// `etcd_server_is_leader`.
    pub is_leader: bool,
    /// `etcd_server_is_learner`.
    pub is_learner: bool,
    /// `etcd_server_leader_changes_seen_total`.
    pub leader_changes: u64,
    /// `etcd_server_proposals_pending`.
    pub proposals_pending: u64,
    /// `etcd_server_proposals_failed_total`.
    pub proposals_failed: u64,
    /// `etcd_mvcc_db_total_size_in_bytes`.
    pub db_size: u64,
    /// `etcd_mvcc_db_total_size_in_use_in_bytes`.
    pub db_in_use: u64,
    /// `etcd_server_quota_backend_bytes`.
    pub quota: u64,
    /// `etcd_disk_wal_fsync_duration_seconds_count`.
    pub wal_syncs: Option<u64>,
}

impl Gauges {
    /// Takes a sample of a page; what it does not know it leaves alone.
    pub fn watch(&mut self, name: &str, value: f64) {
        let number = value.max(0.0) as u64;
        match name {
            "etcd_server_has_leader" => self.has_leader = number == 1,
            "etcd_server_is_leader" => self.is_leader = number == 1,
            "etcd_server_is_learner" => self.is_learner = number == 1,
            "etcd_server_leader_changes_seen_total" => self.leader_changes = number,
            "etcd_server_proposals_pending" => self.proposals_pending = number,
            "etcd_server_proposals_failed_total" => self.proposals_failed = number,
            "etcd_mvcc_db_total_size_in_bytes" => self.db_size = number,
            "etcd_mvcc_db_total_size_in_use_in_bytes" => self.db_in_use = number,
            "etcd_server_quota_backend_bytes" => self.quota = number,
            "etcd_disk_wal_fsync_duration_seconds_count" => self.wal_syncs = Some(number),
            _ => {}
        }
    }
}
