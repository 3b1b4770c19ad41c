//! The only place that opens spool files.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fmt, mem};

use super::checkpoint::{Checkpoint, SLOT_BYTES, decode_slots, encode_slot};

/// Ending of the name of a segment of version 1: a file each, deleted when it is done.
const VERSION_1_ENDING: &str = "segment";

/// Ending of the name of a slot.
const SLOT_ENDING: &str = "slot";

/// Name of the checkpoint file.
const CHECKPOINT_NAME: &str = "checkpoint";

/// Files that are kept open: the one that is written, the one that is sent from, and their neighbours.
const OPEN_LIMIT: usize = 4;

/// So many segments, as a power of two, can begin in a second without running ahead of the clock.
const GENERATIONS_PER_SECOND_BITS: u32 = 20;

/// Room that is left on the filesystem: a share of its size, but no more than [`MOST_LEFT_BYTES`]. A full disk stops etcd.
const LEFT_SHARE: u64 = 20;

/// See [`LEFT_SHARE`].
const MOST_LEFT_BYTES: u64 = 1 << 30;

/// A file that holds records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A segment that an agent with version 1 of the format wrote, by its number.
    Version1(u64),
    /// A slot: room for one segment after the other.
    Slot(u32),
}

impl FileName {
    /// What a file of this name is; `None` = none of ours.
    pub fn parse(name: &Path) -> Option<Self> {
        let (stem, ending) = (name.file_stem()?.to_str()?, name.extension()?.to_str()?);
        match ending {
            VERSION_1_ENDING => u64::from_str_radix(stem, 16).ok().map(Self::Version1),
            SLOT_ENDING => u32::from_str_radix(stem, 16).ok().map(Self::Slot),
            _ => None,
        }
        .filter(|parsed| name.as_os_str() == parsed.to_string().as_str())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version1(number) => write!(formatter, "{number:016x}.{VERSION_1_ENDING}"),
            Self::Slot(number) => write!(formatter, "{number:04x}.{SLOT_ENDING}"),
        }
    }
}

/// Spool files, or the lack of them.
pub trait Files: fmt::Debug + Send {
    /// All segments and slots, with their sizes in bytes.
    ///
    /// # Errors
    /// When the directory can't be listed.
    fn list(&self) -> io::Result<Vec<(FileName, u64)>>;

    /// A generation for the first new segment, higher than those before as far as the clock goes: when all files are gone, nothing else
    /// tells what was used, and an old copy of one that comes back must not look newer.
    fn first_generation(&self) -> u64;

    /// Fills `buffer` from `offset` on; returns how many bytes there were.
    ///
    /// # Errors
    /// When the file isn't there or can't be read.
    fn read(&mut self, file: FileName, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes a slot with room for `bytes`, which is taken from the filesystem at once where that is possible.
    ///
    /// # Errors
    /// When there is no such room; then there is no such file either.
    fn create(&mut self, slot: u32, bytes: u64) -> io::Result<()>;

    /// Writes into a file that is there.
    ///
    /// # Errors
    /// When not all of it could be written.
    fn write(&mut self, file: FileName, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// When it can't be deleted.
    fn delete(&mut self, file: FileName) -> io::Result<()>;

    /// The last checkpoint that reads back intact, or an empty one.
    fn read_checkpoint(&mut self) -> Checkpoint;

    /// Replaces the checkpoint; failing is logged.
    fn write_checkpoint(&mut self, checkpoint: &Checkpoint);
}

/// A directory.
#[derive(Debug)]
pub struct DiskFiles {
    directory: PathBuf,
    open: VecDeque<(FileName, File)>,
    checkpoint: Option<File>,
    generation: u64,
}

impl DiskFiles {
    /// In `directory`, which is made if need be.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let checkpoint = options().create(true).open(directory.join(CHECKPOINT_NAME))?;
        let open = VecDeque::new();
        Ok(Self { directory: directory.to_owned(), open, checkpoint: Some(checkpoint), generation: 0 })
    }

    fn path(&self, file: FileName) -> PathBuf {
        self.directory.join(file.to_string())
    }

    fn file(&mut self, name: FileName) -> io::Result<&File> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == name) {
            self.open.swap(0, at);
        } else {
            // Reading must not make ext4 journal the time of it.
            let quiet = options().custom_flags(libc::O_NOATIME).open(self.path(name));
            let file = quiet.or_else(|_not_the_owner| options().open(self.path(name)))?;
            self.open.truncate(OPEN_LIMIT - 1);
            self.open.push_front((name, file));
        }
        Ok(&self.open[0].1)
    }
}

