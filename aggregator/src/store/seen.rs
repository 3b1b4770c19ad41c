//! Which batches this process has taken in already.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::decode::BatchId;

/// Agent processes that are remembered. With more, all are forgotten: a resend that its agent does not mark is then
/// believed to be new, as it is after a start.
const MAX_EPOCHS: usize = 4_096;

/// Runs of sequences of one agent process. Past it the lowest two become one: what lies between is taken for seen, which
/// costs a question and never a row.
const MAX_RUNS: usize = 64;

/// The sequences seen, exactly. An agent says itself which batches it may have sent before; this is the second belt, so
/// that an agent that is wrong about it stores nothing twice.
#[derive(Debug, Default)]
pub struct Seen {
    /// First sequence of a run to its last, by agent process.
    epochs: HashMap<(Uuid, Uuid), BTreeMap<u64, u64>>,
}

impl Seen {
    /// Takes note of a batch; true when it was seen before.
    pub fn note(&mut self, id: &BatchId) -> bool {
        if self.epochs.len() >= MAX_EPOCHS && !self.epochs.contains_key(&(id.agent, id.epoch)) {
            self.epochs.clear();
        }
        let runs = self.epochs.entry((id.agent, id.epoch)).or_default();
        let sequence = id.sequence;
        let before = runs.range(..=sequence).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| sequence <= last) {
            return true;
        }
        let first = match before {
            Some((first, last)) if last.checked_add(1) == Some(sequence) => first,
            _ => sequence,
        };
        let after = sequence.checked_add(1).and_then(|next| runs.remove(&next));
        runs.insert(first, after.unwrap_or(sequence));
        if runs.len() > MAX_RUNS
            && let (Some((first, _)), Some((_, last))) = (runs.pop_first(), runs.pop_first())
        {
            runs.insert(first, last);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> BatchId {
        BatchId { agent: Uuid::from_u128(1), epoch: Uuid::from_u128(2), sequence }
    }

    #[test]
    fn only_what_was_seen_is_seen_in_any_order() {
        let mut seen = Seen::default();
        for sequence in [5, 7, 6, 1, 2, u64::MAX, u64::MAX - 1, 0] {
            assert!(!seen.note(&id(sequence)), "{sequence}");
            assert!(seen.note(&id(sequence)), "{sequence}");
        }
        assert!(!seen.note(&id(4)) && !seen.note(&id(3)) && !seen.note(&id(8)));
        assert!([0, 1, 2, 3, 4, 5, 6, 7, 8].iter().all(|sequence| seen.note(&id(*sequence))));
        assert_eq!(seen.epochs.values().next().unwrap().len(), 2, "runs that touch become one");
        assert!(!seen.note(&BatchId { epoch: Uuid::from_u128(3), ..id(5) }), "another process's batch");
    }

    #[test]
    fn memory_is_bounded_and_forgets_on_the_safe_side() {
        let mut seen = Seen::default();
        (0..1_000).for_each(|number| assert!(!seen.note(&id(number * 2))));
        assert_eq!(seen.epochs.values().next().unwrap().len(), MAX_RUNS);
        assert!(seen.note(&id(1)), "between two runs that became one");
        assert!((0..1_000).all(|number| seen.note(&id(number * 2))));
    }
}
