//! The probes on a real kernel: counts agree with what a process of ours did, to the last sync and byte.
//!
//! Needs root, the kernel programs (`cargo xtask ebpf`), mkfs.ext4 and mkfs.xfs; prints why it skips otherwise.

mod begun;
mod device;
mod disk;
mod etcd;
mod who;
mod writer;

use std::{
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use etcdmon_agent::ebpf::{LossCount, Lost, ProbeConfig, ProbeError, Probes, SyncRecord, TargetCounters};
use etcdmon_proto::v1::{FileClass, Hook, SyncReason};

use self::{
    disk::{Disk, Kind},
    writer::{Order, Writer},
};

const NEVER: Duration = Duration::from_secs(100);
const WAL: &str = "member/wal/0000000000000000-0000000000000000.wal";

/// Loads the probes and makes the disk, or says why the test is skipped.
fn set_up(kind: Kind, config: &ProbeConfig) -> Option<(Probes, Disk)> {
    set_up_with(config, || Disk::new(kind))
}

fn set_up_with(config: &ProbeConfig, disk: impl FnOnce() -> Result<Disk, String>) -> Option<(Probes, Disk)> {
    let probes = match Probes::load(config) {
        Ok(probes) => probes,
        Err(
            error @ (ProbeError::ObjectMissing | ProbeError::Privilege { .. } | ProbeError::PidNamespace),
        ) => {
            eprintln!("skipped: {error}: {}", error.remedy());
            return None;
        }
        Err(error) => panic!("load: {error:?}"),
    };
    match disk() {
        Ok(disk) => Some((probes, disk)),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

/// What is lost, but for what the kernel did not run of the hooks of disks: that may have been for any disk of the machine.
fn lost(probes: &Probes) -> Vec<LossCount> {
    let of_disks = |loss: &LossCount| matches!(loss.lost, Lost::Request | Lost::Commit);
    probes.losses().into_iter().filter(|loss| loss.reason != "not_run" || !of_disks(loss)).collect()
}

fn config(sample_every: u32, slow_threshold: Duration) -> ProbeConfig {
    let offsets_program = Some(PathBuf::from(env!("CARGO_BIN_EXE_etcd-monitor-agent")));
    ProbeConfig { sample_every, slow_threshold, offsets_program, ..ProbeConfig::default() }
}

fn watch(probes: &Probes, disk: &Disk, writer: &Writer) -> Hook {
    let watch = probes.add_target(writer.pid(), &[disk.directory()]).expect("watched");
    eprintln!("{:?}: {}; costs {}", watch.hook, watch.reason, watch.cost());
    watch.hook
}

fn syncs(counters: &TargetCounters, class: FileClass) -> u64 {
    counters.of(class).expect("every class is there").syncs()
}

fn all_records(probes: &Probes) -> Vec<SyncRecord> {
    let mut found = Vec::new();
    let mut records = probes.take_records().expect("not taken yet");
    records.drain(|record| found.push(record));
    assert_eq!(records.malformed(), 0);
    found
}

fn order(how: &'static str, file: &'static str, times: u64, bytes: u64) -> Order {
    Order { how, file, times, bytes }
}

/// (order, class that counts it)
fn etcds_day() -> Vec<(Order, FileClass)> {
    vec![
        (order("write+fdatasync", WAL, 77, 2_300), FileClass::Wal),
        (order("write+fsync", "member/wal/0.tmp", 3, 512), FileClass::Wal),
        (order("pwrite+fdatasync", "member/snap/db", 41, 4_096), FileClass::Backend),
        (
            order("write+fsync", "member/snap/0000000000000002-00000000000186a1.snap", 5, 9_000),
            FileClass::Snapshot,
        ),
        (order("write+fsync", "member/snap/tmp123456", 2, 70_000), FileClass::Snapshot),
        (order("write+fdatasync", "member/snap/db.tmp.4711", 4, 100_000), FileClass::Defrag),
        (order("fsync", "member/wal", 6, 0), FileClass::Directory),
        (order("fsync", "member/snap", 1, 0), FileClass::Directory),
        (order("write+fsync", "member/lock", 7, 1), FileClass::Other),
        (order("write+fsync", "member/db", 1, 10), FileClass::Other),
        (order("writev", WAL, 9, 1_000), FileClass::Wal),
    ]
}

fn counts_agree(kind: Kind, hook: Hook, config: &ProbeConfig) {
    let Some((probes, disk)) = set_up(kind, config) else { return };
    let mut writer = Writer::start(&disk.directory());
    assert_eq!(watch(&probes, &disk, &writer), hook);
    let mut expected = [(0, 0); FileClass::ALL.len()];
    for (order, class) in etcds_day() {
        writer.carry_out(order);
        let at = FileClass::ALL.iter().position(|other| *other == class).expect("a class");
        expected[at].0 += if order.how == "writev" { 0 } else { order.times };
        expected[at].1 += order.times * order.bytes;
    }
    // A file keeps its inode and gets another class.
    writer.carry_out(order("rename", "member/wal/0.tmp", 1, 0));
    writer.carry_out(order("write+fdatasync", "member/wal/0000000000000001-0000000000000001.wal", 2, 100));
    expected[0].0 += 2;
    expected[0].1 += 200;
    // No sync happens here, so nothing may be counted or missed.
    writer.carry_out(order("refused", "-", 10, 0));
    let counters = probes.snapshot(writer.pid()).expect("watched");
    for (class, (count, bytes)) in counters.classes.iter().zip(expected) {
        assert_eq!((class.syncs(), class.written_bytes), (count, bytes), "{:?}", class.class);
        assert_eq!(class.sync_errors, 0);
        assert!(class.sync_sum_ns >= class.syncs() * 100, "{:?}: a sync takes time", class.class);
    }
    assert_eq!(lost(&probes), []);
    if hook == Hook::Syscall {
        let calls: u64 = counters.classes.iter().map(|class| class.calls()).sum();
        assert_eq!(calls, 77 + 3 + 41 + 5 + 2 + 4 + 7 + 1 + 9 + 2);
        assert!(counters.observed > Duration::ZERO);
    }
    let last = probes.remove_target(writer.pid()).expect("was watched");
    assert_eq!(last.classes, counters.classes);
    assert_eq!(probes.facts().attached, Vec::<&str>::new());
}

#[test]
fn on_ext4_the_filesystems_tracepoints_count_every_sync_and_byte() {
    counts_agree(Kind::Ext4, Hook::Filesystem, &config(0, NEVER));
}

#[test]
fn where_ext4_is_a_module_every_sync_and_byte_is_counted_as_well() {
    counts_agree(Kind::Ext4, Hook::Filesystem, &ProbeConfig { typed: false, ..config(0, NEVER) });
}

#[test]
fn on_xfs_the_syscall_tracepoints_count_every_sync_and_byte() {
    counts_agree(Kind::Xfs, Hook::Syscall, &config(0, NEVER));
}

#[test]
fn typed_tracepoints_are_used_wherever_the_kernel_has_them() {
    let Some((probes, _disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let untyped = probes.facts().untyped;
    let names: Vec<_> = untyped.iter().flat_map(|of| of.programs.iter().copied()).collect();
    let of_modules: Vec<&str> = [
        ("ext4", &["sync_enter_filesystem", "sync_exit_filesystem", "write_end_filesystem"][..]),
        (
            "jbd2",
            &["journal_start", "journal_locking", "journal_flushing", "journal_logging", "journal_end"][..],
        ),
    ]
    .into_iter()
    .filter(|(module, _)| std::path::Path::new("/sys/kernel/btf").join(module).exists())
    .flat_map(|(_, programs)| programs.iter().copied())
    .collect();
    assert_eq!(names, of_modules, "{untyped:?}");
}

fn sample(kind: Kind, every: u32, slow: Duration) -> Option<Vec<SyncRecord>> {
    let (probes, disk) = set_up(kind, &config(every, slow))?;
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    writer.carry_out(order("write+fdatasync", WAL, 100, 2_300));
    let records = all_records(&probes);
    let inode = std::fs::metadata(disk.directory().join(WAL)).expect("written").ino();
    for record in &records {
        assert_eq!((record.pid, record.class), (writer.pid(), FileClass::Wal));
        assert_eq!((record.inode, record.device), (inode, disk.device_number()));
        assert_eq!((record.written_bytes, record.result), (2_300, 0));
        assert!(record.latency > Duration::ZERO && record.run_delay <= record.latency);
    }
    assert!(records.is_sorted_by_key(|record| record.start_mono_ns));
    Some(records)
}

#[test]
fn one_sync_in_so_many_has_a_record() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        for (every, expected) in [(0, 0), (1, 100), (7, 15), (100, 1)] {
            let Some(records) = sample(kind, every, NEVER) else { return };
            assert_eq!(records.len(), expected, "1 in {every} on {kind:?}");
            assert!(records.iter().all(|record| record.reason == SyncReason::Sample));
        }
    }
}

#[test]
fn every_slow_sync_has_a_record() {
    let Some(records) = sample(Kind::Ext4, 7, Duration::ZERO) else { return };
    assert_eq!(records.len(), 100);
    assert!(records.iter().all(|record| record.reason == SyncReason::Slow));
}

#[test]
fn without_an_exact_sample_a_single_thread_has_the_same() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let config = ProbeConfig { exact_sample: false, ..config(7, NEVER) };
        let Some((probes, disk)) = set_up(kind, &config) else { return };
        assert_eq!(
            probes.facts().degraded.iter().map(|part| &part.capability[..]).collect::<Vec<_>>(),
            ["sync.sample"]
        );
        let mut writer = Writer::start(&disk.directory());
        watch(&probes, &disk, &writer);
        writer.carry_out(order("write+fdatasync", WAL, 100, 2_300));
        assert_eq!(probes.snapshot(writer.pid()).map(|counters| counters.syncs()), Some(100));
        assert_eq!(all_records(&probes).len(), 15);
    }
}

#[test]
fn a_failing_device_shows_as_an_error_in_counts_and_record() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some((probes, disk)) = set_up_with(&config(1, NEVER), || Disk::failing(kind)) else { return };
        let mut writer = Writer::start(&disk.directory());
        watch(&probes, &disk, &writer);
        let failed = writer.carry_out(order("write-until-failure", WAL, 250, 1 << 20));
        assert_ne!(failed, 0, "the device should have failed");
        let counters = probes.snapshot(writer.pid()).expect("watched");
        let wal = counters.of(FileClass::Wal).expect("every class is there");
        assert_eq!((wal.syncs(), wal.sync_errors), (failed, 1), "{kind:?}");
        assert_eq!(probes.sync_errors(writer.pid()), Some(1));
        let last = all_records(&probes).pop().expect("every sync has a record");
        // What the device below says when its memory is full; some filesystems make EIO of it.
        assert!([-libc::ENOSPC, -libc::EIO].contains(&last.result), "{last:?}");
    }
}

