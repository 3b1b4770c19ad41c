//! What is counted of a log: its lines by level, and those that were not read.

use std::sync::Arc;

use super::super::line::Level;
use crate::clock::Reading;
use crate::discover::ProcessId;
use crate::fact::{Fact, Lost, Samples, Series};

/// What was lost, by reason.
#[derive(Debug, Default)]
pub struct Losses {
    /// More lines than are parsed.
    pub rate: u64,
    /// More bytes, or entries of a journal, than are read.
    pub backlog: u64,
    /// Lines that are too long.
    pub too_long: u64,
    /// Damaged, or of a kind that is not read.
    pub unreadable: u64,
    /// Not taken by journald.
    pub refused: u64,
}

impl Losses {
    /// Tells them, and begins anew.
    pub fn tell(&mut self, process: ProcessId, now: Reading, facts: &mut Vec<Fact>) {
        let Self { rate, backlog, too_long, unreadable, refused } = std::mem::take(self);
        for (reason, count) in [
            ("rate", rate),
            ("backlog", backlog),
            ("too_long", too_long),
            ("unreadable", unreadable),
            ("journald_rate", refused),
        ] {
            if count > 0 {
                facts.push(Fact::Lost(Lost {
                    process: Some(process),
                    wall_ns: now.wall_ns,
                    stream: "log",
                    reason: reason.to_owned(),
                    count,
                }));
            }
        }
    }
}

/// Counters of one member's lines. They outlive its process, so that a restart does not look like one of ours.
#[derive(Debug)]
pub struct Counts {
    levels: [(Arc<Series>, u64); 5],
    unrecognized: (Arc<Series>, u64),
}

impl Default for Counts {
    fn default() -> Self {
        let level = |level: Level| {
            (Series::counter("etcdmon_etcd_log_messages_total", &[("level", level.name())]), 0)
        };
        let unrecognized = Series::counter("etcdmon_etcd_log_unrecognized_lines_total", &[]);
        Self { levels: Level::ALL.map(level), unrecognized: (unrecognized, 0) }
    }
}

impl Counts {
    /// A line of this level, or of no known form.
    pub const fn add(&mut self, level: Option<Level>) {
        match level {
            Some(level) => self.levels[level as usize].1 += 1,
            None => self.unrecognized.1 += 1,
        }
    }

    /// As samples.
    pub fn sample(&self, process: ProcessId, now: Reading) -> Fact {
        let all = self.levels.iter().chain([&self.unrecognized]);
        let values = all.map(|(series, count)| (Arc::clone(series), *count as f64)).collect();
        Fact::Samples(Samples { process: Some(process), mono_ns: now.mono_ns, values })
    }
}
