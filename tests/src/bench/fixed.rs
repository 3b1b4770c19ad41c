//! What etcd and its clients notice at a fixed rate that leaves room: longer slots, probes on or off at random.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::figures::{Figure, Slot, quantile};
use super::stage::Stage;
use crate::load::{Load, Plan};
use crate::place::Place;

/// Puts a second.
const RATE: u32 = 1_000;

/// Length of a slot: 8,000 puts, of which 80 are beyond p99.
const SLOT: Duration = Duration::from_secs(8);

/// Before the first slot.
const WARM_UP: Duration = Duration::from_secs(3);

/// What a slot gave.
struct Measured {
    p50_us: f64,
    p99_us: f64,
    etcd_cpu_us_per_put: f64,
    agent_cores: f64,
    puts_per_second: f64,
}

pub(super) async fn measure(place: &Place, count: u32) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(place).await?;
    let plan = Plan { rate: Some(RATE), clients: 16, value_bytes: 256, keys: 10_000 };
    let load = Load::start(&stage.cluster, &plan)?;
    sleep(WARM_UP).await;
    println!("{count} slots of {SLOT:?}, probes on or off at random, {RATE} puts/s");
    let mut slots = Vec::new();
    for _slot in 0..count {
        let probed = rand::random();
        stage.watch.switch(probed).await?;
        slots.push(Slot { probed, measured: slot(&mut stage, &load).await? });
    }
    ensure!(load.failed() == 0, "{} puts failed", load.failed());
    let mean = |of: fn(&Measured) -> f64| {
        let on = slots.iter().filter(|slot| slot.probed).map(|slot| of(&slot.measured));
        let (sum, count) = on.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / count
    };
    println!(
        "with probes: {:.0} puts/s, p50 {:.0} us, p99 {:.0} us, etcd {:.0} us of CPU per put",
        mean(|of| of.puts_per_second),
        mean(|of| of.p50_us),
        mean(|of| of.p99_us),
        mean(|of| of.etcd_cpu_us_per_put)
    );
    let p99 = Figure::ratio("put_p99_ratio", &slots, |of| of.p99_us);
    let width = p99.interval().map_or(f64::NAN, |(low, high)| high - low);
    let rss = stage.watch.agent_rss()? as f64;
    Ok(vec![
        Figure::ratio("put_p50_ratio", &slots, |of| of.p50_us).goal(1.01),
        p99,
        Figure::lower("put_p99_ratio_interval_width", width, "ratio").goal(0.1),
        Figure::ratio("etcd_cpu_us_per_put_ratio", &slots, |of| of.etcd_cpu_us_per_put).goal(1.03),
        Figure::lower("agent_cpu", mean(|of| of.agent_cores), "cores").goal(0.01),
        Figure::lower("agent_rss", rss, "bytes").goal(67_108_864.0),
    ])
}

async fn slot(stage: &mut Stage, load: &Load) -> Result<Measured> {
    load.take_latencies();
    let (begin, etcd, agent) = (Instant::now(), stage.etcd_cpu()?, stage.watch.agent_cpu()?);
    sleep(SLOT).await;
    let mut latencies: Vec<f64> =
        load.take_latencies().iter().map(|latency| latency.as_secs_f64() * 1e6).collect();
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(!latencies.is_empty(), "a slot without a put");
    let puts = latencies.len() as f64;
    Ok(Measured {
        p50_us: quantile(&mut latencies, 0.5),
        p99_us: quantile(&mut latencies, 0.99),
        etcd_cpu_us_per_put: (stage.etcd_cpu()? - etcd).as_secs_f64() * 1e6 / puts,
        agent_cores: (stage.watch.agent_cpu()? - agent).as_secs_f64() / seconds,
        puts_per_second: puts / seconds,
    })
}
