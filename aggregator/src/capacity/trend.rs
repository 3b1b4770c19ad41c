//! How fast the peaks rise, and how sure that is.
//!
//! The slope is the median over all pairs of peaks (Theil and Sen). Where there are three days and more only peaks at the
//! same time of different days make a pair (Hirsch and Slack), so a daily rhythm has no say in it. How sure it is, the past
//! tells: it is cut into stretches, each of which has a slope of its own, and their spread is what a coming stretch may
//! differ by. Where the slopes before some moment and after it are two groups, only what came after is used.

use super::Sample;
use super::blocks::{Blocks, DAY, median};

/// Shortest past that says anything, in seconds.
const LEAST_SPAN: f64 = 3_600.0;

/// Fewest peaks that make a line.
const LEAST_PEAKS: usize = 6;

/// Most stretches that a past without a daily rhythm is cut into.
const STRETCHES: usize = 6;

/// The slope has changed when two groups of stretches are apart by so many times the spread within them.
const CHANGE: f64 = 4.0;

/// And by this share of the larger.
const CHANGE_SHARE: f64 = 0.3;

/// Why nothing can be said.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum TooLittle {
    /// There is nothing.
    #[error("there are no samples")]
    Nothing,
    /// The past is too short.
    #[error("samples cover {seconds:.0} s, at least an hour is needed")]
    Short {
        /// How long it is.
        seconds: f64,
    },
    /// Too few peaks of saw-teeth.
    #[error("there are {peaks} peaks, at least {LEAST_PEAKS} are needed")]
    Peaks {
        /// How many.
        peaks: usize,
    },
}

/// How a slope was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All pairs of peaks.
    TheilSen,
    /// Pairs at the same time of the day.
    SeasonalTheilSen,
}

impl Method {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TheilSen => "theil_sen",
            Self::SeasonalTheilSen => "seasonal_theil_sen",
        }
    }
}

/// A line over the peaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Bytes a second.
    pub slope: f64,
    /// Standard deviation of the stretches' slopes, bytes a second.
    pub spread: f64,
    /// Stretches.
    pub stretches: usize,
    /// Length of a stretch in seconds.
    pub stretch: f64,
    /// Height of the line at `end`, in bytes.
    pub level: f64,
    /// How far peaks lie from the line: a standard deviation, robust, in bytes.
    pub noise: f64,
    /// Newest sample, Unix seconds.
    pub end: f64,
    /// Seconds that it is made from.
    pub span: f64,
    /// Peaks that it is made from.
    pub peaks: usize,
    /// Usual length of a saw-tooth in seconds, where there are any.
    pub tooth: Option<f64>,
    /// How long after the line has crossed a limit a peak does so at the latest, in seconds: a saw-tooth, or a day where it
    /// swings with that.
    pub wait: f64,
    /// How it was found.
    pub method: Method,
    /// What the slope changed by, squared, in the time that was looked at, a second: (bytes a second)² a second. Zero when it
    /// did not; else older samples were left out, and it may change again.
    pub changes: f64,
}

impl Trend {
    /// Of a series by rising time.
    ///
    /// # Errors
    /// When it is too short, or has too few saw-teeth.
    pub fn fit(samples: &[Sample]) -> Result<Self, TooLittle> {
        let whole =
            samples.last().map_or(0.0, |last| last.at) - samples.first().map_or(0.0, |first| first.at);
        let (mut samples, mut changes) = (samples, 0.0);
        loop {
            let (trend, slopes) = Self::fit_all(samples)?;
            let found = Self { changes: changes / whole, ..trend };
            let Some((split, by)) = change(&slopes) else { return Ok(found) };
            let since = trend.end - trend.stretch * (slopes.len() - split) as f64;
            let rest = &samples[samples.partition_point(|sample| sample.at < since)..];
            // What is left must do by itself.
            if Self::fit_all(rest).is_err() {
                return Ok(found);
            }
            samples = rest;
            changes += by * by;
        }
    }

    /// The line over all samples, and the slopes of its stretches.
    fn fit_all(samples: &[Sample]) -> Result<(Self, Vec<f64>), TooLittle> {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            return Err(TooLittle::Nothing);
        };
        let span = last.at - first.at;
        if span < LEAST_SPAN {
            return Err(TooLittle::Short { seconds: span });
        }
        let blocks = Blocks::cut(samples);
        let peaks = &blocks.peaks;
        if peaks.len() < LEAST_PEAKS {
            return Err(TooLittle::Peaks { peaks: peaks.len() });
        }
        let slope = slope(peaks, blocks.by_day, blocks.length).unwrap_or(0.0);
        let (slopes, stretch) =
            if blocks.by_day { by_day(&blocks, last.at) } else { by_stretch(peaks, last.at) };
        let above: Vec<f64> = peaks.iter().map(|peak| peak.value - slope * (peak.at - last.at)).collect();
        let heights = if blocks.by_day { daily(peaks, &above, last.at) } else { above };
        let middle = median(&heights).unwrap_or(0.0);
        let off: Vec<f64> = heights.iter().map(|height| (height - middle).abs()).collect();
        let recent: Vec<f64> = recent(peaks, &blocks, last.at)
            .iter()
            .map(|peak| peak.value + slope * (last.at - peak.at))
            .collect();
        let usual = median(&recent).unwrap_or(middle);
        let (level, wait) = if blocks.by_day {
            // A day's highest: that is where a limit is met first.
            let highest = recent.iter().copied().fold(f64::MIN, f64::max);
            let swing = ((highest - usual) / (slope * DAY).max(1.0)).min(1.0);
            (highest, (swing * DAY).max(blocks.tooth.unwrap_or(0.0)))
        } else {
            (usual, blocks.tooth.unwrap_or(0.0))
        };
        let trend = Self {
            slope,
            spread: deviation(&slopes),
            stretches: slopes.len(),
            stretch,
            level,
            noise: 1.4826 * median(&off).unwrap_or(0.0),
            end: last.at,
            span,
            peaks: peaks.len(),
            tooth: blocks.tooth,
            wait,
            method: if blocks.by_day { Method::SeasonalTheilSen } else { Method::TheilSen },
            changes: 0.0,
        };
        Ok((trend, slopes))
    }
}

