//! What etcd's threads wait for: run-queue delay, time on a CPU, context switches and states, from
//! `/proc/PID/task/*/{schedstat,status}`.
//!
//! The kernel keeps these per thread and drops them when the thread ends, so a process's totals are kept here: what each thread
//! had when it was last seen stays in the sum. What a thread did after that is missed, at most one period for each that ends (Go's
//! threads live for long). Totals begin with what the threads had when the agent first saw them, and never fall.
//!
//! `schedstat` has three numbers: nanoseconds on a CPU, nanoseconds runnable but waiting for one, and slices run
//! (`Documentation/scheduler/sched-stats.rst`). It needs no privilege, and no tracing of the scheduler, which would make every
//! switch of every process dearer.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::procfile::{ProcFile, number_after};
use super::sheet::{Sheet, Slot};
use super::{CollectError, Collector};
use crate::clock::Reading;
use crate::discover::{ProcFs, ProcessId};
use crate::hub::Note;

/// Most threads that are followed. Go makes one for every blocked system call: a stuck disk can bring thousands.
const THREADS_LIMIT: usize = 256;

/// States and context switches are dearer to read than `schedstat`: they are looked at on every so many collections.
const STATES_EVERY: u64 = 5;

/// State letters of `/proc/PID/task/TID/status`, by the name they have here. `disk` is uninterruptible: mostly waiting for IO.
const STATES: [(&str, &str); 4] =
    [("running", "R"), ("sleeping", "SI"), ("disk", "D"), ("other", "TtXxKWPZ")];

/// What threads have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    on_cpu_ns: u64,
    delay_ns: u64,
    slices: u64,
    voluntary: u64,
    involuntary: u64,
}

impl Usage {
    const fn add(&mut self, other: Self) {
        self.on_cpu_ns = self.on_cpu_ns.saturating_add(other.on_cpu_ns);
        self.delay_ns = self.delay_ns.saturating_add(other.delay_ns);
        self.slices = self.slices.saturating_add(other.slices);
        self.voluntary = self.voluntary.saturating_add(other.voluntary);
        self.involuntary = self.involuntary.saturating_add(other.involuntary);
    }
}

/// The three numbers of `schedstat`.
fn parse_schedstat(text: &str) -> Option<(u64, u64, u64)> {
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    Some((words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?))
}

#[derive(Debug)]
struct Thread {
    schedstat: ProcFile,
    status: ProcFile,
    usage: Usage,
    state: usize,
    round: u64,
}

/// The collector of one process's threads.
#[derive(Debug)]
pub struct ThreadsCollector {
    id: ProcessId,
    period: Duration,
    tasks: PathBuf,
    threads: HashMap<u32, Thread>,
    /// What threads had that are no more.
    ended: Usage,
    round: u64,
    last_mono_ns: Option<u64>,
    sheet: Sheet,
    slots: [Slot; 7],
    states: [Slot; STATES.len()],
}

impl ThreadsCollector {
    /// For a process below `proc`.
    pub fn new(proc: &ProcFs, id: ProcessId, period: Duration) -> Self {
        let mut sheet = Sheet::new(period);
        let switches = |sheet: &mut Sheet, kind| {
            sheet.counter("etcdmon_process_context_switches_total", &[("kind", kind)])
        };
        Self {
            id,
            period,
            tasks: proc.path(id.pid, "task"),
            threads: HashMap::new(),
            ended: Usage::default(),
            round: 0,
            last_mono_ns: None,
            slots: [
                sheet.counter("etcdmon_process_on_cpu_seconds_total", &[]),
                sheet.counter("etcdmon_process_run_delay_seconds_total", &[]),
                sheet.counter("etcdmon_process_run_slices_total", &[]),
                sheet.gauge("etcdmon_process_worst_thread_run_delay_ratio", &[]),
                sheet.gauge("etcdmon_process_threads_left_out", &[]),
                switches(&mut sheet, "voluntary"),
                switches(&mut sheet, "involuntary"),
            ],
            states: STATES
                .map(|(state, _)| sheet.gauge("etcdmon_process_threads_in_state", &[("state", state)])),
            sheet,
        }
    }

