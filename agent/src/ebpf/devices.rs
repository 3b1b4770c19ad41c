//! The watched disks and what is known of their requests.

use std::{
    collections::HashMap as StdHashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use etcdmon_agent_ebpf::{
    commit::{COMMIT_WORDS, COMMITS},
    failure::FAILURES,
    request::{DEVICES, Heads, Queue, REQUEST_WORDS, REQUESTS},
};

use crate::autopsy::evidence::{Commit, Request};

use super::{
    Degraded, ProbeError,
    circular::{Circular, Position},
    evidence::{self, CommitWords, RequestWords},
    lock,
    mapped::Mapped,
    monotonic_ns,
    places::Places,
    start::{map_error, mapped},
};

const REQUEST_ARRAY: Circular = Circular { entries: REQUESTS, words: REQUEST_WORDS };
const COMMIT_ARRAY: Circular = Circular { entries: COMMITS, words: COMMIT_WORDS };
const HEAD_WORDS: usize = size_of::<Heads>() / 8;
const QUEUE_WORDS: usize = size_of::<Queue>() / 8;

/// Elements looked at in a hash that changes meanwhile: the kernel begins anew when the last one it showed is gone.
const STEPS: usize = 8192;

/// Longer than any program runs.
const PROGRAMS_END: Duration = Duration::from_millis(50);

/// Reads, writes and flushes of a disk that ended with an error, since the programs were loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFailures {
    /// The disk, `(major << 20) | minor`.
    pub device: u32,
    /// The error, positive.
    pub errno: i32,
    /// How many.
    pub count: u64,
}

/// The maps that are not mapped.
struct Tables {
    devices: HashMap<MapData, u32, u64>,
    queues: HashMap<MapData, u64, [u64; QUEUE_WORDS]>,
    in_flight: HashMap<MapData, u64, RequestWords>,
    committing: HashMap<MapData, u64, CommitWords>,
    failures: HashMap<MapData, u64, u64>,
    wanted: Vec<u32>,
    /// Hooks that can't be attached.
    degraded: Vec<Degraded>,
    /// The hooks of requests hang.
    are_seen: bool,
}

/// Everything about disks. Reading the circular arrays takes no lock and no syscall.
pub(super) struct Devices {
    heads: Mapped,
    requests: Mapped,
    commits: Mapped,
    requests_under_way: Places<REQUEST_WORDS>,
    commits_under_way: Places<COMMIT_WORDS>,
    /// Requests whose end was not seen, counted when that showed.
    given_up: AtomicU64,
    /// Locked after everything else.
    tables: Mutex<Tables>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Devices").field("wanted", &lock(&self.tables).wanted).finish_non_exhaustive()
    }
}

