//! The batch stream: a window of unacknowledged batches.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcdmon_proto::v1::{self, batch_reply, batch_request};
use etcdmon_service::logging::ErrorChain;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::link::Link;
use super::{SendError, check, in_time};
use crate::connect::Connector;
use crate::hub::Note;
use crate::spool::thread::SpoolHandle;
use crate::spool::{BatchId, Outgoing};
use crate::telemetry::Telemetry;

/// Bounds of the pace that the aggregator may ask for. A batch that is closed later than this would break the promise
/// that facts older than ten seconds survive a kill -9.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(4));

/// Most batches in flight, whatever the aggregator allows.
const WINDOW_LIMIT: usize = 64;

/// Without any acknowledgement for so long while batches are in flight, the stream is begun anew.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// Before a stream is left for another aggregator, what is in flight may be acknowledged here: elsewhere it would have to
/// be looked up.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

struct InFlight {
    outgoing: Outgoing,
    sent: bool,
}

type Taking = Pin<Box<dyn Future<Output = Option<Outgoing>> + Send + Sync>>;

/// Sends batches until it is cancelled.
pub struct BatchSender {
    link: Link,
    hello: v1::Hello,
    spool: SpoolHandle,
    interval: watch::Sender<Duration>,
    window: usize,
    notes: mpsc::Sender<Note>,
    telemetry: Arc<Telemetry>,
    in_flight: VecDeque<InFlight>,
    /// The request to the spool that is open. It outlives a connection: what it yields must not be lost.
    taking: Option<Taking>,
    /// Whether the loss of the connection was reported.
    reported: bool,
}

impl BatchSender {
    /// From the spool to the aggregator. `interval` is where the aggregator's pace goes.
    pub fn new(
        connector: Connector,
        hello: v1::Hello,
        spool: SpoolHandle,
        interval: watch::Sender<Duration>,
        notes: mpsc::Sender<Note>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let link = Link::new("batches", connector, Arc::clone(&telemetry));
        Self {
            link,
            hello,
            spool,
            interval,
            window: 1,
            notes,
            telemetry,
            in_flight: VecDeque::new(),
            taking: None,
            reported: false,
        }
    }

