//! The account of what was produced and what became of it.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{IN_RANGE, Query, QueryError, Select, TimeRange, wall};

/// A minute counts as open for this long after its end: agents close a batch every few seconds, the writer gathers for
/// one. What was spooled meanwhile arrives later still, and changes the account then.
const OPEN_FOR: TimeDelta = TimeDelta::seconds(15);

/// Most groups of each part of the account; past it the range is refused rather than cut.
const MAX_GROUPS: u64 = 100_000;

/// Account of one agent, stream, member and minute: `produced = stored + dropped + blind` once all batches that touch
/// the minute have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerAccount {
    /// The agent.
    pub agent: Uuid,
    /// `sync`, `sync_row`, `write`, `metric`, `event`, `log`, `autopsy`.
    pub stream: String,
    /// etcd member id; 0 = the node.
    pub member: u64,
    /// Begin of the minute.
    pub minute: DateTime<Utc>,
    /// What the agent says it produced.
    pub produced: u64,
    /// What the tables hold, counted in the tables.
    pub stored: u64,
    /// What the agent dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Intervals in which nothing could be seen.
    pub blind: Vec<Blind>,
    /// The minute is not over, or just was: batches that belong to it are still to come.
    pub open: bool,
}

impl LedgerAccount {
    /// What was produced and is neither stored nor dropped nor blind. Positive: still on its way, in a spool, or lost with
    /// an agent's process. Negative: stored more than was announced, which only time can mend when the minute is open.
    pub fn difference(&self) -> i64 {
        let dropped = self.dropped.values().fold(0u64, |sum, count| sum.saturating_add(*count));
        let blind = self.blind.iter().fold(0u64, |sum, blind| sum.saturating_add(blind.count));
        let accounted = i128::from(self.stored) + i128::from(dropped) + i128::from(blind);
        let difference = i128::from(self.produced) - accounted;
        i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
    }
}

/// An interval in which nothing was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind {
    /// Begin.
    pub from: DateTime<Utc>,
    /// End.
    pub to: DateTime<Utc>,
    /// What etcd's own counters say happened in it.
    pub count: u64,
    /// `agent_down`, `attach` …
    pub reason: String,
}

#[derive(clickhouse::Row, Deserialize)]
struct Entry {
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
    stream: String,
    member: u64,
    minute: i64,
    kind: String,
    reason: String,
    from_ns: i64,
    to_ns: i64,
    total: u64,
}

#[derive(clickhouse::Row, Deserialize)]
struct Stored {
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
    stream: String,
    member: u64,
    minute: i64,
    total: u64,
}

/// Begin of the minute that holds `at`, in nanoseconds.
const MINUTE: &str = "toInt64(intDiv(toUnixTimestamp64Nano(at), 60000000000) * 60000000000) AS minute";

/// Rows of the cluster, and those of the node itself from agents that report the cluster.
const IN_CLUSTER: &str = "(cluster = {cluster:String} OR (cluster = '00000000-0000-0000-0000-000000000000' AND member = 0 \
                          AND agent IN (SELECT DISTINCT agent FROM ledger WHERE cluster = {cluster:String} AND \
                          at >= fromUnixTimestamp64Nano({from:Int64}, 'UTC') AND \
                          at < fromUnixTimestamp64Nano({to:Int64}, 'UTC')))) AND";

/// (stream, table, what is counted). The account of `sync` is kept on the histograms, which hold every sync.
const STREAMS: [(&str, &str, &str); 6] = [
    ("sync", "sync_histograms", "sum(count)"),
    ("sync_row", "syncs", "count()"),
    ("write", "writes", "count()"),
    ("metric", "metrics", "count()"),
    ("event", "events", "count()"),
    ("autopsy", "autopsies", "count()"),
];

