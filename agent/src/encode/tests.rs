use etcdmon_proto::v1::{FileClass, Hook, SectionKind, SyncReason};
use proptest::prelude::*;

use super::*;
use crate::autopsy::{Autopsy, Certainty, Culprit, Gaps, JournalParts, Origin, Parts};
use crate::discover::Placement;
use crate::fact::{Blind, Lost};

const A: ProcessId = ProcessId { boot_id: [1; 16], pid: 7, start_ticks: 9 };
const B: ProcessId = ProcessId { boot_id: [1; 16], pid: 8, start_ticks: 10 };
const SAMPLING: Sampling = Sampling { sample_every: 100, slow_ns: 10_000_000 };
/// Wall is mono plus 1,000 s.
const NOW: Reading = Reading { mono_ns: 80 * SECOND_NS as u64, wall_ns: 1_080 * SECOND_NS };

struct Ids;

impl Roster for Ids {
    fn member(&self, process: ProcessId) -> v1::Member {
        v1::Member {
            member_id: u64::from(process.pid),
            process: Some(wire_process(process)),
            ..v1::Member::default()
        }
    }
}

fn builder() -> Builder {
    Builder::new([1; 16], [2; 16], SAMPLING, NOW)
}

fn sync_second(process: ProcessId, second: i64, buckets: Vec<(u16, u64)>) -> SyncSecond {
    SyncSecond {
        process,
        class: FileClass::Wal,
        second,
        buckets,
        sum_ns: 12,
        errors: 1,
        run_delay_ns: 3,
        hook: Hook::Filesystem,
    }
}

fn section<M: Message + Default>(batch: &v1::Batch, kind: SectionKind) -> (u32, M) {
    let found = batch.sections.iter().find(|section| section.kind() == kind).expect("the section is there");
    (found.rows, M::decode(found.payload.as_slice()).expect("decodes"))
}

fn decode(closed: &Closed) -> v1::Batch {
    v1::Batch::decode(closed.payload.clone()).expect("decodes")
}

