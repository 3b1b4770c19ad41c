//! What the API shows of now: clusters, members, agents, alerts. Made from the model with every evaluation, immutable, and shared
//! with every request, so that no request ever waits for the evaluation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_proto::v1::{self, FileClass};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::alert::{Alerts, State};
use crate::clock::At;
use crate::cluster::{Cluster, Cumulative, Faults, Health, Leaderless, Member, Model};
use crate::diagnosis::{OpenDiagnosis, Shown};
use crate::registry::Registry;

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// When it was made.
    pub made_at: At,
    /// Clusters by id.
    pub clusters: BTreeMap<Uuid, ClusterView>,
    /// Agents by id.
    pub agents: Vec<AgentView>,
    /// Alerts: firing first, then by time, newest first.
    pub alerts: Vec<AlertView>,
    /// Why members are or were slow.
    pub diagnoses: Shown,
    /// What was wrong with live messages since the process began.
    pub faults: Faults,
    /// Live messages that never arrived, over all agents.
    pub live_lost: u64,
}

/// A cluster with its members.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// The cluster.
    pub summary: ClusterSummary,
    /// Its leader.
    pub leader: LeaderView,
    /// Its members, by id.
    pub members: Vec<MemberView>,
    /// Syncs of the last seconds, which may not be stored yet.
    pub recent_syncs: Vec<RecentSyncs>,
}

/// Syncs of a member and file class that ended in about a second.
#[derive(Debug, Clone)]
pub struct RecentSyncs {
    /// etcd member id.
    pub member: u64,
    /// File class.
    pub class: FileClass,
    /// End of that second, Unix nanoseconds.
    pub to_ns: i64,
    /// (bucket, count).
    pub pairs: Arc<[(u16, u32)]>,
}

/// What is stored later than this is late anyhow; what came before is stored.
const RECENT: Duration = Duration::from_secs(30);

/// A cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterSummary {
    /// Id of the cluster in etcd-monitor.
    pub id: Uuid,
    /// etcd's own cluster id, 16 hexadecimal digits.
    pub etcd_cluster_id: String,
    /// Name, for people.
    pub name: String,
    /// How many members it has.
    pub members: usize,
    /// Member id of the leader, 16 hexadecimal digits; null while there is none or none is known.
    pub leader: Option<String>,
    /// `ok`, `degraded` (a member is down, does not answer or has an alarm), `no_leader`, or `unknown` (nobody reports).
    pub state: String,
    /// Last live message about any of its members; null when there was none since the aggregator began.
    pub last_seen: Option<DateTime<Utc>>,
    /// Diagnoses of its members that are open.
    #[serde(default)]
    pub diagnoses: Vec<OpenDiagnosis>,
}

/// Who leads.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct LeaderView {
    /// Member id of the leader, 16 hexadecimal digits; null while there is none or none is known.
    pub leader: Option<String>,
    /// Raft term of that leader; 0 while there is none.
    pub term: u64,
    /// Since when it leads, as far as was seen; without a leader since when there is none.
    pub since: Option<DateTime<Utc>>,
    /// Members that follow it.
    pub followers: usize,
    /// Changes seen since the aggregator began, newest first, at most 100.
    pub changes: Vec<LeaderChangeView>,
    /// How many changes were seen since the aggregator began.
    pub changes_total: u64,
}

/// A change of leader.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LeaderChangeView {
    /// When it was seen.
    pub at: DateTime<Utc>,
    /// Member id of the leader before, 16 hexadecimal digits.
    pub from: String,
    /// Member id of the leader after, 16 hexadecimal digits.
    pub to: String,
    /// The new term.
    pub term: u64,
}

/// A process for all time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProcessView {
    /// Its pid on the node.
    pub pid: u32,
    /// Its start, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Something an agent can't do.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DegradationView {
    /// What, such as `ebpf`.
    pub capability: String,
    /// Why.
    pub reason: String,
    /// What would help.
    pub remedy: String,
}

