//! An aggregator that takes batches, remembers them, and answers as it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use etcdmon_proto::v1::{self, batch_reply, batch_request, live_reply, live_request};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// (epoch, sequence).
pub type Name = (Vec<u8>, u64);

/// What the aggregator does with the next batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Takes and acknowledges them.
    Acknowledge,
    /// Takes them and says nothing.
    Silence,
    /// Refuses them.
    Refuse,
    /// Takes one and breaks the stream off without an answer.
    Break,
}

#[derive(Debug, Default)]
pub struct Seen {
    /// Batches that were taken, by name.
    pub batches: BTreeMap<Name, v1::BatchEnvelope>,
    /// Every arrival, resends included: name, maybe_sent_before.
    pub arrivals: Vec<(Name, bool)>,
    /// The newest live summary.
    pub live: Option<v1::Live>,
    pub live_count: u64,
    /// Every summary's number, and whether it came late.
    pub live_numbers: Vec<(u64, bool)>,
    /// The newest late summary.
    pub late: Option<v1::Live>,
    pub refused: u64,
    pub hellos: Vec<v1::Hello>,
}

#[derive(Debug, Clone)]
pub struct Aggregator {
    pub seen: Arc<Mutex<Seen>>,
    pub answer: Arc<Mutex<Answer>>,
    /// Said on each stream before the next reply. `None` = a kind that the agent does not know.
    pub say_on_batches: Arc<Mutex<Vec<Option<batch_reply::Message>>>>,
    pub say_on_live: Arc<Mutex<Vec<Option<live_reply::Message>>>>,
    interval_ms: u32,
}

/// A running one; stops when dropped.
#[derive(Debug)]
pub struct Running {
    pub aggregator: Aggregator,
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Default for Aggregator {
    fn default() -> Self {
        Self {
            seen: Arc::default(),
            answer: Arc::new(Mutex::new(Answer::Acknowledge)),
            say_on_batches: Arc::default(),
            say_on_live: Arc::default(),
            interval_ms: 1000,
        }
    }
}

impl Aggregator {
    /// Serves on `address` until dropped.
    pub fn serve(&self, address: SocketAddr) -> Running {
        self.serve_with(address, None)
    }

    /// Serves on a port of its own, with TLS.
    pub fn start_with_tls(tls: tonic::transport::ServerTlsConfig) -> Running {
        Self::default().serve_with("127.0.0.1:0".parse().unwrap(), Some(tls))
    }

    fn serve_with(&self, address: SocketAddr, tls: Option<tonic::transport::ServerTlsConfig>) -> Running {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let service = v1::ingest_server::IngestServer::new(self.clone())
            .max_decoding_message_size(etcdmon_proto::MAX_MESSAGE_BYTES);
        runtime.spawn(async move {
            let mut server = tonic::transport::Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).unwrap();
            }
            server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Running { aggregator: self.clone(), address, runtime: Some(runtime) }
    }

    pub fn start() -> Running {
        Self::default().serve("127.0.0.1:0".parse().unwrap())
    }

    pub fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// All batches, decoded.
    pub fn batches(&self) -> Vec<v1::Batch> {
        let seen = self.seen.lock().unwrap();
        seen.batches
            .values()
            .map(|envelope| v1::Batch::decode(envelope.payload.as_slice()).unwrap())
            .collect()
    }

    /// Syncs in all histograms, by class name.
    pub fn syncs(&self) -> BTreeMap<&'static str, u64> {
        let mut syncs = BTreeMap::new();
        for histograms in sections::<v1::SyncHistograms>(&self.batches(), v1::SectionKind::SyncHistogram) {
            let mut counts = histograms.bucket_count.iter();
            for (class, length) in histograms.file_class.iter().zip(&histograms.bucket_len) {
                let sum: u64 = counts.by_ref().take(*length as usize).sum();
                *syncs.entry(v1::FileClass::try_from(*class).unwrap().name()).or_default() += sum;
            }
        }
        syncs
    }

    /// Syncs that etcd's own WAL histogram counts.
    pub fn wal_syncs(&self) -> u64 {
        let syncs = self.syncs();
        syncs.get("wal").unwrap_or(&0) + syncs.get("directory").unwrap_or(&0)
    }

    /// Rows of the ledger: (kind, stream, reason, count, blind from, blind to).
    pub fn ledger(&self) -> Vec<(v1::LedgerKind, String, String, u64, i64, i64)> {
        let mut rows = Vec::new();
        for ledger in sections::<v1::Ledger>(&self.batches(), v1::SectionKind::Ledger) {
            for row in 0..ledger.kind.len() {
                rows.push((
                    v1::LedgerKind::try_from(ledger.kind[row]).unwrap(),
                    ledger.stream[row].clone(),
                    ledger.reason[row].clone(),
                    ledger.count[row],
                    ledger.blind_from_ns[row],
                    ledger.blind_to_ns[row],
                ));
            }
        }
        rows
    }

    /// Sum of the ledger for a stream.
    pub fn account(&self, kind: v1::LedgerKind, stream: &str) -> u64 {
        self.ledger().iter().filter(|row| row.0 == kind && row.1 == stream).map(|row| row.3).sum()
    }

