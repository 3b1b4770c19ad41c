//! Differences of messages.

use std::time::Duration;

use etcdmon_proto::v1::{self, CulpritOrigin};
use uuid::Uuid;

use super::scene::at;
use crate::cluster::Window;
use crate::diagnosis::{Sample, Trail};

fn culprit(pid: u32, cgroup: &str, wait_ns: u64) -> v1::LiveCulprit {
    v1::LiveCulprit {
        origin: CulpritOrigin::Process.into(),
        process_id: pid,
        cgroup: cgroup.to_owned(),
        syncs_total: 1,
        wait_ns_total: wait_ns,
        bytes_total: 10 * wait_ns,
        ..Default::default()
    }
}

fn sample(second: u64, wait_ns: u64, culprits: Vec<v1::LiveCulprit>) -> Sample {
    Sample {
        at: at(second * 1_000),
        source: (Uuid::nil(), "e".to_owned()),
        running: true,
        slow: Some(v1::LiveSlowSyncs {
            examined_total: wait_ns,
            latency_ns_total: wait_ns,
            wait_ns_total: wait_ns,
            culprits,
            ..Default::default()
        }),
        vitals: Some(v1::LiveVitals { on_cpu_ns_total: Some(wait_ns), ..Default::default() }),
        ..Sample::default()
    }
}

fn take(trail: &mut Trail, sample: Sample) -> bool {
    trail.take(sample, |_, _| Window::default())
}

fn last_waits(trail: &Trail) -> Vec<(u32, u64)> {
    let second = trail.seconds().back().unwrap();
    second.slow.culprits.iter().map(|one| (one.process_id, one.wait_ns_total)).collect()
}

#[test]
fn only_what_came_since_the_message_before_counts() {
    let mut trail = Trail::default();
    assert!(take(&mut trail, sample(1, 100, vec![culprit(5, "/a", 60), culprit(6, "/b", 10)])));
    assert!(trail.seconds().is_empty(), "the first is a base");
    assert!(take(&mut trail, sample(2, 150, vec![culprit(5, "/a", 90), culprit(6, "/b", 10)])));
    assert_eq!(last_waits(&trail), [(5, 30)], "who did nothing is left out");
    assert!(!take(&mut trail, sample(2, 900, vec![])), "not newer");
    assert_eq!(trail.seconds().back().unwrap().slow.wait_ns_total, 50);
}

#[test]
fn a_culprit_that_was_forgotten_begins_anew() {
    let mut trail = Trail::default();
    take(&mut trail, sample(1, 100, vec![culprit(5, "/a", 80)]));
    take(&mut trail, sample(2, 120, vec![culprit(5, "/a", 15)]));
    assert_eq!(last_waits(&trail), [(5, 15)]);
    take(&mut trail, sample(3, 125, vec![culprit(5, "/a", 3), culprit(7, "/c", 1_000)]));
    assert_eq!(last_waits(&trail), [(5, 3), (7, 5)], "nobody waited longer for one than for all");
}

#[test]
fn a_name_that_is_learnt_later_makes_no_other_culprit() {
    let mut trail = Trail::default();
    take(&mut trail, sample(1, 100, vec![culprit(5, "", 80)]));
    take(&mut trail, sample(2, 110, vec![culprit(5, "/a", 84)]));
    assert_eq!(last_waits(&trail), [(5, 4)]);
}

#[test]
fn sums_that_go_backwards_are_not_known_for_that_second() {
    let mut trail = Trail::default();
    take(&mut trail, sample(1, 100, vec![culprit(5, "/a", 80)]));
    take(&mut trail, sample(2, 40, vec![culprit(5, "/a", 30)]));
    let second = trail.seconds().back().unwrap();
    assert_eq!((second.slow.examined_total, second.vitals.on_cpu_ns), (0, None));
    take(&mut trail, sample(3, 50, vec![culprit(5, "/a", 33)]));
    assert_eq!(last_waits(&trail), [(5, 3)]);
}

#[test]
fn another_source_or_a_long_gap_is_a_new_base() {
    let mut trail = Trail::default();
    take(&mut trail, sample(1, 100, vec![]));
    take(&mut trail, sample(2, 200, vec![]));
    assert_eq!(trail.seconds().len(), 1);
    take(&mut trail, Sample { source: (Uuid::nil(), "f".to_owned()), ..sample(3, 5, vec![]) });
    assert!(trail.seconds().is_empty());
    take(&mut trail, Sample { source: (Uuid::nil(), "f".to_owned()), ..sample(20, 9_000, vec![]) });
    assert!(trail.seconds().is_empty(), "nobody knows when that was");
}

#[test]
fn another_process_counts_anew() {
    let process = |pid| Some(v1::Process { pid, ..Default::default() });
    let mut trail = Trail::default();
    take(&mut trail, Sample { process: process(7), ..sample(1, 100, vec![]) });
    take(&mut trail, Sample { process: process(8), ..sample(2, 900, vec![]) });
    assert_eq!(trail.seconds().back().unwrap().vitals.on_cpu_ns, None);
    take(&mut trail, Sample { process: process(8), ..sample(3, 950, vec![]) });
    assert_eq!(trail.seconds().back().unwrap().vitals.on_cpu_ns, Some(50));
}

#[test]
fn usual_is_not_known_without_syncs() {
    let mut trail = Trail::default();
    (1..30).for_each(|second| assert!(take(&mut trail, sample(second, second, vec![]))));
    assert_eq!(trail.usual(), None::<Duration>);
    assert!(trail.seconds().len() <= 6);
}
