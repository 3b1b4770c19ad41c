//! Where the log of an etcd process is.
//!
//! etcd's own settings come first: a file that `--log-outputs` names. Else its standard error and output tell by what they are: a
//! regular file; journald's socket, proved by `JOURNAL_STREAM`; or a pipe to a container runtime, which writes
//! `/var/log/pods/<namespace>_<pod>_<uid>/<container>/<restart>.log`. What goes to journald is read in journald's own files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::journal::{self, Owner};
use crate::discover::{EtcdProcess, ProcFs};

/// Where container logs and journals of this node are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `/var/log/pods`.
    pub pods: PathBuf,
    /// Docker's containers, a directory each.
    pub docker: PathBuf,
    /// Directories in which journald has one of the machine.
    pub journals: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            pods: "/var/log/pods".into(),
            docker: "/var/lib/docker/containers".into(),
            journals: vec!["/var/log/journal".into(), "/run/log/journal".into()],
        }
    }
}

/// A place to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file that etcd writes itself.
    File(PathBuf),
    /// The newest `<n>.log` of this directory, written by a container runtime.
    Container(PathBuf),
    /// One file of a container runtime.
    ContainerFile(PathBuf),
    /// What this owner writes to journald, in its files below these directories.
    Journal(Owner, Vec<PathBuf>),
}

impl Source {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::File(path) | Self::ContainerFile(path) => path.display().to_string(),
            Self::Container(directory) => format!("{}/<n>.log", directory.display()),
            Self::Journal(Owner::Unit(unit), _) => format!("journald (unit {unit})"),
            Self::Journal(Owner::Process(pid), _) => format!("journald (pid {pid})"),
        }
    }
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Why.
    pub reason: String,
    /// What would help.
    pub remedy: String,
}

/// Without a word of its own on what would help.
impl From<String> for Missing {
    fn from(reason: String) -> Self {
        let remedy = "let etcd log to a file (--log-outputs=stderr,/var/log/etcd.log), to journald, or run it under \
                      Kubernetes, and give the agent /var/log";
        Self { reason, remedy: remedy.to_owned() }
    }
}

/// All places that the process's log goes to, without doubles.
///
/// # Errors
/// Reason and remedy when there is none that can be read.
pub fn find(proc: &ProcFs, process: &EtcdProcess, places: &Places) -> Result<Vec<Source>, Missing> {
    let mut found: Vec<Source> = Vec::new();
    let mut faults: Vec<Missing> = Vec::new();
    let outputs = match process.log_outputs.as_slice() {
        [] => &["default".to_owned()][..],
        named => named,
    };
    for output in outputs {
        let source = match output.as_str() {
            "default" | "stderr" => stream(proc, process, 2, places),
            "stdout" => stream(proc, process, 1, places),
            "systemd/journal" => journald(process, places),
            file => named(file),
        };
        match source {
            Ok(source) if !found.contains(&source) => found.push(source),
            Ok(_) => {}
            Err(fault) => faults.push(fault),
        }
    }
    if found.is_empty() {
        let reasons: Vec<&str> = faults.iter().map(|fault| fault.reason.as_str()).collect();
        return Err(Missing {
            reason: format!("log of etcd (pid {}) can't be read: {}", process.id.pid, reasons.join("; ")),
            remedy: faults.into_iter().next().map(|fault| fault.remedy).unwrap_or_default(),
        });
    }
    Ok(found)
}

/// A file of the flags; it may come into being later.
fn named(file: &str) -> Result<Source, Missing> {
    match std::fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() => Err(format!("{file} is no regular file").into()),
        _ => Ok(Source::File(PathBuf::from(file))),
    }
}

