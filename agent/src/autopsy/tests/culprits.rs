//! Who is named, with what share and how sure.

use super::*;

fn culprits(requests: &[Request]) -> Vec<Culprit> {
    examine(&window(20_000), requests, &[]).culprits
}

/// Share of the wait in percent, rounded.
fn shares(autopsy: &Autopsy) -> Vec<(Origin, u32, u64)> {
    let share = |culprit: &Culprit| (culprit.wait_ns * 100 + autopsy.wait_ns / 2) / autopsy.wait_ns;
    autopsy.culprits.iter().map(|one| (one.origin, one.process_id, share(one))).collect()
}

/// Our own request is on the device for the whole sync.
fn waiting() -> Request {
    own([0, 0, 20_000])
}

#[test]
fn alone_on_the_disk_nobody_is_named() {
    assert_eq!(culprits(&[waiting()]), []);
    assert_eq!(culprits(&[waiting(), empty(own([0, NEVER, 20_000])), flush(0, 20_000)]), []);
}

#[test]
fn a_neighbour_is_named_with_what_it_did() {
    let requests = [
        waiting(),
        foreign([0, 0, 10_000]),
        Request { bytes: 4 * KIB, ..foreign([0, 5_000, 20_000]) },
        empty(foreign([3_000, NEVER, 4_000])),
    ];
    let found = culprits(&requests);
    let [culprit] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((culprit.origin, culprit.process_id, culprit.cgroup), (Origin::Process, 600, 44));
    assert_eq!((culprit.comm, culprit.device, culprit.inode), (comm("fio"), DISK, 0));
    assert_eq!((culprit.requests, culprit.bytes, culprit.syncs), (3, 68 << 10, 1));
    assert_eq!(culprit.certainty, Certainty::High);
}

#[test]
fn the_share_is_by_weight_and_time() {
    // Ours weighs 16 + 1, theirs 16 + 16 of 49 for the first half.
    let autopsy = examine(&window(20_000), &[waiting(), foreign([0, 0, 10_000])], &[]);
    assert_eq!(autopsy.wait_ns, 20_000_000);
    assert_eq!(autopsy.culprits[0].wait_ns, 10_000_000 * 32 / 49);
}

#[test]
fn many_requests_at_a_time_are_most_of_the_wait() {
    let mut requests = vec![waiting()];
    requests.extend((0..32).map(|_| foreign([0, 1_000, 20_000])));
    let autopsy = examine(&window(20_000), &requests, &[]);
    assert_eq!(shares(&autopsy), [(Origin::Process, 600, 98)]);
}

#[test]
fn what_was_not_under_way_while_we_waited_is_not_to_blame() {
    // We wait from 10 to 15 ms.
    let ours = own([10_000, 10_000, 15_000]);
    for elsewhen in [
        foreign([0, 0, 10_000]),
        foreign([15_000, 15_000, 20_000]),
        foreign([-9_000, -9_000, 0]),
        foreign([20_000, 20_000, 30_000]),
    ] {
        assert_eq!(culprits(&[ours, elsewhen]), [], "{elsewhen:?}");
    }
    assert_eq!(culprits(&[ours, foreign([14_000, 14_000, 15_000])]).len(), 1);
}

#[test]
fn nobody_is_to_blame_for_time_that_was_not_spent_on_a_disk() {
    assert_eq!(culprits(&[foreign([0, 0, 20_000])]), []);
    let held = [late([19_000, 19_000, 19_100]), foreign([0, 0, 19_000])];
    assert_eq!(culprits(&held), []);
    let runnable = Window { run_delay_ns: 20_000_000, ..window(20_000) };
    assert_eq!(examine(&runnable, &[foreign([0, 0, 20_000])], &[]).culprits, []);
}

#[test]
fn requests_still_under_way_at_the_end_count_up_to_there() {
    for open in [foreign([0, 0, NEVER]), foreign([0, NEVER, NEVER]), foreign([0, 0, 90_000])] {
        let autopsy = examine(&window(20_000), &[waiting(), open], &[]);
        assert_eq!(autopsy.culprits[0].wait_ns, 20_000_000 * 32 / 49, "{open:?}");
    }
}

#[test]
fn processes_and_cgroups_are_apart_and_the_worst_comes_first() {
    let by = |process_id, cgroup, bytes| Request { process_id, cgroup, bytes, ..foreign([0, 0, 20_000]) };
    let requests = [
        waiting(),
        by(601, 44, 4 * KIB),
        by(602, 44, 256 * KIB),
        by(601, 45, 64 * KIB),
        by(602, 44, 4 * KIB),
    ];
    let autopsy = examine(&window(20_000), &requests, &[]);
    let found: Vec<_> =
        autopsy.culprits.iter().map(|one| (one.process_id, one.cgroup, one.requests)).collect();
    assert_eq!(found, [(602, 44, 2), (601, 45, 1), (601, 44, 1)]);
}

