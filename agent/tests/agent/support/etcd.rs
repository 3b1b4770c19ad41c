//! A single etcd of a chosen version, and questions to it that do not go through our own code.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wait_for;

/// Versions that the tests run on, as the tools directory names them.
pub const VERSIONS: [&str; 4] = ["3.4.23", "3.5.35", "3.6.16", "3.7.3"];

/// Directory of a version's programs; `None`, with a word, when it is not installed.
pub fn programs(version: &str) -> Option<PathBuf> {
    let tools = std::env::var_os("ETCD_MONITOR_TOOLS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        cache.map(|cache| cache.join("etcd-monitor"))
    })?;
    let found = tools.join("etcd").join(version);
    if found.join("etcd").exists() {
        return Some(found);
    }
    eprintln!("SKIPPED: no etcd {version} in {}: run cargo xtask setup", found.display());
    None
}

/// Without a sync for so long, what etcd does by itself at its start is over.
const REST: Duration = Duration::from_millis(1500);

#[derive(Debug)]
pub struct Etcd {
    pub child: Child,
    pub client_port: u16,
    programs: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    pub fn start(version: &str, directory: &Path) -> Option<Self> {
        Self::start_with(version, directory, &[])
    }

    /// With further flags.
    pub fn start_with(version: &str, directory: &Path, more: &[&str]) -> Option<Self> {
        let programs = programs(version)?;
        let (client, peer) = (free_port(), free_port());
        let mut arguments: Vec<String> = vec![
            "--name=m1".into(),
            "--data-dir".into(),
            directory.join("data").display().to_string(),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=m1=http://127.0.0.1:{peer}"),
            format!("--initial-cluster-token=t{client}{peer}"),
        ];
        arguments.extend(more.iter().map(|argument| argument.replace("{client}", &client.to_string())));
        let child = Self::spawn(&programs, &arguments, directory);
        let etcd = Self { child, client_port: client, programs, arguments, directory: directory.into() };
        if !more.iter().any(|argument| argument.contains("https")) {
            etcd.wait_until_ready();
        }
        Some(etcd)
    }

    fn spawn(programs: &Path, arguments: &[String], directory: &Path) -> Child {
        let log =
            std::fs::File::options().create(true).append(true).open(directory.join("etcd.log")).unwrap();
        Command::new(programs.join("etcd"))
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait_until_ready(&self) {
        wait_for("etcd has a leader", Duration::from_secs(20), || {
            self.metric("etcd_server_has_leader").filter(|value| *value == 1.0)
        });
        // A fresh leader still agrees on the cluster's version with itself: that is over once no sync was added for a while.
        let mut quiet_since = (self.wal_syncs(), Instant::now());
        wait_for("etcd is at rest", Duration::from_secs(30), || {
            let syncs = self.wal_syncs();
            if syncs != quiet_since.0 {
                quiet_since = (syncs, Instant::now());
            }
            (quiet_since.1.elapsed() > REST).then_some(())
        });
    }

    /// kill -9 and start anew with the same flags.
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Self::spawn(&self.programs, &self.arguments, &self.directory);
        self.wait_until_ready();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// etcdctl with its output.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.programs.join("etcdctl"))
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{}", self.client_port))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether etcdctl succeeds.
    pub fn try_ctl(&self, arguments: &[&str]) -> bool {
        let output = Command::new(self.programs.join("etcdctl"))
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{}", self.client_port))
            .args(arguments)
            .output();
        output.unwrap().status.success()
    }

    pub fn put(&self, count: usize) {
        for number in 0..count {
            self.ctl(&["put", &format!("key{number}"), "value"]);
        }
    }

    /// Puts, one after the other, until the result is dropped.
    pub fn load(&self) -> Load {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (flag, port, ctl) = (stop.clone(), self.client_port, self.programs.join("etcdctl"));
        let thread = std::thread::spawn(move || {
            while !flag.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = Command::new(&ctl)
                    .env("ETCDCTL_API", "3")
                    .args([&format!("--endpoints=127.0.0.1:{port}"), "put", "load", "value"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
            }
        });
        Load { stop, thread: Some(thread) }
    }

    /// The first sample of a metric, by a request of the test's own.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = http_get(self.client_port, "/metrics").ok()?;
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// etcd's own count of WAL syncs.
    pub fn wal_syncs(&self) -> u64 {
        self.metric("etcd_disk_wal_fsync_duration_seconds_count").unwrap() as u64
    }
}

pub struct Load {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A plain HTTP/1.0 GET.
pub fn http_get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
