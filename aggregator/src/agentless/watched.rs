//! One cluster that is watched without agents: what its endpoints said, and what follows for its members. Pure.
//!
//! Members are those of the member list; a member is asked at the first given endpoint that turned out to be its own, else
//! at its own client URL. Who does not answer is judged by what its peers say of their connections with it, as of after it fell
//! silent ([`v1::Reach`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcdmon_etcd::status::Status;
use etcdmon_etcd::{Endpoint, Gauges};
use etcdmon_proto::v1;

use super::point::{Answer, Failure, Mode, Page};
use super::spec::Target;
use crate::clock::At;
use crate::cluster::{MAX_MEMBERS, UNRESPONSIVE_AFTER};

/// Longest text of foreign origin that is kept, in bytes.
const MAX_TEXT: usize = 512;

/// Most texts in a list of them.
const MAX_TEXTS: usize = 16;

/// An attempt may fail for any reason; a second one in a row counts, and so does a refused connection.
const FAILURES: u32 = 2;

/// Peers need some seconds to notice that a connection is dead. So long after a member fell silent they are asked more often.
const PEERS_NOTICE: Duration = Duration::from_secs(20);

/// How often they are asked then.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What an endpoint said lately.
#[derive(Debug)]
pub struct Seen {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Whether it was given, not found.
    pub given: bool,
    /// Member that answers there.
    pub member: Option<u64>,
    /// Last answer of Status.
    pub last_answer: Option<At>,
    /// Why the last attempt failed.
    pub failure: Option<Failure>,
    /// Since when it fails.
    pub failing_since: Option<At>,
    /// Why it can't be used although it answers.
    pub unusable: Option<String>,
    /// Why there is no page of its metrics.
    pub page_failure: Option<String>,
    status: Status,
    failures: u32,
    gauges: Gauges,
    peers: BTreeMap<u64, bool>,
    page_at: Option<At>,
    ill: Option<String>,
}

impl Seen {
    fn new(endpoint: Endpoint, given: bool) -> Self {
        Self {
            endpoint,
            given,
            member: None,
            last_answer: None,
            failure: None,
            failing_since: None,
            unusable: None,
            page_failure: None,
            status: Status::default(),
            failures: 0,
            gauges: Gauges::default(),
            peers: BTreeMap::new(),
            page_at: None,
            ill: None,
        }
    }

    /// Whether it answers and can be used.
    pub const fn answers(&self) -> bool {
        self.last_answer.is_some() && self.unusable.is_none() && !self.is_failing()
    }

    /// Whether it positively does not answer.
    const fn is_failing(&self) -> bool {
        match &self.failure {
            Some(failure) => failure.refused || self.failures >= FAILURES,
            None => false,
        }
    }

    const fn is_bad(&self) -> bool {
        self.is_failing() || self.unusable.is_some()
    }

    fn take_status(&mut self, outcome: Result<Box<Status>, Failure>, at: At) {
        match outcome {
            Ok(status) => {
                self.status = *status;
                self.status.errors.truncate(MAX_TEXTS);
                self.status.errors.iter_mut().for_each(clip);
                clip(&mut self.status.version);
                (self.failures, self.failure, self.failing_since) = (0, None, None);
                self.last_answer = Some(at);
            }
            Err(mut failure) => {
                clip(&mut failure.text);
                self.failures = self.failures.saturating_add(1);
                self.failing_since.get_or_insert(at);
                self.failure = Some(failure);
            }
        }
    }
}

/// What is to be done after an answer.
#[derive(Debug, Default)]
pub struct Taken {
    /// Samples to be stored, of this member.
    pub samples: Option<(v1::Member, Box<Page>)>,
    /// Something a person may want to know, about the endpoint.
    pub told: Option<Told>,
}

/// A change of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It does not answer, or can't be used, for this reason.
    Failing(String),
    /// It answers again.
    Answers,
}

/// See the module.
#[derive(Debug)]
pub struct Watched {
    /// What is watched.
    pub target: Target,
    /// etcd's cluster id, once an endpoint told it.
    pub cluster: Option<u64>,
    /// By number: given endpoints first, as they were given.
    pub points: BTreeMap<u64, Seen>,
    list: Vec<v1::PeerMember>,
}

