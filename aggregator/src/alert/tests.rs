use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::rule::{Evidence, Profile, Rule};

fn rule(hold: u64, keep: u64) -> Arc<Rule> {
    let text = format!(
        "{{profile: p, inhibitions: [], notify: {{}}, rules: [{{alert: A, severity: critical, signal: member_down, \
         for: {hold}s, keep_firing_for: {keep}s, summary: s, next_step: 'look at {{cluster_id}}'}}]}}"
    );
    Arc::clone(&Profile::parse(&text).unwrap().rules[0])
}

fn at(seconds: u64) -> At {
    At::from_nanos(1_000_000_000_000 + i64::try_from(seconds).unwrap() * 1_000_000_000)
}

fn labels(subject: u8) -> Labels {
    Labels::from([("alertname".to_owned(), "A".to_owned()), ("member".to_owned(), subject.to_string())])
}

fn evaluation(rule: &Arc<Rule>, subject: u8, verdict: Verdict) -> Evaluation {
    Evaluation { rule: Arc::clone(rule), labels: labels(subject), verdict }
}

fn breached() -> Verdict {
    Verdict::Breached(Evidence::new(1.0, "it is so"))
}

const HERE: GoneFor<'static> = &|_| None;

/// Runs one subject through verdicts at seconds and returns the states after each.
fn life(rule: &Arc<Rule>, verdicts: &[(u64, Verdict)]) -> Vec<Option<State>> {
    let mut alerts = Alerts::default();
    let id = Fingerprint::of(&labels(1));
    verdicts
        .iter()
        .map(|(second, verdict)| {
            alerts.step(at(*second), &[evaluation(rule, 1, verdict.clone())], HERE);
            alerts.get(id).map(|alert| alert.state)
        })
        .collect()
}

#[test]
fn the_whole_life_of_an_alert() {
    let states = life(
        &rule(10, 20),
        &[
            (0, Verdict::Fine),
            (1, breached()),
            (10, breached()),
            (11, breached()),
            (12, Verdict::Fine),
            (30, Verdict::Fine),
            (31, Verdict::Fine),
            (32, Verdict::Fine),
            (40, breached()),
        ],
    );
    use State::{Firing, Pending, Resolved};
    let expected = [
        None,
        Some(Pending),
        Some(Pending),
        Some(Firing),
        Some(Firing),
        Some(Firing),
        Some(Resolved),
        Some(Resolved),
        Some(Pending),
    ];
    assert_eq!(states, expected);
}

#[test]
fn a_breach_that_ends_before_for_never_fires() {
    let states =
        life(&rule(10, 0), &[(0, breached()), (9, Verdict::Fine), (10, breached()), (19, breached())]);
    assert_eq!(states, [Some(State::Pending), None, Some(State::Pending), Some(State::Pending)]);
}

#[test]
fn without_for_it_fires_at_once() {
    assert_eq!(life(&rule(0, 0), &[(0, breached())]), [Some(State::Firing)]);
}

#[test]
fn a_breach_within_keep_firing_for_prolongs_the_same_alert() {
    let mut alerts = Alerts::default();
    let rule = rule(0, 20);
    let id = Fingerprint::of(&labels(1));
    for (second, verdict) in [(0, breached()), (15, Verdict::Fine), (16, breached()), (35, Verdict::Fine)] {
        alerts.step(at(second), &[evaluation(&rule, 1, verdict)], HERE);
    }
    let alert = alerts.get(id).unwrap();
    assert_eq!((alert.state, alert.fired_at), (State::Firing, Some(at(0))));
}

#[test]
fn unknown_holds_a_firing_alert_forever_and_quiet_for_a_minute() {
    let unknown = || Verdict::Unknown("silent".to_owned());
    let states = life(&rule(0, 5), &[(0, breached()), (10, unknown()), (100_000, unknown())]);
    assert_eq!(states, [Some(State::Firing); 3]);
    let states = life(&rule(0, 5), &[(0, breached()), (59, Verdict::Quiet), (60, Verdict::Quiet)]);
    assert_eq!(states, [Some(State::Firing), Some(State::Firing), Some(State::Resolved)]);
}

#[test]
fn a_pending_alert_is_not_promoted_by_silence() {
    let unknown = || Verdict::Unknown("silent".to_owned());
    let states = life(&rule(10, 0), &[(0, breached()), (60, unknown()), (359, unknown()), (360, unknown())]);
    assert_eq!(states, [Some(State::Pending), Some(State::Pending), Some(State::Pending), None]);
}

#[test]
fn an_alert_nobody_evaluates_is_unknown_unless_its_subject_is_gone() {
    let mut alerts = Alerts::default();
    let id = Fingerprint::of(&labels(1));
    alerts.step(at(0), &[evaluation(&rule(0, 60), 1, breached())], HERE);
    alerts.step(at(1), &[], HERE);
    assert_eq!(alerts.get(id).unwrap().unknown.as_ref().unwrap().1, "nobody reports it");
    let step = alerts.step(at(2), &[], &|_| Some("removed from the cluster".to_owned()));
    assert_eq!(step.changed, [(id, State::Resolved)]);
    assert_eq!(alerts.get(id).unwrap().annotations["resolved_because"], "removed from the cluster");
}

#[test]
fn annotations_come_from_rule_and_evidence() {
    let mut alerts = Alerts::default();
    let mut one = evaluation(&rule(0, 0), 1, breached());
    one.labels.insert("cluster_id".to_owned(), "c1".to_owned());
    alerts.step(at(0), &[one], HERE);
    let (_, alert) = alerts.iter().next().unwrap();
    assert_eq!(alert.annotations["next_step"], "look at c1");
    assert_eq!(alert.annotations["description"], "it is so");
    assert_eq!(alert.annotations["summary"], "s");
}

