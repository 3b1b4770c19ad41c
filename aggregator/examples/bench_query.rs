//! `cargo xtask bench query`: how quickly history is answered from more than 50 million rows.
//!
//! The real engine is filled with 90 days of several clusters: one as dense as an agent makes it, the others thinner. Then
//! every named query is asked many times, in turn, over the last hour and the last 90 days, through the query layer and
//! through the HTTP API of a whole aggregator. The figures are the worst named query's p95. `--rounds N` (50), `--keep DIR`
//! uses a directory and leaves it. The last line of output is one JSON object.

#[path = "bench_query/ask.rs"]
mod ask;
#[path = "bench_query/fill.rs"]
mod fill;
#[path = "bench_query/shape.rs"]
mod shape;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use etcdmon_aggregator::engine::{Options, Supervisor, child};
use etcdmon_aggregator::query::Query;
use etcdmon_aggregator::registry::Registry;
use etcdmon_aggregator::state::State;
use etcdmon_aggregator::store::Client;
use etcdmon_aggregator::store::migrate::migrate;
use etcdmon_service::logging::ErrorChain;
use serde_json::json;

/// Times that each query is asked, unless told otherwise.
const ROUNDS: usize = 50;

/// Rows that there must be at least.
const ROWS: u64 = 50_000_000;

/// p95 of the worst query: over an hour, over 90 days.
const GOALS_MS: (f64, f64) = (50.0, 200.0);

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == "engine") {
        return engine(arguments);
    }
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let rounds = value("--rounds").map(|rounds| rounds.parse()).transpose().context("--rounds")?;
    let kept = value("--keep").map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let temporary = tempfile::tempdir()?;
    let directory = kept.as_deref().unwrap_or(temporary.path());
    runtime.block_on(measure(directory, rounds.unwrap_or(ROUNDS)))
}

/// The engine's child process, as the aggregator has it.
fn engine(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let arguments = child::parse_arguments(arguments).map_err(anyhow::Error::msg)?;
    child::run(&arguments).map_err(|error| anyhow::anyhow!("{}", ErrorChain(&error)))
}

async fn measure(directory: &Path, rounds: usize) -> anyhow::Result<()> {
    etcdmon_service::process::install_tls_provider();
    let state = State::open(directory)?;
    let registry = Registry::load(&state).await?;
    let clusters: Vec<uuid::Uuid> = shape::CLUSTERS.map(|id| registry.cluster_of(id)).into();
    state.commit(registry.take_unsaved()).await?;
    drop(state);

    let engine = Supervisor::start(Options {
        memory_bytes: 4 << 30,
        ..Options::new(std::env::current_exe()?, directory.join("clickhouse"))
    })?;
    let mut endpoint = engine.endpoint();
    tokio::time::timeout(Duration::from_secs(60), endpoint.wait_for(Option::is_some))
        .await
        .with_context(|| format!("the engine does not start: {:?}", engine.facts().borrow()))??;
    let client = Client::embedded(engine.endpoint(), "etcdmon");
    migrate(&client).await?;
    let connection = client.connect()?;
    let filled = fill::fill(&connection, &clusters).await?;
    eprintln!("{} rows, {} MB on disk", filled.rows, filled.bytes >> 20);
    ensure!(filled.rows >= ROWS, "{} rows are fewer than {ROWS}", filled.rows);

    let query = Query::new(client);
    let layer = ask::layer(&query, clusters[0], filled.newest, rounds).await?;
    engine.stop().await;
    let api = ask::api(directory, clusters[0], filled.newest, rounds).await?;

    let mut figures = Vec::new();
    let worst = |range: &str, found: &[ask::Found]| {
        found.iter().filter(|one| one.range == range).map(|one| one.p95_ms).fold(0.0, f64::max)
    };
    for (range, name, goal) in
        [("hour", "hour_p95_ms", GOALS_MS.0), ("90 days", "ninety_days_p95_ms", GOALS_MS.1)]
    {
        figures.push(figure(name, worst(range, &layer), Some(goal)));
        figures.push(figure(&format!("api_{name}"), worst(range, &api), None));
    }
    for one in &layer {
        let range = if one.range == "hour" { "hour" } else { "ninety_days" };
        figures.push(figure(&format!("{}_{range}_p95_ms", one.name), one.p95_ms, None));
    }
    let rows =
        json!({ "name": "rows", "value": filled.rows, "unit": "rows", "goal": ROWS, "better": "higher" });
    figures.push(rows);
    println!("{}", json!({ "bench": "query", "figures": figures }));
    Ok(())
}

fn figure(name: &str, value: f64, goal: Option<f64>) -> serde_json::Value {
    json!({ "name": name, "value": (value * 10.0).round() / 10.0, "unit": "ms", "goal": goal, "better": "lower" })
}
