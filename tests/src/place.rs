//! The directory of one lab, its names and ports, and the janitor.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result, bail};

use crate::{cgroup, disk};

/// Everything a lab makes outside its directory begins with this and the lab's process id.
pub const PREFIX: &str = "etcdmon-lab-";

/// Names the control groups that a lab made elsewhere, one a line.
const GROUPS: &str = "cgroups";

/// Ports below the kernel's ephemeral range, so that no outgoing connection takes one in between.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

static COUNT: AtomicU32 = AtomicU32::new(0);
static JANITOR: Once = Once::new();
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A directory that goes when the guard does, with whatever is still mounted beneath it.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    name: String,
}

impl Place {
    /// A fresh directory in the system's temporary directory. The first one in a process also removes what dead labs
    /// left behind.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn new() -> Result<Self> {
        JANITOR.call_once(clean_up_after_the_dead);
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Self { directory, name })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The unique name, fit for a cgroup or a cluster token.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory inside, made if it is missing.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Notes a control group whose name does not tell whose it is, for the janitor, should this lab be killed.
    ///
    /// # Errors
    /// When the note can't be written.
    pub fn remember_cgroup(&self, path: &Path) -> Result<()> {
        let mut notes = fs::OpenOptions::new().create(true).append(true).open(self.directory.join(GROUPS))?;
        writeln!(notes, "{}", path.display()).context("note a control group")
    }

    /// The end of every log in this place, for a person who wants to know why something failed.
    pub fn log_tails(&self, lines: usize) -> String {
        let mut logs: Vec<PathBuf> = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
            .collect();
        logs.sort();
        logs.iter().map(|path| format!("---- {}\n{}\n", path.display(), tail(path, lines))).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        disk::unmount_below(&self.directory);
        if std::env::var_os("ETCD_MONITOR_KEEP").is_some() {
            eprintln!("kept {}", self.directory.display());
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("remove {}: {error}", self.directory.display());
        }
    }
}

/// The last lines of a file; what can't be read is said instead.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({error})"),
    }
}

/// A TCP port on 127.0.0.1 that nobody uses and that this process will not hand out again.
///
/// # Errors
/// When no port is free.
pub fn free_port() -> Result<u16> {
    let mut guard = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = guard.get_or_insert_default();
    for _attempt in 0..1_000 {
        let port = rand::random_range(PORTS);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port in {PORTS:?}")
}

/// The process id in a name of ours, if it is one.
pub(crate) fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether a name belongs to a lab whose process is gone.
pub(crate) fn is_orphan(name: &str) -> bool {
    owner(name).is_some_and(|pid| !is_alive(pid))
}

/// A zombie that nobody waits for is dead.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).is_some_and(|state| !"ZX".contains(state))
}

/// Mounts first (they hold the loop devices, which then detach by themselves), then cgroups, then directories.
fn clean_up_after_the_dead() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if is_orphan(&entry.file_name().to_string_lossy()) {
            eprintln!("removing what a dead lab left: {}", entry.path().display());
            disk::unmount_below(&entry.path());
            disk::detach_loops_below(&entry.path());
            cgroup::remove_remembered(&fs::read_to_string(entry.path().join(GROUPS)).unwrap_or_default());
            // Best effort: somebody else's janitor may be at it too.
            let _gone = fs::remove_dir_all(entry.path());
        }
    }
    cgroup::remove_orphans();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_labs_are_orphans() {
        assert!(is_orphan("etcdmon-lab-4194305-0"), "no process can have that id");
        assert!(!is_orphan(&format!("etcdmon-lab-{}-0", std::process::id())));
        assert!(!is_orphan("somebody-else-4194305"));
        assert!(!is_orphan("etcdmon-lab-notes"));
    }

    #[test]
    fn a_place_is_gone_with_its_guard() {
        let place = Place::new().unwrap();
        let path = place.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn ports_are_never_handed_out_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }
}
