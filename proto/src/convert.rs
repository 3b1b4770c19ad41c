//! Codings that both ends share.

use etcdmon_histogram::BUCKETS;

use crate::v1;

/// A column or histogram that does not decode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodingError {
    /// A delta led outside the range of the column's type.
    #[error("column {column} leaves its range at row {row}")]
    OutOfRange {
        /// Name of the column.
        column: &'static str,
        /// Row, from 0.
        row: usize,
    },
    /// A column has another length than the rows announced.
    #[error("column {column} has {found} rows, expected {expected}")]
    Length {
        /// Name of the column.
        column: &'static str,
        /// Rows found.
        found: usize,
        /// Rows expected.
        expected: usize,
    },
    /// A histogram names a bucket that does not exist, or names one twice.
    #[error("histogram bucket {bucket} out of order or out of range")]
    Bucket {
        /// The bucket number reached.
        bucket: u64,
    },
}

/// Codes a column of signed values as first value and differences. Wraps on overflow, as [`undelta_i64`] does, so
/// every input survives the round trip.
pub fn delta_i64(values: impl IntoIterator<Item = i64>) -> Vec<i64> {
    let mut last = 0i64;
    values.into_iter().map(|value| value.wrapping_sub(std::mem::replace(&mut last, value))).collect()
}

/// Reverses [`delta_i64`].
pub fn undelta_i64(deltas: &[i64]) -> Vec<i64> {
    let mut value = 0i64;
    deltas
        .iter()
        .map(|delta| {
            value = value.wrapping_add(*delta);
            value
        })
        .collect()
}

/// Codes rising unsigned values as first value and differences.
///
/// # Errors
/// When a value is below its predecessor.
pub fn delta_u64(column: &'static str, values: &[u64]) -> Result<Vec<u64>, CodingError> {
    let mut last = 0u64;
    let mut deltas = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        deltas.push(value.checked_sub(last).ok_or(CodingError::OutOfRange { column, row })?);
        last = *value;
    }
    Ok(deltas)
}

/// Reverses [`delta_u64`].
///
/// # Errors
/// When the sum leaves the range of `u64`.
pub fn undelta_u64(column: &'static str, deltas: &[u64]) -> Result<Vec<u64>, CodingError> {
    let mut value = 0u64;
    let mut values = Vec::with_capacity(deltas.len());
    for (row, delta) in deltas.iter().enumerate() {
        value = value.checked_add(*delta).ok_or(CodingError::OutOfRange { column, row })?;
        values.push(value);
    }
    Ok(values)
}

/// Checks that a column has as many rows as announced.
///
/// # Errors
/// When it has not.
pub fn check_length<T>(column: &'static str, values: &[T], expected: usize) -> Result<(), CodingError> {
    if values.len() == expected {
        return Ok(());
    }
    Err(CodingError::Length { column, found: values.len(), expected })
}

/// The sparse, delta-coded form of a full array of bucket counts: (bucket deltas, counts).
pub fn sparse(counts: &[u64]) -> (Vec<u32>, Vec<u64>) {
    let mut last = 0u32;
    let mut buckets = Vec::new();
    let mut filled = Vec::new();
    for (bucket, count) in (0u32..).zip(counts) {
        if *count > 0 {
            buckets.push(bucket - std::mem::replace(&mut last, bucket));
            filled.push(*count);
        }
    }
    (buckets, filled)
}

/// Reverses [`sparse`]: (bucket, count) in rising order of bucket.
///
/// # Errors
/// When the columns differ in length or a bucket is out of range or out of order.
pub fn dense(bucket_deltas: &[u32], counts: &[u64]) -> Result<Vec<(u16, u64)>, CodingError> {
    check_length("bucket_count", counts, bucket_deltas.len())?;
    let mut buckets = Vec::with_capacity(bucket_deltas.len());
    undelta_buckets(bucket_deltas, &mut buckets)?;
    Ok(buckets.into_iter().zip(counts.iter().copied()).collect())
}

/// Appends the buckets of one histogram, in rising order.
///
/// # Errors
/// When a bucket is out of range or out of order.
pub fn undelta_buckets(deltas: &[u32], buckets: &mut Vec<u16>) -> Result<(), CodingError> {
    let (mut bucket, mut last) = (0u64, None);
    for delta in deltas {
        bucket += u64::from(*delta);
        match u16::try_from(bucket) {
            Ok(index) if usize::from(index) < BUCKETS && last.replace(index) != Some(index) => {
                buckets.push(index);
            }
            _ => return Err(CodingError::Bucket { bucket }),
        }
    }
    Ok(())
}

impl v1::Histogram {
    /// From a full array of bucket counts.
    pub fn from_counts(counts: &[u64], sum_ns: u64) -> Self {
        let (bucket_delta, count) = sparse(counts);
        Self { bucket_delta, count, sum_ns }
    }

    /// (bucket, count) in rising order of bucket.
    ///
    /// # Errors
    /// When the message is not well formed.
    pub fn pairs(&self) -> Result<Vec<(u16, u64)>, CodingError> {
        dense(&self.bucket_delta, &self.count)
    }
}

impl v1::SlowSyncParts {
    /// Adds another's parts, each to its own, up to what a counter holds.
    pub fn add(&mut self, more: &Self) {
        let pairs = [
            (&mut self.on_cpu_ns, more.on_cpu_ns),
            (&mut self.run_queue_ns, more.run_queue_ns),
            (&mut self.journal_ns, more.journal_ns),
            (&mut self.queue_ns, more.queue_ns),
            (&mut self.device_ns, more.device_ns),
            (&mut self.flush_ns, more.flush_ns),
            (&mut self.throttle_ns, more.throttle_ns),
            (&mut self.steal_ns, more.steal_ns),
            (&mut self.unexplained_ns, more.unexplained_ns),
            (&mut self.journal_device_ns, more.journal_device_ns),
            (&mut self.journal_queue_ns, more.journal_queue_ns),
            (&mut self.journal_flush_ns, more.journal_flush_ns),
            (&mut self.cpu_quota_ns, more.cpu_quota_ns),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests;
