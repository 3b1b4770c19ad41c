//! What a simulated agent sends: a function of (seed, agent, sequence), so that a batch need not be kept to be sent again,
//! and anybody can say afterwards what must be stored.

use std::collections::BTreeMap;

use etcdmon_proto::convert::{delta_i64, sparse};
use etcdmon_proto::v1;
use prost::Message;

use super::Plan;

/// Streams of the ledger.
pub const STREAMS: [&str; 5] = ["sync", "sync_row", "write", "metric", "event"];

/// File classes with a histogram each second.
const CLASSES: [v1::FileClass; 3] = [v1::FileClass::Wal, v1::FileClass::Backend, v1::FileClass::Directory];

/// Monotonic clock at the begin of every simulation.
const MONO_BEGIN_NS: i64 = 1_000_000_000_000;

const SECOND_NS: i64 = 1_000_000_000;

/// Labels of a simulated histogram's series.
const EDGES: [&str; 14] = [
    "0.001", "0.002", "0.004", "0.008", "0.016", "0.032", "0.064", "0.128", "0.256", "0.512", "1.024",
    "2.048", "4.096", "+Inf",
];

/// One sync: start within its second, and latency, both in nanoseconds.
type Sync = (u64, u64);

/// What was produced, by stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Produced {
    /// Batches.
    pub batches: u64,
    /// Syncs in histograms.
    pub syncs: u64,
    /// Exact sum of their latencies in nanoseconds.
    pub sum_ns: u64,
    /// Syncs with a row of their own.
    pub sync_rows: u64,
    /// Seconds of writes.
    pub writes: u64,
    /// Samples of series.
    pub metrics: u64,
    /// Events.
    pub events: u64,
}

impl Produced {
    /// Adds what another produced.
    pub fn add(&mut self, other: &Self) {
        self.batches += other.batches;
        self.syncs += other.syncs;
        self.sum_ns += other.sum_ns;
        self.sync_rows += other.sync_rows;
        self.writes += other.writes;
        self.metrics += other.metrics;
        self.events += other.events;
    }

    /// The count of a ledger stream.
    pub fn stream(&self, stream: &str) -> u64 {
        match stream {
            "sync" => self.syncs,
            "sync_row" => self.sync_rows,
            "write" => self.writes,
            "metric" => self.metrics,
            "event" => self.events,
            _ => 0,
        }
    }
}

/// Everything that one simulated agent says.
#[derive(Debug, Clone)]
pub struct Content {
    plan: Plan,
    seed: u64,
    /// Wall second that the first batch begins with.
    begin: i64,
    index: u64,
    /// The dictionary of series, encoded: the same in every batch.
    series: std::sync::Arc<Vec<u8>>,
}

impl Content {
    /// Of agent number `index`, whose facts begin at this wall second.
    pub fn new(plan: &Plan, seed: u64, begin: i64, index: usize) -> Self {
        let series = v1::Metrics { series: series(plan.series), ..v1::Metrics::default() }.encode_to_vec();
        Self { plan: plan.clone(), seed, begin, index: index as u64, series: series.into() }
    }

    /// The same for another agent.
    pub fn of_agent(&self, index: usize) -> Self {
        Self { index: index as u64, ..self.clone() }
    }

    /// The agent's id.
    pub fn agent_id(&self) -> [u8; 16] {
        self.id(0xa9e7)
    }

    /// The id of its process.
    pub fn epoch(&self) -> [u8; 16] {
        self.id(0xe60c)
    }

    fn id(&self, salt: u64) -> [u8; 16] {
        let (high, low) = (mix(self.seed ^ salt, self.index), mix(self.seed ^ salt ^ 1, self.index));
        (u128::from(high) << 64 | u128::from(low) | 1).to_be_bytes()
    }

    /// etcd cluster id.
    pub fn cluster_id(&self) -> u64 {
        mix(self.seed ^ 0xc105, self.index / self.plan.members_per_cluster.max(1) as u64) | 1
    }

