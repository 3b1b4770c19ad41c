use std::path::Path;

use super::*;
use crate::discover::{Placement, ProcessId, TlsFiles};
use crate::probe::examine::Beside;

const SECOND: u64 = 1_000_000_000;

/// An etcd of this pid with its directories there.
pub fn process(pid: u32, start_ticks: u64, data_dir: &Path) -> EtcdProcess {
    EtcdProcess {
        id: ProcessId { boot_id: [1; 16], pid, start_ticks },
        name: "m1".to_owned(),
        data_dir: data_dir.to_owned(),
        data_dir_here: data_dir.to_owned(),
        wal_dir_here: data_dir.join("member/wal"),
        listen_client_urls: Vec::new(),
        advertise_client_urls: Vec::new(),
        listen_metrics_urls: Vec::new(),
        listen_peer_urls: Vec::new(),
        log_outputs: Vec::new(),
        peer_urls: Vec::new(),
        client_tls: TlsFiles::default(),
        peer_tls: TlsFiles::default(),
        placement: Placement::default(),
        shares_network: true,
        image: 0,
        is_hidden: false,
        notes: Vec::new(),
    }
}

fn at(second: u64) -> Reading {
    Reading { mono_ns: second * SECOND, wall_ns: ((1_000 + second) * SECOND).cast_signed() }
}

fn node() -> Node {
    let times = steal::Sample { stolen_ns: 5, idle_ns: 6, cpus: 2 };
    Node { times: Some(times), failures: Some(Vec::new()), sees_signals: true }
}

/// A recorded `/proc` with one process.
struct Recorded {
    root: tempfile::TempDir,
    proc: ProcFs,
    member: Member,
    beside: Beside,
}

impl Recorded {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("writable");
        let proc = ProcFs::new(root.path());
        let member = Member::new(process(700, 9, root.path()));
        let recorded = Self { proc, member, beside: Beside::default(), root };
        recorded.set('S', 100, 10);
        recorded
    }

    fn set(&self, state: char, on_cpu_ns: u64, delay_ns: u64) {
        let task = self.root.path().join("700/task/700");
        std::fs::create_dir_all(&task).expect("made");
        std::fs::write(task.join("schedstat"), format!("{on_cpu_ns} {delay_ns} 1\n")).expect("written");
        let stat = format!("700 (etcd) {state} 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0 0");
        std::fs::write(self.root.path().join("700/stat"), stat).expect("written");
    }

    fn sample(&mut self, node: &Node, second: u64) -> u64 {
        self.member.sample(&self.proc, &self.beside.quotas, node, None, at(second))
    }

    fn vitals(&mut self, second: u64) -> v1::LiveVitals {
        let users = CpuUsers::default();
        let asked = Asked { journals: &self.beside.journals, cpu_users: &users };
        self.member.vitals(&asked, &node(), &mut Names::new(self.proc.clone()), at(second))
    }
}

fn signal(signal: i32, at_ns: u64) -> Signal {
    Signal {
        at_ns,
        process_id: 700,
        signal,
        sender_process_id: 600,
        sender_comm: *b"bash\0\0\0\0\0\0\0\0\0\0\0\0",
        sender_cgroup: 0,
        to_process: true,
        ignored: false,
    }
}

#[test]
fn what_can_not_be_had_is_absent() {
    let mut recorded = Recorded::new();
    std::fs::remove_dir_all(recorded.root.path().join("700")).expect("removed");
    let nothing = Node { times: None, failures: None, sees_signals: false };
    assert_eq!(recorded.sample(&nothing, 1), 0);
    let users = CpuUsers::default();
    let asked = Asked { journals: &recorded.beside.journals, cpu_users: &users };
    let mut names = Names::new(recorded.proc.clone());
    // The thread that asks the filesystem may have answered already.
    let shown = recorded.member.vitals(&asked, &nothing, &mut names, at(1));
    let of_disk = v1::LiveVitals {
        disk_free_bytes: shown.disk_free_bytes,
        disk_size_bytes: shown.disk_size_bytes,
        inodes_free: shown.inodes_free,
        ..v1::LiveVitals::default()
    };
    assert_eq!(shown, of_disk);
}

