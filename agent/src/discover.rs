//! Finds the etcd processes of this node and follows their restarts.
//!
//! `/proc` is scanned twice a second. To keep that cheap on a node with thousands of processes, one that was found to
//! be something else is looked at again only on every third scan, since it may still `exec` etcd, and a kernel
//! thread never again. A new etcd is so seen within 1.5 s at worst. Where the kernel tells of new processes ([`exec`]), it is
//! seen at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcdmon_service::foreign;

use crate::patience::Patience;

pub mod container;
pub mod exec;
pub mod flags;
mod procfs;
pub mod wal;

pub use container::Placement;
pub use etcdmon_etcd::TlsFiles;
pub use flags::Options;
pub use procfs::{ProcFs, Stat};
pub use wal::MemberIdentity;

/// Pause between two scans.
pub const SCAN_PERIOD: Duration = Duration::from_millis(500);

/// A process that is not etcd is looked at again on every scan whose number is a multiple of this.
const RECHECK_EVERY: u64 = 3;

/// Largest configuration file of an etcd that is read, in bytes; real ones have a few thousand.
const CONFIGURATION_BYTES: u64 = 256 << 10;

/// One process for all time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Kernel boot that the process belongs to.
    pub boot_id: [u8; 16],
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_ticks: u64,
}

/// An etcd process and all that is known about it without asking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdProcess {
    /// Its identity.
    pub id: ProcessId,
    /// Another one each time it executes a program: it may have become another etcd.
    pub image: u64,
    /// `--name`.
    pub name: String,
    /// Data directory as etcd sees it, absolute.
    pub data_dir: PathBuf,
    /// Data directory as this process can open it.
    pub data_dir_here: PathBuf,
    /// WAL directory as this process can open it.
    pub wal_dir_here: PathBuf,
    /// `--listen-client-urls`.
    pub listen_client_urls: Vec<String>,
    /// `--advertise-client-urls`.
    pub advertise_client_urls: Vec<String>,
    /// `--listen-metrics-urls`.
    pub listen_metrics_urls: Vec<String>,
    /// `--listen-peer-urls`.
    pub listen_peer_urls: Vec<String>,
    /// `--log-outputs`, of 3.4 also `--log-output`; files as this process can open them.
    pub log_outputs: Vec<String>,
    /// `--initial-advertise-peer-urls`.
    pub peer_urls: Vec<String>,
    /// TLS of the client side.
    pub client_tls: TlsFiles,
    /// TLS of the peer side.
    pub peer_tls: TlsFiles,
    /// Cgroup, container, pod.
    pub placement: Placement,
    /// False when it runs in a network namespace of its own.
    pub shares_network: bool,
    /// What could not be read, in words.
    pub notes: Vec<String>,
    /// Among it what this process has no right to: environment, working directory.
    pub is_hidden: bool,
}

/// What a scan found to have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new etcd process.
    Appeared(Box<EtcdProcess>),
    /// A known one is gone.
    Gone(ProcessId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Kernel,
    Other,
    /// Called etcd and not to be watched, since it started then and for as long as it runs this image.
    Foreign(u64, u64),
    /// And the image that it runs.
    Etcd(ProcessId, u64),
}

/// Follows the etcd processes below one `/proc`.
#[derive(Debug)]
pub struct Discovery {
    sighter: Sighter,
    verdicts: BTreeMap<u32, Verdict>,
    scans: u64,
    pids: Vec<u32>,
}

impl Discovery {
    /// Over the tree `proc`; `only` limits it to data directories below these prefixes, empty = all.
    ///
    /// # Errors
    /// When the boot id can't be read.
    pub fn new(proc: ProcFs, only: Vec<PathBuf>) -> std::io::Result<Self> {
        let sighter = Sighter::new(proc, only)?;
        Ok(Self { sighter, verdicts: BTreeMap::new(), scans: 0, pids: Vec::new() })
    }

