use super::super::Resolution;
use super::super::gaps::blind;
use super::*;

/// Six steps of ten seconds, long ago.
const PLAN: Plan =
    Plan { resolution: Resolution::Raw, step: 10, from: 600, to: 660, now_ns: 10_000 * SECOND_NS };

const WHO: Who = Who { member: 7, agent: Uuid::nil() };

/// What the engine makes of samples (time, value).
fn rows(samples: &[(f64, f64)]) -> Vec<StepRow> {
    rows_of(&PLAN, samples)
}

fn rows_of(plan: &Plan, samples: &[(f64, f64)]) -> Vec<StepRow> {
    let step = |at: f64| (at as i64).div_euclid(plan.step) * plan.step;
    samples
        .chunk_by(|a, b| step(a.0) == step(b.0))
        .map(|chunk| {
            let values = || chunk.iter().map(|(_, value)| *value);
            let grown = chunk.windows(2).map(|pair| match pair[1].1 - pair[0].1 {
                growth if growth >= 0.0 => growth,
                _ => pair[1].1,
            });
            StepRow {
                name: "n".to_owned(),
                member: 7,
                agent: Uuid::nil(),
                labels: String::new(),
                kind: String::new(),
                step_at: step(chunk[0].0),
                samples: chunk.len() as u64,
                first: chunk[0].1,
                last: chunk[chunk.len() - 1].1,
                low: values().fold(f64::MAX, f64::min),
                high: values().fold(f64::MIN, f64::max),
                total: values().sum(),
                increase: grown.sum(),
                first_ns: (chunk[0].0 * 1e9) as i64,
                last_ns: (chunk[chunk.len() - 1].0 * 1e9) as i64,
            }
        })
        .collect()
}

/// NaN as `None`: NaN is not equal to itself.
fn shown(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().map(|value| value.is_finite().then(|| (value * 1e6).round() / 1e6)).collect()
}

#[test]
fn a_value_holds_until_it_is_older_than_two_minutes() {
    let rows = rows(&[(490.0, 3.0), (625.0, 8.0), (628.0, 6.0)]);
    let gauge = gauge(&PLAN, &rows, &Gaps::default(), WHO);
    // 600 is 110 s after the sample, 610 is 120 s after it, 620 has samples of its own.
    let expected = [Some(3.0), Some(3.0), Some(7.0), Some(6.0), Some(6.0), Some(6.0)];
    assert_eq!(shown(&gauge.mean), expected);
    assert_eq!(shown(&gauge.low)[2], Some(6.0));
    assert_eq!(shown(&gauge.high)[2], Some(8.0));
    assert_eq!(shown(&gauge.last)[2], Some(6.0));
    let older = super::gauge(&PLAN, &rows_of(&PLAN, &[(489.0, 3.0)]), &Gaps::default(), WHO);
    assert_eq!(shown(&older.last), [Some(3.0), None, None, None, None, None]);
}

#[test]
fn no_value_is_carried_over_a_time_in_which_nobody_looked() {
    let gaps = blind(7, 622, 635, "agent_down");
    let samples = rows(&[(605.0, 3.0), (642.0, 4.0)]);
    let expected = [Some(3.0), Some(3.0), None, None, Some(4.0), Some(4.0)];
    assert_eq!(shown(&gauge(&PLAN, &samples, &gaps, WHO).last), expected);
    let growth = growth(&PLAN, &samples, &gaps, WHO);
    // What it grew meanwhile is not the growth of any step.
    assert_eq!(shown(&growth.increase), [Some(0.0), Some(0.0), None, None, Some(0.0), Some(0.0)]);
    let other = Who { member: 8, ..WHO };
    assert_eq!(shown(&super::growth(&PLAN, &samples, &gaps, other).increase)[4], Some(1.0));
}

#[test]
fn growth_across_steps_belongs_to_the_later_one() {
    let samples = rows(&[(595.0, 100.0), (604.0, 110.0), (609.0, 113.0), (612.0, 120.0), (655.0, 121.0)]);
    let growth = growth(&PLAN, &samples, &Gaps::default(), WHO);
    assert_eq!(shown(&growth.increase), [Some(13.0), Some(7.0), Some(0.0), Some(0.0), Some(0.0), Some(1.0)]);
    assert_eq!(shown(&growth.per_second)[..2], [Some(1.3), Some(0.7)]);
}

#[test]
fn a_counter_that_fell_began_anew_within_and_across_steps() {
    // Within a step: 10 -> 14 -> reset to 2 -> 5 grows 4 + 2 + 3. Across: 5 -> reset to 1.
    let samples = rows(&[(601.0, 10.0), (602.0, 14.0), (603.0, 2.0), (604.0, 5.0), (611.0, 1.0)]);
    let growth = growth(&PLAN, &samples, &Gaps::default(), WHO);
    assert_eq!(shown(&growth.increase)[..2], [Some(9.0), Some(1.0)]);
}

#[test]
fn a_rate_is_over_the_time_that_was_seen() {
    // A new series: nothing is known before its first sample.
    let samples = rows(&[(605.0, 100.0), (609.0, 120.0), (619.0, 130.0)]);
    let growth = growth(&PLAN, &samples, &Gaps::default(), WHO);
    assert_eq!(shown(&growth.per_second)[..2], [Some(4.0), Some(1.0)]);
    let single = super::growth(&PLAN, &rows_of(&PLAN, &[(609.5, 1.0)]), &Gaps::default(), WHO);
    assert_eq!(shown(&single.per_second)[0], None, "half a second says nothing about a rate");
}

#[test]
fn the_newest_step_counts_as_far_as_it_is_stored() {
    let plan = Plan { now_ns: 631 * SECOND_NS, ..PLAN };
    let samples = rows_of(&plan, &[(599.0, 0.0), (609.0, 10.0), (619.0, 20.0), (624.0, 25.0)]);
    let found = growth(&plan, &samples, &Gaps::default(), WHO);
    let expected = [Some(1.0), Some(1.0), Some(1.25), None, None, None];
    assert_eq!(shown(&found.per_second), expected, "5 in the 4 s up to the last sample");
    // A minute later nothing more came: then it did not grow.
    let later = Plan { now_ns: 700 * SECOND_NS, ..PLAN };
    let found = growth(&later, &samples, &Gaps::default(), WHO);
    assert_eq!(shown(&found.per_second), [Some(1.0), Some(1.0), Some(0.5), Some(0.0), Some(0.0), Some(0.0)]);
    let gauge = gauge(&plan, &samples, &Gaps::default(), WHO);
    assert_eq!(shown(&gauge.last)[3..], [Some(25.0), None, None], "630 has begun, 640 has not");
}

#[test]
fn steps_longer_than_two_minutes_join_what_is_next_to_each_other() {
    let plan =
        Plan { resolution: Resolution::Hour, step: 3_600, from: 0, to: 7_200, now_ns: 10_000 * SECOND_NS };
    let samples = rows_of(&plan, &[(10.0, 5.0), (3_300.0, 50.0), (3_900.0, 60.0)]);
    let found = growth(&plan, &samples, &Gaps::default(), WHO);
    assert_eq!(shown(&found.increase), [Some(45.0), Some(10.0)]);
}
