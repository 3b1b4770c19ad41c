//! The life of incidents: hysteresis, silence, restart, bounds.

use super::scene::*;
use crate::diagnosis::{Cause, Confidence, Culprit, CulpritKind, Finding, Incidents, MAX_KEPT, UNHEARD};

#[test]
fn flickers_neither_open_nor_close() {
    let mut run = Run::calm();
    run.seconds(5, &direct_neighbour());
    // Eight seconds of calm are not its end.
    for _ in 0..5 {
        run.seconds(8, &calm());
        run.seconds(3, &direct_neighbour());
    }
    assert_eq!((run.causes(), run.closed.len()), (vec![Cause::DiskNeighbour], 0));
    run.seconds(13, &calm());
    assert_eq!(run.closed.len(), 1);
    run.seconds(5, &direct_neighbour());
    assert_eq!(run.causes().len(), 2, "another incident");
    assert_ne!(run.shown()[0].id, run.shown()[1].id);
}

#[test]
fn the_end_of_an_incident_does_not_replace_what_its_middle_said() {
    let mut run = Run::calm();
    run.seconds(8, &direct_neighbour());
    let middle = run.open(Cause::DiskNeighbour);
    let mut last = direct_neighbour();
    last.wal = vec![(450, 40), (14_000, 9)];
    (last.examined, last.mean) = (9, 14);
    last.disk[0].pid = 99;
    last.disk[0].percent = 30;
    run.seconds(3, &calm());
    run.seconds(2, &last);
    run.seconds(15, &calm());
    let closed = &run.shown()[0];
    assert_eq!((closed.state.as_str(), &closed.culprit), ("closed", &middle.culprit));
}

#[test]
fn silence_takes_nothing_back() {
    let mut run = Run::calm();
    run.seconds(5, &direct_neighbour());
    (0..60).for_each(|_| run.silence());
    assert_eq!(run.closed, [], "nobody says that it is over");
    (0..UNHEARD.as_secs()).for_each(|_| run.silence());
    assert_eq!(run.closed.len(), 1, "nobody will");
}

#[test]
fn a_restart_of_the_aggregator_keeps_the_incident() {
    let mut run = Run::calm();
    run.seconds(6, &direct_neighbour());
    run.seconds(12, &calm());
    run.seconds(1, &stopped());
    run.seconds(5, &slow_device());
    let before = run.shown();
    assert_eq!(before.len(), 3);
    run.restart();
    let mut after = run.shown();
    // Written every few seconds only.
    for (old, new) in before.iter().zip(&mut after) {
        new.updated_at = old.updated_at;
        assert_eq!(
            (old.id, old.cause, &old.state, &old.culprit),
            (new.id, new.cause, &new.state, &new.culprit)
        );
    }
    run.seconds(8, &slow_device());
    let open = run.open(Cause::SlowDevice);
    assert_eq!(open.id, before.iter().find(|view| view.cause == Cause::SlowDevice).unwrap().id);
    assert_eq!(run.opened.iter().filter(|(_, cause)| *cause == Cause::SlowDevice).count(), 1);
    run.seconds(20, &calm());
    assert!(run.shown().iter().all(|view| !view.is_open()));
}

#[test]
fn a_new_epoch_of_the_agent_is_no_incident() {
    let mut run = Run::calm();
    run.seconds(5, &slow_device());
    run.epoch = 2;
    run.seconds(5, &slow_device());
    assert_eq!(run.causes(), [Cause::SlowDevice], "it goes on");
    assert_eq!(run.closed, []);
    run.seconds(15, &calm());
    let mut fresh = run.with_another_agent();
    fresh.seconds(20, &calm());
    assert_eq!(fresh.causes(), [], "counters that begin anew say nothing");
}

#[test]
fn another_process_of_the_member_is_no_incident() {
    let mut run = Run::calm();
    run.seconds(10, &Second { used: 400, delayed: 500, throttled: 50, ..calm() });
    run.pid = 501;
    run.seconds(10, &calm());
    assert_eq!(run.causes(), []);
}

#[test]
fn errors_of_a_process_that_ended_are_seen() {
    let mut run = Run::calm();
    run.seconds(1, &Second { gone: true, ..errors() });
    run.seconds(3, &Second { gone: true, ..calm() });
    assert_eq!(run.causes(), [Cause::DeviceErrors]);
}

#[test]
fn an_etcd_that_ended_before_its_errors_were_counted_says_so_in_its_log() {
    let mut run = Run::calm();
    run.seconds(3, &Second { gone: true, failure: "disk_error", ..calm() });
    assert_eq!(run.causes(), [Cause::DeviceErrors]);
    let mut run = Run::calm();
    run.seconds(3, &Second { gone: true, failure: "port_taken", ..calm() });
    assert_eq!(run.causes(), []);
}

fn finding(weight_ns: u64) -> Finding {
    Finding {
        cause: Cause::SlowDevice,
        share: 0.5,
        confidence: Confidence::High,
        culprits: Vec::new(),
        summary: "s".to_owned(),
        evidence: Vec::new(),
        ruled_out: Vec::new(),
        next_step: "n".to_owned(),
        onset: at(0),
        weight_ns,
        confirmations: 1,
    }
}

