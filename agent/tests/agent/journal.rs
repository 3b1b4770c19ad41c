//! etcd's log in journald: a real journald, and real etcds that write to it as services do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, Running};
use crate::support::etcd::{free_port, http_get, programs};
use crate::support::journald::Journald;
use crate::support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

/// From the end of the process to the aggregator.
const PROMISE: Duration = Duration::from_secs(10);

/// A cgroup named as that of a service; gone when dropped.
struct Group(PathBuf);

impl Group {
    fn new(unit: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let place = words.next()?;
            (words.next() == Some("cgroup2")).then_some(place)
        });
        let Some(mount) = mount else {
            eprintln!("SKIPPED: no cgroup2 here");
            return None;
        };
        let path = Path::new(mount).join(format!("emtest{}.slice", std::process::id())).join(unit);
        match fs::create_dir_all(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                eprintln!("SKIPPED: no cgroup can be made here: {error}");
                None
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        let _ = fs::remove_dir(self.0.parent().unwrap());
    }
}

/// An etcd that is ended when dropped.
struct Service {
    child: Child,
    client: u16,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Runs `command`, which ends in etcd's program, on `data`.
    fn start(mut command: Command, data: &Path, more: &[&str]) -> Self {
        let (client, peer) = (free_port(), free_port());
        let child = command
            .arg("--name=m1")
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster=m1=http://127.0.0.1:{peer}"))
            .args(more)
            .current_dir(data.parent().unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, client }
    }

    /// In `group`, its standard error a stream of journald, as systemd starts a service.
    fn in_group(program: &Path, group: &Group, journald: &Journald, data: &Path, more: &[&str]) -> Self {
        let (stream, mark) = journald.stream("etcd");
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"])
            .arg(&group.0)
            .arg(program)
            .env("JOURNAL_STREAM", mark)
            .stderr(stream);
        Self::start(command, data, more)
    }

    fn serves(&self) {
        wait_for("etcd serves", LIMIT, || {
            http_get(self.client, "/health").ok().filter(|answer| answer.contains("\"true\""))
        });
    }

    fn defrag(&self, programs: &Path) {
        let status = Command::new(programs.join("etcdctl"))
            .env("ETCDCTL_API", "3")
            .args([&format!("--endpoints=127.0.0.1:{}", self.client), "defrag"])
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }
}

struct Stand {
    directory: tempfile::TempDir,
    journald: Journald,
    server: Running,
    agent: Agent,
}

impl Stand {
    fn new(test: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let journald = Journald::start(directory.path())?;
        let server = Aggregator::start();
        let [log, run] = journald.flags();
        let flags = ["--probe-enabled=false", &log, &run];
        let agent = Agent::start(directory.path(), server.address, &flags);
        Some(Self { directory, journald, server, agent })
    }

    fn count(&self, kind: &str) -> usize {
        self.server.aggregator.told().iter().filter(|(found, _)| found == kind).count()
    }

    fn expect(&self, kind: &str, count: usize) {
        wait_for(&format!("{count} of {kind}"), LIMIT, || (self.count(kind) >= count).then_some(()));
        assert_eq!(self.count(kind), count, "{kind}");
    }
}

#[test]
fn a_service_is_read_through_flush_rotation_restart_and_failure() {
    let Some(stand) = Stand::new("a_service_is_read_through_flush_rotation_restart_and_failure") else {
        return;
    };
    let Some(programs) = programs("3.6.16") else { return };
    let Some(group) = Group::new("etcd.service") else { return };
    let program = programs.join("etcd");
    let data = stand.directory.path().join("data");
    let journald = &stand.journald;
    let mut etcd = Service::in_group(&program, &group, journald, &data, &[]);
    etcd.serves();
    stand.expect("etcd.ready", 1);
    assert!(stand.agent.log().contains("journald (unit etcd.service)"), "{}", stand.agent.log());
    etcd.defrag(&programs);
    stand.expect("etcd.defrag_finished", 1);

    assert!(!journald.files("run/log/journal").is_empty(), "journald begins in /run");
    journald.flush();
    etcd.defrag(&programs);
    stand.expect("etcd.defrag_finished", 2);
    for count in 3..6 {
        journald.rotate();
        etcd.defrag(&programs);
        stand.expect("etcd.defrag_finished", count);
    }

    etcd.child.kill().unwrap();
    etcd.child.wait().unwrap();
    let (db, kept) = (data.join("member/snap/db"), stand.directory.path().join("db"));
    fs::rename(&db, &kept).unwrap();
    fs::write(&db, vec![0xee; 20_000]).unwrap();
    let mut failing = Service::in_group(&program, &group, journald, &data, &[]);
    wait_for("a start that fails", LIMIT, || failing.child.try_wait().unwrap());
    let since = Instant::now();
    stand.expect("etcd.boot_failed", 1);
    let took = since.elapsed();
    let told = stand.server.aggregator.told();
    let (_, failed) = told.iter().find(|(kind, _)| kind == "etcd.boot_failed").unwrap();
    println!("after {took:?}: {failed}");
    assert_eq!(failed["cause"], "db_corrupt");
    assert!(took < PROMISE, "{took:?}");

    fs::rename(&kept, &db).unwrap();
    let mended = Service::in_group(&program, &group, journald, &data, &[]);
    mended.serves();
    stand.expect("etcd.boot_recovered", 1);
    mended.defrag(&programs);
    stand.expect("etcd.defrag_finished", 6);
    assert_eq!(stand.count("etcd.boot_failed"), 1, "killing it was none");
}

#[test]
fn what_etcd_gives_journald_itself_is_read_without_a_service() {
    let Some(stand) = Stand::new("what_etcd_gives_journald_itself_is_read_without_a_service") else { return };
    let Some(programs) = programs("3.6.16") else { return };
    stand.journald.flush();
    let data = stand.directory.path().join("data");
    let mut command = stand.journald.inside(&programs.join("etcd"));
    command.stderr(Stdio::null());
    let etcd = Service::start(command, &data, &["--log-outputs=systemd/journal"]);
    etcd.serves();
    stand.expect("etcd.ready", 1);
    assert!(
        stand.agent.log().contains(&format!("journald (pid {})", etcd.child.id())),
        "{}",
        stand.agent.log()
    );
    etcd.defrag(&programs);
    stand.expect("etcd.defrag_finished", 1);
}

#[test]
fn a_journal_that_is_not_there_is_a_degraded_fact() {
    if !is_root("a_journal_that_is_not_there_is_a_degraded_fact") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(journald) = Journald::start(directory.path()) else { return };
    let Some(programs) = programs("3.6.16") else { return };
    let server = Aggregator::start();
    let flag = format!("--discovery-journal-dir={}", directory.path().join("none").display());
    let _agent = Agent::start(directory.path(), server.address, &["--probe-enabled=false", &flag]);
    let (stream, mark) = journald.stream("etcd");
    let mut command = Command::new(programs.join("etcd"));
    command.env("JOURNAL_STREAM", mark).stderr(stream);
    let _etcd = Service::start(command, &directory.path().join("data"), &[]);
    let degraded = wait_for("a degraded fact", LIMIT, || {
        let live = server.aggregator.live()?;
        live.degraded.into_iter().find(|degradation| degradation.capability == "log")
    });
    assert!(degraded.reason.contains("journald has no files in"), "{degraded:?}");
    assert!(degraded.remedy.contains("mount both"), "{degraded:?}");
}
