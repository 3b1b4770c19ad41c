//! History of metrics: gauges, counters, and etcd's own histograms.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::{IN_RANGE, Query, QueryError, in_members};
use super::fold::{self, Growth, StepRow};
use super::gaps::{Gaps, Who};
use super::plan::{Plan, Resolution};
use super::source::Segment;
use super::{CARRY_SECONDS, History, MAX_STEP_ROWS, Series, check, check_rows, classic, made};

/// Percentiles of etcd's own histograms, with their columns.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

/// A histogram has so many times more values while it is made than afterwards: the growth of each bucket.
const HISTOGRAM_SHARE: usize = 4;

/// What was sampled so lately may not be stored yet: agents send every few seconds, and what was spooled later still.
const ON_ITS_WAY_SECONDS: i64 = 60;

/// How a metric's values are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Function {
    /// By its type: a counter's growth, a histogram's percentiles, the values of anything else.
    #[default]
    Auto,
    /// The values: `mean`, `min`, `max`, `last`.
    Values,
    /// The growth: `increase`, `per_second`. For gauges that only grow, such as etcd's raft indexes, as well.
    Growth,
}

/// Which metrics.
#[derive(Clone, Debug, Default)]
pub struct MetricScope {
    /// Only these members; empty = all, and the nodes that report the cluster.
    pub members: Vec<u64>,
    /// Names. That of a histogram is the family's, without `_bucket`.
    pub names: Vec<String>,
    /// Only series with these labels.
    pub labels: Vec<(String, String)>,
    /// How they are shown.
    pub function: Function,
    /// Series of the node itself as well.
    pub nodes: bool,
}

/// Series and steps of a question, as the engine added them up.
pub(super) struct Found {
    pub rows: Vec<StepRow>,
    pub gaps: Gaps,
}

impl Query {
    /// History of metrics of a cluster, and of the nodes that report it.
    ///
    /// # Errors
    /// When ClickHouse is away, the query fails, or the answer would be too large.
    pub(super) async fn metric_history(
        &self,
        cluster: Uuid,
        scope: &MetricScope,
        plan: &Plan,
    ) -> Result<History, QueryError> {
        let mut asked = scope.clone();
        if scope.function == Function::Auto {
            for name in &scope.names {
                asked.names.extend(["_bucket", "_sum"].map(|suffix| format!("{name}{suffix}")));
            }
        }
        let found = self.metric_steps(cluster, &asked, plan).await?;
        let scope = scope.clone();
        made(plan, move |plan| assemble(plan, cluster, &scope, &found)).await
    }

    /// What the engine adds up for [`Query::metric_history`].
    pub(super) async fn metric_steps(
        &self,
        cluster: Uuid,
        scope: &MetricScope,
        plan: &Plan,
    ) -> Result<Found, QueryError> {
        let agents = if scope.nodes { self.agents(cluster, plan).await? } else { Vec::new() };
        let lead = CARRY_SECONDS.max(plan.resolution.seconds());
        let segments = self.segments("metrics", plan, lead).await?;
        let (label_names, label_values): (Vec<String>, Vec<String>) = scope.labels.iter().cloned().unzip();
        let rows = self
            .select("metric_history", steps_sql(plan, &segments, scope, !agents.is_empty()))
            .cluster(cluster)
            .texts("names", &scope.names)
            .numbers("members", &scope.members)
            .texts("agents", &agents)
            .texts("label_names", &label_names)
            .texts("label_values", &label_values)
            .unsigned("limit", MAX_STEP_ROWS + 1)
            .fetch::<StepRow>();
        let (rows, gaps) = tokio::try_join!(rows, self.gaps(cluster, &scope.members, "metric", plan))?;
        let rows = check_rows(rows)?;
        check_room(plan, &rows)?;
        Ok(Found { rows, gaps })
    }

    /// Agents that reported the cluster in the time of a plan.
    async fn agents(&self, cluster: Uuid, plan: &Plan) -> Result<Vec<String>, QueryError> {
        let select = self.select(
            "agents",
            "SELECT DISTINCT toString(agent) AS found FROM ledger WHERE cluster = {cluster:String} \
             AND stream = 'metric' AND kind = 'produced' AND",
        );
        select.sql(IN_RANGE).cluster(cluster).range(plan.range(0)).fetch().await
    }
}

