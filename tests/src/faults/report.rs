//! The score: a table of classes, the confusion matrix, figures, and whether each reaches its bar. Pure.

use super::class::{CLASSES, Class, STRETCHES};
use super::record::{Record, Records};
use super::score::{IN_TIME_S, Judgement, Matrix, wilson};

/// Of its runs, a class needs this share to be right in each respect.
const BAR: f64 = 0.95;

/// A class's runs, counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Runs in which the fault was felt.
    pub runs: u32,
    /// Runs in which it was not, by etcd's own account, or in which others kept the machine busy: they say nothing.
    pub unfelt: u32,
    /// Every cause right.
    pub cause: u32,
    /// Every culprit right.
    pub culprit: u32,
    /// Verdicts in time.
    pub in_time: u32,
    /// Runs with a false verdict.
    pub with_false: u32,
    /// Seconds to the verdict, where there was one, sorted.
    pub seconds: Vec<f64>,
}

impl Tally {
    /// Counts runs.
    pub fn of<'a>(runs: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut tally = Self::default();
        for run in runs {
            if run.felt {
                tally.add(&run.judgement());
            } else {
                tally.unfelt += 1;
            }
        }
        tally.seconds.sort_by(f64::total_cmp);
        tally
    }

    fn add(&mut self, judgement: &Judgement) {
        self.runs += 1;
        self.cause += u32::from(judgement.cause_right);
        self.culprit += u32::from(judgement.culprit_right);
        self.in_time += u32::from(judgement.seconds.is_some_and(|seconds| seconds < IN_TIME_S));
        self.with_false += u32::from(!judgement.false_verdicts.is_empty());
        self.seconds.extend(judgement.seconds);
    }

    /// What keeps a class, which needs `runs` of them, from its bar, in words; empty = it is reached.
    pub fn shortfalls(&self, class: Class, runs: u32) -> Vec<String> {
        let mut missing = Vec::new();
        if self.runs == 0 {
            missing.push("not one run".to_owned());
            return missing;
        }
        if self.runs < runs {
            missing.push(format!("only {} of {runs} runs that say anything", self.runs));
        }
        let wanted = BAR * f64::from(self.runs);
        let mut least = |right: u32, what: &str| {
            if f64::from(right) < wanted {
                missing.push(format!("{what} {right} of {}", self.runs));
            }
        };
        if class.is_healthy() {
            if self.with_false > 0 {
                missing.push(format!("{} runs with a verdict", self.with_false));
            }
            return missing;
        }
        least(self.cause, "cause right");
        least(self.culprit, "culprit right");
        least(self.in_time, "in time");
        least(self.runs - self.with_false, "without a false verdict");
        missing
    }

    fn line(&self, class: Class, runs: u32) -> String {
        let share = |right: u32| {
            let (low, high) = wilson(right, self.runs);
            format!("{right}/{} ({:.0}–{:.0} %)", self.runs, low * 100.0, high * 100.0)
        };
        let (cause, culprit) = match class.is_healthy() {
            // Nothing is to be found there.
            true => ("–".to_owned(), "–".to_owned()),
            false => (share(self.cause), share(self.culprit)),
        };
        let time = match (self.seconds.get(self.seconds.len() / 2), self.seconds.last()) {
            (Some(median), Some(worst)) => format!("{median:.1} / {worst:.1} s"),
            _ => "–".to_owned(),
        };
        let verdict = if self.shortfalls(class, runs).is_empty() { "yes" } else { "**no**" };
        format!(
            "| {class} | {} | {cause} | {culprit} | {time} | {} | {} | {verdict} |\n",
            class.expectation(),
            share(self.with_false),
            self.unfelt
        )
    }
}

/// The score of these classes.
#[derive(Debug)]
pub struct Report {
    /// In the form that a page of the documentation takes.
    pub text: String,
    /// What misses its bar, a line each; empty = the score is reached.
    pub shortfalls: Vec<String>,
}

