//! The whole agent against a real etcd and an aggregator that remembers everything. S1, S2, S10.

use std::time::Duration;

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, Answer};
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::{is_root, wait_for};
use etcdmon_proto::v1::LedgerKind;

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the aggregator has as many WAL syncs as etcd counted since `before`.
fn wait_for_wal_syncs(aggregator: &Aggregator, expected: u64) {
    wait_for("all WAL syncs arrive", LIMIT, || (aggregator.wal_syncs() >= expected).then_some(()));
    // One more batch, in case there are too many.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(aggregator.wal_syncs(), expected);
}

/// Runs a test on all versions side by side.
fn on_every_version(test: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for version in VERSIONS {
            scope.spawn(|| test(version));
        }
    });
}

fn wait_until_watched(agent: &Agent) {
    wait_for("agent watches etcd", LIMIT, || agent.log().contains("watching syncs").then_some(()));
}

#[test]
fn wal_syncs_agree_with_etcds_own_count_on_every_version() {
    if !is_root("wal_syncs_agree_with_etcds_own_count_on_every_version") {
        return;
    }
    on_every_version(|version| {
        let directory = tempfile::tempdir().unwrap();
        let Some(etcd) = Etcd::start(version, directory.path()) else { return };
        let server = Aggregator::start();
        let agent = Agent::start(directory.path(), server.address, &[]);
        wait_until_watched(&agent);
        let before = etcd.wal_syncs();
        etcd.put(30);
        let counted = etcd.wal_syncs() - before;
        assert!(counted >= 30, "{version}: {counted}");
        wait_for_wal_syncs(&server.aggregator, counted);
        let live = server.aggregator.live().expect("live summaries arrive");
        let [member] = live.members.as_slice() else { panic!("{version}: {live:?}") };
        assert!(
            member.running && member.scrape_ok && member.has_leader && member.is_leader,
            "{version}: {member:?}"
        );
        assert!(member.version.starts_with(version), "{version}: {}", member.version);
        assert_eq!(member.peers.len(), 1, "{version}");
        assert!(
            agent.log().contains(&format!("member=\"{:016x}\"", identity(member))),
            "{version}: WAL not read"
        );
        let page = agent.page("/probes");
        let (_head, body) = page.split_once("\r\n\r\n").expect("an answer");
        let probes: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let watch = &probes["watches"][0];
        assert!(watch["syncs"].as_u64() >= Some(counted) && watch["hook"].is_string(), "{version}: {probes}");
        assert!(probes["programs"].as_array().is_some_and(|all| !all.is_empty()), "{version}: {probes}");
        // It takes a few readings of etcd's counter until the agent knows how many it is.
        let blind = wait_for("the blind interval is stated", LIMIT, || {
            let rows = server.aggregator.ledger().into_iter();
            let blind: Vec<_> = rows.filter(|row| row.0 == LedgerKind::Blind).collect();
            (!blind.is_empty()).then_some(blind)
        });
        assert_eq!(blind.len(), 1, "{version}: {blind:?}");
        assert_eq!((blind[0].2.as_str(), blind[0].3), ("attach", before), "{version}");
        assert!(agent.stop().success());
    });
}

#[test]
fn nothing_of_ours_goes_through_raft_or_syncs() {
    if !is_root("nothing_of_ours_goes_through_raft_or_syncs") {
        return;
    }
    on_every_version(|version| {
        let directory = tempfile::tempdir().unwrap();
        let Some(etcd) = Etcd::start(version, directory.path()) else { return };
        let server = Aggregator::start();
        let agent = Agent::start(directory.path(), server.address, &[]);
        wait_until_watched(&agent);
        std::thread::sleep(Duration::from_secs(1));
        let numbers = || (etcd.metric("etcd_server_proposals_committed_total"), etcd.wal_syncs());
        let before = numbers();
        // Long enough for a second member list.
        std::thread::sleep(Duration::from_secs(12));
        assert_eq!(numbers(), before, "{version}");
        assert_eq!(server.aggregator.syncs().values().sum::<u64>(), 0, "{version}");
        drop(agent);
    });
}

#[test]
fn what_a_dead_aggregator_missed_arrives_once_it_is_back() {
    if !is_root("what_a_dead_aggregator_missed_arrives_once_it_is_back") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    let (aggregator, address) = (server.aggregator.clone(), server.address);
    let agent = Agent::start(directory.path(), address, &[]);
    wait_until_watched(&agent);
    let before = etcd.wal_syncs();
    etcd.put(5);
    wait_for("a batch is acknowledged", LIMIT, || {
        (agent.metric("etcdmon_agent_send_acknowledged_batches_total") > 0.0).then_some(())
    });
    drop(server);
    etcd.put(20);
    wait_for("batches go to disk", LIMIT, || {
        (agent.metric("etcdmon_agent_spool_disk_bytes") > 0.0).then_some(())
    });
    let server = aggregator.serve(address);
    wait_for_wal_syncs(&server.aggregator, etcd.wal_syncs() - before);
    wait_for("the spool is empty again", LIMIT, || {
        (agent.metric("etcdmon_agent_spool_disk_bytes") == 0.0).then_some(())
    });
    assert_eq!(server.aggregator.account(LedgerKind::Dropped, "sync"), 0);
    let told = server.aggregator.events().contains(&"spool.device".to_owned());
    assert!(told, "etcd's data and the spool are in one directory");
}

