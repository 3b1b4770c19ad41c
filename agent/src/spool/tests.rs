//! The spool on real files; [`model`] has its histories, [`memory`] the files of those.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::discover::ProcessId;

mod memory;
mod model;

const PROCESS: ProcessId = ProcessId { boot_id: [3; 16], pid: 7, start_ticks: 11 };
const SECOND: u64 = 1_000_000_000;

fn batch(epoch: u8, sequence: u64, size: usize, now: u64) -> Batch {
    Batch {
        id: BatchId { epoch: [epoch; 16], sequence },
        payload: payload(epoch, sequence, size),
        counts: Counts { syncs: sequence, metrics: 1, ..Counts::default() },
        span_ns: (now as i64, now as i64),
        oldest_mono_ns: now,
        coverage: vec![Coverage { process: PROCESS, kept: Some(kept(epoch, sequence)) }],
    }
}

fn payload(epoch: u8, sequence: u64, size: usize) -> Bytes {
    let mut bytes = vec![epoch; size];
    bytes.iter_mut().zip(sequence.to_le_bytes()).for_each(|(byte, part)| *byte ^= part);
    bytes.into()
}

fn kept(epoch: u8, sequence: u64) -> Kept {
    Kept { until_ns: sequence as i64, wal_syncs: Some(sequence), cluster_id: epoch.into(), member_id: 2 }
}

const ROOMY: Limits = Limits {
    disk_bytes: 1 << 30,
    ram_bytes: 16 << 20,
    write_bytes_per_second: 0,
    when_full: WhenFull::DropOldest,
};

fn open(directory: &Path, limits: Limits, epoch: u8) -> (Spool<DiskFiles>, Recovery) {
    open_with(directory, limits, Keys::default(), epoch)
}

fn open_with(directory: &Path, limits: Limits, keys: Keys, epoch: u8) -> (Spool<DiskFiles>, Recovery) {
    let files = DiskFiles::open(directory).expect("writable");
    Spool::open(files, limits, keys, [epoch; 16]).expect("readable")
}

fn key(number: u8) -> Option<Key> {
    Some(Key::new(&[number; 32]))
}

fn take_all<F: Files>(spool: &mut Spool<F>) -> Vec<Outgoing> {
    let mut all = Vec::new();
    while let (Some(outgoing), dropped) = spool.take() {
        assert_eq!(dropped, []);
        all.push(outgoing);
    }
    all
}

fn sequences(all: &[Outgoing]) -> Vec<u64> {
    all.iter().map(|outgoing| outgoing.id.sequence).collect()
}

fn syncs(dropped: &[Dropped]) -> Vec<(&'static str, u64)> {
    dropped.iter().map(|dropped| (dropped.reason, dropped.counts.syncs)).collect()
}

fn id(epoch: u8, sequence: u64) -> BatchId {
    BatchId { epoch: [epoch; 16], sequence }
}

/// Names of all files but the checkpoint.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("listable").map(|entry| entry.expect("entry"));
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.retain(|name| name != "checkpoint");
    names.sort();
    names
}

/// Three records of 100 bytes in slot 0, as an earlier process left them; and where the first of them lies.
fn three_records(directory: &Path) -> (Vec<u8>, usize) {
    let (mut spool, _) = open(directory, ROOMY, 1);
    for sequence in 1..=3 {
        spool.push(batch(1, sequence, 100, 0), 0);
    }
    spool.write_all(0);
    let bytes = std::fs::read(directory.join("0000.slot")).expect("a slot");
    (bytes, 8192)
}

const RECORD: usize = 112 + 100;

#[test]
fn nothing_touches_the_disk_while_acknowledgements_come_in_time() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (mut spool, _) = open(directory.path(), ROOMY, 1);
    for sequence in 1..100 {
        assert_eq!(spool.push(batch(1, sequence, 1000, sequence * SECOND), sequence * SECOND), []);
        let taken = spool.take().0.expect("the new one");
        assert!(!taken.maybe_sent_before);
        assert!(spool.acknowledge(taken.id));
        assert_eq!(spool.tick(sequence * SECOND), []);
    }
    assert_eq!(names(directory.path()), Vec::<String>::new());
    assert_eq!(spool.usage(), Usage::default());
}

