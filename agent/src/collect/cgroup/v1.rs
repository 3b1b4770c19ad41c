//! The files of cgroup version 1 (`Documentation/admin-guide/cgroup-v1`), and of the CPU controller
//! (`Documentation/scheduler/sched-bwc.rst`).

use std::path::Path;

use super::{CpuLimit, IoLimit, IoUsage, MemoryEvents, MemoryLimits, Throttling, number, pairs, text};
use crate::collect::disk::device::Number;

/// No limit is written as the greatest number of pages.
const UNLIMITED: f64 = (1_u64 << 62) as f64;

fn limit(directory: &Path, file: &str) -> Option<f64> {
    number(&text(directory, file)?).filter(|bytes| *bytes < UNLIMITED)
}

/// `cpu.cfs_quota_us` and `cpu.cfs_period_us`; a quota of −1 is none.
pub fn cpu_limit(directory: &Path) -> Option<CpuLimit> {
    let quota_us = number(&text(directory, "cpu.cfs_quota_us")?).filter(|quota| *quota > 0.0)?;
    let period_us = number(&text(directory, "cpu.cfs_period_us")?).filter(|period| *period > 0.0)?;
    Some(CpuLimit { quota_us, period_us })
}

/// `cpu.shares`: 1024 is the default.
pub fn cpu_shares(directory: &Path) -> Option<f64> {
    number(&text(directory, "cpu.shares")?)
}

/// `cpu.stat`.
pub fn throttling(text: &str) -> Option<Throttling> {
    let (mut periods, mut throttled, mut ns) = (None, None, None);
    for (key, value) in pairs(text) {
        match key {
            "nr_periods" => periods = Some(value),
            "nr_throttled" => throttled = Some(value),
            "throttled_time" => ns = Some(value),
            _ => {}
        }
    }
    Some(Throttling { periods: periods?, throttled: throttled?, seconds: ns? / 1e9 })
}

/// `cpuset.effective_cpus`, a list such as `0-3,8`.
pub fn cpus(directory: &Path) -> Option<String> {
    text(directory, "cpuset.effective_cpus").or_else(|| text(directory, "cpuset.cpus"))
}

/// `memory.limit_in_bytes`, and of swap what `memory.memsw.limit_in_bytes` allows beyond.
pub fn memory_limits(directory: &Path) -> MemoryLimits {
    let max = limit(directory, "memory.limit_in_bytes");
    let both = limit(directory, "memory.memsw.limit_in_bytes");
    MemoryLimits { max, high: None, swap: both.zip(max).map(|(both, max)| (both - max).max(0.0)) }
}

/// `memory.failcnt` (how often the limit was hit) and `memory.oom_control`.
pub fn memory_events(failures: Option<&str>, oom_control: Option<&str>) -> MemoryEvents {
    let oom = |wanted| oom_control.and_then(|text| pairs(text).find(|(key, _)| *key == wanted));
    MemoryEvents {
        max: failures.and_then(number),
        oom_kill: oom("oom_kill").map(|(_, count)| count),
        under_oom: oom("under_oom").map(|(_, flag)| flag),
        ..MemoryEvents::default()
    }
}

/// `blkio.throttle.*_device` of these devices.
pub fn io_limits(directory: &Path, devices: &[Number]) -> Vec<(Number, IoLimit)> {
    let mut all: Vec<(Number, IoLimit)> =
        devices.iter().map(|device| (*device, IoLimit::default())).collect();
    let files = ["read_bps", "write_bps", "read_iops", "write_iops"];
    for (index, file) in files.iter().enumerate() {
        let Some(text) = text(directory, &format!("blkio.throttle.{file}_device")) else { continue };
        for line in text.lines() {
            let Some((device, value)) = line.split_once(' ') else { continue };
            let device = Number::parse(device);
            if let Some((_, limit)) = all.iter_mut().find(|(known, _)| Some(*known) == device) {
                limit.0[index] = number(value);
            }
        }
    }
    all
}

/// `blkio.throttle.io_service_bytes_recursive` and `blkio.throttle.io_serviced_recursive`: lines such as `8:0 Write 4096`.
pub fn io_usage(bytes: Option<&str>, operations: Option<&str>, devices: &[Number]) -> Vec<(Number, IoUsage)> {
    let mut all: Vec<(Number, IoUsage)> = Vec::new();
    for (text, offset) in [(bytes, 0), (operations, 2)] {
        for line in text.unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(device), Some(kind)) = (words.next().and_then(Number::parse), words.next()) else {
                continue;
            };
            let column = match kind {
                "Read" => 0,
                "Write" => 1,
                _ => continue,
            };
            if !devices.contains(&device) {
                continue;
            }
            let value = words.next().and_then(number);
            match all.iter_mut().find(|(known, _)| *known == device) {
                Some((_, usage)) => usage.0[offset + column] = value,
                None => {
                    let mut usage = IoUsage::default();
                    usage.0[offset + column] = value;
                    all.push((device, usage));
                }
            }
        }
    }
    all
}
