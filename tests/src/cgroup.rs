//! Control groups (version 1) of a member or a hog: CPU and block I/O, each in its own hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::place::{self, Place};

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

    /// [`Cgroup::limit_writes`] until the guard is dropped.
    ///
    /// # Errors
    /// As that.
    pub fn limit_writes_while(&self, device: &str, per_second: u32) -> Result<Limit> {
        self.limit_writes(device, Some(per_second))?;
        let path = self.directory("blkio")?.join("blkio.throttle.write_iops_device");
        Ok(Limit { path, lifted: format!("{device} 0") })
    }

    /// [`Cgroup::limit_cpu`] until the guard is dropped.
    ///
    /// # Errors
    /// As that.
    pub fn limit_cpu_while(&self, per_mille: u32) -> Result<Limit> {
        self.limit_cpu(Some(per_mille))?;
        Ok(Limit { path: self.directory("cpu")?.join("cpu.cfs_quota_us"), lifted: "-1".to_owned() })
    }

    /// Periods in which its CPU quota was used up, so far.
    ///
    /// # Errors
    /// When there is no CPU controller.
    pub fn throttled_periods(&self) -> Result<u64> {
        let text = fs::read_to_string(self.directory("cpu")?.join("cpu.stat"))?;
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        count.and_then(|count| count.parse().ok()).context("no nr_throttled in cpu.stat")
    }

    /// Whether this machine has the controllers of version 1 that limits need.
    pub fn can_limit() -> bool {
        CONTROLLERS.iter().all(|controller| Path::new(ROOT).join(controller).join("cgroup.procs").exists())
    }

    fn directory(&self, controller: &str) -> Result<&Path> {
        let found = self.directories.iter().find(|(name, _)| *name == controller);
        let (_, path) = found
            .with_context(|| format!("no {controller} controller of cgroup version 1 on this machine"))?;
        Ok(path)
    }

    fn set(&self, controller: &str, file: &str, value: &str) -> Result<()> {
        let path = self.directory(controller)?;
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

/// A limit that holds until it is dropped.
#[derive(Debug)]
pub struct Limit {
    path: PathBuf,
    lifted: String,
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Gone with its group is lifted too.
        if let Err(error) = fs::write(&self.path, &self.lifted)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("write {} to {}: {error}", self.lifted, self.path.display());
        }
    }
}

/// Groups that look like a container's of a Kubernetes pod. Dropping it removes those that it made, which works once they
/// are empty; what a lab that was killed left of them, the next one removes ([`crate::place`]).
#[derive(Debug)]
pub struct Pod {
    /// Its UID as Kubernetes writes it.
    pub uid: String,
    leaves: Vec<PathBuf>,
    /// In the order in which they were made.
    made: Vec<PathBuf>,
}

impl Pod {
    /// Makes the groups of a burstable pod's container as the systemd driver and containerd name them: one in each
    /// hierarchy the lab uses, or in the unified one where there are none.
    ///
    /// # Errors
    /// When a group can't be made.
    pub fn new(place: &Place, uid: &str, container_id: &str) -> Result<Self> {
        let roots: Vec<PathBuf> = CONTROLLERS.iter().map(|name| Path::new(ROOT).join(name)).collect();
        let mut pod = Self { uid: uid.to_owned(), leaves: Vec::new(), made: Vec::new() };
        for root in roots.into_iter().filter(|root| root.join("cgroup.procs").exists()) {
            pod.add(place, root, container_id)?;
        }
        if pod.leaves.is_empty() {
            pod.add(place, PathBuf::from(ROOT), container_id)?;
        }
        Ok(pod)
    }

    fn add(&mut self, place: &Place, mut path: PathBuf, container_id: &str) -> Result<()> {
        for component in pod_path(&self.uid, container_id) {
            path.push(component);
            match fs::create_dir(&path) {
                Ok(()) => self.made.push(path.clone()),
                // A node of a real cluster has the upper ones.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("make cgroup {}", path.display()));
                }
            }
            place.remember_cgroup(&path)?;
        }
        self.leaves.push(path);
        Ok(())
    }

    /// The files that a process is written to in order to join.
    pub fn procs(&self) -> Vec<PathBuf> {
        self.leaves.iter().map(|path| path.join("cgroup.procs")).collect()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            remove(path);
        }
    }
}

fn pod_path(uid: &str, container_id: &str) -> [String; 4] {
    [
        "kubepods.slice".to_owned(),
        "kubepods-burstable.slice".to_owned(),
        format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_")),
        format!("cri-containerd-{container_id}.scope"),
    ]
}

/// Removes a dead lab's groups, the last made first.
pub(crate) fn remove_remembered(paths: &str) {
    let below_root = |path: &&Path| path.starts_with(ROOT);
    for path in paths.lines().rev().map(Path::new).filter(below_root).filter(|path| path.is_dir()) {
        remove(path);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools;

    const UID: &str = "1f2e3d4c-aaaa-bbbb-cccc-0123456789ab";

    #[test]
    fn a_pods_group_is_named_as_containerd_does() {
        let path = pod_path(UID, "ab12").join("/");
        assert_eq!(
            path,
            "kubepods.slice/kubepods-burstable.slice/\
             kubepods-burstable-pod1f2e3d4c_aaaa_bbbb_cccc_0123456789ab.slice/cri-containerd-ab12.scope"
        );
    }

    #[test]
    fn a_pods_groups_are_there_until_it_is_dropped() {
        if !tools::is_root() {
            println!("skipped: needs root for cgroups");
            return;
        }
        let place = Place::new().unwrap();
        let pod = Pod::new(&place, UID, "ab12").unwrap();
        let procs = pod.procs();
        assert!(!procs.is_empty() && procs.iter().all(|path| path.exists()));
        drop(pod);
        assert!(procs.iter().all(|path| !path.exists()));
    }
}
