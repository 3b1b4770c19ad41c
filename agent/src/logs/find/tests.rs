//! On recorded `/proc` trees, and on this process itself.

use super::*;
use crate::discover::{Placement, ProcessId, TlsFiles};

fn process(pid: u32) -> EtcdProcess {
    EtcdProcess {
        id: ProcessId { boot_id: [0; 16], pid, start_ticks: 1 },
        name: "m".to_owned(),
        data_dir: "/d".into(),
        data_dir_here: "/d".into(),
        wal_dir_here: "/d/member/wal".into(),
        listen_client_urls: Vec::new(),
        advertise_client_urls: Vec::new(),
        listen_metrics_urls: Vec::new(),
        listen_peer_urls: Vec::new(),
        log_outputs: Vec::new(),
        peer_urls: Vec::new(),
        client_tls: TlsFiles::default(),
        peer_tls: TlsFiles::default(),
        placement: Placement::default(),
        shares_network: true,
        image: 0,
        is_hidden: false,
        notes: Vec::new(),
    }
}

/// A tree in which standard error of process 7 leads to `target`.
fn tree(target: &str) -> (tempfile::TempDir, ProcFs) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("7/fd");
    std::fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(target, directory.join("2")).unwrap();
    let proc = ProcFs::new(root.path());
    (root, proc)
}

fn places(root: &Path) -> Places {
    Places { pods: root.join("pods"), docker: root.join("docker"), journals: vec![root.join("journal")] }
}

#[test]
fn a_file_of_the_flags_and_one_of_standard_error_are_found() {
    let (root, proc) = tree("/nowhere/etcd.log");
    let mut etcd = process(7);
    etcd.log_outputs = vec!["stderr".to_owned(), "/var/log/etcd.log".to_owned(), "stderr".to_owned()];
    let found = find(&proc, &etcd, &places(root.path())).unwrap();
    let descriptor = root.path().join("7/fd/2");
    assert_eq!(found, [Source::File(descriptor), Source::File("/var/log/etcd.log".into())]);
}

#[test]
fn a_stream_of_journald_is_told_by_its_inode() {
    let (root, proc) = tree("socket:[4711]");
    let mut etcd = process(7);
    let find = |etcd: &EtcdProcess| find(&proc, etcd, &places(root.path()));
    assert!(find(&etcd).unwrap_err().reason.contains("not journald's"));
    std::fs::write(root.path().join("7/environ"), b"JOURNAL_STREAM=8:4712\0").unwrap();
    assert!(find(&etcd).unwrap_err().reason.contains("not journald's"));
    std::fs::write(root.path().join("7/environ"), b"A=b\0JOURNAL_STREAM=8:4711\0").unwrap();
    let missing = find(&etcd).unwrap_err();
    assert!(missing.reason.contains("journald (pid 7), and journald has no files in"), "{missing:?}");
    assert!(missing.remedy.contains("mount both") && missing.remedy.contains("Storage="), "{missing:?}");

    let machine = root.path().join("journal/0123456789abcdef0123456789abcdef");
    std::fs::create_dir_all(&machine).unwrap();
    std::fs::write(machine.join("system@0-1-2.journal"), "").unwrap();
    assert!(find(&etcd).unwrap_err().reason.contains("has no files"), "an archived one is not enough");
    std::fs::write(machine.join("system.journal"), "").unwrap();
    let journals = places(root.path()).journals;
    assert_eq!(find(&etcd).unwrap(), [Source::Journal(Owner::Process(7), journals.clone())]);
    for (cgroup, owner) in [
        ("/system.slice/etcd.service/x", Owner::Unit("etcd.service".to_owned())),
        ("/user.slice/user-0.slice/session-3.scope", Owner::Process(7)),
        ("/user.slice/user@1.service/app.slice/etcd.service", Owner::Unit("etcd.service".to_owned())),
        ("/system.slice/k3s.service/cri-1.scope", Owner::Process(7)),
    ] {
        etcd.placement.cgroup = cgroup.to_owned();
        assert_eq!(find(&etcd).unwrap(), [Source::Journal(owner, journals.clone())], "{cgroup}");
    }
    etcd.log_outputs = vec!["systemd/journal".to_owned(), "stderr".to_owned()];
    assert_eq!(find(&etcd).unwrap().len(), 1, "the same place twice");
}

#[test]
fn the_newest_log_of_the_etcd_container_of_the_pod_is_found() {
    let (root, proc) = tree("pipe:[99]");
    let mut etcd = process(7);
    etcd.placement.pod_uid = "0123456789abcdef0123456789abcdef".to_owned();
    let pod = root.path().join("pods/kube-system_etcd-node_0123456789abcdef0123456789abcdef");
    for name in ["etcd/0.log", "etcd/9.log", "etcd/10.log", "etcd/10.log.20260101-000000", "sidecar/0.log"] {
        std::fs::create_dir_all(pod.join(name).parent().unwrap()).unwrap();
        std::fs::write(pod.join(name), "").unwrap();
    }
    let found = find(&proc, &etcd, &places(root.path())).unwrap();
    assert_eq!(found, [Source::Container(pod.join("etcd"))]);
    assert_eq!(newest_log(&pod.join("etcd")), Some(pod.join("etcd/10.log")));
    std::fs::remove_dir_all(pod.join("etcd")).unwrap();
    assert_eq!(find(&proc, &etcd, &places(root.path())).unwrap(), [Source::Container(pod.join("sidecar"))]);
}

#[test]
fn the_log_of_a_docker_container_is_found() {
    let (root, proc) = tree("pipe:[99]");
    let mut etcd = process(7);
    etcd.placement.container_id = "c".repeat(64);
    assert!(find(&proc, &etcd, &places(root.path())).is_err());
    let directory = root.path().join("docker").join("c".repeat(64));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join(format!("{}-json.log", "c".repeat(64)));
    std::fs::write(&file, "").unwrap();
    assert_eq!(find(&proc, &etcd, &places(root.path())).unwrap(), [Source::ContainerFile(file)]);
}

#[test]
fn no_log_has_a_reason_and_a_remedy() {
    for (target, reason) in
        [("/dev/null", "/dev/null"), ("/dev/pts/3", "/dev/pts/3"), ("pipe:[99]", "is a pipe"), ("x", "is x")]
    {
        let (root, proc) = tree(target);
        let missing = find(&proc, &process(7), &places(root.path())).unwrap_err();
        assert!(missing.reason.contains(reason) && missing.remedy.contains("--log-outputs"), "{missing:?}");
    }
    let (root, proc) = tree("x");
    let missing = find(&proc, &process(8), &places(root.path())).unwrap_err();
    assert!(missing.reason.contains("not readable"), "{missing:?}");
}
