//! The embedded ClickHouse engine: one shared library, pinned by version and by hash.
//!
//! It comes from the npm registry that this machine is set up for, as one HTTPS GET; no node and no npm is needed.

use anyhow::{Context, Result, bail};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::download::{self, Scratch};
use super::{Outcome, Piece, Purpose, stamp};
use crate::apt;
use crate::place::Place;
use crate::run;
use crate::say;

/// The version of the engine that the aggregator is built and tested with.
pub const VERSION: &str = "26.7.3-stable.1";
const PACKAGE: &str = "@chdb/lib-linux-x64-gnu";
const TARBALL: &str = "lib-linux-x64-gnu-26.7.3-stable.1.tgz";
const TARBALL_BYTES: u64 = 177_817_999;
const TARBALL_INTEGRITY: &str =
    "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==";
const LIBRARY_SHA256: &str = "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5";
/// Tarball and library side by side while unpacking.
const NEEDED_BYTES: u64 = 800 << 20;

/// Where the library is kept.
pub fn library(place: &Place) -> PathBuf {
    place.tools.join("chdb").join(VERSION).join("libchdb.so")
}

/// The library as a piece of the set-up.
pub struct Engine;

impl Piece for Engine {
    fn name(&self) -> String {
        format!("ClickHouse engine library {VERSION}")
    }

    fn purpose(&self) -> Purpose {
        Purpose::Up
    }

    fn ready(&self, place: &Place) -> bool {
        if let Some(own) = std::env::var_os("ETCD_MONITOR_LIBCHDB") {
            return Path::new(&own).is_file();
        }
        let file = library(place);
        let Some(look) = stamp::look(&file) else { return false };
        let key = format!("{LIBRARY_SHA256} {look}");
        // A library without a stamp was put there by hand: believed after one look at its bytes.
        stamp::matches(&stamp_of(&file), &key)
            || (stamp::sha256(&file).is_ok_and(|sum| sum == LIBRARY_SHA256)
                && stamp::write(&stamp_of(&file), &key).is_ok())
    }

    fn fetch(&self, place: &Place) -> Result<Outcome> {
        if let Some(own) = std::env::var_os("ETCD_MONITOR_LIBCHDB") {
            bail!("ETCD_MONITOR_LIBCHDB={} is no file: mend or unset it", Path::new(&own).display());
        }
        if cfg!(not(all(target_arch = "x86_64", target_env = "gnu"))) {
            return Ok(Outcome::Skipped(
                "no library with a known hash for this machine; name one by ETCD_MONITOR_LIBCHDB".into(),
            ));
        }
        room(&place.tools)?;
        let scratch = Scratch::new(place, "engine")?;
        let tarball = tarball(place, &scratch)?;
        let found = stamp::integrity(&tarball)?;
        if found != TARBALL_INTEGRITY {
            bail!(
                "{} is not the file it should be (integrity {found}): remove it and try again",
                tarball.display()
            );
        }
        say::note("unpacking libchdb.so (540 MiB)");
        let unpacked = scratch.join("package");
        let mut tar = Command::new(run::which("tar").context("no tar here: apt-get install tar")?);
        tar.arg("-xzf").arg(&tarball).arg("-C").arg(scratch.path()).arg("package/libchdb.so");
        run::quietly(&mut tar, &place.logs().join("engine.log"), || "unpacking".to_owned())?;
        let file = unpacked.join("libchdb.so");
        let sum = stamp::sha256(&file)?;
        if sum != LIBRARY_SHA256 {
            bail!(
                "the unpacked library has SHA-256 {sum} instead of {LIBRARY_SHA256}: the disk or the memory may be at fault"
            );
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        let directory = library(place).parent().context("the library has a directory")?.to_owned();
        scratch.publish("package", &directory)?;
        Ok(Outcome::Ready)
    }

    fn without(&self) -> &'static str {
        "the aggregator then needs an external ClickHouse by `clickhouse.url`; suites that need the engine are skipped"
    }
}

fn stamp_of(library: &Path) -> PathBuf {
    library.with_extension("so.stamp")
}

