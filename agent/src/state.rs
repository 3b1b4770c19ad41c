//! The agent's own state directory: its lasting id, and a lock so that no two agents share a spool.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Why the directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or the directory itself.
    #[error("{verb} {path}")]
    Io {
        /// What was attempted.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another agent is at work here.
    #[error("another agent uses {path}: give each its own state.dir")]
    Taken {
        /// The directory.
        path: PathBuf,
    },
}

/// The directory, locked as long as this lives.
#[derive(Debug)]
pub struct State {
    /// The agent's id.
    pub agent_id: Uuid,
    /// Where the spool lies.
    pub spool_dir: PathBuf,
    _lock: File,
}

impl State {
    /// Opens `directory`, which is made if need be, and reads the agent's id or makes one.
    ///
    /// # Errors
    /// When it can't be written, or another agent holds it.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let failed = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { verb, path, source }
        };
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let lock_path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::Taken { path: directory.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
        }
        let id_path = directory.join("agent-id");
        let agent_id = read_or_make_id(&id_path).map_err(failed("read or write", &id_path))?;
        Ok(Self { agent_id, spool_dir: directory.join("spool"), _lock: lock })
    }
}

fn read_or_make_id(path: &Path) -> io::Result<Uuid> {
    match fs::read_to_string(path) {
        Ok(text) => {
            Uuid::parse_str(text.trim()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            let temporary = path.with_extension("new");
            fs::write(&temporary, format!("{id}\n"))?;
            fs::rename(&temporary, path)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_two_agents_do_not_share_a_directory() {
        let directory = tempfile::tempdir().expect("temp dir");
        let first = State::open(directory.path()).expect("fresh");
        assert!(matches!(State::open(directory.path()), Err(StateError::Taken { .. })));
        let id = first.agent_id;
        drop(first);
        assert_eq!(State::open(directory.path()).expect("free again").agent_id, id);
    }

    #[test]
    fn an_id_that_does_not_read_is_an_error_and_not_replaced() {
        let directory = tempfile::tempdir().expect("temp dir");
        fs::write(directory.path().join("agent-id"), "nonsense").expect("write");
        let error = State::open(directory.path()).expect_err("must not get a new identity");
        assert!(matches!(error, StateError::Io { verb: "read or write", .. }), "{error}");
    }
}
