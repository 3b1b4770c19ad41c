use super::super::block::{Histograms, Value};
use super::*;

const CLUSTER: Uuid = Uuid::from_u128(7);
const MEMBER: u64 = 0xa1;

fn text(values: &[&str]) -> Column {
    let mut texts = Dictionary::default();
    values.iter().for_each(|value| texts.push(value));
    Column::Text(texts)
}

fn block(table: Table, at: &[i64], rest: Vec<Column>) -> Block {
    let rows = at.len();
    let mut columns = vec![
        Column::Same(Value::Uuid(Uuid::from_u128(1)), rows),
        Column::Same(Value::Uuid(Uuid::from_u128(2)), rows),
        Column::Same(Value::U64(3), rows),
        Column::U32((0..).take(rows).collect()),
        text(&vec![CLUSTER.to_string().as_str(); rows]),
        Column::U64(vec![MEMBER; rows]),
        Column::Time(at.to_vec()),
    ];
    columns.extend(rest);
    Block::new(table, columns)
}

fn batch(sequence: u64, blocks: Vec<Block>) -> Decoded {
    let id = BatchId { agent: Uuid::from_u128(1), epoch: Uuid::from_u128(2), sequence };
    Decoded { id, blocks, unknown_rows: 0 }
}

fn writes(bytes: &[u64]) -> Block {
    let rows = bytes.len();
    let mut buckets = Histograms::default();
    bytes.iter().for_each(|_| buckets.push([]));
    let zeros = || Column::U64(vec![0; rows]);
    let rest = vec![
        text(&vec!["wal"; rows]),
        Column::U64(bytes.to_vec()),
        zeros(),
        zeros(),
        Column::Histogram(buckets),
        zeros(),
        zeros(),
    ];
    block(Table::Writes, &vec![0; rows], rest)
}

fn metrics(at: &[i64], names: &[&str], values: &[f64]) -> Block {
    let labels = vec!["{}"; names.len()];
    let kinds = vec!["counter"; names.len()];
    block(Table::Metrics, at, vec![text(names), text(&labels), text(&kinds), Column::F64(values.to_vec())])
}

#[test]
fn a_batch_counts_once_however_often_it_comes() {
    let tally = Tally::default();
    for (sequence, bytes) in [(1, [5, 7]), (2, [1, 1]), (1, [5, 7]), (2, [1, 1])] {
        let batch = batch(sequence, vec![writes(&bytes)]);
        tally.add(&batch.id, Addition::of(&batch));
    }
    assert_eq!(tally.writes(), BTreeMap::from([((CLUSTER, MEMBER, "wal".to_owned()), 14)]));
    assert_eq!(tally.left_out(), 0);
}

#[test]
fn the_ledger_adds_up_by_reason_and_knows_how_long_nothing_was_seen() {
    let rest = vec![
        text(&["sync", "sync", "sync", "metric", "sync"]),
        text(&["produced", "dropped", "blind", "dropped", "of_later"]),
        text(&["", "ring_full", "agent_down", "spool_full", ""]),
        Column::U64(vec![100, 3, 40, 2, 9]),
        Column::Time(vec![0, 0, 1_000, 0, 0]),
        Column::Time(vec![0, 0, 5_000, 0, 0]),
    ];
    let batch = batch(1, vec![block(Table::Ledger, &[0; 5], rest)]);
    let tally = Tally::default();
    tally.add(&batch.id, Addition::of(&batch));
    let of = |stream: &str, kind, reason: &str| {
        tally.ledger().get(&(CLUSTER, MEMBER, stream.to_owned(), kind, reason.to_owned())).copied()
    };
    assert_eq!(of("sync", "produced", ""), Some(Account { count: 100, blind_ns: 0 }));
    assert_eq!(of("sync", "dropped", "ring_full"), Some(Account { count: 3, blind_ns: 0 }));
    assert_eq!(of("sync", "blind", "agent_down"), Some(Account { count: 40, blind_ns: 4_000 }));
    assert_eq!(tally.ledger().len(), 4, "{:?}", tally.ledger());
}

#[test]
fn the_newest_sample_counts_until_it_is_old() {
    let tally = Tally::default();
    let first = batch(1, vec![metrics(&[10, 30, 20], &["a", "b", "a"], &[1.0, 2.0, 3.0])]);
    tally.sampled(&first);
    assert!(tally.newest(30).is_empty(), "nobody wants them");
    tally.keep_newest();
    tally.sampled(&first);
    // Late: it is older than what is known.
    tally.sampled(&batch(2, vec![metrics(&[5], &["a"], &[9.0])]));
    let found = |now| {
        let mut found: Vec<_> =
            tally.newest(now).iter().map(|newest| (newest.name.to_string(), newest.value)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    assert_eq!(found(30), [("a".to_owned(), 3.0), ("b".to_owned(), 2.0)]);
    let later = 25 + i64::try_from(CURRENT.as_nanos()).unwrap();
    assert_eq!(found(later), [("b".to_owned(), 2.0)]);
    assert_eq!(found(later + 10), []);
}

#[test]
fn a_sample_of_a_clock_that_was_ahead_gives_way_and_grows_old() {
    let tally = Tally::default();
    tally.keep_newest();
    let now = Utc::now().timestamp_nanos_opt().unwrap();
    let hour = 3_600_000_000_000;
    tally.sampled(&batch(1, vec![metrics(&[now + hour], &["a"], &[1.0])]));
    let later = Utc::now().timestamp_nanos_opt().unwrap();
    tally.sampled(&batch(2, vec![metrics(&[later], &["a"], &[2.0])]));
    assert_eq!(tally.newest(later).iter().map(|newest| newest.value).collect::<Vec<_>>(), [2.0]);
    assert_eq!(tally.newest(later + hour), []);
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut sums = BTreeMap::new();
    let names = |range: std::ops::Range<usize>| range.map(|number| (number.to_string(), 1u64)).collect();
    let add = |sum: &mut u64, more| *sum += more;
    assert_eq!(merge(&mut sums, names(0..MAX_COUNTERS), add), 0);
    assert_eq!(merge(&mut sums, names(MAX_COUNTERS - 1..MAX_COUNTERS + 5), add), 5);
    assert_eq!((sums.len(), sums[&(MAX_COUNTERS - 1).to_string()]), (MAX_COUNTERS, 2));
}

#[test]
fn a_series_without_room_leaves_nothing_behind_and_what_is_old_makes_room() {
    let mut series = Series::default();
    let block = |at, name| metrics(&[at], &[name], &[1.0]);
    assert_eq!(series.take(Uuid::nil(), &block(10, "a")), 0);
    series.count = MAX_SERIES;
    assert_eq!(series.take(Uuid::nil(), &block(20, "a")), 0, "known");
    assert_eq!(series.take(Uuid::nil(), &block(20, "b")), 1);
    let names: usize = series.sources.values().map(HashMap::len).sum();
    assert_eq!(names, 1, "no name without a sample");
    series.make_room(20 + CURRENT_NS);
    assert_eq!(series.count, 1, "still current");
    series.count = MAX_SERIES;
    series.make_room(21 + CURRENT_NS);
    assert_eq!(series.count, MAX_SERIES, "just looked");
    series.make_room(20 + 2 * CURRENT_NS);
    assert_eq!((series.count, series.sources.len()), (0, 0));
    assert_eq!(series.take(Uuid::nil(), &block(30, "b")), 0);
}