    /// Looks once and says what changed since the last time: what went first, then what came.
    ///
    /// # Errors
    /// When `/proc` can't be listed.
    pub fn scan(&mut self) -> std::io::Result<Vec<Change>> {
        let mut pids = std::mem::take(&mut self.pids);
        self.sighter.proc.pids(&mut pids)?;
        pids.sort_unstable();
        let mut changes = self.remove_gone(&pids);
        let recheck = self.scans.is_multiple_of(RECHECK_EVERY);
        self.scans += 1;
        for pid in &pids {
            match self.verdicts.get(pid) {
                None => changes.extend(self.judge(*pid)),
                Some(Verdict::Other) if recheck => changes.extend(self.judge(*pid)),
                _ => {}
            }
        }
        self.sighter.descriptions.keep(|process| pids.binary_search(&process.pid).is_ok());
        self.pids = pids;
        Ok(changes)
    }

    /// What tells etcd processes from others, for whoever looks at them elsewhere.
    pub fn sighter(&self) -> Sighter {
        self.sighter.clone()
    }

    /// Processes called etcd that can't be looked at because what they would be known by does not answer, and whether there
    /// are as many of them as may be waited for.
    pub fn silent(&self) -> (Vec<ProcessId>, bool) {
        self.sighter.descriptions.silent()
    }

    /// Takes a process that was found elsewhere; no change when it is known. Another etcd that has its process id is gone: the
    /// id was given anew, or the process executed another program.
    pub fn accept(&mut self, process: Box<EtcdProcess>) -> Vec<Change> {
        let verdict = Verdict::Etcd(process.id, process.image);
        match self.verdicts.insert(process.id.pid, verdict) {
            Some(known) if known == verdict => Vec::new(),
            Some(Verdict::Etcd(before, _)) => vec![Change::Gone(before), Change::Appeared(process)],
            _ => vec![Change::Appeared(process)],
        }
    }

    /// A process is said to have ended.
    pub fn ended(&mut self, pid: u32) -> Option<Change> {
        match self.verdicts.get(&pid)? {
            Verdict::Etcd(id, _) => {
                let gone = Change::Gone(*id);
                self.verdicts.remove(&pid);
                Some(gone)
            }
            _ => None,
        }
    }

    fn remove_gone(&mut self, pids: &[u32]) -> Vec<Change> {
        let mut gone = Vec::new();
        let proc = &self.sighter.proc;
        self.verdicts.retain(|pid, verdict| {
            let (start_ticks, image) = match verdict {
                Verdict::Kernel | Verdict::Other => return pids.binary_search(pid).is_ok(),
                Verdict::Foreign(start_ticks, image) => (*start_ticks, *image),
                Verdict::Etcd(id, image) => (id.start_ticks, *image),
            };
            let stat = pids.binary_search(pid).ok().and_then(|_| proc.stat(*pid));
            let lives = stat.is_some_and(|stat| stat.is(start_ticks, image) && !stat.is_dead());
            if let (false, Verdict::Etcd(id, _)) = (lives, *verdict) {
                gone.push(Change::Gone(id));
            }
            lives
        });
        gone
    }

    fn judge(&mut self, pid: u32) -> Vec<Change> {
        let verdict = match self.sighter.look(pid) {
            Sight::Nothing => return Vec::new(),
            Sight::Kernel => Verdict::Kernel,
            Sight::Other => Verdict::Other,
            Sight::Foreign(stat) => Verdict::Foreign(stat.start_ticks, stat.image),
            Sight::Etcd(process) => return self.accept(process),
        };
        self.verdicts.insert(pid, verdict);
        Vec::new()
    }
}

/// What a process is found to be.
#[derive(Debug)]
enum Sight {
    /// Gone, ending, or in the middle of exec: look again on the next scan.
    Nothing,
    Kernel,
    Other,
    /// etcd outside the data directories that are watched, or one that is no member: it prints its version, or is a proxy.
    Foreign(Stat),
    Etcd(Box<EtcdProcess>),
}

