//! Why a sync was slow, and who did it: the time of one sync split into parts that add up, and whoever else used its disk. S3.
//!
//! Pure: facts in, an [`Autopsy`] out; O(n log n) in the number of requests. The parts come from evidence, each instant is counted
//! once, and what no evidence explains is called that.
//!
//! # What an instant is spent on
//! Of what is under way on the disks below the file, first match wins:
//!
//! 1. a request of the syncing thread: on the device, waiting for a flush, waiting for the device;
//! 2. a request of the same file that another thread submitted (writeback), likewise;
//! 3. the file's pages held back by the cgroup's IO limit: proved by a late request of the file, charged to our cgroup, which a
//!    worker bound to a CPU submitted (those of blk-throttle are, those of writeback are not);
//! 4. the journal: its thread's requests likewise, else a commit that is running;
//! 5. a flush on the device that nothing shows to be ours;
//! 6. a device that has as many requests as it takes, none of them ours;
//! 7. a flush of ours that was held back, as in 3.
//!
//! A sync waits only for what ends before it does: requests of ours, and commits, that go on after its end are not what
//! it waited for (but a commit that locks keeps everybody waiting until it flushes).
//!
//! Time on CPU and in the run queue is known as a sum without a place. Being runnable is exact, so it is taken from what is not explained
//! first and then from the weaker evidence (from 7 upwards to 3), never from requests of the file itself. CPU time and steal are taken
//! from what is not explained only.
//!
//! # Layers
//! A loop device's requests contain those that its file causes on the disk below. Those are not counted again, neither as parts
//! nor as culprits; what others do to the disk below is. Below device mapper and md, requests carry the pages and threads of above, and
//! count like those of the disk itself.

use etcdmon_proto::v1::FileClass;

pub mod culprit;
pub mod evidence;
mod placed;
pub mod threshold;
pub mod timeline;
pub mod waiting;

pub use culprit::{Certainty, Culprit, Origin};
pub use evidence::{Commit, Operation, Request};

use culprit::Suspects;
use placed::{Placed, Role, add_held, holds};
use timeline::{Lane, SLOTS, Slot, Swept, Timeline};

/// A block device below a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The whole disk, `(major << 20) | minor`.
    pub device: u32,
    /// Inode of the file on it that a loop device above keeps its blocks in; 0 = no loop device is directly above.
    pub backing_inode: u64,
    /// Requests that it takes at a time; 0 = not known.
    pub depth: u32,
}

/// Who writes a filesystem's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// Not known, or it has none.
    #[default]
    None,
    /// A jbd2 thread (ext4).
    Jbd2,
    /// Workers, with pages that belong to no file (xfs).
    Workers,
}

/// A sync that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The process that called it.
    pub process_id: u32,
    /// The thread.
    pub thread_id: u32,
    /// Class of the file.
    pub class: FileClass,
    /// Begin, CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// End minus begin: what the parts add up to.
    pub latency_ns: u64,
    /// Time the thread was runnable, but not running.
    pub run_delay_ns: u64,
    /// Time the thread ran; `None` = not known.
    pub on_cpu_ns: Option<u64>,
    /// The file.
    pub inode: u64,
    /// The filesystem's device, `(major << 20) | minor`: a partition, usually.
    pub filesystem: u32,
    /// Who writes its log.
    pub log: Log,
    /// The disks below it, from the top.
    pub disks: Vec<Disk>,
    /// Ids of the process's cgroups that requests are charged to. A root (1) says nothing and is ignored.
    pub cgroups: Vec<u64>,
}

impl Window {
    /// When it ended.
    pub const fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.latency_ns)
    }

    /// How many disks, from the top, have requests with pages of this file's own filesystem: all down to the first loop device.
    fn own_disks(&self) -> usize {
        self.disks
            .iter()
            .skip(1)
            .position(|disk| disk.backing_inode != 0)
            .map_or(self.disks.len(), |at| at + 1)
    }

    fn is_ours(&self, cgroup: u64) -> bool {
        cgroup > 1 && self.cgroups.contains(&cgroup)
    }
}

/// What is missing from the evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Requests are not seen on this machine.
    pub requests: bool,
    /// Commits are not seen on this machine, though the filesystem has a journal.
    pub commits: bool,
    /// The kernel's memory of requests does not reach back to the begin of the sync, or some records in it were not whole.
    pub overwritten: bool,
}

impl Gaps {
    /// As a set of bits, in the order of the fields.
    pub const fn bits(self) -> u32 {
        self.requests as u32 | (self.commits as u32) << 1 | (self.overwritten as u32) << 2
    }
}

/// What else is known of the time of the sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Whether the process's cgroup, or one above it, has a limit of IO on one of the disks; `None` = not known.
    pub io_limit: Option<bool>,
    /// CPU time of the cgroup's quota that was refused meanwhile.
    pub cpu_throttled_ns: Option<u64>,
    /// Time of one CPU that the hypervisor gave to others meanwhile.
    pub steal_ns: Option<u64>,
    /// What could not be seen.
    pub gaps: Gaps,
}