#[test]
fn shares_never_add_up_to_more_than_the_wait() {
    let requests: Vec<Request> = (0..40)
        .map(|number| Request { process_id: 600 + number % 7, ..foreign([0, 0, 20_000]) })
        .chain([waiting()])
        .collect();
    let autopsy = examine(&window(20_000), &requests, &[]);
    let sum: u64 = autopsy.culprits.iter().map(|culprit| culprit.wait_ns).sum();
    assert!(autopsy.culprits.len() == 7 && sum < autopsy.wait_ns, "{autopsy:?}");
}

#[test]
fn the_process_itself_is_named_for_its_other_threads_and_files() {
    let other = Request { thread_id: THREAD + 1, bytes: 1024 * KIB, ..own([0, 0, 20_000]) };
    let autopsy = examine(&window(20_000), &[waiting(), other], &[]);
    assert_eq!(shares(&autopsy), [(Origin::Itself, PROCESS, 94)]);
    assert_eq!((autopsy.culprits[0].certainty, autopsy.culprits[0].cgroup), (Certainty::High, CGROUP));
    let written_back =
        Request { charged: CGROUP, inode: INODE + 1, bytes: 1024 * KIB, ..writeback([0, 0, 20_000]) };
    assert_eq!(culprits(&[waiting(), written_back])[0].origin, Origin::Itself);
}

#[test]
fn writeback_is_charged_to_its_cgroup_with_less_certainty() {
    let request = |charged, inode, bytes| Request {
        charged,
        inode,
        bytes,
        ..write("kworker/u8:2", 900, [0, 0, 20_000])
    };
    let requests = [waiting(), request(55, 7, 512 * KIB), request(55, 8, 4 * KIB)];
    let found = culprits(&requests);
    let [culprit] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((culprit.origin, culprit.process_id, culprit.cgroup), (Origin::Writeback, 0, 55));
    assert_eq!((culprit.inode, culprit.requests), (7, 2), "the file of its largest request");
    assert_eq!(culprit.certainty, Certainty::Medium);
}

#[test]
fn writeback_charged_to_the_root_is_told_apart_by_file() {
    let request = |charged, inode| Request {
        charged,
        inode,
        bytes: 64 * KIB,
        ..write("kworker/u8:2", 900, [0, 0, 20_000])
    };
    let found = culprits(&[waiting(), request(1, 7), request(0, 8), request(1, 8)]);
    let named: Vec<_> =
        found.iter().map(|one| (one.inode, one.cgroup, one.requests, one.certainty)).collect();
    assert_eq!(named, [(8, 0, 2, Certainty::Low), (7, 0, 1, Certainty::Low)]);
}

#[test]
fn another_filesystems_journal_is_named_as_such() {
    let none = Window { log: Log::None, ..window(20_000) };
    let autopsy = examine(&none, &[waiting(), jbd2([0, 0, 20_000])], &[]);
    assert_eq!(shares(&autopsy), [(Origin::Journal, 0, 50)]);
    assert_eq!(autopsy.culprits[0].certainty, Certainty::Low);
    assert_eq!(autopsy.culprits[0].comm, comm("jbd2/vda1-8"));
}

#[test]
fn the_own_journals_requests_share_the_wait_but_nobody_is_named() {
    let autopsy = examine(&window(20_000), &[waiting(), jbd2([0, 0, 20_000]), foreign([0, 0, 20_000])], &[]);
    assert_eq!(shares(&autopsy), [(Origin::Process, 600, 48)]);
}

#[test]
fn who_waits_with_the_journal_is_slowed_by_neighbours_all_the_same() {
    let autopsy =
        examine(&window(20_000), &[jbd2([0, 0, 20_000]), foreign([0, 0, 20_000])], &[commit(0, 20_000)]);
    assert_eq!(shares(&autopsy), [(Origin::Process, 600, 65)]);
    assert_eq!(parts(&autopsy), [("journal", 20_000)]);
}

#[test]
fn what_lies_in_the_cache_is_what_a_flush_writes() {
    let requests = [
        // The flush before, and what was written before it.
        foreign([-90_000, -90_000, -80_000]),
        flush(-70_000, -60_000),
        // Since then.
        Request { bytes: 1024 * KIB, ..foreign([-50_000, -50_000, -40_000]) },
        Request { bytes: 1024 * KIB, ..foreign([-40_000, -40_000, -30_000]) },
        empty(own([0, NEVER, 20_000])),
        flush(0, 20_000),
    ];
    let autopsy = examine(&window(20_000), &requests, &[]);
    // 512 pages beside a flush of 64.
    assert_eq!(shares(&autopsy), [(Origin::Process, 600, 89)]);
    let culprit = &autopsy.culprits[0];
    assert_eq!((culprit.requests, culprit.bytes), (2, 2 << 20));
    assert_eq!(culprit.certainty, Certainty::Medium, "inferred");
}

