//! ClickHouse's Native format: one block of several batches' rows, column after column, all numbers little endian.
//!
//! Bytes are handed on while the rest is still being written, so that the engine reads while this encodes.

use std::collections::HashMap;

use super::{Block, Column, Dictionary, Value};
use crate::store::table::Kind;

/// Bytes are handed on when so many have come together.
const CHUNK_BYTES: usize = 512 << 10;

/// Where encoded bytes go. It takes what has come together; false = nobody wants more.
pub trait Sink {
    /// Takes a chunk.
    fn take(&mut self, chunk: Vec<u8>) -> bool;
}

impl<F: FnMut(Vec<u8>) -> bool> Sink for F {
    fn take(&mut self, chunk: Vec<u8>) -> bool {
        self(chunk)
    }
}

/// The blocks, which are all of one table, as one block. Ends early when the sink does.
///
/// # Panics
/// When there is no block.
pub fn encode(blocks: &[&Block], sink: &mut impl Sink) {
    let table = blocks.first().expect("an insert has rows").table;
    let rows: usize = blocks.iter().map(|block| block.rows()).sum();
    let mut out = Writer { buffer: Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4), sink, open: true };
    out.varint(table.columns().len() as u64);
    out.varint(rows as u64);
    for (index, (name, kind)) in table.columns().iter().enumerate() {
        out.text(name);
        out.text(kind.sql());
        let parts: Vec<&Column> = blocks.iter().map(|block| &block.columns()[index]).collect();
        match kind {
            Kind::Text => out.dictionary(&parts),
            Kind::Histogram => out.histograms(&parts),
            _ => parts.iter().for_each(|part| out.plain(part)),
        }
        if !out.open {
            return;
        }
    }
    out.flush();
}

/// One block as Native bytes.
pub fn to_vec(block: &Block) -> Vec<u8> {
    let mut all = Vec::new();
    encode(&[block], &mut |chunk: Vec<u8>| {
        all.extend_from_slice(&chunk);
        true
    });
    all
}

struct Writer<'a, S> {
    buffer: Vec<u8>,
    sink: &'a mut S,
    open: bool,
}

impl<S: Sink> Writer<'_, S> {
    fn flush(&mut self) {
        if self.open && !self.buffer.is_empty() {
            let capacity = self.buffer.capacity();
            let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(capacity));
            self.open = self.sink.take(chunk);
        }
    }

    fn room(&mut self) {
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush();
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }

    fn text(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.buffer.extend_from_slice(text.as_bytes());
    }

    /// Values of `N` bytes each, in pieces that keep chunks small.
    fn fixed<T: Copy, const N: usize>(&mut self, values: &[T], bytes: impl Fn(T) -> [u8; N]) {
        for piece in values.chunks(CHUNK_BYTES / 4 / N) {
            let begin = self.buffer.len();
            self.buffer.resize(begin + piece.len() * N, 0);
            for (to, value) in self.buffer[begin..].chunks_exact_mut(N).zip(piece) {
                to.copy_from_slice(&bytes(*value));
            }
            self.room();
        }
    }

    fn repeated<const N: usize>(&mut self, value: [u8; N], mut rows: usize) {
        while rows > 0 {
            let piece = rows.min(CHUNK_BYTES / 4 / N);
            let begin = self.buffer.len();
            self.buffer.resize(begin + piece * N, 0);
            self.buffer[begin..].chunks_exact_mut(N).for_each(|to| to.copy_from_slice(&value));
            rows -= piece;
            self.room();
        }
    }

    fn plain(&mut self, column: &Column) {
        match column {
            Column::Same(Value::Uuid(value), rows) => self.repeated(uuid_bytes(*value), *rows),
            Column::Same(Value::U64(value), rows) => self.repeated(value.to_le_bytes(), *rows),
            Column::Same(Value::U32(value), rows) => self.repeated(value.to_le_bytes(), *rows),
            Column::Uuid(values) => self.fixed(values, uuid_bytes),
            Column::U64(values) => self.fixed(values, u64::to_le_bytes),
            Column::U32(values) => self.fixed(values, u32::to_le_bytes),
            Column::I32(values) => self.fixed(values, i32::to_le_bytes),
            Column::F64(values) => self.fixed(values, f64::to_le_bytes),
            Column::Time(values) => self.fixed(values, i64::to_le_bytes),
            Column::Long(values) => {
                for value in values {
                    self.text(value);
                    self.room();
                }
            }
            Column::Text(_) | Column::Histogram(_) => unreachable!("written over all blocks at once"),
        }
    }

    /// `LowCardinality(String)`: version 1 (a dictionary within the block), then index width and flags, the dictionary,
    /// and a number for each row, as narrow as the dictionary allows.
    fn dictionary(&mut self, parts: &[&Column]) {
        const VERSION: u64 = 1;
        const HAS_KEYS: u64 = 1 << 9;
        const NEW_DICTIONARY: u64 = 1 << 10;
        let parts: Vec<&Dictionary> = parts.iter().map(|part| as_text(part)).collect();
        let (values, translations) = merge(&parts);
        let width: u64 = match values.len() {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2,
        };
        for value in [VERSION, width | HAS_KEYS | NEW_DICTIONARY, values.len() as u64] {
            self.buffer.extend_from_slice(&value.to_le_bytes());
        }
        for value in values {
            self.text(value);
            self.room();
        }
        let rows: usize = parts.iter().map(|part| part.rows.len()).sum();
        self.buffer.extend_from_slice(&(rows as u64).to_le_bytes());
        for (part, translation) in parts.iter().zip(&translations) {
            let number = |row: u32| translation[row as usize];
            match width {
                0 => self.fixed(&part.rows, |row| [number(row) as u8]),
                1 => self.fixed(&part.rows, |row| (number(row) as u16).to_le_bytes()),
                _ => self.fixed(&part.rows, |row| number(row).to_le_bytes()),
            }
        }
    }

    /// Ends of all rows, then all keys, then all values.
    fn histograms(&mut self, parts: &[&Column]) {
        let parts = || {
            parts.iter().map(|part| match part {
                Column::Histogram(values) => values,
                _ => unreachable!("blocks of one table have the same columns"),
            })
        };
        let mut base = 0;
        for part in parts() {
            self.fixed(&part.ends, |end| (base + end).to_le_bytes());
            base += part.buckets.len() as u64;
        }
        parts().for_each(|part| self.fixed(&part.buckets, u16::to_le_bytes));
        parts().for_each(|part| self.fixed(&part.counts, u64::to_le_bytes));
    }
}

