//! A real engine, and batches to store in it.
#![expect(dead_code, reason = "every test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcdmon_aggregator::engine::library::locate;
use etcdmon_aggregator::engine::{Options, Supervisor};
use etcdmon_aggregator::store::decode::decode;
use etcdmon_aggregator::store::upkeep::{self, Caretaker, Upkeep};
use etcdmon_aggregator::store::{BatchId, Client, ClusterNames, Decoded, Retention, Store, Unstorable};
use etcdmon_proto::convert::{delta_i64, delta_u64, sparse};
use etcdmon_proto::v1;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// 2026-11-21 10:00:00 UTC.
pub const NOON: i64 = 1_795_255_200;

/// etcd cluster id of all test members.
pub const CLUSTER: u64 = 0xc1;

/// etcd member ids.
pub const MEMBERS: [u64; 2] = [0xa1, 0xa2];

/// Wall minus monotonic clock in test batches.
pub const OFFSET: i64 = NOON * 1_000_000_000 - 5_000_000_000;

/// A cluster's UUID made from etcd's id.
pub struct Names;

impl ClusterNames for Names {
    fn cluster_uuid(&self, etcd_cluster_id: u64) -> Uuid {
        Uuid::from_u64_pair(1, etcd_cluster_id)
    }
}

/// Our name of the test cluster.
pub fn cluster() -> Uuid {
    Names.cluster_uuid(CLUSTER)
}

/// An engine of its own in a temporary directory.
pub struct Engine {
    pub supervisor: Supervisor,
    directory: tempfile::TempDir,
}

/// The engine, or `None` with the reason printed when its library is not on this machine.
pub async fn engine() -> Option<Engine> {
    if let Err(missing) = locate(None) {
        println!("skipped: {missing}");
        return None;
    }
    Some(engine_in(tempfile::tempdir().unwrap()).await)
}

/// The engine with its store in this directory.
pub async fn engine_in(directory: tempfile::TempDir) -> Engine {
    let supervisor = start(directory.path());
    let engine = Engine { supervisor, directory };
    engine.ready().await;
    engine
}

/// The program that has the `engine` subcommand.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_etcd-monitor-aggregator"))
}

fn start(directory: &Path) -> Supervisor {
    let options = Options::new(program(), directory.join("clickhouse"));
    Supervisor::start(Options { memory_bytes: 1 << 30, ..options }).unwrap()
}

impl Engine {
    /// Waits until the endpoint answers.
    pub async fn ready(&self) {
        let mut endpoint = self.supervisor.endpoint();
        let waited = tokio::time::timeout(Duration::from_secs(60), endpoint.wait_for(Option::is_some)).await;
        assert!(waited.is_ok(), "engine does not start: {:?}", self.supervisor.facts().borrow());
    }

    /// The way to a database in it.
    pub fn client(&self, database: &str) -> Client {
        Client::embedded(self.supervisor.endpoint(), database)
    }

    /// URL and key of the endpoint.
    pub fn endpoint(&self) -> (String, String) {
        let endpoint = self.supervisor.endpoint().borrow().clone().expect("engine runs");
        (endpoint.url, endpoint.key)
    }

    /// kill -9, and waits until the next child answers.
    pub async fn kill(&self) {
        let mut endpoint = self.supervisor.endpoint();
        let before = endpoint.borrow().as_ref().map(|endpoint| endpoint.generation);
        let pid = self.supervisor.facts().borrow().pid.expect("engine runs");
        // SAFETY: kill takes numbers; the child is ours.
        unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGKILL) };
        let restarted = endpoint.wait_for(|it| it.as_ref().is_some_and(|it| Some(it.generation) != before));
        tokio::time::timeout(Duration::from_secs(60), restarted).await.expect("engine restarts").unwrap();
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// A writer for a database.
pub fn store(client: &Client) -> (Store, CancellationToken) {
    store_with(client, Unstorable::default())
}

/// The same with an order for rows that ClickHouse will never take.
pub fn store_with(client: &Client, unstorable: Unstorable) -> (Store, CancellationToken) {
    let stop = CancellationToken::new();
    let (store, _task) = Store::start(client.clone(), unstorable, stop.clone());
    (store, stop)
}

