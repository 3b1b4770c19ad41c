//! The examiner with evidence that no kernel gave.

use std::time::Instant;

use etcdmon_proto::v1::{FileClass, SyncReason};

use super::*;
use crate::autopsy::waiting::Waiting;
use crate::autopsy::{Operation, Parts};
use crate::discover::ProcessId;
use crate::ebpf::SyncRecord;

const MS: u64 = 1_000_000;
const START: u64 = 1_000_000 * MS;

/// This process synced for 20 ms a file of this directory's filesystem.
fn held() -> Held {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(".").expect("readable").dev();
    let sync = SyncRecord {
        pid: std::process::id(),
        thread_id: 77,
        class: FileClass::Wal,
        reason: SyncReason::Slow,
        start_mono_ns: START,
        latency: Duration::from_millis(20),
        run_delay: Duration::from_millis(2),
        run_time: None,
        written_bytes: 0,
        inode: 500,
        device: libc::major(device) << 20 | libc::minor(device),
        result: 0,
    };
    let process = ProcessId { boot_id: [1; 16], pid: std::process::id(), start_ticks: 9 };
    let mut waiting = Waiting::default();
    waiting.push(process, &sync, 10 * MS, START + 30 * MS);
    waiting.due(u64::MAX).remove(0)
}

fn received(notes: &mut mpsc::Receiver<Note>) -> Vec<Fact> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match notes.try_recv() {
            Ok(Note::Facts(facts)) => return facts,
            Ok(other) => panic!("{other:?}"),
            Err(_empty) => {
                assert!(Instant::now() < until, "nothing was examined");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn examined(evidence: Evidence) -> SlowSync {
    let (sender, mut notes) = mpsc::channel(RESERVE + 8);
    let examiner = Examiner::start(ProcFs::new("/proc"), sender, Beside::default()).expect("started");
    examiner.take(Case { syncs: vec![held()], evidence }).expect("room");
    let mut facts = received(&mut notes);
    let Some(Fact::SlowSync(fact)) = facts.pop().filter(|_| facts.is_empty()) else { panic!("{facts:?}") };
    examiner.finish(Duration::from_secs(20));
    *fact
}

#[test]
fn a_sync_of_which_nothing_was_seen_says_so() {
    let unseen = Gaps { requests: true, commits: true, overwritten: false };
    let fact = examined(Evidence { unseen, ..Evidence::default() });
    assert_eq!((fact.latency_ns, fact.threshold_ns, fact.thread_id), (20 * MS, 10 * MS, 77));
    assert_eq!(fact.autopsy.gaps, unseen);
    let expected = Parts { run_queue_ns: 2 * MS, unexplained_ns: 18 * MS, ..Parts::default() };
    assert_eq!(fact.autopsy.parts, expected);
}

#[test]
fn requests_on_its_disk_become_parts_and_culprits_with_names() {
    let device = held().sync.device;
    let number = crate::collect::disk::device::Number { major: device >> 20, minor: device & 0xf_ffff };
    let stack = crate::collect::disk::device::Stack::below(std::path::Path::new("/sys"), number);
    let Some(disk) = stack.devices.iter().find(|device| device.layer != "partition") else {
        println!("skipped: this directory is on no disk");
        return;
    };
    let own = Request {
        device: disk.number.major << 20 | disk.number.minor,
        operation: Operation::Write,
        bytes: 4096,
        queued_ns: START,
        issued_ns: START + MS,
        completed_ns: START + 15 * MS,
        thread_id: 77,
        process_id: std::process::id(),
        ..Request::default()
    };
    // Process 1 is there on every machine, and has a name.
    let neighbour = Request { thread_id: 1, process_id: 1, bytes: 1 << 20, ..own };
    let fact = examined(Evidence { requests: vec![own, neighbour], ..Evidence::default() });
    let parts = fact.autopsy.parts;
    assert_eq!((parts.queue_ns, parts.device_ns, parts.run_queue_ns), (MS, 14 * MS, 2 * MS));
    assert_eq!(fact.autopsy.culprits.len(), 1, "{fact:?}");
    let init = std::fs::read_to_string("/proc/1/comm").expect("readable");
    assert!(fact.names[0].process.starts_with(init.trim()), "{:?}", fact.names);
}

#[test]
fn evidence_that_begins_after_the_sync_is_marked() {
    for (complete_since_ns, is_missing) in [(0, false), (START, false), (START + 1, true)] {
        let fact = examined(Evidence { complete_since_ns, ..Evidence::default() });
        assert_eq!(fact.autopsy.gaps.overwritten, is_missing, "{complete_since_ns}");
    }
}

#[test]
fn when_the_hub_has_no_room_the_syncs_are_a_loss() {
    let (sender, mut notes) = mpsc::channel(RESERVE);
    let room = sender.clone();
    let examiner = Examiner::start(ProcFs::new("/proc"), sender, Beside::default()).expect("started");
    // One slot less than the reserve.
    room.try_send(Note::Restored("x".into())).expect("room");
    examiner.take(Case { syncs: vec![held(), held()], evidence: Evidence::default() }).expect("room");
    examiner.finish(Duration::from_secs(20));
    assert!(matches!(notes.try_recv(), Ok(Note::Restored(_))));
    let facts = received(&mut notes);
    assert_eq!(facts.len(), 2);
    let is_lost =
        |fact: &Fact| matches!(fact, Fact::Lost(lost) if lost.stream == "autopsy" && lost.count == 1);
    assert!(facts.iter().all(is_lost), "{facts:?}");
}

#[test]
fn an_examiner_that_is_behind_gives_syncs_back() {
    let (sender, notes) = mpsc::channel(RESERVE);
    let examiner = Examiner::start(ProcFs::new("/proc"), sender, Beside::default()).expect("started");
    let much = Evidence { requests: vec![Request::default(); 1_000_000], ..Evidence::default() };
    examiner.take(Case { syncs: vec![held(); 100], evidence: much }).expect("room");
    let one = || Case { syncs: vec![held()], evidence: Evidence::default() };
    let given_back = (0..10_000).find_map(|_| examiner.take(one()).err());
    assert_eq!(given_back.map(|syncs| syncs.len()), Some(1));
    drop(notes);
}
