//! History: values of series over time, in equal steps.
//!
//! ```text
//! Ask ─ plan ─→ table, steps ─ SQL ─→ sums of each step ─ fold ─→ values, gaps ─→ History
//!                                         ledger ─ gaps ─┘
//! ```
//!
//! What nobody saw is a gap with its reason, never zero and never a guess: values of such steps are NaN here and null in
//! answers. Percentiles come from merged histograms only. The engine adds up rows of a step; what needs the order of
//! steps (growth of counters across them, values that are carried forward) is done here, in pure code.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Query, QueryError, TimeRange};
use crate::view::RecentSyncs;

mod classic;
mod culprits;
mod fold;
mod gaps;
mod metrics;
mod named;
mod plan;
mod source;
mod syncs;

pub use culprits::OthersScope;
pub use metrics::{Function, MetricScope};
pub use named::Group;
pub use plan::{Ask, DEFAULT_POINTS, MAX_POINTS, Plan, PlanError, Resolution};
pub use syncs::{Apart, SyncScope};

/// Most values in one answer: steps × series × columns.
pub const MAX_VALUES: usize = 2_000_000;

/// Most rows that the engine may give for one question about history.
const MAX_STEP_ROWS: u64 = 500_000;

/// How long a value that was not sent again still holds, in seconds. Agents send an unchanged value again within 30 s.
const CARRY_SECONDS: i64 = 120;

/// Values over time.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Table and steps.
    pub plan: Plan,
    /// Series by cluster, name, member, agent and labels.
    pub series: Vec<Series>,
}

/// What can be asked about the past.
#[derive(Clone, Debug)]
pub enum Question {
    /// Metrics by name.
    Metrics(MetricScope),
    /// Latency of syncs.
    Latency(SyncScope),
    /// Numbers of syncs.
    Syncs(SyncScope),
    /// Writes: bytes, calls, their latency.
    Writes(SyncScope),
    /// Who else used the disks of slow syncs.
    IoByOthers(OthersScope),
    /// Named selections of metrics.
    Resources {
        /// Only these members; empty = all, and the nodes that report the cluster.
        members: Vec<u64>,
        /// Which selections.
        groups: Vec<Group>,
    },
    /// Raft of each member.
    Raft {
        /// Only these members; empty = all.
        members: Vec<u64>,
    },
}

impl Query {
    /// The history of a cluster. `recent` is what the live stream knows and may not be stored yet.
    ///
    /// # Errors
    /// When ClickHouse is away, a query fails, or the answer would be too large.
    pub async fn history(
        &self,
        cluster: Uuid,
        question: &Question,
        plan: &Plan,
        recent: &[RecentSyncs],
    ) -> Result<History, QueryError> {
        match question {
            Question::Metrics(scope) => self.metric_history(cluster, scope, plan).await,
            Question::Latency(scope) => self.latency_history(cluster, scope, plan, recent).await,
            Question::Syncs(scope) => self.sync_history(cluster, scope, plan, recent).await,
            Question::Writes(scope) => self.write_history(cluster, scope, plan).await,
            Question::IoByOthers(scope) => self.io_by_others(cluster, scope, plan).await,
            Question::Resources { members, groups } => self.resources(cluster, members, groups, plan).await,
            Question::Raft { members } => self.raft(cluster, members, plan).await,
        }
    }
}

/// Makes a history where no live message waits for it: weeks in small steps take a second, or two.
async fn made(
    plan: &Plan,
    make: impl FnOnce(&Plan) -> Vec<Series> + Send + 'static,
) -> Result<History, QueryError> {
    let plan = *plan;
    let history = tokio::task::spawn_blocking(move || History::new(plan, make(&plan))).await;
    history.unwrap_or_else(|panicked| {
        let source = clickhouse::error::Error::Custom(panicked.to_string());
        Err(QueryError::Failed { name: "history", source })
    })
}

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its cluster in the registry.
    pub cluster: Uuid,
    /// Its values are from so many seconds before the plan's steps: a second time range.
    pub offset_seconds: i64,
    /// Metric, or what else it is a series of.
    pub name: String,
    /// etcd member id; 0 = the node.
    pub member: u64,
    /// The agent, for facts of a node.
    pub agent: Option<Uuid>,
    /// What else tells it from others of its name.
    pub labels: BTreeMap<String, String>,
    /// Columns with a value for each step; NaN where there is none. The unit is part of the column's name, or of the
    /// metric's.
    pub columns: Vec<(&'static str, Vec<f64>)>,
    /// Steps without a value, and steps whose value is not complete.
    pub gaps: Vec<Gap>,
    /// Steps from here on have values of the live stream in them: not stored yet.
    pub live_from: Option<i64>,
}

