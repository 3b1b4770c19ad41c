//! Rules over the model: one evaluation per rule and subject.

use std::sync::Arc;
use std::time::Duration;

use etcdmon_proto::v1::LiveSignal;
use uuid::Uuid;

use super::evidence::span;
use super::{Evidence, Labels, Measure, Rule, Signal, SyncLatency};
use crate::clock::At;
use crate::cluster::{Cluster, Health, Leaderless, Member, Model, Report, Window};

/// What a rule says of a subject.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The condition does not hold.
    Fine,
    /// Too little happened to judge.
    Quiet,
    /// Nobody alive reports, for the reason given.
    Unknown(String),
    /// The condition holds.
    Breached(Evidence),
}

/// A rule's verdict on one subject.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Labels of the alert it would raise.
    pub labels: Labels,
    /// What it says.
    pub verdict: Verdict,
}

/// Names of clusters for labels.
pub trait Names {
    /// The name of a cluster.
    fn cluster_name(&self, cluster: Uuid) -> String;
}

/// Evaluates every rule on every subject that the model knows.
pub fn evaluate(at: At, model: &Model, rules: &[Arc<Rule>], names: &dyn Names) -> Vec<Evaluation> {
    let mut evaluations = Vec::new();
    for (id, cluster) in model.clusters() {
        let subject = Subject { at, model, id, cluster, name: names.cluster_name(id) };
        for rule in rules {
            match &rule.signal {
                Signal::NoLeader => evaluations.push(Evaluation {
                    rule: Arc::clone(rule),
                    labels: subject.labels(rule, None),
                    verdict: subject.no_leader(),
                }),
                Signal::MemberDown => subject.each_member(rule, &mut evaluations, Subject::member_down),
                Signal::SyncLatency(condition) => {
                    subject.each_member(rule, &mut evaluations, |subject, id, member| {
                        subject.sync_latency(condition, id, member)
                    });
                }
            }
        }
    }
    evaluations
}

struct Subject<'a> {
    at: At,
    model: &'a Model,
    id: Uuid,
    cluster: &'a Cluster,
    name: String,
}

