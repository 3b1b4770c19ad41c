//! Commits of the journal, and its requests.

use super::*;

#[test]
fn a_commit_that_is_running_is_the_journal() {
    assert_eq!(of(&[], &[commit(2_000, 18_000)]), [("journal", 16_000), ("unexplained", 4_000)]);
}

#[test]
fn a_commit_that_began_before_the_sync_counts_from_its_begin() {
    assert_eq!(of(&[], &[commit(-50_000, 18_000)]), [("journal", 18_000), ("unexplained", 2_000)]);
}

#[test]
fn own_requests_win_over_a_commit() {
    assert_eq!(
        of(&[own([1_000, 2_000, 8_000])], &[commit(0, 19_000)]),
        [("journal", 12_000), ("queue", 1_000), ("device", 6_000), ("unexplained", 1_000)]
    );
}

#[test]
fn the_journals_own_requests_are_split_off() {
    let requests = [
        // Blocks of the transaction, then the commit block behind a flush.
        jbd2([3_000, 4_000, 9_000]),
        Request { fua: true, ..jbd2([9_000, 15_000, 17_000]) },
        flush(9_500, 14_500),
    ];
    let autopsy = examine(&window(20_000), &requests, &[commit(1_000, 18_000)]);
    assert_eq!(parts(&autopsy), [("journal", 17_000), ("unexplained", 3_000)]);
    assert_eq!(journal_parts(&autopsy), [5_000 + 2_000, 1_000 + 500 + 500, 5_000]);
}

#[test]
fn an_empty_request_of_the_journal_is_its_flush() {
    let autopsy = examine(&window(20_000), &[empty(jbd2([3_000, NEVER, 9_000]))], &[commit(1_000, 18_000)]);
    assert_eq!(journal_parts(&autopsy), [0, 0, 6_000]);
    assert_eq!(autopsy.parts.journal_ns, 17_000_000);
}

#[test]
fn a_flush_during_a_commit_is_the_journals() {
    let autopsy = examine(&window(20_000), &[flush(4_000, 9_000)], &[commit(1_000, 18_000)]);
    assert_eq!(parts(&autopsy), [("journal", 17_000), ("unexplained", 3_000)]);
    assert_eq!(journal_parts(&autopsy), [0, 0, 5_000]);
}

#[test]
fn requests_of_the_journal_tell_of_it_where_commits_are_not_seen() {
    let autopsy = examine(&window(20_000), &[jbd2([3_000, 4_000, 9_000])], &[]);
    assert_eq!(parts(&autopsy), [("journal", 6_000), ("unexplained", 14_000)]);
    assert_eq!(journal_parts(&autopsy), [5_000, 1_000, 0]);
}

#[test]
fn a_commit_that_goes_on_after_the_sync_is_not_what_it_waited_for() {
    assert_eq!(of(&[], &[commit(2_000, 20_001)]), [("unexplained", 20_000)]);
    assert_eq!(of(&[], &[commit(2_000, NEVER)]), [("unexplained", 20_000)]);
    assert_eq!(of(&[], &[commit(2_000, 20_000)]), [("journal", 18_000), ("unexplained", 2_000)]);
}

#[test]
fn but_while_it_locks_nobody_gets_any_further() {
    let locking = Commit { locking_ns: at(3_000), flushing_ns: at(9_000), ..commit(2_000, NEVER) };
    assert_eq!(of(&[], &[locking]), [("journal", 6_000), ("unexplained", 14_000)]);
    let still = Commit { flushing_ns: at(21_000), ..locking };
    assert_eq!(of(&[], &[still]), [("unexplained", 20_000)]);
}

#[test]
fn commits_one_after_the_other_add_up_and_overlaps_count_once() {
    assert_eq!(
        of(&[], &[commit(0, 5_000), commit(6_000, 10_000)]),
        [("journal", 9_000), ("unexplained", 11_000)]
    );
    assert_eq!(
        of(&[], &[commit(0, 5_000), commit(3_000, 10_000)]),
        [("journal", 10_000), ("unexplained", 10_000)]
    );
}

#[test]
fn commits_of_other_filesystems_are_not_ours() {
    let other = Commit { device: PARTITION + 1, ..commit(2_000, 18_000) };
    assert_eq!(of(&[], &[other]), [("unexplained", 20_000)]);
}

#[test]
fn a_commit_that_only_names_the_disk_is_taken_for_ours() {
    let whole = Commit { device: DISK, ..commit(2_000, 18_000) };
    assert_eq!(of(&[], &[whole]), [("journal", 16_000), ("unexplained", 4_000)]);
}

#[test]
fn a_commit_without_a_begin_has_the_first_time_that_is_known() {
    let middle = Commit { start_ns: 0, locking_ns: 0, logging_ns: at(5_000), ..commit(0, 18_000) };
    assert_eq!(of(&[], &[middle]), [("journal", 13_000), ("unexplained", 7_000)]);
    let none = Commit { start_ns: 0, locking_ns: 0, ..commit(0, 18_000) };
    assert_eq!(of(&[], &[none]), [("unexplained", 20_000)]);
    assert_eq!(of(&[], &[commit(9_000, 3_000)]), [("unexplained", 20_000)], "ends before it begins");
}

#[test]
fn the_log_of_xfs_is_written_by_workers_with_pages_of_no_file() {
    let log = Request { meta: true, fua: true, ..write("kworker/0:1H", 950, [2_000, 3_000, 9_000]) };
    let xfs = Window { log: Log::Workers, ..window(20_000) };
    let autopsy = examine(&xfs, &[log], &[]);
    assert_eq!(parts(&autopsy), [("journal", 7_000), ("unexplained", 13_000)]);
    assert_eq!(journal_parts(&autopsy), [6_000, 1_000, 0]);
    for other in [
        Request { meta: false, ..log },
        Request { fua: false, ..log },
        Request { inode: 7, ..log },
        Request { operation: Operation::Read, ..log },
        Request { comm: comm("fio"), ..log },
    ] {
        assert_eq!(parts(&examine(&xfs, &[other], &[])), [("unexplained", 20_000)], "{other:?}");
    }
    assert_eq!(of(&[log], &[]), [("unexplained", 20_000)], "ext4 has a thread for it");
    assert_eq!(parts(&examine(&xfs, &[jbd2([2_000, 3_000, 9_000])], &[])), [("unexplained", 20_000)]);
}

#[test]
fn without_a_log_nothing_is_the_journals() {
    let none = Window { log: Log::None, ..window(20_000) };
    assert_eq!(parts(&examine(&none, &[jbd2([2_000, 3_000, 9_000])], &[])), [("unexplained", 20_000)]);
}

#[test]
fn the_files_requests_win_over_a_commit() {
    assert_eq!(
        of(&[writeback([1_000, 2_000, 8_000])], &[commit(0, 19_000)]),
        [("journal", 12_000), ("queue", 1_000), ("device", 6_000), ("unexplained", 1_000)]
    );
}
