//! `cargo xtask vm`: whether the kernel programs fit the kernels that people run. Each kernel is booted in an emulator with a
//! program as init that loads them, attaches them, writes and syncs known numbers of things and compares
//! (`agent/examples/kernel_check`).
//!
//! A bar of its own, not part of the gate: a kernel takes a minute or more. Nothing is installed but the emulator; kernels
//! are unpacked into the tools directory.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::ebpf;
use crate::place::Place;
use crate::run;
use crate::say;
use crate::setup::{self, Purpose};

mod initramfs;
mod kernels;
mod machine;
mod modules;
mod report;

use initramfs::Archive;
use kernels::{Catalogue, Kernel};
use machine::Machine;
use report::{Line, Outcome};

/// Flags of `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// These kernels only: the begin of a version, such as 6.1 or 6.12.95 (repeatable)
    #[arg(long = "kernel", value_name = "VERSION")]
    kernels: Vec<String>,
    /// Every version of every kernel, not only the newest of each series
    #[arg(long)]
    all: bool,
    /// Name the kernels that there are, and end
    #[arg(long)]
    list: bool,
    /// All that was found out, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What runs the machine's instructions: tcg works everywhere, kvm is faster where it works
    #[arg(long, default_value = "tcg")]
    accel: String,
    /// Seconds that one kernel may take
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// The machine's memory, in MiB
    #[arg(long, default_value_t = 1024)]
    memory: u32,
}