impl Query {
    /// Accounts, as they are `now`, of the minutes that begin in `range` (widened to whole minutes), ordered by minute, agent, stream and
    /// member. Rows of the node itself come with every cluster its agent reports.
    ///
    /// # Errors
    /// When ClickHouse is away, the query fails, or the account has more than 100,000 entries.
    pub async fn ledger(
        &self,
        cluster: Uuid,
        member: Option<u64>,
        range: TimeRange,
        now: DateTime<Utc>,
    ) -> Result<Vec<LedgerAccount>, QueryError> {
        let range = whole_minutes(range);
        let scope = |select: Select| {
            select.sql(IN_CLUSTER).sql(IN_RANGE).cluster(cluster).range(range).member(member)
        };
        let entries = self.select(
            "ledger",
            format!(
                "SELECT agent, stream, member, {MINUTE}, kind, reason, toUnixTimestamp64Nano(blind_from) AS from_ns, \
                 toUnixTimestamp64Nano(blind_to) AS to_ns, sum(count) AS total FROM ledger WHERE "
            ),
        );
        let entries: Vec<Entry> = scope(entries)
            .sql(" GROUP BY agent, stream, member, minute, kind, reason, from_ns, to_ns LIMIT {limit:UInt64}")
            .unsigned("limit", MAX_GROUPS + 1)
            .fetch()
            .await?;
        let mut accounts = Accounts::default();
        check_size(entries.len())?;
        for entry in entries {
            accounts.enter(entry);
        }
        for (stream, table, total) in STREAMS {
            let stored = self.select(
                "ledger_stored",
                format!(
                    "SELECT agent, '{stream}' AS stream, member, {MINUTE}, toUInt64({total}) AS total FROM {table} WHERE "
                ),
            );
            let stored: Vec<Stored> = scope(stored)
                .sql(" GROUP BY agent, member, minute LIMIT {limit:UInt64}")
                .unsigned("limit", MAX_GROUPS + 1)
                .fetch()
                .await?;
            check_size(stored.len())?;
            for row in stored {
                let account = accounts.of(row.minute, row.agent, row.stream, row.member);
                account.stored = account.stored.saturating_add(row.total);
            }
        }
        let mut accounts: Vec<LedgerAccount> = accounts.0.into_values().collect();
        for account in &mut accounts {
            account.open = now - account.minute < TimeDelta::minutes(1) + OPEN_FOR;
        }
        Ok(accounts)
    }
}

/// By (minute, agent, stream, member), which is also the order of the answer.
#[derive(Default)]
struct Accounts(BTreeMap<(i64, Uuid, String, u64), LedgerAccount>);

impl Accounts {
    fn of(&mut self, minute: i64, agent: Uuid, stream: String, member: u64) -> &mut LedgerAccount {
        self.0.entry((minute, agent, stream.clone(), member)).or_insert_with(|| LedgerAccount {
            agent,
            stream,
            member,
            minute: wall(minute),
            produced: 0,
            stored: 0,
            dropped: BTreeMap::new(),
            blind: Vec::new(),
            open: false,
        })
    }

    fn enter(&mut self, entry: Entry) {
        let account = self.of(entry.minute, entry.agent, entry.stream, entry.member);
        match entry.kind.as_str() {
            "produced" => account.produced = account.produced.saturating_add(entry.total),
            "dropped" => {
                let dropped = account.dropped.entry(entry.reason).or_default();
                *dropped = dropped.saturating_add(entry.total);
            }
            "blind" => account.blind.push(Blind {
                from: wall(entry.from_ns),
                to: wall(entry.to_ns),
                count: entry.total,
                reason: entry.reason,
            }),
            // Kinds of a later version have no place in this answer; they stay in the table.
            _ => {}
        }
    }
}

fn check_size(found: usize) -> Result<(), QueryError> {
    if found as u64 > MAX_GROUPS { Err(QueryError::TooMuch(None)) } else { Ok(()) }
}

/// The smallest range of whole minutes that holds `range`.
fn whole_minutes(range: TimeRange) -> TimeRange {
    let floor = |time: DateTime<Utc>| time.timestamp().div_euclid(60) * 60;
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::UNIX_EPOCH);
    let end = floor(range.to);
    let end = if at(end) < range.to { end + 60 } else { end };
    TimeRange { from: at(floor(range.from)), to: at(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_what_nobody_accounts_for() {
        let minute = DateTime::from_timestamp(60, 0).unwrap();
        let blind = Blind { from: minute, to: minute, count: 3, reason: "attach".to_owned() };
        let mut account = LedgerAccount {
            agent: Uuid::nil(),
            stream: "sync".to_owned(),
            member: 1,
            minute,
            produced: 20,
            stored: 10,
            dropped: [("ring_full".to_owned(), 5), ("unstorable".to_owned(), 2)].into(),
            blind: vec![blind],
            open: false,
        };
        assert_eq!(account.difference(), 0);
        account.stored = 12;
        assert_eq!(account.difference(), -2);
        (account.produced, account.stored) = (u64::MAX, 0);
        assert_eq!(account.difference(), i64::MAX);
    }

    #[test]
    fn ranges_widen_to_whole_minutes() {
        let at = |seconds, nanos| DateTime::from_timestamp(seconds, nanos).unwrap();
        let range = whole_minutes(TimeRange { from: at(61, 5), to: at(120, 1) });
        assert_eq!(range, TimeRange { from: at(60, 0), to: at(180, 0) });
        let range = whole_minutes(TimeRange { from: at(60, 0), to: at(120, 0) });
        assert_eq!(range, TimeRange { from: at(60, 0), to: at(120, 0) });
    }
}