#[test]
fn waiting_for_a_busy_cpu_shows_as_run_queue_delay() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some((probes, disk)) = set_up(kind, &config(1, NEVER)) else { return };
        let mut writer = Writer::start(&disk.directory());
        watch(&probes, &disk, &writer);
        let busy = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            for _ in 0..2 * processors {
                scope.spawn(|| {
                    while busy.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            writer.carry_out(order("write+fdatasync", WAL, 200, 1_000));
            busy.store(false, Ordering::Relaxed);
        });
        let counters = probes.snapshot(writer.pid()).expect("watched");
        let wal = counters.of(FileClass::Wal).expect("every class is there");
        let of_records: Duration = all_records(&probes).iter().map(|record| record.run_delay).sum();
        assert!(wal.sync_run_delay_ns > 0 && wal.sync_run_delay_ns < wal.sync_sum_ns, "{kind:?}");
        assert_eq!(Duration::from_nanos(wal.sync_run_delay_ns), of_records);
    }
}

#[test]
fn the_programs_log_can_be_switched_on() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &ProbeConfig { kernel_log: true, ..config(1, NEVER) })
    else {
        return;
    };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    writer.carry_out(order("write+fdatasync", WAL, 10, 100));
    assert_eq!(all_records(&probes).len(), 10);
}

