//! Who a culprit is: its cgroup's path by the cgroup's id, which is the inode of its directory; the process's name and the first word of its
//! command line, while it is there.
//!
//! A process names its own cgroup. Where only an id is known, the hierarchies are searched, at most once in a while and
//! not further than a bound; what is found is remembered, and checked before it is used again.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::autopsy::Culprit;
use crate::collect::disk::mount::Mount;
use crate::discover::{Placement, ProcFs};
use crate::fact::CulpritName;

/// Two searches are at least this far apart.
const SEARCH_EVERY_NS: u64 = 2_000_000_000;

/// Directories that a search looks at: far more than nodes have.
const SEARCHED: usize = 50_000;

/// Cgroups that are remembered.
const REMEMBERED: usize = 256;

/// Bytes of a command line's first word that are shown.
const WORD_LIMIT: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Names {
    proc: ProcFs,
    /// Path below the root of its hierarchy, the directory, and when it was last used, by id.
    known: BTreeMap<u64, (String, PathBuf, u64)>,
    searched_ns: Option<u64>,
}

impl Names {
    /// By this tree.
    pub fn new(proc: ProcFs) -> Self {
        Self { proc, known: BTreeMap::new(), searched_ns: None }
    }

    /// As much as can be found out.
    pub fn of(&mut self, culprit: &Culprit, now_ns: u64) -> CulpritName {
        let mut name = CulpritName::default();
        if culprit.process_id != 0 {
            name.process = self.process(culprit.process_id);
            if let Ok(text) = self.proc.read(culprit.process_id, "cgroup") {
                name.placement = Placement::parse(&String::from_utf8_lossy(&text));
            }
        }
        if name.placement.cgroup.is_empty()
            && culprit.cgroup > 1
            && let Some(path) = self.cgroup(culprit.cgroup, now_ns)
        {
            // As a line of /proc/PID/cgroup, from which container and pod follow.
            name.placement = Placement::parse(&format!("0::{path}\n"));
        }
        name
    }

    /// The same for a process whose name and cgroup are known from elsewhere, without waiting for anybody: the program's file in place of
    /// the command line, which only its owner's memory has.
    pub fn quick(&mut self, process_id: u32, cgroup: u64, now_ns: u64) -> CulpritName {
        let mut name = CulpritName::default();
        if process_id != 0 {
            let comm = self.proc.read(process_id, "comm").unwrap_or_default();
            let comm = String::from_utf8_lossy(&comm).trim_end().to_owned();
            // Kernel threads have none.
            let program = self.proc.link(process_id, "exe").unwrap_or_default();
            name.process = match program.to_string_lossy() {
                program if program.is_empty() => comm,
                program => format!("{comm} ({program})"),
            };
            if let Ok(text) = self.proc.read(process_id, "cgroup") {
                name.placement = Placement::parse(&String::from_utf8_lossy(&text));
            }
        }
        if name.placement.cgroup.is_empty()
            && cgroup > 1
            && let Some(path) = self.cgroup(cgroup, now_ns)
        {
            name.placement = Placement::parse(&format!("0::{path}\n"));
        }
        name
    }

    /// Name and the first word of the command line; empty when it is gone.
    fn process(&self, pid: u32) -> String {
        let comm = self.proc.read(pid, "comm").unwrap_or_default();
        let comm = String::from_utf8_lossy(&comm).trim_end().to_owned();
        // Kernel threads have none. Further words may hold secrets.
        let line = self.proc.read(pid, "cmdline").unwrap_or_default();
        let word = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let word = String::from_utf8_lossy(&word[..word.len().min(WORD_LIMIT)]).into_owned();
        match (comm.is_empty(), word.is_empty()) {
            (_, true) => comm,
            (true, false) => word,
            (false, false) if word == comm => comm,
            (false, false) => format!("{comm} ({word})"),
        }
    }

