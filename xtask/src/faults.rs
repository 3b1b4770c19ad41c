//! `cargo xtask faults`: set up, build, hand over to the lab, which injects faults and scores what the product says of them.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::ebpf;
use crate::place::Place;
use crate::run;
use crate::say;
use crate::setup::{self, Purpose};

/// Flags of `cargo xtask faults`.
#[derive(clap::Args)]
pub struct Args {
    /// These classes only (repeatable, or separated by commas), or `recovery`
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Runs of each class
    #[arg(long, default_value_t = 20)]
    runs: u32,
    /// Minutes of calm, and of heavy load; 0 = neither
    #[arg(long, default_value_t = 30)]
    stretch_minutes: u64,
    /// A line of JSON for each run; what it has of this commit and seed is not done again
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What everything random follows from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Programs that are quick to build, and slower than those that users run
    #[arg(long)]
    debug: bool,
}

/// Builds and becomes the lab.
pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    if !run::root() {
        bail!("needs root for probes, disks and cgroups: `sudo -E cargo xtask faults`");
    }
    setup::prepare(place, Purpose::Bench)?;
    ebpf::try_build(place);
    let (title, directory) = match args.debug {
        true => ("building agent, aggregator and lab", "debug"),
        false => ("building for release (minutes on a new tree)", "release"),
    };
    say::step(title);
    let mut build = place.cargo();
    build.args(["build", "--bins"]);
    if !args.debug {
        build.arg("--release");
    }
    for package in ["etcdmon-agent", "etcdmon-aggregator", "etcdmon-tests"] {
        build.args(["--package", package]);
    }
    if !run::shown(&mut build)? {
        bail!("the build failed: above is why");
    }
    let lab = place.target.join(directory).join("etcdmon-lab");
    let mut command = place.command(&lab);
    command.args(lab_arguments(args, &commit(place))?);
    // From here on the lab is this process: it gets Ctrl-C first hand and leaves nothing behind.
    Err(command.exec()).with_context(|| format!("start {}", lab.display()))
}

fn lab_arguments(args: &Args, commit: &str) -> Result<Vec<String>> {
    let mut words = vec!["faults".to_owned()];
    let pairs = [
        ("--runs", args.runs.to_string()),
        ("--stretch-minutes", args.stretch_minutes.to_string()),
        ("--seed", args.seed.to_string()),
        ("--commit", commit.to_owned()),
    ];
    for (flag, value) in pairs {
        words.extend([flag.to_owned(), value]);
    }
    for name in &args.only {
        words.extend(["--only".to_owned(), name.clone()]);
    }
    if let Some(file) = &args.json {
        // The lab runs in the repository, wherever this was called.
        words.extend(["--json".to_owned(), std::path::absolute(file)?.display().to_string()]);
    }
    Ok(words)
}

/// What is tried, marked when it is not what was committed.
fn commit(place: &Place) -> String {
    let git = |arguments: &[&str]| {
        run::output(Command::new("git").current_dir(&place.repo).args(arguments))
            .map(|text| text.trim().to_owned())
    };
    let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Ok(changes) if changes.is_empty() => commit,
        _ => format!("{commit}+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lab_is_told_all_of_it() {
        let args = Args {
            only: vec!["calm".to_owned(), "stopped".to_owned()],
            runs: 3,
            stretch_minutes: 0,
            json: Some("/x/faults.jsonl".into()),
            seed: 7,
            debug: true,
        };
        assert_eq!(
            lab_arguments(&args, "abc").unwrap().join(" "),
            "faults --runs 3 --stretch-minutes 0 --seed 7 --commit abc --only calm --only stopped --json /x/faults.jsonl"
        );
    }
}
