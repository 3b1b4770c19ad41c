use super::*;

const PROCESS: ProcessId = ProcessId { boot_id: [9; 16], pid: 7, start_ticks: 100 };
const OTHER: ProcessId = ProcessId { pid: 8, ..PROCESS };
const SECOND: u64 = 1_000_000_000;
const BUDGET: usize = 8 << 20;

fn sync(start_ns: u64, inode: u64) -> SyncRecord {
    SyncRecord {
        pid: PROCESS.pid,
        thread_id: 11,
        class: FileClass::Wal,
        reason: SyncReason::Sample,
        start_mono_ns: start_ns,
        latency: Duration::from_millis(1),
        run_delay: Duration::from_micros(5),
        run_time: None,
        written_bytes: 4_096,
        inode,
        device: 12,
        result: 0,
    }
}

/// Ten syncs a second in `seconds`, every fifth with a row.
fn record(recorder: &mut Recorder, seconds: std::ops::Range<u64>) {
    for tenth in seconds.start * 10..seconds.end * 10 {
        recorder.push(PROCESS, &sync(tenth * SECOND / 10, 1), tenth % 5 == 0);
    }
}

fn starts(rows: &[SyncRow]) -> Vec<u64> {
    rows.iter().map(|row| row.start_mono_ns / (SECOND / 10)).collect()
}

#[test]
fn a_dump_has_every_sync_around_its_trigger_that_has_no_row_and_each_once() {
    let mut recorder = Recorder::new(BUDGET);
    record(&mut recorder, 0..100);
    assert_eq!(recorder.take(100 * SECOND, 1_000).0, []);
    assert_eq!(recorder.trigger(Some(PROCESS), Trigger::SlowSync, 100 * SECOND), 1);
    let (mut rows, finished) = recorder.take(100 * SECOND, 1_000_000);
    assert_eq!(finished, [], "what comes after belongs to it");
    record(&mut recorder, 100..120);
    let (more, finished) = recorder.take(120 * SECOND, 1_000_000);
    rows.extend(more);
    let expected: Vec<u64> = (400..1_100).filter(|tenth| tenth % 5 != 0).collect();
    assert_eq!(starts(&rows), expected);
    assert!(rows.iter().all(|row| row.reason == SyncReason::Flight && row.inode == 1 && row.device == 12));
    let dump = &finished[0];
    assert_eq!((dump.trigger, dump.rows, dump.until_ns), (Trigger::SlowSync, 560, 110 * SECOND));
    recorder.trigger(Some(PROCESS), Trigger::Asked, 125 * SECOND);
    let (rows, _) = recorder.take(140 * SECOND, 1_000_000);
    let expected: Vec<u64> = (1_100..1_200).filter(|tenth| tenth % 5 != 0).collect();
    assert_eq!(starts(&rows), expected, "a second dump adds only what the first had not");
}

#[test]
fn a_dump_comes_in_slices_and_loses_nothing_between_them() {
    let mut recorder = Recorder::new(BUDGET);
    record(&mut recorder, 0..60);
    recorder.trigger(None, Trigger::Asked, 60 * SECOND);
    let mut all = Vec::new();
    loop {
        let (rows, finished) = recorder.take(75 * SECOND, 7);
        assert!(rows.len() <= 7);
        all.extend(starts(&rows));
        if !finished.is_empty() {
            break;
        }
    }
    assert_eq!(all, (0..600).filter(|tenth| tenth % 5 != 0).collect::<Vec<_>>());
    assert!(!recorder.is_busy());
}

#[test]
fn dumps_that_begin_by_themselves_are_rare_and_asked_ones_less_so() {
    let mut recorder = Recorder::new(BUDGET);
    record(&mut recorder, 0..1);
    let mut begun = Vec::new();
    for second in 0..700 {
        let at = second * SECOND;
        if recorder.trigger(Some(PROCESS), Trigger::SlowSync, at) > 0 {
            begun.push(second);
        }
        recorder.take(at, 100);
    }
    assert_eq!(begun, [0, 300, 600], "a slow sync every second");
    assert!(recorder.take_suppressed() > 500);
    recorder.take(700 * SECOND, 100);
    assert_eq!(recorder.trigger(None, Trigger::Asked, 700 * SECOND), 1);
}

#[test]
fn triggers_during_a_dump_make_it_longer_but_not_endless() {
    let mut recorder = Recorder::new(BUDGET);
    record(&mut recorder, 0..100);
    (100..300).for_each(|second| {
        recorder.trigger(Some(PROCESS), Trigger::SlowSync, second * SECOND);
        record(&mut recorder, second..second + 1);
    });
    let (_, finished) = recorder.take(300 * SECOND, 1_000_000);
    assert_eq!(finished[0].until_ns, 160 * SECOND);
}

