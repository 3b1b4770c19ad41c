//! What was stored: metrics, syncs, latencies, the ledger.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{self, Cluster, Parameters};
use super::problem::Failures;
use super::{Context, Problem};
use crate::query::{self, SyncFilter, TimeRange};
use crate::view::hex;

impl Context {
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.shared.clock.wall(self.shared.clock.now())
    }

    /// A place among the questions to ClickHouse.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.shared.queries.acquire().await.map_err(|_closed| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the aggregator is shutting down")
        })
    }
}

/// Which part of what was stored.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Only this member: 16 hexadecimal digits.
    member: Option<String>,
    /// Only this file class: `wal`, `backend`, `snapshot`, `defrag`, `directory` or `other`.
    class: Option<String>,
    /// Inclusive begin: RFC 3339, Unix seconds, or before now such as `-1h`; an hour before `to` when left out.
    from: Option<String>,
    /// Exclusive end, in the same ways; now when left out.
    to: Option<String>,
}

/// Which rows of syncs, or of what was found out about them.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SyncScope {
    /// Only this member: 16 hexadecimal digits.
    pub(super) member: Option<String>,
    /// Only this file class: `wal`, `backend`, `snapshot`, `defrag`, `directory` or `other`.
    pub(super) class: Option<String>,
    /// Inclusive begin: RFC 3339, Unix seconds, or before now such as `-1h`; an hour before `to` when left out.
    pub(super) from: Option<String>,
    /// Exclusive end, in the same ways; now when left out.
    pub(super) to: Option<String>,
    /// Most rows, 1 to 10000; 1000 when left out.
    #[param(minimum = 1, maximum = 10000)]
    pub(super) limit: Option<u64>,
}

/// Which part of what was stored, for all file classes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct MemberScope {
    /// Only this member: 16 hexadecimal digits.
    member: Option<String>,
    /// Inclusive begin: RFC 3339, Unix seconds, or before now such as `-1h`; an hour before `to` when left out.
    from: Option<String>,
    /// Exclusive end, in the same ways; now when left out.
    to: Option<String>,
}

/// Which series.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SeriesFilter {
    /// Only this member: 16 hexadecimal digits.
    member: Option<String>,
    /// Only series of this name.
    name: Option<String>,
}

/// The newest samples.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Samples {
    /// By name, member and labels.
    pub samples: Vec<Sample>,
}

/// A sample of a series.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// Its member, 16 hexadecimal digits; zeros for the node itself.
    pub member: String,
    /// Prometheus name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value; null when it is not a number.
    pub value: Option<f64>,
    /// When it was taken.
    pub at: DateTime<Utc>,
}

/// The newest sample of every series, no older than two minutes.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/metrics/current", tag = "telemetry", operation_id = "currentMetrics",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), SeriesFilter),
    responses(
        (status = 200, body = Samples),
        Failures,
    )
)]
pub async fn current_metrics(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(filter): Parameters<SeriesFilter>,
) -> Result<Json<Samples>, Problem> {
    let member = extract::member(filter.member.as_deref())?;
    let _turn = context.turn().await?;
    let query = &context.shared.query;
    let found =
        query.current_metrics(cluster.summary.id, member, filter.name.as_deref(), context.now()).await?;
    let samples = found.into_iter().map(|sample| Sample {
        member: hex(sample.member),
        name: sample.name,
        labels: sample.labels,
        value: sample.value.is_finite().then_some(sample.value),
        at: sample.at,
    });
    Ok(Json(Samples { samples: samples.collect() }))
}

/// Syncs with a row of their own.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Syncs {
    /// Newest first.
    pub syncs: Vec<Sync>,
}

/// A sync that was slow, belongs to the sample, or was kept by the flight recorder.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Sync {
    /// Its member, 16 hexadecimal digits.
    pub member: String,
    /// File class.
    pub class: String,
    /// Its start.
    pub at: DateTime<Utc>,
    /// How long it took, in nanoseconds.
    pub latency_ns: u64,
    /// Thread that made it.
    pub thread_id: u32,
    /// Time that thread waited for a CPU meanwhile, in nanoseconds.
    pub run_delay_ns: u64,
    /// Bytes written to the file since its last sync.
    pub written_bytes: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Device, as `major:minor`.
    pub device: String,
    /// 0 or a negative errno.
    pub result: i32,
    /// `slow`, `sample`, or `flight` when it was near something that happened.
    pub reason: String,
    /// The sample then: one in so many of those that are not slow.
    pub sample_every: u32,
    /// Slow meant at least this, in nanoseconds.
    pub slow_ns: u64,
    /// Agent that saw it.
    pub agent: Uuid,
}

