//! Databases that grow as real ones do, simulated until they are full: live data that comes and goes with the day or in
//! bursts, old revisions until they are compacted, a file that gives no page back until it is defragmented.

use etcdmon_aggregator::capacity::Sample;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// An hour in seconds.
pub const HOUR: f64 = 3_600.0;

/// A day in seconds.
pub const DAY: f64 = 24.0 * HOUR;

/// Seconds between two steps of the simulation.
const STEP: f64 = 60.0;

/// Seconds of a bin: what the aggregator asks its store for.
pub const BIN: f64 = 300.0;

/// Bytes of a page of bbolt.
const PAGE: f64 = 4_096.0;

/// What happens besides growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Linear,
    /// Old revisions, compacted now and then.
    SawTooth,
    /// The same, and the file is defragmented a few times.
    Defragmented,
    /// The same as saw-tooth, growth and churn following the day.
    Daily,
    /// Churn without growth.
    Flat,
    /// Growth, and imports now and then.
    Bursts,
    /// Growth that becomes three times as fast, or slow, before the forecast.
    Changed,
    /// Growth whose speed wanders all the time, after the forecast too.
    Wandering,
    /// Saw-teeth of which a third was not seen, the last hour included.
    Gaps,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Linear,
        Self::SawTooth,
        Self::Defragmented,
        Self::Daily,
        Self::Flat,
        Self::Bursts,
        Self::Changed,
        Self::Wandering,
        Self::Gaps,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::SawTooth => "saw-tooth",
            Self::Defragmented => "defragmented",
            Self::Daily => "daily",
            Self::Flat => "flat",
            Self::Bursts => "bursts",
            Self::Changed => "changed",
            Self::Wandering => "wandering",
            Self::Gaps => "gaps",
        }
    }
}

/// A database's whole life until it is full.
#[derive(Clone, Debug)]
pub struct Life {
    /// Size of the file, the highest of each bin.
    pub total: Vec<Sample>,
    /// Pages in use, the highest of each bin.
    pub in_use: Vec<Sample>,
    /// Limit.
    pub quota: f64,
    /// When the file reached it; `None` when it never did.
    pub full_at: Option<f64>,
}

impl Life {
    /// What was seen of it before `now`.
    pub fn before(&self, now: f64) -> (&[Sample], &[Sample]) {
        let until = |samples: &[Sample]| samples.partition_point(|sample| sample.at <= now);
        (&self.total[..until(&self.total)], &self.in_use[..until(&self.in_use)])
    }
}

/// Lives one. The same shape and seed give the same life.
pub fn live(shape: Shape, seed: u64) -> Life {
    let mut random = StdRng::seed_from_u64(seed ^ ((shape as u64) << 32));
    let quota = 2.0 * 1024.0 * 1024.0 * 1024.0;
    let mut live = quota * random.random_range(0.1..0.3);
    // How long it takes to be full, about.
    let days = match shape {
        Shape::Daily => random.random_range(9.0..25.0),
        _ => random.random_range(1.0..20.0),
    };
    let speed = if shape == Shape::Flat { 0.0 } else { (quota - live) / (days * DAY) };
    let has_churn = !matches!(shape, Shape::Linear | Shape::Bursts);
    let compaction = if has_churn { HOUR * random.random_range(0.1..4.0) } else { f64::INFINITY };
    // A tooth as high as up to a tenth of the quota.
    let churn = if has_churn { quota * random.random_range(0.01..0.1) / compaction } else { 0.0 };
    // At a quarter of its life, whichever way it changes.
    let (change, changed_at) = if random.random::<bool>() { (3.0, 0.1) } else { (1.0 / 3.0, 0.5) };
    let phase = random.random_range(0.0..DAY);
    let defragmented: Vec<f64> = match shape {
        Shape::Defragmented => (0..4).map(|_| days * DAY * random.random_range(0.1..0.9)).collect(),
        _ => Vec::new(),
    };
    let (mut garbage, mut file, mut since, mut wander) = (0.0, live, 0.0f64, 0.0f64);
    let (mut totals, mut uses): (Vec<Sample>, Vec<Sample>) = (Vec::new(), Vec::new());
    let mut full_at = None;
    let mut hourly = 1.0;
    let end = days * DAY * 6.0;
    let mut at = 0.0;
    while at < end {
        at += STEP;
        if at % HOUR < STEP {
            hourly = random.random_range(0.5..1.5);
            wander += random.random_range(-0.1..0.1);
        }
        let rhythm = match shape {
            Shape::Daily => 1.0 + 0.9 * (std::f64::consts::TAU * (at + phase) / DAY).sin(),
            _ => 1.0,
        };
        let factor = match shape {
            Shape::Changed if at > changed_at * days * DAY => change,
            Shape::Wandering => wander.exp(),
            _ => 1.0,
        };
        live += STEP * speed * hourly * rhythm * factor;
        if shape == Shape::Bursts && random.random_bool((8.0 * STEP / (days * DAY)).min(1.0)) {
            live += quota * random.random_range(0.005..0.03);
        }
        garbage += STEP * churn * rhythm * random.random_range(0.8..1.2);
        since += STEP;
        let in_use = live + garbage;
        file = f64::max(file, (in_use / PAGE).ceil() * PAGE);
        note(&mut uses, at, in_use);
        note(&mut totals, at, file);
        if file >= quota {
            full_at = Some(at);
            break;
        }
        if since >= compaction * random.random_range(0.95..1.05) {
            (garbage, since) = (0.0, 0.0);
        }
        if defragmented.iter().any(|then| (at - STEP..at).contains(then)) {
            file = in_use;
        }
    }
    if shape == Shape::Gaps {
        // What was not seen is not there; a forecast is made while nothing is seen as well.
        let gaps: Vec<f64> = (0..8).map(|_| random.random_range(0.0..days * DAY)).collect();
        let seen =
            |sample: &Sample| !gaps.iter().any(|gap| (*gap..gap + days * DAY / 24.0).contains(&sample.at));
        totals.retain(seen);
        uses.retain(seen);
    }
    Life { total: totals, in_use: uses, quota, full_at }
}

/// Keeps the highest of a bin.
fn note(samples: &mut Vec<Sample>, at: f64, value: f64) {
    let bin = (at / BIN).floor() * BIN;
    match samples.last_mut().filter(|last| last.at == bin) {
        Some(last) => last.value = last.value.max(value),
        None => samples.push(Sample { at: bin, value }),
    }
}
