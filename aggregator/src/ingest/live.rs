//! One agent's live stream.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use etcdmon_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Status, Streaming};

use super::admission::{HelloFacts, admit};
use super::peer::Pass;
use super::steer::{StreamKind, milliseconds};
use super::{Counters, LiveFact, Shared};

type Replies = mpsc::Sender<Result<v1::LiveReply, Status>>;

/// Talks with one agent until either side ends.
pub async fn converse(
    shared: Arc<Shared>,
    pass: Pass,
    mut stream: Streaming<v1::LiveRequest>,
    replies: Replies,
    _permit: OwnedSemaphorePermit,
) {
    let hello = match admit(&mut stream, &pass, &shared.stop).await {
        Ok(hello) => Arc::new(hello),
        Err(status) => {
            Counters::add(&shared.counters.handshakes_refused, 1);
            tracing::warn!(reason = status.message(), "live stream refused");
            // An agent that is gone needs no reason.
            let _ = replies.send(Err(status)).await;
            return;
        }
    };
    Counters::add(&shared.counters.streams, 1);
    tracing::info!(agent = %hello.agent, node = hello.node, version = hello.version, "live stream opened");
    // What is under way when the pass ends is given up: a revoked agent writes nothing more.
    let end = tokio::select! {
        end = exchange(&shared, &hello, &mut stream, &replies) => end,
        end = pass.ended() => end,
    };
    Counters::subtract(&shared.counters.streams, 1);
    tracing::info!(agent = %hello.agent, reason = end.message(), "live stream ended");
    let _ = replies.send(Err(end)).await;
}

async fn exchange(
    shared: &Shared,
    hello: &Arc<HelloFacts>,
    stream: &mut Streaming<v1::LiveRequest>,
    replies: &Replies,
) -> Status {
    let welcome = v1::Welcome {
        protocol: hello.protocol,
        aggregator_version: env!("CARGO_PKG_VERSION").to_owned(),
        batch_interval_ms: milliseconds(shared.options.batch_interval),
        window_batches: shared.options.window_batches,
    };
    let mut redirects = shared.redirects.watch();
    let mut message = Some(v1::live_reply::Message::Welcome(welcome));
    loop {
        if message.is_some() && replies.send(Ok(v1::LiveReply { message })).await.is_err() {
            return Status::cancelled("agent went away");
        }
        message = None;
        let received = tokio::select! {
            () = shared.stop.cancelled() => return Status::unavailable("aggregator is stopping"),
            Ok(()) = redirects.changed() => {
                let redirect = shared.redirects.of(hello.agent, StreamKind::Live);
                message = redirect.map(v1::live_reply::Message::Redirect);
                continue;
            }
            received = stream.message() => received,
        };
        let live = match received.map(|received| received.map(|received| received.message)) {
            Ok(Some(Some(v1::live_request::Message::Live(live)))) => live,
            Ok(Some(Some(v1::live_request::Message::Hello(_)))) => {
                return Status::invalid_argument("second hello");
            }
            Ok(Some(None)) => {
                // Of a later generation.
                Counters::add(&shared.counters.unknown_requests, 1);
                continue;
            }
            Ok(None) => return Status::ok("agent is done"),
            Err(status) => return status,
        };
        message = accept(shared, hello, live).map(v1::live_reply::Message::Pong);
    }
}

/// Hands the message on and gives the answer to it. A late one without room has none: it comes again.
fn accept(shared: &Shared, hello: &Arc<HelloFacts>, live: v1::Live) -> Option<v1::Pong> {
    let (received, received_at) = (Instant::now(), Utc::now());
    if live.late && shared.live.capacity() < shared.live.max_capacity() / 2 {
        Counters::add(&shared.counters.live_late_put_off, 1);
        return None;
    }
    Counters::add(&shared.counters.live_late, u64::from(live.late));
    Counters::add(&shared.counters.live, 1);
    let (number, agent_sent_mono_ns) = (live.number, live.sent_mono_ns);
    let fact = LiveFact { agent: hello.agent, hello: hello.clone(), live, received_at, received };
    if shared.live.try_send(fact).is_err() {
        Counters::add(&shared.counters.live_dropped, 1);
    }
    Some(v1::Pong {
        number,
        agent_sent_mono_ns,
        received_wall_ns: nanoseconds(received_at),
        sent_wall_ns: nanoseconds(Utc::now()),
    })
}

fn nanoseconds(time: DateTime<Utc>) -> i64 {
    time.timestamp_nanos_opt().unwrap_or(i64::MAX)
}
