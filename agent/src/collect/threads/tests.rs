use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::collect::sheet::values_of;

const DELAY: &str = "etcdmon_process_run_delay_seconds_total";
const ON_CPU: &str = "etcdmon_process_on_cpu_seconds_total";
const WORST: &str = "etcdmon_process_worst_thread_run_delay_ratio";

fn collector(proc: &ProcFs, pid: u32) -> ThreadsCollector {
    ThreadsCollector::new(proc, ProcessId { boot_id: [0; 16], pid, start_ticks: 0 }, Duration::from_secs(1))
}

/// Values of the collection at this second.
fn at(collector: &mut ThreadsCollector, second: u64) -> Result<BTreeMap<String, f64>, CollectError> {
    let now = Reading { mono_ns: second * 1_000_000_000, wall_ns: 0 };
    collector.sample(now)?;
    Ok(values_of(&collector.sheet.take(None, now)))
}

fn write(task: &Path, id: u32, schedstat: &[u8], status: &str) {
    let directory = task.join(id.to_string());
    std::fs::create_dir_all(&directory).expect("made");
    std::fs::write(directory.join("schedstat"), schedstat).expect("written");
    std::fs::write(directory.join("status"), status).expect("written");
}

/// A recorded process 7 without threads yet.
fn recorded() -> (tempfile::TempDir, ProcFs, PathBuf) {
    let root = tempfile::tempdir().expect("writable");
    let task = root.path().join("7/task");
    std::fs::create_dir_all(&task).expect("made");
    let proc = ProcFs::new(root.path());
    (root, proc, task)
}

#[test]
fn totals_keep_what_ended_threads_had_and_a_reused_id_starts_anew() {
    let (_root, proc, task) = recorded();
    let mut collector = collector(&proc, 7);
    write(&task, 7, b"1000000000 500000000 10\n", "State:\tS (sleeping)\nvoluntary_ctxt_switches:\t4\n");
    write(&task, 8, b"2000000000 100000000 20\n", "State:\tD (disk sleep)\nnonvoluntary_ctxt_switches: 3\n");
    let values = at(&mut collector, 1).expect("read");
    assert_eq!((values[ON_CPU], values[DELAY]), (3.0, 0.6));
    assert_eq!(values["etcdmon_process_threads_in_state disk"], 1.0);
    assert_eq!(values["etcdmon_process_context_switches_total voluntary"], 4.0);
    assert!(!values.contains_key(WORST), "nothing to compare with yet");

    write(&task, 7, b"1000000000 700000000 11\n", "");
    std::fs::remove_dir_all(task.join("8")).expect("ended");
    let values = at(&mut collector, 2).expect("read");
    assert_eq!((values[ON_CPU], values[DELAY]), (3.0, 0.8), "what the ended thread had stays");
    assert_eq!(values[WORST], 0.2);

    // Another thread has the id of the first.
    write(&task, 7, b"5 6 1\n", "");
    let values = at(&mut collector, 3).expect("read");
    assert_eq!(values[ON_CPU], 3.000_000_005);
    assert_eq!(values[DELAY], 0.800_000_006);
}

#[test]
fn threads_beyond_the_limit_are_left_out_and_counted_and_those_followed_stay() {
    let (_root, proc, task) = recorded();
    let mut collector = collector(&proc, 7);
    let limit = u32::try_from(THREADS_LIMIT).expect("small");
    for id in 1_000..1_000 + limit {
        write(&task, id, b"1000000000 0 1", "");
    }
    let values = at(&mut collector, 1).expect("read");
    assert_eq!(values[ON_CPU], f64::from(limit));
    // Lower ids come, as after the ids of a node have wrapped.
    for id in 1..6 {
        write(&task, id, b"9000000000 0 1", "");
    }
    let values = at(&mut collector, 2).expect("read");
    assert_eq!(values["etcdmon_process_threads_left_out"], 5.0);
    assert_eq!(values[ON_CPU], f64::from(limit), "those followed stay");
}

#[test]
fn hostile_files_are_an_error_and_never_a_panic() {
    let (_root, proc, task) = recorded();
    for hostile in
        [&b""[..], b"1 2", b"-1 2 3", b"\xff \xff \xff", b"99999999999999999999 1 1", &[b'7'; 70_000]]
    {
        write(&task, 7, hostile, "State:\0\nvoluntary_ctxt_switches: -1");
        let outcome = at(&mut collector(&proc, 7), 1);
        assert!(matches!(outcome, Err(CollectError::Form { .. })), "{hostile:?}: {outcome:?}");
    }
    let most = format!("{0} {0} {0}", u64::MAX);
    write(&task, 7, most.as_bytes(), "State:\t\u{1F600}");
    write(&task, 8, most.as_bytes(), "");
    let values = at(&mut collector(&proc, 7), 1).expect("sums are bounded");
    assert_eq!(values["etcdmon_process_threads_in_state other"], 2.0);
    std::fs::remove_dir_all(&task).expect("removed");
    assert!(matches!(at(&mut collector(&proc, 7), 1), Err(CollectError::Gone)));
}

#[test]
fn a_kernel_without_schedstat_is_an_error_that_names_the_file() {
    let (_root, proc, task) = recorded();
    std::fs::create_dir(task.join("7")).expect("made");
    let Err(CollectError::File { path, .. }) = at(&mut collector(&proc, 7), 1) else { panic!("no error") };
    assert!(path.ends_with("7/schedstat"), "{path}");
}

/// Threads of this very process, twice as many as it has CPUs: all of them burn, so they wait for each other.
#[test]
fn threads_that_fight_for_cpus_wait_and_ended_ones_stay_counted() {
    let mut collector = collector(&ProcFs::new("/proc"), std::process::id());
    let total = |collector: &mut ThreadsCollector, second| {
        at(collector, second).expect("readable");
        let mut total = collector.ended;
        collector.threads.values().for_each(|thread| total.add(thread.usage));
        total
    };
    let stop = AtomicBool::new(false);
    let before = total(&mut collector, 1);
    let during = std::thread::scope(|scope| {
        for _ in 0..2 * std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        let mut during = before;
        for second in 2..200 {
            std::thread::sleep(Duration::from_millis(100));
            during = total(&mut collector, second);
            if during.delay_ns - before.delay_ns > 100_000_000 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        during
    });
    assert!(during.delay_ns - before.delay_ns > 100_000_000, "{before:?} {during:?}");
    let after = total(&mut collector, 300);
    assert!(after.delay_ns >= during.delay_ns && after.on_cpu_ns >= during.on_cpu_ns, "{during:?} {after:?}");
}
