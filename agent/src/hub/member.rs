//! All that is known of one etcd process.

use std::collections::BTreeMap;

use etcdmon_etcd::Gauges;
use etcdmon_etcd::status::Status;
use etcdmon_histogram::BUCKETS;
use etcdmon_proto::v1;

use super::blind::Question;
use super::slow::SlowSyncs;
use crate::clock::{Reading, SECOND_NS};
use crate::discover::{EtcdProcess, MemberIdentity};
use crate::encode::wire_process;
use crate::fact::{Fact, SyncSecond};
use crate::spool::{Coverage, Kept};

/// Facts of a process whose ids are not known are held back so long at most.
pub const HOLD_NS: i64 = 10 * SECOND_NS;

/// Most facts held back; some ten seconds of everything.
const HOLD_LIMIT: usize = 2_000;

/// Syncs of one class since the agent began.
#[derive(Debug)]
struct ClassTotal {
    counts: Vec<u64>,
    sum_ns: u64,
}

/// One etcd process and what was learnt about it.
#[derive(Debug)]
pub struct MemberState {
    /// As discovery found it.
    pub process: EtcdProcess,
    /// Who it is.
    pub identity: Option<MemberIdentity>,
    /// False once it is gone.
    pub running: bool,
    /// What of the time before we watched it has to be accounted for.
    pub question: Option<Question>,
    /// Since when it is known, Unix nanoseconds.
    found_ns: i64,
    /// Facts that wait for the identity; `None` once it is known or the wait is over.
    held: Option<Vec<Fact>>,
    /// Because of the limit.
    pub held_back_dropped: u64,
    totals: BTreeMap<i32, ClassTotal>,
    /// Its slow syncs.
    pub slow: SlowSyncs,
    /// What it gets of its node, when that was last looked at.
    pub vitals: Option<v1::LiveVitals>,
    gauges: Gauges,
    metrics_error: Option<String>,
    status: Status,
    status_error: Option<String>,
    peers: Vec<v1::PeerMember>,
    /// Term and leader that Status named last; leader 0 = none.
    reign: Option<(u64, u64)>,
    /// etcd's count of WAL syncs and ours since attaching, as of the same moment.
    wal_reference: Option<(u64, u64)>,
    /// Our count of WAL and directory syncs up to the end of the last second that was added.
    own_wal_syncs: u64,
    /// End of the last second of syncs that was added, Unix nanoseconds.
    covered_until_ns: i64,
}

/// Stands where an error would, before a source was asked for the first time.
const NOT_YET: &str = "not asked yet";

impl MemberState {
    /// A process just found.
    pub fn new(process: EtcdProcess, identity: Option<MemberIdentity>, now: Reading) -> Self {
        Self {
            held: identity.is_none().then(Vec::new),
            process,
            identity,
            running: true,
            question: None,
            found_ns: now.wall_ns,
            held_back_dropped: 0,
            totals: BTreeMap::new(),
            slow: SlowSyncs::default(),
            vitals: None,
            gauges: Gauges::default(),
            metrics_error: Some(NOT_YET.to_owned()),
            status: Status::default(),
            status_error: Some(NOT_YET.to_owned()),
            peers: Vec::new(),
            reign: None,
            wal_reference: None,
            own_wal_syncs: 0,
            covered_until_ns: 0,
        }
    }

    /// Notes a scrape; `own_wal_syncs` is what the probes had counted at the same moment. Returns both counts of WAL
    /// syncs if both are known.
    pub fn scraped(
        &mut self,
        outcome: Result<Gauges, String>,
        own_wal_syncs: Option<u64>,
    ) -> Option<(u64, u64)> {
        let reference = outcome.as_ref().ok().and_then(|gauges| Some((gauges.wal_syncs?, own_wal_syncs?)));
        self.tell_change("metrics", self.metrics_error.as_deref(), outcome.as_ref().err());
        self.wal_reference = reference.or(self.wal_reference);
        match outcome {
            Ok(gauges) => {
                self.gauges = gauges;
                self.metrics_error = None;
            }
            Err(error) => self.metrics_error = Some(error),
        }
        reference
    }

