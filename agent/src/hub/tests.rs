//! The hub without its loop: notes in, batches and live summaries out.

use std::path::PathBuf;

use prost::Message;

use super::*;
use crate::discover::{Placement, TlsFiles};
use crate::fact::{Samples, Series, SyncSecond};
use crate::send::live::{Inlet, outlet};
use crate::spool::Kept;
use crate::spool::thread::testing::{Received, recorder};

const PROCESS: ProcessId = ProcessId { boot_id: [9; 16], pid: 7, start_ticks: 100 };
const IDENTITY: MemberIdentity = MemberIdentity { cluster_id: 0xc, member_id: 0xa };

fn at(second: i64) -> Reading {
    Reading { mono_ns: (second * SECOND_NS) as u64, wall_ns: (1_000_000 + second) * SECOND_NS }
}

fn process(id: ProcessId) -> EtcdProcess {
    EtcdProcess {
        id,
        name: "m1".to_owned(),
        data_dir: PathBuf::from("/d"),
        data_dir_here: PathBuf::from("/d"),
        wal_dir_here: PathBuf::from("/d/member/wal"),
        listen_client_urls: Vec::new(),
        advertise_client_urls: Vec::new(),
        listen_metrics_urls: Vec::new(),
        listen_peer_urls: Vec::new(),
        log_outputs: Vec::new(),
        peer_urls: Vec::new(),
        client_tls: TlsFiles::default(),
        peer_tls: TlsFiles::default(),
        placement: Placement::default(),
        shares_network: true,
        image: 0,
        is_hidden: false,
        notes: Vec::new(),
    }
}

struct Bench {
    hub: Hub,
    received: Received,
    live: Inlet,
}

fn bench(checkpoint: Checkpoint) -> Bench {
    let (spool, received) = recorder();
    let (_pace, batch_interval) = watch::channel(Duration::from_secs(2));
    let (sender, live) = outlet();
    let parts = Parts {
        agent_id: [1; 16],
        epoch: [2; 16],
        boot_id: [9; 16],
        sampling: Sampling { sample_every: 100, slow_ns: 1 },
        checkpoint,
        dropped: Arc::default(),
        spool,
        batch_interval,
        live: sender,
        dumps: Dumps::default(),
        telemetry: Arc::default(),
    };
    Bench { hub: Hub::new(parts, at(0)), received, live }
}

impl Bench {
    fn appear(&mut self, identity: Option<MemberIdentity>) {
        self.hub.take(Note::Appeared(Box::new(process(PROCESS)), identity), at(0));
    }

    fn close(&mut self, second: i64) -> Option<(Batch, v1::Batch)> {
        self.hub.close(at(second));
        let batch = self.received.next()?;
        let decoded = v1::Batch::decode(batch.payload.clone()).expect("decodes");
        Some((batch, decoded))
    }
}

fn syncs(second: i64, count: u64) -> Note {
    Note::Facts(vec![Fact::SyncSecond(SyncSecond {
        process: PROCESS,
        class: v1::FileClass::Wal,
        second,
        buckets: vec![(100, count)],
        sum_ns: count,
        errors: 0,
        run_delay_ns: 0,
        hook: v1::Hook::Filesystem,
    })])
}

fn scraped(etcd: u64, own: u64) -> Note {
    let gauges = Gauges { wal_syncs: Some(etcd), ..Gauges::default() };
    Note::Scraped { process: PROCESS, outcome: Ok(gauges), own_wal_syncs: Some(own) }
}

fn ledger(batch: &v1::Batch) -> Vec<(v1::LedgerKind, String, u64)> {
    let found = batch.sections.iter().filter(|section| section.kind() == v1::SectionKind::Ledger);
    let mut rows = Vec::new();
    for section in found {
        let ledger = v1::Ledger::decode(section.payload.as_slice()).expect("decodes");
        for row in 0..ledger.kind.len() {
            let kind = v1::LedgerKind::try_from(ledger.kind[row]).expect("known");
            rows.push((kind, format!("{} {}", ledger.stream[row], ledger.reason[row]), ledger.count[row]));
        }
    }
    rows
}

#[test]
fn facts_wait_for_the_ids_of_their_member_and_then_carry_them() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(None);
    bench.hub.take(syncs(1, 5), at(2));
    assert!(bench.close(2).is_none(), "nothing that could be sent");
    bench.hub.take(Note::Identified(PROCESS, IDENTITY), at(3));
    let (batch, decoded) = bench.close(3).expect("has rows");
    assert_eq!(batch.counts.syncs, 5);
    assert_eq!((decoded.members[0].cluster_id, decoded.members[0].member_id), (0xc, 0xa));
}

