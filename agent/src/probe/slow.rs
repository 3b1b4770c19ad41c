//! Slow syncs on the probes' thread: told from the others, kept until their evidence has come, handed to whoever examines them.
//! Whatever slow sync is not examined becomes a loss in the ledger's stream `autopsy`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::examine::{Case, Evidence, Examiner};
use crate::autopsy::threshold::Thresholds;
use crate::autopsy::waiting::{Held, Waiting};
use crate::clock::Reading;
use crate::discover::ProcessId;
use crate::ebpf::SyncRecord;
use crate::fact::{Fact, Lost};

/// Time at the end for what was handed over last.
const FINISH: Duration = Duration::from_secs(1);

/// Between two gatherings of evidence: each reads all that the kernel still holds, which is some milliseconds of a CPU, and a slow disk
/// makes many syncs slow. What the kernel holds reaches back further.
const GATHER_EVERY_NS: u64 = 200_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct SlowSyncs {
    gathered_ns: Option<u64>,
    waiting: Waiting,
    thresholds: Thresholds,
    examiner: Option<Examiner>,
    refused: BTreeMap<ProcessId, u64>,
}

impl SlowSyncs {
    /// Without an examiner every slow sync is left out.
    pub fn new(examiner: Option<Examiner>) -> Self {
        Self { examiner, ..Self::default() }
    }

    /// Takes in a sync that is over.
    pub fn take(&mut self, process: ProcessId, sync: &SyncRecord, now_ns: u64) {
        let threshold_ns = self.thresholds.threshold_ns(process, sync.class);
        self.waiting.push(process, sync, threshold_ns, now_ns);
    }

    /// Learns what is usual from the rows of a second.
    pub fn learn(&mut self, facts: &[Fact]) {
        for fact in facts {
            if let Fact::SyncSecond(second) = fact {
                self.thresholds.note(second.process, second.class, &second.buckets);
            }
        }
    }

    /// Hands over those whose evidence has come.
    pub fn examine_due(&mut self, now_ns: u64, gather: impl FnOnce() -> Evidence) {
        let is_early = |gathered_ns: u64| now_ns.saturating_sub(gathered_ns) < GATHER_EVERY_NS;
        if self.waiting.is_empty() || self.gathered_ns.is_some_and(is_early) {
            return;
        }
        let due = self.waiting.due(now_ns);
        if !due.is_empty() {
            self.gathered_ns = Some(now_ns);
        }
        self.hand_over(due, gather);
    }

    /// Hands over those of a process that is gone, and forgets it.
    pub fn gone(&mut self, process: ProcessId, gather: impl FnOnce() -> Evidence) {
        let held = self.waiting.gone(process);
        self.hand_over(held, gather);
        self.thresholds.forget(process);
    }

    fn hand_over(&mut self, syncs: Vec<Held>, gather: impl FnOnce() -> Evidence) {
        if syncs.is_empty() {
            return;
        }
        let refused = match &self.examiner {
            Some(examiner) => examiner.take(Case { syncs, evidence: gather() }).err().unwrap_or_default(),
            None => syncs,
        };
        for held in refused {
            *self.refused.entry(held.process).or_default() += 1;
        }
    }

    /// What was left out since the last call.
    pub fn left_out(&mut self) -> Vec<Fact> {
        let too_many = self.waiting.take_left_out().into_iter();
        let refused = std::mem::take(&mut self.refused).into_iter();
        too_many
            .map(|(process, count)| left_out(process, "rate_limit", count))
            .chain(refused.map(|(process, count)| left_out(process, "agent_busy", count)))
            .collect()
    }

    /// Waits for what was handed over last, within bounds.
    pub fn finish(&self) {
        if let Some(examiner) = &self.examiner {
            examiner.finish(FINISH);
        }
    }
}

/// Slow syncs that are not examined, as a loss.
pub fn left_out(process: ProcessId, reason: &str, count: u64) -> Fact {
    Fact::Lost(Lost {
        process: Some(process),
        wall_ns: Reading::now().wall_ns,
        stream: "autopsy",
        reason: reason.to_owned(),
        count,
    })
}

