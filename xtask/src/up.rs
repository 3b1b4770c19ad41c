//! `cargo xtask up`: set up, build, hand over to the lab, which owns the cluster, the processes and Ctrl-C.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use crate::ebpf;
use crate::place::Place;
use crate::run;
use crate::say;
use crate::setup::{self, Purpose};

/// Flags of `cargo xtask up`; more are handed on to the lab as they are (`cargo xtask up -- --help` lists them).
#[derive(clap::Args)]
pub struct Args {
    /// Prove the main job end to end, print one line, take all down, exit 0 or say why not
    #[arg(long)]
    check: bool,
    /// Watch this cluster instead of starting one (repeatable, or separated by commas)
    #[arg(long, value_name = "URL")]
    endpoints: Vec<String>,
    /// More for the lab, after `--`
    #[arg(last = true)]
    lab: Vec<String>,
}

/// Builds and becomes the lab.
pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    setup::prepare(place, Purpose::Up)?;
    ebpf::try_build(place);
    say::step("building agent, aggregator and lab");
    let mut build = place.cargo();
    build.args(["build", "--workspace", "--bins"]);
    if !run::shown(&mut build)? {
        bail!("the build failed: above is why");
    }
    if !run::root() {
        say::warn(
            "not root: no kernel-measured syncs and no disks of their own for the members; try `sudo -E cargo xtask up`",
        );
    }
    let lab = place.target.join("debug/etcdmon-lab");
    let mut command = place.command(&lab);
    command.arg("up");
    if args.check {
        command.arg("--check");
    }
    for endpoint in &args.endpoints {
        command.args(["--endpoints", endpoint]);
    }
    command.args(&args.lab);
    // From here on the lab is this process: it gets Ctrl-C first hand and leaves nothing behind.
    Err(command.exec()).with_context(|| format!("start {}", lab.display()))
}
