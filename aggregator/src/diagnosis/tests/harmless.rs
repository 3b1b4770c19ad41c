//! What is no incident: calm, healthy load, neighbours that do no harm, flickers.

use etcdmon_proto::v1::{Certainty, CulpritOrigin};

use super::scene::*;
use crate::diagnosis::Cause;

fn nothing(name: &str, second: &Second) {
    let mut run = Run::calm();
    run.seconds(60, second);
    assert_eq!(run.causes(), [], "{name}: {:#?}", run.shown());
}

#[test]
fn calm_and_healthy_load_give_no_verdict() {
    nothing("calm", &calm());
    nothing("heavy", &heavy());
    nothing("idle", &Second { wal: vec![], backend: vec![], used: 5, delayed: 4, ..calm() });
}

#[test]
fn a_neighbour_that_does_no_harm_is_none() {
    let busy = direct_neighbour().disk;
    nothing("busy disk, quick syncs", &Second { disk: busy.clone(), ..calm() });
    // A few syncs are slow behind it, far from a tenth of the time.
    let some = Second {
        wal: vec![(900, 90), (4_000, 9), (12_000, 3)],
        examined: 3,
        mean: 12,
        parts: direct_neighbour().parts,
        disk: busy,
        ..calm()
    };
    nothing("some slow syncs", &some);
}

#[test]
fn a_hiccup_is_no_incident() {
    for (name, hiccup) in [
        (
            "one long sync",
            Second { wal: vec![(450, 80), (800_000, 1)], examined: 1, mean: 800, ..slow_device() },
        ),
        ("a burst of a second", slow_device()),
    ] {
        let mut run = Run::calm();
        for _ in 0..10 {
            run.seconds(1, &hiccup);
            run.seconds(4, &calm());
        }
        assert_eq!(run.causes(), [], "{name}: {:#?}", run.shown());
    }
}

#[test]
fn a_burst_that_straddles_two_seconds_is_no_incident() {
    let burst = Second { wal: vec![(450, 50), (14_000, 9)], examined: 9, mean: 14, ..buffered_neighbour() };
    let mut run = Run::calm();
    run.seconds(2, &burst);
    run.seconds(10, &calm());
    assert_eq!(run.causes(), []);
}

#[test]
fn vitals_below_their_bounds_are_no_cause() {
    for (name, second) in [
        ("a little quota", Second { throttled: 70, quota_millicpus: Some(1_000), ..calm() }),
        ("a quota that is not reached", Second { quota_millicpus: Some(4_000), ..calm() }),
        ("a short stop", Second { stopped: 40, ..calm() }),
        ("a little steal", Second { steal: 120, ..calm() }),
        ("much steal without harm", Second { steal: 900, ..calm() }),
        ("CPUs that are used up by quick work", Second { used: 700, delayed: 1_300, idle: 0, ..heavy() }),
        ("hogs elsewhere", Second { delayed: 120, cpu_users: hogs().cpu_users, ..calm() }),
        ("a hog with CPUs to spare", Second { idle: 160, ..hogs_in_a_cgroup() }),
        ("a node that is taken by many", Second { cpu_users: heavy().cpu_users, ..hogs_in_a_cgroup() }),
        ("run delay with CPUs to spare", Second { used: 60, delayed: 560, idle: 900, ..calm() }),
        ("a limit that is not reached", Second { io_limited: Some(true), ..calm() }),
        ("half full", Second { free_mib: 400, size_mib: 1_000, ..calm() }),
        ("a burst on an empty disk", Second { free_mib: 700, grown: 90 << 20, ..calm() }),
        ("signals that do not stop", Second { signals: vec![(18, 9)], ..calm() }),
    ] {
        nothing(name, &second);
    }
}

#[test]
fn a_debugger_that_lets_go_without_sigcont_is_no_stop_that_lasts() {
    let mut run = Run::calm();
    run.seconds(1, &Second { stopped: 40, signals: vec![(19, 4_249)], ..calm() });
    run.seconds(30, &calm());
    assert_eq!(run.causes(), [], "{:#?}", run.shown());
}

#[test]
fn a_quota_for_a_moment_is_no_cause() {
    let mut run = Run::calm();
    for _ in 0..10 {
        run.seconds(1, &quota());
        run.seconds(3, &calm());
    }
    assert_eq!(run.causes(), []);
}

#[test]
fn a_small_disk_is_not_nearly_full_for_being_small() {
    nothing("one GiB, 400 MiB free", &Second { free_mib: 400, size_mib: 1_024, ..calm() });
    for (free_mib, size_mib) in [(100, 1_024), (500, 100_000), (4_000, 100_000)] {
        let mut run = Run::calm();
        run.seconds(5, &Second { free_mib, size_mib, ..calm() });
        assert_eq!(run.causes(), [Cause::DiskNearlyFull], "{free_mib} of {size_mib}");
        let open = run.open(Cause::DiskNearlyFull);
        assert_eq!(open.culprit, None, "nobody fills it now");
    }
}

#[test]
fn nobody_is_named_by_a_guess_for_little() {
    // Somebody unknown wrote a little while the device was slow.
    let mut second = slow_device();
    second.disk.push(Who {
        certainty: Certainty::Low,
        cgroup: "",
        ..who(CulpritOrigin::Writeback, 0, "kworker/u4:0", 30, 100_000)
    });
    let mut run = Run::calm();
    run.seconds(6, &second);
    assert_eq!(run.causes(), [Cause::SlowDevice]);
    assert_eq!(run.open(Cause::SlowDevice).culprit, None);
}
