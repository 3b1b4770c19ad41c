//! What a new process does with the segments of earlier ones.

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::files::{FileName, Files};
use super::pool::{Segment, SegmentId, Spot};
use super::record::Title;
use super::scan::{self, Found, Scan};
use super::version1::{self, Piece};
use super::{BatchId, Corruption, Dropped, Entry, Place, Recovery, Spool};

/// Registers every pending record. Payloads are checked later, when they are read to be sent.
pub fn read_all<F: Files>(spool: &mut Spool<F>) -> io::Result<Recovery> {
    let mut found = Recovering {
        recovery: Recovery { checkpoint: spool.pool.files.read_checkpoint(), ..Recovery::default() },
        seen: HashSet::new(),
    };
    let mut scans = Vec::new();
    for (file, bytes) in spool.pool.files.list()? {
        match file {
            FileName::Version1(number) => found.version1(spool, number, bytes),
            FileName::Slot(slot) => scans.extend(found.scan(spool, slot, bytes)),
        }
    }
    let scans = found.without_copies(spool, scans);
    for scan in scans.iter().filter(|scan| !scan.in_place()) {
        // As long as a file names another's number, a new segment of that number would make it look like a copy.
        spool.pool.block(scan.slot);
        scan.head.iter().for_each(|head| spool.pool.block(head.slot));
    }
    for scan in scans {
        found.slot(spool, scan);
    }
    found.recovery.batches = spool.entries.len() as u64;
    found.recovery.sealed_batches = spool.sealed.len() as u64;
    Ok(found.recovery)
}

struct Recovering {
    recovery: Recovery,
    seen: HashSet<BatchId>,
}

impl Recovering {
    fn corrupt(&mut self, file: FileName, offset: u64, bytes: u64, what: &'static str) {
        self.recovery.corruptions.push(Corruption { file, offset, bytes, what });
    }

    fn unreadable(&mut self, file: FileName, bytes: u64, error: &io::Error) {
        tracing::warn!(%error, %file, "spool file not readable");
        self.corrupt(file, 0, bytes, "not readable");
    }

    fn lose(&mut self, title: &Title) {
        let (counts, begin_ns) = (title.counts, title.span_ns.0);
        self.recovery.dropped.push(Dropped { reason: "spool_corrupt", counts, begin_ns, payload: None });
    }

    fn version1<F: Files>(&mut self, spool: &mut Spool<F>, number: u64, bytes: u64) {
        let file = FileName::Version1(number);
        let content = usize::try_from(bytes).map_err(io::Error::other).and_then(|bytes| {
            let mut content = vec![0; bytes];
            let read = spool.pool.files.read(file, 0, &mut content)?;
            content.truncate(read);
            Ok(content)
        });
        let content = match content {
            Ok(content) => content,
            Err(error) => return self.unreadable(file, bytes, &error),
        };
        let id = SegmentId::Version1(number);
        spool.pool.adopt(id, Segment { file, bytes, pending: 0, sealer: None });
        let mut cut = Vec::new();
        for piece in version1::pieces(&content) {
            match piece {
                Piece::Damage { offset, bytes } => self.corrupt(file, offset, bytes, "no record"),
                Piece::Cut(offset, header) if !header.done => {
                    self.lose(&header.title);
                    spool.pool.adopt_record(id);
                    cut.push(Spot { segment: id, offset, index: 0, length: 0 });
                }
                Piece::Record(offset, header) => {
                    let new = self.seen.insert(header.title.id);
                    let length = header.payload_length;
                    let whole = version1::HEADER_BYTES as u64 + u64::from(length);
                    match (header.done, new) {
                        (true, _) => {}
                        (false, false) => self.corrupt(file, offset, whole, "duplicate"),
                        (false, true) => {
                            let spot = Spot { segment: id, offset, index: 0, length };
                            spool.pool.adopt_record(id);
                            spool.entries.push_back(entry(&header.title, spot));
                        }
                    }
                }
                Piece::Cut(..) => {}
            }
        }
        // What was counted now must not be counted again by the next process.
        cut.iter().for_each(|spot| spool.pool.done(spot));
        spool.pool.adopted(id);
    }