/// Finds the kernels, boots each, prints what came of it; fails unless everything that should work does.
pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    let catalogue = Catalogue::open(place)?;
    say::step("looking for kernels");
    let chosen = choose(catalogue.kernels(place)?, args)?;
    for kernel in &chosen {
        say::note(&format!("{} ({} {}, {})", kernel.name(), kernel.package, kernel.version, kernel.suite));
    }
    if args.list {
        return Ok(ExitCode::SUCCESS);
    }
    setup::prepare(place, Purpose::Build)?;
    setup::packages::for_machines(place)?;
    let init = build(place)?;
    let mut outcomes = Vec::new();
    for kernel in &chosen {
        say::step(&format!("Linux {}", kernel.name()));
        let outcome = boot(place, args, &catalogue, kernel, init.clone())
            .unwrap_or_else(|error| Outcome { failure: Some(format!("{error:#}")), ..blank(kernel) });
        tell(&outcome);
        outcomes.push(outcome);
    }
    println!("\n{}", report::table(&outcomes));
    for line in report::reasons(&outcomes) {
        say::note(&line);
    }
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{:#}\n", report::json(&outcomes)))
            .with_context(|| format!("write {}", file.display()))?;
        say::note(&format!("written to {}", file.display()));
    }
    let fine = outcomes.iter().filter(|outcome| outcome.is_fine()).count();
    say::step(&format!("{fine} of {} kernels are fine", outcomes.len()));
    Ok(if fine == outcomes.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Those that were asked for.
fn choose(found: Vec<Kernel>, args: &Args) -> Result<Vec<Kernel>> {
    let named = |kernel: &Kernel| {
        let name = format!("{}.", kernel.name());
        args.kernels.is_empty() || args.kernels.iter().any(|wanted| name.starts_with(&format!("{wanted}.")))
    };
    let known = kernels::newest(found.clone());
    let mut all: Vec<Kernel> = found.into_iter().filter(named).collect();
    if all.is_empty() {
        let known: Vec<String> = known.iter().map(Kernel::name).collect();
        bail!("no kernel {}: there are {}", args.kernels.join(", "), known.join(", "));
    }
    if !args.all {
        return Ok(kernels::newest(all));
    }
    all.sort_by_key(|kernel| kernel.release);
    all.dedup_by_key(|kernel| kernel.release);
    Ok(all)
}

/// The machines' init, with what it needs to run.
fn build(place: &Place) -> Result<Archive> {
    ebpf::try_build(place);
    say::step("building the machines' init");
    let mut build = place.cargo();
    build.args(["build", "--package", "etcdmon-agent", "--example", "kernel_check"]);
    if !run::shown(&mut build)? {
        bail!("the build failed: above is why");
    }
    let directory = place.target.join("vm");
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut archive = Archive::new();
    archive.program("init", &place.target.join("debug/examples/kernel_check"), &directory.join("init"))?;
    Ok(archive)
}

fn blank(kernel: &Kernel) -> Outcome {
    Outcome {
        package: format!("{} {}", kernel.package, kernel.version),
        suite: kernel.suite.clone(),
        release: kernel.release,
        name: None,
        items: Vec::new(),
        notes: Vec::new(),
        failure: None,
        seconds: 0.0,
    }
}

fn boot(
    place: &Place,
    args: &Args,
    catalogue: &Catalogue,
    kernel: &Kernel,
    mut archive: Archive,
) -> Result<Outcome> {
    let unpacked = catalogue.fetch(place, kernel)?;
    let order: Vec<&str> = unpacked.modules.iter().map(|module| module.file.as_str()).collect();
    archive.file("modules/order", order.join("\n").as_bytes());
    for module in &unpacked.modules {
        archive.file(&format!("modules/{}", module.file), &module.bytes);
    }
    let machine = Machine {
        image: &unpacked.image,
        initramfs: &archive.finish(),
        directory: &place.target.join("vm").join(kernel.name()),
        accelerator: &args.accel,
        memory_mib: args.memory,
    };
    let ended = machine.run(Duration::from_secs(args.timeout))?;
    let mut outcome = Outcome { seconds: ended.time.as_secs_f64(), ..blank(kernel) };
    let complete = ended.lines.contains(&Line::End);
    for line in ended.lines {
        match line {
            Line::Kernel(name) => outcome.name = Some(name),
            Line::Note(text) => outcome.notes.push(text),
            Line::Item(item) => outcome.items.push(item),
            Line::Step(_) | Line::End => {}
        }
    }
    if !complete {
        let how = if ended.timed_out { "did not end in time" } else { "ended early" };
        outcome.failure = Some(format!("the machine {how}: see {}", ended.console.display()));
    }
    Ok(outcome)
}

fn tell(outcome: &Outcome) {
    outcome.notes.iter().for_each(|note| say::note(note));
    let verdict = if outcome.is_fine() { "ok" } else { "failed" };
    say::note(&format!("{} after {:.0} s", say::verdict(verdict), outcome.seconds));
    outcome.failure.iter().for_each(|failure| say::warn(failure));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(kernels: &[&str], all: bool) -> Args {
        Args {
            kernels: kernels.iter().map(|&kernel| kernel.to_owned()).collect(),
            all,
            list: false,
            json: None,
            accel: "tcg".to_owned(),
            timeout: 1,
            memory: 1,
        }
    }

    fn kernel(release: kernels::Release) -> Kernel {
        let version = release.map(|number| number.to_string()).join(".");
        Kernel { package: "linux-image".to_owned(), version, suite: "sid".to_owned(), release }
    }

    fn chosen(args: &Args) -> Result<Vec<String>> {
        let there = [[6, 12, 107], [6, 1, 158], [6, 12, 95], [6, 12, 107]].map(kernel);
        Ok(choose(there.to_vec(), args)?.iter().map(Kernel::name).collect())
    }

    #[test]
    fn a_version_chooses_whole_numbers_only() {
        assert_eq!(chosen(&args(&[], false)).unwrap(), ["6.1.158", "6.12.107"]);
        assert_eq!(chosen(&args(&["6.1"], false)).unwrap(), ["6.1.158"]);
        assert_eq!(chosen(&args(&["6.12.95"], false)).unwrap(), ["6.12.95"]);
        assert_eq!(chosen(&args(&["6.12"], true)).unwrap(), ["6.12.95", "6.12.107"]);
    }

    #[test]
    fn a_version_that_is_not_there_is_told_with_those_that_are() {
        let error = chosen(&args(&["6.2"], false)).unwrap_err().to_string();
        assert_eq!(error, "no kernel 6.2: there are 6.1.158, 6.12.107");
    }
}