/// Tells etcd processes from others, one at a time.
#[derive(Debug, Clone)]
pub struct Sighter {
    proc: ProcFs,
    boot_id: [u8; 16],
    only: Vec<PathBuf>,
    /// Whoever is called etcd may have a memory or a configuration file that hangs whoever reads it.
    descriptions: Patience<Description>,
}

impl Sighter {
    /// Over the tree `proc`; `only` limits it to data directories below these prefixes, empty = all.
    ///
    /// # Errors
    /// When the boot id can't be read.
    pub fn new(proc: ProcFs, only: Vec<PathBuf>) -> std::io::Result<Self> {
        let boot_id = proc.boot_id()?;
        Ok(Self { proc, boot_id, only, descriptions: Patience::default() })
    }

    /// The process, if it is an etcd to be watched.
    pub fn sight(&self, pid: u32) -> Option<EtcdProcess> {
        match self.look(pid) {
            Sight::Etcd(process) => Some(*process),
            _ => None,
        }
    }

    fn look(&self, pid: u32) -> Sight {
        let Some(stat) = self.proc.stat(pid).filter(|stat| !stat.is_dead()) else { return Sight::Nothing };
        if !self.is_etcd(pid, &stat) {
            return if stat.is_kernel_thread() { Sight::Kernel } else { Sight::Other };
        }
        let id = ProcessId { boot_id: self.boot_id, pid, start_ticks: stat.start_ticks };
        let (proc, image) = (self.proc.clone(), stat.image);
        match self.descriptions.ask(id, move || describe(&proc, id, image)) {
            None | Some(Description::Nothing) => Sight::Nothing,
            Some(Description::NoMember) => Sight::Foreign(stat),
            Some(Description::Member(process)) if self.is_watched(&process.data_dir) => Sight::Etcd(process),
            Some(Description::Member(_)) => Sight::Foreign(stat),
        }
    }

    fn is_watched(&self, data_dir: &Path) -> bool {
        self.only.is_empty() || self.only.iter().any(|prefix| data_dir.starts_with(prefix))
    }

    fn is_etcd(&self, pid: u32, stat: &Stat) -> bool {
        if stat.comm == "etcd" {
            return true;
        }
        // Reading links and command lines of every process would be dear: only names that begin alike are looked into.
        if !stat.comm.starts_with("etcd")
            || stat.comm.starts_with("etcdctl")
            || stat.comm.starts_with("etcdutl")
        {
            return false;
        }
        let exe = self.proc.link(pid, "exe");
        exe.as_deref().and_then(Path::file_name).is_some_and(|name| name == "etcd")
    }
}

/// What a process's files tell.
#[derive(Debug)]
enum Description {
    /// It has no command line yet, or executed another program meanwhile.
    Nothing,
    NoMember,
    Member(Box<EtcdProcess>),
}

/// All that the files of a process tell that runs this image.
fn describe(proc: &ProcFs, id: ProcessId, image: u64) -> Description {
    let mut notes = Vec::new();
    let Some(command_line) = proc.read(id.pid, "cmdline").ok().filter(|line| !line.is_empty()) else {
        return Description::Nothing;
    };
    if !flags::is_member(&command_line) {
        return Description::NoMember;
    }
    let mut is_hidden = false;
    let environment = proc.read(id.pid, "environ").unwrap_or_else(|error| {
        is_hidden |= error.kind() == std::io::ErrorKind::PermissionDenied;
        notes.push(format!("environment of etcd not readable: {error}"));
        Vec::new()
    });
    let cwd = std::fs::read_link(proc.path(id.pid, "cwd")).unwrap_or_else(|error| {
        is_hidden |= error.kind() == std::io::ErrorKind::PermissionDenied;
        notes.push(format!("working directory of etcd not readable: {error}"));
        PathBuf::from("/")
    });
    let mut options = Options::from_process(&command_line, &environment);
    if let Some(file) = options.value("config-file") {
        let path = proc.through_root(id.pid, &cwd.join(file));
        let read = foreign::read_to_string(&path, CONFIGURATION_BYTES).map_err(|error| error.to_string());
        match read.and_then(|text| Options::from_file(&text)) {
            Ok(from_file) => options = from_file,
            Err(error) => notes.push(format!("configuration file {}: {error}", path.display())),
        }
    }
    let mut process = from_options(proc, id, &options, &cwd, notes);
    (process.image, process.is_hidden) = (image, is_hidden);
    let now = proc.stat(id.pid);
    match now.is_some_and(|stat| stat.is(id.start_ticks, image)) {
        true => Description::Member(Box::new(process)),
        false => Description::Nothing,
    }
}

