//! `cargo xtask bench`: release builds, one table on the screen, one JSON file a benchmark for machines.
//!
//! Each benchmark is a program of its own (the lab, an example of the aggregator) whose last line of output is one JSON
//! object `{"bench": …, "figures": [{"name", "value", "unit", "goal", "better"}]}`. One that has parts prints such a line with
//! `"part"` after each of them: that is written at once, to NAME-PART.json, and stays when a later part fails.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::ebpf;
use crate::place::Place;
use crate::run;
use crate::say;
use crate::setup::{self, Purpose};

/// Flags of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Run this one only
    name: Option<String>,
    /// Name the benchmarks, a line each
    #[arg(long)]
    list: bool,
    /// Flags of that benchmark itself, such as `soak --minutes 2`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<String>,
}

struct Bench {
    name: &'static str,
    about: &'static str,
    /// Too long to run unless it is named.
    long: bool,
    command: fn(&Place) -> Command,
}

const BENCHES: [Bench; 6] = [
    Bench {
        name: "overhead",
        about: "what the agent costs: `--part` saturation, fixed, others, syncs, programs; all by default",
        long: false,
        command: |place| {
            let mut command = place.command(place.target.join("release/etcdmon-lab"));
            command.args(["bench", "overhead"]);
            command
        },
    },
    Bench {
        name: "ingest",
        about: "rows a second from gRPC into the engine, against the engine's own bulk insert",
        long: false,
        command: |place| {
            let mut command = place.cargo();
            command.args([
                "run",
                "--release",
                "--package",
                "etcdmon-aggregator",
                "--example",
                "bench_ingest",
                "--",
            ]);
            command
        },
    },
    Bench {
        name: "storage",
        about: "bytes on disk a sync and a sample, in the schema's layout and in others, of a real member's rows",
        long: true,
        command: |place| {
            let mut command = place.command(place.target.join("release/etcdmon-lab"));
            command.args(["bench", "storage"]);
            command
        },
    },
    Bench {
        name: "capacity",
        about: "forecasts of full databases made in the past, compared with what came",
        long: false,
        command: |place| {
            let mut command = place.cargo();
            command.args([
                "run",
                "--release",
                "--package",
                "etcdmon-aggregator",
                "--example",
                "bench_capacity",
                "--",
            ]);
            command
        },
    },
    Bench {
        name: "query",
        about: "every named question about history, from more than 50 million rows: p95 over an hour and over 90 days",
        long: true,
        command: |place| {
            let mut command = place.cargo();
            command.args([
                "run",
                "--release",
                "--package",
                "etcdmon-aggregator",
                "--example",
                "bench_query",
                "--",
            ]);
            command
        },
    },
    Bench {
        name: "soak",
        about: "100 agents with 130,000 samples a second: memory, parts, CPU; and a member's bytes a day",
        long: true,
        command: |place| {
            let mut command = place.command(place.target.join("release/etcdmon-lab"));
            command.args(["bench", "soak"]);
            command
        },
    },
];

