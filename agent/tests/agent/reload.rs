//! New settings without a restart. S11.

use std::time::Duration;

use etcdmon_proto::v1::{self, SectionKind};

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, sections};
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn settings_are_taken_on_hangup_and_a_bad_file_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let server = Aggregator::start();
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, "[probe]\nslow-threshold = \"1h\"\nsample-every = 0\n").unwrap();
    let agent = Agent::start(directory.path(), server.address, &["--config", file.to_str().unwrap()]);
    wait_for("live summaries", LIMIT, || {
        (server.aggregator.seen.lock().unwrap().live_count > 2).then_some(())
    });
    std::fs::write(&file, "[probe]\nslow-threshold = \"soon\"\n").unwrap();
    agent.signal(libc::SIGHUP);
    wait_for("the fault is told", LIMIT, || agent.log().contains("the old ones stay in force").then_some(()));
    let new = "[probe]\nslow-threshold = \"1h\"\nsample-every = 1\n[collect]\ninterval = \"400ms\"\n[spool]\nmax-bytes = \"2GiB\"\n";
    std::fs::write(&file, new).unwrap();
    agent.signal(libc::SIGHUP);
    wait_for("what needs a restart is named", LIMIT, || {
        let log = agent.log();
        (log.contains("need a restart settings=[\"spool.max-bytes\"]") && log.contains("settings applied"))
            .then_some(())
    });
    let scrapes = || agent.metric("etcdmon_agent_collections_total{collector=\"status\",outcome=\"ok\"}");
    let before = (scrapes(), server.aggregator.seen.lock().unwrap().live_count);
    wait_for("ten summaries", LIMIT, || {
        (server.aggregator.seen.lock().unwrap().live_count >= before.1 + 10).then_some(())
    });
    assert!(scrapes() - before.0 >= 15.0, "{} in ten seconds at 400 ms", scrapes() - before.0);
    if is_root("settings_are_taken_on_hangup_and_a_bad_file_changes_nothing") {
        etcd.put(20);
        wait_for("every sync has a row that says why", LIMIT, || {
            let syncs = sections::<v1::Syncs>(&server.aggregator.batches(), SectionKind::Sync);
            let all = syncs.iter().filter(|syncs| syncs.sample_every == 1);
            (all.map(|syncs| syncs.reason.len()).sum::<usize>() >= 20).then_some(())
        });
    }
    assert!(agent.stop().success());
}
