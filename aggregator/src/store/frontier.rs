//! Which rows the rollups have not seen: the one place where writer and rollups meet.
//!
//! Rollups walk through time: everything before a source's *claim* was read by them, or is being read. Rows before the claim
//! are *late*; their minutes are marked in `rollup_marks` before they are inserted. Rows behind it need no mark, but the
//! claim does not move past them while their insert is under way. So whenever a row can be seen in a table, the rollups
//! have yet to come by, or a mark says that they must come back, whoever is killed at whatever moment.
//!
//! An insert outlives its client: after a start the claim is what `rollup_progress` says, and no one claims anything before
//! inserts of an earlier aggregator process are over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::settle;
use super::table::Table;

/// Nanoseconds of a minute.
const MINUTE_NS: i64 = 60_000_000_000;

/// Minutes since the Unix epoch.
pub type Minute = i64;

/// The tables that rollups are made of.
pub const SOURCES: [Table; 3] = [Table::SyncHistograms, Table::Writes, Table::Metrics];

/// The minute that holds a wall time.
pub const fn minute_of(wall_ns: i64) -> Minute {
    wall_ns.div_euclid(MINUTE_NS)
}

/// The different minutes of these wall times.
pub fn minutes_of(times: &[i64]) -> BTreeSet<Minute> {
    let mut minutes = BTreeSet::new();
    let mut last = None;
    for time in times {
        let minute = minute_of(*time);
        // Rows of a batch are nearly in order: the set is hardly asked.
        if last.replace(minute) != Some(minute) {
            minutes.insert(minute);
        }
    }
    minutes
}

/// See the module.
#[derive(Debug)]
pub struct Frontier {
    sources: Mutex<BTreeMap<Table, Source>>,
    loaded: tokio::sync::Mutex<bool>,
    /// Rises with every mark.
    number: AtomicU64,
    passages: AtomicU64,
    /// Minutes marked since the process began.
    marked: AtomicI64,
}

#[derive(Debug)]
struct Source {
    /// Everything before it is read, or is being read.
    claim: Minute,
    under_way: BTreeMap<u64, UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    /// The first minute that is not late.
    first: Option<Minute>,
    late: BTreeSet<Minute>,
}

/// Rows on their way into a table. Kept until they can be seen there.
#[derive(Debug)]
pub struct Passage {
    frontier: Arc<Frontier>,
    table: Table,
    number: u64,
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(source) = self.frontier.lock().get_mut(&self.table) {
            source.under_way.remove(&self.number);
        }
    }
}

impl Default for Frontier {
    /// Nothing is known yet, so everything is late.
    fn default() -> Self {
        let source = |table| (table, Source { claim: Minute::MAX, under_way: BTreeMap::new() });
        Self {
            sources: Mutex::new(SOURCES.map(source).into()),
            loaded: tokio::sync::Mutex::default(),
            number: AtomicU64::new(0),
            passages: AtomicU64::new(0),
            marked: AtomicI64::new(0),
        }
    }
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct Progress {
    source: String,
    done: u32,
}

impl Frontier {
    /// Reads how far the rollups were, once a process. `instance` begins the query ids of this process's inserts.
    ///
    /// # Errors
    /// When ClickHouse is away.
    pub async fn load(&self, client: &clickhouse::Client, instance: &str) -> clickhouse::error::Result<()> {
        let mut loaded = self.loaded.lock().await;
        if *loaded {
            return Ok(());
        }
        settle::await_foreign(client, instance).await?;
        let highest: u64 =
            client.query_raw("SELECT max(greatest(marked, done)) FROM rollup_marks").fetch_one().await?;
        let progress: Vec<Progress> = client
            .query_raw(
                "SELECT source, toUnixTimestamp(max(done)) AS done FROM rollup_progress WHERE level = 'minutes' GROUP BY source",
            )
            .fetch_all()
            .await?;
        self.number.fetch_max(highest, Ordering::Relaxed);
        for (table, source) in self.lock().iter_mut() {
            let done = progress.iter().find(|progress| progress.source == table.name());
            source.claim = done.map_or(Minute::MIN, |progress| i64::from(progress.done) / 60);
        }
        *loaded = true;
        Ok(())
    }

    /// Announces rows of these minutes, before they are inserted. `None` for tables without rollups.
    ///
    /// # Errors
    /// When late minutes could not be marked; the rows must not be inserted then.
    pub async fn enter(
        self: &Arc<Self>,
        client: &clickhouse::Client,
        table: Table,
        minutes: &BTreeSet<Minute>,
    ) -> clickhouse::error::Result<Option<Passage>> {
        let number = self.passages.fetch_add(1, Ordering::Relaxed);
        let late: Vec<Minute> = {
            let mut sources = self.lock();
            let Some(source) = sources.get_mut(&table) else { return Ok(None) };
            let first = minutes.range(source.claim..).next().copied();
            let late: BTreeSet<Minute> = minutes.range(..source.claim).copied().collect();
            let list = late.iter().copied().collect();
            source.under_way.insert(number, UnderWay { first, late });
            list
        };
        // From here on it is taken back by itself.
        let passage = Passage { frontier: self.clone(), table, number };
        if !late.is_empty() {
            self.mark(client, table, &late).await?;
        }
        Ok(Some(passage))
    }

