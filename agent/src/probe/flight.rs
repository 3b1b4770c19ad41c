//! The flight recorder: the last minutes of every sync, in memory, until something happens. S16.
//!
//! Every record of the ring comes here, whether it has a row of its own or not. A [trigger](Trigger) begins a dump: the
//! records from [`BEFORE`] before it to [`AFTER`] after it that have no row yet become rows with the reason `flight`, so no sync
//! has two rows, however triggers overlap. Dumps are handed out in slices, limited in rows, and those that begin by
//! themselves are limited in number; what was not dumped for that reason is counted.
//!
//! Memory is bounded over all processes together; the oldest records go first. Pure: time is an argument, of the monotonic
//! clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use etcdmon_proto::v1::{FileClass, SyncReason};

use crate::discover::ProcessId;
use crate::ebpf::SyncRecord;
use crate::fact::SyncRow;

/// How far a dump goes back.
pub const BEFORE: Duration = Duration::from_secs(60);

/// How long it goes on.
pub const AFTER: Duration = Duration::from_secs(10);

/// Records come with the next drain of the ring; after this time all of a dump's have come.
const SETTLE: Duration = Duration::from_secs(1);

/// Two dumps of one process that began by themselves are at least this far apart.
const PAUSE: Duration = Duration::from_secs(300);

/// Two dumps that somebody asked for are at least this far apart.
const PAUSE_ASKED: Duration = Duration::from_secs(10);

/// Most rows of a dump, and how many of them may be from before its trigger.
const MOST_ROWS: (u64, u64) = (60_000, 50_000);

/// Distinct files known per process before those that no record names are forgotten.
const FILES: usize = 1_024;

/// The bit of [`Record::file`] that says that the record has a row.
const HAS_ROW: u16 = 1 << 15;

/// Why a dump begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A sync took longer than the settings allow.
    SlowSync,
    /// The member follows another leader.
    LeaderChange,
    /// The process is gone.
    MemberGone,
    /// Somebody asked for it.
    Asked,
}

impl Trigger {
    /// Its name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SlowSync => "slow_sync",
            Self::LeaderChange => "leader_change",
            Self::MemberGone => "member_gone",
            Self::Asked => "asked",
        }
    }

    const fn pause(self) -> Duration {
        match self {
            Self::Asked => PAUSE_ASKED,
            Self::SlowSync | Self::LeaderChange => PAUSE,
            // It comes once, and there is no later.
            Self::MemberGone => Duration::ZERO,
        }
    }
}

/// A sync in 32 bytes. Times and bytes that do not fit are cut: a thread that waited longer than 4 s for a CPU, or wrote more
/// than 4 GiB between two syncs, shows that much.
#[derive(Debug, Clone, Copy)]
struct Record {
    start_ns: u64,
    latency_ns: u64,
    run_delay_ns: u32,
    written_bytes: u32,
    thread_id: u32,
    /// Position in the table of files, and [`HAS_ROW`].
    file: u16,
    /// 0 or a negative errno, none of which is below -4095.
    result: i16,
}

const _: () = assert!(size_of::<Record>() == 32);

impl Record {
    const fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.latency_ns)
    }
}

/// inode, device, class.
type File = (u64, u32, FileClass);

#[derive(Debug)]
struct Dump {
    trigger: Trigger,
    at_ns: u64,
    from_ns: u64,
    until_ns: u64,
    /// Number of the next record to look at.
    next: u64,
    rows: u64,
}

/// A dump that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Whose.
    pub process: ProcessId,
    /// Why it began.
    pub trigger: Trigger,
    /// When it was triggered.
    pub at_ns: u64,
    /// Begin of the syncs in it, by their end.
    pub from_ns: u64,
    /// End of the syncs in it.
    pub until_ns: u64,
    /// Rows that it added.
    pub rows: u64,
}

#[derive(Debug, Default)]
struct Flight {
    records: VecDeque<Record>,
    /// Number of the first record that is there.
    first: u64,
    files: Vec<File>,
    forget_at: usize,
    dump: Option<Dump>,
    last_begun_ns: Option<u64>,
    is_gone: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Recorder {
    flights: BTreeMap<ProcessId, Flight>,
    budget_bytes: usize,
    suppressed: u64,
}

impl Recorder {
    /// With so much memory for all processes together.
    pub const fn new(budget_bytes: usize) -> Self {
        Self { flights: BTreeMap::new(), budget_bytes, suppressed: 0 }
    }

