//! History of syncs and writes: counts, bytes, latencies. Percentiles come from merged histograms, never from other
//! percentiles.

use std::collections::{BTreeMap, BTreeSet};

use etcdmon_histogram::{BUCKETS, midpoint_ns, quantile_ns};
use etcdmon_proto::v1::FileClass;
use serde::Deserialize;
use uuid::Uuid;

use super::super::{IN_RANGE, Query, QueryError, in_members};
use super::gaps::{Gaps, Who};
use super::plan::{Plan, Resolution};
use super::{History, MAX_STEP_ROWS, Series, check_rows, made};
use crate::view::RecentSyncs;

const SECOND_NS: i64 = 1_000_000_000;

/// What was counted so lately may not be stored yet.
const ON_ITS_WAY_SECONDS: i64 = 60;

/// Percentiles of latencies, with their columns.
const QUANTILES: [(&str, f64); 6] = [
    ("p50_ns", 0.5),
    ("p90_ns", 0.9),
    ("p95_ns", 0.95),
    ("p99_ns", 0.99),
    ("p999_ns", 0.999),
    ("max_ns", 1.0),
];

/// Which syncs or writes.
#[derive(Clone, Debug, Default)]
pub struct SyncScope {
    /// Only these members; empty = all.
    pub members: Vec<u64>,
    /// Only this file class.
    pub class: Option<FileClass>,
    /// What is told apart; the rest is merged.
    pub apart: Apart,
}

/// What has series of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    /// Each member.
    pub members: bool,
    /// Each file class.
    pub classes: bool,
}

impl Default for Apart {
    fn default() -> Self {
        Self { members: true, classes: true }
    }
}

/// What the engine adds up of a member, class and step.
#[derive(clickhouse::Row, Deserialize)]
struct SyncRow {
    member: u64,
    class: String,
    step_at: i64,
    /// End of the last bucket that is stored, Unix seconds.
    known_until: i64,
    counted: u64,
    failed: u64,
    total_ns: u64,
    delay_ns: u64,
    histogram: Vec<(u16, u64)>,
}

#[derive(clickhouse::Row, Deserialize)]
struct WriteRow {
    member: u64,
    class: String,
    step_at: i64,
    known_until: i64,
    written: u64,
    seen_ns: u64,
    counted: u64,
    total_ns: u64,
    histogram: Vec<(u16, u64)>,
}

/// A step of a series: sums, which merge by addition.
#[derive(Clone, Debug, Default)]
struct Sums {
    count: u64,
    errors: u64,
    sum_ns: u64,
    run_delay_ns: u64,
    written_bytes: u64,
    observed_ns: u64,
    buckets: BTreeMap<u16, u64>,
}

impl Sums {
    fn take(&mut self, histogram: &[(u16, u64)]) {
        for (bucket, count) in histogram.iter().filter(|(bucket, _)| usize::from(*bucket) < BUCKETS) {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }

    fn quantile(&self, quantile: f64) -> f64 {
        let pairs = self.buckets.iter().map(|(bucket, count)| (usize::from(*bucket), *count));
        quantile_ns(pairs, quantile).map_or(f64::NAN, |ns| ns as f64)
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum_ns as f64 / self.count as f64 }
    }
}

/// Columns out of the steps of a series, and of how many seconds each is.
type Columns = fn(&[Option<Sums>], &[f64]) -> Vec<(&'static str, Vec<f64>)>;

/// (member, class); 0 and nothing where they are merged.
type Key = (u64, String);

/// Sums of all steps by series, before they become columns.
struct Grid<'a> {
    plan: &'a Plan,
    apart: Apart,
    series: BTreeMap<Key, Vec<Option<Sums>>>,
    /// Whose rows are in a series.
    members: BTreeMap<Key, BTreeSet<u64>>,
    live_from: BTreeMap<Key, i64>,
    /// Up to when something is known of a member, Unix seconds.
    known_until: BTreeMap<u64, i64>,
}

impl<'a> Grid<'a> {
    fn new(plan: &'a Plan, apart: Apart) -> Self {
        Self {
            plan,
            apart,
            series: BTreeMap::new(),
            members: BTreeMap::new(),
            live_from: BTreeMap::new(),
            known_until: BTreeMap::new(),
        }
    }

    fn key(&self, member: u64, class: &str) -> Key {
        let class = if self.apart.classes { class } else { "" };
        (if self.apart.members { member } else { 0 }, class.to_owned())
    }

    fn at(&mut self, member: u64, class: &str, step_at: i64) -> Option<&mut Sums> {
        let (key, step) = (self.key(member, class), self.plan.index(step_at)?);
        self.members.entry(key.clone()).or_default().insert(member);
        let steps = self.series.entry(key).or_insert_with(|| vec![None; self.plan.len()]);
        Some(steps.get_mut(step)?.get_or_insert_default())
    }