/// The SELECT: sums of each series and step. Rows of all tables are brought to one form first.
fn steps_sql(plan: &Plan, segments: &[Segment], scope: &MetricScope, nodes: bool) -> String {
    let nil = Uuid::nil();
    let whose = match nodes {
        true => format!(
            "(cluster = {{cluster:String}} OR (cluster = '{nil}' AND member = 0 AND agent IN {{agents:Array(UUID)}}))"
        ),
        false => "cluster = {cluster:String}".to_owned(),
    };
    let labels = match scope.labels.is_empty() {
        true => "",
        false => {
            " AND arrayAll((name, value) -> JSONExtractString(labels, name) = value, {label_names:Array(String)}, \
             {label_values:Array(String)})"
        }
    };
    let members = in_members(&scope.members);
    let parts: Vec<String> = segments
        .iter()
        .map(|segment| {
            let columns = match segment.resolution {
                Resolution::Raw => {
                    "toUnixTimestamp64Nano(at) AS begin_ns, begin_ns AS end_ns, toUInt64(1) AS number, value AS one, \
                     value AS other, value AS least, value AS most, value AS added, toFloat64(0) AS grew"
                }
                // The growth of what is no counter is not kept; of what only grows it is this.
                _ => {
                    "toUnixTimestamp64Milli(first_at) * 1000000 AS begin_ns, toUnixTimestamp64Milli(last_at) * 1000000 AS end_ns, \
                     toUInt64(samples) AS number, first AS one, last AS other, min AS least, max AS most, sum AS added, \
                     if(type = 'counter', increase, if(last >= first, last - first, last)) AS grew"
                }
            };
            let finite = if segment.resolution == Resolution::Raw { " AND isFinite(value)" } else { "" };
            format!(
                "SELECT name, member, if(member = 0, agent, toUUID('{nil}')) AS who, labels, type, toUnixTimestamp(at) AS second, \
                 {columns}{} AND {whose} AND name IN {{names:Array(String)}}{members}{labels}{finite}",
                segment.rows("metrics")
            )
        })
        .collect();
    // The order of rows matters for growth alone, and where a step has several rows.
    let grows = match scope.function {
        Function::Auto => "type = 'counter'",
        Function::Values => "0",
        Function::Growth => "1",
    };
    let across = match segments
        .iter()
        .all(|segment| segment.resolution != Resolution::Raw && segment.resolution.seconds() == plan.step)
    {
        true => "toFloat64(0)".to_owned(),
        false => format!(
            "arraySum(arrayMap((earlier, later) -> if(later.2 >= earlier.3, later.2 - earlier.3, later.2), \
             arrayPopBack(arraySort(groupArrayIf((begin_ns, one, other), {grows})) AS ordered), arrayPopFront(ordered)))"
        ),
    };
    let step = plan.step;
    format!(
        "SELECT name, member, who, labels, any(type) AS kind, toInt64(intDiv(second, {step}) * {step}) AS step_at, \
         sum(number) AS taken, argMin(one, begin_ns) AS first_value, argMax(other, end_ns) AS last_value, \
         min(least) AS low_value, max(most) AS high_value, sum(added) AS total_value, sum(grew) + {across} AS grown, \
         min(begin_ns) AS first_ns, max(end_ns) AS last_ns FROM ({}) \
         GROUP BY name, member, who, labels, step_at ORDER BY name, member, who, labels, step_at LIMIT {{limit:UInt64}}",
        parts.join(" UNION ALL ")
    )
}

/// What a series is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub name: String,
    pub member: u64,
    /// Nil for a member's series.
    pub agent: Uuid,
    pub labels: BTreeMap<String, String>,
}

impl Id {
    pub fn of(row: &StepRow) -> Self {
        // The store writes a JSON object; another writer's text is not worth losing a series for.
        let labels = serde_json::from_str(&row.labels).unwrap_or_default();
        Self { name: row.name.clone(), member: row.member, agent: row.agent, labels }
    }

    pub const fn who(&self) -> Who {
        Who { member: self.member, agent: self.agent }
    }