/// How the aggregator looks after an engine's store, with all that tests write within retention.
pub fn care(engine: &Engine) -> upkeep::Options {
    upkeep::Options {
        path: engine.path().join("clickhouse"),
        max_bytes: None,
        author: Uuid::from_u128(7),
        retention: Retention { raw: Duration::from_hours(10 * 365 * 24), ..Retention::default() },
        look_every: Duration::from_millis(300),
    }
}

/// Looks after a store until it is told to stop.
pub fn look_after(client: &Client, options: upkeep::Options) -> (watch::Receiver<Upkeep>, CancellationToken) {
    let (caretaker, facts) = Caretaker::new(client.clone(), options);
    let stop = CancellationToken::new();
    tokio::spawn(caretaker.run(|| true, stop.clone()));
    (facts, stop)
}

/// Waits for something to become true.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One number from the tables.
pub async fn number(client: &Client, sql: &str) -> u64 {
    client
        .connect()
        .unwrap()
        .query_raw(sql)
        .fetch_one::<u64>()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Rows of a batch that are in all tables, and how many of them are there more than once.
pub async fn stored_and_doubled(client: &Client) -> (u64, u64) {
    let (mut rows, mut doubled) = (0, 0);
    for table in ["sync_histograms", "syncs", "writes", "metrics", "events", "ledger", "autopsies"] {
        let all = number(client, &format!("SELECT count() FROM {table}")).await;
        let distinct =
            number(client, &format!("SELECT uniqExact(agent, epoch, sequence, row) FROM {table}")).await;
        rows += distinct;
        doubled += all - distinct;
    }
    (rows, doubled)
}

/// An agent that numbers its batches.
#[derive(Clone)]
pub struct Agent {
    pub id: Uuid,
    pub epoch: Uuid,
    pub sequence: u64,
}

impl Agent {
    pub fn new() -> Self {
        Self { id: Uuid::new_v4(), epoch: Uuid::new_v4(), sequence: 0 }
    }

    /// The next batch, with `rows` rows in each section, its facts beginning at this wall second.
    pub fn batch(&mut self, rows: u32, second: i64) -> (BatchId, Vec<u8>) {
        self.sequence += 1;
        let id = BatchId { agent: self.id, epoch: self.epoch, sequence: self.sequence };
        (id, payload(self.id, rows, second).encode_to_vec())
    }

    /// A batch that says only that the process before this one was away, and what etcd says it synced meanwhile.
    pub fn was_down(&mut self, member: u32, from_ns: i64, to_ns: i64, count: u64) -> Decoded {
        self.sequence += 1;
        let id = BatchId { agent: self.id, epoch: self.epoch, sequence: self.sequence };
        let ledger = v1::Ledger {
            minute_delta: delta_i64([from_ns.div_euclid(60_000_000_000); 2]),
            stream: vec!["sync".to_owned(); 2],
            kind: [v1::LedgerKind::Produced, v1::LedgerKind::Blind].map(i32::from).into(),
            reason: vec![String::new(), "agent_down".to_owned()],
            count: vec![count; 2],
            blind_from_ns: vec![0, from_ns],
            blind_to_ns: vec![0, to_ns],
            member_plus_one: vec![member + 1; 2],
        };
        let mut batch = payload(self.id, 0, from_ns / 1_000_000_000);
        let of_ledger = |section: &&mut v1::Section| section.kind() == v1::SectionKind::Ledger;
        let section = batch.sections.iter_mut().find(of_ledger).unwrap();
        (section.rows, section.payload) = (2, ledger.encode_to_vec());
        decode(id, &batch.encode_to_vec(), &Names).unwrap()
    }

    /// As [`Agent::batch`], decoded.
    pub fn decoded(&mut self, rows: u32, second: i64) -> Decoded {
        let (id, payload) = self.batch(rows, second);
        decode(id, &payload, &Names).unwrap()
    }
}

pub fn members() -> Vec<v1::Member> {
    let member = |(position, id): (usize, &u64)| v1::Member {
        cluster_id: CLUSTER,
        member_id: *id,
        name: format!("m{position}"),
        process: Some(v1::Process { boot_id: vec![3; 16], pid: 1_000 + position as u32, start_ticks: 7 }),
        ..v1::Member::default()
    };
    MEMBERS.iter().enumerate().map(member).collect()
}

/// A batch with every kind of record.
pub fn payload(agent: Uuid, rows: u32, second: i64) -> v1::Batch {
    let section =
        |kind: v1::SectionKind, rows: u32, payload: Vec<u8>| v1::Section { kind: kind.into(), rows, payload };
    // Monotonic time of a wall second, by the base below.
    let mono = |second: i64, row: u32| second * 1_000_000_000 - OFFSET + i64::from(row) * 1_000;
    let many = || 0..rows;
    let member = |row: u32| row % 2;
    let class = |row: u32| v1::FileClass::ALL[row as usize % 6] as i32;
    let bases = v1::TimeBases {
        mono_ns_delta: delta_u64("", &[0, 1_000_000_000]).unwrap(),
        wall_minus_mono_ns_delta: delta_i64([OFFSET, OFFSET]),
    };
    let mut histograms = v1::SyncHistograms {
        member: many().map(member).collect(),
        file_class: many().map(class).collect(),
        second_delta: delta_i64(many().map(|row| second + i64::from(row / 12))),
        sum_ns: many().map(|row| u64::from(row) * 10).collect(),
        errors: many().map(|row| u64::from(row % 3 == 0)).collect(),
        run_delay_ns: many().map(u64::from).collect(),
        hook: many().map(|_| v1::Hook::Filesystem as i32).collect(),
        ..v1::SyncHistograms::default()
    };
    for row in many() {
        let mut counts = vec![0; etcdmon_histogram::BUCKETS];
        counts[100 + row as usize % 50] = 2;
        counts[300] = 1;
        let (buckets, counts) = sparse(&counts);
        histograms.bucket_len.push(buckets.len() as u32);
        histograms.bucket_delta.extend(buckets);
        histograms.bucket_count.extend(counts);
    }
    let syncs = v1::Syncs {
        sample_every: 100,
        slow_ns: 10_000_000,
        member: many().map(member).collect(),
        file_class: many().map(class).collect(),
        start_mono_ns_delta: delta_i64(many().map(|row| mono(second, row))),
        latency_ns: many().map(|row| 1_000_000 + u64::from(row)).collect(),
        thread_id: many().map(|row| 40 + row).collect(),
        run_delay_ns: many().map(u64::from).collect(),
        written_bytes: many().map(|row| u64::from(row) * 2_300).collect(),
        inode: many().map(|row| 1 << 33 | u64::from(row)).collect(),
        device: many().map(|_| 8 << 20 | 1).collect(),
        result: many().map(|row| if row % 5 == 0 { -5 } else { 0 }).collect(),
        reason: many().map(|row| if row % 2 == 0 { 1 } else { 2 }).collect(),
    };
    let writes = v1::Writes {
        member: many().map(member).collect(),
        file_class: many().map(class).collect(),
        second_delta: delta_i64(many().map(|row| second + i64::from(row / 12))),
        written_bytes: many().map(|row| u64::from(row) * 4_096).collect(),
        observed_ns: many().map(|_| 100_000_000).collect(),
        calls: many().map(u64::from).collect(),
        bucket_len: many().map(|_| 0).collect(),
        bucket_delta: Vec::new(),
        bucket_count: Vec::new(),
        sum_ns: many().map(u64::from).collect(),
        sync_file_range_calls: many().map(|_| 0).collect(),
    };
    let series = |(number, name): (u32, &str)| v1::Series {
        member_plus_one: number,
        name: name.to_owned(),
        label: vec!["le".to_owned(), format!("0.{number}"), "quote".to_owned(), "a\"b\\c\n".to_owned()],
        r#type: v1::MetricType::Gauge.into(),
    };
    let metrics = v1::Metrics {
        series: (0..).zip(["node_load", "etcd_a", "etcd_b"]).map(series).collect(),
        series_index: many().map(|row| row % 3).collect(),
        mono_ns_delta: delta_i64(many().map(|row| mono(second, row))),
        value: many().map(|row| f64::from(row) / 8.0).collect(),
    };
    let events = v1::Events {
        member_plus_one: many().map(|row| row % 3).collect(),
        mono_ns_delta: delta_i64(many().map(|row| mono(second, row))),
        kind: many().map(|_| "member.started".to_owned()).collect(),
        details_json: many().map(|row| format!("{{\"row\":{row}}}")).collect(),
    };
    let ledger = v1::Ledger {
        minute_delta: delta_i64(many().map(|_| second / 60)),
        stream: many().map(|row| ["sync", "sync_row", "metric"][row as usize % 3].to_owned()).collect(),
        kind: many().map(|row| 1 + (row % 3) as i32).collect(),
        reason: many().map(|row| ["", "ring_full", "agent_down"][row as usize % 3].to_owned()).collect(),
        count: many().map(u64::from).collect(),
        blind_from_ns: many().map(|row| if row % 3 == 2 { second * 1_000_000_000 } else { 0 }).collect(),
        blind_to_ns: many().map(|row| if row % 3 == 2 { second * 1_000_000_000 + 7 } else { 0 }).collect(),
        member_plus_one: many().map(|row| row % 3).collect(),
    };
    let zeros = || vec![0; rows as usize];
    let each = |number: u64| many().map(|_| number).collect::<Vec<u64>>();
    let autopsies = v1::Autopsies {
        member: many().map(member).collect(),
        file_class: many().map(class).collect(),
        start_mono_ns_delta: delta_i64(many().map(|row| mono(second, row))),
        latency_ns: many().map(|row| 45_000_000 + u64::from(row)).collect(),
        thread_id: many().map(|row| 40 + row).collect(),
        inode: many().map(|row| 1 << 33 | u64::from(row)).collect(),
        device: many().map(|_| 8 << 20 | 1).collect(),
        threshold_ns: each(10_000_000),
        on_cpu_ns: each(1_000_000),
        run_queue_ns: each(2_000_000),
        journal_ns: each(3_000_000),
        queue_ns: each(4_000_000),
        device_ns: each(5_000_000),
        flush_ns: each(6_000_000),
        throttle_ns: each(7_000_000),
        steal_ns: each(8_000_000),
        unexplained_ns: many().map(|row| 9_000_000 + u64::from(row)).collect(),
        journal_device_ns: each(1_000_000),
        journal_queue_ns: each(500_000),
        journal_flush_ns: each(250_000),
        cpu_quota_ns: each(1_500_000),
        wait_ns: each(16_000_000),
        gaps: many().map(|row| row % 2 * 5).collect(),
        // Every other row has a culprit.
        culprit_len: many().map(|row| row % 2).collect(),
        culprit_origin: (0..rows / 2).map(|_| v1::CulpritOrigin::Process as i32).collect(),
        culprit_certainty: (0..rows / 2).map(|_| v1::Certainty::High as i32).collect(),
        culprit_process_id: (0..rows / 2).map(|number| 600 + number).collect(),
        culprit_comm: (0..rows / 2).map(|_| 1).collect(),
        culprit_process: (0..rows / 2).map(|_| 2).collect(),
        culprit_cgroup: (0..rows / 2).map(|_| 3).collect(),
        culprit_container_id: (0..rows / 2).map(|_| 0).collect(),
        culprit_pod_uid: (0..rows / 2).map(|_| 0).collect(),
        culprit_inode: zeros().into_iter().take(rows as usize / 2).collect(),
        culprit_device: (0..rows / 2).map(|_| 8 << 20).collect(),
        culprit_requests: (0..rows / 2).map(u64::from).collect(),
        culprit_bytes: (0..rows / 2).map(|number| u64::from(number) << 12).collect(),
        culprit_syncs: (0..rows / 2).map(|_| 1).collect(),
        culprit_wait_ns: (0..rows / 2).map(|_| 4_000_000).collect(),
        text: ["", "fio", "fio (/usr/bin/fio)", "/a \"quoted\" cgroup\n"].map(str::to_owned).to_vec(),
    };
    v1::Batch {
        agent_id: agent.as_bytes().to_vec(),
        boot_id: vec![3; 16],
        members: members(),
        sections: vec![
            section(v1::SectionKind::TimeBase, 2, bases.encode_to_vec()),
            section(v1::SectionKind::SyncHistogram, rows, histograms.encode_to_vec()),
            section(v1::SectionKind::Sync, rows, syncs.encode_to_vec()),
            section(v1::SectionKind::Write, rows, writes.encode_to_vec()),
            section(v1::SectionKind::Metric, rows, metrics.encode_to_vec()),
            section(v1::SectionKind::Event, rows, events.encode_to_vec()),
            section(v1::SectionKind::Ledger, rows, ledger.encode_to_vec()),
            section(v1::SectionKind::Autopsy, rows, autopsies.encode_to_vec()),
        ],
    }
}