impl Watched {
    /// Nothing known yet. `number` gives the points their numbers.
    pub fn new(target: Target, mut number: impl FnMut() -> u64) -> Self {
        let given = target.seeds.iter().map(|seed| (number(), Seen::new(seed.clone(), true)));
        let points = given.collect();
        Self { target, cluster: None, points, list: Vec::new() }
    }

    /// Takes an answer of the point with this number.
    pub fn take(&mut self, number: u64, answer: Answer, at: At) -> Taken {
        let mut taken = Taken::default();
        let Some(point) = self.points.get_mut(&number) else { return taken };
        let before = (point.answers(), point.is_bad());
        match answer {
            Answer::Status(outcome) => {
                point.take_status(outcome, at);
                if point.failure.is_none() {
                    self.identify(number);
                }
            }
            Answer::Members(list) => self.take_list(number, list),
            Answer::Page(Ok(page)) => taken.samples = self.take_page(number, page, at),
            Answer::Page(Err(mut failure)) => {
                clip(&mut failure.text);
                point.page_failure = Some(failure.text);
            }
            Answer::Alive(outcome) => point.ill = outcome.err(),
        }
        let Some(point) = self.points.get(&number) else { return taken };
        let after = (point.answers(), point.is_bad());
        let reason = point.unusable.as_ref().or(point.failure.as_ref().map(|failure| &failure.text));
        taken.told = match (before, after) {
            ((_, false), (_, true)) => reason.cloned().map(Told::Failing),
            ((false, true), (true, _)) => Some(Told::Answers),
            _ => None,
        };
        taken
    }

    /// By the header of Status: which member it is, and whether it belongs here.
    fn identify(&mut self, number: u64) {
        let others_answer = self.points.iter().any(|(other, point)| *other != number && point.answers());
        let Some(point) = self.points.get_mut(&number) else { return };
        let header = point.status.header.clone().unwrap_or_default();
        // One that was ours and has another id was restored from a backup, unless others still have the old one.
        let is_other = header.cluster_id != 0 && self.cluster.is_some_and(|ours| ours != header.cluster_id);
        if is_other && point.member.is_some() && !others_answer {
            self.cluster = None;
            self.list.clear();
        }
        point.unusable = match (header.cluster_id, self.cluster) {
            (0, _) => Some("answers without a cluster id: is this etcd?".to_owned()),
            (id, Some(ours)) if id != ours => {
                Some(format!("belongs to cluster {id:016x}, not to {ours:016x} as the others do"))
            }
            (id, _) => {
                self.cluster = Some(id);
                point.member = Some(header.member_id);
                None
            }
        };
    }

    fn take_list(&mut self, number: u64, mut list: Vec<v1::PeerMember>) {
        let Some(point) = self.points.get(&number).filter(|point| point.answers()) else { return };
        // A member without a leader may know an old list.
        if list.is_empty() || (point.status.leader == 0 && !self.list.is_empty()) {
            return;
        }
        list.retain(|member| member.member_id != 0);
        list.truncate(MAX_MEMBERS);
        for member in &mut list {
            clip(&mut member.name);
            for urls in [&mut member.peer_urls, &mut member.client_urls] {
                urls.truncate(MAX_TEXTS);
                urls.retain(|url| url.len() <= MAX_TEXT);
            }
        }
        self.list = list;
    }

    fn take_page(&mut self, number: u64, mut page: Box<Page>, at: At) -> Option<(v1::Member, Box<Page>)> {
        let point = self.points.get_mut(&number)?;
        if let (Some(said), Some(member)) = (page.member, point.member)
            && said != member
        {
            point.page_failure = Some(format!(
                "metrics are of member {said:016x}, Status of {member:016x}: is this a load balancer?"
            ));
            return None;
        }
        point.page_failure = None;
        point.gauges = page.gauges.clone();
        point.peers = std::mem::take(&mut page.peers);
        point.page_at = Some(at);
        let member = point.member?;
        let of_member = self.point_of(member).is_some_and(|(best, _)| best == number);
        (of_member && self.points.get(&number)?.answers()).then(|| (self.wire(member), page))
    }

