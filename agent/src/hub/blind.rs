//! When a process was not watched, and how many syncs fell into that time.
//!
//! Our own count begins when the probes attach. What came before is known from etcd's own counter of WAL syncs: what it
//! counted and we did not is what we missed. That difference never changes after attaching, but a sync that ends between
//! the two readings makes it look smaller, so the largest of a few readings counts. A checkpoint of an earlier agent
//! process shortens the stretch to what came after the last facts that were kept.

use crate::clock::SECOND_NS;
use crate::discover::ProcessId;
use crate::fact::Blind;
use crate::spool::Kept;

/// Readings of both counters from which the answer is taken.
const READINGS: u32 = 3;

/// Without a scrape for so long after attaching, the interval is stated without a count.
const PATIENCE_NS: i64 = 15 * SECOND_NS;

/// A process found this young had nothing to miss, unless its counter says otherwise.
const YOUNG_NS: i64 = 2 * SECOND_NS;

/// The question of one process: open until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    process: ProcessId,
    started_ns: i64,
    attached_ns: i64,
    kept: Option<Kept>,
    why: &'static str,
    readings: u32,
    /// Largest number of syncs before attaching that a reading showed.
    before_attach: u64,
}

impl Question {
    /// For a process that began at `started_ns` and is watched since `attached_ns`; `kept` is what the checkpoint
    /// knows of it. All in Unix nanoseconds.
    pub const fn new(process: ProcessId, started_ns: i64, attached_ns: i64, kept: Option<Kept>) -> Self {
        let why = if kept.is_some() { "agent_down" } else { "attach" };
        Self { process, started_ns, attached_ns, kept, why, readings: 0, before_attach: 0 }
    }

    /// For a process that this agent watched before, up to what `kept` says, and watches again since `attached_ns`.
    pub const fn after_pause(process: ProcessId, attached_ns: i64, kept: Kept) -> Self {
        let started_ns = kept.until_ns;
        Self { why: "probes_off", ..Self::new(process, started_ns, attached_ns, Some(kept)) }
    }

    /// Takes a reading of etcd's counter and ours at the same moment, and gives the answer once there are enough. An inner
    /// `None` = nothing was missed.
    pub fn read(&mut self, etcd_wal_syncs: u64, own_wal_syncs: u64) -> Option<Option<Blind>> {
        self.before_attach = self.before_attach.max(etcd_wal_syncs.saturating_sub(own_wal_syncs));
        self.readings += 1;
        (self.readings >= READINGS).then(|| self.answer())
    }

    fn answer(&self) -> Option<Blind> {
        let count = match &self.kept {
            None => self.before_attach,
            // What was kept without etcd's count leaves open how many came after it.
            Some(kept) => kept.wal_syncs.map_or(0, |kept| self.before_attach.saturating_sub(kept)),
        };
        // An agent that was away is stated even if etcd was idle; a process seen from its beginning is not.
        (self.kept.is_some() || count > 0).then(|| self.blind(count))
    }

    /// The answer from what there is, once waiting for readings has taken too long.
    pub fn give_up(&self, now_ns: i64) -> Option<Option<Blind>> {
        if now_ns - self.attached_ns < PATIENCE_NS {
            return None;
        }
        let old = self.attached_ns - self.started_ns > YOUNG_NS;
        Some(self.answer().or_else(|| (old && self.readings == 0).then(|| self.blind(0))))
    }

    /// The answer at the end of this agent process, if there was a reading at all. Left open, the next one would count
    /// everything since the process began as missed, what this one has stored included.
    pub fn conclude(&self) -> Option<Option<Blind>> {
        (self.readings > 0).then(|| self.answer())
    }

    fn blind(&self, count: u64) -> Blind {
        let from_ns = self.kept.as_ref().map_or(self.started_ns, |kept| kept.until_ns);
        Blind {
            process: self.process,
            from_ns: from_ns.min(self.attached_ns),
            to_ns: self.attached_ns,
            count,
            reason: self.why,
            ids: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: ProcessId = ProcessId { boot_id: [1; 16], pid: 2, start_ticks: 3 };

    fn kept(wal_syncs: Option<u64>) -> Option<Kept> {
        Some(Kept { until_ns: 50 * SECOND_NS, wal_syncs, cluster_id: 8, member_id: 9 })
    }

    /// The answer to readings that all agree.
    fn answer(mut question: Question, etcd: u64, own: u64) -> Option<Blind> {
        for _ in 1..READINGS {
            assert_eq!(question.read(etcd, own), None, "too early");
        }
        question.read(etcd, own).expect("enough readings")
    }

    #[test]
    fn the_largest_reading_counts_since_syncs_in_between_only_make_it_smaller() {
        let mut question = Question::new(PROCESS, 10 * SECOND_NS, 60 * SECOND_NS, None);
        assert_eq!(question.read(100, 32), None);
        assert_eq!(question.read(200, 130), None);
        let blind = question.read(300, 231).expect("enough").expect("70 missed");
        assert_eq!(blind.count, 70);
    }

    #[test]
    fn an_agent_that_ends_early_answers_from_the_readings_it_has() {
        let mut question = Question::new(PROCESS, 10 * SECOND_NS, 60 * SECOND_NS, None);
        assert_eq!(question.conclude(), None, "nothing is known");
        assert_eq!(question.read(100, 30), None, "too early");
        assert_eq!(question.conclude().flatten().expect("70 missed").count, 70);
    }

    #[test]
    fn a_process_seen_from_its_first_sync_has_no_blind_interval() {
        let question = Question::new(PROCESS, 10 * SECOND_NS, 11 * SECOND_NS, None);
        assert_eq!(answer(question.clone(), 7, 7), None);
        assert_eq!(answer(question, 7, 8), None, "the page may be a little older than our count");
    }

    #[test]
    fn what_a_process_synced_before_attaching_is_blind_from_its_start() {
        let question = Question::new(PROCESS, 10 * SECOND_NS, 60 * SECOND_NS, None);
        let blind = answer(question, 100, 30).expect("70 missed");
        assert_eq!((blind.count, blind.reason), (70, "attach"));
        assert_eq!((blind.from_ns, blind.to_ns), (10 * SECOND_NS, 60 * SECOND_NS));
    }

    #[test]
    fn after_a_killed_agent_only_what_came_after_the_checkpoint_is_blind() {
        let question = Question::new(PROCESS, 10 * SECOND_NS, 60 * SECOND_NS, kept(Some(40)));
        let blind = answer(question.clone(), 100, 30).expect("30 missed");
        assert_eq!((blind.count, blind.reason), (30, "agent_down"));
        assert_eq!((blind.from_ns, blind.to_ns), (50 * SECOND_NS, 60 * SECOND_NS));
        assert_eq!(answer(question, 40, 0).expect("idle, but away").count, 0);
        let uncounted = Question::new(PROCESS, 10 * SECOND_NS, 60 * SECOND_NS, kept(None));
        assert_eq!(answer(uncounted, 100, 30).expect("away").count, 0, "not all since its start");
    }

    #[test]
    fn without_a_scrape_the_interval_is_stated_after_a_while() {
        let question = Question::new(PROCESS, 10 * SECOND_NS, 60 * SECOND_NS, kept(None));
        assert_eq!(question.give_up(61 * SECOND_NS), None);
        let blind = question.give_up(80 * SECOND_NS).expect("patience is over").expect("was away");
        assert_eq!(blind.count, 0);
        let young = Question::new(PROCESS, 59 * SECOND_NS, 60 * SECOND_NS, None);
        assert_eq!(young.give_up(80 * SECOND_NS), Some(None));
    }
}
