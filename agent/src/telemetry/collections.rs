//! What collections cost and how they end: proof that 99.9 % succeed within a second (S8) and of their share in the budget (S12).

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::collect::schedule::Outcome;

/// A count by collector.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CollectorLabels {
    collector: &'static str,
}

/// A count by collector and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    collector: &'static str,
    outcome: &'static str,
}

/// From a small file of `/proc` to beyond a second, which is the limit.
fn durations() -> Histogram {
    Histogram::new([0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0])
}

/// Counters of all collectors.
#[derive(Debug)]
pub struct Collections {
    outcomes: Family<OutcomeLabels, Counter>,
    durations: Family<CollectorLabels, Histogram, fn() -> Histogram>,
    cpu: Family<CollectorLabels, Counter<f64, AtomicU64>>,
    slowed: Family<CollectorLabels, Gauge>,
}

impl Default for Collections {
    fn default() -> Self {
        Self {
            outcomes: Family::default(),
            durations: Family::new_with_constructor(durations),
            cpu: Family::default(),
            slowed: Family::default(),
        }
    }
}

impl Collections {
    /// Notes a collection: how it went, how long it took, what CPU time it used.
    pub fn note(&self, collector: &'static str, outcome: Outcome, took: Duration, used: Duration) {
        let labels = CollectorLabels { collector };
        self.outcomes.get_or_create(&OutcomeLabels { collector, outcome: outcome.name() }).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        self.cpu.get_or_create(&labels).inc_by(used.as_secs_f64());
    }

    /// Notes that one more collector of this name is slowed down, or one less; returns how many are.
    pub fn slowed(&self, collector: &'static str, change: i64) -> i64 {
        self.slowed.get_or_create(&CollectorLabels { collector }).inc_by(change) + change
    }

    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("collections", "Collections, by collector and outcome", self.outcomes.clone());
        let durations = self.durations.clone();
        registry.register_with_unit("collect", "Duration of collections", Unit::Seconds, durations);
        let cpu = self.cpu.clone();
        registry.register_with_unit("collect_cpu", "CPU time of collections", Unit::Seconds, cpu);
        let help = "Collectors that run less often than set, to keep within their share of CPU";
        registry.register("collect_slowed", help, self.slowed.clone());
    }
}
