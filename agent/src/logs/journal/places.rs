//! Where journald's files are: `<root>/<machine id>[.<namespace>]/*.journal`, below `/var/log/journal` or, until that is
//! writable or when nothing is to be kept, below `/run/log/journal`.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::find::Missing;

/// Directory entries looked at in a directory: archived files of years.
const LISTED_LIMIT: usize = 20_000;

/// A file that journald writes to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Online {
    /// Its path.
    pub path: PathBuf,
    /// Which of the roots it is below.
    pub root: usize,
    /// Device and inode: the path changes when it is archived.
    pub identity: (u64, u64),
}

impl Online {
    /// Name of its directory: machine and namespace.
    pub fn directory(&self) -> Option<&OsStr> {
        self.path.parent()?.file_name()
    }
}

/// All of them, in the order of the roots, and the first fault met while looking.
pub fn online(roots: &[PathBuf]) -> (Vec<Online>, Option<io::Error>) {
    let (mut found, mut fault) = (Vec::new(), None);
    for (at, root) in roots.iter().enumerate() {
        let mut directories: Vec<PathBuf> = match list(root) {
            Ok(entries) => entries.filter(is_machine).map(|entry| entry.path()).collect(),
            Err(error) => {
                note(&mut fault, error);
                continue;
            }
        };
        directories.sort();
        for directory in directories {
            match list(&directory) {
                Ok(entries) => found.extend(entries.filter_map(|entry| as_online(&entry, at))),
                Err(error) => note(&mut fault, error),
            }
        }
    }
    (found, fault)
}

/// Whether there is something to read.
///
/// # Errors
/// Why not, and what would help.
pub fn check(roots: &[PathBuf]) -> Result<(), Missing> {
    let (files, mut fault) = online(roots);
    for file in &files {
        match fs::File::open(&file.path) {
            Ok(_) => return Ok(()),
            Err(error) => note(&mut fault, error),
        }
    }
    let places: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
    let places = places.join(" and ");
    Err(match fault {
        Some(error) => Missing {
            reason: format!("journald's files in {places} can't be read: {error}"),
            remedy:
                "put the agent's user into the group systemd-journal, or give the agent CAP_DAC_READ_SEARCH"
                    .to_owned(),
        },
        None => Missing {
            reason: format!("journald has no files in {places}"),
            remedy: format!(
                "give the agent the node's {places} (in a container: mount both), and let journald keep what it \
                 gets (Storage= other than none)"
            ),
        },
    })
}

/// That something is not there is no fault.
fn note(fault: &mut Option<io::Error>, error: io::Error) {
    if error.kind() != io::ErrorKind::NotFound && fault.is_none() {
        *fault = Some(error);
    }
}

fn list(directory: &Path) -> io::Result<impl Iterator<Item = DirEntry>> {
    Ok(fs::read_dir(directory)?.take(LISTED_LIMIT).filter_map(Result::ok))
}

/// 32 hexadecimal digits, and a namespace perhaps. `remote` holds journals of other machines.
fn is_machine(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    let id = name.split_once('.').map_or(&*name, |(id, _)| id);
    id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Archived files have an `@` in their names.
fn as_online(entry: &DirEntry, root: usize) -> Option<Online> {
    let name = entry.file_name();
    let name = name.to_str()?;
    if !name.ends_with(".journal") || name.contains('@') {
        return None;
    }
    let metadata = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file)?;
    Some(Online { path: entry.path(), root, identity: (metadata.dev(), metadata.ino()) })
}