#[test]
fn facts_that_waited_too_long_go_without_ids() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(None);
    bench.hub.take(syncs(1, 5), at(2));
    bench.hub.second(at(9));
    assert!(bench.close(9).is_none());
    bench.hub.second(at(11));
    let (batch, decoded) = bench.close(11).expect("has rows");
    assert_eq!((batch.counts.syncs, decoded.members[0].member_id), (5, 0));
    assert!(bench.hub.parts.telemetry.unidentified_facts.get() > 0);
}

#[test]
fn the_checkpoint_follows_etcds_count_brought_up_to_date_by_ours() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    bench.hub.take(Note::Attached { process: PROCESS, at: at(1) }, at(1));
    bench.hub.take(syncs(2, 4), at(3));
    let ended =
        |until, own| Note::SecondEnded { process: PROCESS, until_ns: at(until).wall_ns, own_wal_syncs: own };
    bench.hub.take(ended(3, 4), at(3));
    let (batch, _) = bench.close(3).expect("has rows");
    assert_eq!(batch.coverage, [], "the time before attaching is not accounted for yet");
    for _ in 0..3 {
        bench.hub.take(scraped(107, 7), at(4));
    }
    bench.hub.take(ended(5, 10), at(5));
    let (batch, decoded) = bench.close(5).expect("has the blind row");
    let kept = Kept { until_ns: at(5).wall_ns, wal_syncs: Some(110), cluster_id: 0xc, member_id: 0xa };
    assert_eq!(batch.coverage, [Coverage { process: PROCESS, kept: Some(kept) }]);
    assert!(ledger(&decoded).contains(&(v1::LedgerKind::Blind, "sync attach".to_owned(), 100)));
}

#[test]
fn after_a_pause_of_the_probes_the_count_begins_anew_and_the_gap_is_stated() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    let attached = |second| Note::Attached { process: PROCESS, at: at(second) };
    let ended =
        |until, own| Note::SecondEnded { process: PROCESS, until_ns: at(until).wall_ns, own_wal_syncs: own };
    bench.hub.take(attached(1), at(1));
    for _ in 0..3 {
        bench.hub.take(scraped(50, 50), at(2));
    }
    bench.hub.take(ended(3, 60), at(3));
    bench.close(3);
    bench.hub.take(attached(10), at(10));
    for _ in 0..3 {
        bench.hub.take(scraped(100, 5), at(11));
    }
    let (batch, decoded) = bench.close(11).expect("has the blind row");
    assert!(ledger(&decoded).contains(&(v1::LedgerKind::Blind, "sync probes_off".to_owned(), 35)));
    let kept = Kept { until_ns: at(10).wall_ns, wal_syncs: Some(95), cluster_id: 0xc, member_id: 0xa };
    assert_eq!(batch.coverage, [Coverage { process: PROCESS, kept: Some(kept) }]);
}

#[test]
fn processes_that_ended_while_no_agent_ran_are_blind_from_the_checkpoint_on() {
    let kept = Kept { until_ns: at(-60).wall_ns, wal_syncs: Some(5), cluster_id: 3, member_id: 4 };
    let mut bench = bench(Checkpoint { processes: [(PROCESS, kept)].into() });
    for second in 1..8 {
        bench.hub.second(at(second));
    }
    let (batch, decoded) = bench.close(8).expect("has the blind row");
    assert!(ledger(&decoded).contains(&(v1::LedgerKind::Blind, "sync agent_down".to_owned(), 0)));
    assert_eq!((decoded.members[0].cluster_id, decoded.members[0].member_id), (3, 4));
    assert_eq!(batch.coverage, [Coverage { process: PROCESS, kept: None }], "and off the checkpoint");
    assert!(bench.close(9).is_none(), "told once");
}

#[test]
fn slow_syncs_are_rows_and_sums_of_the_live_summary_and_so_are_those_left_out() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    bench.hub.second(at(1));
    assert_eq!(bench.live.newest().members[0].slow_syncs, None);
    let sync = crate::fact::SlowSync {
        process: PROCESS,
        class: v1::FileClass::Wal,
        start_mono_ns: at(1).mono_ns,
        latency_ns: 20_000_000,
        thread_id: 8,
        inode: 1,
        device: 2,
        threshold_ns: 10_000_000,
        autopsy: crate::autopsy::Autopsy {
            parts: crate::autopsy::Parts { unexplained_ns: 20_000_000, ..Default::default() },
            ..Default::default()
        },
        names: Vec::new(),
    };
    let lost = Lost {
        process: Some(PROCESS),
        wall_ns: at(1).wall_ns,
        stream: "autopsy",
        reason: "rate_limit".to_owned(),
        count: 5,
    };
    bench.hub.take(Note::Facts(vec![Fact::SlowSync(Box::new(sync)), Fact::Lost(lost)]), at(2));
    bench.hub.second(at(2));
    let slow = bench.live.newest().members[0].slow_syncs.clone().expect("some");
    assert_eq!((slow.examined_total, slow.left_out_total, slow.latency_ns_total), (1, 5, 20_000_000));
    assert_eq!(slow.slowest_wall_ns, at(1).wall_ns);
    let (batch, decoded) = bench.close(2).expect("has rows");
    assert_eq!(batch.counts.autopsies, 1);
    let accounts = ledger(&decoded);
    let of = |kind| -> u64 {
        let rows =
            accounts.iter().filter(|(known, stream, _)| *known == kind && stream.starts_with("autopsy "));
        rows.map(|(.., count)| count).sum()
    };
    assert_eq!((of(v1::LedgerKind::Produced), of(v1::LedgerKind::Dropped)), (6, 5));
}