    fn know(&mut self, member: u64, until: i64) {
        // A bucket of a rollup is there as soon as something is in it.
        let until = until.min(self.plan.now_ns.div_euclid(SECOND_NS));
        let known = self.known_until.entry(member).or_insert(until);
        *known = until.max(*known);
    }

    fn add_syncs(&mut self, row: &SyncRow) {
        self.know(row.member, row.known_until);
        if let Some(sums) = self.at(row.member, &row.class, row.step_at) {
            sums.count += row.counted;
            sums.errors += row.failed;
            sums.sum_ns += row.total_ns;
            sums.run_delay_ns += row.delay_ns;
            sums.take(&row.histogram);
        }
    }

    fn add_writes(&mut self, row: &WriteRow) {
        self.know(row.member, row.known_until);
        if let Some(sums) = self.at(row.member, &row.class, row.step_at) {
            sums.count += row.counted;
            sums.sum_ns += row.total_ns;
            sums.written_bytes += row.written;
            sums.observed_ns += row.seen_ns;
            sums.take(&row.histogram);
        }
    }

    /// Adds what is live and came after what is stored. A live second begins where its messages did, a stored one on the
    /// clock: where they meet a second may be short or double by up to half.
    fn add_live(&mut self, live: &[RecentSyncs]) {
        let stored = self.known_until.clone();
        for one in live {
            let middle_ns = one.to_ns - SECOND_NS / 2;
            if middle_ns < stored.get(&one.member).map_or(i64::MIN, |until| until * SECOND_NS) {
                continue;
            }
            let at = middle_ns.div_euclid(SECOND_NS);
            let Some(sums) = self.at(one.member, one.class.name(), at) else { continue };
            for (bucket, count) in one.pairs.iter().filter(|(bucket, _)| usize::from(*bucket) < BUCKETS) {
                sums.count += u64::from(*count);
                sums.sum_ns += midpoint_ns(usize::from(*bucket)).saturating_mul(u64::from(*count));
                *sums.buckets.entry(*bucket).or_default() += u64::from(*count);
            }
            self.know(one.member, one.to_ns.div_euclid(SECOND_NS));
            let key = self.key(one.member, one.class.name());
            let step = (at - self.plan.from).div_euclid(self.plan.step) * self.plan.step + self.plan.from;
            let from = self.live_from.entry(key).or_insert(step);
            *from = step.min(*from);
        }
    }

    /// Series of `name`. A step without rows is zero when its members were watched, else a gap.
    fn series(
        self,
        cluster: Uuid,
        name: &'static str,
        gaps: &Gaps,
        watched: &Watched,
        columns: Columns,
    ) -> Vec<Series> {
        let plan = self.plan;
        let mut all = Vec::new();
        for (key, mut steps) in self.series {
            let members = self.members.get(&key).cloned().unwrap_or_default();
            let known = members.iter().filter_map(|member| self.known_until.get(member)).max().copied();
            // What came before is stored, or nobody will send it any more.
            let settled = plan.now_ns.div_euclid(SECOND_NS) - ON_ITS_WAY_SECONDS;
            let until = known.unwrap_or(settled).max(settled);
            for (at, sums) in plan.steps().zip(&mut steps) {
                let is_seen = |member: &u64| {
                    let who = Who { member: *member, agent: Uuid::nil() };
                    watched.at(*member, at)
                        && gaps.blind(who, at * SECOND_NS, (at + plan.step) * SECOND_NS).is_none()
                };
                if sums.is_none() && at + plan.step <= until && members.iter().any(is_seen) {
                    *sums = Some(Sums::default());
                }
            }
            let seconds: Vec<f64> =
                plan.steps().map(|at| (plan.step.min(until.saturating_sub(at)).max(1)) as f64).collect();
            let other = |at: i64| if at + plan.step > until { "not_stored_yet" } else { "not_reported" };
            let is_known = |step: usize| steps[step].is_some();
            let mut found: Vec<_> = members
                .iter()
                .flat_map(|member| {
                    gaps.of_series(plan, Who { member: *member, agent: Uuid::nil() }, is_known, other)
                })
                .collect();
            found.sort_by(|a, b| (a.from, a.to, &a.reason).cmp(&(b.from, b.to, &b.reason)));
            found.dedup();
            let (member, class) = key.clone();
            let label = (!class.is_empty()).then(|| ("class".to_owned(), class));
            all.push(Series {
                cluster,
                offset_seconds: 0,
                name: name.to_owned(),
                member,
                agent: None,
                labels: label.into_iter().collect(),
                columns: columns(&steps, &seconds),
                gaps: found,
                live_from: self.live_from.get(&key).copied(),
            });
        }
        all
    }
}

