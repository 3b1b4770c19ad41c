//! What a new process does with the segments of earlier ones.

use std::io;

use super::record::{HEADER_BYTES, MAGIC};
use super::{BatchId, Corruption, Dropped, Entry, Files, Header, Place, Recovery, Segment, Spool};

/// Registers every pending record. Payloads are checked later, when they are read to be sent.
pub fn read_all<F: Files>(spool: &mut Spool<F>) -> io::Result<Recovery> {
    let mut recovery = Recovery { checkpoint: spool.files.read_checkpoint(), ..Recovery::default() };
    for segment in spool.files.list()? {
        spool.next_segment = spool.next_segment.max(segment + 1);
        match spool.files.read_all(segment) {
            Ok(bytes) => read_segment(spool, segment, &bytes, &mut recovery),
            Err(error) => {
                tracing::warn!(%error, segment, "spool segment not readable");
                recovery.corruptions.push(Corruption { segment, offset: 0, bytes: 0 });
            }
        }
    }
    recovery.batches = spool.entries.len() as u64;
    Ok(recovery)
}

fn read_segment<F: Files>(spool: &mut Spool<F>, segment: u64, bytes: &[u8], recovery: &mut Recovery) {
    let mut offset = 0;
    let mut state = Segment { bytes: bytes.len() as u64, pending: 0 };
    while offset < bytes.len() {
        let Some((header, done)) = Header::decode(&bytes[offset..]) else {
            let next = next_header(bytes, offset + 1);
            let (at, skipped) = (offset as u64, (next - offset) as u64);
            recovery.corruptions.push(Corruption { segment, offset: at, bytes: skipped });
            offset = next;
            continue;
        };
        let end = offset + HEADER_BYTES + header.payload_length as usize;
        if end > bytes.len() {
            // The write was cut off, or the length leads astray: what follows may still hold records.
            if !done {
                recovery.dropped.push(lost(&header));
            }
            offset = next_header(bytes, offset + HEADER_BYTES);
            continue;
        }
        if !done {
            state.pending += 1;
            spool.entries.push_back(entry(&header, segment, offset as u64));
        }
        offset = end;
    }
    if state.pending == 0 {
        spool.files.delete(segment);
    } else {
        spool.segments.insert(segment, state);
    }
}

fn entry(header: &Header, segment: u64, offset: u64) -> Entry {
    Entry {
        id: BatchId { epoch: header.epoch, sequence: header.sequence },
        place: Place::Disk { segment, offset },
        counts: header.counts,
        payload_bytes: u64::from(header.payload_length),
        span_ns: header.span_ns,
        oldest_mono_ns: 0,
        in_flight: false,
        foreign: true,
    }
}

const fn lost(header: &Header) -> Dropped {
    Dropped { reason: "spool_corrupt", counts: header.counts, begin_ns: header.span_ns.0, payload: None }
}

/// Offset of the next intact header at or after `from`, or the end.
fn next_header(bytes: &[u8], from: usize) -> usize {
    let magic = MAGIC.to_le_bytes();
    let mut at = from.min(bytes.len());
    while let Some(found) = bytes[at..].windows(magic.len()).position(|window| window == magic) {
        at += found;
        if Header::decode(&bytes[at..]).is_some() {
            return at;
        }
        at += 1;
    }
    bytes.len()
}
