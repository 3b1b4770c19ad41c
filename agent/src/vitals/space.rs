//! Room on the filesystem of a member's data directory, and who fills it. On a thread of its own for each member: whoever asks a
//! filesystem that hangs hangs as well, and nothing else may wait for it.
//!
//! The filesystem is asked four times a second, which costs a microsecond. Only while it is nearly full, or is filled quickly, it is
//! also looked for who does that ([`fillers`](super::fillers)): every second while it fills, else seldom, as a disk may be nearly
//! full for years.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::fillers::{Filler, Fillers};
use crate::clock::mono_ns;
use crate::discover::{EtcdProcess, ProcFs};
use crate::ebpf::disks_of;

/// How often the filesystem is asked.
const EVERY: Duration = Duration::from_millis(250);

/// Every so many times also what etcd's own files take, and which disks are below.
const FILES_EVERY: u64 = 4;
const DISKS_EVERY: u64 = 40;

/// Growth is told over this time, and not before half of a second.
const GROWTH_OVER_NS: u64 = 5_000_000_000;
const GROWTH_FROM_NS: u64 = 500_000_000;

/// Files of etcd that are looked at: some ten segments and snapshots.
const FILES: usize = 256;

/// Nearly full: less than this part of it is free, or it will be full within this time.
const NEARLY_FULL: u64 = 10;
const FULL_WITHIN_S: u64 = 300;

/// It is being filled if at least this is taken, in a second or since the last look.
const LEAST_BYTES: u64 = 64 << 10;

/// How often it is looked for who fills it, and who would if somebody did. A look that lasts makes the next ones rarer: it takes
/// no more than a part of the time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(10);
const SHARE_OF_LOOKING: u32 = 50;

/// Whoever filled it is shown so long after that was seen.
const SHOWN_FOR: Duration = Duration::from_secs(30);

/// What is known of a filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// When it was asked, CLOCK_MONOTONIC; 0 = not yet.
    pub at_ns: u64,
    /// What an ordinary user may still write.
    pub free_bytes: u64,
    /// Its size.
    pub size_bytes: u64,
    /// `None` where there is no fixed number of them.
    pub inodes_free: Option<u64>,
    /// Unit of its blocks, which its journal counts in.
    pub block_bytes: u64,
    /// How fast others fill it.
    pub growth_bytes_per_s: Option<u64>,
    /// Who fills it, the worst first.
    pub fillers: Vec<Filler>,
    /// Devices of the filesystems of data and WAL directory, `(major << 20) | minor`; that of the data directory first.
    pub filesystems: Vec<u32>,
    /// Disks below them.
    pub disks: Vec<u32>,
}

#[derive(Debug, Default)]
struct Shared {
    room: Mutex<Room>,
    stop: AtomicBool,
}

