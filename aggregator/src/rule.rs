//! Rules: conditions on the cluster model that deserve an alert. They are data (`rule/builtin/*.yaml`); this module reads,
//! checks and evaluates them. Time is an argument, the model is the only input, so a rule over the same facts always says
//! the same.
//!
//! A verdict is never guessed: where nobody alive reports, it is [`Verdict::Unknown`], and where too little happened to
//! judge, it is [`Verdict::Quiet`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcdmon_proto::v1::FileClass;
use etcdmon_service::settings::{Millis, ParseSetting};
use serde::{Deserialize, Deserializer, Serialize};

mod evaluate;
mod evidence;

pub use evaluate::{Evaluation, Names, Verdict, evaluate};
pub use evidence::Evidence;

/// The rules that are active unless another profile is chosen.
const DEFAULT_PROFILE: &str = include_str!("rule/builtin/default.yaml");

/// Label names and values; sorted, so that they identify an alert.
pub type Labels = BTreeMap<String, String>;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look at it during the day.
    Warning,
    /// Somebody must act now.
    Critical,
}

impl Severity {
    /// The word in labels, API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A profile: the rules that are active together, which alert silences which, and the pace of notices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub profile: String,
    /// The rules.
    #[serde(deserialize_with = "shared")]
    pub rules: Vec<Arc<Rule>>,
    /// Inhibitions.
    pub inhibitions: Vec<Inhibition>,
    /// Pace per severity; a severity that is left out is not notified.
    pub notify: BTreeMap<Severity, Pace>,
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name of the alert. Several rules may share one, with different severities.
    pub alert: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it looks at.
    pub signal: Signal,
    /// How long the condition must hold before the alert fires.
    #[serde(rename = "for", deserialize_with = "duration")]
    pub hold: Duration,
    /// How long the condition must be gone before the alert is resolved.
    #[serde(deserialize_with = "duration")]
    pub keep_firing_for: Duration,
    /// One line for the pager.
    pub summary: String,
    /// What to look at next.
    pub next_step: String,
}

/// What a rule looks at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Signal {
    /// Latency of a member's syncs, as the kernel measured it.
    SyncLatency(SyncLatency),
    /// The cluster has no leader.
    NoLeader,
    /// A member's process is gone, no longer answers, or is no longer reported by an agent that is alive.
    MemberDown,
}

/// A condition on the latency of syncs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncLatency {
    /// Which files.
    #[serde(deserialize_with = "file_class")]
    pub class: FileClass,
    /// Latency that must not be reached.
    #[serde(deserialize_with = "duration")]
    pub above: Duration,
    /// The condition holds when any of these does.
    pub any: Vec<Measure>,
}

/// How latencies of a window are judged.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Measure {
    /// A quantile of all syncs reaches the latency.
    Quantile {
        /// Which one, such as 0.99.
        quantile: f64,
        /// Window before now.
        #[serde(deserialize_with = "duration")]
        window: Duration,
        /// With fewer syncs in the window nothing can be said.
        minimum_count: u64,
    },
    /// Syncs that reach the latency take up a share of the window. It sees a disk that has just become slow at once,
    /// while a quantile must first outvote the thousands of quick syncs before.
    BusyShare {
        /// Share of the window, 0 to 1.
        share: f64,
        /// Window before now.
        #[serde(deserialize_with = "duration")]
        window: Duration,
        /// At least so many slow syncs.
        minimum_count: u64,
    },
}

/// While an alert that matches `source` fires, those that match `target` and have the same values in `equal` are not
/// notified. An alert that matches both sides is not inhibited.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inhibition {
    /// Labels of the alert that inhibits.
    pub source: Labels,
    /// Labels of the alerts that are inhibited.
    pub target: Labels,
    /// Labels that must agree; one that both lack agrees.
    pub equal: Vec<String>,
}

/// When a group of alerts is notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// From the first alert of a group to its first notice. Other alerts of the same fault join in meanwhile.
    #[serde(deserialize_with = "duration")]
    pub group_wait: Duration,
    /// Between two notices of a group when alerts were resolved or added.
    #[serde(deserialize_with = "duration")]
    pub group_interval: Duration,
    /// Between two notices of a group in which nothing changed.
    #[serde(deserialize_with = "duration")]
    pub repeat_interval: Duration,
    /// New alerts of a group that was notified before wait only for `group_wait`, not for `group_interval`.
    pub hurry: bool,
}

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not YAML of the right shape.
    #[error("profile does not parse: {0}")]
    Syntax(String),
    /// It parses but makes no sense.
    #[error("rule {alert} ({severity}): {what}")]
    Senseless {
        /// The rule.
        alert: String,
        /// Its severity.
        severity: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl Profile {
    /// Reads and checks a profile.
    ///
    /// # Errors
    /// When it does not parse or a rule makes no sense.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self =
            serde_saphyr::from_str(text).map_err(|error| ProfileError::Syntax(error.to_string()))?;
        for (position, rule) in profile.rules.iter().enumerate() {
            let senseless = |what| ProfileError::Senseless {
                alert: rule.alert.clone(),
                severity: rule.severity.name(),
                what,
            };
            let twin = |other: &&Arc<Rule>| other.alert == rule.alert && other.severity == rule.severity;
            if profile.rules.iter().take(position).any(|other| twin(&other)) {
                return Err(senseless("given twice: their alerts could not be told apart"));
            }
            if let Signal::SyncLatency(condition) = &rule.signal {
                condition.check().map_err(senseless)?;
            }
        }
        Ok(profile)
    }

    /// The built-in default profile.
    ///
    /// # Panics
    /// Never: a test reads it.
    pub fn default_profile() -> Self {
        Self::parse(DEFAULT_PROFILE).expect("the built-in profile is checked by a test")
    }

    /// The rule of an alert.
    pub fn rule(&self, alert: &str, severity: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.alert == alert && rule.severity.name() == severity)
    }
}

impl SyncLatency {
    fn check(&self) -> Result<(), &'static str> {
        if self.any.is_empty() {
            return Err("needs at least one measure in `any`");
        }
        for measure in &self.any {
            let (share, window, count) = match measure {
                Measure::Quantile { quantile, window, minimum_count } => (quantile, window, minimum_count),
                Measure::BusyShare { share, window, minimum_count } => (share, window, minimum_count),
            };
            if !(*share > 0.0 && *share <= 1.0) {
                return Err("quantile and share lie above 0 and not above 1");
            }
            if *window < Duration::from_secs(1) || *window > crate::cluster::DELTAS_KEPT {
                return Err("a window lies between 1s and 2m");
            }
            if *count == 0 {
                return Err("minimum_count is at least 1");
            }
        }
        Ok(())
    }
}

fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<Rule>>, D::Error> {
    Ok(Vec::<Rule>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    Millis::parse(&text)
        .map(|millis| millis.0)
        .map_err(|expected| serde::de::Error::custom(format!("{text:?} is not {expected}")))
}

fn file_class<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FileClass, D::Error> {
    let text = String::deserialize(deserializer)?;
    FileClass::ALL
        .into_iter()
        .find(|class| class.name() == text)
        .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a file class")))
}

#[cfg(test)]
mod tests;
