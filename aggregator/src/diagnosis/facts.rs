//! What is known of a member's last seconds, summed up: what causes are judged by. Pure, plain values, so that a test can write
//! down the numbers of any situation.

use std::time::Duration;

use etcdmon_proto::v1::{self, Certainty, CulpritOrigin};

use super::trail::{Sample, Second, Syncs, Trail, Vitals, is_stop, nanos};
use super::{Confidence, Culprit, CulpritKind};
use crate::clock::At;

/// Seconds that a verdict looks at: enough for a few slow syncs, few enough for a verdict within five seconds.
const LOOK: usize = 3;

/// A second is bad when so much of it went into slow WAL syncs, at least two of them ...
const BAD_SHARE: f64 = 0.1;

/// ... and not less than this part of all: of thousands a second on a disk that is fully used, a few always take longer ...
const BAD_PART: f64 = 0.03;

/// ... or so much into however many: one sync that hangs for a second is harm as well, several in a row are an incident.
const WORSE_SHARE: f64 = 0.3;

/// Slow syncs that make a second with [`WORSE_SHARE`] severe: two such seconds are believed without a third.
const SEVERE_COUNT: u64 = 3;

/// Syncs of the backend that take 100 ms and more, in a second that is bad without slow WAL syncs.
const BAD_BACKEND: u64 = 2;

/// Verdicts on etcd's log that say the same as requests that failed: it ends itself on the first, often before anybody has counted it.
const DISK_FAILURES: [&str; 2] = ["disk_error", "disk_read_only"];

/// Harm of the last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Harm {
    /// Seconds looked at.
    pub seconds: u32,
    /// Those with harm.
    pub bad: u32,
    /// Those with much of it.
    pub severe: u32,
    /// Whether the last of them is among the bad ones.
    pub is_bad_now: bool,
    /// Time lost in slow WAL syncs (or very slow ones of the backend), per second of time.
    pub lost_share: f64,
    /// The same in nanoseconds, over all seconds looked at.
    pub lost_ns: u64,
}

impl Harm {
    /// Whether a verdict on syncs is called for: harm in several seconds, and still.
    pub const fn is_slow(&self) -> bool {
        self.is_bad_now && self.bad >= 2
    }

    /// Whether there is so much of it that the next second need not confirm it.
    pub const fn is_severe(&self) -> bool {
        self.is_slow() && self.severe >= 2
    }
}

/// Slow syncs that were examined, summed up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slow {
    /// How many.
    pub examined: u64,
    /// How many more there were.
    pub left_out: u64,
    /// The time they took.
    pub latency_ns: u64,
    /// The time they waited for disks.
    pub wait_ns: u64,
    /// Where the time went.
    pub parts: v1::SlowSyncParts,
    /// Others who used the disks meanwhile, the worst first.
    pub others: Vec<Other>,
    /// What the process itself waited for of its own, by other threads or for other files.
    pub own_wait_ns: u64,
    /// Bytes of that.
    pub own_bytes: u64,
}

/// Somebody else who used the disks.
#[derive(Debug, Clone, PartialEq)]
pub struct Other {
    /// Who; its share is of the wait.
    pub culprit: Culprit,
    /// Its part of the wait.
    pub wait_ns: u64,
    /// Bytes of its requests: none means that it only made the device flush.
    pub bytes: u64,
}

/// CPU of the last seconds; per second of time, in CPUs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// Seconds in which it starved, see [`Cpu::starves`].
    pub starved: u32,
    /// Whether the last is among them.
    pub is_starved_now: bool,
    /// CPUs that its threads used.
    pub used: f64,
    /// CPUs that they waited for.
    pub delayed: f64,
    /// Seconds in which all CPUs were taken and its threads waited, see [`Cpu::is_pressed`].
    pub pressed: u32,
    /// Whether the last is among them.
    pub is_pressed_now: bool,
    /// Seconds in which hardly any CPU time was left, see [`Cpu::FULL`].
    pub full: u32,
    /// Whether the last is among them.
    pub is_full_now: bool,
    /// Part of the node's CPU time that nobody used in the last second; `None` = not known.
    pub idle_share: Option<f64>,
    /// Part of it that the hypervisor took.
    pub steal_share: Option<f64>,
    /// Its quota in CPUs, if it has one.
    pub quota: Option<f64>,
    /// CPUs that the quota refused.
    pub throttled: Option<f64>,
    /// Seconds in which it refused at least a tenth of one, and whether the last is among them.
    pub throttled_seconds: (u32, bool),
    /// CPUs of the node.
    pub cpus: u32,
    /// Others who used CPUs in the last second in which somebody looked; shares are of all the node's.
    pub users: Vec<Culprit>,
}

