//! The last minutes of sync latencies of one member and file class.
//!
//! Agents send cumulative histograms; the difference of two messages is one delta. Nothing is counted twice: a message
//! that is not newer than the last one changes nothing, and after a new epoch, a reset or a gap the next message is only
//! a new base. What an agent sends late fills the gap: charts see it as far as they are made of live messages, rules do not,
//! since it says nothing about now.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcdmon_histogram::{BUCKETS, bucket_of, midpoint_ns, quantile_ns, upper_ns};

use crate::clock::At;

/// How far back what an agent sends late completes the past.
pub const KEPT: Duration = Duration::from_secs(600);

/// How far back deltas are kept, and so the longest window of a rule. Each is a piece of memory of its own, and a busy member has
/// three a second.
pub const DELTAS_KEPT: Duration = Duration::from_secs(120);

/// A delta that covers more than this says nothing about a moment: it is dropped, and the time counts as a gap.
pub const LONGEST_DELTA: Duration = Duration::from_secs(5);

/// A cumulative histogram as an agent sent it. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cumulative {
    /// (bucket, count) in rising order of bucket.
    pub pairs: Arc<[(u16, u64)]>,
    /// Exact sum of the latencies in nanoseconds.
    pub sum_ns: u64,
}

/// Gaps that can be filled at a time: breaks of the stream that are not made good yet.
const GAPS: usize = 8;

/// Syncs that ended in one interval, usually a second.
#[derive(Debug, Clone)]
struct Delta {
    to: At,
    /// Known only afterwards.
    late: bool,
    /// (bucket, count); counts above `u32::MAX` a second do not happen and are cut.
    pairs: Arc<[(u16, u32)]>,
}

/// A stretch without deltas, between two cumulative histograms of one epoch.
#[derive(Debug, Clone)]
struct Gap {
    /// `None` when nothing was known before; the first late message becomes it.
    base: Option<(At, Cumulative)>,
    end: (At, Cumulative),
}

/// Deltas of the last [`DELTAS_KEPT`].
#[derive(Debug, Clone, Default)]
pub struct Series {
    base: Option<(At, Cumulative)>,
    /// By rising time.
    deltas: VecDeque<Delta>,
    gaps: VecDeque<Gap>,
}

impl Series {
    /// Takes a newer cumulative histogram, received at `at`. True when the counts went backwards, which means that the
    /// agent began anew without saying so.
    pub fn push(&mut self, at: At, now: Cumulative) -> bool {
        // Two streams of one agent may overlap for a moment: time rises all the same.
        let at = self.base.as_ref().map_or(at, |(last, _)| at.max(*last));
        let before = self.base.replace((at, now.clone()));
        self.expire(at);
        let Some((from, base)) = before else {
            self.open_gap(Gap { base: None, end: (at, now) });
            return false;
        };
        let Some(pairs) = difference(&base, &now) else { return true };
        if at.since(from) > LONGEST_DELTA {
            self.open_gap(Gap { base: Some((from, base)), end: (at, now) });
        } else if !pairs.is_empty() {
            self.deltas.push_back(Delta { to: at, late: false, pairs });
        }
        false
    }

    /// Forgets what is older than [`DELTAS_KEPT`], with the room it took.
    pub fn expire(&mut self, at: At) {
        let oldest = at.minus(DELTAS_KEPT);
        while self.deltas.front().is_some_and(|delta| delta.to < oldest) {
            self.deltas.pop_front();
        }
        if self.deltas.is_empty() {
            self.deltas = VecDeque::new();
        }
        self.gaps.retain(|gap| gap.end.0 >= oldest);
    }

    /// Takes a cumulative histogram of the present epoch that was true at `at` and arrived late. What fills no gap, or was
    /// overtaken by a later one, changes nothing.
    pub fn fill(&mut self, at: At, then: Cumulative) {
        let is_inside = |gap: &Gap| at < gap.end.0 && gap.base.as_ref().is_none_or(|(from, _)| *from < at);
        let Some(position) = self.gaps.iter().position(is_inside) else { return };
        let gap = &mut self.gaps[position];
        let Some(rest) = difference(&then, &gap.end.1) else { return };
        let end = gap.end.0;
        let filled = match &gap.base {
            Some((from, base)) if at.since(*from) <= LONGEST_DELTA => difference(base, &then),
            _ => None,
        };
        gap.base = Some((at, then));
        if let Some(pairs) = filled {
            self.insert(Delta { to: at, late: true, pairs });
        }
        if end.since(at) <= LONGEST_DELTA {
            // From the last late message to the end, unless a later one splits it again.
            self.deltas.retain(|delta| delta.to != end);
            self.insert(Delta { to: end, late: true, pairs: rest });
        }
    }

