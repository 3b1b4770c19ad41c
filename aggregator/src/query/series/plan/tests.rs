use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_795_255_203;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).unwrap()
}

/// The last so many seconds before so many seconds ago.
fn ask(span: i64, ago: i64, step_seconds: Option<i64>) -> Ask {
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
    let range = TimeRange { from: at(NOW - ago - span), to: at(NOW - ago) };
    Ask { range, step_seconds, max_points: DEFAULT_POINTS }
}

fn plan(span: i64, ago: i64, step: Option<i64>) -> Plan {
    Plan::new(&ask(span, ago, step), &Retention::default(), now()).unwrap()
}

#[test]
fn a_short_range_is_read_raw_and_a_long_one_from_the_coarsest_table_that_fits() {
    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    for (span, step, expected) in [
        (HOUR, None, (Resolution::Raw, 15)),
        (HOUR, Some(1), (Resolution::Raw, 1)),
        (2 * HOUR, Some(60), (Resolution::Raw, 60)),
        (2 * HOUR + 1, Some(60), (Resolution::Minute, 60)),
        (2 * HOUR + 1, Some(7), (Resolution::Raw, 7)),
        (6 * HOUR, None, (Resolution::Minute, 120)),
        (6 * HOUR, Some(90), (Resolution::TenSeconds, 90)),
        (DAY, None, (Resolution::Minute, 300)),
        (7 * DAY - HOUR, None, (Resolution::Hour, 3_600)),
        (90 * DAY, None, (Resolution::Hour, 28_800)),
        (400 * DAY, None, (Resolution::Hour, 2 * DAY)),
    ] {
        let plan = plan(span, 0, step);
        assert_eq!((plan.resolution, plan.step), expected, "{span} s, step {step:?}");
    }
}

#[test]
fn what_is_gone_from_a_table_is_taken_from_a_coarser_one() {
    const DAY: i64 = 86_400;
    for (ago, step, expected) in [
        (6 * DAY, 1, (Resolution::Raw, 1)),
        (7 * DAY, 1, (Resolution::TenSeconds, 10)),
        (29 * DAY, 15, (Resolution::TenSeconds, 20)),
        (30 * DAY, 15, (Resolution::Minute, 60)),
        (90 * DAY, 61, (Resolution::Hour, 3_600)),
        // Nothing is coarser; what is not there is a gap.
        (500 * DAY, 60, (Resolution::Hour, 3_600)),
    ] {
        let plan = plan(1_800, ago, Some(step));
        assert_eq!((plan.resolution, plan.step), expected, "{ago} s ago, step {step}");
    }
}

#[test]
fn steps_cover_the_range_and_begin_at_multiples_of_themselves() {
    let plan = plan(3_600, 0, Some(60));
    assert_eq!((plan.from, plan.to), (NOW - 3_600 - 3, NOW + 57));
    assert_eq!(plan.points(), 61);
    assert_eq!(plan.steps().last(), Some(plan.to - 60));
    let odd = DateTime::from_timestamp(NOW, 1).unwrap();
    let range = TimeRange { from: now() - TimeDelta::seconds(3), to: odd };
    let plan =
        Plan::new(&Ask { range, step_seconds: Some(1), max_points: 1 }, &Retention::default(), odd).unwrap();
    assert_eq!((plan.from, plan.to), (NOW - 3, NOW + 1), "a begun second belongs to the range");
}

#[test]
fn too_many_points_are_refused_with_a_step_that_fits() {
    let refused = Plan::new(&ask(86_400, 0, Some(1)), &Retention::default(), now()).unwrap_err();
    let PlanError::TooManyPoints { points, smallest_step } = refused else { panic!("{refused}") };
    assert_eq!(points, 86_400);
    assert!(
        refused.to_string().contains("11000") && refused.to_string().contains("step of 8 s"),
        "{refused}"
    );
    assert!(plan(86_400, 0, Some(smallest_step)).points() <= MAX_POINTS);
    for step in [0, -1, 400 * 86_400 + 1, i64::MAX] {
        let refused = Plan::new(&ask(60, 0, Some(step)), &Retention::default(), now());
        assert_eq!(refused, Err(PlanError::Step), "{step}");
    }
    for points in [0, -1, MAX_POINTS + 1] {
        let asked = Ask { max_points: points, ..ask(60, 0, None) };
        assert_eq!(Plan::new(&asked, &Retention::default(), now()), Err(PlanError::Points(points)));
    }
}

#[test]
fn an_earlier_range_has_the_same_steps() {
    let plan = plan(3_600, 0, Some(60));
    let earlier = plan.earlier(86_400, &Retention::default()).unwrap();
    assert_eq!((earlier.from, earlier.points()), (plan.from - 86_400, plan.points()));
    assert_eq!(earlier.resolution, Resolution::Raw);
    let gone = plan.earlier(10 * 86_400, &Retention::default()).unwrap();
    assert_eq!((gone.resolution, gone.step), (Resolution::TenSeconds, 60));
    // A minute's steps can't be made of an hour's rows.
    assert_eq!(plan.earlier(200 * 86_400, &Retention::default()), None);
    // Nor do buckets of ten seconds make up steps that begin between them.
    assert_eq!(plan.earlier(10 * 86_400 + 1, &Retention::default()), None);
}

proptest! {
    #[test]
    fn every_plan_covers_its_range_in_whole_buckets(
        span in 1i64..400 * 86_400, ago in 0i64..500 * 86_400, step in prop::option::of(1i64..100_000), points in 1i64..=MAX_POINTS,
    ) {
        let ask = Ask { max_points: points, ..ask(span, ago, step) };
        match Plan::new(&ask, &Retention::default(), now()) {
            Ok(plan) => {
                prop_assert!(plan.from <= NOW - ago - span && plan.to >= NOW - ago);
                prop_assert!(plan.points() >= 1 && plan.points() <= MAX_POINTS);
                prop_assert_eq!(plan.step % plan.resolution.seconds(), 0);
                prop_assert_eq!(plan.from % plan.step, 0);
                prop_assert_eq!((plan.to - plan.from) % plan.step, 0);
                if let Some(step) = step {
                    prop_assert!(plan.step >= step && plan.step - step < plan.resolution.seconds());
                } else {
                    // Both ends are widened to whole steps.
                    prop_assert!(plan.points() <= points + 1);
                }
            }
            Err(PlanError::TooManyPoints { smallest_step, .. }) => {
                let again = Ask { step_seconds: Some(smallest_step), ..ask };
                prop_assert!(Plan::new(&again, &Retention::default(), now()).is_ok());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
