//! The engine's disk is full: nothing is acknowledged or given up, the reason is told, and room is all it takes (S10).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcdmon_aggregator::engine::library::locate;
use etcdmon_aggregator::store::migrate::migrate;
use support::{Agent, NOON, care, engine_in, eventually, look_after, number, store, stored_and_doubled};

/// A small ext4 in a file, mounted until the guard is dropped.
struct SmallDisk {
    mount: PathBuf,
    _directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with the reason printed, when this machine does not let us.
    fn new(mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, mount) = (directory.path().join("image"), directory.path().join("mount"));
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        let done = run("mkfs.ext4", &["-q", "-F", "-m", "0"], &image, None)
            && run("mount", &["-o", "loop"], &image, Some(&mount));
        if !done {
            println!("skipped: no small disk to be had (needs root, mkfs.ext4 and loop devices)");
            return None;
        }
        Some(Self { mount, _directory: directory })
    }

    /// Takes what is free.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            while std::io::Write::write_all(&mut file, &vec![0xff; size]).is_ok() {}
        }
        let _best_effort = file.sync_all();
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.mount, None);
    }
}

fn run(program: &str, flags: &[&str], path: &Path, target: Option<&Path>) -> bool {
    let status = Command::new(program).args(flags).arg(path).args(target).status();
    status.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_waited_for() {
    if let Err(missing) = locate(None) {
        return println!("skipped: {missing}");
    }
    let Some(disk) = SmallDisk::new(256) else { return };
    let engine = engine_in(tempfile::tempdir_in(&disk.mount).unwrap()).await;
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    store.write(agent.decoded(600, NOON), false).await.unwrap();
    assert_eq!(store.trouble(), None);
    disk.fill();
    let batches: Vec<_> = (0..4).map(|second| agent.decoded(2_000, NOON + second)).collect();
    let writing: Vec<_> = batches
        .into_iter()
        .map(|batch| {
            let store = store.clone();
            tokio::spawn(async move { store.write(batch, false).await })
        })
        .collect();
    eventually("the trouble is told", async || store.trouble().is_some()).await;
    // Long enough for a refusal to be given up on, if this were taken for one.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let reason = store.trouble().expect("the disk is still full");
    assert!(reason.to_lowercase().contains("space"), "{reason}");
    assert!(writing.iter().all(|write| !write.is_finished()), "acknowledged what is not stored");
    assert!(store.counters().rows_unstorable.iter().all(|rows| rows.load(Ordering::Relaxed) == 0));
    std::fs::remove_file(disk.filler()).unwrap();
    for write in writing {
        tokio::time::timeout(Duration::from_secs(60), write).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(store.trouble(), None);
    assert_eq!(stored_and_doubled(&client).await, (7 * (600 + 4 * 2_000), 0));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_merge_has_read_does_not_make_the_budget_smaller() {
    if let Err(missing) = locate(None) {
        return println!("skipped: {missing}");
    }
    // Of its own, so that nobody else changes what is free.
    let Some(disk) = SmallDisk::new(512) else { return };
    let engine = engine_in(tempfile::tempdir_in(&disk.mount).unwrap()).await;
    let client = engine.client("etcdmon");
    migrate(&client).await.unwrap();
    let run = async |sql: &str| client.connect().unwrap().query_raw(sql).execute().await.unwrap();
    run("SYSTEM STOP MERGES etcdmon.metrics").await;
    // More than 20 MB each that don't compress.
    for _ in 0..2 {
        run(&format!(
            "INSERT INTO metrics SELECT toUUID('00000000-0000-0000-0000-000000000001'), generateUUIDv4(), number, 0, 'c', 1, \
             fromUnixTimestamp64Nano({NOON}000000000 + number, 'UTC'), 'puts', '{{}}', 'counter', rand64() FROM numbers(1000000)"
        ))
        .await;
    }
    let (facts, _stop) = look_after(&client, care(&engine));
    eventually("it was weighed", async || facts.borrow().bytes.is_some()).await;
    let before = facts.borrow().max_bytes.unwrap();
    run("SYSTEM START MERGES etcdmon.metrics").await;
    run("OPTIMIZE TABLE metrics FINAL").await;
    let bytes = async |which: &str| {
        let of = "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = 'etcdmon' AND";
        number(&client, &format!("{of} {which}")).await
    };
    eventually("it was weighed again", async || Some(bytes("active").await) == facts.borrow().bytes).await;
    let (after, leaving) = (facts.borrow().max_bytes.unwrap(), bytes("NOT active").await);
    assert!(leaving > 40 << 20, "{leaving} bytes are still on the disk");
    assert!(before.abs_diff(after) < 8 << 20, "the budget went from {before} to {after} bytes");
    engine.supervisor.stop().await;
}