/// Two 64-bit halves, the high one first, each little endian.
fn uuid_bytes(value: uuid::Uuid) -> [u8; 16] {
    let (high, low) = value.as_u64_pair();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_le_bytes());
    bytes[8..].copy_from_slice(&low.to_le_bytes());
    bytes
}

fn as_text(column: &Column) -> &Dictionary {
    match column {
        Column::Text(dictionary) => dictionary,
        _ => unreachable!("blocks of one table have the same columns"),
    }
}

/// All values once, and for each part what its numbers become.
fn merge<'a>(parts: &[&'a Dictionary]) -> (Vec<&'a str>, Vec<Vec<u32>>) {
    let (mut values, mut numbers): (Vec<&str>, HashMap<&str, u32>) = (Vec::new(), HashMap::new());
    let translations = parts
        .iter()
        .map(|part| {
            let number = |value: &'a String| {
                *numbers.entry(value).or_insert_with(|| {
                    values.push(value);
                    u32::try_from(values.len() - 1).expect("fewer than 2^32 texts fit the memory budget")
                })
            };
            part.values.iter().map(number).collect()
        })
        .collect();
    (values, translations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::block::Histograms;
    use crate::store::table::Table;

    fn block(sequence: u64, classes: &[&str]) -> Block {
        let rows = classes.len();
        let mut class = Dictionary::default();
        classes.iter().for_each(|value| class.push(value));
        let mut cluster = Dictionary::of(vec!["unused".to_owned(), "c".to_owned()], rows);
        (0..rows).for_each(|_| cluster.push_number(1));
        let mut buckets = Histograms::default();
        (0..rows).for_each(|row| buckets.push((0..row as u16).map(|bucket| (bucket, 2))));
        let columns = vec![
            Column::Same(Value::Uuid(uuid::Uuid::from_u128(7)), rows),
            Column::Same(Value::Uuid(uuid::Uuid::from_u128(8)), rows),
            Column::Same(Value::U64(sequence), rows),
            Column::U32((0..).take(rows).collect()),
            Column::Text(cluster),
            Column::U64(vec![3; rows]),
            Column::Time(vec![9; rows]),
            Column::Text(class),
            Column::U64(vec![1; rows]),
            Column::U64(vec![1; rows]),
            Column::U64(vec![1; rows]),
            Column::Histogram(buckets),
            Column::U64(vec![1; rows]),
            Column::U64(vec![1; rows]),
        ];
        Block::new(Table::Writes, columns)
    }

    #[test]
    fn several_blocks_are_written_as_if_they_were_one() {
        let (first, second) = (block(1, &["wal", "backend", "wal"]), block(2, &["other", "wal"]));
        let mut whole = first.clone();
        whole.append(&second);
        let mut written = Vec::new();
        encode(&[&first, &second], &mut |chunk: Vec<u8>| {
            written.extend(chunk);
            true
        });
        assert_eq!(written, to_vec(&whole));
    }

    #[test]
    fn many_values_need_wider_numbers() {
        let names: Vec<String> = (0..300).map(|number| format!("class {number}")).collect();
        let few = to_vec(&block(1, &names[..256].iter().map(String::as_str).collect::<Vec<_>>()));
        let many = to_vec(&block(1, &names[..257].iter().map(String::as_str).collect::<Vec<_>>()));
        assert!(many.len() > few.len() + 256, "one byte more for every row");
    }

    #[test]
    fn an_encoder_stops_when_nobody_wants_more() {
        let rows = 200_000;
        let large = block(1, &["wal"; 2]).select(&vec![0; rows]);
        let mut chunks = 0;
        encode(&[&large], &mut |_chunk: Vec<u8>| {
            chunks += 1;
            false
        });
        assert_eq!(chunks, 1);
    }
}
