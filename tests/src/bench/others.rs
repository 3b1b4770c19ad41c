//! What processes notice that have nothing to do with etcd, on its host: an idle etcd is watched, or not.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::figures::{Figure, Slot};
use super::load::{Echo, getppid_ns, pipe_ns};
use super::stage::{Stage, Watch};
use crate::place::Place;

/// How long each loop runs in a slot. Write slots fall among the probed slots as often as they do in life.
const LOOP: Duration = Duration::from_millis(300);

/// What a slot gave, in nanoseconds a round.
struct Measured {
    getppid_ns: f64,
    pipe_ns: f64,
    ping_pong_ns: f64,
}

pub(super) async fn measure(place: &Place, count: u32) -> Result<Vec<Figure>> {
    let stage = Stage::start(place).await?;
    println!("{count} slots of three loops of {LOOP:?}, an idle etcd watched or not at random");
    let mut echo = Echo::start()?;
    let mut slots = Vec::new();
    for _slot in 0..count {
        let probed = rand::random();
        stage.watch.switch(probed).await?;
        let measured = on_thread(|| {
            Ok(Measured {
                getppid_ns: getppid_ns(LOOP)?,
                pipe_ns: pipe_ns(LOOP)?,
                ping_pong_ns: echo.ping_pong_ns(LOOP)?,
            })
        })?;
        slots.push(Slot { probed, measured });
    }
    Ok(vec![
        Figure::ratio("getppid_ratio", &slots, |of| of.getppid_ns).goal(1.01),
        Figure::ratio("pipe_ratio", &slots, |of| of.pipe_ns).goal(1.01),
        Figure::ratio("ping_pong_ratio", &slots, |of| of.ping_pong_ns).goal(1.01),
    ])
}

/// What the cheapest system call costs while the probes are on, against off.
pub(super) async fn getppid_ratio(watch: &Watch, name: &str, count: u32) -> Result<Figure> {
    let mut slots = Vec::new();
    for _slot in 0..count {
        let probed = rand::random();
        watch.switch(probed).await?;
        slots.push(Slot { probed, measured: on_thread(|| Ok(getppid_ns(LOOP)?))? });
    }
    Ok(Figure::ratio(name, &slots, |ns| *ns))
}

/// On a thread of its own, so that what it sets for itself ends with it.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join().ok().context("a loop panicked")?)
}
