//! How long the room lasts: how fast a member's database and its disk fill, and when quota and disk are full. Pure: series
//! and a time in, a forecast out. `docs/capacity.md` says how well it does and how that was measured.
//!
//! What etcd compares with its quota is the size of the file, which falls only when it is defragmented. Between, it is the
//! highest level that the pages in use ever reached. So what counts is neither the mean nor the newest value of the pages in
//! use, which follow the saw-teeth of compaction, but the line over their peaks: [`Trend`]. It can be told while the file
//! itself stands still, because it still has pages to give from an earlier peak.
//!
//! What can't be known is said: an interval instead of a date, and no date at all where the past is too short for it.

mod blocks;
mod eta;
mod trend;

pub use eta::{Confidence, Eta, Outcome};
pub use trend::{Method, TooLittle, Trend};

/// The share of cases in which the truth should lie between `low` and `high`.
pub const COVERAGE: f64 = 0.8;

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Unix seconds.
    pub at: f64,
    /// Bytes. Of a stretch of time it is the extreme on the side where the limit is.
    pub value: f64,
}

/// What is known of a member's database, each by rising time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Database<'a> {
    /// Size of its file.
    pub total: &'a [Sample],
    /// Pages in use; empty where that is not known.
    pub in_use: &'a [Sample],
    /// Limit of the file's size, if one is known.
    pub quota: Option<f64>,
}

/// What will be.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// How it grows; why that can't be told otherwise.
    pub trend: Result<Trend, TooLittle>,
    /// When the limit is reached; `None` when there is no limit.
    pub outcome: Option<Outcome>,
    /// Bytes of the file that are neither in use nor can be, as far as was seen.
    pub overhead: f64,
    /// When the file fell: it was defragmented or replaced. Unix seconds.
    pub resets: Vec<f64>,
}

/// When a database reaches its quota, as known at `now` (Unix seconds).
pub fn database(database: Database<'_>, now: f64) -> Forecast {
    let total = clean(database.total, now);
    let in_use = clean(database.in_use, now);
    let resets: Vec<f64> =
        total.windows(2).filter(|pair| pair[1].value < pair[0].value).map(|pair| pair[1].at).collect();
    // Without pages in use, the file itself since it last fell.
    let (source, overhead) = if covers(&in_use, &total) {
        (in_use.as_slice(), overhead(&total, &in_use))
    } else {
        let since = resets.last().copied().unwrap_or(f64::MIN);
        (&total[total.partition_point(|sample| sample.at < since)..], 0.0)
    };
    let trend = Trend::fit(source);
    let size = total.last().map(|sample| sample.value);
    let outcome = database.quota.filter(|quota| *quota > 0.0).map(|quota| match (&trend, size) {
        (_, Some(size)) if size >= quota => Outcome::Reached,
        (Ok(trend), _) => trend.outcome(quota - overhead, now),
        (Err(reason), _) => Outcome::Unknown(*reason),
    });
    Forecast { trend, outcome, overhead, resets }
}

/// When a disk is full: `available` are the bytes that etcd may still write, the least of each stretch of time.
pub fn disk(available: &[Sample], now: f64) -> Forecast {
    let available = clean(available, now);
    let filled: Vec<Sample> =
        available.iter().map(|sample| Sample { value: -sample.value, ..*sample }).collect();
    let trend = Trend::fit(&filled);
    let left = available.last().map(|sample| sample.value);
    let outcome = match (&trend, left) {
        (_, Some(left)) if left <= 0.0 => Outcome::Reached,
        (Ok(trend), _) => trend.outcome(0.0, now),
        (Err(reason), _) => Outcome::Unknown(*reason),
    };
    Forecast { trend, outcome: Some(outcome), overhead: 0.0, resets: Vec::new() }
}

/// By time, without what is no number and what lies ahead.
fn clean(samples: &[Sample], now: f64) -> Vec<Sample> {
    let sound = |sample: &Sample| sample.at.is_finite() && sample.value.is_finite() && sample.at <= now;
    let mut clean: Vec<Sample> = samples.iter().copied().filter(sound).collect();
    clean.sort_by(|a, b| a.at.total_cmp(&b.at));
    clean.dedup_by(|later, earlier| later.at == earlier.at);
    clean
}

/// Whether pages in use are known for most of the time that the file's size is.
fn covers(in_use: &[Sample], total: &[Sample]) -> bool {
    let span = |samples: &[Sample]| match (samples.first(), samples.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => 0.0,
    };
    !in_use.is_empty() && span(in_use) >= 0.8 * span(total)
}

/// What the file had beyond the pages in use when it last had to grow: no other moment shows what it can't use. Zero when it
/// never grew.
fn overhead(total: &[Sample], in_use: &[Sample]) -> f64 {
    let grew = total.windows(2).rev().find(|pair| pair[1].value > pair[0].value);
    let slack = grew.and_then(|pair| {
        let position = in_use.partition_point(|sample| sample.at <= pair[1].at);
        Some(pair[1].value - in_use.get(position.checked_sub(1)?)?.value)
    });
    slack.unwrap_or(0.0).max(0.0)
}

#[cfg(test)]
mod tests;
