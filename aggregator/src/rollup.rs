//! Sums over 10 s, a minute and an hour, kept true: every bucket equals what its raw rows say, however late they came.
//!
//! Nothing is added to a bucket; it is *recomputed* from the next finer table and put in place of the row before
//! (ReplacingMergeTree). Its version is the number of raw rows behind it. Raw rows only become more, so whoever computes a
//! bucket from more of them wins, in whatever order results arrive: repeating a step, two processes at once and a kill at
//! any moment change nothing, and what is computed after raw rows went by retention cannot replace what was computed before.
//!
//! ```text
//! time →   … done … | being recomputed | rows may still come
//!                progress            claim                 now
//! ```
//! Two ways lead to a bucket. The *walk* goes through time minute by minute, some seconds behind now, and notes how far it
//! is only afterwards. *Marks* name minutes before that for which rows came late; [`crate::store::frontier`] writes them before such rows
//! are inserted, and they are obeyed once the rows are there.
//!
//! It never stands in the way: one statement at a time, on one thread, within a memory limit and a time limit, and after each
//! a pause as long as it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_service::backoff::Backoff;
use etcdmon_service::logging::ErrorChain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::frontier::{Frontier, Minute, SOURCES, minute_of, seconds};
use crate::store::{Client, ClientError, Retention, Table};

mod book;
mod sql;

use book::Progress;
use sql::Level;

/// How often it looks for work.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often it looks for marks: rows that come late often come in many batches.
const HEAL_EVERY: Duration = Duration::from_secs(30);

/// Longest pause after a statement.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Most memory of a statement, in bytes, and what of it its groups may take before they go to disk.
const MEMORY_BYTES: (u64, u64) = (384 << 20, 64 << 20);

/// Rows that a statement reads at a time, and rows and bytes of a part that it writes: the engine's own limits are for statements
/// that have a server to themselves.
const READ_ROWS: &str = "16384";
const WRITTEN: (&str, &str) = ("131072", "33554432");

/// Longest time of a statement.
const STATEMENT_TIME: Duration = Duration::from_secs(60);

/// Most minutes that one statement recomputes, and how long it should take.
const MOST_MINUTES: Minute = 60;
const GOOD_TIME: Duration = Duration::from_secs(2);

/// Marked minutes that lie so near each other are recomputed in one statement.
const NEAR: Minute = 10;

/// Most hours that one statement recomputes.
const MOST_HOURS: Minute = 6;

/// Statements' ranges in one turn of the walk, and marked minutes in one turn of the healing.
const RANGES: usize = 8;
const MARKS: u64 = 240;

/// Raw rows are taken for complete until this long before they may be dropped.
const MARGIN: Minute = 60;

