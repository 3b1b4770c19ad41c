use super::*;

const A: &str = "00000000000000a1";
const B: &str = "00000000000000b2";

fn at(seconds: f64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_795_255_200_000 + (seconds * 1e3).round() as i64).unwrap()
}

fn process(process_id: u32) -> Wanted {
    Wanted::Process { process_id, name: "backup".to_owned(), pod_uid: String::new() }
}

fn expected(cause: Cause, members: &[&str], culprit: Wanted) -> Expected {
    Expected {
        cause,
        members: members.iter().map(|name| (*name).to_owned()).collect(),
        culprit,
        onset: at(0.0),
    }
}

fn named(process_id: u32) -> Option<Named> {
    Some(Named { kind: "process".to_owned(), process_id, name: String::new(), pod_uid: String::new() })
}

fn found(member: &str, cause: &str, seconds: f64, culprit: Option<Named>) -> Found {
    Found {
        member: member.to_owned(),
        cause: cause.to_owned(),
        seen_at: at(seconds),
        named_at: at(seconds),
        opened_at: at(seconds),
        onset_at: at(0.0),
        culprit,
        summary: String::new(),
    }
}

fn pairs(judgement: &Judgement) -> Vec<(&str, &str)> {
    judgement.pairs.iter().map(|(one, other)| (one.as_str(), other.as_str())).collect()
}

#[test]
fn the_right_cause_and_culprit_are_right_with_their_time() {
    let wanted = [expected(Cause::DiskNeighbour, &[A], process(7))];
    let mut verdict = found(A, "disk_neighbour", 1.5, named(7));
    verdict.named_at = at(2.5);
    let judgement = judge(&wanted, &[], &[verdict]);
    assert!(judgement.is_right());
    assert_eq!(judgement.seconds, Some(2.5), "the time until the right one was named");
    assert_eq!(pairs(&judgement), [("disk_neighbour", "disk_neighbour")]);
}

#[test]
fn somebody_else_or_nobody_in_place_of_the_culprit_is_wrong_and_the_cause_still_right() {
    let wanted = [expected(Cause::DiskNeighbour, &[A], process(7))];
    for culprit in [None, named(8), named(0)] {
        let judgement = judge(&wanted, &[], &[found(A, "disk_neighbour", 2.0, culprit)]);
        assert!(judgement.cause_right && !judgement.culprit_right && judgement.false_verdicts.is_empty());
        assert_eq!(judgement.seconds, Some(2.0));
    }
}

#[test]
fn naming_somebody_where_there_is_none_is_wrong() {
    let wanted = [expected(Cause::SlowDevice, &[A], Wanted::Nobody)];
    assert!(judge(&wanted, &[], &[found(A, "slow_device", 2.0, None)]).is_right());
    let judgement = judge(&wanted, &[], &[found(A, "slow_device", 2.0, named(7))]);
    assert!(judgement.cause_right && !judgement.culprit_right);
}

#[test]
fn the_pod_belongs_to_the_culprit() {
    let pod = |uid: &str| Named { pod_uid: uid.to_owned(), ..named(7).unwrap() };
    let wanted = Wanted::Process { process_id: 7, name: String::new(), pod_uid: "u".to_owned() };
    assert!(wanted.is_met_by(Some(&pod("u"))));
    assert!(!wanted.is_met_by(Some(&pod(""))) && !wanted.is_met_by(Some(&pod("v"))));
    assert!(!process(7).is_met_by(Some(&pod("u"))), "a pod that it is not in");
}

#[test]
fn unknown_is_wrong_and_so_is_nothing() {
    let wanted = [expected(Cause::IoThrottle, &[A], Wanted::Nobody)];
    let judgement = judge(&wanted, &[], &[found(A, "unknown", 2.0, None)]);
    assert!(!judgement.cause_right && !judgement.culprit_right);
    assert_eq!(judgement.seconds, None);
    assert_eq!(judgement.false_verdicts, [format!("{A} unknown")]);
    assert_eq!(pairs(&judgement), [("io_throttle", "unknown")]);
    let judgement = judge(&wanted, &[], &[]);
    assert!(!judgement.cause_right && !judgement.culprit_right && judgement.false_verdicts.is_empty());
    assert_eq!(pairs(&judgement), [("io_throttle", "none")]);
}

#[test]
fn the_right_cause_of_another_member_is_a_false_verdict() {
    let wanted = [expected(Cause::SlowDevice, &[A], Wanted::Nobody)];
    let verdicts = [found(A, "slow_device", 2.0, None), found(B, "slow_device", 2.0, None)];
    let judgement = judge(&wanted, &[], &verdicts);
    assert!(judgement.cause_right && judgement.culprit_right && !judgement.is_right());
    assert_eq!(judgement.false_verdicts, [format!("{B} slow_device")]);
    assert_eq!(pairs(&judgement), [("slow_device", "slow_device"), ("none", "slow_device")]);
}