impl Subject<'_> {
    fn labels(&self, rule: &Rule, member: Option<(u64, &Member)>) -> Labels {
        let mut labels = Labels::from([
            ("alertname".to_owned(), rule.alert.clone()),
            ("severity".to_owned(), rule.severity.name().to_owned()),
            ("cluster".to_owned(), self.name.clone()),
            ("cluster_id".to_owned(), self.id.to_string()),
        ]);
        if let Some((id, member)) = member {
            labels.insert("member".to_owned(), format!("{id:016x}"));
            if !member.name.is_empty() {
                labels.insert("member_name".to_owned(), member.name.clone());
            }
        }
        labels
    }

    /// Members that were never reported have no agent: there is nothing to say of them.
    fn each_member(
        &self,
        rule: &Arc<Rule>,
        evaluations: &mut Vec<Evaluation>,
        verdict: impl Fn(&Self, u64, &Member) -> Verdict,
    ) {
        for (id, member) in self.cluster.members.iter().filter(|(_, member)| member.is_reported()) {
            evaluations.push(Evaluation {
                rule: Arc::clone(rule),
                labels: self.labels(rule, Some((*id, member))),
                verdict: verdict(self, *id, member),
            });
        }
    }

    fn health(&self, member: u64) -> Health {
        self.model.health(self.at, self.id, member).unwrap_or(Health::Unknown { since: None })
    }

    fn why_unknown(&self, member: u64) -> String {
        let report = self.model.report(self.at, self.id, member).map(|(_, report)| report);
        match report.filter(|report| report.is_remote()) {
            Some(report) if !report.live.scrape_error.is_empty() => {
                format!("it can't be asked: {}", report.live.scrape_error)
            }
            _ => "its agent is silent".to_owned(),
        }
    }

    fn no_leader(&self) -> Verdict {
        match self.model.leaderless(self.at, self.id) {
            Leaderless::No => Verdict::Fine,
            Leaderless::Unknown => Verdict::Unknown("too few members are heard of".to_owned()),
            Leaderless::Yes => {
                let voters = self.cluster.members.iter().filter(|(_, member)| !member.is_learner);
                let total = voters.clone().count();
                let down: Vec<&str> = voters
                    .filter(|(id, _)| self.health(**id).is_down())
                    .map(|(_, member)| member.name.as_str())
                    .collect();
                let since =
                    self.cluster.leadership.none_since().map_or(Duration::ZERO, |since| self.at.since(since));
                let quorum = total / 2 + 1;
                let description = format!(
                    "no leader for {}; {} of {total} voters down ({}), quorum is {quorum}",
                    span(since),
                    down.len(),
                    down.join(", "),
                );
                Verdict::Breached(
                    Evidence::new(since.as_secs_f64(), description)
                        .with("value", format!("{} without a leader", span(since)))
                        .with("members_down", down.len().to_string())
                        .with("quorum", quorum.to_string()),
                )
            }
        }
    }

    fn member_down(&self, id: u64, member: &Member) -> Verdict {
        let (since, what) = match self.health(id) {
            Health::Up => return Verdict::Fine,
            Health::Unknown { .. } => return Verdict::Unknown(self.why_unknown(id)),
            Health::CutOff { .. } => {
                return Verdict::Unknown(
                    "it can't be reached from here, but its peers are connected with it".to_owned(),
                );
            }
            Health::Gone { since } => (since, "its process is gone"),
            Health::Lost { since } => {
                (since, "it does not answer, and its peers have lost it or nobody listens")
            }
            Health::NotReported { since } => (since, "its agent is alive but no longer finds it"),
            Health::Unresponsive { since } => (since, "its process runs but does not answer"),
        };
        let down = self.at.since(since);
        let report = self.model.report(self.at, self.id, id);
        let mut evidence =
            Evidence::new(1.0, format!("{}: {what}, for {}", display_name(id, member), span(down)))
                .with("value", what)
                .with("down_for", span(down));
        if let Some((_, report)) = report {
            if let Some(process) = report.member().and_then(|member| member.process.as_ref()) {
                evidence = evidence.with("pid", process.pid.to_string());
            }
            if !report.live.scrape_error.is_empty() {
                evidence = evidence.with("last_error", report.live.scrape_error.clone());
            }
            if let Some(signal) = ended_by(report) {
                evidence = evidence.with("ended_by", signal);
            }
        }
        Verdict::Breached(self.with_margin(self.with_node(evidence, id)))
    }

    fn sync_latency(&self, condition: &SyncLatency, id: u64, member: &Member) -> Verdict {
        match self.health(id) {
            Health::Unknown { .. } => return Verdict::Unknown(self.why_unknown(id)),
            // What is down syncs nothing, and another rule speaks of that.
            Health::Gone { .. } | Health::Lost { .. } | Health::NotReported { .. } => return Verdict::Fine,
            Health::Up | Health::CutOff { .. } | Health::Unresponsive { .. } => {}
        }
        let mut enough = false;
        for measure in &condition.any {
            let window = member.syncs(self.at, condition.class, measure.window());
            match judge(measure, condition.above, &window) {
                Judged::Breached(value, what) => {
                    let evidence = self.latency_evidence(condition, measure, &window, value, &what);
                    let evidence = evidence.with("member_name", display_name(id, member));
                    return Verdict::Breached(self.with_node(evidence, id));
                }
                Judged::Fine => enough = true,
                Judged::TooFew => {}
            }
        }
        if enough { Verdict::Fine } else { Verdict::Quiet }
    }

    fn latency_evidence(
        &self,
        condition: &SyncLatency,
        measure: &Measure,
        window: &Window,
        value: f64,
        what: &str,
    ) -> Evidence {
        let slow = window.count_at_least(condition.above);
        let spelled = |value: Option<Duration>| value.map_or_else(|| "unknown".to_owned(), span);
        let description = format!(
            "{what} over the last {}; {slow} of {} {} syncs took {} or more, the slowest up to {}",
            span(measure.window()),
            window.count,
            condition.class.name(),
            span(condition.above),
            spelled(window.slowest()),
        );
        Evidence::new(value, description)
            .with("value", what)
            .with("threshold", span(condition.above))
            .with("window", span(measure.window()))
            .with("count", window.count.to_string())
            .with("slow_count", slow.to_string())
            .with("p50", spelled(window.quantile(0.5)))
            .with("p99", spelled(window.quantile(0.99)))
            .with("file_class", condition.class.name())
    }

    fn with_node(&self, evidence: Evidence, member: u64) -> Evidence {
        let node = self.model.report(self.at, self.id, member).and_then(|(agent, report)| {
            // Who asks over the network is not on the member's node.
            let agent = self.model.agent(agent).filter(|_| !report.is_remote())?;
            Some((agent.node.clone(), report.live.is_leader))
        });
        match node {
            Some((node, is_leader)) => {
                evidence.with("node", node).with("is_leader", if is_leader { "yes" } else { "no" })
            }
            None => evidence,
        }
    }

    fn with_margin(&self, evidence: Evidence) -> Evidence {
        let voters = self.cluster.members.iter().filter(|(_, member)| !member.is_learner);
        let total = voters.clone().count();
        let up = voters.filter(|(id, _)| self.health(**id) == Health::Up).count();
        evidence.with("voters_up", format!("{up} of {total}")).with("quorum", (total / 2 + 1).to_string())
    }
}

