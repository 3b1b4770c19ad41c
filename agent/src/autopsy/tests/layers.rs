//! Block devices on top of each other.

use super::*;

const LOOP: u32 = 7 << 20;
/// Inode of the loop device's file on the disk below.
const BACKING: u64 = 9_000;

/// etcd on a loop device whose file lies on a disk.
fn on_loop() -> Window {
    Window {
        filesystem: LOOP,
        disks: vec![
            Disk { device: LOOP, ..Disk::default() },
            Disk { device: DISK, backing_inode: BACKING, depth: 0 },
        ],
        ..window(20_000)
    }
}

fn on(device: u32, request: Request) -> Request {
    Request { device, ..request }
}

/// What the loop device's worker does on the disk below.
fn worker(inode: u64, times: [i64; 3]) -> Request {
    Request { inode, charged: CGROUP, ..write("kworker/u8:1", 800, times) }
}

#[test]
fn a_loops_request_contains_those_below() {
    let requests = [
        on(LOOP, own([0, 100, 19_000])),
        worker(BACKING, [300, 5_000, 18_000]),
        empty(worker(0, [300, NEVER, 18_000])),
        flush(400, 17_000),
    ];
    let autopsy = examine(&on_loop(), &requests, &[]);
    assert_eq!(parts(&autopsy), [("queue", 100), ("device", 18_900), ("unexplained", 1_000)]);
    assert_eq!(autopsy.culprits, []);
}

#[test]
fn requests_below_alone_are_no_evidence_for_a_part() {
    let requests = [
        worker(BACKING, [300, 5_000, 18_000]),
        flush(400, 17_000),
        jbd2([0, 0, 20_000]),
        // The same number on another filesystem.
        Request { inode: INODE, ..worker(INODE, [300, 5_000, 18_000]) },
        late([17_000, 17_000, 18_000]),
    ];
    let commit = Commit { device: DISK, ..commit(0, 20_000) };
    let autopsy = examine(&on_loop(), &requests, &[commit]);
    assert_eq!(parts(&autopsy), [("unexplained", 20_000)]);
}

#[test]
fn who_uses_the_disk_below_is_a_culprit() {
    let requests = [
        on(LOOP, own([0, 0, 20_000])),
        worker(BACKING, [100, 100, 19_000]),
        foreign([0, 0, 20_000]),
        Request { process_id: 601, ..on(LOOP, foreign([0, 0, 20_000])) },
    ];
    let autopsy = examine(&on_loop(), &requests, &[]);
    let named: Vec<_> = autopsy.culprits.iter().map(|one| (one.process_id, one.device)).collect();
    assert_eq!(named, [(600, DISK), (601, LOOP)]);
}

#[test]
fn the_loops_worker_acting_for_others_is_counted_above() {
    let other = Request { charged: 44, ..worker(BACKING, [0, 0, 20_000]) };
    let requests = [on(LOOP, own([0, 0, 20_000])), on(LOOP, foreign([0, 0, 20_000])), other];
    let autopsy = examine(&on_loop(), &requests, &[]);
    assert_eq!(autopsy.culprits.len(), 1);
    assert_eq!(autopsy.culprits[0].requests, 1);
}

#[test]
fn the_journal_below_may_be_to_blame() {
    let requests = [on(LOOP, own([0, 0, 20_000])), jbd2([0, 0, 20_000])];
    let autopsy = examine(&on_loop(), &requests, &[]);
    assert_eq!((autopsy.culprits[0].origin, autopsy.culprits[0].device), (Origin::Journal, DISK));
}

#[test]
fn three_layers_work_like_two() {
    let mut window = on_loop();
    window.disks.insert(1, Disk { device: LOOP + 1, backing_inode: 8_000, depth: 0 });
    let requests = [
        on(LOOP, own([0, 100, 19_000])),
        on(LOOP + 1, worker(8_000, [200, 300, 18_900])),
        worker(BACKING, [400, 500, 18_800]),
        foreign([0, 0, 20_000]),
    ];
    let autopsy = examine(&window, &requests, &[]);
    assert_eq!(parts(&autopsy), [("queue", 100), ("device", 18_900), ("unexplained", 1_000)]);
    assert_eq!(autopsy.culprits.len(), 1);
}

#[test]
fn below_device_mapper_the_threads_own_requests_are_on_the_disk() {
    let dm = 253 << 20;
    let window = Window {
        filesystem: dm,
        disks: vec![Disk { device: dm, ..Disk::default() }, Disk { device: DISK, ..Disk::default() }],
        ..window(20_000)
    };
    let requests = [own([0, 1_000, 9_000]), writeback([10_000, 10_000, 12_000])];
    let commit = Commit { device: dm, ..commit(12_000, 15_000) };
    assert_eq!(
        parts(&examine(&window, &requests, &[commit])),
        [("journal", 3_000), ("queue", 1_000), ("device", 10_000), ("unexplained", 6_000)]
    );
}

#[test]
fn without_known_disks_commits_are_all_there_is() {
    let window = Window { disks: Vec::new(), ..window(20_000) };
    assert_eq!(
        parts(&examine(&window, &[own([0, 0, 20_000])], &[commit(0, 5_000)])),
        [("journal", 5_000), ("unexplained", 15_000)]
    );
}
