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
        stats: Mapped,
    ) -> Self {
        Self { map, syncs, sync_places, stats, slots: [const { None }; SLOTS], next: 0, generation: 0 }
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
        self.sweep(slot);
        last
    }

    /// Forgets syncs of a slot that have begun and will not be seen to end.
    fn sweep(&mut self, slot: usize) {
        let is_of_slot = |start: SyncStart| start.last() == Some(&(slot as u64));
        self.sync_places.give_back(is_of_slot);
        let threads: Vec<u32> = self.syncs.keys().filter_map(Result::ok).collect();
        for thread in threads {
            if self.syncs.get(&thread, 0).is_ok_and(is_of_slot) {
                let _ = self.syncs.remove(&thread);
            }
        }
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

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
