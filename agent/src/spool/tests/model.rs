//! The spool against a model of it: generated histories with kills in the middle of a write, full and failing disks, a cap on the rate,
//! keys that come and go, and files that rot, are cut, swapped or copied.
//!
//! `ETCD_MONITOR_FULL=1` runs 10,000 histories, the gate fewer. A failure names its seed; `SPOOL_MODEL_SEED=n` runs that one alone.

use std::collections::{BTreeMap, BTreeSet};

use super::memory::MemoryFiles;
use super::*;
use crate::spool::pool::Spot;
use crate::spool::segment::Head;
use crate::spool::version1;

/// Histories in the gate.
const GATE_HISTORIES: u64 = 1_000;

/// Histories with `ETCD_MONITOR_FULL=1`.
const FULL_HISTORIES: u64 = 10_000;

/// Epoch of what an agent with version 1 of the format left.
const VERSION_1_EPOCH: u8 = 255;

/// Random numbers that depend on the seed alone.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(self.below(all.len() as u64) as usize).copied()
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Held,
    Acknowledged,
    /// Counted, with the reason.
    Dropped(&'static str),
    /// With the memory of a process that was killed.
    LostAtKill,
    /// Settled by a process that was killed in the same breath: nobody was told.
    LostWithAccount,
    /// With bytes that were counted as unreadable.
    Unreadable,
}

#[derive(Debug)]
struct Pushed {
    size: usize,
    at_ns: u64,
    fate: Fate,
}

struct Model {
    dice: Dice,
    files: MemoryFiles,
    limits: Limits,
    spool: Option<Spool<MemoryFiles>>,
    epoch: u8,
    sequence: u64,
    now: u64,
    last_tick: u64,
    batches: BTreeMap<BatchId, Pushed>,
    in_flight: Vec<BatchId>,
    /// Nothing has stood in the way of writing since the process started.
    unhindered: bool,
    /// Settled while writes failed: nothing on disk may say so.
    may_return: BTreeSet<BatchId>,
    /// With the sender, and back in memory: its room had to go and no other was to be had.
    exposed: BTreeSet<BatchId>,
    /// What a slot held some time ago.
    snapshot: Vec<u8>,
    /// Bytes of files that appeared from nowhere.
    planted: u64,
    /// A file was cut.
    cut: bool,
    /// Files were damaged since the process started.
    rotten: bool,
    seen: Seen,
}

/// What a run of histories has brought about: a model that never meets a fault proves nothing.
#[derive(Debug, Default)]
struct Seen {
    kills: u64,
    torn: u64,
    stops: u64,
    damages: u64,
    corruptions: u64,
    acknowledged: u64,
    lost: u64,
    dropped: BTreeMap<&'static str, u64>,
}

/// The number of a batch, which it carries as its count of syncs: whoever counts it names it.
fn serial(id: BatchId) -> u64 {
    u64::from(id.epoch[0]) << 32 | id.sequence
}

