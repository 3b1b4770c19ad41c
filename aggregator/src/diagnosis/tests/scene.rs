//! What happens in a second of a member's life, and a run of such seconds.

use etcdmon_proto::v1::{self, Certainty, CulpritOrigin};
use uuid::Uuid;

use crate::clock::At;
use crate::cluster::{LiveMessage, Model};
use crate::diagnosis::{Cause, DiagnosisView, Incidents, Watch};

pub const CLUSTER: Uuid = Uuid::from_u128(0xc1);
pub const MEMBER: u64 = 0xa1;
pub const ETCD: u32 = 500;
const AGENT: Uuid = Uuid::from_u128(1);
const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

/// Somebody on the disk: origin, pid, name, cgroup, percent of the wait, bytes.
#[derive(Debug, Clone)]
pub struct Who {
    pub origin: CulpritOrigin,
    pub pid: u32,
    pub comm: &'static str,
    pub cgroup: &'static str,
    pub percent: u64,
    pub bytes: u64,
    pub certainty: Certainty,
}

pub fn who(origin: CulpritOrigin, pid: u32, comm: &'static str, percent: u64, bytes: u64) -> Who {
    let certainty = match origin {
        CulpritOrigin::Writeback => Certainty::Medium,
        CulpritOrigin::Journal => Certainty::Low,
        _ => Certainty::High,
    };
    Who { origin, pid, comm, cgroup: "/system.slice/work", percent, bytes, certainty }
}

/// Percent of the time of slow syncs, in the order of the message's fields: on CPU, run queue, journal, queue, device, flush,
/// throttle, steal, unexplained; then journal's device, queue, flush.
pub type Parts = [u64; 12];

/// A second; times in milliseconds unless the name says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Second {
    /// (microseconds, how many).
    pub wal: Vec<(u64, u64)>,
    pub backend: Vec<(u64, u64)>,
    pub examined: u64,
    pub mean: u64,
    pub parts: Parts,
    /// Percent of the CPU part that is the quota's.
    pub quota_in_syncs: u64,
    pub disk: Vec<Who>,
    pub used: u64,
    pub delayed: u64,
    pub throttled: u64,
    pub stopped: u64,
    pub steal: u64,
    pub idle: u64,
    pub quota_millicpus: Option<u64>,
    /// (pid, name, ms of CPU).
    pub cpu_users: Vec<(u32, &'static str, u64)>,
    /// Of them, one that is in the member's own cgroup.
    pub inside: u32,
    /// Bytes are of metadata.
    pub journal_users: Vec<Who>,
    /// (number, sender).
    pub signals: Vec<(u32, u32)>,
    pub free_mib: u64,
    pub size_mib: u64,
    pub grown: u64,
    pub fillers: Vec<Who>,
    pub io_errors: u64,
    pub sync_errors: u64,
    pub errno: i32,
    pub io_limited: Option<bool>,
    pub no_vitals: bool,
    pub gone: bool,
    /// What its log says, when it is gone.
    pub failure: &'static str,
}

/// 100 writes a second on a good disk.
pub fn calm() -> Second {
    Second {
        wal: vec![(450, 90), (900, 9), (1_300, 1)],
        backend: vec![(4_000, 8)],
        used: 60,
        delayed: 50,
        idle: 1_400,
        free_mib: 800,
        size_mib: 1_000,
        io_limited: Some(false),
        ..Second::default()
    }
}

/// Two CPUs without a pause, thousands of writes, a backend that syncs megabytes: nothing is wrong.
pub fn heavy() -> Second {
    Second {
        wal: vec![(900, 1_500), (2_500, 400), (6_000, 60), (11_000, 3)],
        backend: vec![(18_000, 5), (35_000, 4)],
        examined: 5,
        mean: 16,
        parts: [4, 12, 10, 10, 30, 30, 0, 0, 4, 4, 2, 4],
        disk: vec![
            who(CulpritOrigin::Itself, ETCD, "etcd", 40, 9 * MIB),
            who(CulpritOrigin::Process, 700, "clickhouse", 8, MIB),
        ],
        used: 420,
        delayed: 510,
        idle: 10,
        cpu_users: vec![(710, "load", 700), (501, "etcd", 400), (502, "etcd", 390)],
        ..calm()
    }
}

