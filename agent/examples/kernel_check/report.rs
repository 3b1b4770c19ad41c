//! What the machine outside is told, a line of JSON each on the second serial port: what goes on, and one verdict for every
//! program and every feature.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write as _,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

const PORT: &str = "/dev/ttyS1";

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A kernel program: loaded, attached, counted.
    Program,
    /// Something that the programs tell if the kernel has the fields for it.
    Feature,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Feature => "feature",
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Off, in the agent's own words.
    Off(String),
    /// It counted so many of as many as there were.
    Counted {
        /// By the program.
        counted: u64,
        /// By whoever did it, or by the kernel's own counters.
        expected: u64,
        /// More is right as well: others may have done the same meanwhile.
        at_least: bool,
    },
}

/// Collects what is said of each program and feature, the first word being the last.
pub struct Report {
    port: File,
    open: BTreeMap<(Kind, &'static str), Option<String>>,
}

impl Report {
    /// Opens the port.
    ///
    /// # Errors
    /// When there is none.
    pub fn open() -> Result<Self> {
        let port = OpenOptions::new().write(true).open(PORT).with_context(|| format!("open {PORT}"))?;
        Ok(Self { port, open: BTreeMap::new() })
    }

    fn line(&mut self, value: &Value) {
        // Who reads is gone when this fails, and then nothing can be told any more.
        let _ = writeln!(self.port, "{value}");
    }

    /// What goes on.
    pub fn step(&mut self, text: &str) {
        self.line(&json!({ "step": text }));
    }

    /// Something worth knowing that is no verdict.
    pub fn note(&mut self, text: &str) {
        self.line(&json!({ "note": text }));
    }

    /// The kernel's release.
    pub fn kernel(&mut self, release: &str) {
        self.line(&json!({ "kernel": release }));
    }

    /// Something that a verdict is expected of; `function` is what was loaded of several.
    pub fn expect(&mut self, kind: Kind, name: &'static str, function: Option<&str>) {
        self.open.insert((kind, name), function.map(str::to_owned));
    }

    /// The verdict on it. Those after the first are not heard.
    pub fn verdict(&mut self, kind: Kind, name: &'static str, outcome: &Outcome) {
        let Some(function) = self.open.remove(&(kind, name)) else { return };
        let mut value = match outcome {
            Outcome::Off(reason) => json!({ "state": "off", "reason": reason }),
            Outcome::Counted { counted, expected, at_least } => {
                json!({ "state": "counted", "counted": counted, "expected": expected, "at_least": at_least })
            }
        };
        value["kind"] = kind.name().into();
        value["name"] = name.into();
        value["function"] = function.into();
        self.line(&value);
    }

    /// Says what nobody gave a verdict of, and that this is all.
    pub fn end(&mut self) {
        while let Some(((kind, name), function)) = self.open.pop_first() {
            let reason = "nothing was found out about it".to_owned();
            self.open.insert((kind, name), function);
            self.verdict(kind, name, &Outcome::Off(reason));
        }
        self.line(&json!({ "end": true }));
    }
}