#[test]
fn a_member_that_is_gone_is_shown_until_its_next_process_is_found() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    bench.hub.take(Note::Gone(PROCESS), at(5));
    bench.hub.second(at(6));
    let live = bench.live.newest();
    assert!(matches!(live.members.as_slice(), [member] if !member.running && !member.scrape_ok));
    let next = ProcessId { pid: 8, ..PROCESS };
    bench.hub.take(Note::Appeared(Box::new(process(next)), Some(IDENTITY)), at(7));
    bench.hub.second(at(8));
    let live = bench.live.newest();
    assert!(matches!(live.members.as_slice(), [member] if member.running));
}

/// Cluster and member by process of a batch's table.
fn ids(batch: &v1::Batch) -> Vec<(u32, u64, u64)> {
    let of = |member: &v1::Member| {
        (member.process.as_ref().map_or(0, |process| process.pid), member.cluster_id, member.member_id)
    };
    batch.members.iter().map(of).collect()
}

#[test]
fn rows_keep_cluster_and_member_when_the_next_process_of_the_member_takes_over() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    bench.hub.take(syncs(1, 5), at(1));
    bench.hub.take(Note::Gone(PROCESS), at(2));
    let next = process(ProcessId { pid: 8, ..PROCESS });
    bench.hub.take(Note::Appeared(Box::new(next), None), at(2));
    let (_, decoded) = bench.close(2).expect("has rows");
    assert_eq!(ids(&decoded), [(7, 0xc, 0xa)], "the next one's wait for its ids");
    // Rows of a dump, or of slow syncs that were examined, come after its end.
    bench.hub.take(syncs(2, 1), at(60));
    let (_, decoded) = bench.close(60).expect("has rows");
    assert_eq!(ids(&decoded), [(7, 0xc, 0xa)]);
    for second in [100, 302, 303] {
        bench.hub.second(at(second));
    }
    assert!(bench.hub.departed.is_empty(), "not for ever");
}

#[test]
fn a_process_that_executes_another_etcd_is_one_member_after_the_other() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    bench.hub.take(syncs(1, 5), at(1));
    bench.hub.take(Note::Gone(PROCESS), at(1));
    let elsewhere = EtcdProcess { data_dir_here: PathBuf::from("/other"), ..process(PROCESS) };
    let other = MemberIdentity { cluster_id: 0xd, member_id: 0xb };
    bench.hub.take(Note::Appeared(Box::new(elsewhere), Some(other)), at(2));
    bench.hub.take(syncs(2, 3), at(2));
    let before = bench.received.next().expect("closed when the other one came");
    assert_eq!(before.counts.syncs, 5);
    assert_eq!(ids(&v1::Batch::decode(before.payload).expect("decodes")), [(7, 0xc, 0xa)]);
    let (after, decoded) = bench.close(3).expect("has rows");
    assert_eq!((after.counts.syncs, ids(&decoded)), (3, vec![(7, 0xd, 0xb)]));
    // It runs: a day after the one before had ended as well.
    bench.hub.second(at(25 * 3600));
    let live = bench.live.newest();
    assert!(live.members.len() == 1 && live.members[0].running, "{live:?}");
}

#[test]
fn of_a_thousand_that_came_and_went_the_last_ones_are_shown() {
    let mut bench = bench(Checkpoint::default());
    for pid in 1..=1_000 {
        let id = ProcessId { pid, ..PROCESS };
        let elsewhere = PathBuf::from(format!("/d{pid}"));
        let process = EtcdProcess { data_dir: elsewhere.clone(), data_dir_here: elsewhere, ..process(id) };
        bench.hub.take(Note::Appeared(Box::new(process), None), at(i64::from(pid)));
        bench.hub.take(Note::Gone(id), at(i64::from(pid)));
    }
    bench.hub.second(at(1_000));
    let live = bench.live.newest();
    let mut shown: Vec<u32> = live
        .members
        .iter()
        .filter_map(|member| Some(member.member.as_ref()?.process.as_ref()?.pid))
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, (937..=1_000).collect::<Vec<_>>());
    assert!(bench.hub.departed.len() <= DEPARTED_LIMIT && bench.hub.gone_ns.len() == GONE_LIMIT);
}

