//! The HTTP interface: REST with an OpenAPI 3.1 description, health, metrics. Handlers are thin: parse, call, render.
//!
//! Whatever goes wrong is answered as `application/problem+json` (RFC 9457). On loopback anybody on the host may read,
//! but only under a loopback host name, so that a web page can't reach us by rebinding its own name; elsewhere a bearer
//! token is needed. What changes something needs an administrator everywhere; nothing here touches etcd.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::sync::{Semaphore, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::agentless::Agentless;
use crate::clock::Clock;
use crate::enrol::DeskHandle;
use crate::expose::Sources;
use crate::query::Query;
use crate::sql::Sql;
use crate::view::View;

mod access;
mod agentless;
mod capacity;
pub mod clickhouse;
mod clusters;
mod diagnoses;
mod enrolment;
mod events;
mod extract;
mod problem;
mod remainder;
mod slow_syncs;
mod sql;
mod system;
mod telemetry;

pub use access::Access;
pub use problem::Problem;
pub use system::Health;

/// A request that has no answer after this long is given up.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest request body, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Questions to ClickHouse at the same time; more wait until [`TIMEOUT`].
const QUERIES: usize = 8;

/// What handlers work with.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    view: watch::Receiver<Arc<View>>,
    query: Query,
    queries: Semaphore,
    sql: Sql,
    health: Health,
    exposition: Arc<Sources>,
    agentless: Agentless,
    /// Whether requests show a token.
    has_token: bool,
    openapi: String,
    desk: Option<DeskHandle>,
}

/// What the API is made of.
pub struct Parts {
    /// Its clock.
    pub clock: Clock,
    /// What is now.
    pub view: watch::Receiver<Arc<View>>,
    /// What is stored.
    pub query: Query,
    /// SQL of users.
    pub sql: Sql,
    /// How the process is.
    pub health: Health,
    /// What `/metrics` shows.
    pub exposition: Arc<Sources>,
    /// What is watched without agents.
    pub agentless: Agentless,
    /// Where agents enrol, if they do.
    pub desk: Option<DeskHandle>,
    /// Who may ask.
    pub access: Access,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "etcd-monitor",
        description = "What etcd-monitor knows of etcd clusters. Times are RFC 3339; ids of members and etcd clusters are 16 hexadecimal digits; a cluster is named by its UUID, its etcd cluster id or its name.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "clusters", description = "Clusters, members and leaders now"),
        (name = "telemetry", description = "What was stored, by time range; the last hour unless asked otherwise"),
        (name = "sql", description = "One read-only SELECT over what was stored"),
        (name = "diagnoses", description = "Why members are or were slow, and who did it"),
        (name = "alerts", description = "Alerts now and of the last day"),
        (name = "agentless", description = "Clusters that are watched without agents"),
        (name = "enrolment", description = "How agents come by their certificates, and lose them"),
        (name = "system", description = "The aggregator itself"),
    ),
)]
struct Description;

fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(system::index))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
        .routes(routes!(system::openapi))
        .routes(routes!(clusters::clusters))
        .routes(routes!(clusters::cluster))
        .routes(routes!(clusters::members))
        .routes(routes!(clusters::leader))
        .routes(routes!(clusters::alerts))
        .routes(routes!(clusters::agents))
        .routes(routes!(agentless::list, agentless::add))
        .routes(routes!(agentless::one, agentless::edit, agentless::remove))
        .routes(routes!(enrolment::tokens, enrolment::create_token))
        .routes(routes!(enrolment::revoke_token))
        .routes(routes!(enrolment::certificates))
        .routes(routes!(enrolment::events))
        .routes(routes!(enrolment::revoke_agent))
        .routes(routes!(telemetry::current_metrics))
        .routes(routes!(telemetry::syncs))
        .routes(routes!(telemetry::sync_counts))
        .routes(routes!(slow_syncs::slow_syncs))
        .routes(routes!(telemetry::latency))
        .routes(routes!(telemetry::ledger))
        .routes(routes!(events::events))
        .routes(routes!(sql::sql))
        .routes(routes!(capacity::capacity))
        .routes(routes!(capacity::prefixes))
        .routes(routes!(diagnoses::diagnoses))
        .routes(routes!(diagnoses::diagnosis))
}

/// The OpenAPI description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut description = routes().into_openapi();
    description.info.version = env!("CARGO_PKG_VERSION").to_owned();
    access::describe(&mut description);
    description
}

/// The whole interface twice: for the port, and for the socket of the owner of the state.
pub fn routers(parts: Parts) -> (Router, Router) {
    let openapi = openapi().to_json().unwrap_or_else(|error| {
        tracing::error!(%error, "OpenAPI description not encoded");
        "{}".to_owned()
    });
    let shared = Shared {
        clock: parts.clock,
        view: parts.view,
        query: parts.query,
        queries: Semaphore::new(QUERIES),
        sql: parts.sql,
        health: parts.health,
        exposition: parts.exposition,
        agentless: parts.agentless,
        has_token: matches!(parts.access, Access::Token { .. }),
        openapi,
        desk: parts.desk,
    };
    let context = Context { shared: Arc::new(shared) };
    (layered(context.clone(), parts.access), layered(context, Access::Owner))
}

fn layered(context: Context, access: Access) -> Router {
    let (router, _description) = routes().split_for_parts();
    router
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "no such path; see /api/openapi.json") })
        .with_state(context)
        .layer(from_fn_with_state(Arc::new(access), access::check))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(problem::within_time))
        .layer(CatchPanicLayer::new())
        .layer(from_fn(problem::render))
        .layer(from_fn(remainder::take_in))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}
