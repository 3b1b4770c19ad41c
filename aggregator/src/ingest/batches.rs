//! One agent's stream of batches.

use std::sync::Arc;

use etcdmon_proto::{MAX_BATCH_BYTES, v1};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::admission::{HelloFacts, admit};
use super::peer::Pass;
use super::steer::{Level, StreamKind};
use super::{Counters, Shared};
use crate::store::decode::{BatchId, decode};
use crate::store::{Decoded, Stopping};

type Replies = mpsc::Sender<Result<v1::BatchReply, Status>>;

/// What becomes of a batch.
enum Outcome {
    Stored { unknown_rows: u64 },
    Refused { reason: String },
}

/// Talks with one agent until either side ends.
pub async fn converse(
    shared: Arc<Shared>,
    pass: Pass,
    mut stream: Streaming<v1::BatchRequest>,
    replies: Replies,
    _permit: OwnedSemaphorePermit,
) {
    let hello = match admit(&mut stream, &pass, &shared.stop).await {
        Ok(hello) => hello,
        Err(status) => {
            Counters::add(&shared.counters.handshakes_refused, 1);
            tracing::warn!(reason = status.message(), "batch stream refused");
            // An agent that is gone needs no reason.
            let _ = replies.send(Err(status)).await;
            return;
        }
    };
    Counters::add(&shared.counters.streams, 1);
    tracing::info!(agent = %hello.agent, node = hello.node, version = hello.version, "batch stream opened");
    // What is under way when the pass ends is given up: a revoked agent writes nothing more.
    let end = tokio::select! {
        end = exchange(&shared, &hello, &mut stream, &replies) => end,
        end = pass.ended() => end,
    };
    Counters::subtract(&shared.counters.streams, 1);
    tracing::info!(agent = %hello.agent, reason = end.message(), "batch stream ended");
    let _ = replies.send(Err(end)).await;
}

async fn exchange(
    shared: &Arc<Shared>,
    hello: &HelloFacts,
    stream: &mut Streaming<v1::BatchRequest>,
    replies: &Replies,
) -> Status {
    let window = shared.options.window_batches.max(1) as usize;
    let mut level = shared.level();
    let pace = level.pace(&shared.options);
    let welcome = v1::Welcome {
        protocol: hello.protocol,
        aggregator_version: env!("CARGO_PKG_VERSION").to_owned(),
        batch_interval_ms: pace.batch_interval_ms,
        window_batches: pace.window_batches,
    };
    if reply(replies, v1::batch_reply::Message::Welcome(welcome)).await.is_err() {
        return Status::cancelled("agent went away");
    }
    let mut redirects = shared.redirects.watch();
    let mut pending = FuturesUnordered::new();
    loop {
        if steer(shared, replies, &mut level).await.is_err() {
            return Status::cancelled("agent went away");
        }
        let message = tokio::select! {
            () = shared.stop.cancelled() => return Status::unavailable("aggregator is stopping"),
            Some(done) = pending.next() => {
                let done: Result<v1::batch_reply::Message, Stopping> = done;
                let Ok(message) = done else { return Status::unavailable("aggregator is stopping") };
                if reply(replies, message).await.is_err() {
                    return Status::cancelled("agent went away");
                }
                continue;
            }
            Ok(()) = redirects.changed() => {
                let redirect = shared.redirects.of(hello.agent, StreamKind::Batches);
                let message = redirect.map(v1::batch_reply::Message::Redirect);
                if let Some(message) = message && reply(replies, message).await.is_err() {
                    return Status::cancelled("agent went away");
                }
                continue;
            }
            // An agent that sends more than its window is simply not read.
            message = stream.message(), if pending.len() < window => message,
        };
        match message.map(|message| message.map(|message| message.message)) {
            Ok(Some(Some(v1::batch_request::Message::Batch(envelope)))) => {
                pending.push(handle(shared.clone(), hello.agent, envelope));
            }
            Ok(Some(Some(v1::batch_request::Message::Hello(_)))) => {
                return Status::invalid_argument("second hello");
            }
            // Of a later generation.
            Ok(Some(None)) => Counters::add(&shared.counters.unknown_requests, 1),
            Ok(None) if pending.is_empty() => return Status::ok("agent is done"),
            // The agent closed its side and waits for what is pending.
            Ok(None) => return finish(pending, replies).await,
            Err(status) => return status,
        }
    }
}

