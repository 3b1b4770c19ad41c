use super::suites::{Suite, Tier, describe};
use super::tally::Tally;

fn sum(passed: u64, failed: u64, skipped: u64) -> Tally {
    Tally { passed, failed, skipped, ..Tally::default() }
}

fn tally(lines: &[&str]) -> Tally {
    let mut tally = Tally::default();
    lines.iter().for_each(|line| tally.line(line));
    tally.settle();
    tally
}

#[test]
fn results_of_several_programs_are_summed() {
    let found = tally(&[
        "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s",
        "running 2 tests",
        "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
    ]);
    assert_eq!(found, sum(6, 2, 1));
}

#[test]
fn colour_does_not_hide_a_result() {
    let found =
        tally(&["test result: \x1b[32mok\x1b[m. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"]);
    assert_eq!(found, sum(3, 0, 0));
}

#[test]
fn a_test_that_says_it_cannot_run_counts_as_skipped_not_as_passed() {
    let found = tally(&[
        "test a ... skipped: not root",
        "ok",
        "skipped: no perf here",
        "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
    ]);
    assert_eq!(found, sum(1, 0, 2));
}

#[test]
fn other_lines_count_for_nothing() {
    assert_eq!(tally(&["two members were skipped: never mind", "4 passed; 1 failed", ""]), Tally::default());
}

#[test]
fn a_step_is_skipped_only_when_nothing_ran() {
    assert_eq!(sum(0, 0, 2).verdict(), "skipped");
    assert_eq!(sum(1, 0, 2).verdict(), "ok");
    assert_eq!(sum(1, 1, 2).verdict(), "FAILED");
    assert_eq!(Tally::default().verdict(), "ok");
}

#[test]
fn a_suite_is_described_by_the_head_of_its_file() {
    let suite = describe("chaos".into(), "//! Processes are killed.\n//!\n//! Tier: full\nuse x;\n//! no\n");
    assert_eq!(
        suite,
        Suite { name: "chaos".into(), about: "Processes are killed.".into(), tier: Tier::Full }
    );
    assert_eq!(describe("x".into(), "fn main() {}").tier, Tier::Gate);
}