/// The signal that ended its process, if one was seen, and who sent it.
fn ended_by(report: &Report) -> Option<String> {
    // Those that stop and continue a process (signal(7)) end nothing.
    let ends = |signal: &&LiveSignal| !matches!(signal.signal, 18..=22);
    let signals = &report.live.vitals.as_ref().filter(|_| !report.live.running)?.signals;
    let last = signals.iter().filter(ends).max_by_key(|signal| signal.wall_ns)?;
    Some(match last.sender_process_id {
        0 => format!("signal {} of the kernel", last.signal),
        pid => format!("signal {} of {} (pid {pid})", last.signal, last.sender_comm),
    })
}

fn display_name(id: u64, member: &Member) -> String {
    if member.name.is_empty() { format!("{id:016x}") } else { member.name.clone() }
}

enum Judged {
    Fine,
    TooFew,
    /// The value in seconds (or the share), and the same in words.
    Breached(f64, String),
}

fn judge(measure: &Measure, above: Duration, window: &Window) -> Judged {
    match measure {
        Measure::Quantile { quantile, minimum_count, .. } => {
            if window.count < *minimum_count {
                return Judged::TooFew;
            }
            match window.quantile(*quantile) {
                Some(value) if value > above => {
                    Judged::Breached(value.as_secs_f64(), format!("p{} {}", quantile * 100.0, span(value)))
                }
                _ => Judged::Fine,
            }
        }
        Measure::BusyShare { share, window: length, minimum_count } => {
            let busy = window.time_at_least(above).as_secs_f64() / length.as_secs_f64();
            if busy >= *share && window.count_at_least(above) >= *minimum_count {
                let p99 = window.quantile(0.99).unwrap_or_default();
                Judged::Breached(
                    p99.as_secs_f64(),
                    format!("p99 {}, {:.0} % of the time in slow syncs", span(p99), busy.min(1.0) * 100.0),
                )
            } else if window.count >= *minimum_count {
                Judged::Fine
            } else {
                Judged::TooFew
            }
        }
    }
}

impl Measure {
    /// Its window.
    pub const fn window(&self) -> Duration {
        match self {
            Self::Quantile { window, .. } | Self::BusyShare { window, .. } => *window,
        }
    }
}
