//! The body of a notice: Alertmanager's webhook format, version 4.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{Ended, GROUP_BY, Group, Reason, Situation};
use crate::clock::At;
use crate::rule::Labels;

/// Most alerts in one body; the rest is counted in `truncatedAlerts`.
pub const MAX_ALERTS_PER_NOTICE: usize = 200;

/// What Alertmanager writes for "has not ended".
const NO_END: &str = "0001-01-01T00:00:00Z";

/// The body, without `receiver`, which the channel fills in.
pub fn body(
    situation: &Situation<'_>,
    group: &str,
    firing: &Group<'_>,
    ended: &Ended,
    reason: Reason,
) -> Value {
    let time = |at: At| rfc3339(at.shifted(situation.offset_ns).date());
    let link = |id: &str| format!("{}/api/v1/alerts#{id}", situation.external_url);
    let mut alerts = Vec::new();
    let mut labels = Vec::new();
    let mut notes = Vec::new();
    for (id, alert) in firing {
        let id = id.to_string();
        alerts.push(json!({
            "status": "firing", "labels": alert.labels, "annotations": alert.annotations,
            "startsAt": time(alert.fired_at.unwrap_or(alert.started_at)), "endsAt": NO_END,
            "generatorURL": link(&id), "fingerprint": id,
        }));
        labels.push(&alert.labels);
        notes.push(&alert.annotations);
    }
    for (id, (told, end)) in ended.iter().filter(|(id, _)| !firing.contains_key(id)) {
        let id = id.to_string();
        alerts.push(json!({
            "status": "resolved", "labels": told.labels, "annotations": told.annotations,
            "startsAt": time(told.fired_at), "endsAt": time(*end),
            "generatorURL": link(&id), "fingerprint": id,
        }));
        labels.push(&told.labels);
        notes.push(&told.annotations);
    }
    let common = common(&labels);
    let group_labels: Labels =
        GROUP_BY.iter().filter_map(|name| Some(((*name).to_owned(), common.get(*name)?.clone()))).collect();
    let truncated = alerts.len().saturating_sub(MAX_ALERTS_PER_NOTICE);
    alerts.truncate(MAX_ALERTS_PER_NOTICE);
    json!({
        "version": "4",
        "groupKey": group,
        "truncatedAlerts": truncated,
        "status": if firing.is_empty() { "resolved" } else { "firing" },
        "receiver": "",
        "groupLabels": group_labels,
        "commonLabels": common,
        "commonAnnotations": self::common(&notes),
        "externalURL": situation.external_url,
        "notification_reason": reason.name(),
        "alerts": alerts,
    })
}

/// What all have in common.
fn common(all: &[&Labels]) -> Labels {
    let Some((first, rest)) = all.split_first() else { return Labels::new() };
    let shared = |name: &String, value: &String| rest.iter().all(|labels| labels.get(name) == Some(value));
    first
        .iter()
        .filter(|(name, value)| shared(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A date as every body and answer writes it.
pub fn rfc3339(date: DateTime<Utc>) -> String {
    date.to_rfc3339_opts(SecondsFormat::Millis, true)
}
