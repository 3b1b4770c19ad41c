//! Whole streams over a real connection, some of them from agents of a later generation. No ClickHouse: what reaches the
//! store waits there.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use etcdmon_proto::v1::ingest_client::IngestClient;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::ingest::{LiveFact, Options, Service, StreamKind, serve};
use crate::store::{Client, ClusterNames, External, Store, Unstorable};

/// As a later generation might write a request: kinds and fields that we do not have.
#[derive(Clone, PartialEq, Message)]
struct FutureRequest {
    #[prost(message, optional, tag = "1")]
    hello: Option<FutureHello>,
    #[prost(message, optional, tag = "2")]
    batch: Option<v1::BatchEnvelope>,
    #[prost(string, optional, tag = "77")]
    other: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct FutureHello {
    #[prost(bytes = "vec", tag = "1")]
    agent_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    epoch: Vec<u8>,
    #[prost(uint32, tag = "3")]
    protocol_min: u32,
    #[prost(uint32, tag = "4")]
    protocol_max: u32,
    #[prost(string, tag = "900")]
    quantum_state: String,
}

/// A section as a later generation might have it: its kind is a number that we have no name for.
#[derive(Clone, PartialEq, Message)]
struct FutureSection {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "2")]
    rows: u32,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(string, tag = "55")]
    more: String,
}

#[derive(Clone, PartialEq, Message)]
struct FutureBatch {
    #[prost(bytes = "vec", tag = "1")]
    agent_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    boot_id: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    sections: Vec<FutureSection>,
    #[prost(uint64, tag = "99")]
    signature: u64,
}

/// Sends any message, understands `BatchReply`.
#[derive(Clone)]
struct Foreign<T>(PhantomData<T>);

impl<T: Message + Default + 'static> Codec for Foreign<T> {
    type Encode = T;
    type Decode = v1::BatchReply;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }
    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<T: Message> Encoder for Foreign<T> {
    type Item = T;
    type Error = tonic::Status;
    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        item.encode(buffer).map_err(|error| tonic::Status::internal(error.to_string()))
    }
}

impl<T> Decoder for Foreign<T> {
    type Item = v1::BatchReply;
    type Error = tonic::Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<v1::BatchReply>, tonic::Status> {
        v1::BatchReply::decode(buffer).map(Some).map_err(|error| tonic::Status::internal(error.to_string()))
    }
}

struct NoNames;

impl ClusterNames for NoNames {
    fn cluster_uuid(&self, _etcd_cluster_id: u64) -> uuid::Uuid {
        uuid::Uuid::nil()
    }
}

struct Bench {
    service: Service,
    store: Store,
    live: tokio::sync::mpsc::Receiver<LiveFact>,
    channel: Channel,
    _stop: tokio_util::sync::DropGuard,
}

async fn bench(live_room: usize) -> Bench {
    let stop = tokio_util::sync::CancellationToken::new();
    let nowhere = External { url: "http://127.0.0.1:9".to_owned(), ..External::default() };
    let (store, _task) =
        Store::start(Client::external(&nowhere, "none").unwrap(), Unstorable::default(), stop.clone());
    let (sender, live) = tokio::sync::mpsc::channel(live_room);
    let service =
        Service::new(store.clone(), std::sync::Arc::new(NoNames), sender, Options::default(), stop.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, service.clone(), None, stop.clone()));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Bench { service, store, live, channel, _stop: stop.drop_guard() }
}

type Sending<T> = tokio::sync::mpsc::Sender<T>;

impl Bench {
    async fn future(&self) -> (Sending<FutureRequest>, tonic::Streaming<v1::BatchReply>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/etcdmon.v1.Ingest/Batches");
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let replies = grpc
            .streaming(tonic::Request::new(stream), path, Foreign::<FutureRequest>(PhantomData))
            .await
            .unwrap();
        (sender, replies.into_inner())
    }

    async fn live(&self) -> (Sending<v1::LiveRequest>, tonic::Streaming<v1::LiveReply>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let greeting = v1::live_request::Message::Hello(hello());
        sender.send(v1::LiveRequest { message: Some(greeting) }).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let replies = IngestClient::new(self.channel.clone()).live(stream).await.unwrap();
        (sender, replies.into_inner())
    }
}

fn future_hello(protocol_min: u32, protocol_max: u32) -> FutureRequest {
    let hello = FutureHello {
        agent_id: vec![1; 16],
        epoch: vec![2; 16],
        protocol_min,
        protocol_max,
        quantum_state: "superposed".to_owned(),
    };
    FutureRequest { hello: Some(hello), ..FutureRequest::default() }
}

fn batch(payload: Vec<u8>) -> FutureRequest {
    let envelope = v1::BatchEnvelope {
        epoch: vec![2; 16],
        sequence: 1,
        payload_crc32c: crc32c::crc32c(&payload),
        payload,
        maybe_sent_before: false,
    };
    FutureRequest { batch: Some(envelope), ..FutureRequest::default() }
}

async fn next(replies: &mut tonic::Streaming<v1::BatchReply>) -> v1::batch_reply::Message {
    replies.message().await.unwrap().unwrap().message.unwrap()
}

