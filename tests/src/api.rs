//! A client of the aggregator's API that knows nothing but the documented paths and fields.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::wait;

/// File classes that etcd's own WAL sync histogram covers.
pub const WAL_CLASSES: [&str; 2] = ["wal", "directory"];

/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_secs(10);

/// One member's syncs of one file class.
#[derive(Debug, Clone, Deserialize)]
pub struct SyncCount {
    /// etcd member id, 16 lower-case hexadecimal digits.
    pub member: String,
    /// `wal`, `backend`, …
    pub class: String,
    /// Syncs in the stored histograms.
    pub count: u64,
}

/// A bucket of stored latencies.
#[derive(Debug, Clone, Deserialize)]
pub struct Bucket {
    /// Upper edge; none = no limit.
    pub upper_ns: Option<u64>,
    /// Syncs.
    pub count: u64,
}

/// A stretch in which nothing was seen.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Blind {
    /// Begin.
    pub from: DateTime<Utc>,
    /// End.
    pub to: DateTime<Utc>,
    /// What etcd's own counters say happened in it.
    pub count: u64,
    /// Why.
    pub reason: String,
}

/// A row of the account of what became of what was produced.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LedgerRow {
    /// etcd member id; zeros = the node.
    pub member: String,
    /// `sync` are the histograms that count every sync.
    pub stream: String,
    /// Begin of its minute.
    pub minute: DateTime<Utc>,
    /// What the agent says it made, and `unannounced`.
    pub produced: u64,
    /// Stored rows whose account was lost.
    pub unannounced: u64,
    /// What the tables hold.
    pub stored: u64,
    /// Dropped by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Stretches without sight.
    pub blind: Vec<Blind>,
}

/// A client of one aggregator.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    http: reqwest::Client,
}

impl Api {
    /// Of the aggregator at this URL.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(base: &str) -> Result<Self> {
        // Another call may have installed it already; all install the same.
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), http })
    }

    /// Status code and body of a path, whatever they are.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn raw(&self, path: &str) -> Result<(u16, String)> {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.context(path.to_owned())?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    }

    /// The JSON of a path.
    ///
    /// # Errors
    /// When the answer is not a success; the message has the problem.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.raw(path).await?;
        if status != 200 {
            bail!("GET {path}: {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("GET {path}: {body}"))
    }

    async fn list<T: for<'de> Deserialize<'de>>(&self, path: &str, field: &str) -> Result<Vec<T>> {
        let mut body = self.get(path).await?;
        serde_json::from_value(body[field].take()).with_context(|| format!("field {field} of {path}"))
    }

    /// The product's id of the cluster with this etcd cluster id, once it knows the cluster.
    ///
    /// # Errors
    /// When it does not know it, or does not answer.
    pub async fn cluster(&self, etcd_cluster_id: u64) -> Result<String> {
        let clusters: Vec<Value> = self.list("/api/v1/clusters", "clusters").await?;
        clusters
            .iter()
            .find(|cluster| hex(&cluster["etcd_cluster_id"]) == Some(etcd_cluster_id))
            .and_then(|cluster| cluster["id"].as_str().map(str::to_owned))
            .with_context(|| format!("no cluster {etcd_cluster_id:016x} among {clusters:?}"))
    }

    /// The same, waiting for it.
    ///
    /// # Errors
    /// When it stays unknown for `limit`.
    pub async fn wait_cluster(&self, etcd_cluster_id: u64, limit: Duration) -> Result<String> {
        wait::until("the cluster to be known", limit, async || self.cluster(etcd_cluster_id).await.map(Some))
            .await
    }

    /// Members of a cluster as they are told.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn members(&self, cluster: &str) -> Result<Vec<Value>> {
        self.list(&format!("/api/v1/clusters/{cluster}/members"), "members").await
    }

    /// What is watched without agents, as it is told.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn agentless(&self) -> Result<Vec<Value>> {
        self.list("/api/v1/agentless", "agentless").await
    }

    /// The newest samples of a series' name, as they are told.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn current(&self, cluster: &str, name: &str) -> Result<Vec<Value>> {
        self.list(&format!("/api/v1/clusters/{cluster}/metrics/current?name={name}"), "samples").await
    }

    /// Stored syncs of a cluster since a time, by member and class.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn sync_counts(&self, cluster: &str, from: SystemTime) -> Result<Vec<SyncCount>> {
        let range = range(from);
        self.list(&format!("/api/v1/clusters/{cluster}/syncs/count?{range}"), "counts").await
    }

    /// Stored syncs of these classes (all when empty), over all members.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stored(&self, cluster: &str, from: SystemTime, classes: &[&str]) -> Result<u64> {
        let counts = self.sync_counts(cluster, from).await?;
        let wanted = |count: &&SyncCount| classes.is_empty() || classes.contains(&count.class.as_str());
        Ok(counts.iter().filter(wanted).map(|count| count.count).sum())
    }

    /// Stored latencies of a class over all members, and what the product makes of them.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn latency(
        &self,
        cluster: &str,
        class: &str,
        from: SystemTime,
        to: SystemTime,
    ) -> Result<Vec<Bucket>> {
        let path =
            format!("/api/v1/clusters/{cluster}/latency?class={class}&from={}&to={}", stamp(from), stamp(to));
        self.list(&path, "buckets").await
    }

    /// The 99th percentile of a member's WAL syncs in the last ten seconds, in nanoseconds.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn recent_p99_ns(&self, cluster: &str, member: &str) -> Result<Option<u64>> {
        let from = stamp(SystemTime::now() - Duration::from_secs(10));
        let path = format!("/api/v1/clusters/{cluster}/latency?class=wal&member={member}&from={from}");
        Ok(self.get(&path).await?["p99_ns"].as_u64())
    }

    /// The account since a time.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ledger(&self, cluster: &str, from: SystemTime) -> Result<Vec<LedgerRow>> {
        let range = range(from);
        self.list(&format!("/api/v1/clusters/{cluster}/ledger?{range}"), "rows").await
    }

    /// Rows of syncs of a member and class since a time, as they are told; at most 10,000.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn sync_rows(
        &self,
        cluster: &str,
        member: &str,
        class: &str,
        from: SystemTime,
    ) -> Result<Vec<Value>> {
        let scope = format!("member={member}&class={class}&limit=10000&{}", range(from));
        self.list(&format!("/api/v1/clusters/{cluster}/syncs?{scope}"), "syncs").await
    }

    /// Events of a kind since a time, as they are told, newest first.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn events(&self, cluster: &str, kind: &str, from: SystemTime) -> Result<Vec<Value>> {
        self.list(&format!("/api/v1/clusters/{cluster}/events?kind={kind}&{}", range(from)), "events").await
    }

    /// Alerts, optionally in one state only.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn alerts(&self, state: Option<&str>) -> Result<Vec<Value>> {
        let filter = state.map(|state| format!("?state={state}")).unwrap_or_default();
        self.list(&format!("/api/v1/alerts{filter}"), "alerts").await
    }

    /// Agents as they are told.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn agents(&self) -> Result<Vec<Value>> {
        self.list("/api/v1/agents", "agents").await
    }
}