fn lock(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    // It is replaced as a whole.
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of the thread. Dropping it ends the thread when it comes back from where it waits.
#[derive(Debug)]
pub struct Space {
    shared: Arc<Shared>,
    thread: Thread,
}

impl Space {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(proc: ProcFs, process: &EtcdProcess) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let mut watch = Watch {
            pid: process.id.pid,
            data: process.data_dir_here.clone(),
            wal: process.wal_dir_here.clone(),
            fillers: Fillers::new(proc),
            history: VecDeque::new(),
            own_bytes: 0,
            room: Room::default(),
            round: 0,
            looked: None,
            found: None,
        };
        let of_thread = Arc::clone(&shared);
        let run = move || {
            while !of_thread.stop.load(Ordering::Acquire) {
                watch.look();
                *lock(&of_thread.room) = watch.room.clone();
                std::thread::park_timeout(EVERY);
            }
        };
        let thread = std::thread::Builder::new().name("space".to_owned()).stack_size(512 << 10).spawn(run)?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    /// What is known now. An old one is a sign that the filesystem does not answer.
    pub fn room(&self) -> Room {
        lock(&self.shared.room).clone()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[derive(Debug)]
struct Watch {
    pid: u32,
    data: PathBuf,
    wal: PathBuf,
    fillers: Fillers,
    /// (when, free bytes, bytes of own files)
    history: VecDeque<(u64, u64, u64)>,
    own_bytes: u64,
    room: Room,
    round: u64,
    /// When it was looked for who fills it, and how long that lasted.
    looked: Option<(Instant, Duration)>,
    /// When somebody was found.
    found: Option<Instant>,
}

impl Watch {
    fn look(&mut self) {
        let now_ns = mono_ns();
        let Some(directory) = existing(&self.data).map(Path::to_owned) else { return };
        if self.round.is_multiple_of(DISKS_EVERY) {
            self.find_disks();
        }
        let Some(found) = ask(&directory) else { return };
        if self.round.is_multiple_of(FILES_EVERY) {
            self.own_bytes = own_bytes(&self.data, &self.wal);
            note(&mut self.history, (now_ns, found.free_bytes, self.own_bytes));
        }
        self.round += 1;
        let growth_bytes_per_s = growth(&self.history);
        let before = (self.room.at_ns > 0).then_some(self.room.free_bytes);
        let filesystems = std::mem::take(&mut self.room.filesystems);
        let disks = std::mem::take(&mut self.room.disks);
        let fillers = std::mem::take(&mut self.room.fillers);
        self.room = Room { at_ns: now_ns, growth_bytes_per_s, fillers, filesystems, disks, ..found };
        let is_shown = |found: Instant| found.elapsed() < SHOWN_FOR;
        if is_scarce(&self.room, before) {
            let every = if is_filling(&self.room, before) { LOOK_EVERY } else { IDLE_LOOK_EVERY };
            self.look_for_fillers(every);
        } else {
            self.fillers.forget();
            self.found = None;
        }
        if !self.found.is_some_and(is_shown) {
            self.room.fillers.clear();
        }
    }

    fn look_for_fillers(&mut self, every: Duration) {
        let is_early = |(begin, lasted): (Instant, Duration)| {
            begin.elapsed() < every.max(lasted.saturating_mul(SHARE_OF_LOOKING))
        };
        let Some(filesystem) = self.room.filesystems.first().filter(|_| !self.looked.is_some_and(is_early))
        else {
            return;
        };
        let begin = Instant::now();
        let found = self.fillers.look(*filesystem, mono_ns());
        self.looked = Some((begin, begin.elapsed()));
        if !found.is_empty() {
            self.room.fillers = found;
            self.found = Some(begin);
        }
    }

    fn find_disks(&mut self) {
        let number = |path: &PathBuf| {
            let device = fs::metadata(existing(path)?).ok()?.dev();
            Some(libc::major(device) << 20 | libc::minor(device))
        };
        let directories = [&self.data, &self.wal];
        self.room.filesystems = directories.into_iter().filter_map(number).collect();
        self.room.filesystems.dedup();
        let below = |path: &PathBuf| disks_of(self.pid, existing(path)?).ok();
        let mut disks: Vec<u32> = directories.into_iter().filter_map(below).flatten().collect();
        disks.sort_unstable();
        disks.dedup();
        self.room.disks = disks;
    }
}

/// A directory that etcd has not made yet will be made on the filesystem of what is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn ask(directory: &Path) -> Option<Room> {
    let path = CString::new(directory.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zeros is a valid statvfs, which is only written to.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string and a place for the answer, both alive during the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } != 0 {
        return None;
    }
    let unit: u64 = found.f_frsize;
    Some(Room {
        free_bytes: found.f_bavail.saturating_mul(unit),
        size_bytes: found.f_blocks.saturating_mul(unit),
        inodes_free: (found.f_files > 0).then_some(found.f_favail),
        block_bytes: unit,
        ..Room::default()
    })
}

/// What the files of etcd take on the filesystem of the data directory.
fn own_bytes(data: &Path, wal: &Path) -> u64 {
    let Ok(device) = fs::metadata(data).map(|data| data.dev()) else { return 0 };
    let mut directories = vec![data.join("member/snap"), data.join("member/wal")];
    if !directories.iter().any(|known| known == wal) {
        directories.push(wal.to_owned());
    }
    let files = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let of_file = |entry: fs::DirEntry| {
        let found = entry.metadata().ok().filter(|found| found.is_file() && found.dev() == device)?;
        Some(found.blocks() * 512)
    };
    files.take(FILES).filter_map(of_file).sum()
}

fn note(history: &mut VecDeque<(u64, u64, u64)>, now: (u64, u64, u64)) {
    history.push_back(now);
    // The one that lies before the span stays, as its begin.
    while history.get(1).is_some_and(|(at_ns, ..)| now.0.saturating_sub(*at_ns) >= GROWTH_OVER_NS) {
        history.pop_front();
    }
}

fn growth(history: &VecDeque<(u64, u64, u64)>) -> Option<u64> {
    let (from_ns, free, own) = history.front()?;
    let (until_ns, free_now, own_now) = history.back()?;
    let between_ns = until_ns.saturating_sub(*from_ns);
    if between_ns < GROWTH_FROM_NS {
        return None;
    }
    let used = i128::from(*free) - i128::from(*free_now);
    let by_others = used - (i128::from(*own_now) - i128::from(*own));
    u64::try_from((by_others * 1_000_000_000 / i128::from(between_ns)).max(0)).ok()
}

fn taken(room: &Room, free_before: Option<u64>) -> u64 {
    free_before.map_or(0, |before| before.saturating_sub(room.free_bytes))
}

fn is_filling(room: &Room, free_before: Option<u64>) -> bool {
    room.growth_bytes_per_s.unwrap_or(0).max(taken(room, free_before)) >= LEAST_BYTES
}

/// Nearly full, full soon, or a hundredth of it was taken since the last look.
fn is_scarce(room: &Room, free_before: Option<u64>) -> bool {
    let rate = room.growth_bytes_per_s.unwrap_or(0);
    let taken = taken(room, free_before);
    room.free_bytes < room.size_bytes / NEARLY_FULL
        || (rate > 0 && room.free_bytes / rate < FULL_WITHIN_S)
        || taken > room.size_bytes / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn growth_is_what_others_took_over_some_seconds() {
        let mut history = VecDeque::new();
        note(&mut history, (S, 1_000, 10));
        assert_eq!(growth(&history), None);
        note(&mut history, (2 * S, 900, 30));
        assert_eq!(growth(&history), Some(80));
        note(&mut history, (3 * S, 950, 30));
        assert_eq!(growth(&history), Some(15));
        note(&mut history, (4 * S, 1_500, 30));
        assert_eq!(growth(&history), Some(0), "it may become more");
        for second in 5..100 {
            note(&mut history, (second * S, 1_500 - second, 30));
        }
        assert_eq!(history.len(), 6);
        assert_eq!(growth(&history), Some(1));
    }

    #[test]
    fn it_is_looked_closer_when_room_is_scarce_or_goes_quickly() {
        let room = |free_bytes, rate| Room {
            free_bytes,
            size_bytes: 100_000,
            growth_bytes_per_s: Some(rate),
            ..Room::default()
        };
        assert!(!is_scarce(&room(50_000, 0), None));
        assert!(is_scarce(&room(9_000, 0), None), "nearly full");
        assert!(is_scarce(&room(50_000, 200), None), "full soon");
        assert!(!is_scarce(&room(50_000, 100), Some(50_500)));
        assert!(is_scarce(&room(50_000, 0), Some(52_000)), "suddenly");
        assert!(!is_filling(&room(9_000, 200), Some(9_500)), "for years perhaps");
        assert!(is_filling(&room(9_000, LEAST_BYTES), None) && is_filling(&room(9_000, 0), Some(90_000)));
    }

    #[test]
    fn own_files_are_those_of_both_directories_once() {
        let root = tempfile::tempdir().expect("writable");
        let (snap, wal) = (root.path().join("member/snap"), root.path().join("member/wal"));
        for directory in [&snap, &wal] {
            fs::create_dir_all(directory).expect("made");
            fs::write(directory.join("file"), vec![1; 100_000]).expect("written");
        }
        // Not all filesystems have allocated what was just written.
        fs::File::open(snap.join("file")).and_then(|file| file.sync_all()).expect("synced");
        fs::File::open(wal.join("file")).and_then(|file| file.sync_all()).expect("synced");
        let one = fs::metadata(snap.join("file")).expect("there").blocks() * 512;
        assert_eq!(own_bytes(root.path(), &wal), 2 * one);
        assert_eq!(own_bytes(&root.path().join("gone"), &wal), 0);
    }

    #[test]
    fn a_filesystem_is_asked_and_a_directory_that_is_not_there_is_none() {
        let root = tempfile::tempdir().expect("writable");
        let room = ask(root.path()).expect("a filesystem");
        assert!(room.size_bytes > 0 && room.free_bytes <= room.size_bytes && room.block_bytes > 0);
        assert_eq!(ask(Path::new("/nonexistent")), None);
        assert_eq!(existing(&root.path().join("a/b")), Some(root.path()));
    }
}