#[tokio::test]
async fn an_agent_of_the_next_generation_is_served_and_what_is_unknown_is_counted_and_acknowledged() {
    let bench = bench(8).await;
    let (requests, mut replies) = bench.future().await;
    requests.send(future_hello(1, 2)).await.unwrap();
    let v1::batch_reply::Message::Welcome(welcome) = next(&mut replies).await else { panic!("no welcome") };
    assert_eq!(welcome.protocol, 1, "the highest that both speak");
    requests
        .send(FutureRequest { other: Some("a kind of request".to_owned()), ..FutureRequest::default() })
        .await
        .unwrap();
    let section = FutureSection { kind: 4_711, rows: 17, payload: vec![9; 40], more: "later".to_owned() };
    let future =
        FutureBatch { agent_id: vec![1; 16], boot_id: vec![3; 16], sections: vec![section], signature: 8 };
    requests.send(batch(future.encode_to_vec())).await.unwrap();
    let v1::batch_reply::Message::Acknowledgement(done) = next(&mut replies).await else { panic!("refused") };
    assert_eq!((done.sequence, done.unknown_rows), (1, 17));
    let counters = bench.service.counters();
    assert_eq!(counters.unknown_requests.load(Ordering::Relaxed), 1);
    assert_eq!(counters.unknown_rows.load(Ordering::Relaxed), 17);
}

#[tokio::test]
async fn an_agent_without_a_common_generation_is_told_which_side_to_upgrade() {
    let bench = bench(8).await;
    for (range, advice) in [((2, 3), "upgrade the aggregator"), ((0, 0), "upgrade the agent")] {
        let (requests, mut replies) = bench.future().await;
        requests.send(future_hello(range.0, range.1)).await.unwrap();
        let status = replies.message().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().ends_with(advice), "{}", status.message());
    }
}

#[tokio::test]
async fn the_pace_follows_the_stores_memory_while_the_stream_runs() {
    let bench = bench(8).await;
    let (requests, mut replies) = bench.future().await;
    requests.send(future_hello(1, 1)).await.unwrap();
    let v1::batch_reply::Message::Welcome(welcome) = next(&mut replies).await else { panic!("no welcome") };
    let empty = FutureBatch { agent_id: vec![1; 16], boot_id: vec![3; 16], ..FutureBatch::default() };
    let mut told = Vec::new();
    for bytes_waiting in [200 << 20, 80 << 20, 0] {
        bench.store.counters().bytes_waiting.store(bytes_waiting, Ordering::Relaxed);
        requests.send(batch(empty.encode_to_vec())).await.unwrap();
        // Until the acknowledgement.
        while let v1::batch_reply::Message::Pace(pace) = next(&mut replies).await {
            told.push((pace.batch_interval_ms, pace.window_batches));
        }
    }
    requests.send(batch(empty.encode_to_vec())).await.unwrap();
    let normal = (welcome.batch_interval_ms, welcome.window_batches);
    assert_eq!(told, [(4 * normal.0, 1), (2 * normal.0, normal.1 / 2), normal]);
}

#[tokio::test]
async fn an_agent_is_sent_elsewhere_on_a_standing_stream_and_on_a_new_one() {
    let bench = bench(8).await;
    let (_requests, mut replies) = bench.live().await;
    let welcome = replies.message().await.unwrap().unwrap().message.unwrap();
    assert!(matches!(welcome, v1::live_reply::Message::Welcome(_)));
    let redirect =
        v1::Redirect { url: "http://127.0.0.1:1".to_owned(), reason: "owner".to_owned(), for_seconds: 60 };
    let redirects = bench.service.redirects();
    redirects.set(uuid::Uuid::from_bytes([1; 16]), StreamKind::Live, Some(redirect.clone()));
    redirects.set(uuid::Uuid::from_bytes([8; 16]), StreamKind::Live, None);
    let told = replies.message().await.unwrap().unwrap().message;
    assert_eq!(told, Some(v1::live_reply::Message::Redirect(redirect.clone())));
    let (_requests, mut replies) = bench.live().await;
    replies.message().await.unwrap();
    let told = replies.message().await.unwrap().unwrap().message;
    assert_eq!(told, Some(v1::live_reply::Message::Redirect(redirect)));
}

#[tokio::test]
async fn a_late_summary_that_finds_the_model_behind_is_not_answered() {
    let mut bench = bench(4).await;
    let (requests, mut replies) = bench.live().await;
    replies.message().await.unwrap();
    let send = |number, late| {
        let live = v1::Live { epoch: vec![2; 16], number, late, ..v1::Live::default() };
        v1::LiveRequest { message: Some(v1::live_request::Message::Live(live)) }
    };
    for (number, late) in [(10, false), (1, true), (2, true), (3, true), (11, false)] {
        requests.send(send(number, late)).await.unwrap();
    }
    let mut answered = Vec::new();
    while answered.last() != Some(&11) {
        match replies.message().await.unwrap().unwrap().message {
            Some(v1::live_reply::Message::Pong(pong)) => answered.push(pong.number),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answered, [10, 1, 2, 11], "room for four, half of it for what is late");
    assert_eq!(bench.live.recv().await.unwrap().live.number, 10);
}
