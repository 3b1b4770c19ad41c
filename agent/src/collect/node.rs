//! CPU, memory, load, pressure, files and clock of the node. Its network is [`super::network`]'s.

use std::path::Path;
use std::time::Duration;

use super::procfile::{ProcFile, number_after};
use super::sheet::{Sheet, Slot};
use super::{CollectError, Collector};
use crate::clock::{Discipline, Reading, TICKS_PER_SECOND};
use crate::hub::Note;

/// What changes slowly is looked at on every so many collections: swapping, open files, the clock's discipline.
const SLOW_EVERY: u64 = 10;

/// Modes of the `cpu` line of `/proc/stat`, in its order.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// Lines of `/proc/stat` with one number: key, series, whether it is a counter.
const STAT: [(&str, &str, bool); 4] = [
    ("ctxt", "etcdmon_node_context_switches_total", true),
    ("processes", "etcdmon_node_forks_total", true),
    ("procs_running", "etcdmon_node_processes_running", false),
    ("procs_blocked", "etcdmon_node_processes_blocked", false),
];

/// Lines of `/proc/meminfo`, in KiB.
const MEMORY: [(&str, &str); 9] = [
    ("MemTotal", "etcdmon_node_memory_bytes"),
    ("MemAvailable", "etcdmon_node_memory_available_bytes"),
    ("MemFree", "etcdmon_node_memory_free_bytes"),
    ("Cached", "etcdmon_node_memory_cached_bytes"),
    ("Dirty", "etcdmon_node_memory_dirty_bytes"),
    ("Writeback", "etcdmon_node_memory_writeback_bytes"),
    ("SwapTotal", "etcdmon_node_swap_bytes"),
    ("SwapFree", "etcdmon_node_swap_free_bytes"),
    ("Slab", "etcdmon_node_memory_slab_bytes"),
];

/// Lines of `/proc/vmstat`.
const VMSTAT: [(&str, &str); 4] = [
    ("pswpin", "etcdmon_node_swapped_in_pages_total"),
    ("pswpout", "etcdmon_node_swapped_out_pages_total"),
    ("pgmajfault", "etcdmon_node_major_faults_total"),
    ("oom_kill", "etcdmon_node_oom_kills_total"),
];

/// Resources with a file in `/proc/pressure`.
const RESOURCES: [&str; 3] = ["cpu", "io", "memory"];

/// The collector of the node.
#[derive(Debug)]
pub struct NodeCollector {
    period: Duration,
    stat: ProcFile,
    meminfo: ProcFile,
    vmstat: ProcFile,
    loadavg: ProcFile,
    files: ProcFile,
    pressure: Vec<(ProcFile, [Slot; 2])>,
    info: [ProcFile; 2],
    round: u64,
    sheet: Sheet,
    modes: [Slot; MODES.len()],
    counts: [Slot; STAT.len()],
    memory: [Slot; MEMORY.len()],
    paging: [Slot; VMSTAT.len()],
    load: [Slot; 3],
    open_files: [Slot; 2],
    machine: [Slot; 2],
    clock: [Slot; 5],
    last_info: Option<Slot>,
}

impl NodeCollector {
    /// Of this node.
    pub fn new(period: Duration) -> Self {
        Self::over(Path::new("/proc"), Path::new("/sys"), period)
    }

    fn over(proc: &Path, sys: &Path, period: Duration) -> Self {
        let mut sheet = Sheet::new(period);
        let pressure = RESOURCES
            .iter()
            .map(|resource| {
                let slots = ["some", "full"].map(|share| {
                    let labels = [("resource", *resource), ("share", share)];
                    sheet.counter("etcdmon_node_pressure_seconds_total", &labels)
                });
                (ProcFile::new(proc.join("pressure").join(resource)), slots)
            })
            .collect();
        Self {
            period,
            stat: ProcFile::new(proc.join("stat")),
            meminfo: ProcFile::new(proc.join("meminfo")),
            vmstat: ProcFile::new(proc.join("vmstat")),
            loadavg: ProcFile::new(proc.join("loadavg")),
            files: ProcFile::new(proc.join("sys/fs/file-nr")),
            pressure,
            info: [
                ProcFile::new(proc.join("sys/kernel/osrelease")),
                ProcFile::new(sys.join("devices/system/clocksource/clocksource0/current_clocksource")),
            ],
            round: 0,
            modes: MODES.map(|mode| sheet.counter("etcdmon_node_cpu_seconds_total", &[("mode", mode)])),
            counts: STAT.map(
                |(_, name, counter)| {
                    if counter { sheet.counter(name, &[]) } else { sheet.gauge(name, &[]) }
                },
            ),
            memory: MEMORY.map(|(_, name)| sheet.gauge(name, &[])),
            paging: VMSTAT.map(|(_, name)| sheet.counter(name, &[])),
            load: ["1", "5", "15"].map(|minutes| sheet.gauge(&format!("etcdmon_node_load{minutes}"), &[])),
            open_files: [
                sheet.gauge("etcdmon_node_open_files", &[]),
                sheet.gauge("etcdmon_node_open_files_limit", &[]),
            ],
            machine: [
                sheet.gauge("etcdmon_node_cpus", &[]),
                sheet.gauge("etcdmon_node_boot_time_seconds", &[]),
            ],
            clock: [
                sheet.gauge("etcdmon_node_clock_synchronized", &[]),
                sheet.gauge("etcdmon_node_clock_ntp_offset_seconds", &[]),
                sheet.gauge("etcdmon_node_clock_ntp_max_error_seconds", &[]),
                sheet.gauge("etcdmon_node_clock_ntp_estimated_error_seconds", &[]),
                sheet.gauge("etcdmon_node_clock_frequency_adjustment_ratio", &[]),
            ],
            last_info: None,
            sheet,
        }
    }

