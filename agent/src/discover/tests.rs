//! Discovery on trees that look like `/proc`, recorded from real nodes and rebuilt in a temporary directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;

/// `/proc/PID/stat` of an etcd 3.6.16, command and start replaced.
fn stat(comm: &str, state: char, flags: u64, start_ticks: u64) -> String {
    format!(
        "7058 ({comm}) {state} 7051 7058 7051 0 -1 {flags} 6404 0 212 0 31 12 0 0 20 0 11 0 {start_ticks} 11794755584 \
         5722 18446744073709551615 4194304 14958989 140736139 0 0 0 0 2143420159 0 0 0 17 1 0 0 0 0 0 0 0 0 0\n"
    )
}

const KUBEADM_CGROUP: &str = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3b0e5fcd6e1f4e7a9a0c6d2f1b8e4a57.slice/cri-containerd-9c1f0e6f3a7d5b2c4e8a0d9b7c6f5e4d3c2b1a0f9e8d7c6b5a4f3e2d1c0b9a8f.scope\n";

/// A tree below a temporary directory.
struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { root: tempfile::tempdir().expect("temp dir") };
        tree.write("sys/kernel/random/boot_id", b"063442a0-d76a-4737-853e-5285aae9b669\n");
        tree
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
        fs::write(path, content).expect("write");
    }

    fn link(&self, path: &str, target: &Path) {
        let path = self.root.path().join(path);
        let _none = fs::remove_file(&path);
        symlink(target, path).expect("symlink");
    }

    /// An etcd on the host, working in `/srv`.
    fn etcd(&self, pid: u32, start_ticks: u64, command_line: &[&str], environment: &[&str]) {
        let nul = |words: &[&str]| {
            words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>()
        };
        self.write(&format!("{pid}/stat"), stat("etcd", 'S', 4_194_560, start_ticks).as_bytes());
        self.write(&format!("{pid}/cmdline"), &nul(command_line));
        self.write(&format!("{pid}/environ"), &nul(environment));
        self.write(&format!("{pid}/cgroup"), b"0::/system.slice/etcd.service\n");
        self.link(&format!("{pid}/cwd"), Path::new("/srv"));
        self.link(&format!("{pid}/root"), Path::new("/"));
        self.link(&format!("{pid}/exe"), Path::new("/usr/bin/etcd"));
    }

    fn other(&self, pid: u32, comm: &str, flags: u64) {
        self.write(&format!("{pid}/stat"), stat(comm, 'S', flags, 5).as_bytes());
    }

    fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.root.path().join(pid.to_string())).expect("remove");
    }

    fn discovery(&self, only: &[&str]) -> Discovery {
        let only = only.iter().map(PathBuf::from).collect();
        Discovery::new(ProcFs::new(self.root.path()), only).expect("boot id")
    }
}

fn appeared(changes: &[Change]) -> Vec<&EtcdProcess> {
    let found = changes.iter().filter_map(|change| match change {
        Change::Appeared(process) => Some(&**process),
        Change::Gone(_) => None,
    });
    found.collect()
}

#[test]
fn a_systemd_etcd_is_described_by_its_flags_environment_and_defaults() {
    let tree = Tree::new();
    tree.etcd(
        7058,
        366_886,
        &["/usr/bin/etcd", "--listen-client-urls=https://0.0.0.0:2379", "--cert-file", "pki/server.crt"],
        &[
            "ETCD_NAME=node1",
            "ETCD_KEY_FILE=/etc/etcd/server.key",
            "ETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.1:2380",
        ],
    );
    let changes = tree.discovery(&[]).scan().expect("readable");
    let [process] = appeared(&changes)[..] else { panic!("{changes:?}") };
    assert_eq!((process.id.pid, process.id.start_ticks, process.id.boot_id[0]), (7058, 366_886, 0x06));
    assert_eq!(process.name, "node1");
    assert_eq!(
        process.data_dir,
        Path::new("/srv/node1.etcd"),
        "the default is relative to its working directory"
    );
    assert_eq!(process.wal_dir_here, Path::new("/srv/node1.etcd/member/wal"));
    assert_eq!(process.listen_client_urls, ["https://0.0.0.0:2379"]);
    assert_eq!(process.advertise_client_urls, ["http://localhost:2379"]);
    assert_eq!(process.peer_urls, ["https://10.0.0.1:2380"]);
    assert_eq!(process.client_tls.cert.as_deref(), Some(Path::new("/srv/pki/server.crt")));
    assert_eq!(process.client_tls.key.as_deref(), Some(Path::new("/etc/etcd/server.key")));
    assert_eq!(process.placement.cgroup, "/system.slice/etcd.service");
    assert!(process.shares_network && process.notes.is_empty());
}