#[test]
fn a_record_keeps_everything_but_the_moment_of_not_knowing() {
    let mut alerts = Alerts::default();
    alerts.step(at(7), &[evaluation(&rule(0, 0), 1, breached())], HERE);
    let id = Fingerprint::of(&labels(1));
    assert!(alerts.note_delivery(id, at(8)) && !alerts.note_delivery(id, at(9)));
    let alert = alerts.get(id).unwrap();
    for offset in [0, 3_600_000_000_000, -5] {
        assert_eq!(&Alert::from_record(&alert.to_record(offset), offset).unwrap(), alert);
    }
    assert!(Alert::from_record(&serde_json::json!({"labels": 3}), 0).is_err());
    let mut strange = alert.clone();
    strange.value = f64::NAN;
    assert!(Alert::from_record(&strange.to_record(0), 0).is_ok());
}

#[test]
fn resolved_alerts_are_forgotten_after_a_day() {
    let mut alerts = Alerts::default();
    let rule = rule(0, 0);
    alerts.step(at(0), &[evaluation(&rule, 1, breached())], HERE);
    alerts.step(at(1), &[evaluation(&rule, 1, Verdict::Fine)], HERE);
    assert!(alerts.step(at(86_401), &[], HERE).removed.is_empty());
    assert_eq!(alerts.step(at(86_402), &[], HERE).removed.len(), 1);
}

#[test]
fn the_number_of_alerts_is_bounded() {
    let mut alerts = Alerts::default();
    let rule = rule(0, 0);
    let many: Vec<Evaluation> = (0..MAX_ALERTS + 5)
        .map(|n| Evaluation {
            rule: Arc::clone(&rule),
            labels: Labels::from([("member".to_owned(), n.to_string())]),
            verdict: breached(),
        })
        .collect();
    alerts.step(at(0), &many, HERE);
    assert_eq!((alerts.iter().count(), alerts.refused()), (MAX_ALERTS, 5));
}

#[test]
fn fingerprints_are_those_of_prometheus() {
    // FNV-1a offset basis for the empty set; the values below by the rule of github.com/prometheus/common/model.
    assert_eq!(Fingerprint::of(&Labels::new()).to_string(), "cbf29ce484222325");
    let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
    let by_hand = b"a\xffb\xff"
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    assert_eq!(Fingerprint::of(&labels).to_string(), format!("{by_hand:016x}"));
    assert_eq!(Fingerprint::of(&labels).to_string().parse(), Ok(Fingerprint::of(&labels)));
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        3 => Just(breached()),
        3 => Just(Verdict::Fine),
        1 => Just(Verdict::Quiet),
        1 => Just(Verdict::Unknown("silent".to_owned())),
    ]
}

/// (seconds since the last step, verdicts per subject, whether missing subjects are gone)
type Moment = (i64, Vec<(u8, Verdict)>, bool);

fn any_life() -> impl Strategy<Value = Vec<Moment>> {
    let verdicts = prop::collection::vec((0u8..3, any_verdict()), 0..4);
    prop::collection::vec((-3i64..40, verdicts, any::<bool>()), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No order of events panics, revives a resolved instance, or skips a state; the clock may even go backwards.
    #[test]
    fn no_order_of_events_breaks_the_state_machine(hold in 0u64..20, keep in 0u64..20, life in any_life()) {
        let rule = rule(hold, keep);
        let mut alerts = Alerts::default();
        let mut now = at(1_000);
        for (seconds, verdicts, gone) in life {
            now = now.shifted(seconds * 1_000_000_000);
            let before = alerts.clone();
            let evaluations: Vec<_> =
                verdicts.into_iter().map(|(subject, verdict)| evaluation(&rule, subject, verdict)).collect();
            let step = alerts.step(now, &evaluations, &|_| gone.then(|| "gone".to_owned()));
            check_step(&before, &alerts, &step, now)?;
        }
    }
}

fn check_step(before: &Alerts, after: &Alerts, step: &Step, now: At) -> Result<(), TestCaseError> {
    for (id, alert) in after.iter() {
        prop_assert_eq!(id, Fingerprint::of(&alert.labels));
        prop_assert_eq!(alert.fired_at.is_some(), alert.state != State::Pending);
        prop_assert_eq!(alert.resolved_at.is_some(), alert.state == State::Resolved);
        let was = before.get(id);
        let changes: Vec<_> = step.changed.iter().filter(|(changed, _)| *changed == id).collect();
        match was {
            Some(was) if was.state != alert.state || was.fired_at != alert.fired_at => {
                prop_assert!(!changes.is_empty(), "{:?} to {:?} without a word", was.state, alert.state);
            }
            None => prop_assert!(!changes.is_empty()),
            _ => {}
        }
        prop_assert!(changes.len() <= 1 && changes.iter().all(|(_, state)| *state == alert.state));
        if alert.state == State::Resolved && was.is_some_and(|was| was.state == State::Firing) {
            prop_assert_eq!(alert.resolved_at, Some(now));
        }
    }
    for (id, was) in before.iter().filter(|(id, _)| after.get(*id).is_none()) {
        prop_assert!(step.removed.contains(&id));
        prop_assert!(was.state != State::Firing, "a firing alert vanished");
    }
    Ok(())
}
