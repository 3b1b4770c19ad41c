//! The last seconds of a member: differences of its live messages. Pure.
//!
//! Agents send cumulative counters, so a lost message heals with the next one, whose difference then covers both. Nothing is
//! made up: after a new epoch, another agent, another process or a long gap the next message is only a new base, and a counter
//! that went backwards is not known for that second.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use etcdmon_proto::v1;
use uuid::Uuid;

use super::SLOW;
use crate::clock::At;
use crate::cluster::{LONGEST_DELTA, Window};

/// Seconds that are kept: what a window needs.
const KEPT: usize = 6;

/// Slower syncs of the backend are no part of healthy load; it syncs megabytes at a time.
const VERY_SLOW: Duration = Duration::from_millis(100);

/// Fewer syncs in a second say nothing of what is usual.
const USUAL_LEAST: u64 = 5;

/// A second is calm when less than one in so many of its syncs is slow.
const USUAL_CALM: u64 = 20;

/// Usual is learnt over about so many seconds.
const USUAL_OVER: u32 = 60;

/// Calm seconds before usual is known.
const USUAL_KNOWN: u32 = 10;

/// What a live message says of a member, as far as it matters here.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When it was received.
    pub at: At,
    /// Who sent it: agent and its epoch.
    pub source: (Uuid, String),
    /// The member's process.
    pub process: Option<v1::Process>,
    /// Path of its cgroup; empty when not known.
    pub cgroup: String,
    /// Whether it runs.
    pub running: bool,
    /// Slow syncs so far.
    pub slow: Option<v1::LiveSlowSyncs>,
    /// Its vitals.
    pub vitals: Option<v1::LiveVitals>,
    /// Why it does not serve, by its log; `None` while it does.
    pub failure: Option<String>,
    /// The agent's wall clock minus ours, transport included, in nanoseconds.
    pub clock_offset_ns: i64,
}

/// Syncs of one class that ended in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Syncs {
    /// All of them.
    pub count: u64,
    /// Those of [`SLOW`] and more.
    pub slow: u64,
    /// The time those took, by the midpoints of the histogram's buckets.
    pub slow_ns: u64,
    /// Those of 100 ms and more.
    pub very_slow: u64,
    /// The time those took.
    pub very_slow_ns: u64,
    /// The latency that a tenth stays below; 0 without syncs.
    pub p10_ns: u64,
    /// The median; 0 without syncs.
    pub p50_ns: u64,
    /// The latency that one in a hundred exceeds; 0 without syncs.
    pub p99_ns: u64,
}

impl Syncs {
    /// Of a window of the model.
    pub fn of(window: &Window) -> Self {
        let quantile = |quantile| window.quantile(quantile).map_or(0, nanos);
        Self {
            count: window.count,
            slow: window.count_at_least(SLOW),
            slow_ns: nanos(window.time_at_least(SLOW)),
            very_slow: window.count_at_least(VERY_SLOW),
            very_slow_ns: nanos(window.time_at_least(VERY_SLOW)),
            p10_ns: quantile(0.1),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
        }
    }
}

/// Vitals of a second. `None` = not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// Time that its threads ran.
    pub on_cpu_ns: Option<u64>,
    /// Time that they could have run, but had no CPU.
    pub run_delay_ns: Option<u64>,
    /// Tightest CPU quota, in thousandths of a CPU.
    pub quota_millicpus: Option<u64>,
    /// Time that quota refused.
    pub throttled_ns: Option<u64>,
    /// Periods in which it did.
    pub throttled_periods: Option<u64>,
    /// Time that it was stopped by signals.
    pub stopped_ns: Option<u64>,
    /// Signals that came since the message before.
    pub signals: Vec<v1::LiveSignal>,
    /// When it was last stopped and did not go on, by its node's clock put on ours.
    pub stopped_since: Option<At>,
    /// Time that the hypervisor took, of all CPUs.
    pub steal_ns: Option<u64>,
    /// Time that CPUs had nothing to do, or waited for disks.
    pub idle_ns: Option<u64>,
    /// CPUs of the node; 0 = not known.
    pub cpus: u32,
    /// Who else used CPUs in the last second, the worst first.
    pub cpu_users: Vec<v1::LiveCpuUser>,
    /// Room on the filesystem of the data directory.
    pub free_bytes: Option<u64>,
    /// Its size.
    pub size_bytes: Option<u64>,
    /// Inodes left on it.
    pub inodes_free: Option<u64>,
    /// Requests that failed.
    pub io_errors: u64,
    /// Syncs that failed.
    pub sync_errors: u64,
    /// The last error of either, as a positive errno; 0 = none.
    pub last_errno: i32,
    /// Whether its cgroup limits IO on one of its disks.
    pub io_limited: Option<bool>,
    /// Who changed metadata on its filesystems.
    pub journal_users: Vec<v1::LiveCulprit>,
    /// How fast others use up the room.
    pub grown_bytes_per_s: Option<u64>,
    /// Who writes most on the disk that is nearly full.
    pub fillers: Vec<v1::LiveCulprit>,
}

