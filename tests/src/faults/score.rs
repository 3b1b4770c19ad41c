//! What was injected against what was said: verdicts right or wrong, and how far to trust their number. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::class::Cause;

/// A verdict must come within so many seconds.
pub const IN_TIME_S: f64 = 5.0;

/// What is said so long after a fault began is not left of it: it lasted for half of this, and verdicts are waited for afterwards.
const LEFT_FOR: TimeDelta = TimeDelta::seconds(15);

/// In place of a cause: something of the product ended.
const ENDED: &str = "ended";

/// Standard deviations of the 95 % interval.
const Z: f64 = 1.959_964;

/// In the confusion matrix: nothing was injected, or nothing said.
pub const NONE: &str = "none";

/// Whom a verdict has to name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "who", rename_all = "snake_case")]
pub enum Wanted {
    /// Nobody did it.
    Nobody,
    /// This process.
    Process {
        /// Its id.
        process_id: u32,
        /// Its name.
        name: String,
        /// Its pod; empty = none.
        pod_uid: String,
    },
}

/// What was injected, hence what must be said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Cause.
    pub cause: Cause,
    /// Members that it may be said of; of one of them it must.
    pub members: Vec<String>,
    /// Who.
    pub culprit: Wanted,
    /// When the fault began.
    pub onset: DateTime<Utc>,
}

/// Whom a verdict named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// `process`, `writeback`, `journal`, `signal`.
    pub kind: String,
    /// Process id; 0 = none.
    pub process_id: u32,
    /// Its name.
    pub name: String,
    /// Its pod; empty = none.
    pub pod_uid: String,
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Member.
    pub member: String,
    /// Cause, whatever that is.
    pub cause: String,
    /// When the lab first saw it.
    pub seen_at: DateTime<Utc>,
    /// When it saw it with the culprit that it ended with.
    pub named_at: DateTime<Utc>,
    /// When it was opened, as it says.
    pub opened_at: DateTime<Utc>,
    /// When the trouble began, as it says.
    pub onset_at: DateTime<Utc>,
    /// Whom it ended up naming.
    pub culprit: Option<Named>,
    /// Its sentence.
    pub summary: String,
}

/// What became of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// Every cause that was injected was named.
    pub cause_right: bool,
    /// And each with its culprit, or with nobody where there is none.
    pub culprit_right: bool,
    /// From the onset to the right verdict: of several the last one's; none = it never came, or there was none to come.
    pub seconds: Option<f64>,
    /// Verdicts that nothing of what was injected explains, as member and cause.
    pub false_verdicts: Vec<String>,
    /// Injected and said, for the confusion matrix.
    pub pairs: Vec<(String, String)>,
}

impl Judgement {
    /// Nothing is wrong with it, whatever time it took.
    pub fn is_right(&self) -> bool {
        self.cause_right && self.culprit_right && self.false_verdicts.is_empty()
    }
}

impl Wanted {
    /// Whether a verdict that named this somebody, or nobody, is right.
    pub fn is_met_by(&self, named: Option<&Named>) -> bool {
        match (self, named) {
            (Self::Nobody, named) => named.is_none(),
            (Self::Process { .. }, None) => false,
            (Self::Process { process_id, pod_uid, .. }, Some(named)) => {
                named.process_id == *process_id && named.pod_uid == *pod_uid
            }
        }
    }
}

impl Expected {
    fn explains(&self, found: &Found) -> bool {
        // What was said before it began was not said of it.
        found.cause == self.cause.name()
            && self.members.contains(&found.member)
            && found.opened_at >= self.onset
    }

    fn left(&self, found: &Found) -> bool {
        self.explains(found) && found.seen_at - self.onset < LEFT_FOR
    }
}

impl Found {
    /// That something of the product panicked or ended: a false verdict, whatever was injected.
    pub fn ended(at: DateTime<Utc>, summary: String) -> Self {
        Self {
            member: "product".to_owned(),
            cause: ENDED.to_owned(),
            seen_at: at,
            named_at: at,
            opened_at: at,
            onset_at: at,
            culprit: None,
            summary,
        }
    }
}

