//! The model of every cluster, fed by live facts and a clock. Pure: no I/O, time is an argument.
//!
//! Everything that asks how a cluster is (rules, API, later the UI) asks here. What nobody reports is *unknown*, never
//! *ok* and never *down*. Bounded against foreign input by [`MAX_CLUSTERS`], [`MAX_MEMBERS`] and [`MAX_AGENTS`]; what
//! goes beyond is refused and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcdmon_proto::v1;
use uuid::Uuid;

use crate::clock::At;
use late::Missing;

mod late;
mod leader;
mod member;
mod window;

pub use leader::{Agreement, Change, Leadership, Statement, agree};
pub use member::{Alive, Faults, Health, Member, Report, SILENT_AFTER, UNRESPONSIVE_AFTER};
pub use window::{Cumulative, DELTAS_KEPT, KEPT, LONGEST_DELTA, Window};

/// Most clusters in the model.
pub const MAX_CLUSTERS: usize = 2_000;

/// Most members of a cluster; etcd itself advises against more than seven.
pub const MAX_MEMBERS: usize = 64;

/// Most agents in the model.
pub const MAX_AGENTS: usize = 10_000;

/// Who was not heard of for so long is forgotten, which makes room for others. The registry keeps a cluster, so it is shown as
/// unknown; an alert of it stays, since nobody says that its cause is gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// A new agent process needs a moment to find the members on its node; before that, a member it leaves out is not
/// missing.
const DISCOVERY: Duration = Duration::from_secs(5);

/// A live message as the model takes it.
#[derive(Debug, Clone, Copy)]
pub struct LiveMessage<'a> {
    /// Who sent it.
    pub agent: Uuid,
    /// The agent's version, for people.
    pub version: &'a str,
    /// The agent's host name, for people.
    pub node: &'a str,
    /// Commands that the agent's node allows.
    pub allowed_commands: &'a [String],
    /// The message.
    pub live: &'a v1::Live,
}

/// A node agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its host name, for people.
    pub node: String,
    /// Its version, for people.
    pub version: String,
    /// Commands that its node allows.
    pub allowed_commands: Vec<String>,
    /// The epoch of its present process, as hexadecimal digits.
    pub epoch: String,
    /// First message of this epoch.
    pub epoch_since: At,
    /// Last message.
    pub last_seen: At,
    /// Number of the last message.
    pub number: u64,
    /// Messages of this epoch that did not arrive, neither in time nor late.
    pub lost: u64,
    /// Messages of this epoch that arrived late.
    pub late: u64,
    missing: Missing,
    /// Its wall clock minus ours at the last message, transport included, in nanoseconds.
    pub clock_offset_ns: i64,
    /// What it can't do.
    pub degraded: Vec<v1::Degradation>,
    members: BTreeSet<(Uuid, u64)>,
}

impl Agent {
    /// Whether it sent something lately.
    pub fn is_alive(&self, at: At) -> bool {
        at.since(self.last_seen) <= SILENT_AFTER
    }
}

/// Whether a cluster has a leader, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaderless {
    /// A member follows one.
    No,
    /// So many members are down or without a leader that the rest can't be a quorum.
    Yes,
    /// Too few members are heard of.
    Unknown,
}

/// A cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// etcd's own id.
    pub etcd_cluster_id: u64,
    /// Members by their id.
    pub members: BTreeMap<u64, Member>,
    /// Who leads.
    pub leadership: Leadership,
    /// Last message about any member.
    pub last_seen: At,
    /// Last member list from a member that answers.
    pub listed_at: Option<At>,
}

/// All clusters and agents.
#[derive(Debug, Clone, Default)]
pub struct Model {
    clusters: BTreeMap<Uuid, Cluster>,
    agents: BTreeMap<Uuid, Agent>,
    faults: Faults,
}

/// What a message changed beyond the gauges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Leader changes, with their cluster.
    pub leader_changes: Vec<(Uuid, Change)>,
    /// Whether they are known only from what an agent sent late.
    pub late: bool,
}

impl Model {
    /// Takes a live message received at `at`. `cluster_of` names the cluster that an etcd cluster id stands for.
    pub fn apply(
        &mut self,
        at: At,
        message: LiveMessage<'_>,
        mut cluster_of: impl FnMut(u64) -> Uuid,
    ) -> Applied {
        if message.live.late {
            return self.recall(at, &message, cluster_of);
        }
        let Some(fresh_epoch) = self.note_agent(at, &message) else { return Applied::default() };
        let mut named = BTreeSet::new();
        for live in &message.live.members {
            let Some(identity) = live.member.as_ref().filter(|m| m.cluster_id != 0 && m.member_id != 0)
            else {
                self.faults.refused += 1;
                continue;
            };
            let cluster = cluster_of(identity.cluster_id);
            let place = (cluster, identity.member_id);
            if !self.has_room(place) {
                self.faults.refused += 1;
                continue;
            }
            named.insert(place);
            self.take_member(at, message.agent, place, live, fresh_epoch);
        }
        self.note_missing(at, message.agent, &named);
        let touched: BTreeSet<Uuid> = named.iter().map(|(cluster, _)| *cluster).collect();
        let changes = touched.into_iter().filter_map(|id| Some((id, self.elect(at, id)?))).collect();
        Applied { leader_changes: changes, late: false }
    }

