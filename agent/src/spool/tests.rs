//! The spool against a model, with crashes, full disks and damaged segments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::record::HEADER_BYTES;
use super::*;
use crate::discover::ProcessId;

const PROCESS: ProcessId = ProcessId { boot_id: [3; 16], pid: 7, start_ticks: 11 };
const SECOND: u64 = 1_000_000_000;
const ROOMY: Limits = Limits { disk_bytes: 1 << 30, ram_bytes: 16 << 20 };

/// Real files that can be made to refuse writes.
#[derive(Debug)]
struct Disk {
    files: DiskFiles,
    full: Arc<AtomicBool>,
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<u64>> {
        self.files.list()
    }
    fn read_all(&self, segment: u64) -> io::Result<Vec<u8>> {
        self.files.read_all(segment)
    }
    fn read(&self, segment: u64, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        self.files.read(segment, offset, size)
    }
    fn append(
        &mut self,
        segment: u64,
        at: u64,
        header: &[u8; HEADER_BYTES],
        payload: &[u8],
    ) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.append(segment, at, header, payload)
    }
    fn mark_done(&mut self, segment: u64, offset: u64) {
        self.files.mark_done(segment, offset);
    }
    fn delete(&mut self, segment: u64) {
        self.files.delete(segment);
    }
    fn read_checkpoint(&mut self) -> Checkpoint {
        self.files.read_checkpoint()
    }
    fn write_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.files.write_checkpoint(checkpoint);
    }
}

fn open(directory: &Path, limits: Limits, epoch: u8) -> (Spool<DiskFiles>, Recovery) {
    let files = DiskFiles::open(directory).expect("writable");
    Spool::open(files, limits, [epoch; 16]).expect("readable")
}

fn batch(epoch: u8, sequence: u64, size: usize, now: u64) -> Batch {
    Batch {
        id: BatchId { epoch: [epoch; 16], sequence },
        payload: payload(epoch, sequence, size),
        counts: Counts { syncs: sequence, metrics: 1, ..Counts::default() },
        span_ns: (now as i64, now as i64),
        oldest_mono_ns: now,
        coverage: vec![Coverage { process: PROCESS, kept: Some(kept(sequence)) }],
    }
}

fn payload(epoch: u8, sequence: u64, size: usize) -> Bytes {
    let mut bytes = vec![epoch; size];
    bytes.iter_mut().zip(sequence.to_le_bytes()).for_each(|(byte, part)| *byte ^= part);
    bytes.into()
}

fn kept(sequence: u64) -> Kept {
    Kept { until_ns: sequence as i64, wal_syncs: Some(sequence), cluster_id: 1, member_id: 2 }
}

fn take_all<F: Files>(spool: &mut Spool<F>) -> Vec<Outgoing> {
    let mut all = Vec::new();
    while let (Some(outgoing), dropped) = spool.take() {
        assert_eq!(dropped, []);
        all.push(outgoing);
    }
    all
}

fn segments(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("listable").map(|entry| entry.expect("entry").path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "segment")).collect();
    found.sort();
    found
}