    /// The series, with a gap for every step in which the last column has no value.
    pub fn series(
        self,
        cluster: Uuid,
        plan: &Plan,
        gaps: &Gaps,
        newest_ns: i64,
        columns: Vec<(&'static str, Vec<f64>)>,
    ) -> Series {
        let known = columns.last().map(|(_, values)| values.as_slice()).unwrap_or_default();
        let on_its_way = plan.now_ns.saturating_sub(ON_ITS_WAY_SECONDS * fold::SECOND_NS).max(newest_ns);
        let other = |at: i64| match at.saturating_add(plan.step).saturating_mul(fold::SECOND_NS) > on_its_way
        {
            true => "not_stored_yet",
            false => "no_sample",
        };
        let gaps =
            gaps.of_series(plan, self.who(), |step| known.get(step).is_some_and(|it| !it.is_nan()), other);
        Series {
            cluster,
            offset_seconds: 0,
            name: self.name,
            member: self.member,
            agent: (!self.agent.is_nil()).then_some(self.agent),
            labels: self.labels,
            columns,
            gaps,
            live_from: None,
        }
    }
}

/// Series out of rows that are ordered by series and step.
fn assemble(plan: &Plan, cluster: Uuid, scope: &MetricScope, found: &Found) -> Vec<Series> {
    let mut series = Vec::new();
    let mut families: BTreeMap<Id, Family> = BTreeMap::new();
    for rows in found.rows.chunk_by(is_same_series) {
        let (row, newest_ns) = (&rows[0], rows[rows.len() - 1].last_ns);
        let mut id = Id::of(row);
        if let Some((family, part)) = part_of(row, &scope.names) {
            let growth = fold::growth(plan, rows, &found.gaps, id.who());
            id.name = family.to_owned();
            let bound = id.labels.remove("le").and_then(|le| le.parse().ok());
            families.entry(id).or_default().add(part, bound, growth, newest_ns);
            continue;
        }
        let grows = match scope.function {
            Function::Auto => row.kind == "counter",
            Function::Values => false,
            Function::Growth => true,
        };
        let columns = match grows {
            true => {
                let growth = fold::growth(plan, rows, &found.gaps, id.who());
                vec![("per_second", growth.per_second), ("increase", growth.increase)]
            }
            false => {
                let gauge = fold::gauge(plan, rows, &found.gaps, id.who());
                vec![("mean", gauge.mean), ("min", gauge.low), ("max", gauge.high), ("last", gauge.last)]
            }
        };
        series.push(id.series(cluster, plan, &found.gaps, newest_ns, columns));
    }
    let of_families = families.into_iter().filter_map(|(id, family)| {
        let newest_ns = family.newest_ns;
        Some(id.series(cluster, plan, &found.gaps, newest_ns, family.columns(plan)?))
    });
    series.extend(of_families);
    series
}

/// Refuses, before anything is made of the rows, what could only be refused afterwards: a series with a single row takes as much
/// room as one with a value in every step, in two columns at least.
fn check_room(plan: &Plan, rows: &[StepRow]) -> Result<(), QueryError> {
    let series = rows.chunk_by(is_same_series).count();
    check(series.saturating_mul(plan.len()).saturating_mul(2) / HISTOGRAM_SHARE)
}

/// Whether two rows are of the same series.
pub(super) fn is_same_series(a: &StepRow, b: &StepRow) -> bool {
    (&a.name, a.member, a.agent, &a.labels) == (&b.name, b.member, b.agent, &b.labels)
}

/// Which counter of a histogram a row is of.
#[derive(Clone, Copy)]
enum Part {
    Bucket,
    Sum,
}

/// The family that a row belongs to, if it is one of those that were asked for.
fn part_of<'a>(row: &'a StepRow, names: &[String]) -> Option<(&'a str, Part)> {
    let (family, part) = match row.name.strip_suffix("_bucket") {
        Some(family) => (family, Part::Bucket),
        None => (row.name.strip_suffix("_sum")?, Part::Sum),
    };
    // A counter that was asked for by its own name is a counter.
    let is_asked = |name: &str| names.iter().any(|asked| asked == name);
    (is_asked(family) && !is_asked(&row.name)).then_some((family, part))
}

/// Growth of the counters of one histogram.
#[derive(Default)]
struct Family {
    /// By rising bound.
    buckets: Vec<(f64, Growth)>,
    sum: Option<Growth>,
    newest_ns: i64,
}

impl Family {
    fn add(&mut self, part: Part, bound: Option<f64>, growth: Growth, newest_ns: i64) {
        self.newest_ns = self.newest_ns.max(newest_ns);
        match (part, bound.filter(|bound| !bound.is_nan())) {
            (Part::Sum, _) => self.sum = Some(growth),
            (Part::Bucket, Some(bound)) => {
                let at = self.buckets.partition_point(|(known, _)| *known < bound);
                self.buckets.insert(at, (bound, growth));
            }
            // Not a bucket of a histogram, whatever its name says.
            (Part::Bucket, None) => {}
        }
    }

    /// `None` when there is no bucket.
    fn columns(self, plan: &Plan) -> Option<Vec<(&'static str, Vec<f64>)>> {
        let mut columns: Vec<(&'static str, Vec<f64>)> =
            QUANTILES.iter().map(|(name, _)| (*name, Vec::with_capacity(plan.len()))).collect();
        let mut row = Vec::with_capacity(self.buckets.len());
        for step in 0..plan.len() {
            row.clear();
            row.extend(self.buckets.iter().map(|(bound, growth)| (*bound, growth.increase[step])));
            for ((_, values), (_, quantile)) in columns.iter_mut().zip(QUANTILES) {
                values.push(classic::quantile(&row, quantile));
            }
        }
        let (_, all) = self.buckets.into_iter().next_back()?;
        let mean = match self.sum {
            Some(sum) => sum.increase.iter().zip(&all.increase).map(|(sum, count)| sum / count).collect(),
            None => vec![f64::NAN; plan.len()],
        };
        columns.extend([("mean", mean), ("per_second", all.per_second), ("count", all.increase)]);
        Some(columns)
    }
}

#[cfg(test)]
mod tests;
