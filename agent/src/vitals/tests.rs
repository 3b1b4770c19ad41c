//! The thread, on a real process of this machine and without probes.

use std::process::{Child, Command as Program};
use std::time::Instant;

use super::*;
use crate::discover::ProcFs;

const LIMIT: Duration = Duration::from_secs(20);

struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

impl Sleeper {
    fn start() -> Self {
        Self(Program::new("sleep").arg("100").spawn().expect("sleep"))
    }

    fn signal(&self, signal: i32) {
        // SAFETY: numbers; a child of ours that was not waited for.
        assert_eq!(unsafe { libc::kill(self.0.id().cast_signed(), signal) }, 0);
    }
}

fn vitals_until(
    notes: &mut mpsc::Receiver<Note>,
    mut is_enough: impl FnMut(&v1::LiveVitals) -> bool,
) -> v1::LiveVitals {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < LIMIT, "it never came");
        match notes.try_recv() {
            Ok(Note::Vitals(_, vitals)) if is_enough(&vitals) => return *vitals,
            Ok(Note::Vitals(..)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_empty) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_process_is_looked_at_every_second_and_a_stop_is_seen_by_its_state() {
    let place = tempfile::tempdir().expect("writable");
    let sleeper = Sleeper::start();
    let proc = ProcFs::new("/proc");
    let stat = proc.stat(sleeper.0.id()).expect("it runs");
    let process = member::tests::process(sleeper.0.id(), stat.start_ticks, place.path());
    let (sender, mut notes) = mpsc::channel(RESERVE + 64);
    let handle = start(proc, None, sender, Beside::default()).expect("started");
    let id = process.id;
    handle.add(process);
    let whole =
        |vitals: &v1::LiveVitals| vitals.on_cpu_ns_total.is_some() && vitals.disk_size_bytes.is_some();
    let first = vitals_until(&mut notes, whole);
    assert!(first.disk_size_bytes >= first.disk_free_bytes && first.node_cpus > 0, "{first:?}");
    assert_eq!((first.io_errors_total, first.sync_errors_total), (None, None), "there are no probes");
    assert_eq!(first.stopped_ns_total, Some(0));
    sleeper.signal(libc::SIGSTOP);
    let stopped = vitals_until(&mut notes, |vitals| vitals.stopped_ns_total > Some(1_000_000_000));
    assert!(stopped.signals.is_empty());
    sleeper.signal(libc::SIGCONT);
    handle.sync_failed(id, -libc::EIO);
    let failed = vitals_until(&mut notes, |vitals| vitals.last_errno == libc::EIO);
    assert!(failed.stopped_ns_total >= stopped.stopped_ns_total);
    handle.remove(id);
    drop(handle);
    let begin = Instant::now();
    // The thread has ended once nobody can send any more.
    while !matches!(notes.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)) {
        assert!(begin.elapsed() < LIMIT, "the thread goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_last_ones_are_kept() {
    let mut last = Last::new(3);
    (0..10).for_each(|number| last.push(number));
    assert_eq!(last.to_vec(), [7, 8, 9]);
}

/// Threads of this process with that name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("own").flatten();
    let comm =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map(comm).filter(|comm| comm.trim_end() == name).count()
}

#[test]
fn a_thousand_short_lived_processes_leave_nothing_behind() {
    let place = tempfile::tempdir().expect("writable");
    let (sender, mut notes) = mpsc::channel(RESERVE + 64);
    let handle = start(ProcFs::new("/proc"), None, sender, Beside::default()).expect("started");
    for number in 0..1_000 {
        let process = member::tests::process(4_000_000_000 + number, 9, place.path());
        let id = process.id;
        handle.add(process);
        if number.is_multiple_of(100) {
            // Some live for a second.
            vitals_until(&mut notes, |_| true);
        }
        handle.remove(id);
        // Its last word: by then nothing is left of it.
        vitals_until(&mut notes, |_| true);
    }
    let begin = Instant::now();
    // Other tests have such threads as well, of processes that are there.
    while threads("space") > 8 {
        assert!(begin.elapsed() < LIMIT, "{} threads", threads("space"));
        std::thread::sleep(Duration::from_millis(10));
    }
}
