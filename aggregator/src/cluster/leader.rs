//! Who leads, by the members' own statements.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::At;

/// Leader changes kept per cluster.
const KEPT_CHANGES: usize = 100;

/// What one member that answers says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// The member that says it.
    pub member: u64,
    /// The leader it follows; `None` when it has none.
    pub leader: Option<u64>,
    /// Its raft term.
    pub term: u64,
}

/// The leader that the members of the highest term agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The leader.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// Members that follow it.
    pub followers: usize,
    /// Members of the same term that name another leader: raft forbids it.
    pub dissenters: usize,
}

/// A leader took over from another one, or began a new term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When it was seen.
    pub at: At,
    /// The leader before.
    pub from: u64,
    /// The leader after.
    pub to: u64,
    /// The new term.
    pub term: u64,
}

/// The leader named by most of the members that follow one in the highest term.
pub fn agree(statements: &[Statement]) -> Option<Agreement> {
    let term = statements.iter().filter(|s| s.leader.is_some()).map(|s| s.term).max()?;
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for leader in statements.iter().filter(|s| s.term == term).filter_map(|s| s.leader) {
        *votes.entry(leader).or_default() += 1;
    }
    let total: usize = votes.values().sum();
    let (leader, followers) = votes.into_iter().max_by_key(|(leader, votes)| (*votes, *leader))?;
    Some(Agreement { leader, term, followers, dissenters: total - followers })
}

/// The present leader and how it came about.
#[derive(Debug, Clone, Default)]
pub struct Leadership {
    present: Option<(Agreement, At)>,
    /// Highest (term, leader) ever agreed on.
    last: Option<(u64, u64)>,
    none_since: Option<At>,
    changes: VecDeque<Change>,
    changes_total: u64,
}

impl Leadership {
    /// Takes the statements made by `at`; returns the change they amount to.
    pub fn update(&mut self, at: At, statements: &[Statement]) -> Option<Change> {
        let Some(now) = agree(statements) else {
            self.present = None;
            self.none_since.get_or_insert(at);
            return None;
        };
        self.none_since = None;
        let reign = (now.term, now.leader);
        let since = match self.present {
            Some((before, since)) if (before.term, before.leader) == reign => since,
            _ => at,
        };
        self.present = Some((now, since));
        let change = match self.last {
            // An older term is a straggler whose better-informed peers are silent.
            Some((term, _)) if now.term < term => None,
            Some((term, from)) if (term, from) != reign => {
                Some(Change { at, from, to: now.leader, term: now.term })
            }
            _ => None,
        };
        if self.last.is_none_or(|(term, _)| now.term >= term) {
            self.last = Some(reign);
        }
        if let Some(change) = change {
            self.changes_total += 1;
            self.changes.push_back(change);
            if self.changes.len() > KEPT_CHANGES {
                self.changes.pop_front();
            }
        }
        change
    }

    /// The leader, and since when it leads as far as we saw.
    pub const fn present(&self) -> Option<(Agreement, At)> {
        self.present
    }

    /// Since when no member names a leader.
    pub const fn none_since(&self) -> Option<At> {
        self.none_since
    }

    /// Changes seen, oldest first, at most the last 100.
    pub const fn changes(&self) -> &VecDeque<Change> {
        &self.changes
    }

    /// All changes seen since the process began.
    pub const fn changes_total(&self) -> u64 {
        self.changes_total
    }
}