/// All WAL syncs slow.
fn slow_wal(second: Second) -> Second {
    Second { wal: vec![(14_000, 8), (32_000, 12), (70_000, 3)], examined: 20, mean: 34, ..second }
}

/// Some of the WAL syncs slow.
fn some_slow_wal(second: Second) -> Second {
    Second {
        wal: vec![(700, 30), (5_000, 20), (14_000, 6), (32_000, 6), (70_000, 2)],
        examined: 12,
        mean: 29,
        ..second
    }
}

pub fn buffered_neighbour() -> Second {
    some_slow_wal(Second {
        parts: [1, 2, 32, 18, 22, 22, 0, 0, 3, 12, 4, 8],
        disk: vec![
            who(CulpritOrigin::Writeback, 4_242, "kworker/u4:2", 78, 60 * MIB),
            who(CulpritOrigin::Itself, ETCD, "etcd", 4, MIB),
        ],
        journal_users: vec![
            who(CulpritOrigin::Process, 31, "kworker/u4:2", 0, 3 * MIB),
            who(CulpritOrigin::Process, 4_242, "dd", 0, MIB),
        ],
        ..calm()
    })
}

pub fn fsync_neighbour() -> Second {
    some_slow_wal(Second {
        parts: [1, 3, 38, 14, 18, 22, 0, 0, 4, 20, 4, 10],
        disk: vec![who(CulpritOrigin::Process, 4_243, "fio", 45, 3 * MIB)],
        journal_users: vec![
            who(CulpritOrigin::Process, 4_243, "fio", 0, 12 * MIB),
            who(CulpritOrigin::Itself, ETCD, "etcd", 0, MIB),
        ],
        ..calm()
    })
}

pub fn direct_neighbour() -> Second {
    slow_wal(Second {
        parts: [0, 2, 6, 45, 35, 10, 0, 0, 2, 3, 2, 1],
        disk: vec![who(CulpritOrigin::Process, 4_244, "fio", 88, 90 * MIB)],
        ..calm()
    })
}

pub fn metadata_neighbour() -> Second {
    some_slow_wal(Second {
        parts: [1, 3, 82, 3, 5, 3, 0, 0, 3, 40, 12, 10],
        disk: vec![
            // Makes room in the log itself, and flushes.
            who(CulpritOrigin::Process, 4_245, "touchy", 9, MIB / 2),
            Who { certainty: Certainty::Low, ..who(CulpritOrigin::Writeback, 0, "kworker/1:1", 6, MIB / 4) },
        ],
        journal_users: vec![
            who(CulpritOrigin::Process, 4_245, "touchy", 0, 70 * MIB),
            who(CulpritOrigin::Itself, ETCD, "etcd", 0, MIB),
        ],
        ..calm()
    })
}

pub fn slow_device() -> Second {
    slow_wal(Second {
        parts: [0, 1, 20, 6, 30, 42, 0, 0, 1, 8, 1, 10],
        disk: vec![who(CulpritOrigin::Itself, ETCD, "etcd", 22, MIB / 2)],
        ..calm()
    })
}

pub fn throttled_io() -> Second {
    slow_wal(Second { parts: [0, 1, 6, 1, 2, 2, 80, 0, 8, 1, 0, 0], io_limited: Some(true), ..calm() })
}

pub fn defragmenting() -> Second {
    some_slow_wal(Second {
        parts: [1, 2, 17, 30, 28, 18, 0, 0, 4, 8, 3, 4],
        disk: vec![who(CulpritOrigin::Itself, ETCD, "etcd", 75, 120 * MIB)],
        ..calm()
    })
}

