//! The init of a virtual machine that finds out whether this kernel runs the agent's programs: loads them, attaches them,
//! writes and syncs known numbers of things, and compares. `cargo xtask vm` builds and boots it; its answers go to the
//! second serial port.
//!
//! Disks: ext4 on the first, xfs on the second (if that can be mounted), and the third as it is.

mod aio;
mod boot;
mod disks;
mod report;
mod scene;
mod syncs;
mod writer;

use std::{ffi::OsString, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use etcdmon_agent::ebpf::{OFFSETS_SUBCOMMAND, print_offsets};

use report::Report;

const EXT4: &str = "/ext4";
const XFS: &str = "/xfs";
const SCRATCH: &str = "/dev/vdc";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        if let Err(error) = init() {
            eprintln!("kernel_check: {error:#}");
        }
        boot::end();
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match help_out(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel_check: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the init starts itself for.
fn help_out(arguments: &[OsString]) -> Result<()> {
    match arguments {
        [word, path] if word == OFFSETS_SUBCOMMAND => Ok(print_offsets(Path::new(path))?),
        [word, directory] if word == writer::SUBCOMMAND => writer::serve(Path::new(directory)),
        [word] if word == syncs::BURN => syncs::burn(),
        _ => bail!("this is the init of a virtual machine: run `cargo xtask vm`"),
    }
}

fn init() -> Result<()> {
    boot::mount_all()?;
    let mut report = Report::open()?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("ask for the release")?;
    report.kernel(release.trim());
    let done = check(&mut report);
    if let Err(error) = &done {
        report.note(&format!("cut short: {error:#}"));
    }
    report.end();
    done
}

fn check(report: &mut Report) -> Result<()> {
    report.step("kernel modules and disks");
    for refused in boot::load_modules()? {
        report.note(&refused);
    }
    for disk in ["/dev/vda", "/dev/vdb", SCRATCH] {
        boot::wait_for(disk)?;
    }
    // One scheduler for all kernels: how requests merge depends on it.
    std::fs::write("/sys/block/vdc/queue/scheduler", "mq-deadline").context("choose a scheduler")?;
    std::fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").context("count runs of programs")?;
    std::fs::create_dir_all(EXT4)?;
    boot::mount("/dev/vda", EXT4, "ext4")?;
    std::fs::create_dir_all(XFS)?;
    let fallback = match boot::mount("/dev/vdb", XFS, "xfs") {
        Ok(()) => Some(Path::new(XFS)),
        Err(error) => {
            report.note(&format!("{error:#}"));
            None
        }
    };
    let (ext4, scratch) = (Path::new(EXT4), Path::new(SCRATCH));
    syncs::on_ext4(report, ext4, scratch)?;
    syncs::by_syscalls(report, fallback, ext4, scratch)?;
    disks::by_bio(report, ext4, scratch)
}
