//! Whether what is stored is what was produced, as anybody can see it over the API.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::content::{Content, Produced, STREAMS};
use crate::api::Api;

/// A row of the account over the API.
#[derive(Debug, Deserialize)]
struct Row {
    member: String,
    stream: String,
    produced: u64,
    stored: u64,
    dropped: BTreeMap<String, u64>,
    blind: Vec<serde_json::Value>,
    balanced: bool,
    difference: i64,
    minute: String,
}

/// The sums of one stream of one member.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    produced: u64,
    stored: u64,
    dropped: u64,
    blind: u64,
}

/// Compares a cluster's books with what its agents produced up to a sequence each.
///
/// # Errors
/// When they differ; the message says where. Also when the API does not answer.
pub(super) async fn cluster(api: &Api, range: &str, agents: &[(Content, u64)]) -> Result<Produced> {
    let etcd_id = agents.first().context("a cluster without agents")?.0.cluster_id();
    let id = api.cluster(etcd_id).await?;
    let mut body = api.get(&format!("/api/v1/clusters/{id}/ledger?{range}")).await?;
    let rows: Vec<Row> = serde_json::from_value(body["rows"].take())?;
    let mut sums: BTreeMap<(String, String), Sums> = BTreeMap::new();
    for row in rows {
        let even = row.balanced && row.difference == 0;
        ensure!(
            even,
            "the account of {} of {} at {} is not even: {row:?}",
            row.stream,
            row.member,
            row.minute
        );
        let sum = sums.entry((row.member, row.stream)).or_default();
        sum.produced += row.produced;
        sum.stored += row.stored;
        sum.dropped += row.dropped.values().sum::<u64>();
        sum.blind += row.blind.len() as u64;
    }
    let mut all = Produced::default();
    for (content, last) in agents {
        let mut wanted = Produced::default();
        (1..=*last).for_each(|sequence| wanted.add(&content.produced(sequence)));
        for stream in STREAMS {
            let member = format!("{:016x}", content.member_id());
            let count = wanted.stream(stream);
            let found = sums.remove(&(member.clone(), stream.to_owned())).unwrap_or_default();
            let right = Sums { produced: count, stored: count, ..Sums::default() };
            ensure!(
                found == right,
                "member {member}, stream {stream}: {count} were produced in {last} batches, the books say {found:?}"
            );
        }
        all.add(&wanted);
    }
    ensure!(sums.is_empty(), "the books have what nobody produced: {sums:?}");
    let latency = api.get(&format!("/api/v1/clusters/{id}/latency?{range}")).await?;
    let stored = (latency["count"].as_u64(), latency["sum_ns"].as_u64());
    ensure!(
        stored == (Some(all.syncs), Some(all.sum_ns)),
        "{} syncs of {} ns were produced, stored are {stored:?}",
        all.syncs,
        all.sum_ns
    );
    Ok(all)
}
