//! The whole way: agents' batches over gRPC, until all of them are acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use etcdmon_aggregator::engine::{Options, Supervisor};
use etcdmon_aggregator::ingest::{Options as IngestOptions, Service, serve};
use etcdmon_aggregator::store::table::Table;
use etcdmon_aggregator::store::{Client, Store, Unstorable};
use etcdmon_proto::v1::ingest_client::IngestClient;
use etcdmon_proto::v1::{self, batch_reply, batch_request};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::rows::{Names, payload};
use crate::{BATCH_ROWS, Found, TOTAL_ROWS, cpu_ns};

/// Agents that send side by side.
const AGENTS: usize = 8;

/// From the first batch sent to the last acknowledged.
pub fn run(table: Table) -> anyhow::Result<Found> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(table))
}

async fn measure(table: Table) -> anyhow::Result<Found> {
    let directory = tempfile::tempdir()?;
    let options = Options::new(std::env::current_exe()?, directory.path().join("clickhouse"));
    let engine = Supervisor::start(Options { memory_bytes: 4 << 30, ..options })?;
    let stop = CancellationToken::new();
    let client = Client::embedded(engine.endpoint(), "etcdmon");
    let (store, writer) = Store::start(client.clone(), Unstorable::default(), stop.clone());
    while !store.is_ready() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (live, _) = mpsc::channel(1);
    let options = IngestOptions { window_batches: 16, ..IngestOptions::default() };
    let service = Service::new(store, Arc::new(Names), live, options, stop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(serve(listener, service, None, stop.clone()));

    let batches = TOTAL_ROWS / BATCH_ROWS as usize / AGENTS;
    let mut agents = Vec::new();
    for _ in 0..AGENTS {
        let agent = Agent::new(table, batches);
        agents.push((agent, IngestClient::connect(url.clone()).await?));
    }
    let child = engine.facts().borrow().pid.context("engine runs")?;
    let cpu = || anyhow::Ok((cpu_ns(child)?, cpu_ns(std::process::id())?));
    let (began, before) = (Instant::now(), cpu()?);
    let sending: Vec<_> =
        agents.into_iter().map(|(agent, client)| tokio::spawn(agent.send(client))).collect();
    for agent in sending {
        agent.await??;
    }
    let (rate, after) = (TOTAL_ROWS as f64 / began.elapsed().as_secs_f64(), cpu()?);
    let row = |before: f64, after: f64| (after - before) / TOTAL_ROWS as f64;
    let found = Found { rate, engine_ns: row(before.0, after.0), rest_ns: row(before.1, after.1) };
    let count: u64 =
        client.connect()?.query_raw(&format!("SELECT count() FROM {}", table.name())).fetch_one().await?;
    anyhow::ensure!(count == TOTAL_ROWS as u64, "{count} rows stored of {TOTAL_ROWS}");
    stop.cancel();
    server.await??;
    writer.await?;
    engine.stop().await;
    Ok(found)
}

/// An agent with all its batches prepared.
struct Agent {
    id: Uuid,
    epoch: Uuid,
    payloads: Vec<Vec<u8>>,
}

impl Agent {
    fn new(table: Table, batches: usize) -> Self {
        let id = Uuid::new_v4();
        let payloads = (0..batches as u64).map(|sequence| payload(table, id, sequence, BATCH_ROWS)).collect();
        Self { id, epoch: Uuid::new_v4(), payloads }
    }

    async fn send(self, mut client: IngestClient<tonic::transport::Channel>) -> anyhow::Result<()> {
        let (requests, stream) = mpsc::channel(4);
        let hello = v1::Hello {
            agent_id: self.id.as_bytes().to_vec(),
            epoch: self.epoch.as_bytes().to_vec(),
            protocol_min: 1,
            protocol_max: 1,
            ..v1::Hello::default()
        };
        requests.send(v1::BatchRequest { message: Some(batch_request::Message::Hello(hello)) }).await?;
        let mut replies = client.batches(ReceiverStream::new(stream)).await?.into_inner();
        let mut due = self.payloads.len();
        let epoch = self.epoch.as_bytes().to_vec();
        let sending = tokio::spawn(async move {
            for (sequence, payload) in (0..).zip(self.payloads) {
                let payload_crc32c = crc32c::crc32c(&payload);
                let envelope = v1::BatchEnvelope {
                    epoch: epoch.clone(),
                    sequence,
                    payload,
                    payload_crc32c,
                    maybe_sent_before: false,
                };
                let message = Some(batch_request::Message::Batch(envelope));
                requests.send(v1::BatchRequest { message }).await?;
            }
            anyhow::Ok(requests)
        });
        while due > 0 {
            let reply =
                replies.message().await?.and_then(|reply| reply.message).context("stream ended early")?;
            match reply {
                batch_reply::Message::Welcome(_) => {}
                batch_reply::Message::Acknowledgement(_) => due -= 1,
                batch_reply::Message::Refusal(refusal) => anyhow::bail!("batch refused: {}", refusal.reason),
                batch_reply::Message::Pace(_) | batch_reply::Message::Redirect(_) => {}
            }
        }
        drop(sending.await??);
        Ok(())
    }
}
