//! etcd's own log, written by real etcds: what happened to them is told, and nothing of what they hold.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::agent::Agent;
use crate::support::aggregator::Aggregator;
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(40);

/// Part of every key and value.
const SECRET: &str = "HUSHHUSH";

/// Runs a test on all versions, two at a time.
fn on_every_version(test: impl Fn(&str) + Sync) {
    for pair in VERSIONS.chunks(2) {
        std::thread::scope(|scope| {
            for version in pair {
                scope.spawn(|| test(version));
            }
        });
    }
}

/// Flags that make every request a slow one, where the version has them.
fn slow_flags(version: &str) -> &'static [&'static str] {
    match version {
        "3.4.23" => &[],
        "3.5.35" => &["--experimental-warning-apply-duration=1ns"],
        _ => &["--warning-apply-duration=1ns", "--warning-unary-request-duration=1ns"],
    }
}

#[test]
fn what_happens_to_a_real_etcd_is_told_and_nothing_of_what_it_holds() {
    on_every_version(|version| {
        let directory = tempfile::tempdir().unwrap();
        let server = Aggregator::start();
        let agent = Agent::start(directory.path(), server.address, &["--probe-enabled=false"]);
        let mut flags = vec!["--snapshot-count=10", "--quota-backend-bytes=200000"];
        flags.extend(slow_flags(version));
        let Some(etcd) = Etcd::start_with(version, directory.path(), &flags) else { return };
        let value = format!("{SECRET}{}", "x".repeat(40_000));
        for number in 0..15 {
            etcd.ctl(&["put", &format!("{SECRET}{number}"), SECRET]);
            etcd.ctl(&["get", &format!("{SECRET}{number}")]);
        }
        etcd.ctl(&["compaction", "10"]);
        etcd.ctl(&["defrag"]);
        etcd.ctl(&["snapshot", "save", &directory.path().join("copy.db").display().to_string()]);
        // Until there is no space.
        while etcd.try_ctl(&["put", &format!("{SECRET}large"), &value]) {}
        etcd.ctl(&["member", "add", "m2", "--peer-urls=http://127.0.0.1:1"]);

        let mut expected = BTreeSet::from([
            "etcd.ready",
            "raft.campaign",
            "raft.role",
            "raft.leader_elected",
            "raft.snapshot_triggered",
            "raft.snapshot_saved",
            "etcd.cluster_version",
            "etcd.compaction_finished",
            "etcd.defrag_started",
            "etcd.defrag_finished",
            "etcd.snapshot_started",
            "etcd.snapshot_sent",
            "etcd.member_added",
            "etcd.peer_unhealthy",
        ]);
        if !slow_flags(version).is_empty() {
            expected.extend(["etcd.slow_apply", "etcd.log_suppressed"]);
        }
        if matches!(version, "3.6.16" | "3.7.3") {
            expected.insert("etcd.slow_request");
        }
        if matches!(version, "3.4.23" | "3.5.35") {
            expected.insert("etcd.alarm_raised");
        }
        let told = wait_for(&format!("{version}: {expected:?}"), LIMIT, || {
            let told = server.aggregator.told();
            let missing: Vec<_> =
                expected.iter().filter(|kind| !told.iter().any(|(found, _)| found == *kind)).collect();
            if !missing.is_empty() && std::env::var_os("VERBOSE").is_some() {
                eprintln!("{version}: {missing:?}");
            }
            missing.is_empty().then_some(told)
        });
        let details = |kind: &str| &told.iter().find(|(found, _)| found == kind).unwrap().1;
        assert_eq!(details("etcd.compaction_finished")["revision"], 10, "{version}");
        assert!(details("raft.leader_elected")["leader"].as_str().unwrap().len() == 16, "{version}");
        if expected.contains("etcd.slow_apply") {
            let put = told
                .iter()
                .find(|(kind, details)| kind == "etcd.slow_apply" && details["operation"] == "put");
            let (_, put) = put.unwrap_or_else(|| panic!("{version}: no put in {told:?}"));
            assert_eq!(put["value_size_bytes"], SECRET.len(), "{version}");
        }
        if expected.contains("etcd.slow_request") {
            let method = &details("etcd.slow_request")["method"];
            assert!(method.as_str().unwrap().starts_with("/etcdserverpb."), "{version}: {method}");
        }
        assert_eq!(agent.log().matches("reading etcd's log").count(), 1, "{version}");
        drop(agent);
        for batch in server.aggregator.seen.lock().unwrap().batches.values() {
            let found = memchr::memmem::find(&batch.payload, SECRET.as_bytes());
            assert_eq!(found, None, "{version}: a key or value left the node");
        }
    });
}

#[test]
fn a_log_that_leads_nowhere_is_a_degraded_fact_and_a_rotated_one_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Aggregator::start();
    let _agent = Agent::start(directory.path(), server.address, &["--probe-enabled=false"]);
    let silent = directory.path().join("silent");
    std::fs::create_dir(&silent).unwrap();
    let Some(nowhere) = Etcd::start_with("3.6.16", &silent, &["--log-outputs=/dev/null"]) else { return };
    let degraded = wait_for("a degraded fact", LIMIT, || {
        let live = server.aggregator.live()?;
        live.degraded.into_iter().find(|degradation| degradation.capability == "log")
    });
    assert!(
        degraded.reason.contains("/dev/null") && degraded.remedy.contains("--log-outputs"),
        "{degraded:?}"
    );
    drop(nowhere);
    wait_for("restored", LIMIT, || {
        let live = server.aggregator.live()?;
        live.degraded.iter().all(|degradation| degradation.capability != "log").then_some(())
    });

    let log = directory.path().join("own.log");
    let flag = format!("--log-outputs={}", log.display());
    let Some(etcd) = Etcd::start_with("3.6.16", directory.path(), &[&flag, "--enable-log-rotation"]) else {
        return;
    };
    let count = |kind: &str| server.aggregator.told().iter().filter(|(found, _)| found == kind).count();
    etcd.ctl(&["defrag"]);
    wait_for("the first", LIMIT, || (count("etcd.defrag_finished") == 1).then_some(()));
    // What a rotation with copytruncate does.
    std::fs::copy(&log, directory.path().join("own.log.1")).unwrap();
    std::fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    etcd.ctl(&["defrag"]);
    wait_for("the second", LIMIT, || (count("etcd.defrag_finished") == 2).then_some(()));
}