    /// etcd member id.
    pub fn member_id(&self) -> u64 {
        mix(self.seed ^ 0x3e3b, self.index) | 1
    }

    /// First second of a batch and the one after its last.
    fn seconds(&self, sequence: u64) -> std::ops::Range<i64> {
        let length = i64::from(self.plan.batch_seconds.max(1));
        let first = self.begin + (sequence.cast_signed() - 1) * length;
        first..first + length
    }

    /// Wall second at which a batch is complete. The first one has sequence 1.
    pub fn complete_at(&self, sequence: u64) -> i64 {
        self.seconds(sequence).end
    }

    /// The highest sequence that is complete at this wall second; 0 when none is.
    pub fn last_complete(&self, second: i64) -> u64 {
        let length = i64::from(self.plan.batch_seconds.max(1));
        u64::try_from((second - self.begin).div_euclid(length)).unwrap_or(0)
    }

    /// Kernel boot.
    pub fn boot_id(&self) -> [u8; 16] {
        self.id(0xb007)
    }

    /// The syncs of a class in a second.
    fn syncs(&self, second: i64, class: usize) -> Vec<Sync> {
        let mut noise = Noise(mix(mix(self.seed, self.index), second.cast_unsigned() * 8 + class as u64));
        let base = [u64::from(self.plan.syncs), u64::from(self.plan.syncs) / 4, 1][class];
        let count = base + noise.next() % (base / 2 + 1);
        let mut syncs: Vec<Sync> = (0..count)
            .map(|_| {
                let slow = 1 + noise.next() % 100 / 98 * 20;
                (noise.next() % 900_000_000, 100_000 + noise.next() % 400_000 * slow)
            })
            .collect();
        syncs.sort_unstable();
        syncs
    }

    /// What a batch holds.
    pub fn produced(&self, sequence: u64) -> Produced {
        let mut produced = Produced { batches: 1, ..Produced::default() };
        self.by_minute(sequence).values().for_each(|minute| produced.add(minute));
        produced.batches = 1;
        produced
    }

    /// What a batch holds, by wall-aligned minute.
    fn by_minute(&self, sequence: u64) -> BTreeMap<i64, Produced> {
        let mut minutes: BTreeMap<i64, Produced> = BTreeMap::new();
        for second in self.seconds(sequence) {
            let minute = minutes.entry(second.div_euclid(60)).or_default();
            for class in 0..CLASSES.len() {
                let syncs = self.syncs(second, class);
                minute.syncs += syncs.len() as u64;
                minute.sum_ns += syncs.iter().map(|(_, latency)| latency).sum::<u64>();
                minute.sync_rows += syncs.len().min(self.plan.sync_rows as usize) as u64;
                minute.writes += 1;
            }
            minute.metrics += u64::from(self.plan.series);
            minute.events += u64::from(second % 60 == 0);
        }
        minutes
    }

