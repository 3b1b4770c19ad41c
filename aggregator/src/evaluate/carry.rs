//! Alerts of a member bring along why it is so: the diagnosis that is open, suspected, or was closed a moment ago. A10.
//!
//! It is looked up with every evaluation, so a diagnosis that opens after its alert fired joins it then.

use uuid::Uuid;

use crate::alert::{Alerts, Fingerprint, State};
use crate::clock::At;
use crate::diagnosis::{Mention, Watch};
use crate::rule::{Evaluation, Evidence, Labels, Signal, Verdict};

/// A diagnosis that was closed this long before its alert began still explains it: a member that is down has no slow syncs any more.
const JUST_CLOSED: std::time::Duration = std::time::Duration::from_secs(60);

/// Annotation that says which diagnosis an alert carries.
const ID: &str = "diagnosis_id";

/// See the module.
pub struct Carry<'a> {
    /// Now.
    pub at: At,
    /// All diagnoses.
    pub diagnoses: &'a Watch,
    /// Where the API is reached.
    pub external_url: &'a str,
}

impl Carry<'_> {
    /// Adds diagnoses to the evidence of what is breached. Returns the alerts that carry another one than before.
    pub fn add(&self, evaluations: &mut [Evaluation], alerts: &Alerts) -> Vec<Fingerprint> {
        let mut news = Vec::new();
        for evaluation in evaluations {
            let Verdict::Breached(evidence) = &mut evaluation.verdict else { continue };
            if !matches!(evaluation.rule.signal, Signal::SyncLatency(_) | Signal::MemberDown) {
                continue;
            }
            let Some(place) = place(&evaluation.labels) else { continue };
            let id = Fingerprint::of(&evaluation.labels);
            let active = alerts.get(id).filter(|alert| alert.state != State::Resolved);
            let began = active.map_or(self.at, |alert| alert.started_at);
            let Some(mention) = self.diagnoses.mention(place, began.minus(JUST_CLOSED)) else { continue };
            self.annotate(evidence, place.0, &mention);
            let carried = active.and_then(|alert| alert.annotations.get(ID));
            if active.is_some() && carried != evidence.annotations.get(ID) {
                news.push(id);
            }
        }
        news
    }

    fn annotate(&self, evidence: &mut Evidence, cluster: Uuid, mention: &Mention) {
        let mut note = |name: &str, text: String| {
            evidence.annotations.insert(name.to_owned(), text);
        };
        note("cause", mention.cause.name().to_owned());
        note("cause_confidence", mention.confidence.name().to_owned());
        note("cause_share", format!("{:.0} %", mention.share * 100.0));
        note("diagnosis", mention.summary.clone());
        note("diagnosis_state", mention.state.to_owned());
        note("next_step", mention.next_step.clone());
        if let Some(culprit) = &mention.culprit {
            note("culprit", culprit.name());
            note("culprit_share", format!("{:.0} %", culprit.share * 100.0));
        }
        if !mention.also.is_empty() {
            let names: Vec<&str> = mention.also.iter().map(|cause| cause.name()).collect();
            note("other_causes", names.join(", "));
        }
        if let Some(id) = mention.id {
            note(ID, id.to_string());
            let url = format!("{}/api/v1/clusters/{cluster}/diagnoses/{id}", self.external_url);
            note("diagnosis_url", url);
        }
    }
}

fn place(labels: &Labels) -> Option<(Uuid, u64)> {
    let cluster = labels.get("cluster_id")?.parse().ok()?;
    let member = u64::from_str_radix(labels.get("member")?, 16).ok()?;
    Some((cluster, member))
}
