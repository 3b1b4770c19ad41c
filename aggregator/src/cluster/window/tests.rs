use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: i64) -> At {
    At::from_nanos(seconds * 1_000_000_000)
}

fn cumulative(entries: &[(u64, u64)]) -> Cumulative {
    let mut pairs: Vec<_> = entries
        .iter()
        .map(|(ms, count)| (u16::try_from(bucket_of(ms * 1_000_000)).unwrap(), *count))
        .collect();
    pairs.sort_unstable();
    Cumulative { pairs: pairs.into(), sum_ns: 0 }
}

#[test]
fn the_first_message_is_only_a_base() {
    let mut series = Series::default();
    series.push(at(1), cumulative(&[(1, 1_000_000)]));
    assert_eq!(series.window(at(1), 10 * SECOND).count, 0);
}

#[test]
fn deltas_add_up_within_the_window_and_leave_it() {
    let mut series = Series::default();
    for second in 0..=20 {
        series.push(at(second), cumulative(&[(1, u64::try_from(second).unwrap() * 100)]));
    }
    assert_eq!(series.window(at(20), 10 * SECOND).count, 1_000);
    assert_eq!(series.window(at(20), SECOND).count, 100);
    assert_eq!(series.window(at(40), 10 * SECOND).count, 0);
}

#[test]
fn counts_that_go_backwards_are_a_reset_and_give_no_delta() {
    let mut series = Series::default();
    series.push(at(0), cumulative(&[(1, 100)]));
    assert!(series.push(at(1), cumulative(&[(1, 5)])));
    assert!(!series.push(at(2), cumulative(&[(1, 7)])));
    assert_eq!(series.window(at(2), 10 * SECOND).count, 2);
}

#[test]
fn a_bucket_that_vanishes_is_a_reset() {
    let mut series = Series::default();
    series.push(at(0), cumulative(&[(1, 100), (5, 2)]));
    assert!(series.push(at(1), cumulative(&[(5, 3)])));
    let mut other = Series::default();
    other.push(at(0), cumulative(&[(1, 100), (5, 2)]));
    assert!(other.push(at(1), cumulative(&[(1, 101)])));
}

#[test]
fn a_delta_over_a_gap_is_not_taken_for_the_present() {
    let mut series = Series::default();
    series.push(at(0), cumulative(&[(1, 0)]));
    series.push(at(60), cumulative(&[(500, 50)]));
    assert_eq!(series.window(at(60), 60 * SECOND).count, 0);
    series.push(at(61), cumulative(&[(500, 51)]));
    assert_eq!(series.window(at(61), 10 * SECOND).count, 1);
}

#[test]
fn a_lost_message_heals_itself_with_the_next_one() {
    let mut series = Series::default();
    series.push(at(0), cumulative(&[(1, 0)]));
    series.push(at(3), cumulative(&[(1, 300)]));
    assert_eq!(series.window(at(3), 10 * SECOND).count, 300);
}

#[test]
fn quantiles_slow_counts_and_time_agree_with_the_values() {
    let mut series = Series::default();
    series.push(at(0), Cumulative::default());
    series.push(at(1), cumulative(&[(1, 98), (200, 2)]));
    let window = series.window(at(1), 10 * SECOND);
    assert_eq!(window.count_at_least(Duration::from_millis(100)), 2);
    let p99 = window.quantile(0.99).unwrap();
    assert!(p99 >= Duration::from_millis(200) && p99 <= Duration::from_millis(210), "{p99:?}");
    assert!(window.quantile(0.5).unwrap() < Duration::from_millis(2));
    let slow = window.time_at_least(Duration::from_millis(100));
    assert!(slow >= Duration::from_millis(400) && slow <= Duration::from_millis(420), "{slow:?}");
    assert_eq!(window.slowest(), Some(Duration::from_millis(210)));
    assert_eq!(Window::default().quantile(0.99), None);
}

#[test]
fn old_deltas_are_forgotten() {
    let mut series = Series::default();
    for second in 0..2_000 {
        series.push(at(second), cumulative(&[(1, u64::try_from(second).unwrap())]));
    }
    assert!(series.deltas.len() <= 121, "{}", series.deltas.len());
}

/// Cumulative counts of 100 syncs a second, as they are at `second`.
fn steady(second: i64) -> Cumulative {
    cumulative(&[(1, u64::try_from(second).unwrap() * 100)])
}

#[test]
fn a_gap_is_filled_late_for_charts_and_not_for_rules() {
    let mut series = Series::default();
    for second in 0..=10 {
        series.push(at(second), steady(second));
    }
    series.push(at(40), steady(40));
    assert_eq!(series.history(at(40), 30 * SECOND).count, 0, "a gap");
    for second in 11..40 {
        series.fill(at(second), steady(second));
        series.fill(at(second), steady(second));
    }
    assert_eq!(series.history(at(40), 30 * SECOND).count, 3_000);
    assert_eq!(series.history(at(25), 5 * SECOND).count, 500, "at its true time");
    assert_eq!(series.window(at(40), 30 * SECOND).count, 0, "no rule reads it");
    series.push(at(41), steady(41));
    assert_eq!(series.window(at(41), 30 * SECOND).count, 100);
    assert_eq!(series.history(at(41), 41 * SECOND).count, 4_100, "nothing twice");
}

#[test]
fn a_series_that_begins_anew_gets_its_past_from_late_messages() {
    let mut series = Series::default();
    series.push(at(100), steady(100));
    (50..100).for_each(|second| series.fill(at(second), steady(second)));
    assert_eq!(series.history(at(100), 60 * SECOND).count, 5_000);
    series.push(at(101), steady(101));
    assert_eq!(series.window(at(101), 60 * SECOND).count, 100);
}

#[test]
fn late_messages_outside_of_a_gap_or_of_another_count_change_nothing() {
    let mut series = Series::default();
    for second in 0..=10 {
        series.push(at(second), steady(second));
    }
    series.fill(at(5), steady(5));
    series.push(at(40), steady(40));
    series.fill(at(41), steady(41));
    series.fill(at(20), cumulative(&[(1, 1_000_000)]));
    assert_eq!(series.history(at(40), 60 * SECOND).count, 1_000);
    series.rebase();
    series.fill(at(20), steady(20));
    assert_eq!(series.history(at(40), 60 * SECOND).count, 1_000, "the gap belonged to another epoch");
}

#[test]
fn a_hole_in_what_came_late_stays_a_hole() {
    let mut series = Series::default();
    series.push(at(0), steady(0));
    series.push(at(60), steady(60));
    (1..=10).chain(50..60).for_each(|second| series.fill(at(second), steady(second)));
    assert_eq!(series.history(at(60), 60 * SECOND).count, 2_000);
}

#[test]
fn an_older_arrival_of_a_newer_count_keeps_the_order() {
    let mut series = Series::default();
    series.push(at(10), steady(10));
    series.push(at(12), steady(11));
    series.push(at(11), steady(12));
    assert_eq!(series.window(at(12), SECOND).count, 200);
    assert!(series.deltas.iter().map(|delta| delta.to).is_sorted());
}
