//! Where the engine answers, in a file beside its data that only their owner can read: for subcommands on the same host.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::store::Endpoint;

const FILE: &str = "etcd-monitor-engine.json";

/// Writes it for the store in `directory`.
///
/// # Errors
/// When the file can't be written.
pub fn write(directory: &Path, endpoint: &Endpoint) -> io::Result<()> {
    forget(directory);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(FILE))?;
    let Endpoint { url, key, generation, .. } = endpoint;
    writeln!(file, "{}", json!({"url": url, "key": key, "generation": generation}))
}

/// What is written there; `None` when no engine runs, or this user may not know.
pub fn read(directory: &Path) -> Option<Endpoint> {
    let content: Value = serde_json::from_slice(&fs::read(directory.join(FILE)).ok()?).ok()?;
    Some(Endpoint {
        url: content["url"].as_str()?.to_owned(),
        key: content["key"].as_str()?.to_owned(),
        // Whoever may read this file needs no lesser key.
        reader_key: String::new(),
        generation: content["generation"].as_u64()?,
    })
}

/// Removes it.
pub fn forget(directory: &Path) {
    let _absent = fs::remove_file(directory.join(FILE));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn only_the_owner_reads_it_and_it_goes_with_the_engine() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), None);
        let url = "http://127.0.0.1:1".to_owned();
        let endpoint = Endpoint { url, key: "k".to_owned(), reader_key: String::new(), generation: 2 };
        // One of an engine that was killed is replaced.
        fs::write(directory.path().join(FILE), "{}").unwrap();
        write(directory.path(), &endpoint).unwrap();
        assert_eq!(fs::metadata(directory.path().join(FILE)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(directory.path()), Some(endpoint));
        forget(directory.path());
        assert_eq!(read(directory.path()), None);
    }
}
