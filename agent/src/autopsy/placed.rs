//! What each request is to a sync: its own, its file's, the journal's, or somebody else's.

use super::evidence::{Commit, Operation, Request};
use super::timeline::{Lane, Timeline};
use super::{Counters, Log, Window};

/// What a request is to the sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The syncing thread's own.
    Own,
    /// Of the same file, by another thread.
    File {
        /// It had been held back by the cgroup's limit.
        late: bool,
    },
    /// Charged to us and held back, of a file that is not known.
    Late,
    /// The journal's.
    Journal,
    /// The flush machinery's.
    Machinery,
    /// Contained in a request of a loop device above.
    Contained,
    /// Somebody else's.
    Foreign,
}

/// A request on one of our disks, with times that make sense.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// The request.
    pub request: &'a Request,
    /// What it is to us.
    pub role: Role,
    /// When it came to be.
    pub queued_ns: u64,
    /// When the device got it, if that is known; never before `queued_ns`.
    pub issued_ns: Option<u64>,
    /// When it was done; `u64::MAX` = not yet.
    pub completed_ns: u64,
    /// On the topmost disk.
    is_on_top: bool,
}

impl<'a> Placed<'a> {
    /// `None` when it is on another disk, or nothing is known of its time.
    pub fn new(window: &Window, own_disks: usize, counters: &Counters, request: &'a Request) -> Option<Self> {
        let layer = window.disks.iter().position(|disk| disk.device == request.device)?;
        let known = |ns: u64| (ns > 0).then_some(ns);
        let queued_ns = known(request.queued_ns).or(known(request.issued_ns))?;
        let completed_ns = known(request.completed_ns).unwrap_or(u64::MAX);
        if completed_ns < queued_ns {
            return None;
        }
        let issued_ns = known(request.issued_ns)
            .filter(|issued| *issued <= completed_ns)
            .map(|issued| issued.max(queued_ns));
        let times = Times { queued_ns, completed_ns };
        let role = if layer < own_disks {
            role_on_own_disk(window, counters, request, times)
        } else {
            role_below(window, layer, request)
        };
        Some(Self { request, role, queued_ns, issued_ns, completed_ns, is_on_top: layer == 0 })
    }

    /// Adds what it says of our own waiting.
    pub fn add_lanes(&self, window: &Window, timeline: &mut Timeline) {
        if self.is_on_top && window.disks[0].depth > 0 {
            timeline.add(Lane::Any, self.queued_ns, self.completed_ns);
        }
        let [device, flush, with_flush, fua_device, queue] = match self.role {
            Role::Own => {
                [Lane::OwnDevice, Lane::OwnFlush, Lane::OwnWithFlush, Lane::OwnFuaDevice, Lane::OwnQueue]
            }
            Role::File { .. } | Role::Late => {
                [Lane::FileDevice, Lane::FileFlush, Lane::FileWithFlush, Lane::FileFuaDevice, Lane::FileQueue]
            }
            Role::Journal => [
                Lane::JournalDevice,
                Lane::JournalFlush,
                Lane::JournalWithFlush,
                Lane::JournalFuaDevice,
                Lane::JournalQueue,
            ],
            Role::Machinery => {
                if self.is_over(window) {
                    let from_ns = self.issued_ns.unwrap_or(self.queued_ns);
                    timeline.add(Lane::Flush, from_ns, self.completed_ns);
                }
                return;
            }
            Role::Contained | Role::Foreign => return,
        };
        if self.request.is_flush() {
            timeline.add(flush, self.queued_ns, self.completed_ns);
            return;
        }
        // A request that is done has been on the device; when it got there nobody saw.
        let issued_ns = self.issued_ns.unwrap_or(self.queued_ns);
        if self.request.fua {
            // A device that can't do it is made to: a flush before the data, one after them, and only then it is done.
            timeline.add(with_flush, self.queued_ns, self.completed_ns);
            timeline.add(fua_device, issued_ns, self.completed_ns);
        } else {
            timeline.add(queue, self.queued_ns, issued_ns);
            timeline.add(device, issued_ns, self.completed_ns);
        }
    }

    /// True when it was done before the sync, as everything is that a sync waits for.
    const fn is_over(&self, window: &Window) -> bool {
        self.completed_ns <= window.end_ns()
    }
}