fn id_of(counts: Counts) -> BatchId {
    BatchId { epoch: [(counts.syncs >> 32) as u8; 16], sequence: counts.syncs & 0xffff_ffff }
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let limits = Limits {
            disk_bytes: 30_000 + dice.below(60_000),
            ram_bytes: 10_000 + dice.below(10_000),
            write_bytes_per_second: if dice.one_in(3) { 500 + dice.below(3_000) } else { 0 },
            when_full: if dice.one_in(3) { WhenFull::DropNewest } else { WhenFull::DropOldest },
        };
        let files = MemoryFiles::default();
        files.disk().no_preallocation = dice.one_in(5);
        let mut model = Self {
            dice,
            files,
            limits,
            spool: None,
            epoch: 0,
            sequence: 0,
            now: 0,
            last_tick: 0,
            batches: BTreeMap::new(),
            in_flight: Vec::new(),
            unhindered: true,
            may_return: BTreeSet::new(),
            exposed: BTreeSet::new(),
            snapshot: Vec::new(),
            planted: 0,
            cut: false,
            rotten: false,
            seen: Seen::default(),
        };
        if model.dice.one_in(4) {
            model.plant_version_1();
        }
        model.start(&BTreeMap::new(), &BTreeSet::new());
        model
    }

    fn plant_version_1(&mut self) {
        for number in 0..1 + self.dice.below(2) {
            let mut content = Vec::new();
            for _record in 0..1 + self.dice.below(4) {
                self.sequence += 1;
                let id = BatchId { epoch: [VERSION_1_EPOCH; 16], sequence: self.sequence };
                let size = 1 + self.dice.below(1_000) as usize;
                let made = self.batch(id, size);
                let title = Title { id, counts: made.counts, span_ns: made.span_ns };
                content.extend(version1::testing::record(&title, &made.payload));
                self.batches.insert(id, Pushed { size, at_ns: 0, fate: Fate::Held });
            }
            self.files.disk().files.insert(FileName::Version1(number), content);
        }
    }

    fn batch(&self, id: BatchId, size: usize) -> Batch {
        let mut made = batch(id.epoch[0], id.sequence, size, self.now);
        made.counts.syncs = serial(id);
        made
    }

    fn spool(&mut self) -> &mut Spool<MemoryFiles> {
        self.spool.as_mut().expect("running")
    }

    fn set(&mut self, id: BatchId, fate: Fate) {
        self.batches.get_mut(&id).expect("known").fate = fate;
    }

    fn fate(&self, id: BatchId) -> Fate {
        self.batches.get(&id).unwrap_or_else(|| panic!("{id:?} was never pushed")).fate
    }

    fn note(&mut self, dropped: Vec<Dropped>) {
        for dropped in dropped {
            let id = id_of(dropped.counts);
            assert_eq!(self.fate(id), Fate::Held, "{id:?} dropped as {}", dropped.reason);
            assert!(dropped.reason == "refused" || !self.in_flight.contains(&id), "{dropped:?} in flight");
            if let Some(bytes) = &dropped.payload {
                assert_eq!(*bytes, payload(id.epoch[0], id.sequence, self.batches[&id].size));
            }
            *self.seen.dropped.entry(dropped.reason).or_default() += 1;
            self.set(id, Fate::Dropped(dropped.reason));
        }
    }

    /// Which batches lie where on disk.
    fn on_disk(&self) -> BTreeMap<BatchId, (FileName, Spot)> {
        let spool = self.spool.as_ref().expect("running");
        let spot = |entry: &Entry| match entry.place {
            Place::Disk(spot) => Some((entry.title.id, (spool.pool.file(spot.segment)?, spot))),
            Place::Ram(_) => None,
        };
        spool.sealed.iter().chain(&spool.entries).filter_map(spot).collect()
    }

    fn held(&self) -> BTreeSet<BatchId> {
        let spool = self.spool.as_ref().expect("running");
        spool.sealed.iter().chain(&spool.entries).map(|entry| entry.title.id).collect()
    }

    /// A new process. `on_disk` is what lay where when the last one ended; `excused` may be missing without a count.
    fn start(&mut self, on_disk: &BTreeMap<BatchId, (FileName, Spot)>, excused: &BTreeSet<BatchId>) {
        let opened = Spool::open(self.files.clone(), self.limits, self.keys(), [self.epoch + 1; 16]);
        let (spool, recovery) = opened.expect("readable");
        self.epoch += 1;
        self.sequence = 0;
        self.in_flight.clear();
        self.rotten = false;
        self.unhindered = self.limits.write_bytes_per_second == 0;
        self.spool = Some(spool);
        self.seen.corruptions += recovery.corruptions.len() as u64;
        let held = self.held();
        for id in &held {
            match self.fate(*id) {
                Fate::Held => {}
                settled => {
                    // Harmless: the aggregator knows it. But not without a cause that was counted.
                    let file = self.on_disk()[id].0;
                    let damaged = recovery.corruptions.iter().any(|corruption| corruption.file == file);
                    // Version 1 had nothing to check the state of a record by.
                    let version_1 = matches!(file, FileName::Version1(_)) && self.seen.damages > 0;
                    let excused = damaged || version_1 || self.may_return.contains(id);
                    assert!(excused, "{id:?} in {file} comes back after {settled:?}");
                    self.set(*id, Fate::Held);
                }
            }
        }
        let (again, dropped): (Vec<_>, Vec<_>) =
            recovery.dropped.into_iter().partition(|dropped| self.fate(id_of(dropped.counts)) != Fate::Held);
        for id in again.iter().map(|dropped| id_of(dropped.counts)) {
            let excused = !recovery.corruptions.is_empty() || self.may_return.contains(&id);
            assert!(excused, "{id:?} is counted again after {:?}", self.fate(id));
        }
        self.note(dropped);
        let missing: Vec<BatchId> = self
            .batches
            .iter()
            .filter(|(id, pushed)| pushed.fate == Fate::Held && !held.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in missing {
            let Some((file, spot)) = on_disk.get(&id) else {
                self.seen.lost += 1;
                let told = !excused.contains(&id);
                self.set(id, if told { Fate::LostAtKill } else { Fate::LostWithAccount });
                continue;
            };
            let end = spot.offset + 112 + u64::from(spot.length);
            let counted = recovery.corruptions.iter().any(|corruption| {
                // Of a file without a head nobody knows how long it was before it was cut.
                let anywhere = self.cut && corruption.offset == 0;
                let there = corruption.offset < end && spot.offset < corruption.offset + corruption.bytes;
                corruption.file == *file && (anywhere || there)
            });
            // Version 1 had no mark behind its last record: what was cut off can't be told from what never was.
            let untold = matches!(file, FileName::Version1(_)) && self.cut;
            assert!(
                counted || untold || excused.contains(&id),
                "{id:?} of {file} {spot:?} vanished: {:?}",
                recovery.corruptions
            );
            self.set(id, if counted { Fate::Unreadable } else { Fate::LostWithAccount });
        }
        self.cut = false;
        self.check_checkpoint(&recovery.checkpoint);
    }

    /// The checkpoint never claims a batch that is lost.
    fn check_checkpoint(&self, checkpoint: &Checkpoint) {
        let Some(kept) = checkpoint.processes.get(&PROCESS) else { return };
        let (epoch, sequence) = (kept.cluster_id as u8, kept.until_ns as u64);
        let claimed = self.batches.iter().filter(|(id, pushed)| {
            !self.exposed.contains(id)
                && id.epoch[0] == epoch
                && id.sequence <= sequence
                && pushed.fate == Fate::LostAtKill
        });
        let claimed: Vec<_> = claimed.collect();
        assert!(claimed.is_empty(), "the checkpoint stands at {epoch}/{sequence}: {claimed:?}");
    }

    fn keys(&mut self) -> Keys {
        let key = |number: u8| Some(Key::new(&[number; 32]));
        match self.dice.below(8) {
            0..=3 => Keys { current: key(1), old: key(2) },
            4 => Keys { current: key(2), old: key(1) },
            5 => Keys { current: key(2), old: None },
            6 => Keys { current: key(3), old: None },
            _ => Keys::default(),
        }
    }

    fn step(&mut self) {
        self.now += 1 + self.dice.below(2 * SECOND);
        if self.dice.one_in(25) && self.files.disk().fuse.is_none() {
            let fuse = self.dice.below(6_000);
            self.files.disk().fuse = Some(fuse);
        }
        let before = self.on_disk();
        let (mut gone, mut settled) = (Vec::new(), None);
        let failing = self.files.disk().failing_writes > 0;
        match self.dice.below(20) {
            0..=5 => gone = self.push(),
            6..=10 => gone = self.take(),
            11..=13 => settled = self.acknowledge(),
            14 => gone = self.refuse(),
            15..=17 => {
                let now = self.now;
                self.last_tick = now;
                gone = self.spool().tick(now);
            }
            18 => self.give_back(),
            _ => self.hinder(),
        }
        if self.files.disk().killed {
            return self.buried(&before, &gone, settled);
        }
        if failing {
            self.may_return.extend(gone.iter().map(|dropped| id_of(dropped.counts)).chain(settled));
        }
        self.note(gone);
        if let Some(id) = settled {
            self.seen.acknowledged += 1;
            self.set(id, Fate::Acknowledged);
        }
        self.check();
        match self.dice.below(40) {
            0 => self.end(false),
            1 => self.end(true),
            2 => self.rot_alive(),
            _ => {}
        }
    }

    fn push(&mut self) -> Vec<Dropped> {
        self.sequence += 1;
        let id = BatchId { epoch: [self.epoch; 16], sequence: self.sequence };
        let size = match self.dice.below(20) {
            0 => 20_000,
            1..=3 => 4_000,
            _ => 1 + self.dice.below(1_500),
        } as usize;
        let (made, now) = (self.batch(id, size), self.now);
        self.batches.insert(id, Pushed { size, at_ns: now, fate: Fate::Held });
        self.spool().push(made, now)
    }

    fn take(&mut self) -> Vec<Dropped> {
        let (taken, dropped) = self.spool().take();
        if let Some(outgoing) = taken {
            let id = outgoing.id;
            assert_eq!(self.fate(id), Fate::Held, "{id:?}");
            assert!(!self.in_flight.contains(&id), "{id:?} is in flight");
            assert_eq!(outgoing.payload, payload(id.epoch[0], id.sequence, self.batches[&id].size));
            assert_eq!(outgoing.maybe_sent_before, id.epoch[0] != self.epoch);
            self.in_flight.push(id);
        }
        dropped
    }

    fn one_in_flight(&mut self) -> Option<BatchId> {
        let which = self.dice.below(self.in_flight.len() as u64) as usize;
        // Mostly the oldest, as an aggregator does.
        let which = if self.dice.one_in(3) { which } else { 0 };
        (!self.in_flight.is_empty()).then(|| self.in_flight.remove(which))
    }

    fn acknowledge(&mut self) -> Option<BatchId> {
        let id = self.one_in_flight()?;
        assert!(self.spool().acknowledge(id), "what is in flight is never dropped");
        Some(id)
    }

    fn refuse(&mut self) -> Vec<Dropped> {
        let Some(id) = self.one_in_flight() else { return Vec::new() };
        let refused = self.spool().refuse(id).expect("what is in flight is never dropped");
        vec![refused]
    }

    fn give_back(&mut self) {
        if let Some(id) = self.one_in_flight() {
            self.spool().give_back(id);
        }
    }

    fn hinder(&mut self) {
        self.unhindered = false;
        let kind = self.dice.below(3);
        let failing = self.dice.below(4) as u32;
        // A head that could not be written in full has spoilt the one that was there.
        self.rotten |= kind == 0;
        let mut disk = self.files.disk();
        match kind {
            0 => disk.failing_writes = failing,
            1 => disk.full = true,
            _ => disk.full = false,
        }
    }

    /// The process died in the middle of an action; what it returned is what it would have said.
    fn buried(
        &mut self,
        before: &BTreeMap<BatchId, (FileName, Spot)>,
        gone: &[Dropped],
        settled: Option<BatchId>,
    ) {
        self.seen.kills += 1;
        self.seen.torn += 1;
        // Whoever was to go may be gone, or half gone, or still there; nobody else.
        let mut excused: BTreeSet<BatchId> = gone.iter().map(|dropped| id_of(dropped.counts)).collect();
        excused.extend(settled);
        if gone.iter().any(|dropped| dropped.reason == "spool_full") {
            // What the sender has was about to move out of the room that was given up.
            excused.extend(&self.in_flight);
        }
        excused.extend(self.victims(before, &excused));
        self.note_exposed();
        self.spool = None;
        self.revive();
        self.start(before, &excused);
        if let Some(id) = settled.filter(|id| self.fate(*id) == Fate::LostWithAccount) {
            self.set(id, Fate::Acknowledged);
        }
        self.check();
    }

    /// What lay in the segments that the dying process was about to overwrite, or had just.
    fn victims(
        &self,
        before: &BTreeMap<BatchId, (FileName, Spot)>,
        excused: &BTreeSet<BatchId>,
    ) -> BTreeSet<BatchId> {
        if self.limits.when_full == WhenFull::DropNewest {
            return BTreeSet::new();
        }
        let segment = |id: &BatchId| before.get(id).map(|(_, spot)| spot.segment);
        let mut segments: BTreeSet<_> = excused.iter().filter_map(segment).collect();
        let droppable = before.keys().filter(|id| !self.in_flight.contains(id) && !excused.contains(id));
        segments.extend(droppable.filter_map(segment).min());
        before.iter().filter(|(_, (_, spot))| segments.contains(&spot.segment)).map(|(id, _)| *id).collect()
    }

    fn revive(&mut self) {
        let mut disk = self.files.disk();
        (disk.killed, disk.fuse, disk.failing_writes, disk.full) = (false, None, 0, false);
    }

    fn end(&mut self, graceful: bool) {
        let now = self.now;
        if graceful {
            self.seen.stops += 1;
            let before = self.on_disk();
            let dropped = self.spool().write_all(now);
            if self.files.disk().killed {
                return self.buried(&before, &dropped, None);
            }
            self.note(dropped);
            let failed = self.files.disk().full || self.spool().write_failures > 0;
            let all_fit = self.limits.when_full == WhenFull::DropOldest && !failed;
            let on_disk = self.on_disk().len();
            let too_large =
                self.batches.values().any(|pushed| pushed.size as u64 + 1_000 > self.limits.disk_bytes);
            if all_fit && !too_large && self.in_flight.is_empty() {
                assert_eq!(on_disk, self.held().len(), "all is on disk");
            }
        } else {
            self.seen.kills += 1;
            self.check_five_seconds();
        }
        let on_disk = self.on_disk();
        self.spool = None;
        self.revive();
        if self.dice.one_in(2) {
            self.rot(&on_disk);
        } else {
            self.start(&on_disk, &BTreeSet::new());
        }
        self.check();
    }

    /// Where nothing stood in the way, only the last five seconds are lost.
    fn check_five_seconds(&self) {
        // What the sender has may fill the disk, and is not dropped to make room.
        let hindered = !self.unhindered || !self.in_flight.is_empty();
        if hindered || self.limits.when_full == WhenFull::DropNewest {
            return;
        }
        let on_disk = self.on_disk();
        for id in self.held().into_iter().filter(|id| !on_disk.contains_key(id)) {
            let pushed = &self.batches[&id];
            let young = pushed.at_ns + 5 * SECOND > self.last_tick;
            let large = pushed.size as u64 + 1_000 > self.limits.disk_bytes;
            assert!(young || large, "{id:?} was still in memory");
        }
    }

    /// Damages files at rest, and starts on what is left.
    fn rot(&mut self, on_disk: &BTreeMap<BatchId, (FileName, Spot)>) {
        self.seen.damages += 1;
        let names: Vec<FileName> = self.files.disk().files.keys().copied().collect();
        let Some(name) = self.dice.of(&names) else { return self.start(on_disk, &BTreeSet::new()) };
        let mut moved = on_disk.clone();
        if self.dice.one_in(3) && matches!(name, FileName::Slot(_)) {
            self.snapshot = self.files.disk().files[&name].clone();
        }
        let kind = self.dice.below(6);
        let other = self.dice.of(&names).expect("there is one");
        let at = self.dice.next() as usize;
        let mut disk = self.files.disk();
        let content = disk.files[&name].clone();
        match (kind, name, other) {
            (0, ..) if !content.is_empty() => {
                disk.files.get_mut(&name).expect("there")[at % content.len()] ^= 1 << ((at >> 32) % 8);
            }
            (1, ..) => {
                disk.files.get_mut(&name).expect("there").truncate(at % (content.len() + 1));
                self.cut = true;
            }
            (2, FileName::Slot(_), FileName::Slot(_)) => {
                let swapped = disk.files.insert(other, content).expect("there");
                disk.files.insert(name, swapped);
                for (file, _) in moved.values_mut() {
                    *file = if *file == name {
                        other
                    } else if *file == other {
                        name
                    } else {
                        *file
                    };
                }
            }
            (3, FileName::Slot(_), _) => {
                let unused = (0..).map(FileName::Slot).find(|slot| !disk.files.contains_key(slot));
                disk.files.insert(unused.expect("a number"), content);
            }
            (3, FileName::Version1(_), _) => {
                disk.files.insert(FileName::Version1(at as u64), content);
            }
            (4, ..) if !content.is_empty() => {
                let from = at % content.len();
                let until = (from + (at >> 32) % 300).min(content.len());
                disk.files.get_mut(&name).expect("there")[from..until].fill((at >> 48) as u8);
            }
            (5, ..) => {
                let original = Head::decode(&self.snapshot);
                let known = |(file, content): (&FileName, &Vec<u8>)| {
                    let (head, old) = (Head::decode(content)?, original?);
                    let in_place = *file == FileName::Slot(head.slot);
                    let newer = (head.generation, in_place) > (old.generation, false);
                    (head.slot == old.slot && newer).then_some(())
                };
                // Without the slot that it was copied from nobody can tell that it is old.
                if disk.files.iter().find_map(known).is_none() {
                    self.may_return.extend(self.batches.keys());
                    self.planted += self.snapshot.len() as u64;
                }
                let unused = (0..).map(FileName::Slot).find(|slot| !disk.files.contains_key(slot));
                disk.files.insert(unused.expect("a number"), self.snapshot.clone());
            }
            _ => {}
        }
        if let (FileName::Version1(_), Some(content)) = (name, disk.files.get_mut(&name)) {
            // A state byte that became 1 was beyond that version, which had nothing to check it by.
            for (_, spot) in on_disk.values().filter(|(file, _)| *file == name) {
                let state = content.get_mut(spot.offset as usize + 6).filter(|state| **state == 1);
                state.into_iter().for_each(|state| *state = 0);
            }
        }
        drop(disk);
        let lossless = !std::mem::take(&mut self.rotten)
            && matches!((kind, name), (2 | 3, FileName::Slot(_)) | (3 | 5, _));
        let before: BTreeSet<BatchId> = on_disk.keys().copied().collect();
        self.start(&moved, &BTreeSet::new());
        if lossless {
            let missing: Vec<_> =
                before.difference(&self.held()).map(|id| (*id, self.fate(*id), &on_disk[id])).collect();
            assert!(
                missing.is_empty(),
                "moved or copied files cost nothing: {missing:?} {kind} {name} {other}"
            );
        }
    }

    /// Damages what a process has written, while it runs.
    fn rot_alive(&mut self) {
        let mut names: Vec<FileName> = self.files.disk().files.keys().copied().collect();
        names.retain(|name| matches!(name, FileName::Slot(_)));
        let Some(name) = self.dice.of(&names) else { return };
        self.seen.damages += 1;
        self.rotten = true;
        let (at, bit) = (self.dice.next() as usize, self.dice.below(8));
        let mut disk = self.files.disk();
        let content = disk.files.get_mut(&name).expect("there");
        if !content.is_empty() {
            let at = at % content.len();
            content[at] ^= 1 << bit;
        }
    }

    fn note_exposed(&mut self) {
        let spool = self.spool.as_ref().expect("running");
        let back = spool.entries.iter().filter(|entry| !entry.is_on_disk() && entry.oldest_mono_ns == 0);
        self.exposed.extend(back.map(|entry| entry.title.id));
    }

    fn check(&mut self) {
        self.note_exposed();
        let usage = self.spool().usage();
        let held = self.held();
        let expected: BTreeSet<BatchId> =
            self.batches.iter().filter(|(_, pushed)| pushed.fate == Fate::Held).map(|(id, _)| *id).collect();
        assert_eq!(held, expected, "what is neither settled nor counted is held");
        assert_eq!(usage.batches + usage.sealed_batches, held.len() as u64);
        assert!(usage.disk_bytes <= usage.allocated_bytes);
        let allowed = self.limits.disk_bytes + self.planted;
        assert!(usage.allocated_bytes <= allowed, "{usage:?} {:?}", self.limits);
        let disk = self.files.disk();
        let there: u64 = disk.files.values().map(|content| content.len() as u64).sum();
        if disk.no_preallocation {
            assert!(there <= usage.allocated_bytes, "{there} {usage:?}");
        } else {
            assert_eq!(there, usage.allocated_bytes, "the budget is about what is really there");
        }
        drop(disk);
        let in_flight: u64 = self.in_flight.iter().map(|id| self.batches[id].size as u64).sum();
        assert!(usage.ram_bytes <= self.limits.ram_bytes + in_flight, "{usage:?} {:?}", self.limits);
    }
}