/// Where the time went, in nanoseconds. They add up to the latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The thread ran.
    pub on_cpu_ns: u64,
    /// It could have run, but had no CPU.
    pub run_queue_ns: u64,
    /// The filesystem's journal committed; [`JournalParts`] says what it did meanwhile.
    pub journal_ns: u64,
    /// A request for the file waited for the device.
    pub queue_ns: u64,
    /// The device worked on one.
    pub device_ns: u64,
    /// The device wrote its cache to its medium.
    pub flush_ns: u64,
    /// The cgroup's IO limit held the file's pages back.
    pub throttle_ns: u64,
    /// The hypervisor gave our CPU to others.
    pub steal_ns: u64,
    /// No evidence.
    pub unexplained_ns: u64,
}

impl Parts {
    /// Names, in the order of [`Self::values`].
    pub const NAMES: [&str; 9] =
        ["on_cpu", "run_queue", "journal", "queue", "device", "flush", "throttle", "steal", "unexplained"];

    /// All of them.
    pub const fn values(&self) -> [u64; 9] {
        [
            self.on_cpu_ns,
            self.run_queue_ns,
            self.journal_ns,
            self.queue_ns,
            self.device_ns,
            self.flush_ns,
            self.throttle_ns,
            self.steal_ns,
            self.unexplained_ns,
        ]
    }
}

/// What the journal did in [`Parts::journal_ns`]; what is left waited for handles, CPU or room in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalParts {
    /// The device worked on its request.
    pub device_ns: u64,
    /// Its request waited for the device.
    pub queue_ns: u64,
    /// It waited for a flush.
    pub flush_ns: u64,
}

/// What is known of a slow sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Autopsy {
    /// Where the time went.
    pub parts: Parts,
    /// More of [`Parts::journal_ns`].
    pub journal: JournalParts,
    /// Of [`Parts::run_queue_ns`]: the cgroup's CPU quota was used up.
    pub cpu_quota_ns: u64,
    /// Time in which we waited for disks (queue, device, flush, the journal's included): what culprits share.
    pub wait_ns: u64,
    /// Who else used the disks, the worst first.
    pub culprits: Vec<Culprit>,
    /// What could not be seen.
    pub gaps: Gaps,
}

/// See the module. Neither requests nor commits need an order, nor do they have to lie in the window: what was written before is needed to
/// tell whose data a flush had to write.
pub fn autopsy(window: &Window, requests: &[Request], commits: &[Commit], counters: &Counters) -> Autopsy {
    let own_disks = window.own_disks();
    let placed: Vec<Placed> =
        requests.iter().filter_map(|request| Placed::new(window, own_disks, counters, request)).collect();
    let mut suspects = Suspects::new(window, &placed);
    let depth = window.disks.first().map_or(0, |disk| disk.depth);
    let mut timeline = Timeline::new(window.start_ns, window.end_ns(), depth, suspects.cached_weight());
    for placed in &placed {
        placed.add_lanes(window, &mut timeline);
        suspects.add(placed, &mut timeline);
    }
    let holding: Vec<(u64, u64)> =
        commits.iter().filter_map(|commit| holds(window, own_disks, commit)).collect();
    for (from_ns, until_ns) in &holding {
        timeline.add(Lane::Commit, *from_ns, *until_ns);
    }
    add_held(window, &placed, &holding, &mut timeline);
    let swept = timeline.sweep();
    let culprits = suspects.culprits(&swept, counters.gaps);
    let mut autopsy = split(window, &swept, counters);
    autopsy.culprits = culprits;
    autopsy
}

/// From slots to parts.
fn split(window: &Window, swept: &Swept, counters: &Counters) -> Autopsy {
    let mut slots: [u64; SLOTS] = swept.slots;
    let mut rest = window.latency_ns.saturating_sub(slots.iter().sum());
    let mut runnable = window.run_delay_ns;
    let mut take = |from: &mut u64| {
        let taken = runnable.min(*from);
        *from -= taken;
        runnable -= taken;
        taken
    };
    let mut run_queue_ns = take(&mut rest);
    for weak in [
        Slot::ThrottlePerhaps,
        Slot::QueueFull,
        Slot::FlushPerhaps,
        Slot::Journal,
        Slot::JournalQueue,
        Slot::JournalFlush,
        Slot::JournalDevice,
        Slot::Throttle,
    ] {
        run_queue_ns += take(&mut slots[weak as usize]);
    }
    let on_cpu_ns = window.on_cpu_ns.unwrap_or(0).min(rest);
    rest -= on_cpu_ns;
    let steal_ns = counters.steal_ns.unwrap_or(0).min(rest);
    rest -= steal_ns;
    let of = |slot: Slot| slots[slot as usize];
    let journal = JournalParts {
        device_ns: of(Slot::JournalDevice),
        queue_ns: of(Slot::JournalQueue),
        flush_ns: of(Slot::JournalFlush),
    };
    Autopsy {
        parts: Parts {
            on_cpu_ns,
            run_queue_ns,
            journal_ns: of(Slot::Journal) + journal.device_ns + journal.queue_ns + journal.flush_ns,
            queue_ns: of(Slot::Queue) + of(Slot::QueueFull),
            device_ns: of(Slot::Device),
            flush_ns: of(Slot::Flush) + of(Slot::FlushPerhaps),
            throttle_ns: of(Slot::Throttle) + of(Slot::ThrottlePerhaps),
            steal_ns,
            unexplained_ns: rest,
        },
        journal,
        cpu_quota_ns: counters.cpu_throttled_ns.unwrap_or(0).min(run_queue_ns),
        wait_ns: swept.wait_ns,
        culprits: Vec::new(),
        gaps: counters.gaps,
    }
}

#[cfg(test)]
mod tests;
