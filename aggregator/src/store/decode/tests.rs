use etcdmon_proto::convert::{delta_i64, delta_u64};
use proptest::prelude::*;

use super::*;
use crate::store::block::Column;

struct Names;

impl ClusterNames for Names {
    fn cluster_uuid(&self, etcd_cluster_id: u64) -> Uuid {
        Uuid::from_u64_pair(1, etcd_cluster_id)
    }
}

const AGENT: Uuid = Uuid::from_u128(7);
const SECOND: i64 = 1_795_255_200;

fn id() -> BatchId {
    BatchId { agent: AGENT, epoch: Uuid::from_u128(8), sequence: 9 }
}

fn section(kind: v1::SectionKind, rows: u32, message: &impl Message) -> v1::Section {
    v1::Section { kind: kind.into(), rows, payload: message.encode_to_vec() }
}

fn base(samples: &[(u64, i64)]) -> v1::Section {
    let mono: Vec<u64> = samples.iter().map(|(mono, _)| *mono).collect();
    let columns = v1::TimeBases {
        mono_ns_delta: delta_u64("", &mono).unwrap(),
        wall_minus_mono_ns_delta: delta_i64(samples.iter().map(|(_, offset)| *offset)),
    };
    section(v1::SectionKind::TimeBase, u32::try_from(samples.len()).unwrap(), &columns)
}

fn histograms() -> v1::SyncHistograms {
    v1::SyncHistograms {
        member: vec![0, 1],
        file_class: vec![v1::FileClass::Wal as i32, 77],
        second_delta: delta_i64([SECOND, SECOND + 1]),
        bucket_len: vec![2, 1],
        bucket_delta: vec![5, 3, 400],
        bucket_count: vec![1, 2, 3],
        sum_ns: vec![10, 20],
        errors: vec![0, 1],
        run_delay_ns: vec![3, 4],
        hook: vec![1, 2],
    }
}

fn events(mono: &[i64]) -> v1::Events {
    v1::Events {
        member_plus_one: mono.iter().map(|_| 0).collect(),
        mono_ns_delta: delta_i64(mono.iter().copied()),
        kind: mono.iter().map(|_| "clock.step".to_owned()).collect(),
        details_json: mono.iter().map(|_| "{}".to_owned()).collect(),
    }
}

fn batch(sections: Vec<v1::Section>) -> v1::Batch {
    let member = |id| v1::Member { cluster_id: 0xc1, member_id: id, ..v1::Member::default() };
    v1::Batch {
        agent_id: AGENT.as_bytes().to_vec(),
        boot_id: vec![1; 16],
        members: vec![member(1), member(2)],
        sections,
    }
}

fn run(batch: &v1::Batch) -> Result<Decoded, DecodeError> {
    decode(id(), &batch.encode_to_vec(), &Names)
}

fn refused(sections: Vec<v1::Section>) -> String {
    run(&batch(sections)).unwrap_err().to_string()
}

fn texts(column: &Column) -> Vec<String> {
    let Column::Text(dictionary) = column else { panic!("no text column") };
    (0..column.rows()).map(|row| dictionary.text(row).to_owned()).collect()
}

#[test]
fn histograms_become_rows() {
    let decoded = run(&batch(vec![section(v1::SectionKind::SyncHistogram, 2, &histograms())])).unwrap();
    let block = &decoded.blocks[0];
    assert_eq!((block.table, block.rows()), (Table::SyncHistograms, 2));
    assert_eq!(block.times(), [SECOND * 1_000_000_000, (SECOND + 1) * 1_000_000_000]);
    assert_eq!(block.row_numbers(), [0, 1]);
    assert_eq!(
        texts(&block.columns()[4]),
        [Names.cluster_uuid(0xc1).to_string(), Names.cluster_uuid(0xc1).to_string()]
    );
    assert_eq!(block.columns()[5], Column::U64(vec![1, 2]));
    // A class of a later version is stored under a name of its own rather than refused.
    assert_eq!(texts(&block.columns()[7]), ["wal", "unknown"]);
    assert_eq!(block.columns()[10], Column::U64(vec![3, 3]), "counted from the buckets");
}

#[test]
fn row_numbers_go_on_in_a_second_section_of_a_kind() {
    let one = section(v1::SectionKind::SyncHistogram, 2, &histograms());
    let decoded = run(&batch(vec![one.clone(), one])).unwrap();
    assert_eq!(decoded.blocks.len(), 1);
    assert_eq!(decoded.blocks[0].row_numbers(), [0, 1, 2, 3]);
}

#[test]
fn unknown_kinds_are_counted() {
    let foreign = v1::Section { kind: 4_711, rows: 12, payload: vec![1, 2, 3] };
    let decoded = run(&batch(vec![foreign])).unwrap();
    assert_eq!((decoded.rows(), decoded.unknown_rows), (0, 12));
}

#[test]
fn a_fact_has_the_wall_time_of_the_nearest_earlier_base() {
    let wall = SECOND * 1_000_000_000;
    let bases = base(&[(1_000, wall), (2_000, wall + 50)]);
    let decoded =
        run(&batch(vec![section(v1::SectionKind::Event, 4, &events(&[10, 1_999, 2_000, 9_000])), bases]));
    assert_eq!(decoded.unwrap().blocks[0].times(), [wall + 10, wall + 1_999, wall + 2_050, wall + 9_050]);
}