/// Judges a run. Verdicts that `before` explains, soon after, are what is left of the run before: they are nobody's.
pub fn judge(expected: &[Expected], before: &[Expected], found: &[Found]) -> Judgement {
    let explained = |one: &Found| expected.iter().any(|wanted| wanted.explains(one));
    let left = |one: &Found| before.iter().any(|wanted| wanted.left(one));
    let others: Vec<&Found> = found.iter().filter(|one| !explained(one) && !left(one)).collect();
    let mut judgement = Judgement { cause_right: true, culprit_right: true, ..Judgement::default() };
    let (mut slowest, mut all_came) = (None, true);
    for wanted in expected {
        let verdicts: Vec<&Found> = found.iter().filter(|one| wanted.explains(one)).collect();
        judgement.cause_right &= !verdicts.is_empty();
        // Where a fault hits several members, none of what is said of them may be wrong.
        let all_right = verdicts.iter().all(|one| wanted.culprit.is_met_by(one.culprit.as_ref()));
        judgement.culprit_right &= !verdicts.is_empty() && all_right;
        match verdicts.iter().map(|one| time_of(wanted, one)).min_by(f64::total_cmp) {
            Some(seconds) => slowest = Some(f64::max(slowest.unwrap_or(0.0), seconds)),
            None => all_came = false,
        }
        judgement.pairs.extend(said(wanted, &verdicts, &others));
    }
    judgement.seconds = slowest.filter(|_| all_came);
    judgement.false_verdicts = others.iter().map(|one| format!("{} {}", one.member, one.cause)).collect();
    let missed = |one: &&&Found| {
        let is_missed = |wanted: &&Expected| !found.iter().any(|verdict| wanted.explains(verdict));
        expected.iter().filter(is_missed).any(|wanted| wanted.members.contains(&one.member))
    };
    let groundless = others.iter().filter(|one| !missed(one));
    judgement.pairs.extend(groundless.map(|one| (NONE.to_owned(), one.cause.clone())));
    if judgement.pairs.is_empty() {
        judgement.pairs.push((NONE.to_owned(), NONE.to_owned()));
    }
    judgement
}

/// What was said where this was injected.
fn said(wanted: &Expected, verdicts: &[&Found], others: &[&Found]) -> Vec<(String, String)> {
    let injected = wanted.cause.name().to_owned();
    if !verdicts.is_empty() {
        return vec![(injected.clone(), injected)];
    }
    let mut instead: Vec<String> = others
        .iter()
        .filter(|one| wanted.members.contains(&one.member))
        .map(|one| one.cause.clone())
        .collect();
    instead.sort_unstable();
    instead.dedup();
    if instead.is_empty() {
        instead.push(NONE.to_owned());
    }
    instead.into_iter().map(|cause| (injected.clone(), cause)).collect()
}

/// From the onset until the verdict was right, or, if it never named the right one, was there.
fn time_of(wanted: &Expected, found: &Found) -> f64 {
    let right = wanted.culprit.is_met_by(found.culprit.as_ref());
    let at = if right { found.named_at } else { found.seen_at };
    let millis = u32::try_from((at - wanted.onset).num_milliseconds().max(0)).unwrap_or(u32::MAX);
    f64::from(millis) / 1_000.0
}

/// Wilson's 95 % interval of a share; of nothing it is everything.
pub fn wilson(right: u32, of: u32) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (count, share) = (f64::from(of), f64::from(right) / f64::from(of));
    let square = Z * Z / count;
    let middle = (share + square / 2.0) / (1.0 + square);
    let half = Z / (1.0 + square) * (share * (1.0 - share) / count + square / (4.0 * count)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// How often what was said when something was injected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matrix {
    counts: BTreeMap<(String, String), u32>,
}

impl Matrix {
    /// Counts a run.
    pub fn add(&mut self, judgement: &Judgement) {
        for pair in &judgement.pairs {
            *self.counts.entry(pair.clone()).or_default() += 1;
        }
    }

    /// Times that `said` was said when `injected` was injected.
    pub fn count(&self, injected: &str, said: &str) -> u32 {
        self.counts.get(&(injected.to_owned(), said.to_owned())).copied().unwrap_or_default()
    }

    /// As a table of Markdown: a line for what was injected, a column for what was said.
    pub fn table(&self) -> String {
        let mut rows: Vec<&str> = self.counts.keys().map(|(injected, _)| injected.as_str()).collect();
        let mut columns: Vec<&str> = self.counts.keys().map(|(_, said)| said.as_str()).collect();
        for names in [&mut rows, &mut columns] {
            // Nothing comes last, whatever its place in the alphabet.
            names.sort_by_key(|name| (*name == NONE, *name));
            names.dedup();
        }
        let head: String = columns.iter().map(|said| format!(" {said} |")).collect();
        let mut table = format!("| injected \\ said |{head}\n|---|{}\n", "---|".repeat(columns.len()));
        for injected in rows {
            let cell = |said: &&str| match self.count(injected, said) {
                0 => " |".to_owned(),
                count if injected == *said => format!(" **{count}** |"),
                count => format!(" {count} |"),
            };
            table.push_str(&format!("| {injected} |{}\n", columns.iter().map(cell).collect::<String>()));
        }
        table
    }
}

#[cfg(test)]
mod tests;
