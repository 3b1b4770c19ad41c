//! Chaos: kill -9, SIGTERM, SIGSTOP, full disks and cut connections under load; what was seen is stored exactly once.
//!
//! `ETCD_MONITOR_SEED` repeats a run, `ETCD_MONITOR_EVENTS=3,17` runs these events of its plan only, and
//! `ETCD_MONITOR_PARTS=faults,life` only these parts.

use std::time::Duration;

use anyhow::Result;
use etcdmon_tests::chaos::run::{self, Options};
use etcdmon_tests::chaos::{life, partition, steps};
use etcdmon_tests::suite::{by_tier, skip_without_root};

/// S10, T3, T4: whoever dies or stops, whatever runs full or is cut: what was spooled is stored exactly once, and what is
/// missing is accounted for.
#[test]
fn nothing_spooled_is_lost_or_doubled_whoever_is_killed() {
    if skip_without_root("probes and perf") {
        return;
    }
    // Side by side: each has stands of its own and mostly waits.
    let failures: Vec<String> = std::thread::scope(|scope| {
        let parts = [
            ("faults", faults as fn() -> Result<()>),
            ("steps", engine_steps),
            ("life", engines_life),
            ("partition", long_partition),
        ];
        let running: Vec<_> = parts
            .into_iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, part)| scope.spawn(move || told(name, part())))
            .collect();
        let ended = running.into_iter().map(|part| part.join().expect("no part panics"));
        ended.filter_map(Result::err).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A failure in words, printed at once: the other parts may go on for long.
fn told(part: &str, outcome: Result<()>) -> Result<(), String> {
    outcome.map_err(|error| {
        let text = format!("{part}: {error:#}");
        println!("FAILED {text}");
        text
    })
}

fn wanted(part: &str) -> bool {
    // The engine's life is for the full tier, or for whoever names it: it takes as long as all the others.
    let by_default = part != "life" || by_tier(false, true);
    std::env::var("ETCD_MONITOR_PARTS").map_or(by_default, |parts| parts.split(',').any(|name| name == part))
}

/// Random faults, single and overlapping.
fn faults() -> Result<()> {
    let options = Options { events: by_tier(20, 200), stands: by_tier(vec![1, 1], vec![3, 1, 1]) };
    run::run(run::seed(), &options)
}

/// The engine hit at each of its steps.
fn engine_steps() -> Result<()> {
    steps::first_schema(by_tier(3, 12))?;
    steps::run(&by_tier(steps::few(), steps::all()))
}

/// The engine killed, hung, filled and corrupted in every phase: it recovers by itself and the ledger balances.
fn engines_life() -> Result<()> {
    life::run(&by_tier(life::few(), life::all()))
}

/// Many agents cut off for long, and all they send afterwards.
fn long_partition() -> Result<()> {
    let (agents, minutes) = by_tier((20, 1), (100, 30));
    partition::run(agents, Duration::from_secs(60 * minutes))
}
