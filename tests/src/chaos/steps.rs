//! The engine hit at each of its steps: inside an insert and just after, while it starts, while the schema is brought
//! up to date, while it ends; and stalled inside an insert until the aggregator gives up and the agent sends again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::chaos::books::Books;
use crate::chaos::plan::Victim;
use crate::chaos::run::{around, runtime};
use crate::chaos::stand::ChaosStand;
use crate::engine::{Engine, TABLES};
use crate::fault::Stopped;
use crate::fault::insert::{InsertWatch, Moment, is_unfinished, table_directory};
use crate::node::Aggregator;
use crate::place::Place;
use crate::wait;

/// Names steps, such as `4,6`: only these are run.
const STEPS: &str = "ETCD_MONITOR_STEPS";

/// Tables that have an insert about every second.
pub(super) const BUSY: [&str; 4] = ["sync_histograms", "writes", "metrics", "ledger"];

/// How long an insert may be waited for; the engine may have been killed often and rest before it starts.
const INSERT_LIMIT: Duration = Duration::from_secs(30);

/// How long an engine may take to be there again.
pub(super) const ENGINE_LIMIT: Duration = Duration::from_secs(60);

/// The aggregator waits a minute for an insert, and not another one for those behind it.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(90);

/// An agent waits two minutes for any acknowledgement.
const RESEND_LIMIT: Duration = Duration::from_secs(200);

/// Lines of each log that are shown with a failure.
pub(super) const SHOWN_LINES: usize = 60;

/// What the aggregator logs when a try at storing did not work out.
const GAVE_UP: &str = "store batches failed";

/// What it logs when the engine answers.
pub(super) const STARTED: &str = "engine started";

/// A step at which the engine is hit.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// kill -9 of the engine, or of the aggregator with it, in a moment of an insert into a table.
    Insert(&'static str, Moment, Victim),
    /// kill -9 while it opens its store, several times.
    Starting,
    /// kill -9 while the schema is looked at, several times.
    Migrating,
    /// kill -9 while aggregator and engine end in order.
    Ending,
    /// SIGSTOP inside an insert.
    Stalled(&'static str, Until, Then),
}

/// How long an engine is stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The aggregator gave the insert up.
    GivenUp,
    /// The agent sent its batches again.
    Resent,
}

/// How a stall ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// SIGCONT: the insert goes on where it was.
    Continued,
    /// kill -9.
    Killed,
}

/// The steps of the gate.
pub fn few() -> Vec<Step> {
    use Moment::{Begun, Written};
    use Victim::{Aggregator, Engine};
    vec![
        Step::Insert("sync_histograms", Begun, Engine),
        Step::Insert("sync_histograms", Written, Engine),
        Step::Insert("metrics", Written, Aggregator),
        Step::Stalled("sync_histograms", Until::GivenUp, Then::Continued),
        Step::Starting,
        Step::Ending,
    ]
}

/// The steps of the full tier: every table, moment and victim, every kind of stall.
pub fn all() -> Vec<Step> {
    use Moment::{Begun, Written};
    use Victim::{Aggregator, Engine};
    let mut steps = Vec::new();
    for table in BUSY {
        for moment in [Begun, Written] {
            for victim in [Engine, Aggregator] {
                steps.push(Step::Insert(table, moment, victim));
            }
        }
        steps.extend([Step::Starting, Step::Migrating, Step::Ending]);
    }
    for (table, until, then) in [
        ("sync_histograms", Until::GivenUp, Then::Continued),
        ("metrics", Until::GivenUp, Then::Killed),
        ("ledger", Until::Resent, Then::Continued),
        ("sync_histograms", Until::Resent, Then::Killed),
    ] {
        steps.push(Step::Stalled(table, until, then));
    }
    steps
}

/// Goes through the steps on a stand of its own; blocks the thread.
///
/// # Errors
/// When a step can't be done, the books do not balance after it, or a row is stored twice.
pub fn run(steps: &[Step]) -> Result<()> {
    runtime().block_on(async {
        let place = Arc::new(Place::new()?);
        let outcome = on_a_stand(&place, steps).await;
        outcome.with_context(|| place.log_tails(SHOWN_LINES))
    })
}

async fn on_a_stand(place: &Arc<Place>, steps: &[Step]) -> Result<()> {
    // Stalls last longer here than the keeper would let them: an insert that goes on after it was given up is what they are about.
    let mut stand = ChaosStand::with(place, 1, &[("--clickhouse-hang-timeout", "1h")]).await?;
    let mut books = Books::settled(&stand.stand).await?;
    for (number, step) in steps.iter().enumerate().filter(|(number, _)| wanted(*number + 1)) {
        let began = Instant::now();
        let mut seen = String::new();
        let (after, text) = around(&mut stand, &books, async |stand| {
            sleep(Duration::from_secs_f64(rand::random_range(2.0..4.0))).await;
            seen = hit(stand, *step).await?;
            stand.pid(Victim::Engine).await?;
            sleep(Duration::from_secs(2)).await;
            Ok(None)
        })
        .await
        .with_context(|| format!("step {step:?}"))?;
        books = after;
        let took = began.elapsed().as_secs_f64();
        println!("[step {}/{}] {step:?}: {seen}; {text} ({took:.0} s)", number + 1, steps.len());
    }
    println!("engine steps ended: {}", stand.finish().await?);
    Ok(())
}

