//! A real database of etcd, filled up to its quota under writes, with compactions and a defragmentation, and recorded as
//! `cargo xtask bench capacity` reads it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::etcd::Cluster;
use crate::load::{Load, Plan};
use crate::metrics::Metrics;
use crate::place::Place;

/// Limit of the database.
const QUOTA: u64 = 96 << 20;

/// Bytes of a value: four to a page less one make pages that are partly empty, as real ones are.
const VALUE_BYTES: usize = 3_000;

/// New keys a second: what lives grows by them.
const NEW_KEYS: u32 = 90;

/// Puts a second to a few keys over and over: what compaction takes away.
const OVERWRITES: u32 = 150;

/// How often old revisions are compacted.
const COMPACT_EVERY: u64 = 12;

/// When the file is defragmented.
const DEFRAGMENT_AT: u64 = 110;

/// It is full long before.
const LIMIT: Duration = Duration::from_secs(600);

/// Records until the file has reached its quota.
///
/// # Errors
/// When etcd does not start or answer, or is not full in time.
pub async fn record(out: &Path) -> Result<()> {
    let place = Place::new()?;
    let quota = format!("--quota-backend-bytes={QUOTA}");
    let cluster = Cluster::builder("fill").members(1).args([quota]).start(&place).await?;
    let url = cluster.members[0].client_url().to_owned();
    let growth = Plan { rate: Some(NEW_KEYS), clients: 2, value_bytes: VALUE_BYTES, keys: u64::MAX };
    let churn = Plan { rate: Some(OVERWRITES), clients: 2, value_bytes: VALUE_BYTES, keys: 100 };
    let _loads = [Load::start(&cluster, &growth)?, Load::start(&cluster, &churn)?];
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let mut text = format!(
        "# A real etcd: {NEW_KEYS} new keys and {OVERWRITES} overwrites a second of {VALUE_BYTES} bytes, compacted every \
         {COMPACT_EVERY} s,\n# defragmented at {DEFRAGMENT_AT} s. First the quota, then seconds, size of the file, pages in \
         use. By `etcdmon-lab record-fill`.\n{QUOTA}\n"
    );
    let (began, mut ticks) = (Instant::now(), interval(Duration::from_secs(1)));
    for second in 0u64.. {
        ticks.tick().await;
        ensure!(began.elapsed() < LIMIT, "not full after {LIMIT:?}");
        let metrics: Metrics = cluster.metrics(0).await?;
        let total = metrics.value("etcd_mvcc_db_total_size_in_bytes")?;
        let in_use = metrics.value("etcd_mvcc_db_total_size_in_use_in_bytes")?;
        writeln!(text, "{second},{total},{in_use}")?;
        if total >= QUOTA as f64 {
            break;
        }
        if second % COMPACT_EVERY == COMPACT_EVERY - 1 {
            let status = post(&http, &url, "maintenance/status", &json!({})).await?;
            let revision = status["header"]["revision"].as_str().context("no revision")?.to_owned();
            post(&http, &url, "kv/compaction", &json!({"revision": revision})).await?;
        }
        if second == DEFRAGMENT_AT {
            post(&http, &url, "maintenance/defragment", &json!({})).await?;
        }
    }
    std::fs::write(out, text).with_context(|| out.display().to_string())
}

/// A call of etcd's API over its JSON gateway.
async fn post(http: &reqwest::Client, url: &str, path: &str, body: &Value) -> Result<Value> {
    let response = http.post(format!("{url}/v3/{path}")).json(body).send().await?;
    response.error_for_status()?.json().await.with_context(|| path.to_owned())
}
