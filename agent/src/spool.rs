//! Holds every batch until the aggregator has acknowledged it.
//!
//! Stands between `encode`, which closes batches, and `send`, which takes them in order of age. A batch leaves the
//! spool when it is acknowledged or refused, or when room runs out; the last two are accounted for in the ledger.
//!
//! # Where a batch is
//! In memory first. It goes to disk when its oldest fact is older than [`DISK_AFTER`] and it is still unacknowledged, when memory is
//! full, and at shutdown. So an agent with a healthy aggregator writes nothing, and one that is killed loses at most
//! the facts of the last few seconds, which the checkpoint turns into a blind interval. Nothing is ever synced to the
//! device: the page cache survives a kill -9, which is what is promised, and the disk usually is etcd's own. For the same reason
//! files are preallocated and used again ([`pool`]), and no more than [`Limits::write_bytes_per_second`] is written;
//! what is above that waits in memory.
//!
//! # On disk
//! A directory of slots, `<number, 4 hex digits>.slot`, and a file `checkpoint` ([`checkpoint`]). A slot is a file of fixed size that holds
//! one segment after the other; a segment is a run of records, oldest first. Little-endian:
//!
//! ```text
//! segment := head table record* tail            (behind the tail: whatever the segment before left)
//! head    :=  0 magic u32 = 0x47455345    4 version u16 = 2    6 flags u16 (1 = sealed)
//!             8 generation u64           16 slot u32          20 marks u32       24 capacity u64
//!            32 key id [8]               40 salt [16]         56 zero [4]        60 CRC32C of 0..60
//! table   := mark u32 * marks            done_mark(generation, index) = CRC32C("done" generation index), else pending
//! record  := header (112 bytes) payload
//! header  :=  0 magic u32 = 0x43455245    4 version u16 = 2    6 flags u16 (1 = sealed)
//!             8 stored length u32        12 CRC32C of the stored payload
//!            16 epoch [16]               32 sequence u64
//!            40 syncs u64                48 sync rows u32     52 write rows u32
//!            56 metric rows u32          60 event rows u32
//!            64 begin, Unix ns i64       72 end, Unix ns i64
//!            80 generation u64           88 offset u64        96 index u32      100 attempt u32
//!           104 autopsies u32           108 CRC32C of 0..108
//! tail    :=  0 magic u32 = 0x444e4545    4 version u16 = 2    6 zero [2]
//!             8 generation u64           16 offset u64        24 zero [4]        28 CRC32C of 0..28
//! payload := an encoded etcdmon.v1.Batch, or what AES-256-GCM makes of it ([`seal`])
//! ```
//!
//! Segments of version 1 are read as well ([`version1`]).
//!
//! # Invariants
//! - A record is never changed. That it is done is noted in the table of its segment, once.
//! - A slot gets a new segment only when the one in it has no pending record; its generation is higher than all before.
//! - A record counts only at the offset and in the generation that it names: nothing old, moved or copied is taken for new.
//! - A process appends only to segments that it made; those of an earlier process are read and given up as a whole.
//! - A batch that an earlier process left is sent with its own epoch and `maybe_sent_before`.
//! - Whatever does not read back is skipped up to the next intact record, counted, and reported; the rest is read.
//! - All files together stay below the byte budget, free ones included. What goes when it is used up is [`WhenFull`].
//! - A failed write (a full disk, say) leaves the batch in memory; memory full as well drops one, counted.
//! - A batch in the sender's hands is never dropped: its fate is not ours to state.
//! - The account of a drop travels in the next batch. A kill -9 before that is kept loses the account with it.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;

pub mod checkpoint;
pub mod files;
pub mod pool;
mod rate;
mod record;
mod recover;
mod scan;
pub mod seal;
mod segment;
pub mod thread;
mod version1;

use checkpoint::Watermark;
pub use checkpoint::{Checkpoint, Coverage, Kept};
pub use files::{DiskFiles, FileName, Files, NoFiles};
use pool::{Pool, SegmentId, Spot};
use rate::Bucket;
pub use record::Counts;
use record::Title;
pub use seal::{Key, KeyError, Keys};

/// A batch that is unacknowledged goes to disk once its oldest fact is this old.
pub const DISK_AFTER: Duration = Duration::from_secs(5);