#[derive(Clone, Copy)]
struct Times {
    queued_ns: u64,
    completed_ns: u64,
}

fn role_on_own_disk(window: &Window, counters: &Counters, request: &Request, times: Times) -> Role {
    if request.is_machinery() {
        return Role::Machinery;
    }
    let may_hold = times.completed_ns <= window.end_ns();
    let began_inside = times.queued_ns >= window.start_ns;
    if request.thread_id == window.thread_id && request.thread_id != 0 {
        return if may_hold && began_inside { Role::Own } else { Role::Foreign };
    }
    if !may_hold {
        return Role::Foreign;
    }
    let is_file = request.inode != 0 && request.inode == window.inode;
    let is_late = request.is_by_bound_kworker()
        && window.is_ours(request.charged)
        && times.queued_ns > window.start_ns
        && counters.io_limit != Some(false);
    if is_file {
        return Role::File { late: is_late };
    }
    if is_late && request.inode == 0 {
        return Role::Late;
    }
    let is_log = match window.log {
        Log::None => false,
        Log::Jbd2 => request.is_by_jbd2(),
        Log::Workers => {
            request.is_by_kworker()
                && request.inode == 0
                && matches!(request.operation, Operation::Write)
                && request.meta
                && request.fua
        }
    };
    if is_log { Role::Journal } else { Role::Foreign }
}

/// On a disk below a loop device, whose workers act for all its users.
fn role_below(window: &Window, layer: usize, request: &Request) -> Role {
    if request.is_machinery() {
        // Asked for by requests that are looked at themselves.
        return Role::Contained;
    }
    let backs = request.inode != 0 && request.inode == window.disks[layer].backing_inode;
    let is_workers = request.is_by_kworker() || request.comm.starts_with(b"loop");
    if backs || (is_workers && window.is_ours(request.charged)) { Role::Contained } else { Role::Foreign }
}

/// When a commit kept us waiting.
pub fn holds(window: &Window, own_disks: usize, commit: &Commit) -> Option<(u64, u64)> {
    let is_disk = window.disks[..own_disks].iter().any(|disk| disk.device == commit.device);
    if commit.device != window.filesystem && !is_disk {
        return None;
    }
    let times = [commit.start_ns, commit.locking_ns, commit.flushing_ns, commit.logging_ns];
    let start_ns = times.into_iter().filter(|ns| *ns > 0).min()?;
    if commit.end_ns > 0 && commit.end_ns <= window.end_ns() {
        return (start_ns <= commit.end_ns).then_some((start_ns, commit.end_ns));
    }
    let locks = commit.locking_ns > 0
        && commit.flushing_ns > commit.locking_ns
        && commit.flushing_ns <= window.end_ns();
    locks.then_some((commit.locking_ns, commit.flushing_ns))
}

/// A late request was held back since the sync last got further.
pub fn add_held(window: &Window, placed: &[Placed], holding: &[(u64, u64)], timeline: &mut Timeline) {
    let is_late = |placed: &&Placed| matches!(placed.role, Role::File { late: true } | Role::Late);
    if !placed.iter().any(|placed| is_late(&placed)) {
        return;
    }
    let steps = placed
        .iter()
        .filter(|placed| matches!(placed.role, Role::Own | Role::File { .. } | Role::Late))
        .filter(|placed| placed.is_over(window));
    let mut steps: Vec<u64> = steps.map(|placed| placed.completed_ns).collect();
    steps.sort_unstable();
    let mut after_commit: Vec<u64> = holding.iter().map(|(_, until_ns)| *until_ns).collect();
    after_commit.sort_unstable();
    for late in placed.iter().filter(is_late) {
        // Pages go before the journal, a flush after it.
        let is_file = matches!(late.role, Role::File { .. });
        let last = last_up_to(&steps, late.queued_ns).max(window.start_ns);
        if is_file {
            timeline.add(Lane::Held, last, late.queued_ns);
        } else {
            let last = last.max(last_up_to(&after_commit, late.queued_ns));
            timeline.add(Lane::HeldPerhaps, last, late.queued_ns);
        }
    }
}

/// The last of the rising times that is not after `ns`; 0 when there is none.
fn last_up_to(times: &[u64], ns: u64) -> u64 {
    times[..times.partition_point(|time| *time <= ns)].last().copied().unwrap_or(0)
}
