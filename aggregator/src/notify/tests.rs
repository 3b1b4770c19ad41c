use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::rule::{Evaluation, Evidence, Rule, Verdict};

struct World {
    alerts: Alerts,
    notices: Notices,
    profile: Profile,
    receivers: Vec<String>,
    now: At,
    offset_ns: i64,
    breached: BTreeMap<(&'static str, &'static str, &'static str), Verdict>,
}

impl World {
    fn new() -> Self {
        Self {
            alerts: Alerts::default(),
            notices: Notices::default(),
            profile: Profile::default_profile(),
            receivers: vec!["console".to_owned(), "webhook:1".to_owned()],
            now: At::from_nanos(1_700_000_000_000_000_000),
            offset_ns: 0,
            breached: BTreeMap::new(),
        }
    }

    fn rule(&self, name: &str, severity: &str) -> Arc<Rule> {
        Arc::clone(self.profile.rule(name, severity).unwrap())
    }

    fn breach(&mut self, name: &'static str, severity: &'static str, member: &'static str) {
        self.breached.insert((name, severity, member), Verdict::Breached(Evidence::new(0.2, "slow")));
    }

    fn calm(&mut self, name: &'static str, severity: &'static str, member: &'static str) {
        self.breached.insert((name, severity, member), Verdict::Fine);
    }

    /// Half a second passes; what is told now.
    fn tick(&mut self) -> Vec<Notice> {
        self.now = self.now.plus(Duration::from_millis(500));
        let evaluations: Vec<Evaluation> = self
            .breached
            .iter()
            .map(|((name, severity, member), verdict)| Evaluation {
                rule: self.rule(name, severity),
                labels: Labels::from(
                    [("alertname", *name), ("severity", *severity), ("cluster_id", "c"), ("member", *member)]
                        .map(|(name, value)| (name.to_owned(), value.to_owned())),
                ),
                verdict: verdict.clone(),
            })
            .collect();
        self.alerts.step(self.now, &evaluations, &|_| None);
        self.plan().notices
    }

    fn plan(&mut self) -> Plan {
        self.notices.plan(Situation {
            at: self.now,
            offset_ns: self.offset_ns,
            alerts: &self.alerts,
            profile: &self.profile,
            receivers: &self.receivers,
            external_url: "http://127.0.0.1:8460",
        })
    }