/// A stretch of a series that is not, or not completely, known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Begin, Unix seconds.
    pub from: i64,
    /// End, Unix seconds.
    pub to: i64,
    /// Why: of the ledger (`agent_down`, `attach`, `ring_full` …), or `no_sample`, `not_reported`, `not_stored_yet`.
    pub reason: String,
    /// Facts that were lost, as far as that was counted.
    pub lost: u64,
    /// There are values, but they lack what was lost.
    pub partial: bool,
}

impl Series {
    /// The values of a column.
    pub fn column(&self, name: &str) -> Option<&[f64]> {
        self.columns.iter().find(|(known, _)| *known == name).map(|(_, values)| values.as_slice())
    }

    fn key(&self) -> (Uuid, &str, u64, Option<Uuid>, &BTreeMap<String, String>, i64) {
        (self.cluster, &self.name, self.member, self.agent, &self.labels, self.offset_seconds)
    }
}

impl History {
    /// Series in their order.
    ///
    /// # Errors
    /// When they have more than [`MAX_VALUES`].
    fn new(plan: Plan, mut series: Vec<Series>) -> Result<Self, QueryError> {
        check(series.iter().map(values).sum())?;
        series.sort_by(|a, b| a.key().cmp(&b.key()));
        Ok(Self { plan, series })
    }

    /// Adds the series of another history with as many steps: another cluster, or another time.
    ///
    /// # Errors
    /// When both have more than [`MAX_VALUES`].
    pub fn add(&mut self, other: Self) -> Result<(), QueryError> {
        let offset = self.plan.from - other.plan.from;
        let shifted = other.series.into_iter().map(|mut series| {
            series.offset_seconds = offset;
            series.gaps.iter_mut().for_each(|gap| {
                gap.from += offset;
                gap.to += offset;
            });
            series
        });
        self.series.extend(shifted);
        check(self.series.iter().map(values).sum())?;
        self.series.sort_by(|a, b| a.key().cmp(&b.key()));
        Ok(())
    }

    /// Names of all columns, in the order in which they first come.
    pub fn columns(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (name, _) in self.series.iter().flat_map(|series| &series.columns) {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        names
    }
}

fn values(series: &Series) -> usize {
    series.columns.iter().map(|(_, values)| values.len()).sum()
}

fn check(values: usize) -> Result<(), QueryError> {
    let (what, limit) = ("values", MAX_VALUES as u64);
    if values > MAX_VALUES { Err(QueryError::TooMany { what, limit }) } else { Ok(()) }
}

/// Rows of an answer, unless the engine had more than it may give.
fn check_rows<T>(rows: Vec<T>) -> Result<Vec<T>, QueryError> {
    let (what, limit) = ("rows of series and steps", MAX_STEP_ROWS);
    if rows.len() as u64 > MAX_STEP_ROWS { Err(QueryError::TooMany { what, limit }) } else { Ok(rows) }
}

impl Plan {
    /// The time of the steps, from so many seconds earlier.
    fn range(&self, lead_seconds: i64) -> TimeRange {
        let at = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        TimeRange { from: at(self.from - lead_seconds), to: at(self.to) }
    }

    /// The step that holds a time; `None` outside of the plan.
    fn index(&self, seconds: i64) -> Option<usize> {
        if seconds < self.from || seconds >= self.to {
            return None;
        }
        usize::try_from((seconds - self.from) / self.step).ok()
    }

    fn len(&self) -> usize {
        usize::try_from(self.points()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_history_that_takes_long_holds_nobody_up() {
        let plan = Plan { resolution: Resolution::Raw, step: 10, from: 600, to: 660, now_ns: 0 };
        let (sender, receiver) = std::sync::mpsc::channel();
        let history = made(&plan, move |_| {
            let _waited = receiver.recv_timeout(std::time::Duration::from_secs(5));
            Vec::new()
        });
        let (history, told) = tokio::join!(history, async { sender.send(()) });
        assert!(history.is_ok() && told.is_ok(), "nothing else ran meanwhile");
        assert!(made(&plan, |_| panic!("on purpose")).await.is_err());
    }
}
