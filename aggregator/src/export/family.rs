//! Metrics as values: what every format is written from.

use std::borrow::Cow;
use std::collections::HashMap;

/// Name and value of a label.
pub type Label = (Cow<'static, str>, String);

/// What the numbers of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, but for a restart of who counts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
    /// Nobody said.
    Unknown,
}

/// Counts by size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Upper bound, and how many are not above it, rising; all of them have no bound here.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of what was counted.
    pub sum: f64,
    /// How many were counted.
    pub count: u64,
}

/// A number, or several.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter, a gauge, or what nobody said.
    Number(f64),
    /// Of a histogram.
    Histogram(Histogram),
}

/// One series' newest value.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// By name; no name twice.
    pub labels: Vec<Label>,
    /// The value.
    pub value: Value,
}

/// All series of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Prometheus name, with its unit, and `_total` where it has that.
    pub name: Cow<'static, str>,
    /// One sentence.
    pub help: Cow<'static, str>,
    /// What its numbers are.
    pub kind: Kind,
    /// Its series.
    pub points: Vec<Point>,
}

impl Family {
    /// The unit in its name; empty where it has none.
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(&self.name);
        ["seconds", "bytes", "ratio"]
            .into_iter()
            .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
            .unwrap_or("")
    }
}

/// Families by name, in the order in which they first came. Series of one name are always together.
#[derive(Clone, Debug, Default)]
pub struct Families {
    all: Vec<Family>,
    positions: HashMap<Cow<'static, str>, usize>,
}

impl Families {
    /// Adds a value. Kind and help are those that came first with the name; a value that does not fit the kind is left out.
    pub fn add(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        kind: Kind,
        labels: Vec<Label>,
        value: Value,
    ) {
        let family = self.family(name.into(), help.into(), kind);
        if matches!(value, Value::Histogram(_)) == (family.kind == Kind::Histogram) {
            family.points.push(Point { labels, value });
        }
    }

    /// Adds a family even when it has no value yet.
    pub fn family(&mut self, name: Cow<'static, str>, help: Cow<'static, str>, kind: Kind) -> &mut Family {
        let position = *self.positions.entry(name.clone()).or_insert_with(|| {
            self.all.push(Family { name, help, kind, points: Vec::new() });
            self.all.len() - 1
        });
        &mut self.all[position]
    }

    /// Adds a counter's value.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: &[Label], value: f64) {
        self.add(name, help, Kind::Counter, labels.to_vec(), Value::Number(value));
    }

    /// Adds a gauge's value.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[Label], value: f64) {
        self.add(name, help, Kind::Gauge, labels.to_vec(), Value::Number(value));
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Family> {
        self.all
    }
}
