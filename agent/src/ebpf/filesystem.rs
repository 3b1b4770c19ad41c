//! Which hook a process needs: told by the filesystems its directories are on.

use std::{
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use etcdmon_proto::v1::Hook;

/// ext2, ext3 and ext4 share it.
const EXT_MAGIC: u64 = 0xef53;

/// Names of filesystems by statfs's magic (include/uapi/linux/magic.h); for words only.
const NAMES: [(u64, &str); 8] = [
    (EXT_MAGIC, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0x794c_7630, "overlayfs"),
    (0x0102_1994, "tmpfs"),
    (0x6969, "nfs"),
];

/// A hook and why it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The hook.
    pub hook: Hook,
    /// Why, in words.
    pub reason: String,
}

/// What is known of the filesystem of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// statfs's magic.
    pub magic: u64,
    /// Its type in the mount table, if it was found there: tells ext2 from ext4.
    pub mounted_as: Option<String>,
}

impl Filesystem {
    fn name(&self) -> String {
        match (&self.mounted_as, NAMES.iter().find(|(magic, _)| *magic == self.magic)) {
            (Some(name), _) => name.clone(),
            (None, Some((_, name))) => (*name).to_owned(),
            (None, None) => format!("filesystem {:#x}", self.magic),
        }
    }

    /// Whether both ends of a sync have a tracepoint.
    fn has_tracepoints(&self) -> bool {
        // The ext2 driver has none, and what is mounted as ext2 may be served by either driver.
        self.magic == EXT_MAGIC && self.mounted_as.as_deref() != Some("ext2")
    }
}

/// The hook for a process with these directories, as `look` finds them. All of them must be on a filesystem with
/// tracepoints: counting some files by one hook and some by the other would count twice or not at all.
pub fn choose(directories: &[PathBuf], look: impl Fn(&Path) -> io::Result<Filesystem>) -> Choice {
    let syscall = |reason| Choice { hook: Hook::Syscall, reason };
    if directories.is_empty() {
        return syscall("its directories are not known".to_owned());
    }
    for directory in directories.iter().flat_map(|directory| with_links(directory)) {
        match look(&directory) {
            Ok(found) if found.has_tracepoints() => {}
            Ok(found) => {
                return syscall(format!(
                    "{} at {} has no tracepoints for both ends of a sync",
                    found.name(),
                    directory.display()
                ));
            }
            Err(error) => return syscall(format!("statfs {}: {error}", directory.display())),
        }
    }
    Choice { hook: Hook::Filesystem, reason: "all its directories are on ext4".to_owned() }
}

/// The directory and those below it that people replace by links to other disks.
fn with_links(directory: &Path) -> Vec<PathBuf> {
    let below = ["member", "member/wal", "member/snap"].map(|name| directory.join(name));
    let mut all = vec![directory.to_owned()];
    all.extend(below.into_iter().filter(|path| path.exists()));
    all
}

/// Asks the kernel about the filesystem of a directory, as process `pid` sees its mounts.
///
/// # Errors
/// When the directory can't be reached.
pub fn look(pid: u32, directory: &Path) -> io::Result<Filesystem> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a valid statfs, which is plain numbers.
    let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string and a place for the answer, both alive during the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let device = std::fs::metadata(directory)?.dev();
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    Ok(Filesystem { magic: (answer.f_type as u64) & 0xffff_ffff, mounted_as: mounted_as(&mounts, device) })
}

/// The type of the mount with this device number in a mountinfo table (proc(5)).
fn mounted_as(mountinfo: &str, device: u64) -> Option<String> {
    let wanted = format!("{}:{}", libc::major(device), libc::minor(device));
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let found = mount.split(' ').nth(2)? == wanted;
        found.then(|| filesystem.split(' ').next().map(str::to_owned)).flatten()
    })
}

#[cfg(test)]
mod tests;