#[test]
fn times_of_threads_and_of_the_node_are_shown_and_waiting_is_told() {
    let mut recorded = Recorded::new();
    assert_eq!(recorded.sample(&node(), 1), 0, "not known since when");
    recorded.set('S', 150, 10 + 90_000_000);
    assert_eq!(recorded.sample(&node(), 2), 90_000_000);
    assert!(recorded.member.waits_for_cpu);
    let shown = recorded.vitals(2);
    assert_eq!((shown.on_cpu_ns_total, shown.run_delay_ns_total), (Some(150), Some(90_000_010)));
    assert_eq!((shown.steal_ns_total, shown.node_idle_ns_total, shown.node_cpus), (Some(5), Some(6), 2));
    assert_eq!((shown.cpu_quota_millicpus, shown.cpu_throttled_ns_total), (None, None));
}

#[test]
fn another_process_of_its_id_is_not_taken_for_it() {
    let mut recorded = Recorded::new();
    recorded.member = Member::new(process(700, 8, recorded.root.path()));
    recorded.sample(&node(), 1);
    let shown = recorded.vitals(1);
    assert_eq!((shown.on_cpu_ns_total, shown.stopped_ns_total), (None, None));
}

#[test]
fn a_stop_is_measured_between_two_samples_and_its_sender_named() {
    let mut recorded = Recorded::new();
    recorded.sample(&node(), 1);
    let mut names = Names::new(recorded.proc.clone());
    let sender = recorded.root.path().join("600");
    std::fs::create_dir(&sender).expect("made");
    std::fs::write(sender.join("stat"), "600 (bash) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0 0")
        .expect("written");
    std::fs::write(sender.join("comm"), "bash\n").expect("written");
    std::fs::write(sender.join("cgroup"), "0::/lab\n").expect("written");
    // Long after the begin of the sender, as this machine's clocks have it.
    let now = Reading { wall_ns: i64::MAX / 2, ..at(2) };
    for (number, at_ns) in [(libc::SIGSTOP, SECOND + 5), (libc::SIGCONT, SECOND + 300_000_005)] {
        recorded.member.take_signal(&signal(number, at_ns), &recorded.proc, &mut names, now);
    }
    recorded.sample(&node(), 2);
    let shown = recorded.vitals(2);
    assert_eq!(shown.stopped_ns_total, Some(300_000_000));
    let told: Vec<_> = shown.signals.iter().map(|signal| (signal.signal, signal.sender_process_id)).collect();
    assert_eq!(told, [(19, 600), (18, 600)]);
    let first = &shown.signals[0];
    assert_eq!(
        (first.sender_comm.as_str(), first.sender_process.as_str(), first.sender_cgroup.as_str()),
        ("bash", "bash", "/lab")
    );
    assert_eq!(first.wall_ns, (SECOND + 5).cast_signed() + now.wall_minus_mono_ns());
}

#[test]
fn a_sender_whose_id_was_given_away_keeps_only_the_name_it_had() {
    let mut recorded = Recorded::new();
    let mut names = Names::new(recorded.proc.clone());
    let sender = recorded.root.path().join("600");
    std::fs::create_dir(&sender).expect("made");
    let stat = "600 (other) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 99999999999 0 0";
    std::fs::write(sender.join("stat"), stat).expect("written");
    std::fs::write(sender.join("comm"), "other\n").expect("written");
    recorded.member.take_signal(&signal(libc::SIGTERM, SECOND), &recorded.proc, &mut names, at(1));
    let shown = recorded.member.last();
    let told = &shown.signals[0];
    assert_eq!((told.sender_comm.as_str(), told.sender_process.as_str()), ("bash", ""));
}

