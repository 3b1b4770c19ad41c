//! The values of one column.

use std::collections::HashMap;

use uuid::Uuid;

/// Up to so many values a dictionary is searched one by one, which is quicker than to hash.
const SMALL: usize = 8;

/// Text values that repeat: each is held once, rows hold its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dictionary {
    pub(super) values: Vec<String>,
    /// Where a value is, once there are many.
    numbers: HashMap<String, u32>,
    /// The value of each row.
    pub(super) rows: Vec<u32>,
}

impl Dictionary {
    /// A dictionary of these values, which differ from each other, with room for so many rows.
    pub fn of(values: Vec<String>, rows: usize) -> Self {
        debug_assert!(values.iter().collect::<std::collections::HashSet<_>>().len() == values.len());
        Self { values, numbers: HashMap::new(), rows: Vec::with_capacity(rows) }
    }

    /// The number of a value.
    pub fn number(&mut self, value: &str) -> u32 {
        if let Some(number) = self.find(value) {
            return number;
        }
        let number = u32::try_from(self.values.len()).expect("fewer than 2^32 texts fit the memory budget");
        self.values.push(value.to_owned());
        if !self.numbers.is_empty() {
            self.numbers.insert(value.to_owned(), number);
        }
        number
    }

    fn find(&mut self, value: &str) -> Option<u32> {
        if self.values.len() <= SMALL {
            return (0..).zip(&self.values).find(|(_, known)| *known == value).map(|(number, _)| number);
        }
        if self.numbers.is_empty() {
            self.numbers = self.values.iter().cloned().zip(0..).collect();
        }
        self.numbers.get(value).copied()
    }

    /// Appends a row with a value.
    pub fn push(&mut self, value: &str) {
        let number = self.number(value);
        self.rows.push(number);
    }

    /// Appends a row with the value of this number, as [`Dictionary::number`] gave it.
    pub fn push_number(&mut self, number: u32) {
        debug_assert!((number as usize) < self.values.len());
        self.rows.push(number);
    }

    fn append(&mut self, other: &Self) {
        let translated: Vec<u32> = other.values.iter().map(|value| self.number(value)).collect();
        self.rows.extend(other.rows.iter().map(|number| translated[*number as usize]));
    }

    fn select(&self, rows: &[u32]) -> Self {
        let rows = rows.iter().map(|row| self.rows[*row as usize]).collect();
        Self { values: self.values.clone(), numbers: HashMap::new(), rows }
    }

    /// The text of a row.
    pub fn text(&self, row: usize) -> &str {
        &self.values[self.rows[row] as usize]
    }

    fn bytes(&self) -> usize {
        let text: usize = self.values.iter().map(|value| value.len() + size_of::<String>()).sum();
        let found = self.numbers.len() * (size_of::<String>() + 16) * 2;
        self.rows.len() * 4 + text + found
    }
}

/// Sparse histograms, one a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histograms {
    /// End of each row's entries in the columns below.
    pub(super) ends: Vec<u64>,
    pub(super) buckets: Vec<u16>,
    pub(super) counts: Vec<u64>,
}

impl Histograms {
    /// From the entries of all rows, one row after the other, and where each row's end.
    pub fn of(ends: Vec<u64>, buckets: Vec<u16>, counts: Vec<u64>) -> Self {
        debug_assert!(
            buckets.len() == counts.len() && ends.last().is_none_or(|end| *end == buckets.len() as u64)
        );
        Self { ends, buckets, counts }
    }

    /// Appends a row.
    pub fn push(&mut self, pairs: impl IntoIterator<Item = (u16, u64)>) {
        for (bucket, count) in pairs {
            self.buckets.push(bucket);
            self.counts.push(count);
        }
        self.ends.push(self.buckets.len() as u64);
    }

    /// (bucket, count) of a row in rising order of bucket.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (u16, u64)> + Clone {
        let begin = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        let range = begin..self.ends[row] as usize;
        self.buckets[range.clone()].iter().copied().zip(self.counts[range].iter().copied())
    }

    fn append(&mut self, other: &Self) {
        let base = self.buckets.len() as u64;
        self.ends.extend(other.ends.iter().map(|end| base + end));
        self.buckets.extend_from_slice(&other.buckets);
        self.counts.extend_from_slice(&other.counts);
    }
}

