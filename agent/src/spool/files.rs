//! The only place that opens spool files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, SLOT_BYTES, decode_slots, encode_slot};
use super::record::{HEADER_BYTES, STATE_OFFSET};

/// Ending of a segment's name.
const SEGMENT_ENDING: &str = "segment";

/// Name of the checkpoint file.
const CHECKPOINT_NAME: &str = "checkpoint";

/// Spool files, or the lack of them.
pub trait Files: std::fmt::Debug + Send {
    /// Numbers of all segments, rising.
    ///
    /// # Errors
    /// When the directory can't be listed.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// A segment's content.
    ///
    /// # Errors
    /// When it can't be read.
    fn read_all(&self, segment: u64) -> io::Result<Vec<u8>>;

    /// Exactly `size` bytes of a segment.
    ///
    /// # Errors
    /// When there are fewer, or they can't be read.
    fn read(&self, segment: u64, offset: u64, size: usize) -> io::Result<Vec<u8>>;

    /// Writes a record at `offset`, the end of the segment; a segment begins with its first record. On failure the
    /// segment is as it was.
    ///
    /// # Errors
    /// When it can't be written in full.
    fn append(
        &mut self,
        segment: u64,
        offset: u64,
        header: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> io::Result<()>;

    /// Marks a record as done. Failing only costs a needless resend after a restart.
    fn mark_done(&mut self, segment: u64, offset: u64);

    /// Deletes a segment; failing is logged.
    fn delete(&mut self, segment: u64);

    /// The last checkpoint that reads back intact, or an empty one.
    fn read_checkpoint(&mut self) -> Checkpoint;

    /// Replaces the checkpoint; failing is logged.
    fn write_checkpoint(&mut self, checkpoint: &Checkpoint);
}

/// A directory.
#[derive(Debug)]
pub struct DiskFiles {
    directory: PathBuf,
    open: Option<(u64, File)>,
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
        Ok(Self { directory: directory.to_owned(), open: None, checkpoint: Some(checkpoint), generation: 0 })
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.directory.join(format!("{segment:016x}.{SEGMENT_ENDING}"))
    }

    fn file(&mut self, segment: u64, create: bool) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(number, _)| *number != segment) {
            let file = options().create(create).open(self.path(segment))?;
            self.open = Some((segment, file));
        }
        self.open.as_ref().map(|(_, file)| file).ok_or_else(|| ErrorKind::NotFound.into())
    }
}

/// Batches hold key prefixes and client addresses: nobody else may read them.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Files for DiskFiles {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number = Path::new(&name)
                .file_stem()
                .filter(|_| Path::new(&name).extension().is_some_and(|ending| ending == SEGMENT_ENDING))
                .and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read_all(&self, segment: u64) -> io::Result<Vec<u8>> {
        fs::read(self.path(segment))
    }

    fn read(&self, segment: u64, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        File::open(self.path(segment))?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn append(
        &mut self,
        segment: u64,
        offset: u64,
        header: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> io::Result<()> {
        let file = self.file(segment, true)?;
        // Header last: a record whose header is there has been written in full, unless the machine went down.
        let written = file
            .write_all_at(payload, offset + HEADER_BYTES as u64)
            .and_then(|()| file.write_all_at(header, offset));
        if written.is_err()
            && let Err(error) = file.set_len(offset)
        {
            tracing::warn!(%error, segment, "could not cut a half-written spool record");
        }
        written
    }

    fn mark_done(&mut self, segment: u64, offset: u64) {
        let marked =
            self.file(segment, false).and_then(|file| file.write_all_at(&[1], offset + STATE_OFFSET));
        if let Err(error) = marked {
            tracing::debug!(%error, segment, offset, "could not mark a spool record as done");
        }
    }

    fn delete(&mut self, segment: u64) {
        self.open = self.open.take().filter(|(number, _)| *number != segment);
        if let Err(error) = fs::remove_file(self.path(segment)) {
            tracing::warn!(%error, segment, "could not delete a spool segment");
        }
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

/// No disk: the state directory can't be used. Everything stays in memory.
#[derive(Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn read_all(&self, _segment: u64) -> io::Result<Vec<u8>> {
        Err(ErrorKind::NotFound.into())
    }

    fn read(&self, _segment: u64, _offset: u64, _size: usize) -> io::Result<Vec<u8>> {
        Err(ErrorKind::NotFound.into())
    }

    fn append(&mut self, _: u64, _: u64, _: &[u8; HEADER_BYTES], _: &[u8]) -> io::Result<()> {
        Err(ErrorKind::StorageFull.into())
    }

    fn mark_done(&mut self, _segment: u64, _offset: u64) {}

    fn delete(&mut self, _segment: u64) {}

    fn read_checkpoint(&mut self) -> Checkpoint {
        Checkpoint::default()
    }

    fn write_checkpoint(&mut self, _checkpoint: &Checkpoint) {}
}

impl Files for Box<dyn Files> {
    fn list(&self) -> io::Result<Vec<u64>> {
        (**self).list()
    }

    fn read_all(&self, segment: u64) -> io::Result<Vec<u8>> {
        (**self).read_all(segment)
    }

    fn read(&self, segment: u64, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        (**self).read(segment, offset, size)
    }

    fn append(
        &mut self,
        segment: u64,
        at: u64,
        header: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> io::Result<()> {
        (**self).append(segment, at, header, payload)
    }

    fn mark_done(&mut self, segment: u64, offset: u64) {
        (**self).mark_done(segment, offset);
    }

    fn delete(&mut self, segment: u64) {
        (**self).delete(segment);
    }

    fn read_checkpoint(&mut self) -> Checkpoint {
        (**self).read_checkpoint()
    }

    fn write_checkpoint(&mut self, checkpoint: &Checkpoint) {
        (**self).write_checkpoint(checkpoint);
    }
}
