//! Where the programs are: etcd of each version, the official benchmark, our own binaries, the engine library.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The versions that every claim about etcd is tested on, oldest first.
pub const ETCD_VERSIONS: [&str; 4] = ["3.4.23", "3.5.35", "3.6.16", "3.7.3"];

/// The version where one is enough.
pub const ETCD_DEFAULT: &str = "3.6.16";

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
    present(directory()?.join("etcd").join(version).join("etcd"), "cargo xtask setup")
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

/// One of our own binaries, built beside this one.
///
/// # Errors
/// When it has not been built.
pub fn own(name: &str) -> Result<PathBuf> {
    let package = name.replace("etcd-monitor-", "etcdmon-");
    present(profile_directory()?.join(name), &format!("cargo build -p {package}"))
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
