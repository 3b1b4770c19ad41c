//! The statements that recompute a source at one resolution: raw rows to 10 s, 10 s to a minute, minutes to an hour. Each takes
//! `from` and `to` in Unix seconds, and gives each bucket as a function of all rows that the finer table has of it.

use crate::store::Table;

/// A resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// 10 seconds, from raw rows.
    TenSeconds,
    /// A minute, from 10 seconds.
    Minute,
    /// An hour, from minutes.
    Hour,
}

impl Level {
    const fn suffix(self) -> &'static str {
        match self {
            Self::TenSeconds => "_10s",
            Self::Minute => "_1m",
            Self::Hour => "_1h",
        }
    }

    /// Length of a bucket in seconds.
    pub const fn seconds(self) -> u32 {
        match self {
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    const fn finer(self) -> Option<Self> {
        match self {
            Self::TenSeconds => None,
            Self::Minute => Some(Self::TenSeconds),
            Self::Hour => Some(Self::Minute),
        }
    }
}

/// The table of a source at a resolution.
pub fn table(source: Table, level: Level) -> String {
    format!("{}{}", source.name(), level.suffix())
}

/// Rows of a raw table.
const RAW_RANGE: &str = "at >= fromUnixTimestamp64Nano(toInt64({from:UInt32}) * 1000000000, 'UTC') \
                         AND at < fromUnixTimestamp64Nano(toInt64({to:UInt32}) * 1000000000, 'UTC')";

/// Rows of sums.
const RANGE: &str = "at >= toDateTime({from:UInt32}, 'UTC') AND at < toDateTime({to:UInt32}, 'UTC')";

/// Where rows come from, the bucket that holds them, and how many raw rows are behind them.
struct From {
    rows: String,
    bucket: String,
    version: &'static str,
}

fn from(source: Table, level: Level) -> From {
    let length = level.seconds();
    match level.finer() {
        None => From {
            rows: format!("{} WHERE {RAW_RANGE}", source.name()),
            bucket: format!(
                "toDateTime(intDiv(toUnixTimestamp64Nano(at), {length}000000000) * {length}, 'UTC')"
            ),
            version: "count()",
        },
        Some(finer) => From {
            rows: format!("{} FINAL WHERE {RANGE}", table(source, finer)),
            bucket: format!("toDateTime(intDiv(toUnixTimestamp(at), {length}) * {length}, 'UTC')"),
            version: "sum(version)",
        },
    }
}

/// The statement. Ranges begin and end with buckets.
pub fn recompute(source: Table, level: Level) -> String {
    match source {
        Table::Metrics => metrics(level),
        Table::Writes => counts(
            source,
            level,
            &["written_bytes", "observed_ns", "calls", "sum_ns", "sync_file_range_calls"],
        ),
        _ => counts(source, level, &["count", "sum_ns", "errors", "run_delay_ns"]),
    }
}

/// Time of the oldest row, in Unix seconds; 0 when there is none. ClickHouse knows it without reading rows.
pub fn oldest(source: Table) -> String {
    format!(
        "SELECT toUInt32(if(count() = 0, 0, intDiv(toUnixTimestamp64Nano(min(at)), 1000000000))) FROM {}",
        source.name()
    )
}

/// Time of the first row in a range, in Unix seconds; 0 when there is none.
pub fn first(source: Table, level: Option<Level>) -> String {
    match level {
        None => format!(
            "SELECT toUInt32(if(count() = 0, 0, intDiv(toUnixTimestamp64Nano(min(at)), 1000000000))) FROM {} WHERE {RAW_RANGE}",
            source.name()
        ),
        Some(level) => format!("SELECT toUnixTimestamp(min(at)) FROM {} WHERE {RANGE}", table(source, level)),
    }
}

/// Histograms with what is counted beside them: everything adds up.
fn counts(source: Table, level: Level, sums: &[&str]) -> String {
    let From { rows, bucket, version } = from(source, level);
    let into = table(source, level);
    let names = sums.join(", ");
    let sums: Vec<String> = sums.iter().map(|name| format!("sum({name})")).collect();
    let sums = sums.join(", ");
    format!(
        "INSERT INTO {into} (cluster, member, class, at, buckets, {names}, version) \
         SELECT cluster, member, class, {bucket} AS bucket, sumMap(buckets), {sums}, {version} \
         FROM {rows} GROUP BY cluster, class, member, bucket"
    )
}

const METRIC_COLUMNS: &str = "cluster, name, member, labels, agent, at, type, samples, first, last, min, max, sum, increase, first_at, \
                              last_at, version";

/// Growth from each value `last` to the next one's `first`; after a reset what came since.
const GROWTH: &str =
    "arraySum(arrayMap((b, a) -> if(b >= a, b - a, b), arrayPopFront(firsts), arrayPopBack(lasts)))";

/// Samples in the order of their times; those of one time in the order in which they were sent.
fn metrics(level: Level) -> String {
    let From { rows, bucket, version } = from(Table::Metrics, level);
    let into = table(Table::Metrics, level);
    let series = "cluster, name, member, labels, agent";
    let inner = match level.finer() {
        None => format!(
            "arraySort(groupArray((at, sequence, row, value))) AS sorted, sorted.4 AS firsts, sorted.4 AS lasts, \
             length(sorted) AS number, arrayMin(firsts) AS least, arrayMax(firsts) AS greatest, arraySum(firsts) AS total, \
             0 AS grown, toDateTime64(sorted[1].1, 3, 'UTC') AS begin, toDateTime64(sorted[-1].1, 3, 'UTC') AS end, \
             {version} AS behind FROM {rows} AND isFinite(value)"
        ),
        Some(_) => format!(
            "arraySort(groupArray((at, first, last))) AS sorted, sorted.2 AS firsts, sorted.3 AS lasts, \
             sum(samples) AS number, min(min) AS least, max(max) AS greatest, sum(sum) AS total, \
             sum(increase) AS grown, min(first_at) AS begin, max(last_at) AS end, \
             {version} AS behind FROM {rows}"
        ),
    };
    format!(
        "INSERT INTO {into} ({METRIC_COLUMNS}) \
         SELECT {series}, bucket, kind, number, firsts[1], lasts[-1], least, greatest, total, \
         if(kind = 'counter', grown + {GROWTH}, 0), begin, end, behind \
         FROM (SELECT {series}, {bucket} AS bucket, max(type) AS kind, {inner} GROUP BY {series}, bucket)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::frontier::SOURCES;

    #[test]
    fn each_resolution_is_made_of_the_next_finer_one() {
        for source in SOURCES {
            let name = source.name();
            let ten = recompute(source, Level::TenSeconds);
            assert!(
                ten.contains(&format!("INTO {name}_10s")) && ten.contains(&format!("FROM {name} WHERE")),
                "{ten}"
            );
            let minute = recompute(source, Level::Minute);
            assert!(
                minute.contains(&format!("INTO {name}_1m"))
                    && minute.contains(&format!("FROM {name}_10s FINAL"))
            );
            let hour = recompute(source, Level::Hour);
            assert!(
                hour.contains(&format!("INTO {name}_1h")) && hour.contains(&format!("FROM {name}_1m FINAL"))
            );
        }
    }
}
