//! Samples of everything that is not traced: etcd's process, its disks, the node, and what etcd says of itself.
//!
//! A source is a [`Collector`] in a file of its own. Each runs on its own period in a task of its own, so a slow source delays only
//! itself; a collection that takes longer than its period is not stacked up on, the periods in between are skipped.
//! No collector costs etcd a raft entry or a sync ([`etcdmon_etcd`] says how).

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::clock::Reading;
use crate::hub::Note;

pub mod address;
pub mod disk;
pub mod member;
pub mod node;
pub mod process;
mod procfile;

/// Spread of the first collection, so that several members of a node are not asked at the same instant.
const PHASE_SPREAD_MS: u64 = 120;

/// After a second begins on the wall clock, collectors wait this long: the probes' snapshot goes first.
const PHASE_AFTER_SECOND: Duration = Duration::from_millis(30);

/// Why a source yielded nothing.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A file of `/proc` or `/sys`.
    #[error("read {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file in another form than expected.
    #[error("{path} is not of the expected form")]
    Form {
        /// Which.
        path: String,
    },
    /// The process is gone; discovery will notice.
    #[error("process is gone")]
    Gone,
}

/// One source of samples.
pub trait Collector: Send {
    /// Name for the log and for degraded capabilities.
    fn name(&self) -> &'static str;

    /// Time between two collections.
    fn period(&self) -> Duration;

    /// Collects once.
    fn collect(&mut self, now: Reading) -> impl Future<Output = Result<Vec<Note>, CollectError>> + Send;
}

/// Runs a collector until it is cancelled.
pub async fn run(mut collector: impl Collector, notes: mpsc::Sender<Note>, cancel: CancellationToken) {
    let phase = PHASE_AFTER_SECOND + Duration::from_millis(rand::random_range(0..PHASE_SPREAD_MS));
    let start = Instant::now() + Reading::now().until_next_second() + phase;
    let mut ticks = tokio::time::interval_at(start, collector.period());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut failing = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match collector.collect(Reading::now()).await {
            Ok(collected) => {
                failing = false;
                for note in collected {
                    if notes.send(note).await.is_err() {
                        return;
                    }
                }
            }
            Err(CollectError::Gone) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    let error = etcdmon_service::logging::ErrorChain(&error).to_string();
                    tracing::warn!(collector = collector.name(), error, "collection failed");
                }
            }
        }
    }
}
