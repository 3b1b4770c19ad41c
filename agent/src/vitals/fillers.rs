//! Who fills a filesystem: whose open files there grow, and, where that does not explain it, who writes files at all.
//!
//! From `/proc/PID/fd`, `fdinfo` and `io`. Which files lie on the filesystem is told by the mounts' ids, without touching any other
//! one, which may hang. What is looked at is bounded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::collect::disk::device::Number;
use crate::collect::disk::mount::Mount;
use crate::discover::ProcFs;

/// Descriptors and processes that a look takes in, and how long it may last.
const DESCRIPTORS: usize = 20_000;
const PROCESSES: usize = 8_192;
const LASTS_AT_MOST: Duration = Duration::from_millis(200);

/// Growth is told over this time.
const OVER_NS: u64 = 3_000_000_000;

/// A file that is met for the first time counts in full if it was made since the look before; without one, at most so long ago.
const NEW: Duration = Duration::from_secs(5);

/// The clock of filesystems ticks this coarsely at most.
const COARSE: Duration = Duration::from_millis(100);

/// Most that are told, and the least that one has written.
const MOST: usize = 5;
const LEAST_BYTES: u64 = 64 << 10;

/// Somebody who fills a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filler {
    /// The process.
    pub process_id: u32,
    /// What its files there grew in the last seconds.
    pub bytes: u64,
    /// Its files there grew; else it only wrote, wherever.
    pub is_certain: bool,
}

#[derive(Debug, Clone, Default)]
struct Look {
    at_ns: u64,
    /// Bytes that a file takes, and its holders, by inode.
    files: HashMap<u64, File>,
    /// What a process wrote at all.
    written: HashMap<u32, u64>,
}

#[derive(Debug, Clone, Default)]
struct File {
    bytes: u64,
    /// How long ago it was made; `None` = the filesystem does not tell.
    age: Option<Duration>,
    holders: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Fillers {
    proc: ProcFs,
    looks: Vec<Look>,
}

impl Fillers {
    /// By this tree.
    pub const fn new(proc: ProcFs) -> Self {
        Self { proc, looks: Vec::new() }
    }

    /// Nobody needs it any more.
    pub fn forget(&mut self) {
        self.looks.clear();
    }

