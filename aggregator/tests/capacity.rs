//! Forecasts (M8): made in the past of generated and recorded databases, they must have come true, within bounds that a broken
//! method does not keep. `docs/capacity.md` has the table of many more lives.

#[path = "../examples/bench_capacity/backtest.rs"]
mod backtest;
#[path = "../examples/bench_capacity/process.rs"]
mod process;

use backtest::{Score, generated, recorded};
use process::Shape;

/// Lives of each shape: enough for a share, few enough for a debug build.
const LIVES: u64 = 10;

/// Of a real etcd; its head says how it came about.
const RECORDED: &str = include_str!("../examples/bench_capacity/etcd.csv");

/// Bounds: median error, error of nine in ten, least and most of the dates whose interval held the truth.
fn check(name: &str, score: &Score, median: f64, most: f64, coverage: (f64, f64)) {
    println!("{}\n{}", backtest::HEAD, score.line(name));
    assert!(score.dated * 10 >= score.asked * 8, "{name}: too few dates");
    assert!(score.median_error() <= median, "{name}: median error {}", score.median_error());
    assert!(score.worst_error() <= most, "{name}: error {}", score.worst_error());
    assert!(score.too_early() <= 0.35, "{name}: full before the interval: {}", score.too_early());
    let held = score.coverage();
    assert!(held >= coverage.0 && held <= coverage.1, "{name}: coverage {held}");
}

/// What holds for each shape: median error, error of nine in ten, coverage. `None` for what must get no date.
fn bounds(shape: Shape) -> Option<(f64, f64, (f64, f64))> {
    match shape {
        Shape::Linear => Some((0.06, 0.15, (0.65, 0.95))),
        Shape::SawTooth | Shape::Defragmented => Some((0.08, 0.2, (0.65, 0.97))),
        Shape::Daily => Some((0.1, 0.25, (0.8, 1.0))),
        Shape::Bursts => Some((0.2, 0.5, (0.6, 1.0))),
        Shape::Gaps => Some((0.08, 0.2, (0.65, 1.0))),
        // What changed may change again: the interval says so.
        Shape::Changed => Some((0.2, 1.5, (0.75, 1.0))),
        Shape::Wandering => Some((0.4, 2.0, (0.5, 1.0))),
        Shape::Flat => None,
    }
}

#[test]
fn dates_come_true_about_as_often_as_told() {
    for shape in Shape::ALL {
        let score = generated(shape, LIVES);
        match bounds(shape) {
            Some((median, most, coverage)) => check(shape.name(), &score, median, most, coverage),
            None => assert_eq!((score.dated, score.unknown), (0, 0), "{score:?}"),
        }
    }
}

#[test]
fn a_recorded_etcd_fills_when_it_was_told() {
    let score = recorded(RECORDED);
    check("recorded etcd", &score, 0.25, 0.5, (0.6, 1.0));
}
