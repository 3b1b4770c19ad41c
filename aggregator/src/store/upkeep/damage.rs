//! Parts that can't be read: found, set aside, told, and accounted for.
//!
//! Two ways lead here. What the engine finds broken when it opens a table it sets aside itself (`detached/broken…`). What a
//! question or a merge stumbles over it only reports as an error, and stumbles over again and again: so the engine's own
//! count of such errors is watched, the part that the message names is checked, or all parts when it names none, and what
//! fails its checksums is detached. The rest of the table goes on either way.
//!
//! What was lost follows from the ledger: of the minutes that the part covered, whatever was produced and is neither stored,
//! dropped nor blind any more. That is written to the ledger as dropped (`corrupt`), under an epoch of its own. It is exact
//! also where a merge's sources are still there, and doing it again adds nothing. Lost accounts need none: rows without one
//! are counted as `unannounced`. Minutes whose rows may have gone by retention are left out.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::super::retention::Retention;
use super::record::{Author, LOSS_ACCOUNTED, PART_LOST};
use super::{LostPart, Sql, UpkeepError, identifier, within};

/// The engine's errors that mean damage on the disk: unreadable, cut, missing or mismatching files of a part.
const CODES: [i32; 11] = [32, 33, 40, 76, 107, 228, 232, 246, 271, 432, 740];

/// Those among them that have other reasons mostly: looked into only where the message names a part.
const ONLY_NAMED: [i32; 2] = [76, 107];

/// A search through all parts may take one part in so many of the time: it reads the whole store.
const SEARCH_SHARE: u32 = 20;

/// How long a search may take, in a table or a part.
const SEARCH_LIMIT: Duration = Duration::from_secs(3_600);

/// Streams of the ledger that a table holds: (table, stream, what a row counts).
const STREAMS: [(&str, &str, &str); 6] = [
    ("sync_histograms", "sync", "count"),
    ("syncs", "sync_row", "1"),
    ("writes", "write", "1"),
    ("metrics", "metric", "1"),
    ("events", "event", "1"),
    ("autopsies", "autopsy", "1"),
];

/// The minutes of a part must have been over for so long before its loss is drawn: batches of them are still coming.
const SETTLED_AFTER: TimeDelta = TimeDelta::seconds(45);

/// Rows are taken for complete until this long before they may go by retention.
const MARGIN: TimeDelta = TimeDelta::hours(1);

/// What is known of damage.
#[derive(Default)]
pub struct Watch {
    /// Parts that were told of; `None` until the events were read.
    known: Option<HashSet<(String, String)>>,
    /// Parts whose detaching was begun here, until they are told of: the engine's list does not tell them from an operator's.
    begun: Vec<LostPart>,
    /// Lost parts whose rows are not in the ledger yet.
    pending: Vec<LostPart>,
    /// Errors that the engine had counted, by code, and its generation.
    errors: HashMap<i32, u64>,
    generation: u64,
    /// When parts may be searched again.
    next_search: Option<Instant>,
}

#[derive(clickhouse::Row, Deserialize)]
struct Detached {
    table: String,
    part: String,
    partition: String,
    reason: String,
    path: String,
}

#[derive(clickhouse::Row, Deserialize)]
struct Told {
    kind: String,
    details: String,
}

#[derive(clickhouse::Row, Deserialize)]
struct Counted {
    code: i32,
    count: u64,
    message: String,
}

#[derive(clickhouse::Row, Deserialize)]
struct Active {
    table: String,
    part: String,
    partition: String,
    path: String,
}

#[derive(clickhouse::Row, Deserialize)]
struct Checked {
    part_path: String,
    is_passed: u8,
    #[expect(dead_code, reason = "a column of the answer; the error that led here says more")]
    message: String,
}

