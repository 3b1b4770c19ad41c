//! Requests of the syncing thread and of its file.

use super::*;

#[test]
fn without_any_evidence_all_is_unexplained() {
    assert_eq!(of(&[], &[]), [("unexplained", 20_000)]);
}

#[test]
fn an_own_write_waits_in_the_queue_and_then_for_the_device() {
    assert_eq!(
        of(&[own([1_000, 4_000, 18_000])], &[]),
        [("queue", 3_000), ("device", 14_000), ("unexplained", 3_000)]
    );
}

#[test]
fn two_own_writes_at_the_same_time_are_not_counted_twice() {
    let requests = [own([0, 1_000, 10_000]), own([0, 5_000, 15_000])];
    assert_eq!(of(&requests, &[]), [("queue", 1_000), ("device", 14_000), ("unexplained", 5_000)]);
}

#[test]
fn one_on_the_device_wins_over_one_in_the_queue() {
    let requests = [own([0, 0, 10_000]), own([0, 15_000, 20_000])];
    assert_eq!(of(&requests, &[]), [("queue", 5_000), ("device", 15_000)]);
}

#[test]
fn an_empty_request_is_a_flush_from_its_begin_to_its_end() {
    assert_eq!(of(&[empty(own([2_000, NEVER, 19_000]))], &[]), [("flush", 17_000), ("unexplained", 3_000)]);
    assert_eq!(
        of(&[empty(own([2_000, NEVER, 19_000])), flush(3_000, 18_500)], &[]),
        [("flush", 17_000), ("unexplained", 3_000)],
        "the machinery's request is the same flush"
    );
}

#[test]
fn write_then_flush_as_a_filesystem_without_journal_does() {
    let requests = [own([100, 200, 5_000]), empty(own([5_200, NEVER, 19_000])), flush(5_300, 18_900)];
    assert_eq!(
        of(&requests, &[]),
        [("queue", 100), ("device", 4_800), ("flush", 13_800), ("unexplained", 1_300)]
    );
}

#[test]
fn a_write_that_needs_a_flush_before_it_waits_for_that_flush() {
    let write = Request { fua: true, ..own([1_000, 15_000, 16_000]) };
    assert_eq!(
        of(&[write, flush(2_000, 14_000)], &[]),
        [("queue", 2_000), ("device", 1_000), ("flush", 12_000), ("unexplained", 5_000)]
    );
}

#[test]
fn a_flush_after_its_data_is_a_flush_as_well() {
    let write = Request { fua: true, ..own([0, 8_000, 20_000]) };
    assert_eq!(
        of(&[write, flush(1_000, 8_000), flush(10_000, 20_000)], &[]),
        [("queue", 1_000), ("device", 2_000), ("flush", 17_000)]
    );
}

#[test]
fn a_tasks_flush_that_the_kernel_names_so_is_one_like_an_empty_write() {
    let task = Request { operation: Operation::Flush, ..empty(own([2_000, 3_000, 19_000])) };
    assert_eq!(of(&[task, flush(3_000, 18_900)], &[]), [("flush", 17_000), ("unexplained", 3_000)]);
    let other = Request { thread_id: 600, process_id: 600, ..task };
    assert_eq!(of(&[other], &[]), [("unexplained", 20_000)], "somebody else's");
}

#[test]
fn a_plain_write_in_the_queue_does_not_wait_for_somebody_elses_flush() {
    assert_eq!(
        of(&[own([1_000, 15_000, 16_000]), flush(2_000, 14_000)], &[]),
        [("queue", 14_000), ("device", 1_000), ("unexplained", 5_000)]
    );
}

#[test]
fn a_flush_nobody_claims_is_a_flush_when_nothing_else_is_known() {
    assert_eq!(of(&[flush(1_000, 9_000)], &[]), [("flush", 8_000), ("unexplained", 12_000)]);
}

#[test]
fn a_flush_queued_before_the_window_counts_from_its_begin() {
    assert_eq!(of(&[flush(-5_000, 9_000)], &[]), [("flush", 9_000), ("unexplained", 11_000)]);
}

#[test]
fn the_files_requests_by_writeback_are_waited_for() {
    assert_eq!(
        of(&[writeback([1_000, 3_000, 12_000])], &[]),
        [("queue", 2_000), ("device", 9_000), ("unexplained", 9_000)]
    );
    assert_eq!(
        of(&[writeback([-9_000, -8_000, 12_000])], &[]),
        [("device", 12_000), ("unexplained", 8_000)],
        "also those that were under way before the sync"
    );
}

#[test]
fn own_requests_win_over_the_files() {
    let requests = [writeback([0, 0, 12_000]), own([2_000, 5_000, 6_000])];
    // 2-5 own queue, 5-6 own device.
    assert_eq!(of(&requests, &[]), [("queue", 3_000), ("device", 9_000), ("unexplained", 8_000)]);
}