/// Batches hold key prefixes and client addresses: nobody else may read them.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Files for DiskFiles {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = FileName::parse(Path::new(&entry.file_name()));
            // Whatever else has such a name is not ours to read or delete.
            let size = entry.metadata().ok().filter(fs::Metadata::is_file).map(|file| file.len());
            files.extend(name.zip(size));
        }
        files.sort_unstable();
        Ok(files)
    }

    fn first_generation(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_secs() << GENERATIONS_PER_SECOND_BITS
    }

    fn read(&mut self, file: FileName, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.file(file)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn create(&mut self, slot: u32, bytes: u64) -> io::Result<()> {
        let name = FileName::Slot(slot);
        let path = self.path(name);
        let file = options().create_new(true).open(&path)?;
        if let Err(error) = reserve(&file, bytes) {
            drop(file);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, %name, "could not delete a spool file that got no room");
            }
            return Err(error);
        }
        self.open.truncate(OPEN_LIMIT - 1);
        self.open.push_front((name, file));
        Ok(())
    }

    fn write(&mut self, file: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(file)?.write_all_at(bytes, offset)
    }

    fn delete(&mut self, file: FileName) -> io::Result<()> {
        self.open.retain(|(name, _)| *name != file);
        fs::remove_file(self.path(file))
    }

    fn read_checkpoint(&mut self) -> Checkpoint {
        let mut slots = vec![0; 2 * SLOT_BYTES];
        let Some(file) = &self.checkpoint else { return Checkpoint::default() };
        let size = (0..slots.len())
            .step_by(SLOT_BYTES)
            .map(|at| file.read_at(&mut slots[at..at + SLOT_BYTES], at as u64).unwrap_or(0))
            .sum::<usize>();
        if size == 0 {
            return Checkpoint::default();
        }
        let (checkpoint, generation) = decode_slots(&slots);
        self.generation = generation;
        checkpoint
    }

    fn write_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let Some(file) = &self.checkpoint else { return };
        self.generation += 1;
        let written = encode_slot(checkpoint, self.generation)
            .and_then(|slot| file.write_all_at(&slot, (self.generation % 2) * SLOT_BYTES as u64));
        if let Err(error) = written {
            tracing::warn!(%error, "could not write the checkpoint");
        }
    }
}

/// Takes the room of a new file from the filesystem, unless that would leave too little for others.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let (size, available) = space(file)?;
    if available < bytes + (size / LEFT_SHARE).min(MOST_LEFT_BYTES) {
        return Err(io::Error::new(ErrorKind::StorageFull, "no space left but what is kept for etcd"));
    }
    let length = libc::off_t::try_from(bytes).map_err(|_| ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open for the duration of the call, which touches no memory of ours.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // The file grows as it is written.
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(()),
        _ => Err(error),
    }
}

/// Size of a file's filesystem and what is available of it, in bytes.
fn space(file: &File) -> io::Result<(u64, u64)> {
    // SAFETY: all zeros is a valid statvfs.
    let mut space: libc::statvfs = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open and `space` is valid, both for the duration of the call.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut space) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize))
}

/// No disk: the state directory can't be used. Everything stays in memory.
#[derive(Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        Ok(Vec::new())
    }

    fn first_generation(&self) -> u64 {
        1
    }

    fn read(&mut self, _file: FileName, _offset: u64, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::NotFound.into())
    }

    fn create(&mut self, _slot: u32, _bytes: u64) -> io::Result<()> {
        Err(ErrorKind::StorageFull.into())
    }

    fn write(&mut self, _file: FileName, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(ErrorKind::StorageFull.into())
    }

    fn delete(&mut self, _file: FileName) -> io::Result<()> {
        Ok(())
    }

    fn read_checkpoint(&mut self) -> Checkpoint {
        Checkpoint::default()
    }

    fn write_checkpoint(&mut self, _checkpoint: &Checkpoint) {}
}

impl Files for Box<dyn Files> {
    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        (**self).list()
    }

    fn first_generation(&self) -> u64 {
        (**self).first_generation()
    }

    fn read(&mut self, file: FileName, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read(file, offset, buffer)
    }

    fn create(&mut self, slot: u32, bytes: u64) -> io::Result<()> {
        (**self).create(slot, bytes)
    }

    fn write(&mut self, file: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write(file, offset, bytes)
    }

    fn delete(&mut self, file: FileName) -> io::Result<()> {
        (**self).delete(file)
    }

    fn read_checkpoint(&mut self) -> Checkpoint {
        (**self).read_checkpoint()
    }

    fn write_checkpoint(&mut self, checkpoint: &Checkpoint) {
        (**self).write_checkpoint(checkpoint);
    }
}
