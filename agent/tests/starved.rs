//! The agent reports when CPUs are scarce, which is when it is needed. S10, S12.
//!
//! A binary of its own: what starves the agent's CPUs would starve other tests as well.
#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeSet;
use std::time::Duration;

use etcdmon_proto::v1::{self, LedgerKind, SectionKind};

#[expect(dead_code, reason = "shared with the other tests of the agent")]
mod agent {
    pub mod support;
}

use agent::support;

use support::agent::Agent;
use support::aggregator::{Aggregator, sections};
use support::etcd::{Etcd, VERSIONS};
use support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

/// Busy loops at the highest nice priority; they end when dropped, and by themselves after a while.
struct Hogs(Vec<std::process::Child>);

impl Hogs {
    fn start(count: usize, seconds: u32) -> Self {
        let script = format!("end=$((SECONDS+{seconds})); while [ $SECONDS -lt $end ]; do :; done");
        let start = |_| {
            std::process::Command::new("nice").args(["-n", "-20", "bash", "-c", &script]).spawn().unwrap()
        };
        Self((0..count).map(start).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ended = hog.kill();
            let _reaped = hog.wait();
        }
    }
}

/// Raises every thread of a process, so that neither the judge nor what is measured is starved.
fn raise_threads(pid: u32) {
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let id: u32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: numbers only.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, id, -20) };
    }
}

/// Seconds of the wall clock for which the aggregator has a histogram of WAL syncs.
fn histogram_seconds(aggregator: &Aggregator) -> BTreeSet<i64> {
    let mut seconds = BTreeSet::new();
    for histograms in sections::<v1::SyncHistograms>(&aggregator.batches(), SectionKind::SyncHistogram) {
        let mut second = 0;
        for (delta, class) in histograms.second_delta.iter().zip(&histograms.file_class) {
            second += delta;
            if *class == v1::FileClass::Wal as i32 {
                seconds.insert(second);
            }
        }
    }
    seconds
}

#[test]
fn under_four_hogs_every_second_is_reported_and_nothing_dropped() {
    if !is_root("under_four_hogs_every_second_is_reported_and_nothing_dropped") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_for("agent watches etcd", LIMIT, || agent.log().contains("watching syncs").then_some(()));
    wait_for("live summaries", LIMIT, || {
        (server.aggregator.seen.lock().unwrap().live_count > 2).then_some(())
    });
    // The agent has the priority that it gave itself. etcd has to sync each second for a histogram to be there.
    raise_threads(std::process::id());
    raise_threads(etcd.child.id());
    let begin = now_second();
    let hogs = Hogs::start(4, 15);
    while now_second() < begin + 13 {
        etcd.put(1);
        std::thread::sleep(Duration::from_millis(100));
    }
    let end = now_second() - 2;
    drop(hogs);
    wait_for("the last batch", LIMIT, || {
        histogram_seconds(&server.aggregator).range(end..).next().is_some().then_some(())
    });
    let seconds = histogram_seconds(&server.aggregator);
    let missing: Vec<i64> = (begin + 1..end).filter(|second| !seconds.contains(second)).collect();
    assert_eq!(missing, [0i64; 0], "seconds without a histogram, of {begin} to {end}");
    let seen = server.aggregator.seen.lock().unwrap();
    let numbers: Vec<u64> =
        seen.live_numbers.iter().filter(|(_, late)| !late).map(|(number, _)| *number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "summaries are missing: {numbers:?}");
    drop(seen);
    for stream in ["sync", "sync_row", "write", "metric", "event"] {
        assert_eq!(server.aggregator.account(LedgerKind::Dropped, stream), 0, "{stream}");
    }
    assert_eq!(agent.metric("etcdmon_agent_probe_snapshots_put_off_total"), 0.0);
    assert!(agent.stop().success());
}

fn now_second() -> i64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed()
}
