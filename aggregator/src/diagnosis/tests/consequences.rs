//! A consequence is no second cause.

use etcdmon_proto::v1::{Certainty, CulpritOrigin};

use super::scene::*;
use crate::diagnosis::Cause;

fn only(name: &str, second: &Second, cause: Cause, culprit: Option<u32>) {
    let mut run = Run::calm();
    run.seconds(20, second);
    assert_eq!(run.causes(), [cause], "{name}: {:#?}", run.shown());
    assert_eq!(run.open(cause).culprit.map(|one| one.process_id), culprit, "{name}");
}

#[test]
fn a_small_neighbour_on_a_slow_device_is_not_to_blame() {
    // Its one small request is under way all the time, for the device takes 30 ms for each.
    let mut second = slow_device();
    second.disk.push(who(CulpritOrigin::Process, 77, "logger", 45, 60 << 10));
    only("small neighbour", &second, Cause::SlowDevice, None);
}

#[test]
fn a_slow_device_makes_the_queue_and_the_journal_long() {
    let queue = Second { parts: [0, 1, 10, 35, 28, 24, 0, 0, 2, 4, 2, 3], ..slow_device() };
    only("queue", &queue, Cause::SlowDevice, None);
    let journal = Second { parts: [0, 1, 88, 1, 4, 3, 0, 0, 3, 40, 4, 40], ..slow_device() };
    only("journal", &journal, Cause::SlowDevice, None);
}

#[test]
fn a_neighbour_makes_the_device_busy_and_the_journal_slow() {
    let second = Second { parts: [1, 2, 55, 12, 14, 12, 0, 0, 4, 20, 4, 6], ..buffered_neighbour() };
    only("journal", &second, Cause::DiskNeighbour, Some(4_242));
    only(
        "device",
        &Second { parts: [0, 0, 2, 10, 60, 26, 0, 0, 2, 1, 0, 1], ..direct_neighbour() },
        Cause::DiskNeighbour,
        Some(4_244),
    );
}

#[test]
fn a_neighbours_data_are_not_somebody_elses_metadata() {
    let mut second = buffered_neighbour();
    second.parts = [1, 2, 60, 10, 12, 11, 0, 0, 4, 25, 5, 6];
    second.journal_users = vec![who(CulpritOrigin::Process, 4_242, "dd", 0, 9 << 20)];
    only("its own metadata", &second, Cause::DiskNeighbour, Some(4_242));
}

#[test]
fn one_who_writes_back_his_own_metadata_is_no_writer_of_data() {
    let mut second = metadata_neighbour();
    second.disk[0] = who(CulpritOrigin::Process, 4_245, "touchy", 40, 3 << 20);
    second.journal_users[0].bytes = 200 << 20;
    only("makes room in the log", &second, Cause::JournalContention, Some(4_245));
}

#[test]
fn a_neighbour_and_somebody_elses_metadata_are_two() {
    let mut second = buffered_neighbour();
    second.parts = [1, 2, 60, 10, 12, 11, 0, 0, 4, 25, 5, 6];
    second.journal_users = vec![
        who(CulpritOrigin::Process, 4_245, "touchy", 0, 80 << 20),
        who(CulpritOrigin::Process, 4_242, "dd", 0, 4 << 20),
    ];
    let mut run = Run::calm();
    run.seconds(8, &second);
    assert_eq!(run.causes(), [Cause::DiskNeighbour, Cause::JournalContention]);
    assert_eq!(run.open(Cause::JournalContention).culprit.unwrap().process_id, 4_245);
}

#[test]
fn a_starved_loop_device_is_no_slow_device() {
    // Measured beside hogs: 76 % of the sync is the flush, since the worker of the loop device has no CPU.
    let second = Second {
        wal: vec![(900, 20), (2_400, 30), (14_000, 9), (40_000, 5)],
        examined: 14,
        mean: 23,
        parts: [1, 14, 4, 2, 3, 76, 0, 0, 0, 1, 0, 1],
        ..hogs()
    };
    only("loop device", &second, Cause::CpuStarvation, Some(4_246));
}

fn slow_device_beside_hogs() -> Second {
    let syncs = slow_device();
    Second {
        wal: syncs.wal,
        examined: syncs.examined,
        mean: syncs.mean,
        parts: [1, 12, 15, 5, 25, 40, 0, 0, 2, 6, 1, 8],
        ..hogs()
    }
}

#[test]
fn a_slow_device_beside_hogs_has_no_quick_syncs() {
    let mut run = Run::calm();
    run.seconds(8, &slow_device_beside_hogs());
    assert_eq!(run.causes(), [Cause::SlowDevice, Cause::CpuStarvation]);
    let mut some = slow_device_beside_hogs();
    some.wal.push((2_400, 9));
    only("some are quick", &some, Cause::CpuStarvation, Some(4_246));
}

#[test]
fn threads_that_get_a_cpu_only_every_few_seconds_starve() {
    // What they waited is counted at once when they get it; who uses the CPUs is looked for when they waited.
    let blocked = Second { wal: vec![], used: 1, delayed: 0, cpu_users: vec![], ..hogs() };
    let lump = Second { used: 8, delayed: 2_600, ..hogs() };
    let mut run = Run::calm();
    for _ in 0..3 {
        run.seconds(1, &blocked);
        run.seconds(1, &lump);
    }
    assert_eq!(run.causes(), [Cause::CpuStarvation]);
    assert!(run.opened[0].0 <= 19, "{:?}", run.opened);
    assert_eq!(run.open(Cause::CpuStarvation).culprit.unwrap().process_id, 4_246);
}