pub fn hogs() -> Second {
    Second {
        wal: vec![(500, 80), (1_900, 15), (6_000, 4)],
        used: 50,
        delayed: 1_400,
        idle: 0,
        cpu_users: vec![(4_246, "hog", 480), (4_247, "hog", 470), (4_248, "hog", 460), (501, "etcd", 40)],
        ..calm()
    }
}

pub fn hogs_in_a_cgroup() -> Second {
    Second { used: 40, delayed: 160, cpu_users: vec![(4_246, "hog", 1_850), (501, "etcd", 40)], ..hogs() }
}

pub fn quota() -> Second {
    Second { used: 200, delayed: 700, throttled: 780, quota_millicpus: Some(200), idle: 1_500, ..calm() }
}

pub fn stopped() -> Second {
    Second { stopped: 300, signals: vec![(19, 4_249), (18, 4_249)], ..calm() }
}

pub fn errors() -> Second {
    Second { io_errors: 3, sync_errors: 1, errno: 5, ..calm() }
}

pub fn full() -> Second {
    Second {
        free_mib: 30,
        grown: 8 * MIB,
        fillers: vec![
            who(CulpritOrigin::Process, 4_250, "logger", 0, 9 * MIB),
            who(CulpritOrigin::Itself, ETCD, "etcd", 0, MIB / 4),
        ],
        ..calm()
    }
}

pub fn stolen() -> Second {
    slow_wal(Second {
        parts: [2, 40, 5, 4, 12, 5, 0, 28, 4, 1, 1, 1],
        steal: 900,
        idle: 300,
        used: 60,
        delayed: 800,
        ..calm()
    })
}

/// A member's messages, and what becomes of them.
pub struct Run {
    pub model: Model,
    pub watch: Watch,
    /// Records as the state would have them.
    pub kept: std::collections::BTreeMap<Uuid, serde_json::Value>,
    /// Every cause with its second, as it was opened.
    pub opened: Vec<(u64, Cause)>,
    pub closed: Vec<(u64, Cause)>,
    pub now: u64,
    pub epoch: u8,
    pub pid: u32,
    counts: [Vec<u64>; 2],
    slow: v1::LiveSlowSyncs,
    vitals: v1::LiveVitals,
    ids: u128,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            model: Model::default(),
            watch: Watch::default(),
            kept: Default::default(),
            opened: Vec::new(),
            closed: Vec::new(),
            now: 0,
            epoch: 1,
            pid: ETCD,
            counts: [vec![0; etcdmon_histogram::BUCKETS], vec![0; etcdmon_histogram::BUCKETS]],
            slow: Default::default(),
            vitals: Default::default(),
            ids: 0,
        }
    }
}

pub fn at(milliseconds: u64) -> At {
    At::from_nanos(1_800_000_000_000_000_000 + i64::try_from(milliseconds).unwrap() * 1_000_000)
}

impl Run {
    /// The same aggregator; the agent's process is another one and counts anew.
    pub fn with_another_agent(self) -> Self {
        let epoch = self.epoch + 1;
        Self { now: self.now, epoch, model: self.model, watch: self.watch, ids: self.ids, ..Self::default() }
    }

    /// After a quarter of a minute of calm.
    pub fn calm() -> Self {
        let mut run = Self::default();
        run.seconds(15, &calm());
        assert_eq!(run.opened, []);
        run
    }

    pub fn seconds(&mut self, count: u64, second: &Second) {
        for _ in 0..count {
            let live = self.live(second);
            self.send(live);
        }
    }

    /// Delivers a message, and lets the second pass.
    pub fn send(&mut self, live: v1::LiveMember) {
        self.now += 1;
        let now = self.now;
        let message = v1::Live {
            epoch: vec![self.epoch; 16],
            number: now,
            sent_mono_ns: now * 1_000 * MS,
            wall_minus_mono_ns: at(0).nanos(),
            members: vec![live],
            ..Default::default()
        };
        let message =
            LiveMessage { agent: AGENT, version: "", node: "n", allowed_commands: &[], live: &message };
        self.model.apply(at(now * 1_000), message, |_| CLUSTER);
        self.pass();
    }

    /// A second without a message.
    pub fn silence(&mut self) {
        self.now += 1;
        self.pass();
    }

