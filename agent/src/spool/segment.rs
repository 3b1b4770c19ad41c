//! The head of a segment: which one it is, and which of its records are done. The layout is specified in [`super`].

use super::record::{HEADER_BYTES, TAIL_BYTES, encode_tail, u32_at, u64_at};
use super::seal::{KEY_ID_BYTES, SALT_BYTES, Sealing, TAG_BYTES};

/// Size of the part of the head that is not the table.
pub const HEAD_BYTES: usize = 64;

/// Size of an entry of the table.
pub const MARK_BYTES: usize = 4;

/// First four bytes of a segment: `ESEG`.
const MAGIC: u32 = 0x4745_5345;

/// Version of the layout.
const VERSION: u16 = 2;

/// Flag: payloads are sealed.
const SEALED: u16 = 1;

/// Where the checksum lies.
const CHECKSUM_OFFSET: usize = HEAD_BYTES - 4;

/// A segment has an entry in its table for each so many of its bytes: smaller batches than this fill the table first.
const BYTES_PER_MARK: u64 = 2048;

/// Fewest entries of a table.
const LEAST_MARKS: u64 = 16;

/// Sizes of files are multiples of this.
const BLOCK_BYTES: u64 = 4096;

/// The beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Rises with each segment of a spool.
    pub generation: u64,
    /// Number of the file it was written to.
    pub slot: u32,
    /// Most records, = entries of the table.
    pub marks: u32,
    /// Most bytes.
    pub capacity: u64,
    /// How its payloads are sealed, if they are.
    pub sealing: Option<Sealing>,
}

impl Head {
    /// Where the first record lies.
    pub const fn data_start(&self) -> u64 {
        data_start(self.marks as u64)
    }

    /// Head, empty table and tail mark: what makes a file an empty segment in one write.
    pub fn encode(&self) -> Vec<u8> {
        let start = self.data_start();
        let mut bytes = vec![0; start as usize];
        bytes[..HEAD_BYTES].copy_from_slice(&self.encode_head());
        bytes.extend(encode_tail(self.generation, start));
        bytes
    }

    fn encode_head(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(4, &VERSION.to_le_bytes());
        put(8, &self.generation.to_le_bytes());
        put(16, &self.slot.to_le_bytes());
        put(20, &self.marks.to_le_bytes());
        put(24, &self.capacity.to_le_bytes());
        if let Some(sealing) = &self.sealing {
            put(6, &SEALED.to_le_bytes());
            put(32, &sealing.key_id);
            put(40, &sealing.salt);
        }
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_OFFSET]);
        bytes[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a head from the beginning of `bytes`; `None` when there is no intact one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let intact = u32_at(bytes, 0) == MAGIC
            && bytes[4..6] == VERSION.to_le_bytes()
            && u32_at(bytes, CHECKSUM_OFFSET) == crc32c::crc32c(&bytes[..CHECKSUM_OFFSET]);
        if !intact {
            return None;
        }
        let sealing = (bytes[6..8] == SEALED.to_le_bytes()).then(|| {
            let (mut key_id, mut salt) = ([0; KEY_ID_BYTES], [0; SALT_BYTES]);
            key_id.copy_from_slice(&bytes[32..32 + KEY_ID_BYTES]);
            salt.copy_from_slice(&bytes[40..40 + SALT_BYTES]);
            Sealing { key_id, salt }
        });
        Some(Self {
            generation: u64_at(bytes, 8),
            slot: u32_at(bytes, 16),
            marks: u32_at(bytes, 20),
            capacity: u64_at(bytes, 24),
            sealing,
        })
    }
}

const fn data_start(marks: u64) -> u64 {
    HEAD_BYTES as u64 + marks * MARK_BYTES as u64
}

/// Entries of the table of a segment of so many bytes.
pub fn marks_of(capacity: u64) -> u32 {
    let marks = (capacity / BYTES_PER_MARK).saturating_sub(LEAST_MARKS).max(LEAST_MARKS);
    u32::try_from(marks).unwrap_or(u32::MAX)
}

/// Bytes that a record takes, its share of the tail mark included.
pub const fn room_of(payload_bytes: u64) -> u64 {
    (HEADER_BYTES + TAG_BYTES + TAIL_BYTES) as u64 + payload_bytes
}

/// Size of a segment that holds one batch which is too large for those of the usual size.
pub fn capacity_for(payload_bytes: u64) -> u64 {
    let least = room_of(payload_bytes) + data_start(LEAST_MARKS);
    let mut capacity = least.next_multiple_of(BLOCK_BYTES);
    while data_start(u64::from(marks_of(capacity))) + room_of(payload_bytes) > capacity {
        capacity += BLOCK_BYTES;
    }
    capacity
}

/// Whether a record of this size fits into an empty segment.
pub fn fits_empty(capacity: u64, payload_bytes: u64) -> bool {
    data_start(u64::from(marks_of(capacity))) + room_of(payload_bytes) <= capacity
}

/// Where the mark of a record lies.
pub const fn mark_offset(index: u32) -> u64 {
    data_start(index as u64)
}

/// What stands there once the record is done. Anything else means pending: no single damage makes a record disappear, and
/// what an earlier segment left means nothing.
pub fn done_mark(generation: u64, index: u32) -> [u8; MARK_BYTES] {
    let mut bytes = *b"done............";
    bytes[4..12].copy_from_slice(&generation.to_le_bytes());
    bytes[12..].copy_from_slice(&index.to_le_bytes());
    // Zero is what an empty table holds.
    crc32c::crc32c(&bytes).max(1).to_le_bytes()
}
