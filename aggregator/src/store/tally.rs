//! What stored batches said, added up since this process began, for those who read counters: writes, waits for a CPU, the
//! ledger. And, when somebody wants them, the newest samples of all series.
//!
//! A batch counts once, when all its rows are durable, however often it comes. Bounded: past [`MAX_COUNTERS`] and
//! [`MAX_SERIES`] what is new is left out and counted.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use super::block::{Block, Column, Dictionary};
use super::decode::{BatchId, Decoded};
use super::seen::Seen;
use super::table::Table;

/// Most counters of a kind.
pub const MAX_COUNTERS: usize = 50_000;

/// Most series whose newest sample is kept.
pub const MAX_SERIES: usize = 500_000;

/// A sample says what is now for this long; agents send a value that did not change within 30 s.
pub const CURRENT: Duration = Duration::from_secs(120);
const CURRENT_NS: i64 = CURRENT.as_nanos() as i64;

/// Cluster, member and class of file.
pub type ByClass = (Uuid, u64, String);

/// Cluster, member, stream, kind and reason.
pub type ByReason = (Uuid, u64, String, &'static str, String);

/// A line of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How many.
    pub count: u64,
    /// For how long nothing was seen.
    pub blind_ns: u64,
}

/// The newest sample of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Newest {
    /// Our name of the cluster; nil for a node.
    pub cluster: Uuid,
    /// etcd's member id; 0 for a node.
    pub member: u64,
    /// Agent of the node; nil for a member.
    pub agent: Uuid,
    /// Prometheus name.
    pub name: Arc<str>,
    /// Labels as a JSON object.
    pub labels: Arc<str>,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// The value.
    pub value: f64,
}

/// The sums, and the newest samples.
#[derive(Debug, Default)]
pub struct Tally {
    sums: Mutex<Sums>,
    wants_newest: AtomicBool,
    newest: Mutex<Series>,
    /// Counters and series that found no room.
    left_out: AtomicU64,
}

#[derive(Debug, Default)]
struct Sums {
    seen: Seen,
    writes: BTreeMap<ByClass, u64>,
    run_delays: BTreeMap<ByClass, u64>,
    ledger: BTreeMap<ByReason, Account>,
}

/// Samples by name, then by labels: both are looked up without a copy.
type ByName = HashMap<Arc<str>, HashMap<Arc<str>, Sample>>;

#[derive(Debug, Default)]
struct Series {
    /// By cluster, agent and member.
    sources: HashMap<(Uuid, Uuid, u64), ByName>,
    count: usize,
    /// When room was last made, Unix nanoseconds.
    made_room_ns: i64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ns: i64,
    value: f64,
    kind: &'static str,
}

/// What one batch adds.
#[derive(Debug, Default)]
pub struct Addition {
    writes: BTreeMap<ByClass, u64>,
    run_delays: BTreeMap<ByClass, u64>,
    ledger: BTreeMap<ByReason, Account>,
}

impl Addition {
    /// Of a batch.
    pub fn of(batch: &Decoded) -> Self {
        let mut addition = Self::default();
        for block in &batch.blocks {
            match block.table {
                Table::Writes => sum(block, "written_bytes", &mut addition.writes),
                Table::SyncHistograms => sum(block, "run_delay_ns", &mut addition.run_delays),
                Table::Ledger => ledger(block, &mut addition.ledger),
                Table::Syncs
                | Table::Metrics
                | Table::Events
                | Table::Autopsies
                | Table::Alerts
                | Table::Diagnoses => {}
            }
        }
        addition
    }
}

impl Tally {
    /// From now on the newest samples are kept.
    pub fn keep_newest(&self) {
        self.wants_newest.store(true, Ordering::Relaxed);
    }