    /// A batch, the same bytes every time.
    pub fn payload(&self, sequence: u64) -> Vec<u8> {
        let seconds = self.seconds(sequence);
        let bases = v1::TimeBases {
            mono_ns_delta: seconds
                .clone()
                .scan(0, |last, second| {
                    let mono = self.mono(second);
                    Some((mono - std::mem::replace(last, mono)).cast_unsigned())
                })
                .collect(),
            wall_minus_mono_ns_delta: delta_i64(
                seconds.clone().map(|_| self.begin * SECOND_NS - MONO_BEGIN_NS),
            ),
        };
        let mut sections =
            vec![(v1::SectionKind::TimeBase, bases.mono_ns_delta.len(), bases.encode_to_vec())];
        let (histograms, rows, writes) = self.disk(seconds.clone());
        sections.push((v1::SectionKind::SyncHistogram, histograms.member.len(), histograms.encode_to_vec()));
        sections.push((v1::SectionKind::Sync, rows.member.len(), rows.encode_to_vec()));
        sections.push((v1::SectionKind::Write, writes.member.len(), writes.encode_to_vec()));
        let metrics = self.metrics(seconds.clone());
        let mut encoded = self.series.as_ref().clone();
        // Encoded messages that follow each other are one merged message.
        metrics.encode(&mut encoded).expect("a vector grows");
        sections.push((v1::SectionKind::Metric, metrics.value.len(), encoded));
        let events = self.events(seconds);
        sections.push((v1::SectionKind::Event, events.kind.len(), events.encode_to_vec()));
        let ledger = self.ledger(sequence);
        sections.push((v1::SectionKind::Ledger, ledger.count.len(), ledger.encode_to_vec()));
        let section = |(kind, rows, payload): (v1::SectionKind, usize, Vec<u8>)| v1::Section {
            kind: kind.into(),
            rows: u32::try_from(rows).expect("a batch is small"),
            payload,
        };
        let batch = v1::Batch {
            agent_id: self.agent_id().to_vec(),
            boot_id: self.boot_id().to_vec(),
            members: vec![self.member()],
            sections: sections.into_iter().filter(|(_, rows, _)| *rows > 0).map(section).collect(),
        };
        batch.encode_to_vec()
    }

    /// The member that it watches.
    pub fn member(&self) -> v1::Member {
        v1::Member {
            cluster_id: self.cluster_id(),
            member_id: self.member_id(),
            name: format!("simulated-{}", self.index),
            process: Some(v1::Process { boot_id: self.boot_id().to_vec(), pid: 4_000, start_ticks: 7_000 }),
            data_dir: "/var/lib/simulated".to_owned(),
            version: "3.6.16".to_owned(),
            ..v1::Member::default()
        }
    }

    /// Monotonic time of the begin of a wall second.
    fn mono(&self, second: i64) -> i64 {
        MONO_BEGIN_NS + (second - self.begin) * SECOND_NS
    }

    fn disk(&self, seconds: std::ops::Range<i64>) -> (v1::SyncHistograms, v1::Syncs, v1::Writes) {
        let mut histograms = v1::SyncHistograms::default();
        let mut rows = v1::Syncs { sample_every: 100, slow_ns: 10_000_000, ..v1::Syncs::default() };
        let mut writes = v1::Writes::default();
        let (mut row_seconds, mut starts) = (Vec::new(), Vec::new());
        for second in seconds {
            for (number, class) in CLASSES.into_iter().enumerate() {
                let syncs = self.syncs(second, number);
                let mut counts = vec![0; etcdmon_histogram::BUCKETS];
                syncs.iter().for_each(|(_, latency)| counts[etcdmon_histogram::bucket_of(*latency)] += 1);
                let (buckets, counts) = sparse(&counts);
                histograms.member.push(0);
                histograms.file_class.push(class.into());
                row_seconds.push(second);
                histograms.bucket_len.push(u32::try_from(buckets.len()).expect("few buckets"));
                histograms.bucket_delta.extend(buckets);
                histograms.bucket_count.extend(counts);
                histograms.sum_ns.push(syncs.iter().map(|(_, latency)| latency).sum());
                histograms.errors.push(0);
                histograms.run_delay_ns.push(syncs.len() as u64 * 12_000);
                histograms.hook.push(v1::Hook::Filesystem.into());
                for (start, latency) in syncs.iter().take(self.plan.sync_rows as usize) {
                    rows.member.push(0);
                    rows.file_class.push(class.into());
                    starts.push(self.mono(second) + start.cast_signed());
                    rows.latency_ns.push(*latency);
                    rows.thread_id.push(4_000 + u32::try_from(start % 9).expect("small"));
                    rows.run_delay_ns.push(start % 50_000);
                    rows.written_bytes.push(2_000 + latency % 8_000);
                    rows.inode.push(77_000 + number as u64);
                    rows.device.push(8 << 20 | 1);
                    rows.result.push(0);
                    let slow = *latency >= rows.slow_ns;
                    rows.reason.push(if slow { v1::SyncReason::Slow } else { v1::SyncReason::Sample }.into());
                }
                writes.member.push(0);
                writes.file_class.push(class.into());
                writes.written_bytes.push(syncs.len() as u64 * 2_300);
                writes.observed_ns.push(0);
                writes.calls.push(0);
                writes.bucket_len.push(0);
                writes.sum_ns.push(0);
                writes.sync_file_range_calls.push(0);
            }
        }
        histograms.second_delta = delta_i64(row_seconds);
        writes.second_delta.clone_from(&histograms.second_delta);
        rows.start_mono_ns_delta = delta_i64(starts);
        (histograms, rows, writes)
    }

