//! What happens on disks: requests from submission to completion, whose they are, and what journals do.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use etcdmon_agent::{
    autopsy::evidence::{Commit, Operation, Request},
    ebpf::{ProbeConfig, Probes},
};

use crate::{
    aio,
    report::{Kind, Outcome, Report},
    scene::{DiskCounts, Scene, config, device_of},
    writer::Order,
};

const SCRATCH_NAME: &str = "vdc";
const EXT4_NAME: &str = "vda";
const DIRECT: u64 = 40;
const MERGED: u64 = 10;

fn counted(counted: usize, expected: u64) -> Outcome {
    Outcome::Counted { counted: counted as u64, expected, at_least: false }
}

fn number(requests: &[Request], fits: impl Fn(&Request) -> bool) -> usize {
    requests.iter().filter(|request| fits(request)).count()
}

/// Direct writes to the scratch disk: what was seen of it, and how many the kernel itself counted.
fn direct_writes(scene: &mut Scene, scratch: &Path) -> Result<(Vec<Request>, u64)> {
    let before = DiskCounts::at_rest(SCRATCH_NAME)?;
    scene.requests();
    scene.writer.carry_out(&[Order { how: "direct", file: "/dev/vdc", times: DIRECT, bytes: 4_096 }])?;
    let after = DiskCounts::at_rest(SCRATCH_NAME)?;
    let disk = device_of(scratch)?;
    let seen = scene.requests().into_iter().filter(|request| request.device == disk).collect();
    Ok((seen, after.writes - before.writes))
}

fn submitted_by(request: &Request, pid: u32) -> bool {
    request.process_id == pid && request.operation == Operation::Write && request.bytes == 4_096
}

/// Requests on the scratch disk.
///
/// # Errors
/// When something goes wrong that is no verdict on a program.
pub fn requests(report: &mut Report, scene: &mut Scene, scratch: &Path) -> Result<()> {
    report.step("requests of a disk");
    if let Some(reason) = scene.off("block.hooks") {
        for program in ["block_issue", "block_complete", "block_start", "block_submit", "block_merge"] {
            report.verdict(Kind::Program, program, &Outcome::Off(reason.clone()));
        }
        return Ok(());
    }
    let attached = scene.probes.facts().attached;
    let pid = scene.writer.pid();
    let (seen, kernels) = direct_writes(scene, scratch)?;
    let issued = number(&seen, |request| request.issued_ns >= request.queued_ns && request.queued_ns > 0);
    let completed = number(&seen, |request| request.completed_ns > request.issued_ns && request.error == 0);
    let submitted = number(&seen, |request| submitted_by(request, pid));
    report.verdict(Kind::Program, "block_issue", &counted(issued, kernels));
    report.verdict(Kind::Program, "block_complete", &counted(completed, kernels));
    report.verdict(Kind::Feature, "block.requests", &counted(seen.len(), kernels));
    let start = if attached.contains(&"block_io_start") {
        counted(submitted, DIRECT)
    } else {
        Outcome::Off("no tracepoint block_io_start; block_getrq in its place".to_owned())
    };
    report.verdict(Kind::Program, "block_start", &start);
    merges(report, scene)
}

fn runs(probes: &Probes, program: &str) -> u64 {
    probes.runs().into_iter().find(|run| run.program == program).map_or(0, |run| run.runs)
}

/// Requests that become one: none of them is left behind.
fn merges(report: &mut Report, scene: &mut Scene) -> Result<()> {
    if !scene.probes.facts().attached.contains(&"block_rq_merge") {
        let reason = scene.off("block.submitter").unwrap_or_else(|| "not attached".to_owned());
        report.verdict(Kind::Program, "block_merge", &Outcome::Off(reason));
        return Ok(());
    }
    let before = runs(&scene.probes, "block_merge");
    scene.requests();
    scene.writer.carry_out(&[Order { how: "merged", file: "/dev/vdc", times: MERGED, bytes: 4_096 }])?;
    DiskCounts::at_rest(SCRATCH_NAME)?;
    let ran = runs(&scene.probes, "block_merge") - before;
    let whole = u64::from(aio::WRITES as u32) * aio::WRITE_BYTES;
    let merged = number(&scene.requests(), |request| u64::from(request.bytes) == whole);
    let left = scene.probes.requests_under_way().len();
    report
        .note(&format!("{ran} runs of block_merge, {merged} requests of {whole} bytes, {left} left behind"));
    let fine = if left == 0 { ran.min(merged as u64) } else { 0 };
    report.verdict(
        Kind::Program,
        "block_merge",
        &Outcome::Counted { counted: fine, expected: MERGED, at_least: false },
    );
    Ok(())
}

