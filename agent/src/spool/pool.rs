//! The files of the spool: which segment lies where, what is free, what comes next.
//!
//! A file is a slot: preallocated, used for one segment after the other, and given back when a backlog has drained. Creating,
//! growing and deleting a file each cost the filesystem a journal transaction, which etcd's next sync would have to wait for;
//! writing into room that is already there does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

use bytes::Bytes;

use super::files::{FileName, Files};
use super::record::{HEADER_BYTES, Header, TAIL_BYTES, Title, encode_tail};
use super::seal::{Keys, Sealer};
use super::segment::{Head, capacity_for, done_mark, fits_empty, mark_offset, marks_of, room_of};
use super::{BatchId, Limits, version1};

/// Free slots that are kept while there is a backlog.
const SPARES: usize = 1;

/// For so long after the last batch on disk was done its room is kept for the next one.
const KEEP_ROOM_NS: u64 = 600_000_000_000;

/// Names a segment; older ones are less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentId {
    /// Of version 1 of the format, by number.
    Version1(u64),
    /// By generation.
    Generation(u64),
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The segment.
    pub segment: SegmentId,
    /// Of its header, in the file.
    pub offset: u64,
    /// Position among the records of the segment; 0 in version 1.
    pub index: u32,
    /// Bytes behind its header.
    pub length: u32,
}

/// A file with records.
#[derive(Debug)]
pub struct Segment {
    /// Where it is.
    pub file: FileName,
    /// Bytes of the file.
    pub bytes: u64,
    /// Records that are not done.
    pub pending: u64,
    /// Opens its payloads; `None` when they are not sealed, or the key isn't known.
    pub sealer: Option<Sealer>,
}

/// The segment that is written.
#[derive(Debug)]
struct Open {
    generation: u64,
    head: Head,
    /// Where the tail mark lies, and the next record goes.
    tail: u64,
    /// Records.
    index: u32,
    /// Writes, failed ones included.
    attempt: u32,
}

/// All segments and free slots.
#[derive(Debug)]
pub struct Pool<F> {
    pub(super) files: F,
    keys: Keys,
    budget: u64,
    segment_bytes: u64,
    segments: BTreeMap<SegmentId, Segment>,
    /// Slots without a pending record, with their size.
    free: BTreeMap<u32, u64>,
    /// Numbers of slots that get no new segment.
    blocked: BTreeSet<u32>,
    open: Option<Open>,
    next_generation: u64,
    idle_since_ns: Option<u64>,
}

impl<F: Files> Pool<F> {
    /// Without any segment yet.
    pub fn new(files: F, limits: Limits, keys: Keys) -> Self {
        Self {
            next_generation: files.first_generation(),
            files,
            keys,
            budget: limits.disk_bytes,
            segment_bytes: limits.segment_bytes(),
            segments: BTreeMap::new(),
            free: BTreeMap::new(),
            blocked: BTreeSet::new(),
            open: None,
            idle_since_ns: None,
        }
    }

