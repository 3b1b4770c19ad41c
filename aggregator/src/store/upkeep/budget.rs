//! Which partitions go when the store is larger than it may be.
//!
//! The oldest day of all raw tables goes first, as a whole: an account without its rows would look like a loss. When only
//! the newest raw day is left, the rollups follow, the finest first. The newest partition of each kind is never dropped, and
//! neither is the newest up to today, which is another one when a clock is ahead; nor is what is small and irreplaceable
//! (events, alerts, diagnoses).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{DroppedDay, SHARE_PERCENT, Sql, UpkeepError, identifier};

/// Tables whose days go together, and first.
const RAW: [&str; 6] = ["sync_histograms", "syncs", "writes", "metrics", "autopsies", "ledger"];

/// Endings of rollups' names, in the order in which they go.
const ROLLUPS: [&str; 3] = ["_10s", "_1m", "_1h"];

/// A partition of a table.
#[derive(Clone, Debug, PartialEq, Eq, clickhouse::Row, Deserialize)]
pub struct Partition {
    /// Its table.
    pub table: String,
    /// Its id: `20261121` is a day, or a week's Monday; `202611` a month.
    pub id: String,
    /// Rows in active parts.
    pub rows: u64,
    /// Bytes of active parts.
    pub bytes: u64,
}

impl Partition {
    /// When it goes, in comparison with others; `None` = never.
    fn tier(&self) -> Option<usize> {
        let dated = matches!(self.id.len(), 6 | 8) && self.id.bytes().all(|byte| byte.is_ascii_digit());
        let raw = RAW.contains(&self.table.as_str());
        let rollup = ROLLUPS.iter().position(|ending| self.table.ends_with(ending));
        (if raw { Some(0) } else { rollup.map(|position| position + 1) }).filter(|_| dated)
    }
}

/// All partitions of the database.
pub(super) async fn partitions(sql: &Sql) -> Result<Vec<Partition>, UpkeepError> {
    let query = sql.query(
        "SELECT table, partition_id AS id, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts \
         WHERE database = {database:String} AND active GROUP BY table, partition_id",
    );
    sql.rows("weigh the store", query).await
}

/// Bytes of parts that are in no table any more and go from the disk by themselves within minutes: what merges have read, and what
/// was dropped.
pub(super) async fn leaving(sql: &Sql) -> Result<u64, UpkeepError> {
    let query = sql.query(
        "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = {database:String} AND NOT active",
    );
    Ok(sql.rows::<u64>("weigh what leaves the store", query).await?.into_iter().sum())
}

/// What tables may take unless told otherwise. What is leaving is room, though the disk does not say so yet.
pub fn share(bytes: u64, leaving: u64, free: u64) -> u64 {
    (bytes + leaving + free) / 100 * SHARE_PERCENT
}

/// What must go to come down to `max_bytes`, day by day in this order. `today` is written as in ids.
pub fn plan(partitions: &[Partition], max_bytes: u64, today: &str) -> Vec<Vec<Partition>> {
    let mut days: BTreeMap<(usize, &str), Vec<Partition>> = BTreeMap::new();
    for partition in partitions {
        if let Some(tier) = partition.tier() {
            days.entry((tier, &partition.id)).or_default().push(partition.clone());
        }
    }
    let is_past = |id: &str| today.get(..id.len()).is_some_and(|today| id <= today);
    let newest: BTreeMap<usize, &str> = days.keys().copied().collect();
    let current: BTreeMap<usize, &str> = days.keys().copied().filter(|(_, id)| is_past(id)).collect();
    let mut bytes: u64 = partitions.iter().map(|partition| partition.bytes).sum();
    let mut planned = Vec::new();
    for ((tier, id), day) in days {
        if bytes <= max_bytes {
            break;
        }
        if [&newest, &current].iter().any(|kept| kept.get(&tier) == Some(&id)) {
            continue;
        }
        bytes -= day.iter().map(|partition| partition.bytes).sum::<u64>();
        planned.push(day);
    }
    planned
}

/// Drops a day. What is gone of it, also when something failed on the way. Doing it again changes nothing.
pub(super) async fn drop(sql: &Sql, mut day: Vec<Partition>) -> (Vec<Partition>, Result<(), UpkeepError>) {
    for (position, Partition { table, id, .. }) in day.iter().enumerate() {
        // Ids are digits, see [`Partition::tier`].
        let statement = format!("ALTER TABLE {} DROP PARTITION ID '{id}'", identifier(table));
        if let Err(error) = sql.run("drop a partition", sql.query(&statement)).await {
            day.truncate(position);
            return (day, Err(error));
        }
    }
    (day, Ok(()))
}

