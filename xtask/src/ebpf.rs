//! `cargo xtask ebpf`: the kernel programs, built by a nightly toolchain into one object that the agent's build embeds.
//!
//! Skipped when nothing changed that goes into it. The object is rewritten only when its bytes differ, so that the agent is
//! not rebuilt for nothing.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::place::Place;
use crate::run;
use crate::say;
use crate::setup::rust::{self, Toolchain};
use crate::setup::{self, stamp};

const TARGET: &str = "bpfel-unknown-none";
/// The instruction set of Linux 5.1 and later: atomics that return a value come with it.
const FLAGS: &str = "-Ctarget-cpu=v3";
const PROGRAM: &str = "etcd-monitor-bpf";

/// Sets up what the build needs and builds.
pub fn run(place: &Place) -> Result<ExitCode> {
    setup::prepare(place, setup::Purpose::Build)?;
    build(place)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds, or says with a warning that the agent comes without kernel programs.
pub fn try_build(place: &Place) {
    if let Err(error) = build(place) {
        say::warn(&format!("no kernel programs: {error:#}"));
        say::note("the agent is built without them and reports eBPF as degraded");
    }
}

fn build(place: &Place) -> Result<()> {
    let nightly =
        Toolchain::nightly().context("no nightly toolchain: run `cargo xtask setup --for build`")?;
    let sources = nightly.sources(place)?;
    let linker = rust::linker(place);
    if !linker.is_file() {
        anyhow::bail!("no bpf-linker: run `cargo xtask setup --for build`");
    }
    let key = format!("{} {FLAGS} {}\n{}", inputs(place)?, linker.display(), nightly.about);
    let stamp = place.bpf_object().with_extension("o.stamp");
    // The object's own sum belongs to the stamp: the agent's build puts an empty file where there is none.
    let with_object = || Ok::<_, anyhow::Error>(format!("{key}\n{}", stamp::sha256(&place.bpf_object())?));
    if with_object().is_ok_and(|key| stamp::matches(&stamp, &key)) {
        return Ok(());
    }
    say::step("building the kernel programs");
    compile(place, &nightly, sources.as_deref(), &linker)?;
    publish(place)?;
    stamp::write(&stamp, &with_object()?)
}

fn compile(place: &Place, nightly: &Toolchain, sources: Option<&Path>, linker: &Path) -> Result<()> {
    let mut path = vec![linker.parent().context("the linker has a directory")?.to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = nightly.command(place, "cargo")?;
    command
        .args(["build", "--release", "--package", "etcdmon-agent-ebpf", "--bin", PROGRAM, "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(place.target.join("bpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS)
        .env("PATH", std::env::join_paths(path)?);
    if let Some(library) = sources {
        // Cargo looks below this directory for `library/`: the toolchain stays as rustup installed it.
        command.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    run::step("cargo build -Z build-std=core (about 20 s)", &mut command, &place.logs().join("ebpf.log"))
}

fn publish(place: &Place) -> Result<()> {
    let built = place.target.join("bpf").join(TARGET).join("release").join(PROGRAM);
    let bytes = std::fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let object = place.bpf_object();
    if std::fs::read(&object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let temporary = object.with_extension("o.new");
    std::fs::write(&temporary, bytes).with_context(|| format!("write {}", temporary.display()))?;
    std::fs::rename(&temporary, &object).with_context(|| format!("write {}", object.display()))
}

/// One hash over everything in the repository that goes into the object.
fn inputs(place: &Place) -> Result<String> {
    let mut files = vec![place.repo.join("Cargo.lock"), place.repo.join("Cargo.toml")];
    for part in ["agent-ebpf", "histogram"] {
        collect(&place.repo.join(part), &mut files)?;
    }
    stamp::sha256_of(&files)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
