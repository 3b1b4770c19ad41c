//! The disk of a store: how much room it has, and whether it is etcd's as well.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Room on a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this user may still take.
    pub free_bytes: u64,
    /// Bytes of the whole filesystem.
    pub total_bytes: u64,
    /// Less is free than the engine leaves free: it stores nothing.
    pub full: bool,
}

/// Room where `path` is, or will be; `kept_free` bytes are never taken.
pub fn of(path: &Path, kept_free: u64) -> Option<Room> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let path = CString::new(existing.as_os_str().as_bytes()).ok()?;
    let mut about = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a C string that lives until after the call, and the kernel fills the structure.
    if unsafe { libc::statvfs(path.as_ptr(), about.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call above succeeded.
    let about = unsafe { about.assume_init() };
    let free_bytes = about.f_bavail.saturating_mul(about.f_frsize);
    let total_bytes = about.f_blocks.saturating_mul(about.f_frsize);
    Some(Room { free_bytes, total_bytes, full: free_bytes < kept_free })
}

/// An etcd on this host whose data lie on the same filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its process id.
    pub pid: u32,
    /// Its data directory, as it calls it.
    pub data_dir: PathBuf,
}

/// The first etcd found on the filesystem of `path`, among the processes that this user may look at.
pub fn etcd_beside(path: &Path) -> Option<Neighbour> {
    let device = fs::metadata(path.ancestors().find(|path| path.exists())?).ok()?.dev();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter_map(etcd)
        .find(|(_, seen)| fs::metadata(seen).is_ok_and(|about| about.dev() == device))
        .map(|(neighbour, _)| neighbour)
}

/// The process as an etcd, and where its data directory is seen from here (it may live in a container).
fn etcd(pid: u32) -> Option<(Neighbour, PathBuf)> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let words = fs::read(process.join("cmdline")).ok()?;
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    if Path::new(&*String::from_utf8_lossy(words.first()?)).file_name()? != "etcd" {
        return None;
    }
    let data_dir = data_dir(&words, &fs::read(process.join("environ")).unwrap_or_default());
    let seen = match data_dir.strip_prefix("/") {
        Ok(absolute) => process.join("root").join(absolute),
        Err(_) => process.join("cwd").join(&data_dir),
    };
    Some((Neighbour { pid, data_dir }, seen))
}

/// By flag, else by environment variable, else etcd's default: `<name>.etcd` where it was started.
fn data_dir(words: &[&[u8]], environment: &[u8]) -> PathBuf {
    let flag = |name: &str| {
        let mut words = words.iter().map(|word| String::from_utf8_lossy(word).into_owned());
        words
            .by_ref()
            .find_map(|word| {
                let word = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
                let rest = word.strip_prefix(name)?;
                if rest.is_empty() {
                    Some(None)
                } else {
                    rest.strip_prefix('=').map(|value| Some(value.to_owned()))
                }
            })
            .and_then(|value| value.or_else(|| words.next()))
    };
    let variable = |name: &str| {
        let entries = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        entries.into_iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let named = |name: &str, variable_name: &str| flag(name).or_else(|| variable(variable_name));
    named("data-dir", "ETCD_DATA_DIR").map_or_else(
        || {
            PathBuf::from(format!(
                "{}.etcd",
                named("name", "ETCD_NAME").unwrap_or_else(|| "default".to_owned())
            ))
        },
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_found_as_etcd_finds_it() {
        let of = |words: &[&str], environment: &str| {
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            data_dir(&words, environment.as_bytes()).display().to_string()
        };
        assert_eq!(of(&["etcd", "--data-dir", "/var/a"], ""), "/var/a");
        assert_eq!(of(&["etcd", "-data-dir=/var/b"], "ETCD_DATA_DIR=/var/c\0"), "/var/b");
        assert_eq!(of(&["etcd", "--data-dir-x", "/no"], "A=1\0ETCD_DATA_DIR=/var/c\0"), "/var/c");
        assert_eq!(of(&["etcd", "--name", "n1"], ""), "n1.etcd");
        assert_eq!(of(&["etcd"], ""), "default.etcd");
    }

    #[test]
    fn room_is_told_of_a_directory_that_is_still_to_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let room = of(&directory.path().join("a/b/c"), 1).unwrap();
        assert!(room.total_bytes >= room.free_bytes && room.free_bytes > 0 && !room.full);
        assert!(of(directory.path(), u64::MAX).unwrap().full);
    }
}