/// A dropped day in one, and the number of its partitions.
pub fn summary(day: &[Partition], at: DateTime<Utc>) -> (DroppedDay, u64) {
    let id = day.first().map_or("", |partition| &partition.id);
    let (year, rest) = id.split_at(id.len().min(4));
    let (month, rest) = rest.split_at(rest.len().min(2));
    let begin = format!("{year}-{month}-{}", if rest.is_empty() { "01" } else { rest });
    let summary = DroppedDay {
        at,
        begin,
        tables: day.iter().map(|partition| partition.table.clone()).collect(),
        rows: day.iter().map(|partition| partition.rows).sum(),
        bytes: day.iter().map(|partition| partition.bytes).sum(),
    };
    (summary, day.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(table: &str, id: &str, bytes: u64) -> Partition {
        Partition { table: table.to_owned(), id: id.to_owned(), rows: bytes / 10, bytes }
    }

    fn names(planned: &[Vec<Partition>]) -> Vec<String> {
        planned.iter().flatten().map(|it| format!("{}/{}", it.table, it.id)).collect()
    }

    #[test]
    fn the_oldest_raw_days_go_as_a_whole_then_rollups_and_never_the_newest() {
        let store = [
            partition("metrics", "20261120", 100),
            partition("ledger", "20261120", 10),
            partition("metrics", "20261121", 200),
            partition("ledger", "20261121", 20),
            partition("syncs", "20261122", 300),
            partition("metrics_10s", "20261101", 40),
            partition("metrics_10s", "20261122", 40),
            partition("metrics_1h", "202610", 5),
            partition("metrics_1h", "202611", 5),
            partition("events", "20260101", 50),
            partition("schema_migrations", "all", 1),
        ];
        let planned = |max_bytes| names(&plan(&store, max_bytes, "20261122"));
        assert_eq!(planned(771), [""; 0]);
        assert_eq!(planned(770), ["metrics/20261120", "ledger/20261120"]);
        assert_eq!(planned(661), ["metrics/20261120", "ledger/20261120"]);
        let raw = ["metrics/20261120", "ledger/20261120", "metrics/20261121", "ledger/20261121"];
        assert_eq!(planned(660), raw);
        assert_eq!(planned(440), [&raw[..], &["metrics_10s/20261101"]].concat());
        assert_eq!(planned(0), [&raw[..], &["metrics_10s/20261101", "metrics_1h/202610"]].concat());
    }

    #[test]
    fn today_stays_when_a_clock_is_ahead() {
        let ids = ["20261121", "20261122", "20361120", "20361121"];
        let days = ids.map(|id| partition("metrics", id, 10));
        let planned = |today| names(&plan(&days, 0, today));
        // What is said of times to come goes as well, or it would have no bounds.
        assert_eq!(planned("20261122"), ["metrics/20261121", "metrics/20361120"]);
        assert_eq!(planned("20261123"), planned("20261122"));
        assert_eq!(planned("20261120"), ["metrics/20261121", "metrics/20261122", "metrics/20361120"]);
        let hours = ["202610", "202611", "203611"].map(|id| partition("metrics_1h", id, 10));
        assert_eq!(names(&plan(&hours, 0, "20261122")), ["metrics_1h/202610"]);
    }

    #[test]
    fn what_is_leaving_does_not_make_the_budget_smaller() {
        let days = [partition("metrics", "20261120", 7_200), partition("metrics", "20261121", 32_800)];
        let before = share(40_000, 0, 1_000);
        assert_eq!(names(&plan(&days, before, "20261122")), ["metrics/20261120"]);
        // Dropped, and still on the disk.
        assert_eq!(share(32_800, 7_200, 1_000), before);
    }

    #[test]
    fn what_was_dropped_is_summed_up() {
        let at = DateTime::UNIX_EPOCH;
        let (day, partitions) =
            summary(&[partition("metrics", "20261120", 100), partition("ledger", "20261120", 10)], at);
        assert_eq!((day.begin.as_str(), day.rows, day.bytes, partitions), ("2026-11-20", 11, 110, 2));
        assert_eq!(day.tables, ["metrics", "ledger"]);
        assert_eq!(summary(&[partition("metrics_1h", "202610", 5)], at).0.begin, "2026-10-01");
    }
}
