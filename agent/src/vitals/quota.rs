//! CPU quotas above etcd and what they refused, versions 1 and 2; and whether IO is limited there.
//!
//! Kept for all processes in one place: the vitals are made of it once a second, and whoever examines a slow sync asks what was
//! refused in its time. So while a process has a quota, its counter is read ten times a second, which is how often a quota
//! usually begins anew; without one nothing is read but the quota itself, once a second.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::collect::cgroup::hierarchy::{self, Chain, Version};
use crate::collect::cgroup::{cpu_limit, io_is_limited, throttling};
use crate::collect::disk::device::Number;
use crate::discover::{ProcFs, ProcessId};

/// Groups are looked for anew after this time, even if the process is where it was: mounts change.
const GROUPS_FOR_NS: u64 = 30_000_000_000;

/// Readings that are kept: of 13 seconds.
const KEPT: usize = 128;

/// What a quota refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Refused {
    ns: u64,
    periods: u64,
}

/// A group on the way up.
#[derive(Debug)]
struct Level {
    directory: PathBuf,
    is_limited: bool,
    /// What its counters said last.
    last: Option<Refused>,
}

impl Level {
    fn read(&self, version: Version) -> Option<Refused> {
        let found = throttling(version, &self.directory)?;
        Some(Refused { ns: (found.seconds * 1e9).round() as u64, periods: found.throttled as u64 })
    }
}

/// Of one process.
#[derive(Debug, Default)]
struct Quota {
    /// What `/proc/PID/cgroup` said when the groups were looked for, and when that was.
    known: Option<(Vec<u8>, u64)>,
    version: Option<Version>,
    levels: Vec<Level>,
    blkio: Option<Chain>,
    tightest_cores: Option<f64>,
    was_limited: bool,
    total: Refused,
    readings: VecDeque<(u64, u64)>,
}

/// What the vitals say of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// The smallest quota, in thousandths of a CPU; `None` = there is none.
    pub millicpus: Option<u64>,
    /// CPU time refused so far; `None` = there never was a quota.
    pub refused_ns: Option<u64>,
    /// Periods that ended without quota left.
    pub refused_periods: Option<u64>,
    /// Whether IO on one of the devices is limited; `None` = not known.
    pub io_is_limited: Option<bool>,
}

impl Quota {
    /// Looks where the process is and which groups have a quota.
    fn look(&mut self, proc: &ProcFs, pid: u32, now_ns: u64) {
        let Ok(text) = proc.read(pid, "cgroup") else { return };
        let is_known =
            |(known, at_ns): &(Vec<u8>, u64)| *known == text && now_ns.saturating_sub(*at_ns) < GROUPS_FOR_NS;
        if !self.known.as_ref().is_some_and(is_known) {
            self.find(proc, pid, &text);
            self.known = Some((text, now_ns));
        }
        let Some(version) = self.version else { return };
        self.tightest_cores = None;
        for level in &mut self.levels {
            let limit = cpu_limit(version, &level.directory).map(|limit| limit.cores());
            level.is_limited = limit.is_some();
            self.tightest_cores = match (self.tightest_cores, limit) {
                (Some(one), Some(other)) => Some(f64::min(one, other)),
                (one, other) => one.or(other),
            };
        }
        self.was_limited |= self.tightest_cores.is_some();
    }

    fn find(&mut self, proc: &ProcFs, pid: u32, text: &[u8]) {
        let mut found = hierarchy::find(proc, pid, &String::from_utf8_lossy(text));
        self.blkio = found.of("blkio").cloned();
        let chain = hierarchy::CONTROLLERS
            .iter()
            .position(|controller| *controller == "cpu")
            .and_then(|cpu| found.controllers[cpu].take());
        self.version = chain.as_ref().map(|chain| chain.version);
        let mut before = std::mem::take(&mut self.levels);
        for level in chain.into_iter().flat_map(|chain| chain.levels) {
            let known = before.iter().position(|known| known.directory == level.directory);
            let level = known
                .map_or(Level { directory: level.directory, is_limited: false, last: None }, |place| {
                    before.swap_remove(place)
                });
            self.levels.push(level);
        }
        if let Some(version) = self.version {
            // What was refused before it came here, or while there was a quota earlier, is not of now. A group without
            // a quota refuses nothing, so this holds until it gets one.
            for level in self.levels.iter_mut().filter(|level| level.last.is_none()) {
                level.last = level.read(version);
            }
        }
    }

