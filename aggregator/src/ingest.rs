//! The streams from the agents.
//!
//! *Batches*: checked, decoded, handed to the store, acknowledged once every row is durable; what can never be stored is
//! refused with its reason and counted by the agent as dropped. *Live*: answered with a pong at once and handed to the
//! cluster model; nothing of it is stored, and a message that finds no room is dropped and counted, because the next one
//! carries all it said.
//!
//! Everything that comes from the port is foreign: connections that do not begin as HTTP/2 are closed, messages are
//! bounded in size, streams in number, an agent's batches by its window, and all waiting batches by the store's memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use etcdmon_proto::v1::ingest_server::{Ingest, IngestServer};
use etcdmon_proto::{MAX_MESSAGE_BYTES, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::store::{ClusterNames, Store};
use steer::{Level, Pressure};

mod admission;
mod batches;
mod counters;
mod live;
mod peer;
mod refusals;
mod serve;
mod steer;

pub use admission::HelloFacts;
pub use counters::Counters;
use peer::Pass;
pub use peer::{Door, Peer};
pub use serve::{TlsPort, serve};
pub use steer::{Redirects, StreamKind};

/// Most streams of all agents together.
const MAX_STREAMS: usize = 8_192;

/// Batches that are decoded at the same time.
const DECODERS: usize = 4;

/// Replies that may wait for an agent that does not read them.
const REPLIES: usize = 64;

/// How the aggregator sets the pace.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long an agent collects before it closes a batch.
    pub batch_interval: Duration,
    /// How many unacknowledged batches an agent may have in flight.
    pub window_batches: u32,
    /// What streams need to begin.
    pub door: Door,
    /// What ingest counts.
    pub counters: Arc<Counters>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batch_interval: Duration::from_secs(2),
            window_batches: 8,
            door: Door::Open,
            counters: Arc::default(),
        }
    }
}

/// A live message with its sender and the time of its arrival.
#[derive(Clone, Debug)]
pub struct LiveFact {
    /// The agent.
    pub agent: Uuid,
    /// What it said of itself when the stream began.
    pub hello: Arc<HelloFacts>,
    /// The message.
    pub live: v1::Live,
    /// Arrival on the wall clock.
    pub received_at: DateTime<Utc>,
    /// Arrival on the monotonic clock.
    pub received: Instant,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    names: Arc<dyn ClusterNames>,
    live: mpsc::Sender<LiveFact>,
    options: Options,
    pressure: Pressure,
    redirects: Arc<Redirects>,
    counters: Arc<Counters>,
    streams: Arc<Semaphore>,
    decoders: Semaphore,
    stop: CancellationToken,
}

impl Shared {
    /// How hard the store is pressed now.
    fn level(&self) -> Level {
        let (used, whole) = self.store.memory();
        self.pressure.note(used, whole)
    }
}

impl Service {
    /// A service that stores into `store` and hands live messages to `live`. `stop` ends every stream.
    pub fn new(
        store: Store,
        names: Arc<dyn ClusterNames>,
        live: mpsc::Sender<LiveFact>,
        options: Options,
        stop: CancellationToken,
    ) -> Self {
        let counters = Arc::clone(&options.counters);
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        let decoders = Semaphore::new(DECODERS);
        let shared = Shared {
            store,
            names,
            live,
            options,
            pressure: Pressure::default(),
            redirects: Arc::default(),
            counters,
            streams,
            decoders,
            stop,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What ingest counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Where agents are sent to.
    pub fn redirects(&self) -> Arc<Redirects> {
        self.shared.redirects.clone()
    }

    /// As a gRPC service with its limits.
    pub fn into_server(self) -> IngestServer<Self> {
        IngestServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Zstd)
    }

    /// A stream of somebody who may have one.
    fn admit<T>(&self, request: &Request<T>) -> Result<Pass, Status> {
        let peer = request.extensions().get::<Peer>();
        self.shared.options.door.admit(peer).inspect_err(|status| {
            Counters::add(&self.shared.counters.handshakes_refused, 1);
            let agent = peer.and_then(|peer| peer.certificate.as_ref()?.agent).map(|agent| agent.to_string());
            let peer = peer.map(|peer| peer.address.to_string());
            tracing::warn!(peer, agent, reason = status.message(), "stream refused");
        })
    }

    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = self.shared.streams.clone().try_acquire_owned();
        permit.map_err(|_| Status::resource_exhausted("too many streams"))
    }
}

#[tonic::async_trait]
impl Ingest for Service {
    type BatchesStream = ReceiverStream<Result<v1::BatchReply, Status>>;
    type LiveStream = ReceiverStream<Result<v1::LiveReply, Status>>;

    async fn batches(
        &self,
        request: Request<Streaming<v1::BatchRequest>>,
    ) -> Result<Response<Self::BatchesStream>, Status> {
        let pass = self.admit(&request)?;
        let permit = self.stream_permit()?;
        let (replies, stream) = mpsc::channel(REPLIES);
        tokio::spawn(batches::converse(self.shared.clone(), pass, request.into_inner(), replies, permit));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn live(
        &self,
        request: Request<Streaming<v1::LiveRequest>>,
    ) -> Result<Response<Self::LiveStream>, Status> {
        let pass = self.admit(&request)?;
        let permit = self.stream_permit()?;
        let (replies, stream) = mpsc::channel(REPLIES);
        tokio::spawn(live::converse(self.shared.clone(), pass, request.into_inner(), replies, permit));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests;
