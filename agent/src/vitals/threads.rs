//! Time of a process's threads on CPUs and in run queues, from `/proc/PID/task/*/schedstat`.
//!
//! The kernel keeps both by thread and drops them when a thread ends, so what ended threads had when they were last seen stays
//! in the sums here. The collector of threads does the same for the series that are stored, on a period of its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use crate::discover::ProcFs;

/// Most threads that are followed. Go makes one for every blocked system call: a stuck disk can bring thousands.
const THREADS: usize = 256;

/// Sums over all threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// Runnable, but without one.
    pub run_delay_ns: u64,
}

impl Totals {
    const fn add(&mut self, other: Self) {
        self.on_cpu_ns = self.on_cpu_ns.saturating_add(other.on_cpu_ns);
        self.run_delay_ns = self.run_delay_ns.saturating_add(other.run_delay_ns);
    }
}

#[derive(Debug)]
struct Seen {
    totals: Totals,
    round: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Threads {
    seen: HashMap<u32, Seen>,
    ended: Totals,
    round: u64,
}

impl Threads {
    /// The sums now; they never fall. `None` when the process is gone, or this kernel does not tell.
    pub fn sample(&mut self, proc: &ProcFs, pid: u32) -> Option<Totals> {
        let tasks = proc.path(pid, "task");
        self.round += 1;
        for id in self.list(&tasks)? {
            if let Some(totals) = read(&tasks.join(id.to_string()).join("schedstat")) {
                self.note(id, totals);
            }
        }
        let (round, ended) = (self.round, &mut self.ended);
        self.seen.retain(|_, seen| {
            let lives = seen.round == round;
            if !lives {
                ended.add(seen.totals);
            }
            lives
        });
        if self.seen.is_empty() {
            return None;
        }
        let mut sum = self.ended;
        self.seen.values().for_each(|seen| sum.add(seen.totals));
        Some(sum)
    }

    fn note(&mut self, id: u32, now: Totals) {
        let seen = self.seen.entry(id).or_insert(Seen { totals: Totals::default(), round: 0 });
        let before = seen.totals;
        seen.round = self.round;
        if now.on_cpu_ns < before.on_cpu_ns || now.run_delay_ns < before.run_delay_ns {
            // The id was given to another thread meanwhile.
            self.ended.add(before);
        }
        seen.totals = now;
    }

    /// Thread ids, those that are followed first.
    fn list(&self, tasks: &Path) -> Option<Vec<u32>> {
        let mut ids = Vec::with_capacity(self.seen.len() + 8);
        for entry in fs::read_dir(tasks).ok()? {
            // A thread that ends while the directory is read ends the list early: the next round has the rest.
            let Ok(entry) = entry else { break };
            ids.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        if ids.len() > THREADS {
            ids.sort_unstable_by_key(|id| (!self.seen.contains_key(id), *id));
            ids.truncate(THREADS);
        }
        Some(ids)
    }
}

fn read(path: &Path) -> Option<Totals> {
    // Three numbers.
    let mut bytes = [0; 96];
    let length = File::open(path).ok()?.read(&mut bytes).ok()?;
    parse(std::str::from_utf8(&bytes[..length]).ok()?)
}

fn parse(text: &str) -> Option<Totals> {
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    Some(Totals { on_cpu_ns: words.next()?.ok()?, run_delay_ns: words.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Recorded {
        root: tempfile::TempDir,
        threads: Threads,
    }

    impl Recorded {
        fn new() -> Self {
            Self { root: tempfile::tempdir().expect("writable"), threads: Threads::default() }
        }

        fn set(&self, id: u32, text: &str) {
            let directory = self.root.path().join(format!("7/task/{id}"));
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join("schedstat"), text).expect("written");
        }

        fn end(&self, id: u32) {
            fs::remove_dir_all(self.root.path().join(format!("7/task/{id}"))).expect("removed");
        }

        fn sample(&mut self) -> Option<(u64, u64)> {
            let proc = ProcFs::new(self.root.path());
            self.threads.sample(&proc, 7).map(|totals| (totals.on_cpu_ns, totals.run_delay_ns))
        }
    }

    #[test]
    fn all_threads_are_summed_up_and_those_that_end_stay_in_the_sum() {
        let mut recorded = Recorded::new();
        recorded.set(7, "100 10 1\n");
        recorded.set(8, "200 20 1\n");
        assert_eq!(recorded.sample(), Some((300, 30)));
        recorded.end(8);
        recorded.set(7, "150 10 1\n");
        assert_eq!(recorded.sample(), Some((350, 30)));
        recorded.set(9, "5 5 1\n");
        assert_eq!(recorded.sample(), Some((355, 35)));
    }

    #[test]
    fn an_id_that_is_given_again_takes_nothing_back() {
        let mut recorded = Recorded::new();
        recorded.set(7, "100 10 1\n");
        recorded.set(8, "200 20 1\n");
        assert_eq!(recorded.sample(), Some((300, 30)));
        recorded.set(8, "3 2 1\n");
        assert_eq!(recorded.sample(), Some((303, 32)));
    }

    #[test]
    fn what_can_not_be_read_is_left_out_and_a_process_that_is_gone_is_none() {
        let mut recorded = Recorded::new();
        assert_eq!(recorded.sample(), None);
        recorded.set(7, "100 10 1\n");
        for garbage in ["", "1", "x 1 1", "-1 2 3"] {
            recorded.set(8, garbage);
            assert_eq!(recorded.sample(), Some((100, 10)), "{garbage:?}");
        }
    }

    #[test]
    fn of_too_many_threads_those_that_are_followed_stay() {
        let mut recorded = Recorded::new();
        for id in 1_000..1_300 {
            recorded.set(id, "1 1 1\n");
        }
        assert_eq!(recorded.sample(), Some((256, 256)));
        recorded.set(1, "9 9 1\n");
        assert_eq!(recorded.sample(), Some((256, 256)));
    }

    #[test]
    fn this_process_has_used_a_cpu() {
        let mut threads = Threads::default();
        let proc = ProcFs::new("/proc");
        let Some(first) = threads.sample(&proc, std::process::id()) else {
            println!("skipped: this kernel has no schedstat");
            return;
        };
        assert!(first.on_cpu_ns > 0);
        let second = threads.sample(&proc, std::process::id()).expect("still there");
        assert!(second.on_cpu_ns >= first.on_cpu_ns && second.run_delay_ns >= first.run_delay_ns);
    }
}
