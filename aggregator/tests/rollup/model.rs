//! What sums must be, computed here from all raw rows without any step in between.

use std::collections::BTreeMap;

use etcdmon_aggregator::store::Client;
use serde::Deserialize;

/// Resolutions: suffix of the table, and seconds.
pub const LEVELS: [(&str, i64); 3] = [("10s", 10), ("1m", 60), ("1h", 3_600)];

/// Sources whose rows simply add up, with the columns that do.
pub const COUNTED: [(&str, &str); 2] = [
    ("sync_histograms", "[count, sum_ns, errors, run_delay_ns]"),
    ("writes", "[written_bytes, observed_ns, calls, sum_ns, sync_file_range_calls]"),
];

/// Series or member and class, and begin of the bucket in Unix seconds.
pub type Key = (String, i64);

/// A bucket of histograms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    buckets: BTreeMap<u16, u64>,
    sums: Vec<u64>,
    version: u64,
}

#[derive(clickhouse::Row, Deserialize)]
struct CountedRow {
    key: String,
    second: i64,
    numbers: Vec<u16>,
    counts: Vec<u64>,
    added: Vec<u64>,
    behind: u64,
}

const COUNTED_KEY: &str = "concat(cluster, '/', class, '/', toString(member)) AS key";
const HISTOGRAM: &str = "mapKeys(buckets) AS numbers, mapValues(buckets) AS counts";

async fn fetch<T: clickhouse::RowOwned + clickhouse::RowRead>(client: &Client, sql: &str) -> Vec<T> {
    let rows = client.connect().unwrap().query_raw(sql).fetch_all().await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// What the sums must be.
pub async fn counted(client: &Client, source: &str, sums: &str, seconds: i64) -> BTreeMap<Key, Counted> {
    let sql = format!(
        "SELECT {COUNTED_KEY}, toInt64(intDiv(toUnixTimestamp64Nano(at), 1000000000)) AS second, {HISTOGRAM}, {sums} AS added, \
         toUInt64(1) AS behind FROM {source}"
    );
    let mut all: BTreeMap<Key, Counted> = BTreeMap::new();
    for row in fetch::<CountedRow>(client, &sql).await {
        let bucket = all.entry((row.key, row.second.div_euclid(seconds) * seconds)).or_default();
        for (number, count) in row.numbers.into_iter().zip(row.counts) {
            *bucket.buckets.entry(number).or_default() += count;
        }
        bucket.sums.resize(row.added.len(), 0);
        bucket.sums.iter_mut().zip(row.added).for_each(|(sum, value)| *sum += value);
        bucket.version += row.behind;
    }
    all
}

/// What they are.
pub async fn counted_found(client: &Client, source: &str, sums: &str, level: &str) -> BTreeMap<Key, Counted> {
    let sql = format!(
        "SELECT {COUNTED_KEY}, toInt64(toUnixTimestamp(at)) AS second, {HISTOGRAM}, {sums} AS added, version AS behind \
         FROM {source}_{level} FINAL"
    );
    let rows = fetch::<CountedRow>(client, &sql).await;
    let length = rows.len();
    let found: BTreeMap<Key, Counted> = rows
        .into_iter()
        .map(|row| {
            let buckets = row.numbers.into_iter().zip(row.counts).collect();
            ((row.key, row.second), Counted { buckets, sums: row.added, version: row.behind })
        })
        .collect();
    assert_eq!(found.len(), length, "a bucket has two rows");
    found
}

/// A bucket of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    kind: String,
    samples: u32,
    /// first, last, min, max, sum, increase
    values: Vec<f64>,
    /// Milliseconds.
    times: Vec<i64>,
    version: u64,
}

#[derive(clickhouse::Row, Deserialize)]
struct Sample {
    key: String,
    at_ns: i64,
    sequence: u64,
    row: u32,
    kind: String,
    value: f64,
}

#[derive(clickhouse::Row, Deserialize)]
struct SampledRow {
    key: String,
    second: i64,
    kind: String,
    samples: u32,
    values: Vec<f64>,
    times: Vec<i64>,
    version: u64,
}