    fn sample(&mut self) -> Result<(), CollectError> {
        let slow = self.round.is_multiple_of(SLOW_EVERY);
        self.round += 1;
        self.sample_stat(slow)?;
        let sheet = &mut self.sheet;
        if let Ok(text) = self.meminfo.read() {
            let bytes = |(key, _)| number_after(text, key).map(|kib| kib as f64 * 1024.0);
            sheet.set_all(&self.memory, MEMORY.map(bytes));
        }
        if let Ok(text) = self.loadavg.read() {
            sheet.set_all(&self.load, text.split(' ').map(|word| word.parse().ok()));
        }
        for (file, slots) in &mut self.pressure {
            // Absent on kernels without PSI.
            let Ok(text) = file.read() else { continue };
            for (share, slot) in ["some", "full"].iter().zip(slots) {
                let line = text.lines().find(|line| line.starts_with(share));
                let total = line.and_then(|line| line.rsplit_once("total=")?.1.parse::<u64>().ok());
                sheet.set_all(&[*slot], [total.map(|us| us as f64 / 1e6)]);
            }
        }
        if slow {
            self.sample_slow();
        }
        Ok(())
    }

    fn sample_stat(&mut self, slow: bool) -> Result<(), CollectError> {
        let text = self.stat.read()?;
        let Some(cpu) = text.lines().next().and_then(|line| line.strip_prefix("cpu ")) else {
            return Err(self.stat.form_error());
        };
        let seconds = |word: &str| Some(word.parse::<u64>().ok()? as f64 / TICKS_PER_SECOND as f64);
        self.sheet.set_all(&self.modes, cpu.split_ascii_whitespace().map(seconds));
        let count = |(key, ..): (&str, &str, bool)| number_after(text, key).map(|count| count as f64);
        self.sheet.set_all(&self.counts, STAT.map(count));
        if slow {
            let is_cpu = |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| !rest.starts_with(' '));
            let cpus = text.lines().skip(1).take_while(is_cpu).count();
            let booted = number_after(text, "btime").map(|seconds| seconds as f64);
            self.sheet.set_all(&self.machine, [Some(cpus as f64), booted]);
        }
        Ok(())
    }

    fn sample_slow(&mut self) {
        let sheet = &mut self.sheet;
        if let Ok(text) = self.vmstat.read() {
            let count = |(key, _)| number_after(text, key).map(|count| count as f64);
            sheet.set_all(&self.paging, VMSTAT.map(count));
        }
        if let Ok(text) = self.files.read() {
            // Open, unused (always 0), most.
            let mut numbers = text.split_ascii_whitespace().map(|word| word.parse::<f64>().ok());
            sheet.set_all(&self.open_files, [numbers.next().flatten(), numbers.nth(1).flatten()]);
        }
        if let Some(clock) = Discipline::now() {
            let synchronized = f64::from(u8::from(clock.synchronized));
            let values = [
                synchronized,
                clock.offset_seconds,
                clock.max_error_seconds,
                clock.estimated_error_seconds,
                clock.frequency_ratio,
            ];
            sheet.set_all(&self.clock, values.map(Some));
        }
        let [kernel, clocksource] = &mut self.info;
        let word = |file: &mut ProcFile| file.read().map(|text| text.trim().to_owned()).unwrap_or_default();
        let (kernel, clocksource) = (word(kernel), word(clocksource));
        let labels = [
            ("architecture", std::env::consts::ARCH),
            ("clocksource", clocksource.as_str()),
            ("kernel", kernel.as_str()),
        ];
        let key = format!("info {clocksource} {kernel}");
        let slots = sheet.keyed(&key, |sheet| vec![sheet.gauge("etcdmon_node_info", &labels)]);
        if let Some(slot) = slots.first() {
            // A clock source that turned out to be unstable was changed for another one.
            if let Some(old) = self.last_info.replace(*slot).filter(|old| old != slot) {
                sheet.set(old, 0.0);
            }
            sheet.set(*slot, 1.0);
        }
    }
}

