//! What nobody saw, out of the ledger.

use std::collections::HashMap;

use serde::Deserialize;
use uuid::Uuid;

use super::super::{IN_RANGE, Query, QueryError, Select, TimeRange};
use super::{Gap, Plan};

/// How far before a range an interval may have begun and still be found.
const LONGEST_BLIND_SECONDS: i64 = 86_400;

const SECOND_NS: i64 = 1_000_000_000;

/// Stretches of one stream, for one question.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    /// By rising begin.
    entries: Vec<Entry>,
    /// The latest end of an entry and of those before it.
    ends_ns: Vec<i64>,
}

/// Whose facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// etcd member id; 0 = the node.
    pub member: u64,
    /// Its agent; nil when any agent of the member will do.
    pub agent: Uuid,
}

#[derive(Clone, Debug, clickhouse::Row, Deserialize)]
struct Entry {
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
    member: u64,
    kind: String,
    reason: String,
    from_ns: i64,
    to_ns: i64,
    total: u64,
}

impl Entry {
    fn is_blind(&self) -> bool {
        self.kind == "blind"
    }

    /// An agent that is down is down for its node and all its members.
    fn concerns(&self, who: Who) -> bool {
        let same_agent = who.agent.is_nil() || self.agent == who.agent;
        if who.member == 0 && self.is_blind() { same_agent } else { same_agent && self.member == who.member }
    }

    fn overlaps(&self, from_ns: i64, to_ns: i64) -> bool {
        self.from_ns < to_ns && self.to_ns > from_ns
    }
}

impl Gaps {
    fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|entry| entry.from_ns);
        let ends = entries.iter().scan(i64::MIN, |latest, entry| {
            *latest = entry.to_ns.max(*latest);
            Some(*latest)
        });
        Self { ends_ns: ends.collect(), entries }
    }

    /// Entries that overlap a time, and few others: a lasting overload leaves one a minute, and each step of each series asks.
    fn near(&self, from_ns: i64, to_ns: i64) -> &[Entry] {
        let begin = self.ends_ns.partition_point(|end| *end <= from_ns);
        let end = self.entries.partition_point(|entry| entry.from_ns < to_ns);
        self.entries.get(begin..end).unwrap_or_default()
    }

    /// Why nothing was seen of somebody for some of the time; `None` when something could be seen all of it.
    pub fn blind(&self, who: Who, from_ns: i64, to_ns: i64) -> Option<&str> {
        let fits = |entry: &&Entry| entry.is_blind() && entry.concerns(who) && entry.overlaps(from_ns, to_ns);
        self.near(from_ns, to_ns).iter().find(fits).map(|entry| entry.reason.as_str())
    }

    /// The same, or why something was dropped.
    pub fn reason(&self, who: Who, from_ns: i64, to_ns: i64) -> Option<&str> {
        let fits = |entry: &&Entry| entry.concerns(who) && entry.overlaps(from_ns, to_ns);
        self.blind(who, from_ns, to_ns)
            .or_else(|| self.near(from_ns, to_ns).iter().find(fits).map(|entry| entry.reason.as_str()))
    }

    /// Gaps of a series: its steps without a value, each with its reason, and what else the ledger says was lost.
    ///
    /// `is_known` says which steps have a value, `other` why one has none where the ledger does not know.
    pub fn of_series(
        &self,
        plan: &Plan,
        who: Who,
        is_known: impl Fn(usize) -> bool,
        other: impl Fn(i64) -> &'static str,
    ) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        for (step, at) in plan.steps().enumerate() {
            let end = at + plan.step;
            if is_known(step) || at.saturating_mul(SECOND_NS) >= plan.now_ns {
                continue;
            }
            let ledger = self.reason(who, at * SECOND_NS, end * SECOND_NS);
            let reason = ledger.unwrap_or_else(|| other(at));
            match gaps.last_mut() {
                Some(last) if last.to == at && last.reason == reason => last.to = end,
                _ => gaps.push(Gap { from: at, to: end, reason: reason.to_owned(), lost: 0, partial: false }),
            }
        }
        let (from_ns, to_ns) = (plan.from * SECOND_NS, plan.to * SECOND_NS);
        // Gaps so far follow each other; of partial ones only those are looked for that end later than all before them.
        let whole = gaps.len();
        let mut partial: HashMap<&str, Vec<usize>> = HashMap::new();
        let entries = self.near(from_ns, to_ns).iter();
        for entry in entries.filter(|entry| entry.concerns(who) && entry.overlaps(from_ns, to_ns)) {
            let (from, to) = (entry.from_ns.div_euclid(SECOND_NS), -(-entry.to_ns).div_euclid(SECOND_NS));
            let of_reason = partial.entry(&entry.reason).or_default();
            let inside = gaps[..whole].partition_point(|gap| gap.from <= from).checked_sub(1);
            let later = of_reason.get(of_reason.partition_point(|index| gaps[*index].to < to)).copied();
            let holds = |index: &usize| {
                let gap = &gaps[*index];
                gap.reason == entry.reason && gap.from <= from && gap.to >= to
            };
            match inside.filter(holds).or(later.filter(holds)) {
                Some(index) => gaps[index].lost = gaps[index].lost.saturating_add(entry.total),
                None => {
                    let (from, to) = (from.max(plan.from), to.min(plan.to));
                    if of_reason.last().is_none_or(|last| gaps[*last].to < to) {
                        of_reason.push(gaps.len());
                    }
                    gaps.push(Gap {
                        from,
                        to,
                        reason: entry.reason.clone(),
                        lost: entry.total,
                        partial: true,
                    });
                }
            }
        }
        gaps.sort_by_key(|gap| (gap.from, gap.to));
        gaps
    }
}