/// Signals that stop, and for how long it stood still.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Signals {
    /// Time it stood still, in nanoseconds.
    pub stopped_ns: u64,
    /// Since when it still does.
    pub since: Option<At>,
    /// The last signal that stopped it.
    pub stop: Option<v1::LiveSignal>,
}

/// The filesystem of its data directory and the disks below.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Storage {
    /// Room left.
    pub free_bytes: Option<u64>,
    /// Its size.
    pub size_bytes: Option<u64>,
    /// Inodes left.
    pub inodes_free: Option<u64>,
    /// How fast others use it up.
    pub grown_bytes_per_s: Option<u64>,
    /// Who writes most on it, as far as that is seen on this filesystem; shares are of all that is written.
    pub fillers: Vec<Culprit>,
    /// Requests that failed in the window.
    pub io_errors: u64,
    /// Syncs that failed in the window.
    pub sync_errors: u64,
    /// The last error, positive; 0 = none.
    pub errno: i32,
    /// What its log says of its disk, when it ended for that.
    pub failure: Option<String>,
    /// Whether its cgroup limits IO on its disks.
    pub io_limited: Option<bool>,
    /// Others who changed metadata; shares are of all metadata that was changed.
    pub journal_users: Vec<Culprit>,
    /// Bytes of metadata that the first of them changed.
    pub journal_user_bytes: u64,
    /// Part of the metadata that was changed for workers of the kernel, which bring others' data to the disk.
    pub journal_workers_share: f64,
    /// Whether it is known who changes metadata: it is looked for only from the first sync on that waited for a journal.
    pub is_journal_seen: bool,
}

/// Everything that a verdict is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// When the last message came.
    pub at: At,
    /// Begin of the first bad second in a row up to now; begin of the window when there is none.
    pub since: At,
    /// Its name for people.
    pub member: String,
    /// Path of its cgroup; empty when not known.
    pub cgroup: String,
    /// Harm.
    pub harm: Harm,
    /// WAL syncs of the window; quantiles are those of the worst second.
    pub wal: Syncs,
    /// WAL syncs of the last second alone: the first bad one may be half a good one.
    pub wal_now: Syncs,
    /// Syncs of the backend, likewise.
    pub backend: Syncs,
    /// The median of its WAL syncs in calm seconds.
    pub usual: Option<Duration>,
    /// Slow syncs.
    pub slow: Slow,
    /// CPU; `None` when it is not known.
    pub cpu: Option<Cpu>,
    /// Signals.
    pub signals: Signals,
    /// Disk.
    pub storage: Storage,
}

impl Facts {
    /// Of a member's trail; `None` before there is a second to look at.
    pub fn of(member: &str, trail: &Trail) -> Option<Self> {
        let last = trail.last()?;
        let skip = trail.seconds().len().saturating_sub(LOOK);
        let seconds: Vec<&Second> = trail.seconds().iter().skip(skip).collect();
        let now = *seconds.last()?;
        let process_id = last.process.as_ref().map_or(0, |process| process.pid);
        let is_own = |other: u32| other != 0 && other == process_id;
        let slow = slow(&seconds, &is_own);
        let storage = Storage {
            failure: last.failure.clone().filter(|cause| DISK_FAILURES.contains(&cause.as_str())),
            ..storage(&seconds, &now.vitals, &is_own).with_users_from(&slow)
        };
        Some(Self {
            at: last.at,
            since: since(&seconds),
            member: member.to_owned(),
            cgroup: last.cgroup.clone(),
            harm: harm(&seconds),
            wal: syncs(seconds.iter().map(|second| &second.wal)),
            wal_now: now.wal,
            backend: syncs(seconds.iter().map(|second| &second.backend)),
            usual: trail.usual(),
            slow,
            cpu: Cpu::of(&seconds, &is_own),
            signals: signals(&seconds, now, last),
            storage,
        })
    }