    fn pass(&mut self) {
        for quarter in 0..4 {
            let now = at(self.now * 1_000 + quarter * 250);
            self.model.tick(now);
            let ids = &mut self.ids;
            let step = self.watch.step(now, 0, &self.model, &mut || {
                *ids += 1;
                Uuid::from_u128(*ids)
            });
            self.opened.extend(step.opened.into_iter().map(|(_, cause, _)| (self.now, cause)));
            self.closed.extend(step.closed.into_iter().map(|(_, cause)| (self.now, cause)));
            self.kept.extend(step.written);
            step.removed.iter().for_each(|id| drop(self.kept.remove(id)));
        }
    }

    /// Ends the aggregator, and starts another one with what it kept.
    pub fn restart(&mut self) {
        let mut incidents = Incidents::default();
        for json in self.kept.values() {
            incidents.restore(at(self.now * 1_000 + 999), 0, json).unwrap();
        }
        self.watch = Watch::new(incidents);
        self.model = Model::default();
    }

    /// The message of a second.
    pub fn live(&mut self, second: &Second) -> v1::LiveMember {
        for (counts, syncs) in self.counts.iter_mut().zip([&second.wal, &second.backend]) {
            for (latency_us, count) in syncs {
                counts[etcdmon_histogram::bucket_of(latency_us * 1_000)] += count;
            }
        }
        self.add_slow(second);
        self.add_vitals(second);
        let histogram = |counts: &Vec<u64>| Some(v1::Histogram::from_counts(counts, 0));
        v1::LiveMember {
            member: Some(v1::Member {
                cluster_id: 7,
                member_id: MEMBER,
                name: "m1".to_owned(),
                cgroup: "/etcd".to_owned(),
                process: Some(v1::Process { pid: self.pid, ..Default::default() }),
                ..Default::default()
            }),
            running: !second.gone,
            scrape_ok: !second.gone,
            syncs: vec![
                v1::LiveSyncs { file_class: v1::FileClass::Wal as i32, latency: histogram(&self.counts[0]) },
                v1::LiveSyncs {
                    file_class: v1::FileClass::Backend as i32,
                    latency: histogram(&self.counts[1]),
                },
            ],
            boot_failure: (!second.failure.is_empty())
                .then(|| v1::BootFailure { cause: second.failure.to_owned(), ..Default::default() }),
            slow_syncs: Some(self.slow.clone()),
            vitals: (!second.no_vitals).then(|| self.vitals.clone()),
            ..Default::default()
        }
    }

    fn add_slow(&mut self, second: &Second) {
        let latency_ns = second.examined * second.mean * MS;
        let of = |percent: u64| latency_ns * percent / 100;
        let [on_cpu, run_queue, journal, queue, device, flush, throttle, steal, unexplained, jd, jq, jf] =
            second.parts;
        let wait_ns = of(queue + device + flush + jd + jq + jf);
        let slow = &mut self.slow;
        slow.examined_total += second.examined;
        slow.latency_ns_total += latency_ns;
        slow.wait_ns_total += wait_ns;
        let sum = slow.parts_total.get_or_insert_default();
        sum.on_cpu_ns += of(on_cpu);
        sum.run_queue_ns += of(run_queue);
        sum.journal_ns += of(journal);
        sum.queue_ns += of(queue);
        sum.device_ns += of(device);
        sum.flush_ns += of(flush);
        sum.throttle_ns += of(throttle);
        sum.steal_ns += of(steal);
        sum.unexplained_ns += of(unexplained);
        sum.journal_device_ns += of(jd);
        sum.journal_queue_ns += of(jq);
        sum.journal_flush_ns += of(jf);
        sum.cpu_quota_ns += of(run_queue) * second.quota_in_syncs / 100;
        for one in &second.disk {
            let known = slow.culprits.iter_mut().find(|known| {
                known.process_id == one.pid && known.origin() == one.origin && known.comm == one.comm
            });
            let known = match known {
                Some(known) => known,
                None => {
                    slow.culprits.push(live_culprit(one));
                    slow.culprits.last_mut().unwrap()
                }
            };
            known.syncs_total += second.examined;
            known.wait_ns_total += wait_ns * one.percent / 100;
            known.bytes_total += one.bytes;
        }
    }

