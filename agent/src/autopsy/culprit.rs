//! Who else used the disks while a sync waited for them, and how much of the wait is theirs.
//!
//! While we wait, the time of each instant is shared among all requests under way on our disks by weight: about what they
//! cost a device, a fixed part and their bytes. Our own requests and the journal's take their share as well, so the shares of
//! others never add up to more than the wait. While we wait for a flush, whatever was written since the flush before shares too:
//! it lies in the device's cache, and the flush writes it.

use std::collections::BTreeMap;

pub use etcdmon_proto::v1::{Certainty, CulpritOrigin as Origin};

use super::evidence::{Operation, Request};
use super::timeline::{BLAME_BITS, Swept, Timeline};
use super::{Gaps, Placed, Role, Window};

/// Most culprits of one sync.
pub const MOST: usize = 8;

/// What a request costs beside its bytes, in pages of 4 KiB.
const FIXED_WEIGHT: u64 = 16;

/// What one costs that makes the device flush, in pages of 4 KiB.
const FLUSH_WEIGHT: u64 = 64;

/// Nobody is named whose part of the wait is below one in so many.
const LEAST_SHARE: u64 = 100;

/// How far before its begin a flush may have to write what others left in the cache.
const CACHE_REACH_NS: u64 = 10_000_000_000;

const fn lowered(certainty: Certainty) -> Certainty {
    match certainty {
        Certainty::High => Certainty::Medium,
        Certainty::Medium | Certainty::Low | Certainty::Unspecified => Certainty::Low,
    }
}

/// Somebody who used the disks while a sync waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// How it is known.
    pub origin: Origin,
    /// The process; 0 where workers acted for somebody who is not known.
    pub process_id: u32,
    /// Name of the thread that submitted last.
    pub comm: [u8; 16],
    /// Its cgroup; 0 = unknown.
    pub cgroup: u64,
    /// The file of its largest request, where workers acted; 0 = unknown.
    pub inode: u64,
    /// Disk of that request.
    pub device: u32,
    /// Requests that were under way in the sync, or whose data its flush had to write.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that asked for a flush.
    pub syncs: u64,
    /// Its part of [`super::Autopsy::wait_ns`].
    pub wait_ns: u64,
    /// How sure that is.
    pub certainty: Certainty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    origin: Origin,
    process_id: u32,
    cgroup: u64,
    /// Tells files apart where nothing else does.
    inode: u64,
}

impl Who {
    fn of(window: &Window, request: &Request) -> Self {
        let charged = if request.charged > 1 { request.charged } else { 0 };
        let anonymous = |origin| {
            let inode = if charged == 0 { request.inode } else { 0 };
            Self { origin, process_id: 0, cgroup: charged, inode }
        };
        if request.is_by_jbd2() {
            return Self { inode: 0, ..anonymous(Origin::Journal) };
        }
        if request.is_by_kworker() || request.thread_id == 0 {
            if window.is_ours(charged) {
                let process_id = window.process_id;
                return Self { origin: Origin::Itself, process_id, cgroup: 0, inode: 0 };
            }
            return anonymous(Origin::Writeback);
        }
        let process_id = request.process_id;
        if process_id == window.process_id {
            return Self { origin: Origin::Itself, process_id, cgroup: 0, inode: 0 };
        }
        Self { origin: Origin::Process, process_id, cgroup: request.cgroup, inode: 0 }
    }

    const fn certainty(&self) -> Certainty {
        match self.origin {
            Origin::Process | Origin::Itself => Certainty::High,
            Origin::Writeback if self.cgroup != 0 => Certainty::Medium,
            Origin::Writeback | Origin::Journal | Origin::Unspecified => Certainty::Low,
        }
    }
}

#[derive(Debug, Default)]
struct Case {
    requests: u64,
    bytes: u64,
    syncs: u64,
    /// Weight of what it left in the cache.
    cached: u64,
    /// Places among the claims.
    claims: Vec<usize>,
    /// (queued, name, cgroup) of the newest request, for its name.
    newest: (u64, [u8; 16], u64),
    /// (bytes, inode, device) of the largest.
    largest: (u32, u64, u32),
}

/// Everybody who might be to blame.
#[derive(Debug)]
pub struct Suspects<'a> {
    window: &'a Window,
    cases: BTreeMap<Who, Case>,
    /// By disk: the cache holds what was written after the first and up to the second time.
    caches: Vec<(u32, u64, u64)>,
    cached: u64,
}

impl<'a> Suspects<'a> {
    /// Looks for what lies in caches first: the timeline needs its weight.
    pub fn new(window: &'a Window, placed: &[Placed]) -> Self {
        let caches = window.disks.iter().filter_map(|disk| cache(window, disk.device, placed)).collect();
        let mut suspects = Self { window, cases: BTreeMap::new(), caches, cached: 0 };
        suspects.cached = placed
            .iter()
            .filter(|placed| placed.role != Role::Contained && suspects.is_cached(placed))
            .fold(0, |sum, placed| sum + pages(placed.request));
        suspects
    }

