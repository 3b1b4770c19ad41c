//! Slow syncs that wait for their evidence. Pure.
//!
//! A journal's commit and a neighbour's requests may end a little after the sync that they slowed, and lie in the kernel until
//! they are read: so a sync is examined [`SETTLE`] after its end. Examining costs; only so many are, and of a burst the slowest.
//! Those that are left out are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::threshold::LEAST_NS;
use crate::discover::ProcessId;
use crate::ebpf::SyncRecord;

/// How long after its end a sync is examined.
pub const SETTLE: Duration = Duration::from_millis(100);

/// Slow syncs that are examined a second, those of all members together; as many at once.
pub const PER_SECOND: u64 = 20;

/// Syncs of a member that are examined a second although they are slow only by the least bound: on a disk that is always slow
/// the reason is asked for too.
pub const EXTRA_PER_SECOND: u32 = 2;

/// A sync that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Whose.
    pub process: ProcessId,
    /// The sync.
    pub sync: SyncRecord,
    /// What slow meant for it.
    pub threshold_ns: u64,
    due_ns: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Waiting {
    held: Vec<Held>,
    /// Thousandths of a sync that may be examined.
    tokens: u64,
    filled_ns: Option<u64>,
    /// Of the second since the first number, how many.
    extra: BTreeMap<ProcessId, (u64, u32)>,
    left_out: BTreeMap<ProcessId, u64>,
}

impl Waiting {
    /// Takes a sync if it is slow.
    pub fn push(&mut self, process: ProcessId, sync: &SyncRecord, threshold_ns: u64, now_ns: u64) {
        let latency_ns = nanoseconds(sync.latency);
        if latency_ns < LEAST_NS.min(threshold_ns) {
            return;
        }
        let due_ns = sync.start_mono_ns.saturating_add(latency_ns).saturating_add(nanoseconds(SETTLE));
        // A clock that says nonsense must not keep a sync waiting for ever.
        let due_ns = due_ns.min(now_ns.saturating_add(nanoseconds(SETTLE)));
        let held = Held { process, sync: *sync, threshold_ns, due_ns };
        if latency_ns < threshold_ns {
            if self.may_extra(process, now_ns) {
                self.held.push(held);
            }
            return;
        }
        self.fill(now_ns);
        if self.tokens >= 1_000 {
            self.tokens -= 1_000;
            self.held.push(held);
            return;
        }
        let slow =
            self.held.iter_mut().filter(|held| held.sync.latency >= Duration::from_nanos(held.threshold_ns));
        let quickest = slow.min_by_key(|held| held.sync.latency);
        let left_out = match quickest {
            Some(quickest) if quickest.sync.latency < sync.latency => {
                std::mem::replace(quickest, held).process
            }
            _ => process,
        };
        *self.left_out.entry(left_out).or_default() += 1;
    }

    fn fill(&mut self, now_ns: u64) {
        let full = PER_SECOND * 1_000;
        let Some(filled_ns) = self.filled_ns else {
            (self.filled_ns, self.tokens) = (Some(now_ns), full);
            return;
        };
        let more = now_ns.saturating_sub(filled_ns).min(1_000_000_000) * PER_SECOND / 1_000_000;
        if more > 0 {
            self.filled_ns = Some(now_ns);
            self.tokens = (self.tokens + more).min(full);
        }
    }

