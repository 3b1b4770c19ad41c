//! The series of limits: of each the smallest on the way up, which is the one that binds.

use std::path::Path;

use super::hierarchy::{Chain, Hierarchies, Level, Version};
use super::{CpuLimit, IoLimit, IoUsage, MemoryLimits, Throttling, number, pairs, text, v1, v2};
use crate::collect::disk::device::Number;
use crate::collect::sheet::{Sheet, Slot};

/// The smallest of those that are there.
pub fn smallest(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.flatten().reduce(f64::min)
}

/// The limit of CPU time of one group; `None` when it has none.
pub fn cpu_limit(version: Version, directory: &Path) -> Option<CpuLimit> {
    match version {
        Version::V1 => v1::cpu_limit(directory),
        Version::V2 => v2::cpu_limit(directory),
    }
}

/// What that limit has cost so far.
pub fn throttling(version: Version, directory: &Path) -> Option<Throttling> {
    let text = text(directory, "cpu.stat")?;
    match version {
        Version::V1 => v1::throttling(&text),
        Version::V2 => v2::throttling(&text),
    }
}

fn memory_limits(version: Version, directory: &Path) -> MemoryLimits {
    match version {
        Version::V1 => v1::memory_limits(directory),
        Version::V2 => v2::memory_limits(directory),
    }
}

/// True when a group has a limit of CPU time.
pub fn has_cpu_limit(chain: &Chain, level: &Level) -> bool {
    cpu_limit(chain.version, &level.directory).is_some()
}

/// True when a group has a limit of memory.
pub fn has_memory_limit(chain: &Chain, level: &Level) -> bool {
    memory_limits(chain.version, &level.directory) != MemoryLimits::default()
}

/// Which groups have a limit of CPU or memory.
pub fn limited(hierarchies: &Hierarchies) -> Vec<bool> {
    let of = |controller, has: fn(&Chain, &Level) -> bool| {
        let chain = hierarchies.of(controller).into_iter();
        chain.flat_map(move |chain| chain.levels.iter().map(move |level| has(chain, level)))
    };
    of("cpu", has_cpu_limit).chain(of("memory", has_memory_limit)).collect()
}

/// A file of a group that is one number.
pub fn text_number(directory: &Path, file: &str) -> Option<f64> {
    number(&text(directory, file)?)
}

/// Notes a gauge, if it has a value.
pub fn set_gauge(sheet: &mut Sheet, name: &str, labels: &[(&str, &str)], value: Option<f64>) {
    let Some(value) = value else { return };
    let slots = sheet.keyed(&key_of(name, labels), |sheet| vec![sheet.gauge(name, labels)]);
    sheet.set_all(&slots, [Some(value)]);
}

/// Notes a counter, if it has a value.
pub fn set_counter(sheet: &mut Sheet, name: &str, labels: &[(&str, &str)], value: Option<f64>) {
    let Some(value) = value else { return };
    let slots = sheet.keyed(&key_of(name, labels), |sheet| vec![sheet.counter(name, labels)]);
    sheet.set_all(&slots, [Some(value)]);
}

fn key_of(name: &str, labels: &[(&str, &str)]) -> String {
    labels.iter().fold(name.to_owned(), |key, (_, value)| key + "\n" + value)
}

/// `etcdmon_cgroup_info{path, version} 1`; that of a group the process has left ends with 0.
pub fn set_info(sheet: &mut Sheet, hierarchies: &Hierarchies, last: &mut Option<Slot>) {
    let version = hierarchies.version();
    let chain = hierarchies.of("memory").or(hierarchies.unified.as_ref()).or_else(|| hierarchies.of("cpu"));
    let Some(path) = chain.map(|chain| chain.levels[0].path.as_str()) else { return };
    let labels = [("path", path), ("version", version)];
    let slots =
        sheet.keyed(&key_of("info", &labels), |sheet| vec![sheet.gauge("etcdmon_cgroup_info", &labels)]);
    let slot = slots.first().copied();
    if let Some(old) = last.filter(|old| Some(*old) != slot) {
        sheet.set(old, 0.0);
    }
    if let Some(slot) = slot {
        sheet.set(slot, 1.0);
    }
    *last = slot;
}