fn room(directory: &Path) -> Result<()> {
    let text = run::output(Command::new("df").args(["--output=avail", "-B1"]).arg(directory))?;
    let free: u64 = text.lines().last().unwrap_or_default().trim().parse().unwrap_or(u64::MAX);
    if free < NEEDED_BYTES {
        bail!(
            "{} MiB free in {}, {} MiB are needed: make room or set ETCD_MONITOR_TOOLS to another disk",
            free >> 20,
            directory.display(),
            NEEDED_BYTES >> 20
        );
    }
    Ok(())
}

/// The tarball, checked: from the cache directory, else from the registry into `scratch`.
fn tarball(place: &Place, scratch: &Scratch) -> Result<PathBuf> {
    if let Some(cached) = download::in_cache(place, |name| name.ends_with(TARBALL)) {
        match check(&cached) {
            Ok(()) => {
                say::note(&format!("from {}", cached.display()));
                return Ok(cached);
            }
            Err(error) => say::warn(&format!("{error:#}")),
        }
    }
    let fetched = fetch(place, scratch).with_context(|| {
        format!("no internet? put chdb-{TARBALL} into a directory and name that by ETCD_MONITOR_CACHE")
    })?;
    check(&fetched)?;
    Ok(fetched)
}

fn check(tarball: &Path) -> Result<()> {
    let found = stamp::integrity(tarball)?;
    if found != TARBALL_INTEGRITY {
        bail!("{} is not the file it should be (integrity {found})", tarball.display());
    }
    Ok(())
}

fn fetch(place: &Place, scratch: &Scratch) -> Result<PathBuf> {
    let registry = registry(place)?;
    let to = scratch.join(TARBALL);
    let url = format!("{}/{PACKAGE}/-/{TARBALL}", registry.trim_end_matches('/'));
    let Err(error) = download::get(place, &url, &to, TARBALL_BYTES) else { return Ok(to) };
    // A registry behind a login or with other paths is npm's to talk to.
    let Some(npm) = run::which("npm") else { return Err(error) };
    say::note(&format!("{error:#}"));
    say::note("trying npm");
    let mut pack = Command::new(npm);
    pack.current_dir(scratch.path()).args(["pack", "--loglevel=error", "--fetch-retries=1"]);
    pack.arg(format!("{PACKAGE}@{VERSION}"));
    run::quietly(&mut pack, &place.logs().join("npm.log"), || "npm pack".to_owned())?;
    Ok(scratch.join(&format!("chdb-{TARBALL}")))
}

/// The npm registry this machine is set up for: environment, `~/.npmrc`, npm itself, else the default that Debian's npm
/// package carries (read from the package, which is not installed).
fn registry(place: &Place) -> Result<String> {
    let named = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if let Some(url) = named("npm_config_registry").or_else(|| named("NPM_CONFIG_REGISTRY")) {
        return Ok(url);
    }
    let npmrc = std::env::home_dir()
        .map(|home| home.join(".npmrc"))
        .and_then(|file| std::fs::read_to_string(file).ok());
    if let Some(url) = npmrc.as_deref().and_then(npmrc_registry) {
        return Ok(url);
    }
    if let Some(npm) = run::which("npm")
        && let Ok(text) = run::output(Command::new(npm).args(["config", "get", "registry"]))
        && text.trim().starts_with("http")
    {
        return Ok(text.trim().to_owned());
    }
    debian_default(place).context("no npm registry known: set npm_config_registry to its URL and try again")
}

/// `registry=` of an .npmrc file.
pub fn npmrc_registry(text: &str) -> Option<String> {
    let value =
        text.lines().find_map(|line| line.trim().strip_prefix("registry")?.trim_start().strip_prefix('='))?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn debian_default(place: &Place) -> Result<String> {
    let scratch = Scratch::new(place, "npm")?;
    apt::unpack(&apt::download(place, "npm", scratch.path())?, &scratch.join("x"))?;
    let file = scratch.join("x/usr/share/nodejs/npm/lib/utils/config/definitions.js");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    default_registry(&text).context("Debian's npm package names no default registry")
}

/// The default of setting `registry` in npm's own list of settings.
pub fn default_registry(definitions: &str) -> Option<String> {
    let setting = definitions.split("define('registry'").nth(1)?;
    let value = setting.split("default: '").nth(1)?;
    Some(value.split('\'').next()?.to_owned())
}
