//! The moment at which ClickHouse is inside an insert, seen from outside: in the directory of the table.
//!
//! A part is written to `tmp_insert_<partition>_<block>_<block>_0`, which becomes `<partition>_<block>_<block>_0` when
//! it is complete and thereby belongs to the table.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a part's directory is called while it is written.
const UNFINISHED: &str = "tmp_insert_";

/// And a merged one.
const MERGING: &str = "tmp_merge_";

/// Bytes of the head of an inotify event; its name follows.
const HEAD: usize = size_of::<libc::inotify_event>();

/// A moment of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The part is being written.
    Begun,
    /// The part belongs to the table; nobody has been told yet.
    Written,
    /// A merge of parts is being written.
    Merging,
}

/// The directory of a table's parts in an engine's store.
///
/// # Errors
/// When there is no such table.
pub fn table_directory(store: &Path, table: &str) -> Result<PathBuf> {
    let path = store.join("metadata/etcdmon").join(format!("{table}.sql"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let id = text.split("UUID '").nth(1).and_then(|rest| rest.get(..36));
    let id = id.with_context(|| format!("no UUID in {}", path.display()))?;
    Ok(store.join("store").join(&id[..3]).join(id))
}

/// Whether a part is being written there, or was when the engine died.
pub fn is_unfinished(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED))
}

/// Watches a table's directory.
#[derive(Debug)]
pub struct InsertWatch {
    queue: OwnedFd,
}

impl InsertWatch {
    /// Of the table whose parts lie in `directory`.
    ///
    /// # Errors
    /// When it can't be watched.
    pub fn new(directory: &Path) -> Result<Self> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: plain system call; the descriptor it returns is owned by nobody else.
        let descriptor = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error()).context("make an inotify queue");
        }
        // SAFETY: see above.
        let queue = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let events = libc::IN_CREATE | libc::IN_MOVED_TO;
        // SAFETY: the path is a C string that lives until after the call.
        if unsafe { libc::inotify_add_watch(queue.as_raw_fd(), path.as_ptr(), events) } < 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("watch {}", directory.display()));
        }
        Ok(Self { queue })
    }

    /// Blocks the thread until the moment comes, then sends `signal` to `process` at once.
    ///
    /// # Errors
    /// When it does not come within `limit`, or the process is gone.
    pub fn strike(&self, moment: Moment, process: u32, signal: i32, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0_u8; 4096];
        while Instant::now() < deadline {
            let mut poll = libc::pollfd { fd: self.queue.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which lives until after the call.
            unsafe { libc::poll(&raw mut poll, 1, 100) };
            // SAFETY: the buffer is as long as is said.
            let count =
                unsafe { libc::read(self.queue.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let filled = usize::try_from(count).unwrap_or(0);
            if names(&buffer[..filled]).any(|(created, name)| is(moment, created, name)) {
                // SAFETY: plain system call on a process that the caller knows to be the lab's.
                if unsafe { libc::kill(process.cast_signed(), signal) } != 0 {
                    return Err(io::Error::last_os_error()).context("signal in the moment of an insert");
                }
                return Ok(());
            }
        }
        bail!("no insert within {limit:?}")
    }
}

fn is(moment: Moment, created: bool, name: &str) -> bool {
    match moment {
        Moment::Begun => created && name.starts_with(UNFINISHED),
        Moment::Merging => created && name.starts_with(MERGING),
        // Level 0: a merged part has a higher one.
        Moment::Written => !created && !name.starts_with("tmp") && name.ends_with("_0"),
    }
}

/// Name of each event, and whether it tells of something new (else of something that was renamed).
fn names(mut events: &[u8]) -> impl Iterator<Item = (bool, &str)> {
    std::iter::from_fn(move || {
        let head = events.get(..HEAD)?;
        let number = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        // Watch, mask, cookie, length of the name.
        let (mask, length) = (number(4)?, number(12)? as usize);
        let name = events.get(HEAD..HEAD + length)?;
        events = &events[HEAD + length..];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Some((mask & libc::IN_CREATE != 0, std::str::from_utf8(&name[..end]).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    #[test]
    fn both_moments_are_seen_and_nothing_else() {
        let place = Place::new().unwrap();
        let directory = place.path();
        let watch = InsertWatch::new(directory).unwrap();
        let soon = Duration::from_millis(150);
        // Signal 0 only asks whether the process is there.
        let strike = |moment| watch.strike(moment, std::process::id(), 0, soon).is_ok();
        fs::create_dir(directory.join("tmp_merge_20260101_1_2_1")).unwrap();
        assert!(!strike(Moment::Begun), "a merge is no insert");
        fs::create_dir(directory.join("tmp_merge_20260101_1_3_1")).unwrap();
        assert!(strike(Moment::Merging));
        let unfinished = directory.join("tmp_insert_20260101_3_3_0");
        fs::create_dir(&unfinished).unwrap();
        assert!(is_unfinished(directory));
        assert!(strike(Moment::Begun));
        fs::rename(&unfinished, directory.join("20260101_3_3_0")).unwrap();
        assert!(strike(Moment::Written));
        assert!(!is_unfinished(directory));
    }
}
