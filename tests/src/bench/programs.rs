//! What each kernel program takes, by the kernel's own clock (`kernel.bpf_stats_enabled`), under a load at full speed.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::figures::Figure;
use super::saturation::full_speed;
use super::stage::Stage;
use crate::place::Place;

/// Before the measurement.
const WARM_UP: Duration = Duration::from_secs(3);

/// How long: two periods of write slots.
const TIME: Duration = Duration::from_secs(20);

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Has the kernel time all programs; dropping it sets back what was.
struct Statistics(String);

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).context("this kernel does not time programs")?;
        fs::write(STATISTICS, "1").with_context(|| format!("write {STATISTICS}"))?;
        Ok(Self(before.trim().to_owned()))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, &self.0) {
            eprintln!("set {STATISTICS} back: {error}");
        }
    }
}

/// Runs and nanoseconds of each program up to now.
type Counts = BTreeMap<String, (f64, f64)>;

fn counts(report: &Value) -> Result<Counts> {
    let programs = report["programs"].as_array().context("no programs")?;
    let of = |program: &Value| {
        let name = program["program"].as_str()?.to_owned();
        Some((name, (program["runs"].as_f64()?, program["run_time_ns"].as_f64()?)))
    };
    programs.iter().map(|program| of(program).context("a program without its counts")).collect()
}

pub(super) async fn measure(place: &Place) -> Result<Vec<Figure>> {
    let stage = Stage::start(place).await?;
    let load = full_speed(&stage)?;
    stage.watch.switch(true).await?;
    sleep(WARM_UP).await;
    let statistics = Statistics::on()?;
    let (before, puts) = (counts(&stage.watch.report().await?)?, load.succeeded());
    sleep(TIME).await;
    let puts = (load.succeeded() - puts) as f64;
    let report = stage.watch.report().await?;
    let after = counts(&report)?;
    drop(statistics);
    ensure!(puts > 0.0 && load.failed() == 0, "{puts} puts, {} failed", load.failed());
    println!("{:.0} puts/s for {TIME:?}; read by helpers: {}", puts / TIME.as_secs_f64(), report["untyped"]);
    println!("lost: {}", report["lost"]);
    println!("{:<24} {:>8} {:>10} {:>10}", "program", "ns/run", "runs/put", "us/put");
    let (mut figures, mut sum) = (Vec::new(), 0.0);
    for (name, (runs, time_ns)) in after {
        let (runs_before, time_before_ns) = before.get(&name).copied().unwrap_or_default();
        let (runs, time_ns) = (runs - runs_before, time_ns - time_before_ns);
        if runs == 0.0 {
            continue;
        }
        let us_per_put = time_ns / 1e3 / puts;
        sum += us_per_put;
        println!("{name:<24} {:>8.0} {:>10.3} {us_per_put:>10.3}", time_ns / runs, runs / puts);
        figures.push(Figure::lower(format!("{name}_ns_per_run"), time_ns / runs, "ns"));
        figures.push(Figure::lower(format!("{name}_us_per_put"), us_per_put, "us"));
    }
    figures.push(Figure::lower("programs_us_per_put", sum, "us"));
    Ok(figures)
}
