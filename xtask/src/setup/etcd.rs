//! etcd, etcdctl and etcdutl of every supported version, and etcd's own benchmark.
//!
//! 3.5 and later are built by Go from modules whose sums are pinned in `tests/go/`; 3.4, which is not to be had as a module,
//! is Debian's package, unpacked and not installed. Official release archives in the cache directory do as well.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::download::{self, Scratch};
use super::rust::deb_version;
use super::{Outcome, Piece, Purpose, stamp};
use crate::apt;
use crate::place::Place;
use crate::run;
use crate::say;

const DEBIAN_VERSION: &str = "3.4.23";
const DEBIAN_PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];
/// In order of preference for `up`.
const GO_VERSIONS: [&str; 3] = ["3.6.16", "3.7.3", "3.5.35"];
const BENCHMARK_VERSION: &str = "3.7.1";

/// The directory of the etcd that `up` runs: the one on `PATH`, else the preferred of those here, else Debian's,
/// whatever its version.
pub fn for_up(place: &Place) -> Option<PathBuf> {
    if let Some(found) = run::which("etcd")
        && run::which("etcdctl").is_some()
    {
        return found.parent().map(Path::to_owned);
    }
    let here = |directory: &PathBuf| run::executable(&directory.join("etcd"));
    if let Some(found) = GO_VERSIONS.iter().map(|version| directory(place, version)).find(here) {
        return Some(found);
    }
    let others = std::fs::read_dir(place.tools.join("etcd")).ok()?;
    others.filter_map(|entry| entry.ok().map(|e| e.path())).find(here)
}

fn directory(place: &Place, version: &str) -> PathBuf {
    place.tools.join("etcd").join(version)
}

/// True when the stamp in `directory` is `key`, or when there is none and `program` itself tells the right version (put
/// there by hand), which is then written down.
fn ready(directory: &Path, programs: &[&str], key: &str, version: &str) -> bool {
    let stamp = directory.join(".stamp");
    if !programs.iter().all(|program| run::executable(&directory.join(program))) {
        return false;
    }
    if stamp.exists() {
        return stamp::matches(&stamp, key);
    }
    let tells = || run::output(Command::new(directory.join(programs[0])).arg("--version"));
    let right = programs[0] != "etcd"
        || tells().is_ok_and(|text| text.contains(&format!("etcd Version: {version}\n")));
    right && stamp::write(&stamp, key).is_ok()
}

/// One Go module of `tests/go` and the programs it brings.
pub struct GoModule {
    module: String,
    version: &'static str,
    programs: &'static [&'static str],
    title: &'static str,
    destination: &'static str,
}

/// All of them.
pub fn from_go() -> Vec<GoModule> {
    let mut modules: Vec<GoModule> = GO_VERSIONS.iter().map(|version| server(version)).collect();
    modules.push(GoModule {
        module: "benchmark".to_owned(),
        version: BENCHMARK_VERSION,
        programs: &["benchmark"],
        title: "etcd's benchmark",
        destination: "benchmark",
    });
    modules
}

fn server(version: &'static str) -> GoModule {
    GoModule {
        module: format!("etcd-{version}"),
        version,
        programs: &["etcd", "etcdctl", "etcdutl"],
        title: "etcd",
        destination: "etcd",
    }
}

impl GoModule {
    fn source(&self, place: &Place) -> PathBuf {
        place.repo.join("tests/go").join(&self.module)
    }

    fn directory(&self, place: &Place) -> PathBuf {
        place.tools.join(self.destination).join(self.version)
    }

    fn key(&self, place: &Place) -> Option<String> {
        let source = self.source(place);
        let pins = [source.join("go.mod"), source.join("go.sum")];
        let mut key = String::new();
        for pin in pins {
            key.push_str(&stamp::sha256(&pin).ok()?);
            key.push(' ');
        }
        Some(format!("{}{}", key, self.version))
    }

    fn build(&self, place: &Place, go: &Path, scratch: &Scratch) -> Result<()> {
        let mut command = Command::new(go);
        command
            .current_dir(self.source(place))
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
            .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(format!("{}/", scratch.join("bin").display()))
            .arg("tool");
        std::fs::create_dir_all(scratch.join("bin"))?;
        let log = place.logs().join(format!("go-{}.log", self.module));
        run::step(&format!("go build in tests/go/{}", self.module), &mut command, &log)?;
        let server = scratch.join("bin/server");
        if server.exists() {
            std::fs::rename(server, scratch.join("bin/etcd"))?;
        }
        Ok(())
    }