#[test]
fn a_batch_goes_to_disk_after_five_seconds_and_survives_a_kill() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (mut spool, _) = open(directory.path(), ROOMY, 1);
    spool.push(batch(1, 1, 1000, SECOND), SECOND);
    spool.push(batch(1, 2, 1000, 4 * SECOND), 4 * SECOND);
    spool.tick(6 * SECOND - 1);
    assert_eq!(spool.usage().disk_bytes, 0);
    spool.tick(6 * SECOND);
    assert_eq!((spool.usage().disk_bytes, spool.usage().ram_bytes), (SEGMENT_BYTES, 1000));
    drop(spool);
    let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
    assert_eq!((recovery.batches, recovery.corruptions), (1, vec![]));
    assert_eq!(recovery.checkpoint.processes.get(&PROCESS), Some(&kept(1, 1)));
    let all = take_all(&mut spool);
    let expected = Outgoing { id: id(1, 1), payload: payload(1, 1, 1000), maybe_sent_before: true };
    assert_eq!(all, [expected]);
    assert!(spool.acknowledge(all[0].id));
    assert_eq!((spool.usage().disk_bytes, spool.usage().batches), (0, 0));
}

#[test]
fn while_batches_come_and_go_the_same_files_are_used_and_later_given_back() {
    let files = memory::MemoryFiles::default();
    let limits = Limits { disk_bytes: 400_000, ..ROOMY };
    let (mut spool, _) = Spool::open(files.clone(), limits, Keys::default(), [1; 16]).expect("readable");
    let mut now = 0;
    for sequence in 1..2_000 {
        now += SECOND;
        spool.push(batch(1, sequence, 1_000, now), now);
        spool.tick(now);
        if sequence > 10 {
            let taken = spool.take().0.expect("older ones");
            assert!(spool.acknowledge(taken.id));
        }
    }
    assert_eq!(files.disk().churn, (2, 0), "two megabytes went through two files");
    while let (Some(taken), _) = spool.take() {
        spool.acknowledge(taken.id);
    }
    assert_eq!((spool.usage().disk_bytes, spool.usage().allocated_bytes), (0, 200_000));
    for _second in 0..700 {
        now += SECOND;
        spool.tick(now);
    }
    assert_eq!((spool.usage().allocated_bytes, files.disk().churn), (0, (2, 2)));
}

#[test]
fn when_the_budget_is_used_up_the_oldest_go_but_never_what_the_sender_has() {
    let directory = tempfile::tempdir().expect("temp dir");
    let limits = Limits { disk_bytes: 40_000, ram_bytes: 5_000, ..ROOMY };
    let (mut spool, _) = open(directory.path(), limits, 1);
    let mut dropped = Vec::new();
    let mut held = None;
    for sequence in 1..=20 {
        dropped.extend(spool.push(batch(1, sequence, 4_000, 0), 0));
        held = held.or_else(|| spool.take().0);
        assert!(spool.usage().allocated_bytes <= limits.disk_bytes);
    }
    assert_eq!(held.expect("the first").id.sequence, 1);
    assert!(dropped.iter().all(|dropped| dropped.reason == "spool_full" && dropped.payload.is_some()));
    let lost: Vec<u64> = dropped.iter().map(|dropped| dropped.counts.syncs).collect();
    let mut all = [vec![1], lost, sequences(&take_all(&mut spool))].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=20).collect::<Vec<_>>());
    assert!(spool.acknowledge(id(1, 1)), "the sender's word still counts");
}

#[test]
fn with_drop_newest_the_beginning_is_kept() {
    let directory = tempfile::tempdir().expect("temp dir");
    let limits = Limits { disk_bytes: 40_000, ram_bytes: 5_000, when_full: WhenFull::DropNewest, ..ROOMY };
    let (mut spool, _) = open(directory.path(), limits, 1);
    let dropped: Vec<Dropped> =
        (1..=20).flat_map(|sequence| spool.push(batch(1, sequence, 4_000, 0), 0)).collect();
    let kept = 20 - dropped.len() as u64;
    let expected: Vec<_> = (kept + 1..=20).map(|sequence| ("spool_full", sequence)).collect();
    assert_eq!(syncs(&dropped), expected);
    assert_eq!(sequences(&take_all(&mut spool)), (1..=kept).collect::<Vec<_>>());
    assert!(kept >= 8, "{kept} of 4,000 bytes in 40,000");
}