fn column(steps: &[Option<Sums>], value: impl Fn(&Sums) -> f64) -> Vec<f64> {
    steps.iter().map(|sums| sums.as_ref().map_or(f64::NAN, &value)).collect()
}

fn per_second(values: &[f64], seconds: &[f64]) -> Vec<f64> {
    values.iter().zip(seconds).map(|(value, seconds)| value / seconds).collect()
}

fn latency_columns(steps: &[Option<Sums>], seconds: &[f64]) -> Vec<(&'static str, Vec<f64>)> {
    let mut columns: Vec<(&'static str, Vec<f64>)> =
        QUANTILES.iter().map(|(name, share)| (*name, column(steps, |sums| sums.quantile(*share)))).collect();
    columns.push(("mean_ns", column(steps, Sums::mean)));
    columns.extend(count_columns(steps, seconds));
    columns
}

fn count_columns(steps: &[Option<Sums>], seconds: &[f64]) -> Vec<(&'static str, Vec<f64>)> {
    let count = column(steps, |sums| sums.count as f64);
    vec![
        ("per_second", per_second(&count, seconds)),
        ("errors", column(steps, |sums| sums.errors as f64)),
        ("run_delay_ns", column(steps, |sums| sums.run_delay_ns as f64)),
        ("count", count),
    ]
}

fn write_columns(steps: &[Option<Sums>], seconds: &[f64]) -> Vec<(&'static str, Vec<f64>)> {
    let bytes = column(steps, |sums| sums.written_bytes as f64);
    // Calls are seen in a part of the time; a rate over that part stands for all of it.
    let calls = column(steps, |sums| match sums.observed_ns {
        0 => f64::NAN,
        observed => sums.count as f64 / (observed as f64 / 1e9),
    });
    vec![
        ("bytes_per_second", per_second(&bytes, seconds)),
        ("calls_per_second", calls),
        ("p50_ns", column(steps, |sums| sums.quantile(0.5))),
        ("p99_ns", column(steps, |sums| sums.quantile(0.99))),
        ("mean_ns", column(steps, Sums::mean)),
        ("written_bytes", bytes),
    ]
}

/// Of which members something was reported, by minute or longer step.
#[derive(Default)]
struct Watched {
    width: i64,
    steps: BTreeSet<(u64, i64)>,
}

#[derive(clickhouse::Row, Deserialize)]
struct WatchedRow {
    member: u64,
    step_at: i64,
}

impl Watched {
    fn at(&self, member: u64, at: i64) -> bool {
        self.steps.contains(&(member, at.div_euclid(self.width) * self.width))
    }
}

impl Query {
    /// Latency of syncs over time. `live` is what may not be stored yet.
    ///
    /// # Errors
    /// When ClickHouse is away, the query fails, or the answer would be too large.
    pub(super) async fn latency_history(
        &self,
        cluster: Uuid,
        scope: &SyncScope,
        plan: &Plan,
        live: &[RecentSyncs],
    ) -> Result<History, QueryError> {
        self.sync_steps(cluster, scope, plan, live, "sync_latency", true).await
    }

    /// Numbers of syncs over time: as [`Query::latency_history`], without latencies.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn sync_history(
        &self,
        cluster: Uuid,
        scope: &SyncScope,
        plan: &Plan,
        live: &[RecentSyncs],
    ) -> Result<History, QueryError> {
        self.sync_steps(cluster, scope, plan, live, "syncs", false).await
    }

    async fn sync_steps(
        &self,
        cluster: Uuid,
        scope: &SyncScope,
        plan: &Plan,
        live: &[RecentSyncs],
        name: &'static str,
        with_latency: bool,
    ) -> Result<History, QueryError> {
        // Counts alone are much less to read than histograms.
        let (column, merged) = match with_latency {
            true => (", buckets", "sumMap(buckets)"),
            false => ("", "CAST(map(), 'Map(UInt16, UInt64)')"),
        };
        let columns = format!("count, errors, sum_ns, run_delay_ns{column}");
        let sums = format!(
            "sum(count) AS counted, sum(errors) AS failed, sum(sum_ns) AS total_ns, sum(run_delay_ns) AS delay_ns, \
             {merged} AS histogram"
        );
        let (rows, gaps, watched): (Vec<SyncRow>, _, _) = tokio::try_join!(
            self.class_steps("sync_history", ("sync_histograms", &columns, &sums), cluster, scope, plan),
            self.gaps(cluster, &scope.members, "sync", plan),
            self.watched(cluster, &scope.members, plan),
        )?;
        let wanted = |it: &&RecentSyncs| {
            plan.resolution == Resolution::Raw
                && (scope.members.is_empty() || scope.members.contains(&it.member))
                && scope.class.is_none_or(|class| class == it.class)
        };
        let live: Vec<RecentSyncs> = live.iter().filter(wanted).cloned().collect();
        let columns: Columns = if with_latency { latency_columns } else { count_columns };
        let apart = scope.apart;
        made(plan, move |plan| {
            let mut grid = Grid::new(plan, apart);
            rows.iter().for_each(|row| grid.add_syncs(row));
            grid.add_live(&live);
            grid.series(cluster, name, &gaps, &watched, columns)
        })
        .await
    }

    /// Writes over time: bytes, calls, their latency.
    ///
    /// # Errors
    /// When ClickHouse is away, the query fails, or the answer would be too large.
    pub(super) async fn write_history(
        &self,
        cluster: Uuid,
        scope: &SyncScope,
        plan: &Plan,
    ) -> Result<History, QueryError> {
        let columns = "written_bytes, observed_ns, calls, sum_ns, buckets";
        let sums = "sum(written_bytes) AS written, sum(observed_ns) AS seen_ns, sum(calls) AS counted, \
                    sum(sum_ns) AS total_ns, sumMap(buckets) AS histogram";
        let (rows, gaps, watched): (Vec<WriteRow>, _, _) = tokio::try_join!(
            self.class_steps("write_history", ("writes", columns, sums), cluster, scope, plan),
            self.gaps(cluster, &scope.members, "write", plan),
            self.watched(cluster, &scope.members, plan),
        )?;
        let apart = scope.apart;
        made(plan, move |plan| {
            let mut grid = Grid::new(plan, apart);
            rows.iter().for_each(|row| grid.add_writes(row));
            grid.series(cluster, "writes", &gaps, &watched, write_columns)
        })
        .await
    }

    /// Sums by member, class and step of a table.
    async fn class_steps<T>(
        &self,
        name: &'static str,
        (table, columns, sums): (&'static str, &str, &str),
        cluster: Uuid,
        scope: &SyncScope,
        plan: &Plan,
    ) -> Result<Vec<T>, QueryError>
    where
        T: clickhouse::RowOwned + clickhouse::RowRead,
    {
        let step = plan.step;
        let class = if scope.class.is_some() { " AND class = {class:String}" } else { "" };
        let members = in_members(&scope.members);
        let parts: Vec<String> = self
            .segments(table, plan, 0)
            .await?
            .iter()
            .map(|segment| {
                let length = segment.resolution.seconds();
                format!(
                    "SELECT member, class, toUnixTimestamp(at) AS second, second + {length} AS known, {columns}{} \
                     AND cluster = {{cluster:String}}{members}{class}",
                    segment.rows(table)
                )
            })
            .collect();
        let rows = self
            .select(
                name,
                format!(
                    "SELECT member, class, toInt64(intDiv(second, {step}) * {step}) AS step_at, toInt64(max(known)) AS known_until, \
                     {sums} FROM ({}) GROUP BY member, class, step_at ORDER BY member, class, step_at LIMIT {{limit:UInt64}}",
                    parts.join(" UNION ALL ")
                ),
            )
            .cluster(cluster)
            .numbers("members", &scope.members)
            .text("class", scope.class.map_or("", FileClass::name))
            .unsigned("limit", MAX_STEP_ROWS + 1)
            .fetch()
            .await?;
        check_rows(rows)
    }

    /// When members were reported at all: samples of metrics are produced every second, whatever etcd does.
    async fn watched(&self, cluster: Uuid, members: &[u64], plan: &Plan) -> Result<Watched, QueryError> {
        let width = plan.step.max(60);
        let rows: Vec<WatchedRow> = self
            .select(
                "watched",
                format!(
                    "SELECT member, toInt64(intDiv(toUnixTimestamp(at), {width}) * {width}) AS step_at FROM ledger \
                     WHERE cluster = {{cluster:String}} AND stream = 'metric' AND kind = 'produced' AND"
                ),
            )
            .sql(IN_RANGE)
            .cluster(cluster)
            .range(plan.range(60))
            .members(members)
            .sql(" GROUP BY member, step_at LIMIT {limit:UInt64}")
            .unsigned("limit", MAX_STEP_ROWS + 1)
            .fetch()
            .await?;
        let steps = check_rows(rows)?.into_iter().map(|row| (row.member, row.step_at)).collect();
        Ok(Watched { width, steps })
    }
}

#[cfg(test)]
mod tests;
