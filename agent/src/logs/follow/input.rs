//! A place that is read, and what its lines are known by.

use std::path::PathBuf;

use super::super::find::{Source, newest_log};
use super::super::frame::{Unframed, Unframer};
use super::super::journal::Journal;
use super::super::line::Level;
use super::super::tail::{Budget, Tail};
use super::account::Losses;
use crate::clock::Reading;
use crate::discover::ProcessId;

/// What is known of a line besides its text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// It was there before following began.
    pub old: bool,
    /// Who wrote it, where that is known.
    pub pid: Option<u32>,
    /// When it was written, by whoever took it, Unix nanoseconds.
    pub wall_ns: Option<i64>,
    /// How much it matters, for what was sent to journald as an entry of its own and need not be of a known form.
    pub level: Option<Level>,
}

/// A place that is read.
#[derive(Debug)]
pub enum Input {
    /// A file of etcd.
    File(Tail),
    /// A file of a container runtime, and the directory in which there may be a newer one.
    Container(Tail, Unframer, Option<PathBuf>),
    /// Entries of journald.
    Journal(Box<Journal>),
}

impl Input {
    /// Reads `source` from near its end. `process` is whose log it is, begun at `started_ns`.
    pub fn new(source: Source, process: ProcessId, started_ns: i64) -> Self {
        match source {
            Source::File(path) => Self::File(Tail::new(path)),
            Source::ContainerFile(path) => Self::Container(Tail::new(path), Unframer::default(), None),
            Source::Container(directory) => {
                let newest = newest_log(&directory).unwrap_or_else(|| PathBuf::from("/none"));
                Self::Container(Tail::new(newest), Unframer::default(), Some(directory))
            }
            Source::Journal(owner, directories) => {
                Self::Journal(Box::new(Journal::new(directories, owner, process, started_ns)))
            }
        }
    }

    /// Hands out what is new.
    pub fn poll(
        &mut self,
        process: ProcessId,
        now: Reading,
        budget: &mut Budget,
        losses: &mut Losses,
        mut line: impl FnMut(&[u8], Origin),
    ) {
        match self {
            Self::File(tail) => read(tail, budget, losses, &mut |text, old, _| {
                line(text, Origin { old, ..Origin::default() });
            }),
            Self::Container(tail, unframer, directory) => {
                let mut unframe = |text: &[u8], old: bool, losses: &mut Losses| match unframer.take(text) {
                    Unframed::Line(text) => line(&text, Origin { old, ..Origin::default() }),
                    Unframed::Part => {}
                    Unframed::TooLong => losses.too_long += 1,
                };
                let newest = directory.as_deref().and_then(newest_log);
                if let Some(newest) = newest.filter(|newest| newest != tail.path()) {
                    read(tail, budget, losses, &mut unframe);
                    tail.switch(newest);
                }
                read(tail, budget, losses, &mut unframe);
            }
            Self::Journal(journal) => {
                journal.poll(process.pid, now, budget, &mut |entry| {
                    let pid = Some(entry.pid).filter(|pid| *pid != 0);
                    let (old, wall_ns) = (entry.old, Some(entry.wall_ns));
                    line(entry.text, Origin { old, pid, wall_ns, level: entry.level });
                });
                let skipped = journal.take_skipped();
                losses.backlog += skipped.backlog;
                losses.too_long += skipped.too_long;
                losses.unreadable += skipped.unreadable;
                losses.refused += skipped.refused;
            }
        }
    }
}

fn read(
    tail: &mut Tail,
    budget: &mut Budget,
    losses: &mut Losses,
    line: &mut impl FnMut(&[u8], bool, &mut Losses),
) {
    if let Err(error) = tail.poll(budget, &mut |text, old| line(text, old, losses)) {
        tracing::debug!(path = %tail.path().display(), %error, "log of etcd not read");
    }
    let skipped = tail.take_skipped();
    losses.backlog += skipped.backlog;
    losses.too_long += skipped.too_long;
}
