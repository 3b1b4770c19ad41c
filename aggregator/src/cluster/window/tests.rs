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
    Cumulative { pairs }
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
    assert!(series.deltas.len() <= 601, "{}", series.deltas.len());
}