#[test]
fn whatever_happens_the_spool_does_as_its_model() {
    let alone: Option<u64> = std::env::var("SPOOL_MODEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let full = std::env::var_os("ETCD_MONITOR_FULL").is_some();
    let histories = if full { FULL_HISTORIES } else { GATE_HISTORIES };
    let seeds = alone.map_or(0..histories, |seed| seed..seed + 1);
    let mut all = Seen::default();
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut model = Model::new(seed);
            for _step in 0..20 + model.dice.below(150) {
                model.step();
            }
            model.seen
        });
        let seen = run.unwrap_or_else(|_| panic!("history {seed}: run it with SPOOL_MODEL_SEED={seed}"));
        all.add(seen);
    }
    println!("{all:?}");
    assert!(alone.is_some() || all.is_telling(), "the histories are too tame: {all:?}");
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.torn += other.torn;
        self.stops += other.stops;
        self.damages += other.damages;
        self.corruptions += other.corruptions;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        for (reason, count) in other.dropped {
            *self.dropped.entry(reason).or_default() += count;
        }
    }

    fn is_telling(&self) -> bool {
        let reasons = ["spool_full", "spool_sealed", "disk_full", "write_rate", "refused", "spool_corrupt"];
        let numbers = [self.torn, self.stops, self.damages, self.corruptions, self.acknowledged, self.lost];
        numbers.iter().all(|number| *number > 0)
            && reasons.iter().all(|reason| self.dropped.contains_key(reason))
    }
}
