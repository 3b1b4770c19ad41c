//! What the rollups know of themselves, in the store itself: how far they are, and which minutes they must come back to.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::store::Table;
use crate::store::frontier::{Minute, seconds};

/// How far a source is: everything before was recomputed. `None` = it was never begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// 10 seconds and minutes.
    pub minutes: Option<Minute>,
    /// Hours.
    pub hours: Option<Minute>,
}

/// Minutes that are to be recomputed, each with the number of its newest mark.
pub type Marks = BTreeMap<Minute, u64>;

#[derive(clickhouse::Row, Deserialize)]
struct Done {
    level: String,
    until: u32,
}

#[derive(clickhouse::Row, Deserialize)]
struct Mark {
    at: u32,
    number: u64,
}

type Result<T> = clickhouse::error::Result<T>;

/// Reads how far a source is.
pub async fn progress(client: &clickhouse::Client, source: Table) -> Result<Progress> {
    let done: Vec<Done> = client
        .query_raw(
            "SELECT level, toUnixTimestamp(max(done)) AS until FROM rollup_progress \
             WHERE source = {source:String} GROUP BY level",
        )
        .param("source", source.name())
        .fetch_all()
        .await?;
    let of =
        |level: &str| done.iter().find(|done| done.level == level).map(|done| i64::from(done.until) / 60);
    Ok(Progress { minutes: of("minutes"), hours: of("hours") })
}

/// Notes that everything before `until` was recomputed; `level` is `minutes` or `hours`.
pub async fn advance(
    client: &clickhouse::Client,
    source: Table,
    level: &'static str,
    until: Minute,
) -> Result<()> {
    client
        .query_raw(
            "INSERT INTO rollup_progress (source, level, done) \
             SELECT {source:String}, {level:String}, toDateTime({until:UInt32}, 'UTC')",
        )
        .param("source", source.name())
        .param("level", level)
        .param("until", seconds(until))
        .with_setting("async_insert", "0")
        .execute()
        .await
}

/// Marked minutes before `before`, the oldest first, at most `most`; and how many there are of all.
pub async fn marks(
    client: &clickhouse::Client,
    source: Table,
    before: Minute,
    most: u64,
) -> Result<(Marks, u64)> {
    const PENDING: &str = "SELECT toUnixTimestamp(minute) AS at, max(marked) AS number FROM rollup_marks \
                           WHERE source = {source:String} GROUP BY minute HAVING number > max(done)";
    let all: u64 = client
        .query_raw(&format!("SELECT count() FROM ({PENDING})"))
        .param("source", source.name())
        .fetch_one()
        .await?;
    if all == 0 {
        return Ok((Marks::new(), 0));
    }
    let found: Vec<Mark> = client
        .query_raw(&format!("{PENDING} AND at < {{before:UInt32}} ORDER BY at LIMIT {{most:UInt64}}"))
        .param("source", source.name())
        .param("before", seconds(before))
        .param("most", most)
        .fetch_all()
        .await?;
    Ok((found.into_iter().map(|mark| (i64::from(mark.at) / 60, mark.number)).collect(), all))
}

/// Notes that these marks were obeyed.
pub async fn obeyed(client: &clickhouse::Client, source: Table, marks: &Marks) -> Result<()> {
    if marks.is_empty() {
        return Ok(());
    }
    let minutes: Vec<u32> = marks.keys().map(|minute| seconds(*minute)).collect();
    let numbers: Vec<u64> = marks.values().copied().collect();
    client
        .query_raw(
            "INSERT INTO rollup_marks (source, minute, marked, done) \
             SELECT {source:String}, toDateTime(mark.1, 'UTC'), 0, mark.2 FROM \
             (SELECT arrayJoin(arrayZip({minutes:Array(UInt32)}, {numbers:Array(UInt64)})) AS mark)",
        )
        .param("source", source.name())
        .param("minutes", &minutes)
        .param("numbers", &numbers)
        .with_setting("async_insert", "0")
        .execute()
        .await
}
