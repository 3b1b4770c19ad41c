//! What holds for any evidence, nonsense included.

use proptest::prelude::*;

use super::*;

/// A moment around the window, unknown now and then; or any number at all.
fn moment() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (-30_000i64..50_000).prop_map(at),
        2 => Just(0u64),
        1 => any::<u64>(),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        1 => Just(Operation::Read),
        6 => Just(Operation::Write),
        2 => Just(Operation::Flush),
        1 => Just(Operation::Discard),
        1 => Just(Operation::Other),
    ]
}

fn name() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![
        3 => Just(comm("etcd")),
        1 => Just(comm("fio")),
        1 => Just(comm("kworker/1:1")),
        1 => Just(comm("kworker/u8:2")),
        1 => Just(comm("jbd2/vda1-8")),
        1 => Just(comm("loop0")),
        1 => any::<[u8; 16]>(),
    ]
}

prop_compose! {
    fn request()(
        device in prop_oneof![4 => Just(DISK), 2 => Just(DISK + 16), 1 => any::<u32>()],
        operation in operation(),
        flags in any::<[bool; 3]>(),
        bytes in prop_oneof![Just(0u32), 1u32..1 << 21, any::<u32>()],
        times in (moment(), moment(), moment()),
        thread in prop_oneof![3 => Just(THREAD), 1 => Just(0u32), 3 => 600u32..604],
        process_id in prop_oneof![Just(PROCESS), 600u32..604],
        comm in name(),
        ids in (
            prop_oneof![Just(0u64), Just(1), Just(CGROUP), Just(44)],
            prop_oneof![Just(0u64), Just(1), Just(CGROUP), Just(44)],
            prop_oneof![Just(0u64), Just(INODE), Just(9_000), Just(7)],
        ),
    ) -> Request {
        Request {
            device,
            operation,
            sync: flags[0],
            meta: flags[1],
            fua: flags[2],
            bytes,
            queued_ns: times.0,
            issued_ns: times.1,
            completed_ns: times.2,
            error: 0,
            thread_id: thread,
            process_id,
            comm,
            cgroup: ids.0,
            charged: ids.1,
            inode: ids.2,
        }
    }
}

prop_compose! {
    /// Somebody who is nobody of ours: not the thread, the file, the journal, a worker or a flush.
    fn stranger()(request in request(), process_id in 600u32..604) -> Request {
        let operation =
            if request.operation == Operation::Flush { Operation::Write } else { request.operation };
        Request { operation, thread_id: process_id, process_id, comm: comm("fio"), inode: 0, ..request }
    }
}

prop_compose! {
    fn some_commit()(
        device in prop_oneof![4 => Just(PARTITION), 1 => Just(DISK), 1 => any::<u32>()],
        times in (moment(), moment(), moment(), moment(), moment()),
        transaction in any::<u32>(),
    ) -> Commit {
        Commit {
            device,
            start_ns: times.0,
            locking_ns: times.1,
            flushing_ns: times.2,
            logging_ns: times.3,
            end_ns: times.4,
            transaction,
        }
    }
}

prop_compose! {
    fn some_window()(
        start_ns in prop_oneof![8 => Just(START), 1 => any::<u64>()],
        latency_ns in prop_oneof![8 => 0u64..40_000_000, 1 => any::<u64>()],
        run_delay_ns in prop_oneof![4 => Just(0u64), 4 => 0u64..40_000_000, 1 => any::<u64>()],
        on_cpu_ns in prop::option::of(prop_oneof![0u64..9_000_000, any::<u64>()]),
        log in prop_oneof![Just(Log::Jbd2), Just(Log::Workers), Just(Log::None)],
        depth in 0u32..4,
        lower in any::<bool>(),
        backing_inode in prop_oneof![Just(0u64), Just(9_000)],
    ) -> Window {
        let mut disks = vec![Disk { device: DISK, backing_inode: 0, depth }];
        if lower {
            disks.push(Disk { device: DISK + 16, backing_inode, depth: 1 });
        }
        Window { start_ns, latency_ns, run_delay_ns, on_cpu_ns, log, disks, ..window(0) }
    }
}

