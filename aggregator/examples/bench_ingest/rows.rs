//! Rows as agents send them.

use etcdmon_aggregator::store::decode::decode;
use etcdmon_aggregator::store::table::Table;
use etcdmon_aggregator::store::{BatchId, ClusterNames, Decoded};
use etcdmon_proto::convert::{delta_i64, delta_u64};
use etcdmon_proto::v1;
use prost::Message;
use uuid::Uuid;

/// Tables that are measured; the first is the one that a busy aggregator writes most to.
pub const TABLES: [Table; 3] = [Table::Metrics, Table::Syncs, Table::SyncHistograms];

/// 2026-11-21 00:00:00 UTC.
const BEGIN: i64 = 1_795_219_200;

/// A cluster's UUID made from etcd's id.
pub struct Names;

impl ClusterNames for Names {
    fn cluster_uuid(&self, etcd_cluster_id: u64) -> Uuid {
        Uuid::from_u64_pair(1, etcd_cluster_id)
    }
}

/// Numbers that look like measurements and are the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A latency around a few hundred microseconds, with a long tail.
    fn latency_ns(&mut self) -> u64 {
        100_000 + (self.next() % 400_000) * (1 + self.next() % 100 / 98 * 20)
    }
}

/// Batch number `sequence` of an agent with rows for one table, encoded.
pub fn payload(table: Table, agent: Uuid, sequence: u64, rows: u32) -> Vec<u8> {
    let mut noise = Noise(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let second = BEGIN + i64::try_from(sequence).expect("few batches") * 2;
    let (kind, payload) = match table {
        Table::Metrics => (v1::SectionKind::Metric, metrics(&mut noise, rows).encode_to_vec()),
        Table::Syncs => (v1::SectionKind::Sync, syncs(&mut noise, rows).encode_to_vec()),
        _ => (v1::SectionKind::SyncHistogram, histograms(&mut noise, rows, second).encode_to_vec()),
    };
    let bases = v1::TimeBases {
        mono_ns_delta: delta_u64("mono", &[0]).expect("one value"),
        wall_minus_mono_ns_delta: vec![second * 1_000_000_000],
    };
    let member = |id| v1::Member { cluster_id: 0xc1, member_id: id, ..v1::Member::default() };
    let section = |kind: v1::SectionKind, rows, payload| v1::Section { kind: kind.into(), rows, payload };
    let batch = v1::Batch {
        agent_id: agent.as_bytes().to_vec(),
        boot_id: vec![3; 16],
        members: (1..=3).map(member).collect(),
        sections: vec![
            section(v1::SectionKind::TimeBase, 1, bases.encode_to_vec()),
            section(kind, rows, payload),
        ],
    };
    batch.encode_to_vec()
}

/// The same as rows.
pub fn decoded(table: Table, agent: Uuid, epoch: Uuid, sequence: u64, rows: u32) -> Decoded {
    let id = BatchId { agent, epoch, sequence };
    decode(id, &payload(table, agent, sequence, rows), &Names).expect("our own batches decode")
}

/// 600 series, sampled in turn.
fn metrics(noise: &mut Noise, rows: u32) -> v1::Metrics {
    let series = |number: u32| v1::Series {
        member_plus_one: 1 + number % 3,
        name: format!("etcd_some_subsystem_value_{}", number / 30),
        label: vec!["le".to_owned(), format!("0.{}", number / 3 % 10)],
        r#type: v1::MetricType::Counter.into(),
    };
    v1::Metrics {
        series: (0..600).map(series).collect(),
        series_index: (0..rows).map(|row| row % 600).collect(),
        mono_ns_delta: delta_i64((0..rows).map(|row| i64::from(row) * 90_000)),
        value: (0..rows).map(|row| (noise.next() % 1_000) as f64 + f64::from(row / 600)).collect(),
    }
}

fn syncs(noise: &mut Noise, rows: u32) -> v1::Syncs {
    let many = || 0..rows;
    v1::Syncs {
        sample_every: 100,
        slow_ns: 10_000_000,
        member: many().map(|row| row % 3).collect(),
        file_class: many().map(|row| 1 + (row % 2) as i32).collect(),
        start_mono_ns_delta: delta_i64(many().map(|row| i64::from(row) * 90_000)),
        latency_ns: many().map(|_| noise.latency_ns()).collect(),
        thread_id: many().map(|row| 4_000 + row % 12).collect(),
        run_delay_ns: many().map(|_| noise.next() % 50_000).collect(),
        written_bytes: many().map(|_| noise.next() % 8_000).collect(),
        inode: many().map(|row| 77_000 + u64::from(row % 6)).collect(),
        device: many().map(|_| 8 << 20 | 1).collect(),
        result: many().map(|_| 0).collect(),
        reason: many().map(|_| v1::SyncReason::Sample.into()).collect(),
    }
}

fn histograms(noise: &mut Noise, rows: u32, second: i64) -> v1::SyncHistograms {
    let many = || 0..rows;
    let mut columns = v1::SyncHistograms {
        member: many().map(|row| row % 3).collect(),
        file_class: many().map(|row| 1 + (row % 2) as i32).collect(),
        second_delta: delta_i64(many().map(|_| second)),
        sum_ns: many().map(|_| noise.latency_ns() * 12).collect(),
        errors: many().map(|_| 0).collect(),
        run_delay_ns: many().map(|_| noise.next() % 500_000).collect(),
        hook: many().map(|_| v1::Hook::Filesystem.into()).collect(),
        ..v1::SyncHistograms::default()
    };
    for _ in many() {
        let mut buckets = [(); 12].map(|()| etcdmon_histogram::bucket_of(noise.latency_ns()));
        buckets.sort_unstable();
        let (mut deltas, mut counts, mut last) = (Vec::new(), Vec::new(), 0);
        for run in buckets.chunk_by(|a, b| a == b) {
            let bucket = u32::try_from(run[0]).expect("few buckets");
            deltas.push(bucket - std::mem::replace(&mut last, bucket));
            counts.push(run.len() as u64);
        }
        columns.bucket_len.push(u32::try_from(deltas.len()).expect("few buckets"));
        columns.bucket_delta.extend(deltas);
        columns.bucket_count.extend(counts);
    }
    columns
}
