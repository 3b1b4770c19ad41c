//! Names of what is measured.

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
