//! Rules as data: a script of what a cluster does, and which alerts must be there at which second
//! (`rule/tests/*.yaml`). The script becomes live messages, so the model is part of what is tested.

use std::collections::BTreeSet;

use etcdmon_proto::v1;
use uuid::Uuid;

use super::*;
use crate::alert::{Alerts, State};
use crate::clock::At;
use crate::cluster::{LiveMessage, Model};

const CLUSTER: Uuid = Uuid::from_u128(0xc1);
const ETCD_CLUSTER: u64 = 0xabc;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    name: String,
    members: u64,
    seconds: u64,
    #[serde(default)]
    series: Vec<Stretch>,
    #[serde(default)]
    events: Vec<Event>,
    expect: Vec<Expectation>,
}

/// From `from` until before `to`, the members' WAL is synced so often a second, each taking so long.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stretch {
    from: u64,
    to: u64,
    members: Vec<u64>,
    syncs: u64,
    latency_us: u64,
}

/// From `from` until before `to`, something is so with the members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    from: u64,
    to: u64,
    members: Vec<u64>,
    is: Condition,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Gone,
    LeftOut,
    AgentSilent,
    AgentRestarted,
    NoAnswer,
    NeverAnswered,
    NoLeader,
    Removed,
    Follows3,
}

/// At this second exactly these alerts exist, written `AlertName/severity/member/state`; without member for a cluster.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    at: u64,
    alerts: BTreeSet<String>,
}

struct NoNames;

impl Names for NoNames {
    fn cluster_name(&self, _: Uuid) -> String {
        "lab".to_owned()
    }
}

struct Run {
    model: Model,
    alerts: Alerts,
    profile: Profile,
    counts: std::collections::BTreeMap<u64, Vec<u64>>,
    lost_sight: BTreeSet<String>,
}

fn at(milliseconds: u64) -> At {
    At::from_nanos(1_700_000_000_000_000_000 + i64::try_from(milliseconds).unwrap() * 1_000_000)
}

impl Script {
    fn is(&self, second: u64, member: u64, what: Condition) -> bool {
        self.events.iter().any(|event| {
            event.is == what && (event.from..event.to).contains(&second) && event.members.contains(&member)
        })
    }

