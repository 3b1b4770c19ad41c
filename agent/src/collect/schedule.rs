//! When a collector runs, what it may cost, and what is noted about it.
//!
//! Each collection is measured twice: how long it took (S8: below a second) and how much CPU it used (S12). One that uses more
//! than its share of a core for several rounds in a row is run half as often, and again, until it fits; the agent says so as
//! a degraded capability. It gets its period back step by step when it has become cheap.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use etcdmon_proto::v1::Degradation;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{CollectError, Collector};
use crate::clock::{Reading, thread_cpu};
use crate::hub::Note;
use crate::telemetry::Telemetry;

/// Spread of the first collection, so that several members of a node are not asked at the same instant.
const PHASE_SPREAD_MS: u64 = 120;

/// After a second begins on the wall clock, collectors wait this long: the probes' snapshot goes first.
const PHASE_AFTER_SECOND: Duration = Duration::from_millis(30);

/// A collection is late when it took longer, whatever it yielded (S8).
pub const LATE_AFTER: Duration = Duration::from_secs(1);

/// Share of a core that one collector may use: 10 ms of each second. The agent's whole budget is of that size (S12), and
/// what is usual lies far below it: a collector that comes near it meets something that nobody thought of.
const BUDGET_SHARE: f64 = 0.01;

/// Builds without optimization are for development, and ten times as slow.
const BUDGET_FACTOR: f64 = if cfg!(debug_assertions) { 10.0 } else { 1.0 };

/// Collections in a row beyond the budget after which the period is doubled.
const PATIENCE: u32 = 3;

/// Collections in a row below a quarter of the budget after which the period is halved again.
const RECOVERY: u32 = 20;

/// Most times that a period is doubled.
const MOST_DOUBLINGS: u32 = 6;

/// Failures in a row after which a source is asked half as often, and a quarter as often: one that does not answer is not
/// pressed, and one that is back is noticed soon.
const FAILURES: (u32, u32) = (3, 8);

/// Longest pause that failures make.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often a source that fails is asked: every so many periods, `failures` being in a row. Pure.
pub fn periods_between(failures: u32, period: Duration) -> u32 {
    let wanted: u32 = match failures {
        failures if failures < FAILURES.0 => 1,
        failures if failures < FAILURES.1 => 2,
        _ => 4,
    };
    let most = LONGEST_PAUSE.as_nanos() / period.as_nanos().max(1);
    wanted.min(u32::try_from(most).unwrap_or(u32::MAX)).max(1)
}

/// How a collection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It yielded what it should.
    Ok,
    /// It did, but took longer than [`LATE_AFTER`].
    Late,
    /// It did not.
    Failed,
}

impl Outcome {
    /// As a label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Late => "late",
            Self::Failed => "failed",
        }
    }
}

/// What a change of pace means for the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It runs less often from now on.
    Slowed,
    /// It runs more often again, but not yet as often as it should.
    Quickened,
    /// It runs as often as it should again.
    Restored,
}

/// How often a collector runs, by what its collections cost. Pure.
#[derive(Debug)]
pub struct Pace {
    period: Duration,
    doublings: u32,
    over: u32,
    under: u32,
}

impl Pace {
    /// With this period as long as the budget allows.
    pub const fn new(period: Duration) -> Self {
        Self { period, doublings: 0, over: 0, under: 0 }
    }

    /// The period now.
    pub const fn period(&self) -> Duration {
        self.period.saturating_mul(1 << self.doublings)
    }

    /// CPU time that a collection may use at this pace.
    pub fn budget(&self) -> Duration {
        self.period().mul_f64(BUDGET_SHARE * BUDGET_FACTOR)
    }

    /// Takes note of what a collection used.
    pub fn note(&mut self, used: Duration) -> Option<Change> {
        let budget = self.budget();
        self.over = if used > budget { self.over + 1 } else { 0 };
        self.under = if used < budget / 4 { self.under + 1 } else { 0 };
        if self.over >= PATIENCE && self.doublings < MOST_DOUBLINGS {
            (self.over, self.under) = (0, 0);
            self.doublings += 1;
            return Some(Change::Slowed);
        }
        if self.under >= RECOVERY && self.doublings > 0 {
            (self.over, self.under) = (0, 0);
            self.doublings -= 1;
            return Some(if self.doublings == 0 { Change::Restored } else { Change::Quickened });
        }
        None
    }
}

