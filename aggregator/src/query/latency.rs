//! Latency of syncs over a window, from the stored histograms.

use etcdmon_histogram::{BUCKETS, lower_ns, quantile_ns, upper_ns};
use etcdmon_proto::v1::FileClass;
use serde::Deserialize;
use uuid::Uuid;

use super::{IN_RANGE, Query, QueryError, TimeRange};

/// Merged histogram of a window and its percentiles. Percentiles are midpoints of buckets, at most 5 % off; all are
/// `None` when nothing was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Syncs counted.
    pub count: u64,
    /// Sum of their latencies, exact.
    pub sum_ns: u64,
    /// Syncs among them that returned an error.
    pub errors: u64,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 95th percentile.
    pub p95_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// Midpoint of the highest bucket that holds one.
    pub max_ns: Option<u64>,
    /// Buckets that hold at least one, rising.
    pub buckets: Vec<LatencyBucket>,
}

/// A bucket of the histogram: `lower_ns <= latency < upper_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyBucket {
    /// Bucket number of `etcdmon-histogram`.
    pub bucket: u16,
    /// Inclusive lower bound.
    pub lower_ns: u64,
    /// Exclusive upper bound; `None` for the overflow bucket.
    pub upper_ns: Option<u64>,
    /// Syncs in it.
    pub count: u64,
}

#[derive(clickhouse::Row, Deserialize)]
struct Found {
    bucket: u16,
    bucket_count: u64,
}

#[derive(clickhouse::Row, Deserialize)]
struct Totals {
    total_ns: u64,
    failed: u64,
}

impl Query {
    /// Latency of a cluster's syncs in seconds that begin in `range`.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub async fn latency(
        &self,
        cluster: Uuid,
        member: Option<u64>,
        class: Option<FileClass>,
        range: TimeRange,
    ) -> Result<Latency, QueryError> {
        let scope = |select: super::Select| {
            select.sql(IN_RANGE).cluster(cluster).range(range).member(member).class(class)
        };
        let buckets = self.select(
            "latency",
            "SELECT bucket, sum(n) AS bucket_count FROM sync_histograms ARRAY JOIN mapKeys(buckets) AS bucket, \
             mapValues(buckets) AS n WHERE cluster = {cluster:String} AND",
        );
        let buckets = scope(buckets).sql(" GROUP BY bucket ORDER BY bucket").fetch::<Found>().await?;
        let totals = self.select(
            "latency_totals",
            "SELECT sum(sum_ns) AS total_ns, sum(errors) AS failed FROM sync_histograms WHERE cluster = {cluster:String} AND",
        );
        let totals = scope(totals).fetch::<Totals>().await?;
        let mut latency = summarize(buckets.iter().map(|found| (found.bucket, found.bucket_count)));
        if let Some(totals) = totals.first() {
            latency.sum_ns = totals.total_ns;
            latency.errors = totals.failed;
        }
        Ok(latency)
    }
}

/// Percentiles of (bucket, count) in rising order of bucket. Buckets that do not exist are ignored.
fn summarize(pairs: impl Iterator<Item = (u16, u64)>) -> Latency {
    let buckets: Vec<LatencyBucket> = pairs
        .filter(|(bucket, count)| usize::from(*bucket) < BUCKETS && *count > 0)
        .map(|(bucket, count)| LatencyBucket {
            bucket,
            lower_ns: lower_ns(usize::from(bucket)),
            upper_ns: upper_ns(usize::from(bucket)),
            count,
        })
        .collect();
    let quantile = |share| quantile_ns(buckets.iter().map(|b| (usize::from(b.bucket), b.count)), share);
    Latency {
        count: buckets.iter().map(|bucket| bucket.count).sum(),
        sum_ns: 0,
        errors: 0,
        p50_ns: quantile(0.5),
        p90_ns: quantile(0.9),
        p95_ns: quantile(0.95),
        p99_ns: quantile(0.99),
        p999_ns: quantile(0.999),
        max_ns: quantile(1.0),
        buckets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_merged_buckets() {
        let latency = summarize([(10, 98), (400, 1), (700, 1)].into_iter());
        assert_eq!(latency.count, 100);
        assert_eq!(latency.p50_ns, Some(etcdmon_histogram::midpoint_ns(10)));
        assert_eq!(latency.p99_ns, Some(etcdmon_histogram::midpoint_ns(400)));
        assert_eq!(latency.max_ns, Some(etcdmon_histogram::midpoint_ns(700)));
        assert_eq!(latency.buckets.len(), 3);
    }

    #[test]
    fn nothing_counted_has_no_percentile() {
        assert_eq!(summarize(std::iter::empty()), Latency::default());
        assert_eq!(summarize([(60_000, 3)].into_iter()).count, 0);
    }
}