#[test]
fn every_kind_of_fact_has_its_section_with_columns_of_one_length() {
    let mut builder = builder();
    builder.add(Fact::TimeBase(NOW), NOW);
    builder.add(Fact::SyncSecond(sync_second(A, 1_079, vec![(3, 2), (800, 1)])), NOW);
    builder.add(Fact::SyncSecond(sync_second(B, 1_078, vec![(5, 4)])), NOW);
    builder.add(
        Fact::Sync(SyncRow {
            process: B,
            class: FileClass::Backend,
            start_mono_ns: 79 * SECOND_NS as u64,
            latency_ns: 20_000_000,
            thread_id: 77,
            run_delay_ns: 5,
            written_bytes: 4096,
            inode: 12,
            device: 7 << 20,
            result: -5,
            reason: SyncReason::Slow,
        }),
        NOW,
    );
    let series = Series::gauge("etcd_server_has_leader", &[]);
    for mono_ns in [1, 2] {
        let values = vec![(Arc::clone(&series), 1.0)];
        builder.add(Fact::Samples(Samples { process: Some(A), mono_ns, values: values.clone() }), NOW);
        builder.add(Fact::Samples(Samples { process: None, mono_ns, values }), NOW);
    }
    let closed = builder.close(&Ids).expect("has rows");
    let batch = decode(&closed);
    assert_eq!(batch.members.iter().map(|member| member.member_id).collect::<Vec<_>>(), [7, 8]);
    assert_eq!((closed.counts.syncs, closed.counts.sync_rows, closed.counts.metrics), (7, 1, 4));

    let (rows, syncs) = section::<v1::SyncHistograms>(&batch, SectionKind::SyncHistogram);
    assert_eq!((rows, syncs.member.as_slice()), (2, [0, 1].as_slice()));
    assert_eq!(convert::undelta_i64(&syncs.second_delta), [1_079, 1_078]);
    assert_eq!(syncs.bucket_len, [2, 1]);
    assert_eq!(
        convert::dense(&syncs.bucket_delta[..2], &syncs.bucket_count[..2]),
        Ok(vec![(3, 2), (800, 1)])
    );
    assert_eq!(convert::dense(&syncs.bucket_delta[2..], &syncs.bucket_count[2..]), Ok(vec![(5, 4)]));

    let (_, rows) = section::<v1::Syncs>(&batch, SectionKind::Sync);
    assert_eq!((rows.sample_every, rows.slow_ns, rows.member[0], rows.result[0]), (100, 10_000_000, 1, -5));

    let (count, metrics) = section::<v1::Metrics>(&batch, SectionKind::Metric);
    assert_eq!((count, metrics.series.len()), (4, 2), "one series of a member and one of the node");
    assert_eq!(metrics.series_index, [0, 1, 0, 1]);
    assert_eq!(metrics.series.iter().map(|series| series.member_plus_one).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(convert::undelta_i64(&metrics.mono_ns_delta), [1, 1, 2, 2]);
}

fn slow_sync(process: ProcessId, culprits: u32) -> SlowSync {
    let culprit = |number: u32| Culprit {
        origin: Origin::Process,
        process_id: 600 + number,
        comm: *b"fio\0garbage.....",
        cgroup: 44,
        inode: 0,
        device: 254 << 20,
        requests: 3,
        bytes: 12_288,
        syncs: 1,
        wait_ns: 100 - u64::from(number),
        certainty: Certainty::High,
    };
    let placement = Placement { cgroup: "/lab".to_owned(), ..Placement::default() };
    SlowSync {
        process,
        class: FileClass::Wal,
        start_mono_ns: 79 * SECOND_NS as u64,
        latency_ns: 45,
        thread_id: 77,
        inode: 12,
        device: 254 << 20 | 1,
        threshold_ns: 40,
        autopsy: Autopsy {
            parts: Parts {
                on_cpu_ns: 1,
                run_queue_ns: 2,
                journal_ns: 3,
                queue_ns: 4,
                device_ns: 5,
                flush_ns: 6,
                throttle_ns: 7,
                steal_ns: 8,
                unexplained_ns: 9,
            },
            journal: JournalParts { device_ns: 1, queue_ns: 1, flush_ns: 1 },
            cpu_quota_ns: 2,
            wait_ns: 18,
            culprits: (0..culprits).map(culprit).collect(),
            gaps: Gaps { commits: true, ..Gaps::default() },
        },
        // The last one could not be asked any more.
        names: (1..culprits)
            .map(|_| CulpritName { process: "fio (/usr/bin/fio)".to_owned(), placement: placement.clone() })
            .collect(),
    }
}

#[test]
fn slow_syncs_carry_their_parts_and_their_culprits_and_texts_once() {
    let mut builder = builder();
    for (process, culprits) in [(A, 0), (B, 3), (A, 1)] {
        builder.add(Fact::SlowSync(Box::new(slow_sync(process, culprits))), NOW);
    }
    let closed = builder.close(&Ids).expect("has rows");
    assert_eq!(closed.counts.autopsies, 3);
    let batch = decode(&closed);
    let (rows, columns) = section::<v1::Autopsies>(&batch, SectionKind::Autopsy);
    assert_eq!((rows, columns.member.as_slice()), (3, [0, 1, 0].as_slice()));
    assert_eq!(columns.culprit_len, [0, 3, 1]);
    let parts = [
        &columns.on_cpu_ns,
        &columns.run_queue_ns,
        &columns.journal_ns,
        &columns.queue_ns,
        &columns.device_ns,
        &columns.flush_ns,
        &columns.throttle_ns,
        &columns.steal_ns,
        &columns.unexplained_ns,
    ];
    assert_eq!(parts.map(|part| part[1]), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let more = [
        &columns.journal_device_ns,
        &columns.journal_queue_ns,
        &columns.journal_flush_ns,
        &columns.cpu_quota_ns,
    ];
    assert_eq!(more.map(|part| part[1]), [1, 1, 1, 2]);
    assert_eq!((columns.gaps[0], columns.wait_ns[0], columns.threshold_ns[0]), (2, 18, 40));
    assert_eq!(columns.text, ["", "fio", "fio (/usr/bin/fio)", "/lab"]);
    assert_eq!(columns.culprit_process_id, [600, 601, 602, 600]);
    assert_eq!(columns.culprit_comm, [1, 1, 1, 1]);
    assert_eq!(columns.culprit_process, [2, 2, 0, 0], "one that is gone has no name");
    assert_eq!((columns.culprit_cgroup, columns.culprit_wait_ns), (vec![3, 3, 0, 0], vec![100, 99, 98, 100]));
    let (_, ledger) = section::<v1::Ledger>(&batch, SectionKind::Ledger);
    let produced: Vec<_> = ledger.stream.iter().zip(&ledger.count).collect();
    assert_eq!(produced, [(&"autopsy".to_owned(), &2), (&"autopsy".to_owned(), &1)], "by member");
}

#[test]
fn the_ledger_of_a_batch_comes_out_even() {
    let mut builder = builder();
    builder.add(Fact::SyncSecond(sync_second(A, 1_079, vec![(3, 2)])), NOW);
    builder.add(Fact::SyncSecond(sync_second(A, 1_078, vec![(3, 5)])), NOW);
    builder.add(
        Fact::Lost(Lost {
            process: None,
            wall_ns: NOW.wall_ns,
            stream: "sync_row",
            reason: "ring_full".to_owned(),
            count: 9,
        }),
        NOW,
    );
    let blind = Blind {
        process: B,
        from_ns: 60 * SECOND_NS,
        to_ns: 90 * SECOND_NS,
        count: 4,
        reason: "agent_down",
        ids: Some((5, 6)),
    };
    builder.add(Fact::Blind(blind), NOW);
    let batch = decode(&builder.close(&Ids).expect("has rows"));
    let (_, ledger) = section::<v1::Ledger>(&batch, SectionKind::Ledger);
    let minutes = convert::undelta_i64(&ledger.minute_delta);
    let rows: Vec<_> = (0..ledger.count.len())
        .map(|row| {
            let kind = v1::LedgerKind::try_from(ledger.kind[row]).expect("known").name();
            (minutes[row], ledger.stream[row].as_str(), kind, ledger.count[row], ledger.member_plus_one[row])
        })
        .collect();
    assert_eq!(
        rows,
        [
            (17, "sync", "produced", 7, 1),
            (18, "sync_row", "produced", 9, 0),
            (18, "sync_row", "dropped", 9, 0),
            (1, "sync", "produced", 4, 2),
            (1, "sync", "blind", 4, 2),
        ]
    );
    assert_eq!((ledger.blind_from_ns[4], ledger.blind_to_ns[4]), (60 * SECOND_NS, 90 * SECOND_NS));
    assert_eq!(
        (batch.members[1].cluster_id, batch.members[1].member_id),
        (5, 6),
        "as the checkpoint knew it"
    );
}

#[test]
fn a_batch_with_time_bases_alone_is_not_sent_and_the_last_base_goes_on() {
    let mut builder = builder();
    for second in 0..5 {
        let base = Reading { mono_ns: second * 10, wall_ns: 7 };
        builder.add(Fact::TimeBase(base), NOW);
        assert_eq!(builder.close(&Ids), None);
    }
    builder.add(Fact::SyncSecond(sync_second(A, 1, vec![(1, 1)])), NOW);
    for _ in 0..2 {
        let batch = decode(&builder.close(&Ids).expect("has rows"));
        let (_, bases) = section::<v1::TimeBases>(&batch, SectionKind::TimeBase);
        assert_eq!(bases.mono_ns_delta, [40], "every batch has a base before its first fact");
        builder.add(Fact::SyncSecond(sync_second(A, 1, vec![(1, 1)])), NOW);
    }
}

#[test]
fn a_batch_is_full_before_it_is_too_large_to_travel() {
    let mut builder = builder();
    let mut row = 0;
    while !builder.is_full() {
        row += 1;
        let buckets = (0..812).map(|bucket| (bucket, u64::MAX >> 24)).collect();
        builder.add(Fact::SyncSecond(sync_second(A, row, buckets)), NOW);
    }
    let closed = builder.close(&Ids).expect("has rows");
    assert!(closed.payload.len() < etcdmon_proto::MAX_BATCH_BYTES * 9 / 10, "{}", closed.payload.len());
}

proptest! {
    #[test]
    fn histograms_survive_the_way_to_the_wire(counts in prop::collection::btree_map(0u16..812, 1u64.., 0..50)) {
        let buckets: Vec<(u16, u64)> = counts.into_iter().collect();
        let mut builder = builder();
        // Their sum must fit, as it does in the kernel.
        let buckets: Vec<(u16, u64)> = buckets.iter().map(|(bucket, count)| (*bucket, count >> 8)).collect();
        builder.add(Fact::SyncSecond(sync_second(A, 1, buckets.clone())), NOW);
        builder.add(Fact::SyncSecond(sync_second(B, 1, vec![(0, 1)])), NOW);
        let batch = decode(&builder.close(&Ids).expect("has rows"));
        let (_, syncs) = section::<v1::SyncHistograms>(&batch, SectionKind::SyncHistogram);
        let length = syncs.bucket_len[0] as usize;
        let found = convert::dense(&syncs.bucket_delta[..length], &syncs.bucket_count[..length]);
        prop_assert_eq!(found, Ok(buckets));
    }
}