    /// Thread ids, those that are followed first, and how many were left out.
    fn list(&self) -> Result<(Vec<u32>, usize), CollectError> {
        let error = |source: std::io::Error| match source.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => CollectError::Gone,
            _ => CollectError::File { path: self.tasks.display().to_string(), source },
        };
        let mut ids = Vec::with_capacity(self.threads.len() + 8);
        for entry in fs::read_dir(&self.tasks).map_err(error)? {
            // A thread that ends while the directory is read ends the list early: the next round has the rest.
            let Ok(entry) = entry else { break };
            ids.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        let left_out = ids.len().saturating_sub(THREADS_LIMIT);
        if left_out > 0 {
            ids.sort_unstable_by_key(|id| (!self.threads.contains_key(id), *id));
            ids.truncate(THREADS_LIMIT);
        }
        Ok((ids, left_out))
    }

    /// Reads one thread; returns its run-queue delay since the last time, `None` when it was met only now or is gone.
    fn follow(&mut self, id: u32, with_state: bool) -> Result<Option<u64>, CollectError> {
        let file = |name: &str| ProcFile::new(self.tasks.join(id.to_string()).join(name));
        let thread = self.threads.entry(id).or_insert_with(|| Thread {
            schedstat: file("schedstat"),
            status: file("status"),
            usage: Usage::default(),
            state: STATES.len(),
            round: 0,
        });
        let met_before = thread.round > 0;
        let text = match thread.schedstat.read() {
            Ok(text) => text,
            Err(CollectError::Gone) => return Ok(None),
            Err(CollectError::File { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound
                    && !self.tasks.join(id.to_string()).exists() =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some((on_cpu_ns, delay_ns, slices)) = parse_schedstat(text) else {
            return Err(thread.schedstat.form_error());
        };
        let mut before = thread.usage;
        if on_cpu_ns < before.on_cpu_ns || slices < before.slices {
            // The id was given to another thread meanwhile.
            self.ended.add(before);
            before = Usage::default();
        }
        thread.usage = Usage { on_cpu_ns, delay_ns: delay_ns.max(before.delay_ns), slices, ..before };
        thread.round = self.round;
        if with_state && let Ok(status) = thread.status.read() {
            let letter = status.lines().find_map(|line| line.strip_prefix("State:")).map(str::trim_start);
            let letter = letter.and_then(|text| text.chars().next()).unwrap_or('?');
            let known = STATES.iter().position(|(_, letters)| letters.contains(letter));
            thread.state = known.unwrap_or(STATES.len() - 1);
            let count = |key| number_after(status, key).unwrap_or(0);
            thread.usage.voluntary = count("voluntary_ctxt_switches").max(before.voluntary);
            thread.usage.involuntary = count("nonvoluntary_ctxt_switches").max(before.involuntary);
        }
        Ok(met_before.then(|| delay_ns.saturating_sub(before.delay_ns)))
    }

    fn forget_ended(&mut self) {
        let (round, ended) = (self.round, &mut self.ended);
        self.threads.retain(|_, thread| {
            let lives = thread.round == round;
            if !lives {
                ended.add(thread.usage);
            }
            lives
        });
    }

    fn sample(&mut self, now: Reading) -> Result<(), CollectError> {
        let (ids, left_out) = self.list()?;
        let with_states = self.round.is_multiple_of(STATES_EVERY);
        self.round += 1;
        let mut worst_ns = None;
        for id in ids {
            worst_ns = worst_ns.max(self.follow(id, with_states)?);
        }
        self.forget_ended();
        if self.threads.is_empty() {
            return Err(CollectError::Gone);
        }
        let mut total = self.ended;
        let mut states = [0_u32; STATES.len()];
        for thread in self.threads.values() {
            total.add(thread.usage);
            if let Some(count) = states.get_mut(thread.state) {
                *count += 1;
            }
        }
        let passed_ns = self.last_mono_ns.replace(now.mono_ns).map(|last| now.mono_ns.saturating_sub(last));
        let worst = worst_ns.zip(passed_ns.filter(|passed| *passed > 0));
        let seconds = |ns: u64| Some(ns as f64 / 1e9);
        let switches = |count: u64| with_states.then_some(count as f64);
        self.sheet.set_all(
            &self.slots,
            [
                seconds(total.on_cpu_ns),
                seconds(total.delay_ns),
                Some(total.slices as f64),
                worst.map(|(worst_ns, passed_ns)| (worst_ns as f64 / passed_ns as f64).min(1.0)),
                Some(left_out as f64),
                switches(total.voluntary),
                switches(total.involuntary),
            ],
        );
        if with_states {
            self.sheet.set_all(&self.states, states.map(|count| Some(f64::from(count))));
        }
        Ok(())
    }
}

impl Collector for ThreadsCollector {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        self.sample(now)?;
        Ok(self.sheet.take(Some(self.id), now))
    }
}

#[cfg(test)]
mod tests;
