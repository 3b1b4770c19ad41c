//! The keeper of the engine's child, shown children of every kind of wrong: each is ended, told apart, counted and followed
//! by a new one; a child that is merely slow is left alone. The children are scripts, so that no engine is needed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use etcdmon_aggregator::engine::{Facts, Fall, Options, Supervisor};

const LIMIT: Duration = Duration::from_secs(60);

struct Child {
    supervisor: Supervisor,
    directory: tempfile::TempDir,
}

/// A keeper whose children run this script.
fn child(script: &str, options: impl FnOnce(Options) -> Options) -> Child {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("child");
    std::fs::write(&program, format!("#!/bin/bash\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = directory.path().join("clickhouse");
    std::fs::create_dir(&store).unwrap();
    // Any file: nobody loads it.
    let base = Options { library: Some(program.clone()), ..Options::new(program, store) };
    Child { supervisor: Supervisor::start(options(base)).unwrap(), directory }
}

impl Child {
    async fn facts(&self, condition: impl FnMut(&Facts) -> bool) -> Facts {
        let mut facts = self.supervisor.facts();
        let found = tokio::time::timeout(LIMIT, facts.wait_for(condition)).await;
        found.unwrap_or_else(|_| panic!("{:?}", self.supervisor.facts().borrow())).unwrap().clone()
    }

    async fn falls(&self, fall: Fall) -> Facts {
        let facts = self.facts(|facts| facts.restarts > 0).await;
        assert_eq!(facts.falls[fall as usize], facts.restarts, "{facts:?}");
        // Another one follows by itself.
        self.facts(|facts| facts.pid.is_some()).await;
        facts
    }
}

const ANNOUNCE: &str = r#"echo '{"port":1}'"#;

#[tokio::test]
async fn one_that_no_longer_answers_is_killed() {
    let hang_after = Duration::from_millis(1_500);
    let child = child(&format!("{ANNOUNCE}; exec sleep 100"), |it| Options { hang_after, ..it });
    let file = child.directory.path().join("clickhouse/etcd-monitor-engine.json");
    child.facts(|facts| facts.running).await;
    assert!(file.exists(), "subcommands find it");
    let facts = child.falls(Fall::Hang).await;
    assert!(facts.last_error.as_ref().unwrap().contains("did not answer"), "{facts:?}");
    child.supervisor.stop().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn one_that_takes_too_much_memory_is_killed() {
    // Half as much again as it may take; where it listens nobody asks before a minute is over.
    // It keeps what it took: another program in its place would not.
    let script =
        format!("{ANNOUNCE}; x=$(head -c 400000000 /dev/zero | tr '\\0' x); while :; do sleep 1; done");
    let child = child(&script, |it| Options { memory_bytes: 1 << 20, hang_after: LIMIT, ..it });
    let facts = child.falls(Fall::Memory).await;
    assert!(facts.last_error.as_ref().unwrap().contains("257 MiB at most"), "{facts:?}");
    child.supervisor.stop().await;
}

#[tokio::test]
async fn one_that_could_not_write_or_crashed_is_told_apart() {
    let child_of_disk =
        child(&format!("{ANNOUNCE}; sleep 0.3; echo 'error: write x: No space left' >&2; exit 74"), |it| it);
    let facts = child_of_disk.falls(Fall::Write).await;
    assert!(facts.last_error.as_ref().unwrap().contains("No space left"), "{facts:?}");
    child_of_disk.supervisor.stop().await;
    let killed = child(&format!("{ANNOUNCE}; sleep 0.3; kill -9 $$"), |it| it);
    killed.falls(Fall::Crash).await;
    killed.supervisor.stop().await;
}

/// An order to stop is heard in every moment of a start, also in the pause after one that failed.
#[tokio::test]
async fn a_keeper_stops_while_its_child_starts() {
    let starting = child("exec sleep 100", |it| it);
    starting.facts(|facts| facts.pid.is_some()).await;
    tokio::time::timeout(LIMIT, starting.supervisor.stop()).await.unwrap();
    let failing = child("exit 1", |it| it);
    failing.facts(|facts| facts.restarts > 2).await;
    tokio::time::timeout(LIMIT, failing.supervisor.stop()).await.unwrap();
}

#[tokio::test]
async fn a_start_that_does_nothing_is_ended_and_one_that_works_is_waited_for() {
    let hang_after = Duration::from_secs(2);
    let idle = child("exec sleep 100", |it| Options { hang_after, ..it });
    let facts = idle.falls(Fall::Start).await;
    assert!(facts.last_error.as_ref().unwrap().contains("did nothing"), "{facts:?}");
    idle.supervisor.stop().await;
    let began = Instant::now();
    let script =
        format!("end=$((SECONDS + 5)); while ((SECONDS < end)); do :; done; {ANNOUNCE}; exec sleep 100");
    let busy = child(&script, |it| Options { hang_after, ..it });
    let said = busy.facts(|facts| facts.starting.is_some_and(|(age, _)| age >= Duration::from_secs(3))).await;
    assert!(!said.running && said.restarts == 0, "{said:?}");
    let facts = busy.facts(|facts| facts.running || facts.restarts > 0).await;
    assert!(facts.running && facts.starting.is_none(), "{facts:?}");
    assert!(began.elapsed() > hang_after * 2, "{:?}", began.elapsed());
    busy.supervisor.stop().await;
}