const SERIES: &str =
    "concat(cluster, '/', name, '/', toString(member), '/', labels, '/', toString(agent)) AS key";

/// What sums of samples must be.
pub async fn sampled(client: &Client, seconds: i64) -> BTreeMap<Key, Sampled> {
    let sql = format!(
        "SELECT {SERIES}, toUnixTimestamp64Nano(at) AS at_ns, sequence, row, type AS kind, value FROM metrics"
    );
    let mut samples = fetch::<Sample>(client, &sql).await;
    samples.retain(|sample| sample.value.is_finite());
    samples.sort_by(|a, b| (&a.key, a.at_ns, a.sequence, a.row).cmp(&(&b.key, b.at_ns, b.sequence, b.row)));
    let bucket = |sample: &Sample| sample.at_ns.div_euclid(seconds * 1_000_000_000) * seconds;
    let same = |a: &Sample, b: &Sample| a.key == b.key && bucket(a) == bucket(b);
    samples
        .chunk_by(same)
        .map(|all| {
            let (first, last) = (&all[0], &all[all.len() - 1]);
            let values: Vec<f64> = all.iter().map(|sample| sample.value).collect();
            let growth =
                values.windows(2).map(|pair| if pair[1] < pair[0] { pair[1] } else { pair[1] - pair[0] });
            let increase = if first.kind == "counter" { growth.sum::<f64>() } else { 0.0 };
            let sampled = Sampled {
                kind: first.kind.clone(),
                samples: u32::try_from(all.len()).unwrap(),
                values: vec![
                    first.value,
                    last.value,
                    values.iter().copied().fold(f64::INFINITY, f64::min),
                    values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    values.iter().sum(),
                    // -0 is what an empty sum of floats is.
                    increase + 0.0,
                ],
                times: vec![first.at_ns / 1_000_000, last.at_ns / 1_000_000],
                version: all.len() as u64,
            };
            ((first.key.clone(), bucket(first)), sampled)
        })
        .collect()
}

/// What they are.
pub async fn sampled_found(client: &Client, level: &str) -> BTreeMap<Key, Sampled> {
    let sql = format!(
        "SELECT {SERIES}, toInt64(toUnixTimestamp(at)) AS second, type AS kind, samples, \
         [first, last, min, max, sum, increase] AS values, \
         [toUnixTimestamp64Milli(first_at), toUnixTimestamp64Milli(last_at)] AS times, version FROM metrics_{level} FINAL"
    );
    let rows = fetch::<SampledRow>(client, &sql).await;
    let length = rows.len();
    let found: BTreeMap<Key, Sampled> = rows
        .into_iter()
        .map(|row| {
            let SampledRow { key, second, kind, samples, values, times, version } = row;
            ((key, second), Sampled { kind, samples, values, times, version })
        })
        .collect();
    assert_eq!(found.len(), length, "a bucket has two rows");
    found
}

/// Fails at the first bucket that is not what its raw rows say.
pub fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &BTreeMap<Key, T>,
    found: &BTreeMap<Key, T>,
) {
    for (key, bucket) in expected {
        assert_eq!(found.get(key), Some(bucket), "{what}: {key:?}");
    }
    let surplus: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
    assert!(surplus.is_empty(), "{what}: buckets of no rows: {surplus:?}");
}

/// Compares every bucket of every source at every resolution. How many there are.
pub async fn check(client: &Client) -> usize {
    let mut buckets = 0;
    for (level, seconds) in LEVELS {
        for (source, sums) in COUNTED {
            let expected = counted(client, source, sums, seconds).await;
            let found = counted_found(client, source, sums, level).await;
            same(&format!("{source}_{level}"), &expected, &found);
            buckets += expected.len();
        }
        let expected = sampled(client, seconds).await;
        same(&format!("metrics_{level}"), &expected, &sampled_found(client, level).await);
        buckets += expected.len();
    }
    buckets
}
