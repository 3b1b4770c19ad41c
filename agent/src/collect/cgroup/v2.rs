//! The files of cgroup version 2 (`Documentation/admin-guide/cgroup-v2.rst`).

use std::path::Path;

use super::{CpuLimit, IoLimit, IoUsage, MemoryEvents, MemoryLimits, Throttling, number, pairs, text};
use crate::collect::disk::device::Number;

/// `max` is no limit, and no number.
fn limit(directory: &Path, file: &str) -> Option<f64> {
    number(&text(directory, file)?)
}

/// `cpu.max`: quota, or `max`, and period.
pub fn cpu_limit(directory: &Path) -> Option<CpuLimit> {
    let text = text(directory, "cpu.max")?;
    let mut words = text.split_ascii_whitespace();
    let quota_us = number(words.next()?)?;
    let period_us = number(words.next()?).filter(|period| *period > 0.0)?;
    Some(CpuLimit { quota_us, period_us })
}

/// `cpu.weight`: 100 is the default.
pub fn cpu_weight(directory: &Path) -> Option<f64> {
    limit(directory, "cpu.weight")
}

/// `io.weight`: `default 100`.
pub fn io_weight(directory: &Path) -> Option<f64> {
    let text = text(directory, "io.weight")?;
    pairs(&text).find(|(key, _)| *key == "default").map(|(_, weight)| weight)
}

/// `cpu.stat`; the groups without the controller have no periods in it.
pub fn throttling(text: &str) -> Option<Throttling> {
    let (mut periods, mut throttled, mut us) = (None, None, None);
    for (key, value) in pairs(text) {
        match key {
            "nr_periods" => periods = Some(value),
            "nr_throttled" => throttled = Some(value),
            "throttled_usec" => us = Some(value),
            _ => {}
        }
    }
    Some(Throttling { periods: periods?, throttled: throttled?, seconds: us? / 1e6 })
}

/// CPU time of `cpu.stat`, in seconds.
pub fn cpu_seconds(text: &str) -> Option<f64> {
    pairs(text).find(|(key, _)| *key == "usage_usec").map(|(_, us)| us / 1e6)
}

/// `cpuset.cpus.effective`, a list such as `0-3,8`.
pub fn cpus(directory: &Path) -> Option<String> {
    text(directory, "cpuset.cpus.effective")
}

/// `memory.max`, `memory.high`, `memory.swap.max`.
pub fn memory_limits(directory: &Path) -> MemoryLimits {
    MemoryLimits {
        max: limit(directory, "memory.max"),
        high: limit(directory, "memory.high"),
        swap: limit(directory, "memory.swap.max"),
    }
}

/// `memory.events`.
pub fn memory_events(text: &str) -> MemoryEvents {
    let count = |wanted| pairs(text).find(|(key, _)| *key == wanted).map(|(_, count)| count);
    MemoryEvents {
        high: count("high"),
        max: count("max"),
        oom: count("oom"),
        oom_kill: count("oom_kill"),
        under_oom: None,
    }
}

/// `io.max` of these devices: lines such as `8:16 rbps=2097152 wbps=max riops=max wiops=120`.
pub fn io_limits(directory: &Path, devices: &[Number]) -> Vec<(Number, IoLimit)> {
    let text = text(directory, "io.max").unwrap_or_default();
    let columns = ["rbps", "wbps", "riops", "wiops"];
    of_devices(&text, devices, columns).map(|(device, values)| (device, IoLimit(values))).collect()
}

/// `io.stat` of these devices: lines such as `8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub fn io_usage(text: &str, devices: &[Number]) -> Vec<(Number, IoUsage)> {
    let columns = ["rbytes", "wbytes", "rios", "wios"];
    of_devices(text, devices, columns).map(|(device, values)| (device, IoUsage(values))).collect()
}

fn of_devices(
    text: &str,
    devices: &[Number],
    columns: [&'static str; 4],
) -> impl Iterator<Item = (Number, [Option<f64>; 4])> {
    text.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let device = Number::parse(words.next()?).filter(|device| devices.contains(device))?;
        let mut values = [None; 4];
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            if let Some(index) = columns.iter().position(|known| *known == key) {
                values[index] = number(value);
            }
        }
        Some((device, values))
    })
}

/// Lines of `cpu.pressure` and its like: share (`some`, `full`) and the time stalled, in seconds.
pub fn pressure(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().filter_map(|line| {
        let (share, rest) = line.split_once(' ')?;
        let total_us = number(rest.rsplit_once("total=")?.1)?;
        Some((share, total_us / 1e6))
    })
}
