//! Real etcd: our counts against perf's and etcd's own.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcdmon_proto::v1::{FileClass, Hook};

use crate::{
    config,
    disk::{Disk, Kind},
    set_up, syncs,
};

const DEADLINE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(2);

fn tools() -> PathBuf {
    let cache = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let named = std::env::var_os("ETCD_MONITOR_TOOLS").map(PathBuf::from);
    named.or_else(|| Some(cache().or_else(home)?.join("etcd-monitor"))).unwrap_or_default()
}

/// Ends with the value, by SIGKILL.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

struct Etcd {
    process: Running,
    port: u16,
}

impl Etcd {
    fn start(binary: &Path, disk: &Disk) -> Self {
        let (port, peer) = (free_port(), free_port());
        let (client_url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let log = File::create(disk.directory().join("log")).expect("create");
        let process = Command::new(binary)
            .arg("--data-dir")
            .arg(disk.directory())
            .args(["--name", "one", "--logger", "zap"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .args(["--initial-cluster-token", &format!("probes-{port}")])
            .stderr(log.try_clone().expect("duplicate"))
            .stdout(log)
            .spawn()
            .expect("start etcd");
        let etcd = Self { process: Running(process), port };
        let begin = Instant::now();
        while etcd.metric("etcd_server_has_leader ") != Some(1.0) {
            assert!(begin.elapsed() < DEADLINE, "etcd has no leader");
            std::thread::sleep(Duration::from_millis(50));
        }
        etcd
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    fn wal_syncs(&self) -> u64 {
        self.metric("etcd_disk_wal_fsync_duration_seconds_count ").expect("etcd has it") as u64
    }

    fn load(&self, benchmark: &Path) {
        let endpoint = format!("127.0.0.1:{}", self.port);
        let status = Command::new(benchmark)
            .args(["--endpoints", &endpoint, "--clients", "8", "--conns", "2"])
            .stderr(Stdio::null())
            .args(["put", "--total", "6000", "--val-size", "256", "--key-space-size", "2000"])
            .stdout(Stdio::null())
            .status()
            .expect("run the load");
        assert!(status.success());
    }
}

/// `perf stat` on one process, with a tracefs that nobody else sees.
struct Perf(Child);

impl Perf {
    fn start(pid: u32) -> Option<Self> {
        let script = "mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec perf stat -x, \
                      -e syscalls:sys_enter_fsync -e syscalls:sys_enter_fdatasync -p \"$0\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        // perf says nothing when it has begun; the idle time before the load covers it.
        std::thread::sleep(IDLE);
        Some(Self(child))
    }

    fn count(mut self) -> Option<u64> {
        // SAFETY: a child of ours that we have not waited for.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGINT) };
        let mut said = String::new();
        self.0.stderr.take()?.read_to_string(&mut said).ok()?;
        let _ = self.0.wait();
        let counts: Vec<u64> = said
            .lines()
            .filter(|line| line.contains("syscalls:"))
            .filter_map(|line| line.split(',').next()?.parse().ok())
            .collect();
        (counts.len() == 2).then(|| counts.iter().sum())
    }
}

fn agrees(version: &str, kind: Kind, hook: Hook) {
    let binary = tools().join("etcd").join(version).join("etcd");
    let benchmark = tools().join("benchmark/3.7.1/benchmark");
    if !binary.exists() || !benchmark.exists() {
        eprintln!("skipped: no {} or {}; run `cargo xtask setup`", binary.display(), benchmark.display());
        return;
    }
    let Some((probes, disk)) = set_up(kind, &config(100, Duration::from_millis(10))) else { return };
    let etcd = Etcd::start(&binary, &disk);
    let watch = probes.add_target(etcd.pid(), &[disk.directory()]).expect("watched");
    assert_eq!(watch.hook, hook);
    let perf = Perf::start(etcd.pid());
    std::thread::sleep(IDLE);
    // A sync that was under way when we came has no begin.
    let losses = crate::lost(&probes);
    let (before, wal_before) = (probes.snapshot(etcd.pid()).expect("watched"), etcd.wal_syncs());
    etcd.load(&benchmark);
    std::thread::sleep(IDLE);
    let (after, wal_after) = (probes.snapshot(etcd.pid()).expect("watched"), etcd.wal_syncs());
    let counted = after.since(&before);
    let of = |class| syncs(&counted, class);
    eprintln!("{version} on {kind:?}: {} syncs, {} of the WAL", counted.syncs(), of(FileClass::Wal));
    assert!(of(FileClass::Wal) > 100 && of(FileClass::Backend) > 0);
    assert_eq!(of(FileClass::Wal) + of(FileClass::Directory), wal_after - wal_before, "etcd's own count");
    assert_eq!(of(FileClass::Other), 0);
    assert_eq!(crate::lost(&probes), losses);
    match perf.and_then(Perf::count) {
        // perf began between our first and second look, when etcd did nothing but now and then a commit of its backend.
        Some(count) => assert!(
            (counted.syncs()..=after.syncs()).contains(&count),
            "perf saw {count}, we {} to {}",
            counted.syncs(),
            after.syncs()
        ),
        None => eprintln!("not compared with perf: it can't be run here"),
    }
}

#[test]
fn etcd_3_4_on_ext4_agrees_with_its_own_count() {
    agrees("3.4.23", Kind::Ext4, Hook::Filesystem);
}

#[test]
fn etcd_3_5_on_ext4_agrees_with_its_own_count() {
    agrees("3.5.35", Kind::Ext4, Hook::Filesystem);
}

#[test]
fn etcd_3_6_on_ext4_agrees_with_its_own_count() {
    agrees("3.6.16", Kind::Ext4, Hook::Filesystem);
}

#[test]
fn etcd_3_7_on_ext4_agrees_with_its_own_count() {
    agrees("3.7.3", Kind::Ext4, Hook::Filesystem);
}

#[test]
fn etcd_3_6_on_xfs_agrees_with_its_own_count() {
    agrees("3.6.16", Kind::Xfs, Hook::Syscall);
}