/// Size of a slot, unless the budget is too small for four of them.
const SEGMENT_BYTES: u64 = 4 << 20;

/// After a failed write, the disk is left alone for so long.
const RETRY_DISK_AFTER_NS: u64 = 5_000_000_000;

/// Names a batch for all time, together with the agent's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// Of the agent process that made it.
    pub epoch: [u8; 16],
    /// Rises by one a batch within an epoch.
    pub sequence: u64,
}

/// A closed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its name.
    pub id: BatchId,
    /// An encoded `etcdmon.v1.Batch`.
    pub payload: Bytes,
    /// What it holds.
    pub counts: Counts,
    /// Wall clock of its oldest and newest fact, Unix nanoseconds.
    pub span_ns: (i64, i64),
    /// Monotonic clock of its oldest fact.
    pub oldest_mono_ns: u64,
    /// Up to where each process is covered once this batch and all before it are kept.
    pub coverage: Vec<Coverage>,
}

/// A batch on its way to the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its name.
    pub id: BatchId,
    /// Byte-identical on every attempt.
    pub payload: Bytes,
    /// True when an earlier agent process may have sent it.
    pub maybe_sent_before: bool,
}

/// A batch, or what is left of one, that will never be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Why, in the words of the ledger: `spool_full`, `spool_sealed`, `disk_full`, `write_rate`, `refused`, `spool_corrupt`.
    pub reason: &'static str,
    /// What the batch held.
    pub counts: Counts,
    /// Wall clock of its oldest fact, Unix nanoseconds.
    pub begin_ns: i64,
    /// The batch itself where it can still be read: its own ledger has to be carried on.
    pub payload: Option<Bytes>,
}

/// Bytes of a file that should be a record and are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// Which file.
    pub file: FileName,
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// What is wrong with them.
    pub what: &'static str,
}

/// What goes when there is no room for a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest batches: a segment of them on disk, else one in memory.
    #[default]
    DropOldest,
    /// The newest batch: the beginning of an outage is kept.
    DropNewest,
}

/// Limits of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes on disk, free slots included.
    pub disk_bytes: u64,
    /// Most bytes of payload in memory.
    pub ram_bytes: u64,
    /// Most bytes written to disk in a second, after a burst of one segment; 0 = no limit. What is in memory at the end is
    /// written at once, however much it is.
    pub write_bytes_per_second: u64,
    /// What goes when there is no room.
    pub when_full: WhenFull,
}

impl Limits {
    /// Size of a slot.
    pub fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES.min(self.disk_bytes / 4).max(1)
    }
}

/// How full the spool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Batches held that can be sent.
    pub batches: u64,
    /// Batches held that can't be sent, as their key isn't known.
    pub sealed_batches: u64,
    /// Payload bytes in memory.
    pub ram_bytes: u64,
    /// Bytes of all files that hold a batch.
    pub disk_bytes: u64,
    /// Bytes of all files, those included that are kept for the next batches.
    pub allocated_bytes: u64,
    /// Writes that failed since the start.
    pub write_failures: u64,
}

/// What a restart found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Batches that will be sent.
    pub batches: u64,
    /// Batches that are sealed with a key which isn't known. They stay until it is, or until their room is needed.
    pub sealed_batches: u64,
    /// Records that are damaged though their header isn't: it says what they held.
    pub dropped: Vec<Dropped>,
    /// What could not be read.
    pub corruptions: Vec<Corruption>,
    /// The last checkpoint.
    pub checkpoint: Checkpoint,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Ram(Bytes),
    Disk(Spot),
}

#[derive(Debug)]
struct Entry {
    title: Title,
    place: Place,
    oldest_mono_ns: u64,
    /// The payload, while the sender has it: it shares these bytes, and they outlive the room of the record.
    sent: Option<Bytes>,
    foreign: bool,
}

impl Entry {
    const fn is_on_disk(&self) -> bool {
        matches!(self.place, Place::Disk(_))
    }

    fn is_in(&self, segment: SegmentId) -> bool {
        matches!(self.place, Place::Disk(spot) if spot.segment == segment)
    }
}

