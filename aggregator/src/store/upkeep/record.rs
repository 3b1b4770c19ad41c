//! What became of the store, told as events of the node in its own tables.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use uuid::Uuid;

use super::{DroppedDay, LostPart, Sql, UpkeepError};

/// Kind of the event of a part that can't be read.
pub const PART_LOST: &str = "store.part_lost";

/// Kind of the event that says what of it was lost.
pub const LOSS_ACCOUNTED: &str = "store.loss_accounted";

/// Kind of the event of days that were dropped.
const RETENTION: &str = "store.retention";

/// The aggregator as it signs its rows: an agent of its own, an epoch a process.
pub struct Author {
    agent: Uuid,
    epoch: Uuid,
    sequence: AtomicU64,
}

impl Author {
    pub fn new(agent: Uuid) -> Self {
        Self { agent, epoch: Uuid::new_v4(), sequence: AtomicU64::new(0) }
    }

    pub async fn part_lost(&self, sql: &Sql, lost: &LostPart) -> Result<(), UpkeepError> {
        self.tell(sql, PART_LOST, &json!(lost)).await
    }

    pub async fn loss_accounted(&self, sql: &Sql, lost: &LostPart, rows: u64) -> Result<(), UpkeepError> {
        self.tell(sql, LOSS_ACCOUNTED, &json!({"table": lost.table, "part": lost.part, "rows": rows})).await
    }

    pub async fn day_dropped(&self, sql: &Sql, day: &DroppedDay) -> Result<(), UpkeepError> {
        self.tell(sql, RETENTION, &json!(day)).await
    }

    async fn tell(&self, sql: &Sql, kind: &str, details: &serde_json::Value) -> Result<(), UpkeepError> {
        let query = sql
            .query(
                "INSERT INTO events (agent, epoch, sequence, row, cluster, member, at, kind, details) \
                 SELECT {agent:UUID}, {epoch:UUID}, {sequence:UInt64}, 0, '00000000-0000-0000-0000-000000000000', 0, \
                 now64(9), {kind:String}, {details:String}",
            )
            .param("agent", self.agent.to_string())
            .param("epoch", self.epoch.to_string())
            .param("sequence", self.sequence.fetch_add(1, Ordering::Relaxed))
            .param("kind", kind)
            .param("details", details.to_string());
        sql.run("write an event", query).await
    }
}