/// Runs a collector until it is cancelled.
pub async fn run(
    mut collector: impl Collector,
    notes: mpsc::Sender<Note>,
    telemetry: Arc<Telemetry>,
    cancel: CancellationToken,
) {
    let name = collector.name();
    let mut pace = Pace::new(collector.period());
    let phase = PHASE_AFTER_SECOND + Duration::from_millis(rand::random_range(0..PHASE_SPREAD_MS));
    let mut ticks = ticks_from(Instant::now() + Reading::now().until_next_second() + phase, &pace);
    let mut failing = false;
    let (mut failures, mut skipped) = (0u32, 0u32);
    let shared = Arc::clone(&telemetry);
    let mut slowed = Slowed { name, telemetry: shared, notes: notes.clone(), counted: false };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if skipped + 1 < periods_between(failures, pace.period()) {
            skipped += 1;
            continue;
        }
        skipped = 0;
        let began = Instant::now();
        let (outcome, used) = Metered::new(collector.collect(Reading::now())).await;
        let took = began.elapsed();
        let judged = judge(&outcome, took);
        failures = if judged == Outcome::Failed { failures.saturating_add(1) } else { 0 };
        if !matches!(outcome, Err(CollectError::Gone)) {
            telemetry.collections.note(name, judged, took, used);
        }
        let mut collected = match outcome {
            Ok(collected) => {
                failing = false;
                collected
            }
            Err(error) => {
                if !matches!(error, CollectError::Gone) && !std::mem::replace(&mut failing, true) {
                    let error = etcdmon_service::logging::ErrorChain(&error).to_string();
                    tracing::warn!(collector = name, error, "collection failed");
                }
                Vec::new()
            }
        };
        if let Some(change) = pace.note(used) {
            collected.extend(slowed.note(change, &pace, used));
            ticks = ticks_from(began + pace.period(), &pace);
        }
        for note in collected {
            if notes.send(note).await.is_err() {
                return;
            }
        }
    }
}

fn ticks_from(first: Instant, pace: &Pace) -> Interval {
    let mut ticks = tokio::time::interval_at(first, pace.period());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// What a member did not answer is a failure, too, though the hub is told so by a note.
fn judge(outcome: &Result<Vec<Note>, CollectError>, took: Duration) -> Outcome {
    let unanswered = |note: &Note| {
        matches!(note, Note::Scraped { outcome: Err(_), .. } | Note::Status { outcome: Err(_), .. })
    };
    match outcome {
        Ok(notes) if notes.iter().any(unanswered) => Outcome::Failed,
        Err(_) => Outcome::Failed,
        Ok(_) if took > LATE_AFTER => Outcome::Late,
        Ok(_) => Outcome::Ok,
    }
}

/// Counts a slowed collector for as long as it is slowed, over all members of the node.
struct Slowed {
    name: &'static str,
    telemetry: Arc<Telemetry>,
    notes: mpsc::Sender<Note>,
    counted: bool,
}

impl Slowed {
    fn note(&mut self, change: Change, pace: &Pace, used: Duration) -> Option<Note> {
        if change == Change::Restored {
            return self.over();
        }
        if !std::mem::replace(&mut self.counted, true) {
            self.telemetry.collections.slowed(self.name, 1);
        }
        let (used, period) = (used.as_micros(), pace.period().as_secs_f64());
        Some(Note::Degraded(Degradation {
            capability: capability(self.name).to_owned(),
            reason: format!("a collection used {used} us of CPU: it runs every {period} s only"),
            remedy: format!("set collect.{}-interval to a longer time", self.name),
        }))
    }

    fn over(&mut self) -> Option<Note> {
        let last = std::mem::take(&mut self.counted) && self.telemetry.collections.slowed(self.name, -1) == 0;
        last.then_some(Note::Restored(capability(self.name).into()))
    }
}

impl Drop for Slowed {
    /// A collector ends with its process: what it was slowed by is no more.
    fn drop(&mut self) {
        if let Some(note) = self.over() {
            let _hub_busy = self.notes.try_send(note);
        }
    }
}

/// Name of a collector among the capabilities of the agent.
fn capability(name: &'static str) -> &'static str {
    match name {
        "metrics" => "collect.metrics",
        "status" => "collect.status",
        "process" => "collect.process",
        "threads" => "collect.threads",
        "cgroup" => "collect.cgroup",
        "disk" => "collect.disk",
        "node" => "collect.node",
        "network" => "collect.network",
        other => other,
    }
}

/// A future, and the CPU time of this thread that it used.
struct Metered<F> {
    inner: Pin<Box<F>>,
    used: Duration,
}

impl<F: Future> Metered<F> {
    fn new(inner: F) -> Self {
        Self { inner: Box::pin(inner), used: Duration::ZERO }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = (F::Output, Duration);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let before = thread_cpu();
        let outcome = self.inner.as_mut().poll(context);
        self.used += thread_cpu().saturating_sub(before);
        let used = self.used;
        outcome.map(|outcome| (outcome, used))
    }
}

#[cfg(test)]
mod tests;
