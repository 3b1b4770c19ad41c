//! Figures as they are printed and written, ratios of slots with and without probes, and how far to trust them.

use serde_json::{Value, json};

/// One number that a benchmark gives.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    goal: Option<f64>,
    better: &'static str,
    interval: Option<(f64, f64)>,
}

impl Figure {
    /// A figure that had better be low.
    pub(super) fn lower(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, goal: None, better: "lower", interval: None }
    }

    /// It had better be high.
    pub(super) fn better_high(self) -> Self {
        Self { better: "higher", ..self }
    }

    /// The ratio of a measure with probes to the same without, and its interval.
    pub(super) fn ratio<M>(name: impl Into<String>, slots: &[Slot<M>], measure: impl Fn(&M) -> f64) -> Self {
        let interval = interval(slots, &measure);
        Self { interval: Some(interval), ..Self::lower(name, ratio(slots, &measure), "ratio") }
    }

    /// What is wanted of it.
    pub(super) fn goal(self, goal: f64) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// The 95 % interval.
    pub(super) fn interval(&self) -> Option<(f64, f64)> {
        self.interval
    }

    /// A line for people.
    pub(super) fn line(&self) -> String {
        let Self { name, value, unit, .. } = self;
        let range = self.interval.map(|(low, high)| format!(" (95 %: {low:.4} to {high:.4})"));
        let goal = self.goal.map(|goal| format!(", goal {goal}"));
        format!("{name}: {value:.4} {unit}{}{}", range.unwrap_or_default(), goal.unwrap_or_default())
    }

    /// As `cargo xtask bench` takes it.
    pub(super) fn json(&self) -> Value {
        let mut figure = json!({
            "name": self.name, "value": self.value, "unit": self.unit, "goal": self.goal, "better": self.better,
        });
        if let Some((low, high)) = self.interval {
            figure["interval"] = json!([low, high]);
        }
        figure
    }
}

/// What was measured while the probes were on or off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<M> {
    /// Whether the probes were attached.
    pub(super) probed: bool,
    /// The measures.
    pub(super) measured: M,
}

/// Resamplings for an interval.
const RESAMPLINGS: usize = 2_000;

/// Mean of a measure over the slots with probes, divided by that over those without.
fn ratio<M>(slots: &[Slot<M>], measure: impl Fn(&M) -> f64) -> f64 {
    let values: Vec<_> = slots.iter().map(|slot| (slot.probed, measure(&slot.measured))).collect();
    ratio_of(values.iter())
}

/// The 95 % interval of that ratio by resampling the slots with replacement.
fn interval<M>(slots: &[Slot<M>], measure: impl Fn(&M) -> f64) -> (f64, f64) {
    let values: Vec<_> = slots.iter().map(|slot| (slot.probed, measure(&slot.measured))).collect();
    let draw = || {
        let drawn = (0..values.len()).map(|_| &values[rand::random_range(0..values.len())]);
        ratio_of(drawn)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLINGS).map(|_| draw()).filter(|ratio| ratio.is_finite()).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |per_mille: usize| ratios.get(ratios.len() * per_mille / 1000).copied().unwrap_or(f64::NAN);
    (at(25), at(975))
}

fn ratio_of<'a>(values: impl Iterator<Item = &'a (bool, f64)>) -> f64 {
    // Sum and number, without probes and with.
    let mut of = [(0.0, 0.0); 2];
    for (probed, value) in values {
        let (sum, count) = &mut of[usize::from(*probed)];
        *sum += value;
        *count += 1.0;
    }
    let [bare, probed] = of.map(|(sum, count)| sum / count);
    probed / bare
}

/// The value below which this share of the values lies.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is an index"
    )]
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_more_work_is_found_within_its_interval() {
        let slots: Vec<Slot<f64>> = (0..400)
            .map(|index| {
                let probed = index % 2 == 0;
                let noise = f64::from(index % 7);
                Slot { probed, measured: if probed { 110.0 } else { 100.0 } + noise }
            })
            .collect();
        let figure = Figure::ratio("cpu", &slots, |cpu| *cpu).goal(1.03);
        let (low, high) = figure.interval().expect("a ratio has one");
        assert!(low < 1.097 && 1.097 < high && high - low < 0.02, "{low} .. {high}");
        assert!((ratio(&slots, |_| 1.0) - 1.0).abs() < 1e-9);
        assert_eq!((&figure.json()["name"], &figure.json()["goal"]), (&json!("cpu"), &json!(1.03)));
    }

    #[test]
    fn quantiles_are_of_sorted_values() {
        let mut values: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), 50.0);
        assert_eq!(quantile(&mut values, 0.99), 99.0);
        assert_eq!(quantile(&mut values, 1.0), 99.0);
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
