//! What a fault did, by the account of etcd and the kernel: no part of the product is asked.

use std::fs;

use anyhow::{Context, Result};

use super::plan::Fault;
use super::stand::FaultStand;
use crate::metrics::{Metrics, WAL_FSYNC};

/// Syncs beyond this edge of etcd's histogram, in seconds, were felt.
const SLOW_EDGE: f64 = 0.016;

/// So many of them are an effect.
const SLOW_SYNCS: f64 = 5.0;

/// Time in which etcd's threads could have run but had no CPU, per second.
const RUN_DELAY: f64 = 0.2;

/// Share of all CPUs that others than the lab and what it started may take (the kernel's own work included): with more, whoever
/// it is may be the cause of anything.
pub const OTHERS: f64 = 0.35;

/// Share of all CPUs that a healthy load leaves idle.
const IDLE: f64 = 0.05;

/// What etcd counts puts in.
const PUTS: &str = "etcd_mvcc_put_total";

/// Periods in which a CPU quota was used up.
const PERIODS: u64 = 3;

/// What the kernel and etcd say of a member at a moment.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// None = etcd did not answer.
    metrics: Option<Metrics>,
    cpu: Cpu,
    host: Host,
    throttled_periods: u64,
    failed_requests: u64,
}

/// Time of all CPUs of the host, in ticks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host {
    idle: f64,
    all: f64,
    /// Of it, this process's and its children's, those included that have ended.
    own: f64,
}

impl Host {
    /// Reads it.
    pub fn take() -> Self {
        Self { own: own(), ..host(&fs::read_to_string("/proc/stat").unwrap_or_default()) }
    }

    /// Share that was used by others since then.
    pub fn others_since(&self, before: &Self) -> f64 {
        let (all, idle) = (self.all - before.all, self.idle - before.idle);
        ((all - idle - (self.own - before.own)) / all.max(1.0)).clamp(0.0, 1.0)
    }
}

/// Seconds of all threads of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// On a CPU.
    pub on: f64,
    /// Runnable without one.
    pub delay: f64,
}

/// What changed between two moments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effect {
    /// WAL syncs beyond [`SLOW_EDGE`]; none = etcd did not answer, hence died or hung.
    pub slow_syncs: Option<f64>,
    /// All WAL syncs.
    pub syncs: f64,
    /// Mean WAL sync in seconds.
    pub mean: f64,
    /// CPU time.
    pub cpu: Cpu,
    /// Share of the host's CPUs that was idle.
    pub idle: f64,
    /// Puts that it applied, whoever asked for them.
    pub puts: f64,
    /// Periods in which its quota was used up.
    pub throttled_periods: u64,
    /// Requests that its disk refused.
    pub failed_requests: u64,
}

impl Gauge {
    /// Reads it. What can't be read counts as zero.
    pub async fn take(stand: &FaultStand, at: usize) -> Self {
        let member = &stand.cluster.members[at];
        let groups = member.cgroup().ok();
        Self {
            metrics: stand.cluster.metrics(at).await.ok(),
            cpu: member.pid().and_then(cpu).unwrap_or_default(),
            host: Host::take(),
            throttled_periods: groups.and_then(|group| group.throttled_periods().ok()).unwrap_or_default(),
            failed_requests: member.delays().map(|delays| delays.failures()).unwrap_or_default(),
        }
    }

    /// What changed since then.
    pub fn since(&self, before: &Self) -> Effect {
        let mut effect = Effect {
            cpu: Cpu { on: self.cpu.on - before.cpu.on, delay: self.cpu.delay - before.cpu.delay },
            throttled_periods: self.throttled_periods.saturating_sub(before.throttled_periods),
            failed_requests: self.failed_requests.saturating_sub(before.failed_requests),
            idle: (self.host.idle - before.host.idle) / (self.host.all - before.host.all).max(1.0),
            ..Effect::default()
        };
        let (Some(now), Some(then)) = (&self.metrics, &before.metrics) else { return effect };
        effect.slow_syncs = Some(beyond(now, SLOW_EDGE) - beyond(then, SLOW_EDGE));
        effect.syncs = beyond(now, 0.0) - beyond(then, 0.0);
        let sum = |metrics: &Metrics| metrics.value(&format!("{WAL_FSYNC}_sum")).unwrap_or_default();
        effect.mean = (sum(now) - sum(then)) / effect.syncs.max(1.0);
        let puts = |metrics: &Metrics| metrics.value(PUTS).unwrap_or_default();
        effect.puts = puts(now) - puts(then);
        effect
    }
}

