//! `cargo xtask test`: the gate. Checks of the source, unit tests, then suites on real components, with one table and one
//! closing line at the end. A step that fails doesn't keep the others from running.

use anyhow::{Result, bail};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::ebpf;
use crate::licence;
use crate::place::Place;
use crate::run;
use crate::say;
use crate::setup::{self, Purpose};
use crate::tidy;

mod suites;
mod tally;
#[cfg(test)]
mod tests;

use suites::{Suite, Tier};
use tally::Tally;

/// Flags of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Run this step or suite only (`--list` names them)
    suite: Option<String>,
    /// Name steps and suites, a line each
    #[arg(long)]
    list: bool,
    /// The long tier too: hours
    #[arg(long)]
    full: bool,
}

/// Steps before the suites: name, what it is, how it runs.
type Check = (&'static str, &'static str, fn(&Place) -> Result<Tally>);

const CHECKS: [Check; 5] = [
    ("fmt", "source is formatted", fmt),
    ("clippy", "no lint fires, in tests and examples either", clippy),
    (
        "tidy",
        "length of files, unfinished marks, paths of one machine, registry hosts, tests named by the specification",
        tidy_up,
    ),
    (
        "licences",
        "every dependency's licence is allowed by deny.toml; neither ring nor openssl is linked",
        licences,
    ),
    ("unit", "unit, contract, kernel and documentation tests of every crate", unit),
];

/// How many tests of one program run at a time, by libtest's own variable.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

struct Row {
    name: String,
    tally: Tally,
    time: Duration,
}

/// Runs the gate or one of its parts.
pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    let suites = suites::find(&place.repo)?;
    if args.list {
        list(&suites);
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |name: &str| args.suite.as_deref().is_none_or(|only| only == name);
    if !CHECKS.iter().any(|check| wanted(check.0)) && !suites.iter().any(|suite| wanted(&suite.name)) {
        bail!(
            "no step or suite called {}: `cargo xtask test --list` names them",
            args.suite.as_deref().unwrap_or("?")
        );
    }
    room(place);
    setup::prepare(place, Purpose::Test)?;
    ebpf::try_build(place);
    let mut rows = Vec::new();
    for (name, _, check) in CHECKS {
        if wanted(name) {
            rows.push(timed(name, || check(place)));
        }
    }
    let named = args.suite.is_some();
    let chosen: Vec<&Suite> =
        suites.iter().filter(|s| wanted(&s.name) && (named || args.full || s.tier == Tier::Gate)).collect();
    if !chosen.is_empty() {
        run_suites(place, &chosen, args.full, &mut rows);
    }
    Ok(report(&rows))
}

/// What should be free for a first build and the suites, in GiB: a run from nothing took 7.6 GB at its peak, tools and caches
/// included (`df` every 20 s beside `.ci/run`), and half as much again is left to spare.
const ROOM_GIB: f64 = 12.0;

/// Says so before an hour is spent, when a first build won't fit. Without a word when `df` cannot be understood.
fn room(place: &Place) {
    let first_build = !place.target.join("debug/etcd-monitor-aggregator").is_file();
    let there = place.target.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let Ok(table) = run::output(Command::new("df").arg("-Pk").arg(there)) else { return };
    if let Some(free) = free_gib(&table)
        && first_build
        && free < ROOM_GIB
    {
        say::warn(&format!(
            "{free:.1} GiB free at {}: a first build and the suites want {ROOM_GIB:.0}; make room, or name another \
             directory with CARGO_TARGET_DIR",
            there.display()
        ));
    }
}

/// The free space in what `df -Pk` prints (POSIX: 1024-blocks, used, available), in GiB.
fn free_gib(table: &str) -> Option<f64> {
    let blocks: f64 = table.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(blocks / (1024.0 * 1024.0))
}

fn list(suites: &[Suite]) {
    for (name, about, _) in CHECKS {
        println!("{name:<12} gate  {about}");
    }
    for suite in suites {
        let tier = if suite.tier == Tier::Gate { "gate" } else { "full" };
        println!("{:<12} {tier}  {}", suite.name, suite.about);
    }
}

fn timed(name: &str, act: impl FnOnce() -> Result<Tally>) -> Row {
    say::step(name);
    let started = Instant::now();
    let tally = act().unwrap_or_else(|error| {
        say::fail(&format!("{name}: {error:#}"));
        Tally::failure()
    });
    Row { name: name.to_owned(), tally, time: started.elapsed() }
}

fn run_suites(place: &Place, suites: &[&Suite], full: bool, rows: &mut Vec<Row>) {
    // The suites run these programs; with all of the workspace named, cargo builds each dependency once for both.
    let build = timed("build", || tally::check(place.cargo().args(["build", "--workspace", "--bins"])));
    let built = build.tally.good();
    rows.push(build);
    for suite in suites {
        rows.push(timed(&suite.name, || {
            if !built {
                bail!("the programs under test were not built");
            }
            let mut command = place.cargo();
            let threads = format!("--test-threads={}", suite.threads);
            command.args(["test", "--workspace", "--test", &suite.name, "--", &threads, "--nocapture"]);
            if full {
                command.env("ETCD_MONITOR_FULL", "1");
            }
            tally::tests(&mut command)
        }));
    }
}

/// Prints the table and the closing line.
fn report(rows: &[Row]) -> ExitCode {
    let mut sum = Tally::default();
    println!();
    for row in rows {
        sum.add(&row.tally);
        let verdict = row.tally.verdict();
        // Padded before it is painted: colour has no width.
        let padding = " ".repeat(8_usize.saturating_sub(verdict.len()));
        let counts = row.tally.counts();
        println!(
            "{:<14} {:>13}  {}{padding} {counts}",
            row.name,
            say::seconds(row.time),
            say::verdict(verdict)
        );
    }
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fmt(place: &Place) -> Result<Tally> {
    // rustfmt paints its differences wherever it thinks it knows the terminal.
    let colour = if say::on_terminal() { "always" } else { "never" };
    let tally = tally::check(place.cargo().args(["fmt", "--all", "--check", "--", "--color", colour]))?;
    if !tally.good() {
        say::note("run `cargo fmt --all`");
    }
    Ok(tally)
}

fn clippy(place: &Place) -> Result<Tally> {
    tally::check(place.cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn tidy_up(place: &Place) -> Result<Tally> {
    let faults = tidy::check(&place.repo)?;
    for fault in &faults {
        say::warn(fault);
    }
    Ok(if faults.is_empty() { Tally::default() } else { Tally::failure() })
}

fn licences(place: &Place) -> Result<Tally> {
    let faults = licence::check(place)?;
    for fault in &faults {
        say::warn(fault);
    }
    Ok(if faults.is_empty() { Tally::default() } else { Tally::failure() })
}

fn unit(place: &Place) -> Result<Tally> {
    let mut command = place.cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--examples"]);
    for name in suites::integration_tests(place)? {
        command.args(["--test", &name]);
    }
    if std::env::var_os(TEST_THREADS).is_none() {
        // Tests of whole programs wait most of their time.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        command.env(TEST_THREADS, (cores + 1).to_string());
    }
    let mut tally = tally::tests(command.args(["--", "--show-output"]))?;
    if tally.good() {
        tally.add(&tally::tests(place.cargo().args(["test", "--workspace", "--no-fail-fast", "--doc"]))?);
    }
    Ok(tally)
}