    /// Bytes of all files, the free ones included.
    pub fn allocated(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).chain(self.free.values().copied()).sum()
    }

    /// Bytes of all files with a pending record.
    pub fn used(&self) -> u64 {
        self.segments.values().filter(|segment| segment.pending > 0).map(|segment| segment.bytes).sum()
    }

    /// All segments with a pending record, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = SegmentId> {
        self.segments.iter().filter(|(_, segment)| segment.pending > 0).map(|(id, _)| *id)
    }

    /// The file of a segment.
    #[cfg(test)]
    pub fn file(&self, id: SegmentId) -> Option<FileName> {
        self.segments.get(&id).map(|segment| segment.file)
    }

    /// Whether a batch finds room in the segment that is written.
    pub fn fits(&self, payload_bytes: u64) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.index < open.head.marks
                && open.attempt < u32::MAX
                && open.tail + room_of(payload_bytes) <= open.head.capacity
        })
    }

    /// Begins a segment with room for such a batch, in a free slot or a new one. False when the budget is used up.
    ///
    /// # Errors
    /// When the disk has no room, or a file can't be written.
    pub fn open_segment(&mut self, payload_bytes: u64) -> io::Result<bool> {
        let capacity = self.capacity_for(payload_bytes);
        let fitting = self.free.iter().find(|(_, bytes)| **bytes == capacity).map(|(slot, _)| *slot);
        let slot = match fitting {
            Some(slot) => slot,
            None => {
                while self.allocated() + capacity > self.budget {
                    let Some((slot, _)) = self.free.pop_last() else { return Ok(false) };
                    self.delete(FileName::Slot(slot));
                }
                self.create(capacity)?
            }
        };
        self.begin(slot, capacity)?;
        self.free.remove(&slot);
        Ok(true)
    }

    /// Begins a segment in place of one whose records are given up, if the size is right; else just deletes that one. Whoever calls
    /// this knows which records it held, and still has to account for them.
    ///
    /// # Errors
    /// When the file can't be written; then the old segment is still there.
    pub fn replace(&mut self, id: SegmentId, payload_bytes: u64) -> io::Result<()> {
        let capacity = self.capacity_for(payload_bytes);
        let Some(old) = self.segments.get(&id) else { return Ok(()) };
        self.open = self.open.take().filter(|open| SegmentId::Generation(open.generation) != id);
        match old.file {
            FileName::Slot(slot) if old.bytes == capacity && !self.blocked.contains(&slot) => {
                self.begin(slot, capacity)?;
            }
            file => self.delete(file),
        }
        self.segments.remove(&id);
        Ok(())
    }

    /// True when a batch is larger than the budget.
    pub fn too_large(&self, payload_bytes: u64) -> bool {
        self.capacity_for(payload_bytes) > self.budget
    }

    fn capacity_for(&self, payload_bytes: u64) -> u64 {
        let usual = self.segment_bytes;
        if fits_empty(usual, payload_bytes) { usual } else { capacity_for(payload_bytes) }
    }

    fn create(&mut self, bytes: u64) -> io::Result<u32> {
        let used = |slot: &u32| {
            self.blocked.contains(slot)
                || self.free.contains_key(slot)
                || self.segments.values().any(|segment| segment.file == FileName::Slot(*slot))
        };
        let slot = (0..u32::MAX).find(|slot| !used(slot)).ok_or(ErrorKind::StorageFull)?;
        let created = self.files.create(slot, bytes);
        if created.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
            self.blocked.insert(slot);
        }
        created?;
        self.free.insert(slot, bytes);
        Ok(slot)
    }

    /// Makes what lies in a slot an empty segment.
    fn begin(&mut self, slot: u32, capacity: u64) -> io::Result<()> {
        let (sealing, sealer) = self.keys.seal()?.unzip();
        let generation = self.next_generation;
        let head = Head { generation, slot, marks: marks_of(capacity), capacity, sealing };
        self.next_generation += 1;
        self.files.write(FileName::Slot(slot), 0, &head.encode())?;
        self.close_open();
        let segment = Segment { file: FileName::Slot(slot), bytes: capacity, pending: 0, sealer };
        self.segments.insert(SegmentId::Generation(generation), segment);
        self.open = Some(Open { generation, tail: head.data_start(), head, index: 0, attempt: 0 });
        Ok(())
    }

    /// Adds a record to the segment that is written.
    ///
    /// # Errors
    /// When it doesn't fit or can't be written in full; then it isn't there.
    pub fn append(&mut self, title: &Title, payload: &[u8]) -> io::Result<Spot> {
        if !self.fits(payload.len() as u64) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let open = self.open.as_mut().ok_or(ErrorKind::NotFound)?;
        let id = SegmentId::Generation(open.generation);
        let segment = self.segments.get_mut(&id).ok_or(ErrorKind::NotFound)?;
        open.attempt += 1;
        let (header, record) = frame(open, segment.sealer.as_ref(), title, payload)?;
        // Header last, over the tail mark: until it is there in full, the segment ends where it did.
        let body = self.files.write(segment.file, open.tail + HEADER_BYTES as u64, &record[HEADER_BYTES..]);
        if let Err(error) =
            body.and_then(|()| self.files.write(segment.file, open.tail, &record[..HEADER_BYTES]))
        {
            let tail = encode_tail(open.generation, open.tail);
            if let Err(error) = self.files.write(segment.file, open.tail, &tail) {
                tracing::warn!(%error, segment = %segment.file, "a half-written record stays, its segment is closed");
                self.open = None;
            }
            return Err(error);
        }
        segment.pending += 1;
        open.tail = header.end();
        open.index += 1;
        self.idle_since_ns = None;
        Ok(Spot { segment: id, offset: header.offset, index: header.index, length: header.stored_length })
    }

    /// Bytes that a record took on disk.
    pub const fn written(spot: &Spot) -> u64 {
        (HEADER_BYTES + TAIL_BYTES) as u64 + spot.length as u64
    }

    /// The payload of a record.
    ///
    /// # Errors
    /// When it can't be read, or isn't what was written.
    pub fn read(&mut self, spot: &Spot, id: BatchId) -> io::Result<Bytes> {
        let segment = self.segments.get(&spot.segment).ok_or(ErrorKind::NotFound)?;
        let head =
            if let SegmentId::Version1(_) = spot.segment { version1::HEADER_BYTES } else { HEADER_BYTES };
        let mut record = vec![0; head + spot.length as usize];
        if self.files.read(segment.file, spot.offset, &mut record)? < record.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut stored = record.split_off(head);
        let checksum = crc32c::crc32c(&stored);
        let intact = match spot.segment {
            SegmentId::Version1(_) => version1::Header::decode(&record)
                .is_some_and(|header| header.title.id == id && header.payload_crc == checksum),
            SegmentId::Generation(generation) => {
                let header = Header::decode(&record).ok_or(ErrorKind::InvalidData)?;
                if header.sealed {
                    let sealer = segment.sealer.as_ref().ok_or(ErrorKind::PermissionDenied)?;
                    sealer.open(header.attempt, &header.bound(), &mut stored)?;
                }
                header.title.id == id
                    && header.generation == generation
                    && header.offset == spot.offset
                    && header.stored_crc == checksum
            }
        };
        if intact { Ok(stored.into()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// Notes that a record is acknowledged, refused or dropped. Failing to write it only costs a needless resend after a restart.
    pub fn done(&mut self, spot: &Spot) {
        let Some(segment) = self.segments.get_mut(&spot.segment) else { return };
        segment.pending = segment.pending.saturating_sub(1);
        let marked = match spot.segment {
            SegmentId::Version1(_) => {
                self.files.write(segment.file, spot.offset + version1::STATE_OFFSET, &[version1::DONE])
            }
            SegmentId::Generation(generation) => {
                let mark = done_mark(generation, spot.index);
                self.files.write(segment.file, mark_offset(spot.index), &mark)
            }
        };
        if let Err(error) = marked {
            tracing::debug!(%error, segment = %segment.file, "could not mark a spool record as done");
        }
        let written = self.open.as_ref().map(|open| SegmentId::Generation(open.generation));
        if segment.pending == 0 && written != Some(spot.segment) {
            self.release(spot.segment);
        }
    }

    /// Makes the file of a segment without pending records free, or deletes it when its size is not the usual one.
    fn release(&mut self, id: SegmentId) {
        let Some(segment) = self.segments.remove(&id) else { return };
        match segment.file {
            FileName::Slot(slot) => self.adopt_free(slot, segment.bytes),
            file @ FileName::Version1(_) => self.delete(file),
        }
    }

    fn close_open(&mut self) {
        let Some(open) = self.open.take() else { return };
        let id = SegmentId::Generation(open.generation);
        if self.segments.get(&id).is_some_and(|segment| segment.pending == 0) {
            self.release(id);
        }
    }

    fn delete(&mut self, file: FileName) {
        if let Err(error) = self.files.delete(file) {
            tracing::warn!(%error, %file, "could not delete a spool file");
            if let FileName::Slot(slot) = file {
                self.blocked.insert(slot);
            }
        }
    }

    /// Gives room back that isn't needed: one file a call, so that it costs the filesystem little at a time.
    pub fn tick(&mut self, now_mono_ns: u64) {
        if self.free.len() > SPARES {
            self.delete_free();
        }
        if self.pending().next().is_some() {
            self.idle_since_ns = None;
        } else if now_mono_ns.saturating_sub(*self.idle_since_ns.get_or_insert(now_mono_ns)) >= KEEP_ROOM_NS {
            self.close_open();
            self.delete_free();
        }
    }

    /// Gives all room back that holds no pending record: the process is about to end.
    pub fn close(&mut self) {
        self.close_open();
        while !self.free.is_empty() {
            self.delete_free();
        }
    }

    fn delete_free(&mut self) {
        if let Some((slot, _)) = self.free.pop_last() {
            self.delete(FileName::Slot(slot));
        }
    }

    /// Adds a segment that an earlier process left. False when there is one of that name.
    pub fn adopt(&mut self, id: SegmentId, segment: Segment) -> bool {
        if let SegmentId::Generation(generation) = id {
            self.next_generation = self.next_generation.max(generation.saturating_add(1));
        }
        let new = !self.segments.contains_key(&id);
        if new {
            self.segments.insert(id, segment);
        }
        new
    }

    /// Counts a record of an adopted segment as pending.
    pub fn adopt_record(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.pending += 1;
        }
    }

    /// Ends the adoption of a segment: without a pending record it is free.
    pub fn adopted(&mut self, id: SegmentId) {
        if self.segments.get(&id).is_some_and(|segment| segment.pending == 0) {
            self.release(id);
        }
    }

    /// A slot that holds nothing.
    pub fn adopt_free(&mut self, slot: u32, bytes: u64) {
        if bytes == self.segment_bytes && !self.blocked.contains(&slot) {
            self.free.insert(slot, bytes);
        } else {
            self.delete(FileName::Slot(slot));
        }
    }

    /// A number that no new segment may have; its file is deleted once it holds nothing.
    pub fn block(&mut self, slot: u32) {
        self.blocked.insert(slot);
    }

    /// Opens the payloads of a sealed segment, if the key is there.
    pub fn sealer(&self, head: &Head) -> Option<Sealer> {
        head.sealing.as_ref().and_then(|sealing| self.keys.open(sealing))
    }
}

/// A record with its header and the tail mark behind it.
fn frame(
    open: &Open,
    sealer: Option<&Sealer>,
    title: &Title,
    payload: &[u8],
) -> io::Result<(Header, Vec<u8>)> {
    let tag_bytes = if sealer.is_some() { super::seal::TAG_BYTES } else { 0 };
    let stored_length = u32::try_from(payload.len() + tag_bytes).map_err(|_| ErrorKind::FileTooLarge)?;
    let mut header = Header {
        title: *title,
        stored_length,
        stored_crc: 0,
        sealed: sealer.is_some(),
        generation: open.generation,
        offset: open.tail,
        index: open.index,
        attempt: open.attempt,
    };
    let mut record = Vec::with_capacity(HEADER_BYTES + stored_length as usize + TAIL_BYTES);
    record.resize(HEADER_BYTES, 0);
    record.extend_from_slice(payload);
    if let Some(sealer) = sealer {
        let tag = sealer.seal(open.attempt, &header.bound(), &mut record[HEADER_BYTES..])?;
        record.extend(tag);
    }
    header.stored_crc = crc32c::crc32c(&record[HEADER_BYTES..]);
    record[..HEADER_BYTES].copy_from_slice(&header.encode());
    record.extend(encode_tail(open.generation, header.end()));
    Ok((header, record))
}