/// What happened between two messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Second {
    /// The message before.
    pub from: At,
    /// The message.
    pub at: At,
    /// WAL syncs.
    pub wal: Syncs,
    /// Syncs of the backend.
    pub backend: Syncs,
    /// Slow syncs that were examined: totals are differences.
    pub slow: v1::LiveSlowSyncs,
    /// Vitals; all unknown when the agent does not send them.
    pub vitals: Vitals,
}

impl Second {
    /// How long it was, in nanoseconds; at least one.
    pub fn span_ns(&self) -> u64 {
        nanos(self.at.since(self.from)).max(1)
    }
}

/// How long the member's WAL syncs usually take.
#[derive(Debug, Clone, Copy, Default)]
struct Usual {
    p50_ns: f64,
    seconds: u32,
}

impl Usual {
    /// Only calm seconds count, so that trouble does not become usual.
    fn learn(&mut self, syncs: &Syncs) {
        if syncs.count < USUAL_LEAST || syncs.slow.saturating_mul(USUAL_CALM) > syncs.count {
            return;
        }
        self.seconds = (self.seconds + 1).min(USUAL_OVER);
        self.p50_ns += (syncs.p50_ns as f64 - self.p50_ns) / f64::from(self.seconds);
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    last: Option<Sample>,
    seconds: VecDeque<Second>,
    usual: Usual,
}

impl Trail {
    /// The last message that was taken.
    pub fn last(&self) -> Option<&Sample> {
        self.last.as_ref()
    }

    /// The last seconds, oldest first, without a gap between them.
    pub const fn seconds(&self) -> &VecDeque<Second> {
        &self.seconds
    }

    /// The median of its WAL syncs in calm seconds; `None` until enough of them were seen.
    pub fn usual(&self) -> Option<Duration> {
        (self.usual.seconds >= USUAL_KNOWN).then(|| Duration::from_nanos(self.usual.p50_ns as u64))
    }

