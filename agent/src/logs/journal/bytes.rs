//! Reads of a file that another process writes, and the numbers in them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Read at once at the file's growing end, and how much of it before the entry.
const WINDOW: usize = 64 << 10;
const BEFORE: u64 = 24 << 10;

/// An entry and the begin of what follows: room that the window has behind the begin of an entry.
const AHEAD: u64 = 2 << 10;

/// Why a file, or an entry, can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system says no.
    #[error("read the journal")]
    Io(#[source] io::Error),
    /// It is no journal, or a damaged one.
    #[error("{what} at offset {at}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// A format of the future.
    #[error("features {0:#x} are not known")]
    Unknown(u32),
}

pub const fn damaged(what: &'static str, at: u64) -> Fault {
    Fault::Damaged { what, at }
}

/// Reads with a window over the part where new objects are.
#[derive(Debug)]
pub struct Bytes {
    file: File,
    at: u64,
    window: Vec<u8>,
    single: Vec<u8>,
    /// Bytes read so far.
    spent: usize,
}

impl Bytes {
    pub const fn new(file: File) -> Self {
        Self { file, at: 0, window: Vec::new(), single: Vec::new(), spent: 0 }
    }

    /// Where the window begins.
    pub const fn begin(&self) -> u64 {
        self.at
    }

    /// Bytes read since the last call.
    pub const fn take_spent(&mut self) -> usize {
        std::mem::replace(&mut self.spent, 0)
    }

    /// Up to `length` bytes from `at`; fewer at the end of the file.
    pub fn get(&mut self, at: u64, length: usize) -> Result<&[u8], Fault> {
        if let Some(begin) = at.checked_sub(self.at).and_then(|begin| usize::try_from(begin).ok())
            && self.window.len().checked_sub(begin).is_some_and(|room| room >= length)
        {
            return Ok(&self.window[begin..begin + length]);
        }
        let mut single = std::mem::take(&mut self.single);
        let outcome = self.read(at, length, &mut single);
        self.single = single;
        outcome.map(|()| self.single.as_slice())
    }

    pub fn exact<const N: usize>(&mut self, at: u64) -> Result<[u8; N], Fault> {
        self.get(at, N)?.try_into().map_err(|_short| damaged("the file ends too early", at))
    }

    fn read(&mut self, at: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        into.resize(length, 0);
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut into[filled..], at.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // An offset beyond what the system can address.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        into.truncate(filled);
        self.spent += filled;
        Ok(())
    }

    /// Lays the window over the entry at `at` and what was written between `after` and it; `until` is the last entry of interest.
    pub fn cover(&mut self, after: u64, at: u64, until: u64) -> Result<(), Fault> {
        let end = self.at + self.window.len() as u64;
        if at >= self.at && at.saturating_add(AHEAD) <= end {
            return Ok(());
        }
        let from = after.clamp(at.saturating_sub(BEFORE), at);
        let length = until.saturating_add(AHEAD).saturating_sub(from).min(WINDOW as u64) as usize;
        let mut window = std::mem::take(&mut self.window);
        let outcome = self.read(from, length, &mut window);
        (self.at, self.window) = (from, window);
        outcome
    }

    pub fn forget(&mut self) {
        self.window.clear();
    }
}

/// A number of 8 bytes, which are there.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// A number of 4 bytes, which are there.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}