    /// Seconds pass; everything that is told to the console meanwhile, with the seconds after which it came.
    fn run(&mut self, seconds: u64) -> Vec<(u64, Notice)> {
        let start = self.now;
        let mut all = Vec::new();
        for _ in 0..seconds * 2 {
            let told = self.tick();
            let took = self.now.since(start).as_secs();
            all.extend(told.into_iter().filter(|n| n.receiver == "console").map(|n| (took, n)));
        }
        all
    }
}

fn statuses(notice: &Notice) -> Vec<String> {
    let alerts = notice.body["alerts"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    alerts.iter().map(|a| format!("{}:{}", text(&a["labels"]["member"]), text(&a["status"]))).collect()
}

#[test]
fn a_critical_alert_is_told_to_every_receiver_within_two_seconds_and_once() {
    let mut world = World::new();
    world.breach("EtcdFsyncSlow", "critical", "m1");
    let mut told = Vec::new();
    for _ in 0..120 {
        told.extend(world.tick().into_iter().map(|notice| (world.now, notice)));
    }
    assert_eq!(told.len(), 2, "{told:?}");
    let fired = world.alerts.iter().next().unwrap().1.fired_at.unwrap();
    for (at, notice) in &told {
        assert!(at.since(fired) <= Duration::from_millis(1_500));
        assert_eq!(notice.body["status"], "firing");
        assert_eq!(notice.body["notification_reason"], "first notification");
    }
    assert_ne!(told[0].1.receiver, told[1].1.receiver);
    assert_ne!(told[0].1.delivery, told[1].1.delivery);
}

#[test]
fn critical_inhibits_the_warning_of_the_same_fault_only() {
    let mut world = World::new();
    world.breach("EtcdFsyncSlow", "critical", "m1");
    world.breach("EtcdFsyncSlow", "warning", "m1");
    world.breach("EtcdFsyncSlow", "warning", "m2");
    let told = world.run(60);
    let all: Vec<_> = told.iter().flat_map(|(_, notice)| statuses(notice)).collect();
    assert_eq!(all, ["m1:firing", "m2:firing"], "{told:?}");
}

#[test]
fn a_warning_waits_half_a_minute_and_one_that_ends_before_is_never_told() {
    let mut world = World::new();
    world.breach("EtcdFsyncSlow", "warning", "m1");
    let told = world.run(40);
    assert_eq!(told.iter().map(|(after, _)| *after).collect::<Vec<_>>(), [30], "{told:?}");

    let mut world = World::new();
    world.breach("EtcdMemberDown", "critical", "m1");
    world.run(2);
    world.calm("EtcdMemberDown", "critical", "m1");
    assert!(world.run(60).is_empty(), "it never fired");
}

#[test]
fn a_second_critical_alert_of_a_group_does_not_wait_for_the_interval() {
    let mut world = World::new();
    world.breach("EtcdMemberDown", "critical", "m1");
    world.run(6);
    world.breach("EtcdMemberDown", "critical", "m2");
    let told = world.run(6);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 <= 3, "for 2 s, group_wait 1 s: {}", told[0].0);
    assert_eq!(statuses(&told[0].1), ["m1:firing", "m2:firing"]);
    assert_eq!(told[0].1.body["notification_reason"], "new alerts in group");
}

#[test]
fn the_end_is_told_once_and_the_next_firing_is_news() {
    let mut world = World::new();
    world.breach("EtcdMemberDown", "critical", "m1");
    world.run(20);
    world.calm("EtcdMemberDown", "critical", "m1");
    let told = world.run(60);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].1.body["status"].as_str(), statuses(&told[0].1)),
        (Some("resolved"), vec!["m1:resolved".to_owned()])
    );
    let end = told[0].1.body["alerts"][0]["endsAt"].as_str().unwrap();
    assert!(end.starts_with("2023-"), "{end}");
    world.breach("EtcdMemberDown", "critical", "m1");
    let again = world.run(10);
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].1.body["status"], "firing");
}

#[test]
fn flapping_within_keep_firing_for_tells_nothing_new() {
    let mut world = World::new();
    let mut told = Vec::new();
    for _ in 0..20 {
        world.breach("EtcdFsyncSlow", "critical", "m1");
        told.extend(world.run(5));
        world.calm("EtcdFsyncSlow", "critical", "m1");
        told.extend(world.run(5));
    }
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn nothing_changed_is_repeated_after_the_repeat_interval() {
    let mut world = World::new();
    world.breach("EtcdFsyncSlow", "critical", "m1");
    world.run(5);
    world.now = world.now.plus(Duration::from_secs(4 * 3_600 - 60));
    assert!(world.run(30).is_empty());
    let told = world.run(60);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1.body["notification_reason"], "repeat interval elapsed");
}

#[test]
fn a_restart_repeats_nothing_and_forgets_nothing() {
    let mut world = World::new();
    world.breach("EtcdMemberDown", "critical", "m1");
    let mut kept: BTreeMap<String, Value> = BTreeMap::new();
    for _ in 0..20 {
        world.tick();
    }
    // The marks as the state would hold them.
    for (place, mark) in &world.notices.marks {
        kept.insert(mark_id(place), mark.to_record(7_200_000_000_000));
    }
    let entities: Vec<Entity> = kept
        .into_iter()
        .map(|(id, json)| Entity { kind: kind::NOTICE.to_owned(), id, version: 1, json })
        .collect();
    world.notices = Notices::restore(&entities, 7_200_000_000_000);
    assert!(world.run(30).is_empty());
    world.calm("EtcdMemberDown", "critical", "m1");
    assert_eq!(world.run(30).len(), 1, "its end is still told");
}

