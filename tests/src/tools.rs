//! Where the programs are: etcd of each version, the official benchmark, our own binaries, the engine library.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The versions that every claim about etcd is tested on, oldest first.
pub const ETCD_VERSIONS: [&str; 4] = ["3.4.23", "3.5.35", "3.6.16", "3.7.3"];

/// The version where one is enough, if it is installed: see [`default_version`].
const ETCD_DEFAULT: &str = "3.6.16";

/// Names the directory of the etcd that setup chose for `up` where it could not build any: one found on `PATH`, or Debian's.
const ETCD_DIR: &str = "ETCD_MONITOR_ETCD_DIR";

/// Version of the official benchmark; it drives every version of etcd.
const BENCHMARK_VERSION: &str = "3.7.1";

/// The directory that `cargo xtask setup` fills: `ETCD_MONITOR_TOOLS`, else `etcd-monitor` in the user's cache.
///
/// # Errors
/// When neither that variable nor `HOME` is set.
pub fn directory() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ETCD_MONITOR_TOOLS") {
        return Ok(path.into());
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("etcd-monitor"))
}

/// The etcd server of a version.
///
/// # Errors
/// When it is not installed.
pub fn etcd(version: &str) -> Result<PathBuf> {
    let path = directory()?.join("etcd").join(version).join("etcd");
    match chosen_by_setup() {
        Some((stand_in, found)) if !path.exists() && found == version => Ok(stand_in),
        _ => present(path, "cargo xtask setup"),
    }
}

/// The version to use where one is enough: 3.6, else the newest that is installed, else what setup found.
///
/// # Errors
/// When no etcd is installed.
pub fn default_version() -> Result<String> {
    let newest_first = ETCD_VERSIONS.into_iter().rev();
    let installed = std::iter::once(ETCD_DEFAULT).chain(newest_first).find(|version| etcd(version).is_ok());
    installed
        .map(str::to_owned)
        .or_else(|| chosen_by_setup().map(|(_, version)| version))
        .context("no etcd is installed: run `cargo xtask setup`")
}

/// True, with the reason printed, when a version of etcd is not installed: without Go only Debian's is to be had.
pub fn skip_without_etcd(version: &str) -> bool {
    let missing = etcd(version).is_err();
    if missing {
        println!("skipped: etcd {version} is not installed (setup builds it where Go is)");
    }
    missing
}

/// The etcd that setup chose, and its version.
fn chosen_by_setup() -> Option<(PathBuf, String)> {
    let path = PathBuf::from(std::env::var_os(ETCD_DIR)?).join("etcd");
    let output = std::process::Command::new(&path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "))?;
    Some((path, version.trim().to_owned()))
}

/// The etcdctl of a version.
///
/// # Errors
/// When it is not installed.
pub fn etcdctl(version: &str) -> Result<PathBuf> {
    present(directory()?.join("etcd").join(version).join("etcdctl"), "cargo xtask setup")
}

/// etcd's official benchmark.
///
/// # Errors
/// When it is not installed.
pub fn benchmark() -> Result<PathBuf> {
    present(directory()?.join("benchmark").join(BENCHMARK_VERSION).join("benchmark"), "cargo xtask setup")
}

/// A program of Prometheus: `prometheus` or `promtool`.
///
/// # Errors
/// When it is not installed.
pub fn prometheus(program: &str) -> Result<PathBuf> {
    present(directory()?.join("prometheus").join(program), "cargo xtask setup")
}

/// One of our own binaries, built beside this one.
///
/// # Errors
/// When it has not been built.
pub fn own(name: &str) -> Result<PathBuf> {
    let package = name.replace("etcd-monitor-", "etcdmon-");
    present(profile_directory()?.join(name), &format!("cargo build -p {package}"))
}

/// The engine library that `cargo xtask setup` fetched.
///
/// # Errors
/// When there is none.
pub fn engine_library() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("ETCD_MONITOR_LIBCHDB") {
        return present(named.into(), "cargo xtask setup");
    }
    let directory = directory()?.join("chdb");
    let versions = std::fs::read_dir(&directory).into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("libchdb.so")).find(|library| library.is_file());
    found.with_context(|| format!("no libchdb.so below {}: run `cargo xtask setup`", directory.display()))
}

/// `target/<profile>`, derived from the running program; test programs live one level deeper, in `deps`.
fn profile_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find the running program")?;
    let parent = program.parent().context("the running program has no directory")?;
    let is_test = parent.file_name().is_some_and(|name| name == "deps");
    Ok(if is_test { parent.parent().unwrap_or(parent).to_owned() } else { parent.to_owned() })
}

fn present(path: PathBuf, remedy: &str) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    bail!("{} is missing: run `{remedy}`", path.display())
}

/// A program on `PATH` or in the system's administration directories.
///
/// # Errors
/// When it is not installed.
pub fn system(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| Path::new(candidate).is_file())
        .with_context(|| format!("{name} is not installed"))
}

/// Whether this process may mount, attach probes and make cgroups.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes no argument and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