    fn insert(&mut self, delta: Delta) {
        if !delta.pairs.is_empty() {
            let position = self.deltas.partition_point(|known| known.to <= delta.to);
            self.deltas.insert(position, delta);
        }
    }

    fn open_gap(&mut self, gap: Gap) {
        self.gaps.push_back(gap);
        if self.gaps.len() > GAPS {
            self.gaps.pop_front();
        }
    }

    /// Forgets the base: the next message starts a new count, and no gap of the old one can be filled any more.
    pub fn rebase(&mut self) {
        self.base = None;
        self.gaps.clear();
    }

    /// The newest cumulative histogram of the present epoch.
    pub fn newest(&self) -> Option<&Cumulative> {
        self.base.as_ref().map(|(_, newest)| newest)
    }

    /// Everything that ended in the `span` before `at` and was known in time: what a rule may read.
    pub fn window(&self, at: At, span: Duration) -> Window {
        self.merge(at, span, |delta| !delta.late)
    }

    /// Everything that ended in the `span` before `at`, whenever it became known: for charts.
    pub fn history(&self, at: At, span: Duration) -> Window {
        self.merge(at, span, |_| true)
    }

    /// What ended in the `span` before `at`, delta by delta, newest first: its end, and (bucket, count).
    pub fn recent(&self, at: At, span: Duration) -> impl Iterator<Item = (At, Arc<[(u16, u32)]>)> {
        let from = at.minus(span);
        let wanted = self.deltas.iter().rev().take_while(move |delta| delta.to > from);
        wanted.map(|delta| (delta.to, Arc::clone(&delta.pairs)))
    }

    fn merge(&self, at: At, span: Duration, is_wanted: impl Fn(&Delta) -> bool) -> Window {
        let from = at.minus(span);
        let mut window = Window::default();
        for delta in self.deltas.iter().rev().take_while(|delta| delta.to > from) {
            if delta.to <= at && is_wanted(delta) {
                window.add(&delta.pairs);
            }
        }
        window
    }
}

/// The counts that `now` has more than `base`; `None` when any count went backwards.
fn difference(base: &Cumulative, now: &Cumulative) -> Option<Arc<[(u16, u32)]>> {
    let mut old = base.pairs.iter().copied().peekable();
    let mut pairs = Vec::new();
    for (bucket, count) in now.pairs.iter() {
        let mut before = 0;
        while let Some((old_bucket, old_count)) = old.next_if(|(old_bucket, _)| old_bucket <= bucket) {
            if old_bucket == *bucket {
                before = old_count;
            } else if old_count > 0 {
                return None;
            }
        }
        match count.checked_sub(before)? {
            0 => {}
            more => pairs.push((*bucket, u32::try_from(more).unwrap_or(u32::MAX))),
        }
    }
    old.all(|(_, count)| count == 0).then(|| pairs.into())
}

/// Latencies of a window, merged.
#[derive(Debug, Clone)]
pub struct Window {
    counts: Box<[u64]>,
    /// Syncs in the window.
    pub count: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0 }
    }
}

impl Window {
    fn add(&mut self, pairs: &[(u16, u32)]) {
        for (bucket, count) in pairs {
            if let Some(slot) = self.counts.get_mut(usize::from(*bucket)) {
                *slot += u64::from(*count);
                self.count += u64::from(*count);
            }
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, u64)> + Clone {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// The latency below which the share `quantile` lies; `None` when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        quantile_ns(self.pairs(), quantile).map(Duration::from_nanos)
    }

    /// Syncs that took at least `threshold`.
    pub fn count_at_least(&self, threshold: Duration) -> u64 {
        etcdmon_histogram::count_at_least(self.pairs(), ns(threshold))
    }

    /// Time spent in syncs that took at least `threshold`, by bucket midpoints.
    pub fn time_at_least(&self, threshold: Duration) -> Duration {
        let first = bucket_of(ns(threshold));
        let total = self
            .pairs()
            .filter(|(bucket, _)| *bucket >= first)
            .fold(0u64, |sum, (bucket, count)| sum.saturating_add(midpoint_ns(bucket).saturating_mul(count)));
        Duration::from_nanos(total)
    }

    /// Upper bound of the slowest sync; `None` when nothing was counted.
    pub fn slowest(&self) -> Option<Duration> {
        let (bucket, _) = self.pairs().last()?;
        Some(Duration::from_nanos(upper_ns(bucket).unwrap_or_else(|| midpoint_ns(bucket))))
    }
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
