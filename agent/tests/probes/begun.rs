//! What a process had begun when it was killed does not stay in the kernel: a map that is full counts nothing any more.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use etcdmon_agent::ebpf::{Begun, Probes};

use crate::{
    NEVER, WAL, config,
    disk::{Disk, Kind},
    order, set_up, watch,
    writer::Writer,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Holds whoever writes to a filesystem until dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(disk: &Disk) -> Self {
        let place = disk.directory();
        let done = Command::new("fsfreeze").arg("--freeze").arg(&place).status().expect("run fsfreeze");
        assert!(done.success());
        Self(place)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

fn wait_for(what: &str, probes: &Probes, is: impl Fn(Begun) -> bool) {
    let begin = Instant::now();
    while !is(probes.begun()) {
        assert!(begin.elapsed() < DEADLINE, "{what}: {:?}", probes.begun());
    }
}

#[test]
fn a_process_that_is_killed_in_the_middle_of_a_write_leaves_nothing_begun() {
    let Some((probes, disk)) = set_up(Kind::Xfs, &config(0, NEVER)) else { return };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    writer.carry_out(order("write", WAL, 1, 10));
    let frozen = Frozen::new(&disk);
    writer.begin(order("write", WAL, 1, 10));
    wait_for("a write has begun", &probes, |begun| begun.calls == 1);
    writer.kill();
    probes.remove_target(writer.pid()).expect("was watched");
    assert_eq!(probes.begun(), Begun::default(), "it has not ended yet");
    drop(frozen);
    drop(writer);
    assert_eq!(probes.begun(), Begun::default());
}

#[test]
fn a_process_that_is_no_longer_watched_in_the_middle_of_a_sync_leaves_nothing_begun() {
    // The kernel takes a second to detach the hooks of the other one.
    for (kind, rounds) in [(Kind::Ext4, 20), (Kind::Xfs, 2)] {
        let Some((probes, disk)) = set_up(kind, &config(0, NEVER)) else { return };
        let mut writer = Writer::start(&disk.directory());
        writer.begin(order("pwrite+fdatasync", WAL, 1_000_000, 10_000));
        for _ in 0..rounds {
            watch(&probes, &disk, &writer);
            wait_for("a sync has begun", &probes, |begun| begun.syncs == 1);
            probes.remove_target(writer.pid()).expect("was watched");
        }
        writer.kill();
        drop(writer);
        // What a program put there that was running goes with the next one.
        probes.add_target(0x4000_0000, &[disk.directory()]).expect("a slot is free");
        assert_eq!(probes.begun(), Begun::default());
    }
}

#[test]
fn the_end_of_a_write_slot_leaves_nothing_begun() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    writer.carry_out(order("write", WAL, 1, 10));
    probes.open_write_slot().expect("open");
    let frozen = Frozen::new(&disk);
    writer.begin(order("write", WAL, 1, 10));
    wait_for("a write has begun", &probes, |begun| begun.calls == 1);
    probes.close_write_slot();
    assert_eq!(probes.begun(), Begun::default());
    drop(frozen);
    writer.finish();
    // The next slot counts as ever.
    probes.open_write_slot().expect("open");
    writer.carry_out(order("write", WAL, 5, 10));
    probes.close_write_slot();
    let calls: u64 =
        probes.snapshot(writer.pid()).expect("watched").classes.iter().map(|of| of.calls()).sum();
    assert_eq!((calls, probes.begun()), (5, Begun::default()));
}
