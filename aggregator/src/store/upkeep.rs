//! Looks after the embedded store while it is in use: parts that can't be read ([`damage`]), and its size ([`budget`]).
//!
//! Nothing here is silent. Whatever is no longer in the tables is an event of the node (`store.part_lost`, `store.retention`),
//! a line in the log, a counter, and on `/api/v1/store`; rows that were lost with a part are in the ledger as dropped
//! (`corrupt`), so that its minutes balance. A ClickHouse server by URL is its own administrator's to look after.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_service::logging::ErrorChain;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use super::client::{Client, ClientError};
use super::flush::ASK_TIMEOUT;
use super::retention::Retention;
use crate::engine::room;

pub mod budget;
pub mod damage;
mod record;

/// How often the store is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks between two at the size.
const LOOKS_PER_WEIGHING: u32 = 6;

/// Lost parts and dropped days that are remembered for the API; older ones are in `events`.
const REMEMBERED: usize = 100;

/// Share of the room that the store may take unless told otherwise, in percent.
pub const SHARE_PERCENT: u64 = 80;

/// What is to be looked after.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the store.
    pub path: PathBuf,
    /// Most bytes that tables may take; `None` = 80 % of what they take and the disk has free.
    pub max_bytes: Option<u64>,
    /// The aggregator as an author of events.
    pub author: Uuid,
    /// How long tables keep rows: what is missing of older minutes is no loss.
    pub retention: Retention,
    /// How often to look, such as [`LOOK_EVERY`].
    pub look_every: Duration,
}

/// How the store is, and what became of it since the process began.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Upkeep {
    /// Bytes that its tables take; unknown until they were looked at.
    pub bytes: Option<u64>,
    /// Bytes that they may take.
    pub max_bytes: Option<u64>,
    /// Partitions that were dropped to keep within them, and their rows and bytes.
    pub dropped_partitions: u64,
    /// See there.
    pub dropped_rows: u64,
    /// See there.
    pub dropped_bytes: u64,
    /// Parts that can't be read, and what the ledger counts as lost with them.
    pub lost_parts: u64,
    /// See there.
    pub lost_rows: u64,
    /// Days that were dropped, newest first, at most 100.
    #[schema(value_type = Vec<DroppedDay>)]
    pub days: VecDeque<DroppedDay>,
    /// Parts that were lost, newest first, at most 100.
    #[schema(value_type = Vec<LostPart>)]
    pub parts: VecDeque<LostPart>,
    /// Why the last look did not work out.
    pub trouble: Option<String>,
}

/// A day that was dropped to keep within the budget.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DroppedDay {
    /// When.
    pub at: DateTime<Utc>,
    /// First day of what was dropped: a day of raw rows, a day, week or month of a rollup.
    pub begin: String,
    /// From which tables.
    pub tables: Vec<String>,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A part of a table that can't be read any more; it lies in the table's directory `detached`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostPart {
    /// Its table.
    pub table: String,
    /// Its name, as in `detached`.
    pub part: String,
    /// Its partition.
    pub partition: String,
    /// How it was found.
    pub reason: String,
    /// Rows it had, if that can be known. Not all of them need be lost: what a merge had read may still be there.
    pub rows: Option<u64>,
    /// First time among its rows; that of its partition when it can't be read.
    pub from: DateTime<Utc>,
    /// Last one.
    pub to: DateTime<Utc>,
}

/// A look that did not work out; there will be another.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The engine is not running.
    #[error(transparent)]
    Unavailable(#[from] ClientError),
    /// The engine refused or lost a statement.
    #[error("{what} failed")]
    Statement {
        /// What was tried.
        what: &'static str,
        /// What the engine or the connection said.
        #[source]
        source: clickhouse::error::Error,
    },
}

/// The task that looks after a store.
pub struct Caretaker {
    options: Options,
    client: Client,
    facts: watch::Sender<Upkeep>,
    damage: damage::Watch,
    author: record::Author,
    /// Days that were dropped and are not among the events yet.
    untold: VecDeque<DroppedDay>,
}

impl Caretaker {
    /// For the store behind `client`, and what it finds.
    pub fn new(client: Client, options: Options) -> (Self, watch::Receiver<Upkeep>) {
        let (facts, found) = watch::channel(Upkeep::default());
        let author = record::Author::new(options.author);
        let (damage, untold) = (damage::Watch::default(), VecDeque::new());
        (Self { options, client, facts, damage, author, untold }, found)
    }

    /// Looks after it until `stop`. `ready` says whether the schema is up to date.
    pub async fn run(mut self, ready: impl Fn() -> bool, stop: CancellationToken) {
        let mut looks = 0u32;
        while stop.run_until_cancelled(tokio::time::sleep(self.options.look_every)).await.is_some() {
            if !ready() {
                continue;
            }
            let weigh = looks.is_multiple_of(LOOKS_PER_WEIGHING);
            looks = looks.wrapping_add(1);
            let Some(outcome) = stop.run_until_cancelled(self.look(weigh)).await else { return };
            let trouble = outcome.err().map(|error| ErrorChain(&error).to_string());
            self.facts.send_if_modified(|facts| {
                if facts.trouble == trouble {
                    return false;
                }
                if let Some(trouble) = &trouble {
                    tracing::debug!(error = trouble, "looking after the store failed, will try again");
                }
                facts.trouble = trouble;
                true
            });
        }
    }

