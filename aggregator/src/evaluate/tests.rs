use std::time::Instant;

use chrono::Utc;
use etcdmon_proto::v1;

use super::*;
use crate::ingest::HelloFacts;

const AGENT: Uuid = Uuid::from_u128(1);

struct Stand {
    evaluation: Evaluation,
    facts: mpsc::Sender<LiveFact>,
    waiting: mpsc::Receiver<LiveFact>,
    outcomes: mpsc::Receiver<Outcome>,
    _directory: tempfile::TempDir,
}

impl Stand {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (facts, waiting) = mpsc::channel(16);
        let parts = Parts {
            clock: Clock::start(),
            profile: Profile::default_profile(),
            registry: Registry::default(),
            state: State::open(directory.path()).unwrap(),
            receivers: Vec::new(),
            external_url: String::new(),
            outbox: mpsc::channel(1).0,
            deliveries: Deliveries::default(),
            view: watch::Sender::default(),
        };
        let evaluation = Evaluation::restore(parts).await.unwrap();
        Self { evaluation, facts, waiting, outcomes: mpsc::channel(1).1, _directory: directory }
    }

    /// A message of the agent comes in: ten syncs of its member's WAL more than the one before.
    fn receive(&self, number: u64, received: Instant) {
        let hello = HelloFacts {
            protocol: 1,
            agent: AGENT,
            epoch: AGENT,
            boot: Uuid::nil(),
            version: "1".to_owned(),
            node: "n".to_owned(),
            allowed_commands: Vec::new(),
        };
        let mut counts = vec![0; etcdmon_histogram::BUCKETS];
        counts[700] = 10 * number;
        let syncs = v1::LiveSyncs {
            file_class: v1::FileClass::Wal as i32,
            latency: Some(v1::Histogram::from_counts(&counts, 0)),
        };
        let member = v1::LiveMember {
            member: Some(v1::Member { cluster_id: 7, member_id: 1, ..v1::Member::default() }),
            running: true,
            syncs: vec![syncs],
            ..v1::LiveMember::default()
        };
        let live = v1::Live { epoch: vec![1; 16], number, members: vec![member], ..v1::Live::default() };
        let fact = LiveFact { agent: AGENT, hello: Arc::new(hello), live, received_at: Utc::now(), received };
        self.facts.try_send(fact).unwrap();
    }
}

#[tokio::test]
async fn ticks_without_a_break_judge_what_has_come() {
    let mut stand = Stand::new().await;
    (1..=10).for_each(|number| stand.receive(number, Instant::now()));
    stand.evaluation.beat(&mut stand.waiting, &mut stand.outcomes).await;
    assert_eq!(stand.evaluation.model.agent(AGENT).map(|agent| agent.number), Some(10));
}

#[tokio::test]
async fn messages_that_waited_count_from_their_arrival() {
    let mut stand = Stand::new().await;
    let begin = Instant::now();
    let arrived = |number: u32| begin + number * Duration::from_secs(1);
    (1..=3).for_each(|number| stand.receive(number.into(), arrived(number)));
    stand.evaluation.beat(&mut stand.waiting, &mut stand.outcomes).await;
    let Evaluation { model, parts, .. } = &stand.evaluation;
    let last = parts.clock.at(arrived(3));
    assert_eq!(model.agent(AGENT).map(|agent| agent.last_seen), Some(last));
    let (_, cluster) = model.clusters().next().unwrap();
    let second = cluster.members[&1].syncs(last, v1::FileClass::Wal, Duration::from_secs(1));
    assert_eq!(second.count, 10, "of a second, though all were read at once");
}