#[test]
fn what_is_above_the_write_rate_waits_in_memory_and_is_written_at_the_end() {
    let directory = tempfile::tempdir().expect("temp dir");
    let limits = Limits { disk_bytes: 400_000, ram_bytes: 100_000, write_bytes_per_second: 10_000, ..ROOMY };
    let (mut spool, _) = open(directory.path(), limits, 1);
    let mut dropped = Vec::new();
    for sequence in 1..=50 {
        dropped.extend(spool.push(batch(1, sequence, 10_000, 0), 0));
    }
    // A burst of one segment of 100,000 bytes, then memory.
    assert!(dropped.iter().all(|dropped| dropped.reason == "write_rate"), "{:?}", syncs(&dropped));
    assert_eq!((spool.usage().batches, spool.usage().ram_bytes), (20, 100_000));
    spool.tick(6 * SECOND);
    assert!((35_000..=50_000).contains(&spool.usage().ram_bytes), "{:?}", spool.usage());
    assert_eq!(spool.write_all(6 * SECOND), []);
    assert_eq!((spool.usage().batches, spool.usage().ram_bytes), (20, 0));
}

#[test]
fn a_full_disk_keeps_batches_in_memory_and_then_drops_the_oldest() {
    let files = memory::MemoryFiles::default();
    files.disk().full = true;
    let limits = Limits { disk_bytes: 1 << 20, ram_bytes: 3_000, ..ROOMY };
    let (mut spool, _) = Spool::open(files.clone(), limits, Keys::default(), [1; 16]).expect("readable");
    for sequence in 1..=3 {
        assert_eq!(spool.push(batch(1, sequence, 1_000, 0), 0), []);
    }
    assert_eq!(spool.tick(9 * SECOND), []);
    assert_eq!((spool.usage().ram_bytes, spool.usage().write_failures), (3_000, 1));
    assert_eq!(syncs(&spool.push(batch(1, 4, 1_000, 0), 9 * SECOND)), [("disk_full", 1)]);
    files.disk().full = false;
    assert_eq!(spool.tick(20 * SECOND), []);
    assert_eq!((spool.usage().ram_bytes, spool.usage().batches), (0, 3));
}

#[test]
fn the_checkpoint_moves_only_over_an_unbroken_run_of_kept_batches() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (mut spool, _) = open(directory.path(), ROOMY, 1);
    for sequence in 1..=3 {
        spool.push(batch(1, sequence, 10, 0), 0);
    }
    let stands_at = || DiskFiles::open(directory.path()).expect("writable").read_checkpoint();
    spool.acknowledge(id(1, 2));
    assert_eq!(stands_at().processes.get(&PROCESS), None);
    spool.acknowledge(id(1, 1));
    assert_eq!(stands_at().processes.get(&PROCESS), Some(&kept(1, 2)));
    let mut last = batch(1, 4, 10, 0);
    last.coverage = vec![Coverage { process: PROCESS, kept: None }];
    spool.push(last, 0);
    spool.write_all(0);
    assert_eq!(stands_at(), Checkpoint::default(), "a process that has ended is forgotten");
}

#[test]
fn a_torn_checkpoint_leaves_the_one_before() {
    let directory = tempfile::tempdir().expect("temp dir");
    let mut files = DiskFiles::open(directory.path()).expect("writable");
    let at = |sequence| Checkpoint { processes: [(PROCESS, kept(1, sequence))].into() };
    files.write_checkpoint(&at(1));
    files.write_checkpoint(&at(2));
    let path = directory.path().join("checkpoint");
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).expect("write");
    assert_eq!(DiskFiles::open(directory.path()).expect("writable").read_checkpoint(), at(1));
    std::fs::write(&path, b"garbage").expect("write");
    assert_eq!(DiskFiles::open(directory.path()).expect("writable").read_checkpoint(), Checkpoint::default());
}

