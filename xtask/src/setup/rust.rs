//! The Rust side: components of the toolchain, a nightly for the kernel programs with its library sources, and their linker.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::download::{self, Scratch};
use super::{Outcome, Piece, Purpose};
use crate::apt;
use crate::place::Place;
use crate::run;
use crate::say;

/// The nightly installed where there is none that the linker understands.
const NIGHTLY: &str = "nightly-2026-05-20";
/// The pinned linker of kernel programs.
const LINKER_VERSION: &str = "0.13.0";
/// Major version of the LLVM that the linker is built with; a compiler with a newer LLVM is not understood by it.
const LLVM: u32 = 22;

fn rustup() -> Result<Command> {
    let program = run::which("rustup").context("no rustup here: install Rust by rustup")?;
    Ok(Command::new(program))
}

/// A nightly toolchain that is installed here.
pub struct Toolchain {
    /// Its name for rustup.
    pub name: String,
    /// Its root directory.
    pub sysroot: PathBuf,
    /// What `rustc -vV` says of it.
    pub about: String,
}

impl Toolchain {
    /// The nightly to use: `ETCD_MONITOR_NIGHTLY`, else `nightly`, else the pinned one.
    pub fn nightly() -> Option<Self> {
        let own = std::env::var("ETCD_MONITOR_NIGHTLY").ok().filter(|v| !v.is_empty());
        let candidates = own.map_or_else(|| vec!["nightly".to_owned(), NIGHTLY.to_owned()], |own| vec![own]);
        candidates.iter().find_map(|name| Self::look(name))
    }

    fn look(name: &str) -> Option<Self> {
        let ask = |what: &[&str]| run::output(rustup().ok()?.args(["run", name, "rustc"]).args(what)).ok();
        let about = ask(&["-vV"])?;
        (field(&about, "LLVM version").and_then(major)? <= LLVM).then_some(())?;
        let sysroot = ask(&["--print", "sysroot"])?.trim().into();
        Some(Self { name: name.to_owned(), sysroot, about })
    }

    /// Major and minor version of the compiler.
    pub fn version(&self) -> Option<(u32, u32)> {
        minor(field(&self.about, "release")?)
    }

    /// Runs a program of this toolchain.
    pub fn command(&self, place: &Place, program: &str) -> Result<Command> {
        let mut command = place.command(rustup()?.get_program());
        command.args(["run", &self.name, program]).env_remove("RUSTC").env_remove("CARGO");
        Ok(command)
    }

    /// Where cargo shall look for the library sources when the toolchain itself has none. `Err` when they are nowhere.
    pub fn sources(&self, place: &Place) -> Result<Option<PathBuf>> {
        if self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return Ok(None);
        }
        let library = self.unpacked(place).context("compiler without a version")?.join("library");
        if !library.join("core").is_dir() {
            bail!("no library sources for {}: run `cargo xtask setup --for build`", self.name);
        }
        Ok(Some(library))
    }

    fn unpacked(&self, place: &Place) -> Option<PathBuf> {
        let (major, minor) = self.version()?;
        Some(place.tools.join(format!("rust-src/{major}.{minor}")))
    }
}

/// A line `name: value` of `rustc -vV`.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Major and minor number of a version such as `1.97.0-nightly` or `1.97.1+dfsg1-1`.
pub fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-', '+', '~']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The version in the name of a Debian package file: `rust-src_1.97.1+dfsg1-1_all.deb`.
pub fn deb_version<'a>(file: &'a str, package: &str) -> Option<&'a str> {
    file.strip_suffix(".deb")?.strip_prefix(package)?.strip_prefix('_')?.split('_').next()
}

/// rustfmt and clippy of the toolchain that the repository names.
pub struct Components;

impl Piece for Components {
    fn name(&self) -> String {
        "rustfmt and clippy".to_owned()
    }

    fn purpose(&self) -> Purpose {
        Purpose::Test
    }

    fn ready(&self, place: &Place) -> bool {
        let Ok(sysroot) = run::output(place.command("rustc").args(["--print", "sysroot"])) else {
            return false;
        };
        let programs = Path::new(sysroot.trim()).join("bin");
        ["cargo-fmt", "cargo-clippy"].iter().all(|name| run::executable(&programs.join(name)))
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        let mut command = place.command(rustup()?.get_program());
        command.args(["component", "add", "rustfmt", "clippy"]);
        run::step("rustup component add rustfmt clippy", &mut command, &place.logs().join("components.log"))?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "the gate's format and lint steps fail"
    }
}

/// A nightly toolchain: the kernel target needs `-Z build-std`.
pub struct Nightly;

impl Piece for Nightly {
    fn name(&self) -> String {
        format!("a nightly toolchain with LLVM {LLVM} or older ({NIGHTLY})")
    }

    fn purpose(&self) -> Purpose {
        Purpose::Build
    }

