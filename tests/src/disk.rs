//! A member's own disk: a loop device with a filesystem, over a sparse file or over a [`SlowFile`]; or a plain
//! directory where this process may not mount.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::run;
use crate::slow::{Delays, SlowFile};
use crate::tools;

/// Room for two preallocated WAL segments of 64 MB, a backend and snapshots. The file is sparse.
pub const SIZE: u64 = 1 << 30;

/// How long an unmount may find the filesystem busy, such as by a process that looks at /proc.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

/// What a member's data directory is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// ext4 with a journal on a loop device.
    Ext4,
    /// xfs on a loop device.
    Xfs,
    /// A directory of the place's own filesystem; needs no privilege, shares its disk with everything else.
    Directory,
}

/// A mounted disk. Dropping it unmounts and detaches.
#[derive(Debug)]
pub struct Disk {
    medium: Medium,
    mount_point: PathBuf,
    image: PathBuf,
    mounted: bool,
    device: Option<String>,
    /// Declared last: the filesystem beneath goes after what is on top.
    slow: Option<SlowFile>,
}

impl Disk {
    /// Makes a disk whose files appear in `directory/data`. `slow` puts it on a FUSE file with programmed delay.
    ///
    /// # Errors
    /// When a tool is missing, or this process may not attach or mount.
    pub fn new(directory: &Path, medium: Medium, slow: bool) -> Result<Self> {
        Self::with_size(directory, medium, slow, SIZE)
    }

    /// The same with a size in bytes, for disks that are to run full.
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn with_size(directory: &Path, medium: Medium, slow: bool, size: u64) -> Result<Self> {
        let mount_point = directory.join("data");
        fs::create_dir_all(&mount_point).with_context(|| format!("make {}", mount_point.display()))?;
        let image = directory.join("image");
        let mut disk = Self { medium, mount_point, image, mounted: false, device: None, slow: None };
        if medium == Medium::Directory {
            return Ok(disk);
        }
        if slow {
            let fuse = directory.join("fuse");
            fs::create_dir_all(&fuse)?;
            disk.image = disk.slow.insert(SlowFile::mount(&fuse, size)?).image().to_owned();
        } else {
            File::create(&disk.image)?.set_len(size)?;
        }
        make_filesystem(medium, &disk.image)?;
        disk.attach()?;
        Ok(disk)
    }

    /// Unmounts and mounts it again, which is what it takes after errors that made the filesystem give up. Nobody may use
    /// it; its number may be another afterwards.
    ///
    /// # Errors
    /// When it can't be mounted any more, or is a plain directory.
    pub fn remount(&mut self) -> Result<()> {
        anyhow::ensure!(self.medium != Medium::Directory, "a plain directory is not mounted");
        if self.mounted {
            unmount(&self.mount_point);
            self.mounted = false;
            self.wait_detached();
        }
        self.attach()
    }

