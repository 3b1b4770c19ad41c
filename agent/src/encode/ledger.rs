//! Accounts: what was produced and what became of it.

use std::collections::BTreeMap;

use etcdmon_proto::{convert, v1};
use prost::Message;

use crate::clock::SECOND_NS;
use crate::spool::Dropped;

/// Nanoseconds in a minute.
const MINUTE_NS: i64 = 60 * SECOND_NS;

/// Above this many rows that wait to be sent, minutes are merged into hours.
const COARSE_ABOVE: usize = 4096;

/// What a row is about; rows that agree in it are added up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Whole minutes since the Unix epoch.
    pub minute: i64,
    /// Stream.
    pub stream: String,
    /// Produced, dropped or blind.
    pub kind: i32,
    /// Why.
    pub reason: String,
    /// The blind interval, Unix nanoseconds, else zeros.
    pub blind_ns: (i64, i64),
    /// The encoded [`v1::Member`]; empty = the node.
    pub member: Vec<u8>,
}

/// Rows of a ledger, added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    rows: BTreeMap<Key, u64>,
}

impl Account {
    /// Adds to the row of `key`.
    pub fn add(&mut self, key: Key, count: u64) {
        *self.rows.entry(key).or_default() += count;
    }

    /// True when there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (&Key, u64)> {
        self.rows.iter().map(|(key, count)| (key, *count))
    }

    /// Accounts for a dropped batch: its own rows go on, and what it produced is now dropped.
    pub fn add_dropped(&mut self, dropped: &Dropped) {
        let own = dropped.payload.as_ref().and_then(|payload| rows_of(payload));
        if let Some(rows) = own {
            for (key, count) in stored_rows(&rows) {
                let (kind, reason) = (v1::LedgerKind::Dropped as i32, dropped.reason.to_owned());
                self.add(Key { kind, reason, ..key }, count);
            }
            for (key, count) in rows {
                self.add(key, count);
            }
        } else {
            self.add_counts(dropped);
        }
        if self.rows.len() > COARSE_ABOVE {
            self.coarsen();
        }
    }

    /// Without the batch itself its header tells how much was lost, though not whose it was.
    fn add_counts(&mut self, dropped: &Dropped) {
        for (stream, count) in dropped.counts.by_stream() {
            if count == 0 {
                continue;
            }
            for (kind, reason) in [(v1::LedgerKind::Produced, ""), (v1::LedgerKind::Dropped, dropped.reason)]
            {
                let key = Key {
                    minute: minute_of(dropped.begin_ns),
                    stream: stream.to_owned(),
                    kind: kind as i32,
                    reason: reason.to_owned(),
                    blind_ns: (0, 0),
                    member: Vec::new(),
                };
                self.add(key, count);
            }
        }
    }

    fn coarsen(&mut self) {
        for (mut key, count) in std::mem::take(&mut self.rows) {
            key.minute -= key.minute.rem_euclid(60);
            self.add(key, count);
        }
    }
}

/// The minute that holds a moment, in whole minutes since the Unix epoch.
pub const fn minute_of(wall_ns: i64) -> i64 {
    wall_ns.div_euclid(MINUTE_NS)
}

/// What of the rows a batch reports as produced lies in the batch itself: its account also tells of what was dropped before it,
/// and that came out even already. Keyed as `produced`.
fn stored_rows(rows: &[(Key, u64)]) -> Vec<(Key, u64)> {
    let mut left: BTreeMap<Key, i128> = BTreeMap::new();
    for (key, count) in rows {
        let produced = key.kind == v1::LedgerKind::Produced as i32;
        let about = Key {
            kind: v1::LedgerKind::Produced as i32,
            reason: String::new(),
            blind_ns: (0, 0),
            ..key.clone()
        };
        *left.entry(about).or_default() += if produced { i128::from(*count) } else { -i128::from(*count) };
    }
    let positive = |(key, count)| Some((key, u64::try_from(count).ok().filter(|count| *count > 0)?));
    left.into_iter().filter_map(positive).collect()
}

/// The ledger rows of an encoded batch; `None` when it does not decode.
fn rows_of(payload: &[u8]) -> Option<Vec<(Key, u64)>> {
    let batch = v1::Batch::decode(payload).ok()?;
    let mut rows = Vec::new();
    for section in batch.sections.iter().filter(|section| section.kind() == v1::SectionKind::Ledger) {
        let ledger = v1::Ledger::decode(section.payload.as_slice()).ok()?;
        let minutes = convert::undelta_i64(&ledger.minute_delta);
        for (row, minute) in minutes.into_iter().enumerate() {
            let member = match ledger.member_plus_one.get(row)?.checked_sub(1) {
                Some(position) => batch.members.get(position as usize)?.encode_to_vec(),
                None => Vec::new(),
            };
            let key = Key {
                minute,
                stream: ledger.stream.get(row)?.clone(),
                kind: *ledger.kind.get(row)?,
                reason: ledger.reason.get(row)?.clone(),
                blind_ns: (*ledger.blind_from_ns.get(row)?, *ledger.blind_to_ns.get(row)?),
                member,
            };
            rows.push((key, *ledger.count.get(row)?));
        }
    }
    Some(rows)
}

#[cfg(test)]
mod tests;
