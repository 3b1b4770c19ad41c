//! The newest samples of all series, under their own names: what members expose themselves, and what agents sample of process,
//! cgroup, disk and node. `docs/formats/series.md` lists those of agents.
//!
//! Histograms come as the series that etcd's page has (`_bucket` with its bounds, `_sum`, `_count`) and are put together again.
//! One that lacks any of them is left out, for it would count wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;

use uuid::Uuid;

use super::family::{Families, Histogram, Kind, Label, Value};
use crate::store::Newest;
use crate::view::{View, hex};

/// A series' labels but for `le`, in the order of their names.
type Labels = Vec<Label>;

#[derive(Default)]
struct Parts {
    /// Bound to count; that of all has the bound infinity.
    buckets: Vec<(f64, f64)>,
    sum: Option<f64>,
    count: Option<f64>,
}

/// Adds them. Series of a node carry `node` and `agent`, and no cluster.
pub fn sampled(families: &mut Families, view: &View, samples: Vec<Newest>) {
    let mut histograms: BTreeMap<(String, Labels), Parts> = BTreeMap::new();
    let mut plain: BTreeMap<String, Vec<(Kind, Labels, f64)>> = BTreeMap::new();
    let buckets: std::collections::HashSet<&str> =
        samples.iter().filter_map(|sample| sample.name.strip_suffix("_bucket")).collect();
    let places = Places::new(view);
    for sample in &samples {
        let own: BTreeMap<String, String> = serde_json::from_str(&sample.labels).unwrap_or_default();
        let bound = own.get("le").and_then(|bound| bound.parse::<f64>().ok());
        let mut labels = places.labels(sample);
        labels.extend(own.into_iter().filter(|(name, _)| name != "le").map(|(name, value)| {
            // A label that etcd's page has under one of our names keeps it, marked as Prometheus does.
            let taken =
                ["cluster", "cluster_id", "member", "member_name", "node", "agent"].contains(&name.as_str());
            (Cow::Owned(if taken { format!("exported_{name}") } else { name }), value)
        }));
        labels.sort();
        let part = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|suffix| Some((sample.name.strip_suffix(suffix)?, suffix)))
            .filter(|(family, _)| buckets.contains(family));
        let Some((family, suffix)) = part else {
            let kind = if sample.kind == "counter" { Kind::Counter } else { Kind::Gauge };
            plain.entry(sample.name.to_string()).or_default().push((kind, labels, sample.value));
            continue;
        };
        let parts = histograms.entry((family.to_owned(), labels)).or_default();
        match (suffix, bound) {
            ("_bucket", Some(bound)) => parts.buckets.push((bound, sample.value)),
            ("_sum", _) => parts.sum = Some(sample.value),
            ("_count", _) => parts.count = Some(sample.value),
            _ => {}
        }
    }
    for (name, series) in plain {
        for (kind, labels, value) in series {
            let help = help(&name);
            families.add(Cow::Owned(name.clone()), help, kind, labels, Value::Number(value));
        }
    }
    for ((name, labels), parts) in histograms {
        if let Some(histogram) = parts.whole() {
            let help = help(&name);
            families.add(Cow::Owned(name), help, Kind::Histogram, labels, Value::Histogram(histogram));
        }
    }
}

fn help(name: &str) -> &'static str {
    if name.starts_with("etcdmon_") {
        "Sampled by the agent: docs/formats/series.md"
    } else {
        "As the member exposes it"
    }
}

impl Parts {
    fn whole(mut self) -> Option<Histogram> {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (bound, all) = self.buckets.pop()?;
        let count = self.count?;
        let rises = self.buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        // Counts are whole numbers far below what a double holds exactly.
        let whole = |count: f64| count as u64;
        (bound == f64::INFINITY && all == count && rises).then_some(Histogram {
            buckets: self.buckets.into_iter().map(|(bound, count)| (bound, whole(count))).collect(),
            sum: self.sum?,
            count: whole(count),
        })
    }
}

/// Labels of where a sample is from.
struct Places<'a> {
    clusters: BTreeMap<Uuid, &'a str>,
    members: BTreeMap<(Uuid, &'a str), &'a str>,
    nodes: BTreeMap<Uuid, &'a str>,
}

impl<'a> Places<'a> {
    fn new(view: &'a View) -> Self {
        let clusters = view.clusters.iter().map(|(id, cluster)| (*id, cluster.summary.name.as_str()));
        let members = view.clusters.iter().flat_map(|(id, cluster)| {
            cluster.members.iter().map(|member| ((*id, member.id.as_str()), member.name.as_str()))
        });
        let nodes = view.agents.iter().map(|agent| (agent.id, agent.node.as_str()));
        Self { clusters: clusters.collect(), members: members.collect(), nodes: nodes.collect() }
    }

    fn labels(&self, sample: &Newest) -> Labels {
        let mut labels: Labels = Vec::new();
        let mut add = |name: &'static str, value: &str| labels.push((Cow::Borrowed(name), value.to_owned()));
        if sample.cluster.is_nil() && sample.member == 0 {
            if let Some(node) = self.nodes.get(&sample.agent) {
                add("node", node);
            }
            add("agent", &sample.agent.to_string());
            return labels;
        }
        if let Some(name) = self.clusters.get(&sample.cluster) {
            add("cluster", name);
        }
        add("cluster_id", &sample.cluster.to_string());
        let member = hex(sample.member);
        if let Some(name) =
            self.members.get(&(sample.cluster, member.as_str())).filter(|name| !name.is_empty())
        {
            add("member_name", name);
        }
        add("member", &member);
        labels
    }
}

#[cfg(test)]
mod tests;
