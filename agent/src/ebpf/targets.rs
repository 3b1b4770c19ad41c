//! The watched processes: which slot counts which, and from where its counts began.

use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, MapError};
use etcdmon_agent_ebpf::{
    stats::SLOTS,
    sync::SYNC_START_WORDS,
    target::{CALLS, FILESYSTEM, SYSCALL, Target},
};
use etcdmon_proto::v1::Hook;

use super::{
    counters::{SLOT_WORDS, TargetCounters, sync_error_words},
    mapped::Mapped,
    places::Places,
};

/// [`Target`] as a map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct TargetValue(Target);

// SAFETY: numbers without padding, as the type asserts.
unsafe impl aya::Pod for TargetValue {}

/// The begin of a sync as words; the last is the slot.
pub(super) type SyncStart = [u64; SYNC_START_WORDS];

/// Syncs under way.
pub(super) type SyncPlaces = Places<SYNC_START_WORDS>;

/// The begin of a write call as words: when, the file, slot and generation.
pub(super) type CallStart = [u64; 3];

/// A begin this old may be of a thread that is gone; a live one is at most so long in a call that does not hang.
const OLD_NS: u64 = 60_000_000_000;

/// Most entries that are looked at in one go, as a map that changes meanwhile may not end: far more than there is room for.
const STEPS: usize = 16_384;

/// What has begun and not ended, in the maps of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Begun {
    /// Syncs.
    pub syncs: usize,
    /// Write calls.
    pub calls: usize,
}

/// A watched process.
#[derive(Debug)]
struct Watched {
    pid: u32,
    hook: Hook,
    target: Target,
    /// The slot's counters when the process got it.
    baseline: Vec<u64>,
    observed: Duration,
    observed_since: Option<Instant>,
}

/// All of them. The maps are written by this alone.
pub(super) struct Targets {
    map: HashMap<MapData, u32, TargetValue>,
    syncs: HashMap<MapData, u32, SyncStart>,
    sync_places: SyncPlaces,
    calls: HashMap<MapData, u32, CallStart>,
    stats: Mapped,
    slots: [Option<Watched>; SLOTS],
    /// Where the search for a free slot begins, so that a slot rests as long as possible before it is used again.
    next: usize,
    generation: u32,
}

impl Targets {
    pub fn new(
        map: HashMap<MapData, u32, TargetValue>,
        syncs: HashMap<MapData, u32, SyncStart>,
        sync_places: SyncPlaces,
        calls: HashMap<MapData, u32, CallStart>,
        stats: Mapped,
    ) -> Self {
        let slots = [const { None }; SLOTS];
        Self { map, syncs, sync_places, calls, stats, slots, next: 0, generation: 0 }
    }

    fn words(&self, slot: usize) -> Vec<u64> {
        (slot * SLOT_WORDS..(slot + 1) * SLOT_WORDS).map(|index| self.stats.word(index)).collect()
    }

