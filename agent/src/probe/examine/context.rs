//! What is known of a sync beside its record: the disks below its file, who writes the log, the cgroup and its limits, steal.
//!
//! All of it changes seldom and is asked anew after a while; a process that is gone keeps what was known of it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Evidence;
use crate::autopsy::waiting::Held;
use crate::autopsy::{Counters, Disk, Gaps, Log, Window};
use crate::collect::cgroup::hierarchy;
use crate::collect::cgroup::io_is_limited;
use crate::collect::disk::device::{Facts, Number, Stack};
use crate::collect::disk::mount::Mount;
use crate::discover::{ProcFs, ProcessId};

/// Limits and cgroups are asked anew after this time.
const PROCESS_FOR_NS: u64 = 200_000_000;

/// Disks are asked anew after this time.
const DISKS_FOR_NS: u64 = 10_000_000_000;

/// Most filesystems and processes that are remembered.
const REMEMBERED: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Below {
    asked_ns: u64,
    disks: Vec<Disk>,
    log: Log,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Member {
    asked_ns: u64,
    cgroups: Vec<u64>,
    io_limit: Option<bool>,
}

/// See the module.
#[derive(Debug)]
pub struct Contexts {
    proc: ProcFs,
    sys: PathBuf,
    below: BTreeMap<u32, Below>,
    members: BTreeMap<ProcessId, Member>,
}

impl Contexts {
    /// By these trees.
    pub fn new(proc: ProcFs, sys: PathBuf) -> Self {
        Self { proc, sys, below: BTreeMap::new(), members: BTreeMap::new() }
    }

    /// The sync as the autopsy wants it.
    pub fn of(&mut self, held: &Held, evidence: &Evidence, now_ns: u64) -> (Window, Counters) {
        let sync = &held.sync;
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let below = self.below(sync.device, held.process.pid, now_ns);
        let member = self.member(held.process, &below, now_ns);
        let window = Window {
            process_id: sync.pid,
            thread_id: sync.thread_id,
            class: sync.class,
            start_ns: sync.start_mono_ns,
            latency_ns: nanoseconds(sync.latency),
            run_delay_ns: nanoseconds(sync.run_delay),
            on_cpu_ns: sync.run_time.map(nanoseconds),
            inode: sync.inode,
            filesystem: sync.device,
            log: below.log,
            disks: below.disks,
            cgroups: member.cgroups,
        };
        let gaps = Gaps {
            overwritten: evidence.unseen.overwritten
                || (!evidence.unseen.requests && evidence.complete_since_ns > window.start_ns),
            ..evidence.unseen
        };
        let counters = Counters { io_limit: member.io_limit, cpu_throttled_ns: None, steal_ns: None, gaps };
        (window, counters)
    }

    fn below(&mut self, filesystem: u32, pid: u32, now_ns: u64) -> Below {
        if let Some(known) = self.below.get(&filesystem)
            && now_ns.saturating_sub(known.asked_ns) < DISKS_FOR_NS
        {
            return known.clone();
        }
        let number = number_of(filesystem);
        let mounts = self.proc.read(pid, "mountinfo").unwrap_or_default();
        let mounts = Mount::parse_all(&String::from_utf8_lossy(&mounts));
        let mount = mounts.iter().find(|mount| mount.number == number);
        let below = Below {
            asked_ns: now_ns,
            disks: disks(&Stack::below(&self.sys, number)),
            log: mount.map_or(Log::None, |mount| log_of(&mount.filesystem)),
        };
        remember(&mut self.below, filesystem, below.clone(), |below| below.asked_ns);
        below
    }

    fn member(&mut self, process: ProcessId, below: &Below, now_ns: u64) -> Member {
        let known = self.members.get(&process);
        if let Some(known) = known
            && now_ns.saturating_sub(known.asked_ns) < PROCESS_FOR_NS
        {
            return known.clone();
        }
        let Ok(text) = self.proc.read(process.pid, "cgroup") else {
            return known.cloned().unwrap_or_default();
        };
        let found = hierarchy::find(&self.proc, process.pid, &String::from_utf8_lossy(&text));
        // Of version 1 if that is what limits IO: ids of two hierarchies may be the same.
        let chain = found.of("blkio");
        let own = chain.and_then(|chain| chain.levels.first());
        let id = own.and_then(|level| std::fs::metadata(&level.directory).ok()).map(|data| data.ino());
        let numbers: Vec<Number> = below.disks.iter().map(|disk| number_of(disk.device)).collect();
        let member = Member {
            asked_ns: now_ns,
            cgroups: id.into_iter().collect(),
            io_limit: chain.map(|chain| io_is_limited(chain, &numbers)),
        };
        remember(&mut self.members, process, member.clone(), |member| member.asked_ns);
        member
    }
}

/// Bounded: what was asked for the longest time ago goes first.
fn remember<K: Ord + Copy, V>(known: &mut BTreeMap<K, V>, key: K, value: V, asked_ns: impl Fn(&V) -> u64) {
    known.insert(key, value);
    if known.len() > REMEMBERED
        && let Some(oldest) = known.iter().min_by_key(|(_, value)| asked_ns(value)).map(|(key, _)| *key)
    {
        known.remove(&oldest);
    }
}

/// From `(major << 20) | minor`.
pub const fn number_of(device: u32) -> Number {
    Number { major: device >> 20, minor: device & 0xf_ffff }
}

fn log_of(filesystem: &str) -> Log {
    match filesystem {
        "ext3" | "ext4" | "ocfs2" => Log::Jbd2,
        "xfs" => Log::Workers,
        _ => Log::None,
    }
}

/// The whole disks of a stack, from the top.
fn disks(stack: &Stack) -> Vec<Disk> {
    let mut disks = Vec::new();
    let mut backing_inode = 0;
    for device in &stack.devices {
        if device.layer == "partition" {
            continue;
        }
        disks.push(Disk {
            device: device.number.major << 20 | device.number.minor,
            backing_inode: std::mem::take(&mut backing_inode),
            depth: Facts::of(device).queue_requests.and_then(|depth| u32::try_from(depth).ok()).unwrap_or(0),
        });
        if device.layer == "loop" {
            let file = device.attribute("loop/backing_file");
            backing_inode = file.and_then(|file| std::fs::metadata(file).ok()).map_or(0, |data| data.ino());
        }
    }
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_apart() {
        assert_eq!(number_of(254 << 20 | 17), Number { major: 254, minor: 17 });
    }

    #[test]
    fn filesystems_have_their_logs() {
        let of = ["ext4", "xfs", "btrfs", "tmpfs", ""].map(log_of);
        assert_eq!(of, [Log::Jbd2, Log::Workers, Log::None, Log::None, Log::None]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut known = BTreeMap::new();
        for number in 0..1_000_u64 {
            remember(&mut known, number, 1_000 + number, |asked| *asked);
        }
        assert_eq!(known.keys().copied().collect::<Vec<_>>(), (936..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn the_filesystem_of_this_test_has_disks_or_is_none() {
        let directory = std::env::current_dir().expect("there is one");
        let device = std::fs::metadata(directory).expect("readable").dev();
        let number = Number::of(device);
        let proc = ProcFs::new("/proc");
        let mut contexts = Contexts::new(proc, "/sys".into());
        let below = contexts.below(number.major << 20 | number.minor, std::process::id(), 5);
        let stack = Stack::below(std::path::Path::new("/sys"), number);
        let whole = stack.devices.iter().filter(|device| device.layer != "partition").count();
        assert_eq!(below.disks.len(), whole);
        assert_eq!(contexts.below.len(), 1);
    }

    #[test]
    fn a_process_has_its_cgroup_and_one_that_is_gone_what_was_known() {
        let proc = ProcFs::new("/proc");
        let mut contexts = Contexts::new(proc, "/sys".into());
        let own = ProcessId { boot_id: [0; 16], pid: std::process::id(), start_ticks: 0 };
        let below = Below::default();
        let first = contexts.member(own, &below, 5);
        assert!(first.cgroups.len() <= 1);
        let gone = ProcessId { pid: u32::MAX, ..own };
        assert_eq!(contexts.member(gone, &below, 5), Member::default());
        contexts.members.insert(gone, Member { cgroups: vec![9], ..Member::default() });
        assert_eq!(contexts.member(gone, &below, u64::MAX).cgroups, [9]);
    }
}