    /// Others' part of the wait for disks, of those that write data and are known well enough, and their bytes.
    pub fn neighbours(&self) -> impl Iterator<Item = &Other> {
        self.slow.others.iter().filter(|other| other.is_data() && other.is_sure())
    }
}

impl Other {
    /// Whether it brought data to the disk: what only flushes, or changes metadata, is not told by its requests.
    pub const fn is_data(&self) -> bool {
        self.bytes > 0 && !self.is_metadata()
    }

    /// Whether it is known for changing metadata, which the journal of the member's own filesystem wrote.
    pub const fn is_metadata(&self) -> bool {
        matches!(self.culprit.kind, CulpritKind::Journal) && self.culprit.process_id != 0
    }

    /// Whether it is named, and by more than a guess.
    pub fn is_sure(&self) -> bool {
        self.culprit.certainty >= Confidence::Medium && self.culprit.is_named()
    }
}

impl Storage {
    /// Who changed metadata is known from slow syncs as well, for these alone.
    fn with_users_from(mut self, slow: &Slow) -> Self {
        let users: Vec<&Other> = slow.others.iter().filter(|other| other.is_metadata()).collect();
        if let (true, Some(first)) = (self.journal_users.is_empty(), users.first()) {
            self.journal_user_bytes = first.bytes;
            self.is_journal_seen = true;
            self.journal_users = users.iter().map(|other| other.culprit.clone()).collect();
        }
        self
    }
}

impl Culprit {
    /// Whether anything says who it is.
    pub fn is_named(&self) -> bool {
        self.process_id != 0 || !matches!(self.cgroup.as_str(), "" | "/")
    }

    /// Whether both are the same process or, where one of them is not known as one, of the same cgroup.
    pub fn is_same(&self, other: &Self) -> bool {
        if self.process_id != 0 && other.process_id != 0 {
            return self.process_id == other.process_id;
        }
        self.cgroup == other.cgroup && !matches!(self.cgroup.as_str(), "" | "/")
    }
}

/// What belongs to this second is bad for its member.
fn is_bad(second: &Second) -> bool {
    let lost = lost_ns(second) as f64 / second.span_ns() as f64;
    let is_part = second.wal.slow as f64 >= BAD_PART * second.wal.count as f64;
    let many = (second.wal.slow >= 2 && is_part) || second.backend.very_slow >= BAD_BACKEND;
    (many && lost >= BAD_SHARE) || (second.wal.slow >= 1 && lost >= WORSE_SHARE)
}

fn is_severe(second: &Second) -> bool {
    second.wal.slow >= SEVERE_COUNT && lost_ns(second) as f64 / second.span_ns() as f64 >= WORSE_SHARE
}

/// WAL syncs follow one another, so their sum is time in which nothing could be committed.
fn lost_ns(second: &Second) -> u64 {
    let backend = if second.backend.very_slow >= BAD_BACKEND { second.backend.very_slow_ns } else { 0 };
    second.wal.slow_ns.max(backend)
}

fn since(seconds: &[&Second]) -> At {
    let bad = seconds.iter().rev().take_while(|second| is_bad(second)).last();
    bad.or(seconds.first()).map(|second| second.from).unwrap_or_default()
}

fn harm(seconds: &[&Second]) -> Harm {
    let count = |holds: fn(&Second) -> bool| seconds.iter().filter(|second| holds(second)).count() as u32;
    let span: u64 = seconds.iter().map(|second| second.span_ns()).sum();
    let lost_ns = seconds.iter().fold(0_u64, |sum, second| sum.saturating_add(lost_ns(second)));
    Harm {
        seconds: seconds.len() as u32,
        bad: count(is_bad),
        severe: count(is_severe),
        is_bad_now: seconds.last().is_some_and(|second| is_bad(second)),
        // A sync counts where it ends, and may have begun before.
        lost_share: super::share(lost_ns, span),
        lost_ns,
    }
}

fn syncs<'a>(seconds: impl Iterator<Item = &'a Syncs>) -> Syncs {
    seconds.fold(Syncs::default(), |sum, second| Syncs {
        count: sum.count.saturating_add(second.count),
        slow: sum.slow.saturating_add(second.slow),
        slow_ns: sum.slow_ns.saturating_add(second.slow_ns),
        very_slow: sum.very_slow.saturating_add(second.very_slow),
        very_slow_ns: sum.very_slow_ns.saturating_add(second.very_slow_ns),
        p10_ns: sum.p10_ns.max(second.p10_ns),
        p50_ns: sum.p50_ns.max(second.p50_ns),
        p99_ns: sum.p99_ns.max(second.p99_ns),
    })
}

