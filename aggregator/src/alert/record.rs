//! How an alert is kept on disk: in wall time, so that it means the same to the next process.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Alert, State};
use crate::clock::At;
use crate::rule::{Labels, Severity};

#[derive(Serialize, Deserialize)]
struct Record {
    labels: Labels,
    severity: Severity,
    state: State,
    annotations: Labels,
    value: f64,
    started_at: DateTime<Utc>,
    fired_at: Option<DateTime<Utc>>,
    resolved_at: Option<DateTime<Utc>>,
    notified_at: Option<DateTime<Utc>>,
    breached_at: DateTime<Utc>,
}

impl Alert {
    /// As a record. `offset_ns` is how far the wall clock is ahead of steady time.
    pub fn to_record(&self, offset_ns: i64) -> serde_json::Value {
        let wall = |at: At| at.shifted(offset_ns).date();
        let record = Record {
            labels: self.labels.clone(),
            severity: self.severity,
            state: self.state,
            annotations: self.annotations.clone(),
            // JSON has no infinity; a value that is none is of no use anyway.
            value: if self.value.is_finite() { self.value } else { 0.0 },
            started_at: wall(self.started_at),
            fired_at: self.fired_at.map(wall),
            resolved_at: self.resolved_at.map(wall),
            notified_at: self.notified_at.map(wall),
            breached_at: wall(self.breached_at),
        };
        serde_json::to_value(record).expect("text keys and finite numbers always serialise")
    }

    /// From a record.
    ///
    /// # Errors
    /// When the record has another shape.
    pub fn from_record(record: &serde_json::Value, offset_ns: i64) -> Result<Self, serde_json::Error> {
        let record = Record::deserialize(record)?;
        let steady = |date: DateTime<Utc>| {
            At::from_nanos(date.timestamp_nanos_opt().unwrap_or(i64::MAX)).shifted(offset_ns.saturating_neg())
        };
        Ok(Self {
            labels: record.labels,
            severity: record.severity,
            state: record.state,
            annotations: record.annotations,
            value: record.value,
            started_at: steady(record.started_at),
            fired_at: record.fired_at.map(steady),
            resolved_at: record.resolved_at.map(steady),
            notified_at: record.notified_at.map(steady),
            breached_at: steady(record.breached_at),
            unknown: None,
        })
    }
}
