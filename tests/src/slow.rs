//! A file on a FUSE filesystem of our own, with delays that a test sets while it runs: the block device beneath a
//! member's loop device, and so a disk that is slow exactly as far as told.
//!
//! The bytes are in memory, hence without a delay it is as fast as a system call. A `write` of the loop device
//! arrives here as a FUSE write, a flush (what fdatasync ends in) as a FUSE fsync. Delayed answers are given by a
//! thread of their own, so the session goes on answering meanwhile. The kernel lets only one fsync per file be under
//! way, as a disk with one queue would.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

/// Name of the one file.
const IMAGE: &str = "image";
const ROOT_INODE: INodeNo = INodeNo::ROOT;
const IMAGE_INODE: INodeNo = INodeNo(2);
/// Nothing changes behind the kernel's back, so it may keep names and attributes.
const FOREVER: Duration = Duration::from_secs(86_400);

/// Delay of every flush, and for how long, as parts of a whole: about as many syncs each, in different buckets of etcd,
/// whether a sync needs one flush or two.
const SPREAD: [(Duration, f64); 4] = [
    (Duration::from_micros(2_200), 0.12),
    (Duration::from_millis(5), 0.16),
    (Duration::from_millis(10), 0.27),
    (Duration::from_millis(20), 0.45),
];

/// What is added to each request; shared with the running filesystem.
#[derive(Debug, Default)]
pub struct Delays {
    write_ns: AtomicU64,
    syncs: Mutex<Syncs>,
    served: AtomicU64,
}

#[derive(Debug, Default)]
struct Syncs {
    delays: Vec<Duration>,
    next: usize,
    /// Counts changes of `delays`: what was delayed before one is not counted after it.
    generation: u64,
    first_delayed: Option<Instant>,
}

impl Delays {
    /// Every write takes this much longer.
    pub fn set_write(&self, delay: Duration) {
        self.write_ns.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Flushes take longer by these delays in turn; an empty list lets them through at once.
    pub fn set_syncs(&self, delays: &[Duration]) {
        let mut syncs = self.syncs();
        let generation = syncs.generation + 1;
        *syncs = Syncs { delays: delays.to_vec(), generation, ..Syncs::default() };
    }

    /// For a time, delays that put at least 5 % of the syncs into each of four or more of etcd's buckets; none after.
    pub async fn spread(&self, time: Duration) {
        for (delay, part) in SPREAD {
            self.set_syncs(&[delay]);
            tokio::time::sleep(time.mul_f64(part)).await;
        }
        self.clear();
    }

    /// No delay any more.
    pub fn clear(&self) {
        self.set_write(Duration::ZERO);
        self.set_syncs(&[]);
    }

    /// Flushes answered since the start, delayed or not.
    pub fn flushes(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// When the first delayed flush since the last [`Delays::set_syncs`] was answered: the moment from which the disk
    /// was slow for those who use it.
    pub fn slow_since(&self) -> Option<Instant> {
        self.syncs().first_delayed
    }

    /// The delay of the next flush, and the generation that it belongs to.
    fn next_sync(&self) -> (Duration, u64) {
        let mut syncs = self.syncs();
        let turn = syncs.next;
        syncs.next += 1;
        let delay = syncs.delays.get(turn % syncs.delays.len().max(1)).copied().unwrap_or_default();
        (delay, syncs.generation)
    }

    fn note_delayed(&self, generation: u64) {
        let mut syncs = self.syncs();
        if syncs.generation == generation {
            syncs.first_delayed.get_or_insert_with(Instant::now);
        }
    }

    fn syncs(&self) -> MutexGuard<'_, Syncs> {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
        self.delays.clear();
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

/// Answers after a delay, on a thread of its own when there is one.
fn later(delay: Duration, answer: impl FnOnce() + Send + 'static) {
    if delay.is_zero() {
        return answer();
    }
    std::thread::spawn(move || {
        std::thread::sleep(delay);
        answer();
    });
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
        if let Err(error) = self.bytes.write_all_at(data, offset) {
            return reply.error(error.into());
        }
        let size = u32::try_from(data.len()).expect("FUSE writes are at most 16 MiB");
        later(Duration::from_nanos(self.delays.write_ns.load(Ordering::Relaxed)), move || {
            reply.written(size)
        });
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
        let (delay, generation) = self.delays.next_sync();
        let delays = self.delays.clone();
        later(delay, move || {
            reply.ok();
            delays.served.fetch_add(1, Ordering::Relaxed);
            if !delay.is_zero() {
                delays.note_delayed(generation);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_delayed_before_a_change_is_not_counted_after_it() {
        let delays = Delays::default();
        let (first, second) = (Duration::from_millis(1), Duration::from_millis(2));
        delays.set_syncs(&[first, second]);
        let [(one, generation), (two, _), (three, _)] = [(); 3].map(|()| delays.next_sync());
        assert_eq!((one, two, three), (first, second, first));
        delays.clear();
        assert_eq!(delays.next_sync().0, Duration::ZERO);
        delays.note_delayed(generation);
        assert_eq!(delays.slow_since(), None);
        delays.set_syncs(&[first]);
        delays.note_delayed(delays.next_sync().1);
        assert!(delays.slow_since().is_some());
    }
}
