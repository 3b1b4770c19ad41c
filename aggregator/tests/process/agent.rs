//! An agent's live stream, with members that do what the test says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcdmon_proto::v1;
use etcdmon_proto::v1::ingest_client::IngestClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

const ETCD_CLUSTER: u64 = 0xabc;

#[derive(Clone)]
pub struct Member {
    pub id: u64,
    pub running: bool,
    pub leader: u64,
    pub term: u64,
    syncs_per_second: u64,
    latency_ns: u64,
    counts: Vec<u64>,
    /// Process that its slow syncs wait for.
    neighbour: Option<u32>,
    slow_syncs: v1::LiveSlowSyncs,
}

impl Member {
    pub fn quick(id: u64) -> Self {
        let counts = vec![0; etcdmon_histogram::BUCKETS];
        Self {
            id,
            running: true,
            leader: 1,
            term: 2,
            syncs_per_second: 400,
            latency_ns: 900_000,
            counts,
            neighbour: None,
            slow_syncs: v1::LiveSlowSyncs::default(),
        }
    }

    pub fn slow(&mut self) {
        (self.syncs_per_second, self.latency_ns) = (5, 200_000_000);
    }

    /// Slow, since it waits for the disk that a process uses.
    pub fn slow_beside(&mut self, process_id: u32) {
        self.slow();
        self.neighbour = Some(process_id);
    }

    fn wait(&mut self) {
        let Some(process_id) = self.neighbour else { return };
        let latency_ns = self.syncs_per_second * self.latency_ns;
        let slow = &mut self.slow_syncs;
        slow.examined_total += self.syncs_per_second;
        slow.latency_ns_total += latency_ns;
        slow.wait_ns_total += latency_ns;
        slow.parts_total.get_or_insert_default().device_ns += latency_ns;
        if slow.culprits.is_empty() {
            slow.culprits.push(v1::LiveCulprit {
                origin: v1::CulpritOrigin::Process.into(),
                certainty: v1::Certainty::High.into(),
                process_id,
                process: "backup".to_owned(),
                pod_uid: "pod-77".to_owned(),
                ..Default::default()
            });
        }
        slow.culprits[0].wait_ns_total += latency_ns / 10 * 8;
        slow.culprits[0].bytes_total += 90 << 20;
    }

    fn live(&mut self) -> v1::LiveMember {
        self.wait();
        if self.running {
            self.counts[etcdmon_histogram::bucket_of(self.latency_ns)] += self.syncs_per_second;
        }
        v1::LiveMember {
            member: Some(v1::Member {
                cluster_id: ETCD_CLUSTER,
                member_id: self.id,
                name: format!("m{}", self.id),
                ..Default::default()
            }),
            running: self.running,
            scrape_ok: self.running,
            has_leader: true,
            is_leader: self.leader == self.id,
            leader_id: self.leader,
            raft_term: self.term,
            syncs: vec![v1::LiveSyncs {
                file_class: v1::FileClass::Wal as i32,
                latency: Some(v1::Histogram::from_counts(&self.counts, 0)),
            }],
            slow_syncs: Some(self.slow_syncs.clone()),
            ..Default::default()
        }
    }
}

/// A connected agent that sends every second; it falls silent when dropped.
pub struct Agent {
    members: Arc<Mutex<Vec<Member>>>,
    sender: JoinHandle<()>,
}

impl Agent {
    pub async fn connect(ingest: &str, number: u8, members: &[Member]) -> Self {
        let mut client = IngestClient::connect(format!("http://{ingest}")).await.unwrap();
        let epoch: [u8; 16] = *uuid::Uuid::new_v4().as_bytes();
        let (requests, stream) = mpsc::channel(4);
        let hello = v1::Hello {
            agent_id: vec![number; 16],
            epoch: epoch.to_vec(),
            protocol_min: 1,
            protocol_max: 1,
            agent_version: "test".to_owned(),
            node_name: format!("node{number}"),
            boot_id: vec![9; 16],
            allowed_commands: vec!["snapshot".to_owned()],
        };
        let message = Some(v1::live_request::Message::Hello(hello));
        requests.send(v1::LiveRequest { message }).await.unwrap();
        let mut replies = client.live(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let members = Arc::new(Mutex::new(members.to_vec()));
        let shared = Arc::clone(&members);
        let sender = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            for number in 1.. {
                ticks.tick().await;
                let members = shared.lock().unwrap().iter_mut().map(Member::live).collect();
                let live = v1::Live { epoch: epoch.to_vec(), number, members, ..Default::default() };
                let message = Some(v1::live_request::Message::Live(live));
                if requests.send(v1::LiveRequest { message }).await.is_err() {
                    return;
                }
                // Answers are read so that they do not pile up.
                if !matches!(replies.message().await, Ok(Some(_))) {
                    return;
                }
            }
        });
        Self { members, sender }
    }

    /// Lets so many messages go.
    pub async fn for_seconds(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    pub fn change(&self, change: impl FnOnce(&mut Vec<Member>)) {
        change(&mut self.members.lock().unwrap());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.sender.abort();
    }
}