/// Dirty pages of a file that the kernel's own threads write.
///
/// # Errors
/// When something goes wrong that is no verdict on a program.
pub fn writeback(report: &mut Report, scene: &mut Scene) -> Result<()> {
    const FILE: &str = "member/log";
    const BYTES: u64 = 30 * 40_960;
    report.step("writeback");
    DiskCounts::at_rest(EXT4_NAME)?;
    scene.requests();
    scene.writer.carry_out(&[Order { how: "write", file: FILE, times: 30, bytes: BYTES / 30 }])?;
    DiskCounts::at_rest(EXT4_NAME)?;
    let inode = std::fs::metadata(scene.file(FILE)).context("written")?.ino();
    let seen = scene.requests();
    let by_threads = |request: &&Request| request.is_by_kworker() && request.operation == Operation::Write;
    let of_file = seen.iter().filter(by_threads).filter(|request| request.inode == inode);
    let bytes: u64 = of_file.map(|request| u64::from(request.bytes)).sum();
    report.verdict(
        Kind::Feature,
        "block.file",
        &Outcome::Counted { counted: bytes, expected: BYTES, at_least: false },
    );
    let workers = seen.iter().filter(by_threads).count();
    let charged = seen.iter().filter(by_threads).filter(|request| request.charged != 0).count();
    let some_at_least = |found: usize, expected: usize| Outcome::Counted {
        counted: found as u64,
        expected: expected.max(1) as u64,
        at_least: true,
    };
    // Whoever submits of its own accord is charged itself: the file and the charge are only looked for of kernel threads.
    report.verdict(Kind::Feature, "block.kernel_threads", &some_at_least(workers, 1));
    report.verdict(Kind::Feature, "block.charged_cgroup", &some_at_least(charged, workers));
    Ok(())
}

/// The journal of the first disk in the kernel's own statistics: its transactions.
fn transactions() -> Result<u64> {
    let path = PathBuf::from(format!("/proc/fs/jbd2/{EXT4_NAME}-8/info"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    text.split_whitespace().next().and_then(|word| word.parse().ok()).context("a number of transactions")
}

/// Commits of ext4's journal.
///
/// # Errors
/// When something goes wrong that is no verdict on a program.
pub fn commits(report: &mut Report, scene: &mut Scene) -> Result<()> {
    const PROGRAMS: [&str; 5] =
        ["journal_start", "journal_locking", "journal_flushing", "journal_logging", "journal_end"];
    report.step("commits of a journal");
    if let Some(reason) = scene.off("journal.hooks") {
        for program in PROGRAMS {
            report.verdict(Kind::Program, program, &Outcome::Off(reason.clone()));
        }
        return Ok(());
    }
    DiskCounts::at_rest(EXT4_NAME)?;
    scene.commits();
    let before = transactions()?;
    scene.writer.carry_out(&[Order { how: "write+fsync", file: "member/grows", times: 25, bytes: 9_000 }])?;
    DiskCounts::at_rest(EXT4_NAME)?;
    let kernels = transactions()? - before;
    let seen = scene.commits();
    let phases: [fn(&Commit) -> u64; 5] = [
        |commit| commit.start_ns,
        |commit| commit.locking_ns,
        |commit| commit.flushing_ns,
        |commit| commit.logging_ns,
        |commit| commit.end_ns,
    ];
    for (program, phase) in PROGRAMS.into_iter().zip(phases) {
        let with = seen.iter().filter(|commit| phase(commit) != 0).count();
        report.verdict(Kind::Program, program, &counted(with, kernels.max(25)));
    }
    let successive = seen.windows(2).filter(|pair| pair[1].transaction == pair[0].transaction + 1).count();
    report.verdict(Kind::Feature, "journal.commits", &counted(successive + 1, kernels.max(25)));
    Ok(())
}

/// Who changes metadata.
///
/// # Errors
/// When something goes wrong that is no verdict on a program.
pub fn handles(report: &mut Report, scene: &mut Scene) -> Result<()> {
    const DIRECTORIES: u64 = 30;
    report.step("changes of metadata");
    if let Err(error) = scene.probes.watch_journals(&[scene.filesystem()?]) {
        report.verdict(Kind::Program, "journal_handle", &Outcome::Off(format!("{error:#}")));
        return Ok(());
    }
    scene.writer.carry_out(&[Order {
        how: "directories",
        file: "member/x",
        times: DIRECTORIES,
        bytes: 0,
    }])?;
    let pid = scene.writer.pid();
    let usage = scene.probes.metadata_usage();
    let handles = usage.iter().filter(|usage| usage.process_id == pid).map(|usage| usage.handles).sum();
    scene.probes.watch_journals(&[])?;
    // Each is made and removed, with a handle at least.
    report.verdict(
        Kind::Program,
        "journal_handle",
        &Outcome::Counted { counted: handles, expected: 2 * DIRECTORIES, at_least: true },
    );
    Ok(())
}

/// Requests as they are seen before 6.5, on any kernel.
///
/// # Errors
/// When something goes wrong that is no verdict on a program.
pub fn by_bio(report: &mut Report, directory: &Path, scratch: &Path) -> Result<()> {
    report.step("requests by their bios");
    let probes = Probes::load(&ProbeConfig { block_io_start: false, ..config() })?;
    let mut scene = Scene::begin(probes, directory, scratch)?;
    if let Some(reason) = scene.off("block.submitter") {
        report.verdict(Kind::Program, "block_submit", &Outcome::Off(reason));
        return Ok(());
    }
    let pid = scene.writer.pid();
    let (seen, kernels) = direct_writes(&mut scene, scratch)?;
    let submitted = number(&seen, |request| submitted_by(request, pid));
    report.verdict(Kind::Program, "block_submit", &counted(submitted, kernels));
    report.verdict(Kind::Feature, "block.submitter_by_bio", &counted(submitted, kernels));
    scene.note_losses(report);
    Ok(())
}