fn slow(seconds: &[&Second], is_own: &dyn Fn(u32) -> bool) -> Slow {
    let mut sum = Slow::default();
    let mut culprits: Vec<v1::LiveCulprit> = Vec::new();
    for second in seconds {
        let slow = &second.slow;
        sum.examined = sum.examined.saturating_add(slow.examined_total);
        sum.left_out = sum.left_out.saturating_add(slow.left_out_total);
        sum.latency_ns = sum.latency_ns.saturating_add(slow.latency_ns_total);
        sum.wait_ns = sum.wait_ns.saturating_add(slow.wait_ns_total);
        sum.parts.add(&slow.parts_total.unwrap_or_default());
        for culprit in &slow.culprits {
            add_culprit(&mut culprits, culprit);
        }
    }
    // Foreign input: nobody waits longer for disks than altogether.
    sum.wait_ns = sum.wait_ns.min(sum.latency_ns);
    let (own, others): (Vec<_>, Vec<_>) =
        culprits.into_iter().partition(|one| one.origin() == CulpritOrigin::Itself || is_own(one.process_id));
    for one in own {
        sum.own_wait_ns = sum.own_wait_ns.saturating_add(one.wait_ns_total).min(sum.wait_ns);
        sum.own_bytes = sum.own_bytes.saturating_add(one.bytes_total);
    }
    sum.others = merged(others, sum.wait_ns);
    sum
}

fn add_culprit(sums: &mut Vec<v1::LiveCulprit>, one: &v1::LiveCulprit) {
    let is_it = |sum: &&mut v1::LiveCulprit| {
        sum.origin == one.origin
            && sum.process_id == one.process_id
            && (one.process_id != 0 || (sum.cgroup == one.cgroup && sum.comm == one.comm))
    };
    match sums.iter_mut().find(is_it) {
        Some(sum) => {
            sum.syncs_total = sum.syncs_total.saturating_add(one.syncs_total);
            sum.wait_ns_total = sum.wait_ns_total.saturating_add(one.wait_ns_total);
            sum.bytes_total = sum.bytes_total.saturating_add(one.bytes_total);
            sum.certainty = sum.certainty.max(one.certainty);
            fill(&mut sum.process, &one.process);
            fill(&mut sum.cgroup, &one.cgroup);
        }
        None => sums.push(one.clone()),
    }
}

fn fill(text: &mut String, more: &str) {
    if text.is_empty() {
        more.clone_into(text);
    }
}

/// Puts together what is one and the same: a process's own requests and those that workers bring to the disk for it, or for its
/// cgroup when it is the only one there.
fn merged(culprits: Vec<v1::LiveCulprit>, wait_ns: u64) -> Vec<Other> {
    let mut sorted = culprits;
    sorted.sort_by_key(|one| std::cmp::Reverse((one.process_id != 0, one.wait_ns_total)));
    let mut others: Vec<Other> = Vec::new();
    for one in sorted {
        let next = Other {
            culprit: culprit(&one, wait_ns),
            wait_ns: one.wait_ns_total.min(wait_ns),
            bytes: one.bytes_total,
        };
        let is_worker = next.culprit.process_id == 0;
        let is_same = |other: &&mut Other| {
            other.is_metadata() == next.is_metadata() && other.culprit.is_same(&next.culprit)
        };
        let mut same = others.iter_mut().filter(is_same);
        match (same.next(), same.next()) {
            // Two processes of its cgroup: it is not known which of them the workers acted for.
            (Some(_), Some(_)) if is_worker => others.push(next),
            (Some(other), _) => absorb(other, next, wait_ns),
            (None, _) => others.push(next),
        }
    }
    others.sort_by_key(|other| std::cmp::Reverse((other.wait_ns, other.bytes)));
    others
}

fn absorb(other: &mut Other, more: Other, wait_ns: u64) {
    if more.wait_ns > other.wait_ns {
        other.culprit.kind = more.culprit.kind;
    }
    other.wait_ns = other.wait_ns.saturating_add(more.wait_ns).min(wait_ns);
    other.bytes = other.bytes.saturating_add(more.bytes);
    other.culprit.certainty = other.culprit.certainty.max(more.culprit.certainty);
    other.culprit.share = super::share(other.wait_ns, wait_ns);
}

