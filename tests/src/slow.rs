//! A file on a FUSE filesystem of our own, with delays and errors that a test sets while it runs: the block device
//! beneath a member's loop device, and so a disk that is slow, or fails, exactly as far as told.
//!
//! The bytes are in memory, hence without a delay it is as fast as a system call. A `write` of the loop device
//! arrives here as a FUSE write, a flush (what fdatasync ends in) as a FUSE fsync. Delayed answers are given by a
//! thread of their own, so the session goes on answering meanwhile. The kernel lets only one write or fsync per file be
//! under way, as a disk with one queue would.
//!
//! A disk with a [`Pace`] of its own takes that time in the session's thread, which then has real-time priority: a disk
//! does not slow down because the processors are busy.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

mod delays;

pub use delays::{Delayed, Delays, Errors, Pace};

use delays::Cost;

/// Name of the one file.
const IMAGE: &str = "image";
const ROOT_INODE: INodeNo = INodeNo::ROOT;
const IMAGE_INODE: INodeNo = INodeNo(2);
/// Nothing changes behind the kernel's back, so it may keep names and attributes.
const FOREVER: Duration = Duration::from_secs(86_400);

/// A mounted file of a given size. Dropping it takes the delays away and unmounts.
#[derive(Debug)]
pub struct SlowFile {
    delays: Arc<Delays>,
    session: Option<BackgroundSession>,
    image: PathBuf,
}

impl SlowFile {
    /// Mounts a filesystem with one sparse file of `size` bytes at `mount_point`, which must be an empty directory.
    ///
    /// # Errors
    /// When this process may not mount, or there is no /dev/fuse.
    pub fn mount(mount_point: &Path, size: u64) -> Result<Self> {
        let delays = Arc::new(Delays::default());
        let filesystem = OneFile {
            bytes: Arc::new(memory(size).context("memory for a slow disk")?),
            size,
            delays: delays.clone(),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("etcdmon-lab".to_owned())];
        let session = fuser::spawn_mount(filesystem, mount_point, &config)
            .with_context(|| format!("mount FUSE at {}", mount_point.display()))?;
        Ok(Self { delays, session: Some(session), image: mount_point.join(IMAGE) })
    }

    /// Path of the file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The delays, to be changed at any time.
    pub fn delays(&self) -> Arc<Delays> {
        self.delays.clone()
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        self.delays.reset();
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("unmount {}: {error}", self.image.display());
        }
    }
}

/// A file that lives in memory only as long as somebody holds it open.
fn memory(size: u64) -> io::Result<File> {
    // SAFETY: the name is a C string; the result is checked before it becomes an owned descriptor.
    let descriptor = unsafe { libc::memfd_create(c"etcdmon-lab".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(size)?;
    Ok(file)
}

struct OneFile {
    bytes: Arc<File>,
    size: u64,
    delays: Arc<Delays>,
}

impl OneFile {
    /// Answers when its time has come: on a thread of its own when it was delayed.
    fn answer(&self, cost: Cost, answer: impl FnOnce(bool) + Send + 'static) {
        work(cost.base);
        let (from, delays) = (SystemTime::now(), self.delays.clone());
        let now = move || {
            answer(cost.fails);
            delays.answered(cost, from);
        };
        if cost.delay.is_zero() {
            return now();
        }
        std::thread::spawn(move || {
            std::thread::sleep(cost.delay);
            now();
        });
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let directory = inode == ROOT_INODE;
        FileAttr {
            ino: inode,
            size: if directory { 0 } else { self.size },
            blocks: self.size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o755 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

thread_local! {
    /// Whether this thread is the disk already.
    static IS_DISK: Cell<bool> = const { Cell::new(false) };
}

/// Takes the time that a disk takes by itself.
fn work(time: Duration) {
    if time.is_zero() {
        return;
    }
    if !IS_DISK.replace(true) {
        let parameter = libc::sched_param { sched_priority: 1 };
        // SAFETY: plain numbers; 0 is the calling thread. Where it is refused the disk is as exact as the machine is idle.
        let _refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameter) };
    }
    std::thread::sleep(time);
}

impl Filesystem for OneFile {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == ROOT_INODE && name == IMAGE {
            reply.entry(&FOREVER, &self.attributes(IMAGE_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        match self.bytes.read_at(&mut buffer, offset) {
            Ok(count) => reply.data(&buffer[..count]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let size = u32::try_from(data.len()).expect("FUSE writes are at most 16 MiB");
        let cost = self.delays.of_write(u64::from(size));
        if !cost.fails
            && let Err(error) = self.bytes.write_all_at(data, offset)
        {
            return reply.error(error.into());
        }
        self.answer(cost, move |fails| if fails { reply.error(Errno::EIO) } else { reply.written(size) });
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let cost = self.delays.of_flush();
        self.answer(cost, move |fails| if fails { reply.error(Errno::EIO) } else { reply.ok() });
    }
}
