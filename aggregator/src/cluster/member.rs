//! One member of a cluster: what agents report of it, and what follows for its health.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcdmon_proto::convert::CodingError;
use etcdmon_proto::v1;
use uuid::Uuid;

use super::window::{Cumulative, Series, Window};
use crate::clock::At;

/// Without a live message for this long, an agent is silent and its members are unknown.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);

/// How long a process may run without answering before its member counts as unresponsive.
pub const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(10);

/// How a member is, as far as its agent can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The process runs and answers, or never answered us at all, which then is our problem.
    Up,
    /// The process runs, or at least accepts connections, but stopped answering.
    Unresponsive {
        /// Last answer.
        since: At,
    },
    /// The process is gone, as an agent that is alive says.
    Gone {
        /// When that was first reported.
        since: At,
    },
    /// Nobody sees the process: it does not answer over the network, and other evidence says that it is gone.
    Lost {
        /// When that was first reported.
        since: At,
    },
    /// It does not answer over the network, but its peers are connected with it.
    CutOff {
        /// When that was first reported.
        since: At,
    },
    /// The agent is alive but no longer reports the member.
    NotReported {
        /// When it was first missing.
        since: At,
    },
    /// Nobody who is alive reported it.
    Unknown {
        /// Last report; `None` when there never was one.
        since: Option<At>,
    },
}

impl Health {
    /// The name in API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "healthy",
            Self::Unresponsive { .. } => "unresponsive",
            Self::Gone { .. } | Self::Lost { .. } | Self::NotReported { .. } => "down",
            Self::CutOff { .. } => "unreachable",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Whether somebody alive says that the member does not serve.
    pub const fn is_down(self) -> bool {
        matches!(
            self,
            Self::Gone { .. } | Self::Lost { .. } | Self::NotReported { .. } | Self::Unresponsive { .. }
        )
    }
}

/// What one agent says of the member.
#[derive(Debug, Clone)]
pub struct Report {
    /// Last message of the agent that named the member.
    pub at: At,
    /// The member as last reported; `syncs` and `peers` are kept elsewhere and empty here.
    pub live: v1::LiveMember,
    /// Since when `live.running` and `live.reach` have their values.
    running_since: At,
    /// Last message that said the process runs.
    last_running: Option<At>,
    /// Last successful scrape of the present process.
    last_answer: Option<At>,
    /// Since when the agent's messages no longer name the member.
    missing_since: Option<At>,
}

/// Size of quorum questions and names: a member as the cluster knows it.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Human-readable name; empty while unknown.
    pub name: String,
    /// URLs for its peers.
    pub peer_urls: Vec<String>,
    /// URLs for clients.
    pub client_urls: Vec<String>,
    /// A learner has no vote.
    pub is_learner: bool,
    reports: BTreeMap<Uuid, Report>,
    series: BTreeMap<i32, Series>,
    series_agent: Option<Uuid>,
}

/// Whether an agent is alive now, by its id.
pub type Alive<'a> = &'a dyn Fn(Uuid) -> bool;

impl Member {
    /// Takes what `agent` reports at `at`. Returns how many histograms began anew without a new epoch, and how many did
    /// not decode.
    pub fn report(&mut self, at: At, agent: Uuid, live: v1::LiveMember, alive: Alive<'_>) -> Faults {
        let mut live = live;
        let syncs = std::mem::take(&mut live.syncs);
        live.peers = Vec::new();
        self.take_identity(&live);
        let known = self.reports.get(&agent);
        let same_process = known.is_some_and(|report| {
            report.live.member.as_ref().map(|m| &m.process) == live.member.as_ref().map(|m| &m.process)
        });
        let report = Report {
            at,
            running_since: known
                .filter(|report| (report.live.running, report.live.reach) == (live.running, live.reach))
                .map_or(at, |report| report.running_since),
            last_running: if live.running { Some(at) } else { known.and_then(|report| report.last_running) },
            last_answer: if live.scrape_ok {
                Some(at)
            } else {
                known.filter(|_| same_process).and_then(|report| report.last_answer)
            },
            missing_since: None,
            live,
        };
        self.reports.insert(agent, report);
        if self.owner(alive) == Some(agent) { self.count_syncs(at, agent, &syncs) } else { Faults::default() }
    }