    /// Takes a message. `syncs` are the latencies of a class that ended in the given span before it. False when it was not
    /// newer than the last one.
    pub fn take(&mut self, sample: Sample, syncs: impl Fn(v1::FileClass, Duration) -> Window) -> bool {
        let Some(last) = &self.last else {
            self.last = Some(sample);
            return true;
        };
        if sample.at <= last.at {
            return false;
        }
        let span = sample.at.since(last.at);
        if last.source != sample.source || span > LONGEST_DELTA {
            self.seconds.clear();
        } else {
            let second = Second {
                from: last.at,
                at: sample.at,
                wal: Syncs::of(&syncs(v1::FileClass::Wal, span)),
                backend: Syncs::of(&syncs(v1::FileClass::Backend, span)),
                slow: slow_difference(last.slow.as_ref(), sample.slow.as_ref()),
                vitals: vitals_difference(last, &sample),
            };
            self.usual.learn(&second.wal);
            self.seconds.push_back(second);
            if self.seconds.len() > KEPT {
                self.seconds.pop_front();
            }
        }
        self.last = Some(sample);
        true
    }
}

/// What `now` has more than `before`; nothing when a sum went backwards, which means that its agent began anew.
fn slow_difference(before: Option<&v1::LiveSlowSyncs>, now: Option<&v1::LiveSlowSyncs>) -> v1::LiveSlowSyncs {
    let (nothing, Some(now)) = (v1::LiveSlowSyncs::default(), now) else { return Default::default() };
    let before = before.unwrap_or(&nothing);
    sums_difference(before, now).unwrap_or_default()
}

fn sums_difference(before: &v1::LiveSlowSyncs, now: &v1::LiveSlowSyncs) -> Option<v1::LiveSlowSyncs> {
    let wait_ns = now.wait_ns_total.checked_sub(before.wait_ns_total)?;
    Some(v1::LiveSlowSyncs {
        examined_total: now.examined_total.checked_sub(before.examined_total)?,
        left_out_total: now.left_out_total.checked_sub(before.left_out_total)?,
        latency_ns_total: now.latency_ns_total.checked_sub(before.latency_ns_total)?,
        parts_total: Some(parts_difference(
            &before.parts_total.unwrap_or_default(),
            &now.parts_total.unwrap_or_default(),
        )?),
        wait_ns_total: wait_ns,
        culprits: culprits_difference(&before.culprits, &now.culprits, wait_ns),
        slowest_wall_ns: now.slowest_wall_ns,
        slowest_latency_ns: now.slowest_latency_ns,
        slowest_parts: now.slowest_parts,
    })
}

fn parts_difference(before: &v1::SlowSyncParts, now: &v1::SlowSyncParts) -> Option<v1::SlowSyncParts> {
    Some(v1::SlowSyncParts {
        on_cpu_ns: now.on_cpu_ns.checked_sub(before.on_cpu_ns)?,
        run_queue_ns: now.run_queue_ns.checked_sub(before.run_queue_ns)?,
        journal_ns: now.journal_ns.checked_sub(before.journal_ns)?,
        queue_ns: now.queue_ns.checked_sub(before.queue_ns)?,
        device_ns: now.device_ns.checked_sub(before.device_ns)?,
        flush_ns: now.flush_ns.checked_sub(before.flush_ns)?,
        throttle_ns: now.throttle_ns.checked_sub(before.throttle_ns)?,
        steal_ns: now.steal_ns.checked_sub(before.steal_ns)?,
        unexplained_ns: now.unexplained_ns.checked_sub(before.unexplained_ns)?,
        journal_device_ns: now.journal_device_ns.checked_sub(before.journal_device_ns)?,
        journal_queue_ns: now.journal_queue_ns.checked_sub(before.journal_queue_ns)?,
        journal_flush_ns: now.journal_flush_ns.checked_sub(before.journal_flush_ns)?,
        cpu_quota_ns: now.cpu_quota_ns.checked_sub(before.cpu_quota_ns)?,
    })
}

/// Who a culprit is for us. What changes while it is the same (thread's name, a path learnt later) does not count for a process.
type Who<'a> = (i32, u32, &'a str, &'a str);

fn who(culprit: &v1::LiveCulprit) -> Who<'_> {
    if culprit.process_id == 0 {
        (culprit.origin, 0, &culprit.cgroup, &culprit.comm)
    } else {
        (culprit.origin, culprit.process_id, "", "")
    }
}