/// Why a batch could not be written.
#[derive(Debug, Clone, Copy)]
enum NoRoom {
    Budget,
    Rate,
    Disk,
}

impl NoRoom {
    /// In the words of the ledger.
    const fn reason(self) -> &'static str {
        match self {
            Self::Budget => "spool_full",
            Self::Rate => "write_rate",
            Self::Disk => "disk_full",
        }
    }
}

/// The spool. One owner; see [`thread`] for how the rest of the agent reaches it.
#[derive(Debug)]
pub struct Spool<F> {
    pool: Pool<F>,
    limits: Limits,
    /// What can be sent, by age: first what is on disk, then what is in memory.
    entries: VecDeque<Entry>,
    /// What can't be opened, by age.
    sealed: VecDeque<Entry>,
    ram_bytes: u64,
    rate: Bucket,
    disk_quiet_until_ns: u64,
    write_failures: u64,
    watermark: Watermark,
}

impl<F: Files> Spool<F> {
    /// Opens the spool in `files` and reads what an earlier process left. `epoch` is this process's own.
    ///
    /// # Errors
    /// When the directory can't be listed. Files that can't be read are reported in the [`Recovery`] instead.
    pub fn open(files: F, limits: Limits, keys: Keys, epoch: [u8; 16]) -> io::Result<(Self, Recovery)> {
        let mut spool = Self {
            pool: Pool::new(files, limits, keys),
            limits,
            entries: VecDeque::new(),
            sealed: VecDeque::new(),
            ram_bytes: 0,
            rate: Bucket::new(limits.write_bytes_per_second, limits.segment_bytes()),
            disk_quiet_until_ns: 0,
            write_failures: 0,
            watermark: Watermark::new(epoch),
        };
        let recovery = recover::read_all(&mut spool)?;
        spool.watermark.start_from(recovery.checkpoint.clone());
        Ok((spool, recovery))
    }

    /// Adds a closed batch. Returns what had to be dropped to make room.
    pub fn push(&mut self, batch: Batch, now_mono_ns: u64) -> Vec<Dropped> {
        self.watermark.note(batch.id.sequence, batch.coverage);
        self.ram_bytes += batch.payload.len() as u64;
        self.entries.push_back(Entry {
            title: Title { id: batch.id, counts: batch.counts, span_ns: batch.span_ns },
            place: Place::Ram(batch.payload),
            oldest_mono_ns: batch.oldest_mono_ns,
            sent: None,
            foreign: false,
        });
        self.relieve_memory(now_mono_ns)
    }

    /// Moves what is old to disk, and gives back room that isn't needed. Call it about once a second.
    pub fn tick(&mut self, now_mono_ns: u64) -> Vec<Dropped> {
        let due = now_mono_ns.saturating_sub(DISK_AFTER.as_nanos() as u64);
        let dropped = self.write_until(now_mono_ns, |entry| entry.oldest_mono_ns <= due);
        self.pool.tick(now_mono_ns);
        dropped
    }

    /// Moves everything to disk, what the sender has included, and gives back all other room: the process is about to end.
    pub fn write_all(&mut self, now_mono_ns: u64) -> Vec<Dropped> {
        self.disk_quiet_until_ns = 0;
        self.rate = Bucket::new(0, 0);
        let dropped = self.write_until(now_mono_ns, |_| true);
        self.pool.close();
        dropped
    }

    /// The oldest batch that the sender does not have yet, and what turned out unreadable on the way to it.
    pub fn take(&mut self) -> (Option<Outgoing>, Vec<Dropped>) {
        let mut dropped = Vec::new();
        while let Some(position) = self.entries.iter().position(|entry| entry.sent.is_none()) {
            let payload = self.payload(position);
            let entry = &mut self.entries[position];
            if let Ok(payload) = payload {
                entry.sent = Some(payload.clone());
                let outgoing = Outgoing { id: entry.title.id, payload, maybe_sent_before: entry.foreign };
                return (Some(outgoing), dropped);
            }
            dropped.push(drop_of(entry, "spool_corrupt", None));
            self.remove(position);
        }
        (None, dropped)
    }

