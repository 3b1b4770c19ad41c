//! Follows a file that grows: through rotation by rename and create, through truncation, and through its removal.
//!
//! Positions are kept in memory only. A poll reads at most what its [`Budget`] allows; what is skipped is counted in lines: a
//! backlog beyond [`BACKLOG_LIMIT`] is jumped over (its lines are estimated from their mean length), a line longer than
//! [`LINE_LIMIT`] is dropped. A file that was truncated and has grown beyond its old length between two polls is read on
//! from the old position: that can't be told from appending.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use etcdmon_service::foreign;

/// Longest line.
pub const LINE_LIMIT: usize = 64 << 10;

/// More unread bytes than this are jumped over, up to the last [`LOOK_BACK`] bytes.
pub const BACKLOG_LIMIT: u64 = 32 << 20;

/// How far before the end reading begins at first, and after a jump.
pub const LOOK_BACK: u64 = 256 << 10;

/// Read at once.
const CHUNK: usize = 64 << 10;

/// What a poll may still do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes to read.
    pub bytes: usize,
}

/// Lines that were not handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Because more was written than may be read; an estimate.
    pub backlog: u64,
    /// Because they were too long.
    pub too_long: u64,
}

/// A followed file.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    inode: (u64, u64),
    offset: u64,
    /// Up to here the file had been written when it was opened first: what lies before is old.
    old_until: u64,
    partial: Vec<u8>,
    /// The begin of the present line was not seen, or it is too long.
    discarding: bool,
    chunk: Vec<u8>,
    lines: u64,
    bytes: u64,
    skipped: Skipped,
}

impl Tail {
    /// Follows `path` from [`LOOK_BACK`] before its end.
    pub fn new(path: PathBuf) -> Self {
        let mut tail = Self {
            path,
            file: None,
            inode: (0, 0),
            offset: 0,
            old_until: 0,
            partial: Vec::new(),
            discarding: false,
            chunk: Vec::new(),
            lines: 0,
            bytes: 0,
            skipped: Skipped::default(),
        };
        // Not being there yet is no fault: it is looked for with every poll.
        let _not_yet = tail.open(true);
        tail
    }

    /// What it follows.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True while there is a file.
    pub const fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// What was skipped since the last call.
    pub fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    /// Hands out every complete line that is new, without its end; the flag is true for lines that were there before
    /// following began. True when there may be more.
    ///
    /// # Errors
    /// When the file can't be read. It is tried again with the next poll.
    pub fn poll(&mut self, budget: &mut Budget, line: &mut impl FnMut(&[u8], bool)) -> io::Result<bool> {
        if self.file.is_none() {
            self.open(false)?;
        }
        loop {
            let more = self.read(budget, line)?;
            if more {
                return Ok(true);
            }
            if !self.moved_on()? {
                return Ok(false);
            }
        }
    }

    /// Follows another file from its begin, after this one was read to its end.
    pub fn switch(&mut self, path: PathBuf) {
        self.path = path;
        self.file = None;
        self.reset(0);
    }

    fn reset(&mut self, offset: u64) {
        self.offset = offset;
        self.old_until = 0;
        self.partial.clear();
        self.discarding = false;
    }

    fn open(&mut self, first: bool) -> io::Result<()> {
        let file = foreign::open(&self.path)?;
        let metadata = file.metadata()?;
        self.inode = (metadata.dev(), metadata.ino());
        self.reset(0);
        if first {
            self.old_until = metadata.len();
            self.offset = metadata.len().saturating_sub(LOOK_BACK);
            self.discarding = self.offset > 0;
        }
        self.file = Some(file);
        Ok(())
    }

    /// At the end of the file: true when there is something else to be read from its begin.
    fn moved_on(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        if file.metadata()?.len() < self.offset {
            self.reset(0);
            return Ok(true);
        }
        // Gone or not to be seen any more, as when the container is gone: what is open is kept.
        let Ok(there) = std::fs::metadata(&self.path) else { return Ok(false) };
        if (there.dev(), there.ino()) == self.inode {
            return Ok(false);
        }
        self.open(false)?;
        Ok(true)
    }

    fn read(&mut self, budget: &mut Budget, line: &mut impl FnMut(&[u8], bool)) -> io::Result<bool> {
        let Some(file) = self.file.take() else { return Ok(false) };
        let outcome = self.read_from(&file, budget, line);
        self.file = Some(file);
        outcome
    }