    fn cgroup(&mut self, id: u64, now_ns: u64) -> Option<String> {
        if let Some((path, directory, used_ns)) = self.known.get_mut(&id) {
            if std::fs::metadata(directory).is_ok_and(|data| data.ino() == id) {
                *used_ns = now_ns;
                return Some(path.clone());
            }
            self.known.remove(&id);
        }
        if self.searched_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < SEARCH_EVERY_NS) {
            return None;
        }
        self.searched_ns = Some(now_ns);
        let (root, directory) =
            self.roots().into_iter().find_map(|root| Some((root.clone(), search(&root, id)?)))?;
        let inside = directory.strip_prefix(&root).ok()?.to_string_lossy().into_owned();
        let path = format!("/{inside}");
        if self.known.len() >= REMEMBERED
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, (.., used_ns))| *used_ns).map(|(id, _)| *id)
        {
            self.known.remove(&oldest);
        }
        self.known.insert(id, (path.clone(), directory, now_ns));
        Some(path)
    }

    /// Where the hierarchy is mounted that limits IO: of version 1 where there is one, because ids of two hierarchies may be
    /// the same, else of version 2. Ours may show a part only; that of process 1 shows the node where its pid namespace is shared.
    fn roots(&self) -> Vec<PathBuf> {
        let mut roots = Vec::new();
        for (pid, view) in [(1, self.proc.path(1, "root")), (std::process::id(), PathBuf::from("/"))] {
            let Ok(bytes) = self.proc.read(pid, "mountinfo") else { continue };
            let mounts = Mount::parse_all(&String::from_utf8_lossy(&bytes));
            let is_blkio = |mount: &&Mount| {
                mount.filesystem == "cgroup" && mount.super_options.split(',').any(|name| name == "blkio")
            };
            let found = mounts
                .iter()
                .find(is_blkio)
                .or_else(|| mounts.iter().find(|mount| mount.filesystem == "cgroup2"));
            roots.extend(found.map(|mount| view.join(mount.point.strip_prefix("/").unwrap_or(&mount.point))));
        }
        roots
    }
}

