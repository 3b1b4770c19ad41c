//! `etcdmon-lab bench soak`: many agents for many minutes, and what one member costs on disk.
//!
//! Two parts, each with an aggregator of its own. First, simulated agents at full rate: memory of aggregator and engine
//! after a warm-up, parts, inserts, CPU, and the books at the end. Second, one real etcd under 1,000 puts a second with
//! a real agent: what its rows take on disk once merged (`OPTIMIZE TABLE … FINAL`), extrapolated to a day by the time
//! between its first and last row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Plan, Simulation};
use crate::api::Api;
use crate::bench::{process_cpu, resident_bytes};
use crate::engine::TABLES;
use crate::etcd::Cluster;
use crate::load::{Load, Plan as LoadPlan};
use crate::node::{Agent, Aggregator, data_dirs};
use crate::place::Place;
use crate::tools;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long what is not acknowledged at the end may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// Puts a second on the real member.
const PUTS: u32 = 1_000;

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    /// Simulated agents with 1,300 series each.
    pub agents: usize,
    /// How long memory is watched after the warm-up; zero leaves the first part out.
    pub time: Duration,
    /// Before memory is watched.
    pub warm_up: Duration,
    /// How long the real member is under load; zero leaves the second part out.
    pub member_time: Duration,
}

/// Runs both parts; the last line is one JSON object.
///
/// # Errors
/// When something does not start, rows are missing, or there is nothing to do.
pub async fn run(options: &Options) -> Result<()> {
    let mut figures = Vec::new();
    for part in [true, false] {
        let place = Arc::new(Place::new()?);
        let outcome = match part {
            true if !options.time.is_zero() => many(options, &place, &mut figures).await,
            false if !options.member_time.is_zero() => member(options, &place, &mut figures).await,
            _ => Ok(()),
        };
        if outcome.is_err() {
            eprintln!("{}", place.log_tails(20));
        }
        outcome?;
    }
    println!("{}", json!({"bench": "soak", "figures": figures}));
    Ok(())
}

fn figure(name: &str, value: f64, unit: &str, goal: Option<f64>, better: &str) -> Value {
    let value = (value * 1_000.0).round() / 1_000.0;
    json!({"name": name, "value": value, "unit": unit, "goal": goal, "better": better})
}

/// What was seen at a moment.
struct Look {
    seconds: f64,
    aggregator_bytes: f64,
    /// Of these, what the aggregator asked for.
    allocated_bytes: f64,
    engine_bytes: f64,
}

/// Time that the aggregator took to store groups of batches, and how many, by its own counters.
#[derive(Clone, Copy)]
struct Flushes {
    seconds: f64,
    number: f64,
}

impl Flushes {
    async fn of(api: &Api) -> Result<Self> {
        let seconds = shown(api, "etcdmon_aggregator_store_flush_seconds_total").await?;
        let number = shown(api, "etcdmon_aggregator_store_flushes_total").await?;
        Ok(Self { seconds, number })
    }

    /// Seconds that each has taken since then.
    fn mean_since(self, begin: Self) -> f64 {
        (self.seconds - begin.seconds) / (self.number - begin.number).max(1.0)
    }
}

