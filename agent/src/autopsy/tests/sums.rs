//! What is known as a sum without a place: run queue, CPU, steal.

use super::*;

fn counted(window: &Window, requests: &[Request], counters: Counters) -> Autopsy {
    let autopsy = super::super::autopsy(window, requests, &[], &counters);
    assert_eq!(autopsy.parts.values().iter().sum::<u64>(), window.latency_ns);
    autopsy
}

#[test]
fn being_runnable_is_the_run_queue() {
    let window = Window { run_delay_ns: 15_000_000, ..window(20_000) };
    assert_eq!(parts(&examine(&window, &[], &[])), [("run_queue", 15_000), ("unexplained", 5_000)]);
}

#[test]
fn it_is_never_taken_from_requests_of_the_file() {
    let window = Window { run_delay_ns: 19_000_000, ..window(20_000) };
    assert_eq!(
        parts(&examine(&window, &[own([0, 2_000, 12_000])], &[])),
        [("run_queue", 8_000), ("queue", 2_000), ("device", 10_000)]
    );
    assert_eq!(
        parts(&examine(&window, &[empty(own([0, NEVER, 12_000]))], &[])),
        [("run_queue", 8_000), ("flush", 12_000)]
    );
    assert_eq!(
        parts(&examine(&window, &[writeback([0, 2_000, 12_000])], &[])),
        [("run_queue", 8_000), ("queue", 2_000), ("device", 10_000)]
    );
}

#[test]
fn it_is_taken_from_weaker_evidence_once_nothing_is_unexplained() {
    let mut window = window(20_000);
    for (delay_us, journal_us) in [(0, 16_000), (4_000, 16_000), (5_000, 15_000), (20_000, 0), (90_000, 0)] {
        window.run_delay_ns = delay_us * 1_000;
        let autopsy = examine(&window, &[], &[commit(2_000, 18_000)]);
        assert_eq!(autopsy.parts.journal_ns, journal_us * 1_000, "{delay_us}");
        assert_eq!(autopsy.parts.run_queue_ns, delay_us.min(20_000) * 1_000);
    }
}

#[test]
fn of_the_journal_what_is_seen_on_the_device_goes_last() {
    let window = Window { run_delay_ns: 18_000_000, ..window(20_000) };
    let autopsy = examine(&window, &[jbd2([4_000, 5_000, 9_000])], &[commit(0, 20_000)]);
    assert_eq!(parts(&autopsy), [("run_queue", 18_000), ("journal", 2_000)]);
    assert_eq!(journal_parts(&autopsy), [2_000, 0, 0]);
}

#[test]
fn cpu_time_is_taken_from_what_is_unexplained_only() {
    let mut window = Window { on_cpu_ns: Some(3_000_000), ..window(20_000) };
    assert_eq!(parts(&examine(&window, &[], &[])), [("on_cpu", 3_000), ("unexplained", 17_000)]);
    assert_eq!(
        parts(&examine(&window, &[own([0, 0, 18_000])], &[])),
        [("on_cpu", 2_000), ("device", 18_000)],
        "a tick old it may be, so it must not eat evidence"
    );
    window.run_delay_ns = 19_000_000;
    assert_eq!(parts(&examine(&window, &[], &[])), [("on_cpu", 1_000), ("run_queue", 19_000)]);
}

#[test]
fn steal_comes_last() {
    let window = Window { on_cpu_ns: Some(3_000_000), run_delay_ns: 4_000_000, ..window(20_000) };
    let counters = Counters { steal_ns: Some(5_000_000), ..Counters::default() };
    assert_eq!(
        parts(&counted(&window, &[], counters)),
        [("on_cpu", 3_000), ("run_queue", 4_000), ("steal", 5_000), ("unexplained", 8_000)]
    );
    let counters = Counters { steal_ns: Some(u64::MAX), ..counters };
    assert_eq!(
        parts(&counted(&window, &[], counters)),
        [("on_cpu", 3_000), ("run_queue", 4_000), ("steal", 13_000)]
    );
}

#[test]
fn a_cpu_quota_is_part_of_the_run_queue() {
    let window = Window { run_delay_ns: 4_000_000, ..window(20_000) };
    for (throttled_us, expected_us) in [(0, 0), (3_000, 3_000), (9_000, 4_000)] {
        let counters = Counters { cpu_throttled_ns: Some(throttled_us * 1_000), ..Counters::default() };
        assert_eq!(counted(&window, &[], counters).cpu_quota_ns, expected_us * 1_000);
    }
}

#[test]
fn what_could_not_be_seen_is_passed_on() {
    let gaps = Gaps { requests: true, commits: false, overwritten: true };
    let autopsy = counted(&window(20_000), &[], Counters { gaps, ..Counters::default() });
    assert_eq!((autopsy.gaps, autopsy.gaps.bits()), (gaps, 0b101));
    assert_eq!(Gaps { commits: true, ..Gaps::default() }.bits(), 0b010);
}
