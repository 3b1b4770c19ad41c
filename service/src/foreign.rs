//! Files whose paths somebody else chose: anybody may start a process that is called etcd and give it any path for its
//! configuration, certificates, log and data. Whoever follows such a path must not come to harm:
//!
//! - Only a regular file is opened. What a path leads to is looked at before it is opened: opening a FIFO waits, and opening a
//!   device acts (a watchdog's restarts the machine).
//! - Files that the kernel makes up (`/proc`, `/sys`, tracefs) are refused: reading some takes what they tell away from others.
//! - A path through `/proc/PID/root` stays below that root, links included: an absolute link of a container must not lead to
//!   the host's files. Links through `/proc` (`/dev/stdin`, `/proc/self/fd/3`), which mean something else to each process, are
//!   not followed.
//! - Reading is bounded, and never waits where the file can tell (leases, files that are not there yet).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// Largest certificate or key file that is read, in bytes: a bundle of all the web's authorities has a fifth of it.
pub const CERTIFICATE_BYTES: u64 = 1 << 20;

/// Filesystems that the kernel makes up: proc, sysfs, tracefs, debugfs (`include/uapi/linux/magic.h`).
const MADE_UP: [u64; 4] = [0x9fa0, 0x6265_6572, 0x7472_6163, 0x6462_6720];

/// A file that is not opened or read.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// It is not there, or may not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("is {0}, no regular file")]
    NotRegular(&'static str),
    /// It is one of `/proc`, `/sys` or their like.
    #[error("is a file that the kernel makes up")]
    MadeUp,
    /// It is too large for what it should be.
    #[error("has more than {0} bytes")]
    TooLarge(u64),
}

impl From<rustix::io::Errno> for ForeignError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<ForeignError> for io::Error {
    fn from(error: ForeignError) -> Self {
        match error {
            ForeignError::Io(error) => error,
            ForeignError::TooLarge(_) => Self::new(io::ErrorKind::FileTooLarge, error),
            other => Self::new(io::ErrorKind::InvalidInput, other),
        }
    }
}

/// Opens a regular file for reading. Never waits for whoever is at the other end of what is none.
///
/// # Errors
/// See [`ForeignError`].
pub fn open(path: &Path) -> Result<File, ForeignError> {
    let place = find(path)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) {
        FileType::RegularFile => {}
        other => return Err(ForeignError::NotRegular(kind(other))),
    }
    if MADE_UP.contains(&(rustix::fs::fstatfs(&place)?.f_type as u64 & 0xffff_ffff)) {
        return Err(ForeignError::MadeUp);
    }
    // What was looked at, and nothing that took its place meanwhile. A file with a lease would wait for whoever has it.
    let seen = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, seen, flags, Mode::empty())?.into())
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// See [`ForeignError`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ForeignError> {
    let file = open(path)?;
    if file.metadata()?.len() > limit {
        return Err(ForeignError::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    // It may grow, and not every filesystem tells the size.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(ForeignError::TooLarge(limit)) } else { Ok(bytes) }
}

/// The same as text.
///
/// # Errors
/// See [`ForeignError`]; also when it is not UTF-8.
pub fn read_to_string(path: &Path, limit: u64) -> Result<String, ForeignError> {
    let bytes = read(path, limit)?;
    String::from_utf8(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()).into())
}

/// What is at a path, without opening it.
fn find(path: &Path) -> Result<OwnedFd, ForeignError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolved = match through_root(path) {
        Some((root, inside)) => {
            let root = rustix::fs::openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
            // Magic links are not followed below a root either, as the kernel has it.
            resolve(root.as_fd(), inside, flags, ResolveFlags::IN_ROOT)
        }
        None if is_descriptor(path) => resolve(CWD, path, flags, ResolveFlags::empty()),
        None => resolve(CWD, path, flags, ResolveFlags::NO_MAGICLINKS),
    };
    match resolved {
        // Before Linux 5.6, or where a filter of system calls does not know it yet.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
        }
        resolved => Ok(resolved?),
    }
}

fn resolve(
    from: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(from, path, flags, Mode::empty(), resolve)
}

/// `/proc/PID/root` and what lies below it.
fn through_root(path: &Path) -> Option<(PathBuf, &Path)> {
    let inside = path.strip_prefix("/proc").ok()?;
    let mut parts = inside.components();
    let pid = parts.next()?.as_os_str();
    is_number(pid).then_some(())?;
    (parts.next()?.as_os_str() == "root")
        .then(|| (Path::new("/proc").join(pid).join("root"), parts.as_path()))
}