/// The newest peaks: of a day where days are compared, else an eighth of all, at least three.
fn recent<'a>(peaks: &'a [Sample], blocks: &Blocks, end: f64) -> &'a [Sample] {
    let from = if blocks.by_day {
        peaks.partition_point(|peak| peak.at <= end - DAY)
    } else {
        peaks.len() - (peaks.len() / 8).max(3)
    };
    &peaks[from.min(peaks.len() - 1)..]
}

/// The highest of each day: a daily rhythm is no scatter.
fn daily(peaks: &[Sample], heights: &[f64], end: f64) -> Vec<f64> {
    let mut days: Vec<f64> = Vec::new();
    let mut day = None;
    for (peak, height) in peaks.iter().zip(heights) {
        let ago = ((end - peak.at) / DAY) as u64;
        match days.last_mut().filter(|_| day == Some(ago)) {
            Some(highest) => *highest = highest.max(*height),
            None => days.push(*height),
        }
        day = Some(ago);
    }
    days
}

/// The median slope of pairs of peaks; of a series by day those at the same time of different days, give or take a block.
fn slope(peaks: &[Sample], by_day: bool, block: f64) -> Option<f64> {
    let mut slopes = Vec::with_capacity(peaks.len() * peaks.len() / 2);
    for (position, earlier) in peaks.iter().enumerate() {
        for later in &peaks[position + 1..] {
            let apart = later.at - earlier.at;
            let days = (apart / DAY).round();
            if !by_day || (days >= 1.0 && (apart - days * DAY).abs() <= block / 2.0) {
                slopes.push((later.value - earlier.value) / apart);
            }
        }
    }
    median(&slopes)
}

/// Slopes of equal stretches of time, oldest first, and the length of one.
fn by_stretch(peaks: &[Sample], end: f64) -> (Vec<f64>, f64) {
    let begin = peaks.first().map_or(end, |peak| peak.at);
    let count = (peaks.len() / 4).clamp(2, STRETCHES);
    let length = (end - begin) / count as f64;
    let slopes = (0..count).filter_map(|number| {
        let from = begin + length * number as f64;
        let first = peaks.partition_point(|peak| peak.at < from);
        // With the first of the next one: what rose between two stretches belongs to the earlier.
        let last = (peaks.partition_point(|peak| peak.at < from + length) + 1).min(peaks.len());
        slope(peaks.get(first..last)?, false, 0.0)
    });
    (slopes.collect(), length)
}

/// What each day rose over the one before, oldest first, a second; and a day.
fn by_day(blocks: &Blocks, end: f64) -> (Vec<f64>, f64) {
    let mut days: Vec<Vec<f64>> = Vec::new();
    for (position, later) in blocks.peaks.iter().enumerate() {
        let same = |earlier: &&Sample| (later.at - earlier.at - DAY).abs() <= blocks.length / 2.0;
        let Some(earlier) = blocks.peaks[..position].iter().rev().find(same) else { continue };
        let ago = ((end - later.at) / DAY) as usize;
        if days.len() <= ago {
            days.resize(ago + 1, Vec::new());
        }
        days[ago].push((later.value - earlier.value) / DAY);
    }
    (days.iter().rev().filter_map(|day| median(day)).collect(), DAY)
}

/// Where the slopes fall into two groups, as the number of the first of the later one, and by how much those differ.
fn change(slopes: &[f64]) -> Option<(usize, f64)> {
    let split = (2..slopes.len().saturating_sub(1)).min_by(|a, b| {
        let within = |split: usize| {
            let (before, after) = slopes.split_at(split);
            squares(before) + squares(after)
        };
        within(*a).total_cmp(&within(*b))
    })?;
    let (before, after) = slopes.split_at(split);
    let apart = (mean(after) - mean(before)).abs();
    let within = ((squares(before) + squares(after)) / (slopes.len() - 2) as f64).sqrt();
    let error = within * (1.0 / before.len() as f64 + 1.0 / after.len() as f64).sqrt();
    let larger = mean(before).abs().max(mean(after).abs());
    (apart > CHANGE * error && apart > CHANGE_SHARE * larger).then_some((split, apart))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Sum of the squares of what the values differ from their mean by.
fn squares(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

fn deviation(values: &[f64]) -> f64 {
    (squares(values) / values.len().saturating_sub(1).max(1) as f64).sqrt()
}