impl Watch {
    /// Parts that were found broken since the last look, and not told of yet. They stay to be told until
    /// [`Watch::note`].
    pub(super) async fn look(&mut self, sql: &Sql, generation: u64) -> Result<Vec<LostPart>, UpkeepError> {
        if self.known.is_none() {
            let told = told(sql).await?;
            self.pending = told.1;
            self.known = Some(told.0);
        }
        let stumbled = self.stumbled_over(sql, generation).await;
        let detached: Vec<Detached> = sql
            .rows(
                "look for detached parts",
                sql.query(
                    "SELECT table, name AS part, ifNull(partition_id, '') AS partition, ifNull(reason, '') AS reason, path \
                     FROM system.detached_parts WHERE database = {database:String} AND (startsWith(reason, 'broken') \
                     OR ifNull(reason, '') IN ('', 'unexpected', 'covered-by-broken'))",
                ),
            )
            .await?;
        let mut found = Vec::new();
        for part in detached {
            let begun = self.begun.iter().find(|lost| (&lost.table, &lost.part) == (&part.table, &part.part));
            if let Some(lost) = begun {
                found.push(lost.clone());
            } else if !part.reason.is_empty() {
                found.push(describe(part.table, part.part, part.partition, part.reason, &part.path));
            }
        }
        let known = self.known.get_or_insert_default();
        found.retain(|lost| !known.contains(&(lost.table.clone(), lost.part.clone())));
        // What is there is told first. What failed stays news.
        if found.is_empty() { stumbled.map(|()| found) } else { Ok(found) }
    }

    /// Takes note of a part that was told of.
    pub(super) fn note(&mut self, lost: &LostPart) {
        self.known.get_or_insert_default().insert((lost.table.clone(), lost.part.clone()));
        self.begun.retain(|begun| begun != lost);
        self.pending.push(lost.clone());
    }

    /// Detaches parts behind errors that came up since the last look.
    async fn stumbled_over(&mut self, sql: &Sql, generation: u64) -> Result<(), UpkeepError> {
        if self.generation != generation {
            // Counts begin anew with the process.
            (self.generation, self.errors) = (generation, HashMap::new());
        }
        let codes = CODES.map(|code| code.to_string()).join(", ");
        let question = format!(
            "SELECT code, value AS count, last_error_message AS message FROM system.errors \
             WHERE code IN ({codes}) AND NOT remote"
        );
        let mut counted: Vec<Counted> = sql.rows("look for damage", sql.query(&question)).await?;
        counted.retain(|error| self.errors.get(&error.code) != Some(&error.count));
        let (mut suspects, mut reason) = (Vec::new(), None);
        for error in &counted {
            match part_in(&error.message) {
                Some((table_id, part)) => suspects.extend(active(sql, table_id, part).await?),
                None if ONLY_NAMED.contains(&error.code) => {}
                None => reason = Some(error_name(&error.message)),
            }
        }
        for part in suspects {
            if !is_readable(sql, &part).await {
                self.detach(sql, part, "found by an error".to_owned()).await?;
            }
        }
        if let Some(reason) = reason {
            let began = Instant::now();
            if self.next_search.is_some_and(|next| began < next) {
                // These errors stay news until then.
                return Ok(());
            }
            for part in broken(sql).await? {
                self.detach(sql, part, reason.clone()).await?;
            }
            self.next_search = Some(Instant::now() + began.elapsed() * SEARCH_SHARE);
        }
        self.errors.extend(counted.into_iter().map(|error| (error.code, error.count)));
        Ok(())
    }

    /// Sets a part aside. Whether or not that is answered: what then lies in `detached` is told of.
    async fn detach(&mut self, sql: &Sql, part: Active, reason: String) -> Result<(), UpkeepError> {
        // Read before its directory moves.
        let lost = describe(part.table, part.part, part.partition, reason, &part.path);
        let statement = format!("ALTER TABLE {} DETACH PART '{}'", identifier(&lost.table), lost.part);
        if !self.begun.contains(&lost) {
            self.begun.push(lost);
        }
        sql.run("detach a part", sql.query(&statement)).await
    }