fn wanted(number: usize) -> bool {
    let only = std::env::var(STEPS);
    only.map_or(true, |only| only.split(',').any(|wanted| wanted.trim().parse() == Ok(number)))
}

async fn hit(stand: &mut ChaosStand, step: Step) -> Result<String> {
    match step {
        Step::Insert(table, moment, victim) => in_an_insert(stand, table, moment, victim).await,
        Step::Starting => several_times(stand, "starting", false, Duration::from_millis(400)).await,
        Step::Migrating => several_times(stand, "answering", true, Duration::from_millis(60)).await,
        Step::Ending => while_ending(stand).await,
        Step::Stalled(table, until, then) => stalled(stand, table, until, then).await,
    }
}

pub(super) fn store(stand: &ChaosStand) -> PathBuf {
    stand.stand.aggregator.state.join("clickhouse")
}

/// Sends a signal in a moment of an insert. True when the table was left with an unfinished part.
pub(super) async fn strike(
    stand: &mut ChaosStand,
    table: &str,
    moment: Moment,
    process: u32,
    signal: i32,
) -> Result<bool> {
    let directory = table_directory(&store(stand), table)?;
    let watch = InsertWatch::new(&directory)?;
    tokio::task::spawn_blocking(move || {
        watch.strike(moment, process, signal, INSERT_LIMIT)?;
        // Threads on other processors go on until the signal reaches them.
        std::thread::sleep(Duration::from_millis(20));
        Ok(is_unfinished(&directory))
    })
    .await?
}

async fn in_an_insert(stand: &mut ChaosStand, table: &str, moment: Moment, victim: Victim) -> Result<String> {
    let pid = stand.pid(victim).await?;
    let before = counters(&stand.stand.aggregator).await?;
    let inside = strike(stand, table, moment, pid, libc::SIGKILL).await?;
    let left = if inside { "an unfinished part was left" } else { "no unfinished part was left" };
    if victim == Victim::Aggregator {
        sleep(Duration::from_millis(500)).await;
        stand.stand.aggregator.daemon.start().await?;
        return Ok(left.to_owned());
    }
    new_engine(stand, pid).await?;
    sleep(Duration::from_secs(3)).await;
    let after = counters(&stand.stand.aggregator).await?;
    Ok(format!(
        "{left}, {} inserts failed, {} rows were there already",
        after.failed.saturating_sub(before.failed),
        after.present.saturating_sub(before.present)
    ))
}

/// Kills it again and again some time after it was started, or after it answered.
async fn several_times(
    stand: &mut ChaosStand,
    what: &str,
    answering: bool,
    within: Duration,
) -> Result<String> {
    for _time in 0..3 {
        let started = stand.stand.aggregator.daemon.output().matches(STARTED).count();
        let old = stand.pid(Victim::Engine).await?;
        stand.stand.aggregator.kill_engine()?;
        new_engine(stand, old).await?;
        if answering {
            let daemon = &stand.stand.aggregator.daemon;
            wait::until("the engine to answer", ENGINE_LIMIT, async || {
                Ok((daemon.output().matches(STARTED).count() > started).then_some(()))
            })
            .await?;
        }
        sleep(within.mul_f64(rand::random_range(0.0..1.0))).await;
    }
    let old = stand.pid(Victim::Engine).await?;
    stand.stand.aggregator.kill_engine()?;
    new_engine(stand, old).await?;
    Ok(format!("killed 4 times, 3 of them while {what}"))
}

async fn while_ending(stand: &mut ChaosStand) -> Result<String> {
    let engine = stand.pid(Victim::Engine).await?;
    let daemon = &mut stand.stand.aggregator.daemon;
    daemon.process()?.signal(libc::SIGTERM)?;
    sleep(Duration::from_millis(rand::random_range(0..250))).await;
    // SAFETY: plain system call on a process that was just seen as our aggregator's child.
    let there = unsafe { libc::kill(engine.cast_signed(), libc::SIGKILL) } == 0;
    let status = daemon.wait_end(ENGINE_LIMIT).await?;
    ensure!(status.success(), "ended on SIGTERM with {status}\n{}", daemon.tail());
    daemon.start().await?;
    Ok(if there { "killed before it had ended" } else { "it had ended already" }.to_owned())
}