#[test]
fn live_histograms_only_grow() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    for second in 1..4 {
        bench.hub.take(syncs(second, 2), at(second));
        bench.hub.second(at(second));
        bench.close(second);
        let live = bench.live.newest();
        let latency = live.members[0].syncs[0].latency.clone().expect("there");
        assert_eq!(latency.pairs(), Ok(vec![(100, 2 * second as u64)]), "closing a batch resets nothing");
        assert_eq!(live.number, second as u64);
    }
}

#[test]
fn a_step_of_the_wall_clock_is_an_event_and_drift_is_not() {
    let mut bench = bench(Checkpoint::default());
    let base =
        |mono: u64, wall_ns: i64| Note::Facts(vec![Fact::TimeBase(Reading { mono_ns: mono, wall_ns })]);
    bench.hub.take(base(0, 1_000 * SECOND_NS), at(0));
    bench.hub.take(base(1, 1_000 * SECOND_NS + CLOCK_STEP_NS / 2), at(0));
    assert!(bench.close(1).is_none());
    bench.hub.take(base(2, 1_003 * SECOND_NS), at(0));
    let (batch, _) = bench.close(2).expect("has the event");
    assert_eq!(batch.counts.events, 1);
}

#[test]
fn a_capability_is_told_when_it_changes_and_stays_in_the_live_summary() {
    let mut bench = bench(Checkpoint::default());
    let degraded =
        v1::Degradation { capability: "x".to_owned(), reason: "r".to_owned(), remedy: "m".to_owned() };
    for _ in 0..3 {
        bench.hub.take(Note::Degraded(degraded.clone()), at(1));
    }
    bench.hub.second(at(1));
    assert_eq!(bench.live.newest().degraded, [degraded]);
    assert_eq!(bench.close(1).expect("has the event").0.counts.events, 1);
    bench.hub.take(Note::Restored("x".into()), at(2));
    bench.hub.take(Note::Restored("x".into()), at(2));
    bench.hub.second(at(2));
    assert_eq!(bench.live.newest().degraded, []);
    assert_eq!(bench.close(2).expect("has the event").0.counts.events, 1);
}

#[test]
fn when_the_spool_is_stuck_the_newest_batches_wait_and_older_ones_are_accounted_for() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    // Nobody takes anything out: soon the thread seems stuck.
    let mut produced = 0;
    for second in 0..37 {
        // Enough for a full batch each time.
        let series: Vec<_> = (0..52_000).map(|_| (Series::gauge("g", &[]), 1.0)).collect();
        produced += series.len() as u64;
        let samples = Samples { process: Some(PROCESS), mono_ns: 1, values: series };
        bench.hub.take(Note::Facts(vec![Fact::Samples(samples)]), at(second));
        bench.hub.close(at(second));
    }
    let mut stored = 0;
    let mut accounted = 0;
    for round in 0..3 {
        while let Some(batch) = bench.received.next() {
            stored += u64::from(batch.counts.metrics);
            let decoded = v1::Batch::decode(batch.payload.clone()).expect("decodes");
            let dropped = ledger(&decoded);
            accounted +=
                dropped.iter().filter(|row| row.1 == "metric spool_stuck").map(|row| row.2).sum::<u64>();
        }
        bench.hub.close(at(60 + round));
    }
    assert!(accounted > 0);
    assert_eq!(stored + accounted, produced);
}

#[test]
fn vitals_are_shown_with_their_member_and_stay_when_it_is_gone() {
    let mut bench = bench(Checkpoint::default());
    bench.appear(Some(IDENTITY));
    bench.hub.second(at(1));
    assert_eq!(bench.live.newest().members[0].vitals, None);
    let vitals = v1::LiveVitals { on_cpu_ns_total: Some(7), ..v1::LiveVitals::default() };
    bench.hub.take(Note::Vitals(PROCESS, Box::new(vitals.clone())), at(2));
    bench.hub.take(Note::Vitals(ProcessId { pid: 8, ..PROCESS }, Box::default()), at(2));
    bench.hub.take(Note::Gone(PROCESS), at(2));
    bench.hub.second(at(2));
    let live = bench.live.newest();
    assert_eq!((live.members.len(), live.members[0].vitals.as_ref()), (1, Some(&vitals)));
}
