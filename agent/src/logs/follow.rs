//! The log of one etcd process: lines in, events, counts and what its boot looks like out.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::boot::Boot;
use super::event::recognize;
use super::find::Source;
use super::limit::Limiter;
use super::line::{Entry, Level, parse, peek_level};
use super::tail::Budget;
use super::time::Stamp;
use crate::clock::{Reading, SECOND_NS};
use crate::discover::ProcessId;
use crate::fact::{Event, Fact};

mod account;
mod input;

use account::{Counts, Losses};
use input::{Input, Origin};

/// Bytes read of one process's log in a poll; five polls a second. A debug-level etcd at its worst writes 10 MB/s.
const POLL_BYTES: usize = 4 << 20;

/// Lines parsed in a poll. Lines of level debug are counted by their first bytes and need none of it.
const POLL_LINES: u32 = 200;

/// How often counts become samples.
const SAMPLE_NS: i64 = 5 * SECOND_NS;

/// Lines kept of a process that is not known yet, and the longest of them.
const AHEAD_LINES: usize = 64;
const AHEAD_BYTES: usize = 4 << 10;

/// A line of another process than the one that is followed: of the one before, or of the next one, which writes before it is
/// found.
#[derive(Debug)]
struct Ahead {
    pid: u32,
    entry: Result<Entry, Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub struct Follow {
    id: ProcessId,
    /// When the process began, Unix nanoseconds.
    started_ns: i64,
    /// The process began while this agent ran: what it wrote since then is new.
    fresh: bool,
    inputs: Vec<Input>,
    counts: Counts,
    losses: Losses,
    limiter: Limiter,
    sampled_ns: i64,
    /// Whether the last line that told its time belongs to this process and is new.
    counts_now: bool,
    ahead: VecDeque<Ahead>,
    /// How it comes up.
    pub boot: Boot,
}

impl Follow {
    /// Follows these from near their ends.
    pub fn new(id: ProcessId, started_ns: i64, fresh: bool, sources: Vec<Source>) -> Self {
        Self {
            id,
            started_ns,
            fresh,
            inputs: sources.into_iter().map(|source| Input::new(source, id, started_ns)).collect(),
            counts: Counts::default(),
            losses: Losses::default(),
            limiter: Limiter::default(),
            sampled_ns: 0,
            counts_now: fresh,
            ahead: VecDeque::new(),
            boot: Boot::new(started_ns),
        }
    }

    /// Whose it is.
    pub const fn process(&self) -> ProcessId {
        self.id
    }

    /// The next process of the same member writes to the same place: its lines count from now on.
    pub fn restarted(&mut self, id: ProcessId, started_ns: i64) {
        self.id = id;
        self.started_ns = started_ns;
        self.fresh = true;
        self.boot = Boot::new(started_ns);
        for line in std::mem::take(&mut self.ahead).into_iter().filter(|line| line.pid == id.pid) {
            match line.entry {
                Ok(entry) => self.boot.entry(&entry),
                Err(raw) => self.boot.raw(&raw),
            }
        }
    }

    /// Reads what is new.
    pub fn poll(&mut self, now: Reading, facts: &mut Vec<Fact>) {
        let mut budget = Budget { bytes: POLL_BYTES };
        let mut lines = POLL_LINES;
        let mut losses = std::mem::take(&mut self.losses);
        for mut input in std::mem::take(&mut self.inputs) {
            input.poll(self.id, now, &mut budget, &mut losses, |line, origin| {
                self.take(line, origin, now, &mut lines, facts);
            });
            self.inputs.push(input);
        }
        losses.rate += self.losses.rate;
        self.losses = losses;
        self.account(now, facts);
    }

