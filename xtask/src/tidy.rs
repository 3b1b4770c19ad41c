//! House rules that no compiler checks: length of files, unfinished marks, paths of one machine, registry hosts, and that
//! every test the specification names exists.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The document whose promises name their tests.
const PROMISES: &str = "SPECIFICATION.md";

/// Longest source file, in lines.
const MAX_LINES: usize = 700;

/// Directories that hold nothing of ours; in a linked work tree `.git` is a file.
const SKIPPED: [&str; 5] = [".git", "target", "node_modules", "generated", "proptest-regressions"];

/// Marks of unfinished work. Put together from halves so that this file is clean itself.
const MARKS: [&str; 5] = [
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
    concat!("#[ign", "ore"),
];

/// Directories that exist on somebody's machine only.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];

/// Package registries are what the machine is set up for, never named by us.
const REGISTRIES: [&str; 5] = [
    concat!("registry.npm", "js"),
    concat!("proxy.gol", "ang"),
    concat!("deb.deb", "ian"),
    concat!("static.crates", ".io"),
    concat!("pypi", ".org"),
];

/// Faults of all text files below `repo`, as `path:line: what`.
pub fn check(repo: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut files = Vec::new();
    collect(repo, &mut files)?;
    let mut promises = String::new();
    let mut functions = BTreeSet::new();
    for file in files {
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let path = file.strip_prefix(repo).unwrap_or(&file);
        faults.extend(judge(path, &text));
        if path.extension().is_some_and(|e| e == "rs") {
            functions.extend(
                text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next()).map(str::to_owned),
            );
        } else if path == Path::new(PROMISES) {
            promises = text;
        }
    }
    faults.extend(unproven(&promises, &functions));
    faults.sort();
    Ok(faults)
}

/// Tests that the specification names as `suite/test` and that are nowhere.
fn unproven(promises: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let word = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let quoted = promises.split('`').skip(1).step_by(2).filter_map(|name| name.split_once('/'));
    quoted
        .filter(|(suite, test)| word(suite) && word(test) && !functions.contains(*test))
        .map(|(suite, test)| format!("{PROMISES}: no test is called {suite}/{test}"))
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if SKIPPED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            collect(&path, files)?;
        } else if kind.is_file() && entry.file_name() != "Cargo.lock" {
            files.push(path);
        }
    }
    Ok(())
}

/// Faults of one file.
fn judge(path: &Path, text: &str) -> Vec<String> {
    let name = path.display();
    let mut faults = Vec::new();
    let source = path.extension().is_some_and(|e| e == "rs");
    let count = text.lines().count();
    if source && count > MAX_LINES {
        faults.push(format!("{name}: {count} lines, {MAX_LINES} is the limit: split it by idea"));
    }
    for (at, line) in text.lines().enumerate() {
        let mut fault = |what: &str, mark: Option<&&str>| {
            faults.extend(mark.map(|mark| format!("{name}:{}: {what} `{mark}`", at + 1)));
        };
        let contained = |mark: &&&str| line.contains(**mark);
        fault("unfinished mark", MARKS.iter().filter(|_| source).find(contained));
        fault("path of one machine", MACHINE_PATHS.iter().find(|path| begins_path(line, path)));
        fault("registry host", REGISTRIES.iter().find(contained));
    }
    faults
}

/// Whether `path` stands in the line as the begin of a path, not in the middle of one such as `/proc/7/…`.
fn begins_path(line: &str, path: &str) -> bool {
    let inner = |before: char| before.is_alphanumeric() || "_.-}>*".contains(before);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_file_has_no_faults() {
        assert!(judge(Path::new("a.rs"), "fn main() {}\n").is_empty());
    }

    #[test]
    fn marks_paths_and_hosts_are_found_with_their_line() {
        let text = format!("x\n// {} later\nlet p = \"{}x\";\n", MARKS[1], MACHINE_PATHS[0]);
        let faults = judge(Path::new("a.rs"), &text);
        assert_eq!(faults.len(), 2);
        assert!(faults[0].starts_with("a.rs:2: unfinished mark"));
        assert!(faults[1].starts_with("a.rs:3: path of one machine"));
        assert_eq!(judge(Path::new("a.md"), REGISTRIES[0]).len(), 1);
    }

    #[test]
    fn the_same_name_in_the_middle_of_a_path_is_no_fault() {
        let root = MACHINE_PATHS[2];
        assert!(judge(Path::new("a.rs"), &format!("/proc/7{root}x /proc/{{pid}}{root}x")).is_empty());
        assert_eq!(judge(Path::new("a.rs"), &format!("\"{root}x\"")).len(), 1);
    }

    #[test]
    fn a_promise_whose_test_is_gone_is_found() {
        let functions = BTreeSet::from(["it_works".to_owned()]);
        let text = "| S1 | `truth/it_works`, `truth/it_shone` | `/healthz` `docs/ADR` |";
        assert_eq!(unproven(text, &functions), ["SPECIFICATION.md: no test is called truth/it_shone"]);
    }

    #[test]
    fn marks_count_in_sources_only_and_so_does_length() {
        assert!(judge(Path::new("a.md"), MARKS[1]).is_empty());
        let long = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(judge(Path::new("a.rs"), &long).len(), 1);
        assert!(judge(Path::new("a.sum"), &long).is_empty());
    }
}
