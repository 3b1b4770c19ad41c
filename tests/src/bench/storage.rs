//! `etcdmon-lab bench storage`: what a row takes on disk, in the layout that the schema has and in others.
//!
//! One real member under load, watched by a real agent, makes the rows; nothing about them is made up. They are then copied into a
//! table of each layout in the same engine, merged into one part, and weighed. CPU time of the engine for the copy (read, sort,
//! compress, merge) tells what a stronger codec costs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::etcd::Cluster;
use crate::load::{Load, Plan};
use crate::node::{Agent, Aggregator, data_dirs};
use crate::place::Place;
use crate::simulate::soak::Engine;
use crate::tools;

/// The rate of puts.
const PUTS: u32 = 1_000;

/// A way to store a table: what differs from the one it has.
struct Layout {
    title: &'static str,
    /// Column and its codec.
    codecs: &'static [(&'static str, &'static str)],
    /// Sort key; empty = the table's own.
    order: &'static str,
    /// Settings of the table.
    settings: &'static str,
}

const fn layout(title: &'static str, codecs: &'static [(&'static str, &'static str)]) -> Layout {
    Layout { title, codecs, order: "", settings: "" }
}

const fn arranged(title: &'static str, order: &'static str, settings: &'static str) -> Layout {
    Layout { title, codecs: &[], order, settings }
}

/// The codecs of the first release, to compare with.
const FIRST_METRICS: &[(&str, &str)] = &[
    ("sequence", "Delta(8), ZSTD(1)"),
    ("cluster", "LZ4"),
    ("at", "DoubleDelta, ZSTD(1)"),
    ("name", "LZ4"),
    ("labels", "LZ4"),
    ("type", "LZ4"),
    ("value", "Gorilla, ZSTD(1)"),
];

/// The same for tables of syncs and writes.
const FIRST: &[(&str, &str)] = &[
    ("sequence", "Delta(8), ZSTD(1)"),
    ("cluster", "LZ4"),
    ("class", "LZ4"),
    ("hook", "LZ4"),
    ("reason", "LZ4"),
    ("at", "Delta(8), ZSTD(1)"),
    ("start_mono_ns", "Delta(8), ZSTD(1)"),
    ("latency_ns", "ZSTD(1)"),
    ("run_delay_ns", "ZSTD(1)"),
    ("written_bytes", "ZSTD(1)"),
    ("thread_id", "ZSTD(1)"),
    ("count", "ZSTD(1)"),
    ("sum_ns", "ZSTD(1)"),
    ("calls", "ZSTD(1)"),
    ("buckets", "ZSTD(1)"),
];

/// Settings of the first release.
const SMALL_BLOCKS: &str = "min_compress_block_size = 65536, max_compress_block_size = 1048576";

const METRICS: &[Layout] = &[
    layout("as it is", &[]),
    Layout { title: "first release", codecs: FIRST_METRICS, order: "", settings: SMALL_BLOCKS },
    layout("at: DoubleDelta, ZSTD(1)", &[("at", "DoubleDelta, ZSTD(1)")]),
    layout("at: Delta, ZSTD(6)", &[("at", "Delta(8), ZSTD(6)")]),
    layout("value: Gorilla, ZSTD(1)", &[("value", "Gorilla, ZSTD(1)")]),
    layout("value: FPC, ZSTD(3)", &[("value", "FPC, ZSTD(3)")]),
    layout("value: ZSTD(3)", &[("value", "ZSTD(3)")]),
    layout("value: Delta, ZSTD(1)", &[("value", "Delta(8), ZSTD(1)")]),
    layout("value: Delta, ZSTD(6)", &[("value", "Delta(8), ZSTD(6)")]),
    layout("sequence: DoubleDelta, ZSTD(3)", &[("sequence", "DoubleDelta, ZSTD(3)")]),
    layout("sequence: T64, ZSTD(3)", &[("sequence", "T64, ZSTD(3)")]),
    layout("row: T64, ZSTD(3)", &[("row", "T64, ZSTD(3)")]),
    layout("row: ZSTD(3)", &[("row", "ZSTD(3)")]),
    arranged("blocks of 64 KiB and more", "", SMALL_BLOCKS),
    arranged("blocks of 4 MiB", "", "min_compress_block_size = 4194304, max_compress_block_size = 4194304"),
    arranged("granules of 32,768 rows", "", "index_granularity = 32768"),
    arranged("sorted by hour first", "cluster, toStartOfHour(at), name, member, labels, at", ""),
    arranged("sorted by time first", "cluster, at, name, member, labels", ""),
];

const SYNCS: &[Layout] = &[
    layout("as it is", &[]),
    Layout { title: "first release", codecs: FIRST, order: "", settings: SMALL_BLOCKS },
    layout("latency_ns: T64, ZSTD(3)", &[("latency_ns", "T64, ZSTD(3)")]),
    layout("latency_ns: ZSTD(3)", &[("latency_ns", "ZSTD(3)")]),
    layout("run_delay_ns: ZSTD(3)", &[("run_delay_ns", "ZSTD(3)")]),
    layout("written_bytes: ZSTD(3)", &[("written_bytes", "ZSTD(3)")]),
    layout(
        "at and start_mono_ns: DoubleDelta",
        &[("at", "DoubleDelta, ZSTD(1)"), ("start_mono_ns", "DoubleDelta, ZSTD(1)")],
    ),
    layout("at and start_mono_ns: T64", &[("at", "T64, ZSTD(1)"), ("start_mono_ns", "T64, ZSTD(1)")]),
    layout("row: T64, ZSTD(3)", &[("row", "T64, ZSTD(3)")]),
    arranged("blocks of 64 KiB and more", "", SMALL_BLOCKS),
    arranged("sorted by time first", "cluster, at, class, member", ""),
    arranged("sorted by member first", "cluster, member, class, at", ""),
];

