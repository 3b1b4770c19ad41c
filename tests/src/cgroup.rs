//! Control groups (version 1) of a member or a hog: CPU and block I/O, each in its own hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::place;

const ROOT: &str = "/sys/fs/cgroup";

/// The controllers the lab uses.
const CONTROLLERS: [&str; 2] = ["cpu", "blkio"];

/// One group in every hierarchy that is there. Dropping it removes the groups, which works once they are empty.
#[derive(Debug)]
pub struct Cgroup {
    directories: Vec<(&'static str, PathBuf)>,
}

impl Cgroup {
    /// Makes the groups `name`. Hierarchies that are not mounted are left out.
    ///
    /// # Errors
    /// When a group can't be made in a hierarchy that is there.
    pub fn new(name: &str) -> Result<Self> {
        let mut group = Self { directories: Vec::new() };
        for controller in CONTROLLERS {
            let root = Path::new(ROOT).join(controller);
            if !root.join("cgroup.procs").exists() {
                continue;
            }
            let path = root.join(name);
            fs::create_dir(&path).with_context(|| format!("make cgroup {}", path.display()))?;
            group.directories.push((controller, path));
        }
        Ok(group)
    }

    /// The files that a process is written to in order to join.
    pub fn procs(&self) -> Vec<PathBuf> {
        self.directories.iter().map(|(_, path)| path.join("cgroup.procs")).collect()
    }

    /// Limits writes to a device, in operations a second; none lifts the limit.
    ///
    /// # Errors
    /// When there is no block I/O controller, or it refuses.
    pub fn limit_writes(&self, device: &str, per_second: Option<u32>) -> Result<()> {
        self.set(
            "blkio",
            "blkio.throttle.write_iops_device",
            &format!("{device} {}", per_second.unwrap_or_default()),
        )
    }

    /// Limits CPU time, in thousandths of one core; none lifts the limit.
    ///
    /// # Errors
    /// When there is no CPU controller, or it refuses.
    pub fn limit_cpu(&self, per_mille: Option<u32>) -> Result<()> {
        // Microseconds of a period of 100 ms; -1 is "no limit".
        let quota = per_mille.map_or(-1, |share| i64::from(share) * 100);
        self.set("cpu", "cpu.cfs_quota_us", &quota.to_string())
    }

    fn set(&self, controller: &str, file: &str, value: &str) -> Result<()> {
        let (_, path) = self
            .directories
            .iter()
            .find(|(name, _)| *name == controller)
            .with_context(|| format!("no {controller} controller of cgroup version 1 on this machine"))?;
        fs::write(path.join(file), value).with_context(|| format!("write {value:?} to {file}"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for (_, path) in &self.directories {
            remove(path);
        }
    }
}

/// A group stays busy for a moment after its last process was reaped.
fn remove(path: &Path) {
    for _attempt in 0..50 {
        match fs::remove_dir(path) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
    eprintln!("cgroup {} could not be removed: processes are still in it", path.display());
}

/// Removes the groups of labs that are gone.
pub(crate) fn remove_orphans() {
    for controller in CONTROLLERS {
        let entries = fs::read_dir(Path::new(ROOT).join(controller)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| place::is_orphan(&entry.file_name().to_string_lossy())) {
            remove(&entry.path());
        }
    }
}
