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
const SIZE: u64 = 1 << 30;

/// How long an unmount may find the filesystem busy, such as by a process that looks at /proc.
const BUSY_LIMIT: Duration = Duration::from_secs(3);

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
    mount_point: PathBuf,
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
        let mut disk = Self { mount_point, mounted: false, device: None, slow: None };
        if medium == Medium::Directory {
            return Ok(disk);
        }
        let image = if slow {
            let fuse = directory.join("fuse");
            fs::create_dir_all(&fuse)?;
            disk.slow.insert(SlowFile::mount(&fuse, size)?).image().to_owned()
        } else {
            let image = directory.join("image");
            File::create(&image)?.set_len(size)?;
            image
        };
        make_filesystem(medium, &image)?;
        disk.attach(medium, &image)?;
        Ok(disk)
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

    fn attach(&mut self, medium: Medium, image: &Path) -> Result<()> {
        let losetup = tools::system("losetup")?;
        let device = run(Command::new(&losetup).args(["--find", "--show"]).arg(image))?;
        self.device = Some(device.clone());
        let mounted = mount(&device, &self.mount_point, medium);
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
            slow.delays().clear();
        }
        if self.mounted {
            unmount(&self.mount_point);
            self.wait_detached();
        }
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