    fn live_member(&self, second: u64, id: u64, counts: &mut [u64]) -> v1::LiveMember {
        let gone = self.is(second, id, Condition::Gone);
        for stretch in &self.series {
            if (stretch.from..stretch.to).contains(&second) && stretch.members.contains(&id) && !gone {
                counts[etcdmon_histogram::bucket_of(stretch.latency_us * 1_000)] += stretch.syncs;
            }
        }
        let leader = if self.is(second, id, Condition::NoLeader) {
            0
        } else if self.is(second, id, Condition::Follows3) {
            3
        } else {
            1
        };
        let answers = !gone
            && !self.is(second, id, Condition::NoAnswer)
            && !self.is(second, id, Condition::NeverAnswered);
        v1::LiveMember {
            member: Some(v1::Member {
                cluster_id: ETCD_CLUSTER,
                member_id: id,
                name: format!("m{id}"),
                process: Some(v1::Process { pid: 100 + id as u32, ..Default::default() }),
                ..Default::default()
            }),
            running: !gone,
            scrape_ok: answers,
            scrape_error: if answers { String::new() } else { "connection refused".to_owned() },
            syncs: vec![v1::LiveSyncs {
                file_class: v1::FileClass::Wal as i32,
                latency: Some(v1::Histogram::from_counts(counts, 0)),
            }],
            has_leader: leader != 0,
            is_leader: leader == id,
            leader_id: leader,
            raft_term: if leader == 3 { 3 } else { 2 },
            peers: (1..=self.members)
                .filter(|peer| !self.is(second, *peer, Condition::Removed))
                .map(|peer| v1::PeerMember {
                    member_id: peer,
                    name: format!("m{peer}"),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    fn run(&self) {
        let mut run = Run {
            model: Model::default(),
            alerts: Alerts::default(),
            profile: Profile::default_profile(),
            counts: (1..=self.members).map(|id| (id, vec![0; etcdmon_histogram::BUCKETS])).collect(),
            lost_sight: BTreeSet::new(),
        };
        for second in 0..=self.seconds {
            for id in 1..=self.members {
                self.send(&mut run, second, id);
            }
            for half in [0, 500] {
                self.evaluate(&mut run, second * 1_000 + half);
            }
            for expectation in self.expect.iter().filter(|expectation| expectation.at == second) {
                let found = run.found();
                assert_eq!(found, expectation.alerts, "{} at {second} s", self.name);
            }
        }
        let last = self.expect.iter().map(|expectation| expectation.at).max();
        assert!(last <= Some(self.seconds), "{}: an expectation lies behind the end", self.name);
    }

    fn send(&self, run: &mut Run, second: u64, id: u64) {
        let Some(counts) = run.counts.get_mut(&id) else { return };
        if self.is(second, id, Condition::AgentRestarted) {
            counts.fill(0);
        }
        let live = self.live_member(second, id, counts);
        if self.is(second, id, Condition::AgentSilent) {
            return;
        }
        let restarted = self
            .events
            .iter()
            .any(|e| e.is == Condition::AgentRestarted && e.members.contains(&id) && e.from <= second);
        let members = if self.is(second, id, Condition::LeftOut) { vec![] } else { vec![live] };
        let message = v1::Live {
            epoch: vec![u8::from(restarted); 16],
            number: second + 1,
            members,
            ..Default::default()
        };
        let agent = Uuid::from_u128(u128::from(0xa0 + id));
        let node = format!("node{id}");
        run.model.apply(
            at(second * 1_000),
            LiveMessage { agent, version: "1", node: &node, allowed_commands: &[], live: &message },
            |etcd| if etcd == ETCD_CLUSTER { CLUSTER } else { Uuid::nil() },
        );
    }

    fn evaluate(&self, run: &mut Run, milliseconds: u64) {
        let now = at(milliseconds);
        run.model.tick(now);
        let evaluations = evaluate(now, &run.model, &run.profile.rules, &NoNames);
        let model = &run.model;
        run.alerts.step(now, &evaluations, &|labels| {
            let member = labels.get("member").and_then(|hex| u64::from_str_radix(hex, 16).ok())?;
            model.is_removed(now, CLUSTER, member).then(|| "removed".to_owned())
        });
        run.lost_sight = run
            .alerts
            .iter()
            .filter(|(_, alert)| alert.unknown.is_some())
            .map(|(_, alert)| alert.label("member").to_owned())
            .collect();
    }
}

impl Run {
    fn found(&self) -> BTreeSet<String> {
        self.alerts
            .iter()
            .filter(|(_, alert)| alert.state != State::Resolved || alert.notified_at.is_none())
            .map(|(_, alert)| {
                let member = alert.label("member_name");
                let state = if alert.unknown.is_some() { "unknown" } else { alert.state.name() };
                let subject = if member.is_empty() { String::new() } else { format!("/{member}") };
                format!("{}/{}{subject}/{state}", alert.label("alertname"), alert.severity.name())
            })
            .collect()
    }
}

#[test]
fn rules_find_what_the_scripts_say_and_nothing_else() {
    let mut scripts = 0;
    for text in SCRIPTS {
        let all: Vec<Script> = serde_saphyr::from_str(text).expect("scripts parse");
        for script in all {
            script.run();
            scripts += 1;
        }
    }
    assert!(scripts >= 20, "{scripts} scripts");
}

const SCRIPTS: &[&str] = &[
    include_str!("tests/fsync_slow.yaml"),
    include_str!("tests/member_down.yaml"),
    include_str!("tests/no_leader.yaml"),
];

#[test]
fn every_builtin_rule_has_words_for_its_reader() {
    let profile = Profile::default_profile();
    for rule in &profile.rules {
        assert!(!rule.summary.is_empty() && rule.next_step.len() > 20, "{}", rule.alert);
        assert!(rule.alert.starts_with("Etcd"), "{}", rule.alert);
        assert!(profile.notify.contains_key(&rule.severity), "{} would never be notified", rule.alert);
    }
    let critical = profile.notify[&Severity::Critical];
    assert!(critical.group_wait <= Duration::from_secs(1) && critical.hurry);
}

#[test]
fn senseless_profiles_are_refused_with_the_rule_named() {
    let rule = |signal: &str| {
        format!(
            "{{profile: p, inhibitions: [], notify: {{}}, rules: [{{alert: A, severity: info, signal: {signal}, \
             for: 1s, keep_firing_for: 1s, summary: s, next_step: n}}]}}"
        )
    };
    let latency =
        |measure: &str| rule(&format!("{{sync_latency: {{class: wal, above: 10ms, any: [{measure}]}}}}"));
    for (text, expected) in [
        (rule("member_down").replace("rules: [", "rules: [{alert: A, severity: info, signal: no_leader, for: 1s, keep_firing_for: 1s, summary: s, next_step: n}, "), "given twice"),
        (latency(""), "at least one measure"),
        (latency("{quantile: {quantile: 1.5, window: 10s, minimum_count: 1}}"), "not above 1"),
        (latency("{quantile: {quantile: 0.5, window: 121s, minimum_count: 1}}"), "between 1s and 2m"),
        (latency("{quantile: {quantile: 0.5, window: 10s, minimum_count: 0}}"), "at least 1"),
        (rule("{sync_latency: {class: tape, above: 10ms, any: []}}"), "not a file class"),
        (rule("{sync_latency: {class: wal, above: soon, any: []}}"), "length of time"),
        (rule("full_moon"), "does not parse"),
        ("rules: 3".to_owned(), "does not parse"),
    ] {
        let error = Profile::parse(&text).expect_err(&text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(Profile::parse(&rule("no_leader")).is_ok());
}

#[test]
fn evidence_names_values_window_and_next_step() {
    let text = SCRIPTS[0];
    let all: Vec<Script> = serde_saphyr::from_str(text).unwrap();
    let script = all.iter().find(|script| script.name.starts_with("a disk that becomes slow")).unwrap();
    let mut run = Run {
        model: Model::default(),
        alerts: Alerts::default(),
        profile: Profile::default_profile(),
        counts: (1..=3).map(|id| (id, vec![0; etcdmon_histogram::BUCKETS])).collect(),
        lost_sight: BTreeSet::new(),
    };
    for second in 0..45 {
        (1..=3).for_each(|id| script.send(&mut run, second, id));
        script.evaluate(&mut run, second * 1_000);
    }
    let (_, alert) = run.alerts.iter().find(|(_, a)| a.severity == Severity::Critical).unwrap();
    for name in
        ["summary", "description", "next_step", "value", "threshold", "window", "count", "slow_count", "node"]
    {
        assert!(alert.annotations.contains_key(name), "{name} in {:?}", alert.annotations);
    }
    assert_eq!(alert.annotations["threshold"], "100 ms");
    assert!(alert.annotations["next_step"].contains(&CLUSTER.to_string()));
    assert!(alert.value > 0.1 && alert.value < 1.0, "{}", alert.value);
}

#[test]
fn spans_are_written_for_people() {
    for (nanos, expected) in [
        (1_500, "1.5 µs"),
        (10_000_000, "10 ms"),
        (12_340_000, "12.3 ms"),
        (212_000_000, "212 ms"),
        (1_000_000_000, "1 s"),
        (125_000_000_000, "125 s"),
        (0, "0 µs"),
    ] {
        assert_eq!(super::evidence::span(Duration::from_nanos(nanos)), expected);
    }
}
