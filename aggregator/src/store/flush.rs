//! Stores a group of batches: one insert for each table and day, repeated until all its rows are there.
//!
//! An insert whose outcome is not known makes its batches *uncertain*, as is a batch that may have been sent before.
//! For these the earlier attempt is ended first, then the table is asked what it has, and only the rest is inserted;
//! afterwards the table is asked again, so that nothing but the table's own answer counts. Tokens against duplicate
//! inserts go along as a second belt and are not relied on.
//!
//! Accounts come last: where a batch has its account, all its rows are there. Should both this process and the agent die
//! half way through a batch that nobody else has, its rows are found to have no account, and counted by that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcdmon_service::backoff::Backoff;
use etcdmon_service::logging::ErrorChain;
use futures::stream::{self, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::block::Block;
use super::client::{Client, ClientError};
use super::counters::Counters;
use super::decode::day_of;
use super::frontier::Frontier;
use super::isolate::{self, Isolator};
use super::migrate::{MigrateError, migrate};
use super::refusal::Refusal;
use super::settle;
use super::table::Table;
use super::unit::Unit;
use super::writer::Waiting;

/// Inserts that run side by side; the embedded engine has connections left for questions.
const PARALLEL: usize = 4;

/// How long a question may take.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(60);

/// Pauses between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// One try that did not work out; there will be another.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The embedded engine is not running.
    #[error("telemetry store is not available")]
    Unavailable(#[from] ClientError),
    /// The schema could not be brought up to date.
    #[error("schema is not ready")]
    Schema(#[from] MigrateError),
    /// ClickHouse refused or lost a statement.
    #[error("{what} failed")]
    Statement {
        /// What was tried.
        what: &'static str,
        /// What ClickHouse or the connection said.
        #[source]
        source: clickhouse::error::Error,
    },
    /// An insert ended well and yet its rows are not there.
    #[error("table {table} does not have all rows after the insert")]
    Missing {
        /// The table.
        table: &'static str,
    },
}

/// Stores groups. Several may be under way at once: no batch is in two of them.
pub struct Flusher {
    client: Client,
    /// Names this process in query ids.
    instance: String,
    attempts: AtomicU64,
    migrated: tokio::sync::Mutex<bool>,
    /// Inserts that run side by side, over all groups.
    inserts: Semaphore,
    isolator: Isolator,
    trouble: Arc<Trouble>,
    frontier: Arc<Frontier>,
}

/// Why groups that wait now could not be stored yet.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<BTreeMap<u64, String>>);

impl Trouble {
    /// What the group that waits longest waits for; `None` when the last attempt of every group went well.
    pub fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().next().cloned()
    }

    fn note(&self, group: u64, reason: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group, reason);
    }

    fn forget(&self, group: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }
}

impl Flusher {
    /// Writes through `client`.
    pub fn new(
        client: Client,
        unstorable: isolate::Options,
        trouble: Arc<Trouble>,
        frontier: Arc<Frontier>,
    ) -> Self {
        let instance = format!("{}{}-", settle::PREFIX, uuid::Uuid::new_v4().simple());
        let (migrated, inserts) = (tokio::sync::Mutex::new(false), Semaphore::new(PARALLEL));
        let isolator = Isolator::new(unstorable);
        Self { client, instance, attempts: AtomicU64::new(0), migrated, inserts, isolator, trouble, frontier }
    }

