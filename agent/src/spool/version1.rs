//! Segments that an agent with version 1 of the format left: read, sent, deleted, never written but for the state of a record.
//!
//! A file each, a run of records without gaps:
//!
//! ```text
//! header (96 bytes) :=  0 magic u32 = 0x4c505345    4 version u16 = 1    6 state u8 (1 done, else pending)    7 zero
//!                       8 payload length u32       12 CRC32C of payload  16..80 as in version 2
//!                      80 zero [12]                92 CRC32C of bytes 0..92 with state = 0
//! ```

use super::record::{Title, title_at, u32_at};

/// Size of a header in bytes.
pub const HEADER_BYTES: usize = 96;

/// Where the state byte lies.
pub const STATE_OFFSET: u64 = 6;

/// State of a record that was acknowledged, refused or dropped. Any other is pending: sending twice does no harm.
pub const DONE: u8 = 1;

/// First four bytes of a header: `ESPL`.
const MAGIC: u32 = 0x4c50_5345;

/// Version of the layout.
const VERSION: u16 = 1;

/// Where the checksum of the header lies.
const CHECKSUM_OFFSET: usize = 92;

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The batch.
    pub title: Title,
    /// Bytes of payload behind the header.
    pub payload_length: u32,
    /// CRC32C of the payload.
    pub payload_crc: u32,
    /// Acknowledged, refused or dropped.
    pub done: bool,
}

impl Header {
    /// Reads a header from the beginning of `bytes`; `None` when there is no intact one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut header: [u8; HEADER_BYTES] = *bytes.first_chunk()?;
        let done = std::mem::take(&mut header[STATE_OFFSET as usize]) == DONE;
        let intact = u32_at(&header, 0) == MAGIC
            && header[4..6] == VERSION.to_le_bytes()
            && u32_at(&header, CHECKSUM_OFFSET) == crc32c::crc32c(&header[..CHECKSUM_OFFSET]);
        intact.then(|| Self {
            title: title_at(&header),
            payload_length: u32_at(&header, 8),
            payload_crc: u32_at(&header, 12),
            done,
        })
    }
}

/// Something in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A whole record.
    Record(u64, Header),
    /// A record that ends behind the end of the file.
    Cut(u64, Header),
    /// No record.
    Damage {
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

/// Everything in a segment, from its first byte to its last.
pub fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let (mut pieces, mut offset) = (Vec::new(), 0);
    while offset < bytes.len() {
        let Some(header) = Header::decode(&bytes[offset..]) else {
            let next = next_header(bytes, offset + 1);
            pieces.push(Piece::Damage { offset: offset as u64, bytes: (next - offset) as u64 });
            offset = next;
            continue;
        };
        let end = offset + HEADER_BYTES + header.payload_length as usize;
        if end > bytes.len() {
            // The write was cut off, or the length leads astray: what follows may still hold records.
            pieces.push(Piece::Cut(offset as u64, header));
            offset = next_header(bytes, offset + HEADER_BYTES);
        } else {
            pieces.push(Piece::Record(offset as u64, header));
            offset = end;
        }
    }
    pieces
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

#[cfg(test)]
pub mod testing {
    //! What an agent with version 1 wrote.

    use super::*;

    /// A record, state pending.
    pub fn record(title: &Title, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES];
        let mut put =
            |offset: usize, field: &[u8]| header[offset..offset + field.len()].copy_from_slice(field);
        put(0, b"ESPL");
        put(4, &[1, 0]);
        put(8, &(payload.len() as u32).to_le_bytes());
        put(12, &crc32c::crc32c(payload).to_le_bytes());
        put(16, &title.id.epoch);
        put(32, &title.id.sequence.to_le_bytes());
        put(40, &title.counts.syncs.to_le_bytes());
        put(48, &title.counts.sync_rows.to_le_bytes());
        put(52, &title.counts.writes.to_le_bytes());
        put(56, &title.counts.metrics.to_le_bytes());
        put(60, &title.counts.events.to_le_bytes());
        put(64, &title.span_ns.0.to_le_bytes());
        put(72, &title.span_ns.1.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..CHECKSUM_OFFSET]);
        header[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        [&header[..], payload].concat()
    }
}