#[test]
fn what_has_a_record_can_be_changed_while_counting() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    writer.carry_out(order("write+fdatasync", WAL, 10, 10));
    probes.set_records(Some(writer.pid()), Duration::ZERO, 0).expect("changed");
    writer.carry_out(order("write+fdatasync", WAL, 5, 10));
    assert_eq!(all_records(&probes).len(), 5);
    assert_eq!(probes.snapshot(writer.pid()).map(|counters| counters.syncs()), Some(15));
}

#[test]
fn other_processes_are_not_counted() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some((probes, disk)) = set_up(kind, &config(1, NEVER)) else { return };
        let (mut ours, mut foreign) = (Writer::start(&disk.directory()), Writer::start(&disk.directory()));
        watch(&probes, &disk, &ours);
        foreign.carry_out(order("write+fdatasync", WAL, 50, 100));
        ours.carry_out(order("write+fdatasync", WAL, 10, 100));
        foreign.carry_out(order("pwrite+fdatasync", "member/snap/db", 50, 4_096));
        let counters = probes.snapshot(ours.pid()).expect("watched");
        assert_eq!(counters.syncs(), 10);
        assert_eq!(counters.classes.iter().map(|class| class.written_bytes).sum::<u64>(), 1_000);
        assert!(all_records(&probes).iter().all(|record| record.pid == ours.pid()));
        assert_eq!(probes.snapshot(foreign.pid()), None);
    }
}