#[test]
fn a_damaged_header_is_skipped_and_the_other_records_are_read() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (mut bytes, start) = three_records(directory.path());
    bytes[start + RECORD + 20] ^= 0x40;
    std::fs::write(directory.path().join("0000.slot"), bytes).expect("write");
    let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
    let expected = Corruption {
        file: FileName::Slot(0),
        offset: (start + RECORD) as u64,
        bytes: RECORD as u64,
        what: "no record",
    };
    assert_eq!(recovery.corruptions, [expected]);
    assert_eq!(sequences(&take_all(&mut spool)), [1, 3]);
}

#[test]
fn a_damaged_payload_is_counted_by_its_header_and_the_rest_is_sent() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (mut bytes, start) = three_records(directory.path());
    bytes[start + 112 + 50] ^= 1;
    std::fs::write(directory.path().join("0000.slot"), bytes).expect("write");
    let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
    assert_eq!((recovery.batches, recovery.corruptions.len()), (3, 0));
    let (next, dropped) = spool.take();
    assert_eq!(next.expect("the second").id.sequence, 2);
    assert_eq!(syncs(&dropped), [("spool_corrupt", 1)]);
}

#[test]
fn a_segment_cut_off_anywhere_yields_what_is_whole_and_counts_the_rest() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (bytes, start) = three_records(directory.path());
    let path = directory.path().join("0000.slot");
    for length in (0..start).step_by(777).chain(start..start + 3 * RECORD + 32) {
        std::fs::write(&path, &bytes[..length]).expect("write");
        let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
        let (whole, rest) = (length.saturating_sub(start) / RECORD, length.saturating_sub(start) % RECORD);
        assert_eq!(take_all(&mut spool).len(), whole.min(3), "cut at {length}");
        assert_eq!(recovery.dropped.len(), usize::from(whole < 3 && rest >= 112), "cut at {length}");
        assert!(!recovery.corruptions.is_empty(), "cut at {length}");
    }
}

#[test]
fn what_an_earlier_segment_left_in_a_slot_is_never_taken_for_new() {
    let files = memory::MemoryFiles::default();
    let limits = Limits { disk_bytes: 40_000, ..ROOMY };
    let open = |epoch| Spool::open(files.clone(), limits, Keys::default(), [epoch; 16]).expect("readable");
    let (mut spool, _) = open(1);
    for sequence in 1..=8 {
        spool.push(batch(1, sequence, 1_000, 0), 0);
    }
    spool.tick(9 * SECOND);
    for outgoing in take_all(&mut spool) {
        spool.acknowledge(outgoing.id);
    }
    drop(spool);
    // As after a power failure that lost the table but not the records.
    files.disk().files.get_mut(&FileName::Slot(0)).expect("a slot")[64..128].fill(0);
    let (mut spool, recovery) = open(2);
    assert_eq!((recovery.batches, recovery.corruptions), (8, vec![]), "pending again: harmless");
    for outgoing in take_all(&mut spool) {
        spool.acknowledge(outgoing.id);
    }
    files.disk().files.get_mut(&FileName::Slot(0)).expect("a slot")[64..128].fill(0);
    spool.push(batch(2, 1, 300, 9 * SECOND), 9 * SECOND);
    spool.tick(19 * SECOND);
    drop(spool);
    let (mut spool, recovery) = open(3);
    assert_eq!((recovery.batches, recovery.corruptions), (1, vec![]));
    assert_eq!(take_all(&mut spool)[0].id, id(2, 1));
}

/// What the spool of version 1 wrote for a batch of four bytes with this name and these counts.
const VERSION_1_RECORD: &str = "4553504c0100000004000000d17dd8ae\
    01010101010101010101010101010101020000000000000003000000000000000400000005000000\
    060000000700000008000000000000000900000000000000000000000000000000000000e1d1439964617461";