impl From<query::Sync> for Sync {
    fn from(sync: query::Sync) -> Self {
        Self {
            member: hex(sync.member),
            class: sync.class,
            at: sync.at,
            latency_ns: sync.latency_ns,
            thread_id: sync.thread_id,
            run_delay_ns: sync.run_delay_ns,
            written_bytes: sync.written_bytes,
            inode: sync.inode,
            device: format!("{}:{}", sync.device >> 20, sync.device & 0xf_ffff),
            result: sync.result,
            reason: sync.reason,
            sample_every: sync.sample_every,
            slow_ns: sync.slow_ns,
            agent: sync.agent,
        }
    }
}

/// Slow syncs and a stated sample of the others.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/syncs", tag = "telemetry", operation_id = "listSyncs",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), SyncScope),
    responses(
        (status = 200, body = Syncs),
        Failures,
    )
)]
pub async fn syncs(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<SyncScope>,
) -> Result<Json<Syncs>, Problem> {
    let limit = extract::limit(scope.limit)?;
    let filter = SyncFilter {
        member: extract::member(scope.member.as_deref())?,
        class: extract::class(scope.class.as_deref())?,
        range: extract::range(scope.from.as_deref(), scope.to.as_deref(), context.now())?,
        limit,
    };
    let _turn = context.turn().await?;
    let found = context.shared.query.syncs(cluster.summary.id, &filter).await?;
    Ok(Json(Syncs { syncs: found.into_iter().map(Sync::from).collect() }))
}

/// Syncs counted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SyncCounts {
    /// By member and class.
    pub counts: Vec<SyncCount>,
}

/// Syncs of a member and class.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SyncCount {
    /// The member, 16 hexadecimal digits.
    pub member: String,
    /// File class.
    pub class: String,
    /// All syncs.
    pub count: u64,
    /// Those that returned an error.
    pub errors: u64,
}

/// Every sync counted, from the stored histograms.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/syncs/count", tag = "telemetry", operation_id = "countSyncs",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), MemberScope),
    responses(
        (status = 200, body = SyncCounts),
        Failures,
    )
)]
pub async fn sync_counts(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<MemberScope>,
) -> Result<Json<SyncCounts>, Problem> {
    let (member, range) = scope.parse(context.now())?;
    let _turn = context.turn().await?;
    let found = context.shared.query.sync_counts(cluster.summary.id, member, range).await?;
    let counts = found.into_iter().map(|count| SyncCount {
        member: hex(count.member),
        class: count.class,
        count: count.count,
        errors: count.errors,
    });
    Ok(Json(SyncCounts { counts: counts.collect() }))
}

impl MemberScope {
    fn parse(&self, now: DateTime<Utc>) -> Result<(Option<u64>, TimeRange), Problem> {
        let range = extract::range(self.from.as_deref(), self.to.as_deref(), now)?;
        Ok((extract::member(self.member.as_deref())?, range))
    }
}

/// Latency of syncs over a window. Percentiles are midpoints of buckets, at most 5 % off; null when nothing was counted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// Syncs counted.
    pub count: u64,
    /// Exact sum of their latencies, in nanoseconds.
    pub sum_ns: u64,
    /// Those that returned an error.
    pub errors: u64,
    /// Median, in nanoseconds.
    pub p50_ns: Option<u64>,
    /// 90th percentile, in nanoseconds.
    pub p90_ns: Option<u64>,
    /// 95th percentile, in nanoseconds.
    pub p95_ns: Option<u64>,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile, in nanoseconds.
    pub p999_ns: Option<u64>,
    /// Midpoint of the highest bucket that holds one, in nanoseconds.
    pub max_ns: Option<u64>,
    /// Buckets that hold at least one, rising.
    pub buckets: Vec<Bucket>,
}

/// A bucket of the histogram.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// Its number.
    pub bucket: u16,
    /// Inclusive lower bound, in nanoseconds.
    pub lower_ns: u64,
    /// Exclusive upper bound, in nanoseconds; null for the last bucket.
    pub upper_ns: Option<u64>,
    /// Syncs in it.
    pub count: u64,
}

