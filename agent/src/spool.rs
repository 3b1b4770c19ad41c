//! Holds every batch until the aggregator has acknowledged it.
//!
//! Stands between `encode`, which closes batches, and `send`, which takes them in order of age. A batch leaves the
//! spool when it is acknowledged or refused, or when room runs out; the last two are accounted for in the ledger.
//!
//! # Where a batch is
//! In memory first. It goes to disk when its oldest fact is older than [`DISK_AFTER`] and it is still unacknowledged, when memory is
//! full, and at shutdown. So an agent with a healthy aggregator writes nothing, and one that is killed loses at most
//! the facts of the last few seconds, which the checkpoint turns into a blind interval. Nothing is ever synced to the
//! device: the page cache survives a kill -9, which is what is promised, and the disk usually is etcd's own.
//!
//! # On disk
//! A directory of segments, `<number, 16 hex digits>.segment`, and a file `checkpoint` ([`checkpoint`]). A segment is a
//! run of records, oldest first. Little-endian:
//!
//! ```text
//! record  := header (96 bytes) payload
//! header  :=  0 magic u32 = 0x4c505345    4 version u16 = 1    6 state u8    7 zero u8
//!             8 payload length u32       12 CRC32C of payload u32
//!            16 epoch [16]               32 sequence u64
//!            40 syncs u64                48 sync rows u32     52 write rows u32
//!            56 metric rows u32          60 event rows u32
//!            64 begin, Unix ns i64       72 end, Unix ns i64
//!            80 zero [12]                92 CRC32C of bytes 0..92 with state = 0, u32
//! state   := 0 pending, 1 done (acknowledged, refused or dropped)
//! payload := an encoded etcdmon.v1.Batch
//! ```
//!
//! # Invariants
//! - A record is never changed, but for its state byte, which only ever goes from 0 to 1.
//! - A process appends only to segments that it made; those of an earlier process are read and deleted.
//! - A segment is deleted as a whole, when no record in it is pending.
//! - A batch that an earlier process left is sent with its own epoch and `maybe_sent_before`.
//! - Whatever does not read back is skipped up to the next intact header, counted, and reported; the rest is read.
//! - All segments together stay below the byte budget: the oldest segment goes first, its batches counted by kind.
//! - A failed write (a full disk, say) leaves the batch in memory; memory full as well drops the oldest, counted.
//! - A batch in the sender's hands is never dropped: its fate is not ours to state.
//! - The account of a drop travels in the next batch. A kill -9 before that is kept loses the account with it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use bytes::Bytes;

pub mod checkpoint;
pub mod files;
mod record;
mod recover;
pub mod thread;

use checkpoint::Watermark;
pub use checkpoint::{Checkpoint, Coverage, Kept};
pub use files::{DiskFiles, Files, NoFiles};
pub use record::{Counts, Header};

/// A batch that is unacknowledged goes to disk once its oldest fact is this old.
pub const DISK_AFTER: Duration = Duration::from_secs(5);

/// A segment is closed when the next record would make it larger than this.
const SEGMENT_BYTES: u64 = 8 << 20;

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
    /// Why, in the words of the ledger: `spool_full`, `disk_full`, `refused`, `spool_corrupt`.
    pub reason: &'static str,
    /// What the batch held.
    pub counts: Counts,
    /// Wall clock of its oldest fact, Unix nanoseconds.
    pub begin_ns: i64,
    /// The batch itself where it can still be read: its own ledger has to be carried on.
    pub payload: Option<Bytes>,
}

/// Bytes of a segment that are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// Segment number.
    pub segment: u64,
    /// First byte that does not read.
    pub offset: u64,
    /// How many bytes were skipped.
    pub bytes: u64,
}

/// Limits of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes on disk.
    pub disk_bytes: u64,
    /// Most bytes of payload in memory.
    pub ram_bytes: u64,
}

/// How full the spool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Batches held.
    pub batches: u64,
    /// Payload bytes in memory.
    pub ram_bytes: u64,
    /// Bytes of all segments.
    pub disk_bytes: u64,
    /// Writes that failed since the start.
    pub write_failures: u64,
}

/// What a restart found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Batches that will be sent.
    pub batches: u64,
    /// Records cut off at the end of a segment: their header says what they held.
    pub dropped: Vec<Dropped>,
    /// What could not be read.
    pub corruptions: Vec<Corruption>,
    /// The last checkpoint.
    pub checkpoint: Checkpoint,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Ram(Bytes),
    Disk {
        segment: u64,
        offset: u64,
    },
    /// Its segment had to go while the sender held it.
    SenderOnly,
}

#[derive(Debug)]
struct Entry {
    id: BatchId,
    place: Place,
    counts: Counts,
    payload_bytes: u64,
    span_ns: (i64, i64),
    oldest_mono_ns: u64,
    in_flight: bool,
    foreign: bool,
}

#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    pending: u64,
}

/// The spool. One owner; see [`thread`] for how the rest of the agent reaches it.
#[derive(Debug)]
pub struct Spool<F> {
    files: F,
    limits: Limits,
    segment_limit: u64,
    entries: VecDeque<Entry>,
    segments: BTreeMap<u64, Segment>,
    /// Segment that records are appended to.
    current: Option<u64>,
    next_segment: u64,
    ram_bytes: u64,
    disk_quiet_until_ns: u64,
    write_failures: u64,
    watermark: Watermark,
}