#[test]
fn segments_of_version_1_are_read_sent_and_deleted() {
    let directory = tempfile::tempdir().expect("temp dir");
    let counts = Counts { syncs: 3, sync_rows: 4, writes: 5, metrics: 6, events: 7, autopsies: 0 };
    let title = |sequence| Title { id: id(1, sequence), counts, span_ns: (8, 9) };
    let record = version1::testing::record(&title(2), b"data");
    let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, VERSION_1_RECORD);
    let mut done = version1::testing::record(&title(1), b"done");
    done[6] = 1;
    let damaged = [&version1::testing::record(&title(3), b"lost")[..98], &[0xee; 50]].concat();
    let content = [done, record, damaged, version1::testing::record(&title(4), b"more")].concat();
    std::fs::write(directory.path().join("0000000000000007.segment"), content).expect("write");
    let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
    assert_eq!((recovery.batches, recovery.corruptions.len()), (3, 1));
    let (first, _) = spool.take();
    let expected = Outgoing { id: id(1, 2), payload: b"data"[..].into(), maybe_sent_before: true };
    assert_eq!(first, Some(expected));
    let (second, dropped) = spool.take();
    assert_eq!((second.expect("the last").id, syncs(&dropped)), (id(1, 4), vec![("spool_corrupt", 3)]));
    assert!(spool.acknowledge(id(1, 2)) && spool.acknowledge(id(1, 4)));
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[test]
fn sealed_batches_are_read_with_either_key_and_kept_until_one_is_there() {
    let directory = tempfile::tempdir().expect("temp dir");
    let limits = Limits { disk_bytes: 40_000, ..ROOMY };
    let keys = |current, old| Keys { current, old };
    let secret = b"a text that nobody else should read ".repeat(20);
    let (mut spool, _) = open_with(directory.path(), limits, keys(key(1), None), 1);
    spool.push(Batch { payload: secret.clone().into(), ..batch(1, 1, 0, 0) }, 0);
    spool.push(batch(1, 2, 500, 0), 0);
    spool.write_all(0);
    let bytes = std::fs::read(directory.path().join("0000.slot")).expect("a slot");
    assert!(!bytes.windows(10).any(|window| window == &secret[..10]), "nothing readable on disk");

    let (mut spool, recovery) = open_with(directory.path(), limits, keys(key(2), None), 2);
    assert_eq!((recovery.batches, recovery.sealed_batches, recovery.corruptions), (0, 2, vec![]));
    assert_eq!(spool.take(), (None, vec![]));
    spool.push(batch(2, 1, 500, 0), 0);
    spool.write_all(0);
    assert_eq!((spool.usage().batches, spool.usage().sealed_batches), (1, 2));

    let (mut spool, recovery) = open_with(directory.path(), limits, keys(key(2), key(1)), 3);
    assert_eq!((recovery.batches, recovery.sealed_batches), (3, 0));
    let all = take_all(&mut spool);
    assert_eq!(all.iter().map(|outgoing| outgoing.id).collect::<Vec<_>>(), [id(1, 1), id(1, 2), id(2, 1)]);
    assert_eq!(all[0].payload, secret);
    drop(spool);

    let (mut spool, _) = open(directory.path(), limits, 4);
    let dropped: Vec<Dropped> = (1..=8)
        .flat_map(|sequence| {
            spool.push(batch(4, sequence, 7_000, 0), 0);
            spool.write_all(0)
        })
        .collect();
    let sealed: Vec<_> =
        syncs(&dropped).into_iter().filter(|(reason, _)| *reason == "spool_sealed").collect();
    assert_eq!(sealed, [("spool_sealed", 1), ("spool_sealed", 2), ("spool_sealed", 1)], "oldest first");
}

#[test]
fn a_sealed_batch_under_another_header_is_counted_and_not_sent() {
    let directory = tempfile::tempdir().expect("temp dir");
    let keys = Keys { current: key(1), old: None };
    let (mut spool, _) = open_with(directory.path(), ROOMY, keys.clone(), 1);
    spool.push(batch(1, 1, 100, 0), 0);
    spool.write_all(0);
    let path = directory.path().join("0000.slot");
    let mut bytes = std::fs::read(&path).expect("a slot");
    // Somebody who has no key, but knows how to compute a checksum.
    let mut header = record::Header::decode(&bytes[8192..]).expect("a record");
    header.title.counts.events = 7;
    bytes[8192..8192 + 112].copy_from_slice(&header.encode());
    std::fs::write(&path, bytes).expect("write");
    let (mut spool, recovery) = open_with(directory.path(), ROOMY, keys, 2);
    assert_eq!(recovery.batches, 1);
    let (none, dropped) = spool.take();
    assert_eq!((none, syncs(&dropped)), (None, vec![("spool_corrupt", 1)]));
}