impl Collector for NodeCollector {
    fn name(&self) -> &'static str {
        "node"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        self.sample()?;
        Ok(self.sheet.take(None, now))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::collect::sheet::values_of;

    fn values(collector: &mut NodeCollector) -> BTreeMap<String, f64> {
        collector.sample().expect("read");
        values_of(&collector.sheet.take(None, Reading { mono_ns: 1, wall_ns: 1 }))
    }

    #[test]
    fn the_node_under_test_has_cpu_memory_load_files_and_a_clock() {
        let values = values(&mut NodeCollector::new(Duration::from_secs(5)));
        for name in [
            "etcdmon_node_cpu_seconds_total idle",
            "etcdmon_node_memory_bytes",
            "etcdmon_node_cpus",
            "etcdmon_node_boot_time_seconds",
            "etcdmon_node_open_files",
            "etcdmon_node_context_switches_total",
        ] {
            assert!(values[name] > 0.0, "{name} in {values:#?}");
        }
        for name in
            ["etcdmon_node_load15", "etcdmon_node_clock_synchronized", "etcdmon_node_processes_blocked"]
        {
            assert!(values.contains_key(name), "{name} in {values:#?}");
        }
        assert!(values.keys().any(|name| name.starts_with("etcdmon_node_info ")), "{values:#?}");
    }

    fn recorded() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("writable");
        for (file, content) in [
            (
                "stat",
                "cpu  1 2 3 400 5 6 7 8 0 0\ncpu0 1 2 3 4\ncpu1 1\nintr 9 0 0\nctxt 77\nbtime 1700000000\nprocs_running 3\n",
            ),
            ("meminfo", "MemTotal: 1000 kB\nCached:  10 kB\nSwapCached: 5 kB\n"),
            ("loadavg", "0.50 0.25 0.10 1/200 999\n"),
            ("vmstat", "oom_kill 2\npswpin x\n"),
            ("sys/fs/file-nr", "1024\t0\t9223372036854775807\n"),
            ("sys/kernel/osrelease", "6.1.0-example\n"),
            ("pressure/io", "some avg10=0.00 total=2000000\nfull avg10=0.00 total=1000000\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            fs::write(path, content).expect("written");
        }
        root
    }

    #[test]
    fn what_is_recorded_is_read_and_what_is_missing_is_absent() {
        let root = recorded();
        let values =
            values(&mut NodeCollector::over(root.path(), Path::new("/none"), Duration::from_secs(1)));
        assert_eq!(values["etcdmon_node_cpu_seconds_total steal"], 0.08);
        assert_eq!(values["etcdmon_node_cpus"], 2.0);
        assert_eq!(values["etcdmon_node_memory_cached_bytes"], 10_240.0, "not what is cached of swap");
        assert_eq!(values["etcdmon_node_load5"], 0.25);
        assert_eq!(values["etcdmon_node_oom_kills_total"], 2.0);
        assert_eq!(values["etcdmon_node_open_files"], 1024.0);
        assert_eq!(values["etcdmon_node_pressure_seconds_total io full"], 1.0);
        assert!(!values.contains_key("etcdmon_node_pressure_seconds_total cpu some"));
        assert!(!values.contains_key("etcdmon_node_swap_bytes"));
    }

    #[test]
    fn hostile_files_never_panic_and_a_stat_that_is_none_is_an_error() {
        let huge = [b'9'; 70_000];
        for hostile in [&b""[..], b"\xff\xfe\n\xff", b"cpu", b"total=", b"\n\n\n", &huge] {
            let root = recorded();
            for file in
                ["meminfo", "loadavg", "vmstat", "sys/fs/file-nr", "sys/kernel/osrelease", "pressure/io"]
            {
                fs::write(root.path().join(file), hostile).expect("written");
            }
            let mut collector = NodeCollector::over(root.path(), Path::new("/none"), Duration::from_secs(1));
            assert!(values(&mut collector).contains_key("etcdmon_node_cpus"), "{hostile:?}");
            fs::write(root.path().join("stat"), hostile).expect("written");
            assert!(matches!(collector.sample(), Err(CollectError::Form { .. })), "{hostile:?}");
        }
    }
}
