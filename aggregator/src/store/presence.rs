//! Which rows of a batch a table already has.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use uuid::Uuid;

use super::decode::BatchId;
use super::table::Table;

/// Rows of batches that a table has.
pub type Present = HashMap<BatchId, HashSet<u32>>;

/// What is asked: batches, and the range of wall time that their rows lie in.
#[derive(Clone, Debug, Default)]
pub struct Question {
    batches: Vec<BatchId>,
    range: Option<(i64, i64)>,
}

impl Question {
    /// Adds a batch's rows at these times.
    pub fn add(&mut self, batch: BatchId, times: &[i64]) {
        self.batches.push(batch);
        for time in times {
            let (from, to) = self.range.get_or_insert((*time, *time));
            *from = (*from).min(*time);
            *to = (*to).max(*time);
        }
    }
}

#[derive(clickhouse::Row, Deserialize)]
struct Found {
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    epoch: Uuid,
    sequence: u64,
    found: Vec<u32>,
}

/// Asks a table. Times only narrow the search: a batch is byte-identical on every resend, so its rows have the same
/// times each time.
pub async fn ask(
    client: &clickhouse::Client,
    table: Table,
    question: &Question,
) -> clickhouse::error::Result<Present> {
    let Some((from, to)) = question.range else { return Ok(Present::new()) };
    let sql = format!(
        "SELECT agent, epoch, sequence, groupArray(row) AS found FROM {} \
         WHERE at >= fromUnixTimestamp64Nano({{from:Int64}}, 'UTC') AND at <= fromUnixTimestamp64Nano({{to:Int64}}, 'UTC') \
         AND (agent, epoch, sequence) IN \
         (SELECT batch.1, batch.2, batch.3 FROM (SELECT arrayJoin({{batches:Array(Tuple(UUID, UUID, UInt64))}}) AS batch)) \
         GROUP BY agent, epoch, sequence",
        table.name()
    );
    let batches: Vec<(String, String, u64)> =
        question.batches.iter().map(|id| (id.agent.to_string(), id.epoch.to_string(), id.sequence)).collect();
    let found: Vec<Found> = client
        .query_raw(&sql)
        .param("from", from)
        .param("to", to)
        .param("batches", &batches)
        // Parts being merged or not yet merged are read alike; nothing is cached between two questions.
        .with_setting("use_query_cache", "0")
        .fetch_all()
        .await?;
    let present = found.into_iter().map(|row| {
        let id = BatchId { agent: row.agent, epoch: row.epoch, sequence: row.sequence };
        (id, row.found.into_iter().collect())
    });
    Ok(present.collect())
}