fn culprit(live: &v1::LiveCulprit, wait_ns: u64) -> Culprit {
    Culprit {
        kind: match live.origin() {
            CulpritOrigin::Writeback => CulpritKind::Writeback,
            CulpritOrigin::Journal => CulpritKind::Journal,
            CulpritOrigin::Process | CulpritOrigin::Itself | CulpritOrigin::Unspecified => {
                CulpritKind::Process
            }
        },
        process_id: live.process_id,
        comm: live.comm.clone(),
        process: live.process.clone(),
        cgroup: live.cgroup.clone(),
        container_id: live.container_id.clone(),
        pod_uid: live.pod_uid.clone(),
        share: super::share(live.wait_ns_total, wait_ns),
        certainty: match live.certainty() {
            Certainty::High => Confidence::High,
            Certainty::Medium => Confidence::Medium,
            Certainty::Low | Certainty::Unspecified => Confidence::Low,
        },
    }
}

/// Threads of the kernel, by name: what they do, they do for others.
pub(super) fn is_kernel_thread(comm: &str) -> bool {
    ["kworker/", "jbd2/", "xfsaild/", "kswapd", "ksoftirqd/", "loop", "kthreadd", "migration/"]
        .iter()
        .any(|prefix| comm.starts_with(prefix))
}

impl Cpu {
    /// Its threads wait for CPUs so many times as long as they run. Measured on two CPUs: once to eight times on a node
    /// that is fully used by work that sleeps (load, a database, compilers), twenty to seventy times beside six busy loops.
    pub const STARVED_RATIO: f64 = 10.0;

    /// And they wait for at least so many CPUs: 0.2 to 0.3 at 100 writes a second on a node that is fully used, 1.1 to 2.5 beside
    /// the busy loops. A member with little to do waits little.
    pub const STARVED_LEAST: f64 = 0.25;

    /// The node has hardly any CPU to spare when less than this part of its time is left.
    pub const FULL: f64 = 0.05;

    /// All CPUs are taken when less than this part of their time is left. Healthy load leaves more.
    pub const TAKEN: f64 = 0.02;

    /// Where its cgroup has its own part of the CPUs, others take less from it: beside nine busy loops in another cgroup its threads
    /// waited for 0.16 CPUs, four times as long as they ran. With CPUs left over, so little is nothing.
    pub const PRESSED_LEAST: f64 = 0.1;

    /// See [`Cpu::PRESSED_LEAST`]. Load alone, on CPUs that are all taken, has about one.
    pub const PRESSED_RATIO: f64 = 2.5;

    /// A quota that refuses less than this (CPUs) in a second does no harm.
    pub const THROTTLED_LEAST: f64 = 0.1;

    fn of(seconds: &[&Second], is_own: &dyn Fn(u32) -> bool) -> Option<Self> {
        let now = seconds.last()?;
        let is_known =
            |second: &&Second| second.vitals.run_delay_ns.is_some() || second.vitals.throttled_ns.is_some();
        if !seconds.iter().any(is_known) {
            return None;
        }
        let rate = |of: fn(&Vitals) -> Option<u64>| per_second(seconds, of);
        let cpus = now.vitals.cpus;
        let of_node = |of: fn(&Vitals) -> Option<u64>| {
            let rate = rate(of)?;
            (cpus > 0).then(|| (rate / f64::from(cpus)).clamp(0.0, 1.0))
        };
        let starves = |second: &Second| {
            let per = |ns: Option<u64>| ns.unwrap_or(0) as f64 / second.span_ns() as f64;
            Self::starves(per(second.vitals.on_cpu_ns), per(second.vitals.run_delay_ns))
        };
        let idle = |second: &Second| {
            let idle_ns = second.vitals.idle_ns.filter(|_| second.vitals.cpus > 0)?;
            let whole = second.span_ns().saturating_mul(u64::from(second.vitals.cpus));
            Some(super::share(idle_ns, whole))
        };
        let is_full = |second: &Second| idle(second).is_some_and(|idle| idle <= Self::FULL);
        let is_pressed = |second: &Second| {
            let per = |ns: Option<u64>| ns.unwrap_or(0) as f64 / second.span_ns() as f64;
            let is_taken = idle(second).is_some_and(|idle| idle <= Self::TAKEN);
            is_taken && Self::is_pressed(per(second.vitals.on_cpu_ns), per(second.vitals.run_delay_ns))
        };
        let is_throttled = |second: &Second| {
            let refused = second.vitals.throttled_ns.unwrap_or(0) as f64;
            refused / second.span_ns() as f64 >= Self::THROTTLED_LEAST
        };
        Some(Self {
            starved: seconds.iter().filter(|second| starves(second)).count() as u32,
            is_starved_now: starves(now),
            used: rate(|vitals| vitals.on_cpu_ns).unwrap_or(0.0),
            delayed: rate(|vitals| vitals.run_delay_ns).unwrap_or(0.0),
            pressed: seconds.iter().filter(|second| is_pressed(second)).count() as u32,
            is_pressed_now: is_pressed(now),
            idle_share: idle(now),
            steal_share: of_node(|vitals| vitals.steal_ns),
            quota: now.vitals.quota_millicpus.map(|millicpus| millicpus as f64 / 1e3),
            throttled: rate(|vitals| vitals.throttled_ns),
            throttled_seconds: (
                seconds.iter().filter(|second| is_throttled(second)).count() as u32,
                is_throttled(now),
            ),
            cpus,
            full: seconds.iter().filter(|second| is_full(second)).count() as u32,
            is_full_now: is_full(now),
            users: seconds
                .iter()
                .rev()
                .map(|second| cpu_users(&second.vitals, is_own))
                .find(|users| !users.is_empty())
                .unwrap_or_default(),
        })
    }

