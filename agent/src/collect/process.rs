//! CPU, memory, descriptors, threads, context switches and IO of an etcd process, from `/proc/PID`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::procfile::{ProcFile, number_after};
use super::{CollectError, Collector};
use crate::clock::{Reading, TICKS_PER_SECOND};
use crate::discover::{ProcFs, ProcessId};
use crate::fact::{Fact, Samples, Series};
use crate::hub::Note;

/// Limits hardly ever change: they are read on every so many collections.
const LIMITS_EVERY: u64 = 30;

/// Page size on the platforms supported.
fn page_bytes() -> u64 {
    // SAFETY: takes and returns numbers only.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// The collector of one process.
#[derive(Debug)]
pub struct ProcessCollector {
    id: ProcessId,
    period: Duration,
    page_bytes: u64,
    stat: ProcFile,
    status: ProcFile,
    io: ProcFile,
    limits: ProcFile,
    descriptors: PathBuf,
    round: u64,
    series: [Arc<Series>; 12],
}

impl ProcessCollector {
    /// For a process below `proc`.
    pub fn new(proc: &ProcFs, id: ProcessId, period: Duration) -> Self {
        let file = |name: &str| ProcFile::new(proc.path(id.pid, name));
        Self {
            id,
            period,
            page_bytes: page_bytes(),
            stat: file("stat"),
            status: file("status"),
            io: file("io"),
            limits: file("limits"),
            descriptors: proc.path(id.pid, "fd"),
            round: 0,
            series: [
                Series::counter("etcdmon_process_cpu_seconds_total", &[("mode", "user")]),
                Series::counter("etcdmon_process_cpu_seconds_total", &[("mode", "system")]),
                Series::gauge("etcdmon_process_threads", &[]),
                Series::gauge("etcdmon_process_resident_bytes", &[]),
                Series::counter("etcdmon_process_major_faults_total", &[]),
                Series::counter("etcdmon_process_context_switches_total", &[("kind", "voluntary")]),
                Series::counter("etcdmon_process_context_switches_total", &[("kind", "involuntary")]),
                Series::counter("etcdmon_process_read_bytes_total", &[]),
                Series::counter("etcdmon_process_written_bytes_total", &[]),
                Series::gauge("etcdmon_process_open_descriptors", &[]),
                Series::gauge("etcdmon_process_descriptor_limit", &[]),
                Series::gauge("etcdmon_process_swapped_bytes", &[]),
            ],
        }
    }

    fn sample(&mut self) -> Result<Vec<(Arc<Series>, f64)>, CollectError> {
        let mut values = Vec::with_capacity(self.series.len());
        let mut add = |series: usize, value: f64| values.push((Arc::clone(&self.series[series]), value));
        let ticks = |ticks: u64| ticks as f64 / TICKS_PER_SECOND as f64;
        let stat = CpuAndMemory::parse(self.stat.read()?)
            .ok_or_else(|| CollectError::Form { path: "stat of a process".to_owned() })?;
        add(0, ticks(stat.user_ticks));
        add(1, ticks(stat.system_ticks));
        add(2, stat.threads as f64);
        add(3, (stat.resident_pages * self.page_bytes) as f64);
        add(4, stat.major_faults as f64);
        let status = self.status.read()?;
        let counts =
            [(5, "voluntary_ctxt_switches", 1), (6, "nonvoluntary_ctxt_switches", 1), (11, "VmSwap", 1024)];
        for (series, key, unit) in counts {
            if let Some(value) = number_after(status, key) {
                add(series, (value * unit) as f64);
            }
        }
        // Another user's `io` and descriptors need privileges: without them the rest is still worth having.
        if let Ok(io) = self.io.read() {
            for (series, key) in [(7, "read_bytes"), (8, "write_bytes")] {
                if let Some(value) = number_after(io, key) {
                    add(series, value as f64);
                }
            }
        }
        if let Some(count) = count_descriptors(&self.descriptors) {
            add(9, count as f64);
        }
        if self.round.is_multiple_of(LIMITS_EVERY)
            && let Some(limit) = self.limits.read().ok().and_then(|text| number_after(text, "Max open files"))
        {
            add(10, limit as f64);
        }
        self.round += 1;
        Ok(values)
    }
}

impl Collector for ProcessCollector {
    fn name(&self) -> &'static str {
        "process"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        let values = self.sample()?;
        Ok(vec![Note::Facts(vec![Fact::Samples(Samples {
            process: Some(self.id),
            mono_ns: now.mono_ns,
            values,
        })])])
    }
}

/// What is read from `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct CpuAndMemory {
    user_ticks: u64,
    system_ticks: u64,
    major_faults: u64,
    threads: u64,
    resident_pages: u64,
}

impl CpuAndMemory {
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
        // Field numbers of proc(5), which counts from 1 and includes the two before.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            major_faults: field(12)?,
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            threads: field(20)?,
            resident_pages: field(24)?,
        })
    }
}

/// Open descriptors. Linux 6.2 and later say it in the directory's size, which spares listing it.
fn count_descriptors(directory: &std::path::Path) -> Option<u64> {
    let size = fs::metadata(directory).ok()?.size();
    if size > 0 {
        return Some(size);
    }
    Some(fs::read_dir(directory).ok()?.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_command_with_blanks_and_parentheses() {
        let text =
            "7 (et) cd (x) S 1 7 7 0 -1 4194560 900 0 5 0 120 30 0 0 20 0 11 0 4711 11000000 2500 1 2 3";
        let expected = CpuAndMemory {
            user_ticks: 120,
            system_ticks: 30,
            major_faults: 5,
            threads: 11,
            resident_pages: 2500,
        };
        assert_eq!(CpuAndMemory::parse(text), Some(expected));
        assert_eq!(CpuAndMemory::parse(""), None);
        assert_eq!(CpuAndMemory::parse("7 (etcd) S 1"), None);
    }

    #[tokio::test]
    async fn this_process_can_be_sampled() {
        let proc = ProcFs::new("/proc");
        let id = ProcessId { boot_id: [0; 16], pid: std::process::id(), start_ticks: 0 };
        let mut collector = ProcessCollector::new(&proc, id, Duration::from_secs(1));
        for _ in 0..2 {
            let facts = collector.collect(Reading::now()).await.expect("readable");
            let [Note::Facts(facts)] = facts.as_slice() else { panic!("{facts:?}") };
            let [Fact::Samples(samples)] = facts.as_slice() else { panic!("{facts:?}") };
            let value = |name: &str| samples.values.iter().find(|(s, _)| s.name == name).expect("sampled").1;
            assert!(value("etcdmon_process_resident_bytes") > 100_000.0);
            assert!(value("etcdmon_process_open_descriptors") >= 3.0);
            assert!(value("etcdmon_process_threads") >= 1.0);
        }
    }
}