const HISTOGRAMS: &[Layout] = &[
    layout("as it is", &[]),
    Layout { title: "first release", codecs: FIRST, order: "", settings: SMALL_BLOCKS },
    layout("buckets: ZSTD(3)", &[("buckets", "ZSTD(3)")]),
    layout("buckets: ZSTD(6)", &[("buckets", "ZSTD(6)")]),
];

const TABLES: [(&str, &[Layout], Option<f64>); 4] = [
    ("metrics", METRICS, Some(1.0)),
    ("syncs", SYNCS, Some(8.0)),
    ("sync_histograms", HISTOGRAMS, None),
    ("writes", HISTOGRAMS, None),
];

/// Runs the benchmark; prints a line for each layout, and the figures as JSON on the last line.
///
/// # Errors
/// When something does not start, or the engine refuses a layout.
pub async fn storage(time: Duration) -> Result<()> {
    ensure!(tools::is_root(), "needs root for probes");
    let place = Arc::new(Place::new()?);
    let outcome = measure(&place, time).await;
    if outcome.is_err() {
        eprintln!("{}", place.log_tails(20));
    }
    outcome
}

async fn measure(place: &Arc<Place>, time: Duration) -> Result<()> {
    let mut aggregator = Aggregator::start(place, "aggregator", &[]).await?;
    let cluster = Cluster::builder("storage").members(1).start(place).await?;
    let mut agent = Agent::prepare(place, "agent", &aggregator.ingest, &data_dirs(&cluster))?;
    agent.daemon.start().await?;
    let plan = Plan { rate: Some(PUTS), clients: 64, value_bytes: 256, keys: 10_000 };
    let load = Load::start(&cluster, &plan)?;
    println!("one member under {PUTS} puts a second for {time:?}");
    tokio::time::sleep(time).await;
    println!("{} puts", load.succeeded());
    drop(load);
    agent.daemon.terminate()?;
    let engine = Engine::of(&mut aggregator)?;
    let mut figures = Vec::new();
    for (table, layouts, goal) in TABLES {
        let rows = engine.number(&format!("SELECT count() FROM etcdmon.{table}")).await?;
        ensure!(rows > 0, "no rows of {table}: the agent sees no syncs, its log says why");
        println!("\n{table}: {rows} rows");
        for layout in layouts {
            let (bytes, columns, cpu) = weigh(&engine, table, layout).await?;
            let each = bytes as f64 / rows.max(1) as f64;
            println!(
                "{:36} {each:6.2} bytes a row, {:5.0} ns CPU a row; {columns}",
                layout.title,
                cpu / rows.max(1) as f64
            );
            if layout.title == "as it is" {
                figures.push(json!({"name": format!("{table}_bytes_per_row"), "value": each, "unit": "bytes", "goal": goal, "better": "lower"}));
            }
        }
    }
    println!("{}", json!({"bench": "storage", "figures": figures}));
    aggregator.daemon.terminate()
}

/// Bytes on disk of the table in this layout, its largest columns, and the engine's CPU time for the copy in nanoseconds.
async fn weigh(engine: &Engine, table: &str, layout: &Layout) -> Result<(u64, String, f64)> {
    let text = engine
        .ask(&format!(
            "SELECT name, type, compression_codec FROM system.columns WHERE database = 'etcdmon' AND table = '{table}' \
             ORDER BY position FORMAT TSVRaw"
        ))
        .await?;
    let column = |line: &str| {
        let mut fields = line.split('\t');
        let (name, kind, own) = (fields.next()?, fields.next()?, fields.next()?);
        let codec = layout.codecs.iter().find(|(column, _)| *column == name);
        Some(match codec {
            Some((_, codec)) => format!("`{name}` {kind} CODEC({codec})"),
            None => format!("`{name}` {kind} {own}"),
        })
    };
    let columns: Vec<String> = text.lines().filter_map(column).collect();
    let own = "SELECT sorting_key, extract(create_table_query, 'min_compress_block_size = ([0-9]+)') FROM system.tables \
               WHERE database = 'etcdmon' AND name = ";
    let own = engine.ask(&format!("{own}'{table}' FORMAT TSVRaw")).await?;
    let (order, block) = own.trim_end_matches('\n').split_once('\t').context("the table's own order")?;
    let order = if layout.order.is_empty() { order } else { layout.order };
    // Wide parts, as those of a day are.
    let mut settings = "min_bytes_for_wide_part = 0".to_owned();
    if !layout.settings.is_empty() {
        settings = format!("{settings}, {}", layout.settings);
    }
    if !block.is_empty() && !settings.contains("min_compress_block_size") {
        settings =
            format!("{settings}, min_compress_block_size = {block}, max_compress_block_size = 4194304");
    }
    engine.ask("DROP TABLE IF EXISTS etcdmon.layout SYNC").await?;
    engine
        .ask(&format!(
            "CREATE TABLE etcdmon.layout ({}) ENGINE = MergeTree PARTITION BY toDate(at) ORDER BY ({order}) SETTINGS {settings}",
            columns.join(", ")
        ))
        .await?;
    let before = engine.cpu()?;
    engine.ask(&format!("INSERT INTO etcdmon.layout SELECT * FROM etcdmon.{table}")).await?;
    engine.ask("OPTIMIZE TABLE etcdmon.layout FINAL").await?;
    let cpu = (engine.cpu()? - before).as_nanos() as f64;
    let bytes = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'etcdmon' AND table = 'layout'";
    Ok((engine.number(bytes).await?, engine.largest("layout").await?, cpu))
}
