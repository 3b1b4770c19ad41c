//! The aggregator itself: health, metrics, description.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{Context, Problem};
use crate::engine::Facts;
use crate::export::Format;
use crate::store::Store;

/// Every evaluation makes a view; after this long without one it hangs and the process should be restarted.
const HANGING_AFTER: Duration = Duration::from_secs(30);

/// How the process is. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    serving: Arc<AtomicBool>,
    store: Store,
    engine: Option<watch::Receiver<Facts>>,
}

impl Health {
    /// Not ready yet.
    pub fn new(store: Store, engine: Option<watch::Receiver<Facts>>) -> Self {
        Self { serving: Arc::new(AtomicBool::new(false)), store, engine }
    }

    /// Says whether the process takes requests: true after its start, false from the order to end.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    fn store_status(&self) -> StoreStatus {
        let engine = self.engine.as_ref().map(|facts| facts.borrow().clone());
        let down = engine.as_ref().is_some_and(|facts| !facts.running);
        let trouble = self.store.trouble();
        let status = match (down, self.store.is_ready(), &trouble) {
            (true, ..) => "unavailable",
            (false, false, _) => "starting",
            (false, true, Some(_)) => "failing",
            (false, true, None) => "ok",
        };
        let reason = engine.filter(|facts| !facts.running).and_then(|facts| facts.last_error).or(trouble);
        StoreStatus { status: status.to_owned(), reason }
    }
}

/// How the telemetry store is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// `ok`, `starting`, `unavailable`, or `failing`: it is there and does not take what is to be stored.
    pub status: String,
    /// Why it is not well, if that is known.
    pub reason: Option<String>,
}

/// Whether the aggregator is ready.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Ready: it takes agents and requests, and alerts work.
    pub ready: bool,
    /// Why it is not.
    pub reason: Option<String>,
    /// The telemetry store. It may be away while the aggregator is ready: batches wait, and alerts go on without it.
    pub store: StoreStatus,
}

/// Whether the aggregator is alive.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Liveness {
    /// `ok`.
    pub status: String,
}

/// Where to go from here.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Index {
    /// `etcd-monitor`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Paths worth a look.
    pub paths: Vec<String>,
}

/// What this is, and where to go from here.
#[utoipa::path(
    get, path = "/", tag = "system", operation_id = "index",
    responses(
        (status = 200, body = Index),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn index() -> Json<Index> {
    let paths = [
        "/api/v1/clusters",
        "/api/v1/alerts",
        "/api/v1/agents",
        "/api/openapi.json",
        "/metrics",
        "/healthz",
        "/readyz",
    ];
    Json(Index {
        name: "etcd-monitor".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        paths: paths.map(str::to_owned).to_vec(),
    })
}

/// Whether the process is alive: it answers, and the evaluation of rules goes on.
#[utoipa::path(
    get, path = "/healthz", tag = "system", operation_id = "healthz", security(()),
    responses(
        (status = 200, body = Liveness),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Rules are no longer evaluated"),
    )
)]
pub async fn healthz(State(context): State<Context>) -> Result<Json<Liveness>, Problem> {
    let made_at = context.shared.view.borrow().made_at;
    let age = context.shared.clock.now().since(made_at);
    if age > HANGING_AFTER {
        let detail = format!("rules were last evaluated {} s ago", age.as_secs());
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    Ok(Json(Liveness { status: "ok".to_owned() }))
}

/// Whether it is ready. The store being away is shown, and does not make it unready: agents must still be taken in and
/// alerts go out.
#[utoipa::path(
    get, path = "/readyz", tag = "system", operation_id = "readyz", security(()),
    responses(
        (status = 200, body = Readiness),
        (status = 503, body = Readiness, description = "Starting, shutting down, or a task has panicked"),
    )
)]
pub async fn readyz(State(context): State<Context>) -> Response {
    let health = &context.shared.health;
    let panics = etcdmon_service::process::panics();
    let reason = if !health.serving.load(Ordering::Acquire) {
        Some("starting or shutting down".to_owned())
    } else if panics > 0 {
        Some(format!("{panics} tasks have panicked; restart it and report the log"))
    } else {
        None
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness { ready: reason.is_none(), reason, store: health.store_status() };
    (status, Json(readiness)).into_response()
}

/// Metrics of clusters, members and the aggregator itself, in Prometheus's text form, or in OpenMetrics where `Accept` prefers
/// that.
#[utoipa::path(
    get, path = "/metrics", tag = "system", operation_id = "metrics",
    responses(
        (status = 200, description = "All metrics", content(
            (String = "text/plain"),
            (String = "application/openmetrics-text"),
        )),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn metrics(State(context): State<Context>, headers: HeaderMap) -> Result<Response, Problem> {
    let format = Format::accepted(headers.get(ACCEPT).and_then(|value| value.to_str().ok()));
    let sources = Arc::clone(&context.shared.exposition);
    // A large fleet's page takes a while to be written.
    let text = tokio::task::spawn_blocking(move || format.write(&sources.families())).await;
    let text = text.map_err(|_panic| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written; the log says why")
    })?;
    Ok(([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], text).into_response())
}

/// This description.
#[utoipa::path(
    get, path = "/api/openapi.json", tag = "system", operation_id = "openapi",
    responses(
        (status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn openapi(State(context): State<Context>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], context.shared.openapi.clone())
}