#[test]
fn anything_said_in_calm_is_false() {
    let judgement = judge(&[], &[], &[]);
    assert!(judgement.is_right());
    assert_eq!(pairs(&judgement), [("none", "none")]);
    let judgement = judge(&[], &[], &[found(A, "own_io", 2.0, None)]);
    assert!(!judgement.is_right());
    assert_eq!(pairs(&judgement), [("none", "own_io")]);
}

#[test]
fn what_hits_all_members_may_be_said_of_each_but_never_wrongly() {
    let wanted = [expected(Cause::CpuStarvation, &[A, B], process(7))];
    let both = |second| [found(A, "cpu_starvation", 3.0, named(7)), found(B, "cpu_starvation", 1.0, second)];
    let judgement = judge(&wanted, &[], &both(named(7)));
    assert!(judgement.is_right());
    assert_eq!(judgement.seconds, Some(1.0), "one verdict is what a person needs");
    assert!(!judge(&wanted, &[], &both(named(9))).culprit_right);
}

#[test]
fn both_of_a_pair_must_be_found_and_the_later_one_counts() {
    let wanted =
        [expected(Cause::SlowDevice, &[A], Wanted::Nobody), expected(Cause::Stopped, &[A], process(7))];
    let slow = found(A, "slow_device", 1.0, None);
    let judgement = judge(&wanted, &[], std::slice::from_ref(&slow));
    assert!(!judgement.cause_right && judgement.seconds.is_none());
    assert_eq!(pairs(&judgement), [("slow_device", "slow_device"), ("stopped", "none")]);
    let judgement = judge(&wanted, &[], &[slow, found(A, "stopped", 3.0, named(7))]);
    assert!(judgement.is_right());
    assert_eq!(judgement.seconds, Some(3.0));
}

#[test]
fn what_the_run_before_left_is_nobodys() {
    let before = [expected(Cause::Stopped, &[B], process(7))];
    let judgement = judge(&[], &before, &[found(B, "stopped", 1.0, named(7))]);
    assert!(judgement.is_right());
    let judgement = judge(&[], &before, &[found(A, "stopped", 1.0, named(7))]);
    assert!(!judgement.is_right());
}

#[test]
fn what_is_said_long_after_the_run_before_is_not_left_of_it() {
    let before = [expected(Cause::Stopped, &[B], process(7))];
    let judgement = judge(&[], &before, &[found(B, "stopped", 60.0, named(7))]);
    assert_eq!(judgement.false_verdicts, [format!("{B} stopped")]);
}

#[test]
fn what_was_said_before_a_fault_began_was_not_said_of_it() {
    let wanted = [Expected { onset: at(2.0), ..expected(Cause::Stopped, &[A], process(7)) }];
    let judgement = judge(&wanted, &[], &[Found { seen_at: at(2.5), ..found(A, "stopped", 1.0, named(7)) }]);
    assert!(!judgement.cause_right && !judgement.culprit_right && judgement.seconds.is_none());
    assert_eq!(judgement.false_verdicts, [format!("{A} stopped")]);
}

#[test]
fn a_product_that_ends_is_wrong_whatever_it_said() {
    let wanted = [expected(Cause::Stopped, &[A], process(7))];
    let ended = Found::ended(at(3.0), "agent-1 panicked".to_owned());
    let judgement = judge(&wanted, &[], &[found(A, "stopped", 1.0, named(7)), ended.clone()]);
    assert!(judgement.cause_right && !judgement.is_right());
    assert_eq!(judge(&[], &[], &[ended]).false_verdicts, ["product ended"]);
}

#[test]
fn wilsons_interval_is_the_textbooks() {
    let close = |(low, high): (f64, f64), wanted: (f64, f64)| {
        assert!((low - wanted.0).abs() < 5e-4 && (high - wanted.1).abs() < 5e-4, "{low} {high}");
    };
    close(wilson(20, 20), (0.8389, 1.0));
    close(wilson(19, 20), (0.7639, 0.9911));
    close(wilson(0, 20), (0.0, 0.1611));
    close(wilson(81, 263), (0.2553, 0.3662));
    assert_eq!(wilson(0, 0), (0.0, 1.0));
}

#[test]
fn the_matrix_counts_and_shows_nothing_last() {
    let mut matrix = Matrix::default();
    let wanted = [expected(Cause::Stopped, &[A], process(7))];
    matrix.add(&judge(&wanted, &[], &[found(A, "stopped", 1.0, named(7))]));
    matrix.add(&judge(&wanted, &[], &[found(A, "unknown", 1.0, None)]));
    matrix.add(&judge(&[], &[], &[]));
    assert_eq!((matrix.count("stopped", "stopped"), matrix.count("stopped", "unknown")), (1, 1));
    assert_eq!(
        matrix.table(),
        "| injected \\ said | stopped | unknown | none |\n|---|---|---|---|\n\
         | stopped | **1** | 1 | |\n| none | | | **1** |\n"
    );
}