    /// Whether CPUs used and waited for, per second, are those of a starved process.
    pub fn starves(used: f64, delayed: f64) -> bool {
        delayed >= Self::STARVED_LEAST && delayed >= Self::STARVED_RATIO * used
    }

    /// Whether CPUs used and waited for, per second, are those of a process that others press, if all CPUs are taken.
    pub fn is_pressed(used: f64, delayed: f64) -> bool {
        delayed >= Self::PRESSED_LEAST && delayed >= Self::PRESSED_RATIO * used
    }

    /// Whether anything says that it has too little CPU, be it for a second.
    pub const fn is_suspect(&self) -> bool {
        self.starved > 0 || self.pressed > 0
    }

    /// Others' part of all CPU time of the node.
    pub fn users_share(&self) -> f64 {
        self.users.iter().map(|user| user.share).sum::<f64>().clamp(0.0, 1.0)
    }
}

/// A counter's rise per second of time, over the seconds in which it is known.
fn per_second(seconds: &[&Second], of: fn(&Vitals) -> Option<u64>) -> Option<f64> {
    let known = seconds.iter().filter_map(|second| Some((of(&second.vitals)?, second.span_ns())));
    let (rise, span) = known.fold((0_u64, 0_u64), |(rise, span), (more, ns)| {
        (rise.saturating_add(more), span.saturating_add(ns))
    });
    (span > 0).then(|| rise as f64 / span as f64)
}

fn cpu_users(vitals: &Vitals, is_own: &dyn Fn(u32) -> bool) -> Vec<Culprit> {
    let whole = u64::from(vitals.cpus.max(1)).saturating_mul(1_000_000_000);
    let user = |user: &v1::LiveCpuUser| Culprit {
        kind: CulpritKind::Process,
        process_id: user.process_id,
        comm: user.comm.clone(),
        process: user.process.clone(),
        cgroup: user.cgroup.clone(),
        container_id: user.container_id.clone(),
        pod_uid: user.pod_uid.clone(),
        share: super::share(user.on_cpu_ns, whole),
        certainty: Confidence::High,
    };
    let mut users: Vec<Culprit> =
        vitals.cpu_users.iter().filter(|one| !is_own(one.process_id)).map(user).collect();
    users.sort_by(|a, b| b.share.total_cmp(&a.share));
    users
}

