//! Who else used the disks while syncs waited for them, over time: the culprits of all autopsies, merged by what is the
//! same across restarts: process name, cgroup, container, pod.

use std::collections::BTreeMap;

use etcdmon_proto::v1::FileClass;
use serde::Deserialize;
use uuid::Uuid;

use super::super::{Query, QueryError};
use super::gaps::{Gaps, Who};
use super::plan::Plan;
use super::{History, MAX_STEP_ROWS, Series, check, check_rows, made};

/// Which culprits.
#[derive(Clone, Debug)]
pub struct OthersScope {
    /// Only those that held up these members; empty = all.
    pub members: Vec<u64>,
    /// Only those that held up syncs of this file class.
    pub class: Option<FileClass>,
    /// The so many that syncs waited for longest, for each member.
    pub top: u64,
}

#[derive(Clone, clickhouse::Row, Deserialize)]
struct OtherRow {
    member: u64,
    origin: String,
    program: String,
    cgroup: String,
    container_id: String,
    pod_uid: String,
    step_at: i64,
    waited_ns: u64,
    moved_bytes: u64,
    asked: u64,
    flushed: u64,
    held_up: u64,
    certain: u64,
}

impl OtherRow {
    /// Who it is, of which member.
    fn key(&self) -> (u64, [&str; 5]) {
        (self.member, [&self.origin, &self.program, &self.cgroup, &self.container_id, &self.pod_uid])
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let (_, values) = self.key();
        let names = ["origin", "process", "cgroup", "container_id", "pod_uid"];
        let known = names.into_iter().zip(values).filter(|(_, value)| !value.is_empty());
        known.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// What a column is in a row.
type Measure = fn(&OtherRow) -> u64;

/// The columns of an answer.
const COLUMNS: [(&str, Measure); 6] = [
    ("bytes", |row| row.moved_bytes),
    ("requests", |row| row.asked),
    ("flushes", |row| row.flushed),
    ("slow_syncs", |row| row.held_up),
    ("sure", |row| row.certain),
    ("wait_ns", |row| row.waited_ns),
];

impl Query {
    /// Who else used the disks of slow syncs: time that syncs waited for each (`wait_ns`), its bytes, requests and flushes in
    /// them, how many syncs that were (`slow_syncs`), and in how many of them it is sure (`sure`).
    ///
    /// A step without autopsies is zero: that no sync was slow is what an autopsy would say. What was not examined is in
    /// the gaps.
    ///
    /// # Errors
    /// When ClickHouse is away, the query fails, or the answer would be too large.
    pub(super) async fn io_by_others(
        &self,
        cluster: Uuid,
        scope: &OthersScope,
        plan: &Plan,
    ) -> Result<History, QueryError> {
        let Plan { step, from, to, .. } = *plan;
        // Only what is used is taken out of the JSON. The worst of a member over the whole time are chosen in the engine.
        let sql = format!(
            "WITH per_step AS (SELECT member, culprit.1 AS origin, if(culprit.4 != '', culprit.4, culprit.3) AS program, \
             culprit.5 AS cgroup, culprit.6 AS container_id, culprit.7 AS pod_uid, \
             toInt64(intDiv(toUnixTimestamp(at), {step}) * {step}) AS step_at, sum(culprit.11) AS waited_ns, \
             sum(culprit.9) AS moved_bytes, sum(culprit.8) AS asked, sum(culprit.10) AS flushed, count() AS held_up, \
             countIf(culprit.2 = 'high') AS certain FROM (SELECT member, at, JSONExtract(culprits, \
             'Array(Tuple(origin String, certainty String, comm String, process String, cgroup String, \
             container_id String, pod_uid String, requests UInt64, bytes UInt64, syncs UInt64, wait_ns UInt64))') AS culprit \
             FROM autopsies WHERE cluster = {{cluster:String}} AND at >= toDateTime({from}, 'UTC') \
             AND at < toDateTime({to}, 'UTC') AND culprits != '[]'"
        );
        let select =
            self.select("io_by_others", sql).cluster(cluster).members(&scope.members).class(scope.class);
        let rows = select
            .sql(
                ") ARRAY JOIN culprit GROUP BY member, origin, program, cgroup, container_id, pod_uid, step_at) \
                 SELECT member, origin, program, cgroup, container_id, pod_uid, step_at, waited_ns, moved_bytes, asked, flushed, \
                 held_up, certain FROM per_step WHERE (member, origin, program, cgroup, container_id, pod_uid) IN (SELECT member, \
                 origin, program, cgroup, container_id, pod_uid FROM per_step GROUP BY member, origin, program, cgroup, \
                 container_id, pod_uid ORDER BY sum(waited_ns) DESC LIMIT {top:UInt64} BY member) \
                 ORDER BY member, origin, program, cgroup, container_id, pod_uid, step_at LIMIT {limit:UInt64}",
            )
            .unsigned("top", scope.top)
            .unsigned("limit", MAX_STEP_ROWS + 1)
            .fetch::<OtherRow>();
        let (rows, gaps) = tokio::try_join!(rows, self.gaps(cluster, &scope.members, "autopsy", plan))?;
        let rows = check_rows(rows)?;
        // Before they are made.
        check(rows.chunk_by(is_same).count().saturating_mul(plan.len() * COLUMNS.len()))?;
        made(plan, move |plan| assemble(plan, cluster, &rows, &gaps)).await
    }
}

fn is_same(a: &OtherRow, b: &OtherRow) -> bool {
    a.key() == b.key()
}

/// Series out of rows that are ordered by series and step.
fn assemble(plan: &Plan, cluster: Uuid, rows: &[OtherRow], gaps: &Gaps) -> Vec<Series> {
    let series = rows.chunk_by(is_same).map(|rows| {
        let who = Who { member: rows[0].member, agent: Uuid::nil() };
        let unseen: Vec<bool> = plan
            .steps()
            .map(|at| gaps.blind(who, at * 1_000_000_000, (at + plan.step) * 1_000_000_000).is_some())
            .collect();
        let future = |at: i64| at.saturating_mul(1_000_000_000) >= plan.now_ns;
        let empty: Vec<f64> = plan
            .steps()
            .zip(&unseen)
            .map(|(at, unseen)| if *unseen || future(at) { f64::NAN } else { 0.0 })
            .collect();
        let column = |value: Measure| {
            let mut values = empty.clone();
            for row in rows {
                if let Some(slot) = plan.index(row.step_at).and_then(|step| values.get_mut(step)) {
                    *slot = value(row) as f64;
                }
            }
            values
        };
        let columns: Vec<_> = COLUMNS.iter().map(|(name, value)| (*name, column(*value))).collect();
        let known = &columns[0].1;
        let gaps = gaps.of_series(plan, who, |step| !known[step].is_nan(), |_| "not_reported");
        Series {
            cluster,
            offset_seconds: 0,
            name: "io_by_others".to_owned(),
            member: rows[0].member,
            agent: None,
            labels: rows[0].labels(),
            columns,
            gaps,
            live_from: None,
        }
    });
    series.collect()
}