#[test]
fn an_alert_that_vanished_from_the_state_is_told_to_have_ended() {
    let mut world = World::new();
    world.breach("EtcdMemberDown", "critical", "m1");
    world.run(20);
    world.alerts = Alerts::default();
    world.breached.clear();
    let told = world.run(20);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(statuses(&told[0].1), ["m1:resolved"]);
}

#[test]
fn a_step_of_the_wall_clock_tells_nothing_and_holds_nothing_up() {
    let mut world = World::new();
    world.breach("EtcdFsyncSlow", "critical", "m1");
    world.run(5);
    for offset_ns in [3_600_000_000_000, -3_600_000_000_000, 5_000_000_000, -7_200_000_000_000] {
        world.offset_ns = offset_ns;
        assert!(world.run(1).is_empty(), "offset {offset_ns}");
    }
    world.calm("EtcdFsyncSlow", "critical", "m1");
    let told = world.run(40);
    assert_eq!(told.len(), 1, "its end is told in time all the same");
}

#[test]
fn a_receiver_that_is_no_longer_configured_is_forgotten() {
    let mut world = World::new();
    world.breach("EtcdFsyncSlow", "critical", "m1");
    world.run(5);
    world.receivers.truncate(1);
    let plan = world.plan();
    assert!(plan.notices.is_empty());
    assert!(matches!(plan.changes.as_slice(), [Change::Delete { kind: kind::NOTICE, .. }]), "{plan:?}");
}

#[test]
fn notice_mark_and_outbox_row_are_in_one_transaction() {
    let mut world = World::new();
    world.breach("EtcdFsyncSlow", "critical", "m1");
    let mut plans = Vec::new();
    for _ in 0..4 {
        world.tick();
    }
    world.breach("EtcdFsyncSlow", "critical", "m2");
    world.now = world.now.plus(Duration::from_secs(30));
    let evaluation = Evaluation {
        rule: world.rule("EtcdFsyncSlow", "critical"),
        labels: Labels::from([
            ("alertname".to_owned(), "EtcdFsyncSlow".to_owned()),
            ("severity".to_owned(), "critical".to_owned()),
        ]),
        verdict: Verdict::Breached(Evidence::new(1.0, "x")),
    };
    world.alerts.step(world.now, &[evaluation], &|_| None);
    world.now = world.now.plus(Duration::from_secs(2));
    plans.push(world.plan());
    let plan = &plans[0];
    let enqueued: Vec<&str> = plan
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Enqueue { delivery, .. } => Some(delivery.as_str()),
            _ => None,
        })
        .collect();
    let planned: Vec<&str> = plan.notices.iter().map(|notice| notice.delivery.as_str()).collect();
    assert_eq!(enqueued, planned);
    let marks = plan.changes.iter().filter(|c| matches!(c, Change::Put { kind: kind::NOTICE, .. })).count();
    assert_eq!(marks, planned.len());
    assert!(!planned.is_empty());
}