    /// Old lines were there before following began: they tell how a running etcd came up, and belong to a fresh one
    /// when they were written since it began.
    fn take(&mut self, line: &[u8], origin: Origin, now: Reading, lines: &mut u32, facts: &mut Vec<Fact>) {
        let level = peek_level(line);
        let old = origin.old;
        if !old {
            if level == Some(Level::Debug) {
                self.counts.add(level);
                return;
            }
            if *lines == 0 {
                self.losses.rate += 1;
                if level.is_some() {
                    self.counts.add(level);
                }
                return;
            }
            *lines -= 1;
        }
        let is_other = origin.pid.is_some_and(|pid| pid != self.id.pid);
        let Some(entry) = read(line, origin) else {
            if !old || (self.fresh && self.counts_now && !is_other) {
                self.counts.add(None);
                match origin.pid.filter(|_| is_other) {
                    Some(pid) => self.keep(pid, Err(line[..line.len().min(AHEAD_BYTES)].to_vec())),
                    None => self.boot.raw(line),
                }
            }
            return;
        };
        if !old {
            self.counts_now = true;
        } else if origin.pid.is_some() {
            self.counts_now = !is_other;
        } else if let Some(at_ns) = entry.stamp.wall_ns(now.wall_ns) {
            // Text lines of raft have whole seconds only.
            self.counts_now = at_ns >= self.started_ns - SECOND_NS;
        }
        if !old || (self.counts_now && self.fresh) {
            self.note(&entry, now, facts);
        }
        match origin.pid.filter(|_| is_other) {
            Some(pid) if !old => self.keep(pid, Ok(entry)),
            None if !old || self.counts_now => self.boot.entry(&entry),
            _ => {}
        }
    }

    /// Of the one before, nothing will ask for it.
    fn keep(&mut self, pid: u32, entry: Result<Entry, Vec<u8>>) {
        if self.ahead.len() >= AHEAD_LINES {
            self.ahead.pop_front();
        }
        self.ahead.push_back(Ahead { pid, entry });
    }

    fn note(&mut self, entry: &Entry, now: Reading, facts: &mut Vec<Fact>) {
        self.counts.add(Some(entry.level));
        let Some(found) = recognize(entry) else { return };
        if !self.limiter.admit(found.kind, now.wall_ns) {
            return;
        }
        let at_ns = entry.stamp.wall_of_new_line_ns(now.wall_ns);
        let age_ns = (now.wall_ns - at_ns).unsigned_abs();
        facts.push(Fact::Event(Event {
            process: Some(self.id),
            mono_ns: now.mono_ns.saturating_sub(age_ns),
            kind: found.kind,
            details: Value::Object(found.details),
        }));
    }

    fn account(&mut self, now: Reading, facts: &mut Vec<Fact>) {
        for (kind, suppressed) in self.limiter.suppressed(now.wall_ns) {
            facts.push(Fact::Event(Event {
                process: Some(self.id),
                mono_ns: now.mono_ns,
                kind: "etcd.log_suppressed",
                details: json!({ "kind": kind, "suppressed": suppressed }),
            }));
        }
        if now.wall_ns - self.sampled_ns < SAMPLE_NS && now.wall_ns >= self.sampled_ns {
            return;
        }
        self.sampled_ns = now.wall_ns;
        facts.push(self.counts.sample(self.id, now));
        self.losses.tell(self.id, now, facts);
    }
}

/// What is of no known form is a message all the same where it came with a level: etcd 3.4 gives journald the bare text. Of a
/// time in no known zone, or none, whoever took the line knows better.
fn read(line: &[u8], origin: Origin) -> Option<Entry> {
    let mut entry = parse(line).or_else(|| {
        let message = String::from_utf8_lossy(line).trim_end().to_owned();
        Some(Entry { level: origin.level?, stamp: Stamp::None, message, fields: Map::new() })
    })?;
    if let (Some(wall_ns), Stamp::None | Stamp::Local(_)) = (origin.wall_ns, entry.stamp) {
        entry.stamp = Stamp::Utc(wall_ns);
    }
    Some(entry)
}

#[cfg(test)]
mod tests;
