//! What machines answered, judged and shown: which program counts on which kernel, and what is off and why.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::kernels::Release;

/// A line of a machine's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The kernel's own name.
    Kernel(String),
    /// What goes on.
    Step(String),
    /// Something worth knowing.
    Note(String),
    /// A verdict on a program or feature.
    Item(Item),
    /// That was all.
    End,
}

/// What a machine found out about a program or feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `program` or `feature`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The function that was loaded, of a program.
    pub function: Option<String>,
    /// What it did.
    pub state: State,
}

/// What a program or feature did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is off, for this reason.
    Off(String),
    /// It counted.
    Counted {
        /// So many.
        counted: u64,
        /// Of so many.
        expected: u64,
        /// More is right as well.
        at_least: bool,
    },
}

/// What is thought of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does what it should.
    Fine,
    /// This kernel can't have it, and the agent says so.
    Excused,
    /// It should work and does not.
    Wrong,
}

/// What kernels before a release do not have.
struct Since {
    name: &'static str,
    release: Release,
}

/// Programs and features that need something younger than the oldest kernel: the tracepoint `block_io_start`; the types of
/// modules, such as jbd2 is with Debian.
const SINCE: [Since; 7] = [
    Since { name: "block_start", release: [6, 5, 0] },
    Since { name: "journal_start", release: [5, 11, 0] },
    Since { name: "journal_locking", release: [5, 11, 0] },
    Since { name: "journal_flushing", release: [5, 11, 0] },
    Since { name: "journal_logging", release: [5, 11, 0] },
    Since { name: "journal_end", release: [5, 11, 0] },
    Since { name: "journal.commits", release: [5, 11, 0] },
];

/// Every line that is one; what the emulator cut off is none.
pub fn parse(text: &str) -> Vec<Line> {
    text.lines().filter_map(|line| of_value(&serde_json::from_str(line.trim()).ok()?)).collect()
}

fn of_value(value: &Value) -> Option<Line> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    if value["end"] == true {
        return Some(Line::End);
    }
    if let Some(state) = value["state"].as_str() {
        let state = match state {
            "off" => State::Off(text("reason")?),
            _ => State::Counted {
                counted: value["counted"].as_u64()?,
                expected: value["expected"].as_u64()?,
                at_least: value["at_least"].as_bool()?,
            },
        };
        let item = Item { kind: text("kind")?, name: text("name")?, function: text("function"), state };
        return Some(Line::Item(item));
    }
    text("kernel").map(Line::Kernel).or(text("step").map(Line::Step)).or(text("note").map(Line::Note))
}

/// What a machine is doing, as far as it has said.
pub fn last_step(lines: &[Line]) -> String {
    let step = lines.iter().rev().find_map(|line| match line {
        Line::Step(text) => Some(text.as_str()),
        _ => None,
    });
    step.unwrap_or("booting").to_owned()
}

impl Item {
    /// What is to be thought of it on a kernel.
    pub fn verdict(&self, release: Release) -> Verdict {
        match &self.state {
            State::Counted { counted, expected, at_least } => {
                let right = if *at_least { counted >= expected } else { counted == expected };
                // Nothing was to be counted: nothing was found out.
                if right && *expected > 0 { Verdict::Fine } else { Verdict::Wrong }
            }
            State::Off(_) => {
                let young = SINCE.iter().any(|since| since.name == self.name && release < since.release);
                if young { Verdict::Excused } else { Verdict::Wrong }
            }
        }
    }

    fn cell(&self, release: Release) -> String {
        match (&self.state, self.verdict(release)) {
            (State::Counted { counted, .. }, Verdict::Fine) => format!("{counted}"),
            (State::Counted { counted, expected, .. }, _) => format!("**{counted} of {expected}**"),
            (State::Off(_), Verdict::Wrong) => "**off**".to_owned(),
            (State::Off(_), _) => "off".to_owned(),
        }
    }
}

