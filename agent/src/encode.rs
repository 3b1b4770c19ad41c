//! Facts to batches.
//!
//! A [`Builder`] gathers the rows of the batch that is open, by kind and column by column, and notes in the ledger what it took.
//! [`Builder::close`] turns them into an encoded [`v1::Batch`]. Pure: time and identities are handed in.
//!
//! # Ledger
//! Every batch carries the account of its own rows (`produced`), of what was lost before it (`dropped`, with the reason) and of
//! stretches in which nothing was seen (`blind`). Streams: `sync` counts syncs in histograms, `sync_row`, `write`,
//! `metric`, `event` and `autopsy` count rows. Rows of a batch that is dropped later are accounted for in the next one.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use etcdmon_proto::{convert, v1};
use prost::Message;

use crate::clock::{Reading, SECOND_NS};
use crate::discover::ProcessId;
use crate::fact::{CulpritName, Event, Fact, Samples, Series, SlowSync, SyncRow, SyncSecond, WriteSecond};
use crate::spool::Counts;

pub mod ledger;

pub use ledger::Account;
use ledger::minute_of;

/// A batch is closed before its time when its rows are about this large.
pub const CLOSE_AT_BYTES: usize = 1 << 20;

/// Who a process is, for the member table of a batch.
pub trait Roster {
    /// The member as far as it is known.
    fn member(&self, process: ProcessId) -> v1::Member;
}

/// A finished batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// An encoded [`v1::Batch`].
    pub payload: Bytes,
    /// What it holds.
    pub counts: Counts,
    /// Wall clock of its oldest and newest fact, Unix nanoseconds.
    pub span_ns: (i64, i64),
    /// Monotonic clock of its oldest fact.
    pub oldest_mono_ns: u64,
}

/// How single syncs are chosen, as the batch states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// One in this many syncs that are not slow has a row.
    pub sample_every: u32,
    /// Slow means at least this long.
    pub slow_ns: u64,
}

/// The open batch.
#[derive(Debug)]
pub struct Builder {
    agent_id: [u8; 16],
    boot_id: [u8; 16],
    sampling: Sampling,
    /// Wall minus mono of the last time base: dates monotonic facts.
    wall_minus_mono_ns: i64,
    opened: Option<Reading>,
    newest_wall_ns: i64,
    bytes: usize,
    bases: Vec<Reading>,
    members: Vec<MemberKey>,
    sync_seconds: Vec<(u32, SyncSecond)>,
    syncs: Vec<(u32, SyncRow)>,
    slow_syncs: Vec<(u32, SlowSync)>,
    writes: Vec<(u32, WriteSecond)>,
    series: HashMap<(u32, usize), u32>,
    series_list: Vec<(u32, Arc<Series>)>,
    samples: Vec<(u32, u64, f64)>,
    events: Vec<(u32, Event)>,
    account: Vec<AccountRow>,
    counts: Counts,
}

