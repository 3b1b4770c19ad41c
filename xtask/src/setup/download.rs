//! Fetching files: from the person's cache directory first, then by the machine's own HTTPS client.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stamp;
use crate::place::Place;
use crate::run;
use crate::say;

/// Looks for files in `ETCD_MONITOR_CACHE` whose name satisfies `fits`.
pub fn in_cache(place: &Place, fits: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(place.cache.as_ref()?).ok()?;
    entries.filter_map(|entry| entry.ok().map(|e| e.path())).find(|path| fits(&file_name(path)))
}

/// The file's name alone.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Checks a file of the cache directory against the `SHA256SUMS` beside it.
pub fn check_listed(file: &Path) -> Result<()> {
    let list = file.with_file_name("SHA256SUMS");
    let sums = std::fs::read_to_string(&list).with_context(|| {
        format!("read {}: a cached file is used only with its sum in there", list.display())
    })?;
    let name = file_name(file);
    let expected =
        stamp::listed(&sums, &name).with_context(|| format!("{} has no line for {name}", list.display()))?;
    let actual = stamp::sha256(file)?;
    if actual != expected {
        bail!("{} is damaged: its SHA-256 is {actual}, {} says {expected}", file.display(), list.display());
    }
    Ok(())
}

/// One HTTPS GET by curl or wget into `to`, with what has arrived so far on the screen.
pub fn get(place: &Place, url: &str, to: &Path, size: u64) -> Result<()> {
    let mut command = if let Some(curl) = run::which("curl") {
        let mut command = Command::new(curl);
        command
            .args(["--fail", "--location", "--silent", "--show-error", "--retry", "3", "--output"])
            .arg(to)
            .arg(url);
        command
    } else if let Some(wget) = run::which("wget") {
        let mut command = Command::new(wget);
        command.args(["--no-verbose", "--tries=3", "-O"]).arg(to).arg(url);
        command
    } else {
        bail!("neither curl nor wget here: run `apt-get install curl ca-certificates` as root");
    };
    let mib = |bytes: u64| bytes >> 20;
    let progress = || format!("{} of {} MiB", mib(to.metadata().map_or(0, |m| m.len())), mib(size));
    let elapsed = run::quietly(&mut command, &place.logs().join("download.log"), progress)?;
    say::note(&format!("{} MiB in {}", mib(size), say::seconds(elapsed)));
    Ok(())
}

/// An empty directory for work in progress, beside its destination so that the last step is a rename. Removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates it for the thing called `name`.
    pub fn new(place: &Place, name: &str) -> Result<Self> {
        let path = place.tools.join(format!(".new-{name}-{}", std::process::id()));
        // What a killed process of the same id left behind.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts the directory `from` in it at `to`, in place of what is there.
    pub fn publish(&self, from: &str, to: &Path) -> Result<()> {
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if to.exists() {
            std::fs::rename(to, self.join("replaced"))?;
        }
        std::fs::rename(self.join(from), to).with_context(|| format!("put {} in place", to.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A left-over costs disk space only, and the next run of the same name removes it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
