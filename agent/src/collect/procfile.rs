//! A small file of `/proc` or `/sys`, kept open and read again and again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::CollectError;

/// First size of the buffer; grows with the file.
const FIRST_BYTES: usize = 512;

/// Most bytes read: `/proc/stat` of a node with thousands of interrupts.
const MOST_BYTES: usize = 1 << 20;

/// A file below `/proc` or `/sys`.
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

    /// Its content now, at most 1 MiB of it. What is not UTF-8, such as in the name of a process, reads as `?`.
    ///
    /// # Errors
    /// When it can't be opened or read; the next call opens it anew. A process that is gone is [`CollectError::Gone`].
    pub fn read(&mut self) -> Result<&str, CollectError> {
        match self.try_read() {
            Ok(length) => Ok(readable(&mut self.buffer[..length])),
            Err(source) => {
                self.file = None;
                let gone = source.raw_os_error() == Some(libc::ESRCH);
                let path = self.path.display().to_string();
                Err(if gone { CollectError::Gone } else { CollectError::File { path, source } })
            }
        }
    }

    /// The error for content in another form than expected.
    pub fn form_error(&self) -> CollectError {
        CollectError::Form { path: self.path.display().to_string() }
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
            if read == 0 || length >= MOST_BYTES {
                return Ok(length);
            }
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
        }
    }
}

/// The bytes as text, with `?` in place of what is none.
fn readable(bytes: &mut [u8]) -> &str {
    let mut good = 0;
    while let Err(error) = std::str::from_utf8(&bytes[good..]) {
        let from = good + error.valid_up_to();
        good = error.error_len().map_or(bytes.len(), |length| from + length);
        bytes[from..good].fill(b'?');
    }
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The number behind `key` at the beginning of a line, as in `/proc/PID/status` and `/proc/meminfo`. The key must be the
/// whole word: `Swap` is not `SwapTotal`.
pub fn number_after(text: &str, key: &str) -> Option<u64> {
    let ends = |rest: &&str| rest.starts_with([':', ' ', '\t']);
    let rest = text.lines().find_map(|line| line.strip_prefix(key).filter(ends))?;
    rest.trim_start_matches([':', ' ', '\t']).split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_past_the_buffer_is_read_in_full_up_to_the_limit() {
        let directory = tempfile::tempdir().expect("writable");
        let path = directory.path().join("file");
        let mut file = ProcFile::new(&path);
        assert!(matches!(file.read(), Err(CollectError::File { .. })));
        for bytes in [0, 3, FIRST_BYTES, FIRST_BYTES + 1, 10_000, 3 * MOST_BYTES] {
            std::fs::write(&path, "x".repeat(bytes)).expect("written");
            let read = file.read().expect("readable").len();
            assert!(read >= bytes.min(MOST_BYTES) && read <= bytes, "{read} of {bytes}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_the_rest() {
        let mut bytes = b"Name:\t\xff\xfe\xc3\nThreads:\t7\n\xe2\x82".to_vec();
        let text = readable(&mut bytes);
        assert_eq!(text, "Name:\t???\nThreads:\t7\n??");
        assert_eq!(number_after(text, "Threads"), Some(7));
    }

    #[test]
    fn a_key_is_a_whole_word_and_a_number_a_number() {
        let text = "SwapTotal: 9 kB\nSwap:  3\nBad: x\nEmpty:\nHuge: 99999999999999999999999\n";
        assert_eq!(number_after(text, "Swap"), Some(3));
        for key in ["Bad", "Empty", "Huge", "None", ""] {
            assert_eq!(number_after(text, key), None, "{key}");
        }
    }

    #[test]
    fn a_process_that_ends_between_two_reads_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let mut file = ProcFile::new(format!("/proc/{}/stat", child.id()));
        assert!(file.read().is_ok());
        child.kill().and_then(|()| child.wait()).expect("killed");
        assert!(matches!(file.read(), Err(CollectError::Gone)));
        assert!(matches!(file.read(), Err(CollectError::File { .. })));
    }
}
