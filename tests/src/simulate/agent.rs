//! One simulated agent: its batch stream with a window and resends, and its live stream.
//!
//! It keeps no batch. What is unacknowledged is a range of sequence numbers; a batch is made again when it is sent again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use etcdmon_proto::v1::ingest_client::IngestClient;
use etcdmon_proto::v1::{self, batch_reply, batch_request, live_request};
use etcdmon_proto::{MAX_MESSAGE_BYTES, PROTOCOL};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::content::{Content, LiveTotals};

/// Limit for a connection and its Welcome.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Pauses between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// How often an idle agent looks whether a batch is complete.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What one agent did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches sent for the first time.
    pub sent: AtomicU64,
    /// Batches sent once more.
    pub resent: AtomicU64,
    /// Batches acknowledged.
    pub acknowledged: AtomicU64,
    /// Batches refused for good.
    pub refused: AtomicU64,
    /// Batch streams that stood.
    pub connections: AtomicU64,
    /// Live messages sent.
    pub live: AtomicU64,
}

/// What all agents are told.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Where this agent finds the aggregator; `None` = nowhere: it is cut off.
    pub target: watch::Receiver<Option<Arc<str>>>,
    /// The last sequence to produce; `None` = go on.
    pub last: watch::Receiver<Option<u64>>,
    /// Without any acknowledgement for so long, a stream is begun anew.
    pub stall: Duration,
}

/// A simulated agent.
pub struct Agent {
    content: Content,
    /// Batches are complete this much after the wall second that ends them, so that agents don't march in step.
    phase: Duration,
    orders: Orders,
    counters: Arc<Counters>,
    /// Every batch up to this one is acknowledged.
    low: u64,
    /// Batches above `low` that are acknowledged.
    above: BTreeSet<u64>,
    /// Highest sequence that was ever sent.
    highest: u64,
}

impl Agent {
    /// An agent that has sent nothing yet.
    pub fn new(content: Content, phase: Duration, orders: Orders, counters: Arc<Counters>) -> Self {
        Self { content, phase, orders, counters, low: 0, above: BTreeSet::new(), highest: 0 }
    }

