//! `cargo xtask bench capacity`: forecasts of full databases made in the past, compared with what came.
//!
//! Nine kinds of generated series, many lives of each, asked when 40, 60 and 80 % of the way to the quota was gone; and series
//! recorded of a real etcd. `--lives N`. The table is that of `docs/capacity.md`; the last line is one JSON object.

#[path = "bench_capacity/backtest.rs"]
mod backtest;
#[path = "bench_capacity/process.rs"]
mod process;

use anyhow::Context as _;
use serde_json::{Value, json};

use backtest::Score;
use process::Shape;

/// Lives of each kind, unless told otherwise.
const LIVES: u64 = 100;

/// Of a real etcd; its head says how it came about.
const RECORDED: &str = include_str!("bench_capacity/etcd.csv");

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let lives = arguments.iter().position(|argument| argument == "--lives").map(|at| arguments.get(at + 1));
    let lives = match lives {
        Some(value) => value.context("--lives needs a number")?.parse().context("--lives")?,
        None => LIVES,
    };
    println!("{}", backtest::HEAD);
    let mut figures = Vec::new();
    for shape in Shape::ALL {
        let score = backtest::generated(shape, lives);
        println!("{}", score.line(shape.name()));
        figures.extend(of(shape.name(), &score));
    }
    let score = backtest::recorded(RECORDED);
    println!("{}", score.line("recorded etcd"));
    figures.extend(of("recorded", &score));
    println!("{}", json!({"bench": "capacity", "figures": figures}));
    Ok(())
}

/// Figures of one kind of series.
fn of(name: &str, score: &Score) -> Vec<Value> {
    let name = name.replace('-', "_");
    let mut figures = vec![json!({
        "name": format!("{name}_without_date"), "value": score.not_growing + score.beyond + score.unknown,
        "unit": "forecasts", "better": "lower",
    })];
    if score.dated > 0 {
        for (figure, value, better) in [
            ("median_error", score.median_error(), "lower"),
            ("error_9_of_10", score.worst_error(), "lower"),
            ("coverage", score.coverage(), "higher"),
            ("came_too_early", score.too_early(), "lower"),
        ] {
            let value = value.is_finite().then_some(value);
            figures.push(json!({"name": format!("{name}_{figure}"), "value": value, "unit": "ratio", "better": better}));
        }
    }
    figures
}
