use std::fs;

use super::*;

/// A recorded node: `mountinfo` of processes by id, where `@` stands for the recorded root; groups that exist.
fn recorded(mountinfo: &[(u32, &str)], groups: &[&str]) -> (tempfile::TempDir, ProcFs) {
    let root = tempfile::tempdir().expect("writable");
    let at = root.path().display().to_string();
    for (pid, text) in mountinfo {
        let directory = root.path().join(format!("proc/{pid}"));
        fs::create_dir_all(&directory).expect("made");
        fs::write(directory.join("mountinfo"), text.replace('@', &at)).expect("written");
    }
    for group in groups {
        let mut directory = root.path().join(group);
        fs::create_dir_all(&directory).expect("made");
        // Every group on the way has the file.
        while directory.starts_with(root.path()) && directory != root.path() {
            fs::write(directory.join("cgroup.procs"), "").expect("written");
            directory.pop();
        }
    }
    let proc = ProcFs::new(root.path().join("proc"));
    (root, proc)
}

fn paths(chain: Option<&Chain>) -> Vec<&str> {
    chain.map(|chain| chain.levels.iter().map(|level| level.path.as_str()).collect()).unwrap_or_default()
}

fn own() -> u32 {
    std::process::id()
}

#[test]
fn on_version_2_all_controllers_are_in_one_chain_up_to_the_mount() {
    let text = "25 1 0:22 / @/cg rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    let (_root, proc) = recorded(&[(own(), text)], &["cg/system.slice/etcd.service"]);
    let found = find(&proc, 7, "0::/system.slice/etcd.service\n");
    assert_eq!(found.version(), "v2");
    assert_eq!(paths(found.of("cpu")), ["/system.slice/etcd.service", "/system.slice", "/"]);
    assert_eq!(found.of("blkio"), found.unified.as_ref());
}

#[test]
fn hybrid_nodes_have_controllers_in_version_1_and_pressure_in_version_2() {
    let text = "30 1 0:30 / @/cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                31 1 0:31 / @/cg/memory rw - cgroup cgroup rw,memory\n\
                32 1 0:32 / @/cg/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                33 1 0:33 / @/cg/unified rw - cgroup2 cgroup2 rw\n";
    let groups = ["cg/cpu,cpuacct/a", "cg/memory/a/b", "cg/unified/a"];
    let (_root, proc) = recorded(&[(own(), text)], &groups);
    let memberships = "9:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/a\n1:name=systemd:/a\n0::/a\n";
    let found = find(&proc, 7, memberships);
    assert_eq!(found.version(), "hybrid");
    assert_eq!(paths(found.of("cpuacct")), ["/a", "/"]);
    assert_eq!(paths(found.of("memory")), ["/a/b", "/a", "/"]);
    assert_eq!(found.of("pids"), None, "its hierarchy is not mounted: absent, and not version 2's");
    assert_eq!(found.of("cpuset").map(|chain| chain.version), Some(Version::V2), "not in version 1 at all");
    assert_eq!(paths(found.unified.as_ref()), ["/a", "/"]);
}

#[test]
fn in_a_container_with_its_own_namespace_the_nodes_mounts_are_used() {
    let inside = "25 1 0:22 / @/own rw - cgroup2 cgroup rw\n";
    let node = "25 1 0:22 /../.. /cg rw - cgroup2 cgroup2 rw\n";
    let (root, proc) = recorded(&[(own(), inside), (1, node)], &["own", "node/cg/kube/pod/etcd"]);
    let link = root.path().join("proc/1/root");
    std::os::unix::fs::symlink(root.path().join("node"), link).expect("linked");
    let found = find(&proc, 7, "0::/../../kube/pod/etcd\n");
    assert_eq!(paths(found.of("memory")), ["/kube/pod/etcd", "/kube/pod", "/kube", "/"]);
}

#[test]
fn a_mounted_part_of_a_hierarchy_shows_the_groups_from_there() {
    let text = "25 1 0:22 /docker/0123 @/cg rw - cgroup cgroup rw,memory\n";
    let (_root, proc) = recorded(&[(own(), text)], &["cg/inner"]);
    assert_eq!(paths(find(&proc, 7, "4:memory:/docker/0123/inner\n").of("memory")), ["/inner", "/"]);
    assert_eq!(paths(find(&proc, 7, "4:memory:/docker/0123\n").of("memory")), ["/"]);
    assert_eq!(find(&proc, 7, "4:memory:/docker/01234\n").of("memory"), None, "another group");
}

#[test]
fn hostile_texts_and_deep_paths_find_less_and_never_panic() {
    let text = "25 1 0:22 / @/cg rw - cgroup2 cgroup2 rw\n\u{0}\n - cgroup2\n1 2 3:4 - cgroup2 x y\n";
    let deep: String = (0..40).map(|index| format!("/{index}")).collect();
    let (_root, proc) = recorded(&[(own(), text)], &[&format!("cg{deep}")]);
    let found = find(&proc, 7, &format!("0::{deep}\n"));
    let chain = found.of("cpu").expect("found");
    assert_eq!((chain.levels.len(), chain.left_out), (LEVELS_LIMIT, 41 - LEVELS_LIMIT));
    let long = format!("0::/{}", "x".repeat(100_000));
    for hostile in [
        "",
        "0",
        "0::",
        "::",
        "0::relative",
        "0::/../../etc",
        "0::/a/../b",
        "1:memory:/",
        "\u{0}:\u{0}:/\u{0}",
        &long,
    ] {
        assert_eq!(find(&proc, 7, hostile).of("memory"), None, "{hostile:?}");
    }
    let nothing = ProcFs::new("/none");
    assert_eq!(find(&nothing, 7, "0::/\n").version(), "");
}