    /// Takes note of the samples of a batch, whether or not it is stored yet: the newest one is the newest.
    pub fn sampled(&self, batch: &Decoded) {
        if !self.wants_newest.load(Ordering::Relaxed) {
            return;
        }
        let mut series = lock(&self.newest);
        series.make_room(Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX));
        for block in batch.blocks.iter().filter(|block| block.table == Table::Metrics) {
            let left_out = series.take(batch.id.agent, block);
            self.left_out.fetch_add(left_out, Ordering::Relaxed);
        }
    }

    /// Adds a batch that is stored, unless it was added before.
    pub fn add(&self, id: &BatchId, addition: Addition) {
        let mut sums = lock(&self.sums);
        if sums.seen.note(id) {
            return;
        }
        let mut left_out =
            merge(&mut sums.writes, addition.writes, |sum, more| *sum = sum.saturating_add(more));
        left_out +=
            merge(&mut sums.run_delays, addition.run_delays, |sum, more| *sum = sum.saturating_add(more));
        left_out += merge(&mut sums.ledger, addition.ledger, |sum, more| {
            sum.count = sum.count.saturating_add(more.count);
            sum.blind_ns = sum.blind_ns.saturating_add(more.blind_ns);
        });
        self.left_out.fetch_add(left_out, Ordering::Relaxed);
    }

    /// Bytes written.
    pub fn writes(&self) -> BTreeMap<ByClass, u64> {
        lock(&self.sums).writes.clone()
    }

    /// Nanoseconds that syncing threads waited for a CPU.
    pub fn run_delays(&self) -> BTreeMap<ByClass, u64> {
        lock(&self.sums).run_delays.clone()
    }

    /// The ledger. Kinds are `produced`, `dropped` and `blind`.
    pub fn ledger(&self) -> BTreeMap<ByReason, Account> {
        lock(&self.sums).ledger.clone()
    }

    /// Counters and series that were left out because there were too many.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Samples taken within [`CURRENT`] before `now_ns` (Unix nanoseconds); older ones are forgotten.
    pub fn newest(&self, now_ns: i64) -> Vec<Newest> {
        lock(&self.newest).current(now_ns)
    }
}

impl Series {
    /// Takes the samples of a block; gives how many series found no room.
    fn take(&mut self, agent: Uuid, block: &Block) -> u64 {
        let columns = (
            block.columns().get(CLUSTER),
            block.columns().get(MEMBER),
            column(block, "name"),
            column(block, "labels"),
            column(block, "type"),
            column(block, "value"),
        );
        let (
            Some(Column::Text(clusters)),
            Some(Column::U64(members)),
            Some(Column::Text(names)),
            Some(Column::Text(labels)),
            Some(Column::Text(kinds)),
            Some(Column::F64(values)),
        ) = columns
        else {
            return 0;
        };
        let mut left_out = 0;
        let now_ns = Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
        for (row, at_ns) in block.times().iter().enumerate() {
            // Of a clock that is ahead: what comes later must count, and it must grow old.
            let at_ns = &now_ns.min(*at_ns);
            let kind = if kinds.text(row) == "counter" { "counter" } else { "gauge" };
            let sample = Sample { at_ns: *at_ns, value: values[row], kind };
            let cluster = uuid(clusters, row);
            // A member is one, whoever reports it: the newest sample counts. Nodes are told apart by their agents.
            let reporter = if cluster.is_nil() && members[row] == 0 { agent } else { Uuid::nil() };
            let source = (cluster, reporter, members[row]);
            let (name, labels) = (names.text(row), labels.text(row));
            let of_name = self.sources.get_mut(&source).and_then(|names_of| names_of.get_mut(name));
            match of_name.and_then(|labels_of| labels_of.get_mut(labels)) {
                Some(known) if known.at_ns > *at_ns => {}
                Some(known) => *known = sample,
                None if self.count >= MAX_SERIES => left_out += 1,
                None => {
                    let names_of = self.sources.entry(source).or_default();
                    names_of.entry(name.into()).or_default().insert(labels.into(), sample);
                    self.count += 1;
                }
            }
        }
        left_out
    }

    /// Forgets what is no longer current when nothing else has room, at most once in that time: it walks over everything.
    fn make_room(&mut self, now_ns: i64) {
        if self.count >= MAX_SERIES && now_ns.abs_diff(self.made_room_ns) >= CURRENT_NS.unsigned_abs() {
            self.made_room_ns = now_ns;
            self.forget(now_ns);
        }
    }