    /// Notes that `agent` is alive and did not name the member. From afar that says nothing: the member is left to its own
    /// agent, or no longer to be watched.
    pub fn missed(&mut self, at: At, agent: Uuid) {
        if self.reports.get(&agent).is_some_and(Report::is_remote) {
            self.reports.remove(&agent);
        }
        if let Some(report) = self.reports.get_mut(&agent) {
            report.missing_since.get_or_insert(at);
        }
    }

    /// Forgets the bases of histograms that came from `agent`, whose process is another one now.
    pub fn rebase(&mut self, agent: Uuid) {
        if self.series_agent == Some(agent) {
            self.series.values_mut().for_each(Series::rebase);
        }
    }

    /// Whether any agent ever reported it.
    pub fn is_reported(&self) -> bool {
        !self.reports.is_empty()
    }

    /// The agent to believe: of those that are alive and see the process run the one that does so longest, else the
    /// one that saw it run last. An agent on the member's node is believed before what was learnt over the network.
    pub fn owner(&self, alive: Alive<'_>) -> Option<Uuid> {
        let running = self
            .reports
            .iter()
            .filter(|(agent, report)| report.live.running && report.missing_since.is_none() && alive(**agent))
            .min_by_key(|(_, report)| (report.is_remote(), report.running_since));
        if let Some((agent, _)) = running {
            return Some(*agent);
        }
        let seen_last = |remote: bool| {
            let of_kind = self.reports.iter().filter(move |(_, report)| report.is_remote() == remote);
            of_kind.max_by_key(|(_, report)| report.last_running).map(|(agent, _)| *agent)
        };
        // An agent that fell silent says nothing; over the network something may still be known.
        match (seen_last(false), seen_last(true)) {
            (Some(agent), Some(remote)) if !alive(agent) && alive(remote) => Some(remote),
            (agent, remote) => agent.or(remote),
        }
    }

    /// The report to believe.
    pub fn best(&self, alive: Alive<'_>) -> Option<&Report> {
        self.reports.get(&self.owner(alive)?)
    }

    /// How it is.
    pub fn health(&self, at: At, alive: Alive<'_>) -> Health {
        let Some(agent) = self.owner(alive) else { return Health::Unknown { since: None } };
        let Some(report) = self.reports.get(&agent) else { return Health::Unknown { since: None } };
        if !alive(agent) {
            return Health::Unknown { since: Some(report.at) };
        }
        match report.live.reach() {
            v1::Reach::Unknown => return Health::Unknown { since: Some(report.running_since) },
            v1::Reach::CutOff => return Health::CutOff { since: report.running_since },
            v1::Reach::Hangs => return Health::Unresponsive { since: report.running_since },
            v1::Reach::Lost => return Health::Lost { since: report.running_since },
            v1::Reach::Unspecified | v1::Reach::Answers => {}
        }
        if !report.live.running {
            return Health::Gone { since: report.running_since };
        }
        if let Some(since) = report.missing_since {
            return Health::NotReported { since };
        }
        match report.last_answer {
            Some(since) if !report.live.scrape_ok && at.since(since) >= UNRESPONSIVE_AFTER => {
                Health::Unresponsive { since }
            }
            _ => Health::Up,
        }
    }

    /// Latencies of the syncs of one file class that ended in the `span` before `at`.
    pub fn syncs(&self, at: At, class: v1::FileClass, span: Duration) -> Window {
        self.series.get(&(class as i32)).map_or_else(Window::default, |series| series.window(at, span))
    }

    /// Latencies as [`Member::syncs`] has them, with what became known only afterwards: for charts, not for rules.
    pub fn syncs_history(&self, at: At, class: v1::FileClass, span: Duration) -> Window {
        self.series.get(&(class as i32)).map_or_else(Window::default, |series| series.history(at, span))
    }

