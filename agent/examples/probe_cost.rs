//! What the probes cost on this machine: `probe_cost [DIRECTORY ON EXT4]`, as root.
//!
//! Prints one JSON object as `cargo xtask bench` writes them. Times of programs are the kernel's own
//! (kernel.bpf_stats_enabled, set back afterwards).

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use etcdmon_agent::ebpf::{ProbeConfig, ProbeError, Probes, ProgramRuns, disks_of};

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// An id that no process has: hooks get attached and count nothing.
const NOBODY: u32 = 0x4000_0000;

/// A disk that nobody has: hooks get attached and every disk is another one.
const NO_DISK: u32 = 0xfff << 20;

/// Writes and syncs of a measurement.
const PAIRS: u32 = 2_000;

struct Figures(Vec<serde_json::Value>);

impl Figures {
    fn add(&mut self, name: &str, value: f64, unit: &str) {
        let value = (value * 10.0).round() / 10.0;
        self.0.push(serde_json::json!({"name": name, "value": value, "unit": unit, "better": "lower"}));
    }
}

/// The least of many short rounds: what the others have more is the machine's doing.
fn getppid_ns() -> f64 {
    const CALLS: u32 = 5_000;
    let round = || {
        let begin = Instant::now();
        for _ in 0..CALLS {
            // SAFETY: takes nothing; a plain syscall, past the C library.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        begin.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..900).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// A round of two threads on one CPU that wake each other through pipes, the least of many.
fn ping_pong_ns() -> std::io::Result<f64> {
    const ROUNDS: u32 = 500;
    let ((here, mut to_there), (mut from_here, to_here)) = (std::io::pipe()?, std::io::pipe()?);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            stay_on_first_cpu();
            let (mut here, mut to_here) = (here, to_here);
            let mut byte = [0];
            while here.read_exact(&mut byte).is_ok() && to_here.write_all(&byte).is_ok() {}
        });
        let other = scope.spawn(move || {
            stay_on_first_cpu();
            let mut round = || -> std::io::Result<f64> {
                let begin = Instant::now();
                for _ in 0..ROUNDS {
                    to_there.write_all(&[1])?;
                    from_here.read_exact(&mut [0])?;
                }
                Ok(begin.elapsed().as_nanos() as f64 / f64::from(ROUNDS))
            };
            (0..200).try_fold(f64::INFINITY, |least, _| Ok(round()?.min(least)))
        });
        other.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
    })
}

