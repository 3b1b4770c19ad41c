use super::super::gaps::blind;
use super::*;

const PLAN: Plan =
    Plan { resolution: Resolution::Raw, step: 10, from: 600, to: 650, now_ns: 648 * SECOND_NS };

fn row(member: u64, class: &str, step_at: i64, known_until: i64, histogram: &[(u16, u64)]) -> SyncRow {
    let counted = histogram.iter().map(|(_, count)| count).sum();
    SyncRow {
        member,
        class: class.to_owned(),
        step_at,
        known_until,
        counted,
        failed: 1,
        total_ns: counted * 1_000,
        delay_ns: 5,
        histogram: histogram.to_vec(),
    }
}

fn grid(apart: Apart, rows: &[SyncRow]) -> Grid<'static> {
    let mut grid = Grid::new(&PLAN, apart);
    rows.iter().for_each(|row| grid.add_syncs(row));
    grid
}

/// Both members in all minutes of the plan.
fn watched() -> Watched {
    Watched { width: 60, steps: [(1, 600), (2, 600)].into() }
}

fn values(series: &Series, column: &str) -> Vec<Option<f64>> {
    let values = series.column(column).unwrap();
    values.iter().map(|value| value.is_finite().then_some(*value)).collect()
}

#[test]
fn merged_members_have_the_percentile_of_all_their_syncs() {
    // A median of 100 quick ones and 300 slow ones is slow, whatever the mean of both medians is.
    let rows = [row(1, "wal", 600, 610, &[(100, 100)]), row(2, "wal", 600, 610, &[(400, 300)])];
    let apart = Apart { members: false, classes: true };
    let series = grid(apart, &rows).series(Uuid::nil(), "x", &Gaps::default(), &watched(), latency_columns);
    assert_eq!(series.len(), 1);
    assert_eq!(values(&series[0], "p50_ns")[0], Some(midpoint_ns(400) as f64));
    assert_eq!(values(&series[0], "count")[0], Some(400.0));
    assert_eq!(values(&series[0], "errors")[0], Some(2.0));
    let series =
        grid(Apart::default(), &rows).series(Uuid::nil(), "x", &Gaps::default(), &watched(), latency_columns);
    assert_eq!(series.iter().map(|series| series.member).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(values(&series[0], "p50_ns")[0], Some(midpoint_ns(100) as f64));
    assert_eq!(series[0].labels["class"], "wal");
}

#[test]
fn nothing_counted_is_zero_only_where_somebody_looked() {
    let rows = [row(1, "wal", 600, 610, &[(100, 1)]), row(1, "wal", 640, 647, &[(100, 7)])];
    let gaps = blind(1, 622, 626, "agent_down");
    let series = grid(Apart::default(), &rows).series(Uuid::nil(), "x", &gaps, &watched(), count_columns);
    assert_eq!(values(&series[0], "count"), [Some(1.0), Some(0.0), None, Some(0.0), Some(7.0)]);
    // The newest step counts as far as it is stored: up to the end of second 646.
    assert_eq!(values(&series[0], "per_second")[4], Some(1.0));
    let gap = series[0].gaps.iter().find(|gap| !gap.partial).unwrap();
    assert_eq!((gap.from, gap.to, gap.reason.as_str()), (620, 630, "agent_down"));
    // Nobody reported anything, and nobody says why.
    let nobody = Watched { width: 60, steps: BTreeSet::new() };
    let series =
        grid(Apart::default(), &rows).series(Uuid::nil(), "x", &Gaps::default(), &nobody, count_columns);
    assert_eq!(values(&series[0], "count"), [Some(1.0), None, None, None, Some(7.0)]);
    assert_eq!(series[0].gaps[0].reason, "not_reported");
}

#[test]
fn what_is_not_stored_yet_comes_from_the_live_stream_once() {
    let mut grid = grid(Apart::default(), &[row(1, "wal", 630, 638, &[(100, 20)])]);
    let live = |to_ns| RecentSyncs {
        member: 1,
        class: FileClass::Wal,
        to_ns,
        pairs: [(100u16, 3u32), (60_000, 9)].into(),
    };
    // Stored up to 638: the first two are in it for the most part.
    let all: Vec<RecentSyncs> = (0..8).map(|number| live((637 + number) * SECOND_NS + 400_000_000)).collect();
    grid.add_live(&all);
    let series = grid.series(Uuid::nil(), "x", &Gaps::default(), &watched(), latency_columns);
    // 638.9, 639.9 | 640.9 … 643.9
    assert_eq!(values(&series[0], "count")[3..], [Some(26.0), Some(12.0)]);
    assert_eq!(series[0].live_from, Some(630));
    assert_eq!(values(&series[0], "per_second")[4], Some(3.0), "over the 4 s that were heard of");
}

#[test]
fn a_step_that_is_not_stored_is_no_zero() {
    let rows = [row(1, "wal", 600, 610, &[(100, 1)])];
    let series =
        grid(Apart::default(), &rows).series(Uuid::nil(), "x", &Gaps::default(), &watched(), count_columns);
    assert_eq!(values(&series[0], "count")[1..], [None; 4]);
    assert_eq!(series[0].gaps[0].reason, "not_stored_yet");
}

#[test]
fn calls_of_writes_are_scaled_to_the_time_they_were_seen() {
    let mut grid = Grid::new(&PLAN, Apart::default());
    grid.add_writes(&WriteRow {
        member: 1,
        class: "wal".to_owned(),
        step_at: 600,
        known_until: 630,
        written: 4_096,
        seen_ns: 500_000_000,
        counted: 20,
        total_ns: 2_000,
        histogram: vec![(200, 20)],
    });
    let series = grid.series(Uuid::nil(), "writes", &Gaps::default(), &watched(), write_columns);
    assert_eq!(values(&series[0], "calls_per_second")[0], Some(40.0));
    assert_eq!(values(&series[0], "bytes_per_second")[0], Some(409.6));
    assert_eq!(values(&series[0], "calls_per_second")[1], None, "no call was looked for");
    assert_eq!(values(&series[0], "written_bytes")[1], Some(0.0));
}
