//! Samples to batches, as agents send them: the same columns, the same account. Pure.
//!
//! Smaller than the agent's encoder, since nothing but metrics comes over the network: no syncs, no writes, no blind stretches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use etcdmon_etcd::Series;
use etcdmon_proto::{convert, v1};
use prost::Message as _;

/// A batch with so many samples takes no more: some 2 MiB.
pub const MAX_SAMPLES: usize = 100_000;

/// Rows of the account: when so many more have come, minutes become hours, as in an agent's account. While ClickHouse is away the
/// batch stays open, and one with too many rows would be refused, its samples included.
const COARSE_ABOVE: usize = 32_768;

/// Nanoseconds of a minute.
const MINUTE_NS: i64 = 60_000_000_000;

/// Both clocks at one moment, in nanoseconds; the steady one from any beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Steady time.
    pub mono_ns: u64,
    /// Unix time.
    pub wall_ns: i64,
}

impl Reading {
    const fn wall_minus_mono_ns(self) -> i64 {
        self.wall_ns.wrapping_sub(self.mono_ns.cast_signed())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct AccountKey {
    minute: i64,
    kind: i32,
    reason: &'static str,
    member: u32,
}

/// The open batch.
#[derive(Debug, Default)]
pub struct Batch {
    members: Vec<v1::Member>,
    series: HashMap<(u32, usize), u32>,
    /// Keeps the series alive, so that an address stays its own.
    series_list: Vec<(u32, Arc<Series>)>,
    samples: Vec<(u32, u64, f64)>,
    account: BTreeMap<AccountKey, u64>,
    /// Rows that are left of what became coarse.
    coarse: usize,
}

impl Batch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.account.is_empty()
    }

    /// Samples in it.
    pub const fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Adds samples of a member, taken at `now`. Returns how many found no room; they are in the account as dropped.
    pub fn add(&mut self, member: &v1::Member, now: Reading, values: &[(Arc<Series>, f64)]) -> usize {
        let member = self.member(member);
        let room = MAX_SAMPLES.saturating_sub(self.samples.len());
        for (series, value) in values.iter().take(room) {
            let next = self.series_list.len() as u32;
            let index = *self.series.entry((member, Arc::as_ptr(series) as usize)).or_insert(next);
            if index == next {
                self.series_list.push((member, Arc::clone(series)));
            }
            self.samples.push((index, now.mono_ns, *value));
        }
        let dropped = values.len().saturating_sub(room);
        self.note(member, now, v1::LedgerKind::Produced, "", values.len());
        self.note(member, now, v1::LedgerKind::Dropped, "memory_full", dropped);
        dropped
    }

    /// Accounts for samples that were lost before.
    pub fn lost(&mut self, member: &v1::Member, now: Reading, reason: &'static str, count: usize) {
        let member = self.member(member);
        self.note(member, now, v1::LedgerKind::Produced, "", count);
        self.note(member, now, v1::LedgerKind::Dropped, reason, count);
    }

    /// The encoded batch of this pseudo-agent.
    pub fn encode(mut self, agent: [u8; 16], now: Reading) -> Vec<u8> {
        let sections = vec![
            section(v1::SectionKind::TimeBase, 1, &time_base(now)),
            section(v1::SectionKind::Metric, self.samples.len(), &self.metrics()),
            section(v1::SectionKind::Ledger, self.account.len(), &self.ledger()),
        ];
        let members = std::mem::take(&mut self.members);
        v1::Batch { agent_id: agent.to_vec(), boot_id: Vec::new(), members, sections }.encode_to_vec()
    }

    fn member(&mut self, member: &v1::Member) -> u32 {
        let same =
            |known: &v1::Member| (known.cluster_id, known.member_id) == (member.cluster_id, member.member_id);
        let found = self.members.iter().position(same);
        found.unwrap_or_else(|| {
            self.members.push(member.clone());
            self.members.len() - 1
        }) as u32
    }