fn from_options(
    proc: &ProcFs,
    id: ProcessId,
    options: &Options,
    cwd: &Path,
    notes: Vec<String>,
) -> EtcdProcess {
    let name = options.value("name").unwrap_or("default").to_owned();
    let data_dir = match options.value("data-dir") {
        Some(directory) => cwd.join(directory),
        None => cwd.join(format!("{name}.etcd")),
    };
    let wal_dir = match options.value("wal-dir") {
        Some(directory) => cwd.join(directory),
        None => data_dir.join("member/wal"),
    };
    let here = |path: &Path| proc.through_root(id.pid, path);
    let tls = |prefix: &str| {
        let file = |key: &str| options.value(&format!("{prefix}{key}")).map(|path| here(&cwd.join(path)));
        let mut files =
            TlsFiles { cert: file("cert-file"), key: file("key-file"), ca: file("trusted-ca-file") };
        if options.is_on(&format!("{prefix}auto-tls")) && files.cert.is_none() {
            // etcd makes itself a certificate here (`embed/config.go` ClientSelfCert, PeerSelfCert).
            let fixtures = data_dir.join("fixtures").join(if prefix.is_empty() { "client" } else { "peer" });
            files.cert = Some(here(&fixtures.join("cert.pem")));
            files.key = Some(here(&fixtures.join("key.pem")));
        }
        files
    };
    let urls = |key: &str, default: &str| {
        let found = options.parts(key);
        if found.is_empty() && !default.is_empty() { vec![default.to_owned()] } else { found }
    };
    let placement = proc.read(id.pid, "cgroup").unwrap_or_default();
    EtcdProcess {
        id,
        image: 0,
        listen_client_urls: urls("listen-client-urls", "http://localhost:2379"),
        advertise_client_urls: urls("advertise-client-urls", "http://localhost:2379"),
        listen_metrics_urls: urls("listen-metrics-urls", ""),
        listen_peer_urls: urls("listen-peer-urls", "http://localhost:2380"),
        log_outputs: log_outputs(options)
            .into_iter()
            .map(|output| here_or_name(output, cwd, &here))
            .collect(),
        peer_urls: urls("initial-advertise-peer-urls", "http://localhost:2380"),
        client_tls: tls(""),
        peer_tls: tls("peer-"),
        placement: Placement::parse(&String::from_utf8_lossy(&placement)),
        shares_network: proc.shares_network(id.pid),
        data_dir_here: here(&data_dir),
        wal_dir_here: here(&wal_dir),
        name,
        data_dir,
        notes,
        is_hidden: false,
    }
}

/// Where etcd writes its log, in its own words.
fn log_outputs(options: &Options) -> Vec<String> {
    let named = options.parts("log-outputs");
    if named.is_empty() { options.parts("log-output") } else { named }
}

/// Names of streams stay as they are, files become paths of this process.
fn here_or_name(output: String, cwd: &Path, here: &impl Fn(&Path) -> PathBuf) -> String {
    match output.as_str() {
        "default" | "stdout" | "stderr" | "systemd/journal" => output,
        file => here(&cwd.join(file)).display().to_string(),
    }
}

#[cfg(test)]
mod tests;