/// `/proc/PID/fd/N`: the one link of that kind that whoever calls this makes himself.
fn is_descriptor(path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix("/proc") else { return false };
    let parts: Vec<_> = inside.iter().collect();
    matches!(parts[..], [pid, fd, number] if is_number(pid) && fd == "fd" && is_number(number))
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

const fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a link",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// What came of reading at most 1,000 bytes, which must not wait.
    fn outcome(path: &Path) -> Result<usize, String> {
        let (sender, told) = mpsc::channel();
        let path = path.to_owned();
        std::thread::spawn(move || {
            let outcome = read(&path, 1_000).map(|bytes| bytes.len()).map_err(|error| error.to_string());
            let _ = sender.send(outcome);
        });
        told.recv_timeout(Duration::from_secs(20)).expect("it hangs")
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read_and_nothing_waits() {
        let directory = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("good"), [b'x'; 1_000]).expect("write");
        std::fs::write(at("long"), [b'x'; 1_001]).expect("write");
        File::create(at("sparse")).and_then(|file| file.set_len(1 << 30)).expect("sparse");
        rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RUSR | Mode::WUSR).expect("mkfifo");
        let _socket = UnixListener::bind(at("socket")).expect("bind");
        symlink(at("good"), at("link")).expect("link");
        symlink(at("loop"), at("loop")).expect("link");
        symlink(at("fifo"), at("to-fifo")).expect("link");
        symlink("/dev/zero", at("to-zero")).expect("link");
        assert_eq!(outcome(&at("good")), Ok(1_000));
        assert_eq!(outcome(&at("link")), Ok(1_000), "Kubernetes mounts configuration as links");
        for (name, told) in [
            ("long", "has more than 1000 bytes"),
            ("sparse", "has more than 1000 bytes"),
            ("fifo", "is a FIFO, no regular file"),
            ("to-fifo", "is a FIFO, no regular file"),
            ("socket", "is a socket, no regular file"),
            ("to-zero", "is a device, no regular file"),
            (".", "is a directory, no regular file"),
        ] {
            assert_eq!(outcome(&at(name)), Err(told.to_owned()), "{name}");
        }
        for name in ["loop", "none", "good/below"] {
            outcome(&at(name)).expect_err(name);
        }
        assert_eq!(outcome(Path::new("/proc/kmsg")), Err("is a file that the kernel makes up".to_owned()));
        outcome(Path::new("/proc/self/fd/0")).expect_err("that would be our own");
        outcome(Path::new("/dev/stdin")).expect_err("that would be our own");
    }

    #[test]
    fn a_descriptor_of_a_process_leads_to_its_file_even_when_that_is_removed() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("log");
        std::fs::write(&path, "lines").expect("write");
        let file = File::open(&path).expect("open");
        std::fs::remove_file(&path).expect("remove");
        let magic = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        assert_eq!(outcome(Path::new(&magic)), Ok(5));
    }

    #[test]
    fn a_link_below_the_root_of_a_process_stays_there() {
        let directory = tempfile::tempdir().expect("temp dir");
        std::fs::write(directory.path().join("theirs"), "theirs").expect("write");
        symlink("/theirs", directory.path().join("absolute")).expect("link");
        symlink("../../../theirs", directory.path().join("upwards")).expect("link");
        // As for a container: the root is a directory that is not ours.
        let open_root = |inside: &str| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let root = rustix::fs::openat(CWD, directory.path(), flags, Mode::empty()).expect("open");
            resolve(root.as_fd(), Path::new(inside), flags, ResolveFlags::IN_ROOT)
        };
        for inside in ["theirs", "absolute", "upwards", "../theirs"] {
            assert!(open_root(inside).is_ok(), "{inside}");
        }
        assert!(open_root("etc/passwd").is_err());
        let (root, inside) = through_root(Path::new("/proc/41/root/etc/etcd.yml")).expect("through a root");
        assert_eq!((root.as_path(), inside), (Path::new("/proc/41/root"), Path::new("etc/etcd.yml")));
        for path in ["/proc/self/root/x", "/proc/41/fd/3", "/etc/proc/41/root/x"] {
            assert_eq!(through_root(Path::new(path)), None, "{path}");
        }
        // Our own root by its number, as another user might see it.
        let own = format!("/proc/{}/root{}", std::process::id(), directory.path().join("theirs").display());
        assert_eq!(outcome(Path::new(&own)), Ok(6));
    }
}