    /// Marks minutes as to be recomputed.
    async fn mark(
        &self,
        client: &clickhouse::Client,
        table: Table,
        minutes: &[Minute],
    ) -> clickhouse::error::Result<()> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let seconds: Vec<u32> = minutes.iter().map(|minute| seconds(*minute)).collect();
        client
            .query_raw(
                "INSERT INTO rollup_marks (source, minute, marked, done) \
                 SELECT {source:String}, toDateTime(arrayJoin({minutes:Array(UInt32)}), 'UTC'), {number:UInt64}, 0",
            )
            .param("source", table.name())
            .param("minutes", &seconds)
            .param("number", number)
            .with_setting("async_insert", "0")
            .execute()
            .await?;
        self.marked.fetch_add(i64::try_from(minutes.len()).unwrap_or(i64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// Claims everything before `wanted`, as far as no row that is not late is on its way there. The new claim; `None` while
    /// it is not known how far the rollups were.
    pub fn claim(&self, table: Table, wanted: Minute) -> Option<Minute> {
        let mut sources = self.lock();
        let source = sources.get_mut(&table).filter(|source| source.claim != Minute::MAX)?;
        let held = source.under_way.values().filter_map(|under_way| under_way.first).min();
        source.claim = source.claim.max(wanted.min(held.unwrap_or(Minute::MAX - 1)));
        Some(source.claim)
    }

    /// Late minutes whose rows may not be there yet.
    pub fn late_under_way(&self, table: Table) -> BTreeSet<Minute> {
        let sources = self.lock();
        let under_way = sources.get(&table).into_iter().flat_map(|source| source.under_way.values());
        under_way.flat_map(|under_way| under_way.late.iter().copied()).collect()
    }

    /// Minutes that were marked since the process began.
    pub fn marked(&self) -> u64 {
        self.marked.load(Ordering::Relaxed).unsigned_abs()
    }

    /// Held for a look-up only, never across a wait.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Table, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The begin of a minute in Unix seconds, within what a `DateTime` holds: times are checked to lie between 2000 and 2200, and a
/// `DateTime` ends in 2106.
pub fn seconds(minute: Minute) -> u32 {
    u32::try_from(minute.saturating_mul(60).max(0)).unwrap_or(u32::MAX / 60 * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table::Metrics;

    /// A frontier that knows its claim, and needs no ClickHouse as long as nothing is late.
    fn frontier(claim: Minute) -> Arc<Frontier> {
        let frontier = Frontier::default();
        frontier.lock().get_mut(&TABLE).unwrap().claim = claim;
        Arc::new(frontier)
    }

    async fn enter(
        frontier: &Arc<Frontier>,
        minutes: &[Minute],
    ) -> clickhouse::error::Result<Option<Passage>> {
        let nowhere = clickhouse::Client::default().with_url("http://127.0.0.1:1");
        frontier.enter(&nowhere, TABLE, &minutes.iter().copied().collect()).await
    }

    #[tokio::test]
    async fn a_claim_stops_before_rows_that_are_under_way() {
        let frontier = frontier(100);
        let first = enter(&frontier, &[105, 110]).await.unwrap();
        let second = enter(&frontier, &[103]).await.unwrap();
        assert_eq!(frontier.claim(TABLE, 120), Some(103));
        drop(second);
        assert_eq!(frontier.claim(TABLE, 120), Some(105));
        drop(first);
        assert_eq!(frontier.claim(TABLE, 120), Some(120));
        assert_eq!(frontier.claim(TABLE, 90), Some(120), "a claim is never taken back");
    }

    #[tokio::test]
    async fn late_rows_that_cannot_be_marked_do_not_go_on() {
        let frontier = frontier(100);
        assert!(enter(&frontier, &[99, 100]).await.is_err());
        assert!(frontier.late_under_way(TABLE).is_empty(), "and are not waited for");
        assert_eq!(frontier.claim(TABLE, 120), Some(120));
        assert_eq!(frontier.marked(), 0);
    }

    #[tokio::test]
    async fn nothing_is_claimed_before_it_is_known_how_far_the_rollups_were() {
        let frontier = Arc::new(Frontier::default());
        assert_eq!(frontier.claim(TABLE, 120), None);
        assert!(enter(&frontier, &[1 << 40]).await.is_err(), "everything is late");
    }

    #[tokio::test]
    async fn tables_without_rollups_are_not_looked_at() {
        let frontier = Arc::new(Frontier::default());
        let nowhere = clickhouse::Client::default().with_url("http://127.0.0.1:1");
        assert!(frontier.enter(&nowhere, Table::Events, &BTreeSet::from([1])).await.unwrap().is_none());
        assert_eq!(frontier.claim(Table::Events, 120), None);
    }

    #[test]
    fn minutes_of_times_are_each_there_once() {
        let times = [0, 59_999_999_999, 60_000_000_000, 1, -1];
        assert_eq!(minutes_of(&times).into_iter().collect::<Vec<_>>(), [-1, 0, 1]);
        assert_eq!((seconds(-5), seconds(2), seconds(Minute::MAX)), (0, 120, u32::MAX / 60 * 60));
    }
}
