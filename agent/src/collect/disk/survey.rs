//! What a directory of etcd lies on: space, and where it changes, the filesystem and the disks below.
//!
//! A directory on a disk that hangs can make whoever asks hang as well, so this is asked from a thread of its own
//! ([`Surveyor`]), never from the one that everything else runs on. Nothing is kept open: an open directory would keep its
//! filesystem from being unmounted.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use super::device::{Facts, Number, Stack};
use super::mount::Mount;
use crate::collect::CollectError;

/// Most filesystems that are looked at for whether they share a disk with etcd's.
const FILESYSTEMS_LIMIT: usize = 256;

/// Most bytes of `mountinfo`.
const MOUNTS_LIMIT: usize = 4 << 20;

/// Where the files are that a survey reads.
#[derive(Debug, Clone)]
pub struct Sources {
    /// `/sys`.
    pub sys: PathBuf,
    /// `mountinfo` of the etcd process.
    pub mounts: PathBuf,
    /// `root` of the etcd process: paths below it are as etcd sees them.
    pub root: PathBuf,
    /// `mountinfo` of the node: of process 1, or our own.
    pub node_mounts: [PathBuf; 2],
    /// `/proc/fs`.
    pub filesystems: PathBuf,
}

/// Room of a filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Space {
    /// All of it.
    pub size_bytes: f64,
    /// What etcd can still use.
    pub available_bytes: f64,
    /// Free, but kept for root.
    pub reserved_bytes: f64,
    /// Inodes.
    pub inodes: f64,
    /// Inodes that etcd can still use.
    pub available_inodes: f64,
    /// Whether it can't be written to.
    pub read_only: bool,
}

impl Space {
    /// Of the filesystem that holds `path`.
    ///
    /// # Errors
    /// When there is nothing at `path`.
    pub fn of(path: &Path) -> Result<Self, CollectError> {
        let error = |source| CollectError::File { path: path.display().to_string(), source };
        let path =
            CString::new(path.as_os_str().as_bytes()).map_err(|nul| error(std::io::Error::other(nul)))?;
        // SAFETY: all zeros is a valid statvfs.
        let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is a C string and `space` is valid, both for the duration of the call.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut space) } != 0 {
            return Err(error(std::io::Error::last_os_error()));
        }
        let bytes = |blocks: u64| blocks as f64 * space.f_frsize as f64;
        Ok(Self {
            size_bytes: bytes(space.f_blocks),
            available_bytes: bytes(space.f_bavail),
            reserved_bytes: bytes(space.f_bfree.saturating_sub(space.f_bavail)),
            inodes: space.f_files as f64,
            available_inodes: space.f_favail as f64,
            read_only: space.f_flag & libc::ST_RDONLY != 0,
        })
    }
}

/// What a directory lies on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    /// Type of the filesystem; empty when the mount was not found.
    pub filesystem: String,
    /// What is mounted.
    pub source: String,
    /// Options of mount and filesystem. Of ext4 and xfs also those that are on by default and not shown elsewhere.
    pub options: Vec<String>,
    /// The devices.
    pub stack: Stack,
    /// What the kernel knows of the disks at the bottom, by name.
    pub disks: Vec<(String, Facts)>,
    /// Other filesystems of the node on the same disks.
    pub other_filesystems: usize,
}

/// What was found about one directory.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// Device number of its filesystem.
    pub number: Number,
    /// Room.
    pub space: Space,
    /// What it lies on; only when that was asked for.
    pub ground: Option<Ground>,
}

/// Looks at a directory.
///
/// # Errors
/// When it is not there.
pub fn survey(sources: &Sources, path: &Path, with_ground: bool) -> Result<Surveyed, CollectError> {
    let error = |source| CollectError::File { path: path.display().to_string(), source };
    let number = Number::of(fs::metadata(path).map_err(error)?.dev());
    let space = Space::of(path)?;
    let ground = with_ground.then(|| ground(sources, path, number));
    Ok(Surveyed { number, space, ground })
}

fn mounts(paths: &[PathBuf]) -> Vec<Mount> {
    let bytes = paths.iter().find_map(|path| fs::read(path).ok().filter(|bytes| !bytes.is_empty()));
    let mut bytes = bytes.unwrap_or_default();
    bytes.truncate(MOUNTS_LIMIT);
    Mount::parse_all(&String::from_utf8_lossy(&bytes))
}

