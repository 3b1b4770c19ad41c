//! Forecasts made in the past, compared with what came.

use etcdmon_aggregator::capacity::{self, Database, Outcome, Sample};

use super::process::{BIN, DAY, Life, Shape, live};

/// How much of the way to its limit a database has gone when it is asked.
const CUTS: [f64; 3] = [0.4, 0.6, 0.8];

/// Longest past that is asked for, as the aggregator does.
const PAST: f64 = 30.0 * DAY;

/// What became of the forecasts of one kind.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Forecasts.
    pub asked: usize,
    /// Those with a date.
    pub dated: usize,
    /// Those that said: not growing.
    pub not_growing: usize,
    /// Those that said: not within the time that can be overlooked.
    pub beyond: usize,
    /// Those that said nothing.
    pub unknown: usize,
    /// Of those with a date: how far the date was off, as a share of the time that was left, without sign.
    errors: Vec<f64>,
    /// Of those with a date: the same with its sign; above zero is too late.
    signed: Vec<f64>,
    /// Of those with a date: how often the truth lay within the interval.
    covered: usize,
    /// How often it came earlier than `low`, which is the worse mistake.
    early: usize,
    /// Of those with a date: width of the interval as a share of the time that was left; infinite when it is open.
    widths: Vec<f64>,
}

impl Score {
    fn take(&mut self, outcome: &Outcome, left: Option<f64>) {
        self.asked += 1;
        match (outcome, left) {
            (Outcome::Eta(eta), Some(left)) => {
                self.dated += 1;
                self.errors.push((eta.mid - left).abs() / left);
                self.signed.push((eta.mid - left) / left);
                self.covered += usize::from(left >= eta.low && eta.high.is_none_or(|high| left <= high));
                self.early += usize::from(left < eta.low);
                self.widths.push(eta.high.map_or(f64::INFINITY, |high| (high - eta.low) / left));
            }
            // A date for what never came.
            (Outcome::Eta(eta), None) => {
                self.dated += 1;
                self.covered += usize::from(eta.high.is_none());
            }
            (Outcome::NotGrowing, _) => self.not_growing += 1,
            (Outcome::Beyond { .. }, _) => self.beyond += 1,
            (Outcome::Reached | Outcome::Unknown(_), _) => self.unknown += 1,
        }
    }

    /// Median error of dates, as a share of the time that was left.
    pub fn median_error(&self) -> f64 {
        quantile(&self.errors, 0.5)
    }

    /// The error that nine of ten dates do not exceed.
    pub fn worst_error(&self) -> f64 {
        quantile(&self.errors, 0.9)
    }

    /// Median error with its sign.
    pub fn bias(&self) -> f64 {
        quantile(&self.signed, 0.5)
    }

    /// Share of dates whose interval held the truth.
    pub fn coverage(&self) -> f64 {
        self.covered as f64 / self.dated.max(1) as f64
    }

    /// Share of dates whose truth came before the interval.
    pub fn too_early(&self) -> f64 {
        self.early as f64 / self.dated.max(1) as f64
    }

    /// Median width of the interval, as a share of the time that was left.
    pub fn width(&self) -> f64 {
        quantile(&self.widths, 0.5)
    }

    /// One line of the table.
    pub fn line(&self, name: &str) -> String {
        let percent = |share: f64| match share.is_finite() {
            true => format!("{:.0} %", share * 100.0),
            false => "–".to_owned(),
        };
        format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.asked,
            self.dated,
            self.not_growing + self.beyond,
            percent(self.median_error()),
            percent(self.worst_error()),
            percent(self.bias()),
            percent(self.coverage()),
            percent(self.width()),
        )
    }
}

/// Head of the table.
pub const HEAD: &str = "| series | asked | with a date | without | median error | 9 of 10 below | bias | truth within | width |\n\
    |---|---|---|---|---|---|---|---|---|";

/// The value below which the share of values lies; no number when there is none.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Forecasts of so many lives of a shape, at three moments of each.
pub fn generated(shape: Shape, lives: u64) -> Score {
    let mut score = Score::default();
    for seed in 0..lives {
        let life = live(shape, seed);
        let end = life.full_at.or(life.total.last().map(|sample| sample.at)).unwrap_or(0.0);
        CUTS.iter().for_each(|cut| ask(&life, end * cut, &mut score));
    }
    score
}

fn ask(life: &Life, now: f64, score: &mut Score) {
    let (total, in_use) = life.before(now);
    let recent = |samples: &'_ [Sample]| samples.partition_point(|sample| sample.at < now - PAST);
    let database = Database {
        total: &total[recent(total)..],
        in_use: &in_use[recent(in_use)..],
        quota: Some(life.quota),
    };
    let forecast = capacity::database(database, now);
    let Some(outcome) = forecast.outcome else { return };
    score.take(&outcome, life.full_at.map(|full_at| full_at - now));
}

/// Forecasts of a recorded series, at moments that divide it.
pub fn recorded(text: &str) -> Score {
    let mut score = Score::default();
    let life = read(text);
    let end = life.full_at.unwrap_or(0.0);
    (6..19).for_each(|part| ask(&life, end * f64::from(part) / 20.0, &mut score));
    score
}

/// A recorded series: lines of `seconds,total,in_use` below a line `quota,BYTES`. It was recorded in minutes; told as if each
/// second had been a bin, so that what it has to say is of days.
pub fn read(text: &str) -> Life {
    let mut life = Life { total: Vec::new(), in_use: Vec::new(), quota: 0.0, full_at: None };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<f64> = line.split(',').filter_map(|field| field.trim().parse().ok()).collect();
        match fields.as_slice() {
            [quota] => life.quota = *quota,
            [seconds, total, in_use] => {
                let at = seconds * BIN;
                life.total.push(Sample { at, value: *total });
                life.in_use.push(Sample { at, value: *in_use });
                if *total >= life.quota && life.full_at.is_none() {
                    life.full_at = Some(at);
                }
            }
            _ => {}
        }
    }
    life
}