#[test]
fn what_lies_in_the_cache_does_not_slow_a_plain_write() {
    let requests = [Request { bytes: 1024 * KIB, ..foreign([-50_000, -50_000, -40_000]) }, waiting()];
    assert_eq!(culprits(&requests), []);
}

#[test]
fn reads_and_what_was_written_very_long_ago_are_not_in_the_cache() {
    let flushing = [empty(own([0, NEVER, 20_000])), flush(0, 20_000)];
    let big = Request { bytes: 1024 * KIB, ..foreign([-50_000, -50_000, -40_000]) };
    let read = Request { operation: Operation::Read, ..big };
    assert_eq!(culprits(&[read, flushing[0], flushing[1]]), []);
    let old = Request { bytes: 1024 * KIB, ..foreign([-19_000_000, -19_000_000, -18_000_000]) };
    assert_eq!(culprits(&[old, flushing[0], flushing[1]]), []);
    assert_eq!(culprits(&[big, flushing[0], flushing[1]]).len(), 1);
}

#[test]
fn what_we_wrote_ourselves_takes_its_share_of_the_flush() {
    let requests = [
        Request { bytes: 1024 * KIB, ..foreign([-50_000, -50_000, -40_000]) },
        Request { bytes: 1024 * KIB, thread_id: THREAD + 1, ..own([-50_000, -50_000, -40_000]) },
        empty(own([0, NEVER, 20_000])),
        flush(0, 20_000),
    ];
    // 256 pages each, 64 for the flush.
    let autopsy = examine(&window(20_000), &requests, &[]);
    assert_eq!(shares(&autopsy), [(Origin::Process, 600, 44), (Origin::Itself, PROCESS, 44)]);
}

#[test]
fn a_small_share_is_not_named() {
    let small = Request { bytes: 4 * KIB, ..foreign([0, 0, 300]) };
    assert_eq!(culprits(&[waiting(), small]), [], "half of 300 us of 20 ms");
    let enough = Request { bytes: 4 * KIB, ..foreign([0, 0, 500]) };
    assert_eq!(culprits(&[waiting(), enough]).len(), 1);
}

#[test]
fn not_more_than_the_worst_are_named() {
    let mut requests: Vec<Request> = (0..50)
        .map(|number| Request {
            process_id: 600 + number,
            bytes: (number + 1) * 64 * KIB,
            ..foreign([0, 0, 20_000])
        })
        .collect();
    requests.push(waiting());
    let found = culprits(&requests);
    let named: Vec<u32> = found.iter().map(|culprit| culprit.process_id).collect();
    assert_eq!(named, (642..650).rev().collect::<Vec<u32>>());
}

#[test]
fn missing_evidence_lowers_certainty() {
    let counters = Counters { gaps: Gaps { overwritten: true, ..Gaps::default() }, ..Counters::default() };
    let autopsy =
        super::super::autopsy(&window(20_000), &[waiting(), foreign([0, 0, 20_000])], &[], &counters);
    assert_eq!(autopsy.culprits[0].certainty, Certainty::Medium);
}

#[test]
fn our_own_agent_is_a_culprit_like_any_other() {
    let agent = Request { process_id: std::process::id(), comm: comm("spool"), ..foreign([0, 0, 20_000]) };
    assert_eq!(culprits(&[waiting(), agent])[0].process_id, std::process::id());
}

#[test]
fn the_name_is_that_of_the_newest_request() {
    let renamed = Request { comm: comm("dd"), ..foreign([5_000, 5_000, 20_000]) };
    for requests in
        [[waiting(), foreign([0, 0, 20_000]), renamed], [renamed, foreign([0, 0, 20_000]), waiting()]]
    {
        assert_eq!(culprits(&requests)[0].comm, comm("dd"));
    }
}

#[test]
fn a_full_device_names_whoever_filled_it() {
    let mut window = window(20_000);
    window.disks[0].depth = 2;
    let autopsy = examine(&window, &[foreign([0, 0, 20_000]), foreign([0, 0, 20_000])], &[]);
    assert_eq!(
        (parts(&autopsy), shares(&autopsy)),
        (vec![("queue", 20_000)], vec![(Origin::Process, 600, 100)])
    );
}