    /// What it is.
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// Blocks that an ordinary user may still take, in bytes.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.mount_point).with_context(|| self.mount_point.display().to_string())
    }

    /// Lets at most about so many bytes wait in memory for this disk, until the guard is dropped: beyond that, and from half
    /// of it on, the kernel's workers write, as they do for a large disk with proportionally more.
    ///
    /// # Errors
    /// When it has no device of its own, or the kernel has no such limit (before 6.2).
    pub fn limit_dirty(&self, bytes: u64) -> Result<DirtyLimit> {
        let directory = Path::new("/sys/class/bdi").join(self.device_number()?);
        let put = |name: &str, value: &str| {
            let path = directory.join(name);
            fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
        };
        put("strict_limit", "1")?;
        let limit = DirtyLimit { directory: directory.clone() };
        put("max_bytes", &bytes.to_string())?;
        Ok(limit)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Major and minor number of its device, as the block I/O controller wants them.
    ///
    /// # Errors
    /// When it has no device of its own.
    pub fn device_number(&self) -> Result<String> {
        let device = self.device.as_deref().context("a plain directory has no device of its own")?;
        let number = fs::metadata(device)?.rdev();
        Ok(format!("{}:{}", libc::major(number), libc::minor(number)))
    }

    /// The delays, if it was made slow.
    pub fn delays(&self) -> Option<Arc<Delays>> {
        self.slow.as_ref().map(SlowFile::delays)
    }

    /// The kernel lets go of the file beneath a loop device a moment after the last unmount.
    fn wait_detached(&self) {
        let Some(name) = self.device.as_deref().and_then(|device| Path::new(device).file_name()) else {
            return;
        };
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        let directory = self.mount_point.parent().unwrap_or(&self.mount_point);
        let deadline = Instant::now() + BUSY_LIMIT;
        // The number may already serve somebody else's file.
        while fs::read_to_string(&backing).is_ok_and(|file| Path::new(&file).starts_with(directory))
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn attach(&mut self) -> Result<()> {
        let losetup = tools::system("losetup")?;
        let device = run(Command::new(&losetup).args(["--find", "--show"]).arg(&self.image))?;
        self.device = Some(device.clone());
        let mounted = mount(&device, &self.mount_point, self.medium);
        // On a busy device this means "when it is no longer used": the unmount is all that is left to do.
        let detached = run(Command::new(&losetup).args(["--detach", &device]));
        mounted?;
        self.mounted = true;
        detached.map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(slow) = &self.slow {
            slow.delays().reset();
        }
        if self.mounted {
            unmount(&self.mount_point);
            self.wait_detached();
        }
    }
}

/// A limit of what waits in memory for a disk. Dropping it lifts the limit.
#[derive(Debug)]
pub struct DirtyLimit {
    directory: PathBuf,
}

impl Drop for DirtyLimit {
    fn drop(&mut self) {
        for (name, value) in [("strict_limit", "0"), ("max_ratio", "100")] {
            if let Err(error) = fs::write(self.directory.join(name), value) {
                eprintln!("lift the limit in {}: {error}", self.directory.display());
            }
        }
    }
}

/// Blocks that an ordinary user may still take on the filesystem of a path, in bytes.
///
/// # Errors
/// When there is no such path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a structure that live until after the call.
    match unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } {
        0 => Ok(found.f_bavail * found.f_frsize),
        _ => Err(io::Error::last_os_error()),
    }
}

fn make_filesystem(medium: Medium, image: &Path) -> Result<()> {
    let (tool, arguments): (_, &[&str]) = match medium {
        // Without lazy initialisation, or the kernel goes on writing in the background for minutes.
        Medium::Ext4 => {
            ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
        }
        Medium::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
        Medium::Directory => return Ok(()),
    };
    run(Command::new(tools::system(tool)?).args(arguments).arg(image)).map(drop)
}

fn mount(device: &str, mount_point: &Path, medium: Medium) -> Result<()> {
    let kind = if medium == Medium::Xfs { c"xfs" } else { c"ext4" };
    let (source, target) = (CString::new(device)?, CString::new(mount_point.as_os_str().as_bytes())?);
    // SAFETY: all pointers are C strings that live until after the call; no data is passed.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), libc::MS_NOATIME, std::ptr::null())
    };
    if result != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("mount {device} at {}", mount_point.display()));
    }
    Ok(())
}

/// Unmounts; what stays busy for too long is taken out of sight and goes with its last user.
fn unmount(mount_point: &Path) {
    let attempts = BUSY_LIMIT.as_millis() / 50;
    for _attempt in 0..attempts {
        match try_unmount(mount_point, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            _done => return,
        }
    }
    if let Err(error) = try_unmount(mount_point, libc::MNT_DETACH) {
        eprintln!("unmount {}: {error}", mount_point.display());
    }
}

fn try_unmount(mount_point: &Path, flags: i32) -> io::Result<()> {
    let target = CString::new(mount_point.as_os_str().as_bytes())?;
    // SAFETY: the pointer is a C string that lives until after the call.
    if unsafe { libc::umount2(target.as_ptr(), flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Unmounts everything below a directory, the last mounted first.
pub(crate) fn unmount_below(directory: &Path) {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points: Vec<&Path> = table.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new).collect();
    for point in points.into_iter().rev().filter(|point| point.starts_with(directory)) {
        unmount(point);
    }
}

/// Detaches the loop devices whose file is below a directory: those whose mount never came about.
pub(crate) fn detach_loops_below(directory: &Path) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        let ours = Path::new(backing.trim_end().trim_end_matches(" (deleted)")).starts_with(directory);
        if ours && let Ok(losetup) = tools::system("losetup") {
            let device = Path::new("/dev").join(entry.file_name());
            if let Err(error) = run(Command::new(losetup).arg("--detach").arg(device)) {
                eprintln!("{error:#}");
            }
        }
    }
}