/// A value that all rows of a column share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// `UUID`
    Uuid(Uuid),
    /// `UInt64`
    U64(u64),
    /// `UInt32`
    U32(u32),
}

/// The values of one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// One value in this many rows.
    Same(Value, usize),
    /// `UUID`
    Uuid(Vec<Uuid>),
    /// `UInt64`
    U64(Vec<u64>),
    /// `UInt32`
    U32(Vec<u32>),
    /// `Int32`
    I32(Vec<i32>),
    /// `Float64`
    F64(Vec<f64>),
    /// `DateTime64(9, 'UTC')`: nanoseconds since the Unix epoch.
    Time(Vec<i64>),
    /// `LowCardinality(String)`
    Text(Dictionary),
    /// `String`
    Long(Vec<String>),
    /// `Map(UInt16, UInt64)`
    Histogram(Histograms),
}

impl Column {
    /// Rows in it.
    pub fn rows(&self) -> usize {
        match self {
            Self::Same(_, rows) => *rows,
            Self::Uuid(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Time(values) => values.len(),
            Self::Text(values) => values.rows.len(),
            Self::Long(values) => values.len(),
            Self::Histogram(values) => values.ends.len(),
        }
    }

    pub(super) fn append(&mut self, other: &Self) {
        match (self, other) {
            (Self::Same(value, rows), Self::Same(same, more)) if value == same => *rows += more,
            (this @ Self::Same(..), other) => {
                *this = this.spread();
                this.append(other);
            }
            (this, other @ Self::Same(..)) => this.append(&other.spread()),
            (Self::Uuid(to), Self::Uuid(from)) => to.extend_from_slice(from),
            (Self::U64(to), Self::U64(from)) => to.extend_from_slice(from),
            (Self::U32(to), Self::U32(from)) => to.extend_from_slice(from),
            (Self::I32(to), Self::I32(from)) => to.extend_from_slice(from),
            (Self::F64(to), Self::F64(from)) => to.extend_from_slice(from),
            (Self::Time(to), Self::Time(from)) => to.extend_from_slice(from),
            (Self::Text(to), Self::Text(from)) => to.append(from),
            (Self::Long(to), Self::Long(from)) => to.extend_from_slice(from),
            (Self::Histogram(to), Self::Histogram(from)) => to.append(from),
            _ => unreachable!("blocks of one table have the same columns"),
        }
    }

    /// The same with a value of its own for each row.
    pub fn spread(&self) -> Self {
        match self {
            Self::Same(Value::Uuid(value), rows) => Self::Uuid(vec![*value; *rows]),
            Self::Same(Value::U64(value), rows) => Self::U64(vec![*value; *rows]),
            Self::Same(Value::U32(value), rows) => Self::U32(vec![*value; *rows]),
            spread => spread.clone(),
        }
    }

    pub(super) fn select(&self, rows: &[u32]) -> Self {
        fn pick<T: Clone>(values: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|row| values[*row as usize].clone()).collect()
        }
        match self {
            Self::Same(value, _) => Self::Same(*value, rows.len()),
            Self::Uuid(values) => Self::Uuid(pick(values, rows)),
            Self::U64(values) => Self::U64(pick(values, rows)),
            Self::U32(values) => Self::U32(pick(values, rows)),
            Self::I32(values) => Self::I32(pick(values, rows)),
            Self::F64(values) => Self::F64(pick(values, rows)),
            Self::Time(values) => Self::Time(pick(values, rows)),
            Self::Text(values) => Self::Text(values.select(rows)),
            Self::Long(values) => Self::Long(pick(values, rows)),
            Self::Histogram(values) => {
                let mut selected = Histograms::default();
                rows.iter().for_each(|row| selected.push(values.row(*row as usize)));
                Self::Histogram(selected)
            }
        }
    }

    /// Heap bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Same(..) => 0,
            Self::Uuid(values) => values.capacity() * 16,
            Self::U64(values) => values.capacity() * 8,
            Self::U32(values) => values.capacity() * 4,
            Self::I32(values) => values.capacity() * 4,
            Self::F64(values) => values.capacity() * 8,
            Self::Time(values) => values.capacity() * 8,
            Self::Text(values) => values.bytes(),
            Self::Long(values) => values.iter().map(|value| value.len() + size_of::<String>()).sum(),
            Self::Histogram(values) => {
                values.ends.capacity() * 8 + values.counts.capacity() * 8 + values.buckets.capacity() * 2
            }
        }
    }
}
