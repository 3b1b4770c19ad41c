//! Counting what test programs say while it passes by on the screen.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::run;
use crate::say;

/// Tests that passed, failed and were skipped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Ran to their end.
    pub passed: u64,
    /// Failed, or a step that failed as a whole.
    pub failed: u64,
    /// Could not run here.
    pub skipped: u64,
    /// Tests that said so themselves; libtest calls them passed. Moved to `skipped` by [`Tally::settle`].
    pub(super) said_skipped: u64,
    /// The test whose lines are read now has said so already.
    pub(super) said: bool,
}

impl Tally {
    /// A step that failed as a whole.
    pub fn failure() -> Self {
        Self { failed: 1, ..Self::default() }
    }

    /// Nothing failed.
    pub fn good(&self) -> bool {
        self.failed == 0
    }

    /// Adds another step's.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.said_skipped += other.said_skipped;
    }

    /// Once a run is over: a test that said it was skipped did not pass.
    pub fn settle(&mut self) {
        let said = std::mem::take(&mut self.said_skipped);
        self.said = false;
        self.passed = self.passed.saturating_sub(said);
        self.skipped += said;
    }

    /// One word for the table.
    pub fn verdict(&self) -> &'static str {
        match self {
            _ if !self.good() => "FAILED",
            Self { passed: 0, skipped: 1.., .. } => "skipped",
            _ => "ok",
        }
    }

    /// The numbers for the table; nothing for a check that has none.
    pub fn counts(&self) -> String {
        if *self == Self::default() || *self == Self::failure() {
            return String::new();
        }
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }

    /// Takes one line of output into account: libtest's results, and the word of a test that cannot run here.
    pub fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |word: &str| {
                let part = result.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(word));
                part.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.skipped += count("ignored");
        }
        // One test may say it more than once.
        if line.starts_with("test ") || line.starts_with("---- ") {
            self.said = false;
        }
        if says_skipped(line) && !std::mem::replace(&mut self.said, true) {
            self.said_skipped += 1;
        }
    }
}

/// `skipped: <reason>` at the start of a line or after libtest's `test x ... `.
fn says_skipped(line: &str) -> bool {
    let line =
        line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")).map_or(line, |(_, rest)| rest);
    line.trim_start().to_ascii_lowercase().starts_with("skipped: ")
}

/// Runs a check that has no counts.
pub fn check(command: &mut Command) -> Result<Tally> {
    Ok(if run::shown(command)? { Tally::default() } else { Tally::failure() })
}

/// Runs tests with their output on the screen and counts them. What passing tests of `--show-output` print is hidden,
/// but for the word that they were skipped.
pub fn tests(command: &mut Command) -> Result<Tally> {
    if say::on_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    // One pipe for both streams keeps their lines in order: a skip belongs to the test named before it.
    let (output, writer) = std::io::pipe().context("make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn().with_context(|| format!("cannot start {}", run::line(command)));
    // The command's own copies would keep the pipe open for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child?;
    let mut tally = pass_on(output, std::io::stdout());
    let status = child.wait()?;
    tally.settle();
    if !status.success() && tally.good() {
        // It didn't compile, or a test program died before its count.
        tally.failed = 1;
    }
    Ok(tally)
}

/// Copies lines until the pipe ends, and counts.
pub(super) fn pass_on(from: impl Read, mut to: impl Write) -> Tally {
    let mut tally = Tally::default();
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    let mut hidden = false;
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        tally.line(text);
        match text {
            "successes:" => hidden = true,
            "failures:" => hidden = false,
            _ if text.starts_with("test result: ") => hidden = false,
            _ => {}
        }
        if !hidden || says_skipped(text) {
            // A closed screen doesn't stop the tests.
            let _ = to.write_all(&line);
        }
        line.clear();
    }
    tally
}
