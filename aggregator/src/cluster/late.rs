//! What arrives late: it completes the past and says nothing about now.
//!
//! A late message moves no health, no gauge and no leader of the present, and rules do not see what it brings: it fills the gap
//! in the latencies that charts show, and dates leader changes of the gap.

use std::collections::{BTreeSet, VecDeque};

use uuid::Uuid;

use super::{Applied, KEPT, LiveMessage, Model, hex};
use crate::clock::At;

/// Breaks whose messages are remembered as missing; those of older ones stay lost.
const MOST_RANGES: usize = 64;

/// Numbers of one epoch that did not arrive.
#[derive(Debug, Clone, Default)]
pub struct Missing {
    /// The first number that arrived: what came before was not for us to receive.
    first: u64,
    /// First and last number of each stretch, rising.
    ranges: VecDeque<(u64, u64)>,
    /// Of stretches that are remembered no longer.
    given_up: u64,
}

impl Missing {
    /// Notes that `number` arrived in time, after `last`.
    pub fn arrived(&mut self, last: Option<u64>, number: u64) {
        if last.is_none() {
            self.first = number;
        }
        let first_missing = last.unwrap_or(0) + 1;
        if first_missing < number {
            self.ranges.push_back((first_missing, number - 1));
        }
        if self.ranges.len() > MOST_RANGES
            && let Some((from, to)) = self.ranges.pop_front()
        {
            self.given_up += self.count(from, to);
        }
    }

    /// Notes that `number` arrived late. False when it was not missing.
    pub fn recovered(&mut self, number: u64) -> bool {
        let Some(at) = self.ranges.iter().position(|(from, to)| (*from..=*to).contains(&number)) else {
            return false;
        };
        let (from, to) = self.ranges[at];
        self.ranges.remove(at);
        if number < to {
            self.ranges.insert(at, (number + 1, to));
        }
        if from < number {
            self.ranges.insert(at, (from, number - 1));
        }
        true
    }

    /// How many are missing.
    pub fn lost(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| self.count(*from, *to)).sum::<u64>() + self.given_up
    }

    fn count(&self, from: u64, to: u64) -> u64 {
        (to + 1).saturating_sub(from.max(self.first))
    }
}

impl Model {
    /// Takes a late message at `now`.
    pub(super) fn recall(
        &mut self,
        now: At,
        message: &LiveMessage<'_>,
        mut cluster_of: impl FnMut(u64) -> Uuid,
    ) -> Applied {
        let live = message.live;
        let mut applied = Applied { late: true, ..Applied::default() };
        // Late is only what comes after a present of the same process.
        let Some(agent) = self.agents.get_mut(&message.agent).filter(|agent| agent.epoch == hex(&live.epoch))
        else {
            self.faults.stale += 1;
            return applied;
        };
        let sent =
            i64::try_from(live.sent_mono_ns).unwrap_or(i64::MAX).saturating_add(live.wall_minus_mono_ns);
        let at = At::from_nanos(sent.saturating_sub(agent.clock_offset_ns));
        if at > now || now.since(at) > KEPT || !agent.missing.recovered(live.number) {
            self.faults.stale += 1;
            return applied;
        }
        agent.lost = agent.missing.lost();
        agent.late += 1;
        let mut touched = BTreeSet::new();
        for member in &live.members {
            let Some(identity) = &member.member else { continue };
            let id = cluster_of(identity.cluster_id);
            let Some(cluster) = self.clusters.get_mut(&id) else { continue };
            let Some(known) = cluster.members.get_mut(&identity.member_id) else { continue };
            // Two processes of one member share its counts of the epoch: once a message is enough.
            if touched.insert((id, identity.member_id)) {
                self.faults += known.fill(at, message.agent, &member.syncs);
            }
            if member.running && member.scrape_ok && member.has_leader && member.leader_id != 0 {
                let change = cluster.leadership.recall(at, member.leader_id, member.raft_term);
                applied.leader_changes.extend(change.map(|change| (id, change)));
            }
        }
        applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_numbers_are_counted_until_they_arrive_late_and_never_twice() {
        let mut missing = Missing::default();
        missing.arrived(None, 10);
        assert_eq!(missing.lost(), 0, "what was sent before we came is not lost");
        missing.arrived(Some(10), 11);
        missing.arrived(Some(11), 20);
        assert_eq!(missing.lost(), 8);
        for number in [12, 19, 15] {
            assert!(missing.recovered(number) && !missing.recovered(number));
        }
        assert_eq!(missing.lost(), 5);
        assert!(missing.recovered(3), "of before, welcome all the same");
        assert_eq!(missing.lost(), 5);
        assert!(!missing.recovered(20) && !missing.recovered(21), "arrived in time, not there yet");
    }

    #[test]
    fn stretches_beyond_the_bound_stay_lost() {
        let mut missing = Missing::default();
        missing.arrived(None, 1);
        for break_number in 0..200 {
            missing.arrived(Some(1 + 10 * break_number), 11 + 10 * break_number);
        }
        assert_eq!(missing.lost(), 200 * 9);
        assert_eq!(missing.ranges.len(), MOST_RANGES);
        assert!(!missing.recovered(5));
        assert!(missing.recovered(1_995));
        assert_eq!(missing.lost(), 200 * 9 - 1);
    }
}