    /// Endpoints to be asked besides those that were given, each for a listed member.
    pub fn wanted(&self) -> Vec<Endpoint> {
        let usable = |member: &v1::PeerMember| {
            let mut urls = member.client_urls.iter().filter_map(|url| Endpoint::parse(url));
            urls.find(|endpoint| !endpoint.is_wildcard())
        };
        let given =
            |member: &v1::PeerMember| self.points.values().any(|point| point.given && is_of(point, member));
        self.list.iter().filter(|member| !given(member)).filter_map(usable).collect()
    }

    /// Makes the found points those that are wanted. Returns those that are new and those that are no more.
    pub fn reconcile(&mut self, mut number: impl FnMut() -> u64) -> (Vec<(u64, Endpoint)>, Vec<u64>) {
        if self.list.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let wanted = self.wanted();
        let over: Vec<u64> = self
            .points
            .iter()
            .filter(|(_, point)| !point.given && !wanted.contains(&point.endpoint))
            .map(|(number, _)| *number)
            .collect();
        over.iter().for_each(|number| drop(self.points.remove(number)));
        let known: Vec<Endpoint> = self.points.values().map(|point| point.endpoint.clone()).collect();
        let mut new = Vec::new();
        for endpoint in wanted.into_iter().filter(|endpoint| !known.contains(endpoint)) {
            if !new.iter().any(|(_, known)| *known == endpoint) {
                new.push((number(), endpoint));
            }
        }
        for (number, endpoint) in &new {
            self.points.insert(*number, Seen::new(endpoint.clone(), false));
        }
        (new, over)
    }

    /// The point at which a member is asked.
    pub fn point_of(&self, member: u64) -> Option<(u64, &Seen)> {
        let listed = self.list.iter().find(|listed| listed.member_id == member);
        let mut own = self.points.iter().filter(|(_, point)| {
            point.member == Some(member) || listed.is_some_and(|listed| is_of(point, listed))
        });
        own.clone()
            .find(|(_, point)| point.answers())
            .or_else(|| own.next())
            .map(|(number, point)| (*number, point))
    }

    /// How a point is to be asked, when agents watch the members `covered`.
    pub fn mode(&self, number: u64, covered: &BTreeSet<u64>) -> Mode {
        let Some(point) = self.points.get(&number) else { return Mode::Listen };
        match point.member {
            Some(member) if covered.contains(&member) => Mode::Listen,
            // Another endpoint of the same member is asked in full.
            Some(member) if self.point_of(member).is_some_and(|(best, _)| best != number) => Mode::Listen,
            _ => Mode::Full,
        }
    }

    /// Points whose page may tell what became of members that fell silent, and whose last one is too old for that.
    pub fn to_look_at(&self, at: At, covered: &BTreeSet<u64>) -> Vec<u64> {
        let silent = self.listed().filter(|member| !covered.contains(&member.member_id));
        let since = silent.filter_map(|member| {
            let (_, point) = self.point_of(member.member_id)?;
            point.failing_since.filter(|_| point.is_failing())
        });
        let Some(since) = since.max() else { return Vec::new() };
        let noticing = at.since(since) < PEERS_NOTICE;
        let is_old = |page: At| page <= since || (noticing && at.since(page) >= LOOK_AGAIN);
        let old = |point: &Seen| point.answers() && point.page_at.is_none_or(is_old);
        self.points.iter().filter(|(_, point)| old(point)).map(|(number, _)| *number).collect()
    }

    /// The members as the live stream carries them, but for those that agents watch.
    pub fn live(&self, at: At, covered: &BTreeSet<u64>) -> Vec<v1::LiveMember> {
        let ours = self.listed().filter(|member| !covered.contains(&member.member_id));
        ours.filter_map(|member| self.live_member(at, member)).collect()
    }

    fn listed(&self) -> impl Iterator<Item = &v1::PeerMember> {
        self.list.iter()
    }