    /// Notes an answer of Status. Returns facts that waited for the ids.
    pub fn answered(&mut self, outcome: Result<Box<Status>, String>) -> Vec<Fact> {
        self.tell_change("status", self.status_error.as_deref(), outcome.as_ref().err());
        match outcome {
            Ok(status) => {
                self.status_error = None;
                self.status = *status;
                let header = self.status.header.clone().unwrap_or_default();
                if header.cluster_id != 0 && header.member_id != 0 {
                    self.identity =
                        Some(MemberIdentity { cluster_id: header.cluster_id, member_id: header.member_id });
                    return self.held.take().unwrap_or_default();
                }
                Vec::new()
            }
            Err(error) => {
                self.status_error = Some(error);
                Vec::new()
            }
        }
    }

    /// Whether Status shows that the member lost its leader or follows another one than when it was last asked.
    pub fn has_other_leader(&mut self) -> bool {
        let now = (self.status.raft_term, self.status.leader);
        let before = self.reign.replace(now);
        before.is_some_and(|before| before.1 != now.1 || (before.0 != now.0 && now.1 != 0))
    }

    /// Logs once that a source fails, and once that it answers again: the API shows the same, but not to somebody who
    /// looks for the reason on the node.
    fn tell_change(&self, source: &'static str, before: Option<&str>, error: Option<&String>) {
        let (pid, data_dir) = (self.process.id.pid, self.process.data_dir.display());
        match (before, error) {
            (None | Some(NOT_YET), Some(error)) => {
                tracing::warn!(source, pid, %data_dir, %error, "etcd does not answer");
            }
            (Some(before), None) if before != NOT_YET => {
                tracing::info!(source, pid, %data_dir, "etcd answers again");
            }
            _ => {}
        }
    }

    /// Notes an identity found otherwise. Returns facts that waited for it.
    pub fn identified(&mut self, identity: MemberIdentity) -> Vec<Fact> {
        self.identity.get_or_insert(identity);
        self.held.take().unwrap_or_default()
    }

    /// Notes who else is in the cluster.
    pub fn met(&mut self, peers: Vec<v1::PeerMember>) {
        self.peers = peers;
    }

    /// Holds a fact back if the ids are not known; else gives it back to be added now.
    pub fn hold(&mut self, fact: Fact) -> Option<Fact> {
        let Some(held) = &mut self.held else { return Some(fact) };
        if held.len() >= HOLD_LIMIT {
            self.held_back_dropped += 1;
        } else {
            held.push(fact);
        }
        None
    }

    /// Facts that have waited too long: they go without ids.
    pub fn release(&mut self, now: Reading) -> Option<Vec<Fact>> {
        let over = self.held.is_some() && now.wall_ns - self.found_ns >= HOLD_NS;
        over.then(|| self.held.take()).flatten()
    }

    /// Whether facts wait for the ids.
    pub const fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Adds a second of syncs to the totals of the live stream.
    pub fn add_syncs(&mut self, second: &SyncSecond) {
        let total = self
            .totals
            .entry(second.class as i32)
            .or_insert_with(|| ClassTotal { counts: vec![0; BUCKETS], sum_ns: 0 });
        for (bucket, count) in &second.buckets {
            if let Some(slot) = total.counts.get_mut(usize::from(*bucket)) {
                *slot += count;
            }
        }
        total.sum_ns += second.sum_ns;
    }

    /// Notes that it is watched from now on: our count begins at zero.
    pub const fn watched_from(&mut self, at_ns: i64, question: Question) {
        self.question = Some(question);
        self.covered_until_ns = at_ns;
        self.own_wal_syncs = 0;
        self.wal_reference = None;
    }

    /// Notes that all syncs up to `until_ns` are added, and how many of WAL and directories there were since attaching.
    pub const fn second_ended(&mut self, until_ns: i64, own_wal_syncs: u64) {
        self.covered_until_ns = until_ns;
        self.own_wal_syncs = own_wal_syncs;
    }