/// A member. Values that come from scrapes are the last known ones while `scrape_ok` is false.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// etcd's member id, 16 hexadecimal digits.
    pub id: String,
    /// Name; empty while unknown.
    pub name: String,
    /// Whether its process runs; null while nobody alive reports it.
    pub running: Option<bool>,
    /// `healthy`, `unresponsive`, `down`, `unknown`, or `unreachable`: it can't be asked from here, but its peers are
    /// connected with it.
    pub health: String,
    /// Where this comes from: `agent` = an agent on the member's node, `agentless` = the aggregator asks it over the
    /// network, and `degraded` says what that lacks; null while nobody ever reported it.
    pub source: Option<String>,
    /// Whether it says that it leads.
    pub is_leader: bool,
    /// Whether it is a learner, without a vote.
    pub is_learner: bool,
    /// Version of etcd; empty while unknown.
    pub version: String,
    /// Raft term.
    pub raft_term: u64,
    /// Raft index.
    pub raft_index: u64,
    /// Raft index that is applied.
    pub raft_applied_index: u64,
    /// Size of the backend file in bytes.
    pub db_size_bytes: u64,
    /// Bytes of it in use.
    pub db_in_use_bytes: u64,
    /// Limit of its size in bytes.
    pub quota_bytes: u64,
    /// Agent that reports it; null when none ever did.
    pub agent: Option<Uuid>,
    /// Host name of that agent; null when the member is watched without one.
    pub node: Option<String>,
    /// Last report.
    pub last_seen: Option<DateTime<Utc>>,
    /// Whether the last scrape succeeded.
    pub scrape_ok: bool,
    /// Why it did not; empty when it did.
    pub scrape_error: String,
    /// Alarms and errors as etcd reports them.
    pub errors: Vec<String>,
    /// What its agent can't do.
    pub degraded: Vec<DegradationView>,
    /// Its process; null when no agent ever reported it.
    pub process: Option<ProcessView>,
    /// Peer URLs.
    pub peer_urls: Vec<String>,
    /// Client URLs.
    pub client_urls: Vec<String>,
    /// Its data directory; empty while unknown.
    pub data_dir: String,
    /// Why it does not start or serve; null while it does, or nobody knows.
    pub boot_failure: Option<BootFailureView>,
    /// Diagnoses that are open: why it is slow, and who does it.
    #[serde(default)]
    pub diagnoses: Vec<OpenDiagnosis>,
    /// What is counted of it, for those who read counters.
    #[serde(skip)]
    pub counted: Counted,
}

/// What an agent counts of a member, since the agent's epoch began; empty while nobody alive reports it.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Latencies of its syncs, by file class.
    pub syncs: Vec<(v1::FileClass, Cumulative)>,
    /// What it gets of its node.
    pub vitals: Option<v1::LiveVitals>,
    /// Its slow syncs.
    pub slow_syncs: Option<v1::LiveSlowSyncs>,
}

/// Why an etcd does not start or serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootFailureView {
    /// Stable name, such as `wal_crc_mismatch`, `certificate_expired`, `port_taken`.
    pub cause: String,
    /// In a sentence.
    pub detail: String,
    /// The line of the log that says so, or what was seen.
    pub evidence: String,
    /// What a person should do.
    pub next_step: String,
    /// Failed starts of this cause in a row.
    pub failures: u32,
    /// The first of them.
    pub first_at: DateTime<Utc>,
    /// The last of them.
    pub last_at: DateTime<Utc>,
}

impl From<etcdmon_proto::v1::BootFailure> for BootFailureView {
    fn from(failure: etcdmon_proto::v1::BootFailure) -> Self {
        Self {
            cause: failure.cause,
            detail: failure.detail,
            evidence: failure.evidence,
            next_step: failure.next_step,
            failures: failure.failures,
            first_at: DateTime::from_timestamp_nanos(failure.first_wall_ns),
            last_at: DateTime::from_timestamp_nanos(failure.last_wall_ns),
        }
    }
}

/// A node agent.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AgentView {
    /// Its id.
    pub id: Uuid,
    /// Host name of its node.
    pub node: String,
    /// Its version.
    pub version: String,
    /// Whether it sent something in the last 5 s.
    pub alive: bool,
    /// Last live message.
    pub last_seen: DateTime<Utc>,
    /// What it can't do.
    pub degraded: Vec<DegradationView>,
    /// Epoch of its process, 32 hexadecimal digits.
    pub epoch: String,
    /// Its wall clock minus ours at the last message, transport included, in milliseconds.
    pub clock_offset_ms: i64,
    /// Live messages of this epoch that did not arrive, neither in time nor late.
    pub live_lost: u64,
    /// Commands that the settings of its node allow; whatever is not among them the node refuses.
    #[serde(default)]
    pub allowed_commands: Vec<String>,
    /// Live messages of this epoch that arrived late, after a break of its stream.
    pub live_late: u64,
}

/// An alert.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AlertView {
    /// Identity of its label set, 16 hexadecimal digits, as Prometheus and Alertmanager compute it.
    pub fingerprint: String,
    /// Name of the alert.
    pub name: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// `pending`, `firing` or `resolved`.
    pub state: String,
    /// Its identity.
    pub labels: BTreeMap<String, String>,
    /// Summary, description, evidence and next step.
    pub annotations: BTreeMap<String, String>,
    /// Value of the last breach; seconds for latencies.
    pub value: f64,
    /// First breach.
    pub started_at: DateTime<Utc>,
    /// Begin of firing.
    pub fired_at: Option<DateTime<Utc>>,
    /// End.
    pub resolved_at: Option<DateTime<Utc>>,
    /// First delivery to a receiver.
    pub notified_at: Option<DateTime<Utc>>,
    /// Why nobody can tell at the moment whether it still holds; null when somebody can.
    pub unknown: Option<String>,
}

