//! What a put costs the host at full speed: slots of a second, probes on or off at random.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::figures::{Figure, Slot};
use super::stage::{Stage, host_cpu};
use crate::load::{Load, Plan};
use crate::place::Place;

/// Length of a slot.
const SLOT: Duration = Duration::from_secs(1);

/// Before the first slot, for the load to find its pace.
const WARM_UP: Duration = Duration::from_secs(3);

/// A second of it.
struct Second {
    puts: f64,
    cpu_us: f64,
}

/// As many clients as etcd needs to be busy on two CPUs.
pub(super) fn full_speed(stage: &Stage) -> Result<Load> {
    Load::start(&stage.cluster, &Plan { rate: None, clients: 4, value_bytes: 256, keys: 10_000 })
}

pub(super) async fn measure(place: &Place, count: u32) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(place).await?;
    let load = full_speed(&stage)?;
    sleep(WARM_UP).await;
    println!("{count} slots of {SLOT:?}, probes on or off at random, 4 clients at full speed");
    let mut slots = Vec::new();
    for _slot in 0..count {
        let probed = rand::random();
        stage.watch.switch(probed).await?;
        slots.push(Slot { probed, measured: second(&mut stage, &load).await? });
    }
    ensure!(load.failed() == 0, "{} puts failed", load.failed());
    let throughput = Figure::ratio("throughput_ratio", &slots, |of| of.puts);
    Ok(vec![
        Figure::ratio("host_cpu_us_per_put_ratio", &slots, |of| of.cpu_us / of.puts).goal(1.03),
        throughput.better_high().goal(0.97),
    ])
}

async fn second(stage: &mut Stage, load: &Load) -> Result<Second> {
    let (puts, cpu, theirs) = (load.succeeded(), host_cpu()?, stage.watch.centre_cpu()?);
    sleep(SLOT).await;
    let cpu = (host_cpu()? - cpu).saturating_sub(stage.watch.centre_cpu()? - theirs);
    let puts = (load.succeeded() - puts) as f64;
    ensure!(puts > 0.0, "a slot without a put");
    Ok(Second { puts, cpu_us: cpu.as_secs_f64() * 1e6 })
}