#[test]
fn four_threads_at_full_speed_lose_nothing() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some((probes, disk)) = set_up(kind, &ProbeConfig { ring_bytes: 4 << 20, ..config(1, NEVER) })
        else {
            return;
        };
        let mut writer = Writer::start(&disk.directory());
        watch(&probes, &disk, &writer);
        let begin = std::time::Instant::now();
        writer.carry_out(order("threads", "member/wal/x", 5_000, 512));
        let rate = 20_000.0 / begin.elapsed().as_secs_f64();
        let counters = probes.snapshot(writer.pid()).expect("watched");
        eprintln!("{kind:?}: 20000 syncs at {rate:.0}/s");
        assert_eq!(syncs(&counters, FileClass::Wal), 20_000);
        assert_eq!(counters.syncs(), 20_000);
        assert_eq!(counters.of(FileClass::Wal).map(|wal| wal.written_bytes), Some(20_000 * 512));
        assert_eq!(all_records(&probes).len(), 20_000);
        assert_eq!(lost(&probes), []);
    }
}

#[test]
fn threads_whose_begins_have_the_same_place_lose_nothing() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(1, NEVER)) else { return };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    writer.carry_out(order("same-place", "member/wal/x", 500, 512));
    let counters = probes.snapshot(writer.pid()).expect("watched");
    assert_eq!(syncs(&counters, FileClass::Wal), 1_000);
    let records = all_records(&probes);
    let overlap = records.windows(2).filter(|pair| pair[0].start_mono_ns > pair[1].start_mono_ns).count();
    eprintln!("{overlap} syncs began before the one that ended before them");
    assert_eq!((records.len(), lost(&probes)), (1_000, Vec::new()));
}

#[test]
fn a_full_ring_loses_records_and_counts_them() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &ProbeConfig { ring_bytes: 4_096, ..config(1, NEVER) })
    else {
        return;
    };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    writer.carry_out(order("write+fdatasync", WAL, 200, 100));
    assert_eq!(probes.snapshot(writer.pid()).map(|counters| counters.syncs()), Some(200));
    let handed_over = all_records(&probes).len() as u64;
    let losses = lost(&probes);
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert_eq!((losses[0].reason, losses[0].lost), ("ring_full", Lost::SyncRecord));
    assert_eq!(handed_over + losses[0].count, 200);
}