/// Runs all benchmarks or the one named.
pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    if args.list {
        for bench in &BENCHES {
            println!("{:<12} {}", bench.name, bench.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<&Bench> =
        BENCHES.iter().filter(|b| args.name.as_deref().map_or(!b.long, |name| name == b.name)).collect();
    if chosen.is_empty() {
        bail!(
            "no benchmark called {}: `cargo xtask bench --list` names them",
            args.name.as_deref().unwrap_or("?")
        );
    }
    setup::prepare(place, Purpose::Bench)?;
    ebpf::try_build(place);
    say::step("building for release (minutes on a new tree)");
    let mut build = place.cargo();
    build.args(["build", "--release", "--bins"]);
    for package in ["etcdmon-agent", "etcdmon-aggregator", "etcdmon-tests"] {
        build.args(["--package", package]);
    }
    if !run::shown(&mut build)? {
        bail!("the build failed: above is why");
    }
    for bench in chosen {
        say::step(bench.name);
        let results = place.target.join("bench");
        std::fs::create_dir_all(&results)?;
        let result = measure((bench.command)(place).args(&args.flags), |part, result| {
            keep(&results.join(format!("{}-{part}.json", bench.name)), result)
        })
        .with_context(|| format!("benchmark {}", bench.name))?;
        let file = results.join(format!("{}.json", bench.name));
        keep(&file, &result)?;
        print!("{}", table(&result));
        say::note(&format!("written to {}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn keep(file: &Path, result: &Value) -> Result<()> {
    std::fs::write(file, format!("{result:#}\n")).with_context(|| format!("write {}", file.display()))
}

/// Runs the program, shows what it says, hands over the object of each of its parts, and returns that of its last line.
fn measure(command: &mut Command, each_part: impl Fn(&str, &Value) -> Result<()>) -> Result<Value> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", run::line(command)))?;
    let stdout = child.stdout.take().context("the child's output is a pipe")?;
    let mut last = None;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some((part, result)) = part(&line) {
            each_part(&part, &result)?;
        }
        if let Some(before) = last.replace(line) {
            println!("{before}");
        }
    }
    let status = child.wait()?;
    let last = last.unwrap_or_default();
    if !status.success() {
        bail!("`{}` failed ({status}): {last}", run::line(command));
    }
    parse(&last)
}

/// The result of a part and the part's name, which is fit for a file's.
fn part(line: &str) -> Option<(String, Value)> {
    let result = parse(line).ok()?;
    let name = result["part"].as_str()?.to_owned();
    let fit = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric());
    fit.then_some((name, result))
}

/// The result in its agreed form.
fn parse(line: &str) -> Result<Value> {
    let result: Value =
        serde_json::from_str(line).with_context(|| format!("the last line is no JSON: {line}"))?;
    let figures = result["figures"].as_array().context("no figures")?;
    for figure in figures {
        let good = figure["name"].is_string()
            && figure["unit"].is_string()
            && (figure["value"].is_number() || figure["value"].is_null())
            && figure["better"].as_str().is_some_and(|b| b == "higher" || b == "lower");
        if !good {
            bail!("a figure lacks name, value, unit or better: {figure}");
        }
    }
    if !result["bench"].is_string() || figures.is_empty() {
        bail!("no name or no figures: {line}");
    }
    Ok(result)
}

fn table(result: &Value) -> String {
    let mut text = String::new();
    for figure in result["figures"].as_array().into_iter().flatten() {
        let goal = if figure["goal"].is_null() {
            String::new()
        } else {
            format!("goal {}", number(&figure["goal"]))
        };
        let name = figure["name"].as_str().unwrap_or_default();
        let unit = figure["unit"].as_str().unwrap_or_default();
        let better = figure["better"].as_str().unwrap_or_default();
        text.push_str(&format!(
            "    {name:<32} {:>12} {unit:<8} {goal} ({better} is better)\n",
            number(&figure["value"])
        ));
    }
    text
}

fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() != 0.0 => format!("{number:.4}"),
        Some(number) => format!("{number}"),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"bench":"x","figures":[{"name":"ratio","value":0.9912,"unit":"ratio","goal":0.99,"better":"higher"}]}"#;

    #[test]
    fn a_result_in_the_agreed_form_is_taken() {
        let result = parse(GOOD).unwrap();
        let line = table(&result);
        assert!(line.contains("ratio") && line.contains("0.9912") && line.contains("goal 0.9900"), "{line}");
    }

    #[test]
    fn a_part_is_kept_though_a_later_one_fails() {
        let one = GOOD.replace("\"x\",", "\"x\",\"part\":\"one\",");
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo "$1"; echo busy; echo "$1" | sed s/one/..one/; exit 3"#, "sh", &one]);
        let kept = std::cell::RefCell::new(Vec::new());
        let outcome = measure(&mut command, |part, result| {
            kept.borrow_mut().push((part.to_owned(), result["figures"][0]["value"].as_f64()));
            Ok(())
        });
        assert!(outcome.unwrap_err().to_string().contains("failed"));
        assert_eq!(kept.into_inner(), [("one".to_owned(), Some(0.9912))]);
        assert!(part(GOOD).is_none(), "a benchmark without parts has none");
    }

    #[test]
    fn a_result_in_another_form_is_refused() {
        assert!(parse("done").is_err());
        assert!(parse(r#"{"bench":"x","figures":[]}"#).is_err());
        assert!(parse(&GOOD.replace("higher", "bigger")).is_err());
        assert!(parse(&GOOD.replace("0.9912", "\"fast\"")).is_err());
    }
}
