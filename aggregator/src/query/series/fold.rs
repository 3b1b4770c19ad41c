//! From what the engine added up in each step of a series to its values. Pure.
//!
//! Agents send a value when it changed, and an unchanged one again within 30 s. So a step without a sample has the last
//! value, for at most [`CARRY_SECONDS`], and never across a time in which nobody looked. A counter's growth between the
//! last sample of one step and the first of the next belongs to the later step; a counter that fell began anew, and
//! what it has then counts.

use serde::Deserialize;
use uuid::Uuid;

use super::gaps::{Gaps, Who};
use super::{CARRY_SECONDS, Plan};

pub const SECOND_NS: i64 = 1_000_000_000;

/// Agents send an unchanged value again within this.
const RESENT_SECONDS: i64 = 30;

/// And it is stored some seconds later: before that, nothing says that a counter did not grow.
const SETTLED_SECONDS: i64 = RESENT_SECONDS + 10;

/// Shortest time from which a rate is taken.
const SHORTEST_RATE_NS: i64 = SECOND_NS;

/// What is known of a series in one step that has samples. Columns of the answer have other names than those of the
/// tables: an alias would hide the column of its own name.
#[derive(Clone, Debug, PartialEq, clickhouse::Row, Deserialize)]
pub struct StepRow {
    pub name: String,
    pub member: u64,
    /// Nil for a member's series.
    #[serde(rename = "who", with = "clickhouse::serde::uuid")]
    pub agent: Uuid,
    pub labels: String,
    pub kind: String,
    /// Begin of the step, Unix seconds.
    pub step_at: i64,
    #[serde(rename = "taken")]
    pub samples: u64,
    #[serde(rename = "first_value")]
    pub first: f64,
    #[serde(rename = "last_value")]
    pub last: f64,
    #[serde(rename = "low_value")]
    pub low: f64,
    #[serde(rename = "high_value")]
    pub high: f64,
    #[serde(rename = "total_value")]
    pub total: f64,
    /// Growth between successive samples of the step.
    #[serde(rename = "grown")]
    pub increase: f64,
    pub first_ns: i64,
    pub last_ns: i64,
}

/// Values of a gauge: NaN where there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// Mean of the samples.
    pub mean: Vec<f64>,
    pub low: Vec<f64>,
    pub high: Vec<f64>,
    pub last: Vec<f64>,
}

/// Growth of a counter: NaN where it is not known.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    pub increase: Vec<f64>,
    /// The same over the time that was seen of the step.
    pub per_second: Vec<f64>,
}

/// The rows of one series, in order, with the step that each fills.
struct Steps<'a> {
    plan: &'a Plan,
    rows: &'a [StepRow],
    gaps: &'a Gaps,
    who: Who,
}

impl<'a> Steps<'a> {
    /// For every step its row and the last row before it.
    fn walk(&self) -> impl Iterator<Item = (i64, Option<&'a StepRow>, Option<&'a StepRow>)> {
        let (rows, mut next, mut before) = (self.rows, 0, None);
        self.plan.steps().map(move |at| {
            while let Some(row) = rows.get(next).filter(|row| row.step_at < at) {
                (before, next) = (Some(row), next + 1);
            }
            let row = rows.get(next).filter(|row| row.step_at == at);
            let last = before;
            if row.is_some() {
                (before, next) = (row, next + 1);
            }
            (at, row, last)
        })
    }

    fn is_blind(&self, from_ns: i64, to_ns: i64) -> bool {
        self.gaps.blind(self.who, from_ns, to_ns).is_some()
    }

    /// Whether the last value before a step without a sample still holds in it.
    fn holds(&self, last: &StepRow, at: i64) -> bool {
        let (from, to) = (at.saturating_mul(SECOND_NS), (at + self.plan.step).saturating_mul(SECOND_NS));
        from - last.last_ns <= CARRY_SECONDS * SECOND_NS && !self.is_blind(last.last_ns, to)
    }

    /// Growth from the step before; `None` when the time between was too long, or nobody looked. An agent that was killed
    /// may have sent samples that its successor knows nothing of: samples that follow each other as usual were seen.
    fn growth(&self, last: &StepRow, row: &StepRow) -> Option<f64> {
        let (longest, between) = (CARRY_SECONDS.max(self.plan.step), row.first_ns - last.last_ns);
        let unseen = || between > RESENT_SECONDS * SECOND_NS && self.is_blind(last.last_ns, row.first_ns);
        if between > longest * SECOND_NS || unseen() {
            return None;
        }
        Some(if row.first >= last.last { row.first - last.last } else { row.first })
    }
}

/// The values of a gauge. `rows` are one series', by step; rows before the plan's first step are what it begins with.
pub fn gauge(plan: &Plan, rows: &[StepRow], gaps: &Gaps, who: Who) -> Gauge {
    let steps = Steps { plan, rows, gaps, who };
    let room = || Vec::with_capacity(plan.len());
    let mut gauge = Gauge { mean: room(), low: room(), high: room(), last: room() };
    for (at, row, last) in steps.walk() {
        let future = at.saturating_mul(SECOND_NS) >= plan.now_ns;
        let carried = last.filter(|last| !future && steps.holds(last, at)).map(|last| last.last);
        let values = match (row, carried) {
            (Some(row), _) => (row.total / row.samples as f64, row.low, row.high, row.last),
            (None, Some(value)) => (value, value, value, value),
            (None, None) => (f64::NAN, f64::NAN, f64::NAN, f64::NAN),
        };
        gauge.mean.push(values.0);
        gauge.low.push(values.1);
        gauge.high.push(values.2);
        gauge.last.push(values.3);
    }
    gauge
}

/// The growth of a counter, or of a gauge that only grows.
pub fn growth(plan: &Plan, rows: &[StepRow], gaps: &Gaps, who: Who) -> Growth {
    let steps = Steps { plan, rows, gaps, who };
    let newest_ns = rows.last().map_or(i64::MIN, |row| row.last_ns);
    let settled_ns = newest_ns.max(plan.now_ns.saturating_sub(SETTLED_SECONDS * SECOND_NS));
    let mut growth =
        Growth { increase: Vec::with_capacity(plan.len()), per_second: Vec::with_capacity(plan.len()) };
    for (at, row, last) in steps.walk() {
        let (from_ns, to_ns) = (at.saturating_mul(SECOND_NS), (at + plan.step).saturating_mul(SECOND_NS));
        let (increase, seen_ns) = match (row, last) {
            (Some(row), last) => {
                let before = last.and_then(|last| steps.growth(last, row));
                let begin_ns = if before.is_some() { from_ns } else { row.first_ns };
                (row.increase + before.unwrap_or(0.0), to_ns.min(settled_ns) - begin_ns)
            }
            (None, Some(last)) if to_ns <= settled_ns && steps.holds(last, at) => (0.0, to_ns - from_ns),
            (None, _) => (f64::NAN, 0),
        };
        growth.increase.push(increase);
        let seen = if seen_ns >= SHORTEST_RATE_NS { seconds(seen_ns) } else { f64::NAN };
        growth.per_second.push(increase / seen);
    }
    growth
}

fn seconds(ns: i64) -> f64 {
    ns as f64 / SECOND_NS as f64
}

#[cfg(test)]
mod tests;