/// What one kernel came to.
pub struct Outcome {
    /// Its package, with the version.
    pub package: String,
    /// The suite that has it.
    pub suite: String,
    /// Its version.
    pub release: Release,
    /// What it calls itself; `None` if it did not come so far.
    pub name: Option<String>,
    /// What was found out.
    pub items: Vec<Item>,
    /// What else it said.
    pub notes: Vec<String>,
    /// What kept it from an end.
    pub failure: Option<String>,
    /// How long it ran.
    pub seconds: f64,
}

impl Outcome {
    /// Everything that should work does.
    pub fn is_fine(&self) -> bool {
        let wrong = self.items.iter().any(|item| item.verdict(self.release) == Verdict::Wrong);
        self.failure.is_none() && !self.items.is_empty() && !wrong
    }

    fn item(&self, kind: &str, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.kind == kind && item.name == name)
    }

    fn version(&self) -> String {
        self.release.map(|number| number.to_string()).join(".")
    }

    fn json(&self) -> Value {
        let items: Vec<Value> = self
            .items
            .iter()
            .map(|item| {
                let verdict = match item.verdict(self.release) {
                    Verdict::Fine => "fine",
                    Verdict::Excused => "not on this kernel",
                    Verdict::Wrong => "wrong",
                };
                let mut value = json!({
                    "kind": item.kind, "name": item.name, "function": item.function, "verdict": verdict
                });
                match &item.state {
                    State::Off(reason) => value["off"] = reason.as_str().into(),
                    State::Counted { counted, expected, at_least } => {
                        value["counted"] = (*counted).into();
                        value["expected"] = (*expected).into();
                        value["at_least"] = (*at_least).into();
                    }
                }
                value
            })
            .collect();
        json!({
            "package": self.package, "suite": self.suite, "kernel": self.name, "fine": self.is_fine(),
            "failure": self.failure, "seconds": self.seconds, "items": items, "notes": self.notes
        })
    }
}

/// All of it for machines.
pub fn json(outcomes: &[Outcome]) -> Value {
    json!({ "kernels": outcomes.iter().map(Outcome::json).collect::<Vec<_>>() })
}

/// A table of programs and one of features, a kernel a column, in Markdown.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for kind in ["program", "feature"] {
        let items = outcomes.iter().flat_map(|outcome| &outcome.items).filter(|item| item.kind == kind);
        let names: BTreeSet<&str> = items.map(|item| item.name.as_str()).collect();
        let mut rows =
            vec![std::iter::once(kind.to_owned()).chain(outcomes.iter().map(Outcome::version)).collect()];
        rows.extend(names.into_iter().map(|name| {
            let cell = |outcome: &Outcome| {
                outcome.item(kind, name).map_or("—".to_owned(), |item| item.cell(outcome.release))
            };
            std::iter::once(format!("`{name}`")).chain(outcomes.iter().map(cell)).collect::<Vec<_>>()
        }));
        text.push_str(&markdown(&rows));
        text.push('\n');
    }
    text
}

fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(text, "| {cell:<width$} ", width = width(column));
        }
        text.push_str("|\n");
        if number == 0 {
            text.push_str(&"|---".repeat(columns));
            text.push_str("|\n");
        }
    }
    text
}

/// What is off or wrong, a line each, with the reason.
pub fn reasons(outcomes: &[Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    for outcome in outcomes {
        let version = outcome.version();
        lines.extend(outcome.failure.iter().map(|failure| format!("{version}: {failure}")));
        for item in &outcome.items {
            match (&item.state, item.verdict(outcome.release)) {
                (State::Off(reason), _) => lines.push(format!("{version}: {} is off: {reason}", item.name)),
                (State::Counted { counted, expected, .. }, Verdict::Wrong) => {
                    lines.push(format!("{version}: {} counted {counted} of {expected}", item.name));
                }
                _ => {}
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests;
