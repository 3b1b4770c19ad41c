//! CPU, memory, descriptors and IO of an etcd process, from `/proc/PID`. Its threads are [`super::threads`]'.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::procfile::{ProcFile, number_after};
use super::sheet::{Sheet, Slot};
use super::{CollectError, Collector};
use crate::clock::{Reading, TICKS_PER_SECOND};
use crate::discover::{ProcFs, ProcessId};
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
    sheet: Sheet,
    slots: [Slot; 10],
}

impl ProcessCollector {
    /// For a process below `proc`.
    pub fn new(proc: &ProcFs, id: ProcessId, period: Duration) -> Self {
        let file = |name: &str| ProcFile::new(proc.path(id.pid, name));
        let mut sheet = Sheet::new(period);
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
            slots: [
                sheet.counter("etcdmon_process_cpu_seconds_total", &[("mode", "user")]),
                sheet.counter("etcdmon_process_cpu_seconds_total", &[("mode", "system")]),
                sheet.gauge("etcdmon_process_threads", &[]),
                sheet.gauge("etcdmon_process_resident_bytes", &[]),
                sheet.counter("etcdmon_process_major_faults_total", &[]),
                sheet.counter("etcdmon_process_read_bytes_total", &[]),
                sheet.counter("etcdmon_process_written_bytes_total", &[]),
                sheet.gauge("etcdmon_process_open_descriptors", &[]),
                sheet.gauge("etcdmon_process_descriptor_limit", &[]),
                sheet.gauge("etcdmon_process_swapped_bytes", &[]),
            ],
            sheet,
        }
    }

    fn sample(&mut self) -> Result<(), CollectError> {
        let Some(stat) = CpuAndMemory::parse(self.stat.read()?) else { return Err(self.stat.form_error()) };
        let seconds = |ticks: u64| Some(ticks as f64 / TICKS_PER_SECOND as f64);
        let resident = stat.resident_pages.saturating_mul(self.page_bytes);
        let limits_due = self.round.is_multiple_of(LIMITS_EVERY);
        self.round += 1;
        // Another user's `io` and descriptors need privileges: without them the rest is still worth having.
        let io = self.io.read().ok();
        let io = |key| io.and_then(|text| number_after(text, key)).map(|bytes| bytes as f64);
        let limit = limits_due.then(|| self.limits.read().ok()).flatten();
        let swapped_kib = self.status.read().ok().and_then(|text| number_after(text, "VmSwap"));
        self.sheet.set_all(
            &self.slots,
            [
                seconds(stat.user_ticks),
                seconds(stat.system_ticks),
                Some(stat.threads as f64),
                Some(resident as f64),
                Some(stat.major_faults as f64),
                io("read_bytes"),
                io("write_bytes"),
                count_descriptors(&self.descriptors).map(|count| count as f64),
                limit.and_then(|text| number_after(text, "Max open files")).map(|limit| limit as f64),
                swapped_kib.map(|kib| kib as f64 * 1024.0),
            ],
        );
        Ok(())
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
        self.sample()?;
        Ok(self.sheet.take(Some(self.id), now))
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
    use crate::collect::sheet::values_of;

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

    fn collector(proc: &ProcFs, pid: u32) -> ProcessCollector {
        ProcessCollector::new(
            proc,
            ProcessId { boot_id: [0; 16], pid, start_ticks: 0 },
            Duration::from_secs(1),
        )
    }

    #[tokio::test]
    async fn this_process_can_be_sampled() {
        let mut collector = collector(&ProcFs::new("/proc"), std::process::id());
        let values = values_of(&collector.collect(Reading::now()).await.expect("readable"));
        assert!(values["etcdmon_process_resident_bytes"] > 100_000.0, "{values:?}");
        assert!(values["etcdmon_process_open_descriptors"] >= 3.0, "{values:?}");
        assert!(values["etcdmon_process_threads"] >= 1.0, "{values:?}");
        assert!(values["etcdmon_process_descriptor_limit"] >= 3.0, "{values:?}");
        let values = values_of(&collector.collect(Reading::now()).await.expect("readable"));
        assert!(!values.contains_key("etcdmon_process_descriptor_limit"), "unchanged: {values:?}");
    }

    #[tokio::test]
    async fn what_is_unreadable_is_absent_and_a_stat_that_is_none_an_error() {
        let root = tempfile::tempdir().expect("writable");
        let directory = root.path().join("7");
        std::fs::create_dir(&directory).expect("made");
        let proc = ProcFs::new(root.path());
        let stat = b"7 (\xff\x00) S 1 7 7 0 -1 0 9 0 5 0 120 30 0 0 20 0 11 0 4711 1 18446744073709551615 1";
        std::fs::write(directory.join("stat"), stat).expect("written");
        std::fs::write(directory.join("status"), "VmSwap:").expect("written");
        std::fs::write(directory.join("limits"), "Max open files unlimited unlimited").expect("written");
        let values = values_of(&collector(&proc, 7).collect(Reading::now()).await.expect("stat is enough"));
        let names: Vec<&str> = values.keys().map(String::as_str).collect();
        let expected = [
            "etcdmon_process_cpu_seconds_total system",
            "etcdmon_process_cpu_seconds_total user",
            "etcdmon_process_major_faults_total",
            "etcdmon_process_resident_bytes",
            "etcdmon_process_threads",
        ];
        assert_eq!(names, expected);
        for hostile in [&b""[..], b"7 (etcd", b"7 (etcd) S -1", b"\xff\xff", &[b'9'; 100_000]] {
            std::fs::write(directory.join("stat"), hostile).expect("written");
            let outcome = collector(&proc, 7).collect(Reading::now()).await;
            assert!(matches!(outcome, Err(CollectError::Form { .. })), "{outcome:?}");
        }
    }
}