#[test]
fn the_body_is_that_of_alertmanagers_webhook() {
    let mut world = World::new();
    world.breach("EtcdMemberDown", "critical", "m1");
    world.breach("EtcdMemberDown", "critical", "m2");
    let told = world.run(10);
    let body = &told[0].1.body;
    for (name, expected) in [("version", "4"), ("status", "firing"), ("externalURL", "http://127.0.0.1:8460")]
    {
        assert_eq!(body[name], expected, "{name}");
    }
    assert_eq!(body["groupKey"], r#"{alertname="EtcdMemberDown",cluster_id="c",severity="critical"}"#);
    assert_eq!(body["truncatedAlerts"], 0);
    assert_eq!(body["groupLabels"]["alertname"], "EtcdMemberDown");
    assert_eq!(body["commonLabels"]["severity"], "critical");
    assert!(body["commonLabels"].get("member").is_none(), "the members differ");
    assert_eq!(body["commonAnnotations"]["summary"], "a member does not serve");
    let alert = &body["alerts"][0];
    assert_eq!(alert["endsAt"], "0001-01-01T00:00:00Z");
    assert_eq!(alert["fingerprint"].as_str().unwrap().len(), 16);
    assert!(chrono::DateTime::parse_from_rfc3339(alert["startsAt"].as_str().unwrap()).is_ok());
    assert!(alert["generatorURL"].as_str().unwrap().starts_with("http://127.0.0.1:8460/"));
}

#[test]
fn a_huge_group_is_cut_and_says_so() {
    let mut world = World::new();
    let names: Vec<&'static str> = (0..250).map(|n| &*format!("m{n}").leak()).collect();
    names.iter().for_each(|name| world.breach("EtcdFsyncSlow", "critical", name));
    let told = world.run(5);
    let body = &told[0].1.body;
    assert_eq!(body["alerts"].as_array().unwrap().len(), MAX_ALERTS_PER_NOTICE);
    assert_eq!(body["truncatedAlerts"], 50);
}

#[test]
fn missing_labels_are_equal_and_an_alert_never_inhibits_itself() {
    let rule = Inhibition {
        source: Labels::from([("severity".to_owned(), "critical".to_owned())]),
        target: Labels::from([("alertname".to_owned(), "A".to_owned())]),
        equal: vec!["zone".to_owned()],
    };
    let alert = |name: &str, severity: Severity| Alert {
        labels: Labels::from([
            ("alertname".to_owned(), name.to_owned()),
            ("severity".to_owned(), severity.name().to_owned()),
        ]),
        severity,
        state: AlertState::Firing,
        annotations: Labels::new(),
        value: 0.0,
        started_at: At::default(),
        fired_at: Some(At::default()),
        resolved_at: None,
        notified_at: None,
        breached_at: At::default(),
        unknown: None,
    };
    let (both, plain) = (alert("A", Severity::Critical), alert("A", Severity::Warning));
    let id: Fingerprint = "0000000000000001".parse().unwrap();
    let silencers = Silencers::of(&rule, &[(id, &both)]);
    assert!(silencers.silence(&plain));
    assert!(!silencers.silence(&both));
    let mut elsewhere = plain.clone();
    elsewhere.labels.insert("zone".to_owned(), "z".to_owned());
    assert!(!silencers.silence(&elsewhere));
}

#[test]
fn what_is_silenced_by_others_silences_nothing_of_its_own_kind() {
    let mut world = World::new();
    let labels = |name: &str, value: &str| Labels::from([(name.to_owned(), value.to_owned())]);
    let rule = Inhibition {
        source: labels("severity", "critical"),
        target: labels("cluster_id", "c"),
        equal: Vec::new(),
    };
    world.profile.inhibitions = vec![rule];
    world.breach("EtcdMemberDown", "critical", "m1");
    world.breach("EtcdMemberDown", "critical", "m2");
    world.breach("EtcdFsyncSlow", "warning", "m3");
    let told = world.run(60);
    let all: Vec<_> = told.iter().flat_map(|(_, notice)| statuses(notice)).collect();
    assert_eq!(all, ["m1:firing", "m2:firing"], "both are source and target, m3 is a target only");
}

#[test]
fn a_large_outage_is_planned_in_no_time() {
    let mut world = World::new();
    for number in 0..2_000 {
        let member: &'static str = Box::leak(format!("m{number}").into_boxed_str());
        world.breach("EtcdFsyncSlow", "critical", member);
        world.breach("EtcdFsyncSlow", "warning", member);
    }
    (0..8).for_each(|_| drop(world.tick()));
    let begin = std::time::Instant::now();
    world.plan();
    // Without optimization as well; compared one by one it takes many times as long.
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}
