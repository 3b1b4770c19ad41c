//! A small file of `/proc`, kept open and read again and again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::CollectError;

/// First size of the buffer; grows with the file.
const FIRST_BYTES: usize = 4096;

/// Most bytes read: `/proc/diskstats` of a node with thousands of devices.
const MOST_BYTES: usize = 1 << 20;

/// A file below `/proc`.
#[derive(Debug)]
pub struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl ProcFile {
    /// Opened on first use.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, buffer: Vec::new() }
    }

    /// Its content now.
    ///
    /// # Errors
    /// When it can't be opened or read; the next call opens it anew. A process that is gone is [`CollectError::Gone`].
    pub fn read(&mut self) -> Result<&str, CollectError> {
        match self.try_read() {
            Ok(length) => std::str::from_utf8(&self.buffer[..length])
                .map_err(|_not_text| CollectError::Form { path: self.path.display().to_string() }),
            Err(source) => {
                self.file = None;
                let gone = source.raw_os_error() == Some(libc::ESRCH);
                let path = self.path.display().to_string();
                Err(if gone { CollectError::Gone } else { CollectError::File { path, source } })
            }
        }
    }

    fn try_read(&mut self) -> std::io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        self.buffer.resize(self.buffer.len().max(FIRST_BYTES), 0);
        let mut length = 0;
        loop {
            let read = file.read_at(&mut self.buffer[length..], length as u64)?;
            length += read;
            if read == 0 || self.buffer.len() >= MOST_BYTES {
                return Ok(length);
            }
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
        }
    }
}

/// The number behind `key` at the beginning of a line, as in `/proc/PID/status` and `/proc/meminfo`.
pub fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.trim_start_matches([':', ' ', '\t']).split_ascii_whitespace().next()?.parse().ok()
}
