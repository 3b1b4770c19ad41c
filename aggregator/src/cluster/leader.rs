//! Who leads, by the members' own statements.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::At;

/// Leader changes kept per cluster.
const KEPT_CHANGES: usize = 100;

/// A leader's time in office: raft has at most one leader a term.
#[derive(Debug, Clone, Copy)]
struct Reign {
    leader: u64,
    /// First statement that names it.
    at: At,
    /// Whether the change that it began was returned to the caller, or there was none.
    told: bool,
}

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
    /// By term; the last ones.
    reigns: BTreeMap<u64, Reign>,
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
        self.reigns.entry(now.term).or_insert(Reign { leader: now.leader, at, told: true });
        if let Some(change) = change {
            self.note(change);
        }
        self.bound();
        change
    }

    /// Takes a statement that was made at `at` and arrives late. It never changes who leads now; it may show a change that
    /// nobody told in time, or that one was earlier than it seemed. Returns the change once its time is known.
    pub fn recall(&mut self, at: At, leader: u64, term: u64) -> Option<Change> {
        if let Some(reign) = self.reigns.get_mut(&term) {
            if reign.leader != leader || at >= reign.at {
                return None;
            }
            reign.at = at;
            let told = std::mem::replace(&mut reign.told, true);
            let change = self.changes.iter_mut().find(|change| change.term == term)?;
            change.at = at;
            return (!told).then_some(*change);
        }
        if self.last.is_none_or(|(newest, _)| term > newest) {
            // Newer than anything that was said in time: an agent that lies, or one whose present is still to come.
            return None;
        }
        let before = self.reigns.range(..term).next_back().map(|(_, reign)| reign.leader);
        self.reigns.insert(term, Reign { leader, at, told: true });
        let change = before.map(|from| Change { at, from, to: leader, term });
        if let Some(change) = change {
            self.note(change);
        }
        // What came after it followed this leader, and not the one before.
        if let Some((next, reign)) = self.reigns.range_mut(term + 1..).next() {
            let next = *next;
            if let Some(known) = self.changes.iter_mut().find(|change| change.term == next) {
                known.from = leader;
            } else {
                reign.told = false;
                let change = Change { at: reign.at, from: leader, to: reign.leader, term: next };
                self.note(change);
            }
        }
        self.bound();
        change
    }

    fn note(&mut self, change: Change) {
        self.changes_total += 1;
        let position = self.changes.partition_point(|known| known.term <= change.term);
        self.changes.insert(position, change);
    }

    fn bound(&mut self) {
        while self.changes.len() > KEPT_CHANGES {
            self.changes.pop_front();
        }
        while self.reigns.len() > KEPT_CHANGES {
            self.reigns.pop_first();
        }
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
