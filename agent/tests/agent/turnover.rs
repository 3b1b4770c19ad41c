//! Etcds that are killed, replaced, and live for a moment only: each is told apart, nothing is counted for the wrong one, and
//! nothing of them stays. S1, S2, S13. In full (`ETCD_MONITOR_FULL=1`) a thousand of them, else fewer.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use etcdmon_proto::v1;

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, Running};
use crate::support::etcd::{Etcd, programs};
use crate::support::kernel::{Holdings, holdings};
use crate::support::standin::program;
use crate::support::{alone, is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

fn is_full() -> bool {
    std::env::var_os("ETCD_MONITOR_FULL").is_some()
}

/// What the agent has once it is at rest: the same for some seconds, so that every collector has had its turn.
fn at_rest(agent: &Agent) -> Holdings {
    let (mut before, mut same) = (None, 0);
    wait_for("at rest", LIMIT, || {
        let now = holdings(agent.child.id());
        std::thread::sleep(Duration::from_millis(300));
        same = if before.replace(now.clone()).as_ref() == Some(&now) { same + 1 } else { 0 };
        (same >= 15).then_some(now)
    })
}

fn wait_until_like(agent: &Agent, before: &Holdings) {
    let mut last = None;
    wait_for("as before", LIMIT, || {
        let now = holdings(agent.child.id());
        let is_like = is_like(before, &now);
        if last.replace(now.clone()) != Some(now.clone()) {
            eprintln!("{before:?} has become {now:?}");
        }
        is_like.then_some(())
    });
}

fn watched(agent: &Agent, times: usize) {
    wait_for("agent watches etcd", LIMIT, || {
        (agent.log().matches("watching syncs").count() >= times).then_some(())
    });
}

fn running(server: &Running) -> Vec<v1::LiveMember> {
    let live = server.aggregator.live().map(|live| live.members).unwrap_or_default();
    live.into_iter().filter(|member| member.running).collect()
}

/// As many descriptors, threads, kernel objects and entries as before: a connection may be kept open less or more.
fn is_like(before: &Holdings, now: &Holdings) -> bool {
    let near = |before: usize, now: usize| now <= before + 3;
    // Others fill and empty with what the disk does, and are bounded: requests and commits under way, queues that were met.
    let lasting = |of: &Holdings| {
        ["TARGETS", "SYNCS", "CALLS", "DEVICES", "JOURNALS"].map(|name| of.entries.get(name).copied())
    };
    now.objects == before.objects
        && lasting(now) == lasting(before)
        && near(before.threads, now.threads)
        && near(before.descriptors, now.descriptors)
}

#[test]
fn an_etcd_that_is_killed_and_replaced_in_the_middle_of_its_syncs_leaves_nothing() {
    if !is_root("an_etcd_that_is_killed_and_replaced_in_the_middle_of_its_syncs_leaves_nothing") {
        return;
    }
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let Some(mut etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    watched(&agent, 1);
    etcd.put(5);
    let before = at_rest(&agent);
    let mut killed = Vec::new();
    let rounds = if is_full() { 20 } else { 1 };
    for round in 0..rounds {
        let load = etcd.load();
        let reached = etcd.wal_syncs() + 20;
        wait_for("it syncs", LIMIT, || (etcd.wal_syncs() >= reached).then_some(()));
        killed.push(etcd.pid());
        etcd.kill();
        drop(load);
        etcd.restart();
        watched(&agent, round + 2);
    }
    let member = wait_for("the last one alone runs", LIMIT, || {
        let running = running(&server);
        (running.len() == 1 && running[0].scrape_ok).then(|| running[0].clone())
    });
    assert_eq!(member.member.unwrap().process.unwrap().pid, etcd.pid());
    wait_until_like(&agent, &before);
    let live = server.aggregator.live().unwrap();
    assert!(live.members.len() == 1, "the ones before are not shown beside it: {:?}", live.members);
    assert!(live.degraded.iter().all(|one| !one.capability.starts_with("discovery")), "{:?}", live.degraded);
    // Every row names cluster and member, those of the killed ones as well.
    let nameless: Vec<v1::Member> = server
        .aggregator
        .batches()
        .into_iter()
        .flat_map(|batch| batch.members)
        .filter(|member| member.cluster_id == 0 || member.member_id == 0)
        .collect();
    assert!(nameless.is_empty(), "{nameless:?}");
    assert!(killed.iter().all(|pid| *pid != etcd.pid()));
    assert!(agent.stop().success());
}

/// Ten at a time, each with a data directory of its own, or none.
fn short_lived(directory: &Path, count: usize) {
    let program = program(directory);
    for from in (0..count).step_by(10) {
        let start = |number: usize| {
            let data = format!("--data-dir={}", directory.join(format!("short-{number}")).display());
            // Some end at once, others are seen first.
            let script = if number.is_multiple_of(3) { "sleep 0.6; exit 1" } else { "exit 1" };
            let mut command = Command::new(&program);
            command.args(["-c", script]).current_dir(directory);
            if !number.is_multiple_of(5) {
                command.arg(data);
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        for mut child in (from..(from + 10).min(count)).map(start).collect::<Vec<_>>() {
            child.wait().unwrap();
        }
    }
}

#[test]
fn a_thousand_etcds_of_a_moment_leave_nothing_and_the_one_that_stays_is_counted_to_the_last_sync() {
    if !is_root("a_thousand_etcds_of_a_moment") {
        return;
    }
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let Some(etcd_program) = programs("3.6.16").map(|programs| programs.join("etcd")) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    watched(&agent, 1);
    etcd.put(5);
    std::thread::sleep(Duration::from_secs(2));
    let synced = etcd.wal_syncs();
    wait_for("what was synced has come", LIMIT, || {
        live_wal_syncs(&server, etcd.pid()).filter(|counted| *counted > 0)
    });
    let before = at_rest(&agent);
    let counted = live_wal_syncs(&server, etcd.pid()).unwrap();
    let load = etcd.load();
    short_lived(directory.path(), if is_full() { 1_000 } else { 30 });
    // Real ones that are no members, and some that fail at once.
    for flags in [&["--version"][..], &["--help"], &["--no-such-flag"], &["--data-dir", "/proc/none/data"]] {
        let mut command = Command::new(&etcd_program);
        command.args(flags).current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap();
    }
    drop(load);
    wait_for("only the real one is there", LIMIT, || {
        (agent.metric("etcdmon_agent_members") == 1.0).then_some(())
    });
    wait_until_like(&agent, &before);
    let live = wait_for("what is left", LIMIT, || {
        server
            .aggregator
            .live()
            .filter(|live| live.members.iter().filter(|member| member.running).count() == 1)
    });
    assert!(live.members.len() <= 65, "{} are shown", live.members.len());
    let is_version = |member: &v1::LiveMember| {
        member.member.as_ref().is_some_and(|member| member.data_dir.ends_with("default.etcd"))
    };
    // Those without a data directory of their own share the default, as etcd would.
    assert!(live.members.iter().filter(|member| is_version(member)).count() <= 1, "{:?}", live.members);
    let all = etcd.wal_syncs() - synced;
    wait_for("every sync of the one that stays is counted", LIMIT, || {
        let now = live_wal_syncs(&server, etcd.pid())?;
        (now - counted == all).then_some(())
    });
    let lost = server.aggregator.account(v1::LedgerKind::Dropped, "sync");
    assert_eq!(lost, 0);
    assert!(!agent.log().contains("panicked"));
    assert!(agent.stop().success());
}

/// Syncs of WAL and directories of a process since the agent began.
fn live_wal_syncs(server: &Running, pid: u32) -> Option<u64> {
    let live = server.aggregator.live()?;
    let of = |member: &&v1::LiveMember| {
        let process = member.member.as_ref().and_then(|member| member.process.as_ref());
        process.is_some_and(|process| process.pid == pid)
    };
    let counts = live.members.iter().find(of)?.syncs.iter().filter(|syncs| {
        matches!(v1::FileClass::try_from(syncs.file_class), Ok(v1::FileClass::Wal | v1::FileClass::Directory))
    });
    Some(counts.filter_map(|syncs| syncs.latency.as_ref()).flat_map(|latency| &latency.count).sum())
}
