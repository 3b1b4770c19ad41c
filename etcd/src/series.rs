//! Names of what is measured, and when a value is worth sending.

use std::sync::Arc;

use etcdmon_proto::v1::MetricType;

/// A named series; shared, since the same series is sampled again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Prometheus name with its unit.
    pub name: String,
    /// Label names and values in turn, sorted by name.
    pub labels: Vec<String>,
    /// Counter or gauge.
    pub kind: MetricType,
}

impl Series {
    /// A counter. `labels` must be sorted by name.
    pub fn counter(name: &str, labels: &[(&str, &str)]) -> Arc<Self> {
        Self::of(name, labels, MetricType::Counter)
    }

    /// A gauge. `labels` must be sorted by name.
    pub fn gauge(name: &str, labels: &[(&str, &str)]) -> Arc<Self> {
        Self::of(name, labels, MetricType::Gauge)
    }

    fn of(name: &str, labels: &[(&str, &str)], kind: MetricType) -> Arc<Self> {
        debug_assert!(labels.is_sorted(), "labels of {name} are not sorted");
        let labels =
            labels.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect();
        Arc::new(Self { name: name.to_owned(), labels, kind })
    }
}

/// Whether a value is sent: when it changed, and now and then when it did not, since most values hardly ever change.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    last_bits: u64,
    /// Round in which it is repeated, changed or not.
    repeat_at: u64,
}

impl Steady {
    /// For a value sent for the first time in this round. `number` tells many series apart, so that not all of them are
    /// repeated in the same round.
    pub const fn sent(value: f64, round: u64, repeat_every: u64, number: u64) -> Self {
        let spread = if repeat_every == 0 { 0 } else { number % repeat_every };
        Self { last_bits: bits(value), repeat_at: round + 1 + spread }
    }

    /// True when the value is to be sent in this round; it is then taken as sent.
    pub const fn is_due(&mut self, value: f64, round: u64, repeat_every: u64) -> bool {
        let bits = bits(value);
        let due = self.last_bits != bits || round >= self.repeat_at;
        if due {
            self.last_bits = bits;
            self.repeat_at = round + repeat_every;
        }
        due
    }
}

/// NaN has many bit patterns: one stands for all, or it would count as changed for ever.
const fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}