#[test]
fn few_signals_are_shown_and_none_that_is_ignored_but_sigcont() {
    let mut recorded = Recorded::new();
    let mut names = Names::new(recorded.proc.clone());
    let mut take = |number, ignored| {
        let signal = Signal { ignored, ..signal(number, SECOND) };
        recorded.member.take_signal(&signal, &recorded.proc, &mut names, at(2));
    };
    take(libc::SIGTSTP, true);
    take(libc::SIGTERM, true);
    take(libc::SIGCONT, true);
    (0..20).for_each(|_| take(libc::SIGTERM, false));
    let shown = recorded.member.last().signals;
    assert_eq!(shown.len(), SIGNALS);
    let mut recorded = Recorded::new();
    for number in [libc::SIGTSTP, libc::SIGTERM, libc::SIGCONT] {
        let ignored = Signal { ignored: true, ..signal(number, SECOND) };
        recorded.member.take_signal(&ignored, &recorded.proc, &mut names, at(2));
    }
    let shown: Vec<u32> = recorded.member.last().signals.iter().map(|signal| signal.signal).collect();
    assert_eq!(shown, [18]);
}

#[test]
fn only_what_fails_on_its_disks_and_from_now_on_is_counted() {
    let mut recorded = Recorded::new();
    let failed = |device: u32, errno, count| RequestFailures { device, errno, count };
    let take = |member: &mut Member, failures: &[RequestFailures]| {
        member.note_failures(failures);
        (member.io_errors, member.last_errno)
    };
    let member = &mut recorded.member;
    assert_eq!(take(member, &[failed(7, libc::EIO, 3)]), (None, 0), "its disks are not known yet");
    member.room.disks = vec![7, 8];
    assert_eq!(take(member, &[failed(7, libc::EIO, 3)]), (Some(0), 0), "not its own");
    assert_eq!(take(member, &[failed(7, libc::EIO, 5), failed(9, libc::EIO, 9)]), (Some(2), libc::EIO));
    assert_eq!(take(member, &[failed(7, libc::EIO, 5), failed(8, libc::ENOSPC, 1)]), (Some(3), libc::ENOSPC));
    member.failed(-libc::ENODATA);
    assert_eq!(take(member, &[failed(7, libc::EIO, 5)]), (Some(3), libc::ENODATA));
}

#[test]
fn what_failed_after_the_last_sample_is_shown_when_it_is_gone() {
    let mut recorded = Recorded::new();
    let failed = |count| RequestFailures { device: 7, errno: libc::EIO, count };
    recorded.member.room.disks = vec![7];
    recorded.member.note_errors(Some(0), Some(&[failed(3)]));
    recorded.member.note_errors(Some(1), Some(&[failed(4)]));
    let shown = recorded.member.last();
    assert_eq!(
        (shown.io_errors_total, shown.sync_errors_total, shown.last_errno),
        (Some(1), Some(1), libc::EIO)
    );
}

#[test]
fn counts_that_begin_anew_do_not_fall() {
    let mut growing = Growing::default();
    let totals: Vec<Option<u64>> = [3, 5, 1, 1, 4]
        .into_iter()
        .map(|now| {
            growing.note(now);
            growing.total
        })
        .collect();
    assert_eq!(totals, [3, 5, 6, 6, 9].map(Some));
}

#[test]
fn a_filesystem_that_does_not_answer_is_not_known_any_more_but_its_disks_are() {
    let mut recorded = Recorded::new();
    recorded.sample(&node(), 1);
    // No thread says anything newer.
    recorded.member.space = None;
    recorded.member.room = Room { at_ns: SECOND, free_bytes: 5, disks: vec![7], ..Room::default() };
    let room = recorded.member.room.clone();
    recorded.member.forget_old_room(at(11));
    assert_eq!(recorded.member.room, room);
    recorded.member.forget_old_room(at(12));
    assert_eq!(recorded.member.room, Room { disks: vec![7], ..Room::default() });
    assert_eq!(recorded.vitals(12).disk_free_bytes, None);
}

#[test]
fn a_process_that_nobody_says_is_gone_is_forgotten_after_a_while() {
    let mut recorded = Recorded::new();
    recorded.sample(&node(), 1);
    std::fs::remove_dir_all(recorded.root.path().join("700")).expect("removed");
    for second in 2..=u64::from(MISSED) + 1 {
        recorded.sample(&node(), second);
        assert!(!recorded.member.is_forgotten());
    }
    recorded.sample(&node(), u64::from(MISSED) + 2);
    assert!(recorded.member.is_forgotten());
    recorded.set('S', 1, 1);
    recorded.sample(&node(), u64::from(MISSED) + 3);
    assert!(!recorded.member.is_forgotten());
}
