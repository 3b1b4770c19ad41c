//! The flight recorder against a real etcd: after a dump every sync around it has exactly one row. S16.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcdmon_proto::v1::{self, LedgerKind, SectionKind, SyncReason};

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, sections};
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

/// Rows of syncs that etcd's own WAL histogram counts, by reason; and that no sync has two.
fn rows(aggregator: &Aggregator) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for syncs in sections::<v1::Syncs>(&aggregator.batches(), SectionKind::Sync) {
        let mut start = 0;
        for row in 0..syncs.reason.len() {
            start += syncs.start_mono_ns_delta[row];
            assert!(seen.insert((start, syncs.thread_id[row])), "two rows of one sync");
            let class = v1::FileClass::try_from(syncs.file_class[row]).unwrap();
            if matches!(class, v1::FileClass::Wal | v1::FileClass::Directory) {
                let reason = SyncReason::try_from(syncs.reason[row]).unwrap();
                *counts.entry(reason.name()).or_default() += 1;
            }
        }
    }
    counts
}

fn dumps(aggregator: &Aggregator) -> Vec<serde_json::Value> {
    let told = aggregator.told().into_iter().filter(|(kind, _)| kind == "flight.dumped");
    told.map(|(_, details)| details).collect()
}

fn wait_for_dump(aggregator: &Aggregator, trigger: &str) -> serde_json::Value {
    wait_for("the dump is over", LIMIT, || {
        dumps(aggregator).into_iter().find(|dump| dump["trigger"] == trigger)
    })
}

#[test]
fn a_dump_on_request_completes_the_last_minute_to_etcds_own_count() {
    if !is_root("a_dump_on_request_completes_the_last_minute_to_etcds_own_count") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let server = Aggregator::start();
    let settings =
        ["--probe-slow-threshold", "1h", "--probe-sample-every", "10", "--flight-dump-latency", "0"];
    let agent = Agent::start(directory.path(), server.address, &settings);
    wait_for("agent watches etcd", LIMIT, || agent.log().contains("watching syncs").then_some(()));
    let before = etcd.wal_syncs();
    etcd.put(200);
    let counted = etcd.wal_syncs() - before;
    wait_for("histograms", LIMIT, || (server.aggregator.wal_syncs() >= counted).then_some(()));
    let sampled: u64 = rows(&server.aggregator).values().sum();
    assert!(sampled < counted / 4, "{sampled} of {counted}");
    agent.signal(libc::SIGUSR1);
    let dump = wait_for_dump(&server.aggregator, "asked");
    let dropped = || server.aggregator.account(LedgerKind::Dropped, "sync_row");
    let rows = rows(&server.aggregator);
    // On a machine that is too busy to carry them, rows are dropped, and accounted for with the next second: then this test says
    // nothing about the recorder.
    if rows.values().sum::<u64>() < counted {
        wait_for("rows that are missing are accounted for as dropped", LIMIT, || {
            (dropped() > 0).then_some(())
        });
        panic!("{} rows were dropped, as this machine is too busy: {rows:?} of {counted}", dropped());
    }
    assert_eq!(rows.values().sum::<u64>(), counted, "{rows:?}");
    assert!(rows["flight"] > counted / 2 && rows["sample"] >= sampled, "{rows:?}");
    assert!(dump["rows"].as_u64().unwrap() >= rows["flight"], "{dump}");
    assert_eq!(dropped(), 0);
    assert!(agent.stop().success());
}

#[test]
fn a_member_that_is_gone_leaves_its_last_minute() {
    if !is_root("a_member_that_is_gone_leaves_its_last_minute") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let server = Aggregator::start();
    let settings =
        ["--probe-slow-threshold", "1h", "--probe-sample-every", "0", "--flight-dump-latency", "0"];
    let agent = Agent::start(directory.path(), server.address, &settings);
    wait_for("agent watches etcd", LIMIT, || agent.log().contains("watching syncs").then_some(()));
    let before = etcd.wal_syncs();
    etcd.put(50);
    let counted = etcd.wal_syncs() - before;
    drop(etcd);
    let dump = wait_for_dump(&server.aggregator, "member_gone");
    let rows = rows(&server.aggregator);
    assert!(rows["flight"] >= counted, "{rows:?} of {counted}: {dump}");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(agent.stop().success());
}
