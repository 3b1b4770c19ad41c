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
pub async fn end_attempt(
    client: &clickhouse::Client,
    on: On<'_>,
    query_id: &str,
) -> clickhouse::error::Result<()> {
    let client = client.clone().with_header(ABANDON_HEADER, query_id);
    loop {
        kill(&client, on, query_id).await?;
        if !is_running(&client, on, query_id).await? {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until inserts of other aggregator processes that run now are over; those that take long are killed. A batch
/// that was sent before may be in one of them.
pub async fn await_foreign(
    client: &clickhouse::Client,
    on: On<'_>,
    instance: &str,
) -> clickhouse::error::Result<()> {
    let mut foreign = running(client, on).await?;
    foreign.retain(|id| !id.starts_with(instance));
    let deadline = Instant::now() + FOREIGN_PATIENCE;
    while !foreign.is_empty() {
        if Instant::now() > deadline {
            for query_id in &foreign {
                tracing::warn!(%query_id, "killing another process's insert that does not end");
                end_attempt(client, on, query_id).await?;
            }
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
        let now = running(client, on).await?;
        foreign.retain(|id| now.contains(id));
    }
    Ok(())
}

/// The comment that the embedded engine's endpoint puts in front of a statement.
fn tag(query_id: &str) -> String {
    format!("/* query_id:{query_id} */")
}

/// Where inserts may run: this server, or a cluster by its name.
#[derive(Clone, Copy)]
pub struct On<'a>(pub Option<&'a str>);

impl On<'_> {
    /// What runs there now.
    fn processes(self) -> String {
        self.0.map_or_else(
            || "system.processes".to_owned(),
            |cluster| format!("clusterAllReplicas('{cluster}', system.processes)"),
        )
    }

    fn clause(self) -> String {
        self.0.map(|cluster| format!("ON CLUSTER '{cluster}' ")).unwrap_or_default()
    }

    /// The statement of that name: on a cluster also its parts on other hosts.
    const fn named(self) -> &'static str {
        match self.0 {
            None => "query_id = {id:String} OR startsWith(query, {tag:String})",
            Some(_) => "initial_query_id = {id:String}",
        }
    }
}

async fn kill(client: &clickhouse::Client, on: On<'_>, query_id: &str) -> clickhouse::error::Result<()> {
    client
        .query_raw(&format!("KILL QUERY {}WHERE {} SYNC", on.clause(), on.named()))
        .param("id", query_id)
        .param("tag", tag(query_id))
        .execute()
        .await
}

async fn is_running(
    client: &clickhouse::Client,
    on: On<'_>,
    query_id: &str,
) -> clickhouse::error::Result<bool> {
    let count: u64 = client
        .query_raw(&format!("SELECT count() FROM {} WHERE {}", on.processes(), on.named()))
        .param("id", query_id)
        .param("tag", tag(query_id))
        .fetch_one()
        .await?;
    Ok(count > 0)
}

/// Query ids of all inserts of aggregators that run now.
async fn running(client: &clickhouse::Client, on: On<'_>) -> clickhouse::error::Result<Vec<String>> {
    let found: Vec<Running> = client
        .query_raw(&format!(
            "SELECT if(startsWith(query_id, {{prefix:String}}), query_id, \
             extract(query, '^/\\\\* query_id:([^ ]+) \\\\*/')) AS tag FROM {} \
             WHERE startsWith(query_id, {{prefix:String}}) OR startsWith(query, concat('/* query_id:', {{prefix:String}}))",
            on.processes()
        ))
        .param("prefix", PREFIX)
        .fetch_all()
        .await?;
    Ok(found.into_iter().map(|running| running.tag).collect())
}