impl<F: Files> Spool<F> {
    /// Opens the spool in `files` and reads what an earlier process left. `epoch` is this process's own.
    ///
    /// # Errors
    /// When the directory can't be listed. Files that can't be read are reported in the [`Recovery`] instead.
    pub fn open(files: F, limits: Limits, epoch: [u8; 16]) -> io::Result<(Self, Recovery)> {
        let mut spool = Self {
            segment_limit: SEGMENT_BYTES.min(limits.disk_bytes / 4).max(1),
            files,
            limits,
            entries: VecDeque::new(),
            segments: BTreeMap::new(),
            current: None,
            next_segment: 0,
            ram_bytes: 0,
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
        let payload_bytes = batch.payload.len() as u64;
        self.watermark.note(batch.id.sequence, batch.coverage);
        self.ram_bytes += payload_bytes;
        self.entries.push_back(Entry {
            id: batch.id,
            place: Place::Ram(batch.payload),
            counts: batch.counts,
            payload_bytes,
            span_ns: batch.span_ns,
            oldest_mono_ns: batch.oldest_mono_ns,
            in_flight: false,
            foreign: false,
        });
        self.relieve_memory(now_mono_ns)
    }

    /// Moves what is old to disk. Call it about once a second.
    pub fn tick(&mut self, now_mono_ns: u64) -> Vec<Dropped> {
        let due = now_mono_ns.saturating_sub(DISK_AFTER.as_nanos() as u64);
        self.write_until(now_mono_ns, |entry| entry.oldest_mono_ns <= due)
    }

    /// Moves everything to disk, in-flight batches included: the process is about to end.
    pub fn write_all(&mut self, now_mono_ns: u64) -> Vec<Dropped> {
        self.disk_quiet_until_ns = 0;
        self.write_until(now_mono_ns, |_| true)
    }

    /// The oldest batch that the sender does not have yet, and what turned out unreadable on the way to it.
    pub fn take(&mut self) -> (Option<Outgoing>, Vec<Dropped>) {
        let mut dropped = Vec::new();
        while let Some(position) = self.entries.iter().position(|entry| !entry.in_flight) {
            match self.payload(position) {
                Ok(payload) => {
                    let entry = &mut self.entries[position];
                    entry.in_flight = true;
                    let outgoing = Outgoing { id: entry.id, payload, maybe_sent_before: entry.foreign };
                    return (Some(outgoing), dropped);
                }
                Err(_unreadable) => {
                    let entry = &self.entries[position];
                    dropped.push(Dropped {
                        reason: "spool_corrupt",
                        counts: entry.counts,
                        begin_ns: entry.span_ns.0,
                        payload: None,
                    });
                    self.remove(position);
                }
            }
        }
        (None, dropped)
    }

    /// Takes a batch back that the sender did not get after all.
    pub fn give_back(&mut self, id: BatchId) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.in_flight = false;
        }
    }

    /// Forgets a batch that is durable at the far end. False when it was not here (any more).
    pub fn acknowledge(&mut self, id: BatchId) -> bool {
        let found = self.entries.iter().position(|entry| entry.id == id);
        if let Some(position) = found {
            self.remove(position);
        }
        self.keep(id);
        found.is_some()
    }

    /// Forgets a batch that the far end will never take.
    pub fn refuse(&mut self, id: BatchId) -> Option<Dropped> {
        let position = self.entries.iter().position(|entry| entry.id == id)?;
        let dropped = self.drop_at(position, "refused");
        self.keep(id);
        Some(dropped)
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        Usage {
            batches: self.entries.len() as u64,
            ram_bytes: self.ram_bytes,
            disk_bytes: self.segments.values().map(|segment| segment.bytes).sum(),
            write_failures: self.write_failures,
        }
    }

    fn keep(&mut self, id: BatchId) {
        if self.watermark.keep(id) {
            self.files.write_checkpoint(self.watermark.checkpoint());
        }
    }

    fn relieve_memory(&mut self, now_mono_ns: u64) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        while self.ram_bytes > self.limits.ram_bytes {
            let oldest = self.entries.iter().position(|entry| matches!(entry.place, Place::Ram(_)));
            let Some(oldest) = oldest else { break };
            match self.write(oldest, now_mono_ns) {
                Ok(made_room) => dropped.extend(made_room),
                Err(_no_disk) => {
                    let free = |entry: &Entry| matches!(entry.place, Place::Ram(_)) && !entry.in_flight;
                    let Some(victim) = self.entries.iter().position(free) else { break };
                    let id = self.entries[victim].id;
                    dropped.push(self.drop_at(victim, "disk_full"));
                    self.keep(id);
                }
            }
        }
        dropped
    }

    fn write_until(&mut self, now_mono_ns: u64, due: impl Fn(&Entry) -> bool) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        loop {
            let next = self.entries.iter().position(|e| matches!(e.place, Place::Ram(_)) && due(e));
            let Some(position) = next else { return dropped };
            match self.write(position, now_mono_ns) {
                Ok(made_room) => dropped.extend(made_room),
                Err(_no_disk) => return dropped,
            }
        }
    }

    /// Writes one batch to disk; returns what was dropped to stay within the budget.
    fn write(&mut self, position: usize, now_mono_ns: u64) -> io::Result<Vec<Dropped>> {
        if now_mono_ns < self.disk_quiet_until_ns {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let entry = &self.entries[position];
        let Place::Ram(payload) = entry.place.clone() else { return Ok(Vec::new()) };
        let header = Header {
            epoch: entry.id.epoch,
            sequence: entry.id.sequence,
            payload_length: payload.len() as u32,
            payload_crc: crc32c::crc32c(&payload),
            counts: entry.counts,
            span_ns: entry.span_ns,
        };
        let (id, size) = (entry.id, record::HEADER_BYTES as u64 + payload.len() as u64);
        let dropped = self.make_room(size);
        let segment = self.segment_for(size);
        let offset = self.segments.get(&segment).map_or(0, |segment| segment.bytes);
        if let Err(error) = self.files.append(segment, offset, &header.encode(), &payload) {
            self.write_failures += 1;
            self.disk_quiet_until_ns = now_mono_ns + RETRY_DISK_AFTER_NS;
            tracing::warn!(%error, segment, "write to spool failed, batch stays in memory");
            // What was dropped to make room is gone all the same; the caller must hear of it.
            return if dropped.is_empty() { Err(error) } else { Ok(dropped) };
        }
        let state = self.segments.entry(segment).or_default();
        state.bytes = offset + size;
        state.pending += 1;
        // Dropping may have moved the entry.
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.place = Place::Disk { segment, offset };
            self.ram_bytes -= payload.len() as u64;
        }
        self.keep(id);
        Ok(dropped)
    }

    fn segment_for(&mut self, size: u64) -> u64 {
        if let Some(current) = self.current {
            let used = self.segments.get(&current).map_or(0, |segment| segment.bytes);
            if used > 0 && used + size <= self.segment_limit {
                return current;
            }
        }
        let segment = self.next_segment;
        self.next_segment += 1;
        self.current = Some(segment);
        segment
    }

    fn make_room(&mut self, size: u64) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        loop {
            let used: u64 = self.segments.values().map(|segment| segment.bytes).sum();
            let oldest = self.segments.keys().next().copied();
            let Some(oldest) = oldest.filter(|_| used + size > self.limits.disk_bytes) else {
                return dropped;
            };
            self.drop_segment(oldest, &mut dropped);
        }
    }

    fn drop_segment(&mut self, segment: u64, dropped: &mut Vec<Dropped>) {
        let inside = |entry: &Entry| matches!(entry.place, Place::Disk { segment: at, .. } if at == segment);
        while let Some(position) = self.entries.iter().position(inside) {
            if self.entries[position].in_flight {
                self.entries[position].place = Place::SenderOnly;
            } else {
                dropped.push(self.drop_at(position, "spool_full"));
            }
        }
        self.delete_segment(segment);
    }

    fn drop_at(&mut self, position: usize, reason: &'static str) -> Dropped {
        let payload = self.payload(position).ok();
        let entry = &self.entries[position];
        let dropped = Dropped { reason, counts: entry.counts, begin_ns: entry.span_ns.0, payload };
        self.remove(position);
        dropped
    }

    fn payload(&self, position: usize) -> io::Result<Bytes> {
        let entry = &self.entries[position];
        match &entry.place {
            Place::Ram(payload) => Ok(payload.clone()),
            Place::SenderOnly => Err(io::ErrorKind::NotFound.into()),
            Place::Disk { segment, offset } => {
                let size = record::HEADER_BYTES + entry.payload_bytes as usize;
                let record = self.files.read(*segment, *offset, size)?;
                let header = Header::decode(&record).ok_or(io::ErrorKind::InvalidData)?.0;
                let payload = Bytes::from(record).slice(record::HEADER_BYTES..);
                let intact = header.epoch == entry.id.epoch
                    && header.sequence == entry.id.sequence
                    && header.payload_crc == crc32c::crc32c(&payload);
                if intact { Ok(payload) } else { Err(io::ErrorKind::InvalidData.into()) }
            }
        }
    }

    fn remove(&mut self, position: usize) {
        let Some(entry) = self.entries.remove(position) else { return };
        match entry.place {
            Place::Ram(payload) => self.ram_bytes -= payload.len() as u64,
            Place::SenderOnly => {}
            Place::Disk { segment, offset } => {
                self.files.mark_done(segment, offset);
                let emptied = self.segments.get_mut(&segment).is_none_or(|state| {
                    state.pending = state.pending.saturating_sub(1);
                    state.pending == 0
                });
                if emptied {
                    self.delete_segment(segment);
                }
            }
        }
    }

    fn delete_segment(&mut self, segment: u64) {
        self.segments.remove(&segment);
        self.files.delete(segment);
        if self.current == Some(segment) {
            self.current = None;
        }
    }
}

#[cfg(test)]
mod tests;