    /// Lets time pass: agents that fell silent no longer vouch for a leader, and in the end they are forgotten.
    pub fn tick(&mut self, at: At) {
        let oldest = at.minus(FORGOTTEN_AFTER);
        self.agents.retain(|_, agent| agent.last_seen > oldest);
        self.clusters.retain(|_, cluster| cluster.last_seen > oldest);
        for member in self.clusters.values_mut().flat_map(|cluster| cluster.members.values_mut()) {
            member.forget(at, oldest);
        }
        let ids: Vec<Uuid> = self.clusters.keys().copied().collect();
        for id in ids {
            // A change can't come from silence: it takes a statement of a newer term.
            let _no_change = self.elect(at, id);
        }
    }

    /// Every cluster with its id.
    pub fn clusters(&self) -> impl Iterator<Item = (Uuid, &Cluster)> {
        self.clusters.iter().map(|(id, cluster)| (*id, cluster))
    }

    /// One cluster.
    pub fn cluster(&self, id: Uuid) -> Option<&Cluster> {
        self.clusters.get(&id)
    }

    /// Every agent with its id.
    pub fn agents(&self) -> impl Iterator<Item = (Uuid, &Agent)> {
        self.agents.iter().map(|(id, agent)| (*id, agent))
    }

    /// One agent.
    pub fn agent(&self, id: Uuid) -> Option<&Agent> {
        self.agents.get(&id)
    }

    /// What was wrong with messages since the process began.
    pub const fn faults(&self) -> Faults {
        self.faults
    }

    /// Whether an agent sent something lately.
    pub fn is_alive(&self, at: At, agent: Uuid) -> bool {
        self.agents.get(&agent).is_some_and(|agent| agent.is_alive(at))
    }

    /// How a member is; `None` when the cluster does not have it.
    pub fn health(&self, at: At, cluster: Uuid, member: u64) -> Option<Health> {
        let member = self.clusters.get(&cluster)?.members.get(&member)?;
        Some(member.health(at, &|agent| self.is_alive(at, agent)))
    }

    /// The report of a member to believe, with the agent it is from.
    pub fn report(&self, at: At, cluster: Uuid, member: u64) -> Option<(Uuid, &Report)> {
        let member = self.clusters.get(&cluster)?.members.get(&member)?;
        let alive = |agent| self.is_alive(at, agent);
        Some((member.owner(&alive)?, member.best(&alive)?))
    }

    /// Whether a cluster has a leader.
    pub fn leaderless(&self, at: At, id: Uuid) -> Leaderless {
        let Some(cluster) = self.clusters.get(&id) else { return Leaderless::Unknown };
        if cluster.leadership.present().is_some() {
            return Leaderless::No;
        }
        let voters = cluster.members.values().filter(|member| !member.is_learner);
        let total = voters.clone().count();
        let alive = |agent| self.is_alive(at, agent);
        let lost = voters.filter(|member| match member.health(at, &alive) {
            health if health.is_down() => true,
            Health::Up => member.best(&alive).is_some_and(|report| report.live.scrape_ok),
            _ => false,
        });
        let quorum = total / 2 + 1;
        if total > 0 && total - lost.count() < quorum { Leaderless::Yes } else { Leaderless::Unknown }
    }

    /// Whether a cluster positively no longer has a member: somebody alive lists the members and it is not among them.
    pub fn is_removed(&self, at: At, cluster: Uuid, member: u64) -> bool {
        let Some(known) = self.clusters.get(&cluster) else { return false };
        known.is_listed(at) && !known.members.contains_key(&member)
    }

    /// `None` when the message is not newer than the last one, else whether it is the first of its epoch.
    fn note_agent(&mut self, at: At, message: &LiveMessage<'_>) -> Option<bool> {
        let live = message.live;
        let epoch = hex(&live.epoch);
        let known = self.agents.get(&message.agent);
        if known.is_none() && self.agents.len() >= MAX_AGENTS {
            self.faults.refused += 1;
            return None;
        }
        let same_epoch = known.filter(|agent| agent.epoch == epoch);
        if same_epoch.is_some_and(|agent| live.number <= agent.number) {
            self.faults.stale += 1;
            return None;
        }
        let mut missing = same_epoch.map_or_else(Missing::default, |agent| agent.missing.clone());
        missing.arrived(same_epoch.map(|agent| agent.number), live.number);
        let sent =
            i64::try_from(live.sent_mono_ns).unwrap_or(i64::MAX).saturating_add(live.wall_minus_mono_ns);
        let agent = Agent {
            node: message.node.to_owned(),
            version: message.version.to_owned(),
            allowed_commands: message.allowed_commands.to_vec(),
            epoch_since: same_epoch.map_or(at, |agent| agent.epoch_since),
            last_seen: at,
            number: live.number,
            lost: missing.lost(),
            late: same_epoch.map_or(0, |agent| agent.late),
            missing,
            clock_offset_ns: sent.saturating_sub(at.nanos()),
            degraded: live.degraded.clone(),
            members: known.map(|agent| agent.members.clone()).unwrap_or_default(),
            epoch,
        };
        let fresh_epoch = same_epoch.is_none();
        self.agents.insert(message.agent, agent);
        Some(fresh_epoch)
    }