/// Tells the agent the pace if it is another one now.
async fn steer(shared: &Shared, replies: &Replies, told: &mut Level) -> Result<(), ()> {
    let now = shared.level();
    if std::mem::replace(told, now) == now {
        return Ok(());
    }
    Counters::add(&shared.counters.paces, 1);
    reply(replies, v1::batch_reply::Message::Pace(now.pace(&shared.options))).await
}

/// Sends the replies that are still due.
async fn finish<F>(mut pending: FuturesUnordered<F>, replies: &Replies) -> Status
where
    F: Future<Output = Result<v1::batch_reply::Message, Stopping>>,
{
    while let Some(done) = pending.next().await {
        let Ok(message) = done else { return Status::unavailable("aggregator is stopping") };
        if reply(replies, message).await.is_err() {
            return Status::cancelled("agent went away");
        }
    }
    Status::ok("agent is done")
}

async fn reply(replies: &Replies, message: v1::batch_reply::Message) -> Result<(), ()> {
    replies.send(Ok(v1::BatchReply { message: Some(message) })).await.map_err(|_| ())
}

/// Takes one batch to its end.
async fn handle(
    shared: Arc<Shared>,
    agent: Uuid,
    envelope: v1::BatchEnvelope,
) -> Result<v1::batch_reply::Message, Stopping> {
    let (epoch, sequence) = (envelope.epoch.clone(), envelope.sequence);
    Counters::add(&shared.counters.batches, 1);
    Counters::add(&shared.counters.bytes, envelope.payload.len() as u64);
    Counters::add(&shared.counters.resends, u64::from(envelope.maybe_sent_before));
    match store(&shared, agent, envelope).await? {
        Outcome::Stored { unknown_rows } => {
            Counters::add(&shared.counters.acknowledged, 1);
            Counters::add(&shared.counters.unknown_rows, unknown_rows);
            let acknowledgement = v1::Acknowledgement { epoch, sequence, unknown_rows };
            Ok(v1::batch_reply::Message::Acknowledgement(acknowledgement))
        }
        Outcome::Refused { reason } => {
            Counters::add(&shared.counters.refused, 1);
            tracing::warn!(%agent, sequence, reason, "batch refused");
            Ok(v1::batch_reply::Message::Refusal(v1::Refusal { epoch, sequence, reason }))
        }
    }
}

async fn store(shared: &Arc<Shared>, agent: Uuid, envelope: v1::BatchEnvelope) -> Result<Outcome, Stopping> {
    let maybe_sent_before = envelope.maybe_sent_before;
    let decoded = match check(shared, agent, envelope).await {
        Ok(decoded) => decoded,
        Err(reason) => return Ok(Outcome::Refused { reason }),
    };
    let unknown_rows = decoded.unknown_rows;
    Counters::add(&shared.counters.rows, decoded.rows() as u64);
    if !decoded.blocks.is_empty() {
        shared.store.write(decoded, maybe_sent_before).await?;
    }
    Ok(Outcome::Stored { unknown_rows })
}

/// The batch as rows, or why it can never be stored.
async fn check(shared: &Arc<Shared>, agent: Uuid, envelope: v1::BatchEnvelope) -> Result<Decoded, String> {
    if envelope.payload.len() > MAX_BATCH_BYTES {
        return Err(format!("batch has {} bytes, more than {MAX_BATCH_BYTES}", envelope.payload.len()));
    }
    let epoch = Uuid::from_slice(&envelope.epoch).map_err(|_| "batch epoch has not 16 bytes".to_owned())?;
    // Never closed.
    let _decoder = shared.decoders.acquire().await.map_err(|closed| closed.to_string())?;
    let names = shared.names.clone();
    let decoded = tokio::task::spawn_blocking(move || {
        if crc32c::crc32c(&envelope.payload) != envelope.payload_crc32c {
            return Err("batch checksum does not match".to_owned());
        }
        let id = BatchId { agent, epoch, sequence: envelope.sequence };
        decode(id, &envelope.payload, &*names).map_err(|error| error.to_string())
    });
    // A decoder that panicked has found a bug of ours; its batch would do so for ever.
    decoded.await.unwrap_or_else(|_| Err("batch could not be decoded".to_owned()))
}
