//! Where the directories of a process's cgroups are, version 1, version 2 or both (hybrid).
//!
//! `/proc/PID/cgroup` names a path in each hierarchy, `mountinfo` where a hierarchy is mounted and which part of it. Both are
//! shown relative to the cgroup namespace of whoever reads (cgroup_namespaces(7)), so they fit each other. From inside a
//! container the own mounts often show only the own part: then those of process 1 (the node, where the pid namespace is
//! shared) and of the process itself are tried. A controller that is found nowhere is absent.

use std::path::{Path, PathBuf};

use crate::discover::ProcFs;

/// Controllers that are read, by their names in version 1. `blkio` is `io` in version 2; there `cpu` holds `cpuacct`.
pub const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "cpuset", "memory", "blkio", "pids"];

/// Most levels of a path. Kubernetes has five.
pub const LEVELS_LIMIT: usize = 24;

/// Version of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of its own for each controller.
    V1,
    /// One for all.
    V2,
}

/// A group with its ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Which interface its files have.
    pub version: Version,
    /// The group itself, then its ancestors up to where the hierarchy is mounted.
    pub levels: Vec<Level>,
    /// Ancestors beyond [`LEVELS_LIMIT`].
    pub left_out: usize,
}

/// One group of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Its directory.
    pub directory: PathBuf,
    /// Its path below the mount, `/` for the topmost.
    pub path: String,
}

/// The chains of a process, by controller as in [`CONTROLLERS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// `None` where the controller was not found.
    pub controllers: [Option<Chain>; CONTROLLERS.len()],
    /// The group of version 2, for pressure, which needs no controller.
    pub unified: Option<Chain>,
}

impl Hierarchies {
    /// Chain of a controller.
    pub fn of(&self, controller: &str) -> Option<&Chain> {
        let index = CONTROLLERS.iter().position(|known| *known == controller)?;
        self.controllers[index].as_ref()
    }

    /// `v1`, `v2` or `hybrid`; empty when nothing was found.
    pub fn version(&self) -> &'static str {
        let has = |version| self.controllers.iter().flatten().any(|chain| chain.version == version);
        match (has(Version::V1), has(Version::V2) || self.unified.is_some()) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "",
        }
    }
}

/// One line of `/proc/PID/cgroup`: `ID:controllers:path`.
#[derive(Debug, PartialEq, Eq)]
struct Membership<'a> {
    /// Names with commas; empty in version 2.
    controllers: &'a str,
    path: &'a str,
}

fn memberships(text: &str) -> impl Iterator<Item = Membership<'_>> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        // A group that was removed while the process was still in it.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        path.starts_with('/').then_some(Membership { controllers, path })
    })
}

/// One mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    version: Version,
    controllers: String,
    root: String,
    point: PathBuf,
}

fn mounted(text: &str) -> Vec<Mounted> {
    text.lines()
        .filter_map(crate::collect::disk::mount::Mount::parse)
        .filter_map(|mount| {
            let version = match mount.filesystem.as_str() {
                "cgroup" => Version::V1,
                "cgroup2" => Version::V2,
                _ => return None,
            };
            let root = mount.root.to_string_lossy().into_owned();
            Some(Mounted { version, controllers: mount.super_options, root, point: mount.point })
        })
        .collect()
}

/// `path` below the part that is mounted. `None` when it lies elsewhere, as a group outside of the own namespace does.
fn below<'a>(root: &str, path: &'a str) -> Option<&'a str> {
    let inside = if root == "/" { path } else { path.strip_prefix(root)? };
    let inside = if inside.is_empty() { "/" } else { inside };
    (inside.starts_with('/') && !inside.split('/').any(|part| part == "..")).then_some(inside)
}

fn chain(mount: &Mounted, view: &Path, path: &str) -> Option<Chain> {
    let inside = below(&mount.root, path)?;
    let top = view.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
    let own = top.join(inside.trim_start_matches('/'));
    if !own.join("cgroup.procs").exists() {
        return None;
    }
    let mut levels = Vec::new();
    let mut left_out = 0;
    let (mut directory, mut path) = (own.as_path(), inside.trim_end_matches('/'));
    loop {
        if levels.len() < LEVELS_LIMIT {
            let shown = if path.is_empty() { "/" } else { path };
            levels.push(Level { directory: directory.to_owned(), path: shown.to_owned() });
        } else {
            left_out += 1;
        }
        if path.is_empty() {
            return Some(Chain { version: mount.version, levels, left_out });
        }
        path = &path[..path.rfind('/')?];
        directory = directory.parent()?;
    }
}

/// A `/proc` view of mounts: whose `mountinfo`, and where its paths begin for us.
fn views(proc: &ProcFs, pid: u32) -> [(u32, PathBuf); 3] {
    [(std::process::id(), PathBuf::from("/")), (1, proc.path(1, "root")), (pid, proc.path(pid, "root"))]
}

/// Finds the groups of a process. `text` is its `/proc/PID/cgroup`.
pub fn find(proc: &ProcFs, pid: u32, text: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    for (whose, view) in views(proc, pid) {
        let Ok(bytes) = proc.read(whose, "mountinfo") else { continue };
        let mounts = mounted(&String::from_utf8_lossy(&bytes));
        for membership in memberships(text) {
            if membership.controllers.is_empty() {
                let mut unified = mounts.iter().filter(|mount| mount.version == Version::V2);
                let make = || unified.find_map(|mount| chain(mount, &view, membership.path));
                found.unified = found.unified.take().or_else(make);
                continue;
            }
            for (index, controller) in CONTROLLERS.iter().enumerate() {
                if found.controllers[index].is_some() || !has(membership.controllers, controller) {
                    continue;
                }
                let mut own = mounts
                    .iter()
                    .filter(|mount| mount.version == Version::V1 && has(&mount.controllers, controller));
                found.controllers[index] = own.find_map(|mount| chain(mount, &view, membership.path));
            }
        }
    }
    // What version 1 does not have, version 2 may; whether it does show the files.
    let in_v1 = |controller: &str| memberships(text).any(|one| has(one.controllers, controller));
    for (index, controller) in CONTROLLERS.iter().enumerate() {
        if found.controllers[index].is_none() && !in_v1(controller) {
            found.controllers[index].clone_from(&found.unified);
        }
    }
    found
}

fn has(controllers: &str, wanted: &str) -> bool {
    controllers.split(',').any(|name| name == wanted)
}

#[cfg(test)]
mod tests;