/// Culprits that did something, with what they did. One that the agent forgot in between began anew at zero.
fn culprits_difference(
    before: &[v1::LiveCulprit],
    now: &[v1::LiveCulprit],
    wait_ns: u64,
) -> Vec<v1::LiveCulprit> {
    // Several files of one unknown writer look the same from here.
    let mut sums: BTreeMap<Who<'_>, v1::LiveCulprit> = BTreeMap::new();
    for culprit in now {
        let sum = sums.entry(who(culprit)).or_insert_with(|| v1::LiveCulprit {
            syncs_total: 0,
            wait_ns_total: 0,
            bytes_total: 0,
            ..culprit.clone()
        });
        sum.syncs_total = sum.syncs_total.saturating_add(culprit.syncs_total);
        sum.wait_ns_total = sum.wait_ns_total.saturating_add(culprit.wait_ns_total);
        sum.bytes_total = sum.bytes_total.saturating_add(culprit.bytes_total);
    }
    let old = |wanted: &Who<'_>| {
        let same = before.iter().filter(|culprit| who(culprit) == *wanted);
        same.fold((0_u64, 0_u64, 0_u64), |(syncs, wait, bytes), culprit| {
            (
                syncs.saturating_add(culprit.syncs_total),
                wait.saturating_add(culprit.wait_ns_total),
                bytes.saturating_add(culprit.bytes_total),
            )
        })
    };
    let mut changed = Vec::new();
    for (who, sum) in &mut sums {
        let (syncs, wait, bytes) = old(who);
        let differences = (
            sum.syncs_total.checked_sub(syncs),
            sum.wait_ns_total.checked_sub(wait),
            sum.bytes_total.checked_sub(bytes),
        );
        if let (Some(syncs), Some(wait), Some(bytes)) = differences {
            (sum.syncs_total, sum.wait_ns_total, sum.bytes_total) = (syncs, wait, bytes);
        }
        // Nobody has waited longer for one than for all.
        sum.wait_ns_total = sum.wait_ns_total.min(wait_ns);
        if sum.syncs_total > 0 || sum.wait_ns_total > 0 {
            changed.push(std::mem::take(sum));
        }
    }
    changed
}

fn vitals_difference(before: &Sample, now: &Sample) -> Vitals {
    let Some(new) = &now.vitals else { return Vitals::default() };
    let nothing = v1::LiveVitals::default();
    let old = before.vitals.as_ref().unwrap_or(&nothing);
    // Another process counts anew, and may well be above the old one's count by now.
    let is_same_process = before.process == now.process;
    let count = |old: Option<u64>, new: Option<u64>| difference(old, new).filter(|_| is_same_process);
    let errors = |old: Option<u64>, new: Option<u64>| {
        let old = if is_same_process { old.or(new) } else { Some(0) };
        difference(old, new).unwrap_or(0)
    };
    let is_new = |signal: &&v1::LiveSignal| !old.signals.contains(signal);
    Vitals {
        on_cpu_ns: count(old.on_cpu_ns_total, new.on_cpu_ns_total),
        run_delay_ns: count(old.run_delay_ns_total, new.run_delay_ns_total),
        quota_millicpus: new.cpu_quota_millicpus,
        throttled_ns: count(old.cpu_throttled_ns_total, new.cpu_throttled_ns_total),
        throttled_periods: count(old.cpu_throttled_periods_total, new.cpu_throttled_periods_total),
        stopped_ns: count(old.stopped_ns_total, new.stopped_ns_total),
        signals: match &before.vitals {
            Some(_) => new.signals.iter().filter(is_new).cloned().collect(),
            None => Vec::new(),
        },
        stopped_since: stopped_since(now, new),
        steal_ns: count(old.steal_ns_total, new.steal_ns_total),
        idle_ns: count(old.node_idle_ns_total, new.node_idle_ns_total),
        cpus: new.node_cpus,
        cpu_users: new.cpu_users.clone(),
        free_bytes: new.disk_free_bytes,
        size_bytes: new.disk_size_bytes,
        inodes_free: new.inodes_free,
        io_errors: errors(old.io_errors_total, new.io_errors_total),
        sync_errors: errors(old.sync_errors_total, new.sync_errors_total),
        last_errno: new.last_errno,
        io_limited: new.io_limited,
        journal_users: new.journal_users.clone(),
        grown_bytes_per_s: new.disk_grown_by_others_bytes_per_s,
        fillers: new.disk_fillers.clone(),
    }
}

/// Since when it stands still: its last signal stopped it.
fn stopped_since(now: &Sample, vitals: &v1::LiveVitals) -> Option<At> {
    let last = vitals.signals.iter().max_by_key(|signal| signal.wall_ns).filter(|_| now.running)?;
    is_stop(last.signal).then(|| At::from_nanos(last.wall_ns).shifted(now.clock_offset_ns.saturating_neg()))
}

/// SIGSTOP, SIGTSTP, SIGTTIN and SIGTTOU (signal(7)).
pub(super) const fn is_stop(signal: u32) -> bool {
    matches!(signal, 19..=22)
}

/// `None` when one of them is not known, or the count went backwards.
fn difference(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?)
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