#[test]
fn nothing_touches_the_disk_while_acknowledgements_come_in_time() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (mut spool, _) = open(directory.path(), ROOMY, 1);
    for sequence in 1..100 {
        assert_eq!(spool.push(batch(1, sequence, 1000, sequence * SECOND), sequence * SECOND), []);
        let (taken, _) = spool.take();
        let taken = taken.expect("the new one");
        assert!(!taken.maybe_sent_before);
        assert!(spool.acknowledge(taken.id));
        assert_eq!(spool.tick(sequence * SECOND), []);
    }
    assert_eq!(segments(directory.path()), Vec::<std::path::PathBuf>::new());
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
    assert_eq!((spool.usage().disk_bytes, spool.usage().ram_bytes), (1000 + HEADER_BYTES as u64, 1000));
    drop(spool);
    let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
    assert_eq!((recovery.batches, recovery.checkpoint.processes.get(&PROCESS)), (1, Some(&kept(1))));
    let all = take_all(&mut spool);
    let expected = Outgoing {
        id: BatchId { epoch: [1; 16], sequence: 1 },
        payload: payload(1, 1, 1000),
        maybe_sent_before: true,
    };
    assert_eq!(all, [expected]);
    assert!(spool.acknowledge(all[0].id));
    assert_eq!(segments(directory.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_acknowledged_record_is_not_sent_again_after_a_kill() {
    let directory = tempfile::tempdir().expect("temp dir");
    let (mut spool, _) = open(directory.path(), ROOMY, 1);
    for sequence in 1..=3 {
        spool.push(batch(1, sequence, 100, 0), 0);
    }
    spool.write_all(0);
    spool.acknowledge(BatchId { epoch: [1; 16], sequence: 2 });
    drop(spool);
    let (mut spool, _) = open(directory.path(), ROOMY, 2);
    let sequences: Vec<u64> = take_all(&mut spool).iter().map(|outgoing| outgoing.id.sequence).collect();
    assert_eq!(sequences, [1, 3]);
}

#[test]
fn over_budget_the_oldest_segment_goes_and_is_counted_but_not_what_the_sender_holds() {
    let directory = tempfile::tempdir().expect("temp dir");
    let limits = Limits { disk_bytes: 40_000, ram_bytes: 1 };
    let (mut spool, _) = open(directory.path(), limits, 1);
    let mut dropped = Vec::new();
    let mut held = None;
    for sequence in 1..=20 {
        dropped.extend(spool.push(batch(1, sequence, 4_000, 0), 0));
        held = held.or_else(|| spool.take().0);
        assert!(spool.usage().disk_bytes <= limits.disk_bytes);
    }
    assert_eq!(held.expect("the first").id.sequence, 1);
    assert!(dropped.iter().all(|dropped| dropped.reason == "spool_full"));
    let lost: Vec<u64> = dropped.iter().map(|dropped| dropped.counts.syncs).collect();
    let left: Vec<u64> = take_all(&mut spool).iter().map(|outgoing| outgoing.id.sequence).collect();
    let all: Vec<u64> = [1].into_iter().chain(lost).chain(left).collect();
    assert_eq!(all, (1..=20).collect::<Vec<_>>());
    assert!(dropped[0].payload.is_some(), "its own ledger has to be carried on");
    assert!(spool.acknowledge(BatchId { epoch: [1; 16], sequence: 1 }), "the sender's word still counts");
}

#[test]
fn a_full_disk_keeps_batches_in_memory_and_then_drops_the_oldest() {
    let directory = tempfile::tempdir().expect("temp dir");
    let full = Arc::new(AtomicBool::new(true));
    let files = Disk { files: DiskFiles::open(directory.path()).expect("writable"), full: Arc::clone(&full) };
    let limits = Limits { disk_bytes: 1 << 20, ram_bytes: 3_000 };
    let (mut spool, _) = Spool::open(files, limits, [1; 16]).expect("readable");
    for sequence in 1..=3 {
        assert_eq!(spool.push(batch(1, sequence, 1_000, 0), 0), []);
    }
    assert_eq!(spool.tick(9 * SECOND), []);
    assert_eq!((spool.usage().ram_bytes, spool.usage().write_failures), (3_000, 1));
    let dropped = spool.push(batch(1, 4, 1_000, 0), 9 * SECOND);
    assert_eq!(dropped.iter().map(|d| (d.reason, d.counts.syncs)).collect::<Vec<_>>(), [("disk_full", 1)]);
    full.store(false, Ordering::Relaxed);
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
    spool.acknowledge(BatchId { epoch: [1; 16], sequence: 2 });
    assert_eq!(stands_at().processes.get(&PROCESS), None);
    spool.acknowledge(BatchId { epoch: [1; 16], sequence: 1 });
    assert_eq!(stands_at().processes.get(&PROCESS), Some(&kept(2)));
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
    let at = |sequence| Checkpoint { processes: BTreeMap::from([(PROCESS, kept(sequence))]) };
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

/// Three records of 100 bytes in one segment, as an earlier process left them.
fn three_records(directory: &Path) -> Vec<u8> {
    let (mut spool, _) = open(directory, ROOMY, 1);
    for sequence in 1..=3 {
        spool.push(batch(1, sequence, 100, 0), 0);
    }
    spool.write_all(0);
    std::fs::read(&segments(directory)[0]).expect("one segment")
}

#[test]
fn a_damaged_header_is_skipped_and_the_other_records_are_read() {
    let directory = tempfile::tempdir().expect("temp dir");
    let mut bytes = three_records(directory.path());
    bytes[196 + 20] ^= 0x40;
    std::fs::write(&segments(directory.path())[0], bytes).expect("write");
    let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
    assert_eq!(recovery.corruptions, [Corruption { segment: 0, offset: 196, bytes: 196 }]);
    let sequences: Vec<u64> = take_all(&mut spool).iter().map(|outgoing| outgoing.id.sequence).collect();
    assert_eq!(sequences, [1, 3]);
}

#[test]
fn a_damaged_payload_is_counted_by_its_header_and_the_rest_is_sent() {
    let directory = tempfile::tempdir().expect("temp dir");
    let mut bytes = three_records(directory.path());
    bytes[96 + 50] ^= 1;
    std::fs::write(&segments(directory.path())[0], bytes).expect("write");
    let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
    assert_eq!((recovery.batches, recovery.corruptions.len()), (3, 0));
    let (next, dropped) = spool.take();
    assert_eq!(next.expect("the second").id.sequence, 2);
    assert_eq!(
        dropped.iter().map(|d| (d.reason, d.counts.syncs)).collect::<Vec<_>>(),
        [("spool_corrupt", 1)]
    );
}

#[test]
fn a_segment_cut_off_anywhere_yields_what_is_whole_and_counts_the_rest() {
    let directory = tempfile::tempdir().expect("temp dir");
    let bytes = three_records(directory.path());
    let path = segments(directory.path())[0].clone();
    for length in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..length]).expect("write");
        let (mut spool, recovery) = open(directory.path(), ROOMY, 2);
        let whole = length / 196;
        assert_eq!(take_all(&mut spool).len(), whole, "cut at {length}");
        let rest = length % 196;
        assert_eq!(recovery.dropped.len(), usize::from(rest >= HEADER_BYTES), "cut at {length}");
        assert_eq!(
            recovery.corruptions.len(),
            usize::from(rest > 0 && rest < HEADER_BYTES),
            "cut at {length}"
        );
    }
}