impl From<query::Latency> for Latency {
    fn from(latency: query::Latency) -> Self {
        let buckets = latency.buckets.into_iter().map(|bucket| Bucket {
            bucket: bucket.bucket,
            lower_ns: bucket.lower_ns,
            upper_ns: bucket.upper_ns,
            count: bucket.count,
        });
        Self {
            count: latency.count,
            sum_ns: latency.sum_ns,
            errors: latency.errors,
            p50_ns: latency.p50_ns,
            p90_ns: latency.p90_ns,
            p95_ns: latency.p95_ns,
            p99_ns: latency.p99_ns,
            p999_ns: latency.p999_ns,
            max_ns: latency.max_ns,
            buckets: buckets.collect(),
        }
    }
}

/// Percentiles and histogram of sync latency, from every sync in the range.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/latency", tag = "telemetry", operation_id = "syncLatency",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), Scope),
    responses(
        (status = 200, body = Latency),
        Failures,
    )
)]
pub async fn latency(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<Scope>,
) -> Result<Json<Latency>, Problem> {
    let member = extract::member(scope.member.as_deref())?;
    let class = extract::class(scope.class.as_deref())?;
    let range = extract::range(scope.from.as_deref(), scope.to.as_deref(), context.now())?;
    let _turn = context.turn().await?;
    let found = context.shared.query.latency(cluster.summary.id, member, class, range).await?;
    Ok(Json(found.into()))
}

/// Accounts of what was produced and what became of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LedgerRows {
    /// By minute, agent, stream and member.
    pub rows: Vec<LedgerRow>,
}

/// The account of a minute.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LedgerRow {
    /// The agent.
    pub agent: Uuid,
    /// `sync`, `sync_row`, `write`, `metric`, `event`, `log` or `autopsy`.
    pub stream: String,
    /// The member, 16 hexadecimal digits; zeros for the node itself.
    pub member: String,
    /// Begin of the minute.
    pub minute: DateTime<Utc>,
    /// What the agent saw.
    pub produced: u64,
    /// Of these, rows whose account was lost with an agent and an aggregator that died at the same time; while the
    /// minute is open, also those whose account is on its way.
    pub unannounced: u64,
    /// What is stored.
    pub stored: u64,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// When nothing was seen.
    pub blind: Vec<BlindInterval>,
    /// produced = stored + dropped + blind.
    pub balanced: bool,
    /// produced − stored − dropped − blind. Above zero: not arrived yet, or gone with an agent's process.
    pub difference: i64,
    /// The minute is not over, or was just now: batches that belong to it are still to come. Rows that were spooled come
    /// later still, and change the account of their minute then.
    pub open: bool,
}

/// An interval in which nothing was seen.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BlindInterval {
    /// Begin.
    pub from: DateTime<Utc>,
    /// End.
    pub to: DateTime<Utc>,
    /// What happened in it, by etcd's own counters.
    pub count: u64,
    /// Why.
    pub reason: String,
}

/// produced = stored + dropped + blind, by agent, stream, member and minute.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/ledger", tag = "telemetry", operation_id = "ledger",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), MemberScope),
    responses(
        (status = 200, body = LedgerRows),
        Failures,
    )
)]
pub async fn ledger(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<MemberScope>,
) -> Result<Json<LedgerRows>, Problem> {
    let now = context.now();
    let (member, range) = scope.parse(now)?;
    let _turn = context.turn().await?;
    let found = context.shared.query.ledger(cluster.summary.id, member, range, now).await?;
    let rows = found.into_iter().map(|account| LedgerRow {
        balanced: account.difference() == 0,
        difference: account.difference(),
        open: account.open,
        agent: account.agent,
        stream: account.stream,
        member: hex(account.member),
        minute: account.minute,
        produced: account.produced,
        unannounced: account.unannounced,
        stored: account.stored,
        dropped: account.dropped,
        blind: account
            .blind
            .into_iter()
            .map(|blind| BlindInterval {
                from: blind.from,
                to: blind.to,
                count: blind.count,
                reason: blind.reason,
            })
            .collect(),
    });
    Ok(Json(LedgerRows { rows: rows.collect() }))
}
