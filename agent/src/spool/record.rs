//! The frame around a batch on disk. The layout is specified in [`super`].

/// Size of a header in bytes.
pub const HEADER_BYTES: usize = 96;

/// First four bytes of a header: `ESPL`.
pub const MAGIC: u32 = 0x4c50_5345;

/// Version of the layout.
const VERSION: u16 = 1;

/// Where the state byte lies.
pub const STATE_OFFSET: u64 = 6;

/// Where the checksum of the header lies.
const CHECKSUM_OFFSET: usize = 92;

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
}

impl Counts {
    /// Count and name of each stream.
    pub const fn by_stream(self) -> [(&'static str, u64); 5] {
        [
            ("sync", self.syncs),
            ("sync_row", self.sync_rows as u64),
            ("write", self.writes as u64),
            ("metric", self.metrics as u64),
            ("event", self.events as u64),
        ]
    }
}

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Epoch of the batch.
    pub epoch: [u8; 16],
    /// Sequence of the batch.
    pub sequence: u64,
    /// Bytes of payload behind the header.
    pub payload_length: u32,
    /// CRC32C of the payload.
    pub payload_crc: u32,
    /// What the batch holds.
    pub counts: Counts,
    /// Wall clock of the oldest and newest fact, Unix nanoseconds.
    pub span_ns: (i64, i64),
}

impl Header {
    /// The header's bytes, state pending.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(4, &VERSION.to_le_bytes());
        put(8, &self.payload_length.to_le_bytes());
        put(12, &self.payload_crc.to_le_bytes());
        put(16, &self.epoch);
        put(32, &self.sequence.to_le_bytes());
        put(40, &self.counts.syncs.to_le_bytes());
        put(48, &self.counts.sync_rows.to_le_bytes());
        put(52, &self.counts.writes.to_le_bytes());
        put(56, &self.counts.metrics.to_le_bytes());
        put(60, &self.counts.events.to_le_bytes());
        put(64, &self.span_ns.0.to_le_bytes());
        put(72, &self.span_ns.1.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_OFFSET]);
        bytes[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header from the beginning of `bytes`; the flag is true when the record is done. `None` when there is
    /// no intact header of a known version.
    pub fn decode(bytes: &[u8]) -> Option<(Self, bool)> {
        let mut header: [u8; HEADER_BYTES] = *bytes.first_chunk()?;
        let done = std::mem::take(&mut header[STATE_OFFSET as usize]) != 0;
        let intact = u32_at(&header, 0) == MAGIC
            && header[4..6] == VERSION.to_le_bytes()
            && u32_at(&header, CHECKSUM_OFFSET) == crc32c::crc32c(&header[..CHECKSUM_OFFSET]);
        if !intact {
            return None;
        }
        let mut epoch = [0; 16];
        epoch.copy_from_slice(&header[16..32]);
        let decoded = Self {
            epoch,
            sequence: u64_at(&header, 32),
            payload_length: u32_at(&header, 8),
            payload_crc: u32_at(&header, 12),
            counts: Counts {
                syncs: u64_at(&header, 40),
                sync_rows: u32_at(&header, 48),
                writes: u32_at(&header, 52),
                metrics: u32_at(&header, 56),
                events: u32_at(&header, 60),
            },
            span_ns: (u64_at(&header, 64).cast_signed(), u64_at(&header, 72).cast_signed()),
        };
        Some((decoded, done))
    }
}

fn u32_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(field)
}