prop_compose! {
    fn some_counters()(
        io_limit in prop::option::of(any::<bool>()),
        cpu_throttled_ns in prop::option::of(any::<u64>()),
        steal_ns in prop::option::of(prop_oneof![0u64..9_000_000, any::<u64>()]),
        gaps in any::<[bool; 3]>(),
    ) -> Counters {
        let gaps = Gaps { requests: gaps[0], commits: gaps[1], overwritten: gaps[2] };
        Counters { io_limit, cpu_throttled_ns, steal_ns, gaps }
    }
}

fn sum(values: impl IntoIterator<Item = u64>) -> u128 {
    values.into_iter().map(u128::from).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_parts_add_up_to_the_latency_whatever_the_evidence(
        window in some_window(),
        requests in prop::collection::vec(request(), 0..60),
        commits in prop::collection::vec(some_commit(), 0..6),
        counters in some_counters(),
    ) {
        let autopsy = super::super::autopsy(&window, &requests, &commits, &counters);
        prop_assert_eq!(sum(autopsy.parts.values()), u128::from(window.latency_ns));
        let JournalParts { device_ns, queue_ns, flush_ns } = autopsy.journal;
        prop_assert!(sum([device_ns, queue_ns, flush_ns]) <= u128::from(autopsy.parts.journal_ns));
        prop_assert!(autopsy.cpu_quota_ns <= autopsy.parts.run_queue_ns);
        prop_assert!(autopsy.wait_ns <= window.latency_ns);
        prop_assert!(autopsy.culprits.len() <= culprit::MOST);
        let blamed = sum(autopsy.culprits.iter().map(|culprit| culprit.wait_ns));
        prop_assert!(blamed <= u128::from(autopsy.wait_ns), "{} of {}", blamed, autopsy.wait_ns);
        prop_assert!(autopsy.culprits.is_sorted_by(|one, next| one.wait_ns >= next.wait_ns));
    }

    #[test]
    fn the_order_of_evidence_does_not_matter(
        window in some_window(),
        (in_order, shuffled) in prop::collection::vec(request(), 0..40)
            .prop_flat_map(|requests| (Just(requests.clone()), Just(requests).prop_shuffle())),
        commits in prop::collection::vec(some_commit(), 0..6),
        counters in some_counters(),
    ) {
        let backwards: Vec<Commit> = commits.iter().rev().copied().collect();
        prop_assert_eq!(
            super::super::autopsy(&window, &in_order, &commits, &counters),
            super::super::autopsy(&window, &shuffled, &backwards, &counters)
        );
    }

    #[test]
    fn strangers_never_change_a_part(
        window in some_window(),
        requests in prop::collection::vec(request(), 0..30),
        strangers in prop::collection::vec(stranger(), 0..30),
        commits in prop::collection::vec(some_commit(), 0..4),
    ) {
        let mut window = window;
        // A device that is full of them is the one exception, and needs its depth.
        window.disks.iter_mut().for_each(|disk| disk.depth = 0);
        let alone = super::super::autopsy(&window, &requests, &commits, &Counters::default());
        let all: Vec<Request> = requests.iter().chain(&strangers).copied().collect();
        let among = super::super::autopsy(&window, &all, &commits, &Counters::default());
        prop_assert_eq!((alone.parts, alone.journal, alone.wait_ns), (among.parts, among.journal, among.wait_ns));
    }

    #[test]
    fn more_evidence_never_leaves_more_unexplained(
        window in some_window(),
        requests in prop::collection::vec(request(), 1..40),
        commits in prop::collection::vec(some_commit(), 0..4),
        skipped in 0usize..40,
    ) {
        // Only evidence that shortens what another proves could: late requests reach back to the last step.
        let plain = Counters { io_limit: Some(false), ..Counters::default() };
        let window = Window { run_delay_ns: 0, on_cpu_ns: None, ..window };
        let all = super::super::autopsy(&window, &requests, &commits, &plain);
        let mut fewer = requests.clone();
        fewer.remove(skipped % requests.len());
        let without = super::super::autopsy(&window, &fewer, &commits, &plain);
        prop_assert!(all.parts.unexplained_ns <= without.parts.unexplained_ns);
    }

    #[test]
    fn a_sync_that_began_earlier_by_the_clock_has_the_same_parts(
        requests in prop::collection::vec((request(), 0i64..20_000, 0i64..5_000, 0i64..9_000), 0..20),
        shift in 0u64..1_000_000,
    ) {
        let placed = |offset: u64| -> Vec<Request> {
            requests
                .iter()
                .map(|(request, queued, wait, took)| Request {
                    queued_ns: at(*queued) + offset,
                    issued_ns: at(queued + wait) + offset,
                    completed_ns: at(queued + wait + took) + offset,
                    ..*request
                })
                .collect()
        };
        let first = examine(&window(20_000), &placed(0), &[]);
        let moved = Window { start_ns: START + shift, ..window(20_000) };
        prop_assert_eq!(first, examine(&moved, &placed(shift), &[]));
    }
}