#[test]
fn a_static_pod_is_reached_through_its_own_root() {
    let tree = Tree::new();
    let container = tempfile::tempdir().expect("temp dir");
    tree.etcd(
        41,
        900,
        &["etcd", "--data-dir=/var/lib/etcd", "--listen-metrics-urls=http://127.0.0.1:2381"],
        &[],
    );
    tree.write("41/cgroup", KUBEADM_CGROUP.as_bytes());
    tree.link("41/root", container.path());
    let changes = tree.discovery(&[]).scan().expect("readable");
    let [process] = appeared(&changes)[..] else { panic!("{changes:?}") };
    assert_eq!(process.data_dir, Path::new("/var/lib/etcd"));
    assert_eq!(process.data_dir_here, tree.root.path().join("41/root/var/lib/etcd"));
    assert_eq!(process.placement.pod_uid, "3b0e5fcd6e1f4e7a9a0c6d2f1b8e4a57");
    assert!(process.placement.container_id.starts_with("9c1f0e6f"));
    assert_eq!(process.listen_metrics_urls, ["http://127.0.0.1:2381"]);
}

#[test]
fn a_configuration_file_replaces_flags_and_environment() {
    let tree = Tree::new();
    tree.write("etcd.yml", b"name: from-file\ndata-dir: /data\nwal-dir: /wal\n");
    let file = tree.root.path().join("etcd.yml");
    let flag = format!("--config-file={}", file.display());
    tree.etcd(41, 900, &["etcd", &flag, "--name=from-flag"], &["ETCD_DATA_DIR=/from-env"]);
    tree.etcd(42, 900, &["etcd", "--name=from-flag", "--config-file=/none.yml"], &[]);
    let changes = tree.discovery(&[]).scan().expect("readable");
    let [good, bad] = appeared(&changes)[..] else { panic!("{changes:?}") };
    assert_eq!(good.name, "from-file");
    assert_eq!(
        (good.data_dir.as_path(), good.wal_dir_here.as_path()),
        (Path::new("/data"), Path::new("/wal"))
    );
    assert_eq!(bad.name, "from-flag", "an unreadable file is noted and the rest goes on");
    assert!(bad.notes[0].contains("/none.yml"), "{:?}", bad.notes);
}

#[test]
fn automatic_certificates_are_found_in_the_data_directory() {
    let tree = Tree::new();
    tree.etcd(41, 900, &["etcd", "--data-dir=/d", "--auto-tls", "--peer-auto-tls"], &[]);
    let changes = tree.discovery(&[]).scan().expect("readable");
    let [process] = appeared(&changes)[..] else { panic!("{changes:?}") };
    assert_eq!(process.client_tls.cert.as_deref(), Some(Path::new("/d/fixtures/client/cert.pem")));
    assert_eq!(process.peer_tls.key.as_deref(), Some(Path::new("/d/fixtures/peer/key.pem")));
}

