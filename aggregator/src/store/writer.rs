//! Group commit: batches of all agents become at most about one insert a second, table and day.
//!
//! A batch is taken in when memory allows (its agent waits meanwhile), gathered with others into a group, and reported
//! as stored once every table has its rows on disk. A batch that comes again while it waits here is merged with itself.
//! While ClickHouse is away batches wait; nothing is ever reported as stored that is not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcdmon_service::backoff::Backoff;
use etcdmon_service::logging::ErrorChain;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::counters::Counters;
use super::decode::{BatchId, Decoded};
use super::flush::{Flusher, Trouble};
use super::frontier::Frontier;
use super::isolate;
use super::seen::Seen;

/// Memory that waiting batches may take together, in bytes.
const MEMORY_BYTES: usize = 256 << 20;

/// Bytes that one permit of the memory budget stands for.
const PERMIT_BYTES: usize = 4 << 10;

/// Rows at which a group is closed early. With the largest batch on top an insert stays below a million rows, which
/// ClickHouse writes as one part: all or nothing.
const GROUP_ROWS: usize = 400_000;

/// Groups begin at least this far apart.
const GROUP_INTERVAL: Duration = Duration::from_secs(1);

/// How long the first batch after a quiet time waits for others.
const GATHER: Duration = Duration::from_millis(50);

/// How long batches that wait at shutdown may take to be stored.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses between looks for ClickHouse at start.
const PREPARE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Batches between ingest and the writer. Memory is bounded by [`MEMORY_BYTES`]; this bounds bookkeeping.
const QUEUE_BATCHES: usize = 4_096;

/// Groups that are stored side by side: one is put together and encoded while ClickHouse sorts and syncs the other.
const OVERLAP: usize = 2;

/// The batch was not stored, because the aggregator is stopping. Its agent sends it again.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("store is stopping")]
pub struct Stopping;

/// Handle to the writer. Cheap to clone; the writer ends when it is told to, or with the last handle.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Waiting>,
}

pub(super) struct Shared {
    memory: Semaphore,
    in_flight: Mutex<HashMap<BatchId, watch::Receiver<bool>>>,
    counters: Counters,
    ready: AtomicBool,
    trouble: Arc<Trouble>,
    frontier: Arc<Frontier>,
    stop: CancellationToken,
}

/// A batch that waits to be stored.
pub(super) struct Waiting {
    pub batch: Decoded,
    /// It may be in the tables already, in part or as a whole.
    pub uncertain: bool,
    stored: watch::Sender<bool>,
    permits: u32,
    shared: Arc<Shared>,
}

impl Waiting {
    /// Tells whoever waits for it that all its rows are durable.
    pub fn stored(self) {
        self.forget();
        Counters::add(&self.shared.counters.batches_stored, 1);
        self.stored.send_replace(true);
    }

    fn forget(&self) {
        self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.batch.id);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.forget();
        self.shared.memory.add_permits(self.permits as usize);
        Counters::subtract(&self.shared.counters.batches_waiting, 1);
        Counters::subtract(&self.shared.counters.bytes_waiting, self.permits as usize * PERMIT_BYTES);
    }
}

impl Store {
    /// Starts the writer; it applies the schema as soon as ClickHouse answers. `unstorable` says what becomes of rows that
    /// ClickHouse refuses for good. `stop` ends it after what waits was stored or ten seconds.
    pub fn start(
        client: Client,
        unstorable: isolate::Options,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let shared = Arc::new(Shared {
            memory: Semaphore::new(MEMORY_BYTES / PERMIT_BYTES),
            in_flight: Mutex::default(),
            counters: Counters::default(),
            ready: AtomicBool::new(false),
            trouble: Arc::default(),
            frontier: Arc::default(),
            stop: stop.clone(),
        });
        let (queue, queued) = mpsc::channel(QUEUE_BATCHES);
        let writer = Writer {
            queued,
            shared: shared.clone(),
            flusher: Arc::new(Flusher::new(
                client,
                unstorable,
                shared.trouble.clone(),
                shared.frontier.clone(),
            )),
            flushing: JoinSet::new(),
            seen: Seen::default(),
        };
        let task = tokio::spawn(writer.run());
        (Self { shared, queue }, task)
    }

    /// What the store counts.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Bytes that waiting batches take, and how many they may take.
    pub fn memory(&self) -> (u64, u64) {
        (self.shared.counters.bytes_waiting.load(Ordering::Relaxed), MEMORY_BYTES as u64)
    }

    /// What the rollups must know of rows that are on their way.
    pub fn frontier(&self) -> Arc<Frontier> {
        self.shared.frontier.clone()
    }