/// Sums it up. Classes of `wanted` miss their bar without so many runs that say anything, stretches without one; others appear
/// only if they have runs.
pub fn report(records: &Records, wanted: &[Class], runs: u32) -> Report {
    let (mut text, mut shortfalls, mut matrix) = (String::new(), Vec::new(), Matrix::default());
    text.push_str(
        "| class | to be said | cause right | culprit right | verdict after (median / worst) | runs with a false verdict | void | bar |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for class in CLASSES.into_iter().chain(STRETCHES) {
        let of_class = || records.runs.iter().filter(move |run| run.key.class == class);
        if of_class().next().is_none() && !wanted.contains(&class) {
            continue;
        }
        let tally = Tally::of(of_class());
        let least = if wanted.contains(&class) && !STRETCHES.contains(&class) { runs } else { 1 };
        text.push_str(&tally.line(class, least));
        shortfalls.extend(tally.shortfalls(class, least).into_iter().map(|what| format!("{class}: {what}")));
        of_class().filter(|run| run.felt).for_each(|run| matrix.add(&run.judgement()));
    }
    text.push('\n');
    text.push_str(&matrix.table());
    if !records.figures.is_empty() {
        text.push_str("\n| figure | value | bar | from |\n|---|---|---|---|\n");
    }
    for figure in &records.figures {
        let verdict = if figure.is_reached() { "" } else { ", **missed**" };
        text.push_str(&format!(
            "| `{}` | {:.3} | {} to {}{verdict} | {} |\n",
            figure.figure, figure.value, figure.least, figure.most, figure.from
        ));
        if !figure.is_reached() {
            shortfalls.push(format!("{} is {:.3}", figure.figure, figure.value));
        }
    }
    Report { text, shortfalls }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::super::class::Cause;
    use super::super::record::tests::{figure, record};
    use super::super::score::{Expected, Found, Wanted};
    use super::*;

    const A: &str = "00000000000000a1";

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_255_200, 0).unwrap()
    }

    fn slow(number: u32, cause: &str, seconds: i64) -> Record {
        let expected = Expected {
            cause: Cause::SlowDevice,
            members: vec![A.to_owned()],
            culprit: Wanted::Nobody,
            onset: now(),
        };
        let at = now() + TimeDelta::seconds(seconds);
        let found = Found {
            member: A.to_owned(),
            cause: cause.to_owned(),
            seen_at: at,
            named_at: at,
            opened_at: at,
            onset_at: now(),
            culprit: None,
            summary: String::new(),
        };
        Record { expected: vec![expected], found: vec![found], ..record(Class::SlowDevice, number) }
    }

    #[test]
    fn nineteen_of_twenty_reach_the_bar_and_eighteen_do_not() {
        let mut records =
            Records { runs: (1..=19).map(|n| slow(n, "slow_device", 2)).collect(), figures: vec![] };
        records.runs.push(slow(20, "unknown", 2));
        assert_eq!(report(&records, &[Class::SlowDevice], 20).shortfalls, Vec::<String>::new());
        records.runs[0] = slow(1, "unknown", 2);
        let report = report(&records, &[], 20);
        assert!(report.shortfalls.contains(&"slow_device: cause right 18 of 20".to_owned()), "{report:?}");
        assert!(
            report.text.contains("| slow_device | slow_device, nobody | 18/20 (70–97 %) |"),
            "{}",
            report.text
        );
        assert!(report.text.contains("| slow_device | **18** | 2 |"), "{}", report.text);
    }

    #[test]
    fn a_late_verdict_misses_the_bar() {
        let records = Records { runs: vec![slow(1, "slow_device", 6)], figures: vec![] };
        assert_eq!(report(&records, &[], 20).shortfalls, ["slow_device: in time 0 of 1"]);
    }

    #[test]
    fn one_verdict_in_calm_is_one_too_many() {
        let mut runs: Vec<Record> = (1..=40).map(|number| record(Class::Calm, number)).collect();
        assert!(report(&Records { runs: runs.clone(), figures: vec![] }, &[], 20).shortfalls.is_empty());
        runs[7].found = slow(1, "own_io", 1).found;
        assert_eq!(
            report(&Records { runs, figures: vec![] }, &[], 20).shortfalls,
            ["calm: 1 runs with a verdict"]
        );
    }

    #[test]
    fn runs_that_were_not_felt_say_nothing() {
        let unfelt = Record { felt: false, ..slow(1, "unknown", 2) };
        let tally = Tally::of(&[unfelt, slow(1, "slow_device", 2)]);
        assert_eq!((tally.runs, tally.unfelt, tally.cause), (1, 1, 1));
    }

    #[test]
    fn a_class_with_fewer_runs_than_were_asked_for_misses_its_bar() {
        let mut runs: Vec<Record> = (1..=19).map(|n| slow(n, "slow_device", 2)).collect();
        runs.push(Record { felt: false, ..slow(20, "slow_device", 2) });
        runs.push(record(Class::CalmStretch, 1));
        let records = Records { runs, figures: vec![] };
        let report = report(&records, &[Class::SlowDevice, Class::CalmStretch], 20);
        assert_eq!(report.shortfalls, ["slow_device: only 19 of 20 runs that say anything"]);
        assert!(report.text.contains("| 1 | **no** |"), "{}", report.text);
    }

    #[test]
    fn a_class_without_runs_and_a_figure_out_of_bounds_miss_their_bar() {
        let records = Records { runs: vec![], figures: vec![figure("recovered", 0.5), figure("fine", 1.0)] };
        let report = report(&records, &[Class::Stopped], 20);
        assert_eq!(report.shortfalls, ["stopped: not one run", "recovered is 0.500"]);
        assert!(!report.text.contains("calm"));
    }
}
