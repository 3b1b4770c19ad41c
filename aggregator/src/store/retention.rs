//! How long tables keep their rows: the setting, and the TTL that ClickHouse drops parts by.
//!
//! A part goes as a whole once its newest row is old enough, so everything that is younger than its table's time is there.

use std::time::Duration;

use serde::Deserialize;

use super::client::Client;
use super::cluster;
use super::flush::{AttemptError, within};
use super::frontier::SOURCES;
use super::migrate::MigrateError;

/// How long rows are kept, by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Histograms, writes and samples as they came, and single syncs.
    pub raw: Duration,
    /// Sums over 10 seconds.
    pub ten_seconds: Duration,
    /// Sums over a minute.
    pub minute: Duration,
    /// Sums over an hour.
    pub hour: Duration,
    /// What is read one by one: events, autopsies, the ledger, alerts, diagnoses.
    pub events: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self { raw: days(7), ten_seconds: days(30), minute: days(90), hour: days(400), events: days(90) }
    }
}

/// Tables that are kept as long as [`Retention::raw`] says.
pub const RAW: [&str; 4] = ["sync_histograms", "syncs", "writes", "metrics"];

/// Tables that are kept as long as [`Retention::events`] says.
pub const EVENTS: [&str; 5] = ["events", "autopsies", "ledger", "alerts", "diagnoses"];

#[derive(clickhouse::Row, Deserialize)]
struct Found {
    name: String,
    seconds: String,
}

impl Retention {
    /// Every table whose rows are dropped after a time, with that time.
    pub fn tables(&self) -> Vec<(String, Duration)> {
        let mut all: Vec<(String, Duration)> = Vec::new();
        all.extend(RAW.map(|table| (table.to_owned(), self.raw)));
        all.extend(EVENTS.map(|table| (table.to_owned(), self.events)));
        for source in SOURCES {
            for (suffix, time) in [("10s", self.ten_seconds), ("1m", self.minute), ("1h", self.hour)] {
                all.push((format!("{}_{suffix}", source.name()), time));
            }
        }
        all
    }

    /// Brings the TTL of every table for which `due` is true to what it must be; those that are right are not touched.
    ///
    /// # Errors
    /// When ClickHouse is away or refuses.
    pub async fn apply(&self, client: &Client, due: impl Fn(&str) -> bool) -> Result<(), AttemptError> {
        let connection = client.connect()?;
        let sql = "SELECT name, extract(create_table_query, 'TTL [^ ]+ \\\\+ toIntervalSecond\\\\((\\\\d+)\\\\)') AS seconds \
                   FROM system.tables WHERE database = currentDatabase()";
        let found: Vec<Found> =
            within("read what tables keep", connection.query_raw(sql).fetch_all::<Found>()).await?;
        for (table, time) in self.tables().into_iter().filter(|(table, _)| due(table)) {
            let seconds = time.as_secs().to_string();
            // On a cluster the table in front has no rows to keep.
            let kept_in = if client.cluster().is_some() { format!("{table}_local") } else { table.clone() };
            let known = found.iter().find(|found| found.name == kept_in);
            if known.is_none_or(|known| known.seconds == seconds) {
                continue;
            }
            for sql in change(&table, &seconds, client.cluster())? {
                within("set what a table keeps", connection.query_raw(&sql).execute()).await?;
            }
            tracing::info!(table, days = time.as_secs_f64() / 86_400.0, "table keeps rows for another time");
        }
        Ok(())
    }
}

/// What sets the time of a table. Only the parts' own record of their oldest row is made anew, not the parts.
fn change(table: &str, seconds: &str, cluster: Option<&str>) -> Result<Vec<String>, MigrateError> {
    let sql = format!("ALTER TABLE {table} MODIFY TTL toDateTime(at) + toIntervalSecond({seconds})");
    cluster::render(&sql, cluster).map_err(|source| MigrateError::Cluster { name: "retention", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_cluster_the_tables_with_the_rows_are_changed() {
        let ttl = "MODIFY TTL toDateTime(at) + toIntervalSecond(60)";
        let changes = |cluster| change("metrics", "60", cluster).unwrap();
        assert_eq!(changes(None), [format!("ALTER TABLE metrics {ttl}")]);
        assert_eq!(changes(Some("c")), [format!("ALTER TABLE metrics_local ON CLUSTER 'c' {ttl}")]);
    }

    #[test]
    fn every_table_has_a_time_and_coarser_sums_live_longer() {
        let retention = Retention::default();
        let tables = retention.tables();
        assert_eq!(tables.len(), 4 + 5 + 9);
        let days = |name: &str| tables.iter().find(|(table, _)| table == name).unwrap().1.as_secs() / 86_400;
        assert_eq!(["metrics", "metrics_10s", "metrics_1m", "metrics_1h"].map(days), [7, 30, 90, 400]);
        assert_eq!(["alerts", "ledger", "syncs"].map(days), [90, 90, 7]);
        for table in super::super::table::Table::ALL {
            assert!(tables.iter().any(|(name, _)| name == table.name()), "{} is kept for ever", table.name());
        }
    }
}
