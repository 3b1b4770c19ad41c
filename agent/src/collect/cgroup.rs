//! Limits and throttling of etcd's cgroup and its ancestors, versions 1 and 2.
//!
//! A limit of an ancestor binds as well as the own one: what is shown as the limit is the smallest on the way up. Usage is of
//! the own group; throttling and memory also of the ancestors that have a limit, each with its path, since the group that is
//! throttled is where the remedy is. Limits, and where the groups are, are looked at now and then; counters every time, over files
//! that are kept open.
//!
//! Units are the same for both versions; what only one of them has is absent in the other.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

pub mod hierarchy;
mod limits;
mod v1;
mod v2;

use self::hierarchy::{Chain, Hierarchies, Level, Version};
pub use self::limits::{cpu_limit, io_is_limited, throttling};
use self::limits::{
    has_cpu_limit, has_memory_limit, limited, set_counter, set_cpu_limits, set_gauge, set_info,
    set_io_limits, set_io_usage, set_memory_limits, smallest, text_number,
};
use super::disk::device::{Number, Stack};
use super::procfile::ProcFile;
use super::sheet::{Sheet, Slot};
use super::{CollectError, Collector};
use crate::clock::Reading;
use crate::discover::{EtcdProcess, ProcFs, ProcessId};
use crate::hub::Note;

/// Limits change rarely: they are read on every so many collections.
const LIMITS_EVERY: u64 = 10;

/// Most bytes of a file; `io.stat` of a group with hundreds of devices has some 50 KiB.
const FILE_LIMIT: u64 = 256 << 10;

/// CPU bandwidth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuLimit {
    /// CPU time per period.
    pub quota_us: f64,
    /// The period.
    pub period_us: f64,
}

impl CpuLimit {
    /// CPUs that it allows.
    pub fn cores(self) -> f64 {
        self.quota_us / self.period_us
    }
}

/// What CPU bandwidth cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttling {
    /// Periods in which something ran.
    pub periods: f64,
    /// Those in which it ran out of quota.
    pub throttled: f64,
    /// Time throttled, summed over CPUs.
    pub seconds: f64,
}

/// In bytes; `None` = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryLimits {
    /// Beyond it the group is killed in.
    pub max: Option<f64>,
    /// Beyond it the group is slowed down.
    pub high: Option<f64>,
    /// Of swap.
    pub swap: Option<f64>,
}

/// How often memory was short.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryEvents {
    /// Slowed down at `high`.
    pub high: Option<f64>,
    /// Reached the limit.
    pub max: Option<f64>,
    /// Reached it, and nothing could be reclaimed.
    pub oom: Option<f64>,
    /// Processes killed for it.
    pub oom_kill: Option<f64>,
    /// 1 while out of memory (version 1).
    pub under_oom: Option<f64>,
}

/// Read bytes/s, write bytes/s, read operations/s, write operations/s; `None` = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IoLimit(pub [Option<f64>; 4]);

/// Read bytes, written bytes, read operations, write operations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IoUsage(pub [Option<f64>; 4]);

/// A number that is one: not `max`, not infinite, not negative infinity by another name.
fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Lines of a key and a number.
fn pairs(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, number(value)?))
    })
}

/// A file of a group as text; `None` when it is absent or empty.
fn text(directory: &Path, file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(directory.join(file)).ok()?.take(FILE_LIMIT).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// CPUs of a list such as `0-3,8`.
fn count_cpus(list: &str) -> Option<f64> {
    let mut count = 0_u64;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        count += u64::from(last.checked_sub(first)?) + 1;
    }
    Some(count as f64)
}

/// Counters of one group, over files that are kept open.
#[derive(Debug)]
struct Group {
    version: Version,
    cpu_stat: Option<(ProcFile, Box<[Slot]>)>,
    memory: Option<(ProcFile, Box<[Slot]>)>,
}

impl Group {
    fn add(&mut self, sheet: &mut Sheet) {
        if let Some((file, slots)) = &mut self.cpu_stat
            && let Ok(text) = file.read()
        {
            let parse = if self.version == Version::V1 { v1::throttling } else { v2::throttling };
            if let Some(found) = parse(text) {
                sheet.set_all(slots, [found.periods, found.throttled, found.seconds].map(Some));
            }
        }
        if let Some((file, slots)) = &mut self.memory {
            let used = file.read().ok().and_then(number);
            sheet.set_all(slots, [used]);
        }
    }
}