/// The same, of one who did it.
fn finding_of(process_id: u32, weight_ns: u64) -> Finding {
    let culprit = Culprit {
        kind: CulpritKind::Process,
        process_id,
        comm: String::new(),
        process: String::new(),
        cgroup: String::new(),
        container_id: String::new(),
        pod_uid: String::new(),
        share: 0.5,
        certainty: Confidence::High,
    };
    Finding { culprits: vec![culprit], ..finding(weight_ns) }
}

/// Whom an incident names after findings a second apart.
fn named_after(findings: impl IntoIterator<Item = Finding>) -> Option<u32> {
    let mut incidents = Incidents::default();
    for (second, finding) in (0..).zip(findings) {
        incidents.note(at(second * 1_000), 0, (CLUSTER, MEMBER), vec![finding], &mut uuid::Uuid::new_v4);
    }
    let shown = incidents.shown(0).of(CLUSTER)[0].clone();
    shown.culprit.as_ref().map(|culprit| culprit.process_id)
}

#[test]
fn the_first_to_see_who_did_it_is_believed_whatever_its_weight() {
    assert_eq!(named_after([finding(10), finding(5)]), None);
    assert_eq!(named_after([finding(10), finding_of(7, 5)]), Some(7));
    assert_eq!(
        named_after([finding(10), finding_of(7, 5), finding_of(8, 6)]),
        Some(7),
        "10 is still the most"
    );
}

#[test]
fn who_goes_on_alone_is_named_after_a_while() {
    let then = |seconds| std::iter::once(finding_of(7, 10)).chain(vec![finding_of(8, 5); seconds]);
    assert_eq!((named_after(then(9)), named_after(then(12))), (Some(7), Some(8)));
}

#[test]
fn the_number_of_incidents_is_bounded_and_the_oldest_go_first() {
    let mut incidents = Incidents::default();
    let mut ids = 0_u128;
    let mut new_id = || {
        ids += 1;
        uuid::Uuid::from_u128(ids)
    };
    let mut removed = Vec::new();
    let total = MAX_KEPT as u64 + 500;
    for number in 0..total {
        let now = number * 20_000;
        let place = (CLUSTER, number % 7);
        incidents.note(at(now), 0, place, vec![finding(1)], &mut new_id);
        let heard = at(now + 15_000);
        removed.extend(incidents.tick(heard, 0, &|_| Some(heard)).removed);
    }
    assert_eq!(removed.len(), 500);
    assert_eq!(removed[0], uuid::Uuid::from_u128(1));
    assert_eq!(incidents.shown(0).of(CLUSTER).len(), MAX_KEPT);
    let later = at(total * 20_000 + 91 * 24 * 3_600_000);
    assert_eq!(incidents.tick(later, 0, &|_| None).removed.len(), MAX_KEPT, "after 90 days");
}

#[test]
fn too_many_at_once_are_refused_and_counted() {
    let mut incidents = Incidents::default();
    for member in 0..2_100 {
        incidents.note(at(0), 0, (CLUSTER, member), vec![finding(1)], &mut uuid::Uuid::new_v4);
    }
    assert_eq!(incidents.shown(0).of(CLUSTER).len(), 2_000);
    assert_eq!(incidents.shown(0).refused(), 100);
}

#[test]
fn an_alert_names_what_is_open_before_what_is_suspected_or_closed() {
    let place = (CLUSTER, 1);
    let mut incidents = Incidents::default();
    let note = |incidents: &mut Incidents, now, findings| {
        incidents.note(at(now), 0, place, findings, &mut uuid::Uuid::new_v4);
    };
    assert_eq!(incidents.mention(place, at(0)), None);
    note(&mut incidents, 0, vec![Finding { confirmations: 2, ..finding(1) }]);
    let suspected = incidents.mention(place, at(0)).unwrap();
    assert_eq!((suspected.state, suspected.id), ("suspected", None));
    let full = Finding { cause: Cause::DiskNearlyFull, share: 1.0, ..finding(1) };
    note(&mut incidents, 1_000, vec![full, Finding { confirmations: 2, ..finding(1) }]);
    let open = incidents.mention(place, at(0)).unwrap();
    assert_eq!((open.state, open.cause, open.also), ("open", Cause::SlowDevice, vec![Cause::DiskNearlyFull]));
    assert_eq!(incidents.mention((CLUSTER, 2), at(0)), None, "another member's");
    incidents.tick(at(20_000), 0, &|_| Some(at(20_000)));
    assert_eq!(incidents.mention(place, at(10_000)).unwrap().state, "closed");
    assert_eq!(incidents.mention(place, at(30_000)), None, "long ago");
}

#[test]
fn records_of_another_shape_are_refused() {
    let mut incidents = Incidents::default();
    for json in [
        serde_json::json!({}),
        serde_json::json!({"cluster": CLUSTER, "cause": "magic"}),
        serde_json::json!(7),
    ] {
        assert!(incidents.restore(at(0), 0, &json).is_err(), "{json}");
    }
}