    /// What ended in the `span` before `at`, by file class and delta, for whoever needs it second by second.
    pub fn recent_syncs(
        &self,
        at: At,
        span: Duration,
    ) -> impl Iterator<Item = (v1::FileClass, At, Arc<[(u16, u32)]>)> {
        self.series.iter().flat_map(move |(class, series)| {
            let class = v1::FileClass::try_from(*class).unwrap_or_default();
            series.recent(at, span).map(move |(to, pairs)| (class, to, pairs))
        })
    }

    /// Latencies of all syncs since the epoch of the agent to believe began, by file class; those that it has not seen yet
    /// are left out.
    pub fn counted(&self) -> impl Iterator<Item = (v1::FileClass, &Cumulative)> {
        self.series.iter().filter_map(|(class, series)| {
            let counted = series.newest().filter(|counted| !counted.pairs.is_empty())?;
            Some((v1::FileClass::try_from(*class).ok()?, counted))
        })
    }

    /// Forgets syncs that nobody looks at any more, and reports from `oldest` or before.
    pub fn forget(&mut self, at: At, oldest: At) {
        self.reports.retain(|_, report| report.at > oldest);
        self.series.values_mut().for_each(|series| series.expire(at));
    }

    /// Fills gaps with what `agent` counted up to `at` and sends late.
    pub fn fill(&mut self, at: At, agent: Uuid, syncs: &[v1::LiveSyncs]) -> Faults {
        let mut faults = Faults::default();
        if self.series_agent != Some(agent) {
            return faults;
        }
        for (class, series) in &mut self.series {
            match cumulative(syncs, *class) {
                Ok(then) => series.fill(at, then),
                Err(_) => faults.corrupt += 1,
            }
        }
        faults
    }

    fn take_identity(&mut self, live: &v1::LiveMember) {
        let Some(member) = &live.member else { return };
        if !member.name.is_empty() {
            self.name.clone_from(&member.name);
        }
        if !member.peer_urls.is_empty() {
            self.peer_urls.clone_from(&member.peer_urls);
        }
        if !member.client_urls.is_empty() {
            self.client_urls.clone_from(&member.client_urls);
        }
    }

    /// A class that the message leaves out has counted nothing yet, so it gets its base as well.
    fn count_syncs(&mut self, at: At, agent: Uuid, syncs: &[v1::LiveSyncs]) -> Faults {
        let mut faults = Faults::default();
        if self.series_agent.replace(agent) != Some(agent) {
            self.series.values_mut().for_each(Series::rebase);
        }
        for class in v1::FileClass::ALL {
            let Ok(now) = cumulative(syncs, class as i32) else {
                faults.corrupt += 1;
                continue;
            };
            if self.series.entry(class as i32).or_default().push(at, now) {
                faults.resets += 1;
            }
        }
        faults
    }
}

/// What a message says of one class. One that it leaves out has counted nothing yet.
fn cumulative(syncs: &[v1::LiveSyncs], class: i32) -> Result<Cumulative, CodingError> {
    let latency =
        syncs.iter().find(|syncs| syncs.file_class == class).and_then(|syncs| syncs.latency.as_ref());
    let pairs = latency.map_or(Ok(Vec::new()), v1::Histogram::pairs)?;
    Ok(Cumulative { pairs: pairs.into(), sum_ns: latency.map_or(0, |latency| latency.sum_ns) })
}

impl Report {
    /// Whether it was learnt over the network alone, without an agent on the member's node.
    pub fn is_remote(&self) -> bool {
        self.live.reach() != v1::Reach::Unspecified
    }

    /// The member as the agent described it.
    pub fn member(&self) -> Option<&v1::Member> {
        self.live.member.as_ref()
    }
}

/// What was wrong with a message: counted, never fatal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Histograms whose counts went backwards within an epoch.
    pub resets: u64,
    /// Histograms that did not decode.
    pub corrupt: u64,
    /// Members without identity, or beyond the bounds of the model.
    pub refused: u64,
    /// Messages that were not newer than the last one.
    pub stale: u64,
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, more: Self) {
        self.resets += more.resets;
        self.corrupt += more.corrupt;
        self.refused += more.refused;
        self.stale += more.stale;
    }
}
