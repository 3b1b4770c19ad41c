//! The line over the peaks: a series cut into blocks of time, each with its highest value. A block is long enough to hold a
//! peak of the saw-teeth.

use super::Sample;

/// Most blocks that a series without a daily rhythm is cut into.
const MOST: f64 = 48.0;

/// Most blocks a day of a series with one.
const MOST_A_DAY: f64 = 24.0;

/// A day in seconds.
pub const DAY: f64 = 86_400.0;

/// Teeth differ in length: this much of the usual one holds a peak.
const TOOTH: f64 = 1.25;

/// A fall is the end of a tooth when it is so many usual steps.
const FALL: f64 = 4.0;

/// A series' peaks.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// The highest sample of each block that has any, by rising time.
    pub peaks: Vec<Sample>,
    /// Length of a block in seconds.
    pub length: f64,
    /// Usual length of a saw-tooth in seconds, where there are any.
    pub tooth: Option<f64>,
    /// Whether blocks divide the day, so that the same times of days can be compared.
    pub by_day: bool,
}

impl Blocks {
    /// Of a series by rising time, cut backwards from its last sample, so that the newest block is whole.
    pub fn cut(samples: &[Sample]) -> Self {
        let (first, last) = match (samples.first(), samples.last()) {
            (Some(first), Some(last)) => (first.at, last.at),
            _ => return Self { peaks: Vec::new(), length: 0.0, tooth: None, by_day: false },
        };
        let span = last - first;
        let tooth = tooth(samples);
        let steps: Vec<f64> = samples.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        let least = median(&steps).unwrap_or(0.0).max(tooth.unwrap_or(0.0) * TOOTH);
        let by_day = span >= 3.0 * DAY && least <= DAY / 2.0;
        let length =
            if by_day { DAY / (DAY / least.max(DAY / MOST_A_DAY)).floor() } else { least.max(span / MOST) };
        let mut peaks: Vec<Sample> = Vec::new();
        let mut block = None;
        for sample in samples {
            let number = ((last - sample.at) / length) as u64;
            // What is left over at the begin is no whole block.
            if (number + 1) as f64 * length > span + length * 0.01 {
                continue;
            }
            match peaks.last_mut().filter(|_| block == Some(number)) {
                Some(peak) if sample.value > peak.value => *peak = *sample,
                Some(_) => {}
                None => peaks.push(*sample),
            }
            block = Some(number);
        }
        Self { peaks, length, tooth, by_day }
    }
}

/// Usual time between two ends of saw-teeth: falls that are large against the usual step. `None` with fewer than two.
fn tooth(samples: &[Sample]) -> Option<f64> {
    let steps: Vec<f64> = samples.windows(2).map(|pair| (pair[1].value - pair[0].value).abs()).collect();
    let usual = median(&steps)?;
    let falls: Vec<f64> = samples
        .windows(2)
        .filter(|pair| pair[0].value - pair[1].value > FALL * usual)
        .map(|pair| pair[1].at)
        .collect();
    let between: Vec<f64> = falls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    median(&between)
}

/// The value in the middle; the mean of both of an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0)
}
