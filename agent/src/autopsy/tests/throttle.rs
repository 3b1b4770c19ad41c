//! Pages held back by an IO limit of the cgroup.

use super::*;

fn with_limit(requests: &[Request], commits: &[Commit], io_limit: Option<bool>) -> Vec<(&'static str, u64)> {
    let window = window(20_000);
    parts(&super::super::autopsy(&window, requests, commits, &Counters { io_limit, ..Counters::default() }))
}

#[test]
fn blocked_with_nothing_queued_then_a_late_request_of_the_file_is_throttling() {
    assert_eq!(
        of(&[late([17_000, 17_100, 19_000])], &[]),
        [("queue", 100), ("device", 1_900), ("throttle", 17_000), ("unexplained", 1_000)]
    );
}

#[test]
fn it_reaches_back_to_where_the_sync_last_got_further() {
    let requests = [own([1_000, 1_000, 4_000]), late([17_000, 17_000, 19_000])];
    assert_eq!(
        of(&requests, &[]),
        [("device", 5_000), ("throttle", 13_000), ("unexplained", 2_000)],
        "what was before the own request is not explained by what came after it"
    );
}

#[test]
fn several_late_requests_are_held_one_after_the_other() {
    let requests =
        [late([5_000, 5_000, 6_000]), late([11_000, 11_000, 12_000]), late([18_000, 18_000, 20_000])];
    assert_eq!(of(&requests, &[]), [("device", 4_000), ("throttle", 16_000)]);
}

#[test]
fn a_late_request_of_the_file_proves_that_we_did_not_wait_for_a_commit() {
    assert_eq!(
        of(&[late([17_000, 17_000, 19_000])], &[commit(1_000, 16_000)]),
        [("device", 2_000), ("throttle", 17_000), ("unexplained", 1_000)]
    );
}

#[test]
fn a_flush_that_was_held_back_comes_after_the_commit() {
    let flush = Request { inode: 0, ..empty(late([17_000, NEVER, 19_000])) };
    assert_eq!(
        of(&[flush], &[commit(1_000, 9_000)]),
        [("journal", 8_000), ("flush", 2_000), ("throttle", 8_000), ("unexplained", 2_000)]
    );
}

#[test]
fn writeback_by_unbound_workers_is_no_sign_of_it() {
    let flusher = Request { charged: CGROUP, ..writeback([17_000, 17_000, 19_000]) };
    assert_eq!(of(&[flusher], &[]), [("device", 2_000), ("unexplained", 18_000)]);
}

#[test]
fn nor_is_what_is_charged_to_others() {
    let other = Request { charged: 44, ..late([17_000, 17_000, 19_000]) };
    assert_eq!(of(&[other], &[]), [("device", 2_000), ("unexplained", 18_000)], "still the file's");
    let root = Window { cgroups: vec![1, 0], ..window(20_000) };
    for charged in [0, 1] {
        let request = Request { charged, ..late([17_000, 17_000, 19_000]) };
        assert_eq!(parts(&examine(&root, &[request], &[])), [("device", 2_000), ("unexplained", 18_000)]);
    }
}

#[test]
fn nor_is_what_another_file_of_the_cgroup_waits_for() {
    let other = Request { inode: INODE + 1, ..late([17_000, 17_000, 19_000]) };
    assert_eq!(of(&[other], &[]), [("unexplained", 20_000)]);
}

#[test]
fn nor_is_anything_where_no_limit_is_set() {
    let requests = [late([17_000, 17_000, 19_000])];
    assert_eq!(with_limit(&requests, &[], Some(false)), [("device", 2_000), ("unexplained", 18_000)]);
    for may_be in [None, Some(true)] {
        assert_eq!(
            with_limit(&requests, &[], may_be),
            [("device", 2_000), ("throttle", 17_000), ("unexplained", 1_000)]
        );
    }
}

#[test]
fn a_request_that_was_there_before_the_sync_was_not_held_back_in_it() {
    assert_eq!(
        of(&[late([0, 17_000, 19_000])], &[]),
        [("queue", 17_000), ("device", 2_000), ("unexplained", 1_000)]
    );
}

#[test]
fn what_ends_after_the_sync_was_not_waited_for() {
    assert_eq!(of(&[late([17_000, 17_000, 20_001])], &[]), [("unexplained", 20_000)]);
}

#[test]
fn being_runnable_is_taken_from_what_is_unexplained_before_it_is_taken_from_throttling() {
    let mut window = window(20_000);
    let requests = [late([15_000, 15_000, 16_000])];
    for (delay_us, expected) in [
        (3_000, vec![("run_queue", 3_000), ("device", 1_000), ("throttle", 15_000), ("unexplained", 1_000)]),
        (5_000, vec![("run_queue", 5_000), ("device", 1_000), ("throttle", 14_000)]),
        (50_000, vec![("run_queue", 19_000), ("device", 1_000)]),
    ] {
        window.run_delay_ns = delay_us * 1_000;
        assert_eq!(parts(&examine(&window, &requests, &[])), expected, "{delay_us}");
    }
}
