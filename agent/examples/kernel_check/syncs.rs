//! Syncs, writes and calls of a process, by each hook, and signals to it.

use std::{
    path::Path,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};
use etcdmon_agent::ebpf::{Position, Probes, SyncRecord, TargetCounters};
use etcdmon_proto::v1::{FileClass, Hook};

use crate::{
    disks,
    report::{Kind, Outcome, Report},
    scene::{Scene, config, take_stock},
    writer::{Order, Writer},
};

/// Name of the hidden subcommand of a process that does nothing but need a CPU.
pub const BURN: &str = "burn";

const WAL: &str = "member/wal/0000000000000000-0000000000000000.wal";

const fn order(how: &'static str, file: &'static str, times: u64, bytes: u64) -> Order {
    Order { how, file, times, bytes }
}

/// What etcd does, with the class that counts it, its syncs and its bytes.
const DAY: [(Order, FileClass, u64, u64); 9] = [
    (order("write+fdatasync", WAL, 23, 2_300), FileClass::Wal, 23, 23 * 2_300),
    (order("write+fsync", "member/wal/0.tmp", 3, 512), FileClass::Wal, 3, 3 * 512),
    (order("pwrite+fdatasync", "member/snap/db", 11, 4_096), FileClass::Backend, 11, 11 * 4_096),
    (order("write+fsync", "member/snap/tmp123456", 2, 70_000), FileClass::Snapshot, 2, 2 * 70_000),
    (order("write+fdatasync", "member/snap/db.tmp.4711", 2, 50_000), FileClass::Defrag, 2, 2 * 50_000),
    (order("fsync", "member/wal", 4, 0), FileClass::Directory, 4, 0),
    (order("rename", "member/wal/0.tmp", 1, 0), FileClass::Directory, 0, 0),
    (order("fsync", "member/wal/0000000000000001-0000000000000001.wal", 2, 0), FileClass::Wal, 2, 0),
    (order("writev", WAL, 7, 1_000), FileClass::Wal, 0, 7 * 1_000),
];

/// Numbers of (syncs, bytes) of a class in [`DAY`].
fn expected(class: FileClass) -> (u64, u64) {
    let of_class = DAY.iter().filter(|(_, of, _, _)| *of == class);
    of_class.fold((0, 0), |(syncs, bytes), (_, _, more, written)| (syncs + more, bytes + written))
}

fn all_expected() -> (u64, u64) {
    DAY.iter().fold((0, 0), |(syncs, bytes), (_, _, more, written)| (syncs + more, bytes + written))
}

fn bytes(counters: &TargetCounters) -> u64 {
    counters.classes.iter().map(|class| class.written_bytes).sum()
}

fn calls(counters: &TargetCounters) -> u64 {
    counters.classes.iter().map(|class| class.calls()).sum()
}

fn ranges(counters: &TargetCounters) -> u64 {
    counters.classes.iter().map(|class| class.sync_file_range_calls).sum()
}

fn exactly(counted: u64, expected: u64) -> Outcome {
    Outcome::Counted { counted, expected, at_least: false }
}

fn some(counted: u64) -> Outcome {
    Outcome::Counted { counted, expected: 1, at_least: true }
}

fn number(found: impl Iterator) -> u64 {
    found.count() as u64
}

/// Does nothing but need a CPU, for ever.
pub fn burn() -> Result<()> {
    loop {
        std::hint::spin_loop();
    }
}

/// Somebody else for whom the one CPU is wanted.
struct Burner(Child);

