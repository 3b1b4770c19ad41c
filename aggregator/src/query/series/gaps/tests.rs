use proptest::prelude::*;

use super::super::Resolution;
use super::*;

const PLAN: Plan =
    Plan { resolution: Resolution::Raw, step: 10, from: 600, to: 660, now_ns: 655 * SECOND_NS };

fn who(member: u64, agent: u128) -> Who {
    Who { member, agent: Uuid::from_u128(agent) }
}

#[test]
fn steps_without_a_value_have_their_reason_and_the_future_is_no_gap() {
    let gaps = blind(7, 605, 625, "agent_down");
    // Only the first step has a value.
    let found = gaps.of_series(&PLAN, who(7, 0), |step| step == 0, |_| "no_sample");
    let expected = [
        // It began within the first step.
        (605, 625, "agent_down", 7, true),
        (610, 630, "agent_down", 0, false),
        (630, 660, "no_sample", 0, false),
    ];
    let seen: Vec<_> = found.iter().map(|g| (g.from, g.to, g.reason.as_str(), g.lost, g.partial)).collect();
    assert_eq!(seen, expected);
    let ended = Plan { now_ns: 630 * SECOND_NS, ..PLAN };
    let found = gaps.of_series(&ended, who(7, 0), |_| false, |_| "no_sample");
    assert_eq!(found.iter().map(|gap| gap.to).max(), Some(630));
}

#[test]
fn what_was_dropped_is_told_where_values_lack_it() {
    let gaps = Gaps::new(vec![entry(7, "dropped", "ring_full", 600, 660, 5)]);
    let found = gaps.of_series(&PLAN, who(7, 0), |_| true, |_| "no_sample");
    assert_eq!(found.len(), 1);
    assert!(found[0].partial && found[0].lost == 5 && found[0].reason == "ring_full");
    assert_eq!(gaps.blind(who(7, 0), 0, i64::MAX), None, "a drop is no blindness");
}

#[test]
fn an_agent_that_is_down_does_not_see_its_node_and_others_do() {
    let gaps = blind(7, 600, 610, "agent_down");
    let (from, to) = (604 * SECOND_NS, 606 * SECOND_NS);
    assert_eq!(gaps.blind(who(7, 0), from, to), Some("agent_down"));
    assert_eq!(gaps.blind(who(0, 1), from, to), Some("agent_down"));
    assert_eq!(gaps.blind(who(0, 2), from, to), None);
    assert_eq!(gaps.blind(who(8, 0), from, to), None);
    assert_eq!(gaps.blind(who(7, 0), 610 * SECOND_NS, 620 * SECOND_NS), None, "its end is not in it");
}

/// What [`Gaps::blind`] and [`Gaps::of_series`] say, by looking at every entry every time.
mod plain {
    use super::*;

    pub fn blind(all: &[Entry], who: Who, from_ns: i64, to_ns: i64) -> Option<&str> {
        let fits = |entry: &&Entry| entry.is_blind() && entry.concerns(who) && entry.overlaps(from_ns, to_ns);
        all.iter().find(fits).map(|entry| entry.reason.as_str())
    }

    pub fn of_series(all: &[Entry], plan: &Plan, who: Who) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        for (step, at) in plan.steps().enumerate() {
            let (from_ns, to_ns) = (at * SECOND_NS, (at + plan.step) * SECOND_NS);
            if step == 2 || from_ns >= plan.now_ns {
                continue;
            }
            let any = all.iter().find(|entry| entry.concerns(who) && entry.overlaps(from_ns, to_ns));
            let reason = blind(all, who, from_ns, to_ns).or(any.map(|entry| entry.reason.as_str()));
            let reason = reason.unwrap_or("no_sample").to_owned();
            match gaps.last_mut() {
                Some(last) if last.to == at && last.reason == reason => last.to = at + plan.step,
                _ => gaps.push(Gap { from: at, to: at + plan.step, reason, lost: 0, partial: false }),
            }
        }
        let (from_ns, to_ns) = (plan.from * SECOND_NS, plan.to * SECOND_NS);
        for entry in all.iter().filter(|entry| entry.concerns(who) && entry.overlaps(from_ns, to_ns)) {
            let (from, to) = (entry.from_ns / SECOND_NS, entry.to_ns / SECOND_NS);
            let same = |gap: &&mut Gap| gap.reason == entry.reason && gap.from <= from && gap.to >= to;
            match gaps.iter_mut().find(same) {
                Some(gap) => gap.lost += entry.total,
                None => gaps.push(Gap {
                    from: from.max(plan.from),
                    to: to.min(plan.to),
                    reason: entry.reason.clone(),
                    lost: entry.total,
                    partial: true,
                }),
            }
        }
        gaps.sort_by_key(|gap| (gap.from, gap.to));
        gaps
    }
}

proptest! {
    #[test]
    fn looking_near_by_finds_what_looking_at_everything_finds(
        raw in prop::collection::vec((7..9_u64, any::<bool>(), any::<bool>(), 540..700_i64, 1..60_i64), 0..60),
    ) {
        let mut all: Vec<Entry> = raw
            .into_iter()
            .map(|(member, blind, full, from, length)| {
                let (kind, reason) = (if blind { "blind" } else { "dropped" }, if full { "ring_full" } else { "agent_down" });
                entry(member, kind, reason, from, from + length, 1)
            })
            .collect();
        all.sort_by_key(|entry| entry.from_ns);
        let gaps = Gaps::new(all.clone());
        for at in (540..720).step_by(7) {
            let (from_ns, to_ns) = (at * SECOND_NS, (at + 13) * SECOND_NS);
            prop_assert_eq!(gaps.blind(who(7, 0), from_ns, to_ns), plain::blind(&all, who(7, 0), from_ns, to_ns));
        }
        let found = gaps.of_series(&PLAN, who(7, 0), |step| step == 2, |_| "no_sample");
        prop_assert_eq!(found, plain::of_series(&all, &PLAN, who(7, 0)));
    }
}

#[test]
fn a_week_of_overload_is_not_looked_at_for_each_step() {
    let minutes = 0..10_080;
    let gaps = Gaps::new(
        minutes.clone().map(|at| entry(7, "dropped", "ring_full", at * 60, (at + 1) * 60, 1)).collect(),
    );
    let looked_at = minutes.map(|at| gaps.near(at * 60 * SECOND_NS, (at + 1) * 60 * SECOND_NS).len());
    assert_eq!(looked_at.max(), Some(1));
}
