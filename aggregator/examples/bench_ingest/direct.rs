//! What the engine can do alone: prepared bytes through its C interface.

use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use etcdmon_aggregator::engine::ffi::{Connection, Library};
use etcdmon_aggregator::store::block::{Block, Column, native};
use etcdmon_aggregator::store::migrate::MIGRATIONS;
use etcdmon_aggregator::store::table::Table;
use uuid::Uuid;

use crate::rows::decoded;
use crate::{BATCH_ROWS, INSERT_ROWS, TOTAL_ROWS, cpu_ns};

/// Arguments: library, directory, table, format, writers. Prints rows per second and nanoseconds of CPU a row.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let mut next = |what: &'static str| arguments.next().context(what);
    let (library, directory) = (next("library")?, next("directory")?);
    let table = next("table")?;
    let table = Table::ALL.into_iter().find(|known| table == known.name()).context("no such table")?;
    let format = next("format")?.into_string().ok().context("format")?;
    let writers: usize = next("writers")?.to_string_lossy().parse()?;

    let library = Library::load(Path::new(&library))?;
    let path = format!("--path={}", Path::new(&directory).join("store").display());
    let connect = || library.connect(std::slice::from_ref(&path));
    let mut connection = connect()?;
    for statement in MIGRATIONS.iter().flat_map(|migration| migration.sql.split(";\n")) {
        if !statement.trim().is_empty() {
            connection.query(statement, "Null", &[])?;
        }
    }
    let inserts = TOTAL_ROWS / INSERT_ROWS;
    let prepared: Vec<Vec<u8>> = (0..inserts).map(|number| encode(&blocks(table, number), &format)).collect();
    let sql = table.insert_statement();
    let sql = sql.trim_end_matches(" FORMAT Native");
    // One insert first, so that nothing is done for the first time while the clock runs.
    insert(&mut connection, sql, &format, &prepared[0])?;
    connection.query(&format!("TRUNCATE TABLE {}", table.name()), "Null", &[])?;

    let connections: Vec<Connection> = (0..writers).map(|_| connect()).collect::<Result<_, _>>()?;
    let (began, cpu) = (Instant::now(), cpu_ns(std::process::id())?);
    std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(writer, mut connection)| {
                let mine = prepared.iter().skip(writer).step_by(writers);
                let (format, sql) = (format.as_str(), sql);
                scope.spawn(move || -> anyhow::Result<()> {
                    for bytes in mine {
                        insert(&mut connection, sql, format, bytes)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("writer does not panic"))
    })?;
    let rate = TOTAL_ROWS as f64 / began.elapsed().as_secs_f64();
    let cpu = (cpu_ns(std::process::id())? - cpu) / TOTAL_ROWS as f64;
    let stored = connection.query(&format!("SELECT count() FROM {}", table.name()), "TabSeparated", &[])?;
    anyhow::ensure!(
        String::from_utf8_lossy(stored.as_ref()).trim() == TOTAL_ROWS.to_string(),
        "rows are missing"
    );
    println!("{rate} {cpu}");
    Ok(())
}

fn insert(connection: &mut Connection, sql: &str, format: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = connection.insert(sql, format)?;
    for chunk in bytes.chunks(1 << 20) {
        stream.append(chunk)?;
    }
    stream.finish()?;
    Ok(())
}

/// The rows of one insert, as the writer has them: a block for each batch.
fn blocks(table: Table, insert: usize) -> Vec<Block> {
    let (agent, epoch) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let batches = INSERT_ROWS / BATCH_ROWS as usize;
    let batch = |batch: usize| {
        let sequence = (insert * batches + batch) as u64;
        decoded(table, agent, epoch, sequence, BATCH_ROWS).blocks
    };
    (0..batches).flat_map(batch).collect()
}

fn encode(blocks: &[Block], format: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if format == "Native" {
        let blocks: Vec<&Block> = blocks.iter().collect();
        native::encode(&blocks, &mut |chunk: Vec<u8>| {
            out.extend(chunk);
            true
        });
        return out;
    }
    for block in blocks {
        let columns: Vec<Column> = block.columns().iter().map(Column::spread).collect();
        for row in 0..block.rows() {
            columns.iter().for_each(|column| write_value(column, row, &mut out));
        }
    }
    out
}

fn write_value(column: &Column, row: usize, out: &mut Vec<u8>) {
    match column {
        Column::Same(..) => unreachable!("columns were spread"),
        Column::Uuid(values) => {
            let (high, low) = values[row].as_u64_pair();
            out.extend_from_slice(&high.to_le_bytes());
            out.extend_from_slice(&low.to_le_bytes());
        }
        Column::U64(values) => out.extend_from_slice(&values[row].to_le_bytes()),
        Column::U32(values) => out.extend_from_slice(&values[row].to_le_bytes()),
        Column::I32(values) => out.extend_from_slice(&values[row].to_le_bytes()),
        Column::F64(values) => out.extend_from_slice(&values[row].to_le_bytes()),
        Column::Time(values) => out.extend_from_slice(&values[row].to_le_bytes()),
        Column::Text(values) => write_text(values.text(row), out),
        Column::Long(values) => write_text(&values[row], out),
        Column::Histogram(values) => {
            write_varint(values.row(row).count() as u64, out);
            for (bucket, count) in values.row(row) {
                out.extend_from_slice(&bucket.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
