//! From a line to a date, with an interval.
//!
//! Until then the slope will be the mean of as many stretches as fit in between. Its variance has three parts: what is not
//! known of the slope so far, `spread² / stretches`; how the coming stretches will differ, `spread² · stretch / time`; and, where
//! it has changed in the past, that it may do so again: at any moment until then, which makes a third of `changes · time`. So an
//! estimate of few stretches is wide, and one of a far day is as wide as the past is uneven.
//!
//! A limit is met at the peak of a saw-tooth, or of a day: somewhere in the tooth, or the day, after the line has crossed it.

use super::trend::{TooLittle, Trend};

/// A date further away than so many times the past is no forecast.
const FURTHEST: f64 = 10.0;

/// Nor is one beyond five years.
const LONGEST: f64 = 5.0 * 365.0 * 86_400.0;

/// 90th percentile of Student's t by degrees of freedom from 1: a tenth of cases lies above, a tenth below the negative.
const STUDENT: [f64; 10] = [3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372];

/// The same for many degrees of freedom.
const NORMAL: f64 = 1.2816;

/// How much an estimate is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// The interval is wide, or the date is much further away than the past reaches back.
    Low,
    /// Between both.
    Medium,
    /// The interval is narrow, and the date no further away than the past reaches back.
    High,
}

impl Confidence {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// When a limit is reached, in seconds from now. Four in five cases should lie between `low` and `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eta {
    /// One case in ten is earlier.
    pub low: f64,
    /// As likely earlier as later.
    pub mid: f64,
    /// One case in ten is later; `None` = it may as well never be.
    pub high: Option<f64>,
    /// What it is worth.
    pub confidence: Confidence,
}

/// What becomes of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It is reached.
    Reached,
    /// It will be.
    Eta(Eta),
    /// Not within `within` seconds, which is as far as the past allows to look; one case in ten is earlier than `low`.
    Beyond {
        /// How far was looked.
        within: f64,
        /// `None` when that is further away too.
        low: Option<f64>,
    },
    /// The peaks do not rise.
    NotGrowing,
    /// Nothing can be said.
    Unknown(TooLittle),
}

impl Trend {
    /// Bytes a second that the slope lies between in four of five cases.
    pub fn slopes(&self) -> (f64, f64) {
        let error = student(self.stretches) * self.spread / (self.stretches.max(1) as f64).sqrt();
        (self.slope - error, self.slope + error)
    }

    /// When the line reaches `limit`, as known at `now`.
    pub fn outcome(&self, limit: f64, now: f64) -> Outcome {
        let (low, high) = self.slopes();
        let in_noise = low <= 0.0 && self.slope * self.span <= self.noise;
        if self.slope <= 0.0 || high <= 0.0 || in_noise {
            return Outcome::NotGrowing;
        }
        let elapsed = (now - self.end).max(0.0);
        let within = (FURTHEST * self.span).min(LONGEST);
        let gap = limit - self.level;
        let error = student(self.stretches);
        let early = self.reaches(gap - error * self.noise, error, within + elapsed);
        let late = self.reaches(gap + error * self.noise, -error, 4.0 * (within + elapsed));
        let ahead = |time: f64| (time - elapsed).max(0.0);
        let mid = ahead(gap.max(0.0) / self.slope + self.wait / 2.0);
        if mid > within {
            return Outcome::Beyond { within, low: early.map(ahead) };
        }
        let low = early.map_or(mid, ahead).min(mid);
        let high = late.map(|late| ahead(late + self.wait).max(mid));
        Outcome::Eta(Eta { low, mid, high, confidence: self.confidence(low, mid, high) })
    }

    fn confidence(&self, low: f64, mid: f64, high: Option<f64>) -> Confidence {
        let width = high.map_or(f64::INFINITY, |high| high / low.max(1.0));
        if width <= 1.5 && mid <= self.span {
            Confidence::High
        } else if width <= 3.0 && mid <= 3.0 * self.span {
            Confidence::Medium
        } else {
            Confidence::Low
        }
    }

    /// First time, at most `within`, at which the line with so many standard errors on top has risen by `gap`.
    fn reaches(&self, gap: f64, errors: f64, within: f64) -> Option<f64> {
        let rise = |time: f64| {
            let known = time / self.stretches.max(1) as f64;
            let uneven = self.spread * self.spread * (known + self.stretch);
            let changing = self.changes * time * time / 3.0;
            self.slope * time + errors * (time * (uneven + changing)).sqrt()
        };
        if gap <= 0.0 {
            return Some(0.0);
        }
        if rise(within) < gap {
            return None;
        }
        // It may fall first, but once it has reached the gap it only rises.
        let (mut before, mut after) = (0.0, within);
        for _ in 0..60 {
            let middle = (before + after) / 2.0;
            if rise(middle) < gap { before = middle } else { after = middle }
        }
        Some(after)
    }
}

/// Student's t for a mean of so many values.
fn student(values: usize) -> f64 {
    let freedom = values.saturating_sub(1).max(1);
    STUDENT.get(freedom - 1).copied().unwrap_or(NORMAL + 0.86 / freedom as f64)
}