    /// Puts what was lost into the ledger, as soon as its minutes are over. Each loss with its rows.
    pub(super) async fn account(
        &mut self,
        sql: &Sql,
        author: &Author,
        now: DateTime<Utc>,
        retention: &Retention,
    ) -> Result<Vec<(LostPart, u64)>, UpkeepError> {
        let mut accounted = Vec::new();
        while let Some(position) = self.pending.iter().position(|lost| is_settled(lost, now)) {
            let lost = self.pending[position].clone();
            let rows = match STREAMS.iter().find(|(table, ..)| *table == lost.table) {
                Some((table, stream, count)) => {
                    let from = lost.from.max(whole_from(table, now, retention));
                    write_off(sql, table, stream, count, (from, lost.to)).await?
                }
                None => 0,
            };
            author.loss_accounted(sql, &lost, rows).await?;
            self.pending.swap_remove(position);
            accounted.push((lost, rows));
        }
        Ok(accounted)
    }
}

fn is_settled(lost: &LostPart, now: DateTime<Utc>) -> bool {
    now - lost.to.min(now) > TimeDelta::minutes(1) + SETTLED_AFTER
}

/// The first time whose rows were all there. Accounts outlive rows, so what is missing before it proves nothing.
fn whole_from(table: &str, now: DateTime<Utc>, retention: &Retention) -> DateTime<Utc> {
    let kept = retention.tables().into_iter().find(|(name, _)| name == table);
    let begin = kept.and_then(|(_, time)| now.checked_sub_signed(TimeDelta::from_std(time).ok()?));
    begin.unwrap_or(DateTime::UNIX_EPOCH) + MARGIN
}

/// Parts that were told of, however long ago: they lie in `detached` until somebody removes them. And those among them that
/// have no account.
async fn told(sql: &Sql) -> Result<(HashSet<(String, String)>, Vec<LostPart>), UpkeepError> {
    let query = sql
        .query(
            "SELECT kind, details FROM events WHERE cluster = '00000000-0000-0000-0000-000000000000' \
             AND kind IN ({lost:String}, {accounted:String})",
        )
        .param("lost", PART_LOST)
        .param("accounted", LOSS_ACCOUNTED);
    let told: Vec<Told> = sql.rows("read what was lost", query).await?;
    let (mut pending, mut accounted, mut known) = (Vec::new(), HashSet::new(), HashSet::new());
    for event in told {
        if event.kind == PART_LOST {
            if let Ok(lost) = serde_json::from_str::<LostPart>(&event.details) {
                known.insert((lost.table.clone(), lost.part.clone()));
                pending.push(lost);
            }
        } else if let Ok(about) = serde_json::from_str::<serde_json::Value>(&event.details) {
            let text = |key: &str| about[key].as_str().unwrap_or_default().to_owned();
            accounted.insert((text("table"), text("part")));
        }
    }
    pending.retain(|lost| !accounted.contains(&(lost.table.clone(), lost.part.clone())));
    Ok((known, pending))
}

