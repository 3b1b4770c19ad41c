//! Follows what one etcd writes to journald, in journald's own files: no `journalctl` and no socket is needed, so that it works in
//! a container that has nothing but the node's journal directories.
//!
//! A poll costs one small read a file while nothing is written; else it reads the new entries of everybody, once, and of etcd's
//! the message. Whose an entry is, trusted fields tell, which journald adds itself: `_PID`, and `_SYSTEMD_UNIT`, with which the last
//! words of a process and the first ones of the next are seen. What is skipped is counted: a backlog by etcd's share of what
//! was read until then, a message that is too long or that can't be read as one.

use std::path::PathBuf;

use super::line::Level;
use super::tail::{Budget, LINE_LIMIT};
use crate::clock::{Reading, SECOND_NS};
use crate::discover::ProcessId;

mod bytes;
mod fields;
mod file;
mod files;
mod payload;
mod places;

pub use places::check;

use bytes::Fault;
use fields::Fields;
use file::Entry;
use files::{DAMAGED_LIMIT, Files, Followed, TRIES};
use payload::Payload;

/// Entries of a file, those of others included, that are looked through for what etcd wrote since it began.
pub const LOOK_BACK: u64 = 20_000;

/// More unread entries than this are jumped over, up to the last [`LOOK_BACK`].
pub const BACKLOG_LIMIT: u64 = 100_000;

/// Entries read in a poll; five polls a second.
const POLL_ENTRIES: u32 = 4_000;

/// How often directories are listed.
const LIST_NS: u64 = 1_000_000_000;

/// How much is read.
#[derive(Debug, Clone, Copy)]
struct Limits {
    look_back: u64,
    backlog: u64,
    entries: u32,
}

/// Whose entries they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Of a service's processes.
    Unit(String),
    /// Of one process: it has no service of its own.
    Process(u32),
}

/// A message of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The text without its end.
    pub text: &'a [u8],
    /// It was there before following began.
    pub old: bool,
    /// Who wrote it; 0 when journald does not know.
    pub pid: u32,
    /// When journald got it, Unix nanoseconds.
    pub wall_ns: i64,
    /// How much it matters, for one that was sent to journald with a priority; `None` for a line of standard error.
    pub level: Option<Level>,
}

/// Messages that were not handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Because more was written than may be read; an estimate.
    pub backlog: u64,
    /// Because they were too long.
    pub too_long: u64,
    /// Because they, or the file they are in, are damaged or of a kind that is not read. Of a file that is given up, all its
    /// entries count that were not read, whoever wrote them.
    pub unreadable: u64,
    /// Because journald itself refused them: the service wrote more than its rate limit allows.
    pub refused: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    fields: Fields,
    boot_id: [u8; 16],
    since_us: u64,
    files: Files,
    listed_ns: Option<u64>,
    read: u64,
    found: u64,
    /// A line of this process was too long for journald, which cut it into entries.
    cut: Option<u32>,
    skipped: Skipped,
    limits: Limits,
}

impl Journal {
    /// Follows `owner` below `roots`, from the begin of its process at `started_ns`, as far as [`LOOK_BACK`] allows.
    pub fn new(roots: Vec<PathBuf>, owner: Owner, process: ProcessId, started_ns: i64) -> Self {
        let since_us = u64::try_from((started_ns - SECOND_NS) / 1000).unwrap_or(0);
        Self {
            fields: Fields::new(owner),
            boot_id: process.boot_id,
            since_us,
            files: Files::new(roots, since_us, LOOK_BACK),
            listed_ns: None,
            read: 0,
            found: 0,
            cut: None,
            skipped: Skipped::default(),
            limits: Limits { look_back: LOOK_BACK, backlog: BACKLOG_LIMIT, entries: POLL_ENTRIES },
        }
    }