impl Effect {
    /// Whether a fault of this kind, over so many seconds, did anything to etcd that is worth a verdict.
    pub fn is_felt(&self, fault: Fault, seconds: f64) -> bool {
        match fault {
            Fault::Stop { .. } | Fault::Full { .. } => true,
            // A load that takes all CPUs is no healthy one, and one that does not get through is none.
            Fault::Load { rate, .. } => self.idle >= IDLE && self.puts >= f64::from(rate) * seconds / 2.0,
            Fault::Errors { .. } => self.failed_requests > 0,
            Fault::Hogs { .. } => self.cpu.delay >= RUN_DELAY * seconds,
            Fault::Quota { .. } => self.throttled_periods >= PERIODS,
            _ => self.slow_syncs.is_none_or(|count| count >= SLOW_SYNCS),
        }
    }

    /// In words, for a fault of this kind.
    pub fn words(&self, fault: Fault) -> String {
        let syncs = match self.slow_syncs {
            Some(slow) => {
                format!("{slow:.0} of {:.0} syncs > 16 ms, mean {:.1} ms", self.syncs, self.mean * 1e3)
            }
            None => "etcd did not answer".to_owned(),
        };
        match fault {
            Fault::Load { .. } => {
                format!("{:.0} puts, {:.0} % of the CPUs idle; {syncs}", self.puts, self.idle * 100.0)
            }
            Fault::Errors { .. } => format!("{} requests failed; {syncs}", self.failed_requests),
            Fault::Hogs { .. } => format!("{:.1} s without a CPU; {syncs}", self.cpu.delay),
            Fault::Quota { .. } => format!("quota used up {} times; {syncs}", self.throttled_periods),
            _ => syncs,
        }
    }
}

/// Observations beyond an edge of etcd's WAL histogram.
fn beyond(metrics: &Metrics, edge: f64) -> f64 {
    let buckets = metrics.buckets(WAL_FSYNC);
    let all = buckets.last().map_or(0.0, |(_, count)| *count);
    let within =
        buckets.iter().rfind(|(upper, _)| *upper <= edge * 1.000_001).map_or(0.0, |(_, count)| *count);
    all - within
}

/// The first line of `/proc/stat`.
fn host(stat: &str) -> Host {
    let numbers = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests have is in user already.
    let of = |places: &[usize]| places.iter().filter_map(|place| ticks.get(*place)).sum();
    Host { idle: of(&[3, 4]), all: of(&[0, 1, 2, 3, 4, 5, 6, 7]), own: 0.0 }
}

/// What this process and its descendants have used, in ticks.
fn own() -> f64 {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
        {
            processes.extend(process(&stat));
        }
    }
    descendants(&processes, std::process::id()).iter().map(|one| one.ticks).sum()
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Running {
    id: u32,
    parent: u32,
    /// User and system, its own and its ended children's.
    ticks: f64,
}

/// A line of `/proc/PID/stat`; the name in brackets may hold anything.
fn process(stat: &str) -> Option<Running> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some(Running { id: head.split(' ').next()?.parse().ok()?, parent: fields.get(1)?.parse().ok()?, ticks })
}

fn descendants(all: &[Running], root: u32) -> Vec<Running> {
    let mut found: Vec<Running> = all.iter().filter(|one| one.id == root).copied().collect();
    let mut at = 0;
    while at < found.len() {
        let parent = found[at].id;
        found.extend(all.iter().filter(|one| one.parent == parent).copied());
        at += 1;
    }
    found
}

