//! Who has a file open for writing: tells whose pages writeback writes where no cgroup does, as on version 1.
//!
//! From `/proc/PID/fdinfo`, which names inode (5.14 and newer) and mount without touching the file: on a filesystem that hangs, asking
//! the file itself would hang as well. It is a search through all processes, so it is made seldom and ends at a bound;
//! whoever held the file the last time is asked first, and a file that nobody was found to hold is not searched for again
//! for a while: whoever wrote it has closed it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::collect::disk::device::Number;
use crate::collect::disk::mount::Mount;
use crate::discover::ProcFs;

/// Two searches are at least this far apart.
const SEARCH_EVERY_NS: u64 = 5_000_000_000;

/// A file that nobody was found to hold is searched for again after this time.
const IN_VAIN_FOR_NS: u64 = 20_000_000_000;

/// Searches have no more than this part of the time, however long one takes.
const SHARE_OF_SEARCHING: u64 = 500;

/// Descriptors that a search looks at.
const SEARCHED: usize = 20_000;

/// Files that are remembered.
const REMEMBERED: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Holders {
    proc: ProcFs,
    /// By inode: the process, and when it was last asked for.
    known: BTreeMap<u64, (u32, u64)>,
    /// By inode: when it was searched for and not found.
    in_vain: BTreeMap<u64, u64>,
    /// When the last search began.
    searched_ns: Option<u64>,
    /// How long the last search took.
    lasted_ns: u64,
}

/// A file, as writeback names it: the number of the inode, and where its filesystem may be.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// Inode number.
    pub inode: u64,
    /// Filesystem of the sync that was slow, or the whole disk: either may hold it.
    pub devices: [Number; 2],
}

impl Holders {
    /// By this tree.
    pub fn new(proc: ProcFs) -> Self {
        Self { proc, known: BTreeMap::new(), in_vain: BTreeMap::new(), searched_ns: None, lasted_ns: 0 }
    }

    /// A process that may write to the file.
    pub fn of(&mut self, file: File, now_ns: u64) -> Option<u32> {
        if file.inode == 0 {
            return None;
        }
        if let Some((pid, asked_ns)) = self.known.get_mut(&file.inode) {
            if holds(&self.proc, *pid, file, &mut SEARCHED.clone()) {
                *asked_ns = now_ns;
                return Some(*pid);
            }
            self.known.remove(&file.inode);
        }
        let pause_ns = SEARCH_EVERY_NS.max(self.lasted_ns.saturating_mul(SHARE_OF_SEARCHING));
        if self.searched_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < pause_ns) {
            return None;
        }
        self.in_vain.retain(|_, at_ns| now_ns.saturating_sub(*at_ns) < IN_VAIN_FOR_NS);
        if self.in_vain.contains_key(&file.inode) {
            return None;
        }
        self.searched_ns = Some(now_ns);
        let begin = Instant::now();
        let found = self.search(file);
        self.lasted_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Some(pid) = found else {
            // No more than there are searches in that time.
            self.in_vain.insert(file.inode, now_ns);
            return None;
        };
        if self.known.len() >= REMEMBERED
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, (_, asked_ns))| *asked_ns).map(|(inode, _)| *inode)
        {
            self.known.remove(&oldest);
        }
        self.known.insert(file.inode, (pid, now_ns));
        Some(pid)
    }

    fn search(&self, file: File) -> Option<u32> {
        let mut pids = Vec::new();
        self.proc.pids(&mut pids).ok()?;
        // The newest first: what just began is what just changed.
        pids.sort_unstable_by_key(|pid| std::cmp::Reverse(*pid));
        let mut left = SEARCHED;
        pids.into_iter().find(|pid| holds(&self.proc, *pid, file, &mut left))
    }
}

/// Whether a process has the file open for writing; looks at no more than `left` descriptors.
fn holds(proc: &ProcFs, pid: u32, file: File, left: &mut usize) -> bool {
    let Ok(entries) = std::fs::read_dir(proc.path(pid, "fdinfo")) else { return false };
    for entry in entries.flatten() {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let Some(mount_id) = writable_mount(&entry.path(), file.inode) else { continue };
        if mount_number(proc, pid, mount_id).is_some_and(|number| file.devices.contains(&number)) {
            return true;
        }
    }
    false
}

/// The mount's id, when this descriptor is of that inode and may write.
fn writable_mount(path: &Path, inode: u64) -> Option<u32> {
    const ACCESS_MODE: u32 = 3;
    let text = std::fs::read_to_string(path).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("ino:")?.parse() != Ok(inode) {
        return None;
    }
    let flags = u32::from_str_radix(field("flags:")?, 8).ok()?;
    if flags & ACCESS_MODE == 0 {
        return None;
    }
    field("mnt_id:")?.parse().ok()
}

