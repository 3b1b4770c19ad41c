//! The telemetry store: how it is, how large, and what became of it.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::system::StoreStatus;
use super::{Context, Problem};
use crate::engine::room::Neighbour;
use crate::engine::{Facts, Fall};
use crate::store::upkeep::Upkeep;

/// What is known of the store; nothing of the embedded engine when it is a server by URL.
#[derive(Clone, Debug, Default)]
pub struct StoreFacts {
    /// The engine.
    pub engine: Option<watch::Receiver<Facts>>,
    /// Its store.
    pub upkeep: Option<watch::Receiver<Upkeep>>,
    /// An etcd on its disk.
    pub beside: Option<Neighbour>,
}

/// The telemetry store.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StoreView {
    /// `embedded`, or `server`: a ClickHouse by URL, which is its own administrator's to look after.
    pub mode: String,
    /// How it is.
    pub status: StoreStatus,
    /// The embedded engine.
    pub engine: Option<EngineView>,
    /// Size, dropped days, lost parts.
    pub upkeep: Option<Upkeep>,
}

/// The embedded engine.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EngineView {
    /// It answers.
    pub running: bool,
    /// For how long it has been starting, in seconds; null when it is not.
    pub starting_seconds: Option<u64>,
    /// Times that it ended without being told to.
    pub restarts: u64,
    /// Why, and how often.
    pub falls: Vec<FallView>,
    /// Why it ended the last time, or could not start.
    pub last_error: Option<String>,
    /// Memory of its own that it takes, in bytes.
    pub memory_bytes: u64,
    /// Bytes free on its disk.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of its whole disk.
    pub disk_total_bytes: Option<u64>,
    /// Nothing is stored for want of room. Agents keep what they have; it goes on by itself.
    pub disk_full: bool,
    /// The etcd whose data are on the same disk, where each slows the other down.
    pub etcd_on_disk: Option<EtcdView>,
}

/// How often it ended for a reason.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FallView {
    /// `crash`, `write` (its disk did not take something), `memory`, `hang` or `start`.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// An etcd on the engine's disk.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EtcdView {
    /// Its process id when the aggregator started.
    pub pid: u32,
    /// Its data directory.
    pub data_dir: String,
}

/// The telemetry store: how it is, its size, what was dropped to keep within its room, parts that can't be read.
#[utoipa::path(
    get, path = "/api/v1/store", tag = "system", operation_id = "store",
    responses(
        (status = 200, body = StoreView),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn store(State(context): State<Context>) -> Json<StoreView> {
    let facts = &context.shared.store;
    Json(StoreView {
        mode: if facts.engine.is_some() { "embedded" } else { "server" }.to_owned(),
        status: context.shared.health.store_status(),
        engine: facts.engine.as_ref().map(|engine| view(&engine.borrow(), facts.beside.as_ref())),
        upkeep: facts.upkeep.as_ref().map(|upkeep| upkeep.borrow().clone()),
    })
}

fn view(facts: &Facts, beside: Option<&Neighbour>) -> EngineView {
    let fall = |fall: Fall| FallView { reason: fall.name().to_owned(), count: facts.falls[fall as usize] };
    EngineView {
        running: facts.running,
        starting_seconds: facts.starting.map(|(age, _)| age.as_secs()),
        restarts: facts.restarts,
        falls: Fall::ALL.map(fall).into(),
        last_error: facts.last_error.clone(),
        memory_bytes: facts.memory_bytes,
        disk_free_bytes: facts.room.map(|room| room.free_bytes),
        disk_total_bytes: facts.room.map(|room| room.total_bytes),
        disk_full: facts.room.is_some_and(|room| room.full),
        etcd_on_disk: beside
            .map(|etcd| EtcdView { pid: etcd.pid, data_dir: etcd.data_dir.display().to_string() }),
    }
}
