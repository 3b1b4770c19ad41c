//! Makes sure that an earlier attempt to insert is over.
//!
//! An insert outlives its client: as long as it may still be running, a table's answer to "what do you have" may be
//! outdated the moment it is given. So an attempt of uncertain outcome is ended first: given up at the embedded engine's
//! endpoint (so that it cannot begin any more), killed synchronously, and looked for in `system.processes` until it is
//! gone. A child that was restarted has no earlier attempts.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::engine::http::ABANDON_HEADER;

/// Query ids of inserts begin with this, then follows the aggregator's process.
pub const PREFIX: &str = "etcdmon-insert-";

/// How long other processes' inserts may take to end by themselves.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(clickhouse::Row, Deserialize)]
struct Running {
    tag: String,
}

/// Ends one attempt and returns when it is over.
pub async fn end_attempt(client: &clickhouse::Client, query_id: &str) -> clickhouse::error::Result<()> {
    let client = client.clone().with_header(ABANDON_HEADER, query_id);
    loop {
        kill(&client, query_id).await?;
        if !is_running(&client, query_id).await? {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until inserts of other aggregator processes that run now are over; those that take long are killed. A batch
/// that was sent before may be in one of them.
pub async fn await_foreign(client: &clickhouse::Client, instance: &str) -> clickhouse::error::Result<()> {
    let mut foreign = running(client).await?;
    foreign.retain(|id| !id.starts_with(instance));
    let deadline = Instant::now() + FOREIGN_PATIENCE;
    while !foreign.is_empty() {
        if Instant::now() > deadline {
            for query_id in &foreign {
                tracing::warn!(%query_id, "killing another process's insert that does not end");
                end_attempt(client, query_id).await?;
            }
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
        let now = running(client).await?;
        foreign.retain(|id| now.contains(id));
    }
    Ok(())
}

/// The comment that the embedded engine's endpoint puts in front of a statement.
fn tag(query_id: &str) -> String {
    format!("/* query_id:{query_id} */")
}

async fn kill(client: &clickhouse::Client, query_id: &str) -> clickhouse::error::Result<()> {
    client
        .query_raw("KILL QUERY WHERE query_id = {id:String} OR startsWith(query, {tag:String}) SYNC")
        .param("id", query_id)
        .param("tag", tag(query_id))
        .execute()
        .await
}

async fn is_running(client: &clickhouse::Client, query_id: &str) -> clickhouse::error::Result<bool> {
    let count: u64 = client
        .query_raw(
            "SELECT count() FROM system.processes WHERE query_id = {id:String} OR startsWith(query, {tag:String})",
        )
        .param("id", query_id)
        .param("tag", tag(query_id))
        .fetch_one()
        .await?;
    Ok(count > 0)
}

/// Query ids of all inserts of aggregators that run now.
async fn running(client: &clickhouse::Client) -> clickhouse::error::Result<Vec<String>> {
    let found: Vec<Running> = client
        .query_raw(
            "SELECT if(startsWith(query_id, {prefix:String}), query_id, \
             extract(query, '^/\\\\* query_id:([^ ]+) \\\\*/')) AS tag FROM system.processes \
             WHERE startsWith(query_id, {prefix:String}) OR startsWith(query, concat('/* query_id:', {prefix:String}))",
        )
        .param("prefix", PREFIX)
        .fetch_all()
        .await?;
    Ok(found.into_iter().map(|running| running.tag).collect())
}