/// What all threads of a process have had, and lacked.
///
/// # Errors
/// When it is gone.
pub fn cpu(pid: u32) -> Result<Cpu> {
    let mut sum = Cpu::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("list threads")?.flatten() {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let mut numbers = text.split_whitespace().filter_map(|number| number.parse::<f64>().ok());
        sum.on += numbers.next().unwrap_or_default() / 1e9;
        sum.delay += numbers.next().unwrap_or_default() / 1e9;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(quick: u32, slow: u32, sum: f64) -> Gauge {
        let text = format!(
            "{WAL_FSYNC}_bucket{{le=\"0.008\"}} {quick}\n{WAL_FSYNC}_bucket{{le=\"0.016\"}} {quick}\n\
             {WAL_FSYNC}_bucket{{le=\"+Inf\"}} {}\n{WAL_FSYNC}_sum {sum}\n",
            quick + slow
        );
        Gauge {
            metrics: Some(Metrics::parse(&text)),
            cpu: Cpu::default(),
            host: Host::default(),
            throttled_periods: 0,
            failed_requests: 0,
        }
    }

    const SLOW: Fault = Fault::Slow { write_us: 1, flush_us: 0 };

    #[test]
    fn slow_syncs_are_counted_by_etcds_own_histogram() {
        let effect = gauge(100, 8, 2.0).since(&gauge(92, 0, 1.0));
        assert_eq!((effect.slow_syncs, effect.syncs), (Some(8.0), 16.0));
        assert!((effect.mean - 0.0625).abs() < 1e-9);
        assert!(effect.is_felt(SLOW, 6.0));
        assert!(!gauge(100, 4, 2.0).since(&gauge(92, 0, 1.0)).is_felt(SLOW, 6.0));
    }

    #[test]
    fn an_etcd_that_does_not_answer_felt_it() {
        let dead = Gauge { metrics: None, ..gauge(0, 0, 0.0) };
        assert!(dead.since(&gauge(1, 0, 0.0)).is_felt(SLOW, 6.0));
    }

    #[test]
    fn each_fault_is_felt_where_it_acts() {
        let hogs = Fault::Hogs { threads: 1, urgent: 0, within: false };
        let effect = Effect { cpu: Cpu { on: 0.0, delay: 1.5 }, slow_syncs: Some(0.0), ..Effect::default() };
        assert!(effect.is_felt(hogs, 6.0) && !effect.is_felt(hogs, 60.0));
        assert!(!effect.is_felt(Fault::Quota { percent: 1 }, 6.0) && !effect.is_felt(SLOW, 6.0));
        assert!(effect.is_felt(Fault::Stop { millis: 300, leaves: true }, 6.0));
    }

    #[test]
    fn a_load_that_leaves_no_cpu_idle_or_does_not_get_through_is_not_a_healthy_one() {
        let at = |text: &str, puts: u32| {
            let metrics = Metrics::parse(&format!("{PUTS} {puts}\n"));
            Gauge { host: host(text), metrics: Some(metrics), ..gauge(1, 0, 0.0) }
        };
        let before = at("cpu  100 0 100 100 0 0 0 0 50 50\ncpu0 1\n", 1_000);
        let load = Fault::Load { rate: 1_000, clients: 1 };
        let (some_idle, none_idle) = ("cpu  180 0 100 110 10 0 0 0 99 99\n", "cpu  196 0 100 104 0 0 0 0\n");
        let effect = at(some_idle, 6_500).since(&before);
        assert!((effect.idle - 0.2).abs() < 1e-9 && effect.is_felt(load, 6.0));
        assert!(!at(none_idle, 6_500).since(&before).is_felt(load, 6.0));
        assert!(!at(some_idle, 1_600).since(&before).is_felt(load, 6.0), "the usual 100 a second");
    }

    #[test]
    fn what_the_lab_and_its_children_use_is_not_others() {
        let stat = |id: u32, parent: u32, user: u32, ended: u32| {
            process(&format!("{id} (a) b) S {parent} 1 1 0 -1 4 1 2 3 4 {user} 10 {ended} 0 20 0 1 0 1"))
                .unwrap()
        };
        let all = [stat(7, 1, 100, 50), stat(9, 8, 30, 0), stat(8, 7, 20, 0), stat(5, 1, 999, 0)];
        let ours: Vec<(u32, f64)> = descendants(&all, 7).iter().map(|one| (one.id, one.ticks)).collect();
        assert_eq!(ours, [(7, 160.0), (8, 30.0), (9, 40.0)]);
        let before = Host { idle: 100.0, all: 200.0, own: 50.0 };
        let after = Host { idle: 120.0, all: 300.0, own: 100.0 };
        assert!((after.others_since(&before) - 0.3).abs() < 1e-9);
        assert!(own() >= 0.0 && process("nonsense").is_none());
    }

    #[test]
    fn this_process_has_used_a_cpu() {
        assert!(cpu(std::process::id()).unwrap().on > 0.0);
        assert!(cpu(u32::MAX).is_err());
    }
}
