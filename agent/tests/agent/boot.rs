//! Etcds that do not start, each for a real reason: the verdict names it within ten seconds, with and without a log.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, Running};
use crate::support::etcd::{Etcd, VERSIONS, free_port, programs};
use crate::support::{is_root, wait_for};

/// The product's promise, from the end of the process (or its start, when it waits) to the aggregator.
const PROMISE: Duration = Duration::from_secs(10);

const LIMIT: Duration = Duration::from_secs(60);

/// A user that is not root.
const NOBODY: u32 = 65_534;

/// How long a verdict is waited for before the etcd is started once more.
const CRASH_LOOP: Duration = Duration::from_secs(5);

/// Starts of one that is not told of.
const STARTS: usize = 4;

/// An etcd that is not expected to serve; ended when dropped.
struct Failing {
    command: Command,
    child: Child,
    data_dir: PathBuf,
}

impl Drop for Failing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One version's etcds below one directory, which one agent watches.
struct Stand {
    version: &'static str,
    program: PathBuf,
    directory: tempfile::TempDir,
    server: Running,
    _agent: Agent,
}

impl Stand {
    fn new(version: &'static str) -> Option<Self> {
        let programs = programs(version)?;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // A copy that any user can run.
        let copy = directory.path().join("bin");
        fs::create_dir(&copy).unwrap();
        fs::copy(programs.join("etcd"), copy.join("etcd")).unwrap();
        let server = Aggregator::start();
        let agent = Agent::start(directory.path(), server.address, &["--probe-enabled=false"]);
        Some(Self { version, program: copy.join("etcd"), directory, server, _agent: agent })
    }

    fn path(&self, case: &str) -> PathBuf {
        self.directory.path().join(case)
    }

    /// Data of an etcd that ran well and took some writes.
    fn good(&self) -> Option<PathBuf> {
        let home = self.path("good");
        fs::create_dir(&home).unwrap();
        let etcd = Etcd::start_with(self.version, &home, &["--snapshot-count=10"])?;
        etcd.put(25);
        drop(etcd);
        Some(home.join("data"))
    }

    /// Files of a certificate that signs itself, valid from the begin of one year to that of another, and of its key.
    fn certificate(&self, name: &str, from: i32, to: i32) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        let files = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        fs::write(&files.0, parameters.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// Starts an etcd of one member with `data_dir`, its log in a file beside it unless `silent`.
    fn start(&self, data_dir: &Path, more: &[String], silent: bool, user: u32) -> Failing {
        use std::os::unix::process::CommandExt as _;
        let (client, peer) = (free_port(), free_port());
        let mut arguments = vec![
            "--name=m1".to_owned(),
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=m1=http://127.0.0.1:{peer}"),
        ];
        // The last flag of a name counts.
        arguments.extend_from_slice(more);
        let output = |silent: bool| match silent {
            true => Stdio::null(),
            false => {
                File::options().create(true).append(true).open(data_dir.with_extension("log")).unwrap().into()
            }
        };
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.directory.path()).uid(user);
        command.stdin(Stdio::null()).stdout(output(silent)).stderr(output(silent));
        let child = command.spawn().unwrap();
        Failing { command, child, data_dir: data_dir.to_owned() }
    }

    /// The verdict on that etcd, as far as it is told.
    fn verdict(&self, etcd: &Failing) -> Option<serde_json::Value> {
        let told = self.server.aggregator.told();
        told.into_iter().find_map(|(kind, details)| {
            (kind == "etcd.boot_failed" && details["data_dir"] == etcd.data_dir.to_str().unwrap())
                .then_some(details)
        })
    }

