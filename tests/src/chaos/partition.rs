//! A long partition between many agents and their aggregator, and all that is sent again after it.
//!
//! One agent is real, with a cluster under load; the others are simulated. All go through one relay, which cuts in
//! changing ways. When it heals, the backlog of all of them comes at once, and while it does answers get lost, the engine
//! and the aggregator are killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::chaos::books::Books;
use crate::chaos::plan::Victim;
use crate::chaos::run::{around, runtime};
use crate::chaos::stand::ChaosStand;
use crate::fault::Cut;
use crate::place::Place;
use crate::simulate::{Plan, Simulation};

/// How long each way of cutting lasts before the next.
const CUT_EVERY: Duration = Duration::from_secs(20);

/// Time in which everything works, before the partition and after the backlog is gone.
const WHOLE: Duration = Duration::from_secs(10);

/// Lines of each log that are shown with a failure.
const SHOWN_LINES: usize = 30;

/// What the simulated agents say: many small batches, since it is their number that a partition multiplies.
fn plan(agents: usize) -> Plan {
    Plan { agents, series: 40, syncs: 30, sync_rows: 1, ..Plan::default() }
}

/// A partition of this length; blocks the thread.
///
/// # Errors
/// When anything is lost, doubled, refused, or not stored within a time as long as the partition and five minutes.
pub fn run(agents: usize, length: Duration) -> Result<()> {
    runtime().block_on(async {
        let place = Arc::new(Place::new()?);
        let outcome = on_a_stand(&place, agents, length).await;
        outcome.with_context(|| place.log_tails(SHOWN_LINES))
    })
}

async fn on_a_stand(place: &Arc<Place>, agents: usize, length: Duration) -> Result<()> {
    let mut stand = ChaosStand::start(place, 1).await?;
    let books = Books::settled(&stand.stand).await?;
    let simulation = Simulation::start(plan(agents), &stand.relay.address);
    let (_, text) = around(&mut stand, &books, async |stand| {
        sleep(WHOLE).await;
        ensure!(simulation.progress().acknowledged > 0, "nothing acknowledged: {:?}", simulation.progress());
        partition(stand, length).await;
        let backlog = simulation.progress().backlog();
        println!("partition of {length:?} is over: {backlog} batches wait");
        ensure!(backlog > 0, "nothing waits after a partition");
        let began = Instant::now();
        stand.relay.heal();
        disturb(stand).await?;
        simulation.stop_producing();
        simulation.drained(length + Duration::from_secs(300)).await?;
        let progress = simulation.progress();
        println!(
            "partition: {backlog} waiting batches stored in {:.0} s, {progress:?}",
            began.elapsed().as_secs_f64()
        );
        sleep(WHOLE).await;
        Ok(None)
    })
    .await?;
    println!("partition, the real agent: {text}");
    let produced = simulation.check(&stand.stand.api).await?;
    println!("partition, simulated agents: stored is what was produced, {produced:?}");
    drop(simulation);
    println!("partition ended: {}", stand.finish().await?);
    Ok(())
}

async fn partition(stand: &ChaosStand, length: Duration) {
    let end = Instant::now() + length;
    for cut in [Cut::Silent, Cut::Reset, Cut::RequestsHeld].into_iter().cycle() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        stand.relay.cut(cut);
        sleep(left.min(CUT_EVERY)).await;
    }
}

/// What hits the aggregator while the backlog arrives.
async fn disturb(stand: &mut ChaosStand) -> Result<()> {
    sleep(Duration::from_secs(2)).await;
    stand.relay.cut(Cut::AnswersLost);
    sleep(Duration::from_secs(3)).await;
    stand.relay.heal();
    sleep(Duration::from_secs(2)).await;
    stand.pid(Victim::Engine).await?;
    stand.stand.aggregator.kill_engine()?;
    sleep(Duration::from_secs(3)).await;
    stand.stand.aggregator.daemon.kill();
    sleep(Duration::from_secs(1)).await;
    stand.stand.aggregator.daemon.start().await?;
    Ok(())
}
