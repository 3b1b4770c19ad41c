//! Each cause from realistic numbers, alone and in pairs.

use super::scene::*;
use crate::diagnosis::{Cause, CulpritKind};

/// A class of fault: what happens, which cause it is, and who did it.
type Class = (&'static str, Second, Cause, Option<u32>);

fn classes() -> Vec<Class> {
    vec![
        ("buffered", buffered_neighbour(), Cause::DiskNeighbour, Some(4_242)),
        ("fsync", fsync_neighbour(), Cause::DiskNeighbour, Some(4_243)),
        ("direct", direct_neighbour(), Cause::DiskNeighbour, Some(4_244)),
        ("metadata", metadata_neighbour(), Cause::JournalContention, Some(4_245)),
        ("slow device", slow_device(), Cause::SlowDevice, None),
        ("throttle", throttled_io(), Cause::IoThrottle, None),
        ("defragmentation", defragmenting(), Cause::OwnIo, None),
        ("steal", stolen(), Cause::CpuSteal, None),
        ("hogs", hogs(), Cause::CpuStarvation, Some(4_246)),
        ("hogs in a cgroup", hogs_in_a_cgroup(), Cause::CpuStarvation, Some(4_246)),
        ("quota", quota(), Cause::CpuQuota, None),
        ("stopped", stopped(), Cause::Stopped, Some(4_249)),
        ("errors", errors(), Cause::DeviceErrors, None),
        ("full", full(), Cause::DiskNearlyFull, Some(4_250)),
    ]
}

#[test]
fn each_cause_is_found_within_five_seconds_with_its_culprit_and_nothing_else() {
    for (name, second, cause, culprit) in classes() {
        let mut run = Run::calm();
        run.seconds(6, &second);
        assert_eq!(run.causes(), [cause], "{name}: {:#?}", run.shown());
        let after = run.opened[0].0 - 15;
        assert!(after <= 4, "{name}: opened after {after} s");
        let open = run.open(cause);
        assert_eq!(open.culprit.as_ref().map(|one| one.process_id), culprit, "{name}");
        assert_eq!(open.culprit.is_some(), culprit.is_some() && cause.has_culprit(), "{name}");
        assert!((0.0..=1.0).contains(&open.share) && open.share > 0.15, "{name}: {}", open.share);
        assert!(open.onset_at <= open.opened_at && open.opened_at <= open.updated_at, "{name}");
        assert!(!open.summary.is_empty() && open.next_step.len() > 20 && !open.evidence.is_empty(), "{name}");
        assert!(open.ruled_out.iter().all(|out| out.cause != cause), "{name}");
        run.seconds(16, &calm());
        assert_eq!(run.causes(), [cause], "{name}: the end is no cause");
        assert_eq!(run.closed.len(), 1, "{name}");
        let shown = run.shown();
        assert_eq!((shown.len(), shown[0].state.as_str()), (1, "closed"), "{name}");
        assert_eq!(shown[0].culprit.as_ref().map(|one| one.process_id), culprit, "{name}: at the end");
    }
}

#[test]
fn what_goes_on_is_one_incident() {
    for (name, second, cause, _) in classes() {
        let mut run = Run::calm();
        run.seconds(40, &second);
        assert_eq!(run.causes(), [cause], "{name}");
        assert_eq!(run.closed, [], "{name}");
    }
}

/// The syncs of one, the rest of the node of another.
fn beside(syncs: &Second, node: &Second) -> Second {
    Second {
        wal: syncs.wal.clone(),
        backend: syncs.backend.clone(),
        examined: syncs.examined,
        mean: syncs.mean,
        parts: syncs.parts,
        disk: syncs.disk.clone(),
        journal_users: syncs.journal_users.clone(),
        io_limited: syncs.io_limited,
        ..node.clone()
    }
}

#[test]
fn two_causes_at_once_are_two_findings() {
    let in_syncs = &classes()[..7];
    let on_node = &classes()[8..];
    for (first, syncs, cause, culprit) in in_syncs {
        for (second, node, other, other_culprit) in on_node {
            let name = format!("{first} and {second}");
            let mut both = beside(syncs, node);
            if *other == Cause::CpuStarvation {
                // Threads that wait for the disk wait for CPUs as well, and those who write use some.
                both.parts[1] += 2;
            }
            let mut run = Run::calm();
            run.seconds(8, &both);
            let mut expected = vec![*cause, *other];
            expected.sort_unstable();
            assert_eq!(run.causes(), expected, "{name}: {:#?}", run.shown());
            for (cause, culprit) in [(cause, culprit), (other, other_culprit)] {
                let open = run.shown().into_iter().find(|view| view.cause == *cause).unwrap();
                assert_eq!(open.culprit.map(|one| one.process_id), *culprit, "{name}");
            }
        }
    }
}

#[test]
fn three_causes_without_slow_syncs_are_three() {
    let mut run = Run::calm();
    let second = Second { stopped: 300, signals: vec![(19, 4_249), (18, 4_249)], free_mib: 30, ..quota() };
    run.seconds(1, &second);
    run.seconds(5, &Second { stopped: 0, signals: vec![], ..second });
    assert_eq!(run.causes(), [Cause::CpuQuota, Cause::Stopped, Cause::DiskNearlyFull]);
}

#[test]
fn a_single_stop_of_300_ms_is_found_although_no_sync_was_slow() {
    let mut run = Run::calm();
    run.seconds(1, &stopped());
    run.seconds(15, &calm());
    assert_eq!((run.opened.clone(), run.closed.len()), (vec![(16, Cause::Stopped)], 1));
    let shown = &run.shown()[0];
    let culprit = shown.culprit.clone().unwrap();
    assert_eq!(
        (culprit.kind, culprit.process_id, culprit.comm.as_str()),
        (CulpritKind::Signal, 4_249, "freezer")
    );
    assert!(shown.summary.contains("SIGSTOP") && shown.summary.contains("300 ms"), "{}", shown.summary);
}

#[test]
fn a_stop_that_lasts_is_found_while_it_does_and_keeps_its_sender() {
    let mut run = Run::calm();
    let still = Second { wal: vec![], used: 0, delayed: 0, stopped: 1_000, ..calm() };
    run.seconds(1, &Second { stopped: 500, signals: vec![(19, 4_249)], ..still.clone() });
    run.seconds(12, &still);
    assert_eq!(run.causes(), [Cause::Stopped]);
    let open = run.open(Cause::Stopped);
    assert_eq!(open.culprit.unwrap().process_id, 4_249, "the signal is long past the window");
    assert!(open.summary.contains("still"), "{}", open.summary);
    run.seconds(1, &Second { stopped: 400, signals: vec![(18, 4_249)], ..calm() });
    run.seconds(16, &calm());
    assert_eq!((run.causes().len(), run.closed.len()), (1, 1));
}

#[test]
fn a_stop_is_over_when_its_process_runs_again_though_nobody_sent_sigcont() {
    let mut run = Run::calm();
    run.seconds(1, &Second { stopped: 500, signals: vec![(19, 4_249)], ..calm() });
    run.seconds(4, &Second { stopped: 1_000, ..calm() });
    assert_eq!(run.causes(), [Cause::Stopped]);
    run.seconds(16, &calm());
    assert_eq!((run.causes().len(), run.closed.len()), (1, 1));
}

#[test]
fn a_pod_is_named_as_such() {
    let mut second = direct_neighbour();
    second.disk[0].cgroup = "/kubepods/burstable/pod77/abc";
    let mut run = Run::calm();
    run.seconds(5, &second);
    let open = run.open(Cause::DiskNeighbour);
    assert_eq!(open.culprit.as_ref().unwrap().cgroup, "/kubepods/burstable/pod77/abc");
    assert!(open.summary.contains("/kubepods/burstable/pod77/abc"), "{}", open.summary);
}

#[test]
fn our_own_agent_is_a_culprit_like_any_other() {
    let mut second = direct_neighbour();
    second.disk[0].comm = "etcd-monitor-agent";
    let mut run = Run::calm();
    run.seconds(5, &second);
    assert_eq!(run.open(Cause::DiskNeighbour).culprit.unwrap().process, "etcd-monitor-agent");
}

#[test]
fn several_neighbours_are_all_shown_the_worst_first() {
    use etcdmon_proto::v1::CulpritOrigin::Process;
    let mut second = direct_neighbour();
    second.disk = vec![
        who(Process, 61, "small", 12, 4 << 20),
        who(Process, 62, "large", 50, 40 << 20),
        who(Process, 63, "middle", 20, 9 << 20),
    ];
    let mut run = Run::calm();
    run.seconds(5, &second);
    let open = run.open(Cause::DiskNeighbour);
    assert_eq!(open.culprit.unwrap().process_id, 62);
    assert_eq!(open.culprits.iter().map(|one| one.process_id).collect::<Vec<_>>(), [63, 61]);
}

#[test]
fn what_a_process_writes_itself_and_what_workers_write_for_it_is_one_culprit() {
    use etcdmon_proto::v1::CulpritOrigin::{Process, Writeback};
    let mut second = buffered_neighbour();
    second.disk =
        vec![who(Writeback, 4_242, "kworker/u4:2", 30, 30 << 20), who(Process, 4_242, "dd", 25, 9 << 20)];
    let mut run = Run::calm();
    run.seconds(5, &second);
    let open = run.open(Cause::DiskNeighbour);
    let culprit = open.culprit.unwrap();
    assert_eq!((culprit.kind, open.culprits.len()), (CulpritKind::Writeback, 0));
    assert!((0.54..0.56).contains(&culprit.share), "{}", culprit.share);
}

#[test]
fn slow_without_evidence_is_said_to_be_unknown_after_a_while() {
    let second = Second {
        wal: slow_device().wal,
        examined: 20,
        mean: 34,
        parts: [4, 6, 4, 2, 4, 4, 0, 0, 76, 0, 0, 0],
        ..calm()
    };
    let mut run = Run::calm();
    run.seconds(4, &second);
    assert_eq!(run.causes(), [], "its evidence may be on its way");
    run.seconds(4, &second);
    assert_eq!(run.causes(), [Cause::Unknown]);
    assert!(run.open(Cause::Unknown).summary.contains("unexplained 76 %"));
}

#[test]
fn an_agent_that_examines_nothing_leaves_it_unknown() {
    let mut run = Run::calm();
    let second = Second { wal: slow_device().wal, no_vitals: true, ..calm() };
    run.seconds(10, &second);
    assert_eq!(run.causes(), [Cause::Unknown]);
}