    fn has_room(&self, (cluster, member): (Uuid, u64)) -> bool {
        match self.clusters.get(&cluster) {
            Some(known) => known.members.contains_key(&member) || known.members.len() < MAX_MEMBERS,
            None => self.clusters.len() < MAX_CLUSTERS,
        }
    }

    fn take_member(
        &mut self,
        at: At,
        agent: Uuid,
        (cluster_id, member_id): (Uuid, u64),
        live: &v1::LiveMember,
        fresh_epoch: bool,
    ) {
        let agents = &self.agents;
        let alive = |agent: Uuid| agents.get(&agent).is_some_and(|agent| agent.is_alive(at));
        let cluster = self.clusters.entry(cluster_id).or_default();
        cluster.last_seen = at;
        cluster.etcd_cluster_id = live.member.as_ref().map_or(0, |member| member.cluster_id);
        if !live.running && !cluster.members.contains_key(&member_id) && cluster.is_listed(at) {
            // Its agent remembers a process of a member that the cluster has removed since.
            return;
        }
        let member = cluster.members.entry(member_id).or_default();
        member.is_learner = live.is_learner;
        if fresh_epoch {
            member.rebase(agent);
        }
        self.faults += member.report(at, agent, live.clone(), &alive);
        if live.running && live.scrape_ok && !live.peers.is_empty() {
            self.faults.refused += cluster.take_list(at, &live.peers, &alive);
        }
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.members.insert((cluster_id, member_id));
        }
    }

    /// Tells the members that their agent left them out; forgets those that the cluster removed.
    fn note_missing(&mut self, at: At, id: Uuid, named: &BTreeSet<(Uuid, u64)>) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let settled = at.since(agent.epoch_since) >= DISCOVERY;
        let clusters = &mut self.clusters;
        agent.members.retain(|place| {
            let member = clusters.get_mut(&place.0).and_then(|cluster| cluster.members.get_mut(&place.1));
            let Some(member) = member else { return false };
            if settled && !named.contains(place) {
                member.missed(at, id);
            }
            true
        });
    }

    fn elect(&mut self, at: At, id: Uuid) -> Option<Change> {
        let agents = &self.agents;
        let alive = |agent: Uuid| agents.get(&agent).is_some_and(|agent| agent.is_alive(at));
        let cluster = self.clusters.get_mut(&id)?;
        let statements: Vec<Statement> = cluster
            .members
            .iter()
            .filter(|(_, member)| member.health(at, &alive) == Health::Up)
            .filter_map(|(id, member)| {
                let live = &member.best(&alive)?.live;
                live.scrape_ok.then_some(Statement {
                    member: *id,
                    leader: (live.has_leader && live.leader_id != 0).then_some(live.leader_id),
                    term: live.raft_term,
                })
            })
            .collect();
        cluster.leadership.update(at, &statements)
    }
}

impl Cluster {
    /// Whether a member that answers lately said who belongs to the cluster.
    fn is_listed(&self, at: At) -> bool {
        self.listed_at.is_some_and(|listed_at| at.since(listed_at) <= SILENT_AFTER)
    }

    /// Takes a member list as one of the members knows it. Members that it lacks are forgotten, unless somebody alive
    /// still sees their process run: then the list is the older news.
    fn take_list(&mut self, at: At, peers: &[v1::PeerMember], alive: Alive<'_>) -> u64 {
        let mut refused = 0;
        self.listed_at = Some(at);
        for peer in peers.iter().filter(|peer| peer.member_id != 0) {
            if !self.members.contains_key(&peer.member_id) && self.members.len() >= MAX_MEMBERS {
                refused += 1;
                continue;
            }
            let member = self.members.entry(peer.member_id).or_default();
            if !peer.name.is_empty() {
                member.name.clone_from(&peer.name);
            }
            member.peer_urls.clone_from(&peer.peer_urls);
            member.client_urls.clone_from(&peer.client_urls);
            member.is_learner = peer.is_learner;
        }
        self.members.retain(|id, member| {
            peers.iter().any(|peer| peer.member_id == *id) || member.health(at, alive) == Health::Up
        });
        refused
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().take(16).fold(String::new(), |mut text, byte| {
        // Writing into a String does not fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