#[test]
fn a_slow_device_on_a_busy_node_is_found() {
    let mut second = slow_device_beside_hogs();
    (second.used, second.delayed, second.cpu_users) = (80, 280, heavy().cpu_users);
    only("busy node", &second, Cause::SlowDevice, None);
}

#[test]
fn who_changes_metadata_is_waited_for() {
    let mut run = Run::calm();
    let unknown = Second { journal_users: vec![], ..metadata_neighbour() };
    run.seconds(2, &unknown);
    assert_eq!(run.causes(), [], "neither a neighbour nor a slow device");
    run.seconds(3, &metadata_neighbour());
    assert_eq!(run.causes(), [Cause::JournalContention]);
}

#[test]
fn metadata_users_of_slow_syncs_are_no_writers_of_data() {
    let mut second = metadata_neighbour();
    second.journal_users.clear();
    let certainty = Certainty::Medium;
    second.disk = vec![Who { certainty, ..who(CulpritOrigin::Journal, 4_245, "touchy", 70, 9 << 20) }];
    only("of slow syncs", &second, Cause::JournalContention, Some(4_245));
}

#[test]
fn a_quota_delays_threads_without_anybody_using_the_cpus() {
    let second = Second { delayed: 1_900, used: 150, ..quota() };
    only("idle node", &second, Cause::CpuQuota, None);
    let in_syncs = Second {
        wal: slow_device().wal,
        examined: 20,
        mean: 34,
        parts: [2, 90, 2, 1, 2, 2, 0, 0, 1, 0, 0, 0],
        quota_in_syncs: 95,
        ..quota()
    };
    only("before 6.18 in syncs too", &in_syncs, Cause::CpuQuota, None);
}

#[test]
fn a_quota_and_hogs_are_two() {
    let second = Second { throttled: 700, quota_millicpus: Some(200), ..hogs() };
    let mut run = Run::calm();
    run.seconds(8, &second);
    assert_eq!(run.causes(), [Cause::CpuStarvation, Cause::CpuQuota]);
}

#[test]
fn the_cpu_that_writing_takes_is_part_of_the_neighbour() {
    let second = Second {
        used: 50,
        delayed: 900,
        idle: 20,
        cpu_users: vec![(4_242, "dd", 1_100), (31, "kworker/u4:2", 300)],
        ..buffered_neighbour()
    };
    only("dd", &second, Cause::DiskNeighbour, Some(4_242));
}

#[test]
fn a_throttled_member_waits_in_the_journal_as_well() {
    let second = Second { parts: [0, 1, 58, 1, 2, 2, 30, 0, 6, 1, 0, 1], ..throttled_io() };
    only("journal", &second, Cause::IoThrottle, None);
    let hidden = Second { parts: [0, 1, 4, 1, 2, 2, 12, 0, 78, 1, 0, 1], ..throttled_io() };
    only("held back before they are requests", &hidden, Cause::IoThrottle, None);
    let without = Second { io_limited: Some(false), ..hidden };
    only("no limit", &without, Cause::Unknown, None);
}

#[test]
fn hogs_that_share_a_name_are_one_culprit() {
    let workers = (0..5).map(|number| (900 + number, "stress", 210)).collect();
    let second = Second { cpu_users: workers, ..hogs() };
    let mut run = Run::calm();
    run.seconds(6, &second);
    let open = run.open(Cause::CpuStarvation);
    let culprit = open.culprit.unwrap();
    assert!((0.52..0.54).contains(&culprit.share) && open.culprits.is_empty(), "{culprit:?}");
}

#[test]
fn a_process_pinned_to_a_full_cpu_starves_on_an_idle_node() {
    let second =
        Second { used: 80, delayed: 1_200, idle: 950, cpu_users: vec![(4_246, "hog", 900)], ..calm() };
    only("pinned", &second, Cause::CpuStarvation, Some(4_246));
}

#[test]
fn starvation_in_slow_syncs_needs_no_vitals() {
    let second = Second {
        wal: slow_device().wal,
        examined: 20,
        mean: 34,
        parts: [3, 70, 5, 4, 8, 8, 0, 0, 2, 2, 0, 1],
        no_vitals: true,
        ..calm()
    };
    only("without vitals", &second, Cause::CpuStarvation, None);
}

#[test]
fn a_disk_without_room_fails_syncs_and_is_no_bad_device() {
    let second = Second { free_mib: 0, sync_errors: 2, errno: 28, ..calm() };
    only("ENOSPC", &second, Cause::DiskNearlyFull, None);
}

#[test]
fn an_unknown_writer_is_named_only_with_low_confidence() {
    let mut second = buffered_neighbour();
    second.journal_users.clear();
    second.disk = vec![Who {
        certainty: Certainty::Low,
        ..who(CulpritOrigin::Writeback, 0, "kworker/u4:2", 75, 60 << 20)
    }];
    let mut run = Run::calm();
    run.seconds(6, &second);
    assert_eq!(run.causes(), [Cause::DiskNeighbour]);
    assert_eq!(run.open(Cause::DiskNeighbour).confidence.name(), "low");
}
