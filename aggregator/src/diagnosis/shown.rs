//! Incidents as API and state have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Cause, Confidence, Culprit, Evidence, RuledOut};

/// Why a member was slow, who did it, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiagnosisView {
    /// Its id.
    pub id: Uuid,
    /// The member, 16 hexadecimal digits.
    pub member: String,
    /// `open` or `closed`.
    pub state: String,
    /// The cause.
    pub cause: Cause,
    /// When it was believed.
    pub opened_at: DateTime<Utc>,
    /// When it began, as far as was seen.
    pub onset_at: DateTime<Utc>,
    /// When it was last seen.
    pub updated_at: DateTime<Utc>,
    /// When it had been over for long enough; null while it is open.
    pub closed_at: Option<DateTime<Utc>>,
    /// Its part of the harm, 0 to 1.
    pub share: f64,
    /// `high`, `medium` or `low`.
    pub confidence: Confidence,
    /// Who did it; null where nobody did, or nobody is known.
    pub culprit: Option<Culprit>,
    /// Who else had a part in it, the worst first.
    pub culprits: Vec<Culprit>,
    /// In a sentence.
    pub summary: String,
    /// The values behind it.
    pub evidence: Vec<Evidence>,
    /// What it was not, and why.
    pub ruled_out: Vec<RuledOut>,
    /// What a person should do.
    pub next_step: String,
}

/// A diagnosis that is open, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenDiagnosis {
    /// Its id.
    pub id: Uuid,
    /// The member, 16 hexadecimal digits.
    pub member: String,
    /// The cause.
    pub cause: Cause,
    /// When it began, as far as was seen.
    pub onset_at: DateTime<Utc>,
    /// In a sentence.
    pub summary: String,
}

impl DiagnosisView {
    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }

    /// In short.
    pub fn brief(&self) -> OpenDiagnosis {
        OpenDiagnosis {
            id: self.id,
            member: self.member.clone(),
            cause: self.cause,
            onset_at: self.onset_at,
            summary: self.summary.clone(),
        }
    }
}

/// All diagnoses that are kept. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    clusters: Arc<BTreeMap<Uuid, Vec<Arc<DiagnosisView>>>>,
    refused: u64,
}

impl Shown {
    /// By cluster, in any order.
    pub(super) fn new(all: impl Iterator<Item = (Uuid, Arc<DiagnosisView>)>) -> Self {
        let mut clusters: BTreeMap<Uuid, Vec<Arc<DiagnosisView>>> = BTreeMap::new();
        for (cluster, view) in all {
            clusters.entry(cluster).or_default().push(view);
        }
        for views in clusters.values_mut() {
            views.sort_by_key(|view| std::cmp::Reverse((view.onset_at, view.id)));
        }
        Self { clusters: Arc::new(clusters), refused: 0 }
    }

    /// With the number of those that were not opened because there were too many.
    pub(super) fn with_refused(self, refused: u64) -> Self {
        Self { refused, ..self }
    }

    /// How many were not opened because there were too many, since the process began.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Those of a cluster, newest first.
    pub fn of(&self, cluster: Uuid) -> &[Arc<DiagnosisView>] {
        self.clusters.get(&cluster).map_or(&[], Vec::as_slice)
    }

    /// Those that are open, of all clusters.
    pub fn open(&self) -> impl Iterator<Item = &Arc<DiagnosisView>> {
        self.clusters.values().flatten().filter(|view| view.is_open())
    }
}