fn ground(sources: &Sources, path: &Path, number: Number) -> Ground {
    let theirs = mounts(&[sources.mounts.clone(), sources.node_mounts[1].clone()]);
    let seen = path
        .strip_prefix(&sources.root)
        .map_or_else(|_| path.to_owned(), |inside| Path::new("/").join(inside));
    let Some(mount) = Mount::holding(&theirs, &seen, number) else {
        let stack = Stack::below(&sources.sys, number);
        return Ground { disks: disks(&stack), stack, ..Ground::default() };
    };
    let stack = Stack::below(&sources.sys, block_device(mount));
    Ground {
        filesystem: mount.filesystem.clone(),
        source: mount.source.clone(),
        options: options(sources, mount, &stack),
        disks: disks(&stack),
        other_filesystems: others(sources, number, &stack),
        stack,
    }
}

fn disks(stack: &Stack) -> Vec<(String, Facts)> {
    stack.disks().map(|disk| (disk.name.clone(), Facts::of(disk))).collect()
}

/// The block device of a filesystem; that behind an anonymous number by what was mounted, or by the layer written to.
fn block_device(mount: &Mount) -> Number {
    if mount.number.is_block() {
        return mount.number;
    }
    let none = Number { major: 0, minor: 0 };
    if mount.source.starts_with("/dev/") {
        return fs::metadata(&mount.source).map_or(none, |metadata| Number::of(metadata.rdev()));
    }
    let upper = mount.super_options.split(',').find_map(|option| option.strip_prefix("upperdir="));
    upper.and_then(|upper| fs::metadata(upper).ok()).map_or(none, |metadata| Number::of(metadata.dev()))
}

fn options(sources: &Sources, mount: &Mount, stack: &Stack) -> Vec<String> {
    let mut all: Vec<String> = mount.all_options().into_iter().map(str::to_owned).collect();
    let device = stack.devices.first().map_or("", |device| device.name.as_str());
    // ext4 lists here what it does by default as well: whether there are barriers, and what of the data is in the journal.
    let listed = sources.filesystems.join(&mount.filesystem).join(device).join("options");
    let listed = super::device::attribute(&listed).unwrap_or_default();
    let telling = |option: &&str| {
        ["data=", "barrier", "nobarrier", "commit=", "journal_async_commit"]
            .iter()
            .any(|known| option.starts_with(known))
    };
    for option in listed.lines().filter(telling) {
        if !all.iter().any(|known| known == option) {
            all.push(option.to_owned());
        }
    }
    all
}

/// How many other filesystems of the node end on the same disks.
fn others(sources: &Sources, own: Number, stack: &Stack) -> usize {
    let mut met = BTreeSet::from([own]);
    let mut count = 0;
    for mount in mounts(&sources.node_mounts) {
        if met.len() > FILESYSTEMS_LIMIT || !met.insert(mount.number) {
            continue;
        }
        let number = block_device(&mount);
        count += usize::from(number.is_block() && Stack::below(&sources.sys, number).shares_disk_with(stack));
    }
    count
}

/// Asks from a thread of its own. At most one at a time: while one hangs, no other is begun.
#[derive(Debug)]
pub struct Surveyor {
    sources: Sources,
    paths: Vec<PathBuf>,
    answer: Option<oneshot::Receiver<Vec<Result<Surveyed, CollectError>>>>,
}

impl Surveyor {
    /// Of these directories.
    pub const fn new(sources: Sources, paths: Vec<PathBuf>) -> Self {
        Self { sources, paths, answer: None }
    }

