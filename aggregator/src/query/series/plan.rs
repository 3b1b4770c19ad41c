//! Which table answers a question about history, and in which steps. Pure: time and retention are arguments.
//!
//! Steps are aligned to multiples of themselves since the Unix epoch, so that answers of different times, clusters and
//! members line up and so that a step is always made of whole buckets of its table.

use chrono::{DateTime, TimeDelta, Utc};

use crate::query::TimeRange;
use crate::store::Retention;

/// Most points of a series in one answer, as many as Prometheus gives.
pub const MAX_POINTS: i64 = 11_000;

/// Points of a series when neither step nor points are asked for: about what a chart can show.
pub const DEFAULT_POINTS: i64 = 300;

/// Up to this range the raw rows are read: nothing is quicker behind than they are.
const RAW_RANGE_SECONDS: i64 = 2 * 3600;

/// Longest step, in seconds.
const LONGEST_STEP: i64 = 400 * 86_400;

/// Steps that people read easily; above the last, whole multiples of it.
const EASY_STEPS: [i64; 20] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 14_400, 21_600, 28_800, 43_200,
    86_400,
];

/// How fine the rows of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// As they came from agents: at best a row a second.
    Raw,
    /// Ten seconds.
    TenSeconds,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Resolution {
    /// From the finest to the coarsest.
    pub const ALL: [Self; 4] = [Self::Raw, Self::TenSeconds, Self::Minute, Self::Hour];

    /// Length of a bucket in seconds.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Raw => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    /// Name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::TenSeconds => "10s",
            Self::Minute => "1m",
            Self::Hour => "1h",
        }
    }

    /// What follows the name of the raw table.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::TenSeconds => "_10s",
            Self::Minute => "_1m",
            Self::Hour => "_1h",
        }
    }

    const fn coarser(self) -> Option<Self> {
        match self {
            Self::Raw => Some(Self::TenSeconds),
            Self::TenSeconds => Some(Self::Minute),
            Self::Minute => Some(Self::Hour),
            Self::Hour => None,
        }
    }
}

/// How long the rows of a table are kept.
fn kept(retention: &Retention, resolution: Resolution) -> TimeDelta {
    let time = match resolution {
        Resolution::Raw => retention.raw,
        Resolution::TenSeconds => retention.ten_seconds,
        Resolution::Minute => retention.minute,
        Resolution::Hour => retention.hour,
    };
    TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX)
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The time.
    pub range: TimeRange,
    /// Length of a step in seconds; chosen when left out.
    pub step_seconds: Option<i64>,
    /// Most points of a series when the step is chosen.
    pub max_points: i64,
}

/// Why a question has no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More points than one answer may have.
    #[error(
        "step: {points} points a series are more than {MAX_POINTS}; take a step of {smallest_step} s or more"
    )]
    TooManyPoints {
        /// Points that were asked for.
        points: i64,
        /// Smallest step that fits the range.
        smallest_step: i64,
    },
    /// No step at all, or a longer one than anything is kept.
    #[error("step: must be between 1 s and 400 d")]
    Step,
    /// No points at all, or more than an answer may have.
    #[error("max-points: {0} is not between 1 and {MAX_POINTS}")]
    Points(i64),
}

/// The table, and the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The table.
    pub resolution: Resolution,
    /// Length of a step in seconds: a multiple of the table's buckets.
    pub step: i64,
    /// Begin of the first step, Unix seconds.
    pub from: i64,
    /// End of the last step, Unix seconds.
    pub to: i64,
    /// When it was asked, Unix nanoseconds: what is later is not known yet.
    pub now_ns: i64,
}

impl Plan {
    /// The plan for a question asked at `now`.
    ///
    /// # Errors
    /// When an answer would have too many points, or no step.
    pub fn new(ask: &Ask, retention: &Retention, now: DateTime<Utc>) -> Result<Self, PlanError> {
        let (from, to) = (ask.range.from.timestamp(), ceiling(ask.range.to));
        let span = (to - from).max(1);
        let wanted = match ask.step_seconds {
            Some(step) if !(1..=LONGEST_STEP).contains(&step) => return Err(PlanError::Step),
            Some(step) => step,
            None if !(1..=MAX_POINTS).contains(&ask.max_points) => {
                return Err(PlanError::Points(ask.max_points));
            }
            // Both ends are widened to whole steps, which may make one more.
            None => easy_step(span, ask.max_points.min(MAX_POINTS - 1)),
        };
        let resolution = resolution(span, wanted, now - ask.range.from, retention);
        let step = round_up(wanted, resolution.seconds());
        let plan = Self {
            resolution,
            step,
            from: from.div_euclid(step) * step,
            to: round_up(to, step),
            now_ns: now.timestamp_nanos_opt().unwrap_or(i64::MAX),
        };
        if plan.points() > MAX_POINTS {
            // One point more than the range divided by the step can be needed, since both ends are widened.
            let smallest_step = (span + MAX_POINTS - 2) / (MAX_POINTS - 1);
            return Err(PlanError::TooManyPoints { points: plan.points(), smallest_step });
        }
        Ok(plan)
    }

    /// How many points a series has.
    pub const fn points(&self) -> i64 {
        (self.to - self.from) / self.step
    }

    /// Begins of the steps, Unix seconds.
    pub fn steps(&self) -> impl Iterator<Item = i64> + use<> {
        let (from, step) = (self.from, self.step);
        (0..self.points()).map(move |number| from + number * step)
    }

    /// The same steps this many seconds earlier: its points line up with those of this plan.
    ///
    /// The table may be a coarser one, for what is gone from the finer; `None` when its buckets don't fit the step.
    pub fn earlier(&self, seconds: i64, retention: &Retention) -> Option<Self> {
        let from = DateTime::from_timestamp(self.from - seconds, 0)?;
        let age = DateTime::from_timestamp_nanos(self.now_ns) - from;
        let resolution = resolution(self.to - self.from, self.step, age, retention);
        let (from, to) = (self.from - seconds, self.to - seconds);
        let fits = from >= 0 && self.step % resolution.seconds() == 0 && from % resolution.seconds() == 0;
        fits.then_some(Self { resolution, from, to, ..*self })
    }
}

/// The table: raw for short ranges, else the coarsest whose buckets make up a step; a coarser one where what was asked
/// for is not kept that long.
fn resolution(span: i64, step: i64, age: TimeDelta, retention: &Retention) -> Resolution {
    let mut resolution = Resolution::Raw;
    if span > RAW_RANGE_SECONDS {
        let fits = |it: &Resolution| it.seconds() <= step && step % it.seconds() == 0;
        resolution = Resolution::ALL.into_iter().rev().find(fits).unwrap_or(Resolution::Raw);
    }
    while age > kept(retention, resolution) {
        let Some(coarser) = resolution.coarser() else { break };
        resolution = coarser;
    }
    resolution
}

/// The smallest easy step that makes no more than so many points.
fn easy_step(span: i64, points: i64) -> i64 {
    let fits = |step: &i64| (span + step - 1) / step <= points;
    let longest = EASY_STEPS[EASY_STEPS.len() - 1];
    EASY_STEPS.into_iter().find(fits).unwrap_or_else(|| round_up((span + points - 1) / points, longest))
}

const fn round_up(value: i64, unit: i64) -> i64 {
    value.div_euclid(unit) * unit + if value.rem_euclid(unit) == 0 { 0 } else { unit }
}

/// Unix seconds, a begun one counted whole.
fn ceiling(time: DateTime<Utc>) -> i64 {
    time.timestamp() + i64::from(time.timestamp_subsec_nanos() > 0)
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
