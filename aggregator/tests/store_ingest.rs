//! Agents' streams over real gRPC: what is acknowledged is durable, what is refused says why, garbage harms nobody
//! (S10).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcdmon_aggregator::ingest::{LiveFact, Options, Service, serve};
use etcdmon_proto::v1::ingest_client::IngestClient;
use etcdmon_proto::v1::{self, batch_reply, batch_request, live_reply, live_request};
use prost::Message;
use support::{Agent, Engine, NOON, Names, engine, eventually, store, stored_and_doubled};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

struct Ingest {
    address: SocketAddr,
    service: Service,
    live: mpsc::Receiver<LiveFact>,
    stop: CancellationToken,
}

async fn ingest(engine: &Engine) -> Ingest {
    let (store, stop) = store(&engine.client("etcdmon"));
    let (live_in, live) = mpsc::channel(4);
    let service = Service::new(store, Arc::new(Names), live_in, Options::default(), stop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = serve(listener, service.clone(), None, stop.clone());
    tokio::spawn(async move { served.await.unwrap() });
    Ingest { address, service, live, stop }
}

impl Ingest {
    async fn connect(&self) -> IngestClient<Channel> {
        IngestClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    fn count(&self, counter: impl Fn(&etcdmon_aggregator::ingest::Counters) -> &AtomicU64) -> u64 {
        counter(&self.service.counters()).load(Ordering::Relaxed)
    }
}

fn hello(agent: &Agent) -> v1::Hello {
    v1::Hello {
        agent_id: agent.id.as_bytes().to_vec(),
        epoch: agent.epoch.as_bytes().to_vec(),
        protocol_min: 1,
        protocol_max: 1,
        agent_version: "test".to_owned(),
        node_name: "node".to_owned(),
        boot_id: vec![3; 16],
        ..Default::default()
    }
}

struct Batches {
    requests: mpsc::Sender<v1::BatchRequest>,
    replies: Streaming<v1::BatchReply>,
}

async fn batches(ingest: &Ingest, first: batch_request::Message) -> Result<Batches, Status> {
    let (requests, stream) = mpsc::channel(64);
    requests.send(v1::BatchRequest { message: Some(first) }).await.unwrap();
    let replies = ingest.connect().await.batches(ReceiverStream::new(stream)).await?.into_inner();
    Ok(Batches { requests, replies })
}

impl Batches {
    async fn send(&self, message: v1::BatchEnvelope) {
        let message = Some(batch_request::Message::Batch(message));
        self.requests.send(v1::BatchRequest { message }).await.unwrap();
    }

    async fn reply(&mut self) -> Result<batch_reply::Message, Status> {
        let reply =
            tokio::time::timeout(Duration::from_secs(30), self.replies.message()).await.expect("a reply");
        Ok(reply?.ok_or_else(|| Status::ok("end"))?.message.unwrap())
    }
}

fn envelope(agent: &mut Agent, rows: u32) -> v1::BatchEnvelope {
    let (id, payload) = agent.batch(rows, NOON);
    v1::BatchEnvelope {
        epoch: id.epoch.as_bytes().to_vec(),
        sequence: id.sequence,
        payload_crc32c: crc32c::crc32c(&payload),
        payload,
        maybe_sent_before: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_acknowledged_when_durable_and_refused_with_the_reason() {
    let Some(engine) = engine().await else { return };
    let ingest = ingest(&engine).await;
    let client = engine.client("etcdmon");
    let mut agent = Agent::new();
    let mut stream = batches(&ingest, batch_request::Message::Hello(hello(&agent))).await.unwrap();
    let batch_reply::Message::Welcome(welcome) = stream.reply().await.unwrap() else { panic!("no welcome") };
    assert_eq!((welcome.protocol, welcome.batch_interval_ms, welcome.window_batches), (1, 2_000, 8));

    let good = envelope(&mut agent, 30);
    stream.send(good.clone()).await;
    let batch_reply::Message::Acknowledgement(acknowledged) = stream.reply().await.unwrap() else { panic!() };
    assert_eq!((acknowledged.sequence, acknowledged.unknown_rows), (1, 0));
    assert_eq!(stored_and_doubled(&client).await, (7 * 30, 0), "acknowledged before it was stored");

    let mut unknown = v1::Batch::decode(good.payload.as_slice()).unwrap();
    unknown.sections = vec![v1::Section { kind: 99, rows: 5, payload: vec![1] }];
    let payload = unknown.encode_to_vec();
    let crc = crc32c::crc32c(&payload);
    stream.send(v1::BatchEnvelope { sequence: 2, payload, payload_crc32c: crc, ..good.clone() }).await;
    let batch_reply::Message::Acknowledgement(acknowledged) = stream.reply().await.unwrap() else { panic!() };
    assert_eq!((acknowledged.sequence, acknowledged.unknown_rows), (2, 5));

    let rubbish = b"rubbish".to_vec();
    let crc = crc32c::crc32c(&rubbish);
    let (_, foreign) = Agent::new().batch(1, NOON);
    let foreign_crc = crc32c::crc32c(&foreign);
    for (bad, reason) in [
        (v1::BatchEnvelope { payload_crc32c: 1, ..good.clone() }, "checksum"),
        (v1::BatchEnvelope { payload: rubbish, payload_crc32c: crc, ..good.clone() }, "does not decode"),
        (
            v1::BatchEnvelope { payload: foreign, payload_crc32c: foreign_crc, ..good.clone() },
            "another agent",
        ),
        (v1::BatchEnvelope { epoch: vec![1], ..good.clone() }, "epoch"),
    ] {
        stream.send(bad).await;
        let batch_reply::Message::Refusal(refusal) = stream.reply().await.unwrap() else {
            panic!("{reason}")
        };
        assert!(refusal.reason.contains(reason), "{refusal:?}");
    }
    // The stream goes on after refusals, and a resend changes nothing.
    stream.send(v1::BatchEnvelope { maybe_sent_before: true, ..good }).await;
    assert!(matches!(stream.reply().await.unwrap(), batch_reply::Message::Acknowledgement(_)));
    assert_eq!(stored_and_doubled(&client).await, (7 * 30, 0));
    assert_eq!(ingest.count(|it| &it.acknowledged), 3);
    assert_eq!((ingest.count(|it| &it.refused), ingest.count(|it| &it.unknown_rows)), (4, 5));
    ingest.stop.cancel();
    assert_eq!(stream.reply().await.unwrap_err().code(), tonic::Code::Unavailable);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_batches_is_acknowledged_together() {
    let Some(engine) = engine().await else { return };
    let ingest = ingest(&engine).await;
    let mut agent = Agent::new();
    let mut stream = batches(&ingest, batch_request::Message::Hello(hello(&agent))).await.unwrap();
    assert!(matches!(stream.reply().await.unwrap(), batch_reply::Message::Welcome(_)));
    for _ in 0..20 {
        stream.send(envelope(&mut agent, 12)).await;
    }
    let mut acknowledged = Vec::new();
    for _ in 0..20 {
        let batch_reply::Message::Acknowledgement(one) = stream.reply().await.unwrap() else { panic!() };
        acknowledged.push(one.sequence);
    }
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, (1..=20).collect::<Vec<_>>());
    assert_eq!(stored_and_doubled(&engine.client("etcdmon")).await, (20 * 7 * 12, 0));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_messages_reach_the_model_and_are_answered() {
    let Some(engine) = engine().await else { return };
    let mut ingest = ingest(&engine).await;
    let agent = Agent::new();
    let (requests, stream) = mpsc::channel(16);
    let send = async |message| requests.send(v1::LiveRequest { message: Some(message) }).await.unwrap();
    send(live_request::Message::Hello(hello(&agent))).await;
    let mut replies = ingest.connect().await.live(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let mut reply = async || replies.message().await.unwrap().unwrap().message.unwrap();
    assert!(matches!(reply().await, live_reply::Message::Welcome(_)));
    for number in 1..=9u64 {
        let live = v1::Live { number, sent_mono_ns: number * 7, ..v1::Live::default() };
        send(live_request::Message::Live(live)).await;
        let live_reply::Message::Pong(pong) = reply().await else { panic!("no pong") };
        assert_eq!((pong.number, pong.agent_sent_mono_ns), (number, number * 7));
        assert!(pong.sent_wall_ns >= pong.received_wall_ns && pong.received_wall_ns > NOON);
    }
    // Nobody took them: four fit, the rest is dropped and counted, the agent is answered all the same.
    assert_eq!(ingest.count(|it| &it.live_dropped), 5);
    let fact = ingest.live.recv().await.unwrap();
    assert_eq!((fact.agent, fact.live.number, fact.hello.node.as_str()), (agent.id, 1, "node"));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_harms_nobody() {
    let Some(engine) = engine().await else { return };
    let ingest = ingest(&engine).await;
    let mut agent = Agent::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00",
        b"\0\0\0\0\0\0\0\0",
        b"PRI * HTTP/1",
    ] {
        let mut stream = TcpStream::connect(ingest.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{garbage:?} keeps its connection");
        assert!(answer.is_empty(), "{answer:?}");
    }
    assert_eq!(ingest.count(|it| &it.garbage), 4);
    // A connection that says nothing, one that says half, and one that talks HTTP/2 but no sense.
    let _silent = TcpStream::connect(ingest.address).await.unwrap();
    let mut half = TcpStream::connect(ingest.address).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut senseless = TcpStream::connect(ingest.address).await.unwrap();
    senseless
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        .await
        .unwrap();
    // First messages that are wrong.
    let newer = v1::Hello { protocol_min: 7, protocol_max: 9, ..hello(&agent) };
    for first in
        [batch_request::Message::Hello(newer), batch_request::Message::Batch(envelope(&mut agent, 1))]
    {
        let mut stream = batches(&ingest, first).await.unwrap();
        let code = stream.reply().await.unwrap_err().code();
        assert!(matches!(code, tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument), "{code}");
    }
    // A message beyond every limit.
    let mut stream = batches(&ingest, batch_request::Message::Hello(hello(&agent))).await.unwrap();
    assert!(stream.reply().await.is_ok());
    stream.send(v1::BatchEnvelope { payload: vec![0; 5 << 20], ..v1::BatchEnvelope::default() }).await;
    assert!(stream.reply().await.is_err());
    // A good agent among all that.
    let mut stream = batches(&ingest, batch_request::Message::Hello(hello(&agent))).await.unwrap();
    assert!(stream.reply().await.is_ok());
    stream.send(envelope(&mut agent, 6)).await;
    assert!(matches!(stream.reply().await.unwrap(), batch_reply::Message::Acknowledgement(_)));
    eventually("streams are given back", async || ingest.count(|it| &it.streams) <= 1).await;
    engine.supervisor.stop().await;
}