    /// Adds a sync of a process. `has_row` says that it has a row of its own.
    pub fn push(&mut self, process: ProcessId, sync: &SyncRecord, has_row: bool) {
        let known = self.flights.len();
        self.flights.entry(process).or_default();
        if self.flights.len() > known {
            let limit = self.limit();
            self.flights.values_mut().for_each(|flight| flight.shrink(limit));
        }
        let limit = self.limit();
        if let Some(flight) = self.flights.get_mut(&process) {
            flight.push(sync, has_row, limit);
        }
    }

    /// Begins a dump of one process, or of all, at `now_ns`. Returns how many began; one that is under way goes on for
    /// longer.
    pub fn trigger(&mut self, process: Option<ProcessId>, trigger: Trigger, now_ns: u64) -> usize {
        let wanted = self.flights.iter_mut().filter(|(id, _)| process.is_none_or(|process| process == **id));
        let mut begun = 0;
        for (_, flight) in wanted {
            match flight.trigger(trigger, now_ns) {
                Begun::Yes => begun += 1,
                Begun::Extended => {}
                Begun::No => self.suppressed += 1,
            }
        }
        begun
    }

    /// A process is gone: its last minute is dumped, then it is forgotten.
    pub fn gone(&mut self, process: ProcessId, now_ns: u64) {
        self.trigger(Some(process), Trigger::MemberGone, now_ns);
        if let Some(flight) = self.flights.get_mut(&process) {
            flight.is_gone = true;
            // Nothing comes after it.
            if let Some(dump) = &mut flight.dump {
                dump.until_ns = dump.until_ns.min(now_ns);
            }
        }
    }

    /// The next rows of dumps that are under way, at most `most`, and the dumps that are over.
    pub fn take(&mut self, now_ns: u64, most: usize) -> (Vec<SyncRow>, Vec<Finished>) {
        let (mut rows, mut finished) = (Vec::new(), Vec::new());
        for (process, flight) in &mut self.flights {
            finished.extend(flight.take(*process, now_ns, most, &mut rows));
        }
        if self.flights.values().any(|flight| flight.is_gone && flight.dump.is_none()) {
            self.flights.retain(|_, flight| !flight.is_gone || flight.dump.is_some());
        }
        (rows, finished)
    }

    /// Whether a dump is under way, or something is to be forgotten.
    pub fn is_busy(&self) -> bool {
        self.flights.values().any(|flight| flight.dump.is_some() || flight.is_gone)
    }

    /// Triggers that began no dump since the last call.
    pub const fn take_suppressed(&mut self) -> u64 {
        std::mem::replace(&mut self.suppressed, 0)
    }

    /// Records in memory, and the bytes that they take.
    pub fn usage(&self) -> (usize, usize) {
        self.flights.values().fold((0, 0), |(count, bytes), flight| {
            let files = flight.files.capacity() * size_of::<File>();
            let records = flight.records.capacity() * size_of::<Record>();
            (count + flight.records.len(), bytes + records + files)
        })
    }

    fn limit(&self) -> usize {
        self.budget_bytes / size_of::<Record>() / self.flights.len().max(1)
    }
}

enum Begun {
    Yes,
    Extended,
    No,
}

impl Flight {
    fn push(&mut self, sync: &SyncRecord, has_row: bool, limit: usize) {
        let file = self.file((sync.inode, sync.device, sync.class));
        while self.records.len() >= limit.max(1) {
            self.records.pop_front();
            self.first += 1;
        }
        if self.records.len() == self.records.capacity() {
            // By a quarter at a time: doubling would take twice the budget for a moment.
            let more = (self.records.len() / 4).max(1_024).min(limit.saturating_sub(self.records.len()));
            self.records.reserve_exact(more.max(1));
        }
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.records.push_back(Record {
            start_ns: sync.start_mono_ns,
            latency_ns: nanoseconds(sync.latency),
            run_delay_ns: u32::try_from(sync.run_delay.as_nanos()).unwrap_or(u32::MAX),
            written_bytes: u32::try_from(sync.written_bytes).unwrap_or(u32::MAX),
            thread_id: sync.thread_id,
            file: if has_row { file | HAS_ROW } else { file },
            result: i16::try_from(sync.result).unwrap_or(i16::MIN),
        });
    }

    fn shrink(&mut self, limit: usize) {
        let surplus = self.records.len().saturating_sub(limit);
        self.records.drain(..surplus);
        self.first += surplus as u64;
        self.records.shrink_to(limit);
    }

