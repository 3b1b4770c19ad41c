//! The files that are followed: taken up when they come, left when they were archived and read, given up when they make no sense.

use std::fs::File;
use std::path::PathBuf;

use super::bytes::Fault;
use super::fields::Field;
use super::file::JournalFile;
use super::places::{self, Online};

/// Files followed at once: one of the system, one of each user, one of each namespace.
const FILES_LIMIT: usize = 64;

/// A file that can't be read so many times in a row is given up.
pub const TRIES: u32 = 5;

/// Damaged entries of a file, beyond which it is given up.
pub const DAMAGED_LIMIT: u32 = 64;

/// Device and inode.
type Identity = (u64, u64);

/// A followed file.
#[derive(Debug)]
pub struct Followed {
    online: Online,
    pub journal: JournalFile<Field>,
    /// Number of the next entry.
    pub index: u64,
    /// Entries before this one were there before following began.
    pub old_until: u64,
    /// Entries up to then were read in another root: journald copies what it has in `/run` when it moves to `/var`.
    pub copied_until_us: u64,
    pub newest_us: u64,
    pub tries: u32,
    pub damaged: u32,
    /// The path leads elsewhere: nobody writes any more.
    is_left: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Files {
    roots: Vec<PathBuf>,
    since_us: u64,
    look_back: u64,
    /// In the order in which they came: what was archived is read before what came after it.
    pub open: Vec<Followed>,
    /// What was there at first is old, whenever it can be opened.
    there_at_first: Vec<Identity>,
    /// Files that could not be opened or read, and how often that was tried.
    bad: Vec<(Identity, u32)>,
    told_full: bool,
    /// Entries of files that were given up.
    lost: u64,
}

impl Files {
    /// All that are there now, from the first entry at or after `since_us` on, though at most `look_back` before their ends.
    pub fn new(roots: Vec<PathBuf>, since_us: u64, look_back: u64) -> Self {
        let (online, _) = places::online(&roots);
        let there_at_first = online.iter().map(|file| file.identity).collect();
        let mut files = Self {
            roots,
            since_us,
            look_back,
            open: Vec::new(),
            there_at_first,
            bad: Vec::new(),
            told_full: false,
            lost: 0,
        };
        files.take_up(online);
        files
    }

    /// Entries, whoever wrote them, of the files that were given up since the last call.
    pub const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }

    /// Takes up files that are new, and sees which ones are not written any more.
    pub fn list(&mut self) {
        let (online, _) = places::online(&self.roots);
        let is_there = |identity| online.iter().any(|file| file.identity == identity);
        self.bad.retain(|(identity, _)| is_there(*identity));
        self.there_at_first.retain(|identity| is_there(*identity));
        for file in &mut self.open {
            // Archived, or left behind by a journald that was killed: it changes the path last.
            file.is_left = !is_there(file.online.identity);
        }
        self.take_up(online);
    }

    fn take_up(&mut self, online: Vec<Online>) {
        for there in online {
            let is_known = self.open.iter().any(|file| file.online.identity == there.identity)
                || self.bad.contains(&(there.identity, TRIES));
            if is_known {
                continue;
            }
            if self.open.len() >= FILES_LIMIT {
                if !std::mem::replace(&mut self.told_full, true) {
                    tracing::warn!(limit = FILES_LIMIT, "journald has more files at once than are followed");
                }
                return;
            }
            match self.open(&there) {
                Ok(file) => self.open.push(file),
                Err(fault) => self.not_opened(&there, &fault),
            }
        }
    }

    fn open(&self, online: &Online) -> Result<Followed, Fault> {
        let mut journal = JournalFile::open(File::open(&online.path).map_err(Fault::Io)?)?;
        let (mut index, mut old_until, mut copied_until_us) = (0, 0, 0);
        if self.there_at_first.contains(&online.identity) {
            old_until = journal.entries;
            index = journal.since(self.since_us, old_until.saturating_sub(self.look_back))?;
        } else {
            let same = self.open.iter().filter(|file| file.online.directory() == online.directory());
            let (here, elsewhere): (Vec<_>, Vec<_>) = same.partition(|file| file.online.root == online.root);
            if here.is_empty() {
                copied_until_us = elsewhere.iter().map(|file| file.newest_us).max().unwrap_or(0);
            }
        }
        Ok(Followed {
            online: online.clone(),
            journal,
            index,
            old_until,
            copied_until_us,
            newest_us: 0,
            tries: 0,
            damaged: 0,
            is_left: false,
        })
    }

    /// It may just come into being.
    fn not_opened(&mut self, file: &Online, fault: &Fault) {
        let known = self.bad.iter_mut().find(|(identity, _)| *identity == file.identity);
        let tries = known.as_ref().map_or(1, |(_, tries)| *tries + 1);
        match known {
            Some(bad) => bad.1 = tries,
            None => self.bad.push((file.identity, tries)),
        }
        if tries == TRIES {
            self.give_up(file, fault, 1);
        }
    }

    /// Whether to go on with a file after it was read with this outcome.
    pub fn keeps(&mut self, file: &mut Followed, outcome: Result<(), Fault>) -> bool {
        let fault = match outcome {
            Ok(()) => {
                file.tries = 0;
                return !file.is_left || file.index < file.journal.entries;
            }
            Err(fault) => fault,
        };
        // It may be in the middle of being written.
        file.tries += 1;
        if file.tries < TRIES && file.damaged <= DAMAGED_LIMIT {
            return true;
        }
        let lost = file.journal.entries.saturating_sub(file.index).clamp(1, super::BACKLOG_LIMIT);
        self.bad.push((file.online.identity, TRIES));
        self.give_up(&file.online, &fault, lost);
        false
    }

    fn give_up(&mut self, file: &Online, fault: &Fault, lost: u64) {
        self.lost += lost;
        let path = file.path.display();
        tracing::warn!(%path, error = %fault, entries = lost, "a file of journald is given up");
    }
}