/// Mean and most of the open batches until the next look. They rise by a second's worth between two groups that are stored, so
/// that a single value says mostly when the last one was.
async fn open_batches(simulation: &Simulation) -> (f64, u64) {
    let (end, mut seen) = (Instant::now() + LOOK_EVERY, Vec::new());
    while Instant::now() < end {
        seen.push(simulation.progress().backlog());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (seen.iter().sum::<u64>() as f64 / seen.len() as f64, seen.into_iter().max().unwrap_or(0))
}

async fn many(options: &Options, place: &Place, figures: &mut Vec<Value>) -> Result<()> {
    let mut aggregator = Aggregator::start(place, "aggregator", &[]).await?;
    let api = aggregator.client()?;
    let engine = Engine::of(&mut aggregator)?;
    let pids = [aggregator.daemon.process()?.pid(), engine.pid];
    let plan = Plan { agents: options.agents, ..Plan::default() };
    let rate = plan.agents * plan.series as usize;
    println!(
        "{} agents, {rate} samples a second, {:?} and {:?} before",
        plan.agents, options.time, options.warm_up
    );
    let simulation = Simulation::start(plan, &aggregator.ingest);
    tokio::time::sleep(options.warm_up).await;

    let (begin, rows) = (Instant::now(), engine.number("SELECT count() FROM etcdmon.metrics").await?);
    let cpu = [process_cpu(pids[0])?, process_cpu(pids[1])?];
    let inserts = shown(&api, INSERTS).await?;
    let (mut looks, mut parts, mut open, mut backlog): (Vec<Look>, u64, f64, u64) = (Vec::new(), 0, 0.0, 0);
    let (first, mut middle) = (Flushes::of(&api).await?, None);
    while begin.elapsed() < options.time {
        let (mean, most) = open_batches(&simulation).await;
        (open, backlog) = (open + mean, backlog.max(most));
        let look = Look {
            seconds: begin.elapsed().as_secs_f64(),
            aggregator_bytes: resident_bytes(pids[0])? as f64,
            allocated_bytes: shown(&api, "etcdmon_aggregator_allocated_bytes").await?,
            engine_bytes: resident_bytes(pids[1])? as f64,
        };
        let most = "SELECT max(n) FROM (SELECT count() AS n FROM system.parts WHERE active AND database = 'etcdmon' \
                    GROUP BY table, partition)";
        parts = parts.max(engine.number(most).await?);
        if middle.is_none() && begin.elapsed() >= options.time / 2 {
            middle = Some(Flushes::of(&api).await?);
        }
        if looks.len().is_multiple_of(6) {
            println!(
                "{:4.0} s: aggregator {:.0} MiB ({:.0} allocated), engine {:.0} MiB, most parts {parts}, {mean:.0} batches open",
                look.seconds,
                look.aggregator_bytes / 1_048_576.0,
                look.allocated_bytes / 1_048_576.0,
                look.engine_bytes / 1_048_576.0,
            );
        }
        looks.push(look);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let stored = engine.number("SELECT count() FROM etcdmon.metrics").await? - rows;
    let used = [process_cpu(pids[0])? - cpu[0], process_cpu(pids[1])? - cpu[1]];
    let inserts = shown(&api, INSERTS).await? - inserts;
    let all = Flushes::of(&api).await?;
    let middle = middle.unwrap_or(all);
    simulation.stop_producing();
    simulation.drained(DRAIN_LIMIT).await?;
    let produced = simulation.check(&api).await?;
    println!("stored is what was produced, to the last row: {produced:?}");

    figures.push(figure(
        "samples_per_second",
        stored as f64 / seconds,
        "1/s",
        Some(rate as f64 * 0.99),
        "higher",
    ));
    figures.push(figure("batches_open_most", backlog as f64, "batches", None, "lower"));
    figures.push(figure("batches_open_mean", open / looks.len().max(1) as f64, "batches", None, "lower"));
    figures.push(figure("flush_seconds_first_half", middle.mean_since(first), "s", None, "lower"));
    figures.push(figure("flush_seconds_second_half", all.mean_since(middle), "s", None, "lower"));
    memory_figures(&looks, figures);
    let last = looks.last().context("no time to look")?;
    figures.push(figure("aggregator_rss", last.aggregator_bytes, "bytes", None, "lower"));
    figures.push(figure("engine_rss", last.engine_bytes, "bytes", None, "lower"));
    figures.push(figure("aggregator_cpu", used[0].as_secs_f64() / seconds, "cores", None, "lower"));
    figures.push(figure("engine_cpu", used[1].as_secs_f64() / seconds, "cores", None, "lower"));
    figures.push(figure("active_parts_most", parts as f64, "parts", Some(100.0), "lower"));
    let per_table = inserts / seconds / TABLES.len() as f64;
    figures.push(figure("inserts_per_second_and_table", per_table, "1/s", Some(1.1), "lower"));
    for (table, (rows, bytes)) in engine.sizes().await? {
        let name = format!("{table}_bytes_per_row_unmerged");
        figures.push(figure(&name, bytes as f64 / rows.max(1) as f64, "bytes", None, "lower"));
    }
    aggregator.daemon.terminate()
}

/// One real member under 1,000 puts a second.
async fn member(options: &Options, place: &Arc<Place>, figures: &mut Vec<Value>) -> Result<()> {
    ensure!(tools::is_root(), "needs root for probes");
    let mut aggregator = Aggregator::start(place, "aggregator", &[]).await?;
    let cluster = Cluster::builder("soak").members(1).start(place).await?;
    let mut agent = Agent::prepare(place, "agent", &aggregator.ingest, &data_dirs(&cluster))?;
    agent.daemon.start().await?;
    let load =
        Load::start(&cluster, &LoadPlan { rate: Some(PUTS), clients: 64, value_bytes: 256, keys: 10_000 })?;
    let begin = Instant::now();
    println!("one member under {PUTS} puts a second for {:?}", options.member_time);
    tokio::time::sleep(options.member_time).await;
    let puts = load.succeeded() as f64 / begin.elapsed().as_secs_f64();
    let engine = Engine::of(&mut aggregator)?;
    let mut day = 0.0;
    for table in TABLES {
        engine.ask(&format!("OPTIMIZE TABLE etcdmon.{table} FINAL")).await?;
        let span = "toFloat64(dateDiff('millisecond', min(at), max(at))) / 1000";
        let seconds = engine.ask(&format!("SELECT {span} FROM etcdmon.metrics")).await?;
        let seconds: f64 = seconds.trim().parse().with_context(|| format!("{table}: {seconds}"))?;
        let Some((rows, bytes)) = engine.sizes().await?.remove(table) else { continue };
        let bytes_a_day = bytes as f64 / seconds * 86_400.0;
        println!(
            "{table:16} {rows:>9} rows, {:.2} bytes each, {:.1} MB a day: {}",
            bytes as f64 / rows.max(1) as f64,
            bytes_a_day / 1e6,
            engine.largest(table).await?
        );
        day += bytes_a_day;
        figures.push(figure(
            &format!("{table}_bytes_per_row"),
            bytes as f64 / rows.max(1) as f64,
            "bytes",
            None,
            "lower",
        ));
        figures.push(figure(&format!("{table}_bytes_per_member_day"), bytes_a_day, "bytes", None, "lower"));
    }
    figures.push(figure("puts_per_second", puts, "1/s", Some(f64::from(PUTS)), "higher"));
    figures.push(figure("bytes_per_member_day", day, "bytes", Some(0.5e9), "lower"));
    agent.daemon.terminate()?;
    aggregator.daemon.terminate()
}

/// What of a look counts.
type Bytes = fn(&Look) -> f64;

/// Growth of what stays in memory: of the least that was seen in each minute. Merges take tens of megabytes of the engine for
/// seconds; they would hide a growth of a few in ten minutes, and feign one.
fn memory_figures(looks: &[Look], figures: &mut Vec<Value>) {
    let kinds: [(&str, Bytes, Option<f64>); 4] = [
        ("memory_slope", |it| it.aggregator_bytes + it.engine_bytes, Some(1.0)),
        ("memory_slope_aggregator", |it| it.aggregator_bytes, None),
        ("memory_slope_allocated", |it| it.allocated_bytes, None),
        ("memory_slope_engine", |it| it.engine_bytes, None),
    ];
    for (name, bytes, goal) in kinds {
        let floors = floors(looks, bytes);
        let line: Vec<String> =
            floors.iter().map(|(_, bytes)| format!("{:.1}", bytes / 1_048_576.0)).collect();
        println!("{name}, least of each minute in MiB: {}", line.join(" "));
        let (slope, error) = slope_per_ten_minutes(&floors);
        figures.push(figure(name, slope * 100.0, "%/10min", goal, "lower"));
        figures.push(figure(&format!("{name}_error"), error * 100.0, "%/10min", None, "lower"));
    }
}

/// (seconds of the middle, least bytes) of each whole minute.
fn floors(looks: &[Look], bytes: impl Fn(&Look) -> f64) -> Vec<(f64, f64)> {
    let mut minutes: BTreeMap<u64, f64> = BTreeMap::new();
    for look in looks {
        let least = minutes.entry((look.seconds / 60.0) as u64).or_insert(f64::INFINITY);
        *least = least.min(bytes(look));
    }
    minutes.into_iter().map(|(minute, least)| (minute as f64 * 60.0 + 30.0, least)).collect()
}

/// Growth in ten minutes by least squares as a share of the mean, and two standard errors of it; zeros for less than three points or no size.
fn slope_per_ten_minutes(points: &[(f64, f64)]) -> (f64, f64) {
    if points.len() < 3 || points.iter().all(|(_, size)| *size == 0.0) {
        return (0.0, 0.0);
    }
    let count = points.len() as f64;
    let sum = |value: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>();
    let (time, size) = (sum(&|it| it.0) / count, sum(&|it| it.1) / count);
    let variance = sum(&|it| (it.0 - time).powi(2));
    let slope = sum(&|it| (it.0 - time) * (it.1 - size)) / variance;
    let rest = sum(&|it| (it.1 - size - slope * (it.0 - time)).powi(2));
    let error = (rest / (count - 2.0) / variance).sqrt();
    (slope * 600.0 / size, 2.0 * error * 600.0 / size)
}

/// Inserts that ended well.
const INSERTS: &str = "etcdmon_aggregator_store_inserts_total";

/// A number that the aggregator shows of itself.
async fn shown(api: &Api, name: &str) -> Result<f64> {
    let (_, text) = api.raw("/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name}"))?.trim().parse()?)
}

