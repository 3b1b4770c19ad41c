use super::super::gaps::blind;
use super::*;

const PLAN: Plan =
    Plan { resolution: Resolution::Raw, step: 10, from: 600, to: 620, now_ns: 10_000 * fold::SECOND_NS };

/// A row of a step that has one sample in its middle.
fn row(name: &str, labels: &str, kind: &str, step_at: i64, value: f64) -> StepRow {
    let at_ns = (step_at + 5) * fold::SECOND_NS;
    StepRow {
        name: name.to_owned(),
        member: 7,
        agent: Uuid::nil(),
        labels: labels.to_owned(),
        kind: kind.to_owned(),
        step_at,
        samples: 1,
        first: value,
        last: value,
        low: value,
        high: value,
        total: value,
        increase: 0.0,
        first_ns: at_ns,
        last_ns: at_ns,
    }
}

fn assembled(rows: Vec<StepRow>, names: &[&str], function: Function, gaps: Gaps) -> Vec<Series> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let scope = MetricScope { names, function, ..MetricScope::default() };
    assemble(&PLAN, Uuid::nil(), &scope, &Found { rows, gaps })
}

#[test]
fn a_counter_shows_its_growth_and_a_gauge_its_values_unless_asked_otherwise() {
    let rows = || {
        vec![
            row("c", "{}", "counter", 590, 5.0),
            row("c", "{}", "counter", 600, 8.0),
            row("g", r#"{"a":"b"}"#, "gauge", 600, 3.0),
            row("g", r#"{"a":"b"}"#, "gauge", 610, 9.0),
        ]
    };
    let series = assembled(rows(), &["c", "g"], Function::Auto, Gaps::default());
    assert_eq!(series[0].column("increase").unwrap(), [3.0, 0.0]);
    assert_eq!(series[1].column("last").unwrap(), [3.0, 9.0]);
    assert_eq!(series[1].labels["a"], "b");
    let series = assembled(rows(), &["c", "g"], Function::Growth, Gaps::default());
    assert_eq!(series[1].column("increase").unwrap(), [0.0, 6.0]);
    let series = assembled(rows(), &["c", "g"], Function::Values, Gaps::default());
    assert_eq!(series[0].column("max").unwrap(), [8.0, 8.0]);
}

#[test]
fn a_histogram_is_shown_by_percentiles_of_its_growth() {
    let bucket = |le: &str, step_at, value| {
        row("h_bucket", &format!(r#"{{"le":"{le}","op":"x"}}"#), "counter", step_at, value)
    };
    // Order of the rows is that of the labels' text, in which +Inf comes first.
    let rows = vec![
        bucket("+Inf", 590, 1_000.0),
        bucket("+Inf", 600, 1_010.0),
        bucket("0.001", 590, 500.0),
        bucket("0.001", 600, 505.0),
        bucket("0.01", 590, 900.0),
        bucket("0.01", 600, 910.0),
        row("h_sum", r#"{"op":"x"}"#, "counter", 590, 7.0),
        row("h_sum", r#"{"op":"x"}"#, "counter", 600, 7.5),
    ];
    let series = assembled(rows.clone(), &["h"], Function::Auto, Gaps::default());
    assert_eq!(series.len(), 1);
    let h = &series[0];
    assert_eq!((h.name.as_str(), h.labels.get("op").map(String::as_str)), ("h", Some("x")));
    assert!(!h.labels.contains_key("le"));
    assert_eq!(h.column("count").unwrap(), [10.0, 0.0]);
    assert_eq!(h.column("p50").unwrap()[0], 0.001);
    assert!(h.column("p50").unwrap()[1].is_nan(), "nothing counted, no percentile");
    assert_eq!(h.column("mean").unwrap()[0], 0.05);
    assert!(h.gaps.is_empty(), "that nothing was counted is known: {:?}", h.gaps);
    // By its own name it is a counter.
    let series = assembled(rows, &["h_bucket"], Function::Auto, Gaps::default());
    let counters: Vec<_> = series.iter().filter(|series| series.name == "h_bucket").collect();
    assert_eq!((counters.len(), counters[0].labels.len()), (3, 2));
}

#[test]
fn a_step_without_a_value_has_a_reason() {
    let rows = vec![row("g", "{}", "gauge", 600, 3.0)];
    let gaps = blind(7, 606, 620, "agent_down");
    let series = assembled(rows, &["g"], Function::Auto, gaps);
    assert!(series[0].column("last").unwrap()[1].is_nan());
    let gap = series[0].gaps.iter().find(|gap| !gap.partial).unwrap();
    assert_eq!((gap.from, gap.to, gap.reason.as_str()), (610, 620, "agent_down"));
    // Long ago nothing more will come; just now it may.
    let late = vec![row("g", "{}", "gauge", 480, 3.0)];
    let series = assembled(late.clone(), &["g"], Function::Auto, Gaps::default());
    assert_eq!(series[0].gaps[0].reason, "no_sample");
    let plan = Plan { now_ns: 621 * fold::SECOND_NS, ..PLAN };
    let scope = MetricScope { names: vec!["g".to_owned()], ..MetricScope::default() };
    let found = Found { rows: late, gaps: Gaps::default() };
    assert_eq!(assemble(&plan, Uuid::nil(), &scope, &found)[0].gaps[0].reason, "not_stored_yet");
}

#[test]
fn raw_samples_and_rollups_are_asked_for_alike() {
    let segment = |resolution, from, to| Segment { resolution, from, to };
    let scope = MetricScope::default();
    let raw = steps_sql(&PLAN, &[segment(Resolution::Raw, 480, 620)], &scope, false);
    assert!(raw.contains("FROM metrics WHERE at >= toDateTime(480, 'UTC')"), "{raw}");
    assert!(raw.contains("groupArrayIf((begin_ns, one, other), type = 'counter')"), "{raw}");
    assert!(!raw.contains("UNION") && !raw.contains("agents") && !raw.contains("members"), "{raw}");
    let hour = Plan { resolution: Resolution::Hour, step: 3_600, from: 0, to: 14_400, now_ns: 0 };
    let segments = [segment(Resolution::Hour, 0, 7_200), segment(Resolution::Minute, 7_200, 14_400)];
    let asked = MetricScope { members: vec![7], labels: vec![("a".to_owned(), "b".to_owned())], ..scope };
    let mixed = steps_sql(&hour, &segments, &asked, true);
    assert!(mixed.contains("FROM metrics_1h FINAL") && mixed.contains("FROM metrics_1m FINAL"), "{mixed}");
    for once_each in ["{agents:Array(UUID)}", "{members:Array(UInt64)}", "{label_names:Array(String)}"] {
        assert_eq!(mixed.matches(once_each).count(), 2, "{once_each}: {mixed}");
    }
    assert!(mixed.contains("groupArrayIf"), "an hour has many minutes");
    let plain = steps_sql(&hour, &segments[..1], &asked, true);
    assert!(!plain.contains("groupArray"), "one row a step has no order: {plain}");
}

#[test]
fn more_series_than_an_answer_can_have_are_refused_before_they_are_made() {
    let week = Plan { resolution: Resolution::Minute, step: 60, from: 0, to: 10_080 * 60, ..PLAN };
    let rows = |series: u32| -> Vec<StepRow> {
        (0..series).map(|n| row("g", &format!(r#"{{"n":"{n}"}}"#), "gauge", 600, 1.0)).collect()
    };
    assert!(check_room(&week, &rows(10)).is_ok());
    let refused = check_room(&week, &rows(1_000));
    assert!(matches!(refused, Err(QueryError::TooMany { what: "values", .. })), "{refused:?}");
}