    fn slot_of(&self, pid: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|watched| watched.pid == pid))
    }

    pub fn free_slot(&self) -> Option<usize> {
        (0..SLOTS).map(|step| (self.next + step) % SLOTS).find(|slot| self.slots[*slot].is_none())
    }

    /// Starts to count a process in a free slot.
    pub fn insert(
        &mut self,
        slot: usize,
        pid: u32,
        hook: Hook,
        slow: Duration,
        sample_every: u32,
    ) -> Result<(), MapError> {
        self.sweep();
        let generation = self.next_generation();
        let flags = if hook == Hook::Filesystem { FILESYSTEM } else { SYSCALL | CALLS };
        let slow_ns = nanoseconds(slow);
        let target = Target { slow_ns, sample_every, slot: slot as u32, flags, generation };
        let watched = Watched {
            pid,
            hook,
            target,
            baseline: self.words(slot),
            observed: Duration::ZERO,
            observed_since: (hook == Hook::Syscall).then(Instant::now),
        };
        self.map.insert(pid, TargetValue(target), 0)?;
        self.slots[slot] = Some(watched);
        self.next = (slot + 1) % SLOTS;
        Ok(())
    }

    /// Stops counting a process and returns its last counts.
    pub fn remove(&mut self, pid: u32) -> Option<TargetCounters> {
        let slot = self.slot_of(pid)?;
        // It may be gone already if another thread lost a race with us; there is nothing left to do then.
        let _ = self.map.remove(&pid);
        let last = self.counters(pid);
        self.slots[slot] = None;
        self.sweep();
        last
    }

    /// Forgets what has begun and will not be seen to end: of a process that is no longer watched, which may have been killed in
    /// the middle of it, or in a write slot that is over. What a program that was running puts there meanwhile goes with the
    /// next sweep.
    fn sweep(&mut self) {
        let slots = &self.slots;
        let watched = |slot: u64| slots.get(slot as usize).and_then(Option::as_ref);
        // Its last word is the slot.
        let is_over = |start: &SyncStart| start.last().is_some_and(|slot| watched(*slot).is_none());
        self.sync_places.give_back(|_, start| is_over(&start));
        forget(&mut self.syncs, |_, start| is_over(start));
        forget(&mut self.calls, |_, start| {
            let (slot, generation) = (start[2] & 0xffff_ffff, start[2] >> 32);
            watched(slot).is_none_or(|watched| u64::from(watched.target.generation) != generation)
        });
    }

    /// Forgets what threads had begun that are gone, as far as the programs did not see its end.
    pub fn sweep_dead(&mut self, now_ns: u64, is_alive: impl Fn(u32) -> bool) {
        let is_dead = |thread, began_ns| now_ns.saturating_sub(began_ns) > OLD_NS && !is_alive(thread);
        self.sync_places.give_back(|thread, start| is_dead(thread as u32, start[0]));
        forget(&mut self.syncs, |thread, start| is_dead(thread, start[0]));
        forget(&mut self.calls, |thread, start| is_dead(thread, start[0]));
    }

    pub fn begun(&self) -> Begun {
        let calls = self.calls.keys().take(STEPS).filter_map(Result::ok).count();
        let without_place = self.syncs.keys().take(STEPS).filter_map(Result::ok).count();
        Begun { syncs: self.sync_places.values().count() + without_place, calls }
    }

    pub fn counters(&self, pid: u32) -> Option<TargetCounters> {
        let slot = self.slot_of(pid)?;
        let watched = self.slots[slot].as_ref()?;
        let mut words = self.words(slot);
        words.iter_mut().zip(&watched.baseline).for_each(|(now, then)| *now = now.wrapping_sub(*then));
        let running = watched.observed_since.map_or(Duration::ZERO, |since| since.elapsed());
        Some(TargetCounters::from_words(&words, watched.observed + running))
    }

    /// Syncs of a process that returned an error.
    pub fn sync_errors(&self, pid: u32) -> Option<u64> {
        let slot = self.slot_of(pid)?;
        let baseline = &self.slots[slot].as_ref()?.baseline;
        let since = |at: usize| {
            let then = baseline.get(at).copied().unwrap_or(0);
            self.stats.word(slot * SLOT_WORDS + at).wrapping_sub(then)
        };
        Some(sync_error_words().map(since).sum())
    }

    /// Processes and their hooks.
    pub fn hooks(&self) -> impl Iterator<Item = (u32, Hook)> {
        self.slots.iter().flatten().map(|watched| (watched.pid, watched.hook))
    }

    pub fn any(&self, hook: Hook) -> bool {
        self.hooks().any(|(_, of)| of == hook)
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Switches the counting of write calls of the processes whose filesystem does not show them.
    pub fn observe_calls(&mut self, on: bool) -> Result<(), MapError> {
        let generation = self.next_generation();
        for watched in self.slots.iter_mut().flatten().filter(|watched| watched.hook == Hook::Filesystem) {
            if !on && let Some(since) = watched.observed_since.take() {
                watched.observed += since.elapsed();
            }
            watched.target.flags = if on { FILESYSTEM | CALLS } else { FILESYSTEM };
            watched.target.generation = generation;
            self.map.insert(watched.pid, TargetValue(watched.target), 0)?;
            if on && watched.observed_since.is_none() {
                watched.observed_since = Some(Instant::now());
            }
        }
        if !on {
            self.sweep();
        }
        Ok(())
    }

    /// Changes what has a record, of one process or all.
    pub fn set_records(
        &mut self,
        pid: Option<u32>,
        slow: Duration,
        sample_every: u32,
    ) -> Result<(), MapError> {
        for watched in
            self.slots.iter_mut().flatten().filter(|watched| pid.is_none_or(|pid| watched.pid == pid))
        {
            watched.target.slow_ns = nanoseconds(slow);
            watched.target.sample_every = sample_every;
            self.map.insert(watched.pid, TargetValue(watched.target), 0)?;
        }
        Ok(())
    }
}

/// Removes the entries of threads that `is_over` says are.
fn forget<const N: usize>(map: &mut HashMap<MapData, u32, [u64; N]>, is_over: impl Fn(u32, &[u64; N]) -> bool)
where
    [u64; N]: aya::Pod,
{
    let found = map.iter().take(STEPS).filter_map(Result::ok);
    let over: Vec<u32> =
        found.filter(|(thread, start)| is_over(*thread, start)).map(|(thread, _)| thread).collect();
    for thread in over {
        let _ended_meanwhile = map.remove(&thread);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