#[test]
fn several_members_restarts_and_ends_are_followed() {
    let tree = Tree::new();
    tree.etcd(41, 900, &["etcd", "--data-dir=/a"], &[]);
    tree.etcd(42, 901, &["etcd", "--data-dir=/b"], &[]);
    let mut discovery = tree.discovery(&[]);
    assert_eq!(appeared(&discovery.scan().expect("readable")).len(), 2);
    assert_eq!(discovery.scan().expect("readable"), [], "known ones are told once");
    tree.etcd(41, 7_000, &["etcd", "--data-dir=/a"], &[]);
    tree.remove(42);
    let changes = discovery.scan().expect("readable");
    let gone: Vec<u64> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Gone(id) => Some(id.start_ticks),
            Change::Appeared(_) => None,
        })
        .collect();
    assert_eq!(gone, [900, 901]);
    let [again] = appeared(&changes)[..] else { panic!("{changes:?}") };
    assert_eq!((again.id.pid, again.id.start_ticks), (41, 7_000), "the same pid, another process");
    tree.write("41/stat", stat("etcd", 'Z', 4_194_560, 7_000).as_bytes());
    assert_eq!(discovery.scan().expect("readable"), [Change::Gone(again.id)], "a zombie has ended");
}

#[test]
fn a_shell_that_becomes_etcd_is_seen_within_three_scans() {
    let tree = Tree::new();
    tree.other(41, "sh", 0);
    tree.other(2, "kthreadd", 0x0020_0000);
    let mut discovery = tree.discovery(&[]);
    assert_eq!(discovery.scan().expect("readable"), []);
    tree.etcd(41, 5, &["etcd"], &[]);
    let found =
        (0..RECHECK_EVERY).map(|_| appeared(&discovery.scan().expect("readable")).len()).sum::<usize>();
    assert_eq!(found, 1);
}

#[test]
fn only_the_data_directories_asked_for_are_watched() {
    let tree = Tree::new();
    tree.etcd(41, 900, &["etcd", "--data-dir=/lab/a/data"], &[]);
    tree.etcd(42, 901, &["etcd", "--data-dir=/laboratory/data"], &[]);
    let mut discovery = tree.discovery(&["/lab"]);
    let changes = discovery.scan().expect("readable");
    assert_eq!(appeared(&changes).iter().map(|process| process.id.pid).collect::<Vec<_>>(), [41]);
    tree.remove(42);
    assert_eq!(discovery.scan().expect("readable"), [], "the end of a stranger is no news");
}

#[test]
fn an_etcd_that_prints_its_version_or_is_a_proxy_is_no_member() {
    let tree = Tree::new();
    tree.etcd(41, 900, &["etcd", "--version"], &[]);
    tree.etcd(42, 901, &["etcd", "--data-dir=/d", "-h"], &[]);
    tree.etcd(43, 902, &["etcd", "grpc-proxy", "start", "--data-dir=/d"], &[]);
    tree.etcd(44, 903, &["etcd", "--data-dir=/d"], &["ETCD_VERSION=3.6.16"]);
    let mut discovery = tree.discovery(&[]);
    let changes = discovery.scan().expect("readable");
    assert_eq!(appeared(&changes).iter().map(|process| process.id.pid).collect::<Vec<_>>(), [44]);
    tree.remove(41);
    assert_eq!(discovery.scan().expect("readable"), [], "the end of what is no member is no news");
}

/// What a change is about: whether the process came, and the name of its data directory.
fn told(changes: &[Change]) -> Vec<(bool, u64, String)> {
    let about = |change: &Change| match change {
        Change::Appeared(process) => (true, process.id.start_ticks, process.data_dir.display().to_string()),
        Change::Gone(id) => (false, id.start_ticks, String::new()),
    };
    changes.iter().map(about).collect()
}

#[test]
fn a_process_that_executes_another_etcd_is_another_member() {
    let tree = Tree::new();
    let runs = |data_dir: &str, image: &str| {
        tree.etcd(41, 900, &["etcd", data_dir], &[]);
        let line = stat("etcd", 'S', 4_194_560, 900);
        tree.write("41/stat", format!("{} {image} 0 0 0 0\n", line.trim_end()).as_bytes());
    };
    runs("--data-dir=/a", "140736000");
    let mut discovery = tree.discovery(&[]);
    assert_eq!(told(&discovery.scan().expect("readable")), [(true, 900, "/a".to_owned())]);
    runs("--data-dir=/b", "140736999");
    let both = [(false, 900, String::new()), (true, 900, "/b".to_owned())];
    assert_eq!(told(&discovery.scan().expect("readable")), both);
    assert_eq!(discovery.scan().expect("readable"), []);
    // The same as the kernel tells it.
    runs("--data-dir=/c", "140736555");
    let sighted = || Box::new(discovery.sighter().sight(41).expect("an etcd"));
    let third = sighted();
    let both = [(false, 900, String::new()), (true, 900, "/c".to_owned())];
    assert_eq!(told(&discovery.accept(third.clone())), both);
    assert_eq!(discovery.accept(third), []);
    // Without the right to see where its arguments lie, the process is told by its start alone.
    runs("--data-dir=/c", "0");
    assert_eq!(discovery.scan().expect("readable"), []);
}