    /// Reads the counters of the groups with a quota. Those of a group contain what groups above it refused only as far as
    /// both struck at once, so the greatest counts.
    fn measure(&mut self, now_ns: u64) {
        let Some(version) = self.version else { return };
        let mut most = Refused::default();
        for level in self.levels.iter_mut().filter(|level| level.is_limited) {
            let Some(now) = level.read(version) else { continue };
            if let Some(before) = level.last.replace(now) {
                most.ns = most.ns.max(now.ns.saturating_sub(before.ns));
                most.periods = most.periods.max(now.periods.saturating_sub(before.periods));
            }
        }
        self.total.ns = self.total.ns.saturating_add(most.ns);
        self.total.periods = self.total.periods.saturating_add(most.periods);
        if self.tightest_cores.is_some() {
            if self.readings.back().is_some_and(|(last_ns, _)| *last_ns >= now_ns) {
                return;
            }
            if self.readings.len() >= KEPT {
                self.readings.pop_front();
            }
            self.readings.push_back((now_ns, self.total.ns));
        } else {
            self.readings.clear();
        }
    }

    fn during(&self, from_ns: u64, until_ns: u64) -> u64 {
        let first = self.readings.iter().rev().find(|(at_ns, _)| *at_ns <= from_ns);
        let last = self.readings.iter().find(|(at_ns, _)| *at_ns >= until_ns);
        let (Some((first_ns, first)), Some((last_ns, last))) = (first, last) else { return 0 };
        let (span, between) = (u128::from(until_ns.saturating_sub(from_ns)), u128::from(last_ns - first_ns));
        let refused = u128::from(last.saturating_sub(*first));
        let part = (refused * span).checked_div(between).unwrap_or(0).min(span);
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    fn sample(&self, devices: &[Number]) -> Sample {
        Sample {
            millicpus: self.tightest_cores.map(|cores| (cores * 1e3).round() as u64),
            refused_ns: self.was_limited.then_some(self.total.ns),
            refused_periods: self.was_limited.then_some(self.total.periods),
            io_is_limited: self
                .blkio
                .as_ref()
                .filter(|_| !devices.is_empty())
                .map(|chain| io_is_limited(chain, devices)),
        }
    }
}

/// Of all processes.
#[derive(Debug, Default)]
pub struct Quotas {
    quotas: Mutex<BTreeMap<ProcessId, Quota>>,
}

impl Quotas {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Quota>> {
        // Whoever panicked left at worst one reading out.
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for the quotas of a process, from now on also by [`Self::measure`].
    pub fn look(&self, proc: &ProcFs, process: ProcessId, devices: &[Number], now_ns: u64) -> Sample {
        let mut quotas = self.lock();
        let quota = quotas.entry(process).or_default();
        quota.look(proc, process.pid, now_ns);
        quota.measure(now_ns);
        quota.sample(devices)
    }

    /// Reads the counters of all processes that have a quota.
    pub fn measure(&self, now_ns: u64) {
        self.lock().values_mut().for_each(|quota| quota.measure(now_ns));
    }

    /// CPU time that was refused to the process's group in a span: of what was refused between the readings around it, in
    /// proportion, and not more than the span. `None` when nothing is known of the process.
    pub fn during(&self, process: ProcessId, from_ns: u64, until_ns: u64) -> Option<u64> {
        Some(self.lock().get(&process)?.during(from_ns, until_ns))
    }

