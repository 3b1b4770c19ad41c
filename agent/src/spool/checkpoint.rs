//! Up to where each etcd process is covered by what was spooled or acknowledged.
//!
//! After a kill -9 the next agent process finds here when the last kept facts of an etcd process ended and what etcd's own
//! count of WAL syncs was then. From that and the count when it attaches it states the blind interval and how many
//! syncs fell into it.
//!
//! # File
//! Two slots of [`SLOT_BYTES`], written in turn and in place, so that no rename makes the filesystem flush anything.
//! A slot is: magic u32, CRC32C of the rest up to the end of the text u32, generation u64, length u32, then a JSON text.
//! The intact slot with the higher generation counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::BatchId;
use crate::discover::ProcessId;

/// Size of a slot: room for some 200 processes.
pub const SLOT_BYTES: usize = 64 << 10;

/// First four bytes of a slot: `ECKP`.
const MAGIC: u32 = 0x504b_4345;

/// Bytes before the text.
const HEAD_BYTES: usize = 20;

/// Most batches whose coverage is remembered while an older one is not kept yet.
const OPEN_LIMIT: usize = 100_000;

/// What a batch says about one etcd process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The process.
    pub process: ProcessId,
    /// What holds once this batch and all before it are kept; `None` when the process has ended and all of it is covered.
    pub kept: Option<Kept>,
}

/// Up to where a process is covered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// End of the last kept facts, Unix nanoseconds.
    pub until_ns: i64,
    /// etcd's `wal_fsync_duration_seconds_count` at that moment, if it was known.
    pub wal_syncs: Option<u64>,
    /// Cluster id of etcd, 0 = not known.
    pub cluster_id: u64,
    /// Member id of etcd, 0 = not known.
    pub member_id: u64,
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// By process.
    pub processes: BTreeMap<ProcessId, Kept>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    boot_id: uuid::Uuid,
    pid: u32,
    start_ticks: u64,
    #[serde(flatten)]
    kept: Kept,
}

/// A slot's bytes.
///
/// # Errors
/// When the checkpoint does not fit a slot.
pub fn encode_slot(checkpoint: &Checkpoint, generation: u64) -> io::Result<Vec<u8>> {
    let lines: Vec<Line> = checkpoint
        .processes
        .iter()
        .map(|(id, kept)| Line {
            boot_id: uuid::Uuid::from_bytes(id.boot_id),
            pid: id.pid,
            start_ticks: id.start_ticks,
            kept: kept.clone(),
        })
        .collect();
    let text = serde_json::to_vec(&lines)?;
    if HEAD_BYTES + text.len() > SLOT_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut body = generation.to_le_bytes().to_vec();
    body.extend((text.len() as u32).to_le_bytes());
    body.extend(text);
    let mut slot = MAGIC.to_le_bytes().to_vec();
    slot.extend(crc32c::crc32c(&body).to_le_bytes());
    slot.extend(body);
    Ok(slot)
}

/// The newest intact checkpoint of two slots, and its generation.
pub fn decode_slots(slots: &[u8]) -> (Checkpoint, u64) {
    let newest = slots.chunks(SLOT_BYTES).filter_map(decode_slot).max_by_key(|(_, generation)| *generation);
    newest.unwrap_or_default()
}

fn decode_slot(slot: &[u8]) -> Option<(Checkpoint, u64)> {
    let (magic, rest) = slot.split_first_chunk::<4>()?;
    let (checksum, body) = rest.split_first_chunk::<4>()?;
    let (generation, rest) = body.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let text = rest.get(..length)?;
    let intact = u32::from_le_bytes(*magic) == MAGIC
        && u32::from_le_bytes(*checksum) == crc32c::crc32c(&body[..12 + length]);
    if !intact {
        return None;
    }
    let lines: Vec<Line> = serde_json::from_slice(text).ok()?;
    let processes = lines
        .into_iter()
        .map(|line| {
            let id = ProcessId {
                boot_id: line.boot_id.into_bytes(),
                pid: line.pid,
                start_ticks: line.start_ticks,
            };
            (id, line.kept)
        })
        .collect();
    Some((Checkpoint { processes }, u64::from_le_bytes(*generation)))
}

/// Advances the checkpoint as batches of this epoch are kept, in whatever order.
#[derive(Debug)]
pub struct Watermark {
    epoch: [u8; 16],
    checkpoint: Checkpoint,
    open: BTreeMap<u64, Vec<Coverage>>,
    kept: BTreeSet<u64>,
}

impl Watermark {
    /// For the batches of one epoch.
    pub const fn new(epoch: [u8; 16]) -> Self {
        Self {
            epoch,
            checkpoint: Checkpoint { processes: BTreeMap::new() },
            open: BTreeMap::new(),
            kept: BTreeSet::new(),
        }
    }

    /// Goes on from what an earlier process left: a process stays on record until a batch of this epoch covers it.
    pub fn start_from(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = checkpoint;
    }

    /// Notes a new batch.
    pub fn note(&mut self, sequence: u64, coverage: Vec<Coverage>) {
        if self.open.len() < OPEN_LIMIT {
            self.open.insert(sequence, coverage);
        }
    }

    /// Notes that a batch is kept. True when the checkpoint moved.
    pub fn keep(&mut self, id: BatchId) -> bool {
        if id.epoch != self.epoch || !self.open.contains_key(&id.sequence) {
            return false;
        }
        self.kept.insert(id.sequence);
        let mut moved = false;
        while let Some(oldest) = self.open.first_entry().filter(|oldest| self.kept.contains(oldest.key())) {
            let (sequence, coverage) = oldest.remove_entry();
            self.kept.remove(&sequence);
            for Coverage { process, kept } in coverage {
                match kept {
                    Some(kept) => self.checkpoint.processes.insert(process, kept),
                    None => self.checkpoint.processes.remove(&process),
                };
            }
            moved = true;
        }
        moved
    }

    /// Where things stand.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}
