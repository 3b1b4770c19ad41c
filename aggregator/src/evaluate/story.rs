//! What became of diagnoses, a line each: opened, updated (surer, or somebody else is to blame), closed. The lines go into the
//! state's log with everything else, and from there to ClickHouse ([`crate::transcript`]).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::diagnosis::DiagnosisView;

/// What was said of the diagnoses that are open.
#[derive(Debug, Default)]
pub struct Story {
    told: BTreeMap<Uuid, String>,
}

impl Story {
    /// Takes up a diagnosis of the process before, of which was told already.
    pub fn restore(&mut self, record: &Value) {
        if let Some(view) = view(record).filter(DiagnosisView::is_open) {
            self.told.insert(view.id, said(&view));
        }
    }

    /// The line for a record that was written; `None` when it says nothing new.
    pub fn line(&mut self, record: &Value) -> Option<Value> {
        let view = view(record)?;
        let transition = if view.is_open() {
            let now = said(&view);
            match self.told.insert(view.id, now.clone()) {
                None => "opened",
                Some(before) if before != now => "updated",
                Some(_) => return None,
            }
        } else {
            self.told.remove(&view.id);
            "closed"
        };
        Some(json!({"transition": transition, "diagnosis": record}))
    }

    /// Forgets a diagnosis whose record was removed.
    pub fn forget(&mut self, id: Uuid) {
        self.told.remove(&id);
    }
}

fn view(record: &Value) -> Option<DiagnosisView> {
    serde::Deserialize::deserialize(record).ok()
}

/// What makes a difference to whoever reads it.
fn said(view: &DiagnosisView) -> String {
    let culprit = view.culprit.as_ref().map(|culprit| culprit.name()).unwrap_or_default();
    format!("{} {culprit}", view.confidence.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(confidence: &str, culprit: Option<&str>, closed: bool) -> Value {
        let culprit = culprit.map(|process| {
            json!({"kind": "process", "process_id": 7, "comm": "", "process": process, "cgroup": "", "container_id": "",
                   "pod_uid": "", "share": 0.5, "certainty": "high"})
        });
        json!({
            "cluster": Uuid::from_u128(1), "id": Uuid::from_u128(2), "member": "00000000000000a1",
            "state": if closed { "closed" } else { "open" }, "cause": "disk_neighbour", "opened_at": "2026-11-21T10:00:00Z",
            "onset_at": "2026-11-21T10:00:00Z", "updated_at": "2026-11-21T10:00:00Z",
            "closed_at": closed.then_some("2026-11-21T10:01:00Z"), "share": 0.5, "confidence": confidence,
            "culprit": culprit, "culprits": [], "summary": "s", "evidence": [], "ruled_out": [], "next_step": "n",
        })
    }

    #[test]
    fn a_line_is_told_only_when_it_is_news() {
        let mut story = Story::default();
        let mut line = |record: Value| Some(story.line(&record)?["transition"].as_str().unwrap().to_owned());
        assert_eq!(line(record("medium", None, false)).as_deref(), Some("opened"));
        assert_eq!(line(record("medium", None, false)), None);
        assert_eq!(line(record("high", Some("fio"), false)).as_deref(), Some("updated"));
        assert_eq!(line(record("high", Some("fio"), false)), None);
        assert_eq!(line(record("high", Some("fio"), true)).as_deref(), Some("closed"));
        assert_eq!(line(record("low", None, false)).as_deref(), Some("opened"));
    }

    #[test]
    fn what_the_process_before_told_is_not_told_again() {
        let mut story = Story::default();
        story.restore(&record("high", None, false));
        assert_eq!(story.line(&record("high", None, false)), None);
        assert_eq!(story.line(&json!({"id": "no diagnosis"})), None);
    }
}