    fn scan<F: Files>(&mut self, spool: &mut Spool<F>, slot: u32, bytes: u64) -> Option<Scan> {
        match scan::slot(&mut spool.pool.files, slot, bytes) {
            Ok(scan) => Some(scan),
            Err(error) => {
                self.unreadable(FileName::Slot(slot), bytes, &error);
                spool.pool.block(slot);
                None
            }
        }
    }

    /// In order of age, without what is older than another file that names the same slot: a slot gets a new segment only when the
    /// one in it has no pending record left, so such a file is a copy of something long settled.
    fn without_copies<F: Files>(&mut self, spool: &mut Spool<F>, mut scans: Vec<Scan>) -> Vec<Scan> {
        scans.sort_by_key(|scan| (scan.generation, scan.in_place()));
        let newest: BTreeMap<u32, u32> =
            scans.iter().filter_map(|scan| Some((scan.head?.slot, scan.slot))).collect();
        let mut generations = HashSet::new();
        let (mut kept, mut copies) = (Vec::new(), Vec::new());
        for scan in scans.into_iter().rev() {
            let newest = scan.head.is_none_or(|head| newest.get(&head.slot) == Some(&scan.slot));
            let new = scan.generation.is_none_or(|generation| generations.insert(generation));
            if newest && new { kept.push(scan) } else { copies.push(scan) }
        }
        kept.reverse();
        for copy in copies {
            let file = FileName::Slot(copy.slot);
            self.corrupt(file, 0, copy.bytes, "copy of another");
            let deleted = spool.pool.files.delete(file);
            if let Err(error) = deleted {
                tracing::warn!(%error, %file, "could not delete a copy of a spool file");
                spool.pool.block(copy.slot);
            }
        }
        kept
    }

    fn slot<F: Files>(&mut self, spool: &mut Spool<F>, scan: Scan) {
        let file = FileName::Slot(scan.slot);
        for (offset, bytes, what) in &scan.damages {
            self.corrupt(file, *offset, *bytes, what);
        }
        let Some(generation) = scan.generation else {
            return spool.pool.adopt_free(scan.slot, scan.bytes);
        };
        let id = SegmentId::Generation(generation);
        let sealer = scan.head.as_ref().and_then(|head| spool.pool.sealer(head));
        let readable = |sealed: bool| !sealed || sealer.is_some();
        // Without the head nobody knows the salt.
        let hopeless = |sealed: bool| sealed && scan.head.is_none();
        let (mut entries, mut sealed, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for Found { header, done, whole } in &scan.records {
            let spot = Spot {
                segment: id,
                offset: header.offset,
                index: header.index,
                length: header.stored_length,
            };
            let new = self.seen.insert(header.title.id);
            if *done {
                continue;
            }
            if !new {
                self.corrupt(file, header.offset, header.end() - header.offset, "duplicate");
                lost.push(spot);
            } else if !whole || hopeless(header.sealed) {
                self.lose(&header.title);
                lost.push(spot);
            } else if readable(header.sealed) {
                entries.push(entry(&header.title, spot));
            } else {
                sealed.push(entry(&header.title, spot));
            }
        }
        spool.pool.adopt(id, Segment { file, bytes: scan.bytes, pending: 0, sealer });
        for _record in 0..entries.len() + sealed.len() + lost.len() {
            spool.pool.adopt_record(id);
        }
        lost.iter().for_each(|spot| spool.pool.done(spot));
        spool.entries.extend(entries);
        spool.sealed.extend(sealed);
        spool.pool.adopted(id);
    }
}

const fn entry(title: &Title, spot: Spot) -> Entry {
    Entry { title: *title, place: Place::Disk(spot), oldest_mono_ns: 0, sent: None, foreign: true }
}
