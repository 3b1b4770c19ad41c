//! How a mark is kept on disk: in wall time, so that it means the same to the next process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Mark, Told};
use crate::clock::At;
use crate::rule::Labels;

#[derive(Serialize, Deserialize)]
struct MarkRecord {
    /// Unix nanoseconds.
    last_at_ns: i64,
    told: BTreeMap<String, ToldRecord>,
}

#[derive(Serialize, Deserialize)]
struct ToldRecord {
    /// Unix nanoseconds.
    fired_at_ns: i64,
    labels: Labels,
    annotations: Labels,
}

impl Mark {
    /// As a record. `offset_ns` is how far the wall clock is ahead of steady time.
    pub(super) fn to_record(&self, offset_ns: i64) -> Value {
        let wall = |at: At| at.shifted(offset_ns).nanos();
        let told = self.told.iter().map(|(id, told)| {
            let record = ToldRecord {
                fired_at_ns: wall(told.fired_at),
                labels: told.labels.clone(),
                annotations: told.annotations.clone(),
            };
            (id.to_string(), record)
        });
        let record = MarkRecord { last_at_ns: wall(self.last_at), told: told.collect() };
        serde_json::to_value(record).expect("text keys and numbers always serialise")
    }

    /// From a record; `None` when it has another shape.
    pub(super) fn from_record(record: &Value, offset_ns: i64) -> Option<Self> {
        let record = MarkRecord::deserialize(record).ok()?;
        let steady = |ns: i64| At::from_nanos(ns).shifted(offset_ns.saturating_neg());
        let told = record.told.into_iter().filter_map(|(id, told)| {
            let fired_at = steady(told.fired_at_ns);
            Some((id.parse().ok()?, Told { fired_at, labels: told.labels, annotations: told.annotations }))
        });
        Some(Self { last_at: steady(record.last_at_ns), told: told.collect() })
    }
}