/// The limit that binds: the smallest on the way up. The quota and period shown are those of that group.
pub fn set_cpu_limits(sheet: &mut Sheet, chain: &Chain) {
    let limits = chain.levels.iter().filter_map(|level| cpu_limit(chain.version, &level.directory));
    let binding = limits.reduce(|one, other| if other.cores() < one.cores() { other } else { one });
    set_gauge(sheet, "etcdmon_cgroup_cpu_limit_cores", &[], binding.map(CpuLimit::cores));
    set_gauge(sheet, "etcdmon_cgroup_cpu_quota_seconds", &[], binding.map(|limit| limit.quota_us / 1e6));
    set_gauge(sheet, "etcdmon_cgroup_cpu_period_seconds", &[], binding.map(|limit| limit.period_us / 1e6));
    let own = &chain.levels[0].directory;
    match chain.version {
        Version::V1 => set_gauge(sheet, "etcdmon_cgroup_cpu_shares", &[], v1::cpu_shares(own)),
        Version::V2 => set_gauge(sheet, "etcdmon_cgroup_cpu_weight", &[], v2::cpu_weight(own)),
    }
}

/// Limits of memory, and what of the own memory is easily given back.
pub fn set_memory_limits(sheet: &mut Sheet, chain: &Chain) {
    let limits: Vec<MemoryLimits> =
        chain.levels.iter().map(|level| memory_limits(chain.version, &level.directory)).collect();
    let effective = |limit: fn(&MemoryLimits) -> Option<f64>| smallest(limits.iter().map(limit));
    set_gauge(sheet, "etcdmon_cgroup_memory_limit_bytes", &[], effective(|limits| limits.max));
    set_gauge(sheet, "etcdmon_cgroup_memory_high_bytes", &[], effective(|limits| limits.high));
    set_gauge(sheet, "etcdmon_cgroup_swap_limit_bytes", &[], effective(|limits| limits.swap));
    let own = &chain.levels[0].directory;
    let key = if chain.version == Version::V1 { "total_inactive_file" } else { "inactive_file" };
    let stat = text(own, "memory.stat").unwrap_or_default();
    let inactive = pairs(&stat).find(|(known, _)| *known == key).map(|(_, bytes)| bytes);
    set_gauge(sheet, "etcdmon_cgroup_memory_inactive_file_bytes", &[], inactive);
}

/// What the columns of [`IoLimit`] and [`IoUsage`] are.
const OPERATIONS: [&str; 4] = ["read", "write", "read", "write"];

/// True when a group of the chain has a limit of IO on one of the devices.
pub fn io_is_limited(chain: &Chain, devices: &[Number]) -> bool {
    chain.levels.iter().any(|level| {
        let limits = match chain.version {
            Version::V1 => v1::io_limits(&level.directory, devices),
            Version::V2 => v2::io_limits(&level.directory, devices),
        };
        limits.iter().any(|(_, IoLimit(limits))| limits.iter().any(Option::is_some))
    })
}

/// Limits of the devices below etcd.
pub fn set_io_limits(sheet: &mut Sheet, chain: &Chain, devices: &[(Number, String)]) {
    let numbers: Vec<Number> = devices.iter().map(|(number, _)| *number).collect();
    let mut effective = vec![IoLimit::default(); devices.len()];
    for level in &chain.levels {
        let limits = match chain.version {
            Version::V1 => v1::io_limits(&level.directory, &numbers),
            Version::V2 => v2::io_limits(&level.directory, &numbers),
        };
        for (number, IoLimit(found)) in limits {
            let Some(index) = numbers.iter().position(|known| *known == number) else { continue };
            for (smallest_yet, found) in effective[index].0.iter_mut().zip(found) {
                *smallest_yet = smallest([*smallest_yet, found].into_iter());
            }
        }
    }
    for ((_, device), IoLimit(limits)) in devices.iter().zip(effective) {
        for (column, limit) in limits.into_iter().enumerate() {
            let unit = if column < 2 { "bytes" } else { "operations" };
            let labels = [("device", device.as_str()), ("operation", OPERATIONS[column])];
            set_gauge(sheet, &format!("etcdmon_cgroup_io_limit_{unit}_per_second"), &labels, limit);
        }
    }
    if chain.version == Version::V2 {
        set_gauge(sheet, "etcdmon_cgroup_io_weight", &[], v2::io_weight(&chain.levels[0].directory));
    }
}

/// What the group read from and wrote to the devices below etcd.
pub fn set_io_usage(sheet: &mut Sheet, devices: &[(Number, String)], usage: &[(Number, IoUsage)]) {
    for (number, IoUsage(values)) in usage {
        let Some((_, device)) = devices.iter().find(|(known, _)| known == number) else { continue };
        for (column, value) in values.iter().enumerate() {
            let unit = if column < 2 { "bytes" } else { "operations" };
            let labels = [("device", device.as_str()), ("operation", OPERATIONS[column])];
            set_counter(sheet, &format!("etcdmon_cgroup_io_{unit}_total"), &labels, *value);
        }
    }
}
