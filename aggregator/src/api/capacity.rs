//! How long quota and disk last.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::Cluster;
use super::{Context, Problem};
use crate::capacity::{self, Database, Eta, Forecast, Outcome, Trend};
use crate::query::Fill;
use crate::view::hex;

/// A day in seconds.
const DAY: f64 = 86_400.0;

/// How long the room of a cluster's members lasts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// When this was told.
    pub at: DateTime<Utc>,
    /// Share of cases in which the truth should lie between `low` and `high`.
    pub coverage: f64,
    /// By id; those that were sampled in the last 30 days.
    pub members: Vec<MemberCapacity>,
}

/// How long the room of a member lasts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MemberCapacity {
    /// Its id, 16 hexadecimal digits.
    pub member: String,
    /// Its name; empty while unknown.
    pub name: String,
    /// Its database and its quota.
    pub database: Room,
    /// The filesystem of its data directory, whoever fills it. Sampled by agents only.
    pub disk: Room,
}

/// Room that is used up.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Room {
    /// `growing`: see `full`; `reached`; `not_growing`; `beyond`: not within `looked_ahead_seconds`, which is as far as the past
    /// allows to look; `too_little_data`: see `reason`; `no_limit`: the limit is not known.
    pub status: String,
    /// Why nothing can be said; empty when something can.
    pub reason: String,
    /// Newest size of the database's file in bytes; of a disk what is left.
    pub size_bytes: Option<f64>,
    /// Newest pages in use in bytes; null of a disk.
    pub in_use_bytes: Option<f64>,
    /// Quota in bytes; null where it is not known, and of a disk.
    pub limit_bytes: Option<f64>,
    /// Bytes a day, of the peaks between compactions; null where nothing can be said.
    pub bytes_per_day: Option<Range>,
    /// When it is full; null where that can't be told.
    pub full: Option<Full>,
    /// Seconds that were looked ahead where it is not full within them.
    pub looked_ahead_seconds: Option<f64>,
    /// What this rests on; null where nothing can be said.
    pub evidence: Option<Evidence>,
}

/// A value and the interval that it lies in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacityRange)]
pub struct Range {
    /// One case in ten is lower.
    pub low: f64,
    /// The estimate.
    pub mid: f64,
    /// One case in ten is higher.
    pub high: f64,
}

/// When a limit is reached.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacityFull)]
pub struct Full {
    /// One case in ten is earlier; null when that is further away than could be looked.
    pub low_at: Option<DateTime<Utc>>,
    /// As likely earlier as later; null when that is further away than could be looked.
    pub mid_at: Option<DateTime<Utc>>,
    /// One case in ten is later; null when it may as well never be.
    pub high_at: Option<DateTime<Utc>>,
    /// `high`, `medium` or `low`.
    pub confidence: String,
}

/// What an estimate rests on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CapacityEvidence)]
pub struct Evidence {
    /// `theil_sen`, or `seasonal_theil_sen`, which compares the same times of days.
    pub method: String,
    /// Begin of what was used.
    pub from: DateTime<Utc>,
    /// Newest sample.
    pub to: DateTime<Utc>,
    /// Peaks between compactions that the line was drawn over.
    pub peaks: usize,
    /// Usual time between two compactions in seconds, where any show.
    pub sawtooth_seconds: Option<f64>,
    /// Stretches of the past whose slopes were compared.
    pub stretches: usize,
    /// Whether older samples were left out because growth has changed since.
    pub growth_changed: bool,
    /// Bytes of the file that are not in use and can't be, as far as was seen.
    pub overhead_bytes: f64,
    /// When the file fell: it was defragmented or replaced.
    pub defragmented_at: Vec<DateTime<Utc>>,
}

/// Growth of each member's database and disk, and when quota and disk are full, with an interval. Made from what was stored;
/// etcd is not asked.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/capacity", tag = "telemetry", operation_id = "capacity",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name")),
    responses(
        (status = 200, body = Capacity),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several clusters have this name"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "The answer would be too large"),
        (status = 502, body = Problem, content_type = "application/problem+json", description = "ClickHouse failed"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "ClickHouse is not there"),
    )
)]
pub async fn capacity(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
) -> Result<Json<Capacity>, Problem> {
    let now = context.now();
    let _turn = context.turn().await?;
    let found = context.shared.query.fill(cluster.summary.id, now).await?;
    let name =
        |id: &str| cluster.members.iter().find(|member| member.id == id).map(|member| member.name.clone());
    // Thirty days of a few members: milliseconds, but not for the thread that others wait on.
    let told = tokio::task::spawn_blocking(move || {
        found
            .into_iter()
            .map(|(member, fill)| (hex(member), database(&fill, now), disk(&fill, now)))
            .collect::<Vec<_>>()
    });
    let told = told.await.map_err(|_panic| {
        let detail = "the forecast could not be made; the log says why";
        Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, detail)
    })?;
    let members = told.into_iter().map(|(member, database, disk)| MemberCapacity {
        name: name(&member).unwrap_or_default(),
        member,
        database,
        disk,
    });
    Ok(Json(Capacity { at: now, coverage: capacity::COVERAGE, members: members.collect() }))
}