    fn ready(&self, _: &Place) -> bool {
        Toolchain::nightly().is_some()
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        let mut command = rustup()?;
        command.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"]);
        run::step(
            &format!("rustup toolchain install {NIGHTLY}"),
            &mut command,
            &place.logs().join("nightly.log"),
        )?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "the agent is built without kernel programs and reports eBPF as degraded"
    }
}

/// Sources of Rust's library, of the nightly's own minor version.
pub struct Sources;

impl Piece for Sources {
    fn name(&self) -> String {
        "library sources for the nightly (rust-src)".to_owned()
    }

    fn purpose(&self) -> Purpose {
        Purpose::Build
    }

    fn ready(&self, place: &Place) -> bool {
        Toolchain::nightly().is_some_and(|nightly| nightly.sources(place).is_ok())
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        let nightly = Toolchain::nightly().context("there is no nightly toolchain")?;
        let wanted = nightly.version().context("the nightly tells no version")?;
        let fits = |version: &str| minor(version) == Some(wanted);
        let fits_file = |name: &str| deb_version(name, "rust-src").is_some_and(fits);
        if let Some(deb) = download::in_cache(place, fits_file) {
            match download::check_listed(&deb).and_then(|()| unpack(place, &deb, &nightly)) {
                Ok(()) => {
                    say::note(&format!("from {}", deb.display()));
                    return Ok(Outcome::Ready);
                }
                Err(error) => say::warn(&format!("{error:#}")),
            }
        }
        let mut add = rustup()?;
        add.args(["component", "add", "rust-src", "--toolchain", &nightly.name]);
        let title = format!("rustup component add rust-src --toolchain {}", nightly.name);
        match run::step(&title, &mut add, &place.logs().join("rust-src.log")) {
            // Rustup believes its own list; the files may be gone all the same.
            Ok(()) if nightly.sources(place).is_ok() => return Ok(Outcome::Ready),
            Ok(()) => say::note("rustup says they are there, but they are not"),
            Err(error) => say::note(&format!("{error:#}")),
        }
        say::note("trying Debian's package of the same Rust version (nothing is added to apt's sources)");
        let scratch = Scratch::new(place, "rust-src-deb")?;
        let deb = apt::download_later(place, "rust-src", scratch.path(), fits)?;
        unpack(place, &deb, &nightly)?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "the agent is built without kernel programs and reports eBPF as degraded"
    }
}

fn unpack(place: &Place, deb: &Path, nightly: &Toolchain) -> Result<()> {
    let scratch = Scratch::new(place, "rust-src")?;
    apt::unpack(deb, scratch.path())?;
    let version = download::file_name(deb);
    let version = deb_version(&version, "rust-src")
        .and_then(|v| v.split('+').next())
        .context("package without a version")?;
    let inside = format!("usr/src/rustc-{version}");
    if !scratch.join(&inside).join("library/core").is_dir() {
        bail!("{} holds no {inside}/library", deb.display());
    }
    scratch.publish(&inside, &nightly.unpacked(place).context("the nightly tells no version")?)
}

/// The linker of kernel programs.
pub fn linker(place: &Place) -> PathBuf {
    place.tools.join("bpf-linker").join(LINKER_VERSION).join("bin/bpf-linker")
}

/// bpf-linker, built against Debian's LLVM.
pub struct BpfLinker;

impl Piece for BpfLinker {
    fn name(&self) -> String {
        format!("bpf-linker {LINKER_VERSION}")
    }

    fn purpose(&self) -> Purpose {
        Purpose::Build
    }

    fn ready(&self, place: &Place) -> bool {
        let linker = linker(place);
        linker.is_file()
            && run::output(Command::new(linker).arg("--version"))
                .is_ok_and(|text| text.contains(LINKER_VERSION))
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        let prefix = format!("/usr/lib/llvm-{LLVM}");
        if !Path::new(&prefix).join("include/llvm-c/Core.h").exists() {
            apt::install(place, &[&format!("llvm-{LLVM}-dev")])?;
        }
        let scratch = Scratch::new(place, "bpf-linker")?;
        let mut command = place.cargo();
        command
            .args(["install", "bpf-linker", "--locked", "--no-default-features", "--version", LINKER_VERSION])
            .args(["--features", &format!("llvm-{LLVM}"), "--root"])
            .arg(scratch.join("root"))
            .env("LLVM_PREFIX", prefix)
            .env_remove("CARGO_TARGET_DIR");
        run::step(
            "cargo install bpf-linker (about a minute)",
            &mut command,
            &place.logs().join("bpf-linker.log"),
        )?;
        let directory = linker(place).ancestors().nth(2).context("the linker has a directory")?.to_owned();
        scratch.publish("root", &directory)?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "the agent is built without kernel programs and reports eBPF as degraded"
    }
}
