//! Rows on their way to a table, column by column, and their Native form.
//!
//! Agents send columns and ClickHouse stores columns, so rows are never put together in between: a section's columns
//! become a [`Block`], the blocks of many batches are appended to one, and that is written as ClickHouse's Native
//! format (columns with name and type; all numbers little endian). It costs the engine about half of what rows cost.

use std::collections::HashMap;

use uuid::Uuid;

use super::table::{Kind, Table};

/// Text values that repeat: each is held once, rows hold its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dictionary {
    values: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The value of each row.
    rows: Vec<u32>,
}

impl Dictionary {
    /// The number of a value.
    pub fn number(&mut self, value: &str) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).expect("fewer than 2^32 texts fit the memory budget");
        self.values.push(value.to_owned());
        self.numbers.insert(value.to_owned(), number);
        number
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
        let mut selected = Self::default();
        for row in rows {
            selected.push(&self.values[self.rows[*row as usize] as usize]);
        }
        selected
    }

    /// The text of a row.
    pub fn text(&self, row: usize) -> &str {
        &self.values[self.rows[row] as usize]
    }
}

/// Sparse histograms, one a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histograms {
    /// End of each row's entries in the columns below.
    ends: Vec<u64>,
    buckets: Vec<u16>,
    counts: Vec<u64>,
}

impl Histograms {
    /// Appends a row.
    pub fn push(&mut self, pairs: impl IntoIterator<Item = (u16, u64)>) {
        for (bucket, count) in pairs {
            self.buckets.push(bucket);
            self.counts.push(count);
        }
        self.ends.push(self.buckets.len() as u64);
    }

    /// (bucket, count) of a row in rising order of bucket.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (u16, u64)> {
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

/// The values of one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
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
    /// An empty column.
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Uuid => Self::Uuid(Vec::new()),
            Kind::U64 => Self::U64(Vec::new()),
            Kind::U32 => Self::U32(Vec::new()),
            Kind::I32 => Self::I32(Vec::new()),
            Kind::F64 => Self::F64(Vec::new()),
            Kind::Time => Self::Time(Vec::new()),
            Kind::Text => Self::Text(Dictionary::default()),
            Kind::Long => Self::Long(Vec::new()),
            Kind::Histogram => Self::Histogram(Histograms::default()),
        }
    }

    /// Rows in it.
    pub fn rows(&self) -> usize {
        match self {
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

    fn append(&mut self, other: &Self) {
        match (self, other) {
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

    fn select(&self, rows: &[u32]) -> Self {
        fn pick<T: Clone>(values: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|row| values[*row as usize].clone()).collect()
        }
        match self {
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
    fn bytes(&self) -> usize {
        match self {
            Self::Uuid(values) => values.len() * 16,
            Self::U64(values) => values.len() * 8,
            Self::U32(values) => values.len() * 4,
            Self::I32(values) => values.len() * 4,
            Self::F64(values) => values.len() * 8,
            Self::Time(values) => values.len() * 8,
            Self::Text(values) => {
                values.rows.len() * 4 + values.values.iter().map(|value| 2 * value.len() + 80).sum::<usize>()
            }
            Self::Long(values) => values.iter().map(|value| value.len() + 24).sum(),
            Self::Histogram(values) => values.ends.len() * 8 + values.counts.len() * 10,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Uuid(values) => values.iter().for_each(|value| {
                // Two 64-bit halves, the high one first, each little endian.
                let (high, low) = value.as_u64_pair();
                out.extend_from_slice(&high.to_le_bytes());
                out.extend_from_slice(&low.to_le_bytes());
            }),
            Self::U64(values) => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::U32(values) => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::I32(values) => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::F64(values) => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::Time(values) => values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::Text(values) => write_dictionary(values, out),
            Self::Long(values) => values.iter().for_each(|value| write_text(value, out)),
            Self::Histogram(values) => {
                values.ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
                values.buckets.iter().for_each(|bucket| out.extend_from_slice(&bucket.to_le_bytes()));
                values.counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
            }
        }
    }
}

/// `LowCardinality(String)`: version 1 (a dictionary within the block), then index width and flags, the dictionary,
/// and a number for each row.
fn write_dictionary(dictionary: &Dictionary, out: &mut Vec<u8>) {
    const VERSION: u64 = 1;
    const INDEX_U32: u64 = 2;
    const HAS_KEYS: u64 = 1 << 9;
    const NEW_DICTIONARY: u64 = 1 << 10;
    for value in [VERSION, INDEX_U32 | HAS_KEYS | NEW_DICTIONARY, dictionary.values.len() as u64] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    dictionary.values.iter().for_each(|value| write_text(value, out));
    out.extend_from_slice(&(dictionary.rows.len() as u64).to_le_bytes());
    dictionary.rows.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The table.
    pub table: Table,
    columns: Vec<Column>,
}

impl Block {
    /// A block from columns in the order of [`Table::columns`].
    ///
    /// # Panics
    /// When the columns are not the table's, or differ in length: the decoder checked both.
    pub fn new(table: Table, columns: Vec<Column>) -> Self {
        assert_eq!(columns.len(), table.columns().len(), "columns of {}", table.name());
        assert!(
            columns.windows(2).all(|pair| pair[0].rows() == pair[1].rows()),
            "columns of {} differ in length",
            table.name()
        );
        Self { table, columns }
    }

    /// A block without rows.
    pub fn empty(table: Table) -> Self {
        Self { table, columns: table.columns().iter().map(|(_, kind)| Column::new(*kind)).collect() }
    }

    /// Rows in it.
    pub fn rows(&self) -> usize {
        self.columns[0].rows()
    }

    /// Heap bytes, roughly.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// The columns in the order of [`Table::columns`].
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Appends the rows of another block of the same table.
    pub fn append(&mut self, other: &Self) {
        debug_assert_eq!(self.table, other.table);
        for (to, from) in self.columns.iter_mut().zip(&other.columns) {
            to.append(from);
        }
    }

    /// These rows alone, in this order.
    pub fn select(&self, rows: &[u32]) -> Self {
        Self { table: self.table, columns: self.columns.iter().map(|column| column.select(rows)).collect() }
    }

    /// Wall time of each row.
    pub fn times(&self) -> &[i64] {
        match &self.columns[Table::AT] {
            Column::Time(times) => times,
            _ => unreachable!("every table's column `at` is a time"),
        }
    }

    /// Position of each row in its batch's section.
    pub fn row_numbers(&self) -> &[u32] {
        match &self.columns[Table::ROW] {
            Column::U32(rows) => rows,
            _ => unreachable!("every table's column `row` is a UInt32"),
        }
    }

    /// As one block of ClickHouse's Native format.
    pub fn to_native(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes() + 1024);
        write_varint(self.columns.len() as u64, &mut out);
        write_varint(self.rows() as u64, &mut out);
        for ((name, kind), column) in self.table.columns().iter().zip(&self.columns) {
            write_text(name, &mut out);
            write_text(kind.sql(), &mut out);
            column.write(&mut out);
        }
        out
    }
}
