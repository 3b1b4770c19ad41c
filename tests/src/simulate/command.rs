//! `etcdmon-lab simulate`: many agents at an aggregator, one's own or a running one, with the books checked at the end.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Plan, Progress, Simulation};
use crate::api::Api;
use crate::node::Aggregator;
use crate::place::Place;

/// How long what is not acknowledged at the end may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    /// What is simulated.
    pub plan: Plan,
    /// How long.
    pub time: Duration,
    /// Addresses for agents and of the API of a running aggregator; `None` = one of our own.
    pub target: Option<(String, String)>,
}

/// Runs the simulation and checks the books.
///
/// # Errors
/// When something does not start, is not acknowledged, or is stored otherwise than it was produced.
pub async fn run(options: Options) -> Result<()> {
    let Some((ingest, api)) = &options.target else {
        let place = Place::new()?;
        let aggregator = Aggregator::start(&place, "aggregator", &[]).await?;
        let outcome = simulate(&options, &aggregator.ingest, &aggregator.client()?).await;
        if outcome.is_err() {
            eprintln!("{}", place.log_tails(20));
        }
        return outcome;
    };
    simulate(&options, ingest, &Api::new(&format!("http://{api}"))?).await
}

async fn simulate(options: &Options, ingest: &str, api: &Api) -> Result<()> {
    let plan = options.plan.clone();
    println!(
        "{} agents with {} series each, {} samples a second, to {ingest}",
        plan.agents,
        plan.series,
        plan.agents * plan.series as usize
    );
    let (begin, simulation) = (Instant::now(), Simulation::start(plan, ingest));
    let mut before = Progress::default();
    while begin.elapsed() < options.time {
        tokio::time::sleep(Duration::from_secs(5).min(options.time)).await;
        let now = simulation.progress();
        println!("{:4} s: {}", begin.elapsed().as_secs(), line(&before, &now));
        before = now;
    }
    simulation.stop_producing();
    simulation.drained(DRAIN_LIMIT).await?;
    let produced = simulation.check(api).await?;
    println!("stored is what was produced, to the last row: {produced:?}");
    Ok(())
}

fn line(before: &Progress, now: &Progress) -> String {
    format!(
        "{} batches produced, {} acknowledged (+{}), {} open, {} sent again, {} refused, {} connections",
        now.produced,
        now.acknowledged,
        now.acknowledged - before.acknowledged,
        now.backlog(),
        now.resent,
        now.refused,
        now.connections
    )
}
