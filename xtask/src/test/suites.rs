//! Which tests there are, read from the tree: nothing to register twice.

use anyhow::{Context, Result};
use std::path::Path;

use crate::place::Place;
use crate::run;

/// When a suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// On every change.
    Gate,
    /// With `--full` only: its module documentation says `Tier: full`.
    Full,
}

/// A file of `tests/suite`: one test program.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// Name of file and test program.
    pub name: String,
    /// First line of its documentation.
    pub about: String,
    /// When it runs.
    pub tier: Tier,
    /// How many of its tests run at a time: one, or what its module documentation says with `Tests at a time: 2`.
    pub threads: usize,
}

/// All suites, by name.
pub fn find(repo: &Path) -> Result<Vec<Suite>> {
    let directory = repo.join("tests/suite");
    let mut suites = Vec::new();
    for entry in std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rs") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            suites.push(describe(name, &std::fs::read_to_string(&path)?));
        }
    }
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

/// A suite by the documentation at the head of its file.
pub fn describe(name: String, text: &str) -> Suite {
    let doc: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let tier = if doc.contains(&"Tier: full") { Tier::Full } else { Tier::Gate };
    let threads =
        doc.iter().find_map(|line| line.strip_prefix("Tests at a time: ")?.parse().ok()).unwrap_or(1);
    Suite { name, about: doc.first().copied().unwrap_or_default().to_owned(), tier, threads }
}

/// Names of the integration tests of all packages but the lab.
pub fn integration_tests(place: &Place) -> Result<Vec<String>> {
    let text =
        run::output(place.cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("read cargo's metadata")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets =
        packages.filter(|p| p["name"] != "etcdmon-tests").filter_map(|p| p["targets"].as_array()).flatten();
    let tests =
        targets.filter(|t| t["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "test")));
    Ok(tests.filter_map(|t| t["name"].as_str().map(str::to_owned)).collect())
}
