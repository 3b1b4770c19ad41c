//! `cargo xtask setup`: what this machine lacks, fetched once into the tools directory or installed as a package.
//!
//! Every [`Piece`] answers whether it is really there (stamps hold versions and hashes, files are looked at), so a second run
//! has nothing to do and takes well under a second. A piece that cannot be had is named with what goes without it, and the
//! rest goes on.

use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::place::Place;
use crate::say;

pub mod download;
pub mod engine;
pub mod etcd;
mod kernel;
pub mod packages;
pub mod rust;
pub mod stamp;
#[cfg(test)]
mod tests;

/// What the machine is set up for; each contains the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Purpose {
    /// Build everything, kernel programs included
    Build,
    /// Run the cluster of `cargo xtask up`
    Up,
    /// Run benchmarks
    Bench,
    /// Run the gate and all suites
    Test,
}

/// Flags of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Only what this needs [default: everything]
    #[arg(long = "for", value_enum, default_value = "test")]
    purpose: Purpose,
}

/// How fetching a piece ended.
pub enum Outcome {
    /// It is there now.
    Ready,
    /// It is not for this machine, for this reason; nothing is wrong.
    Skipped(String),
}

/// One thing that a machine may lack.
pub trait Piece {
    /// What it is, with its version.
    fn name(&self) -> String;
    /// The first purpose that needs it.
    fn purpose(&self) -> Purpose;
    /// True when it is really there and is the one wanted. Quick: runs every time.
    fn ready(&self, place: &Place) -> bool;
    /// Fetches or installs it.
    fn fetch(&self, place: &Place) -> Result<Outcome>;
    /// What goes without it.
    fn without(&self) -> &'static str;
}

fn pieces() -> Vec<Box<dyn Piece>> {
    let mut all: Vec<Box<dyn Piece>> = vec![
        Box::new(packages::Packages(Purpose::Build)),
        Box::new(packages::Packages(Purpose::Up)),
        Box::new(packages::Packages(Purpose::Bench)),
        Box::new(packages::Packages(Purpose::Test)),
        Box::new(rust::Components),
        Box::new(rust::Nightly),
        Box::new(rust::Sources),
        Box::new(rust::BpfLinker),
        Box::new(engine::Engine),
        Box::new(etcd::ForUp),
        Box::new(etcd::FromDebian),
    ];
    all.extend(etcd::from_go().into_iter().map(|module| Box::new(module) as Box<dyn Piece>));
    all.push(Box::new(kernel::Devices));
    all
}

/// Runs the subcommand: fails when something could not be had.
pub fn run(place: &Place, args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let missing = prepare(place, args.purpose)?;
    if missing > 0 {
        say::fail(&format!(
            "{missing} missing, see above; everything else is ready in {}",
            place.tools.display()
        ));
        return Ok(ExitCode::FAILURE);
    }
    say::step(&format!("ready in {} ({})", place.tools.display(), say::seconds(started.elapsed())));
    Ok(ExitCode::SUCCESS)
}

/// Makes this machine ready for `purpose` and returns how many pieces could not be had (each was named).
pub fn prepare(place: &Place, purpose: Purpose) -> Result<usize> {
    let _alone = alone(&place.tools)?;
    let mut missing = 0;
    for piece in pieces() {
        if piece.purpose() > purpose || piece.ready(place) {
            continue;
        }
        say::step(&format!("setting up {}", piece.name()));
        let started = Instant::now();
        match piece.fetch(place) {
            Ok(Outcome::Ready) if piece.ready(place) => {
                say::note(&format!("ready after {}", say::seconds(started.elapsed())));
            }
            Ok(Outcome::Ready) => {
                missing += 1;
                say::warn(&format!(
                    "{} still isn't usable after it was installed: {}",
                    piece.name(),
                    piece.without()
                ));
            }
            Ok(Outcome::Skipped(reason)) => {
                say::warn(&format!("{} skipped: {reason}: {}", piece.name(), piece.without()))
            }
            Err(error) => {
                missing += 1;
                say::warn(&format!("{}: {error:#}", piece.name()));
                say::note(piece.without());
            }
        }
    }
    Ok(missing)
}

/// Two set-ups at once wait for each other.
fn alone(tools: &Path) -> Result<File> {
    std::fs::create_dir_all(tools).with_context(|| {
        format!("create {}: set ETCD_MONITOR_TOOLS to a directory you may write", tools.display())
    })?;
    let path = tools.join(".lock");
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if lock.try_lock().is_err() {
        say::note("another set-up is at work, waiting for it");
        lock.lock().with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(lock)
}