/// Files of the own group that are read every time.
#[derive(Debug)]
struct Own {
    groups: Vec<Group>,
    cpu: Option<(Version, ProcFile)>,
    memory_events: Option<(Version, [ProcFile; 2])>,
    io: Option<(Version, [ProcFile; 2])>,
    pressure: Vec<(&'static str, ProcFile)>,
}

/// The collector of one process's cgroup.
#[derive(Debug)]
pub struct CgroupCollector {
    id: ProcessId,
    period: Duration,
    proc: ProcFs,
    memberships: ProcFile,
    /// Data and WAL directory, for the devices whose limits and counters are of interest.
    paths: [std::path::PathBuf; 2],
    devices: Vec<(Number, String)>,
    round: u64,
    /// What `/proc/PID/cgroup` said when the groups were looked for.
    known: String,
    hierarchies: Hierarchies,
    /// Which ancestors had a limit when the files were opened.
    limited: Vec<bool>,
    own: Option<Own>,
    sheet: Sheet,
    info: Option<Slot>,
}

impl CgroupCollector {
    /// For a process below `proc`.
    pub fn new(proc: &ProcFs, process: &EtcdProcess, period: Duration) -> Self {
        let paths = [process.data_dir_here.clone(), process.wal_dir_here.clone()];
        Self::over(proc, process.id, paths, period)
    }

    fn over(proc: &ProcFs, id: ProcessId, paths: [std::path::PathBuf; 2], period: Duration) -> Self {
        Self {
            id,
            period,
            memberships: ProcFile::new(proc.path(id.pid, "cgroup")),
            proc: proc.clone(),
            paths,
            devices: Vec::new(),
            round: 0,
            known: String::new(),
            hierarchies: Hierarchies::default(),
            limited: Vec::new(),
            own: None,
            sheet: Sheet::new(period),
            info: None,
        }
    }

    fn sample(&mut self) -> Result<(), CollectError> {
        if self.round.is_multiple_of(LIMITS_EVERY) || self.own.is_none() {
            self.look()?;
        }
        self.round += 1;
        let Some(own) = &mut self.own else { return Ok(()) };
        let sheet = &mut self.sheet;
        own.groups.iter_mut().for_each(|group| group.add(sheet));
        if let Some((version, file)) = &mut own.cpu
            && let Ok(text) = file.read()
        {
            let seconds = match version {
                Version::V1 => number(text).map(|ns| ns / 1e9),
                Version::V2 => v2::cpu_seconds(text),
            };
            set_counter(sheet, "etcdmon_cgroup_cpu_seconds_total", &[], seconds);
        }
        if let Some((version, [first, second])) = &mut own.memory_events {
            let events = match version {
                Version::V1 => v1::memory_events(first.read().ok(), second.read().ok()),
                Version::V2 => first.read().map(v2::memory_events).unwrap_or_default(),
            };
            let named = [
                ("high", events.high),
                ("max", events.max),
                ("oom", events.oom),
                ("oom_kill", events.oom_kill),
            ];
            for (event, count) in named {
                set_counter(sheet, "etcdmon_cgroup_memory_events_total", &[("event", event)], count);
            }
            set_gauge(sheet, "etcdmon_cgroup_under_oom", &[], events.under_oom);
        }
        if let Some((version, [first, second])) = &mut own.io {
            let numbers: Vec<Number> = self.devices.iter().map(|(number, _)| *number).collect();
            let usage = match version {
                Version::V1 => v1::io_usage(first.read().ok(), second.read().ok(), &numbers),
                Version::V2 => first.read().map(|text| v2::io_usage(text, &numbers)).unwrap_or_default(),
            };
            set_io_usage(sheet, &self.devices, &usage);
        }
        for (resource, file) in &mut own.pressure {
            // Absent without PSI, and an error while it is switched off for the group.
            for (share, seconds) in file.read().into_iter().flat_map(v2::pressure) {
                let labels = [("resource", *resource), ("share", share)];
                set_counter(sheet, "etcdmon_cgroup_pressure_seconds_total", &labels, Some(seconds));
            }
        }
        Ok(())
    }

    /// Finds the groups again if the process was moved, and reads all limits.
    fn look(&mut self) -> Result<(), CollectError> {
        let text = self.memberships.read()?;
        if self.own.is_none() || text != self.known {
            self.known = text.to_owned();
            self.hierarchies = hierarchy::find(&self.proc, self.id.pid, &self.known);
            self.own = None;
        }
        if self.devices.is_empty() {
            self.devices = devices_of(&self.paths);
        }
        let limited = limited(&self.hierarchies);
        if self.own.is_none() || limited != self.limited {
            self.limited = limited;
            self.own = Some(self.open());
        }
        let sheet = &mut self.sheet;
        set_info(sheet, &self.hierarchies, &mut self.info);
        let chain = |controller| self.hierarchies.of(controller);
        let left_out = self.hierarchies.controllers.iter().flatten().map(|chain| chain.left_out).max();
        set_gauge(sheet, "etcdmon_cgroup_levels_left_out", &[], left_out.map(|count| count as f64));
        if let Some(chain) = chain("cpu") {
            set_cpu_limits(sheet, chain);
        }
        if let Some(chain) = chain("cpuset") {
            let list = chain.levels.iter().find_map(|level| match chain.version {
                Version::V1 => v1::cpus(&level.directory),
                Version::V2 => v2::cpus(&level.directory),
            });
            set_gauge(sheet, "etcdmon_cgroup_cpuset_cpus", &[], list.as_deref().and_then(count_cpus));
        }
        if let Some(chain) = chain("memory") {
            set_memory_limits(sheet, chain);
        }
        if let Some(chain) = chain("pids") {
            let each = |file: &'static str| {
                chain.levels.iter().map(move |level| text_number(&level.directory, file))
            };
            set_gauge(sheet, "etcdmon_cgroup_pids_limit", &[], smallest(each("pids.max")));
            set_gauge(sheet, "etcdmon_cgroup_pids", &[], each("pids.current").next().flatten());
        }
        if let Some(chain) = chain("blkio") {
            set_io_limits(sheet, chain, &self.devices);
        }
        Ok(())
    }

