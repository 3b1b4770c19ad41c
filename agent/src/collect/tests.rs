use std::collections::BTreeSet;
use std::path::Path;

use super::sheet::values_of;
use super::*;
use crate::discover::ProcessId;

const REFERENCE: &str = include_str!("../../../docs/formats/series.md");

/// Names in the reference's tables.
fn documented() -> BTreeSet<String> {
    let words = REFERENCE.split('`').skip(1).step_by(2);
    words.filter(|word| word.starts_with("etcdmon_")).map(str::to_owned).collect()
}

/// Names of what the sources name: string literals, and what `format!` makes of them.
fn in_sources() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/collect");
    let mut names = BTreeSet::new();
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the sources are there").flatten() {
            let path = entry.path();
            let name = path.file_name().expect("an entry").to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = std::fs::read_to_string(&path).expect("readable");
                let code = text.split("mod tests {").next().expect("a first part");
                let literals = code.split('"').skip(1).step_by(2);
                names.extend(literals.filter(|word| word.starts_with("etcdmon_")).map(str::to_owned));
            }
        }
    }
    names
}

/// `etcdmon_node_load{minutes}` stands for every name that begins and ends so.
fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.find('{'), pattern.rfind('}')) {
        (Some(open), Some(close)) => {
            name.starts_with(&pattern[..open]) && name.ends_with(&pattern[close + 1..])
        }
        _ => pattern == name,
    }
}

#[test]
fn the_reference_names_every_series_and_no_other() {
    let (documented, patterns) = (documented(), in_sources());
    for pattern in &patterns {
        assert!(documented.iter().any(|name| fits(pattern, name)), "{pattern} is not in the reference");
    }
    for name in &documented {
        assert!(patterns.iter().any(|pattern| fits(pattern, name)), "{name} is in no source");
    }
}

/// What real collectors yield here is in the reference, whatever it was made of.
#[tokio::test]
async fn what_this_machine_yields_is_in_the_reference() {
    let documented = documented();
    let (proc, second) = (ProcFs::new("/proc"), Duration::from_secs(1));
    let id = ProcessId { boot_id: [0; 16], pid: std::process::id(), start_ticks: 0 };
    let now = Reading::now();
    let notes = [
        node::NodeCollector::new(second).collect(now).await,
        network::NetworkCollector::new(second).collect(now).await,
        process::ProcessCollector::new(&proc, id, second).collect(now).await,
        threads::ThreadsCollector::new(&proc, id, second).collect(now).await,
    ];
    for notes in notes {
        for key in values_of(&notes.expect("readable")).keys() {
            let name = key.split(' ').next().expect("a name");
            assert!(documented.contains(name), "{name} is not in the reference");
        }
    }
}
