//! `cargo xtask`: everything a person does with this repository, one subcommand and one file each.
//!
//! It is the first thing a newcomer compiles, so it depends on next to nothing; what it needs from the network it gets
//! through programs of the machine (`rustup`, `go`, `apt-get`, `curl`), and every step that can fail says what to do.

mod apt;
mod bench;
mod codegen;
mod ebpf;
mod faults;
mod licence;
mod place;
mod run;
mod say;
mod setup;
mod test;
mod tidy;
mod up;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

use crate::place::Place;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, run, test and measure etcd-monitor", version)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this machine (under a second when nothing is)
    Setup(setup::Args),
    /// Run a real three-member etcd with agent and aggregator; Ctrl-C takes all of it down
    Up(up::Args),
    /// The gate: format, lints, licences, tidiness, unit tests, suites on real components; or one suite
    Test(test::Args),
    /// Measure, print a table, write target/bench/NAME.json
    Bench(bench::Args),
    /// Inject faults into a real cluster and score what the product says of them; hours, `--only` for less
    Faults(faults::Args),
    /// Build the kernel programs into target/bpf/etcd-monitor.bpf.o
    Ebpf,
    /// Renew what is generated and committed: protobuf code, docs/tables.md
    Codegen,
}

fn main() -> ExitCode {
    let task = Args::parse().task;
    match work(task) {
        Ok(code) => code,
        Err(error) => {
            say::fail(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn work(task: Task) -> Result<ExitCode> {
    let place = Place::find()?;
    match task {
        Task::Setup(args) => setup::run(&place, &args),
        Task::Up(args) => up::run(&place, &args),
        Task::Test(args) => test::run(&place, &args),
        Task::Bench(args) => bench::run(&place, &args),
        Task::Faults(args) => faults::run(&place, &args),
        Task::Ebpf => ebpf::run(&place),
        Task::Codegen => codegen::run(&place),
    }
}
