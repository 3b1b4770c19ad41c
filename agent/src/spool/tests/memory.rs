//! Files in memory that fail, tear and rot as they are told to.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::spool::checkpoint::{Checkpoint, SLOT_BYTES, decode_slots, encode_slot};
use crate::spool::{FileName, Files};

/// What outlives a process.
#[derive(Debug, Default)]
pub struct Disk {
    /// Content by name.
    pub files: BTreeMap<FileName, Vec<u8>>,
    checkpoint: [Vec<u8>; 2],
    generation: u64,
    /// No new file finds room.
    pub full: bool,
    /// Files grow as they are written.
    pub no_preallocation: bool,
    /// So many writes fail, after a part of each.
    pub failing_writes: u32,
    /// The process is killed after so many more bytes, in the middle of a write if need be.
    pub fuse: Option<u64>,
    /// The fuse has blown: nothing that the process still does has an effect.
    pub killed: bool,
    /// Processes that were started: the clock.
    starts: u64,
    /// Files made, and files deleted.
    pub churn: (u64, u64),
}

impl Disk {
    /// How many of so many bytes are still written.
    fn survive(&mut self, bytes: usize) -> usize {
        let Some(fuse) = &mut self.fuse else { return bytes };
        let survived = bytes.min(usize::try_from(*fuse).unwrap_or(usize::MAX));
        *fuse -= survived as u64;
        self.killed |= survived < bytes;
        survived
    }

    fn alive(&self) -> io::Result<()> {
        if self.killed { Err(io::Error::other("killed")) } else { Ok(()) }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    file.resize(file.len().max(offset + bytes.len()), 0);
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// What a process has of a [`Disk`].
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(pub Arc<Mutex<Disk>>);

impl MemoryFiles {
    /// The disk itself.
    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("not poisoned")
    }
}

impl Files for MemoryFiles {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        Ok(self.disk().files.iter().map(|(name, content)| (*name, content.len() as u64)).collect())
    }

    fn first_generation(&self) -> u64 {
        let mut disk = self.disk();
        disk.starts += 1;
        disk.starts << 20
    }

    fn read(&mut self, file: FileName, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = self.disk();
        disk.alive()?;
        let content = disk.files.get(&file).ok_or(ErrorKind::NotFound)?;
        let rest = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn create(&mut self, slot: u32, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.alive()?;
        if disk.full {
            return Err(ErrorKind::StorageFull.into());
        }
        if disk.files.contains_key(&FileName::Slot(slot)) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if disk.survive(1) == 1 {
            let length = if disk.no_preallocation { 0 } else { bytes as usize };
            disk.files.insert(FileName::Slot(slot), vec![0; length]);
            disk.churn.0 += 1;
        }
        disk.alive()
    }

    fn write(&mut self, file: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.alive()?;
        let mut written = disk.survive(bytes.len());
        let fails = disk.failing_writes > 0 && !disk.killed;
        if fails {
            disk.failing_writes -= 1;
            written /= 2;
        }
        let content = disk.files.get_mut(&file).ok_or(ErrorKind::NotFound)?;
        put(content, offset as usize, &bytes[..written]);
        if fails { Err(io::Error::other("bad block")) } else { disk.alive() }
    }

    fn delete(&mut self, file: FileName) -> io::Result<()> {
        let mut disk = self.disk();
        disk.alive()?;
        if disk.survive(1) == 1 {
            disk.files.remove(&file).ok_or(ErrorKind::NotFound)?;
            disk.churn.1 += 1;
        }
        disk.alive()
    }

    fn read_checkpoint(&mut self) -> Checkpoint {
        let mut disk = self.disk();
        let mut slots = vec![0; 2 * SLOT_BYTES];
        for (at, slot) in disk.checkpoint.iter().enumerate() {
            slots[at * SLOT_BYTES..at * SLOT_BYTES + slot.len()].copy_from_slice(slot);
        }
        let (checkpoint, generation) = decode_slots(&slots);
        disk.generation = generation;
        checkpoint
    }

    fn write_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let mut disk = self.disk();
        if disk.alive().is_err() {
            return;
        }
        disk.generation += 1;
        let slot = encode_slot(checkpoint, disk.generation).expect("small");
        let written = disk.survive(slot.len());
        let at = (disk.generation % 2) as usize;
        put(&mut disk.checkpoint[at], 0, &slot[..written]);
    }
}