/// Every instant by itself, as the module's documentation says it: slow, and obviously right.
fn by_the_instant(window: &Window, requests: &[Request], commits: &[Commit]) -> [u64; 4] {
    let [mut device, mut queue, mut flush, mut journal] = [0; 4];
    for step in 0..20 {
        let now = at(step * 1_000 + 500);
        let over = |request: &&Request| request.completed_ns <= window.end_ns();
        let under_way = |request: &&Request| request.queued_ns <= now && now < request.completed_ns;
        let mut slot = None;
        let kinds: [fn(&Request) -> bool; 3] = [
            |request| request.thread_id == THREAD,
            |request| request.inode == INODE,
            |request| request.comm.starts_with(b"jbd2/"),
        ];
        for (kind, is_kind) in kinds.iter().enumerate() {
            let these: Vec<&Request> =
                requests.iter().filter(over).filter(under_way).filter(|one| is_kind(one)).collect();
            let on_device = these.iter().any(|one| !one.is_flush() && one.issued_ns <= now);
            let in_flush = these.iter().any(|one| one.is_flush());
            let place = match (on_device, in_flush, these.is_empty()) {
                (true, ..) => Some(0),
                (_, true, _) => Some(2),
                (.., false) => Some(1),
                _ => None,
            };
            slot = slot.or(place.map(|place| if kind == 2 { 3 } else { place }));
        }
        let commits = commits
            .iter()
            .any(|one| one.start_ns <= now && now < one.end_ns && one.end_ns <= window.end_ns());
        match slot.or(commits.then_some(3)) {
            Some(0) => device += 1,
            Some(1) => queue += 1,
            Some(2) => flush += 1,
            Some(_) => journal += 1,
            None => {}
        }
    }
    [device, queue, flush, journal]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_sweep_finds_what_looking_at_every_instant_finds(
        spans in prop::collection::vec((0usize..5, 0i64..22, 0i64..6, 0i64..9), 0..12),
        commits in prop::collection::vec((0i64..20, 1i64..9), 0..3),
    ) {
        let requests: Vec<Request> = spans
            .iter()
            .map(|(kind, queued, wait, took)| {
                let times = [queued * 1_000, (queued + wait) * 1_000, (queued + wait + took) * 1_000];
                match kind {
                    0 => own(times),
                    1 => empty(own([times[0], NEVER, times[2]])),
                    2 => writeback(times),
                    3 => jbd2(times),
                    _ => foreign(times),
                }
            })
            .collect();
        let commits: Vec<Commit> =
            commits.iter().map(|(start, length)| commit(start * 1_000, (start + length) * 1_000)).collect();
        let window = window(20_000);
        let parts = examine(&window, &requests, &commits).parts;
        let found = [parts.device_ns, parts.queue_ns, parts.flush_ns, parts.journal_ns].map(|ns| ns / 1_000_000);
        prop_assert_eq!(found, by_the_instant(&window, &requests, &commits));
    }
}

#[test]
fn a_dozen_full_rings_are_no_burden() {
    let request = |number: i64| {
        let begin = number * 7_919 % 20_000;
        let times = [begin, begin + 500, begin + 3_000];
        match number % 4 {
            0 => Request { process_id: (600 + number) as u32, ..foreign(times) },
            1 => late(times),
            2 => jbd2(times),
            _ => own(times),
        }
    };
    // What is not near n log n does not end.
    let requests: Vec<Request> = (0..100_000).map(request).collect();
    assert!(examine(&window(20_000), &requests, &[]).parts.unexplained_ns <= 1_000);
}