    /// Opens what is read every time: of the own group, and of those ancestors that have a limit.
    fn open(&mut self) -> Own {
        let file = |level: &Level, name: &str| ProcFile::new(level.directory.join(name));
        let own_of = |chain: Option<&Chain>| chain.map(|chain| (chain.version, chain.levels[0].clone()));
        let (cpuacct, memory, io) = (
            own_of(self.hierarchies.of("cpuacct")),
            own_of(self.hierarchies.of("memory")),
            own_of(self.hierarchies.of("blkio")),
        );
        Own {
            groups: self.groups(),
            cpu: cpuacct.map(|(version, level)| {
                let name = if version == Version::V1 { "cpuacct.usage" } else { "cpu.stat" };
                (version, file(&level, name))
            }),
            memory_events: memory.map(|(version, level)| match version {
                Version::V1 => {
                    (version, [file(&level, "memory.failcnt"), file(&level, "memory.oom_control")])
                }
                Version::V2 => (version, [file(&level, "memory.events"), file(&level, "memory.events")]),
            }),
            io: io.map(|(version, level)| match version {
                Version::V1 => {
                    let names = ["io_service_bytes_recursive", "io_serviced_recursive"];
                    (version, names.map(|name| file(&level, &format!("blkio.throttle.{name}"))))
                }
                Version::V2 => (version, [file(&level, "io.stat"), file(&level, "io.stat")]),
            }),
            pressure: own_of(self.hierarchies.unified.as_ref()).map_or_else(Vec::new, |(_, level)| {
                ["cpu", "io", "memory"].map(|name| (name, file(&level, &format!("{name}.pressure")))).into()
            }),
        }
    }

    fn groups(&mut self) -> Vec<Group> {
        let sheet = &mut self.sheet;
        let mut groups = Vec::new();
        if let Some(chain) = self.hierarchies.of("cpu") {
            for (index, level) in chain.levels.iter().enumerate() {
                if index > 0 && !has_cpu_limit(chain, level) {
                    continue;
                }
                let labels = [("group", level.path.as_str())];
                let slots = sheet.keyed(&format!("throttling {}", level.path), |sheet| {
                    ["periods", "throttled_periods", "throttled_seconds"]
                        .map(|name| sheet.counter(&format!("etcdmon_cgroup_cpu_{name}_total"), &labels))
                        .into()
                });
                let cpu_stat = Some((ProcFile::new(level.directory.join("cpu.stat")), slots));
                groups.push(Group { version: chain.version, cpu_stat, memory: None });
            }
        }
        if let Some(chain) = self.hierarchies.of("memory") {
            for (index, level) in chain.levels.iter().enumerate() {
                if index > 0 && !has_memory_limit(chain, level) {
                    continue;
                }
                let labels = [("group", level.path.as_str())];
                let slots = sheet.keyed(&format!("memory {}", level.path), |sheet| {
                    vec![sheet.gauge("etcdmon_cgroup_memory_used_bytes", &labels)]
                });
                let v1 = chain.version == Version::V1;
                let name = if v1 { "memory.usage_in_bytes" } else { "memory.current" };
                let memory = Some((ProcFile::new(level.directory.join(name)), slots));
                groups.push(Group { version: chain.version, cpu_stat: None, memory });
            }
        }
        groups
    }
}

/// Device numbers and names of everything below the directories.
fn devices_of(paths: &[std::path::PathBuf]) -> Vec<(Number, String)> {
    use std::os::unix::fs::MetadataExt;
    let mut all: Vec<(Number, String)> = Vec::new();
    for path in paths {
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        for device in Stack::below(Path::new("/sys"), Number::of(metadata.dev())).devices {
            if !all.iter().any(|(number, _)| *number == device.number) {
                all.push((device.number, device.name));
            }
        }
    }
    all
}

impl Collector for CgroupCollector {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        self.sample()?;
        Ok(self.sheet.take(Some(self.id), now))
    }
}

#[cfg(test)]
mod tests;