#[test]
fn of_a_process_id_that_is_given_anew_the_one_before_is_gone_first() {
    let tree = Tree::new();
    tree.etcd(41, 900, &["etcd", "--data-dir=/a"], &[]);
    let mut discovery = tree.discovery(&[]);
    assert_eq!(told(&discovery.scan().expect("readable")), [(true, 900, "/a".to_owned())]);
    // Its end was not told, and no scan came between.
    tree.etcd(41, 7_000, &["etcd", "--data-dir=/b"], &[]);
    let next = Box::new(discovery.sighter().sight(41).expect("an etcd"));
    let both = [(false, 900, String::new()), (true, 7_000, "/b".to_owned())];
    assert_eq!(told(&discovery.accept(next)), both);
    assert_eq!(discovery.scan().expect("readable"), []);
}

#[test]
fn names_that_begin_like_etcd_are_told_apart() {
    let tree = Tree::new();
    for (pid, comm, exe) in
        [(41, "etcdctl", "etcdctl"), (42, "etcd-monitor-ag", "etcd-monitor-agent"), (43, "etcd-main", "etcd")]
    {
        tree.etcd(pid, 9, &["x"], &[]);
        tree.write(&format!("{pid}/stat"), stat(comm, 'S', 0, 9).as_bytes());
        tree.link(&format!("{pid}/exe"), &Path::new("/usr/bin").join(exe));
    }
    let changes = tree.discovery(&[]).scan().expect("readable");
    assert_eq!(appeared(&changes).iter().map(|process| process.id.pid).collect::<Vec<_>>(), [43]);
}

#[test]
fn garbage_in_proc_is_no_etcd_and_no_panic() {
    let tree = Tree::new();
    for (pid, text) in [
        (1, "".as_bytes()),
        (2, b"\xff\xfe"),
        (3, b"3 (etcd"),
        (4, b"4 )etcd( S"),
        (5, b"5 (etcd) S 1 2"),
        (6, b"() () ()"),
    ] {
        tree.write(&format!("{pid}/stat"), text);
    }
    tree.write("notes/stat", b"x");
    tree.write("99999999999999999999/stat", b"x");
    fs::create_dir(tree.root.path().join("7")).expect("mkdir");
    // In the middle of exec: a name and no command line yet.
    tree.write("8/stat", stat("etcd", 'R', 0, 1).as_bytes());
    tree.write("8/cmdline", b"");
    let mut discovery = tree.discovery(&[]);
    assert_eq!(discovery.scan().expect("readable"), []);
    tree.write("8/cmdline", b"etcd\0");
    let changes = discovery.scan().expect("readable");
    let [process] = appeared(&changes)[..] else { panic!("{changes:?}") };
    assert_eq!(
        process.notes.len(),
        2,
        "environment and working directory are not readable: {:?}",
        process.notes
    );
    let no_boot = tempfile::tempdir().expect("temp dir");
    assert!(Discovery::new(ProcFs::new(no_boot.path()), Vec::new()).is_err());
}

#[test]
fn stat_survives_blanks_and_parentheses_in_the_command() {
    let parsed = Stat::parse(&stat("a) b (c", 'S', 0x0020_0000, 77)).expect("well-formed");
    assert_eq!((parsed.comm.as_str(), parsed.start_ticks, parsed.is_kernel_thread()), ("a) b (c", 77, true));
}