    fn forget(&mut self, now_ns: i64) {
        let oldest = now_ns.saturating_sub(CURRENT_NS);
        self.count = 0;
        self.sources.retain(|_, names| {
            names.retain(|_, all| {
                all.retain(|_, sample| sample.at_ns >= oldest);
                self.count += all.len();
                !all.is_empty()
            });
            !names.is_empty()
        });
    }

    fn current(&mut self, now_ns: i64) -> Vec<Newest> {
        self.forget(now_ns);
        let mut found = Vec::with_capacity(self.count);
        for ((cluster, agent, member), names) in &self.sources {
            for (name, all) in names {
                found.extend(all.iter().map(|(labels, sample)| Newest {
                    cluster: *cluster,
                    member: *member,
                    agent: *agent,
                    name: name.clone(),
                    labels: labels.clone(),
                    kind: sample.kind,
                    value: sample.value,
                }));
            }
        }
        found
    }
}

/// Position of the columns that every table has.
const CLUSTER: usize = 4;
const MEMBER: usize = 5;

fn column<'a>(block: &'a Block, name: &str) -> Option<&'a Column> {
    let position = block.table.columns().iter().position(|(column, _)| *column == name)?;
    block.columns().get(position)
}

/// The decoder writes them; anything else is no cluster of ours.
fn uuid(clusters: &Dictionary, row: usize) -> Uuid {
    clusters.text(row).parse().unwrap_or_default()
}

/// Adds up a column of numbers by cluster, member and class.
fn sum(block: &Block, of: &str, sums: &mut BTreeMap<ByClass, u64>) {
    let columns = (
        block.columns().get(CLUSTER),
        block.columns().get(MEMBER),
        column(block, "class"),
        column(block, of),
    );
    let (
        Some(Column::Text(clusters)),
        Some(Column::U64(members)),
        Some(Column::Text(classes)),
        Some(Column::U64(values)),
    ) = columns
    else {
        return;
    };
    for (row, value) in values.iter().enumerate() {
        let key = (uuid(clusters, row), members[row], classes.text(row).to_owned());
        let sum = sums.entry(key).or_default();
        *sum = sum.saturating_add(*value);
    }
}

fn ledger(block: &Block, sums: &mut BTreeMap<ByReason, Account>) {
    let columns = (
        block.columns().get(CLUSTER),
        block.columns().get(MEMBER),
        column(block, "stream"),
        column(block, "kind"),
        column(block, "reason"),
        column(block, "count"),
        column(block, "blind_from"),
        column(block, "blind_to"),
    );
    let (
        Some(Column::Text(clusters)),
        Some(Column::U64(members)),
        Some(Column::Text(streams)),
        Some(Column::Text(kinds)),
        Some(Column::Text(reasons)),
        Some(Column::U64(counts)),
        Some(Column::Time(from)),
        Some(Column::Time(to)),
    ) = columns
    else {
        return;
    };
    for (row, count) in counts.iter().enumerate() {
        let kind = ["produced", "dropped", "blind"].into_iter().find(|kind| *kind == kinds.text(row));
        // Of a later version.
        let Some(kind) = kind else { continue };
        let (stream, reason) = (streams.text(row).to_owned(), reasons.text(row).to_owned());
        let account = sums.entry((uuid(clusters, row), members[row], stream, kind, reason)).or_default();
        let blind = u64::try_from(to[row].saturating_sub(from[row])).unwrap_or(0);
        account.count = account.count.saturating_add(*count);
        account.blind_ns = account.blind_ns.saturating_add(if kind == "blind" { blind } else { 0 });
    }
}

/// Adds what there is room for; gives how many found none.
fn merge<K: Ord + Borrow<K>, V: Default>(
    sums: &mut BTreeMap<K, V>,
    more: BTreeMap<K, V>,
    add: impl Fn(&mut V, V),
) -> u64 {
    let mut left_out = 0;
    for (key, value) in more {
        if sums.len() >= MAX_COUNTERS && !sums.contains_key(&key) {
            left_out += 1;
        } else {
            add(sums.entry(key).or_default(), value);
        }
    }
    left_out
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