/// Pauses after failures.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A step that did not work out; it is taken again.
#[derive(Debug, thiserror::Error)]
pub enum RollupError {
    /// ClickHouse is not there.
    #[error("telemetry store is not available")]
    Unavailable(#[from] ClientError),
    /// ClickHouse refused or lost a statement.
    #[error("{what} of {source_table} failed")]
    Statement {
        /// What was tried.
        what: &'static str,
        /// Of which raw table.
        source_table: &'static str,
        /// What ClickHouse said.
        #[source]
        source: clickhouse::error::Error,
    },
    /// The tables' times could not be set.
    #[error("retention not set")]
    Retention(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the rollups count. Arrays are in the order of [`SOURCES`].
#[derive(Debug, Default)]
pub struct Counters {
    /// Gauge: how far the newest finished minute is behind now, in seconds.
    pub lag_seconds: [AtomicU64; SOURCES.len()],
    /// Gauge: minutes that are marked and not yet recomputed.
    pub marks_waiting: [AtomicU64; SOURCES.len()],
    /// Minutes recomputed in their turn.
    pub minutes: [AtomicU64; SOURCES.len()],
    /// Minutes recomputed because rows came late.
    pub late_minutes: [AtomicU64; SOURCES.len()],
    /// Late minutes that were not recomputed, because their raw rows may be gone in part.
    pub too_late_minutes: [AtomicU64; SOURCES.len()],
    /// Steps that failed; they are taken again.
    pub failures: AtomicU64,
    /// Time in statements, in nanoseconds.
    pub busy_ns: AtomicU64,
}

impl Counters {
    /// How far behind `now` a source is, whether or not it gets on.
    fn note_lag(&self, index: usize, now: DateTime<Utc>, done: Minute) {
        let lag = (nanos(now) / 1_000_000_000).saturating_sub(done.saturating_mul(60));
        self.lag_seconds[index].store(u64::try_from(lag).unwrap_or(0), Ordering::Relaxed);
    }
}

/// How it works.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long after its end a minute is taken for complete; what comes later is late.
    pub settle: Duration,
    /// How long tables keep rows.
    pub retention: Retention,
    /// Whether to pause after statements.
    pub gentle: bool,
    /// How often to look for marks.
    pub heal_every: Duration,
}

impl Options {
    /// For agents that close a batch so often.
    pub fn new(batch_interval: Duration, retention: Retention) -> Self {
        let settle = Duration::from_secs(15) + 2 * batch_interval;
        Self { settle, retention, gentle: true, heal_every: HEAL_EVERY }
    }
}

/// Recomputes what changed. Run it as a task.
#[derive(Debug)]
pub struct Roller {
    client: Client,
    frontier: Arc<Frontier>,
    options: Options,
    counters: Arc<Counters>,
    /// Minutes that a statement takes about [`GOOD_TIME`] for, by source.
    steps: [Minute; SOURCES.len()],
    kept: bool,
}

impl Roller {
    /// Over the tables behind `client`, whose writer announces its rows to `frontier`.
    pub fn new(client: Client, frontier: Arc<Frontier>, options: Options) -> Self {
        let steps = [10; SOURCES.len()];
        Self { client, frontier, options, counters: Arc::default(), steps, kept: false }
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Works until `stop`. Being cut off at any moment costs nothing but repetition.
    pub async fn run(mut self, stop: CancellationToken) {
        let work = async {
            let (mut pauses, mut failures) = (Backoff::new(PAUSES.0, PAUSES.1), 0u64);
            let mut healed = Instant::now();
            loop {
                let pause = match self.turn(&mut healed).await {
                    Ok(()) => {
                        (pauses, failures) = (Backoff::new(PAUSES.0, PAUSES.1), 0);
                        LOOK_EVERY
                    }
                    Err(error) => {
                        self.counters.failures.fetch_add(1, Ordering::Relaxed);
                        failures += 1;
                        if failures.is_power_of_two() {
                            tracing::warn!(error = %ErrorChain(&error), failures, "rollup failed, will try again");
                        }
                        pauses.pause()
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn turn(&mut self, healed: &mut Instant) -> Result<(), RollupError> {
        let now = Utc::now();
        let mut outcome = self.walk(now).await.map(drop);
        // Nothing of the tables is changed while rows can't be written: on a full disk that would end the engine.
        if outcome.is_ok() {
            outcome = self.keep(now).await;
        }
        // Whatever came of that.
        if healed.elapsed() >= self.options.heal_every {
            outcome = outcome.and(self.heal(now).await.map(|_| *healed = Instant::now()));
        }
        outcome
    }

    /// Recomputes what has become complete by `now`, as far as one turn goes. True when more is left to do.
    ///
    /// # Errors
    /// When ClickHouse is away or refuses.
    pub async fn walk(&mut self, now: DateTime<Utc>) -> Result<bool, RollupError> {
        let settle = i64::try_from(self.options.settle.as_nanos()).unwrap_or(i64::MAX);
        let complete = minute_of(nanos(now).saturating_sub(settle));
        let (mut more, mut failure) = (false, Ok(()));
        for (index, source) in SOURCES.into_iter().enumerate() {
            let Some(claim) = self.frontier.claim(source, complete) else { continue };
            // A source that can't get on doesn't hold up the others.
            match self.walk_source(index, source, claim, now).await {
                Ok(left) => more |= left,
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure.map(|()| more)
    }

    async fn walk_source(
        &mut self,
        index: usize,
        source: Table,
        claim: Minute,
        now: DateTime<Utc>,
    ) -> Result<bool, RollupError> {
        let work = Work::new(&self.client, &self.options, &self.counters, source)?;
        let step = self.steps[index];
        let progress = work.progress().await?;
        if let Some(done) = progress.minutes {
            self.counters.note_lag(index, now, done);
        }
        let walked = work.minutes(progress.minutes, claim, step).await;
        let (done, took) = walked.inspect_err(|_| self.steps[index] = (step / 2).max(1))?;
        self.counters.note_lag(index, now, done);
        let hours = work.progress().await?.hours.unwrap_or(done);
        self.steps[index] = adapted(step, took);
        Ok(work.hours(hours, done).await? || done < claim)
    }

    /// Recomputes minutes for which rows came late, as far as one turn goes. True when more is left to do.
    ///
    /// # Errors
    /// When ClickHouse is away or refuses.
    pub async fn heal(&mut self, now: DateTime<Utc>) -> Result<bool, RollupError> {
        let whole_from = self.whole_from(now);
        let (mut more, mut failure) = (false, Ok(()));
        for (index, source) in SOURCES.into_iter().enumerate() {
            // A source that can't get on doesn't hold up the others.
            match self.heal_source(index, source, whole_from).await {
                Ok(left) => more |= left,
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure.map(|()| more)
    }

    async fn heal_source(
        &mut self,
        index: usize,
        source: Table,
        whole_from: Minute,
    ) -> Result<bool, RollupError> {
        let work = Work::new(&self.client, &self.options, &self.counters, source)?;
        let step = self.steps[index];
        let Progress { minutes: Some(done), hours } = work.progress().await? else { return Ok(false) };
        let marks = book::marks(&work.client, source, done, MARKS).await;
        // Marks first, then what is under way: a mark that is read here is either among that, or its rows are there.
        let (mut marks, all) = marks.map_err(|error| work.failed("read marks", error))?;
        let under_way = self.frontier.late_under_way(source);
        marks.retain(|minute, _| !under_way.contains(minute));
        let old = marks.range(..whole_from).count() as u64;
        let due: Vec<Minute> = marks.range(whole_from..).map(|(minute, _)| *minute).collect();
        let healed = work.late(&due, hours, step).await;
        let took = healed.inspect_err(|_| self.steps[index] = (step / 2).max(1))?;
        self.steps[index] = adapted(step, took);
        let obeyed = book::obeyed(&work.client, source, &marks).await;
        obeyed.map_err(|error| work.failed("note obeyed marks", error))?;
        self.counters.late_minutes[index].fetch_add(due.len() as u64, Ordering::Relaxed);
        self.counters.too_late_minutes[index].fetch_add(old, Ordering::Relaxed);
        let left = all.saturating_sub(marks.len() as u64);
        self.counters.marks_waiting[index].store(left, Ordering::Relaxed);
        Ok(left > 0 && !marks.is_empty())
    }

    /// The first minute whose raw rows are all there for certain.
    fn whole_from(&self, now: DateTime<Utc>) -> Minute {
        let kept = i64::try_from(self.options.retention.raw.as_nanos()).unwrap_or(i64::MAX);
        minute_of(nanos(now).saturating_sub(kept)) + MARGIN
    }

    /// Sets how long tables keep rows, once a start. Raw rows of a store that had no rollups are kept until these were made.
    async fn keep(&mut self, now: DateTime<Utc>) -> Result<(), RollupError> {
        if self.kept {
            return Ok(());
        }
        let (mut known, mut made) = (true, true);
        for source in SOURCES {
            known &= self.frontier.claim(source, Minute::MIN).is_some();
            let work = Work::new(&self.client, &self.options, &self.counters, source)?;
            if known {
                made &= work.progress().await?.minutes.is_some_and(|done| done >= self.whole_from(now));
            }
        }
        if known {
            let due = |table: &str| made || !SOURCES.iter().any(|source| source.name() == table);
            let applied = self.options.retention.apply(&self.client, due).await;
            applied.map_err(|error| RollupError::Retention(Box::new(error)))?;
            self.kept = made;
        }
        Ok(())
    }
}

/// Work on one source.
struct Work<'a> {
    client: clickhouse::Client,
    options: &'a Options,
    counters: &'a Counters,
    source: Table,
}

impl<'a> Work<'a> {
    fn new(
        client: &Client,
        options: &'a Options,
        counters: &'a Counters,
        source: Table,
    ) -> Result<Self, ClientError> {
        Ok(Self { client: client.connect()?, options, counters, source })
    }

    async fn progress(&self) -> Result<Progress, RollupError> {
        let progress = book::progress(&self.client, self.source).await;
        progress.map_err(|error| self.failed("read progress", error))
    }

    /// Walks on from `done` towards `claim`. How far it came, and how long the longest full step took.
    async fn minutes(
        &self,
        done: Option<Minute>,
        claim: Minute,
        step: Minute,
    ) -> Result<(Minute, Option<Duration>), RollupError> {
        let (mut done, mut longest) = (done, None);
        for _ in 0..RANGES {
            let from = match done {
                Some(done) if done >= claim => return Ok((done, longest)),
                // Far behind: empty days are skipped.
                Some(done) if done + DAY < claim => {
                    self.first(None, done, next(done, DAY)).await?.unwrap_or(next(done, DAY))
                }
                Some(done) => done,
                None => self.begin(claim).await?,
            };
            let to = (from + step).min(next(from, DAY)).min(claim);
            if from < to {
                let took = self.both(from, to).await?;
                if to - from == step {
                    longest = longest.max(Some(took));
                }
                self.count(|counters| &counters.minutes, to - from);
            }
            self.advance("minutes", to).await?;
            done = Some(to);
        }
        Ok((done.unwrap_or(claim), longest))
    }

    /// Where a source that was never walked through begins: at its first row.
    async fn begin(&self, claim: Minute) -> Result<Minute, RollupError> {
        let statement = self.gently(&sql::oldest(self.source), 0, 0);
        let oldest: u32 =
            self.timed(statement.fetch_one()).await.map_err(|error| self.failed("look for rows", error))?;
        let from = if oldest == 0 { claim } else { claim.min(i64::from(oldest) / 60) };
        // Hours first: as long as minutes have no progress, this is done again.
        self.advance("hours", begin(from, HOUR)).await?;
        Ok(from)
    }

    /// Recomputes 10 seconds and minutes; they lie in one day.
    async fn both(&self, from: Minute, to: Minute) -> Result<Duration, RollupError> {
        let ten_seconds = self.recompute(Level::TenSeconds, from, to).await?;
        Ok(ten_seconds + self.recompute(Level::Minute, from, to).await?)
    }

    /// Walks through the hours that ended before `minutes`. True when some are left.
    async fn hours(&self, done: Minute, minutes: Minute) -> Result<bool, RollupError> {
        let complete = begin(minutes, HOUR);
        let mut done = begin(done, HOUR);
        for _ in 0..RANGES {
            if done >= complete {
                return Ok(false);
            }
            let from = if done + DAY < complete {
                let first = self.first(Some(Level::Minute), done, next(done, DAY)).await?;
                first.map_or(next(done, DAY), |first| begin(first, HOUR))
            } else {
                done
            };
            let to = (from + MOST_HOURS * HOUR).min(month_end(from)).min(complete);
            if from < to {
                self.recompute(Level::Hour, from, to).await?;
            }
            self.advance("hours", to).await?;
            done = to;
        }
        Ok(done < complete)
    }

    /// Recomputes single minutes, `step` at a time, and the hours before `hours` that hold them. How long the longest full step
    /// took.
    async fn late(
        &self,
        minutes: &[Minute],
        hours: Option<Minute>,
        step: Minute,
    ) -> Result<Option<Duration>, RollupError> {
        let mut longest = None;
        for (from, to) in pieces(minutes, step) {
            let took = self.both(from, to).await?;
            if to - from == step {
                longest = longest.max(Some(took));
            }
        }
        let mut all: Vec<Minute> = minutes.iter().map(|minute| begin(*minute, HOUR)).collect();
        all.dedup();
        for hour in all.into_iter().filter(|hour| hours.is_some_and(|done| *hour < done)) {
            self.recompute(Level::Hour, hour, hour + HOUR).await?;
        }
        Ok(longest)
    }

    /// The first minute with rows, in raw rows or at a level.
    async fn first(
        &self,
        level: Option<Level>,
        from: Minute,
        to: Minute,
    ) -> Result<Option<Minute>, RollupError> {
        let statement = self.gently(&sql::first(self.source, level), from, to);
        let first: u32 =
            self.timed(statement.fetch_one()).await.map_err(|error| self.failed("look for rows", error))?;
        Ok((first > 0).then(|| i64::from(first) / 60))
    }

    async fn recompute(&self, level: Level, from: Minute, to: Minute) -> Result<Duration, RollupError> {
        let began = Instant::now();
        let statement = self.gently(&sql::recompute(self.source, level), from, to);
        // In the order of the key all parts are open at once, each with buffers for every column: with a day's raw rows that is
        // more than a statement may have. Sums are few, and FINAL opens all of their parts anyway.
        let in_order = if level == Level::TenSeconds { "0" } else { "1" };
        let statement = statement.with_setting("optimize_aggregation_in_order", in_order);
        self.timed(statement.execute()).await.map_err(|error| self.failed("recompute", error))?;
        Ok(began.elapsed())
    }

    /// A statement over a range, with its limits.
    fn gently(&self, sql: &str, from: Minute, to: Minute) -> clickhouse::query::Query {
        self.client
            .query_raw(sql)
            .param("from", seconds(from))
            .param("to", seconds(to))
            .with_setting("max_threads", "1")
            .with_setting("max_memory_usage", MEMORY_BYTES.0.to_string())
            .with_setting("max_bytes_before_external_group_by", MEMORY_BYTES.1.to_string())
            .with_setting("max_block_size", READ_ROWS)
            .with_setting("min_insert_block_size_rows", WRITTEN.0)
            .with_setting("min_insert_block_size_bytes", WRITTEN.1)
            .with_setting("do_not_merge_across_partitions_select_final", "1")
            .with_setting("max_execution_time", STATEMENT_TIME.as_secs().to_string())
            .with_setting("async_insert", "0")
    }

    async fn timed<T>(
        &self,
        work: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> clickhouse::error::Result<T> {
        let began = Instant::now();
        let result = tokio::time::timeout(STATEMENT_TIME * 2, work).await;
        let took = began.elapsed();
        let busy = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counters.busy_ns.fetch_add(busy, Ordering::Relaxed);
        if self.options.gentle {
            tokio::time::sleep(took.min(LONGEST_PAUSE)).await;
        }
        result.unwrap_or(Err(clickhouse::error::Error::TimedOut))
    }

    async fn advance(&self, level: &'static str, until: Minute) -> Result<(), RollupError> {
        let advanced = book::advance(&self.client, self.source, level, until).await;
        advanced.map_err(|error| self.failed("note progress", error))
    }

    fn count(&self, counter: fn(&Counters) -> &[AtomicU64; SOURCES.len()], minutes: Minute) {
        let index = SOURCES.iter().position(|source| *source == self.source).unwrap_or(0);
        counter(self.counters)[index].fetch_add(minutes.unsigned_abs(), Ordering::Relaxed);
    }

    fn failed(&self, what: &'static str, source: clickhouse::error::Error) -> RollupError {
        RollupError::Statement { what, source_table: self.source.name(), source }
    }
}

/// Minutes of an hour and of a day.
const HOUR: Minute = 60;
const DAY: Minute = 1_440;

/// The step after one that took so long.
fn adapted(step: Minute, took: Option<Duration>) -> Minute {
    match took {
        None => step,
        Some(took) if took > GOOD_TIME => (step / 2).max(1),
        Some(_) => (step * 2).min(MOST_MINUTES),
    }
}

/// Ranges with these minutes, none longer than `step` or beyond its day. What lies between minutes that are near each other goes
/// along: a statement costs more than a few minutes in it.
fn pieces(minutes: &[Minute], step: Minute) -> Vec<(Minute, Minute)> {
    let mut pieces: Vec<(Minute, Minute)> = Vec::new();
    for minute in minutes {
        match pieces.last_mut() {
            Some((from, to))
                if minute - *to < NEAR && minute - *from < step && next(*from, DAY) == next(*minute, DAY) =>
            {
                *to = minute + 1;
            }
            _ => pieces.push((*minute, minute + 1)),
        }
    }
    pieces
}

/// Begin of the hour or day that holds a minute.
const fn begin(minute: Minute, length: Minute) -> Minute {
    minute.div_euclid(length) * length
}

/// Begin of the next one.
const fn next(minute: Minute, length: Minute) -> Minute {
    begin(minute, length) + length
}

/// Begin of the next month: hours of one month lie in one partition.
fn month_end(minute: Minute) -> Minute {
    use chrono::{Datelike as _, Months, NaiveTime};
    let date = DateTime::from_timestamp(minute * 60, 0).and_then(|at| at.date_naive().with_day(1));
    let next = date.and_then(|first| first.checked_add_months(Months::new(1)));
    next.map_or(Minute::MAX, |next| next.and_time(NaiveTime::MIN).and_utc().timestamp() / 60)
}

fn nanos(at: DateTime<Utc>) -> i64 {
    at.timestamp_nanos_opt().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_minutes_are_recomputed_in_steps_and_near_ones_together() {
        let marked = [1, 2, 5, 15, 26, 1_439, 1_440];
        assert_eq!(pieces(&marked, 60), [(1, 16), (26, 27), (1_439, 1_440), (1_440, 1_441)]);
        assert_eq!(pieces(&marked[..4], 5), [(1, 6), (15, 16)]);
        let all: Vec<Minute> = (0..60).collect();
        for (step, number) in [(1, 60), (7, 9), (60, 1)] {
            let pieces = pieces(&all, step);
            assert_eq!(pieces.len(), number);
            assert!(pieces.iter().all(|(from, to)| to - from <= step), "{pieces:?}");
            assert_eq!(pieces.iter().map(|(from, to)| to - from).sum::<Minute>(), 60);
        }
    }

    #[test]
    fn ranges_end_with_their_partitions() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp() / 60;
        assert_eq!(month_end(at("2026-11-21T10:05:00Z")), at("2026-12-01T00:00:00Z"));
        assert_eq!(month_end(at("2026-12-31T23:59:00Z")), at("2027-01-01T00:00:00Z"));
        assert_eq!(next(at("2026-11-21T23:59:00Z"), DAY), at("2026-11-22T00:00:00Z"));
        assert_eq!(begin(at("2026-11-21T10:05:00Z"), HOUR), at("2026-11-21T10:00:00Z"));
    }
}