    /// Stores all of the group, however long it takes, and tells each batch.
    pub async fn store(&self, mut group: Vec<Waiting>, counters: &Counters) {
        let began = Instant::now();
        // Only resent batches can be in an insert of another process.
        let mut foreign = group.iter().any(|waiting| waiting.uncertain);
        let sorted = tokio::task::spawn_blocking(move || {
            let units = split(&mut group);
            (group, units)
        });
        let (group, units) = match sorted.await {
            Ok(sorted) => sorted,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let (mut accounts, mut units): (Vec<_>, Vec<_>) =
            units.into_iter().partition(|unit| unit.table() == Table::Ledger);
        let (mut pauses, mut failures) = (Backoff::new(PAUSES.0, PAUSES.1), 0u64);
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        while !units.is_empty() || !accounts.is_empty() {
            if units.is_empty() {
                units.append(&mut accounts);
            }
            let Err(error) = self.attempt(&mut units, &mut foreign, counters).await else { continue };
            failures += 1;
            self.trouble.note(number, ErrorChain(&error).to_string());
            // The first failure, then fewer and fewer: a long outage is one story.
            if failures.is_power_of_two() {
                let batches = group.len();
                tracing::warn!(error = %ErrorChain(&error), failures, batches, "store batches failed, will try again");
            }
            tokio::time::sleep(pauses.pause()).await;
        }
        if failures > 0 {
            self.trouble.forget(number);
            tracing::info!(failures, batches = group.len(), duration = ?began.elapsed(), "batches stored after failures");
        }
        Counters::add(&counters.flushes, 1);
        counters
            .flush_ns
            .fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        group.into_iter().for_each(Waiting::stored);
    }

    /// One try at every unit that is left; units that are stored leave the list, and accounts of what can't be stored
    /// come in. `foreign` is cleared once inserts of other processes are known to be over.
    async fn attempt(
        &self,
        units: &mut Vec<Unit>,
        foreign: &mut bool,
        counters: &Counters,
    ) -> Result<(), AttemptError> {
        let result = self.attempt_units(units, foreign, counters).await;
        if result.is_err() {
            // Whatever it was: a database that was dropped meanwhile comes back this way.
            *self.migrated.lock().await = false;
        }
        result
    }

    async fn attempt_units(
        &self,
        units: &mut Vec<Unit>,
        foreign: &mut bool,
        counters: &Counters,
    ) -> Result<(), AttemptError> {
        self.prepare().await?;
        if *foreign {
            let client = self.client.connect()?;
            within("wait for other inserts", settle::await_foreign(&client, &self.instance)).await?;
            *foreign = false;
        }
        // After a failure the rest is not begun: on an engine that hangs, each would wait its full time before anybody
        // heard of it.
        let failed = AtomicBool::new(false);
        let store = async |mut unit: Unit| {
            if failed.load(Ordering::Relaxed) {
                return (unit, None);
            }
            // Never closed.
            let _turn = self.inserts.acquire().await;
            if failed.load(Ordering::Relaxed) {
                return (unit, None);
            }
            let result = match unit.announce(&self.client, &self.frontier).await {
                Ok(()) => unit.store(&self.client, self.query_id(), counters).await,
                Err(error) => Err(error),
            };
            // A refusal is an answer: the engine is well.
            let hangs = result.as_ref().is_err_and(|error| Refusal::of(error).is_none());
            failed.fetch_or(hangs, Ordering::Relaxed);
            (unit, Some(result))
        };
        let results: Vec<_> =
            stream::iter(units.drain(..)).map(store).buffer_unordered(PARALLEL).collect().await;
        let (mut outcome, mut again, mut condemned) = (Ok(()), Vec::new(), Vec::new());
        for (mut unit, result) in results {
            match result {
                Some(Ok(())) => self.isolator.works(unit.table()),
                Some(Err(error)) => match self.isolator.judge(&mut unit, &error) {
                    Some(refusal) => condemned.push((unit, refusal)),
                    None => {
                        again.push(unit);
                        outcome = Err(error);
                    }
                },
                None => units.push(unit),
            }
        }
        for (unit, refusal) in condemned {
            if failed.load(Ordering::Relaxed) {
                // Refused again another time, and judged at once.
                again.push(unit);
                continue;
            }
            let query_id = || self.query_id();
            let isolated =
                self.isolator.isolate(unit, refusal, &self.client, &query_id, counters, units).await;
            outcome = outcome.and(isolated);
        }
        // Last: what fails for a reason of its own table must not keep the others from their turn.
        units.append(&mut again);
        outcome
    }

    fn query_id(&self) -> String {
        format!("{}{}", self.instance, self.attempts.fetch_add(1, Ordering::Relaxed))
    }

    /// Brings the schema up to date, once after start and after every failure.
    pub async fn prepare(&self) -> Result<(), AttemptError> {
        let mut migrated = self.migrated.lock().await;
        if !*migrated {
            tokio::time::timeout(ASK_TIMEOUT, migrate(&self.client)).await.map_err(|_| {
                AttemptError::Statement { what: "migrate", source: clickhouse::error::Error::TimedOut }
            })??;
            let connection = self.client.connect()?;
            within("read how far the rollups were", self.frontier.load(&connection, &self.instance)).await?;
            *migrated = true;
        }
        Ok(())
    }
}

pub async fn within<T>(
    what: &'static str,
    work: impl Future<Output = clickhouse::error::Result<T>>,
) -> Result<T, AttemptError> {
    let result = tokio::time::timeout(ASK_TIMEOUT, work).await;
    result
        .unwrap_or(Err(clickhouse::error::Error::TimedOut))
        .map_err(|source| AttemptError::Statement { what, source })
}

/// Sorts the group's rows by table and day, and takes them out of the batches.
fn split(group: &mut [Waiting]) -> Vec<Unit> {
    let mut units: BTreeMap<(Table, i64, bool), Unit> = BTreeMap::new();
    for waiting in group {
        for block in std::mem::take(&mut waiting.batch.blocks) {
            for (day, part) in by_day(block) {
                // Uncertain batches have units of their own: the others need no questions.
                let key = (part.table, day, waiting.uncertain);
                let id = waiting.batch.id;
                match units.entry(key) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(Unit::new(id, part, waiting.uncertain));
                    }
                    Entry::Occupied(mut unit) => unit.get_mut().add(id, part),
                }
            }
        }
    }
    units.into_values().collect()
}

/// The block's days, each with its rows. Usually that is one.
fn by_day(block: Block) -> Vec<(i64, Block)> {
    let mut days: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    for (row, time) in (0u32..).zip(block.times()) {
        days.entry(day_of(*time)).or_default().push(row);
    }
    match days.first_key_value() {
        Some((day, rows)) if rows.len() == block.rows() => vec![(*day, block)],
        _ => days.into_iter().map(|(day, rows)| (day, block.select(&rows))).collect(),
    }
}
