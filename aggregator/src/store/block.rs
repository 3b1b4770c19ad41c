//! Rows on their way to a table, column by column.
//!
//! Agents send columns and ClickHouse stores columns, so rows are never put together in between: a section's columns
//! become a [`Block`], and the blocks of many batches are written, one column after the other, as one block of
//! ClickHouse's Native format ([`native`]). It costs the engine about half of what rows cost. Nothing is copied on the
//! way but into those bytes.

mod column;
pub mod native;

pub use self::column::{Column, Dictionary, Histograms, Value};
use super::table::Table;

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
}