/// A member of the table: a live process, or one that only its encoded form is left of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum MemberKey {
    Process(ProcessId),
    Encoded(Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
struct AccountRow {
    minute: i64,
    stream: String,
    kind: v1::LedgerKind,
    reason: String,
    count: u64,
    blind_ns: (i64, i64),
    member_plus_one: u32,
}

impl Builder {
    /// An empty batch of this agent and boot. `now` dates facts until the first time base arrives.
    pub fn new(agent_id: [u8; 16], boot_id: [u8; 16], sampling: Sampling, now: Reading) -> Self {
        Self {
            agent_id,
            boot_id,
            sampling,
            wall_minus_mono_ns: now.wall_minus_mono_ns(),
            opened: None,
            newest_wall_ns: 0,
            bytes: 0,
            bases: Vec::new(),
            members: Vec::new(),
            sync_seconds: Vec::new(),
            syncs: Vec::new(),
            slow_syncs: Vec::new(),
            writes: Vec::new(),
            series: HashMap::new(),
            series_list: Vec::new(),
            samples: Vec::new(),
            events: Vec::new(),
            account: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Single syncs are chosen otherwise from this batch on.
    pub const fn set_sampling(&mut self, sampling: Sampling) {
        self.sampling = sampling;
    }

    /// True when nothing but time bases was added.
    pub fn is_empty(&self) -> bool {
        self.counts == Counts::default() && self.account.is_empty()
    }

    /// True when the batch should be closed before its time.
    pub const fn is_full(&self) -> bool {
        self.bytes >= CLOSE_AT_BYTES
    }

    /// Adds a fact, taken note of at `now`.
    pub fn add(&mut self, fact: Fact, now: Reading) {
        self.bytes += size_of_fact(&fact);
        match fact {
            Fact::TimeBase(reading) => {
                self.wall_minus_mono_ns = reading.wall_minus_mono_ns();
                self.bases.push(reading);
            }
            Fact::SyncSecond(fact) => {
                let count = fact.buckets.iter().map(|(_, count)| count).sum();
                let (member, begin_ns) = (self.member(fact.process), fact.second * SECOND_NS);
                self.produced("sync", begin_ns, member + 1, count, now);
                self.counts.syncs += count;
                self.sync_seconds.push((member, fact));
            }
            Fact::Sync(fact) => {
                let member = self.member(fact.process);
                // By its begin, as its row is filed: each minute's account has to come out even.
                let wall_ns = self.wall_of(fact.start_mono_ns);
                self.produced("sync_row", wall_ns, member + 1, 1, now);
                self.counts.sync_rows += 1;
                self.syncs.push((member, fact));
            }
            Fact::SlowSync(fact) => {
                let member = self.member(fact.process);
                self.produced("autopsy", self.wall_of(fact.start_mono_ns), member + 1, 1, now);
                self.counts.autopsies += 1;
                self.slow_syncs.push((member, *fact));
            }
            Fact::WriteSecond(fact) => {
                let member = self.member(fact.process);
                self.produced("write", fact.second * SECOND_NS, member + 1, 1, now);
                self.counts.writes += 1;
                self.writes.push((member, fact));
            }
            Fact::Samples(fact) => self.add_samples(&fact, now),
            Fact::Event(fact) => {
                let member_plus_one = self.member_plus_one(fact.process);
                self.produced("event", self.wall_of(fact.mono_ns), member_plus_one, 1, now);
                self.counts.events += 1;
                self.events.push((member_plus_one, fact));
            }
            Fact::Lost(fact) => {
                let member_plus_one = self.member_plus_one(fact.process);
                // What was lost had been produced: the account has to come out even.
                self.produced(fact.stream, fact.wall_ns, member_plus_one, fact.count, now);
                self.note(AccountRow {
                    minute: minute_of(fact.wall_ns),
                    stream: fact.stream.to_owned(),
                    kind: v1::LedgerKind::Dropped,
                    reason: fact.reason,
                    count: fact.count,
                    blind_ns: (0, 0),
                    member_plus_one,
                });
            }
            Fact::Blind(fact) => {
                let member = match fact.ids {
                    None => self.member(fact.process),
                    Some((cluster_id, member_id)) => {
                        let gone = v1::Member {
                            cluster_id,
                            member_id,
                            process: Some(wire_process(fact.process)),
                            ..v1::Member::default()
                        };
                        self.position(MemberKey::Encoded(gone.encode_to_vec()))
                    }
                };
                self.opened.get_or_insert(now);
                self.produced("sync", fact.from_ns, member + 1, fact.count, now);
                self.note(AccountRow {
                    minute: minute_of(fact.from_ns),
                    stream: "sync".to_owned(),
                    kind: v1::LedgerKind::Blind,
                    reason: fact.reason.to_owned(),
                    count: fact.count,
                    blind_ns: (fact.from_ns, fact.to_ns),
                    member_plus_one: member + 1,
                });
            }
        }
    }

    /// Adds the account of batches that were dropped.
    pub fn add_account(&mut self, account: &Account, now: Reading) {
        for (key, count) in account.rows() {
            self.opened.get_or_insert(now);
            let member_plus_one = match key.member.as_slice() {
                [] => 0,
                encoded => self.position(MemberKey::Encoded(encoded.to_vec())) + 1,
            };
            self.bytes += 32;
            self.account.push(AccountRow {
                minute: key.minute,
                stream: key.stream.clone(),
                kind: v1::LedgerKind::try_from(key.kind).unwrap_or_default(),
                reason: key.reason.clone(),
                count,
                blind_ns: key.blind_ns,
                member_plus_one,
            });
        }
    }

    /// Ends the batch and begins the next one; `None` when there is nothing to send.
    pub fn close(&mut self, roster: &impl Roster) -> Option<Closed> {
        if self.is_empty() {
            // The last base stays, so that the next batch has one before its first fact.
            self.bases.drain(..self.bases.len().saturating_sub(1));
            return None;
        }
        let now = Reading { mono_ns: 0, wall_ns: self.wall_minus_mono_ns };
        let last_base = self.bases.last().copied();
        let mut closed = std::mem::replace(self, Self::new(self.agent_id, self.boot_id, self.sampling, now));
        self.bases.extend(last_base);
        let opened = closed.opened.unwrap_or(now);
        let batch = v1::Batch {
            agent_id: closed.agent_id.to_vec(),
            boot_id: closed.boot_id.to_vec(),
            sections: closed.sections(),
            members: closed.members.iter().map(|key| member_of(key, roster)).collect(),
        };
        Some(Closed {
            payload: batch.encode_to_vec().into(),
            counts: closed.counts,
            span_ns: (opened.wall_ns, closed.newest_wall_ns.max(opened.wall_ns)),
            oldest_mono_ns: opened.mono_ns,
        })
    }

    fn add_samples(&mut self, samples: &Samples, now: Reading) {
        if samples.values.is_empty() {
            return;
        }
        let member_plus_one = self.member_plus_one(samples.process);
        for (series, value) in &samples.values {
            let next = self.series_list.len() as u32;
            let key = (member_plus_one, Arc::as_ptr(series) as usize);
            let index = *self.series.entry(key).or_insert(next);
            if index == next {
                self.bytes += series.name.len() + 8 * series.labels.len() + 8;
                // The list keeps the series alive, so its address stays its own.
                self.series_list.push((member_plus_one, Arc::clone(series)));
            }
            self.samples.push((index, samples.mono_ns, *value));
        }
        let count = samples.values.len() as u32;
        self.counts.metrics += count;
        self.produced("metric", self.wall_of(samples.mono_ns), member_plus_one, u64::from(count), now);
    }

    const fn wall_of(&self, mono_ns: u64) -> i64 {
        (mono_ns as i64).wrapping_add(self.wall_minus_mono_ns)
    }

    fn member(&mut self, process: ProcessId) -> u32 {
        self.position(MemberKey::Process(process))
    }

    fn member_plus_one(&mut self, process: Option<ProcessId>) -> u32 {
        process.map_or(0, |process| self.member(process) + 1)
    }

    fn position(&mut self, key: MemberKey) -> u32 {
        let found = self.members.iter().position(|known| *known == key);
        found.unwrap_or_else(|| {
            self.members.push(key);
            self.members.len() - 1
        }) as u32
    }

    fn produced(&mut self, stream: &str, wall_ns: i64, member_plus_one: u32, count: u64, now: Reading) {
        self.opened.get_or_insert(now);
        self.newest_wall_ns = self.newest_wall_ns.max(wall_ns);
        if count > 0 {
            self.note(AccountRow {
                minute: minute_of(wall_ns),
                stream: stream.to_owned(),
                kind: v1::LedgerKind::Produced,
                reason: String::new(),
                count,
                blind_ns: (0, 0),
                member_plus_one,
            });
        }
    }

    fn note(&mut self, row: AccountRow) {
        let same = |known: &&mut AccountRow| {
            known.minute == row.minute
                && known.kind == row.kind
                && known.member_plus_one == row.member_plus_one
                && known.blind_ns == row.blind_ns
                && known.stream == row.stream
                && known.reason == row.reason
        };
        match self.account.iter_mut().rev().find(same) {
            Some(known) => known.count += row.count,
            None => self.account.push(row),
        }
    }
}

fn member_of(key: &MemberKey, roster: &impl Roster) -> v1::Member {
    match key {
        MemberKey::Process(process) => roster.member(*process),
        // Encoded by this process or read back with an intact checksum.
        MemberKey::Encoded(bytes) => v1::Member::decode(bytes.as_slice()).unwrap_or_default(),
    }
}

/// The wire form of a process.
pub fn wire_process(id: ProcessId) -> v1::Process {
    v1::Process { boot_id: id.boot_id.to_vec(), pid: id.pid, start_ticks: id.start_ticks }
}

/// About how many bytes a fact takes in a batch.
fn size_of_fact(fact: &Fact) -> usize {
    match fact {
        Fact::TimeBase(_) => 12,
        Fact::SyncSecond(fact) => 24 + 3 * fact.buckets.len(),
        Fact::Sync(_) => 40,
        Fact::SlowSync(fact) => {
            let text = |name: &CulpritName| {
                name.process.len() + name.placement.cgroup.len() + name.placement.container_id.len() + 100
            };
            100 + fact.names.iter().map(text).sum::<usize>()
        }
        Fact::WriteSecond(fact) => 24 + 3 * fact.buckets.len(),
        Fact::Samples(fact) => 12 * fact.values.len(),
        Fact::Event(fact) => 160 + 2 * fact.kind.len(),
        Fact::Lost(_) | Fact::Blind(_) => 48,
    }
}

pub mod autopsies;
mod sections;

#[cfg(test)]
mod tests;
