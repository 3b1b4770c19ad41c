//! Reads what lies in a slot: the records of its newest segment, and whatever is no record but should be one.

use std::io;

use super::files::{FileName, Files};
use super::record::{HEADER_BYTES, Header, MAGIC, TAIL_MAGIC, decode_tail};
use super::segment::{HEAD_BYTES, Head, MARK_BYTES, done_mark, mark_offset};

/// Read at a time when something is searched for.
const CHUNK_BYTES: usize = 64 << 10;

/// A record.
#[derive(Debug)]
pub struct Found {
    /// Its header.
    pub header: Header,
    /// Acknowledged, refused or dropped.
    pub done: bool,
    /// False when the file ends before it does.
    pub whole: bool,
}

/// What lies in a slot.
#[derive(Debug)]
pub struct Scan {
    /// Number of the file.
    pub slot: u32,
    /// Its size.
    pub bytes: u64,
    /// The head, if it is intact.
    pub head: Option<Head>,
    /// Of the segment; `None` when there is none.
    pub generation: Option<u64>,
    /// Its records, oldest first.
    pub records: Vec<Found>,
    /// Offset, length and kind of what doesn't read.
    pub damages: Vec<(u64, u64, &'static str)>,
}

impl Scan {
    /// Whether the head names the file that it lies in.
    pub fn in_place(&self) -> bool {
        self.head.is_some_and(|head| head.slot == self.slot)
    }
}

/// Reads a slot of so many bytes. Payloads are not read.
///
/// # Errors
/// When the file can't be read at all.
pub fn slot<F: Files>(files: &mut F, slot: u32, bytes: u64) -> io::Result<Scan> {
    let mut reader = Reader { files, file: FileName::Slot(slot), bytes };
    let mut start = [0; HEAD_BYTES];
    let read = reader.files.read(reader.file, 0, &mut start)?;
    let head = Head::decode(&start[..read]);
    let mut scan = Scan { slot, bytes, head, generation: None, records: Vec::new(), damages: Vec::new() };
    if let Some(head) = head {
        scan.generation = Some(head.generation);
        reader.walk(&mut scan, head.generation, head.data_start(), head.capacity.max(bytes));
    } else if bytes == 0 {
        // Made and not yet given room, when a process was killed between the two; or all of it was cut off.
        scan.damages.push((0, 0, "empty"));
    } else if !reader.is_blank() {
        // Records say themselves which segment they belong to: those of the newest one count.
        let mut newest: Option<(u64, u64)> = None;
        let mut from = 0;
        while let Some(next) = reader.next_intact(from, None) {
            if newest.is_none_or(|newest| newest.0 < next.generation) {
                newest = Some((next.generation, next.offset));
            }
            from = next.offset + 1;
        }
        let Some((generation, first)) = newest else {
            scan.damages.push((0, bytes, "no segment"));
            return Ok(scan);
        };
        // Whether there was a record between the table and the first that reads, nobody knows.
        scan.damages.push((0, first, "no head"));
        scan.generation = Some(generation);
        reader.walk(&mut scan, generation, first, bytes);
    }
    Ok(scan)
}

/// A record or a tail mark at its place.
struct Intact {
    generation: u64,
    offset: u64,
    header: Option<Header>,
}

fn intact_at(bytes: &[u8], offset: u64) -> Option<Intact> {
    let header = Header::decode(bytes).filter(|header| header.offset == offset);
    if let Some(header) = header {
        return Some(Intact { generation: header.generation, offset, header: Some(header) });
    }
    let (generation, at) = decode_tail(bytes)?;
    (at == offset).then_some(Intact { generation, offset, header: None })
}

struct Reader<'a, F> {
    files: &'a mut F,
    file: FileName,
    bytes: u64,
}

impl<F: Files> Reader<'_, F> {
    /// What can be read; a bad block reads like the end of the file.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> usize {
        self.files.read(self.file, offset, buffer).unwrap_or(0)
    }

    /// From record to record up to the tail mark.
    fn walk(&mut self, scan: &mut Scan, generation: u64, start: u64, capacity: u64) {
        let mut offset = start;
        loop {
            let mut bytes = [0; HEADER_BYTES];
            let read = self.read(offset, &mut bytes);
            let intact = intact_at(&bytes[..read], offset).filter(|found| found.generation == generation);
            let resume = match intact.map(|found| found.header) {
                Some(None) => return,
                Some(Some(header)) => {
                    let whole = header.end() <= self.bytes;
                    let done = self.is_done(scan, &header);
                    scan.records.push(Found { header, done, whole });
                    if whole {
                        offset = header.end();
                        continue;
                    }
                    offset + HEADER_BYTES as u64
                }
                None => offset,
            };
            // Here something is missing: either of the two should have been there.
            let next = self.next_intact(resume.max(offset + 1), Some(generation)).map(|next| next.offset);
            let missing = next.unwrap_or(capacity).saturating_sub(resume);
            if missing > 0 {
                scan.damages.push((resume, missing, "no record"));
            }
            let Some(next) = next else { return };
            offset = next;
        }
    }

    fn is_done(&mut self, scan: &mut Scan, header: &Header) -> bool {
        let mut mark = [0; MARK_BYTES];
        let offset = mark_offset(header.index);
        let read = self.read(offset, &mut mark);
        let done = read == MARK_BYTES && mark == done_mark(header.generation, header.index);
        if !done && mark != [0; MARK_BYTES] {
            scan.damages.push((offset, MARK_BYTES as u64, "no mark"));
        }
        done
    }

    /// The first intact record or tail mark at or behind `from`, of one generation or any.
    fn next_intact(&mut self, from: u64, generation: Option<u64>) -> Option<Intact> {
        let mut chunk = vec![0; CHUNK_BYTES + HEADER_BYTES];
        let mut start = from;
        while start < self.bytes {
            let read = self.read(start, &mut chunk);
            let bytes = &chunk[..read];
            for at in 0..read.min(CHUNK_BYTES) {
                let rest = &bytes[at..];
                if !rest.starts_with(&MAGIC.to_le_bytes()) && !rest.starts_with(&TAIL_MAGIC.to_le_bytes()) {
                    continue;
                }
                let found = intact_at(rest, start + at as u64);
                let found = found.filter(|found| generation.is_none_or(|one| one == found.generation));
                if found.is_some() {
                    return found;
                }
            }
            start += CHUNK_BYTES as u64;
        }
        None
    }

    fn is_blank(&mut self) -> bool {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < self.bytes {
            let read = self.read(offset, &mut chunk);
            if read == 0 || chunk[..read].iter().any(|byte| *byte != 0) {
                return false;
            }
            offset += read as u64;
        }
        true
    }
}