impl Burner {
    fn start() -> Result<Self> {
        Ok(Self(Command::new("/proc/self/exe").arg(BURN).spawn().context("start a busy process")?))
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that a process on ext4 shows.
///
/// # Errors
/// When something goes wrong that is no verdict on a program.
pub fn on_ext4(report: &mut Report, directory: &Path, scratch: &Path) -> Result<()> {
    report.step("loading the programs");
    let probes = Probes::load(&config())?;
    take_stock(report, &probes);
    report.step("syncs and writes on ext4");
    let mut scene = Scene::begin(probes, directory, scratch)?;
    for off in scene.probes.facts().degraded {
        report.note(&format!("{}: {}", off.capability, off.reason));
    }
    if scene.watch.hook == Hook::Filesystem {
        of_filesystem(report, &mut scene)?;
        in_slot(report, &mut scene)?;
    } else {
        let reason = scene.watch.reason.clone();
        for program in ["sync_enter_filesystem", "sync_exit_filesystem", "write_end_filesystem"] {
            report.verdict(Kind::Program, program, &Outcome::Off(reason.clone()));
        }
    }
    disks::requests(report, &mut scene, scratch)?;
    disks::writeback(report, &mut scene)?;
    disks::commits(report, &mut scene)?;
    disks::handles(report, &mut scene)?;
    signals(report, &scene);
    scene.note_losses(report);
    Ok(())
}

fn of_filesystem(report: &mut Report, scene: &mut Scene) -> Result<()> {
    let counters = {
        let _busy = Burner::start()?;
        scene.count(&DAY.map(|(order, ..)| order))?
    };
    let records = scene.records();
    let (syncs, written) = all_expected();
    report.verdict(Kind::Program, "sync_enter_filesystem", &exactly(counters.syncs(), syncs));
    report.verdict(Kind::Program, "sync_exit_filesystem", &exactly(records.len() as u64, syncs));
    report.verdict(Kind::Program, "write_end_filesystem", &exactly(bytes(&counters), written));
    classes(report, &counters);
    of_records(report, &records, scene.filesystem()?, syncs);
    Ok(())
}

/// Syncs and bytes that are counted in the class that they belong to.
fn classes(report: &mut Report, counters: &TargetCounters) {
    let (mut in_place, mut written_in_place) = (0, 0);
    for class in FileClass::ALL {
        let found = counters.of(class).map_or((0, 0), |of| (of.syncs(), of.written_bytes));
        let (syncs, bytes) = expected(class);
        in_place += found.0.min(syncs);
        written_in_place += found.1.min(bytes);
    }
    let (syncs, bytes) = all_expected();
    report.verdict(Kind::Feature, "sync.class", &exactly(in_place, syncs));
    report.verdict(Kind::Feature, "write.class", &exactly(written_in_place, bytes));
}

fn of_records(report: &mut Report, records: &[SyncRecord], filesystem: u32, syncs: u64) {
    let on_it = records.iter().filter(|record| record.device == filesystem && record.result == 0);
    report.verdict(Kind::Feature, "sync.device", &exactly(number(on_it), syncs));
    let within = |record: &&SyncRecord| record.run_time.is_some_and(|ran| ran <= record.latency);
    report.verdict(Kind::Feature, "sync.run_time", &exactly(number(records.iter().filter(within)), syncs));
    // With somebody else on the only CPU, one that waited for the disk may wait for the CPU too.
    let waited = records.iter().filter(|record| !record.run_delay.is_zero());
    report.verdict(Kind::Feature, "sync.run_delay", &some(number(waited)));
}

/// Calls that are only seen in a slot.
fn in_slot(report: &mut Report, scene: &mut Scene) -> Result<()> {
    if let Err(error) = scene.probes.open_write_slot() {
        let reason = Outcome::Off(format!("{error:#}"));
        report.verdict(Kind::Program, "call_enter_slot", &reason);
        report.verdict(Kind::Program, "call_exit_slot", &reason);
        return Ok(());
    }
    let counters = scene.count(&CALLS)?;
    scene.probes.close_write_slot();
    report.verdict(Kind::Program, "call_enter_slot", &exactly(ranges(&counters), RANGES));
    report.verdict(Kind::Program, "call_exit_slot", &exactly(calls(&counters), WRITES));
    report.verdict(
        Kind::Feature,
        "write.slot",
        &exactly(calls(&counters) + ranges(&counters), WRITES + RANGES),
    );
    Ok(())
}

const WRITES: u64 = 17 + 9;
const RANGES: u64 = 5;
const CALLS: [Order; 3] =
    [order("write", WAL, 17, 700), order("writev", WAL, 9, 1_000), order("range", WAL, RANGES, 0)];

/// Everything that syscall tracepoints show: on `fallback`, whose filesystem has no tracepoints of its own, or on ext4 of a
/// process whose directories nobody knows.
///
/// # Errors
/// When something goes wrong that is no verdict on a program.
pub fn by_syscalls(report: &mut Report, fallback: Option<&Path>, ext4: &Path, scratch: &Path) -> Result<()> {
    report.step("syncs and writes by syscall tracepoints");
    let probes = Probes::load(&config())?;
    let mut scene = match fallback {
        Some(directory) => Scene::begin(probes, directory, scratch)?,
        None => {
            let writer = Writer::start(ext4)?;
            let watch = probes.add_target(writer.pid(), &[])?;
            Scene::of(probes, writer, watch, ext4)
        }
    };
    report.note(&format!("{}: {}", scene.watch.hook.name(), scene.watch.reason));
    let counters = scene.count(&DAY.map(|(order, ..)| order))?;
    let records = scene.records();
    let (syncs, written) = all_expected();
    report.verdict(Kind::Program, "sync_enter_syscall", &exactly(counters.syncs(), syncs));
    report.verdict(Kind::Program, "sync_exit_syscall", &exactly(records.len() as u64, syncs));
    report.verdict(Kind::Program, "write_exit_syscall", &exactly(bytes(&counters), written));
    report.verdict(Kind::Feature, "sync.hook.syscall", &exactly(counters.syncs(), syncs));
    let counters = scene.count(&CALLS)?;
    report.verdict(Kind::Program, "write_enter_syscall", &exactly(calls(&counters), WRITES));
    report.verdict(Kind::Program, "range_enter_syscall", &exactly(ranges(&counters), RANGES));
    scene.note_losses(report);
    Ok(())
}

/// Signals to the writer, by this process.
fn signals(report: &mut Report, scene: &Scene) {
    report.step("signals");
    const ROUNDS: u64 = 5;
    if let Some(reason) = scene.off("signal.hook") {
        report.verdict(Kind::Program, "signal_generate", &Outcome::Off(reason));
        return;
    }
    let pid = scene.writer.pid();
    for signal in (0..ROUNDS).flat_map(|_| [libc::SIGSTOP, libc::SIGCONT]) {
        // SAFETY: numbers; the process is a child of ours that was not waited for.
        unsafe { libc::kill(pid.cast_signed(), signal) };
    }
    let mut found = Vec::new();
    scene.probes.signals(Position::default(), &mut found);
    let ours = found.iter().filter(|signal| signal.sender_process_id == std::process::id());
    let of_writer = number(ours.filter(|signal| signal.process_id == pid && signal.to_process));
    report.verdict(Kind::Program, "signal_generate", &exactly(of_writer, 2 * ROUNDS));
    report.verdict(Kind::Feature, "process.signals", &exactly(of_writer, 2 * ROUNDS));
}