#[cfg(test)]
mod tests {
    use etcdmon_proto::v1::{FileClass, Hook, SyncReason};

    use super::*;
    use crate::autopsy::threshold::{LEAST_NS, MOST_NS};
    use crate::fact::SyncSecond;

    const A: ProcessId = ProcessId { boot_id: [1; 16], pid: 7, start_ticks: 9 };
    const SECOND: u64 = 1_000_000_000;

    fn sync(latency: Duration) -> SyncRecord {
        SyncRecord {
            pid: 7,
            thread_id: 8,
            class: FileClass::Wal,
            reason: SyncReason::Slow,
            start_mono_ns: SECOND,
            latency,
            run_delay: Duration::ZERO,
            run_time: None,
            written_bytes: 0,
            inode: 1,
            device: 2,
            result: 0,
        }
    }

    fn lost(facts: Vec<Fact>) -> Vec<(String, u64)> {
        let one = |fact| match fact {
            Fact::Lost(lost) => (lost.reason, lost.count),
            other => panic!("{other:?}"),
        };
        facts.into_iter().map(one).collect()
    }

    #[test]
    fn evidence_is_gathered_only_when_a_sync_is_due() {
        let mut slow = SlowSyncs::default();
        let never = || -> Evidence { panic!("nothing is due") };
        slow.take(A, &sync(Duration::from_millis(1)), 2 * SECOND);
        slow.examine_due(u64::MAX, never);
        slow.take(A, &sync(Duration::from_millis(20)), SECOND);
        slow.examine_due(SECOND + 1, never);
        slow.gone(ProcessId { pid: 8, ..A }, never);
        assert_eq!(lost(slow.left_out()), []);
    }

    #[test]
    fn evidence_of_syncs_that_are_due_soon_after_each_other_is_gathered_together() {
        const MS: u64 = 1_000_000;
        let mut slow = SlowSyncs::new(None);
        for at in [0, 50, 100, 150, 199, 250] {
            let sync = SyncRecord { start_mono_ns: at * MS, ..sync(Duration::from_millis(20)) };
            slow.take(A, &sync, at * MS);
        }
        let mut gathered = Vec::new();
        for at in (100..800).step_by(10) {
            slow.examine_due(at * MS, Evidence::default);
            gathered.extend(lost(slow.left_out()).into_iter().map(|(_, syncs)| (at, syncs)));
        }
        assert_eq!(gathered, [(100, 1), (300, 4), (500, 1)]);
    }

    #[test]
    fn without_an_examiner_slow_syncs_are_counted_as_left_out() {
        let mut slow = SlowSyncs::new(None);
        for _ in 0..30 {
            slow.take(A, &sync(Duration::from_millis(20)), SECOND);
        }
        slow.examine_due(u64::MAX, Evidence::default);
        assert_eq!(lost(slow.left_out()), [("rate_limit".to_owned(), 10), ("agent_busy".to_owned(), 20)]);
        assert_eq!(lost(slow.left_out()), []);
    }

    #[test]
    fn what_is_usual_is_learnt_from_the_seconds_rows() {
        let mut slow = SlowSyncs::default();
        assert_eq!(slow.thresholds.threshold_ns(A, FileClass::Wal), LEAST_NS);
        slow.learn(&[Fact::SyncSecond(SyncSecond {
            process: A,
            class: FileClass::Wal,
            second: 1,
            buckets: vec![(etcdmon_histogram::bucket_of(30_000_000) as u16, 100)],
            sum_ns: 0,
            errors: 0,
            run_delay_ns: 0,
            hook: Hook::Filesystem,
        })]);
        assert_eq!(slow.thresholds.threshold_ns(A, FileClass::Wal), MOST_NS);
        slow.gone(A, Evidence::default);
        assert_eq!(slow.thresholds.threshold_ns(A, FileClass::Wal), LEAST_NS);
    }
}