    /// What was skipped since the last call.
    pub fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    /// Hands out every new message of the service, or of process `pid`.
    pub fn poll(&mut self, pid: u32, now: Reading, budget: &mut Budget, line: &mut impl FnMut(Line<'_>)) {
        if now.mono_ns.saturating_sub(*self.listed_ns.get_or_insert(now.mono_ns)) >= LIST_NS {
            self.listed_ns = Some(now.mono_ns);
            self.files.list();
        }
        let mut entries = self.limits.entries;
        let mut files = std::mem::take(&mut self.files.open);
        files.retain_mut(|file| {
            let outcome = self.read(file, pid, budget, &mut entries, line);
            self.files.keeps(file, outcome)
        });
        self.files.open = files;
        self.skipped.unreadable += self.files.take_lost();
    }

    fn read(
        &mut self,
        file: &mut Followed,
        pid: u32,
        budget: &mut Budget,
        entries: &mut u32,
        line: &mut impl FnMut(Line<'_>),
    ) -> Result<(), Fault> {
        file.journal.refresh()?;
        self.jump(file);
        let (mut offsets, mut entry, mut text) = (Vec::new(), Entry::default(), Vec::new());
        while file.index < file.journal.entries && *entries > 0 && budget.bytes > 0 {
            file.journal.offsets(file.index, &mut offsets)?;
            offsets.truncate(*entries as usize);
            // journald counts an entry after it has listed it.
            let Some(last) = offsets.last().copied() else {
                return Err(Fault::Damaged { what: "no place of an entry", at: file.index });
            };
            for at in &offsets {
                let outcome = self.entry(file, (*at, last), &mut entry, pid, &mut text, line);
                budget.bytes = budget.bytes.saturating_sub(file.journal.take_spent());
                if let Err(fault) = outcome {
                    // The newest one may not be complete yet.
                    if file.index + 1 >= file.journal.entries && file.tries + 1 < TRIES {
                        return Err(fault);
                    }
                    file.damaged += 1;
                    self.skipped.unreadable += 1;
                    if file.damaged > DAMAGED_LIMIT {
                        return Err(fault);
                    }
                }
                file.index += 1;
                *entries -= 1;
                if budget.bytes == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Jumps over what is too much to catch up with.
    fn jump(&mut self, file: &mut Followed) {
        let behind = file.journal.entries - file.index.min(file.journal.entries);
        if behind > self.limits.backlog {
            let over = behind - self.limits.look_back;
            self.skipped.backlog += (over.saturating_mul(self.found) / self.read.max(1)).max(1);
            file.index += over;
        }
    }

    fn entry(
        &mut self,
        file: &mut Followed,
        (at, last): (u64, u64),
        entry: &mut Entry,
        pid: u32,
        text: &mut Vec<u8>,
        line: &mut impl FnMut(Line<'_>),
    ) -> Result<(), Fault> {
        file.journal.entry(at, last, entry)?;
        self.read += 1;
        let is_copy = entry.realtime_us <= file.copied_until_us;
        file.newest_us = file.newest_us.max(entry.realtime_us);
        let old = file.index < file.old_until;
        if is_copy || entry.boot_id != self.boot_id || (old && entry.realtime_us < self.since_us) {
            return Ok(());
        }
        let told = self.fields.of(&mut file.journal, entry, pid)?;
        self.skipped.refused += told.refused;
        if !told.is_ours {
            return Ok(());
        }
        self.found += 1;
        let is_rest = self.cut.take_if(|cut| *cut == told.pid).is_some();
        if told.is_cut {
            self.cut = Some(told.pid);
        }
        if is_rest || told.is_cut {
            self.skipped.too_long += u64::from(!is_rest);
            return Ok(());
        }
        match told.message(&mut file.journal, text)? {
            Some(Payload::Whole) => {}
            Some(Payload::TooLong) => self.skipped.too_long += 1,
            Some(Payload::Unreadable) => self.skipped.unreadable += 1,
            None => {}
        }
        let Some(message) = text.strip_prefix(b"MESSAGE=") else { return Ok(()) };
        line(Line {
            text: message.strip_suffix(b"\n").unwrap_or(message),
            old,
            pid: told.pid,
            wall_ns: i64::try_from(entry.realtime_us).unwrap_or(i64::MAX).saturating_mul(1000),
            level: told.level,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