    /// Connects, sends, and connects anew, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.stream() => ended,
            };
            self.telemetry.connected.set(0);
            // The spool closes only when the agent ends.
            let Err(error) = ended else { return stop.cancelled().await };
            let pause = self.link.ended(&error);
            if !matches!(error, SendError::Redirected) {
                self.report(&error);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn report(&mut self, error: &SendError) {
        let error = ErrorChain(error).to_string();
        if std::mem::replace(&mut self.reported, true) {
            tracing::debug!(error, "still no batch stream");
            return;
        }
        tracing::warn!(
            error,
            url = self.link.url(),
            "no batch stream to the aggregator, batches are spooled"
        );
        let degraded = v1::Degradation {
            capability: "send.batches".to_owned(),
            reason: error,
            remedy: "check aggregator.url and whether the aggregator runs; batches wait in the spool"
                .to_owned(),
        };
        let _hub_busy = self.notes.try_send(Note::Degraded(degraded));
    }

    async fn stream(&mut self) -> Result<(), SendError> {
        let (requests, receiver) = mpsc::channel(WINDOW_LIMIT + 1);
        let mut replies = in_time(self.open(&requests, receiver)).await?;
        let welcome = match in_time(first(&mut replies)).await? {
            batch_reply::Message::Welcome(welcome) => welcome,
            batch_reply::Message::Redirect(redirect) if self.link.redirect(&redirect) => {
                return Err(SendError::Redirected);
            }
            _ => return Err(SendError::NoWelcome),
        };
        check(&welcome)?;
        self.link.stands();
        tracing::info!(
            url = self.link.url(),
            aggregator_version = welcome.aggregator_version,
            window = welcome.window_batches,
            interval_ms = welcome.batch_interval_ms,
            in_flight = self.in_flight.len(),
            "batch stream stands"
        );
        self.reported = false;
        self.telemetry.connections.inc();
        self.telemetry.connected.set(1);
        // Waited for: lost, it would never be said again.
        let _hub_ended = self.notes.send(Note::Restored("send.batches".into())).await;
        self.keep_pace(welcome.batch_interval_ms, welcome.window_batches);
        for waiting in &mut self.in_flight {
            transmit(&requests, waiting).await?;
        }
        self.exchange(&requests, &mut replies).await
    }

    fn keep_pace(&mut self, interval_ms: u32, window: u32) {
        let interval = Duration::from_millis(u64::from(interval_ms));
        self.interval.send_replace(interval.clamp(INTERVALS.0, INTERVALS.1));
        self.window = usize::try_from(window).unwrap_or(WINDOW_LIMIT).clamp(1, WINDOW_LIMIT);
    }

    async fn open(
        &mut self,
        requests: &mpsc::Sender<v1::BatchRequest>,
        receiver: mpsc::Receiver<v1::BatchRequest>,
    ) -> Result<Streaming<v1::BatchReply>, SendError> {
        let mut client = self.link.attempt().client().await?;
        let hello = batch_request::Message::Hello(self.hello.clone());
        let greeting = v1::BatchRequest { message: Some(hello) };
        requests.send(greeting).await.map_err(|_closed| SendError::Closed)?;
        let response = client.batches(ReceiverStream::new(receiver)).await;
        Ok(response.map_err(|status| SendError::Stream(Box::new(status)))?.into_inner())
    }

    async fn exchange(
        &mut self,
        requests: &mpsc::Sender<v1::BatchRequest>,
        replies: &mut Streaming<v1::BatchReply>,
    ) -> Result<(), SendError> {
        let mut last_progress = Instant::now();
        let mut leaving: Option<Instant> = None;
        loop {
            if self.in_flight.is_empty() {
                last_progress = Instant::now();
                if leaving.is_some() {
                    return Err(SendError::Redirected);
                }
            }
            if self.taking.is_none() {
                let spool = self.spool.clone();
                self.taking = Some(Box::pin(async move { spool.take().await }));
            }
            let Some(taking) = &mut self.taking else { continue };
            let has_room = self.in_flight.len() < self.window && leaving.is_none();
            tokio::select! {
                reply = replies.message() => {
                    let reply = reply.map_err(|status| SendError::Stream(Box::new(status)))?;
                    let is_leaving = self.settle(reply.ok_or(SendError::Closed)?).await;
                    last_progress = Instant::now();
                    if is_leaving {
                        leaving.get_or_insert(last_progress + LEAVE_WITHIN);
                    }
                }
                taken = taking, if has_room => {
                    self.taking = None;
                    // The spool closes only when the agent ends.
                    let Some(outgoing) = taken else { return Ok(()) };
                    let mut waiting = InFlight { outgoing, sent: false };
                    let outcome = transmit(requests, &mut waiting).await;
                    self.in_flight.push_back(waiting);
                    outcome?;
                }
                () = tokio::time::sleep_until(last_progress + STALLED_AFTER), if !self.in_flight.is_empty() => {
                    return Err(SendError::Stalled(STALLED_AFTER));
                }
                () = until(leaving) => return Err(SendError::Redirected),
            }
        }
    }

    /// Takes a reply. True when the stream is to be left for another aggregator.
    async fn settle(&mut self, reply: v1::BatchReply) -> bool {
        match reply.message {
            Some(batch_reply::Message::Acknowledgement(acknowledgement)) => {
                let Some(id) = batch_id(&acknowledgement.epoch, acknowledgement.sequence) else {
                    return false;
                };
                self.forget(id);
                self.telemetry.acknowledged.inc();
                self.telemetry.unknown_rows.inc_by(acknowledgement.unknown_rows);
                self.spool.acknowledge(id).await;
            }
            Some(batch_reply::Message::Refusal(refusal)) => {
                let Some(id) = batch_id(&refusal.epoch, refusal.sequence) else { return false };
                tracing::error!(
                    batch = id.sequence,
                    reason = refusal.reason,
                    "the aggregator refused a batch"
                );
                self.forget(id);
                self.telemetry.refused.inc();
                self.spool.refuse(id).await;
            }
            // A second Welcome changes the pace only.
            Some(batch_reply::Message::Welcome(welcome)) => {
                self.keep_pace(welcome.batch_interval_ms, welcome.window_batches);
            }
            Some(batch_reply::Message::Pace(pace)) => {
                let v1::Pace { batch_interval_ms, window_batches, reason } = pace;
                tracing::info!(
                    batch_interval_ms,
                    window_batches,
                    reason,
                    "the aggregator asks for another pace"
                );
                self.keep_pace(batch_interval_ms, window_batches);
            }
            Some(batch_reply::Message::Redirect(redirect)) => return self.link.redirect(&redirect),
            None => tracing::debug!("the aggregator sent a reply of an unknown kind"),
        }
        false
    }

    fn forget(&mut self, id: BatchId) {
        self.in_flight.retain(|waiting| waiting.outgoing.id != id);
    }
}

/// The first reply of a kind that this agent knows.
async fn first(replies: &mut Streaming<v1::BatchReply>) -> Result<batch_reply::Message, SendError> {
    loop {
        let reply = replies.message().await.map_err(|status| SendError::Stream(Box::new(status)))?;
        if let Some(message) = reply.ok_or(SendError::Closed)?.message {
            return Ok(message);
        }
    }
}

/// Until then; for ever without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn transmit(
    requests: &mpsc::Sender<v1::BatchRequest>,
    waiting: &mut InFlight,
) -> Result<(), SendError> {
    let Outgoing { id, payload, maybe_sent_before } = &waiting.outgoing;
    let envelope = v1::BatchEnvelope {
        epoch: id.epoch.to_vec(),
        sequence: id.sequence,
        payload: payload.to_vec(),
        payload_crc32c: crc32c::crc32c(payload),
        maybe_sent_before: *maybe_sent_before || waiting.sent,
    };
    waiting.sent = true;
    let request = v1::BatchRequest { message: Some(batch_request::Message::Batch(envelope)) };
    requests.send(request).await.map_err(|_closed| SendError::Closed)
}

fn batch_id(epoch: &[u8], sequence: u64) -> Option<BatchId> {
    let epoch = epoch.try_into().ok()?;
    Some(BatchId { epoch, sequence })
}