    /// Every series once a second. One in four is a counter that moves, the others stand still, as most of etcd's do.
    fn metrics(&self, seconds: std::ops::Range<i64>) -> v1::Metrics {
        let count = self.plan.series;
        let mut metrics = v1::Metrics::default();
        let mut times = Vec::with_capacity(seconds.clone().count() * count as usize);
        for second in seconds {
            let at = self.mono(second) + 137_000_000;
            let age = (second - self.begin).unsigned_abs();
            for number in 0..count {
                metrics.series_index.push(number);
                times.push(at);
                let moving = age * (1 + u64::from(number % 13)) + mix(self.index, u64::from(number)) % 1_000;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let value = if number % 4 == 0 { moving } else { u64::from(number) * 3 } as f64;
                metrics.value.push(value);
            }
        }
        metrics.mono_ns_delta = delta_i64(times);
        metrics
    }

    fn events(&self, seconds: std::ops::Range<i64>) -> v1::Events {
        let times: Vec<i64> = seconds.filter(|second| second % 60 == 0).collect();
        v1::Events {
            member_plus_one: vec![1; times.len()],
            mono_ns_delta: delta_i64(times.iter().map(|second| self.mono(*second))),
            kind: vec!["simulated.minute".to_owned(); times.len()],
            details_json: times.iter().map(|second| format!("{{\"second\":{second}}}")).collect(),
        }
    }

    fn ledger(&self, sequence: u64) -> v1::Ledger {
        let mut ledger = v1::Ledger::default();
        let mut minutes = Vec::new();
        for (minute, produced) in self.by_minute(sequence) {
            for stream in STREAMS {
                let count = produced.stream(stream);
                if count > 0 {
                    minutes.push(minute);
                    ledger.stream.push(stream.to_owned());
                    ledger.kind.push(v1::LedgerKind::Produced.into());
                    ledger.reason.push(String::new());
                    ledger.count.push(count);
                    ledger.blind_from_ns.push(0);
                    ledger.blind_to_ns.push(0);
                    ledger.member_plus_one.push(1);
                }
            }
        }
        ledger.minute_delta = delta_i64(minutes);
        ledger
    }

    /// The live summary after the first `sequence` batches, as message `number`. `totals` has the counts so far.
    pub fn live(&self, number: u64, totals: &LiveTotals, now: (u64, i64)) -> v1::Live {
        let syncs = CLASSES
            .into_iter()
            .zip(&totals.classes)
            .map(|(class, (counts, sum_ns))| v1::LiveSyncs {
                file_class: class.into(),
                latency: Some(v1::Histogram::from_counts(counts, *sum_ns)),
            })
            .collect();
        let leader = self.index - self.index % self.plan.members_per_cluster.max(1) as u64;
        let member = v1::LiveMember {
            member: Some(self.member()),
            running: true,
            scrape_ok: true,
            syncs,
            has_leader: true,
            is_leader: leader == self.index,
            leader_id: mix(self.seed ^ 0x3e3b, leader) | 1,
            raft_term: 3,
            raft_index: 1_000 + number * 40,
            raft_applied_index: 1_000 + number * 40,
            leader_changes_seen_total: 1,
            db_size_bytes: 64 << 20,
            db_in_use_bytes: 48 << 20,
            quota_bytes: 2 << 30,
            version: "3.6.16".to_owned(),
            ..v1::LiveMember::default()
        };
        v1::Live {
            epoch: self.epoch().to_vec(),
            number,
            sent_mono_ns: now.0,
            wall_minus_mono_ns: now.1,
            members: vec![member],
            ..v1::Live::default()
        }
    }