struct Maker<'a> {
    at: At,
    offset_ns: i64,
    model: &'a Model,
    diagnoses: &'a Shown,
}

impl View {
    /// Of the model and the alerts at `at`. `offset_ns` is how far the wall clock is ahead of steady time.
    pub fn make(
        at: At,
        offset_ns: i64,
        model: &Model,
        registry: &Registry,
        alerts: &Alerts,
        diagnoses: Shown,
    ) -> Self {
        let maker = Maker { at, offset_ns, model, diagnoses: &diagnoses };
        let agents: Vec<AgentView> = maker.agents();
        Self {
            made_at: at,
            clusters: maker.clusters(registry),
            alerts: maker.alerts(alerts),
            faults: model.faults(),
            live_lost: agents.iter().map(|agent| agent.live_lost).sum(),
            agents,
            diagnoses,
        }
    }
}

impl Maker<'_> {
    fn date(&self, at: At) -> DateTime<Utc> {
        at.shifted(self.offset_ns).date()
    }

    /// What is heard of, and what is known from earlier.
    fn clusters(&self, registry: &Registry) -> BTreeMap<Uuid, ClusterView> {
        let silent = registry.entries().into_iter().map(|(etcd_id, entry)| {
            let summary = ClusterSummary {
                id: entry.cluster,
                etcd_cluster_id: hex(etcd_id),
                name: entry.name,
                members: 0,
                leader: None,
                state: "unknown".to_owned(),
                last_seen: None,
                diagnoses: self.open(entry.cluster),
            };
            (
                entry.cluster,
                ClusterView {
                    summary,
                    leader: LeaderView::default(),
                    members: Vec::new(),
                    recent_syncs: Vec::new(),
                },
            )
        });
        let heard = self.model.clusters().map(|(id, cluster)| (id, self.cluster(id, cluster, registry)));
        silent.chain(heard).collect()
    }

    fn cluster(&self, id: Uuid, cluster: &Cluster, registry: &Registry) -> ClusterView {
        let members: Vec<MemberView> =
            cluster.members.iter().map(|(member_id, member)| self.member(id, *member_id, member)).collect();
        let leader = self.leader(cluster);
        let summary = ClusterSummary {
            id,
            etcd_cluster_id: hex(cluster.etcd_cluster_id),
            name: registry.name(id),
            members: members.len(),
            leader: leader.leader.clone(),
            state: self.state(id, cluster, &members).to_owned(),
            last_seen: Some(self.date(cluster.last_seen)),
            diagnoses: self.open(id),
        };
        let recent_syncs = cluster.members.iter().flat_map(|(member, known)| {
            known.recent_syncs(self.at, RECENT).map(|(class, to, pairs)| RecentSyncs {
                member: *member,
                class,
                to_ns: to.shifted(self.offset_ns).nanos(),
                pairs,
            })
        });
        ClusterView { summary, leader, members, recent_syncs: recent_syncs.collect() }
    }

    fn state(&self, id: Uuid, cluster: &Cluster, members: &[MemberView]) -> &'static str {
        if self.model.leaderless(self.at, id) == Leaderless::Yes {
            return "no_leader";
        }
        if members.iter().all(|member| member.health == "unknown") {
            return "unknown";
        }
        let sound =
            |member: &MemberView| member.health == "healthy" && member.scrape_ok && member.errors.is_empty();
        // A member without an agent is no fault of the cluster.
        let watched = |member: &&MemberView| member.agent.is_some();
        if cluster.leadership.present().is_some() && members.iter().filter(watched).all(sound) {
            "ok"
        } else {
            "degraded"
        }
    }

    fn leader(&self, cluster: &Cluster) -> LeaderView {
        let leadership = &cluster.leadership;
        let changes = leadership.changes().iter().rev().map(|change| LeaderChangeView {
            at: self.date(change.at),
            from: hex(change.from),
            to: hex(change.to),
            term: change.term,
        });
        let (now, since) = leadership
            .present()
            .map_or((None, leadership.none_since()), |(now, since)| (Some(now), Some(since)));
        LeaderView {
            leader: now.map(|now| hex(now.leader)),
            term: now.map_or(0, |now| now.term),
            since: since.map(|since| self.date(since)),
            followers: now.map_or(0, |now| now.followers),
            changes: changes.collect(),
            changes_total: leadership.changes_total(),
        }
    }

    fn member(&self, cluster: Uuid, id: u64, member: &Member) -> MemberView {
        let health = self.model.health(self.at, cluster, id).unwrap_or(Health::Unknown { since: None });
        let report = self.model.report(self.at, cluster, id);
        let agent = report.and_then(|(agent, _)| Some((agent, self.model.agent(agent)?)));
        let remote = report.is_some_and(|(_, report)| report.is_remote());
        let mut live = report.map(|(_, report)| report.live.clone()).unwrap_or_default();
        let counted = match health {
            Health::Unknown { .. } => Counted::default(),
            _ => Counted {
                syncs: member.counted().map(|(class, counted)| (class, counted.clone())).collect(),
                vitals: live.vitals.take(),
                slow_syncs: live.slow_syncs.take(),
            },
        };
        let identity = live.member.unwrap_or_default();
        MemberView {
            id: hex(id),
            name: member.name.clone(),
            running: match health {
                Health::Unknown { .. } => None,
                Health::Up | Health::CutOff { .. } | Health::Unresponsive { .. } => Some(true),
                Health::Gone { .. } | Health::Lost { .. } | Health::NotReported { .. } => Some(false),
            },
            health: health.name().to_owned(),
            source: report.map(|_| if remote { "agentless" } else { "agent" }.to_owned()),
            is_leader: live.is_leader && health == Health::Up,
            is_learner: member.is_learner,
            version: if live.version.is_empty() { identity.version } else { live.version },
            raft_term: live.raft_term,
            raft_index: live.raft_index,
            raft_applied_index: live.raft_applied_index,
            db_size_bytes: live.db_size_bytes,
            db_in_use_bytes: live.db_in_use_bytes,
            quota_bytes: live.quota_bytes,
            agent: report.map(|(agent, _)| agent),
            node: agent.filter(|_| !remote).map(|(_, agent)| agent.node.clone()),
            last_seen: report.map(|(_, report)| self.date(report.at)),
            scrape_ok: live.scrape_ok,
            scrape_error: live.scrape_error,
            errors: live.errors,
            degraded: agent.map(|(_, agent)| degraded(&agent.degraded)).unwrap_or_default(),
            process: identity
                .process
                .map(|process| ProcessView { pid: process.pid, start_ticks: process.start_ticks }),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            data_dir: identity.data_dir,
            boot_failure: live.boot_failure.map(BootFailureView::from),
            diagnoses: self.open(cluster).into_iter().filter(|open| open.member == hex(id)).collect(),
            counted,
        }
    }

    fn open(&self, cluster: Uuid) -> Vec<OpenDiagnosis> {
        self.diagnoses.of(cluster).iter().filter(|view| view.is_open()).map(|view| view.brief()).collect()
    }

    fn agents(&self) -> Vec<AgentView> {
        let view = |(id, agent): (Uuid, &crate::cluster::Agent)| AgentView {
            id,
            node: agent.node.clone(),
            version: agent.version.clone(),
            alive: agent.is_alive(self.at),
            last_seen: self.date(agent.last_seen),
            degraded: degraded(&agent.degraded),
            epoch: agent.epoch.clone(),
            clock_offset_ms: agent.clock_offset_ns / 1_000_000,
            live_lost: agent.lost,
            allowed_commands: agent.allowed_commands.clone(),
            live_late: agent.late,
        };
        self.model.agents().map(view).collect()
    }

    fn alerts(&self, alerts: &Alerts) -> Vec<AlertView> {
        let mut sorted: Vec<_> = alerts.iter().collect();
        let rank = |state| match state {
            State::Firing => 0,
            State::Pending => 1,
            State::Resolved => 2,
        };
        sorted.sort_by_key(|(_, alert)| (rank(alert.state), std::cmp::Reverse(alert.started_at)));
        let view = |(id, alert): (crate::alert::Fingerprint, &crate::alert::Alert)| AlertView {
            fingerprint: id.to_string(),
            name: alert.label("alertname").to_owned(),
            severity: alert.severity.name().to_owned(),
            state: alert.state.name().to_owned(),
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            value: alert.value,
            started_at: self.date(alert.started_at),
            fired_at: alert.fired_at.map(|at| self.date(at)),
            resolved_at: alert.resolved_at.map(|at| self.date(at)),
            notified_at: alert.notified_at.map(|at| self.date(at)),
            unknown: alert.unknown.as_ref().map(|(_, reason)| reason.clone()),
        };
        sorted.into_iter().map(view).collect()
    }
}

fn degraded(all: &[etcdmon_proto::v1::Degradation]) -> Vec<DegradationView> {
    all.iter()
        .map(|one| DegradationView {
            capability: one.capability.clone(),
            reason: one.reason.clone(),
            remedy: one.remedy.clone(),
        })
        .collect()
}

/// A member or cluster id as the API writes it.
pub fn hex(id: u64) -> String {
    format!("{id:016x}")
}