async fn stalled(stand: &mut ChaosStand, table: &str, until: Until, then: Then) -> Result<String> {
    let pid = stand.pid(Victim::Engine).await?;
    let before = counters(&stand.stand.aggregator).await?;
    let gave_up = |output: String| output.matches(GAVE_UP).count();
    let given_up_before = gave_up(stand.stand.aggregator.daemon.output());
    let mut tries = 0;
    let guard = loop {
        tries += 1;
        let inside = strike(stand, table, Moment::Begun, pid, libc::SIGSTOP).await?;
        let guard = Stopped::process(pid)?;
        if inside {
            break guard;
        }
        ensure!(tries < 20, "20 times the insert was over before the engine stood still");
    };
    let began = Instant::now();
    let daemon = &stand.stand.aggregator.daemon;
    wait::until("the aggregator to give up an insert", GIVE_UP_LIMIT, async || {
        Ok((gave_up(daemon.output()) > given_up_before).then_some(()))
    })
    .await?;
    if until == Until::Resent {
        let aggregator = &stand.stand.aggregator;
        wait::until("the agent to send again", RESEND_LIMIT, async || {
            Ok((counters(aggregator).await?.resent > before.resent).then_some(()))
        })
        .await?;
    }
    let stalled = began.elapsed().as_secs_f64();
    if then == Then::Killed {
        stand.stand.aggregator.kill_engine()?;
    }
    drop(guard);
    if then == Then::Killed {
        new_engine(stand, pid).await?;
    }
    // The store tries again within some seconds.
    sleep(Duration::from_secs(8)).await;
    let after = counters(&stand.stand.aggregator).await?;
    Ok(format!(
        "stalled inside an insert for {stalled:.0} s (try {tries}), {} batches sent again, {} inserts failed, {} rows were there \
         already",
        after.resent.saturating_sub(before.resent),
        after.failed.saturating_sub(before.failed),
        after.present.saturating_sub(before.present)
    ))
}

pub(super) async fn new_engine(stand: &mut ChaosStand, old: u32) -> Result<()> {
    let aggregator = &mut stand.stand.aggregator;
    wait::until("a new engine", ENGINE_LIMIT, async || Ok((aggregator.engine_pid()? != old).then_some(())))
        .await
}

/// What the aggregator counts of its storing, since it was started.
#[derive(Debug)]
struct Counters {
    failed: u64,
    present: u64,
    resent: u64,
}

async fn counters(aggregator: &Aggregator) -> Result<Counters> {
    let (status, text) = aggregator.client()?.raw("/metrics").await?;
    ensure!(status == 200, "/metrics: {status}");
    let value = |name: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("etcdmon_aggregator_{name}_total ")));
        line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no {name} in /metrics"))
    };
    Ok(Counters {
        failed: value("store_failed_inserts")?,
        present: value("store_present_rows")?,
        resent: value("ingest_resent_batches")?,
    })
}

/// A store whose engine is killed again and again while its tables are made is whole in the end; blocks the thread.
///
/// # Errors
/// When it does not become ready, or a table is missing or does not answer.
pub fn first_schema(kills: u32) -> Result<()> {
    runtime().block_on(async {
        let place = Place::new()?;
        let mut aggregator = Aggregator::prepare(&place, "aggregator", &[])?;
        aggregator.daemon.spawn()?;
        for _kill in 0..kills {
            // Counted first: it may answer as soon as it is there.
            let started = aggregator.daemon.output().matches(STARTED).count();
            wait::until("an engine", ENGINE_LIMIT, async || aggregator.engine_pid().map(Some)).await?;
            // Half of them while it opens its store, half while tables are made.
            if rand::random() {
                let daemon = &aggregator.daemon;
                wait::until("the engine to answer", ENGINE_LIMIT, async || {
                    Ok((daemon.output().matches(STARTED).count() > started).then_some(()))
                })
                .await?;
            }
            sleep(Duration::from_millis(rand::random_range(0..150))).await;
            // One that has just ended by itself needs no kill.
            let _gone = aggregator.kill_engine();
        }
        let api = aggregator.client()?;
        wait::until("the store to be ready", ENGINE_LIMIT, async || {
            let (_, text) = api.raw("/metrics").await?;
            Ok(text.contains("etcdmon_aggregator_store_ready 1").then_some(()))
        })
        .await
        .with_context(|| aggregator.daemon.tail())?;
        let command = aggregator.engine_command()?;
        aggregator.daemon.terminate()?;
        aggregator.daemon.check_never_panicked()?;
        let engine = Engine::open(&command, &place.path().join("engine-afterwards.log")).await?;
        for table in TABLES {
            engine.doubled(table).await?;
        }
        println!("first schema: whole after {kills} kills of the engine");
        Ok(())
    })
}
