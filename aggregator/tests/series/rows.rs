//! Rows as agents send them, straight into the raw tables.

use clickhouse::Row;
use etcdmon_aggregator::store::Client;
use serde::Serialize;
use uuid::Uuid;

/// The cluster of all rows.
pub fn cluster() -> Uuid {
    Uuid::from_u128(0xc1)
}

const SECOND_NS: i64 = 1_000_000_000;

#[derive(Clone, Serialize, Row)]
struct SyncRow {
    cluster: String,
    member: u64,
    at: i64,
    class: String,
    buckets: Vec<(u16, u64)>,
    count: u64,
}

#[derive(Clone, Serialize, Row)]
struct MetricRow {
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
    cluster: String,
    member: u64,
    at: i64,
    name: String,
    labels: String,
    r#type: String,
    value: f64,
}

#[derive(Clone, Serialize, Row)]
struct LedgerRow {
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
    cluster: String,
    member: u64,
    at: i64,
    stream: String,
    kind: String,
    reason: String,
    count: u64,
    blind_from: i64,
    blind_to: i64,
}

#[derive(Clone, Serialize, Row)]
struct AutopsyRow {
    cluster: String,
    member: u64,
    at: i64,
    class: String,
    culprits: String,
}

/// Rows to be stored.
#[derive(Default)]
pub struct Rows {
    syncs: Vec<SyncRow>,
    metrics: Vec<MetricRow>,
    ledger: Vec<LedgerRow>,
    autopsies: Vec<AutopsyRow>,
}

impl Rows {
    /// Syncs of a second.
    pub fn syncs(&mut self, member: u64, class: &str, second: i64, buckets: &[(u16, u64)]) {
        self.syncs.push(SyncRow {
            cluster: cluster().to_string(),
            member,
            at: second * SECOND_NS,
            class: class.to_owned(),
            buckets: buckets.to_vec(),
            count: buckets.iter().map(|(_, count)| count).sum(),
        });
    }

    /// A sample.
    pub fn metric(&mut self, member: u64, name: &str, labels: &str, kind: &str, second: i64, value: f64) {
        self.metrics.push(MetricRow {
            agent: Uuid::from_u128(1),
            cluster: cluster().to_string(),
            member,
            at: second * SECOND_NS,
            name: name.to_owned(),
            labels: labels.to_owned(),
            r#type: kind.to_owned(),
            value,
        });
    }

    /// An agent that was down.
    pub fn blind(&mut self, member: u64, from: i64, to: i64) {
        self.account(member, from / 60 * 60, ("sync", "blind", "agent_down"), (from, to));
    }

    /// The account of a minute in which an agent looked.
    pub fn produced(&mut self, member: u64, minute: i64) {
        self.account(member, minute, ("metric", "produced", ""), (0, 0));
    }

    fn account(
        &mut self,
        member: u64,
        minute: i64,
        (stream, kind, reason): (&str, &str, &str),
        blind: (i64, i64),
    ) {
        self.ledger.push(LedgerRow {
            agent: Uuid::from_u128(1),
            cluster: cluster().to_string(),
            member,
            at: minute * SECOND_NS,
            stream: stream.to_owned(),
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            count: 9,
            blind_from: blind.0 * SECOND_NS,
            blind_to: blind.1 * SECOND_NS,
        });
    }

    /// A slow WAL sync with one culprit.
    pub fn autopsy(&mut self, member: u64, second: i64, process_id: u32, comm: &str, wait_ns: u64) {
        let culprits = serde_json::json!([{
            "origin": "process", "certainty": "high", "process_id": process_id, "comm": comm, "process": comm,
            "cgroup": "/jobs", "container_id": "", "pod_uid": "", "inode": 0, "device": 8 << 20, "requests": 1, "bytes": 4_096,
            "syncs": 0, "wait_ns": wait_ns,
        }]);
        self.autopsies.push(AutopsyRow {
            cluster: cluster().to_string(),
            member,
            at: second * SECOND_NS,
            class: "wal".to_owned(),
            culprits: culprits.to_string(),
        });
    }

    /// Stores all of them.
    pub async fn insert(&self, client: &Client) {
        // Columns that are left out have their defaults, which a client that checks types does not allow.
        let client = client.connect().unwrap().with_validation(false);
        insert(&client, "sync_histograms", &self.syncs).await;
        insert(&client, "metrics", &self.metrics).await;
        insert(&client, "ledger", &self.ledger).await;
        insert(&client, "autopsies", &self.autopsies).await;
    }
}

async fn insert<T>(client: &clickhouse::Client, table: &str, rows: &[T])
where
    T: Serialize + clickhouse::RowOwned + clickhouse::RowWrite,
{
    if rows.is_empty() {
        return;
    }
    let mut insert = client.insert::<T>(table).await.unwrap();
    for row in rows {
        insert.write(row).await.unwrap();
    }
    insert.end().await.unwrap();
}
