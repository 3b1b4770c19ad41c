//! Rows that ClickHouse will never take: kept as files for the operator, and accounted for in the ledger.
//!
//! A file holds one insert's worth of rows in Native format (`INSERT INTO <table> FORMAT Native < file` once the cause
//! is mended), its neighbour with the ending `.json` says which and why. Files are bounded in number and bytes; the
//! first ones are kept, because they tell how it began.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::block::{Block, Column, Dictionary, Value, native};
use super::decode::BatchId;
use super::refusal::Refusal;
use super::table::Table;

/// Most bytes that all files together may take.
const MOST_BYTES: u64 = 64 << 20;

/// Most files, the descriptions included.
const MOST_FILES: usize = 1_000;

/// Why rows are dropped, in the ledger.
pub const REASON: &str = "unstorable";

/// Ledger rows of this program have numbers from here on; a batch's own rows stay far below.
const FIRST_ROW: u32 = 1 << 31;

const MINUTE_NS: i64 = 60_000_000_000;

/// Writes the rows beside the store; gives the file, or `None` when the bounds are reached.
///
/// # Errors
/// When the directory or the files can't be written.
pub fn keep(
    directory: &Path,
    batch: BatchId,
    block: &Block,
    refusal: &Refusal,
) -> io::Result<Option<PathBuf>> {
    fs::create_dir_all(directory)?;
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(directory)? {
        files += 1;
        bytes += entry?.metadata()?.len();
    }
    let rows = native::to_vec(block);
    if files + 2 > MOST_FILES || bytes + rows.len() as u64 > MOST_BYTES {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first = block.row_numbers().first().copied().unwrap_or(0);
    let name =
        format!("{}-{}-{}-{}-{first}", now.as_millis(), block.table.name(), batch.agent, batch.sequence);
    let file = directory.join(format!("{name}.native"));
    fs::write(&file, rows)?;
    let about = json!({
        "table": block.table.name(), "agent": batch.agent, "epoch": batch.epoch, "sequence": batch.sequence,
        "rows": block.rows(), "code": refusal.code, "reason": refusal.text,
    });
    fs::write(directory.join(format!("{name}.json")), format!("{about:#}\n"))?;
    Ok(Some(file))
}

/// What the rows count in their stream of the ledger; `None` for rows that have none.
fn stream(table: Table) -> Option<&'static str> {
    match table {
        Table::SyncHistograms => Some("sync"),
        Table::Syncs => Some("sync_row"),
        Table::Writes => Some("write"),
        Table::Metrics => Some("metric"),
        Table::Events => Some("event"),
        Table::Autopsies => Some("autopsy"),
        // Nobody announced these; `rows_unstorable` counts them.
        Table::Ledger | Table::Alerts | Table::Diagnoses => None,
    }
}

/// The ledger rows that say so: `dropped`, by cluster, member and minute. They belong to the batch, and their numbers
/// follow from the rows' own, so that a resend that comes to the same end finds them there.
pub fn account(batch: BatchId, block: &Block) -> Option<Block> {
    let stream = stream(block.table)?;
    let columns = block.columns();
    let (Column::Text(clusters), Column::U64(members)) = (&columns[4], &columns[5]) else {
        unreachable!("every table begins with the same columns")
    };
    // A histogram stands for all syncs in it.
    let counts = match (block.table, &columns[10.min(columns.len() - 1)]) {
        (Table::SyncHistograms, Column::U64(counts)) => Some(counts),
        _ => None,
    };
    let mut sums: BTreeMap<(&str, u64, i64), (u32, u64)> = BTreeMap::new();
    for (row, (number, at)) in block.row_numbers().iter().zip(block.times()).enumerate() {
        let key = (clusters.text(row), members[row], at.div_euclid(MINUTE_NS) * MINUTE_NS);
        let (_, sum) = sums.entry(key).or_insert((*number, 0));
        *sum += counts.map_or(1, |counts| counts[row]);
    }
    let rows = sums.len();
    let number = |first: u32| FIRST_ROW | (block.table as u32) << 20 | first & 0xf_ffff;
    let text = |value: &str| {
        let mut texts = Dictionary::of(vec![value.to_owned()], rows);
        (0..rows).for_each(|_| texts.push_number(0));
        Column::Text(texts)
    };
    let mut cluster = Dictionary::default();
    sums.keys().for_each(|(name, ..)| cluster.push(name));
    let columns = vec![
        Column::Same(Value::Uuid(batch.agent), rows),
        Column::Same(Value::Uuid(batch.epoch), rows),
        Column::Same(Value::U64(batch.sequence), rows),
        Column::U32(sums.values().map(|(first, _)| number(*first)).collect()),
        Column::Text(cluster),
        Column::U64(sums.keys().map(|(_, member, _)| *member).collect()),
        Column::Time(sums.keys().map(|(_, _, minute)| *minute).collect()),
        text(stream),
        text("dropped"),
        text(REASON),
        Column::U64(sums.values().map(|(_, sum)| *sum).collect()),
        Column::Time(vec![0; rows]),
        Column::Time(vec![0; rows]),
    ];
    Some(Block::new(Table::Ledger, columns))
}