#[test]
fn a_broken_stream_and_silence_lead_to_resends_that_are_identical_and_say_so() {
    if !is_root("a_broken_stream_and_silence_lead_to_resends_that_are_identical_and_say_so") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_until_watched(&agent);
    let before = etcd.wal_syncs();
    for answer in [Answer::Silence, Answer::Break, Answer::Acknowledge] {
        server.aggregator.set(answer);
        etcd.put(5);
        std::thread::sleep(Duration::from_secs(2));
    }
    // The resends' identity is asserted by the aggregator on arrival.
    wait_for_wal_syncs(&server.aggregator, etcd.wal_syncs() - before);
    let seen = server.aggregator.seen.lock().unwrap();
    assert!(seen.arrivals.iter().any(|(_, again)| *again), "there were resends");
    assert!(!seen.arrivals[0].1, "the first was known to be the first");
}

#[test]
fn refused_batches_are_accounted_for_as_dropped() {
    if !is_root("refused_batches_are_accounted_for_as_dropped") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_until_watched(&agent);
    let before = etcd.wal_syncs();
    server.aggregator.set(Answer::Refuse);
    etcd.put(10);
    wait_for("batches are refused", LIMIT, || {
        (server.aggregator.seen.lock().unwrap().refused > 3).then_some(())
    });
    server.aggregator.set(Answer::Acknowledge);
    etcd.put(10);
    let counted = etcd.wal_syncs() - before;
    let balance = || {
        let account = |kind| server.aggregator.account(kind, "sync");
        let stored: u64 = server.aggregator.syncs().values().sum();
        let (produced, dropped) = (account(LedgerKind::Produced), account(LedgerKind::Dropped));
        let blind = account(LedgerKind::Blind);
        (produced == stored + dropped + blind && dropped > 0 && stored + dropped >= counted)
            .then_some((stored, dropped))
    };
    let (stored, dropped) = wait_for("the account comes out even", LIMIT, balance);
    assert!(dropped >= 5 && stored >= 5, "{stored} stored, {dropped} dropped");
}

#[test]
fn after_a_kill_what_was_spooled_arrives_and_the_rest_is_blind() {
    if !is_root("after_a_kill_what_was_spooled_arrives_and_the_rest_is_blind") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    // Nobody listens: everything has to survive on disk.
    let nobody = "127.0.0.1:1".parse().unwrap();
    let agent = Agent::start(directory.path(), nobody, &[]);
    wait_until_watched(&agent);
    let attached = etcd.wal_syncs();
    let load = etcd.load();
    std::thread::sleep(Duration::from_secs(11));
    let killed_at = now_ns();
    agent.kill();
    std::thread::sleep(Duration::from_secs(2));
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_for("the second agent watches", LIMIT, || {
        (agent.log().matches("watching syncs").count() == 2).then_some(())
    });
    let attached_again_at = now_ns();
    std::thread::sleep(Duration::from_secs(3));
    drop(load);
    let total = etcd.wal_syncs() - attached;
    let blind = wait_for("the blind interval is stated", LIMIT, || {
        server.aggregator.ledger().into_iter().find(|row| row.2 == "agent_down")
    });
    let (from, to) = (blind.4, blind.5);
    assert!(
        from >= killed_at - 10_000_000_000 && from <= killed_at,
        "blind from {} s before the kill",
        (killed_at - from) as f64 / 1e9
    );
    assert!(to >= killed_at && to <= attached_again_at);
    // Both counters are read while etcd is at work: a sync or two may fall between the two readings.
    let found = wait_for("stored and blind make up the whole", LIMIT, || {
        let found = server.aggregator.wal_syncs() + blind.3;
        (found + 3 >= total).then_some(found)
    });
    assert!(found <= total + 3, "{found} of {total}");
    let seen = server.aggregator.seen.lock().unwrap();
    let first_epoch: Vec<_> = seen.arrivals.iter().filter(|(_, again)| *again).collect();
    assert!(
        !first_epoch.is_empty(),
        "the first process's batches keep their epoch and say that they may be known"
    );
}

#[test]
fn a_restarted_etcd_is_followed() {
    if !is_root("a_restarted_etcd_is_followed") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(mut etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_until_watched(&agent);
    let first = etcd.pid();
    etcd.restart();
    let second = etcd.pid();
    assert_ne!(first, second);
    wait_for("the new process is live", LIMIT, || {
        let live = server.aggregator.live()?;
        let [member] = live.members.as_slice() else { return None };
        let pid = member.member.as_ref()?.process.as_ref()?.pid;
        (pid == second && member.running && member.scrape_ok).then_some(())
    });
    etcd.child.kill().unwrap();
    etcd.child.wait().unwrap();
    wait_for("its end is live", LIMIT, || {
        let live = server.aggregator.live()?;
        live.members.iter().all(|member| !member.running && !member.scrape_ok).then_some(())
    });
    wait_for("both are told as events", LIMIT, || {
        let events = server.aggregator.events();
        let count = |kind: &str| events.iter().filter(|event| *event == kind).count();
        (count("member.started") == 2 && count("member.gone") == 2).then_some(())
    });
    assert!(agent.stop().success());
}

fn identity(member: &etcdmon_proto::v1::LiveMember) -> u64 {
    member.member.as_ref().unwrap().member_id
}

fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}
