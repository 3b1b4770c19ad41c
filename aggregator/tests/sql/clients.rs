//! Clients of ClickHouse that others made, at the versions that were tried.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What is installed, with hashes.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// A command that runs Python with the packages of `requirements.txt`, which are fetched once and kept beside the other
/// tools; else why there is none.
pub fn python() -> Result<PathBuf, String> {
    let directory = tools()?.join(format!("python-clients-{:08x}", crc32c::crc32c(REQUIREMENTS.as_bytes())));
    let wrapper = directory.join("python");
    if wrapper.is_file() {
        return Ok(wrapper);
    }
    let making = directory.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::create_dir_all(&making).map_err(|error| error.to_string())?;
    let list = making.join("requirements.txt");
    std::fs::write(&list, REQUIREMENTS).map_err(|error| error.to_string())?;
    let installed = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--require-hashes",
        ])
        .args(["--only-binary", ":all:", "--no-deps", "--timeout", "15", "--retries", "1", "--requirement"])
        .arg(&list)
        .arg("--target")
        .arg(making.join("packages"))
        .stdout(Stdio::null())
        .output();
    let problem = match installed {
        Err(error) => Some(format!("python3: {error}")),
        Ok(output) if !output.status.success() => {
            let words =
                String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned();
            Some(format!("clickhouse-connect can't be installed: {words}"))
        }
        Ok(_) => None,
    };
    if let Some(problem) = problem {
        // Whatever is left there is made anew the next time.
        let _gone = std::fs::remove_dir_all(&making);
        return Err(problem);
    }
    let packages = directory.join("packages");
    let script = format!("#!/bin/sh\nPYTHONPATH='{}' exec python3 \"$@\"\n", packages.display());
    let ready = std::fs::write(making.join("python"), script).and_then(|()| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(making.join("python"), std::fs::Permissions::from_mode(0o755))
    });
    ready.map_err(|error| error.to_string())?;
    // Another test may have been quicker, with the same content.
    let _theirs = std::fs::rename(&making, &directory);
    let _gone = std::fs::remove_dir_all(&making);
    Ok(wrapper)
}

fn tools() -> Result<PathBuf, String> {
    let named = std::env::var_os("ETCD_MONITOR_TOOLS").map(PathBuf::from);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    named.or_else(|| Some(cache?.join("etcd-monitor"))).ok_or_else(|| "no directory for tools".to_owned())
}