    async fn look(&mut self, weigh: bool) -> Result<(), UpkeepError> {
        let sql = Sql { client: self.client.connect()?, database: self.client.database().to_owned() };
        let mended = self.mend(&sql).await;
        // Whatever came of that: it makes the room that the rest may be waiting for.
        let weighed = if weigh { self.weigh(&sql).await } else { Ok(()) };
        mended.and(weighed)
    }

    async fn mend(&mut self, sql: &Sql) -> Result<(), UpkeepError> {
        for lost in self.damage.look(sql, self.client.generation()?).await? {
            self.author.part_lost(sql, &lost).await?;
            self.damage.note(&lost);
            tracing::error!(
                table = lost.table, part = lost.part, partition = lost.partition, reason = lost.reason,
                rows = lost.rows, from = %lost.from, to = %lost.to,
                "a part of the telemetry store can't be read: it is set aside, the rest goes on"
            );
            self.facts.send_modify(|facts| {
                facts.lost_parts += 1;
                remember(&mut facts.parts, lost);
            });
        }
        let accounted = self.damage.account(sql, &self.author, Utc::now(), &self.options.retention).await?;
        for (lost, rows) in accounted {
            tracing::warn!(
                table = lost.table,
                part = lost.part,
                rows,
                "rows lost with a part are in the ledger as corrupt"
            );
            self.facts.send_modify(|facts| facts.lost_rows += rows);
        }
        Ok(())
    }

    async fn weigh(&mut self, sql: &Sql) -> Result<(), UpkeepError> {
        let partitions = budget::partitions(sql).await?;
        let bytes = partitions.iter().map(|partition| partition.bytes).sum();
        // Before the disk is asked: what goes meanwhile counts twice, and nothing is dropped for it.
        let leaving = budget::leaving(sql).await?;
        let free = room::of(&self.options.path, 0).map(|room| room.free_bytes);
        let share = || Some(budget::share(bytes, leaving, free?));
        let max_bytes = self.options.max_bytes.or_else(share);
        let today = Utc::now().format("%Y%m%d").to_string();
        let plan = max_bytes.map_or_else(Vec::new, |most| budget::plan(&partitions, most, &today));
        let (mut left, mut dropped, mut outcome) = (bytes, Vec::new(), Ok(()));
        for day in plan {
            let gone;
            (gone, outcome) = budget::drop(sql, day).await;
            if !gone.is_empty() {
                let (day, partitions) = budget::summary(&gone, Utc::now());
                left -= day.bytes;
                dropped.push((day, partitions));
            }
            if outcome.is_err() {
                break;
            }
        }
        self.facts.send_if_modified(|facts| {
            let changed = (facts.bytes, facts.max_bytes) != (Some(left), max_bytes);
            (facts.bytes, facts.max_bytes) = (Some(left), max_bytes);
            changed
        });
        for (day, partitions) in dropped {
            tracing::warn!(
                begin = day.begin, tables = ?day.tables, rows = day.rows, bytes = day.bytes, max_bytes,
                "the telemetry store is larger than it may be: its oldest rows are dropped (clickhouse.max-bytes)"
            );
            self.facts.send_modify(|facts| {
                facts.dropped_partitions += partitions;
                facts.dropped_rows += day.rows;
                facts.dropped_bytes += day.bytes;
                remember(&mut facts.days, day.clone());
            });
            self.untold.push_back(day);
        }
        // On a full disk they wait until there is room.
        while let Some(day) = self.untold.front() {
            self.author.day_dropped(sql, day).await?;
            self.untold.pop_front();
        }
        outcome
    }
}

fn remember<T>(all: &mut VecDeque<T>, newest: T) {
    all.truncate(REMEMBERED - 1);
    all.push_front(newest);
}

/// Statements on the store's database.
struct Sql {
    client: clickhouse::Client,
    database: String,
}

impl Sql {
    async fn rows<T>(
        &self,
        what: &'static str,
        query: clickhouse::query::Query,
    ) -> Result<Vec<T>, UpkeepError>
    where
        T: clickhouse::RowOwned + clickhouse::RowRead,
    {
        within(what, ASK_TIMEOUT, query.fetch_all()).await
    }

    async fn run(&self, what: &'static str, query: clickhouse::query::Query) -> Result<(), UpkeepError> {
        within(what, ASK_TIMEOUT, query.execute()).await
    }

    /// A statement in which `{database:String}` is the store's.
    fn query(&self, sql: &str) -> clickhouse::query::Query {
        self.client.query_raw(sql).param("database", &self.database)
    }
}

async fn within<T>(
    what: &'static str,
    limit: Duration,
    work: impl Future<Output = clickhouse::error::Result<T>>,
) -> Result<T, UpkeepError> {
    let outcome = tokio::time::timeout(limit, work).await;
    outcome
        .unwrap_or(Err(clickhouse::error::Error::TimedOut))
        .map_err(|source| UpkeepError::Statement { what, source })
}

/// A quoted identifier.
fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}
