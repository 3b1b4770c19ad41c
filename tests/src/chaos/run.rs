//! Works through a plan on several stands side by side.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

use crate::chaos::act::{Gap, act};
use crate::chaos::books::{Books, Perf, balance};
use crate::chaos::plan::{Event, plan};
use crate::chaos::stand::ChaosStand;
use crate::place::Place;

/// Names the seed of a run that is to be repeated.
const SEED: &str = "ETCD_MONITOR_SEED";

/// Names events of the plan, such as `3,17`: only these are run.
const EVENTS: &str = "ETCD_MONITOR_EVENTS";

/// Stands that fail one after the other without a single good event in between; then the run ends.
const HOPELESS: usize = 3;

/// Lines of each log that are shown with a failure.
const SHOWN_LINES: usize = 30;

/// What is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Faults in all.
    pub events: usize,
    /// Members of each stand's cluster; as many stands as there are numbers.
    pub stands: Vec<usize>,
}

/// The seed that was asked for, or a random one.
pub fn seed() -> u64 {
    std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}

/// What the stands share.
#[derive(Debug)]
struct Board {
    seed: u64,
    total: usize,
    queue: Mutex<VecDeque<Event>>,
    done: AtomicUsize,
    failures: Mutex<Vec<String>>,
    began: Instant,
}

impl Board {
    fn next(&self) -> Option<Event> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn good(&self, event: &Event, stand: usize, text: &str, took: Duration) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        println!(
            "[{done}/{} {:.0} s] stand {stand}, event {}: {event}: {text} ({:.0} s)",
            self.total,
            self.began.elapsed().as_secs_f64(),
            event.number,
            took.as_secs_f64()
        );
    }

    fn bad(&self, what: &str, error: &anyhow::Error, more: &str) {
        println!("FAILED {what}: {error:#}\n{more}");
        println!("FAILED {what}; again with {SEED}={}", self.seed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(format!("{what}: {error:#}"));
    }
}

/// Runs a plan. Each event that fails is printed with its seed, the account and the logs; the others go on.
///
/// # Errors
/// When an event failed; the message has them all.
pub fn run(seed: u64, options: &Options) -> Result<()> {
    let mut events = plan(seed, options.events);
    if let Ok(only) = std::env::var(EVENTS) {
        let only: Vec<usize> = only.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        events.retain(|event| only.contains(&event.number));
    }
    println!("{} faults on {} stands, {SEED}={seed}", events.len(), options.stands.len());
    let board = Board {
        seed,
        total: events.len(),
        queue: Mutex::new(events.into()),
        done: AtomicUsize::new(0),
        failures: Mutex::default(),
        began: Instant::now(),
    };
    std::thread::scope(|scope| {
        for (number, members) in options.stands.iter().enumerate() {
            let board = &board;
            scope.spawn(move || work(board, number + 1, *members));
        }
    });
    let failures = board.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let left = board.queue.into_inner().unwrap_or_else(PoisonError::into_inner).len();
    println!(
        "{} faults held, {} failures, {left} not tried, {:.0} s, {SEED}={seed}",
        board.done.load(Ordering::Relaxed),
        failures.len(),
        board.began.elapsed().as_secs_f64()
    );
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{SEED}={seed}: {} failures:\n{}", failures.len(), failures.join("\n"))
}

/// A runtime of one thread's own. Processes die with the thread that started them, so both live as long as they.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime needs only threads and a poller")
}

fn work(board: &Board, number: usize, members: usize) {
    let runtime = runtime();
    let mut hopeless = 0;
    while hopeless < HOPELESS && !board.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        let before = board.done.load(Ordering::Relaxed);
        runtime.block_on(one_stand(board, number, members));
        let progress = board.done.load(Ordering::Relaxed) > before;
        hopeless = if progress { 0 } else { hopeless + 1 };
    }
}

/// A stand until the plan is done or an event fails on it.
async fn one_stand(board: &Board, number: usize, members: usize) {
    let place = match Place::new() {
        Ok(place) => Arc::new(place),
        Err(error) => return board.bad(&format!("stand {number}"), &error, ""),
    };
    let started = ChaosStand::start(&place, members).await;
    let mut stand = match started {
        Ok(stand) => stand,
        Err(error) => {
            return board.bad(&format!("start of stand {number}"), &error, &place.log_tails(SHOWN_LINES));
        }
    };
    let mut books = match Books::settled(&stand.stand).await {
        Ok(books) => books,
        Err(error) => return board.bad(&format!("first books of stand {number}"), &error, ""),
    };
    while let Some(event) = board.next() {
        let began = Instant::now();
        match stretch(&mut stand, &books, &event).await {
            Ok((after, text)) => {
                books = after;
                board.good(&event, number, &text, began.elapsed());
            }
            Err(error) => {
                let what = format!("event {} ({event}) on stand {number} of {members} members", event.number);
                let more = format!("{}\n{}", account(&stand).await, place.log_tails(SHOWN_LINES));
                return board.bad(&what, &error, &more);
            }
        }
    }
    match stand.finish().await {
        Ok(text) => println!("stand {number} ended: {text}"),
        Err(error) => board.bad(&format!("end of stand {number}"), &error, &place.log_tails(SHOWN_LINES)),
    }
}

/// A stretch of load with an event in it, from rest to rest.
async fn stretch(stand: &mut ChaosStand, before: &Books, event: &Event) -> Result<(Books, String)> {
    around(stand, before, async |stand| {
        let gap = act(stand, event).await?;
        sleep(event.after).await;
        Ok(gap)
    })
    .await
}

/// A stretch of load with `doing` in it, from rest to rest, and the balance at its end.
///
/// # Errors
/// When something can't be done, or the books do not balance.
pub async fn around(
    stand: &mut ChaosStand,
    before: &Books,
    doing: impl AsyncFnOnce(&mut ChaosStand) -> Result<Option<Gap>>,
) -> Result<(Books, String)> {
    let perf = Perf::start(&stand.stand)?;
    stand.stand.load.resume();
    let gap = doing(stand).await?;
    stand.stand.rest().await?;
    let rows = perf.stop()?;
    stand.stand.agent.daemon.check_healthy()?;
    stand.stand.aggregator.daemon.check_healthy()?;
    let outcome = balance(&stand.stand, before, &rows, gap).await;
    outcome.with_context(|| format!("before: {before:?}"))
}

/// The ledger's rows of syncs, for a person who wants to know why the books do not balance.
async fn account(stand: &ChaosStand) -> String {
    let stand = &stand.stand;
    match stand.api.ledger(&stand.id, stand.since).await {
        Ok(rows) => rows.iter().filter(|row| row.stream == "sync").map(|row| format!("{row:?}\n")).collect(),
        Err(error) => format!("no ledger: {error:#}\n"),
    }
}