    /// Sends batches until it is aborted.
    pub async fn run(mut self) {
        let mut pause = PAUSES.0;
        loop {
            let Some(target) = reachable(&mut self.orders.target).await else { return };
            let mut cut = self.orders.target.clone();
            tokio::select! {
                // Whoever changes the target wants the old connection gone.
                changed = cut.changed() => if changed.is_err() { return },
                ended = self.stream(&target, &mut pause) => {
                    if let Err(error) = ended {
                        explain(&self.content, &error);
                    }
                }
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// The highest sequence that is complete at a time.
    pub fn complete(content: &Content, phase: Duration, last: Option<u64>) -> u64 {
        let now = wall_ns() - i64::try_from(phase.as_nanos()).unwrap_or(0);
        let complete = content.last_complete(now.div_euclid(1_000_000_000));
        last.map_or(complete, |last| last.min(complete))
    }

    async fn stream(&mut self, target: &str, pause: &mut Duration) -> Result<()> {
        let (requests, receiver) = mpsc::channel(4);
        let opened = async {
            let mut client = connect(target).await?;
            let hello = batch_request::Message::Hello(hello(&self.content));
            requests.send(v1::BatchRequest { message: Some(hello) }).await?;
            let mut replies = client.batches(ReceiverStream::new(receiver)).await?.into_inner();
            let first = replies.message().await?.and_then(|reply| reply.message);
            let Some(batch_reply::Message::Welcome(welcome)) = first else { bail!("no welcome: {first:?}") };
            anyhow::Ok((replies, welcome))
        };
        let (mut replies, welcome) = tokio::time::timeout(OPEN_LIMIT, opened).await.context("open")??;
        *pause = PAUSES.0;
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.exchange(&requests, &mut replies, welcome.window_batches.max(1) as usize).await
    }

    async fn exchange(
        &mut self,
        requests: &mpsc::Sender<v1::BatchRequest>,
        replies: &mut Streaming<v1::BatchReply>,
        window: usize,
    ) -> Result<()> {
        let (mut next, mut in_flight) = (self.low + 1, 0usize);
        let mut progress = Instant::now();
        loop {
            while self.above.contains(&next) {
                next += 1;
            }
            let last = *self.orders.last.borrow();
            let ready = next <= Self::complete(&self.content, self.phase, last);
            if in_flight == 0 {
                progress = Instant::now();
            }
            tokio::select! {
                biased;
                reply = replies.message() => {
                    let reply = reply?.context("the aggregator ended the stream")?;
                    in_flight -= usize::from(self.settle(reply.message)?);
                    progress = Instant::now();
                }
                room = requests.reserve(), if ready && in_flight < window => {
                    let room = room.context("the stream is closed")?;
                    room.send(self.envelope(next));
                    next += 1;
                    in_flight += 1;
                }
                () = sleep(LOOK_EVERY), if !ready || in_flight >= window => {
                    anyhow::ensure!(progress.elapsed() < self.orders.stall, "no reply in {:?}", self.orders.stall);
                }
            }
        }
    }

    fn envelope(&mut self, sequence: u64) -> v1::BatchRequest {
        let maybe_sent_before = sequence <= self.highest;
        self.highest = self.highest.max(sequence);
        let counter = if maybe_sent_before { &self.counters.resent } else { &self.counters.sent };
        counter.fetch_add(1, Ordering::Relaxed);
        let payload = self.content.payload(sequence);
        let envelope = v1::BatchEnvelope {
            epoch: self.content.epoch().to_vec(),
            sequence,
            payload_crc32c: crc32c::crc32c(&payload),
            payload,
            maybe_sent_before,
        };
        v1::BatchRequest { message: Some(batch_request::Message::Batch(envelope)) }
    }

    /// Takes note of a reply; true when a batch is done with.
    fn settle(&mut self, reply: Option<batch_reply::Message>) -> Result<bool> {
        let (epoch, sequence, counter) = match reply {
            Some(batch_reply::Message::Acknowledgement(it)) => {
                (it.epoch, it.sequence, &self.counters.acknowledged)
            }
            Some(batch_reply::Message::Refusal(it)) => (it.epoch, it.sequence, &self.counters.refused),
            // The simulated load keeps its own pace.
            Some(
                batch_reply::Message::Welcome(_)
                | batch_reply::Message::Pace(_)
                | batch_reply::Message::Redirect(_),
            )
            | None => return Ok(false),
        };
        anyhow::ensure!(epoch == self.content.epoch(), "a reply about somebody else's batch");
        anyhow::ensure!(
            sequence > self.low && sequence <= self.highest && self.above.insert(sequence),
            "a reply about batch {sequence}, which is not open"
        );
        counter.fetch_add(1, Ordering::Relaxed);
        while self.above.remove(&(self.low + 1)) {
            self.low += 1;
        }
        Ok(true)
    }
}

/// The live stream of an agent.
pub struct Live {
    content: Content,
    phase: Duration,
    counters: Arc<Counters>,
    totals: LiveTotals,
    /// The next second to add to the totals.
    second: i64,
    number: u64,
}

impl Live {
    /// A stream that has said nothing yet.
    pub fn new(content: Content, phase: Duration, counters: Arc<Counters>) -> Self {
        let second = content.complete_at(0);
        Self { content, phase, counters, totals: LiveTotals::default(), second, number: 0 }
    }

    /// Sends a summary a second, as the agent does, until it is aborted.
    pub async fn run(mut self, mut orders: Orders) {
        loop {
            let Some(target) = reachable(&mut orders.target).await else { return };
            tokio::select! {
                changed = orders.target.changed() => if changed.is_err() { return },
                ended = self.stream(&target) => if let Err(error) = ended { explain(&self.content, &error) },
            }
            sleep(PAUSES.1.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    async fn stream(&mut self, target: &str) -> Result<()> {
        let mut client = tokio::time::timeout(OPEN_LIMIT, connect(target)).await??;
        let (requests, receiver) = mpsc::channel(2);
        let hello = live_request::Message::Hello(hello(&self.content));
        requests.send(v1::LiveRequest { message: Some(hello) }).await?;
        let opened = client.live(ReceiverStream::new(receiver));
        let mut replies = tokio::time::timeout(OPEN_LIMIT, opened).await??.into_inner();
        loop {
            let now = wall_ns() - i64::try_from(self.phase.as_nanos()).unwrap_or(0);
            if now < (self.second + 1) * 1_000_000_000 {
                tokio::select! {
                    reply = replies.message() => anyhow::ensure!(reply?.is_some(), "the aggregator ended the stream"),
                    () = sleep(LOOK_EVERY) => {}
                }
                continue;
            }
            self.content.add_second(&mut self.totals, self.second);
            self.second += 1;
            if now >= (self.second + 1) * 1_000_000_000 {
                // Cumulative values: what was missed needs no message of its own.
                continue;
            }
            self.number += 1;
            let sent_mono_ns = mono_ns();
            let offset = wall_ns() - sent_mono_ns.cast_signed();
            let live = self.content.live(self.number, &self.totals, (sent_mono_ns, offset));
            let request = v1::LiveRequest { message: Some(live_request::Message::Live(live)) };
            match requests.try_send(request) {
                Err(mpsc::error::TrySendError::Closed(_)) => bail!("the stream is closed"),
                // A message that finds no room is replaced by the next.
                Err(mpsc::error::TrySendError::Full(_)) => {}
                Ok(()) => drop(self.counters.live.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

/// Waits until there is somewhere to send to; `None` when nobody gives orders any more.
async fn reachable(target: &mut watch::Receiver<Option<Arc<str>>>) -> Option<Arc<str>> {
    target.wait_for(Option::is_some).await.ok()?.clone()
}

async fn connect(target: &str) -> Result<IngestClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{target}"))?
        .connect_timeout(OPEN_LIMIT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20));
    let channel = endpoint.connect().await?;
    Ok(IngestClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

fn hello(content: &Content) -> v1::Hello {
    v1::Hello {
        agent_id: content.agent_id().to_vec(),
        epoch: content.epoch().to_vec(),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        agent_version: "simulated".to_owned(),
        node_name: content.member().name,
        boot_id: content.boot_id().to_vec(),
        ..v1::Hello::default()
    }
}

/// Wall clock in Unix nanoseconds.
pub fn wall_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn mono_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the struct that it is handed.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Streams that break are expected; why they did is for people who look.
fn explain(content: &Content, error: &anyhow::Error) {
    if std::env::var_os("ETCD_MONITOR_VERBOSE").is_some() {
        eprintln!("{}: {error:#}", content.member().name);
    }
}