#[test]
fn memory_is_bounded_over_all_processes_and_the_oldest_goes_first() {
    let budget = 1_000 * size_of::<Record>();
    let mut recorder = Recorder::new(budget);
    record(&mut recorder, 0..500);
    assert_eq!(recorder.usage().0, 1_000);
    recorder.push(OTHER, &sync(500 * SECOND, 1), false);
    assert_eq!(recorder.usage().0, 501);
    assert!(recorder.usage().1 <= budget + 2 * 64 * size_of::<File>(), "{:?}", recorder.usage());
    recorder.trigger(Some(PROCESS), Trigger::Asked, 500 * SECOND);
    let rows = recorder.take(500 * SECOND, 1_000_000).0;
    assert_eq!((starts(&rows)[0], rows.len()), (4_501, 400));
}

#[test]
fn a_process_that_is_gone_is_dumped_and_forgotten() {
    let mut recorder = Recorder::new(BUDGET);
    record(&mut recorder, 0..10);
    recorder.gone(PROCESS, 10 * SECOND);
    let (rows, finished) = recorder.take(12 * SECOND, 1_000);
    assert_eq!((rows.len(), finished[0].trigger), (80, Trigger::MemberGone));
    assert_eq!(recorder.usage().0, 0);
    assert!(!recorder.is_busy());
    recorder.gone(OTHER, 10 * SECOND);
}

#[test]
fn the_last_minute_of_a_process_is_dumped_however_soon_after_another_dump() {
    let mut recorder = Recorder::new(BUDGET);
    record(&mut recorder, 0..10);
    assert_eq!(recorder.trigger(Some(PROCESS), Trigger::SlowSync, 10 * SECOND), 1);
    recorder.take(30 * SECOND, 1_000_000);
    record(&mut recorder, 90..100);
    recorder.gone(PROCESS, 100 * SECOND);
    let (rows, finished) = recorder.take(102 * SECOND, 1_000);
    assert_eq!((rows.len(), finished.len()), (80, 1));
    assert_eq!(finished[0].trigger, Trigger::MemberGone);
}

#[test]
fn files_are_told_apart_even_when_many_came_and_went() {
    let mut recorder = Recorder::new(3_000 * size_of::<Record>());
    for number in 0..50_000u64 {
        recorder.push(PROCESS, &sync(number * 1_000, number / 10), false);
    }
    assert!(recorder.usage().1 < 200_000 + 4_096 * size_of::<File>());
    recorder.trigger(None, Trigger::Asked, SECOND);
    let rows = recorder.take(SECOND, 1_000_000).0;
    assert_eq!(rows.len(), 3_000);
    assert!(rows.iter().all(|row| row.inode == row.start_mono_ns / 10_000), "each has its own file");
}

#[test]
fn a_dump_is_limited_in_rows_and_says_from_where_it_is_whole() {
    let mut recorder = Recorder::new(BUDGET);
    for number in 0..100_000u64 {
        recorder.push(PROCESS, &sync(number * 100_000, 1), false);
    }
    recorder.trigger(None, Trigger::Asked, 10 * SECOND);
    let (rows, finished) = recorder.take(60 * SECOND, 1_000_000);
    assert_eq!(rows.len() as u64, MOST_ROWS.1);
    assert_eq!(finished[0].from_ns, 50_000 * 100_000 + 1_000_000);
}

proptest::proptest! {
    /// Whatever comes in which order: bounds hold, no sync is handed out twice, none that has a row.
    #[test]
    fn no_sync_has_two_rows(steps in proptest::collection::vec((0u8..6, 0u64..400, proptest::bool::ANY), 0..300)) {
        let mut recorder = Recorder::new(64 * size_of::<Record>());
        let (mut now, mut number) = (0, 0u64);
        let mut seen = std::collections::BTreeSet::new();
        let mut with_row = std::collections::BTreeSet::new();
        for (step, amount, flag) in steps {
            now += amount * SECOND / 20;
            match step {
                0..=2 => {
                    number += 1;
                    let start = now + number;
                    recorder.push(PROCESS, &sync(start, amount), flag);
                    if flag {
                        with_row.insert(start);
                    }
                }
                3 => drop(recorder.take(now, 0)),
                4 => {
                    recorder.trigger(None, if flag { Trigger::Asked } else { Trigger::SlowSync }, now);
                }
                _ => {
                    for row in recorder.take(now, usize::try_from(amount).unwrap()).0 {
                        proptest::prop_assert!(seen.insert(row.start_mono_ns), "twice");
                        proptest::prop_assert!(!with_row.contains(&row.start_mono_ns));
                    }
                }
            }
            proptest::prop_assert!(recorder.usage().0 <= 64);
        }
    }
}