fn mount_number(proc: &ProcFs, pid: u32, mount_id: u32) -> Option<Number> {
    let text = proc.read(pid, "mountinfo").ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let id = format!("{mount_id} ");
    text.lines().find(|line| line.starts_with(&id)).and_then(Mount::parse).map(|mount| mount.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Number = Number { major: 254, minor: 1 };
    const FILE: File = File { inode: 77, devices: [HERE, Number { major: 254, minor: 0 }] };

    struct Recorded {
        root: tempfile::TempDir,
        holders: Holders,
    }

    fn recorded() -> Recorded {
        let root = tempfile::tempdir().expect("writable");
        let holders = Holders::new(ProcFs::new(root.path()));
        Recorded { root, holders }
    }

    impl Recorded {
        /// A process with one descriptor.
        fn add(&self, pid: u32, inode: u64, flags: &str, mount: &str) {
            let fdinfo = self.root.path().join(pid.to_string()).join("fdinfo");
            std::fs::create_dir_all(&fdinfo).expect("made");
            let text = format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t30\nino:\t{inode}\n");
            std::fs::write(fdinfo.join("3"), text).expect("written");
            let mounts =
                format!("29 1 0:5 / /proc rw - proc proc rw\n30 1 {mount} / / rw - ext4 /dev/x rw\n");
            std::fs::write(self.root.path().join(pid.to_string()).join("mountinfo"), mounts)
                .expect("written");
        }
    }

    #[test]
    fn who_has_the_file_open_for_writing_is_found() {
        for (inode, flags, mount, is_found) in [
            (77, "0100001", "254:1", true),
            (77, "0100002", "254:0", true),
            (77, "0100000", "254:1", false),
            (78, "0100001", "254:1", false),
            (77, "0100001", "254:2", false),
        ] {
            let mut recorded = recorded();
            recorded.add(600, inode, flags, mount);
            recorded.add(601, 5, flags, mount);
            assert_eq!(recorded.holders.of(FILE, 0), is_found.then_some(600), "{inode} {flags} {mount}");
        }
    }

    #[test]
    fn a_search_is_made_seldom_but_who_was_found_is_asked_always() {
        let mut recorded = recorded();
        recorded.add(600, 77, "0100001", "254:1");
        recorded.add(601, 78, "0100001", "254:1");
        assert_eq!(recorded.holders.of(FILE, 5), Some(600));
        assert_eq!(recorded.holders.of(FILE, 6), Some(600));
        let other = File { inode: 78, ..FILE };
        assert_eq!(recorded.holders.of(other, 6), None);
        recorded.holders.lasted_ns = 0;
        assert_eq!(recorded.holders.of(other, 5 + SEARCH_EVERY_NS), Some(601));
        recorded.add(600, 79, "0100001", "254:1");
        recorded.holders.lasted_ns = 0;
        assert_eq!(recorded.holders.of(FILE, 7 + SEARCH_EVERY_NS), None, "closed");
    }

    #[test]
    fn searches_that_take_long_are_made_more_seldom() {
        let mut recorded = recorded();
        recorded.add(600, 77, "0100001", "254:1");
        recorded.holders.searched_ns = Some(5);
        recorded.holders.lasted_ns = SEARCH_EVERY_NS / 100;
        assert_eq!(recorded.holders.of(FILE, 5 + 5 * SEARCH_EVERY_NS - 1), None);
        assert_eq!(recorded.holders.of(FILE, 5 + 5 * SEARCH_EVERY_NS), Some(600));
    }

    #[test]
    fn a_file_that_nobody_holds_is_not_searched_for_again_for_a_while() {
        let mut recorded = recorded();
        assert_eq!(recorded.holders.of(FILE, 5), None);
        recorded.holders.lasted_ns = 0;
        recorded.add(600, 77, "0100001", "254:1");
        recorded.add(601, 78, "0100001", "254:1");
        assert_eq!(recorded.holders.of(FILE, 5 + SEARCH_EVERY_NS), None);
        let other = File { inode: 78, ..FILE };
        assert_eq!(recorded.holders.of(other, 5 + SEARCH_EVERY_NS), Some(601), "others are searched for");
        recorded.holders.lasted_ns = 0;
        assert_eq!(recorded.holders.of(FILE, 5 + IN_VAIN_FOR_NS), Some(600));
    }

    #[test]
    fn no_inode_is_no_file_and_garbage_is_nobody() {
        let mut recorded = recorded();
        recorded.add(600, 0, "0100001", "254:1");
        assert_eq!(recorded.holders.of(File { inode: 0, ..FILE }, 0), None);
        assert_eq!(recorded.holders.searched_ns, None);
        let fdinfo = recorded.root.path().join("600/fdinfo");
        for text in ["", "ino:\t77\n", "ino:\t77\nflags:\t9\nmnt_id:\t30", "ino:\t77\nflags:\t1\nmnt_id:\tx"]
        {
            std::fs::write(fdinfo.join("3"), text).expect("written");
            recorded.holders.searched_ns = None;
            recorded.holders.in_vain.clear();
            assert_eq!(recorded.holders.of(FILE, 0), None, "{text:?}");
        }
    }

    #[test]
    fn this_process_is_found_by_a_file_that_it_writes() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::tempfile().expect("made");
        let data = file.metadata().expect("known");
        let (inode, number) = (data.ino(), Number::of(data.dev()));
        let proc = ProcFs::new("/proc");
        let own = proc.path(std::process::id(), "fdinfo");
        let text: String = std::fs::read_dir(own)
            .expect("own")
            .flatten()
            .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
            .collect();
        if !text.contains("ino:") {
            println!("skipped: this kernel does not tell inodes of descriptors");
            return;
        }
        let file = File { inode, devices: [number, number] };
        assert!(holds(&proc, std::process::id(), file, &mut SEARCHED.clone()));
    }
}
