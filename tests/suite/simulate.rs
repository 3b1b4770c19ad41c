//! Simulated agents: what they produce is stored to the last row, through cuts, resends and the engine's death.

use std::time::Duration;

use anyhow::ensure;
use etcdmon_tests::node::Aggregator;
use etcdmon_tests::simulate::{Plan, Simulation};
use etcdmon_tests::suite::run;
use etcdmon_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// S10: agents that are cut off in the middle of everything send the same bytes again; nothing is lost or doubled.
#[test]
fn simulated_agents_are_stored_once_through_cuts_and_an_engine_that_is_killed() {
    run(async |place| {
        let mut aggregator = Aggregator::start(&place, "aggregator", &[]).await?;
        let api = aggregator.client()?;
        let plan = Plan { agents: 12, series: 150, batch_seconds: 1, ..Plan::default() };
        let simulation = Simulation::start(plan, &aggregator.ingest);
        let acknowledged = async |count: u64| {
            wait::until("batches to be acknowledged", LIMIT, async || {
                Ok((simulation.progress().acknowledged >= count).then_some(()))
            })
            .await
        };
        acknowledged(36).await?;
        simulation.cut_off(0..8);
        aggregator.kill_engine()?;
        wait::until(
            "a backlog",
            LIMIT,
            async || Ok((simulation.progress().backlog() >= 8 * 3).then_some(())),
        )
        .await?;
        // The books can't be right yet: what is checked must be able to fail.
        ensure!(simulation.check(&api).await.is_err(), "books that can't be right were found right");
        simulation.heal(0..8);
        let now = simulation.progress().acknowledged;
        acknowledged(now + 8 * 5).await?;
        simulation.cut_off(4..12);
        simulation.heal(4..12);
        simulation.stop_producing();
        simulation.drained(LIMIT).await?;
        let produced = simulation.check(&api).await?;
        let progress = simulation.progress();
        println!("{produced:?} {progress:?}");
        ensure!(progress.connections >= 12 + 8 + 8, "{progress:?}");
        aggregator.daemon.check_healthy()?;
        aggregator.daemon.terminate()
    });
}