#[derive(Debug, Clone)]
enum Action {
    Push(usize),
    Take,
    AcknowledgeOldest,
    AcknowledgeNewest,
    Refuse,
    Tick,
    FillDisk(bool),
    Kill,
    Stop,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1usize..6_000).prop_map(Action::Push),
        6 => Just(Action::Take),
        3 => Just(Action::AcknowledgeOldest),
        2 => Just(Action::AcknowledgeNewest),
        1 => Just(Action::Refuse),
        4 => Just(Action::Tick),
        1 => any::<bool>().prop_map(Action::FillDisk),
        1 => Just(Action::Kill),
        1 => Just(Action::Stop),
    ]
}

/// What has to be true, whatever happens.
struct Model {
    directory: tempfile::TempDir,
    spool: Option<Spool<Disk>>,
    full: Arc<AtomicBool>,
    limits: Limits,
    epoch: u8,
    sequence: u64,
    now: u64,
    sizes: BTreeMap<BatchId, usize>,
    in_flight: Vec<BatchId>,
    gone: BTreeSet<BatchId>,
    dropped_syncs: u64,
    expected_dropped_syncs: u64,
}

impl Model {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let limits = Limits { disk_bytes: 60_000, ram_bytes: 20_000 };
        let mut model = Self {
            directory,
            spool: None,
            full: Arc::new(AtomicBool::new(false)),
            limits,
            epoch: 0,
            sequence: 0,
            now: 0,
            sizes: BTreeMap::new(),
            in_flight: Vec::new(),
            gone: BTreeSet::new(),
            dropped_syncs: 0,
            expected_dropped_syncs: 0,
        };
        model.start();
        model
    }

    fn start(&mut self) {
        self.epoch += 1;
        self.sequence = 0;
        let files = DiskFiles::open(self.directory.path()).expect("writable");
        let files = Disk { files, full: Arc::clone(&self.full) };
        let (spool, recovery) = Spool::open(files, self.limits, [self.epoch; 16]).expect("readable");
        assert_eq!((recovery.dropped.len(), recovery.corruptions.len()), (0, 0));
        self.spool = Some(spool);
        self.in_flight.clear();
    }

    fn spool(&mut self) -> &mut Spool<Disk> {
        self.spool.as_mut().expect("running")
    }

    fn note(&mut self, dropped: &[Dropped]) {
        self.dropped_syncs += dropped.iter().map(|dropped| dropped.counts.syncs).sum::<u64>();
    }

    /// Batches that were on disk, or would be lost, when the process ended just now.
    fn end(&mut self, graceful: bool) {
        let now = self.now;
        if graceful {
            let dropped = self.spool().write_all(now);
            self.note(&dropped);
        }
        let spool = self.spool.take().expect("running");
        let on_disk: BTreeSet<BatchId> = spool
            .entries
            .iter()
            .filter(|entry| matches!(entry.place, Place::Disk { .. }))
            .map(|entry| entry.id)
            .collect();
        let held: Vec<BatchId> = spool.entries.iter().map(|entry| entry.id).collect();
        if graceful && !self.full.load(Ordering::Relaxed) {
            assert!(
                spool.entries.iter().all(|entry| !matches!(entry.place, Place::Ram(_))),
                "all is on disk"
            );
        }
        drop(spool);
        // What only was in memory is lost with the process: the blind interval tells of it, not the spool.
        for id in held.into_iter().filter(|id| !on_disk.contains(id)) {
            self.gone.insert(id);
        }
        self.start();
        let recovered: BTreeSet<BatchId> = self.spool().entries.iter().map(|entry| entry.id).collect();
        assert_eq!(recovered, on_disk, "exactly what was on disk comes back");
    }

    fn apply(&mut self, action: &Action) {
        self.now += SECOND;
        let now = self.now;
        match action {
            Action::Push(size) => {
                self.sequence += 1;
                let (epoch, sequence) = (self.epoch, self.sequence);
                self.sizes.insert(BatchId { epoch: [epoch; 16], sequence }, *size);
                let dropped = self.spool().push(batch(epoch, sequence, *size, now), now);
                self.note(&dropped);
            }
            Action::Take => {
                let (taken, dropped) = self.spool().take();
                assert_eq!(dropped, []);
                let Some(outgoing) = taken else { return };
                assert!(!self.gone.contains(&outgoing.id), "{:?} was settled", outgoing.id);
                assert!(!self.in_flight.contains(&outgoing.id), "{:?} is in flight", outgoing.id);
                let size = self.sizes[&outgoing.id];
                assert_eq!(outgoing.payload, payload(outgoing.id.epoch[0], outgoing.id.sequence, size));
                assert_eq!(outgoing.maybe_sent_before, outgoing.id.epoch != [self.epoch; 16]);
                self.in_flight.push(outgoing.id);
            }
            Action::AcknowledgeOldest if !self.in_flight.is_empty() => {
                let id = self.in_flight.remove(0);
                assert!(self.spool().acknowledge(id), "what is in flight is never dropped");
                self.gone.insert(id);
            }
            Action::AcknowledgeNewest => {
                let Some(id) = self.in_flight.pop() else { return };
                assert!(self.spool().acknowledge(id), "what is in flight is never dropped");
                self.gone.insert(id);
            }
            Action::Refuse => {
                let Some(id) = self.in_flight.pop() else { return };
                let dropped = self.spool().refuse(id).expect("in flight");
                assert_eq!(dropped.reason, "refused");
                self.note(&[dropped]);
            }
            Action::Tick => {
                let dropped = self.spool().tick(now);
                self.note(&dropped);
            }
            Action::FillDisk(full) => self.full.store(*full, Ordering::Relaxed),
            Action::Kill => self.end(false),
            Action::Stop => self.end(true),
            Action::AcknowledgeOldest => {}
        }
        self.check();
    }

    fn check(&mut self) {
        let usage = self.spool().usage();
        assert!(usage.disk_bytes <= self.limits.disk_bytes);
        let on_disk: u64 =
            segments(self.directory.path()).iter().map(|path| path.metadata().expect("there").len()).sum();
        assert_eq!(usage.disk_bytes, on_disk, "the budget is about what is really there");
        let held: BTreeSet<BatchId> = self.spool().entries.iter().map(|entry| entry.id).collect();
        assert!(held.is_disjoint(&self.gone), "nothing settled comes back");
        // Whatever is neither held nor settled was dropped, and counted.
        let missing = self.sizes.keys().filter(|id| !held.contains(id) && !self.gone.contains(id));
        self.expected_dropped_syncs = missing.map(|id| id.sequence).sum();
        assert_eq!(self.dropped_syncs, self.expected_dropped_syncs, "every drop is counted");
        let in_flight: u64 = self.in_flight.iter().map(|id| self.sizes[id] as u64).sum();
        assert!(usage.ram_bytes <= self.limits.ram_bytes.max(in_flight), "{usage:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_spool_does_as_its_model(actions in prop::collection::vec(action(), 1..120)) {
        let mut model = Model::new();
        for action in &actions {
            model.apply(action);
        }
    }

    #[test]
    fn no_bytes_in_a_segment_make_it_panic(damage in prop::collection::vec((0usize..588, any::<u8>()), 1..20)) {
        let directory = tempfile::tempdir().expect("temp dir");
        let mut bytes = three_records(directory.path());
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        std::fs::write(&segments(directory.path())[0], bytes).expect("write");
        let (mut spool, _) = open(directory.path(), ROOMY, 2);
        while let (Some(outgoing), _) = spool.take() {
            spool.acknowledge(outgoing.id);
        }
        prop_assert_eq!(spool.usage(), Usage::default());
    }

    #[test]
    fn a_header_survives_the_round_trip(epoch in any::<[u8; 16]>(), sequence in any::<u64>(), syncs in any::<u64>(),
                                        numbers in any::<(u32, u32, u32, u32, u32, u32)>(), span_ns in any::<(i64, i64)>()) {
        let (payload_length, payload_crc, sync_rows, writes, metrics, events) = numbers;
        let counts = Counts { syncs, sync_rows, writes, metrics, events };
        let header = Header { epoch, sequence, payload_length, payload_crc, counts, span_ns };
        let mut bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes), Some((header, false)));
        bytes[6] = 1;
        prop_assert_eq!(Header::decode(&bytes), Some((header, true)));
        bytes[40] ^= 1;
        prop_assert_eq!(Header::decode(&bytes), None);
    }
}
