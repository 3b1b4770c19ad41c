//! The live stream: the newest summary once a second. A summary that can't be sent at once is replaced by the next.

use etcdmon_proto::v1::{self, live_reply, live_request};
use etcdmon_service::backoff::Backoff;
use etcdmon_service::logging::ErrorChain;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{PAUSES, SendError, check, in_time};
use crate::clock::Reading;
use crate::connect::Connector;
use crate::fact::{Fact, Samples, Series};
use crate::hub::Note;

/// Summaries that may wait for the network.
const QUEUE: usize = 2;

/// Every so many answers yield a sample of the clock's offset.
const OFFSET_EVERY: u64 = 10;

/// Sends the live summary until it is cancelled.
pub struct LiveSender {
    connector: Connector,
    hello: v1::Hello,
    live: watch::Receiver<v1::Live>,
    notes: mpsc::Sender<Note>,
    offset: [Arc<Series>; 2],
    answers: u64,
}

impl LiveSender {
    /// From the hub to the aggregator.
    pub fn new(
        connector: Connector,
        hello: v1::Hello,
        live: watch::Receiver<v1::Live>,
        notes: mpsc::Sender<Note>,
    ) -> Self {
        let offset = [
            Series::gauge("etcdmon_node_clock_offset_seconds", &[]),
            Series::gauge("etcdmon_node_clock_offset_error_seconds", &[]),
        ];
        Self { connector, hello, live, notes, offset, answers: 0 }
    }

    /// Connects, sends, and connects anew, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.stream(&mut backoff) => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(error = %ErrorChain(&error), "live stream ended");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
    }

    async fn stream(&mut self, backoff: &mut Backoff) -> Result<(), SendError> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let mut replies = in_time(self.open(&requests, receiver)).await?;
        let first = in_time(next(&mut replies)).await?;
        match first {
            live_reply::Message::Welcome(welcome) => check(&welcome)?,
            live_reply::Message::Pong(_) => return Err(SendError::NoWelcome),
        }
        backoff.reset();
        loop {
            tokio::select! {
                reply = next(&mut replies) => {
                    if let live_reply::Message::Pong(pong) = reply? {
                        self.note_offset(&pong);
                    }
                }
                changed = self.live.changed() => {
                    if changed.is_err() {
                        return Err(SendError::Closed);
                    }
                    let mut live = self.live.borrow_and_update().clone();
                    // Stamped on departure: the ping measures the network, not our queue.
                    let now = Reading::now();
                    live.sent_mono_ns = now.mono_ns;
                    live.wall_minus_mono_ns = now.wall_minus_mono_ns();
                    let request = v1::LiveRequest { message: Some(live_request::Message::Live(live)) };
                    if matches!(requests.try_send(request), Err(mpsc::error::TrySendError::Closed(_))) {
                        return Err(SendError::Closed);
                    }
                }
            }
        }
    }

    async fn open(
        &self,
        requests: &mpsc::Sender<v1::LiveRequest>,
        receiver: mpsc::Receiver<v1::LiveRequest>,
    ) -> Result<Streaming<v1::LiveReply>, SendError> {
        let mut client = self.connector.client().await?;
        let hello = live_request::Message::Hello(self.hello.clone());
        let greeting = v1::LiveRequest { message: Some(hello) };
        requests.send(greeting).await.map_err(|_closed| SendError::Closed)?;
        let response = client.live(ReceiverStream::new(receiver)).await;
        Ok(response.map_err(|status| SendError::Stream(Box::new(status)))?.into_inner())
    }

    /// How far this node's wall clock is behind the aggregator's, and how wrong that may be.
    fn note_offset(&mut self, pong: &v1::Pong) {
        self.answers += 1;
        if !(self.answers - 1).is_multiple_of(OFFSET_EVERY) {
            return;
        }
        let now = Reading::now();
        let Some((offset_ns, error_ns)) = offset(pong, now) else { return };
        let seconds = [offset_ns, error_ns].map(|ns| ns as f64 / 1e9);
        let values = self.offset.iter().cloned().zip(seconds).collect();
        let samples = Samples { process: None, mono_ns: now.mono_ns, values };
        let _hub_busy = self.notes.try_send(Note::Facts(vec![Fact::Samples(samples)]));
    }
}

/// (offset, error) in nanoseconds of the four timestamps of a ping that is answered at `now`; `None` for a pong that
/// can't be ours.
fn offset(pong: &v1::Pong, now: Reading) -> Option<(i64, i64)> {
    let sent_mono_ns = i64::try_from(pong.agent_sent_mono_ns).ok()?;
    let sent_wall_ns = sent_mono_ns.checked_add(now.wall_minus_mono_ns())?;
    let there = pong.received_wall_ns.checked_sub(sent_wall_ns)?;
    let back = pong.sent_wall_ns.checked_sub(now.wall_ns)?;
    let round_trip = there.checked_sub(back)?;
    (round_trip >= 0).then_some((there / 2 + back / 2, round_trip / 2))
}

async fn next(replies: &mut Streaming<v1::LiveReply>) -> Result<live_reply::Message, SendError> {
    loop {
        let reply = replies.message().await.map_err(|status| SendError::Stream(Box::new(status)))?;
        // A kind that this agent does not know is skipped.
        if let Some(message) = reply.ok_or(SendError::Closed)?.message {
            return Ok(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_timestamps_give_offset_and_error() {
        // This clock is 1,000 behind; 30 there, 10 to answer, 50 back.
        let now = Reading { mono_ns: 590, wall_ns: 10_590 };
        let pong =
            v1::Pong { number: 1, agent_sent_mono_ns: 500, received_wall_ns: 11_530, sent_wall_ns: 11_540 };
        assert_eq!(offset(&pong, now), Some((990, 40)));
    }

    #[test]
    fn a_pong_from_nowhere_yields_nothing() {
        let now = Reading { mono_ns: 590, wall_ns: 10_590 };
        let pong = |sent, received, back| v1::Pong {
            number: 1,
            agent_sent_mono_ns: sent,
            received_wall_ns: received,
            sent_wall_ns: back,
        };
        assert_eq!(offset(&pong(u64::MAX, 0, 0), now), None);
        assert_eq!(offset(&pong(0, i64::MIN, i64::MAX), now), None);
        assert_eq!(offset(&pong(600, 0, 0), now), None, "answered before it was sent");
    }
}
