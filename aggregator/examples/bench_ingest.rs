//! `cargo xtask bench ingest`: rows per second from gRPC to durable, over what the engine itself can do.
//!
//! Both sides use the same table, rows, rows per insert and fsync settings, in the same run. The engine's own rate is
//! that of prepared bytes handed to its C interface: RowBinary and Native, one writer and two; the best one counts.
//! Both sides are measured in turn several times, and medians are compared, because a neighbour on the machine is gone
//! a moment later. CPU time tells where the time goes: the engine's threads, the rest of its process (HTTP), and this
//! process (agents, gRPC, decoding, encoding). `--rounds N`, `--table NAME`. The last line of output is one JSON object.

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

/// Rows of one measurement: enough that its begin, when the engine has nothing to do yet, and its end hardly count.
pub const TOTAL_ROWS: usize = 12_000_000;

/// Times that both sides are measured, unless told otherwise.
const ROUNDS: usize = 3;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|argument| argument.to_str()) {
        Some("engine") => engine(arguments),
        Some("direct") => direct::run(arguments),
        _ => {
            let arguments: Vec<String> = std::env::args().collect();
            let value = |flag: &str| {
                let at = arguments.iter().position(|argument| argument == flag)?;
                arguments.get(at + 1).cloned()
            };
            let rounds = value("--rounds").map(|rounds| rounds.parse()).transpose().context("--rounds")?;
            compare(rounds.unwrap_or(ROUNDS), value("--table").as_deref())
        }
    }
}

/// The engine's child process, as the aggregator has it.
fn engine(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let arguments = child::parse_arguments(arguments).map_err(anyhow::Error::msg)?;
    child::run(&arguments).map_err(|error| anyhow::anyhow!("{}", ErrorChain(&error)))
}

/// One way to bring rows into the engine.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Prepared bytes of a format, by this many writers.
    Direct(&'static str, usize),
    /// From agents over gRPC.
    Whole,
}

/// What one measurement found.
#[derive(Clone, Copy, Default)]
pub struct Found {
    /// Rows a second.
    pub rate: f64,
    /// CPU time of the engine's process, in nanoseconds a row.
    pub engine_ns: f64,
    /// CPU time of this process, in nanoseconds a row.
    pub rest_ns: f64,
}

fn compare(rounds: usize, only: Option<&str>) -> anyhow::Result<()> {
    const WAYS: [Way; 5] = [
        Way::Direct("RowBinary", 1),
        Way::Direct("RowBinary", 2),
        Way::Direct("Native", 1),
        Way::Direct("Native", 2),
        Way::Whole,
    ];
    let library = locate(None)?;
    let mut figures = Vec::new();
    for table in rows::TABLES.into_iter().filter(|table| only.is_none_or(|name| name == table.name())) {
        let mut found: Vec<Vec<Found>> = vec![Vec::new(); WAYS.len()];
        for round in 0..rounds {
            for (way, found) in WAYS.iter().zip(&mut found) {
                // Rows one by one are slower by half: once is enough to see that they still are.
                if matches!(way, Way::Direct("RowBinary", _)) && round > 0 {
                    continue;
                }
                let one = match way {
                    Way::Direct(format, writers) => direct_rate(&library, table.name(), format, *writers)?,
                    Way::Whole => whole::run(table)?,
                };
                let name = match way {
                    Way::Direct(format, writers) => format!("engine {format} x{writers}"),
                    Way::Whole => "gRPC to durable".to_owned(),
                };
                eprintln!(
                    "{:16} {name:22} {:>9.0} rows/s, CPU a row: engine {:.0} ns, the rest {:.0} ns",
                    table.name(),
                    one.rate,
                    one.engine_ns,
                    one.rest_ns
                );
                found.push(one);
            }
        }
        let middle: Vec<Found> = found.iter().map(|found| median(found)).collect();
        let prefix = if table == rows::TABLES[0] { String::new() } else { format!("{}_", table.name()) };
        let (mut best, mut best_rows) = (Found::default(), 0.0f64);
        for (way, middle) in WAYS.iter().zip(&middle) {
            if let Way::Direct(format, writers) = way {
                let name = format!("{}_engine_{}_{writers}", table.name(), format.to_lowercase());
                figures.push(figure(&name, middle.rate));
                best = if middle.rate > best.rate { *middle } else { best };
                best_rows = if *format == "RowBinary" { best_rows.max(middle.rate) } else { best_rows };
            }
        }
        let whole = middle.last().copied().unwrap_or_default();
        figures.push(figure(&format!("{}_ingest", table.name()), whole.rate));
        figures.push(ratio(&format!("{prefix}ratio_to_engine"), whole.rate / best.rate, Some(0.8)));
        figures.push(ratio(&format!("{prefix}ratio_to_engine_rowbinary"), whole.rate / best_rows, None));
        for (name, value) in [
            ("cpu_engine_alone", best.engine_ns),
            ("cpu_engine_of_ingest", whole.engine_ns),
            ("cpu_rest_of_ingest", whole.rest_ns),
        ] {
            let name = format!("{}_{name}", table.name());
            figures
                .push(json!({ "name": name, "value": value.round(), "unit": "ns/row", "goal": null, "better": "lower" }));
        }
    }
    println!("{}", json!({ "bench": "ingest", "figures": figures }));
    Ok(())
}

/// The measurement with the middle rate.
fn median(found: &[Found]) -> Found {
    let mut sorted = found.to_vec();
    sorted.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// CPU time that a process has taken so far, in nanoseconds, by its threads that live and those that ended.
pub fn cpu_ns(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: f64 =
        fields.get(11..13).context("/proc/PID/stat")?.iter().filter_map(|it| it.parse::<f64>().ok()).sum();
    // USER_HZ is 100 on every architecture that the engine runs on.
    Ok(ticks * 1e7)
}

fn ratio(name: &str, value: f64, goal: Option<f64>) -> serde_json::Value {
    json!({ "name": name, "value": (value * 1_000.0).round() / 1_000.0, "unit": "1", "goal": goal, "better": "higher" })
}

fn figure(name: &str, rate: f64) -> serde_json::Value {
    json!({ "name": name, "value": rate.round(), "unit": "rows/s", "goal": null, "better": "higher" })
}

/// Measures the engine alone in a process of its own: a process can open only one store, once.
fn direct_rate(library: &Path, table: &str, format: &str, writers: usize) -> anyhow::Result<Found> {
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
    let text = String::from_utf8(output.stdout)?;
    let (rate, cpu) = text.trim().split_once(' ').context("rate and CPU time of the engine")?;
    Ok(Found { rate: rate.parse()?, engine_ns: cpu.parse()?, rest_ns: 0.0 })
}
