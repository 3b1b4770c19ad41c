use super::suites::{Suite, Tier, describe};
use super::tally::{Tally, pass_on};

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
fn free_space_is_read_from_df() {
    let table = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n/dev/vda 264211488 90355712 5242880      95% /\n";
    assert_eq!(super::free_gib(table), Some(5.0));
    assert_eq!(super::free_gib("df: no such file\n"), None);
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
        "skipped: and no ext4",
        "ok",
        "test b ... ok",
        "skipped: no perf here",
        "test c ... ok",
        "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
    ]);
    assert_eq!(found, sum(1, 0, 2));
}

#[test]
fn output_of_passing_tests_is_hidden_but_for_a_skip() {
    let output = "test a ... ok\ntest b ... ok\n\nsuccesses:\n\n---- a stdout ----\nnoise\nskipped: not root\n\n\
                  ---- b stdout ----\nnoise\nskipped: no perf\nsuccesses:\n    a\n\n\
                  test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
    let mut screen = Vec::new();
    let mut found = pass_on(output.as_bytes(), &mut screen);
    found.settle();
    assert_eq!(found, sum(0, 0, 2));
    let screen = String::from_utf8(screen).unwrap();
    assert!(screen.contains("skipped: no perf") && screen.contains("test result"), "{screen}");
    assert!(!screen.contains("noise"), "{screen}");
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
        Suite { name: "chaos".into(), about: "Processes are killed.".into(), tier: Tier::Full, threads: 1 }
    );
    assert_eq!(describe("x".into(), "fn main() {}").tier, Tier::Gate);
    assert_eq!(describe("x".into(), "//! Who waits.\n//!\n//! Tests at a time: 2\n").threads, 2);
}