/// Writes to the ledger what is missing in the minutes between two times; gives the sum.
async fn write_off(
    sql: &Sql,
    table: &str,
    stream: &str,
    count: &str,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<u64, UpkeepError> {
    let epoch = Uuid::new_v4().to_string();
    let minutes = "at >= toStartOfMinute(fromUnixTimestamp64Nano({from:Int64}, 'UTC')) AND \
                   at < toStartOfMinute(fromUnixTimestamp64Nano({to:Int64}, 'UTC')) + toIntervalMinute(1)";
    let statement = format!(
        "INSERT INTO ledger (agent, epoch, sequence, row, cluster, member, at, stream, kind, reason, count, blind_from, blind_to) \
         SELECT agent, {{epoch:UUID}}, 0, rowNumberInAllBlocks(), cluster, member, minute, {{stream:String}}, 'dropped', 'corrupt', \
         toUInt64(missing), fromUnixTimestamp64Nano(0, 'UTC'), fromUnixTimestamp64Nano(0, 'UTC') FROM \
         (SELECT agent, cluster, member, minute, sum(difference) AS missing FROM \
         (SELECT agent, cluster, member, toStartOfMinute(at) AS minute, \
         sum(if(kind = 'produced', toInt64(count), -toInt64(count))) AS difference \
         FROM ledger WHERE stream = {{stream:String}} AND {minutes} GROUP BY agent, cluster, member, minute \
         UNION ALL SELECT agent, cluster, member, toStartOfMinute(at) AS minute, -toInt64(sum({count})) AS difference \
         FROM {table} WHERE {minutes} GROUP BY agent, cluster, member, minute) \
         GROUP BY agent, cluster, member, minute HAVING missing > 0)"
    );
    let bound = |statement: &str| {
        sql.query(statement)
            .param("epoch", &epoch)
            .param("stream", stream)
            .param("from", from.timestamp_nanos_opt().unwrap_or(0))
            .param("to", to.timestamp_nanos_opt().unwrap_or(i64::MAX))
    };
    sql.run("write a loss to the ledger", bound(&statement)).await?;
    let sum = "SELECT sum(count) FROM ledger WHERE stream = {stream:String} AND reason = 'corrupt' AND epoch = {epoch:UUID}";
    Ok(sql.rows::<u64>("read a loss", bound(sum)).await?.into_iter().sum())
}

/// The part that an error's message names by the path of its files: id of its table, and its name.
fn part_in(message: &str) -> Option<(Uuid, &str)> {
    message.match_indices("/store/").find_map(|(at, found)| {
        let mut words = message[at + found.len()..].split('/');
        let (_prefix, id, part) = (words.next()?, words.next()?, words.next()?);
        let name = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        (name && part.contains('_') && !part.starts_with("tmp")).then_some((id.parse().ok()?, part))
    })
}

/// The first word of what the engine calls an error, such as `CHECKSUM_DOESNT_MATCH`.
fn error_name(message: &str) -> String {
    let first = message.split(['.', ':', ',']).next().unwrap_or_default();
    first.chars().take(80).collect()
}

const ACTIVE: &str = "SELECT table, name AS part, partition_id AS partition, path FROM system.parts WHERE active AND \
                      database = {database:String} AND ";

async fn active(sql: &Sql, table_id: Uuid, part: &str) -> Result<Option<Active>, UpkeepError> {
    let condition = "name = {part:String} AND table IN \
                     (SELECT name FROM system.tables WHERE database = {database:String} AND uuid = {id:UUID})";
    let query =
        sql.query(&format!("{ACTIVE}{condition}")).param("part", part).param("id", table_id.to_string());
    Ok(sql.rows("look for a part", query).await?.into_iter().next())
}

/// Whether all of a part can be read, by its checksums. Only the engine's word that it can't counts.
async fn is_readable(sql: &Sql, part: &Active) -> bool {
    let statement = format!("CHECK TABLE {} PART '{}'", identifier(&part.table), part.part);
    let query = sql.query(&statement).with_setting("check_query_single_value_result", "1");
    // It reads all of the part, and goes on when nobody waits any more: given up early, it would be begun again and again.
    !matches!(within("check a part", SEARCH_LIMIT, query.fetch_all::<u8>()).await.as_deref(), Ok([0]))
}

/// All active parts that can't be read. Reads the whole store.
async fn broken(sql: &Sql) -> Result<Vec<Active>, UpkeepError> {
    let tables = "SELECT DISTINCT table FROM system.parts WHERE active AND database = {database:String}";
    let mut found = Vec::new();
    for table in sql.rows::<String>("list tables", sql.query(tables)).await? {
        let statement = format!("CHECK TABLE {}", identifier(&table));
        let query = sql.query(&statement).with_setting("check_query_single_value_result", "0");
        let checked: Vec<Checked> = within("check a table", SEARCH_LIMIT, query.fetch_all()).await?;
        for part in checked.into_iter().filter(|part| part.is_passed == 0) {
            let name = part.part_path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let query = sql.query(&format!("{ACTIVE} table = {{table:String}} AND name = {{part:String}}"));
            found
                .extend(sql.rows("look for a part", query.param("table", &table).param("part", name)).await?);
        }
    }
    Ok(found)
}

/// What a part's own small files say of it.
fn describe(table: String, part: String, partition: String, reason: String, path: &str) -> LostPart {
    let read = |file: &str| std::fs::read(Path::new(path).join(file)).ok();
    let rows = read("count.txt").and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
    let times = read("minmax_at.idx").and_then(|bytes| {
        let at = |from: usize| {
            let nanoseconds = i64::from_le_bytes(bytes.get(from..from + 8)?.try_into().ok()?);
            Some(DateTime::from_timestamp_nanos(nanoseconds))
        };
        Some((at(0)?, at(8)?)).filter(|(from, to)| from <= to)
    });
    let (from, to) = times.unwrap_or_else(|| span(&partition));
    LostPart { table, part, partition, reason, rows, from, to }
}

/// The day that a partition's id means, the month, or all of time.
fn span(partition: &str) -> (DateTime<Utc>, DateTime<Utc>) {
    let day = NaiveDate::parse_from_str(partition, "%Y%m%d").ok().map(|day| (day, day + Days::new(1)));
    let month = || {
        let first = NaiveDate::parse_from_str(&format!("{partition}01"), "%Y%m%d").ok()?;
        Some((first, first.checked_add_months(chrono::Months::new(1))?))
    };
    let begin = |day: NaiveDate| day.and_time(chrono::NaiveTime::MIN).and_utc();
    day.or_else(month).map_or((DateTime::UNIX_EPOCH, Utc::now()), |(from, to)| {
        (begin(from), begin(to) - TimeDelta::nanoseconds(1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_behind_an_error_is_found_in_its_message() {
        let message = "Checksum doesn't match: corrupted data: (while reading column at): (while reading from part \
                       /var/lib/x/clickhouse/store/1a2/1a2b3c4d-0000-4000-8000-000000000001/20261121_1_5_1/ located on disk default)";
        let (table, part) = part_in(message).unwrap();
        assert_eq!(
            (table.to_string().as_str(), part),
            ("1a2b3c4d-0000-4000-8000-000000000001", "20261121_1_5_1")
        );
        assert_eq!(error_name(message), "Checksum doesn't match");
        for nothing in [
            "",
            "/store/",
            "/store/a/b/c_d/",
            "File /store/1a2/1a2b3c4d-0000-4000-8000-000000000001/tmp_x_1/a",
        ] {
            assert_eq!(part_in(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn only_minutes_whose_rows_cannot_have_expired_prove_a_loss() {
        let now = DateTime::from_timestamp(1_795_255_200, 0).unwrap();
        let days = |table: &str| (now - whole_from(table, now, &Retention::default()) + MARGIN).num_days();
        assert_eq!(["syncs", "metrics", "events", "autopsies"].map(days), [7, 7, 90, 90]);
        let for_ever = Retention { raw: Duration::MAX, ..Retention::default() };
        assert_eq!(whole_from("syncs", now, &for_ever), DateTime::UNIX_EPOCH + MARGIN);
    }

    #[test]
    fn a_part_s_own_files_say_what_it_held_and_its_partition_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let of =
            || describe("syncs".to_owned(), "p".to_owned(), "20261121".to_owned(), "broken".to_owned(), path);
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let lost = of();
        assert_eq!(
            (lost.rows, text(lost.from).as_str(), text(lost.to).as_str()),
            (None, "2026-11-21T00:00:00Z", "2026-11-21T23:59:59Z")
        );
        std::fs::write(directory.path().join("count.txt"), "17").unwrap();
        let times: Vec<u8> = [1_795_255_200_000_000_000_i64, 1_795_255_203_000_000_000]
            .iter()
            .flat_map(|at| at.to_le_bytes())
            .collect();
        std::fs::write(directory.path().join("minmax_at.idx"), times).unwrap();
        let lost = of();
        assert_eq!(
            (lost.rows, text(lost.from).as_str(), text(lost.to).as_str()),
            (Some(17), "2026-11-21T10:00:00Z", "2026-11-21T10:00:03Z")
        );
        assert_eq!(text(span("202611").1), "2026-11-30T23:59:59Z");
    }
}