fn stay_on_first_cpu() {
    // SAFETY: all zeros is a valid set; the kernel reads it during the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

fn memory_kib(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

/// Writes and syncs as etcd does, and says how long each pair took.
fn etcd_like(directory: &Path, pairs: u32) -> std::io::Result<Duration> {
    let wal = directory.join("0000000000000000-0000000000000000.wal");
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).open(&wal)?;
    let data = [b'x'; 2_300];
    let begin = Instant::now();
    for at in 0..pairs {
        file.write_all_at(&data, u64::from(at % 64) * data.len() as u64)?;
        file.sync_data()?;
    }
    let took = begin.elapsed() / pairs;
    std::fs::remove_file(wal)?;
    Ok(took)
}

fn mean_ns(before: &[ProgramRuns], after: &[ProgramRuns], name: &str) -> Option<f64> {
    let of = |all: &[ProgramRuns]| all.iter().find(|run| run.program == name).copied();
    let (before, after) = (of(before)?, of(after)?);
    let runs = after.runs - before.runs;
    (runs > 0).then(|| (after.run_time_ns - before.run_time_ns) as f64 / runs as f64)
}

/// Mean time of each program while this process writes and syncs.
fn program_figures(
    figures: &mut Figures,
    probes: &Probes,
    directory: &Path,
    label: &str,
) -> anyhow::Result<()> {
    let statistics = std::fs::read_to_string(STATISTICS)?;
    std::fs::write(STATISTICS, "1")?;
    let before = probes.runs();
    etcd_like(directory, PAIRS)?;
    let after = probes.runs();
    std::fs::write(STATISTICS, statistics.trim())?;
    for run in &after {
        if let Some(mean) = mean_ns(&before, &after, run.program) {
            figures.add(&format!("{label}.{}", run.program), mean, "ns/run");
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let mut figures = Figures(Vec::new());
    figures.add("getppid.bare", getppid_ns(), "ns");
    figures.add("ping_pong.bare", ping_pong_ns()?, "ns");
    figures.add("memory.before", memory_kib("VmRSS:"), "KiB");
    let config = ProbeConfig { offsets_program: None, ..ProbeConfig::default() };
    let begin = Instant::now();
    let probes = Probes::load(&config)?;
    figures.add("load", begin.elapsed().as_secs_f64() * 1e3, "ms");
    figures.add("memory.loaded", memory_kib("VmRSS:"), "KiB");
    figures.add("memory.peak", memory_kib("VmHWM:"), "KiB");

    let watch = probes.add_target(NOBODY, std::slice::from_ref(&directory))?;
    figures.add(&format!("getppid.{}", watch.hook.name()), getppid_ns(), "ns");
    program_figures(&mut figures, &probes, &directory, "foreign")?;
    probes.remove_target(NOBODY);
    probes.add_target(NOBODY, &[])?;
    figures.add("getppid.syscall", getppid_ns(), "ns");
    program_figures(&mut figures, &probes, &directory, "foreign")?;
    probes.remove_target(NOBODY);

    let own = std::process::id();
    for directories in [vec![directory.clone()], vec![]] {
        let watch = probes.add_target(own, &directories)?;
        program_figures(&mut figures, &probes, &directory, "target")?;
        figures.add(
            &format!("pair.{}", watch.hook.name()),
            etcd_like(&directory, PAIRS)?.as_nanos() as f64 / 1e3,
            "us",
        );
        probes.remove_target(own);
    }
    let disks = disks_of(own, &directory)?;
    for (label, devices) in [("disk", disks), ("foreign_disk", vec![NO_DISK])] {
        probes.watch_devices(&devices)?;
        probes.add_target(own, std::slice::from_ref(&directory))?;
        figures.add(&format!("getppid.{label}"), getppid_ns(), "ns");
        figures.add(&format!("ping_pong.{label}"), ping_pong_ns()?, "ns");
        program_figures(&mut figures, &probes, &directory, label)?;
        let pair = etcd_like(&directory, PAIRS)?;
        figures.add(&format!("pair.{label}"), pair.as_nanos() as f64 / 1e3, "us");
        probes.remove_target(own);
    }
    figures.add("pair.bare", etcd_like(&directory, PAIRS)?.as_nanos() as f64 / 1e3, "us");

    reading_figures(&mut figures, &probes, &directory)?;
    println!("{}", serde_json::json!({"bench": "probes", "figures": figures.0}));
    Ok(())
}

/// Costs on the agent's side.
fn reading_figures(figures: &mut Figures, probes: &Probes, directory: &Path) -> Result<(), ProbeError> {
    let own = std::process::id();
    probes.add_target(own, &[directory.to_owned()])?;
    let begin = Instant::now();
    probes.open_write_slot()?;
    figures.add("slot.open", begin.elapsed().as_secs_f64() * 1e3, "ms");
    figures.add("getppid.in_slot", getppid_ns(), "ns");
    let begin = Instant::now();
    probes.close_write_slot();
    figures.add("slot.close", begin.elapsed().as_secs_f64() * 1e3, "ms");
    let begin = Instant::now();
    (0..1_000).for_each(|_| drop(probes.snapshot(own)));
    figures.add("snapshot", begin.elapsed().as_micros() as f64 / 1e3, "us");
    let begin = Instant::now();
    (0..100).for_each(|_| drop(probes.losses()));
    figures.add("losses", begin.elapsed().as_micros() as f64 / 100.0, "us");
    probes.remove_target(own);
    Ok(())
}