fn stream(proc: &ProcFs, process: &EtcdProcess, fd: u32, places: &Places) -> Result<Source, Missing> {
    let pid = process.id.pid;
    let name = if fd == 1 { "standard output" } else { "standard error" };
    let link = proc
        .link(pid, &format!("fd/{fd}"))
        .ok_or_else(|| format!("{name} is closed, or /proc/{pid}/fd is not readable"))?;
    let target = link.to_string_lossy().into_owned();
    if target.starts_with("socket:") {
        if !is_journal(proc, pid, &target) {
            return Err(format!("descriptor {fd} is a socket that is not journald's").into());
        }
        return journald(process, places);
    }
    if target.starts_with("pipe:") {
        return container(process, places).ok_or_else(|| {
            let places = places.pods.display();
            format!("{name} is a pipe, and no log of a container was found in {places}").into()
        });
    }
    if !target.starts_with('/') || target.starts_with("/dev/") {
        return Err(format!("{name} is {target}").into());
    }
    let path = proc.through_root(pid, &link);
    let magic = proc.path(pid, &format!("fd/{fd}"));
    let same = matches!((std::fs::metadata(&path), std::fs::metadata(&magic)), (Ok(by_name), Ok(open))
        if (by_name.dev(), by_name.ino()) == (open.dev(), open.ino()));
    // Opened before the container's root was what it is, or removed: only the descriptor leads to it.
    Ok(Source::File(if same { path } else { magic }))
}

/// journald marks the streams that it made by device and inode.
fn is_journal(proc: &ProcFs, pid: u32, target: &str) -> bool {
    let environment = proc.read(pid, "environ").unwrap_or_default();
    let marked = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"JOURNAL_STREAM="))
        .map(|value| String::from_utf8_lossy(value).into_owned());
    let inode = target.trim_start_matches("socket:[").trim_end_matches(']');
    marked.as_deref().and_then(|marked| marked.split_once(':')).map(|(_, ino)| ino) == Some(inode)
}

/// A service has the lines of all its processes, one after the other. In a scope, such as a session, others write as well.
fn journald(process: &EtcdProcess, places: &Places) -> Result<Source, Missing> {
    let owner = match service(&process.placement.cgroup) {
        Some(unit) => Owner::Unit(unit.to_owned()),
        None => Owner::Process(process.id.pid),
    };
    let source = Source::Journal(owner, places.journals.clone());
    journal::check(&places.journals).map_err(|missing| Missing {
        reason: format!("it goes to {}, and {}", source.describe(), missing.reason),
        ..missing
    })?;
    Ok(source)
}

/// The service a cgroup belongs to, unless it is in a scope.
fn service(cgroup: &str) -> Option<&str> {
    let unit = cgroup.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
    unit.ends_with(".service").then_some(unit)
}

fn container(process: &EtcdProcess, places: &Places) -> Option<Source> {
    let placement = &process.placement;
    if !placement.pod_uid.is_empty()
        && let Some(pod) = pod_directory(&places.pods, &placement.pod_uid)
    {
        return container_directory(&pod).map(Source::Container);
    }
    if placement.container_id.is_empty() {
        return None;
    }
    let id = &placement.container_id;
    let docker = places.docker.join(id).join(format!("{id}-json.log"));
    docker.exists().then_some(Source::ContainerFile(docker))
}

/// `<namespace>_<pod>_<uid>`.
fn pod_directory(pods: &Path, uid: &str) -> Option<PathBuf> {
    let ends = format!("_{uid}");
    let mut entries = std::fs::read_dir(pods).ok()?.filter_map(Result::ok);
    entries.find(|entry| entry.file_name().to_string_lossy().ends_with(&ends)).map(|entry| entry.path())
}

/// The container that is etcd: the one called so, else one whose name holds it, else the only one.
fn container_directory(pod: &Path) -> Option<PathBuf> {
    let mut names: Vec<String> = std::fs::read_dir(pod)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_by_key(|name| (name != "etcd", !name.contains("etcd"), name.clone()));
    match names.as_slice() {
        [first, ..] if first.contains("etcd") => Some(pod.join(first)),
        [only] => Some(pod.join(only)),
        _ => None,
    }
}

/// The newest `<n>.log` of a container's directory: the one of its newest start.
pub fn newest_log(directory: &Path) -> Option<PathBuf> {
    let numbered = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let number: u64 = name.to_str()?.strip_suffix(".log")?.parse().ok()?;
        Some((number, entry.path()))
    };
    let entries = std::fs::read_dir(directory).ok()?;
    entries.filter_map(|entry| numbered(entry.ok()?)).max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests;
