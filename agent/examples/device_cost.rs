//! What the kernel programs cost on a process and its disk: nanoseconds a run, runs a second, and what was seen.
//!
//! `device_cost PID DIRECTORY SECONDS [0|1 [helpers]]`; with `sysctl kernel.bpf_stats_enabled=1` the kernel tells the times.
//! The fourth argument says whether its disks are watched as well, the fifth has programs ask helpers for each field.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use etcdmon_agent::ebpf::{Position, ProbeConfig, Probes, disks_of};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pid, directory, seconds, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: device_cost PID DIRECTORY SECONDS [0|1 [helpers]]");
    };
    let (pid, directory) = (pid.parse()?, PathBuf::from(directory));
    let time = Duration::from_secs(seconds.parse()?);
    let typed = rest.get(1).is_none_or(|how| how != "helpers");
    let probes = Probes::load(&ProbeConfig { offsets_program: None, typed, ..ProbeConfig::default() })?;
    probes.add_target(pid, std::slice::from_ref(&directory))?;
    if rest.first().is_none_or(|watch| watch != "0") {
        let disks = disks_of(pid, &directory).context("find its disks")?;
        println!("disks {:?}", disks.iter().map(|disk| (disk >> 20, disk & 0xf_ffff)).collect::<Vec<_>>());
        probes.watch_devices(&disks)?;
    }
    let before = probes.runs();
    std::thread::sleep(time);
    for (program, earlier) in probes.runs().into_iter().zip(before) {
        let runs = program.runs - earlier.runs;
        if let Some(each) = (program.run_time_ns - earlier.run_time_ns).checked_div(runs) {
            println!("{:24} {each:6} ns × {:9.1}/s", program.program, runs as f64 / time.as_secs_f64());
        }
    }
    let (mut requests, mut commits) = (Vec::new(), Vec::new());
    let position = probes.requests(Position::default(), &mut requests);
    probes.commits(Position::default(), &mut commits);
    println!(
        "{} requests ({} overwritten), {} commits",
        requests.len(),
        position.overwritten(),
        commits.len()
    );
    println!("losses {:?}, degraded {:?}", probes.losses(), probes.facts().degraded);
    Ok(())
}