    /// Adds a second to the totals of the live stream.
    pub fn add_second(&self, totals: &mut LiveTotals, second: i64) {
        for (number, (counts, sum_ns)) in totals.classes.iter_mut().enumerate() {
            for (_, latency) in self.syncs(second, number) {
                counts[etcdmon_histogram::bucket_of(latency)] += 1;
                *sum_ns += latency;
            }
        }
    }
}

/// Cumulative histograms by class, and sums of latencies.
#[derive(Debug, Clone)]
pub struct LiveTotals {
    classes: Vec<(Vec<u64>, u64)>,
}

impl Default for LiveTotals {
    fn default() -> Self {
        Self { classes: vec![(vec![0; etcdmon_histogram::BUCKETS], 0); CLASSES.len()] }
    }
}

/// Series as etcd has them: histograms with their edges, and single values.
fn series(count: u32) -> Vec<v1::Series> {
    let series = |number: u32| {
        let (family, place) = (number / 15, number % 15);
        let (name, label) = match EDGES.get(place as usize) {
            Some(edge) => (
                format!("etcd_simulated_part_{family}_duration_seconds_bucket"),
                vec!["le".to_owned(), (*edge).to_owned()],
            ),
            None => (format!("etcd_simulated_part_{family}_total"), Vec::new()),
        };
        v1::Series { member_plus_one: 1, name, label, r#type: v1::MetricType::Counter.into() }
    };
    (0..count).map(series).collect()
}

/// Two numbers to one that looks random.
fn mix(a: u64, b: u64) -> u64 {
    let mut value = a.wrapping_add(b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content::new(&Plan { series: 20, ..Plan::default() }, 7, 1_795_255_199, 4)
    }

    #[test]
    fn a_batch_has_the_same_bytes_every_time_and_every_batch_its_own() {
        let content = content();
        assert_eq!(content.payload(3), content.of_agent(9).of_agent(4).payload(3));
        assert_ne!(content.payload(3), content.payload(4));
        assert_ne!(content.payload(3), content.of_agent(5).payload(3));
        assert_ne!(content.agent_id(), content.epoch());
    }

    #[test]
    fn what_is_produced_is_what_is_in_the_batch() {
        let content = content();
        let batch = v1::Batch::decode(content.payload(1).as_slice()).unwrap();
        let produced = content.produced(1);
        for section in &batch.sections {
            let rows = u64::from(section.rows);
            match section.kind() {
                v1::SectionKind::SyncHistogram => {
                    let columns = v1::SyncHistograms::decode(section.payload.as_slice()).unwrap();
                    assert_eq!(columns.bucket_count.iter().sum::<u64>(), produced.syncs);
                    assert_eq!(columns.sum_ns.iter().sum::<u64>(), produced.sum_ns);
                }
                v1::SectionKind::Sync => assert_eq!(rows, produced.sync_rows),
                v1::SectionKind::Write => assert_eq!(rows, produced.writes),
                v1::SectionKind::Metric => {
                    let columns = v1::Metrics::decode(section.payload.as_slice()).unwrap();
                    assert_eq!((columns.series.len(), columns.value.len()), (20, 40));
                    assert_eq!(rows, produced.metrics);
                }
                v1::SectionKind::Event => assert_eq!(rows, produced.events),
                v1::SectionKind::Ledger => {
                    let columns = v1::Ledger::decode(section.payload.as_slice()).unwrap();
                    let all: u64 = STREAMS.iter().map(|stream| produced.stream(stream)).sum();
                    assert_eq!(columns.count.iter().sum::<u64>(), all);
                    // The batch reaches over the end of a minute.
                    assert_eq!(rows, 9);
                }
                _ => {}
            }
        }
        assert_eq!(produced.events, 1);
    }
}
