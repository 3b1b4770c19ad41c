//! Names of clusters and members for whoever reads the tables: what the aggregator sees, written when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use crate::store::Client;
use crate::view::View;

/// (cluster, member) to (cluster's name, etcd cluster id, member's name, version, node, agent).
type Known = BTreeMap<(Uuid, u64), (String, u64, String, String, String, Uuid)>;

/// A row of the table, in the order of the statement.
type Row<'a> = (String, u64, &'a str, u64, &'a str, &'a str, &'a str, String);

/// See the module.
pub struct Names {
    client: Client,
    view: watch::Receiver<Arc<View>>,
    written: Known,
}

impl Names {
    /// From what `view` shows into the table behind `client`.
    pub fn new(client: Client, view: watch::Receiver<Arc<View>>) -> Self {
        Self { client, view, written: Known::new() }
    }

    /// Writes what is new. Writing the same again changes nothing.
    ///
    /// # Errors
    /// When ClickHouse is away or refuses.
    pub async fn write(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut news = known(&self.view.borrow().clone());
        news.retain(|place, names| self.written.get(place) != Some(names));
        if news.is_empty() {
            return Ok(());
        }
        let rows: Vec<Row<'_>> = news
            .iter()
            .map(|((cluster, member), (name, etcd_id, member_name, version, node, agent))| {
                let (cluster, agent) = (cluster.to_string(), agent.to_string());
                (
                    cluster,
                    *member,
                    name.as_str(),
                    *etcd_id,
                    member_name.as_str(),
                    version.as_str(),
                    node.as_str(),
                    agent,
                )
            })
            .collect();
        self.client
            .connect()?
            .query_raw(
                "INSERT INTO members (cluster, member, cluster_name, etcd_cluster_id, member_name, etcd_version, node, agent, seen_at) \
                 SELECT it.1, it.2, it.3, it.4, it.5, it.6, it.7, it.8, now64(3) FROM (SELECT arrayJoin({rows:Array(Tuple(String, \
                 UInt64, String, UInt64, String, String, String, UUID))}) AS it)",
            )
            .param("rows", &rows)
            .with_setting("async_insert", "0")
            .execute()
            .await?;
        self.written.append(&mut news);
        Ok(())
    }
}

fn known(view: &View) -> Known {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut known = Known::new();
    for (cluster, shown) in &view.clusters {
        let etcd_id = hex(&shown.summary.etcd_cluster_id).unwrap_or(0);
        for member in &shown.members {
            let Some(id) = hex(&member.id) else { continue };
            let names = (
                shown.summary.name.clone(),
                etcd_id,
                member.name.clone(),
                member.version.clone(),
                member.node.clone().unwrap_or_default(),
                member.agent.unwrap_or(Uuid::nil()),
            );
            known.insert((*cluster, id), names);
        }
    }
    known
}
