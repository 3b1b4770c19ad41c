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
    /// What the agent says it produced, and [`unannounced`](Self::unannounced).
    pub produced: u64,
    /// Rows in the tables that no account announced: their agent died with the batch in its memory while the aggregator
    /// died between storing the batch's rows and its account, which is stored last. While the minute is open, also what is being
    /// stored just now.
    pub unannounced: u64,
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
    /// What etcd's own counters say happened in it, less what its agent had sent before it died.
    pub count: u64,
    /// `agent_down`, `attach` …
    pub reason: String,
}

impl Blind {
    fn is_agent_down(&self) -> bool {
        self.reason == "agent_down"
    }
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
    unannounced: u64,
}

/// What an agent sent before it died, beyond what its successor knew of.
#[derive(clickhouse::Row, Deserialize)]
struct Overlap {
    #[serde(with = "clickhouse::serde::uuid")]
    agent: Uuid,
    member: u64,
    from_ns: i64,
    to_ns: i64,
    /// WAL and directory syncs, which is what blind intervals count.
    total: u64,
    /// End of the last second that was stored.
    until_ns: i64,
}

/// Begin of the minute that holds `at`, in nanoseconds.
const MINUTE: &str = "toInt64(intDiv(toUnixTimestamp64Nano(at), 60000000000) * 60000000000) AS minute";

/// Rows of the cluster, and those of the node itself from agents that report the cluster.
const IN_CLUSTER: &str = "(cluster = {cluster:String} OR (cluster = '00000000-0000-0000-0000-000000000000' AND member = 0 \
                          AND agent IN (SELECT DISTINCT agent FROM ledger WHERE cluster = {cluster:String} AND \
                          at >= fromUnixTimestamp64Nano({from:Int64}, 'UTC') AND \
                          at < fromUnixTimestamp64Nano({to:Int64}, 'UTC')))) AND";

/// (stream, table, what a row counts). The account of `sync` is kept on the histograms, which hold every sync.
const STREAMS: [(&str, &str, &str); 6] = [
    ("sync", "sync_histograms", "count"),
    ("sync_row", "syncs", "1"),
    ("write", "writes", "1"),
    ("metric", "metrics", "1"),
    ("event", "events", "1"),
    ("autopsy", "autopsies", "1"),
];

/// Whether no account of the row's batch is there.
const UNANNOUNCED: &str = "(agent, epoch, sequence) NOT IN (SELECT agent, epoch, sequence FROM ledger WHERE kind = 'produced' \
     AND cluster IN ({cluster:String}, '00000000-0000-0000-0000-000000000000') AND \
     at >= fromUnixTimestamp64Nano({from:Int64}, 'UTC') AND at < fromUnixTimestamp64Nano({to:Int64}, 'UTC'))";

