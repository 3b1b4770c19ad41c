//! Where the engine's library is.

use std::env;
use std::path::{Path, PathBuf};

/// Version of the library that this program is tested with.
pub const LIBRARY_VERSION: &str = "26.7.3-stable.1";

/// No library found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("engine library libchdb.so not found; looked at {}; get it with `cargo xtask setup`, or name it in clickhouse.library, or use a server by clickhouse.url", list(.looked))]
pub struct LibraryMissing {
    /// Files that are not there, in the order they were looked for.
    pub looked: Vec<PathBuf>,
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Finds the library. A file that settings or `ETCD_MONITOR_LIBCHDB` name is the only one looked for; otherwise the
/// places where installation and `cargo xtask setup` put it, then the system's library directories.
///
/// # Errors
/// When it is in none of these.
pub fn locate(configured: Option<&Path>) -> Result<PathBuf, LibraryMissing> {
    let named = configured.map(Path::to_owned).or_else(|| variable("ETCD_MONITOR_LIBCHDB"));
    first_file(named.map_or_else(usual_places, |path| vec![path]))
}

fn first_file(looked: Vec<PathBuf>) -> Result<PathBuf, LibraryMissing> {
    looked.iter().find(|path| path.is_file()).cloned().ok_or(LibraryMissing { looked })
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(prefix) = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned())) {
        places.push(prefix.join("lib/libchdb.so"));
    }
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let tools = variable("ETCD_MONITOR_TOOLS").or_else(|| Some(cache?.join("etcd-monitor")));
    places.extend(tools.map(|tools| tools.join("chdb").join(LIBRARY_VERSION).join("libchdb.so")));
    places.extend(["/usr/local/lib/libchdb.so", "/usr/lib/libchdb.so"].map(PathBuf::from));
    places
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_every_place_and_the_remedy() {
        let looked = vec![PathBuf::from("/nowhere/a.so"), PathBuf::from("/nowhere/b.so")];
        let message = first_file(looked).unwrap_err().to_string();
        for part in ["/nowhere/a.so", "/nowhere/b.so", "cargo xtask setup"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_configured_file_is_the_only_one_looked_for() {
        let missing = locate(Some(Path::new("/nowhere/libchdb.so"))).unwrap_err();
        assert_eq!(missing.looked, [PathBuf::from("/nowhere/libchdb.so")]);
    }
}