    fn note(&mut self, member: u32, now: Reading, kind: v1::LedgerKind, reason: &'static str, count: usize) {
        if count > 0 {
            let minute = now.wall_ns.div_euclid(MINUTE_NS);
            *self.account.entry(AccountKey { minute, kind: kind.into(), reason, member }).or_default() +=
                count as u64;
        }
        if self.account.len() > self.coarse + COARSE_ABOVE {
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        for (mut key, count) in std::mem::take(&mut self.account) {
            key.minute -= key.minute.rem_euclid(60);
            *self.account.entry(key).or_default() += count;
        }
        self.coarse = self.account.len();
    }

    fn metrics(&self) -> v1::Metrics {
        let series = self.series_list.iter().map(|(member, series)| v1::Series {
            member_plus_one: member + 1,
            name: series.name.clone(),
            label: series.labels.clone(),
            r#type: series.kind.into(),
        });
        v1::Metrics {
            series: series.collect(),
            series_index: self.samples.iter().map(|(index, ..)| *index).collect(),
            mono_ns_delta: convert::delta_i64(self.samples.iter().map(|(_, mono, _)| mono.cast_signed())),
            value: self.samples.iter().map(|(.., value)| *value).collect(),
        }
    }

    fn ledger(&self) -> v1::Ledger {
        let keys = || self.account.keys();
        v1::Ledger {
            minute_delta: convert::delta_i64(keys().map(|key| key.minute)),
            stream: keys().map(|_| "metric".to_owned()).collect(),
            kind: keys().map(|key| key.kind).collect(),
            reason: keys().map(|key| key.reason.to_owned()).collect(),
            count: self.account.values().copied().collect(),
            blind_from_ns: keys().map(|_| 0).collect(),
            blind_to_ns: keys().map(|_| 0).collect(),
            member_plus_one: keys().map(|key| key.member + 1).collect(),
        }
    }
}

fn time_base(now: Reading) -> v1::TimeBases {
    v1::TimeBases {
        mono_ns_delta: vec![now.mono_ns],
        wall_minus_mono_ns_delta: vec![now.wall_minus_mono_ns()],
    }
}

fn section(kind: v1::SectionKind, rows: usize, message: &impl prost::Message) -> v1::Section {
    v1::Section { kind: kind.into(), rows: rows as u32, payload: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::registry::Registry;
    use crate::store::{BatchId, Table, decode};

    const NOW: Reading = Reading { mono_ns: 5_000_000_000, wall_ns: 1_700_000_000_000_000_000 };

    fn member(id: u64) -> v1::Member {
        v1::Member { cluster_id: 7, member_id: id, ..v1::Member::default() }
    }

    fn decoded(batch: Batch) -> decode::Decoded {
        let id = BatchId { agent: Uuid::from_u128(9), epoch: Uuid::from_u128(1), sequence: 1 };
        decode::decode(
            id,
            &batch.encode([0; 15].iter().chain(&[9]).copied().collect::<Vec<u8>>().try_into().unwrap(), NOW),
            &Registry::default(),
        )
        .expect("decodes as an agent's does")
    }

    #[test]
    fn a_batch_decodes_as_an_agents_does_and_its_books_meet() {
        let series = Series::gauge("etcd_server_has_leader", &[]);
        let mut batch = Batch::default();
        assert_eq!(batch.add(&member(1), NOW, &[(series.clone(), 1.0), (series.clone(), 0.0)]), 0);
        assert_eq!(batch.add(&member(2), NOW, &[(series, 1.0)]), 0);
        batch.lost(&member(2), NOW, "series_limit", 4);
        let decoded = decoded(batch);
        let rows =
            |table| decoded.blocks.iter().find(|block| block.table == table).map_or(0, |block| block.rows());
        assert_eq!((rows(Table::Metrics), rows(Table::Ledger), decoded.unknown_rows), (3, 3, 0));
        let metrics = decoded.blocks.iter().find(|block| block.table == Table::Metrics).unwrap();
        assert!(metrics.times().iter().all(|time| *time == NOW.wall_ns), "{:?}", metrics.times());
    }

    #[test]
    fn what_finds_no_room_is_in_the_account() {
        let series = Series::gauge("etcd_server_has_leader", &[]);
        let many = vec![(series, 1.0); MAX_SAMPLES];
        let mut batch = Batch::default();
        assert_eq!(batch.add(&member(1), NOW, &many[..MAX_SAMPLES - 1]), 0);
        assert_eq!(batch.add(&member(1), NOW, &many[..3]), 2);
        assert_eq!(batch.samples(), MAX_SAMPLES);
        let ledger = batch.ledger();
        assert_eq!(ledger.count.iter().sum::<u64>(), MAX_SAMPLES as u64 + 2 + 2);
        assert!(batch.encode([9; 16], NOW).len() < etcdmon_proto::MAX_BATCH_BYTES);
    }

    #[test]
    fn the_account_of_a_batch_that_stays_open_for_long_becomes_coarser_and_loses_nothing() {
        let (members, hours) = (300, 15);
        let series = Series::gauge("etcd_server_has_leader", &[]);
        let mut batch = Batch::default();
        batch.add(&member(0), NOW, &vec![(series.clone(), 1.0); MAX_SAMPLES]);
        for minute in 1..=hours * 60 {
            let now = Reading { wall_ns: NOW.wall_ns + minute * MINUTE_NS, ..NOW };
            for id in 0..members {
                assert_eq!(batch.add(&member(id), now, &[(series.clone(), 1.0)]), 1);
            }
        }
        let rows = batch.account.len();
        assert!(rows <= COARSE_ABOVE + 2 * members as usize * (hours as usize + 1), "{rows}");
        let counted: u64 = batch.account.values().sum();
        assert_eq!(counted, MAX_SAMPLES as u64 + 2 * members * hours.unsigned_abs() * 60);
        decoded(batch);
    }
}