    /// etcd's count of WAL syncs as of the end of the last second that was added: its count when it was last read,
    /// brought up to date by ours.
    fn wal_syncs(&self) -> Option<u64> {
        let (etcd, own) = self.wal_reference?;
        Some(etcd.saturating_add_signed(self.own_wal_syncs.cast_signed() - own.cast_signed()))
    }

    /// What a batch that is closed now says about this process.
    pub fn coverage(&self) -> Option<Coverage> {
        if !self.running {
            return Some(Coverage { process: self.process.id, kept: None });
        }
        // Facts that are held back are not in the batch, nor is the answer to an open question.
        if self.is_holding() || self.question.is_some() {
            return None;
        }
        Some(Coverage { process: self.process.id, kept: Some(self.covered()?) })
    }

    /// Up to where it has been watched; `None` when it has not been.
    pub fn covered(&self) -> Option<Kept> {
        let identity = self.identity.unwrap_or(MemberIdentity { cluster_id: 0, member_id: 0 });
        (self.covered_until_ns > 0).then(|| Kept {
            until_ns: self.covered_until_ns,
            wal_syncs: self.wal_syncs(),
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
        })
    }

    /// The member for a batch's table.
    pub fn wire(&self) -> v1::Member {
        let identity = self.identity.unwrap_or(MemberIdentity { cluster_id: 0, member_id: 0 });
        let process = &self.process;
        v1::Member {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            name: process.name.clone(),
            peer_urls: process.peer_urls.clone(),
            client_urls: process.advertise_client_urls.clone(),
            process: Some(wire_process(process.id)),
            data_dir: process.data_dir.display().to_string(),
            version: self.status.version.clone(),
            container_id: process.placement.container_id.clone(),
            pod_uid: process.placement.pod_uid.clone(),
            cgroup: process.placement.cgroup.clone(),
        }
    }

    /// Its line in the live stream.
    pub fn live(&self) -> v1::LiveMember {
        let errors: Vec<&str> =
            [&self.metrics_error, &self.status_error].into_iter().flatten().map(String::as_str).collect();
        let syncs = self.totals.iter().map(|(class, total)| v1::LiveSyncs {
            file_class: *class,
            latency: Some(v1::Histogram::from_counts(&total.counts, total.sum_ns)),
        });
        let (gauges, status) = (&self.gauges, &self.status);
        let newer = |status: i64, gauge: u64| match u64::try_from(status) {
            Ok(size) if size > 0 && self.status_error.is_none() => size,
            _ => gauge,
        };
        let quota = u64::try_from(status.db_size_quota).unwrap_or(0).max(gauges.quota);
        v1::LiveMember {
            member: Some(self.wire()),
            running: self.running,
            scrape_ok: self.running && errors.is_empty(),
            scrape_error: if self.running { errors.join("; ") } else { "process is gone".to_owned() },
            syncs: syncs.collect(),
            has_leader: if self.metrics_error.is_none() { gauges.has_leader } else { status.leader != 0 },
            is_leader: status.leader != 0
                && self.identity.is_some_and(|identity| identity.member_id == status.leader),
            is_learner: status.is_learner || gauges.is_learner,
            leader_id: status.leader,
            raft_term: status.raft_term,
            raft_index: status.raft_index,
            raft_applied_index: status.raft_applied_index,
            leader_changes_seen_total: gauges.leader_changes,
            proposals_pending: gauges.proposals_pending,
            proposals_failed_total: gauges.proposals_failed,
            db_size_bytes: newer(status.db_size, gauges.db_size),
            db_in_use_bytes: newer(status.db_size_in_use, gauges.db_in_use),
            quota_bytes: quota,
            version: status.version.clone(),
            errors: status.errors.clone(),
            peers: self.peers.clone(),
            reach: v1::Reach::Unspecified.into(),
            boot_failure: None,
            slow_syncs: self.slow.live(),
            vitals: self.vitals.clone(),
        }
    }
}