    /// An official release archive in the cache directory.
    fn archive(&self, place: &Place) -> Option<PathBuf> {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let name = format!("etcd-v{}-linux-{arch}.tar.gz", self.version);
        if self.destination == "etcd" { download::in_cache(place, |file| file == name) } else { None }
    }
}

impl Piece for GoModule {
    fn name(&self) -> String {
        format!("{} {}", self.title, self.version)
    }

    fn purpose(&self) -> Purpose {
        if self.destination == "benchmark" { Purpose::Bench } else { Purpose::Test }
    }

    fn ready(&self, place: &Place) -> bool {
        self.key(place).is_some_and(|key| ready(&self.directory(place), self.programs, &key, self.version))
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        let scratch = Scratch::new(place, &self.module)?;
        if let Some(archive) = self.archive(place) {
            download::check_listed(&archive)?;
            say::note(&format!("from {}", archive.display()));
            std::fs::create_dir_all(scratch.join("bin"))?;
            let mut tar = Command::new(run::which("tar").context("no tar here: apt-get install tar")?);
            run::output(
                tar.arg("-xzf").arg(archive).arg("-C").arg(scratch.join("bin")).arg("--strip-components=1"),
            )?;
        } else if let Some(go) = run::which("go") {
            self.build(place, &go, &scratch)?;
        } else {
            return Ok(Outcome::Skipped("there is no Go on this machine to build it".to_owned()));
        }
        if let Some(missing) =
            self.programs.iter().find(|program| !scratch.join("bin").join(program).exists())
        {
            bail!("no {missing} came out of {}", self.module);
        }
        stamp::write(&scratch.join("bin/.stamp"), &self.key(place).context("go.mod or go.sum is missing")?)?;
        scratch.publish("bin", &self.directory(place))?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        if self.destination == "benchmark" {
            "comparisons with the official load generator are skipped"
        } else {
            "tests on this version of etcd are skipped"
        }
    }
}

/// Unpacks the etcd of this Debian release into the directory of its version, which is returned.
fn from_debian(place: &Place) -> Result<String> {
    let scratch = Scratch::new(place, "etcd-debian")?;
    let mut version = String::new();
    for package in DEBIAN_PACKAGES {
        let wanted = format!("{package}_{DEBIAN_VERSION}");
        let deb = match download::in_cache(place, |name| name.starts_with(&wanted) && name.ends_with(".deb"))
        {
            Some(deb) => {
                download::check_listed(&deb)?;
                deb
            }
            None => apt::download(place, package, scratch.path())?,
        };
        version =
            upstream(&download::file_name(&deb), package).context("package without a version")?.to_owned();
        apt::unpack(&deb, &scratch.join("x"))?;
    }
    stamp::write(&scratch.join("x/usr/bin/.stamp"), &version)?;
    scratch.publish("x/usr/bin", &directory(place, &version))?;
    Ok(version)
}

/// The version of etcd in the name of a Debian package file: `etcd-server_3.4.23-4+b4_amd64.deb`.
pub fn upstream<'a>(file: &'a str, package: &str) -> Option<&'a str> {
    deb_version(file, package)?.split(['-', '+', '~']).next()
}

/// etcd 3.4 out of Debian's packages.
pub struct FromDebian;

impl Piece for FromDebian {
    fn name(&self) -> String {
        format!("etcd {DEBIAN_VERSION} (Debian's packages, unpacked, not installed)")
    }

    fn purpose(&self) -> Purpose {
        Purpose::Test
    }

    fn ready(&self, place: &Place) -> bool {
        ready(&directory(place, DEBIAN_VERSION), &["etcd", "etcdctl"], DEBIAN_VERSION, DEBIAN_VERSION)
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        match from_debian(place)? {
            version if version == DEBIAN_VERSION => Ok(Outcome::Ready),
            other => Ok(Outcome::Skipped(format!("this release has {other}, not {DEBIAN_VERSION}"))),
        }
    }

    fn without(&self) -> &'static str {
        "tests on etcd 3.4 are skipped"
    }
}

/// Any etcd, for `up`: nothing to do when there is one already.
pub struct ForUp;

impl Piece for ForUp {
    fn name(&self) -> String {
        "an etcd to run".to_owned()
    }

    fn purpose(&self) -> Purpose {
        Purpose::Up
    }

    fn ready(&self, place: &Place) -> bool {
        for_up(place).is_some()
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        match server(GO_VERSIONS[0]).fetch(place) {
            Ok(Outcome::Ready) => return Ok(Outcome::Ready),
            Ok(Outcome::Skipped(reason)) => say::note(&reason),
            Err(error) => say::warn(&format!("{error:#}")),
        }
        say::note("Debian's etcd stands in");
        from_debian(place)?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "`cargo xtask up` then needs --endpoints of a cluster of yours"
    }
}
