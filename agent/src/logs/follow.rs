//! The log of one etcd process: lines in, events, counts and what its boot looks like out.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::boot::Boot;
use super::event::recognize;
use super::find::{Source, newest_log};
use super::frame::{Unframed, Unframer};
use super::limit::Limiter;
use super::line::{Entry, Level, parse, peek_level};
use super::tail::{Budget, Tail};
use crate::clock::{Reading, SECOND_NS};
use crate::discover::ProcessId;
use crate::fact::{Event, Fact, Lost, Samples, Series};

/// Bytes read of one process's log in a poll; five polls a second. A debug-level etcd at its worst writes 10 MB/s.
const POLL_BYTES: usize = 4 << 20;

/// Lines parsed in a poll. Lines of level debug are counted by their first bytes and need none of it.
const POLL_LINES: u32 = 200;

/// How often counts become samples.
const SAMPLE_NS: i64 = 5 * SECOND_NS;

/// A file that is read.
#[derive(Debug)]
struct Input {
    source: Source,
    tail: Tail,
    unframer: Option<Unframer>,
}

/// What was lost, by reason.
#[derive(Debug, Default)]
struct Losses {
    rate: u64,
    backlog: u64,
    too_long: u64,
}

/// Counters of one member's lines. They outlive its process, so that a restart does not look like one of ours.
#[derive(Debug)]
struct Counts {
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
    /// How it comes up.
    pub boot: Boot,
}

impl Follow {
    /// Follows these from near their ends.
    pub fn new(id: ProcessId, started_ns: i64, fresh: bool, sources: Vec<Source>) -> Self {
        let input = |source: Source| {
            let (path, framed) = match &source {
                Source::File(path) => (path.clone(), false),
                Source::ContainerFile(path) => (path.clone(), true),
                Source::Container(directory) => {
                    (newest_log(directory).unwrap_or_else(|| PathBuf::from("/none")), true)
                }
            };
            Input { source, tail: Tail::new(path), unframer: framed.then(Unframer::default) }
        };
        Self {
            id,
            started_ns,
            fresh,
            inputs: sources.into_iter().map(input).collect(),
            counts: Counts::default(),
            losses: Losses::default(),
            limiter: Limiter::default(),
            sampled_ns: 0,
            counts_now: fresh,
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
    }

    /// Reads what is new.
    pub fn poll(&mut self, now: Reading, facts: &mut Vec<Fact>) {
        let mut budget = Budget { bytes: POLL_BYTES };
        let mut lines = POLL_LINES;
        for mut input in std::mem::take(&mut self.inputs) {
            if let Source::Container(directory) = &input.source
                && let Some(newest) = newest_log(directory).filter(|newest| newest != input.tail.path())
            {
                self.read(&mut input, now, &mut budget, &mut lines, facts);
                input.tail.switch(newest);
            }
            self.read(&mut input, now, &mut budget, &mut lines, facts);
            let skipped = input.tail.take_skipped();
            self.losses.backlog += skipped.backlog;
            self.losses.too_long += skipped.too_long;
            self.inputs.push(input);
        }
        self.account(now, facts);
    }

    fn read(
        &mut self,
        input: &mut Input,
        now: Reading,
        budget: &mut Budget,
        lines: &mut u32,
        facts: &mut Vec<Fact>,
    ) {
        let unframer = &mut input.unframer;
        let outcome = input.tail.poll(budget, &mut |line, old| match unframer {
            None => self.take(line, old, now, lines, facts),
            Some(unframer) => match unframer.take(line) {
                Unframed::Line(line) => self.take(&line, old, now, lines, facts),
                Unframed::Part => {}
                Unframed::TooLong => self.losses.too_long += 1,
            },
        });
        if let Err(error) = outcome {
            tracing::debug!(path = %input.tail.path().display(), %error, "log of etcd not read");
        }
    }

    /// `old` lines were there before following began: they tell how a running etcd came up, and belong to a fresh one
    /// when they were written since it began.
    fn take(&mut self, line: &[u8], old: bool, now: Reading, lines: &mut u32, facts: &mut Vec<Fact>) {
        let level = peek_level(line);
        if !old {
            if level == Some(Level::Debug) {
                self.counts.levels[Level::Debug as usize].1 += 1;
                return;
            }
            if *lines == 0 {
                self.losses.rate += 1;
                if let Some(level) = level {
                    self.counts.levels[level as usize].1 += 1;
                }
                return;
            }
            *lines -= 1;
        }
        let Some(entry) = parse(line) else {
            if !old || (self.fresh && self.counts_now) {
                self.counts.unrecognized.1 += 1;
                self.boot.raw(line);
            }
            return;
        };
        if !old {
            self.counts_now = true;
        } else if let Some(at_ns) = entry.stamp.wall_ns(now.wall_ns) {
            // Text lines of raft have whole seconds only.
            self.counts_now = at_ns >= self.started_ns - SECOND_NS;
        }
        match (old, self.counts_now) {
            (false, _) => self.note(&entry, now, facts),
            (true, true) if self.fresh => self.note(&entry, now, facts),
            (true, true) => self.boot.entry(&entry),
            (true, false) => {}
        }
    }

    fn note(&mut self, entry: &Entry, now: Reading, facts: &mut Vec<Fact>) {
        self.counts.levels[entry.level as usize].1 += 1;
        self.boot.entry(entry);
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
        let all = self.counts.levels.iter().chain([&self.counts.unrecognized]);
        let values = all.map(|(series, count)| (Arc::clone(series), *count as f64)).collect();
        facts.push(Fact::Samples(Samples { process: Some(self.id), mono_ns: now.mono_ns, values }));
        let losses = std::mem::take(&mut self.losses);
        for (reason, count) in
            [("rate", losses.rate), ("backlog", losses.backlog), ("too_long", losses.too_long)]
        {
            if count > 0 {
                facts.push(Fact::Lost(Lost {
                    process: Some(self.id),
                    wall_ns: now.wall_ns,
                    stream: "log",
                    reason: reason.to_owned(),
                    count,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests;