fn database(fill: &Fill, now: DateTime<Utc>) -> Room {
    let database = Database { total: &fill.total, in_use: &fill.in_use, quota: fill.quota };
    let forecast = capacity::database(database, seconds(now));
    Room {
        size_bytes: fill.total.last().map(|sample| sample.value),
        in_use_bytes: fill.in_use.last().map(|sample| sample.value),
        limit_bytes: fill.quota,
        ..room(&forecast, now)
    }
}

fn disk(fill: &Fill, now: DateTime<Utc>) -> Room {
    let forecast = capacity::disk(&fill.available, seconds(now));
    Room { size_bytes: fill.available.last().map(|sample| sample.value), ..room(&forecast, now) }
}

fn room(forecast: &Forecast, now: DateTime<Utc>) -> Room {
    let trend = forecast.trend.as_ref().ok();
    let mut room = Room {
        status: String::new(),
        reason: forecast.trend.as_ref().err().map(ToString::to_string).unwrap_or_default(),
        size_bytes: None,
        in_use_bytes: None,
        limit_bytes: None,
        bytes_per_day: trend.map(|trend| {
            let (low, high) = trend.slopes();
            Range { low: low * DAY, mid: trend.slope * DAY, high: high * DAY }
        }),
        full: None,
        looked_ahead_seconds: None,
        evidence: trend.map(|trend| evidence(forecast, trend)),
    };
    let ahead = |after: f64| date(seconds(now) + after);
    room.status = match &forecast.outcome {
        None => "no_limit",
        Some(Outcome::Reached) => "reached",
        Some(Outcome::NotGrowing) => "not_growing",
        Some(Outcome::Unknown(_)) => "too_little_data",
        Some(Outcome::Eta(Eta { low, mid, high, confidence })) => {
            room.full = Some(Full {
                low_at: Some(ahead(*low)),
                mid_at: Some(ahead(*mid)),
                high_at: high.map(ahead),
                confidence: confidence.name().to_owned(),
            });
            "growing"
        }
        Some(Outcome::Beyond { within, low }) => {
            room.looked_ahead_seconds = Some(*within);
            room.full = low.map(|low| Full {
                low_at: Some(ahead(low)),
                mid_at: None,
                high_at: None,
                confidence: capacity::Confidence::Low.name().to_owned(),
            });
            "beyond"
        }
    }
    .to_owned();
    room
}

fn evidence(forecast: &Forecast, trend: &Trend) -> Evidence {
    Evidence {
        method: trend.method.name().to_owned(),
        from: date(trend.end - trend.span),
        to: date(trend.end),
        peaks: trend.peaks,
        sawtooth_seconds: trend.tooth,
        stretches: trend.stretches,
        growth_changed: trend.changes > 0.0,
        overhead_bytes: forecast.overhead,
        defragmented_at: forecast.resets.iter().map(|at| date(*at)).collect(),
    }
}

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1_000.0
}

/// Forecasts end within years, so every one is a date.
fn date(at: f64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis((at * 1_000.0) as i64).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Size and growth by prefix of keys.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PrefixSizes {
    /// Largest first; empty while `reason` says why.
    pub prefixes: Vec<PrefixSize>,
    /// Why there are none; null when there are.
    pub reason: Option<String>,
}

/// What a prefix holds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PrefixSize {
    /// The prefix, or its salted hash where keys are private.
    pub prefix: String,
    /// When it was measured.
    pub at: DateTime<Utc>,
    /// Keys that live below it.
    pub keys: u64,
    /// Bytes of keys and values that live below it.
    pub live_bytes: u64,
    /// Bytes of all revisions below it.
    pub total_bytes: u64,
    /// Growth of `total_bytes` a day over the measurements of 30 days; null when there are fewer than two.
    pub bytes_per_day: Option<f64>,
}

/// Size and growth by prefix of keys, of the newest measurement. The keyspace of a running etcd is never read for it: a
/// measurement comes from a snapshot, and there is none yet.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/capacity/prefixes", tag = "telemetry", operation_id = "capacityPrefixes",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name")),
    responses(
        (status = 200, body = PrefixSizes),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several clusters have this name"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "The answer would be too large"),
        (status = 502, body = Problem, content_type = "application/problem+json", description = "ClickHouse failed"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "ClickHouse is not there"),
    )
)]
pub async fn prefixes(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
) -> Result<Json<PrefixSizes>, Problem> {
    let _turn = context.turn().await?;
    let found = context.shared.query.prefix_sizes(cluster.summary.id).await?;
    let reason = found.is_empty().then(|| {
        "no snapshot of this cluster was measured; the keyspace of a running etcd is not read for this"
            .to_owned()
    });
    let prefixes = found.into_iter().map(|size| PrefixSize {
        prefix: size.prefix,
        at: size.at,
        keys: size.keys,
        live_bytes: size.live_bytes,
        total_bytes: size.total_bytes,
        bytes_per_day: size.bytes_per_day,
    });
    Ok(Json(PrefixSizes { prefixes: prefixes.collect(), reason }))
}
