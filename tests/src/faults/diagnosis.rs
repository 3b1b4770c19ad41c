//! Diagnoses as the API tells them, and a watch that notes when each was first seen.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::score::{Found, Named};
use crate::api::{Api, stamp};

/// Looked back for those that were opened just before a watch began.
const BACK: Duration = Duration::from_secs(120);

/// Whom a diagnosis names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Culprit {
    kind: String,
    #[serde(default)]
    process_id: u32,
    #[serde(default)]
    comm: String,
    #[serde(default)]
    process: String,
    #[serde(default)]
    pod_uid: String,
}

/// What the lab reads of a diagnosis.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Diagnosis {
    id: String,
    member: String,
    state: State,
    cause: String,
    opened_at: DateTime<Utc>,
    onset_at: DateTime<Utc>,
    culprit: Option<Culprit>,
    #[serde(default)]
    summary: String,
}

/// Whether an incident goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Open,
    Closed,
}

/// Looks at the diagnoses of a cluster again and again.
#[derive(Debug)]
pub struct Watch {
    api: Api,
    cluster: String,
    known: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// It was there when the watch began.
    old: bool,
    open: bool,
    found: Found,
}

impl Watch {
    /// Begins: what is there already is not found by it.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn start(api: &Api, cluster: &str) -> Result<Self> {
        let mut watch = Self { api: api.clone(), cluster: cluster.to_owned(), known: BTreeMap::new() };
        watch.look().await?;
        watch.known.values_mut().for_each(|seen| seen.old = true);
        Ok(watch)
    }

    /// What is open is found by it all the same.
    pub fn find_open(&mut self) {
        self.known.values_mut().for_each(|seen| seen.old &= !seen.open);
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn look(&mut self) -> Result<()> {
        let from = stamp(SystemTime::now() - BACK);
        let path = format!("/api/v1/clusters/{}/diagnoses?from={from}&limit=1000", self.cluster);
        let mut body = self.api.get(&path).await?;
        let told: Vec<Diagnosis> = serde_json::from_value(body["diagnoses"].take())
            .with_context(|| format!("field diagnoses of {path}"))?;
        let now = Utc::now();
        for diagnosis in told {
            self.note(diagnosis, now);
        }
        Ok(())
    }

    fn note(&mut self, told: Diagnosis, now: DateTime<Utc>) {
        let named = told.culprit.map(|culprit| Named {
            kind: culprit.kind,
            process_id: culprit.process_id,
            name: if culprit.process.is_empty() { culprit.comm } else { culprit.process },
            pod_uid: culprit.pod_uid,
        });
        let fresh = Seen {
            old: false,
            open: true,
            found: Found {
                member: told.member,
                cause: told.cause,
                seen_at: now,
                named_at: now,
                opened_at: told.opened_at,
                onset_at: told.onset_at,
                culprit: named.clone(),
                summary: String::new(),
            },
        };
        let seen = self.known.entry(told.id).or_insert(fresh);
        seen.open = told.state == State::Open;
        if !same(seen.found.culprit.as_ref(), named.as_ref()) {
            seen.found.named_at = now;
        }
        seen.found.culprit = named;
        seen.found.onset_at = told.onset_at;
        seen.found.summary = told.summary;
    }

    /// Those that came since the watch began, in the order in which they were first seen.
    pub fn found(&self) -> Vec<Found> {
        let mut found: Vec<Found> =
            self.known.values().filter(|seen| !seen.old).map(|seen| seen.found.clone()).collect();
        found.sort_by_key(|one| one.seen_at);
        found
    }

    /// Whether one of a member and cause is open now.
    pub fn is_open(&self, member: &str, cause: &str) -> bool {
        let same = |seen: &&Seen| seen.open && seen.found.member == member && seen.found.cause == cause;
        self.known.values().any(|seen| same(&seen))
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.known.values().filter(|seen| seen.open).count()
    }
}

/// Whether two statements name the same somebody, or both nobody.
fn same(one: Option<&Named>, other: Option<&Named>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.process_id == other.process_id && one.pod_uid == other.pod_uid,
        (one, other) => one.is_none() && other.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn watch() -> Watch {
        let api = Api::new("http://127.0.0.1:1").unwrap();
        Watch { api, cluster: "c".to_owned(), known: BTreeMap::new() }
    }

    fn told(culprit: &serde_json::Value, state: &str) -> Diagnosis {
        serde_json::from_value(json!({
            "id": "1", "member": "00000000000000a1", "state": state, "cause": "stopped",
            "opened_at": "2026-11-21T10:00:01Z", "onset_at": "2026-11-21T10:00:00Z", "culprit": culprit, "later": 1,
        }))
        .unwrap()
    }

    #[test]
    fn when_a_verdict_was_first_seen_is_apart_from_when_its_culprit_was() {
        let mut watch = watch();
        let at = |second: u32| DateTime::from_timestamp(1_795_255_200 + i64::from(second), 0).unwrap();
        let sender = json!({"kind": "signal", "process_id": 7, "comm": "x", "process": ""});
        watch.note(told(&json!(null), "open"), at(1));
        assert!(
            watch.is_open("00000000000000a1", "stopped") && !watch.is_open("00000000000000a1", "unknown")
        );
        watch.note(told(&sender, "open"), at(3));
        watch.note(told(&sender, "closed"), at(9));
        let [found] = &watch.found()[..] else { panic!("not one") };
        assert_eq!((found.seen_at, found.named_at), (at(1), at(3)));
        let named = found.culprit.as_ref().unwrap();
        assert_eq!((named.process_id, named.name.as_str()), (7, "x"));
        assert_eq!(watch.open(), 0);
    }

    #[test]
    fn what_was_there_at_the_begin_is_not_found() {
        let mut watch = watch();
        watch.note(told(&json!(null), "open"), Utc::now());
        watch.known.values_mut().for_each(|seen| seen.old = true);
        watch.note(told(&json!(null), "open"), Utc::now());
        assert!(watch.found().is_empty() && watch.open() == 1);
        watch.find_open();
        assert_eq!(watch.found().len(), 1, "unless that was asked for");
    }
}