    fn may_extra(&mut self, process: ProcessId, now_ns: u64) -> bool {
        let (since_ns, count) = self.extra.entry(process).or_insert((now_ns, 0));
        if now_ns.saturating_sub(*since_ns) >= 1_000_000_000 {
            (*since_ns, *count) = (now_ns, 0);
        }
        *count += 1;
        *count <= EXTRA_PER_SECOND
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Those whose evidence has come, in the order of their begin.
    pub fn due(&mut self, now_ns: u64) -> Vec<Held> {
        let mut due: Vec<Held> = self.held.extract_if(.., |held| held.due_ns <= now_ns).collect();
        due.sort_by_key(|held| (held.sync.start_mono_ns, held.sync.thread_id));
        due
    }

    /// Those of a process that is gone: what can be said of them is said now.
    pub fn gone(&mut self, process: ProcessId) -> Vec<Held> {
        self.extra.remove(&process);
        self.held.extract_if(.., |held| held.process == process).collect()
    }

    /// Slow syncs that were left out since the last call.
    pub fn take_left_out(&mut self) -> BTreeMap<ProcessId, u64> {
        std::mem::take(&mut self.left_out)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use etcdmon_proto::v1::{FileClass, SyncReason};
    use proptest::prelude::*;

    use super::*;

    const A: ProcessId = ProcessId { boot_id: [1; 16], pid: 7, start_ticks: 9 };
    const B: ProcessId = ProcessId { boot_id: [1; 16], pid: 8, start_ticks: 9 };
    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    fn sync(start_mono_ns: u64, latency_ms: u64) -> SyncRecord {
        SyncRecord {
            pid: 7,
            thread_id: 8,
            class: FileClass::Wal,
            reason: SyncReason::Slow,
            start_mono_ns,
            latency: Duration::from_millis(latency_ms),
            run_delay: Duration::ZERO,
            run_time: None,
            written_bytes: 0,
            inode: 1,
            device: 2,
            result: 0,
        }
    }

    fn latencies(held: &[Held]) -> Vec<u128> {
        held.iter().map(|held| held.sync.latency.as_millis()).collect()
    }

    #[test]
    fn a_sync_is_examined_a_little_after_its_end_and_once() {
        let mut waiting = Waiting::default();
        waiting.push(A, &sync(SECOND, 20), LEAST_NS, SECOND + 30 * MS);
        assert!(waiting.due(SECOND + 119 * MS).is_empty() && !waiting.is_empty());
        assert_eq!(waiting.due(SECOND + 120 * MS).len(), 1);
        assert!(waiting.is_empty() && waiting.due(u64::MAX).is_empty());
    }

    #[test]
    fn quick_ones_are_not_taken() {
        let mut waiting = Waiting::default();
        waiting.push(A, &sync(0, 9), LEAST_NS, SECOND);
        assert!(waiting.is_empty() && waiting.take_left_out().is_empty());
    }

    #[test]
    fn on_a_slow_disk_a_few_of_the_usual_ones_are_examined_and_the_others_are_not_missed() {
        let mut waiting = Waiting::default();
        for at in 0..10 {
            waiting.push(A, &sync(at, 20), 40 * MS, SECOND);
        }
        waiting.push(B, &sync(0, 20), 40 * MS, SECOND);
        assert_eq!(waiting.due(u64::MAX).len(), 3);
        waiting.push(A, &sync(0, 20), 40 * MS, 2 * SECOND);
        assert_eq!(waiting.due(u64::MAX).len(), 1, "the next second");
        assert!(waiting.take_left_out().is_empty());
    }

    #[test]
    fn of_a_burst_the_slowest_are_examined_and_the_others_counted() {
        let mut waiting = Waiting::default();
        for at in 0..30 {
            waiting.push(if at < 15 { A } else { B }, &sync(at, 10 + at), LEAST_NS, SECOND);
        }
        assert_eq!(latencies(&waiting.due(u64::MAX)), (20..40).collect::<Vec<u128>>());
        assert_eq!(waiting.take_left_out(), [(A, 10)].into());
        assert!(waiting.take_left_out().is_empty());
    }

    #[test]
    fn the_budget_fills_again() {
        let mut waiting = Waiting::default();
        let mut examined = 0;
        for tick in 0..200 {
            let now_ns = SECOND + tick * 50 * MS;
            for _ in 0..10 {
                waiting.push(A, &sync(now_ns, 10), LEAST_NS, now_ns);
            }
            examined += waiting.due(now_ns + SECOND).len() as u64;
        }
        assert!((200..=220).contains(&examined), "{examined} in ten seconds");
        assert_eq!(waiting.take_left_out()[&A] + examined, 2_000);
    }

    #[test]
    fn those_of_a_process_that_is_gone_are_handed_out_at_once() {
        let mut waiting = Waiting::default();
        waiting.push(A, &sync(SECOND, 20), LEAST_NS, SECOND);
        waiting.push(B, &sync(SECOND, 21), LEAST_NS, SECOND);
        assert_eq!(latencies(&waiting.gone(A)), [20]);
        assert_eq!(latencies(&waiting.due(u64::MAX)), [21]);
    }

    #[test]
    fn a_clock_that_says_nonsense_keeps_nothing_waiting() {
        let mut waiting = Waiting::default();
        waiting.push(A, &sync(u64::MAX - 5, 20), LEAST_NS, SECOND);
        assert_eq!(waiting.due(SECOND + 100 * MS).len(), 1);
    }

    proptest! {
        #[test]
        fn every_slow_sync_is_examined_or_counted_and_few_wait(
            pushes in prop::collection::vec((any::<bool>(), 0u64..100, 0u64..2_000), 0..300),
        ) {
            let mut waiting = Waiting::default();
            let (mut now_ns, mut examined) = (SECOND, 0);
            let slow = pushes.iter().filter(|(_, latency_ms, _)| *latency_ms >= 40).count() as u64;
            for (is_a, latency_ms, pause_us) in pushes {
                now_ns += pause_us * 1_000;
                waiting.push(if is_a { A } else { B }, &sync(now_ns, latency_ms), 40 * MS, now_ns);
                prop_assert!(waiting.held.len() < 80);
                let due = waiting.due(now_ns);
                examined += due.iter().filter(|held| held.sync.latency.as_millis() >= 40).count() as u64;
            }
            examined += waiting.due(u64::MAX).iter().filter(|held| held.sync.latency.as_millis() >= 40).count() as u64;
            prop_assert_eq!(examined + waiting.take_left_out().values().sum::<u64>(), slow);
        }
    }
}
