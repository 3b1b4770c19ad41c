//! The series of one collector, with what was last sent of each.
//!
//! Most of what a node says of itself hardly ever changes. A value that did not change is repeated only now and then, as
//! etcd's own samples are ([`Steady`]), so that everything can be sampled every second and is still cheap to
//! store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use etcdmon_etcd::series::Steady;

use crate::clock::Reading;
use crate::discover::ProcessId;
use crate::fact::{Fact, Lost, Samples, Series};
use crate::hub::Note;

/// A value that did not change is repeated after this time: well below the two minutes in which a sample counts as current.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

/// Most series of one collector. Names of devices and interfaces are bounded, but nothing stops a node from changing them.
pub const SERIES_LIMIT: usize = 1_000;

/// A series of a [`Sheet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

#[derive(Debug)]
struct Row {
    series: Arc<Series>,
    last: Option<Steady>,
}

/// See the module.
#[derive(Debug)]
pub struct Sheet {
    rows: Vec<Row>,
    /// Slots of what comes and goes, by a key of the collector's own choice.
    keyed: HashMap<Box<str>, Box<[Slot]>>,
    repeat_every: u64,
    round: u64,
    changed: Vec<(Arc<Series>, f64)>,
    refused: u64,
}

impl Sheet {
    /// For a collector with this period.
    pub fn new(period: Duration) -> Self {
        let rounds = REPEAT_AFTER.as_millis() / period.as_millis().max(1);
        Self {
            rows: Vec::new(),
            keyed: HashMap::new(),
            repeat_every: u64::try_from(rounds).unwrap_or(u64::MAX).max(1),
            round: 0,
            changed: Vec::new(),
            refused: 0,
        }
    }

    /// Adds a counter. `labels` must be sorted by name.
    pub fn counter(&mut self, name: &str, labels: &[(&str, &str)]) -> Slot {
        self.add(Series::counter(name, labels))
    }

    /// Adds a gauge. `labels` must be sorted by name.
    pub fn gauge(&mut self, name: &str, labels: &[(&str, &str)]) -> Slot {
        self.add(Series::gauge(name, labels))
    }

    fn add(&mut self, series: Arc<Series>) -> Slot {
        self.rows.push(Row { series, last: None });
        Slot(self.rows.len() - 1)
    }

    /// The slots that `make` added for this key when it was first met. Empty when there is no room for more; that is counted
    /// as one refused sample each time.
    pub fn keyed(&mut self, key: &str, make: impl FnOnce(&mut Self) -> Vec<Slot>) -> Box<[Slot]> {
        if let Some(slots) = self.keyed.get(key) {
            return slots.clone();
        }
        if self.rows.len() >= SERIES_LIMIT {
            self.refused += 1;
            return Box::default();
        }
        let slots = make(self).into_boxed_slice();
        self.keyed.insert(key.into(), slots.clone());
        slots
    }

    /// Notes a value of this round.
    pub fn set(&mut self, slot: Slot, value: f64) {
        let (round, every) = (self.round, self.repeat_every);
        let row = &mut self.rows[slot.0];
        let due = match &mut row.last {
            Some(last) => last.is_due(value, round, every),
            none => {
                *none = Some(Steady::sent(value, round, every, slot.0 as u64));
                true
            }
        };
        if due {
            self.changed.push((Arc::clone(&row.series), value));
        }
    }

    /// Notes values of this round, in the order of their slots; what is `None` is absent.
    pub fn set_all(&mut self, slots: &[Slot], values: impl IntoIterator<Item = Option<f64>>) {
        for (slot, value) in slots.iter().zip(values) {
            if let Some(value) = value {
                self.set(*slot, value);
            }
        }
    }

    /// Ends the round: what is to be sent of it.
    pub fn take(&mut self, process: Option<ProcessId>, now: Reading) -> Vec<Note> {
        self.round += 1;
        let mut facts = Vec::with_capacity(2);
        if !self.changed.is_empty() {
            let values = std::mem::take(&mut self.changed);
            facts.push(Fact::Samples(Samples { process, mono_ns: now.mono_ns, values }));
        }
        let count = std::mem::take(&mut self.refused);
        if count > 0 {
            let (stream, reason) = ("metric", "series_limit".to_owned());
            facts.push(Fact::Lost(Lost { process, wall_ns: now.wall_ns, stream, reason, count }));
        }
        if facts.is_empty() { Vec::new() } else { vec![Note::Facts(facts)] }
    }
}

/// What tests of collectors read: the values in notes, by name and label values in turn.
#[cfg(test)]
pub fn values_of(notes: &[Note]) -> std::collections::BTreeMap<String, f64> {
    let facts =
        notes.iter().filter_map(|note| if let Note::Facts(facts) = note { Some(facts) } else { None });
    let samples = facts
        .flatten()
        .filter_map(|fact| if let Fact::Samples(samples) = fact { Some(samples) } else { None });
    samples
        .flat_map(|samples| &samples.values)
        .map(|(series, value)| {
            let labels: Vec<&str> = series.labels.iter().skip(1).step_by(2).map(String::as_str).collect();
            (format!("{} {}", series.name, labels.join(" ")).trim_end().to_owned(), *value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Reading = Reading { mono_ns: 5, wall_ns: 7 };

    #[test]
    fn what_did_not_change_is_repeated_within_half_a_minute() {
        let mut sheet = Sheet::new(Duration::from_secs(5));
        let slot = sheet.gauge("a", &[]);
        let sent: Vec<bool> = (0..13)
            .map(|_| {
                sheet.set(slot, 1.0);
                !sheet.take(None, NOW).is_empty()
            })
            .collect();
        let rounds: Vec<usize> = (0..13).filter(|round| sent[*round]).collect();
        assert_eq!(rounds, [0, 1, 7], "every six rounds of five seconds, after a first spread");
    }

    #[test]
    fn what_changes_is_sent_each_time_and_nan_is_no_change() {
        let mut sheet = Sheet::new(Duration::from_secs(1));
        let (moving, still) = (sheet.counter("m", &[]), sheet.gauge("s", &[("a", "b")]));
        let mut counts = [0; 2];
        for round in 0..20 {
            sheet.set(moving, f64::from(round));
            sheet.set(still, f64::NAN);
            let values = values_of(&sheet.take(None, NOW));
            counts[0] += usize::from(values.contains_key("m"));
            counts[1] += usize::from(values.contains_key("s b"));
        }
        assert_eq!(counts, [20, 2]);
    }

    #[test]
    fn keys_beyond_the_limit_are_refused_and_counted() {
        let mut sheet = Sheet::new(Duration::from_secs(1));
        for key in 0..SERIES_LIMIT + 3 {
            let slots = sheet.keyed(&key.to_string(), |sheet| vec![sheet.gauge("g", &[])]);
            sheet.set_all(&slots, [Some(1.0)]);
        }
        let notes = sheet.take(None, NOW);
        let [Note::Facts(facts)] = notes.as_slice() else { panic!("{notes:?}") };
        let Fact::Lost(lost) = &facts[1] else { panic!("{facts:?}") };
        assert_eq!((lost.count, lost.stream, lost.reason.as_str()), (3, "metric", "series_limit"));
    }
}