/// The aggregator's engine, asked while it runs. Its address is in the aggregator's log, its key in its environment,
/// which only the same user may read.
pub(crate) struct Engine {
    pid: u32,
    url: String,
    key: String,
    http: reqwest::Client,
}

impl Engine {
    pub(crate) fn of(aggregator: &mut Aggregator) -> Result<Self> {
        let pid = aggregator.engine_pid()?;
        let log = aggregator.daemon.output();
        let line =
            log.lines().rev().find(|line| line.contains("engine started")).context("no engine in the log")?;
        let at = line.find("http://127.0.0.1:").context("no address in the log")?;
        let url: String = line[at..].chars().take_while(|it| !it.is_whitespace() && *it != '"').collect();
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        let key = environment
            .split(|byte| *byte == 0)
            .find_map(|pair| pair.strip_prefix(b"ETCD_MONITOR_ENGINE_KEY="))
            .context("the engine has no key")?;
        let key = String::from_utf8_lossy(key).into_owned();
        Ok(Self { pid, url, key, http: reqwest::Client::builder().no_proxy().build()? })
    }

    /// CPU time that it has taken so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        process_cpu(self.pid)
    }

    pub(crate) async fn ask(&self, sql: &str) -> Result<String> {
        let request = self.http.post(&self.url).header("x-clickhouse-key", &self.key).body(sql.to_owned());
        let response = request.send().await.context("ask the engine")?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status.is_success(), "{sql}: {status}: {text}");
        Ok(text)
    }

    pub(crate) async fn number(&self, sql: &str) -> Result<u64> {
        let text = self.ask(sql).await?;
        text.trim().parse().with_context(|| format!("{sql}: {text}"))
    }

    /// Rows and bytes on disk of every table that has rows.
    async fn sizes(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let text = self
            .ask(
                "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'etcdmon' \
                 GROUP BY table ORDER BY table",
            )
            .await?;
        let line = |line: &str| {
            let mut fields = line.split('\t');
            let table = fields.next()?.to_owned();
            Some((table, (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)))
        };
        Ok(text.lines().filter_map(line).collect())
    }

    /// A table's largest columns with their bytes a row, for people.
    pub(crate) async fn largest(&self, table: &str) -> Result<String> {
        let sql = format!(
            "SELECT arrayStringConcat(groupArray(concat(name, ' ', toString(round(bytes / rows, 2)))), ', ') FROM \
             (SELECT column AS name, sum(column_bytes_on_disk) AS bytes, sum(rows) AS rows FROM system.parts_columns \
             WHERE active AND database = 'etcdmon' AND table = '{table}' GROUP BY column ORDER BY bytes DESC LIMIT 8)"
        );
        Ok(self.ask(&sql).await?.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_a_share_of_the_mean_in_ten_minutes() {
        let look = |step: u32| Look {
            seconds: f64::from(step) * 5.0,
            aggregator_bytes: 1_000.0 + f64::from(step % 3),
            allocated_bytes: 0.0,
            engine_bytes: 1_000.0 + f64::from(step),
        };
        let looks: Vec<Look> = (0..120).map(look).collect();
        let (slope, error) = slope_per_ten_minutes(&floors(&looks, |look| look.engine_bytes));
        assert!((slope - 120.0 / 1_054.0).abs() < 1e-6, "{slope}");
        assert!(error < 1e-9, "{error}");
        let (slope, _) = slope_per_ten_minutes(&floors(&looks, |look| look.aggregator_bytes));
        assert!(slope.abs() < 1e-9, "{slope}");
        assert_eq!(
            slope_per_ten_minutes(&floors(&looks, |look| look.allocated_bytes)),
            (0.0, 0.0),
            "not said"
        );
    }

    #[test]
    fn flushes_are_told_apart_by_when_they_were() {
        let [begin, middle, end] =
            [(1.0, 10.0), (4.0, 20.0), (10.0, 30.0)].map(|(seconds, number)| Flushes { seconds, number });
        assert_eq!((middle.mean_since(begin), end.mean_since(middle)), (0.3, 0.6));
        assert_eq!(end.mean_since(end), 0.0);
    }

    #[test]
    fn what_a_merge_takes_for_seconds_is_no_growth() {
        let look = |step: u32| Look {
            seconds: f64::from(step) * 5.0,
            aggregator_bytes: 1_000.0,
            allocated_bytes: 0.0,
            engine_bytes: if step > 60 && !step.is_multiple_of(6) { 1_500.0 } else { 1_000.0 },
        };
        let looks: Vec<Look> = (0..120).map(look).collect();
        assert_eq!(slope_per_ten_minutes(&floors(&looks, |look| look.engine_bytes)), (0.0, 0.0));
        let all: Vec<(f64, f64)> = looks.iter().map(|look| (look.seconds, look.engine_bytes)).collect();
        assert!(slope_per_ten_minutes(&all).0 > 0.3);
    }
}
