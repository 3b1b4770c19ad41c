use bytes::Bytes;

use super::*;
use crate::clock::Reading;
use crate::discover::ProcessId;
use crate::encode::{Builder, Roster, Sampling, wire_process};
use crate::fact::{Event, Fact};

const PROCESS: ProcessId = ProcessId { boot_id: [1; 16], pid: 7, start_ticks: 9 };
const NOW: Reading = Reading { mono_ns: 5_000_000_000, wall_ns: 605_000_000_000 };

struct Nobody;

impl Roster for Nobody {
    fn member(&self, process: ProcessId) -> v1::Member {
        v1::Member { member_id: 77, process: Some(wire_process(process)), ..v1::Member::default() }
    }
}

fn builder() -> Builder {
    Builder::new([1; 16], [2; 16], Sampling { sample_every: 100, slow_ns: 10 }, NOW)
}

fn event() -> Fact {
    let details = serde_json::json!({});
    Fact::Event(Event { process: Some(PROCESS), mono_ns: NOW.mono_ns, kind: "test", details })
}

fn dropped(payload: Option<Bytes>, counts: crate::spool::Counts) -> Dropped {
    Dropped { reason: "spool_full", counts, begin_ns: NOW.wall_ns, payload }
}

/// (kind, reason) → count.
fn sums(account: &Account) -> Vec<(i32, String, u64)> {
    account.rows().map(|(key, count)| (key.kind, key.reason.clone(), count)).collect()
}

#[test]
fn a_dropped_batch_was_produced_and_dropped_once_however_often_its_account_is_dropped_again() {
    let mut account = Account::default();
    for round in 1..=3 {
        let mut builder = builder();
        builder.add(event(), NOW);
        builder.add_account(&account, NOW);
        let closed = builder.close(&Nobody).expect("has an event");
        account = Account::default();
        account.add_dropped(&dropped(Some(closed.payload), closed.counts));
        let expected = [
            (v1::LedgerKind::Produced as i32, String::new(), round),
            (v1::LedgerKind::Dropped as i32, "spool_full".to_owned(), round),
        ];
        assert_eq!(sums(&account), expected);
        assert!(account.rows().all(|(key, _)| !key.member.is_empty()), "the member stays known");
    }
}

#[test]
fn without_the_batch_its_header_tells_what_was_lost() {
    let mut account = Account::default();
    let counts = crate::spool::Counts { syncs: 5, metrics: 3, ..Default::default() };
    account.add_dropped(&dropped(None, counts));
    account.add_dropped(&dropped(Some(Bytes::from_static(b"\xff\xff")), counts));
    let of = |stream: &str, kind: v1::LedgerKind| -> u64 {
        let rows = account.rows().filter(|(key, _)| key.stream == stream && key.kind == kind as i32);
        rows.map(|(_, count)| count).sum()
    };
    assert_eq!((of("sync", v1::LedgerKind::Produced), of("sync", v1::LedgerKind::Dropped)), (10, 10));
    assert_eq!(of("metric", v1::LedgerKind::Dropped), 6);
    assert_eq!(of("event", v1::LedgerKind::Dropped), 0);
}

#[test]
fn an_account_of_many_minutes_becomes_coarser_and_loses_nothing() {
    let mut account = Account::default();
    for minute in 0..5_000 {
        let counts = crate::spool::Counts { syncs: 1, ..Default::default() };
        let mut lost = dropped(None, counts);
        lost.begin_ns = minute * MINUTE_NS;
        account.add_dropped(&lost);
    }
    assert!(account.rows.len() < COARSE_ABOVE, "{}", account.rows.len());
    assert_eq!(account.rows().map(|(_, count)| count).sum::<u64>(), 10_000);
}