    fn file(&mut self, file: File) -> u16 {
        // The file that was synced last is the one that is synced now.
        if let Some(known) = self.files.iter().rposition(|known| *known == file) {
            return known as u16;
        }
        if self.files.len() >= self.forget_at.max(FILES) {
            self.forget_files();
            // All of them may be in use: then the next attempt comes later.
            self.forget_at = 2 * self.files.len();
        }
        if self.files.len() >= usize::from(HAS_ROW) {
            return HAS_ROW - 1;
        }
        self.files.push(file);
        (self.files.len() - 1) as u16
    }

    /// Keeps the files that a record names.
    fn forget_files(&mut self) {
        let mut places: Vec<Option<u16>> = vec![None; self.files.len()];
        let mut files = Vec::new();
        for record in &mut self.records {
            let position = usize::from(record.file & !HAS_ROW);
            let Some(place) = places.get_mut(position) else { continue };
            let place = *place.get_or_insert_with(|| {
                files.push(self.files[position]);
                (files.len() - 1) as u16
            });
            record.file = (record.file & HAS_ROW) | place;
        }
        self.files = files;
    }

    fn trigger(&mut self, trigger: Trigger, now_ns: u64) -> Begun {
        let until_ns = now_ns.saturating_add(ns(AFTER));
        if let Some(dump) = &mut self.dump {
            // A disk that stays slow must not keep one dump open for ever.
            let latest = dump.at_ns.saturating_add(ns(BEFORE));
            dump.until_ns = until_ns.min(latest).max(dump.until_ns);
            return Begun::Extended;
        }
        let since = |begun_ns: u64| now_ns.saturating_sub(begun_ns);
        if self.last_begun_ns.is_some_and(|begun_ns| since(begun_ns) < ns(trigger.pause())) {
            return Begun::No;
        }
        self.last_begun_ns = Some(now_ns);
        let from_ns = now_ns.saturating_sub(ns(BEFORE));
        let skipped = self.records.partition_point(|record| record.end_ns() < from_ns);
        let most = usize::try_from(MOST_ROWS.1).unwrap_or(usize::MAX);
        let skipped = skipped.max(self.records.len().saturating_sub(most));
        let from_ns = self.records.get(skipped).map_or(from_ns, |record| record.end_ns().max(from_ns));
        let next = self.first + skipped as u64;
        self.dump = Some(Dump { trigger, at_ns: now_ns, from_ns, until_ns, next, rows: 0 });
        Begun::Yes
    }

    fn take(
        &mut self,
        process: ProcessId,
        now_ns: u64,
        most: usize,
        rows: &mut Vec<SyncRow>,
    ) -> Option<Finished> {
        let dump = self.dump.as_mut()?;
        dump.next = dump.next.max(self.first);
        let mut position = usize::try_from(dump.next - self.first).unwrap_or(usize::MAX);
        while rows.len() < most && dump.rows < MOST_ROWS.0 {
            let Some(record) = self.records.get_mut(position) else { break };
            position += 1;
            let is_inside = record.end_ns() >= dump.from_ns && record.end_ns() <= dump.until_ns;
            if !is_inside || record.file & HAS_ROW != 0 {
                continue;
            }
            let file = self.files.get(usize::from(record.file)).copied();
            record.file |= HAS_ROW;
            dump.rows += 1;
            rows.push(row(process, record, file.unwrap_or((0, 0, FileClass::Other))));
        }
        dump.next = self.first + position as u64;
        let is_settled = now_ns >= dump.until_ns.saturating_add(ns(SETTLE));
        let is_read = position >= self.records.len() || dump.rows >= MOST_ROWS.0;
        if !(is_settled && is_read) {
            return None;
        }
        let Dump { trigger, at_ns, from_ns, until_ns, rows, .. } = self.dump.take()?;
        Some(Finished { process, trigger, at_ns, from_ns, until_ns, rows })
    }
}

fn row(process: ProcessId, record: &Record, (inode, device, class): File) -> SyncRow {
    SyncRow {
        process,
        class,
        start_mono_ns: record.start_ns,
        latency_ns: record.latency_ns,
        thread_id: record.thread_id,
        run_delay_ns: u64::from(record.run_delay_ns),
        written_bytes: u64::from(record.written_bytes),
        inode,
        device,
        result: i32::from(record.result),
        reason: SyncReason::Flight,
    }
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
