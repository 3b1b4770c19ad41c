//! What the agent may lack: type information of the kernel, capabilities, tracepoints. It is named, with what helps, and the
//! rest goes on. S3, S13.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use etcdmon_proto::v1::Degradation;

use crate::disk::{Disk, Kind};
use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, Running};
use crate::support::etcd::Etcd;
use crate::support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// All cases in full, else these.
fn in_gate<C, const N: usize>(cases: [C; N], gate: &[&str], name: impl Fn(&C) -> &str) -> Vec<C> {
    let is_full = std::env::var_os("ETCD_MONITOR_FULL").is_some();
    cases.into_iter().filter(|case| is_full || gate.contains(&name(case))).collect()
}

/// What is degraded once the member is scraped and some seconds went by, by capability.
fn degraded(server: &Running, settled: impl Fn(&[Degradation]) -> bool) -> Vec<Degradation> {
    wait_for("etcd is scraped and what lacks is told", LIMIT, || {
        let live = server.aggregator.live()?;
        live.members.first().filter(|member| member.scrape_ok)?;
        settled(&live.degraded).then_some(live.degraded)
    })
}

fn find<'a>(all: &'a [Degradation], capability: &str) -> Option<&'a Degradation> {
    all.iter().find(|one| one.capability == capability)
}

/// The agent with its mounts changed by a script that nobody else sees.
fn start_with_mounts(script: &str, directory: &Path, server: &Running) -> Agent {
    let script = format!("{script} && exec \"$@\"");
    let wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    Agent::start_under(&wrapper, directory, server.address, &[])
}

#[test]
fn without_usable_type_information_of_the_kernel_the_probes_are_off_and_the_rest_goes_on() {
    if !is_root("without_usable_type_information_of_the_kernel_the_probes_are_off_and_the_rest_goes_on") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(_etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let mut whole = Vec::new();
    let mut file = std::fs::File::open("/sys/kernel/btf/vmlinux").unwrap();
    file.by_ref().take(300_000).read_to_end(&mut whole).unwrap();
    let garbage: Vec<u8> = (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut wild = whole.clone();
    // The header is good, what it leads to is not.
    wild[100..].copy_from_slice(&garbage[100..]);
    let at = |name: &str| directory.path().join(name).display().to_string();
    for (name, bytes) in
        [("truncated", &whole), ("garbage", &garbage), ("wild", &wild), ("empty", &Vec::new())]
    {
        std::fs::write(at(name), bytes).unwrap();
    }
    let instead = |name: &str| format!("mount --bind {} /sys/kernel/btf/vmlinux", at(name));
    let cases = [
        ("missing", "mount -t tmpfs none /sys/kernel/btf".to_owned(), "No such file"),
        ("truncated", instead("truncated"), "understand"),
        ("garbage", instead("garbage"), "understand"),
        ("wild", instead("wild"), ""),
        ("empty", instead("empty"), "understand"),
    ];
    for (name, script, told) in in_gate(cases, &["missing", "wild"], |case| case.0) {
        let server = Aggregator::start();
        let agent = start_with_mounts(&script, directory.path(), &server);
        let all = degraded(&server, |all| find(all, "ebpf").is_some());
        let one = find(&all, "ebpf").unwrap();
        assert!(one.reason.contains(told), "{name}: {one:?}");
        assert!(one.remedy.contains("BTF") || one.remedy.contains("btf"), "{name}: {one:?}");
        assert!(agent.page("/readyz").contains("200 OK"), "{name}");
        assert!(!agent.log().contains("panicked"), "{name}");
        assert!(agent.stop().success(), "{name}");
    }
}

#[test]
fn each_capability_that_is_lacking_is_told_by_what_it_costs() {
    if !is_root("each_capability_that_is_lacking_is_told_by_what_it_costs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(_etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    // What is taken from the bounding set, what is degraded then, and a word of the reason.
    let cases: [(&str, &[(&str, &str)]); 5] = [
        ("-bpf,-sys_admin", &[("ebpf", "CAP_BPF")]),
        ("-perfmon,-sys_admin", &[("ebpf", "CAP_PERFMON")]),
        ("-sys_ptrace", &[("discovery.details", "working directory of etcd not readable")]),
        // What the unit in deploy/systemd leaves to it.
        ("-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search,+sys_nice", &[]),
        ("-all", &[("ebpf", "CAP_BPF"), ("discovery.details", "working directory of etcd not readable")]),
    ];
    for (dropped, expected) in in_gate(cases, &["-perfmon,-sys_admin", "-sys_ptrace"], |case| case.0) {
        let server = Aggregator::start();
        let wrapper = ["setpriv", "--bounding-set", dropped, "--"];
        let agent = Agent::start_under(&wrapper, directory.path(), server.address, &[]);
        let all = degraded(&server, |all| expected.iter().all(|(name, _)| find(all, name).is_some()));
        for (name, told) in expected {
            let one = find(&all, name).unwrap();
            assert!(one.reason.contains(told) && !one.remedy.is_empty(), "{dropped}: {one:?}");
        }
        for name in ["ebpf", "discovery.details"] {
            let is_expected = expected.iter().any(|(expected, _)| *expected == name);
            assert_eq!(find(&all, name).is_some(), is_expected, "{dropped}: {name}: {all:?}");
        }
        assert!(agent.page("/readyz").contains("200 OK"), "{dropped}");
        assert!(!agent.log().contains("panicked"), "{dropped}");
        assert!(agent.stop().success(), "{dropped}");
    }
}

#[test]
fn a_tracepoint_that_has_vanished_is_named_and_taken_back_when_it_is_there_again() {
    if !is_root("a_tracepoint_that_has_vanished_is_named_and_taken_back_when_it_is_there_again") {
        return;
    }
    let disk = match Disk::new(Kind::Xfs) {
        Ok(disk) => disk,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    let directory = disk.directory().join("etcd");
    std::fs::create_dir(&directory).unwrap();
    let Some(_etcd) = Etcd::start("3.6.16", &directory) else { return };
    let server = Aggregator::start();
    let hide = "mount -t tmpfs none /sys/kernel/tracing && mkdir -p /sys/kernel/tracing/events/syscalls";
    let agent = start_with_mounts(hide, &directory, &server);
    let all = degraded(&server, |all| find(all, "sync.hook").is_some());
    let hook = find(&all, "sync.hook").unwrap();
    assert!(hook.reason.contains("read the number of event syscalls/sys_e"), "{hook:?}");
    assert!(hook.remedy.contains("tracefs"), "{hook:?}");
    // There again: the hook comes by itself, and what stays is what it costs.
    let pid = agent.child.id().to_string();
    let shown = std::process::Command::new("nsenter")
        .args(["--mount", "--target", &pid, "umount", "/sys/kernel/tracing"])
        .status()
        .unwrap();
    assert!(shown.success());
    let all = degraded(&server, |all| {
        find(all, "sync.hook").is_some_and(|hook| hook.reason.contains("no tracepoints for both ends"))
    });
    assert!(find(&all, "ebpf").is_none(), "{all:?}");
    assert!(agent.stop().success());
}