    /// Whether the schema was brought up to date since start. ClickHouse may be away again since.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Relaxed)
    }

    /// Why batches that wait could not be stored yet; `None` while all goes well. They are tried again without end.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.reason()
    }

    /// Stores a batch and returns when all its rows are durable. Waits for memory first, then for ClickHouse, however
    /// long that takes; a caller that goes away takes nothing back.
    ///
    /// # Errors
    /// When the aggregator is stopping; some rows may be stored all the same.
    pub async fn write(&self, batch: Decoded, maybe_sent_before: bool) -> Result<(), Stopping> {
        let id = batch.id;
        loop {
            if let Some(mut earlier) = self.in_flight(&id) {
                Counters::add(&self.shared.counters.batches_merged, 1);
                if earlier.wait_for(|stored| *stored).await.is_ok() {
                    return Ok(());
                }
                if self.shared.stop.is_cancelled() {
                    return Err(Stopping);
                }
                continue;
            }
            let (permit, permits) = self.reserve(batch.bytes()).await?;
            let Some(mut stored) = self.enter(&id) else { continue };
            permit.forget();
            let waiting = Waiting {
                uncertain: maybe_sent_before,
                stored: stored.0,
                permits,
                shared: self.shared.clone(),
                batch,
            };
            Counters::add(&self.shared.counters.batches_waiting, 1);
            Counters::add(&self.shared.counters.bytes_waiting, permits as usize * PERMIT_BYTES);
            self.queue.send(waiting).await.map_err(|_| Stopping)?;
            return stored.1.wait_for(|stored| *stored).await.map(|_| ()).map_err(|_| Stopping);
        }
    }

    fn in_flight(&self, id: &BatchId) -> Option<watch::Receiver<bool>> {
        self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Enters the batch as the one in flight; `None` when another was faster.
    fn enter(&self, id: &BatchId) -> Option<(watch::Sender<bool>, watch::Receiver<bool>)> {
        let mut in_flight = self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if in_flight.contains_key(id) {
            return None;
        }
        let (sender, receiver) = watch::channel(false);
        in_flight.insert(*id, receiver.clone());
        Some((sender, receiver))
    }

    async fn reserve(&self, bytes: usize) -> Result<(SemaphorePermit<'_>, u32), Stopping> {
        // A batch alone always fits, however large: else it would wait for ever.
        let permits = (bytes / PERMIT_BYTES + 1).min(MEMORY_BYTES / PERMIT_BYTES);
        let permits = u32::try_from(permits).expect("the budget has fewer permits than u32 holds");
        tokio::select! {
            permit = self.shared.memory.acquire_many(permits) => Ok((permit.map_err(|_| Stopping)?, permits)),
            () = self.shared.stop.cancelled() => Err(Stopping),
        }
    }
}

/// The writer's task.
struct Writer {
    queued: mpsc::Receiver<Waiting>,
    shared: Arc<Shared>,
    flusher: Arc<Flusher>,
    /// Groups that are being stored.
    flushing: JoinSet<()>,
    /// A batch that was taken in before is taken for a resend even when its agent does not say so; that costs a look,
    /// while believing it could store rows twice.
    seen: Seen,
}

impl Writer {
    async fn run(mut self) {
        let stop = self.shared.stop.clone();
        tokio::select! {
            () = self.prepare() => {}
            () = stop.cancelled() => {}
        }
        let mut next = Instant::now();
        loop {
            // Room first: what comes meanwhile gathers in the queue.
            let room = async {
                while self.flushing.len() >= OVERLAP {
                    reap(self.flushing.join_next().await);
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = room => {}
            }
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                first = self.queued.recv() => first,
            };
            // The last handle is gone.
            let Some(first) = first else { break };
            let group = self.gather(first, next.max(Instant::now() + GATHER)).await;
            next = Instant::now() + GROUP_INTERVAL;
            self.store(group);
        }
        self.drain().await;
    }

    /// Brings the schema up to date before the first batch, so that an empty store can be queried.
    async fn prepare(&mut self) {
        let mut pauses = Backoff::new(PREPARE_PAUSES.0, PREPARE_PAUSES.1);
        let mut reported = String::new();
        while let Err(error) = self.flusher.prepare().await {
            let text = ErrorChain(&error).to_string();
            if text != reported {
                tracing::warn!(error = %text, "telemetry store is not ready, will try again");
                reported = text;
            }
            tokio::time::sleep(pauses.pause()).await;
        }
        self.shared.ready.store(true, Ordering::Relaxed);
    }

    /// Stores what is under way and queued at shutdown. What is not stored by then is sent again by its agent.
    async fn drain(&mut self) {
        self.queued.close();
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        loop {
            while self.flushing.len() < OVERLAP
                && let Ok(first) = self.queued.try_recv()
            {
                let group = self.gather(first, Instant::now()).await;
                self.store(group);
            }
            match timeout_at(deadline, self.flushing.join_next()).await {
                Ok(Some(ended)) => reap(Some(ended)),
                // Nothing is left, or no time.
                Ok(None) | Err(_) => return,
            }
        }
    }

    async fn gather(&mut self, first: Waiting, close_at: Instant) -> Vec<Waiting> {
        let mut rows = first.batch.rows();
        let mut group = vec![first];
        while rows < GROUP_ROWS {
            let next = match self.queued.try_recv() {
                Ok(next) => Some(next),
                Err(_) => timeout_at(close_at, self.queued.recv()).await.ok().flatten(),
            };
            let Some(next) = next else { break };
            rows += next.batch.rows();
            group.push(next);
        }
        for waiting in &mut group {
            // Noted before it is stored: as long as it is in a group, a resend is merged with it.
            waiting.uncertain |= self.seen.note(&waiting.batch.id);
        }
        group
    }

    fn store(&mut self, group: Vec<Waiting>) {
        let (flusher, shared) = (self.flusher.clone(), self.shared.clone());
        self.flushing.spawn(async move { flusher.store(group, &shared.counters).await });
    }
}

/// A group whose task panicked has found a bug of ours; its batches were not acknowledged and come again.
fn reap(ended: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = ended {
        tracing::error!(%error, "storing a group ended abnormally");
    }
}