#[test]
fn another_files_requests_by_writeback_are_not_ours() {
    let other = Request { inode: INODE + 1, ..writeback([0, 1_000, 12_000]) };
    assert_eq!(of(&[other], &[]), [("unexplained", 20_000)]);
    let unknown = Request { inode: 0, ..other };
    assert_eq!(of(&[unknown], &[]), [("unexplained", 20_000)]);
    let no_inode = Window { inode: 0, ..window(20_000) };
    assert_eq!(parts(&examine(&no_inode, &[unknown], &[])), [("unexplained", 20_000)], "0 is no file");
}

#[test]
fn requests_of_other_threads_of_the_process_are_not_ours() {
    let other = Request { thread_id: THREAD + 1, ..own([0, 1_000, 20_000]) };
    assert_eq!(of(&[other], &[]), [("unexplained", 20_000)]);
}

#[test]
fn a_sync_waits_only_for_what_ends_before_it() {
    for request in [
        own([1_000, 2_000, 25_000]),
        own([1_000, 2_000, NEVER]),
        own([1_000, NEVER, NEVER]),
        writeback([1_000, 2_000, 20_001]),
        writeback([1_000, NEVER, NEVER]),
        jbd2([1_000, 2_000, 20_001]),
        jbd2([1_000, 2_000, NEVER]),
        flush(1_000, 20_001),
        flush(1_000, NEVER),
    ] {
        assert_eq!(of(&[request], &[]), [("unexplained", 20_000)], "{request:?}");
    }
    assert_eq!(of(&[own([0, 0, 20_000])], &[]), [("device", 20_000)], "at its very end");
}

#[test]
fn what_the_thread_submitted_before_the_sync_is_not_what_it_waits_for() {
    assert_eq!(of(&[own([-2_000, -1_000, 12_000])], &[]), [("unexplained", 20_000)]);
}

#[test]
fn a_request_without_issue_time_was_on_the_device_since_nobody_knows() {
    assert_eq!(of(&[own([1_000, NEVER, 15_000])], &[]), [("device", 14_000), ("unexplained", 6_000)]);
}

#[test]
fn a_request_without_queue_time_begins_with_its_issue() {
    let request = Request { inode: INODE, ..writeback([NEVER, 4_000, 15_000]) };
    assert_eq!(of(&[request], &[]), [("device", 11_000), ("unexplained", 9_000)]);
    assert_eq!(
        of(&[own([NEVER, 4_000, 15_000])], &[]),
        [("device", 11_000), ("unexplained", 9_000)],
        "it began within the sync as far as is known"
    );
}

#[test]
fn times_that_make_no_sense_are_not_used() {
    for request in [
        own([NEVER, NEVER, 10_000]),
        own([NEVER, NEVER, NEVER]),
        own([9_000, 9_500, 3_000]),
        own([NEVER, 9_500, 3_000]),
        writeback([9_000, NEVER, 3_000]),
    ] {
        assert_eq!(of(&[request], &[]), [("unexplained", 20_000)], "{request:?}");
    }
    assert_eq!(
        of(&[own([5_000, 1_000, 9_000])], &[]),
        [("device", 4_000), ("unexplained", 16_000)],
        "issued before it was queued: the queue is not known"
    );
    assert_eq!(
        of(&[own([5_000, 12_000, 9_000])], &[]),
        [("device", 4_000), ("unexplained", 16_000)],
        "issued after it was done: likewise"
    );
}

#[test]
fn requests_on_other_disks_are_nothing_to_us() {
    let elsewhere = Request { device: DISK + 16, ..own([0, 1_000, 20_000]) };
    let autopsy = examine(&window(20_000), &[elsewhere], &[]);
    assert_eq!((parts(&autopsy), autopsy.culprits), (vec![("unexplained", 20_000)], Vec::new()));
}

#[test]
fn a_read_of_the_thread_counts_like_a_write() {
    let read = Request { operation: Operation::Read, ..own([0, 2_000, 20_000]) };
    assert_eq!(of(&[read], &[]), [("queue", 2_000), ("device", 18_000)]);
}

#[test]
fn a_full_device_is_a_queue_when_its_depth_is_known() {
    let full = [foreign([1_000, 1_000, 11_000]), foreign([0, 2_000, 9_000])];
    let mut window = window(20_000);
    assert_eq!(parts(&examine(&window, &full, &[])), [("unexplained", 20_000)]);
    window.disks[0].depth = 2;
    assert_eq!(parts(&examine(&window, &full, &[])), [("queue", 8_000), ("unexplained", 12_000)]);
    window.disks[0].depth = 3;
    assert_eq!(parts(&examine(&window, &full, &[])), [("unexplained", 20_000)]);
}

#[test]
fn a_sync_of_no_time_has_no_parts() {
    let autopsy =
        examine(&window(0), &[own([0, 0, 0]), flush(-1, 1), foreign([-9, -9, 9])], &[commit(-1, 1)]);
    assert_eq!((parts(&autopsy), autopsy.culprits), (Vec::new(), Vec::new()));
}
