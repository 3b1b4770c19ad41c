//! What became of each run, a line of JSON each: the file that an interrupted score goes on from.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::class::Class;
use super::score::{Expected, Found, Judgement, judge};

/// What a run is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Commit of what was tried.
    pub commit: String,
    /// Seed of all runs.
    pub seed: u64,
    /// Class.
    pub class: Class,
    /// Number in its class, from 1.
    pub number: u32,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it is known by.
    #[serde(flatten)]
    pub key: Key,
    /// More than 1 when the fault did nothing to etcd before.
    pub attempt: u32,
    /// When it began.
    pub at: DateTime<Utc>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Its plan in words, with the members' disks and who led.
    pub plan: String,
    /// What the fault did by the account of etcd and the kernel, in words.
    pub effect: String,
    /// Whether that is anything at all, and nobody else kept the machine busy: else the run says nothing.
    pub felt: bool,
    /// What was injected.
    pub expected: Vec<Expected>,
    /// What the run before had injected.
    pub before: Vec<Expected>,
    /// What was said.
    pub found: Vec<Found>,
}

/// A measured number with its bar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Commit of what was measured.
    pub commit: String,
    /// Seed.
    pub seed: u64,
    /// Its name.
    pub figure: String,
    /// Its value.
    pub value: f64,
    /// At least.
    pub least: f64,
    /// At most.
    pub most: f64,
    /// What it was taken from, in words.
    pub from: String,
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Run(Record),
    Figure(Figure),
}

impl Record {
    /// Judges it.
    pub fn judgement(&self) -> Judgement {
        judge(&self.expected, &self.before, &self.found)
    }
}

impl Figure {
    /// Whether it is where it should be; a number that could not be had is not.
    pub fn is_reached(&self) -> bool {
        (self.least..=self.most).contains(&self.value)
    }
}

/// All that was done of one commit and seed.
#[derive(Debug, Default)]
pub struct Records {
    /// Runs, in the order in which they were made.
    pub runs: Vec<Record>,
    /// Numbers.
    pub figures: Vec<Figure>,
}

impl Records {
    /// What a file has of this commit and seed; nothing if there is no file. Lines that can't be read (the last one, of a
    /// score that was killed) are passed over, and told of.
    ///
    /// # Errors
    /// When there is a file that can't be read.
    pub fn load(path: &Path, commit: &str, seed: u64) -> Result<Self> {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let (records, unread) = Self::parse(&text, commit, seed);
        if unread > 0 {
            eprintln!("{}: {unread} lines can't be read and are passed over", path.display());
        }
        Ok(records)
    }

    fn parse(text: &str, commit: &str, seed: u64) -> (Self, usize) {
        let (mut records, mut unread) = (Self::default(), 0);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(Line::Run(run)) if run.key.commit == commit && run.key.seed == seed => {
                    records.runs.push(run);
                }
                Ok(Line::Figure(figure)) if figure.commit == commit && figure.seed == seed => {
                    records.figures.retain(|known| known.figure != figure.figure);
                    records.figures.push(figure);
                }
                Ok(_of_another) => {}
                Err(_) => unread += 1,
            }
        }
        (records, unread)
    }

    /// The last attempt at a run, 0 = none: the next one has another plan.
    pub fn tried(&self, class: Class, number: u32) -> u32 {
        let runs = self.runs.iter().filter(|run| (run.key.class, run.key.number) == (class, number));
        runs.map(|run| run.attempt).max().unwrap_or_default()
    }

    /// Runs that need not be made again.
    pub fn done(&self) -> BTreeSet<(Class, u32)> {
        self.runs.iter().filter(|run| run.felt).map(|run| (run.key.class, run.key.number)).collect()
    }
}

/// Adds a run to a file.
///
/// # Errors
/// When it can't be written.
pub fn append_run(path: &Path, run: &Record) -> Result<()> {
    append(path, &Line::Run(run.clone()))
}

/// Adds a number to a file.
///
/// # Errors
/// When it can't be written.
pub fn append_figure(path: &Path, figure: &Figure) -> Result<()> {
    append(path, &Line::Figure(figure.clone()))
}

fn append(path: &Path, line: &Line) -> Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    // After a line that was cut off, this one must begin on its own.
    let is_cut = fs::read(path).is_ok_and(|bytes| bytes.last().is_some_and(|last| *last != b'\n'));
    if is_cut {
        text.insert(0, '\n');
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::place::Place;

    pub fn record(class: Class, number: u32) -> Record {
        let key = Key { commit: "abc".to_owned(), seed: 1, class, number };
        Record {
            key,
            attempt: 1,
            at: DateTime::from_timestamp(1_795_255_200, 0).unwrap(),
            seconds: 12.5,
            plan: "something".to_owned(),
            effect: String::new(),
            felt: true,
            expected: Vec::new(),
            before: Vec::new(),
            found: Vec::new(),
        }
    }

    pub fn figure(name: &str, value: f64) -> Figure {
        let (commit, from) = ("abc".to_owned(), String::new());
        Figure { commit, seed: 1, figure: name.to_owned(), value, least: 0.9, most: 1.1, from }
    }

    #[test]
    fn a_score_goes_on_where_it_was_cut_off() {
        let place = Place::new().unwrap();
        let path = place.path().join("faults.jsonl");
        assert!(Records::load(&path, "abc", 1).unwrap().runs.is_empty(), "no file yet");
        append_run(&path, &record(Class::Calm, 1)).unwrap();
        append_run(&path, &record(Class::Stopped, 1)).unwrap();
        append_run(&path, &Record { felt: false, ..record(Class::Stopped, 2) }).unwrap();
        append_figure(&path, &figure("recovered", 0.5)).unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(r#"{"commit":"abc","see"#);
        fs::write(&path, text).unwrap();
        append_figure(&path, &figure("recovered", 0.97)).unwrap();
        let records = Records::load(&path, "abc", 1).unwrap();
        assert_eq!(records.runs.len(), 3);
        assert_eq!(records.runs[0], record(Class::Calm, 1));
        assert_eq!(records.figures, [figure("recovered", 0.97)], "the newest counts");
        assert_eq!((records.tried(Class::Stopped, 2), records.tried(Class::Stopped, 3)), (1, 0));
        assert_eq!(records.done(), BTreeSet::from([(Class::Calm, 1), (Class::Stopped, 1)]));
    }

    #[test]
    fn another_commit_or_seed_has_its_own() {
        let line = serde_json::to_string(&Line::Run(record(Class::Calm, 1))).unwrap();
        assert_eq!(Records::parse(&line, "abc", 1).0.runs.len(), 1);
        assert!(Records::parse(&line, "abd", 1).0.runs.is_empty());
        assert!(Records::parse(&line, "abc", 2).0.runs.is_empty());
        assert_eq!(Records::parse("{}\nnonsense\n\n", "abc", 1).1, 2);
    }

    #[test]
    fn a_number_that_could_not_be_had_is_not_reached() {
        assert!(figure("x", 1.05).is_reached());
        assert!(!figure("x", 1.2).is_reached() && !figure("x", f64::NAN).is_reached());
    }
}