/// A time from which on whatever begins now is counted: stored histograms carry the begin of their second.
pub fn from_now() -> SystemTime {
    SystemTime::now() - Duration::from_secs(1)
}

impl LedgerRow {
    /// Produced, less stored, dropped and blind: zero once all is accounted for.
    pub fn difference(&self) -> i128 {
        let sum = |counts: &mut dyn Iterator<Item = u64>| counts.map(i128::from).sum::<i128>();
        let dropped = sum(&mut self.dropped.values().copied());
        let blind = sum(&mut self.blind.iter().map(|blind| blind.count));
        i128::from(self.produced) - i128::from(self.stored) - dropped - blind
    }
}

/// Syncs that were dropped, and the stretches without sight, of the stream that counts every sync.
pub fn losses(rows: &[LedgerRow]) -> (u64, Vec<Blind>) {
    let syncs = rows.iter().filter(|row| row.stream == "sync");
    let dropped = syncs.clone().flat_map(|row| row.dropped.values()).sum();
    (dropped, syncs.flat_map(|row| row.blind.clone()).collect())
}

/// Syncs that the agents' probes saw: what was produced, less what only etcd's own counters tell of.
pub fn seen(rows: &[LedgerRow]) -> u64 {
    let syncs = rows.iter().filter(|row| row.stream == "sync");
    syncs
        .map(|row| row.produced - row.blind.iter().map(|blind| blind.count).sum::<u64>().min(row.produced))
        .sum()
}

/// A time as the API takes it.
pub fn stamp(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// From a time until well after now, so that no clock rounding cuts off the newest rows.
fn range(from: SystemTime) -> String {
    format!("from={}&to={}", stamp(from), stamp(SystemTime::now() + Duration::from_secs(60)))
}

fn hex(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?, 16).ok()
}