#[test]
fn write_calls_are_seen_in_slots_and_bytes_always() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    for round in 1..=3 {
        writer.carry_out(order("write", WAL, 20, 100));
        probes.open_write_slot().expect("open");
        assert!(probes.facts().attached.contains(&"sys_enter"));
        writer.carry_out(order("write", WAL, 30, 100));
        writer.carry_out(order("pwrite+fdatasync", "member/snap/db", 5, 4_096));
        writer.carry_out(order("range", "member/snap/db", 2, 0));
        let length = probes.close_write_slot();
        assert!(!probes.facts().attached.contains(&"sys_enter"));
        let counters = probes.snapshot(writer.pid()).expect("watched");
        let of = |class| counters.of(class).expect("every class is there");
        assert_eq!(of(FileClass::Wal).calls(), 30 * round);
        assert_eq!(of(FileClass::Backend).calls(), 5 * round);
        assert_eq!(of(FileClass::Backend).sync_file_range_calls, 2 * round);
        assert_eq!(of(FileClass::Wal).written_bytes, 50 * 100 * round);
        assert_eq!(counters.syncs(), 5 * round);
        assert!(of(FileClass::Wal).call_sum_ns > 0);
        assert!(length > Duration::ZERO && counters.observed >= length / 2, "{length:?} {counters:?}");
    }
    assert_eq!(probes.close_write_slot(), Duration::ZERO);
    assert_eq!(lost(&probes), []);
}

#[test]
fn a_member_is_counted_on_while_others_come_and_go() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let mut steady = Writer::start(&disk.directory());
    watch(&probes, &disk, &steady);
    for round in 1..=40 {
        let mut passing = Writer::start(&disk.directory());
        // Every other one needs the other hook, as its directory is not known.
        let directories = if round % 2 == 0 { vec![] } else { vec![disk.directory()] };
        probes.add_target(passing.pid(), &directories).expect("a slot is free");
        passing.carry_out(order("write+fdatasync", "member/snap/db", round, 10));
        steady.carry_out(order("write+fdatasync", WAL, 1, 10));
        let last = probes.remove_target(passing.pid()).expect("was watched");
        assert_eq!(last.syncs(), round);
        assert_eq!(last.of(FileClass::Backend).map(|backend| backend.written_bytes), Some(round * 10));
        assert_eq!(probes.snapshot(steady.pid()).map(|counters| counters.syncs()), Some(round));
    }
    assert_eq!(lost(&probes), []);
}

#[test]
fn there_are_sixteen_slots_and_the_next_process_is_refused() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    // Any number will do: nobody has to run under it.
    for pid in 0..16 {
        probes.add_target(0x4000_0000 + pid, &[disk.directory()]).expect("a slot is free");
    }
    let refused = probes.add_target(0x4000_0010, &[disk.directory()]);
    assert!(matches!(refused, Err(ProbeError::NoSlot { slots: 16 })), "{refused:?}");
    assert!(probes.remove_target(0x4000_0003).is_some());
    assert!(probes.add_target(0x4000_0010, &[disk.directory()]).is_ok());
}

#[test]
fn two_agents_on_one_host_count_alike() {
    let Some((first, disk)) = set_up(Kind::Ext4, &config(1, NEVER)) else { return };
    let second = Probes::load(&config(1, NEVER)).expect("a second time");
    let mut writer = Writer::start(&disk.directory());
    watch(&first, &disk, &writer);
    watch(&second, &disk, &writer);
    writer.carry_out(order("write+fdatasync", WAL, 25, 100));
    drop(first);
    writer.carry_out(order("write+fdatasync", WAL, 25, 100));
    assert_eq!(second.snapshot(writer.pid()).map(|counters| counters.syncs()), Some(50));
    assert_eq!(all_records(&second).len(), 50);
}

#[test]
fn an_object_that_is_not_one_is_refused_with_a_reason() {
    let config = ProbeConfig { offsets_program: None, ..ProbeConfig::default() };
    for object in [&b"garbage"[..], &[0x7f, b'E', b'L', b'F'], &[0; 4096]] {
        let error = Probes::load_object(&config, object).expect_err("not an object");
        assert!(!error.remedy().is_empty() && !error.to_string().is_empty());
    }
}
