//! What the store counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::Table;

/// Counters since the process began, and two gauges. Read with [`AtomicU64::load`] for `/metrics`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows inserted, by table in the order of [`Table::ALL`].
    pub rows_stored: [AtomicU64; Table::ALL.len()],
    /// Rows that ClickHouse will never take, by table: set aside, and in the ledger as dropped.
    pub rows_unstorable: [AtomicU64; Table::ALL.len()],
    /// Batches that are stored as a whole.
    pub batches_stored: AtomicU64,
    /// Batches that came again while they were waiting here.
    pub batches_merged: AtomicU64,
    /// Inserts that ended well.
    pub inserts: AtomicU64,
    /// Inserts that failed or whose outcome is not known.
    pub inserts_failed: AtomicU64,
    /// Times that tables were asked what they have of a batch.
    pub presence_checks: AtomicU64,
    /// Rows that were there already and not stored again.
    pub rows_present: AtomicU64,
    /// Time that groups took from first insert to last, in nanoseconds.
    pub flush_ns: AtomicU64,
    /// Groups stored.
    pub flushes: AtomicU64,
    /// Gauge: batches that wait to be stored.
    pub batches_waiting: AtomicU64,
    /// Gauge: memory that they take, in bytes.
    pub bytes_waiting: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, value: usize) {
        counter.fetch_add(value as u64, Ordering::Relaxed);
    }

    pub(super) fn subtract(gauge: &AtomicU64, value: usize) {
        gauge.fetch_sub(value as u64, Ordering::Relaxed);
    }

    /// Rows inserted into a table.
    pub fn rows_stored(&self, table: Table) -> &AtomicU64 {
        &self.rows_stored[table as usize]
    }
}