    /// Forgets a process that is gone.
    pub fn forget(&self, process: ProcessId) {
        self.lock().remove(&process);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const PROCESS: ProcessId = ProcessId { boot_id: [1; 16], pid: 700, start_ticks: 9 };
    const MS: u64 = 1_000_000;

    /// A `/proc` and a hierarchy of version 1 or 2 with the groups `/pod` and `/pod/etcd`; the process is in the latter.
    struct Recorded {
        root: tempfile::TempDir,
        version: Version,
        quotas: Quotas,
    }

    impl Recorded {
        fn new(version: Version) -> Self {
            let root = tempfile::tempdir().expect("writable");
            let own = std::process::id();
            let (kind, options) = match version {
                Version::V1 => ("cgroup", "rw,cpu,cpuacct"),
                Version::V2 => ("cgroup2", "rw"),
            };
            let mounted = root.path().join("cgroup");
            for pid in [own, PROCESS.pid] {
                let directory = root.path().join(pid.to_string());
                fs::create_dir_all(&directory).expect("made");
                let line = format!("30 20 0:26 / {} rw - {kind} none {options}\n", mounted.display());
                fs::write(directory.join("mountinfo"), line).expect("written");
            }
            let recorded = Self { root, version, quotas: Quotas::default() };
            for group in ["", "pod", "pod/etcd"] {
                let directory = recorded.group(group);
                fs::create_dir_all(&directory).expect("made");
                fs::write(directory.join("cgroup.procs"), "").expect("written");
                if !group.is_empty() {
                    recorded.limit(group, None);
                    recorded.refuse(group, 0, 0);
                }
            }
            recorded.move_to("/pod/etcd");
            recorded
        }

        fn group(&self, group: &str) -> PathBuf {
            self.root.path().join("cgroup").join(group)
        }

        fn move_to(&self, path: &str) {
            let line = match self.version {
                Version::V1 => format!("3:cpu,cpuacct:{path}\n"),
                Version::V2 => format!("0::{path}\n"),
            };
            fs::write(self.root.path().join("700/cgroup"), line).expect("written");
        }

        fn write(&self, group: &str, file: &str, text: &str) {
            fs::write(Path::new(&self.group(group)).join(file), text).expect("written");
        }

        fn limit(&self, group: &str, quota_us: Option<u64>) {
            match self.version {
                Version::V1 => {
                    let quota = quota_us.map_or("-1".to_owned(), |quota| quota.to_string());
                    self.write(group, "cpu.cfs_quota_us", &quota);
                    self.write(group, "cpu.cfs_period_us", "100000\n");
                }
                Version::V2 => {
                    let quota = quota_us.map_or("max".to_owned(), |quota| quota.to_string());
                    self.write(group, "cpu.max", &format!("{quota} 100000\n"));
                }
            }
        }

        fn refuse(&self, group: &str, periods: u64, ms: u64) {
            let text = match self.version {
                Version::V1 => {
                    format!("nr_periods 9\nnr_throttled {periods}\nthrottled_time {}\n", ms * MS)
                }
                Version::V2 => format!(
                    "usage_usec 5\nnr_periods 9\nnr_throttled {periods}\nthrottled_usec {}\n",
                    ms * 1_000
                ),
            };
            self.write(group, "cpu.stat", &text);
        }

        fn look(&self, now_ms: u64) -> Sample {
            self.quotas.look(&ProcFs::new(self.root.path()), PROCESS, &[], now_ms * MS)
        }
    }

    fn both(test: impl Fn(Recorded)) {
        [Version::V1, Version::V2].into_iter().for_each(|version| test(Recorded::new(version)));
    }

    #[test]
    fn without_a_quota_there_is_nothing_to_tell() {
        both(|recorded| assert_eq!(recorded.look(1_000), Sample::default()));
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_is_shown_and_what_it_refused_since() {
        both(|recorded| {
            recorded.refuse("pod", 90, 9_000);
            assert_eq!(recorded.look(1_000), Sample::default());
            recorded.limit("pod", Some(150_000));
            recorded.limit("pod/etcd", Some(200_000));
            recorded.refuse("pod", 92, 9_070);
            let expected = Sample {
                millicpus: Some(1_500),
                refused_ns: Some(70 * MS),
                refused_periods: Some(2),
                io_is_limited: None,
            };
            assert_eq!(recorded.look(2_000), expected, "what was refused earlier is not of now");
            recorded.refuse("pod/etcd", 5, 130);
            recorded.refuse("pod", 93, 9_100);
            let sample = recorded.look(3_000);
            assert_eq!((sample.refused_ns, sample.refused_periods), (Some(200 * MS), Some(7)));
        });
    }

    #[test]
    fn totals_never_fall_when_the_quota_goes_or_the_process_moves() {
        both(|recorded| {
            recorded.limit("pod/etcd", Some(50_000));
            recorded.look(1_000);
            recorded.refuse("pod/etcd", 3, 80);
            assert_eq!(recorded.look(2_000).refused_ns, Some(80 * MS));
            recorded.limit("pod/etcd", None);
            let sample = recorded.look(3_000);
            assert_eq!((sample.millicpus, sample.refused_ns), (None, Some(80 * MS)));
            recorded.limit("pod", Some(50_000));
            recorded.refuse("pod", 100, 1_000);
            recorded.move_to("/pod");
            // The group above was known before; what it refused meanwhile was of this process as well.
            assert_eq!(recorded.look(4_000).refused_ns, Some(1_080 * MS));
            fs::remove_dir_all(recorded.group("pod")).expect("removed");
            assert_eq!(recorded.look(5_000).refused_ns, Some(1_080 * MS));
        });
    }

    #[test]
    fn what_was_refused_in_a_span_is_in_proportion_between_the_readings_around_it() {
        both(|recorded| {
            recorded.limit("pod/etcd", Some(50_000));
            recorded.look(1_000);
            recorded.refuse("pod/etcd", 1, 50);
            recorded.quotas.measure(1_100 * MS);
            recorded.quotas.measure(1_200 * MS);
            let during = |from, until| recorded.quotas.during(PROCESS, from * MS, until * MS);
            assert_eq!(during(1_000, 1_100), Some(50 * MS));
            assert_eq!(during(1_040, 1_060), Some(10 * MS));
            assert_eq!(during(1_150, 1_160), Some(0));
            assert_eq!(during(900, 1_010), Some(0), "not seen from its begin");
            assert_eq!(during(1_190, 1_210), Some(0), "nor to its end");
            recorded.refuse("pod/etcd", 9, 9_000);
            recorded.quotas.measure(1_300 * MS);
            assert_eq!(during(1_210, 1_230), Some(20 * MS), "not more than the span");
            recorded.quotas.forget(PROCESS);
            assert_eq!(during(1_000, 1_100), None);
        });
    }

    #[test]
    fn few_readings_are_kept() {
        both(|recorded| {
            recorded.limit("pod/etcd", Some(50_000));
            recorded.look(1_000);
            (1..1_000).for_each(|at| recorded.quotas.measure((1_000 + at) * MS));
            assert_eq!(recorded.quotas.lock()[&PROCESS].readings.len(), KEPT);
        });
    }

    #[test]
    fn limits_of_io_are_those_of_its_disks() {
        let recorded = Recorded::new(Version::V2);
        let proc = ProcFs::new(recorded.root.path());
        let look = |minor| {
            let device = Number { major: 8, minor };
            recorded.quotas.look(&proc, PROCESS, &[device], 5).io_is_limited
        };
        assert_eq!(look(0), Some(false));
        recorded.write("pod", "io.max", "8:0 rbps=max wbps=1048576 riops=max wiops=max\n");
        assert_eq!((look(0), look(16)), (Some(true), Some(false)));
    }

    #[test]
    fn a_process_that_is_gone_keeps_what_is_known() {
        both(|recorded| {
            recorded.limit("pod/etcd", Some(50_000));
            recorded.look(1_000);
            fs::remove_file(recorded.root.path().join("700/cgroup")).expect("removed");
            assert_eq!(recorded.look(2_000).millicpus, Some(500));
        });
    }
}
