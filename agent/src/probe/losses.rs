//! What was missed, as facts for the ledger: differences of the kernel's cumulative counts.

use std::collections::HashMap;

use crate::clock::Reading;
use crate::ebpf::{LossCount, Lost as Kind};
use crate::fact::{Fact, Lost};
use crate::telemetry::Telemetry;

/// What was reported so far.
#[derive(Debug, Default)]
pub struct Losses {
    reported: HashMap<(&'static str, &'static str), u64>,
    rows: u64,
}

impl Losses {
    /// Rows that found no room on their way to the hub.
    pub const fn add_rows(&mut self, count: u64) {
        self.rows += count;
    }

    /// What was lost since the last call, noticed at `now`.
    pub fn since_last(&mut self, losses: &[LossCount], now: Reading, telemetry: &Telemetry) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut lose = |stream: &'static str, reason: &str, count: u64| {
            facts.push(Fact::Lost(Lost {
                process: None,
                wall_ns: now.wall_ns,
                stream,
                reason: reason.to_owned(),
                count,
            }));
        };
        for loss in losses {
            let reported = self.reported.entry((loss.program, loss.reason)).or_default();
            let count = loss.count.saturating_sub(*reported);
            *reported = loss.count;
            if count == 0 {
                continue;
            }
            telemetry.kernel_lost(loss.program, loss.reason, count);
            match loss.lost {
                Kind::Sync => lose("sync", loss.reason, count),
                Kind::SyncRecord => lose("sync_row", loss.reason, count),
                Kind::Write => lose("write", loss.reason, count),
                // Counted, only in another class.
                Kind::Class => {}
                Kind::Twice => {}
                // Evidence beside what is stored, no stream of its own: the agent's own metrics show it.
                Kind::Request | Kind::Commit | Kind::Signal | Kind::Metadata => {}
            }
        }
        let rows = std::mem::take(&mut self.rows);
        if rows > 0 {
            lose("sync_row", "agent_busy", rows);
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_reported_and_each_kind_in_its_stream() {
        let telemetry = Telemetry::default();
        let now = Reading { mono_ns: 1, wall_ns: 2 };
        let mut losses = Losses::default();
        let ring = |count| LossCount { program: "p", reason: "ring_full", lost: Kind::SyncRecord, count };
        let counts = |facts: Vec<Fact>| -> Vec<(&'static str, String, u64)> {
            let lost = |fact| match fact {
                Fact::Lost(lost) => (lost.stream, lost.reason, lost.count),
                other => panic!("{other:?}"),
            };
            facts.into_iter().map(lost).collect()
        };
        let found = counts(losses.since_last(&[ring(3)], now, &telemetry));
        assert_eq!(found, [("sync_row", "ring_full".to_owned(), 3)]);
        assert_eq!(losses.since_last(&[ring(3)], now, &telemetry), []);
        losses.add_rows(2);
        let found = counts(losses.since_last(&[ring(8)], now, &telemetry));
        assert_eq!(
            found,
            [("sync_row", "ring_full".to_owned(), 5), ("sync_row", "agent_busy".to_owned(), 2)]
        );
    }
}