impl Query {
    /// What the ledger says was not seen or dropped of a stream (`sync`, `write`, `metric`, `autopsy`).
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub(super) async fn gaps(
        &self,
        cluster: Uuid,
        members: &[u64],
        stream: &'static str,
        plan: &Plan,
    ) -> Result<Gaps, QueryError> {
        let TimeRange { from, to } = plan.range(super::CARRY_SECONDS);
        let earlier = TimeRange { from: from - chrono::TimeDelta::seconds(LONGEST_BLIND_SECONDS), to };
        // The account of a stream is kept by the minute; that of a longer step is added up.
        let width = plan.step.max(60) * SECOND_NS;
        // Only who counts calls of the kernel is blind before it is attached.
        let attach = if stream == "metric" { " AND reason != 'attach'" } else { "" };
        let select: Select = self.select(
            "gaps",
            format!(
                "SELECT agent, member, kind, reason, if(kind = 'blind', toUnixTimestamp64Nano(blind_from), \
                 intDiv(toUnixTimestamp64Nano(at), {width}) * {width}) AS from_ns, if(kind = 'blind', \
                 toUnixTimestamp64Nano(blind_to), from_ns + {width}) AS to_ns, sum(count) AS total FROM ledger \
                 WHERE cluster = {{cluster:String}} AND stream IN ('sync', {{stream:String}}) \
                 AND kind IN ('blind', 'dropped') AND (kind = 'blind' OR stream = {{stream:String}}){attach} AND"
            ),
        );
        let found: Vec<Entry> = select
            .sql(IN_RANGE)
            .cluster(cluster)
            .text("stream", stream)
            .range(earlier)
            .members(members)
            .sql(
                " GROUP BY agent, member, kind, reason, from_ns, to_ns ORDER BY from_ns LIMIT {limit:UInt64}",
            )
            .unsigned("limit", super::MAX_STEP_ROWS + 1)
            .fetch()
            .await?;
        let from_ns = from.timestamp_nanos_opt().unwrap_or(0);
        let found = super::check_rows(found)?;
        Ok(Gaps::new(found.into_iter().filter(|entry| entry.to_ns > from_ns).collect()))
    }
}

#[cfg(test)]
pub fn blind(member: u64, from: i64, to: i64, reason: &str) -> Gaps {
    Gaps::new(vec![entry(member, "blind", reason, from, to, 7)])
}

#[cfg(test)]
fn entry(member: u64, kind: &str, reason: &str, from: i64, to: i64, total: u64) -> Entry {
    Entry {
        agent: Uuid::from_u128(1),
        member,
        kind: kind.to_owned(),
        reason: reason.to_owned(),
        from_ns: from * SECOND_NS,
        to_ns: to * SECOND_NS,
        total,
    }
}

#[cfg(test)]
#[path = "gaps/tests.rs"]
mod tests;