    /// Waits for the verdict on that etcd and checks it.
    fn expect(&self, etcd: &Failing, cause: &str, since: Instant) -> serde_json::Value {
        let what = format!("{}: {cause} of {}", self.version, etcd.data_dir.display());
        let found = wait_for(&what, LIMIT, || self.verdict(etcd));
        let took = since.elapsed();
        println!("{what}: after {took:?}: {} ({})", found["evidence"], found["exit"]);
        assert_eq!(found["cause"], cause, "{what}: {found}");
        assert!(took < PROMISE, "{what}: {took:?}");
        assert!(!found["next_step"].as_str().unwrap().is_empty(), "{found}");
        found
    }

    /// Runs it to its end and expects the verdict. Who lives for some milliseconds may be gone before a busy machine lets the
    /// agent look: it is started again then, as a supervisor does.
    fn fails(&self, cause: &str, mut etcd: Failing) -> serde_json::Value {
        let what = format!("{}: {cause}: end", self.version);
        for start in 1.. {
            wait_for(&what, LIMIT, || etcd.child.try_wait().unwrap());
            let ended = Instant::now();
            while ended.elapsed() < CRASH_LOOP && self.verdict(&etcd).is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            if start == STARTS || self.verdict(&etcd).is_some() {
                return self.expect(&etcd, cause, ended);
            }
            etcd.child = etcd.command.spawn().unwrap();
        }
        unreachable!("it has so many starts");
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// The newest file of a directory with this ending.
fn newest(directory: &Path, ending: &str) -> PathBuf {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_str().unwrap().ends_with(ending)).max().unwrap()
}

/// Flips a byte of the last record that holds `needle`.
fn flip(file: &Path, needle: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let bytes = fs::read(file).unwrap();
    let at = memchr::memmem::rfind(&bytes, needle).unwrap();
    let open = File::options().write(true).open(file).unwrap();
    open.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
}

/// All versions, two at a time: each has a dozen etcds of its own, one after the other, and waits for most of them.
fn on_every_version(test: impl Fn(&Stand) + Sync) {
    let test = |version| Stand::new(version).iter().for_each(&test);
    for versions in VERSIONS.chunks(2) {
        std::thread::scope(|scope| {
            for version in versions {
                scope.spawn(|| test(version));
            }
        });
    }
}

#[test]
fn broken_data_and_flags_are_told_by_the_log() {
    on_every_version(|stand| {
        let Some(good) = stand.good() else { return };
        let case = |name: &str| {
            let path = stand.path(name);
            copy(&good, &path);
            path
        };
        let data = case("crc");
        flip(&newest(&data.join("member/wal"), ".wal"), b"key2");
        let told = stand.fails("wal_crc_mismatch", stand.start(&data, &[], false, 0));
        assert!(told["evidence"].as_str().unwrap().contains("crc mismatch"), "{told}");
        // A crash loop: counted, told once, and over when it serves.
        stand.fails("wal_crc_mismatch", stand.start(&data, &[], false, 0));
        let failures = || {
            let live = stand.server.aggregator.live()?;
            let member = live.members.into_iter().find(|member| {
                member.member.as_ref().is_some_and(|member| member.data_dir == data.to_str().unwrap())
            })?;
            member.boot_failure.filter(|failure| failure.failures == 2)
        };
        let failure = wait_for("two failures are live", LIMIT, failures);
        assert_eq!(failure.cause, "wal_crc_mismatch");
        let count =
            |kind: &str| stand.server.aggregator.told().iter().filter(|(found, _)| found == kind).count();
        assert_eq!(count("etcd.boot_failed"), 1);
        fs::remove_dir_all(data.join("member")).unwrap();
        let mended = stand.start(&data, &[], false, 0);
        wait_for("recovered", LIMIT, || (count("etcd.boot_recovered") == 1).then_some(()));
        wait_for("live again", LIMIT, || {
            let live = stand.server.aggregator.live()?;
            live.members.iter().all(|member| member.boot_failure.is_none()).then_some(())
        });
        drop(mended);

        let data = case("db");
        fs::write(data.join("member/snap/db"), vec![0xee; 20_000]).unwrap();
        stand.fails("db_corrupt", stand.start(&data, &[], false, 0));
        let data = case("nodb");
        fs::remove_file(data.join("member/snap/db")).unwrap();
        stand.fails("snapshot_missing", stand.start(&data, &[], false, 0));
        let data = case("empty-wal");
        for entry in fs::read_dir(data.join("member/wal")).unwrap() {
            File::create(entry.unwrap().path()).unwrap();
        }
        stand.fails("wal_corrupt", stand.start(&data, &[], false, 0));
        stand.fails("flags", stand.start(&stand.path("flag"), &["--no-such-flag".to_owned()], false, 0));
        let other = ["--initial-cluster=other=http://127.0.0.1:1".to_owned()];
        stand.fails("initial_cluster", stand.start(&stand.path("cluster"), &other, false, 0));
        let existing = [
            "--initial-cluster-state=existing".to_owned(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2".to_owned(),
            "--initial-cluster=m1=http://127.0.0.1:2,m2=http://127.0.0.1:1".to_owned(),
        ];
        stand.fails("cluster_unreachable", stand.start(&stand.path("alone"), &existing, false, 0));
    });
}

#[test]
fn ports_certificates_rights_space_and_locks_are_told_without_a_log() {
    if !is_root("ports_certificates_rights_space_and_locks_are_told_without_a_log") {
        return;
    }
    on_every_version(|stand| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        for silent in [true, false] {
            let urls = [
                format!("--listen-peer-urls=http://127.0.0.1:{port}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{port}"),
                format!("--initial-cluster=m1=http://127.0.0.1:{port}"),
            ];
            let data = stand.path(&format!("port-{silent}"));
            let told = stand.fails("port_taken", stand.start(&data, &urls, silent, 0));
            let who = format!("pid {}", std::process::id());
            assert!(told.to_string().contains(&who), "{told}");
        }

        let (own, _) = stand.certificate("own", 2020, 2040);
        let (_, foreign_key) = stand.certificate("foreign", 2020, 2040);
        let (old, old_key) = stand.certificate("old", 2020, 2021);
        let tls = |cert: &Path, key: &Path| {
            let port = free_port();
            [
                format!("--cert-file={}", cert.display()),
                format!("--key-file={}", key.display()),
                format!("--listen-client-urls=https://127.0.0.1:{port}"),
                format!("--advertise-client-urls=https://127.0.0.1:{port}"),
            ]
        };
        for silent in [true, false] {
            let data = stand.path(&format!("key-{silent}"));
            let etcd = stand.start(&data, &tls(&own, &foreign_key), silent, 0);
            stand.fails("certificate_key_mismatch", etcd);
        }
        // etcd serves with it, but nobody accepts it.
        let expired = stand.start(&stand.path("expired"), &tls(&old, &old_key), true, 0);
        stand.expect(&expired, "certificate_expired", Instant::now());

        for silent in [true, false] {
            let rights = stand.path(&format!("rights-{silent}"));
            fs::create_dir(&rights).unwrap();
            fs::set_permissions(&rights, fs::Permissions::from_mode(0o700)).unwrap();
            stand.fails("data_dir_rights", stand.start(&rights, &[], silent, NOBODY));

            let full = Mount::new(&stand.path(&format!("full-{silent}")));
            stand.fails("disk_full", stand.start(&full.0.join("data"), &[], silent, 0));
        }

        // The second one waits for the first to end.
        let shared = stand.path("shared");
        let _first = stand.start(&shared, &[], true, 0);
        wait_for("the first has its backend", LIMIT, || shared.join("member/snap/db").exists().then_some(()));
        let second = stand.start(&shared, &[], false, 0);
        let told = stand.expect(&second, "lock_held", Instant::now());
        assert!(told.to_string().contains("is locked by pid"), "{told}");
    });
}

/// A small filesystem of its own; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let mut command = Command::new("mount");
        let status = command.args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(path).status().unwrap();
        assert!(status.success());
        Self(path.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