    /// Names of all events.
    pub fn events(&self) -> Vec<String> {
        let events = sections::<v1::Events>(&self.batches(), v1::SectionKind::Event);
        events.into_iter().flat_map(|events| events.kind).collect()
    }

    /// Kind and details of all events.
    pub fn told(&self) -> Vec<(String, serde_json::Value)> {
        let events = sections::<v1::Events>(&self.batches(), v1::SectionKind::Event);
        let rows = events.into_iter().flat_map(|events| events.kind.into_iter().zip(events.details_json));
        rows.map(|(kind, details)| (kind, serde_json::from_str(&details).unwrap())).collect()
    }

    pub fn live(&self) -> Option<v1::Live> {
        self.seen.lock().unwrap().live.clone()
    }
}

/// All sections of a kind, decoded.
pub fn sections<M: Message + Default>(batches: &[v1::Batch], kind: v1::SectionKind) -> Vec<M> {
    let of_kind = batches.iter().flat_map(|batch| &batch.sections).filter(|section| section.kind() == kind);
    of_kind.map(|section| M::decode(section.payload.as_slice()).unwrap()).collect()
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::ingest_server::Ingest for Aggregator {
    type BatchesStream = Replies<v1::BatchReply>;
    type LiveStream = Replies<v1::LiveReply>;

    async fn batches(
        &self,
        request: Request<Streaming<v1::BatchRequest>>,
    ) -> Result<Response<Self::BatchesStream>, Status> {
        let mut requests = request.into_inner();
        let (replies, receiver) = mpsc::channel(16);
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let reply = match request.message {
                    Some(batch_request::Message::Hello(hello)) => {
                        this.seen.lock().unwrap().hellos.push(hello);
                        Some(batch_reply::Message::Welcome(this.welcome()))
                    }
                    Some(batch_request::Message::Batch(envelope)) => match this.take(envelope) {
                        Ok(reply) => reply,
                        Err(status) => {
                            let _ = replies.send(Err(status)).await;
                            return;
                        }
                    },
                    None => None,
                };
                let said = std::mem::take(&mut *this.say_on_batches.lock().unwrap());
                for message in said {
                    let _ = replies.send(Ok(v1::BatchReply { message })).await;
                }
                if let Some(message) = reply {
                    let _ = replies.send(Ok(v1::BatchReply { message: Some(message) })).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn live(
        &self,
        request: Request<Streaming<v1::LiveRequest>>,
    ) -> Result<Response<Self::LiveStream>, Status> {
        let mut requests = request.into_inner();
        let (replies, receiver) = mpsc::channel(16);
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let message = match request.message {
                    Some(live_request::Message::Hello(_)) => live_reply::Message::Welcome(this.welcome()),
                    Some(live_request::Message::Live(live)) => {
                        let wall = i64::try_from(live.sent_mono_ns).unwrap() + live.wall_minus_mono_ns;
                        let pong = v1::Pong {
                            number: live.number,
                            agent_sent_mono_ns: live.sent_mono_ns,
                            received_wall_ns: wall,
                            sent_wall_ns: wall,
                        };
                        let mut seen = this.seen.lock().unwrap();
                        seen.live_numbers.push((live.number, live.late));
                        if live.late {
                            seen.late = Some(live);
                        } else {
                            seen.live = Some(live);
                            seen.live_count += 1;
                        }
                        live_reply::Message::Pong(pong)
                    }
                    None => continue,
                };
                let said = std::mem::take(&mut *this.say_on_live.lock().unwrap());
                for message in said {
                    let _ = replies.send(Ok(v1::LiveReply { message })).await;
                }
                let _ = replies.send(Ok(v1::LiveReply { message: Some(message) })).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Aggregator {
    fn welcome(&self) -> v1::Welcome {
        v1::Welcome {
            protocol: etcdmon_proto::PROTOCOL,
            aggregator_version: "test".to_owned(),
            batch_interval_ms: self.interval_ms,
            window_batches: 4,
        }
    }

    fn take(&self, envelope: v1::BatchEnvelope) -> Result<Option<batch_reply::Message>, Status> {
        assert_eq!(crc32c::crc32c(&envelope.payload), envelope.payload_crc32c);
        let (epoch, sequence) = (envelope.epoch.clone(), envelope.sequence);
        let name = (epoch.clone(), sequence);
        let answer = *self.answer.lock().unwrap();
        let mut seen = self.seen.lock().unwrap();
        seen.arrivals.push((name.clone(), envelope.maybe_sent_before));
        if answer == Answer::Refuse {
            seen.refused += 1;
            let refusal = v1::Refusal { epoch, sequence, reason: "test".to_owned() };
            return Ok(Some(batch_reply::Message::Refusal(refusal)));
        }
        if let Some(known) = seen.batches.get(&name) {
            assert_eq!(known.payload, envelope.payload, "a resend must be byte-identical");
            assert!(envelope.maybe_sent_before, "a resend must say so");
        }
        seen.batches.insert(name, envelope);
        match answer {
            Answer::Acknowledge => {
                let acknowledgement = v1::Acknowledgement { epoch, sequence, unknown_rows: 0 };
                Ok(Some(batch_reply::Message::Acknowledgement(acknowledgement)))
            }
            Answer::Break => Err(Status::unavailable("test")),
            Answer::Silence | Answer::Refuse => Ok(None),
        }
    }
}
