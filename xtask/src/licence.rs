//! Licences of everything that is linked, against the list in deny.toml; works offline and without further programs.

use anyhow::{Context, Result};
use std::collections::BTreeSet;

use crate::place::Place;
use crate::run;
use crate::say;

/// Crates that must not be linked: one TLS provider, and it is aws-lc-rs.
const UNWANTED: [&str; 3] = ["ring", "openssl-sys", "native-tls"];

/// Packages with a licence or from a source that is not allowed, unwanted packages, and what cargo-deny finds where it is installed.
pub fn check(place: &Place) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(place.repo.join("deny.toml")).context("read deny.toml")?;
    let allowed = allowed(&text);
    let host = run::output(place.command("rustc").arg("-vV"))?;
    let host =
        host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc tells no host")?.to_owned();
    let metadata =
        run::output(place.cargo().args(["metadata", "--format-version", "1", "--filter-platform", &host]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo's metadata")?;
    let mut faults = judge(&metadata, &allowed);
    for name in UNWANTED {
        // Fails when no package of this name is even in the lock file: as good as an empty tree.
        let tree = run::output(place.cargo().args([
            "tree",
            "--workspace",
            "--edges",
            "normal,build",
            "--invert",
            name,
        ]));
        if tree.is_ok_and(|tree| !tree.trim().is_empty()) {
            faults.push(format!("{name} is linked: `cargo tree --invert {name}` shows by whom"));
        }
    }
    if run::which("cargo-deny").is_some() {
        let mut deny = place.cargo();
        deny.args(["deny", "--offline", "check", "licenses", "bans", "sources"]);
        if !run::shown(&mut deny)? {
            faults.push("cargo deny: see above".to_owned());
        }
    } else {
        say::note("cargo-deny is not installed: its look at bans and sources is skipped");
    }
    Ok(faults)
}

fn judge(metadata: &serde_json::Value, allowed: &BTreeSet<String>) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let resolved: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let fault = |package: &serde_json::Value| {
        if !package["id"].as_str().is_some_and(|id| resolved.contains(id)) {
            return None;
        }
        let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
        if package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")) {
            return Some(format!("{name}: comes from {}, not from a registry", package["source"]));
        }
        match package["license"].as_str() {
            None => Some(format!("{name}: names no licence")),
            Some(licence) if !satisfied(licence, allowed) => {
                Some(format!("{name}: {licence} is not allowed by deny.toml"))
            }
            Some(_) => None,
        }
    };
    packages.filter_map(fault).collect()
}

/// The strings of `allow = […]` in section `[licenses]`.
fn allowed(deny: &str) -> BTreeSet<String> {
    let section = deny.split("[licenses]").nth(1).unwrap_or_default();
    let list = section.split_once("allow = [").map_or("", |(_, rest)| rest);
    let list = list.split(']').next().unwrap_or_default();
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .flat_map(|line| line.split(','))
        .map(|s| s.trim().trim_matches('"').to_owned())
        .filter(|s| !s.is_empty())
        .collect()
}

/// Whether an SPDX expression can be met with allowed licences only. `/` is an old way to write `OR`.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, allowed);
    met && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = either(words, at, allowed);
        *at += usize::from(words.get(*at) == Some(&")"));
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        let name = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
        return allowed.contains(&name);
    }
    allowed.contains(*word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> BTreeSet<String> {
        allowed(
            "[bans]\n[licenses]\nallow = [\n  \"MIT\", # short\n  \"Apache-2.0\",\n  \"Apache-2.0 WITH LLVM-exception\",\n]\n",
        )
    }

    #[test]
    fn the_list_is_read_from_the_section() {
        assert_eq!(list().len(), 3);
        assert!(allowed("[bans]\nallow = [\"x\"]\n").is_empty());
    }

    #[test]
    fn one_side_of_or_and_both_sides_of_and_must_be_allowed() {
        assert!(satisfied("MIT OR GPL-2.0-only", &list()));
        assert!(satisfied("GPL-3.0/MIT", &list()));
        assert!(!satisfied("MIT AND GPL-2.0-only", &list()));
        assert!(satisfied("(GPL-2.0 OR MIT) AND Apache-2.0", &list()));
        assert!(!satisfied("GPL-2.0-only", &list()));
        assert!(!satisfied("", &list()));
    }

    #[test]
    fn an_exception_is_allowed_by_its_whole_name() {
        assert!(satisfied("Apache-2.0 WITH LLVM-exception OR X", &list()));
        assert!(!satisfied("MIT WITH LLVM-exception", &list()));
    }

    #[test]
    fn only_packages_that_are_resolved_are_judged_by_licence_and_source() {
        let metadata = serde_json::json!({
            "packages": [
                {"id": "a", "name": "a", "version": "1", "license": "GPL-3.0-only"},
                {"id": "b", "name": "b", "version": "1", "license": "LGPL-2.1"},
                {"id": "c", "name": "c", "version": "1", "license": null},
                {"id": "d", "name": "d", "version": "1", "license": "MIT", "source": "registry+https://r.example"},
                {"id": "e", "name": "e", "version": "1", "license": "MIT", "source": "git+https://g.example"},
            ],
            "resolve": {"nodes": [{"id": "a"}, {"id": "c"}, {"id": "d"}, {"id": "e"}]},
        });
        let faults = judge(&metadata, &list());
        assert_eq!(faults[..2], ["a 1: GPL-3.0-only is not allowed by deny.toml", "c 1: names no licence"]);
        assert!(faults.len() == 3 && faults[2].starts_with("e 1: comes from"), "{faults:?}");
    }
}