#[test]
fn files_of_others_are_left_alone() {
    let directory = tempfile::tempdir().expect("temp dir");
    for name in ["1.slot", "00001.slot", "+000.slot", "notes.txt", "0000.SLOT", "1.segment"] {
        std::fs::write(directory.path().join(name), "not ours").expect("write");
    }
    std::fs::create_dir(directory.path().join("0000.slot")).expect("a directory");
    let before = names(directory.path());
    let (mut spool, recovery) = open(directory.path(), ROOMY, 1);
    assert_eq!(recovery.corruptions, []);
    spool.push(batch(1, 1, 100, 0), 0);
    spool.tick(9 * SECOND);
    spool.tick(19 * SECOND);
    assert_eq!(spool.usage().ram_bytes, 0, "the next number is used");
    assert_eq!([before, vec!["0001.slot".to_owned()]].concat().len(), names(directory.path()).len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_in_a_file_make_it_panic_or_send_what_nobody_pushed(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        pieces in prop::collection::vec((0usize..3_000, 0usize..400, 0usize..3_000), 0..12),
        flips in prop::collection::vec((0usize..3_000, any::<u8>()), 0..12),
        slot in 0u32..3,
        version_1 in any::<bool>(),
    ) {
        let files = memory::MemoryFiles::default();
        let limits = Limits { disk_bytes: 12_000, ..ROOMY };
        let start = |epoch| Spool::open(files.clone(), limits, Keys::default(), [epoch; 16]).expect("readable");
        let (mut spool, _) = start(1);
        for sequence in 1..=6 {
            spool.push(batch(1, sequence, 300, 0), 0);
        }
        spool.write_all(0);
        let real = files.disk().files[&FileName::Slot(0)].clone();
        // Noise, with pieces of real segments anywhere in it.
        let mut bytes = [noise, vec![0; 3_400]].concat();
        for (from, length, to) in pieces {
            let until = (from + length).min(real.len());
            let piece = &real[from.min(until)..until];
            bytes[to..to + piece.len()].copy_from_slice(piece);
        }
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        let name = if version_1 { FileName::Version1(5) } else { FileName::Slot(slot) };
        files.disk().files.insert(name, bytes);
        let (mut spool, _) = start(2);
        while let (Some(outgoing), _) = spool.take() {
            prop_assert_eq!(&outgoing.payload, &payload(1, outgoing.id.sequence, 300));
            spool.acknowledge(outgoing.id);
        }
        prop_assert_eq!((spool.usage().batches, spool.usage().disk_bytes), (0, 0));
    }

    #[test]
    fn headers_and_marks_survive_the_round_trip_and_no_flipped_bit_does(
        epoch in any::<[u8; 16]>(), sequence in any::<u64>(), syncs in any::<u64>(),
        numbers in any::<(u32, u32, u32, u32, u32, u32, u32)>(), span_ns in any::<(i64, i64)>(),
        place in any::<(u64, u64, u32, u32, bool)>(), flip in 0usize..112 * 8,
    ) {
        let (stored_length, stored_crc, sync_rows, writes, metrics, events, autopsies) = numbers;
        let (generation, offset, index, attempt, sealed) = place;
        let counts = Counts { syncs, sync_rows, writes, metrics, events, autopsies };
        let title = Title { id: BatchId { epoch, sequence }, counts, span_ns };
        let header =
            record::Header { title, stored_length, stored_crc, sealed, generation, offset, index, attempt };
        let mut bytes = header.encode();
        prop_assert_eq!(record::Header::decode(&bytes), Some(header));
        bytes[flip / 8] ^= 1 << (flip % 8);
        prop_assert_eq!(record::Header::decode(&bytes), None);
        let mut tail = record::encode_tail(generation, offset);
        prop_assert_eq!(record::decode_tail(&tail), Some((generation, offset)));
        tail[flip / 8 % 32] ^= 1 << (flip % 8);
        prop_assert_eq!(record::decode_tail(&tail), None);
    }
}