    /// Begins a survey, unless one is under way.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn begin(&mut self, with_ground: bool) -> Result<(), CollectError> {
        if self.answer.is_some() {
            return Ok(());
        }
        let (sender, receiver) = oneshot::channel();
        let (sources, paths) = (self.sources.clone(), self.paths.clone());
        let look = move || {
            let all = paths.iter().map(|path| survey(&sources, path, with_ground)).collect();
            let _nobody_waits = sender.send(all);
        };
        let thread = std::thread::Builder::new().name("disk-survey".to_owned()).spawn(look);
        thread.map_err(|source| CollectError::File { path: "a thread for a survey".to_owned(), source })?;
        self.answer = Some(receiver);
        Ok(())
    }

    /// True while an answer is awaited.
    pub const fn is_waiting(&self) -> bool {
        self.answer.is_some()
    }

    /// The answer, if it comes within `patience`.
    pub async fn answer(
        &mut self,
        patience: std::time::Duration,
    ) -> Option<Vec<Result<Surveyed, CollectError>>> {
        let answer = tokio::time::timeout(patience, self.answer.as_mut()?).await.ok()?;
        self.answer = None;
        answer.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_of_the_root_is_known_and_of_nothing_is_an_error() {
        let space = Space::of(Path::new("/")).expect("statvfs");
        assert!(space.size_bytes >= space.available_bytes + space.reserved_bytes && space.size_bytes > 0.0);
        assert!(Space::of(Path::new("/none")).is_err());
        assert!(Space::of(Path::new("/a\0b")).is_err());
    }

    /// A recorded node: etcd's directory is this test's, whose device number is given a made-up place.
    #[test]
    fn a_directory_is_told_with_its_filesystem_its_disks_and_its_neighbours() {
        let directory = tempfile::tempdir().expect("writable");
        let number = Number::of(fs::metadata(directory.path()).expect("there").dev());
        let sys = tempfile::tempdir().expect("writable");
        let at = |path: &str| sys.path().join(path);
        for (name, number) in [("sdx", number.to_string()), ("sdy", "99:1".to_owned())] {
            fs::create_dir_all(at(&format!("devices/{name}/queue"))).expect("made");
            fs::write(at(&format!("devices/{name}/dev")), &number).expect("written");
            fs::create_dir_all(at("dev/block")).expect("made");
            std::os::unix::fs::symlink(at(&format!("devices/{name}")), at(&format!("dev/block/{number}")))
                .expect("linked");
        }
        fs::create_dir_all(at("devices/sdx/sdx1")).expect("made");
        fs::write(at("devices/sdx/sdx1/dev"), "99:7").expect("written");
        fs::write(at("devices/sdx/sdx1/partition"), "1").expect("written");
        std::os::unix::fs::symlink(at("devices/sdx/sdx1"), at("dev/block/99:7")).expect("linked");
        fs::create_dir_all(at("fs/ext4/sdx")).expect("made");
        fs::write(at("fs/ext4/sdx/options"), "rw\nbarrier\ndata=ordered\nresuid=0\n").expect("written");
        let mountinfo = format!(
            "1 0 {number} / / rw,noatime - ext4 /dev/sdx rw,discard\n\
             2 1 99:7 / /other rw - xfs /dev/sdx1 rw\n3 1 99:7 / /again rw - xfs /dev/sdx1 rw\n\
             4 1 99:1 / /far rw - xfs /dev/sdy rw\n5 1 0:5 / /t rw - tmpfs none rw\n"
        );
        fs::write(at("mountinfo"), mountinfo).expect("written");
        let sources = Sources {
            sys: sys.path().to_owned(),
            mounts: at("mountinfo"),
            root: at("root"),
            node_mounts: [at("none"), at("mountinfo")],
            filesystems: at("fs"),
        };
        let found = survey(&sources, directory.path(), true).expect("there");
        let ground = found.ground.expect("asked for");
        assert_eq!((ground.filesystem.as_str(), ground.source.as_str()), ("ext4", "/dev/sdx"));
        assert_eq!(ground.options, ["rw", "noatime", "discard", "barrier", "data=ordered"]);
        assert_eq!(ground.disks.len(), 1);
        assert_eq!(ground.other_filesystems, 1, "the partition counts once, the other disk not at all");
        assert!(survey(&sources, directory.path(), false).expect("there").ground.is_none());
        assert!(survey(&sources, Path::new("/none"), true).is_err());
        fs::write(at("mountinfo"), [0xff; 10_000]).expect("written");
        let ground = survey(&sources, directory.path(), true).expect("there").ground.expect("asked for");
        assert_eq!(
            (ground.filesystem.as_str(), ground.disks.len()),
            ("", 1),
            "the disk is known all the same"
        );
    }
}
