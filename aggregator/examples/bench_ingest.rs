//! `cargo xtask bench ingest`: rows per second from gRPC to durable, over what the engine itself can do.
//!
//! Both sides use the same table, rows, rows per insert and fsync settings, in the same run. The engine's own rate is
//! that of prepared bytes handed to its C interface: RowBinary and Native, one writer and two; the best one counts. The
//! last line of output is one JSON object.

#[path = "bench_ingest/direct.rs"]
mod direct;
#[path = "bench_ingest/rows.rs"]
mod rows;
#[path = "bench_ingest/whole.rs"]
mod whole;

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, bail};
use etcdmon_aggregator::engine::child;
use etcdmon_aggregator::engine::library::locate;
use etcdmon_service::logging::ErrorChain;
use serde_json::json;

/// Rows of one batch.
pub const BATCH_ROWS: u32 = 20_000;

/// Rows of one insert: what the writer makes of full batches.
pub const INSERT_ROWS: usize = 400_000;

/// Rows of one measurement.
pub const TOTAL_ROWS: usize = 4_000_000;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|argument| argument.to_str()) {
        Some("engine") => engine(arguments),
        Some("direct") => direct::run(arguments),
        _ => compare(),
    }
}

/// The engine's child process, as the aggregator has it.
fn engine(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let arguments = child::parse_arguments(arguments).map_err(anyhow::Error::msg)?;
    child::run(&arguments).map_err(|error| anyhow::anyhow!("{}", ErrorChain(&error)))
}

fn compare() -> anyhow::Result<()> {
    let library = locate(None)?;
    let mut figures = Vec::new();
    for table in rows::TABLES {
        let (mut best, mut best_rows): (f64, f64) = (0.0, 0.0);
        for format in ["RowBinary", "Native"] {
            for writers in [1, 2] {
                let rate = direct_rate(&library, table.name(), format, writers)?;
                eprintln!("{:16} engine {format} x{writers}: {rate:.0} rows/s", table.name());
                figures.push(figure(
                    &format!("{}_engine_{}_{writers}", table.name(), format.to_lowercase()),
                    rate,
                ));
                best = best.max(rate);
                if format == "RowBinary" {
                    best_rows = best_rows.max(rate);
                }
            }
        }
        let rate = whole::run(table)?;
        eprintln!(
            "{:16} gRPC to durable: {rate:.0} rows/s, {:.2} of the engine's best",
            table.name(),
            rate / best
        );
        figures.push(figure(&format!("{}_ingest", table.name()), rate));
        let prefix = if table == rows::TABLES[0] { String::new() } else { format!("{}_", table.name()) };
        figures.push(ratio(&format!("{prefix}ratio_to_engine"), rate / best));
        figures.push(ratio(&format!("{prefix}ratio_to_engine_rowbinary"), rate / best_rows));
    }
    println!("{}", json!({ "bench": "ingest", "figures": figures }));
    Ok(())
}

fn ratio(name: &str, value: f64) -> serde_json::Value {
    json!({ "name": name, "value": (value * 1_000.0).round() / 1_000.0, "unit": "1", "goal": null, "better": "higher" })
}

fn figure(name: &str, rate: f64) -> serde_json::Value {
    json!({ "name": name, "value": rate.round(), "unit": "rows/s", "goal": null, "better": "higher" })
}

/// Measures the engine alone in a process of its own: a process can open only one store, once.
fn direct_rate(library: &Path, table: &str, format: &str, writers: usize) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let output = std::process::Command::new(std::env::current_exe()?)
        .arg("direct")
        .args([library.as_os_str(), directory.path().as_os_str()])
        .args([table, format, &writers.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("measuring the engine failed: {}", output.status);
    }
    String::from_utf8(output.stdout)?.trim().parse().context("rate of the engine")
}