    /// `None` until there is something to say of it.
    fn live_member(&self, at: At, listed: &v1::PeerMember) -> Option<v1::LiveMember> {
        let member = Some(self.wire(listed.member_id));
        let (_, point) = self.point_of(listed.member_id)?;
        if point.last_answer.is_none() && !point.is_failing() && point.unusable.is_none() {
            return None;
        }
        let (reach, reason) = self.reach(at, listed.member_id, point);
        let (status, gauges) = (&point.status, &point.gauges);
        let answers = reach == v1::Reach::Answers;
        let mut errors = status.errors.clone();
        if answers {
            errors.extend(point.ill.clone());
            errors.extend(point.page_failure.as_ref().map(|error| format!("metrics not had: {error}")));
        }
        let newer =
            |status: i64, gauge: u64| u64::try_from(status).ok().filter(|size| *size > 0).unwrap_or(gauge);
        Some(v1::LiveMember {
            member,
            running: answers,
            scrape_ok: answers,
            scrape_error: reason,
            has_leader: status.leader != 0,
            is_leader: status.leader == listed.member_id,
            is_learner: status.is_learner || listed.is_learner,
            leader_id: status.leader,
            raft_term: status.raft_term,
            raft_index: status.raft_index,
            raft_applied_index: status.raft_applied_index,
            leader_changes_seen_total: gauges.leader_changes,
            proposals_pending: gauges.proposals_pending,
            proposals_failed_total: gauges.proposals_failed,
            db_size_bytes: newer(status.db_size, gauges.db_size),
            db_in_use_bytes: newer(status.db_size_in_use, gauges.db_in_use),
            quota_bytes: newer(status.db_size_quota, gauges.quota),
            version: status.version.clone(),
            errors,
            peers: if answers { self.list.clone() } else { Vec::new() },
            reach: reach.into(),
            ..v1::LiveMember::default()
        })
    }

    /// How far a member can be seen, and why no further.
    fn reach(&self, at: At, member: u64, point: &Seen) -> (v1::Reach, String) {
        if let Some(reason) = &point.unusable {
            return (v1::Reach::Unknown, reason.clone());
        }
        if !point.is_failing() {
            return (v1::Reach::Answers, String::new());
        }
        let (failure, since) = match (&point.failure, point.failing_since) {
            (Some(failure), Some(since)) => (failure, since),
            _ => return (v1::Reach::Answers, String::new()),
        };
        let others = || self.points.values().filter(|other| other.answers() && other.member != Some(member));
        let views = others().filter(|other| other.page_at.is_some_and(|at| at > since));
        let views: Vec<bool> = views.filter_map(|other| other.peers.get(&member).copied()).collect();
        let connected = views.iter().filter(|connected| **connected).count();
        let text = &failure.text;
        let hangs = failure.hangs && at.since(since) >= UNRESPONSIVE_AFTER;
        match (connected, views.len()) {
            (0, all) if all > 0 => {
                (v1::Reach::Lost, format!("{text}; {all} of {all} other members have lost it"))
            }
            _ if hangs => (v1::Reach::Hangs, text.clone()),
            (0, 0) if others().next().is_some() => {
                (v1::Reach::Unknown, format!("{text}; its peers are being asked"))
            }
            (0, 0) if failure.refused => (v1::Reach::Lost, format!("{text}; nobody listens there")),
            (0, 0) => (v1::Reach::Unknown, format!("{text}; no other member can be asked")),
            (some, all) => {
                (v1::Reach::CutOff, format!("{text}; {some} of {all} other members are connected with it"))
            }
        }
    }

    /// A member as messages name it.
    fn wire(&self, id: u64) -> v1::Member {
        let listed = self.list.iter().find(|member| member.member_id == id).cloned().unwrap_or_default();
        let version = self.point_of(id).map(|(_, point)| point.status.version.clone()).unwrap_or_default();
        v1::Member {
            cluster_id: self.cluster.unwrap_or_default(),
            member_id: id,
            name: listed.name,
            peer_urls: listed.peer_urls,
            client_urls: listed.client_urls,
            version,
            ..v1::Member::default()
        }
    }
}

/// Whether a point is an endpoint of a member: by what answered there, else by the address.
fn is_of(point: &Seen, member: &v1::PeerMember) -> bool {
    match point.member {
        Some(id) => id == member.member_id,
        None => member.client_urls.iter().any(|url| Endpoint::parse(url).as_ref() == Some(&point.endpoint)),
    }
}

fn clip(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests;