impl Devices {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let mut map =
            |name: &'static str| ebpf.take_map(name).ok_or_else(|| map_error(name, "not in the object"));
        macro_rules! hash {
            ($name:literal) => {
                HashMap::try_from(map($name)?).map_err(|source| map_error($name, source))?
            };
        }
        Ok(Self {
            heads: mapped(map("HEADS")?, "HEADS", HEAD_WORDS)?,
            requests: mapped(map("REQUESTS")?, "REQUESTS", REQUESTS * REQUEST_WORDS)?,
            commits: mapped(map("COMMITS")?, "COMMITS", COMMITS * COMMIT_WORDS)?,
            requests_under_way: Places::new(map("REQUEST_PLACES")?, "REQUEST_PLACES")?,
            commits_under_way: Places::new(map("COMMIT_PLACES")?, "COMMIT_PLACES")?,
            given_up: AtomicU64::new(0),
            tables: Mutex::new(Tables {
                devices: hash!("DEVICES"),
                queues: hash!("QUEUES"),
                in_flight: hash!("IN_FLIGHT"),
                committing: hash!("COMMITTING"),
                failures: hash!("FAILURES"),
                wanted: Vec::new(),
                degraded: Vec::new(),
                are_seen: false,
            }),
        })
    }

    /// Sets which disks are to be watched.
    pub fn want(&self, devices: &[u32]) -> Result<(), ProbeError> {
        let mut wanted: Vec<u32> = devices.iter().copied().filter(|device| *device != 0).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.len() > DEVICES {
            return Err(ProbeError::TooManyDevices { devices: wanted.len(), limit: DEVICES });
        }
        lock(&self.tables).wanted = wanted;
        Ok(())
    }

    /// Whether a disk is to be watched.
    pub fn any_wanted(&self) -> bool {
        !lock(&self.tables).wanted.is_empty()
    }

    pub fn degraded(&self) -> Vec<Degraded> {
        lock(&self.tables).degraded.clone()
    }

    /// Tells the programs which disks are watched: those that are to be, or none. `degraded` are the hooks that are off.
    pub fn settle(&self, watch: bool, degraded: Vec<Degraded>) -> Result<(), ProbeError> {
        let mut tables = lock(&self.tables);
        tables.are_seen = watch && !degraded.iter().any(|off| off.capability == "block.hooks");
        tables.degraded = degraded;
        let wanted = if watch { tables.wanted.clone() } else { Vec::new() };
        let any_gone = tables.settle(&wanted).map_err(|source| map_error("DEVICES", source))?;
        if any_gone {
            let is_over = |device| !wanted.contains(&device);
            self.requests_under_way.give_back(|_, words| is_over(evidence::request(words).device));
            self.commits_under_way.give_back(|_, words| is_over(evidence::commit(words).device));
        }
        Ok(())
    }

    pub fn requests(&self, since: Position, into: &mut Vec<Request>) -> Position {
        let head = self.heads.word(std::mem::offset_of!(Heads, requests) / 8);
        REQUEST_ARRAY.read(
            head,
            since,
            |index| self.requests.word(index),
            |words| into.extend(RequestWords::try_from(words).ok().map(evidence::request)),
        )
    }

    pub fn commits(&self, since: Position, into: &mut Vec<Commit>) -> Position {
        let head = self.heads.word(std::mem::offset_of!(Heads, commits) / 8);
        COMMIT_ARRAY.read(
            head,
            since,
            |index| self.commits.word(index),
            |words| into.extend(CommitWords::try_from(words).ok().map(evidence::commit)),
        )
    }

    pub fn requests_under_way(&self) -> Vec<Request> {
        let tables = lock(&self.tables);
        let others: StdHashMap<_, _> = tables.in_flight.iter().take(STEPS).filter_map(Result::ok).collect();
        self.requests_under_way.values().chain(others.into_values()).map(evidence::request).collect()
    }

    /// Forgets what is under way and has ended unseen, as `is_over` says.
    pub fn give_up_requests(&self, is_over: impl Fn(&Request) -> bool) {
        let mut given_up = self.requests_under_way.give_back(|_, words| is_over(&evidence::request(words)));
        let mut tables = lock(&self.tables);
        let left: Vec<(u64, RequestWords)> =
            tables.in_flight.iter().take(STEPS).filter_map(Result::ok).collect();
        for (address, words) in left {
            // One that begins anew under this address in this moment goes with it, and its end will find no begin.
            if is_over(&evidence::request(words)) && tables.in_flight.remove(&address).is_ok() {
                given_up += 1;
            }
        }
        self.given_up.fetch_add(given_up, Ordering::Relaxed);
    }

    /// How many were given up since the programs were loaded.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    pub fn commits_under_way(&self) -> Vec<Commit> {
        let tables = lock(&self.tables);
        let others: StdHashMap<_, _> = tables.committing.iter().take(STEPS).filter_map(Result::ok).collect();
        self.commits_under_way.values().chain(others.into_values()).map(evidence::commit).collect()
    }

    /// Whether requests of watched disks are seen.
    pub fn are_seen(&self) -> bool {
        lock(&self.tables).are_seen
    }

    /// How many records there were in each of the circular arrays.
    pub const fn heads(&self) -> &Mapped {
        &self.heads
    }

    pub fn failures(&self) -> Vec<RequestFailures> {
        let tables = lock(&self.tables);
        let all: StdHashMap<_, _> =
            tables.failures.iter().take(2 * FAILURES).filter_map(Result::ok).collect();
        let failures = |(words, count)| {
            let (device, errno) = evidence::failure(words);
            RequestFailures { device, errno: -errno, count }
        };
        // A device that can't do something says so, and one that is asked not to wait does not: neither is ill.
        let is_ill = |failure: &RequestFailures| {
            !matches!(failure.errno, libc::EOPNOTSUPP | libc::EAGAIN | libc::EREMCHG | libc::EBUSY)
        };
        all.into_iter().map(failures).filter(is_ill).collect()
    }
}

impl Tables {
    /// Tells the programs, and says whether any disk is no longer watched.
    fn settle(&mut self, wanted: &[u32]) -> Result<bool, MapError> {
        let watched: Vec<u32> = self.devices.keys().filter_map(Result::ok).collect();
        let gone: Vec<u32> = watched.iter().copied().filter(|device| !wanted.contains(device)).collect();
        let new: Vec<u32> = wanted.iter().copied().filter(|device| !watched.contains(device)).collect();
        for device in &gone {
            self.devices.remove(device)?;
        }
        // A request that began before every program knew the disk may only be seen to end: no loss until then.
        for device in &new {
            self.devices.insert(device, u64::MAX, 0)?;
        }
        self.forget_queues(!gone.is_empty() || !new.is_empty());
        if !new.is_empty() {
            for device in &new {
                self.devices.insert(device, monotonic_ns(), 0)?;
            }
            self.forget_queues(true);
        }
        if !gone.is_empty() {
            self.sweep(wanted);
        }
        Ok(!gone.is_empty())
    }

    /// Has the programs meet every queue anew. Programs that still know the disks of before (`changed`) have ended then. It
    /// is done even if nothing changed: a queue may have gone and another one come under the same address.
    fn forget_queues(&mut self, changed: bool) {
        if changed {
            wait_for_programs();
        }
        let queues: Vec<u64> = self.queues.keys().take(STEPS).filter_map(Result::ok).collect();
        for queue in queues {
            let _ = self.queues.remove(&queue);
        }
    }

    /// Forgets what has begun on disks that are no longer watched and will not be seen to end.
    fn sweep(&mut self, wanted: &[u32]) {
        let left: Vec<(u64, RequestWords)> =
            self.in_flight.iter().take(STEPS).filter_map(Result::ok).collect();
        for (request, words) in left {
            if !wanted.contains(&evidence::request(words).device) {
                let _ = self.in_flight.remove(&request);
            }
        }
        let left: Vec<(u64, CommitWords)> =
            self.committing.iter().take(STEPS).filter_map(Result::ok).collect();
        for (journal, words) in left {
            if !wanted.contains(&evidence::commit(words).device) {
                let _ = self.committing.remove(&journal);
            }
        }
    }
}

/// Returns when every program that was running has ended.
fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: takes two numbers. It waits for a grace period, and a program runs within one read section.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result != 0 {
        // Not offered with nohz_full.
        std::thread::sleep(PROGRAMS_END);
    }
}
