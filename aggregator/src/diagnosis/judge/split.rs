//! Where the time of the examined slow syncs went, as shares.

use super::words::percent;
use crate::diagnosis::Facts;
use crate::diagnosis::share;

/// Slow syncs that say something together ...
const LEAST_EXAMINED: u64 = 3;

/// ... or two, when nearly all time goes into them: on a disk that takes seconds there are not more.
const LEAST_WHEN_HANGING: u64 = 2;

/// Nearly all time.
const HANGING: f64 = 0.6;

/// Shares of the latency of slow syncs, unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Split {
    /// Latency of an average one, in nanoseconds.
    pub mean_ns: f64,
    /// The threads ran.
    pub on_cpu: f64,
    /// They had no CPU, the quota apart.
    pub run_queue: f64,
    /// They had used up the quota.
    pub quota: f64,
    /// The journal committed.
    pub journal: f64,
    /// Of that: on the device.
    pub journal_device: f64,
    /// Of that: waiting for the device.
    pub journal_queue: f64,
    /// Of that: flushing.
    pub journal_flush: f64,
    /// Waiting for the device.
    pub queue: f64,
    /// On the device.
    pub device: f64,
    /// Flushing.
    pub flush: f64,
    /// Held back by a limit.
    pub throttle: f64,
    /// The hypervisor's.
    pub steal: f64,
    /// No evidence.
    pub unexplained: f64,
    /// Waiting for disks, whatever for: what neighbours share.
    pub wait: f64,
    /// Of the wait: neighbours that are known.
    pub neighbours: f64,
    /// Of the wait: somebody of whom too little is known.
    pub vague: f64,
    /// Bytes a second that known neighbours brought to the disk meanwhile.
    pub neighbour_rate: f64,
    /// Bytes a second of all others.
    pub others_rate: f64,
    /// Of the wait: other work of the process itself.
    pub own: f64,
    /// Bytes a second of that.
    pub own_rate: f64,
}

impl Split {
    /// `None` while there is no harm, or too few slow syncs were examined.
    pub fn of(facts: &Facts) -> Option<Self> {
        let slow = &facts.slow;
        let hangs = facts.harm.lost_share >= HANGING && slow.examined >= LEAST_WHEN_HANGING;
        if !facts.harm.is_slow() || slow.latency_ns == 0 || (slow.examined < LEAST_EXAMINED && !hangs) {
            return None;
        }
        let of = |part: u64| share(part, slow.latency_ns);
        let parts = &slow.parts;
        let seconds = slow.latency_ns as f64 / 1e9;
        let (mut known, mut known_bytes, mut vague, mut all_bytes) = (0_u64, 0_u64, 0_u64, 0_u64);
        for other in slow.others.iter().filter(|other| other.is_data()) {
            all_bytes = all_bytes.saturating_add(other.bytes);
            if other.is_sure() {
                known = known.saturating_add(other.wait_ns);
                known_bytes = known_bytes.saturating_add(other.bytes);
            } else {
                vague = vague.saturating_add(other.wait_ns);
            }
        }
        let quota_ns = parts.cpu_quota_ns.min(parts.run_queue_ns);
        Some(Self {
            mean_ns: slow.latency_ns as f64 / slow.examined.max(1) as f64,
            on_cpu: of(parts.on_cpu_ns),
            run_queue: of(parts.run_queue_ns - quota_ns),
            quota: of(quota_ns),
            journal: of(parts.journal_ns),
            journal_device: of(parts.journal_device_ns.min(parts.journal_ns)),
            journal_queue: of(parts.journal_queue_ns.min(parts.journal_ns)),
            journal_flush: of(parts.journal_flush_ns.min(parts.journal_ns)),
            queue: of(parts.queue_ns),
            device: of(parts.device_ns),
            flush: of(parts.flush_ns),
            throttle: of(parts.throttle_ns),
            steal: of(parts.steal_ns),
            unexplained: of(parts.unexplained_ns),
            wait: of(slow.wait_ns),
            neighbours: share(known, slow.wait_ns),
            vague: share(vague, slow.wait_ns),
            neighbour_rate: known_bytes as f64 / seconds,
            others_rate: all_bytes as f64 / seconds,
            own: share(slow.own_wait_ns, slow.wait_ns),
            own_rate: slow.own_bytes as f64 / seconds,
        })
    }

    /// What the journal did beside its requests: waiting for handles, for others' data, for room in its log.
    pub fn journal_rest(&self) -> f64 {
        (self.journal - self.journal_device - self.journal_queue - self.journal_flush).max(0.0)
    }

    /// Whatever has to do with disks.
    pub fn disk(&self) -> f64 {
        (self.wait + self.journal_rest()).min(1.0)
    }

    /// The device at work.
    pub fn service(&self) -> f64 {
        (self.device + self.flush + self.journal_device + self.journal_flush).min(1.0)
    }

    /// Waiting for it to begin.
    pub fn queues(&self) -> f64 {
        (self.queue + self.journal_queue).min(1.0)
    }

    /// In words, the largest first.
    pub fn text(&self) -> String {
        let mut parts = [
            ("on CPU", self.on_cpu),
            ("run queue", self.run_queue),
            ("CPU quota", self.quota),
            ("journal", self.journal),
            ("device queue", self.queue),
            ("device", self.device),
            ("flush", self.flush),
            ("IO limit", self.throttle),
            ("steal", self.steal),
            ("unexplained", self.unexplained),
        ];
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shown = parts.iter().filter(|(_, share)| *share >= 0.01).take(4);
        let texts: Vec<String> = shown.map(|(name, share)| format!("{name} {}", percent(*share))).collect();
        if texts.is_empty() { "nothing is known".to_owned() } else { texts.join(", ") }
    }
}