    fn add_vitals(&mut self, second: &Second) {
        let sum = |total: &mut Option<u64>, ms: u64| *total = Some(total.unwrap_or(0) + ms * MS);
        let wall = |offset: i64| at((self.now + 1) * 1_000).nanos() - 600_000_000 + offset;
        let vitals = &mut self.vitals;
        sum(&mut vitals.on_cpu_ns_total, second.used);
        sum(&mut vitals.run_delay_ns_total, second.delayed);
        sum(&mut vitals.stopped_ns_total, second.stopped);
        sum(&mut vitals.steal_ns_total, second.steal);
        sum(&mut vitals.node_idle_ns_total, second.idle);
        vitals.cpu_quota_millicpus = second.quota_millicpus;
        sum(&mut vitals.cpu_throttled_ns_total, second.throttled);
        vitals.node_cpus = 2;
        vitals.cpu_users = second
            .cpu_users
            .iter()
            .map(|(pid, name, ms)| v1::LiveCpuUser {
                process_id: *pid,
                comm: (*name).to_owned(),
                process: (*name).to_owned(),
                on_cpu_ns: ms * MS,
                cgroup: if *pid == second.inside { "/etcd" } else { "/else" }.to_owned(),
                threads: 1,
                ..Default::default()
            })
            .collect();
        for (place, (signal, sender)) in second.signals.iter().enumerate() {
            vitals.signals.push(v1::LiveSignal {
                signal: *signal,
                wall_ns: wall(i64::try_from(place).unwrap() * 300_000_000),
                sender_process_id: *sender,
                sender_comm: "freezer".to_owned(),
                ..Default::default()
            });
        }
        vitals.disk_free_bytes = Some(second.free_mib * MIB);
        vitals.disk_size_bytes = Some(second.size_mib * MIB);
        vitals.inodes_free = Some(60_000);
        *vitals.io_errors_total.get_or_insert(0) += second.io_errors;
        *vitals.sync_errors_total.get_or_insert(0) += second.sync_errors;
        vitals.last_errno = second.errno;
        vitals.io_limited = second.io_limited;
        vitals.journal_users = users(&second.journal_users);
        vitals.disk_fillers = users(&second.fillers);
        vitals.disk_grown_by_others_bytes_per_s = Some(second.grown);
    }

    /// All that are kept.
    pub fn shown(&mut self) -> Vec<DiagnosisView> {
        self.watch.shown(0).of(CLUSTER).iter().map(|view| (**view).clone()).collect()
    }

    /// The one that is open with this cause.
    pub fn open(&mut self, cause: Cause) -> DiagnosisView {
        let shown = self.shown();
        let open = shown.iter().find(|view| view.is_open() && view.cause == cause);
        open.unwrap_or_else(|| panic!("{} is not open: {shown:#?}", cause.name())).clone()
    }

    /// Causes that were opened so far, sorted.
    pub fn causes(&self) -> Vec<Cause> {
        let mut causes: Vec<Cause> = self.opened.iter().map(|(_, cause)| *cause).collect();
        causes.sort_unstable();
        causes
    }
}

fn live_culprit(one: &Who) -> v1::LiveCulprit {
    v1::LiveCulprit {
        origin: one.origin.into(),
        process_id: one.pid,
        comm: one.comm.to_owned(),
        process: if one.pid == 0 { String::new() } else { one.comm.to_owned() },
        cgroup: if one.pid == 0 { String::new() } else { one.cgroup.to_owned() },
        certainty: one.certainty.into(),
        ..Default::default()
    }
}

fn users(all: &[Who]) -> Vec<v1::LiveCulprit> {
    all.iter().map(|one| v1::LiveCulprit { bytes_total: one.bytes, ..live_culprit(one) }).collect()
}