fn signals(seconds: &[&Second], now: &Second, last: &Sample) -> Signals {
    let all = || seconds.iter().flat_map(|second| &second.vitals.signals);
    // One stop may lie in two messages; many short ones in a row are none that lasts.
    let stopped = |second: &Second| second.vitals.stopped_ns.unwrap_or(0);
    let pairs = seconds.windows(2).map(|pair| stopped(pair[0]).saturating_add(stopped(pair[1])));
    let counted = pairs.max().unwrap_or_else(|| stopped(now));
    let told = |since: At| nanos(last.at.since(since));
    // Signals alone don't tell: a debugger lets its process go on without SIGCONT, and some don't strike. Its agent looks at the
    // state as well, and counts.
    let is_counted = |since: At| {
        now.vitals.stopped_ns.is_none_or(|ns| ns.saturating_mul(2) >= told(since).min(now.span_ns()))
    };
    let since = now.vitals.stopped_since.filter(|since| *since <= last.at && is_counted(*since));
    let lasts = since.map_or(0, told);
    // It may stand still for longer than the window reaches back.
    let known = last.vitals.iter().flat_map(|vitals| &vitals.signals);
    let stop = known.filter(|signal| is_stop(signal.signal)).max_by_key(|signal| signal.wall_ns);
    Signals { stopped_ns: counted.max(paired(all())).max(lasts), since, stop: stop.cloned() }
}

/// The time between signals that stop and those that let it go on.
fn paired<'a>(signals: impl Iterator<Item = &'a v1::LiveSignal>) -> u64 {
    let mut sorted: Vec<&v1::LiveSignal> = signals.collect();
    sorted.sort_by_key(|signal| signal.wall_ns);
    let (mut stopped_at, mut sum) = (None, 0_u64);
    for signal in sorted {
        if is_stop(signal.signal) {
            stopped_at.get_or_insert(signal.wall_ns);
        } else if let Some(from) = stopped_at.take() {
            sum = sum.saturating_add(u64::try_from(signal.wall_ns.saturating_sub(from)).unwrap_or(0));
        }
    }
    sum
}

fn storage(seconds: &[&Second], now: &Vitals, is_own: &dyn Fn(u32) -> bool) -> Storage {
    let sum = |of: fn(&Vitals) -> u64| {
        seconds.iter().fold(0_u64, |sum, second| sum.saturating_add(of(&second.vitals)))
    };
    // Whoever was looked at while the journal made syncs slow stays in the picture for the window.
    let journal_users = seconds
        .iter()
        .rev()
        .map(|second| &second.vitals.journal_users)
        .find(|users| !users.is_empty())
        .unwrap_or(&now.journal_users);
    let (users, first_bytes, workers) = by_bytes(journal_users, is_own, CulpritKind::Journal);
    let (mut fillers, _, _) = by_bytes(&now.fillers, is_own, CulpritKind::Process);
    // What a process writes anywhere says little of this filesystem.
    fillers.retain(|filler| filler.certainty > Confidence::Low);
    Storage {
        free_bytes: now.free_bytes,
        size_bytes: now.size_bytes,
        inodes_free: now.inodes_free,
        grown_bytes_per_s: now.grown_bytes_per_s,
        fillers,
        io_errors: sum(|vitals| vitals.io_errors),
        sync_errors: sum(|vitals| vitals.sync_errors),
        errno: now.last_errno,
        failure: None,
        io_limited: now.io_limited,
        journal_users: users,
        journal_user_bytes: first_bytes,
        journal_workers_share: workers,
        is_journal_seen: !journal_users.is_empty(),
    }
}

/// Others by the bytes they are given, the worst first, as shares of everybody's; the bytes of the first; the share of the kernel's
/// own threads.
fn by_bytes(
    all: &[v1::LiveCulprit],
    is_own: &dyn Fn(u32) -> bool,
    kind: CulpritKind,
) -> (Vec<Culprit>, u64, f64) {
    let total = all.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes_total));
    let (workers, people): (Vec<_>, Vec<_>) = all
        .iter()
        .filter(|one| one.origin() != CulpritOrigin::Itself && !is_own(one.process_id))
        .partition(|one| one.process_id == 0 || is_kernel_thread(&one.comm));
    let worked = workers.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes_total));
    let mut sorted = people;
    sorted.sort_by_key(|one| std::cmp::Reverse(one.bytes_total));
    let first = sorted.first().map_or(0, |one| one.bytes_total);
    let named = |one: &&v1::LiveCulprit| {
        let kind = match one.origin() {
            CulpritOrigin::Writeback if kind == CulpritKind::Process => CulpritKind::Writeback,
            _ => kind,
        };
        Culprit { kind, share: super::share(one.bytes_total, total), ..culprit(one, 0) }
    };
    (sorted.iter().map(named).collect(), first, super::share(worked, total))
}