    fn read_from(
        &mut self,
        file: &File,
        budget: &mut Budget,
        line: &mut impl FnMut(&[u8], bool),
    ) -> io::Result<bool> {
        self.jump(file)?;
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK, 0);
        let outcome = loop {
            if budget.bytes == 0 {
                break Ok(true);
            }
            let length = chunk.len().min(budget.bytes);
            match file.read_at(&mut chunk[..length], self.offset) {
                Ok(0) => break Ok(false),
                Ok(count) => {
                    budget.bytes -= count;
                    self.take(&chunk[..count], line);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.chunk = chunk;
        outcome
    }

    /// Jumps over what is too much to catch up with.
    fn jump(&mut self, file: &File) -> io::Result<()> {
        let length = file.metadata()?.len();
        let behind = length.saturating_sub(self.offset);
        if behind > BACKLOG_LIMIT {
            let over = behind - LOOK_BACK;
            let mean = self.bytes.checked_div(self.lines).unwrap_or(200).max(1);
            self.skipped.backlog += over / mean;
            self.offset += over;
            self.partial.clear();
            self.discarding = true;
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8], bool)) {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            let (head, rest) = bytes.split_at(at);
            bytes = &rest[1..];
            self.offset += at as u64 + 1;
            if std::mem::take(&mut self.discarding) {
                self.partial.clear();
                continue;
            }
            self.lines += 1;
            self.bytes += (self.partial.len() + at + 1) as u64;
            let old = self.offset <= self.old_until;
            if self.partial.is_empty() {
                line(head, old);
            } else {
                self.partial.extend_from_slice(head);
                line(&self.partial, old);
                self.partial.clear();
            }
        }
        self.offset += bytes.len() as u64;
        if self.discarding {
            return;
        }
        if self.partial.len() + bytes.len() > LINE_LIMIT {
            self.skipped.too_long += 1;
            self.discarding = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn poll(tail: &mut Tail) -> Vec<String> {
        poll_with(tail, &mut Budget { bytes: usize::MAX })
    }

    fn poll_with(tail: &mut Tail, budget: &mut Budget) -> Vec<String> {
        let mut lines = Vec::new();
        tail.poll(budget, &mut |line, old| {
            let mark = if old { "old " } else { "" };
            lines.push(format!("{mark}{}", String::from_utf8_lossy(line)));
        })
        .unwrap();
        lines
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn new_lines_come_once_and_old_ones_are_marked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, "a\nb\n");
        let mut tail = Tail::new(path.clone());
        append(&path, "c\nhal");
        assert_eq!(poll(&mut tail), ["old a", "old b", "c"]);
        append(&path, "f\n\n");
        assert_eq!(poll(&mut tail), ["half", ""]);
        assert_eq!(poll(&mut tail), [""; 0]);
    }

    #[test]
    fn rename_and_create_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, "a\n");
        let mut tail = Tail::new(path.clone());
        poll(&mut tail);
        append(&path, "b\n");
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        append(&directory.path().join("log.1"), "c\n");
        assert_eq!(poll(&mut tail), ["b", "c"], "the new one is not there yet");
        append(&path, "d\n");
        assert_eq!(poll(&mut tail), ["d"]);
    }

    #[test]
    fn copytruncate_and_removal_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, "aaaa\nbbbb\n");
        let mut tail = Tail::new(path.clone());
        poll(&mut tail);
        std::fs::write(&path, "").unwrap();
        assert_eq!(poll(&mut tail), [""; 0]);
        append(&path, "c\n");
        assert_eq!(poll(&mut tail), ["c"]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(poll(&mut tail), [""; 0]);
        append(&path, "d\n");
        assert_eq!(poll(&mut tail), ["d"]);
    }

    #[test]
    fn a_file_that_comes_later_is_read_from_its_begin() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut tail = Tail::new(path.clone());
        assert!(tail.poll(&mut Budget { bytes: 9 }, &mut |_, _| {}).is_err());
        append(&path, "a\n");
        assert_eq!(poll(&mut tail), ["a"]);
    }

    #[test]
    fn a_long_line_is_dropped_and_counted_and_the_next_one_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, "");
        let mut tail = Tail::new(path.clone());
        append(&path, &format!("{}\nb\n", "x".repeat(3 * LINE_LIMIT)));
        assert_eq!(poll(&mut tail), ["b"]);
        assert_eq!(tail.take_skipped(), Skipped { backlog: 0, too_long: 1 });
        assert_eq!(tail.take_skipped(), Skipped::default());
    }

    #[test]
    fn the_budget_limits_a_poll_and_a_large_backlog_is_jumped_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, "");
        let mut tail = Tail::new(path.clone());
        append(&path, "0123456\n0123456\n0123456\n");
        let mut budget = Budget { bytes: 10 };
        assert_eq!(poll_with(&mut tail, &mut budget), ["0123456"]);
        assert_eq!(budget.bytes, 0);
        assert_eq!(poll(&mut tail).len(), 2);
        let lines = 1 + (BACKLOG_LIMIT as usize) / 8;
        append(&path, &"0123456\n".repeat(lines));
        let seen = poll(&mut tail);
        assert!(seen.iter().all(|line| line == "0123456"), "no torn line");
        let skipped = tail.take_skipped().backlog as usize;
        assert!(
            (lines - 2..=lines + 2).contains(&(skipped + seen.len())),
            "{skipped} + {} of {lines}",
            seen.len()
        );
    }
}