    /// Takes a batch back that the sender did not get after all.
    pub fn give_back(&mut self, id: BatchId) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.title.id == id) {
            entry.sent = None;
        }
    }

    /// Forgets a batch that is durable at the far end. False when it was not here (any more).
    pub fn acknowledge(&mut self, id: BatchId) -> bool {
        let found = self.entries.iter().position(|entry| entry.title.id == id);
        if let Some(position) = found {
            self.remove(position);
        }
        self.keep(id);
        found.is_some()
    }

    /// Forgets a batch that the far end will never take.
    pub fn refuse(&mut self, id: BatchId) -> Option<Dropped> {
        let position = self.entries.iter().position(|entry| entry.title.id == id)?;
        let dropped = self.drop_at(position, "refused");
        self.keep(id);
        Some(dropped)
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        Usage {
            batches: self.entries.len() as u64,
            sealed_batches: self.sealed.len() as u64,
            ram_bytes: self.ram_bytes,
            disk_bytes: self.pool.used(),
            allocated_bytes: self.pool.allocated(),
            write_failures: self.write_failures,
        }
    }

    fn keep(&mut self, id: BatchId) {
        if self.watermark.keep(id) {
            self.pool.files.write_checkpoint(self.watermark.checkpoint());
        }
    }

    /// Position of the oldest batch in memory.
    fn first_in_ram(&self) -> usize {
        self.entries.partition_point(Entry::is_on_disk)
    }

    fn relieve_memory(&mut self, now_mono_ns: u64) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        while self.ram_bytes > self.limits.ram_bytes {
            let Err(no_room) = self.write_first(now_mono_ns, &mut dropped) else { continue };
            let Some(victim) = self.victim_in_ram() else { break };
            let id = self.entries[victim].title.id;
            dropped.push(self.drop_at(victim, no_room.reason()));
            self.keep(id);
        }
        dropped
    }

    fn victim_in_ram(&self) -> Option<usize> {
        let mut in_ram = self.first_in_ram()..self.entries.len();
        let free = |position: &usize| self.entries[*position].sent.is_none();
        match self.limits.when_full {
            WhenFull::DropOldest => in_ram.find(free),
            WhenFull::DropNewest => in_ram.rev().find(free),
        }
    }

    fn write_until(&mut self, now_mono_ns: u64, due: impl Fn(&Entry) -> bool) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        while self.entries.get(self.first_in_ram()).is_some_and(&due) {
            if self.write_first(now_mono_ns, &mut dropped).is_err() {
                break;
            }
        }
        dropped
    }

    /// Writes the oldest batch in memory to disk; adds what was dropped to stay within the budget.
    fn write_first(&mut self, now_mono_ns: u64, dropped: &mut Vec<Dropped>) -> Result<(), NoRoom> {
        let entry = self.entries.get(self.first_in_ram());
        let Some(Entry { place: Place::Ram(payload), title, .. }) = entry else { return Err(NoRoom::Disk) };
        let (payload, title) = (payload.clone(), *title);
        if now_mono_ns < self.disk_quiet_until_ns {
            return Err(NoRoom::Disk);
        }
        if !self.rate.allows(now_mono_ns) {
            return Err(NoRoom::Rate);
        }
        let written = self.make_room(payload.len() as u64, dropped).and_then(|()| {
            let spot = self.pool.append(&title, &payload);
            spot.map_err(Refusal::Failed)
        });
        let spot = match written {
            Ok(spot) => spot,
            Err(Refusal::Full) => return Err(NoRoom::Budget),
            Err(Refusal::Failed(error)) => {
                self.write_failures += 1;
                self.disk_quiet_until_ns = now_mono_ns + RETRY_DISK_AFTER_NS;
                tracing::warn!(%error, "write to spool failed, batch stays in memory");
                return Err(NoRoom::Disk);
            }
        };
        self.rate.spend(Pool::<F>::written(&spot));
        // Dropping may have moved the entry, but not past another one in memory.
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.title.id == title.id) {
            entry.place = Place::Disk(spot);
            self.ram_bytes -= payload.len() as u64;
        }
        self.keep(title.id);
        Ok(())
    }

    /// Makes sure that the segment which is written has room for a batch.
    fn make_room(&mut self, payload_bytes: u64, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
        if self.pool.too_large(payload_bytes) {
            return Err(Refusal::Full);
        }
        while !self.pool.fits(payload_bytes) {
            if self.pool.open_segment(payload_bytes)? {
                break;
            }
            let victim = match self.limits.when_full {
                WhenFull::DropOldest => self.victim_on_disk(),
                WhenFull::DropNewest => None,
            };
            self.give_up(victim.ok_or(Refusal::Full)?, payload_bytes, dropped)?;
        }
        Ok(())
    }

    /// The oldest segment with a batch that may be dropped.
    fn victim_on_disk(&self) -> Option<SegmentId> {
        let droppable = |id: &SegmentId| {
            let mut held = self.sealed.iter().chain(&self.entries);
            held.any(|entry| entry.is_in(*id) && entry.sent.is_none())
        };
        self.pool.pending().find(droppable)
    }

    /// Drops the batches of a segment, but for those that the sender has.
    fn give_up(
        &mut self,
        segment: SegmentId,
        payload_bytes: u64,
        dropped: &mut Vec<Dropped>,
    ) -> Result<(), Refusal> {
        let mut gone = Vec::new();
        for position in 0..self.first_in_ram() {
            let entry = &self.entries[position];
            if entry.is_in(segment) && entry.sent.is_none() {
                let payload = self.payload(position).ok();
                gone.push(drop_of(&self.entries[position], "spool_full", payload));
            }
        }
        self.pool.replace(segment, payload_bytes)?;
        dropped.append(&mut gone);
        let sealed = self.sealed.iter().filter(|entry| entry.is_in(segment));
        dropped.extend(sealed.map(|entry| drop_of(entry, "spool_sealed", None)));
        self.sealed.retain(|entry| !entry.is_in(segment));
        let mut sent = Vec::new();
        self.entries.retain_mut(|entry| {
            let inside = entry.is_in(segment);
            if inside {
                sent.extend(entry.sent.clone().map(|payload| (entry.title, payload, entry.foreign)));
            }
            !inside
        });
        for (title, payload, foreign) in sent {
            self.put_back(title, payload, foreign);
        }
        Ok(())
    }

    /// Finds another place for a batch that the sender has. The checkpoint says that it is kept, so the disk comes first.
    fn put_back(&mut self, title: Title, payload: Bytes, foreign: bool) {
        let bytes = payload.len() as u64;
        let has_room = self.pool.fits(bytes) || self.pool.open_segment(bytes).unwrap_or(false);
        let spot = has_room.then(|| self.pool.append(&title, &payload).ok()).flatten();
        let place = match spot {
            Some(spot) => {
                self.rate.spend(Pool::<F>::written(&spot));
                Place::Disk(spot)
            }
            None => {
                self.ram_bytes += bytes;
                Place::Ram(payload.clone())
            }
        };
        let at = self.first_in_ram();
        self.entries.insert(at, Entry { title, place, oldest_mono_ns: 0, sent: Some(payload), foreign });
    }

    fn drop_at(&mut self, position: usize, reason: &'static str) -> Dropped {
        let payload = self.payload(position).ok();
        let dropped = drop_of(&self.entries[position], reason, payload);
        self.remove(position);
        dropped
    }

    fn payload(&mut self, position: usize) -> io::Result<Bytes> {
        let entry = &self.entries[position];
        if let Some(sent) = &entry.sent {
            return Ok(sent.clone());
        }
        match &entry.place {
            Place::Ram(payload) => Ok(payload.clone()),
            Place::Disk(spot) => self.pool.read(spot, entry.title.id),
        }
    }

    fn remove(&mut self, position: usize) {
        let Some(entry) = self.entries.remove(position) else { return };
        match entry.place {
            Place::Ram(payload) => self.ram_bytes -= payload.len() as u64,
            Place::Disk(spot) => self.pool.done(&spot),
        }
    }
}

/// Why a batch could not be written, with what the system says.
#[derive(Debug)]
enum Refusal {
    Full,
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

const fn drop_of(entry: &Entry, reason: &'static str, payload: Option<Bytes>) -> Dropped {
    Dropped { reason, counts: entry.title.counts, begin_ns: entry.title.span_ns.0, payload }
}

#[cfg(test)]
mod tests;
