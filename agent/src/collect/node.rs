//! CPU, memory, load and pressure of the node.

use std::sync::Arc;
use std::time::Duration;

use super::procfile::{ProcFile, number_after};
use super::{CollectError, Collector};
use crate::clock::{Reading, TICKS_PER_SECOND};
use crate::fact::{Fact, Samples, Series};
use crate::hub::Note;

/// Modes of the `cpu` line of `/proc/stat`, in its order.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// Lines of `/proc/meminfo`, in KiB.
const MEMORY: [(&str, &str); 4] = [
    ("MemTotal", "etcdmon_node_memory_bytes"),
    ("MemAvailable", "etcdmon_node_memory_available_bytes"),
    ("Dirty", "etcdmon_node_memory_dirty_bytes"),
    ("Writeback", "etcdmon_node_memory_writeback_bytes"),
];

/// Resources with a file in `/proc/pressure`.
const RESOURCES: [&str; 3] = ["cpu", "io", "memory"];

/// The collector of the node.
#[derive(Debug)]
pub struct NodeCollector {
    period: Duration,
    stat: ProcFile,
    meminfo: ProcFile,
    loadavg: ProcFile,
    pressure: Vec<(ProcFile, [Arc<Series>; 2])>,
    modes: Vec<Arc<Series>>,
    memory: Vec<Arc<Series>>,
    load: Arc<Series>,
}

impl NodeCollector {
    /// Of this node.
    pub fn new(period: Duration) -> Self {
        let seconds = |mode| Series::counter("etcdmon_node_cpu_seconds_total", &[("mode", mode)]);
        let waiting = |resource, share| {
            Series::counter(
                "etcdmon_node_pressure_seconds_total",
                &[("resource", resource), ("share", share)],
            )
        };
        Self {
            period,
            stat: ProcFile::new("/proc/stat"),
            meminfo: ProcFile::new("/proc/meminfo"),
            loadavg: ProcFile::new("/proc/loadavg"),
            pressure: RESOURCES
                .iter()
                .map(|resource| {
                    let file = ProcFile::new(format!("/proc/pressure/{resource}"));
                    (file, [waiting(resource, "some"), waiting(resource, "full")])
                })
                .collect(),
            modes: MODES.iter().map(|mode| seconds(mode)).collect(),
            memory: MEMORY.iter().map(|(_, name)| Series::gauge(name, &[])).collect(),
            load: Series::gauge("etcdmon_node_load1", &[]),
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
        let mut values = Vec::new();
        let cpu = self.stat.read()?.lines().next().unwrap_or_default();
        for (series, word) in self.modes.iter().zip(cpu.split_ascii_whitespace().skip(1)) {
            if let Ok(ticks) = word.parse::<u64>() {
                values.push((Arc::clone(series), ticks as f64 / TICKS_PER_SECOND as f64));
            }
        }
        let meminfo = self.meminfo.read()?;
        for (series, (key, _)) in self.memory.iter().zip(MEMORY) {
            if let Some(kib) = number_after(meminfo, key) {
                values.push((Arc::clone(series), kib as f64 * 1024.0));
            }
        }
        let load = self.loadavg.read()?.split(' ').next().and_then(|word| word.parse().ok());
        values.extend(load.map(|load| (Arc::clone(&self.load), load)));
        for (file, series) in &mut self.pressure {
            // Absent on kernels without PSI.
            let Ok(text) = file.read() else { continue };
            for (line, series) in text.lines().zip(series.iter()) {
                if let Some(total) = line.rsplit("total=").next().and_then(|us| us.parse::<u64>().ok()) {
                    values.push((Arc::clone(series), total as f64 / 1e6));
                }
            }
        }
        Ok(vec![Note::Facts(vec![Fact::Samples(Samples { process: None, mono_ns: now.mono_ns, values })])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_node_under_test_has_cpu_memory_and_load() {
        let facts =
            NodeCollector::new(Duration::from_secs(5)).collect(Reading::now()).await.expect("readable");
        let [Note::Facts(facts)] = facts.as_slice() else { panic!("{facts:?}") };
        let [Fact::Samples(samples)] = facts.as_slice() else { panic!("{facts:?}") };
        let count = |name: &str| samples.values.iter().filter(|(series, _)| series.name == name).count();
        assert_eq!(count("etcdmon_node_cpu_seconds_total"), 8);
        assert_eq!(count("etcdmon_node_memory_available_bytes"), 1);
        assert_eq!(count("etcdmon_node_load1"), 1);
    }
}
