//! Batches with random rows at random times.

use etcdmon_aggregator::store::block::{Block, Column, Dictionary, Histograms, Value};
use etcdmon_aggregator::store::{BatchId, Decoded, Table};
use rand::RngExt as _;
use rand::rngs::StdRng;
use uuid::Uuid;

/// Agents, each a process.
#[derive(Clone)]
pub struct Agent {
    id: Uuid,
    epoch: Uuid,
    sequence: u64,
}

impl Agent {
    pub fn new(number: u128) -> Self {
        Self { id: Uuid::from_u128(number), epoch: Uuid::new_v4(), sequence: 0 }
    }

    /// The next batch: its rows lie between these Unix milliseconds.
    pub fn batch(&mut self, random: &mut StdRng, from_ms: i64, to_ms: i64) -> Decoded {
        self.sequence += 1;
        let id = BatchId { agent: self.id, epoch: self.epoch, sequence: self.sequence };
        let blocks = [Table::SyncHistograms, Table::Writes, Table::Metrics].into_iter().map(|table| {
            let rows = random.random_range(1..60);
            let mut columns = common(id, rows, random, from_ms, to_ms);
            columns.extend(match table {
                Table::Metrics => metrics(rows, random),
                Table::Writes => writes(rows, random),
                _ => histograms(rows, random),
            });
            Block::new(table, columns)
        });
        Decoded { id, blocks: blocks.collect(), unknown_rows: 0 }
    }
}

fn common(id: BatchId, rows: usize, random: &mut StdRng, from_ms: i64, to_ms: i64) -> Vec<Column> {
    let mut cluster = Dictionary::default();
    (0..rows).for_each(|_| cluster.push(["c1", "c2"][random.random_range(0..2)]));
    vec![
        Column::Same(Value::Uuid(id.agent), rows),
        Column::Same(Value::Uuid(id.epoch), rows),
        Column::Same(Value::U64(id.sequence), rows),
        Column::U32((0..).take(rows).collect()),
        Column::Text(cluster),
        Column::U64((0..rows).map(|_| random.random_range(0..2)).collect()),
        Column::Time((0..rows).map(|_| random.random_range(from_ms..=to_ms) * 1_000_000).collect()),
    ]
}

fn texts(rows: usize, random: &mut StdRng, choices: &[&str]) -> Column {
    let mut texts = Dictionary::default();
    (0..rows).for_each(|_| texts.push(choices[random.random_range(0..choices.len())]));
    Column::Text(texts)
}

fn numbers(rows: usize, random: &mut StdRng, below: u64) -> Column {
    Column::U64((0..rows).map(|_| random.random_range(0..below)).collect())
}

fn buckets(rows: usize, random: &mut StdRng) -> Column {
    let mut all = Histograms::default();
    for _ in 0..rows {
        let first = random.random_range(0..700u16);
        let length = random.random_range(0..6u16);
        all.push((first..first + length).map(|bucket| (bucket, u64::from(bucket) + 1)));
    }
    Column::Histogram(all)
}

fn histograms(rows: usize, random: &mut StdRng) -> Vec<Column> {
    vec![
        texts(rows, random, &["wal", "backend"]),
        texts(rows, random, &["filesystem", "syscall"]),
        buckets(rows, random),
        numbers(rows, random, 1_000),
        numbers(rows, random, 1 << 40),
        numbers(rows, random, 3),
        numbers(rows, random, 1 << 20),
    ]
}

fn writes(rows: usize, random: &mut StdRng) -> Vec<Column> {
    vec![
        texts(rows, random, &["wal", "other"]),
        numbers(rows, random, 1 << 40),
        numbers(rows, random, 1_000_000_000),
        numbers(rows, random, 1_000),
        buckets(rows, random),
        numbers(rows, random, 1 << 40),
        numbers(rows, random, 5),
    ]
}

/// Whole numbers, so that sums of them are exact in any order; now and then none at all.
fn metrics(rows: usize, random: &mut StdRng) -> Vec<Column> {
    const NAMES: [(&str, &str); 4] =
        [("up", "gauge"), ("load", "gauge"), ("puts", "counter"), ("gets", "counter")];
    let (mut names, mut kinds, mut values) = (Dictionary::default(), Dictionary::default(), Vec::new());
    for _ in 0..rows {
        let (name, kind) = NAMES[random.random_range(0..NAMES.len())];
        names.push(name);
        kinds.push(kind);
        values.push(match random.random_range(0..40) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            // A counter that was reset.
            2..6 => 0.0,
            _ => f64::from(random.random_range(-1_000..100_000)),
        });
    }
    vec![
        Column::Text(names),
        texts(rows, random, &["{}", r#"{"a":"b"}"#]),
        Column::Text(kinds),
        Column::F64(values),
    ]
}