    /// Who fills the filesystem with this device, `(major << 20) | minor`, the worst first.
    pub fn look(&mut self, filesystem: u32, now_ns: u64) -> Vec<Filler> {
        let number = Number { major: filesystem >> 20, minor: filesystem & 0xf_ffff };
        let now = look(&self.proc, number, now_ns);
        // The one that lies before the span stays, as its begin.
        while self.looks.get(1).is_some_and(|look| now_ns.saturating_sub(look.at_ns) >= OVER_NS) {
            self.looks.remove(0);
        }
        let fillers = compare(self.looks.first(), &now);
        self.looks.push(now);
        fillers
    }
}

fn look(proc: &ProcFs, number: Number, now_ns: u64) -> Look {
    let mut look = Look { at_ns: now_ns, ..Look::default() };
    let mut pids = Vec::new();
    if proc.pids(&mut pids).is_err() {
        return look;
    }
    pids.sort_unstable_by_key(|pid| std::cmp::Reverse(*pid));
    let begin = Instant::now();
    let mut left = DESCRIPTORS;
    // Mounts of the filesystem, by namespace.
    let mut mounts: BTreeMap<PathBuf, HashSet<String>> = BTreeMap::new();
    for pid in pids.into_iter().take(PROCESSES) {
        if begin.elapsed() > LASTS_AT_MOST || left == 0 {
            break;
        }
        let Some(namespace) = proc.link(pid, "ns/mnt") else { continue };
        if let Some(bytes) = written(proc, pid) {
            look.written.insert(pid, bytes);
        }
        let ids = mounts.entry(namespace).or_insert_with(|| mount_ids(proc, pid, number));
        if !ids.is_empty() {
            take_files(proc, pid, ids, &mut left, &mut look.files);
        }
    }
    look
}

/// Bytes that it wrote to the page cache or to disks, of any filesystem.
fn written(proc: &ProcFs, pid: u32) -> Option<u64> {
    let text = proc.read(pid, "io").ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

fn mount_ids(proc: &ProcFs, pid: u32, number: Number) -> HashSet<String> {
    let text = proc.read(pid, "mountinfo").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let is_there = |line: &&str| Mount::parse(line).is_some_and(|mount| mount.number == number);
    text.lines().filter(is_there).filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

fn take_files(
    proc: &ProcFs,
    pid: u32,
    mounts: &HashSet<String>,
    left: &mut usize,
    files: &mut HashMap<u64, File>,
) {
    let Ok(entries) = fs::read_dir(proc.path(pid, "fd")) else { return };
    let infos = proc.path(pid, "fdinfo");
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        if !may_write(&entry.path()) || !is_on(&infos.join(entry.file_name()), mounts) {
            continue;
        }
        let Ok(found) = fs::metadata(entry.path()) else { continue };
        if !found.is_file() {
            continue;
        }
        let file = files.entry(found.ino()).or_default();
        file.bytes = found.blocks() * 512;
        file.age = found.created().ok().map(age);
        if !file.holders.contains(&pid) {
            file.holders.push(pid);
        }
    }
}

/// The link's own mode says what the descriptor may do (proc_pid_fd(5)).
fn may_write(descriptor: &Path) -> bool {
    fs::symlink_metadata(descriptor).is_ok_and(|link| link.mode() & 0o200 != 0)
}

fn is_on(info: &Path, mounts: &HashSet<String>) -> bool {
    let text = fs::read_to_string(info).unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.is_some_and(|id| mounts.contains(id.trim()))
}

fn age(made: SystemTime) -> Duration {
    // One that was made after now was made with another clock, a moment ago.
    made.elapsed().unwrap_or_default()
}

fn compare(before: Option<&Look>, now: &Look) -> Vec<Filler> {
    let between = before.map(|before| Duration::from_nanos(now.at_ns.saturating_sub(before.at_ns)) + COARSE);
    let is_new = |file: &File| file.age.is_some_and(|age| age <= between.unwrap_or(NEW));
    let mut grown: HashMap<u32, u64> = HashMap::new();
    for (inode, file) in &now.files {
        let known = before.and_then(|before| before.files.get(inode));
        let bytes = match known {
            Some(known) => file.bytes.saturating_sub(known.bytes),
            None if is_new(file) => file.bytes,
            None => 0,
        };
        if bytes > 0
            && let Some(holder) = file.holders.iter().max_by_key(|pid| (wrote(before, now, **pid), **pid))
        {
            *grown.entry(*holder).or_default() += bytes;
        }
    }
    let told = |(process_id, bytes): (u32, u64), is_certain: bool| {
        (bytes >= LEAST_BYTES).then_some(Filler { process_id, bytes, is_certain })
    };
    let mut fillers: Vec<Filler> = grown.into_iter().filter_map(|one| told(one, true)).collect();
    if fillers.is_empty() && before.is_some() {
        // Files that were closed again already.
        let all = now.written.keys().map(|pid| (*pid, wrote(before, now, *pid)));
        fillers = all.filter_map(|one| told(one, false)).collect();
    }
    fillers.sort_by_key(|filler| (std::cmp::Reverse(filler.bytes), filler.process_id));
    fillers.truncate(MOST);
    fillers
}

fn wrote(before: Option<&Look>, now: &Look, pid: u32) -> u64 {
    let bytes = now.written.get(&pid).copied().unwrap_or(0);
    let Some(before) = before else { return bytes };
    match before.written.get(&pid) {
        Some(known) => bytes.saturating_sub(*known),
        // One that began meanwhile began with nothing; an older one was left out by that look.
        None if before.written.keys().max().is_none_or(|newest| pid > *newest) => bytes,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: u64, is_new: bool, holders: &[u32]) -> File {
        let age = Duration::from_secs(if is_new { 1 } else { 100 });
        File { bytes, age: Some(age), holders: holders.to_vec() }
    }

    fn look_of(files: Vec<(u64, File)>, written: &[(u32, u64)]) -> Look {
        look_at(1, files, written)
    }

    fn look_at(at_ns: u64, files: Vec<(u64, File)>, written: &[(u32, u64)]) -> Look {
        Look { at_ns, files: files.into_iter().collect(), written: written.iter().copied().collect() }
    }

    const MIB: u64 = 1 << 20;

    fn told(before: Option<&Look>, now: &Look) -> Vec<(u32, u64, bool)> {
        compare(before, now).iter().map(|one| (one.process_id, one.bytes, one.is_certain)).collect()
    }

    #[test]
    fn whose_files_grow_is_told_the_worst_first() {
        let before = look_of(vec![(1, file(5 * MIB, false, &[20])), (2, file(MIB, false, &[21]))], &[]);
        let now = look_of(vec![(1, file(6 * MIB, false, &[20])), (2, file(9 * MIB, false, &[21]))], &[]);
        assert_eq!(told(Some(&before), &now), [(21, 8 * MIB, true), (20, MIB, true)]);
        assert_eq!(told(Some(&now), &before), [], "what shrinks fills nothing");
    }

    #[test]
    fn a_file_that_is_met_first_counts_only_if_it_is_new() {
        let now = look_of(vec![(1, file(5 * MIB, false, &[20])), (2, file(7 * MIB, true, &[21]))], &[]);
        assert_eq!(told(None, &now), [(21, 7 * MIB, true)]);
        let empty = look_of(vec![], &[]);
        assert_eq!(told(Some(&empty), &now), [], "older than that look, when nobody had it open");
        let later = Look { at_ns: 2_000_000_000, ..now };
        assert_eq!(told(Some(&empty), &later), [(21, 7 * MIB, true)]);
    }

    #[test]
    fn of_those_who_share_a_file_the_one_that_writes_is_meant() {
        let before = look_of(vec![(1, file(0, false, &[20, 21]))], &[(20, 5), (21, 5)]);
        let now = look_of(vec![(1, file(MIB, false, &[20, 21]))], &[(20, 5 + MIB), (21, 5)]);
        assert_eq!(told(Some(&before), &now), [(20, MIB, true)]);
    }

    #[test]
    fn where_no_open_file_grows_whoever_writes_is_suspected() {
        let before = look_of(vec![], &[(20, 5), (21, 5)]);
        let now = look_of(vec![], &[(7, 9 * MIB), (20, 5 + 3 * MIB), (21, 6), (22, 2 * MIB)]);
        assert_eq!(told(Some(&before), &now), [(20, 3 * MIB, false), (22, 2 * MIB, false)]);
        assert_eq!(told(None, &now), [], "since when is not known");
    }

    #[test]
    fn a_file_of_this_process_that_grows_is_found() {
        let place = tempfile::tempdir().expect("writable");
        let device = fs::metadata(place.path()).expect("there").dev();
        let number = libc::major(device) << 20 | libc::minor(device);
        let mut fillers = Fillers::new(ProcFs::new("/proc"));
        let mut file = fs::File::create(place.path().join("file")).expect("made");
        fillers.look(number, 1);
        file.write_all(&vec![1; 8 << 20]).and_then(|()| file.sync_all()).expect("written");
        let found = fillers.look(number, 2);
        let own = found.iter().find(|one| one.process_id == std::process::id());
        let Some(own) = own else {
            println!(
                "skipped: the mounts of this filesystem have another number, or descriptors are hidden: {found:?}"
            );
            return;
        };
        assert!(own.bytes >= 8 << 20 && own.is_certain, "{found:?}");
        fillers.forget();
        assert!(fillers.looks.is_empty());
    }
}
