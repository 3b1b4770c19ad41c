//! The live stream: the newest summary once a second. A summary that can't be sent at once is replaced by the next, and
//! follows late: see [`late`](super::late).

use etcdmon_proto::v1::{self, live_reply, live_request};
use etcdmon_service::logging::ErrorChain;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::late::Undelivered;
use super::link::Link;
use super::{SendError, check, in_time};
use crate::clock::Reading;
use crate::connect::Connector;
use crate::fact::{Fact, Samples, Series};
use crate::hub::Note;
use crate::telemetry::Telemetry;

/// Summaries that may wait for the network.
const QUEUE: usize = 2;

/// Every so many answers yield a sample of the clock's offset.
const OFFSET_EVERY: u64 = 10;

/// Pause between two late summaries: ten minutes of them take half a minute, and a hundred agents that come back together do
/// not press the aggregator.
const LATE_EVERY: Duration = Duration::from_millis(50);

/// Where the hub publishes the live summary.
#[derive(Debug)]
pub struct Outlet {
    newest: watch::Sender<v1::Live>,
    undelivered: Arc<Mutex<Undelivered>>,
}

/// Where the sender finds it.
#[derive(Debug)]
pub struct Inlet {
    newest: watch::Receiver<v1::Live>,
    undelivered: Arc<Mutex<Undelivered>>,
}

/// From the hub to the live stream.
pub fn outlet() -> (Outlet, Inlet) {
    let (sender, receiver) = watch::channel(v1::Live::default());
    let undelivered = Arc::<Mutex<Undelivered>>::default();
    (
        Outlet { newest: sender, undelivered: Arc::clone(&undelivered) },
        Inlet { newest: receiver, undelivered },
    )
}

impl Outlet {
    /// Publishes the summary of now.
    pub fn publish(&self, live: v1::Live) {
        lock(&self.undelivered).keep(&live);
        self.newest.send_replace(live);
    }
}

impl Inlet {
    /// The newest summary.
    pub fn newest(&mut self) -> v1::Live {
        self.newest.borrow_and_update().clone()
    }
}

/// Nothing that could panic runs while it is held.
fn lock(undelivered: &Mutex<Undelivered>) -> MutexGuard<'_, Undelivered> {
    undelivered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the live summary until it is cancelled.
pub struct LiveSender {
    link: Link,
    hello: v1::Hello,
    live: Inlet,
    notes: mpsc::Sender<Note>,
    telemetry: Arc<Telemetry>,
    offset: [Arc<Series>; 2],
    answers: u64,
}

impl LiveSender {
    /// From the hub to the aggregator.
    pub fn new(
        connector: Connector,
        hello: v1::Hello,
        live: Inlet,
        notes: mpsc::Sender<Note>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let offset = [
            Series::gauge("etcdmon_node_clock_offset_seconds", &[]),
            Series::gauge("etcdmon_node_clock_offset_error_seconds", &[]),
        ];
        let link = Link::new("live", connector, Arc::clone(&telemetry));
        Self { link, hello, live, notes, telemetry, offset, answers: 0 }
    }

    /// Connects, sends, and connects anew, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.stream() => ended,
            };
            lock(&self.live.undelivered).stream_ended();
            let Err(error) = ended;
            tracing::debug!(error = %ErrorChain(&error), "live stream ended");
            let pause = self.link.ended(&error);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn stream(&mut self) -> Result<Infallible, SendError> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let mut replies = in_time(self.open(&requests, receiver)).await?;
        match in_time(next(&mut replies)).await? {
            live_reply::Message::Welcome(welcome) => check(&welcome)?,
            live_reply::Message::Redirect(redirect) => return Err(self.left_for(&redirect)),
            live_reply::Message::Pong(_) => return Err(SendError::NoWelcome),
        }
        self.link.stands();
        let mut late_ticks = tokio::time::interval(LATE_EVERY);
        late_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Late ones wait until the aggregator has answered the newest.
        let mut has_answered = false;
        loop {
            let is_late_due = has_answered && lock(&self.live.undelivered).is_waiting();
            tokio::select! {
                reply = next(&mut replies) => match reply? {
                    live_reply::Message::Pong(pong) => {
                        self.answered(&pong);
                        has_answered = true;
                    }
                    live_reply::Message::Redirect(redirect) if self.link.redirect(&redirect) => {
                        return Err(SendError::Redirected);
                    }
                    // A second Welcome says nothing new, a redirect that is not followed changes nothing.
                    live_reply::Message::Redirect(_) | live_reply::Message::Welcome(_) => {}
                },
                changed = self.live.newest.changed() => {
                    if changed.is_err() {
                        return Err(SendError::Closed);
                    }
                    self.send_newest(&requests)?;
                }
                _ = late_ticks.tick(), if is_late_due => self.send_late(&requests)?,
            }
        }
    }

    /// A redirect in place of a welcome: there is no stream to stay on.
    fn left_for(&mut self, redirect: &v1::Redirect) -> SendError {
        if self.link.redirect(redirect) { SendError::Redirected } else { SendError::NoWelcome }
    }

    fn send_newest(&mut self, requests: &mpsc::Sender<v1::LiveRequest>) -> Result<(), SendError> {
        let mut live = self.live.newest();
        // Stamped on departure: the ping measures the network, not our queue.
        let now = Reading::now();
        live.sent_mono_ns = now.mono_ns;
        live.wall_minus_mono_ns = now.wall_minus_mono_ns();
        let number = live.number;
        match requests.try_send(request(live)) {
            Ok(()) => lock(&self.live.undelivered).sent_in_time(number, now.mono_ns),
            // It follows late.
            Err(mpsc::error::TrySendError::Full(_)) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(SendError::Closed),
        }
        Ok(())
    }

    /// Only into a queue that is empty: what is late must not delay what is not.
    fn send_late(&self, requests: &mpsc::Sender<v1::LiveRequest>) -> Result<(), SendError> {
        let mut undelivered = lock(&self.live.undelivered);
        self.telemetry.live_forgotten.inc_by(undelivered.take_forgotten());
        if requests.capacity() < QUEUE {
            return Ok(());
        }
        let now = Reading::now();
        let Some(live) = undelivered.next(now.mono_ns, now.wall_minus_mono_ns()) else { return Ok(()) };
        self.telemetry.live_late.inc();
        requests.try_send(request(live)).map_err(|_closed| SendError::Closed)
    }

    fn answered(&mut self, pong: &v1::Pong) {
        // The summary is stamped with its departure only when it goes in time.
        if lock(&self.live.undelivered).answered(pong.number) {
            self.note_offset(pong);
        }
    }

    async fn open(
        &mut self,
        requests: &mpsc::Sender<v1::LiveRequest>,
        receiver: mpsc::Receiver<v1::LiveRequest>,
    ) -> Result<Streaming<v1::LiveReply>, SendError> {
        let mut client = self.link.attempt().client().await?;
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

const fn request(live: v1::Live) -> v1::LiveRequest {
    v1::LiveRequest { message: Some(live_request::Message::Live(live)) }
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