    /// Weight of all that a flush has to write.
    pub const fn cached_weight(&self) -> u64 {
        self.cached
    }

    fn is_cached(&self, placed: &Placed) -> bool {
        let of_disk = |(device, after_ns, up_to_ns): &(u32, u64, u64)| {
            *device == placed.request.device
                && placed.completed_ns > *after_ns
                && placed.completed_ns <= *up_to_ns
        };
        placed.request.operation == Operation::Write && self.caches.iter().any(of_disk)
    }

    /// Takes a request into account.
    pub fn add(&mut self, placed: &Placed, timeline: &mut Timeline) {
        let request = placed.request;
        let weight = weight(request);
        match placed.role {
            // The machinery's weight is that of whoever asked for the flush.
            Role::Contained | Role::Machinery => return,
            Role::Own | Role::File { .. } | Role::Late | Role::Journal => {
                timeline.add_ours(weight, placed.queued_ns, placed.completed_ns);
                return;
            }
            Role::Foreign => {}
        }
        let is_inside = placed.queued_ns < self.window.end_ns() && placed.completed_ns > self.window.start_ns;
        let is_cached = self.is_cached(placed);
        if !is_inside && !is_cached {
            return;
        }
        let case = self.cases.entry(Who::of(self.window, request)).or_default();
        case.requests += 1;
        case.bytes += u64::from(request.bytes);
        case.syncs += u64::from(request.is_flush() || request.fua);
        case.newest = case.newest.max((placed.queued_ns, request.comm, request.cgroup));
        case.largest = case.largest.max((request.bytes, request.inode, request.device));
        if is_cached {
            case.cached += pages(request);
        }
        if is_inside {
            case.claims.push(timeline.claim(weight, placed.queued_ns, placed.completed_ns));
        }
    }

    /// The worst, with their part of the wait.
    pub fn culprits(self, swept: &Swept, gaps: Gaps) -> Vec<Culprit> {
        let least_ns = (swept.wait_ns / LEAST_SHARE).max(1);
        let mut culprits: Vec<Culprit> = self
            .cases
            .into_iter()
            .map(|(who, case)| culprit(who, &case, swept, gaps))
            .filter(|culprit| culprit.wait_ns >= least_ns)
            .collect();
        culprits.sort_by_key(|culprit| {
            let Culprit { origin, process_id, cgroup, inode, .. } = *culprit;
            (std::cmp::Reverse((culprit.wait_ns, culprit.bytes)), origin, process_id, cgroup, inode)
        });
        culprits.truncate(MOST);
        culprits
    }
}

fn culprit(who: Who, case: &Case, swept: &Swept, gaps: Gaps) -> Culprit {
    let direct: u128 = case
        .claims
        .iter()
        .filter_map(|place| swept.claimed.get(*place))
        .fold(0, |sum, one| sum.saturating_add(*one));
    let cached = swept.per_cached.saturating_mul(u128::from(case.cached));
    let nanoseconds =
        u64::try_from(direct.saturating_add(cached) >> BLAME_BITS).unwrap_or(u64::MAX).min(swept.wait_ns);
    let is_weak = gaps.overwritten || cached > direct;
    let certainty = if is_weak { lowered(who.certainty()) } else { who.certainty() };
    let (_, comm, cgroup) = case.newest;
    let (_, inode, device) = case.largest;
    Culprit {
        origin: who.origin,
        process_id: who.process_id,
        comm,
        cgroup: if who.origin == Origin::Itself { cgroup } else { who.cgroup },
        inode: if who.process_id == 0 { inode } else { 0 },
        device,
        requests: case.requests,
        bytes: case.bytes,
        syncs: case.syncs,
        wait_ns: nanoseconds,
        certainty,
    }
}

/// The span of completed writes that a flush in the window finds in a disk's cache: since the flush before. The first that is ours or the
/// journal's, else the first.
fn cache(window: &Window, device: u32, placed: &[Placed]) -> Option<(u32, u64, u64)> {
    let flushes =
        || placed.iter().filter(|placed| placed.request.device == device && placed.request.is_flush());
    let began = |placed: &Placed| placed.issued_ns.unwrap_or(placed.queued_ns);
    let inside =
        flushes().filter(|placed| placed.completed_ns > window.start_ns && began(placed) < window.end_ns());
    let (_, first_ns) =
        inside.map(|placed| (matches!(placed.role, Role::Foreign | Role::Machinery), began(placed))).min()?;
    let earlier = flushes().filter(|placed| placed.completed_ns <= first_ns);
    let after_ns = earlier.map(began).max().unwrap_or(0);
    Some((device, after_ns.max(first_ns.saturating_sub(CACHE_REACH_NS)), first_ns))
}

fn pages(request: &Request) -> u64 {
    u64::from(request.bytes).div_ceil(4096)
}

fn weight(request: &Request) -> u64 {
    let fixed = if request.is_flush() { FLUSH_WEIGHT } else { FIXED_WEIGHT };
    fixed + pages(request)
}