/// The directory with this inode number, itself or below; breadth first, no further than [`SEARCHED`] directories.
fn search(root: &Path, id: u64) -> Option<PathBuf> {
    let mut waiting = std::collections::VecDeque::from([root.to_owned()]);
    let mut looked_at = 0;
    while let Some(directory) = waiting.pop_front() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.ino() == id {
                return Some(entry.path());
            }
            looked_at += 1;
            if looked_at >= SEARCHED {
                return None;
            }
            waiting.push_back(entry.path());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autopsy::{Certainty, Origin};

    const CONTAINER: &str = "3c0d8d3f2cf7a8a9a3f3cf0a61d5b8f3d1b6a5c4d3e2f1a0b9c8d7e6f5a4b3c2";

    fn culprit(origin: Origin, process_id: u32, cgroup: u64) -> Culprit {
        Culprit {
            origin,
            process_id,
            comm: [0; 16],
            cgroup,
            inode: 0,
            device: 1,
            requests: 1,
            bytes: 1,
            syncs: 0,
            wait_ns: 1,
            certainty: Certainty::High,
        }
    }

    /// A recorded /proc in which process 1 sees a hierarchy mounted, and that hierarchy.
    fn recorded(kind: &str, options: &str) -> (tempfile::TempDir, ProcFs, PathBuf) {
        let root = tempfile::tempdir().expect("writable");
        let mounted = root.path().join("1/root").join("sys/fs/cgroup");
        std::fs::create_dir_all(&mounted).expect("made");
        let line = format!("30 20 0:26 / /sys/fs/cgroup rw - {kind} none {options}\n");
        std::fs::write(root.path().join("1/mountinfo"), line).expect("written");
        let proc = ProcFs::new(root.path());
        (root, proc, mounted)
    }

    fn inode(path: &Path) -> u64 {
        std::fs::metadata(path).expect("there").ino()
    }

    #[test]
    fn a_process_is_named_by_its_name_the_first_word_and_its_cgroup() {
        let (root, proc, _) = recorded("cgroup2", "rw");
        let process = root.path().join("600");
        std::fs::create_dir(&process).expect("made");
        std::fs::write(process.join("comm"), "fio\n").expect("written");
        std::fs::write(process.join("cmdline"), b"/usr/bin/fio\0--password=secret\0").expect("written");
        std::fs::write(process.join("cgroup"), format!("0::/kubepods/pod1/{CONTAINER}\n")).expect("written");
        let name = Names::new(proc).of(&culprit(Origin::Process, 600, 0), 0);
        assert_eq!(name.process, "fio (/usr/bin/fio)");
        assert_eq!(name.placement.container_id, CONTAINER);
    }

    #[test]
    fn asked_quickly_a_process_is_named_by_its_program() {
        let (root, proc, _) = recorded("cgroup2", "rw");
        let process = root.path().join("600");
        std::fs::create_dir(&process).expect("made");
        std::fs::write(process.join("comm"), "fio\n").expect("written");
        std::fs::write(process.join("cgroup"), format!("0::/kubepods/pod1/{CONTAINER}\n")).expect("written");
        let mut names = Names::new(proc);
        assert_eq!(names.quick(600, 0, 0).process, "fio");
        std::os::unix::fs::symlink("/usr/bin/fio", process.join("exe")).expect("linked");
        let name = names.quick(600, 0, 0);
        assert_eq!(
            (name.process.as_str(), name.placement.container_id.as_str()),
            ("fio (/usr/bin/fio)", CONTAINER)
        );
        assert_eq!(names.quick(601, 0, 0), CulpritName::default(), "gone");
    }

    #[test]
    fn a_process_that_is_gone_has_the_cgroup_of_its_requests() {
        let (_root, proc, mounted) = recorded("cgroup2", "rw");
        let directory = mounted.join(format!("system.slice/docker-{CONTAINER}.scope"));
        std::fs::create_dir_all(&directory).expect("made");
        let name = Names::new(proc).of(&culprit(Origin::Process, 600, inode(&directory)), 0);
        assert_eq!(name.process, "");
        assert_eq!(name.placement.cgroup, format!("/system.slice/docker-{CONTAINER}.scope"));
        assert_eq!(name.placement.container_id, CONTAINER);
    }

    #[test]
    fn of_version_1_only_the_hierarchy_that_limits_io_is_searched() {
        for (options, is_found) in [("rw,blkio", true), ("rw,memory", false)] {
            let (_root, proc, mounted) = recorded("cgroup", options);
            let directory = mounted.join("lab");
            std::fs::create_dir_all(&directory).expect("made");
            let mut names = Names { proc, known: BTreeMap::new(), searched_ns: None };
            let found = names.cgroup(inode(&directory), 0);
            assert_eq!(found.as_deref(), is_found.then_some("/lab"), "{options}");
        }
    }

    #[test]
    fn a_search_is_made_once_in_a_while_and_what_was_found_needs_none() {
        let (_root, proc, mounted) = recorded("cgroup2", "rw");
        let (one, other) = (mounted.join("one"), mounted.join("other"));
        std::fs::create_dir_all(&one).expect("made");
        std::fs::create_dir_all(&other).expect("made");
        let (one_id, other_id) = (inode(&one), inode(&other));
        let mut names = Names::new(proc);
        assert_eq!(names.cgroup(one_id, 5).as_deref(), Some("/one"));
        assert_eq!(names.cgroup(one_id, 6).as_deref(), Some("/one"));
        assert_eq!(names.cgroup(other_id, 6), None, "too soon");
        assert_eq!(names.cgroup(other_id, 6 + SEARCH_EVERY_NS).as_deref(), Some("/other"));
        std::fs::remove_dir(&one).expect("removed");
        assert_eq!(names.cgroup(one_id, 7 + SEARCH_EVERY_NS), None, "gone");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (_root, proc, mounted) = recorded("cgroup2", "rw");
        let mut names = Names::new(proc);
        for number in 0..300_u64 {
            let directory = mounted.join(number.to_string());
            std::fs::create_dir(&directory).expect("made");
            assert!(names.cgroup(inode(&directory), number * SEARCH_EVERY_NS).is_some());
        }
        assert_eq!(names.known.len(), REMEMBERED);
    }

    #[test]
    fn workers_and_roots_have_no_name() {
        let (_root, proc, _) = recorded("cgroup2", "rw");
        let mut names = Names::new(proc);
        for (origin, cgroup) in [(Origin::Writeback, 0), (Origin::Writeback, 1), (Origin::Journal, 0)] {
            assert_eq!(names.of(&culprit(origin, 0, cgroup), 0), CulpritName::default());
        }
        assert_eq!(names.searched_ns, None);
    }

    #[test]
    fn this_process_is_found_by_the_id_of_its_cgroup() {
        let proc = ProcFs::new("/proc");
        let text = proc.read(std::process::id(), "cgroup").expect("own");
        let found = crate::collect::cgroup::hierarchy::find(
            &proc,
            std::process::id(),
            &String::from_utf8_lossy(&text),
        );
        let Some(level) =
            found.of("blkio").and_then(|chain| chain.levels.first()).filter(|level| level.path != "/")
        else {
            println!("skipped: this process is in no cgroup of its own");
            return;
        };
        let path = Names::new(proc).cgroup(inode(&level.directory), 0);
        assert_eq!(path.as_deref(), Some(level.path.as_str()));
    }
}
