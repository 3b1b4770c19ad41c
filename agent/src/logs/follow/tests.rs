//! Followed files, with time handed in.

use std::io::Write as _;
use std::path::Path;

use super::*;

const ID: ProcessId = ProcessId { boot_id: [1; 16], pid: 7, start_ticks: 9 };

/// 2026-11-21T12:00:00Z.
const NOON_NS: i64 = 1_795_262_400 * SECOND_NS;

fn at(second: i64) -> Reading {
    Reading {
        mono_ns: (1_000 + second).unsigned_abs() * 1_000_000_000,
        wall_ns: NOON_NS + second * SECOND_NS,
    }
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn line(second: u32, level: &str, rest: &str) -> String {
    format!("{{\"level\":\"{level}\",\"ts\":\"2026-11-21T12:00:{second:02}.500Z\",{rest}}}\n")
}

fn kinds(facts: &[Fact]) -> Vec<&'static str> {
    facts
        .iter()
        .filter_map(|fact| if let Fact::Event(event) = fact { Some(event.kind) } else { None })
        .collect()
}

fn poll(follow: &mut Follow, now: Reading) -> Vec<Fact> {
    let mut facts = Vec::new();
    follow.poll(now, &mut facts);
    facts
}

fn samples(facts: &[Fact], label: &str) -> Option<f64> {
    facts.iter().rev().find_map(|fact| {
        let Fact::Samples(samples) = fact else { return None };
        let found = samples.values.iter().find(|(series, _)| series.labels.iter().any(|l| l == label));
        found.map(|(_, value)| *value)
    })
}

#[test]
fn a_running_etcd_is_followed_from_now_and_its_boot_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, &line(1, "info", "\"msg\":\"serving client traffic securely\""));
    let mut follow = Follow::new(ID, NOON_NS, false, vec![Source::File(path.clone())]);
    assert_eq!(kinds(&poll(&mut follow, at(5))), [""; 0]);
    assert!(follow.boot.ready);
    append(&path, &line(6, "warn", "\"msg\":\"slow fdatasync\",\"took\":\"2s\""));
    let facts = poll(&mut follow, at(7));
    assert_eq!(kinds(&facts), ["etcd.slow_fdatasync"]);
    let Fact::Event(event) = &facts[0] else { panic!("{facts:?}") };
    assert_eq!(event.mono_ns, 1_006_500_000_000, "dated by its own time");
}

#[test]
fn a_fresh_etcd_has_all_its_lines_but_not_those_of_its_predecessor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, &line(1, "warn", "\"msg\":\"slow fdatasync\",\"took\":\"2s\""));
    append(&path, "panic: of the one before\n");
    append(&path, &line(30, "info", "\"msg\":\"starting defragment\""));
    append(&path, "panic: its own\n");
    let mut follow = Follow::new(ID, NOON_NS + 30 * SECOND_NS, true, vec![Source::File(path)]);
    assert_eq!(kinds(&poll(&mut follow, at(31))), ["etcd.defrag_started"]);
    let lines: Vec<&str> = follow.boot.lines().iter().map(|line| line.text.as_str()).collect();
    assert_eq!(lines, ["panic: its own"]);
}

#[test]
fn levels_are_counted_and_a_flood_of_debug_lines_costs_no_parsing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, "");
    let mut follow = Follow::new(ID, NOON_NS, false, vec![Source::File(path.clone())]);
    append(&path, &line(1, "debug", "\"msg\":\"x\"").repeat(5_000));
    append(&path, &line(1, "warn", "\"msg\":\"x\""));
    append(&path, "nothing known\n");
    let facts = poll(&mut follow, at(5));
    assert_eq!((samples(&facts, "debug"), samples(&facts, "warn")), (Some(5000.0), Some(1.0)));
    assert!(!facts.iter().any(|fact| matches!(fact, Fact::Lost(_))), "none of them lost");
}

#[test]
fn more_lines_than_are_parsed_are_counted_by_level_and_as_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    append(&path, "");
    let mut follow = Follow::new(ID, NOON_NS, false, vec![Source::File(path.clone())]);
    append(&path, &line(1, "info", "\"msg\":\"starting defragment\"").repeat(1_000));
    let facts = poll(&mut follow, at(5));
    assert_eq!(samples(&facts, "info"), Some(1000.0));
    let lost: Vec<_> = facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Lost(lost) => Some((lost.stream, lost.reason.as_str(), lost.count)),
            _ => None,
        })
        .collect();
    assert_eq!(lost, [("log", "rate", 800)]);
    assert_eq!(kinds(&facts).len(), 20, "and the events of a kind are limited");
    let later = poll(&mut follow, at(20));
    assert_eq!(kinds(&later), ["etcd.log_suppressed"]);
    let Fact::Event(event) = &later[0] else { panic!("{later:?}") };
    assert_eq!(event.details, json!({"kind": "etcd.defrag_started", "suppressed": 180}));
}

#[test]
fn a_restarted_container_goes_on_in_its_next_file() {
    let directory = tempfile::tempdir().unwrap();
    let cri = |second, msg: &str| {
        let line = line(second, "info", &format!("\"msg\":\"{msg}\""));
        format!("2026-11-21T12:00:{second:02}.500000001Z stderr F {line}")
    };
    append(&directory.path().join("0.log"), "");
    let mut follow = Follow::new(ID, NOON_NS, false, vec![Source::Container(directory.path().to_owned())]);
    append(&directory.path().join("0.log"), &cri(1, "starting defragment"));
    assert_eq!(kinds(&poll(&mut follow, at(2))), ["etcd.defrag_started"]);
    append(&directory.path().join("0.log"), &cri(3, "received signal; shutting down"));
    append(&directory.path().join("1.log"), &cri(4, "ready to serve client requests"));
    assert_eq!(kinds(&poll(&mut follow, at(5))), ["etcd.stopping", "etcd.ready"]);
}