#[test]
fn corrupt_sections_are_named_with_their_column() {
    let histogram = |change: fn(&mut v1::SyncHistograms)| {
        let mut columns = histograms();
        change(&mut columns);
        refused(vec![section(v1::SectionKind::SyncHistogram, 2, &columns)])
    };
    let cases = [
        (histogram(|it| _ = it.errors.pop()), "section sync_histogram: column errors has 1 rows, expected 2"),
        (
            histogram(|it| it.member[1] = 2),
            "section sync_histogram: column member refers to 2, which does not exist",
        ),
        (
            histogram(|it| it.bucket_len[0] = 9),
            "section sync_histogram: column bucket_delta has 3 rows, expected 10",
        ),
        (
            histogram(|it| it.bucket_delta[1] = 9_000),
            "section sync_histogram: histogram bucket 9005 out of order",
        ),
        (
            histogram(|it| it.bucket_count = vec![1 << 40, 1, 1]),
            "section sync_histogram: column bucket_count leaves its range",
        ),
        (
            histogram(|it| it.second_delta[0] = 5),
            "section sync_histogram: column second_delta leaves the range of time",
        ),
        (
            refused(vec![section(v1::SectionKind::Event, 1, &events(&[10]))]),
            "section event: batch has no time base",
        ),
        (
            refused(vec![base(&[(0, i64::MAX)]), section(v1::SectionKind::Event, 1, &events(&[10]))]),
            "section event: column mono_ns_delta leaves the range of time at row 0",
        ),
        (
            refused(vec![base(&[(0, 0)]), section(v1::SectionKind::Event, 1, &events(&[-10]))]),
            "section event: column mono_ns_delta leaves the range of time at row 0",
        ),
        (
            refused(vec![v1::Section { kind: 7, rows: 1, payload: vec![255; 9] }]),
            "section ledger does not decode",
        ),
        (
            refused(vec![v1::Section { kind: 2, rows: u32::MAX, payload: Vec::new() }]),
            "batch has more than 500000 rows",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.starts_with(expected), "{found}\nexpected: {expected}");
    }
}

#[test]
fn a_batch_of_too_many_days_is_refused() {
    let seconds = (0..100).map(|day| SECOND + day * 86_400);
    let ledger = v1::Ledger {
        minute_delta: delta_i64(seconds.map(|second| second / 60)),
        stream: vec!["sync".to_owned(); 100],
        kind: vec![1; 100],
        reason: vec![String::new(); 100],
        count: vec![1; 100],
        blind_from_ns: vec![0; 100],
        blind_to_ns: vec![0; 100],
        member_plus_one: vec![0; 100],
    };
    assert_eq!(refused(vec![section(v1::SectionKind::Ledger, 100, &ledger)]), "batch has more than 64 days");
}

#[test]
fn foreign_and_nameless_batches_are_refused() {
    let mut foreign = batch(Vec::new());
    foreign.agent_id = vec![9; 16];
    assert_eq!(run(&foreign), Err(DecodeError::ForeignAgent));
    foreign.agent_id = vec![9; 15];
    assert_eq!(run(&foreign), Err(DecodeError::Id("agent id")));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(id(), &bytes, &Names);
    }

    #[test]
    fn no_section_payload_panics(kind in 0i32..9, rows in 0u32..40, payload in prop::collection::vec(any::<u8>(), 0..400)) {
        let foreign = v1::Section { kind, rows, payload };
        let _ = run(&batch(vec![base(&[(0, SECOND * 1_000_000_000)]), foreign]));
    }

    /// Well-formed messages with columns of any length and content, which random bytes rarely make.
    #[test]
    fn no_columns_panic(
        rows in 0u32..5,
        small in prop::collection::vec(0u32..4, 0..5),
        wide in prop::collection::vec(any::<u64>(), 0..5),
        signed in prop::collection::vec(any::<i64>(), 0..5),
        near in prop::collection::vec(SECOND..SECOND + 100, 0..5),
        text in prop::collection::vec(".{0,5}", 0..5),
    ) {
        let enums: Vec<i32> = small.iter().map(|value| *value as i32).collect();
        let near = delta_i64(near);
        let histograms = v1::SyncHistograms {
            member: small.clone(), file_class: enums.clone(), second_delta: near.clone(), bucket_len: small.clone(),
            bucket_delta: small.clone(), bucket_count: wide.clone(), sum_ns: wide.clone(), errors: wide.clone(),
            run_delay_ns: wide.clone(), hook: enums.clone(),
        };
        let metrics = v1::Metrics {
            series: vec![v1::Series { member_plus_one: rows, label: text.clone(), ..v1::Series::default() }],
            series_index: small.clone(), mono_ns_delta: signed.clone(), value: vec![f64::NAN; rows as usize],
        };
        let events = v1::Events {
            member_plus_one: small.clone(), mono_ns_delta: signed.clone(), kind: text.clone(), details_json: text.clone(),
        };
        let ledger = v1::Ledger {
            minute_delta: near, stream: text.clone(), kind: enums, reason: text, count: wide,
            blind_from_ns: signed.clone(), blind_to_ns: signed.clone(), member_plus_one: small,
        };
        let offset = signed.first().copied().unwrap_or(SECOND * 1_000_000_000);
        for foreign in [
            section(v1::SectionKind::SyncHistogram, rows, &histograms),
            section(v1::SectionKind::Metric, rows, &metrics),
            section(v1::SectionKind::Event, rows, &events),
            section(v1::SectionKind::Ledger, rows, &ledger),
        ] {
            let _ = run(&batch(vec![base(&[(0, offset)]), foreign]));
        }
    }
}