/// A new agent process knows what the one before had *kept*: acknowledged, or on its disk. What was stored and whose
/// acknowledgement never came is in the table, so it was not missed. Rows begin at whole seconds, and the second
/// in which an interval begins had ended when the last kept row was made.
const OVERLAPS: &str = "SELECT blind.agent AS agent, blind.member AS member, from_ns, to_ns, toUInt64(sum(seen.count)) AS total, \
     toUnixTimestamp64Nano(max(seen.at)) + 1000000000 AS until_ns FROM sync_histograms AS seen INNER JOIN \
     (SELECT DISTINCT agent, epoch, member, blind_from, blind_to, toUnixTimestamp64Nano(blind_from) AS from_ns, \
     toUnixTimestamp64Nano(blind_to) AS to_ns FROM ledger WHERE cluster = {cluster:String} AND kind = 'blind' AND \
     reason = 'agent_down' AND blind_from >= fromUnixTimestamp64Nano({from:Int64}, 'UTC') AND \
     blind_to <= fromUnixTimestamp64Nano({to:Int64}, 'UTC')) AS blind ON seen.agent = blind.agent AND \
     seen.member = blind.member WHERE seen.cluster = {cluster:String} AND seen.class IN ('wal', 'directory') AND \
     seen.epoch != blind.epoch AND seen.at >= toStartOfSecond(blind.blind_from) AND seen.at < blind.blind_to AND \
     seen.at >= toStartOfSecond(fromUnixTimestamp64Nano({from:Int64}, 'UTC')) AND \
     seen.at < fromUnixTimestamp64Nano({to:Int64}, 'UTC') GROUP BY agent, member, from_ns, to_ns";

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
        for (stream, table, count) in STREAMS {
            let stored = self.select(
                "ledger_stored",
                format!(
                    "SELECT agent, '{stream}' AS stream, member, {MINUTE}, toUInt64(sum({count})) AS total, \
                     toUInt64(sumIf({count}, {UNANNOUNCED})) AS unannounced FROM {table} WHERE "
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
                account.unannounced = account.unannounced.saturating_add(row.unannounced);
                account.produced = account.produced.saturating_add(row.unannounced);
            }
        }
        if let Some(span) = accounts.agents_down() {
            let overlaps =
                self.select("ledger_overlap", OVERLAPS).cluster(cluster).range(span).fetch().await?;
            for overlap in overlaps {
                accounts.shorten(&overlap);
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
            unannounced: 0,
            stored: 0,
            dropped: BTreeMap::new(),
            blind: Vec::new(),
            open: false,
        })
    }

    /// From the first to the last moment of all intervals in which an agent was down; `None` when there is none.
    fn agents_down(&self) -> Option<TimeRange> {
        let down =
            || self.0.values().flat_map(|account| &account.blind).filter(|blind| blind.is_agent_down());
        Some(TimeRange {
            from: down().map(|blind| blind.from).min()?,
            to: down().map(|blind| blind.to).max()?,
        })
    }

    /// Takes what was stored after all off an interval and off what was said to be produced: it is in another row's account.
    fn shorten(&mut self, overlap: &Overlap) {
        let accounts = self.0.values_mut();
        let theirs = accounts.filter(|it| (it.agent, it.member) == (overlap.agent, overlap.member));
        for account in theirs.filter(|account| account.stream == "sync") {
            let its = |blind: &&mut Blind| {
                blind.is_agent_down()
                    && (blind.from, blind.to) == (wall(overlap.from_ns), wall(overlap.to_ns))
            };
            for blind in account.blind.iter_mut().filter(its) {
                let known = overlap.total.min(blind.count);
                blind.count -= known;
                account.produced = account.produced.saturating_sub(known);
                blind.from = wall(overlap.until_ns).clamp(blind.from, blind.to);
            }
        }
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
            unannounced: 0,
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
    fn what_was_stored_after_all_is_not_blind() {
        let entry = |kind: &str, reason: &str, total| Entry {
            agent: Uuid::from_u128(1),
            stream: "sync".to_owned(),
            member: 7,
            minute: 0,
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            from_ns: 10_500_000_000,
            to_ns: 20_250_000_000,
            total,
        };
        let mut accounts = Accounts::default();
        accounts.enter(entry("produced", "", 100));
        accounts.enter(entry("blind", "agent_down", 30));
        accounts.enter(entry("blind", "attach", 5));
        let span = accounts.agents_down().unwrap();
        assert_eq!((span.from, span.to), (wall(10_500_000_000), wall(20_250_000_000)));
        let overlap = |agent, total| Overlap {
            agent: Uuid::from_u128(agent),
            member: 7,
            from_ns: 10_500_000_000,
            to_ns: 20_250_000_000,
            total,
            until_ns: 14_000_000_000,
        };
        accounts.shorten(&overlap(2, 9));
        accounts.shorten(&overlap(1, 12));
        let account = accounts.0.into_values().next().unwrap();
        assert_eq!(account.produced, 88);
        let of = |reason: &str| account.blind.iter().find(|blind| blind.reason == reason).unwrap();
        assert_eq!((of("agent_down").count, of("attach").count), (18, 5));
        assert_eq!((of("agent_down").from, of("attach").from), (wall(14_000_000_000), wall(10_500_000_000)));
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
