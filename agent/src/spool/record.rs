//! The frame around a batch on disk, and the mark behind the last one. The layouts are specified in [`super`].

use super::BatchId;

/// Size of a header in bytes.
pub const HEADER_BYTES: usize = 112;

/// Size of the mark behind the last record of a segment.
pub const TAIL_BYTES: usize = 32;

/// First four bytes of a header: `EREC`.
pub const MAGIC: u32 = 0x4345_5245;

/// First four bytes of a tail mark: `EEND`.
pub const TAIL_MAGIC: u32 = 0x444e_4545;

/// Version of the layout.
pub const VERSION: u16 = 2;

/// Flag: the payload is sealed.
const SEALED: u16 = 1;

/// Where the number of autopsies lies: zero in records of agents that had none.
const AUTOPSIES_OFFSET: usize = 104;

/// Where the checksum of the payload lies.
const PAYLOAD_CRC_OFFSET: usize = 12;

/// Where the checksum of the header lies.
const CHECKSUM_OFFSET: usize = HEADER_BYTES - 4;

/// Where the checksum of a tail mark lies.
const TAIL_CHECKSUM_OFFSET: usize = TAIL_BYTES - 4;

/// What a batch holds, by stream of the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Syncs counted in its histograms.
    pub syncs: u64,
    /// Rows of single syncs.
    pub sync_rows: u32,
    /// Rows of writes.
    pub writes: u32,
    /// Samples.
    pub metrics: u32,
    /// Events.
    pub events: u32,
    /// Slow syncs that were examined.
    pub autopsies: u32,
}

impl Counts {
    /// Count and name of each stream.
    pub const fn by_stream(self) -> [(&'static str, u64); 6] {
        [
            ("sync", self.syncs),
            ("sync_row", self.sync_rows as u64),
            ("write", self.writes as u64),
            ("metric", self.metrics as u64),
            ("event", self.events as u64),
            ("autopsy", self.autopsies as u64),
        ]
    }
}

/// What a record says of its batch, in every version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Title {
    /// The batch.
    pub id: BatchId,
    /// What it holds.
    pub counts: Counts,
    /// Wall clock of the oldest and newest fact, Unix nanoseconds.
    pub span_ns: (i64, i64),
}

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The batch.
    pub title: Title,
    /// Bytes behind the header: the payload, or what it became when it was sealed.
    pub stored_length: u32,
    /// CRC32C of those bytes.
    pub stored_crc: u32,
    /// Whether the payload is sealed.
    pub sealed: bool,
    /// Of the segment: what an earlier segment left in the same file has a lower one.
    pub generation: u64,
    /// Where in the file this header belongs.
    pub offset: u64,
    /// Position among the records of the segment, from 0.
    pub index: u32,
    /// Which write to the segment this was, from 1: the nonce of a sealed payload.
    pub attempt: u32,
}

impl Header {
    /// Where the record ends.
    pub const fn end(&self) -> u64 {
        self.offset + HEADER_BYTES as u64 + self.stored_length as u64
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = self.bound();
        bytes[PAYLOAD_CRC_OFFSET..PAYLOAD_CRC_OFFSET + 4].copy_from_slice(&self.stored_crc.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_OFFSET]);
        bytes[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// What a sealed payload is bound to: the header without its two checksums.
    pub fn bound(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(4, &VERSION.to_le_bytes());
        put(6, &if self.sealed { SEALED } else { 0 }.to_le_bytes());
        put(8, &self.stored_length.to_le_bytes());
        put(16, &self.title.id.epoch);
        put(32, &self.title.id.sequence.to_le_bytes());
        put(40, &self.title.counts.syncs.to_le_bytes());
        put(48, &self.title.counts.sync_rows.to_le_bytes());
        put(52, &self.title.counts.writes.to_le_bytes());
        put(56, &self.title.counts.metrics.to_le_bytes());
        put(60, &self.title.counts.events.to_le_bytes());
        put(64, &self.title.span_ns.0.to_le_bytes());
        put(72, &self.title.span_ns.1.to_le_bytes());
        put(80, &self.generation.to_le_bytes());
        put(88, &self.offset.to_le_bytes());
        put(96, &self.index.to_le_bytes());
        put(100, &self.attempt.to_le_bytes());
        put(AUTOPSIES_OFFSET, &self.title.counts.autopsies.to_le_bytes());
        bytes
    }

    /// Reads a header from the beginning of `bytes`; `None` when there is no intact one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let intact = u32_at(bytes, 0) == MAGIC
            && bytes[4..6] == VERSION.to_le_bytes()
            && u32_at(bytes, CHECKSUM_OFFSET) == crc32c::crc32c(&bytes[..CHECKSUM_OFFSET]);
        let mut title = title_at(bytes);
        title.counts.autopsies = u32_at(bytes, AUTOPSIES_OFFSET);
        intact.then(|| Self {
            title,
            stored_length: u32_at(bytes, 8),
            stored_crc: u32_at(bytes, PAYLOAD_CRC_OFFSET),
            sealed: bytes[6..8] == SEALED.to_le_bytes(),
            generation: u64_at(bytes, 80),
            offset: u64_at(bytes, 88),
            index: u32_at(bytes, 96),
            attempt: u32_at(bytes, 100),
        })
    }
}

/// The mark behind the last record at `offset` of a segment. Whoever finds neither a record nor this knows that something
/// is missing.
pub fn encode_tail(generation: u64, offset: u64) -> [u8; TAIL_BYTES] {
    let mut bytes = [0; TAIL_BYTES];
    bytes[..4].copy_from_slice(&TAIL_MAGIC.to_le_bytes());
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&generation.to_le_bytes());
    bytes[16..24].copy_from_slice(&offset.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..TAIL_CHECKSUM_OFFSET]);
    bytes[TAIL_CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Generation and offset of a tail mark at the beginning of `bytes`; `None` when there is no intact one.
pub fn decode_tail(bytes: &[u8]) -> Option<(u64, u64)> {
    let bytes: &[u8; TAIL_BYTES] = bytes.first_chunk()?;
    let intact = u32_at(bytes, 0) == TAIL_MAGIC
        && bytes[4..6] == VERSION.to_le_bytes()
        && u32_at(bytes, TAIL_CHECKSUM_OFFSET) == crc32c::crc32c(&bytes[..TAIL_CHECKSUM_OFFSET]);
    intact.then(|| (u64_at(bytes, 8), u64_at(bytes, 16)))
}

/// The fields at offsets 16 to 79, which all versions share.
///
/// # Panics
/// When there are fewer than 80 bytes.
pub fn title_at(bytes: &[u8]) -> Title {
    let mut epoch = [0; 16];
    epoch.copy_from_slice(&bytes[16..32]);
    Title {
        id: BatchId { epoch, sequence: u64_at(bytes, 32) },
        counts: Counts {
            syncs: u64_at(bytes, 40),
            sync_rows: u32_at(bytes, 48),
            writes: u32_at(bytes, 52),
            metrics: u32_at(bytes, 56),
            events: u32_at(bytes, 60),
            // Where it is differs.
            autopsies: 0,
        },
        span_ns: (u64_at(bytes, 64).cast_signed(), u64_at(bytes, 72).cast_signed()),
    }
}

/// A little-endian number.
///
/// # Panics
/// When there are fewer bytes.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

/// A little-endian number.
///
/// # Panics
/// When there are fewer bytes.
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}
