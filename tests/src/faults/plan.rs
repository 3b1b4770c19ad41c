//! What happens in a run, all of it from a seed. Pure.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::class::Class;
use crate::disk::Medium;

/// Members of the cluster.
pub const MEMBERS: usize = 3;

/// Before a fault: what is usual must be seen first.
const SETTLE_S: (f64, f64) = (1.0, 2.0);

/// How long a fault lasts.
const HOLD_S: (f64, f64) = (6.0, 7.5);

/// The second of a pair comes so much later.
const SECOND_S: (f64, f64) = (0.0, 1.2);

/// Names of processes that might well be beside an etcd.
const NAMES: [&str; 10] = [
    "backup",
    "logship",
    "reindex",
    "vacuum",
    "imagepull",
    "metricsdump",
    "batchjob",
    "avscan",
    "rsyncd",
    "compactor",
];

/// A fault with its strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A second load.
    Load {
        /// Puts a second.
        rate: u32,
        /// Clients.
        clients: u32,
    },
    /// Writes that wait in memory until the kernel's workers carry them to the disk.
    Buffered {
        /// How much may wait, in MiB.
        waiting_mib: u32,
    },
    /// Writes with syncs.
    Fsync {
        /// Threads.
        threads: u32,
        /// Size of a write in KiB.
        kib: u32,
        /// Writes before each sync.
        writes: u32,
        /// fsync, else fdatasync.
        whole: bool,
        /// In the cgroup of a pod.
        pod: bool,
    },
    /// Writes past the page cache.
    Direct {
        /// Threads, each with one write under way.
        threads: u32,
        /// Size of a write in KiB.
        kib: u32,
    },
    /// Changes of metadata.
    Metadata {
        /// Files whose inode is changed, a second.
        touches: u32,
    },
    /// The device takes longer.
    Slow {
        /// Each write, in microseconds.
        write_us: u64,
        /// Each flush, in microseconds.
        flush_us: u64,
    },
    /// The device answers with errors.
    Errors {
        /// Writes fail.
        writes: bool,
        /// Flushes fail.
        flushes: bool,
        /// One in so many.
        one_in: u32,
        /// For so long, in milliseconds.
        millis: u64,
    },
    /// A limit of write operations.
    Throttle {
        /// A second.
        writes: u32,
    },
    /// Busy loops.
    Hogs {
        /// Threads.
        threads: u32,
        /// How much more urgent than etcd, in steps of niceness: counts only within a group.
        urgent: u32,
        /// In the member's own cgroup, where they starve it; else beside it, where the kernel shares the CPUs fairly.
        within: bool,
    },
    /// A limit of CPU time.
    Quota {
        /// Of what the member uses, in percent.
        percent: u32,
    },
    /// SIGSTOP, then SIGCONT.
    Stop {
        /// In between, in milliseconds.
        millis: u64,
        /// The sender ends at once.
        leaves: bool,
    },
    /// A filesystem without room.
    Full {
        /// What is left, in MiB.
        left_mib: u32,
        /// What goes on being written, in KiB a second.
        kib_per_second: u32,
    },
}

/// A fault with its time and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// The member that it hits; of faults that hit all of them, 0.
    pub member: usize,
    /// After the begin of the run's faults.
    pub after: Duration,
    /// Name of the process that does it, if one does.
    pub process: String,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its class.
    pub class: Class,
    /// From 1.
    pub number: u32,
    /// From 1; more than that when the fault did nothing to etcd by etcd's own account.
    pub attempt: u32,
    /// Calm before it.
    pub settle: Duration,
    /// From the begin of the first fault to the end of all.
    pub hold: Duration,
    /// In the order in which they begin; empty = nothing happens.
    pub faults: Vec<Planned>,
}

/// What the members' disks are, for a seed: both filesystems occur.
pub fn media(seed: u64) -> [Medium; MEMBERS] {
    let mut random = StdRng::seed_from_u64(seed);
    let mut media = [Medium::Ext4, Medium::Xfs, Medium::Ext4];
    media.shuffle(&mut random);
    media
}

/// The order of all runs for a seed: every class comes once before any comes again.
pub fn order(seed: u64, classes: &[Class], runs: u32) -> Vec<(Class, u32)> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x0bde);
    let mut all = Vec::new();
    for number in 1..=runs {
        let mut round = classes.to_vec();
        round.shuffle(&mut random);
        all.extend(round.into_iter().map(|class| (class, number)));
    }
    all
}

/// The run of this class and number, whatever else is run.
pub fn plan(seed: u64, class: Class, number: u32, attempt: u32) -> Plan {
    let random = &mut StdRng::seed_from_u64(mixed(seed, class, number, attempt));
    let (settle, hold) = (seconds(random, SETTLE_S), seconds(random, HOLD_S));
    let media = media(seed);
    let faults = match class {
        Class::Calm | Class::CalmStretch => Vec::new(),
        Class::Pairs => pair(random),
        _ => vec![single(random, class, media)],
    };
    Plan { class, number, attempt, settle, hold, faults }
}

fn mixed(seed: u64, class: Class, number: u32, attempt: u32) -> u64 {
    // FNV-1a: stable over versions and machines.
    let words = [seed, u64::from(number), u64::from(attempt)];
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).chain(class.name().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn single(random: &mut StdRng, class: Class, media: [Medium; MEMBERS]) -> Planned {
    let fault = fault(random, class);
    let member = match fault {
        Fault::Load { .. } | Fault::Hogs { within: false, .. } => 0,
        // Only ext4 has a journal whose users the kernel tells.
        Fault::Metadata { .. } => {
            let fitting: Vec<usize> = (0..MEMBERS).filter(|at| media[*at] == Medium::Ext4).collect();
            fitting.choose(random).copied().unwrap_or_default()
        }
        _ => random.random_range(0..MEMBERS),
    };
    Planned { fault, member, after: Duration::ZERO, process: process(random) }
}

/// Two faults that can be told apart: of the disk, of the CPUs, of signals.
fn pair(random: &mut StdRng) -> Vec<Planned> {
    use Class::{CpuHogs, DiskFull, IoThrottle, NeighbourDirect, NeighbourFsync, SlowDevice, Stopped};
    const PAIRS: [(Class, Class); 7] = [
        (NeighbourFsync, CpuHogs),
        (SlowDevice, Stopped),
        (IoThrottle, CpuHogs),
        (NeighbourDirect, Stopped),
        (SlowDevice, NeighbourFsync),
        (DiskFull, Stopped),
        (IoThrottle, NeighbourFsync),
    ];
    let (first, second) = PAIRS.choose(random).copied().unwrap_or(PAIRS[0]);
    let media = [Medium::Ext4; MEMBERS];
    let (mut one, mut two) = (single(random, first, media), single(random, second, media));
    two.after = seconds(random, SECOND_S);
    let both_of_a_disk = matches!(second, NeighbourFsync);
    if both_of_a_disk {
        // On one disk they would be one: each on its own.
        two.member = (one.member + random.random_range(1..MEMBERS)) % MEMBERS;
    } else if random.random_bool(0.6) {
        two.member = one.member;
    }
    if two.process == one.process {
        one.process.push('x');
    }
    vec![one, two]
}

fn fault(random: &mut StdRng, class: Class) -> Fault {
    match class {
        Class::HeavyLoad | Class::HeavyStretch => {
            Fault::Load { rate: random.random_range(1_000..=2_000), clients: random.random_range(16..=48) }
        }
        Class::NeighbourBuffered => Fault::Buffered { waiting_mib: random.random_range(24..=64) },
        Class::NeighbourFsync | Class::NeighbourPod => Fault::Fsync {
            threads: random.random_range(2..=5),
            kib: *[256, 512, 1_024].choose(random).unwrap_or(&512),
            writes: random.random_range(2..=8),
            whole: random.random_bool(0.5),
            pod: class == Class::NeighbourPod,
        },
        Class::NeighbourDirect => Fault::Direct {
            threads: random.random_range(3..=8),
            kib: *[256, 512, 1_024].choose(random).unwrap_or(&512),
        },
        Class::NeighbourMetadata => Fault::Metadata { touches: random.random_range(15_000..=40_000) },
        Class::SlowDevice => slow(random),
        Class::DeviceErrors => errors(random),
        Class::IoThrottle => Fault::Throttle { writes: random.random_range(12..=35) },
        Class::CpuHogs => {
            let (threads, urgent) = (random.random_range(6..=12), random.random_range(0..=10));
            Fault::Hogs { threads, urgent, within: random.random_bool(0.5) }
        }
        Class::CpuQuota => Fault::Quota { percent: random.random_range(35..=65) },
        Class::Stopped => {
            Fault::Stop { millis: random.random_range(300..=450), leaves: random.random_bool(0.5) }
        }
        Class::DiskFull => Fault::Full {
            left_mib: random.random_range(8..=48),
            kib_per_second: random.random_range(256..=1_024),
        },
        Class::Calm | Class::CalmStretch | Class::Pairs => unreachable!("they have no fault of their own"),
    }
}

fn slow(random: &mut StdRng) -> Fault {
    let flush_us = random.random_range(20_000..=80_000);
    let write_us = random.random_range(15_000..=40_000);
    match random.random_range(0..3) {
        0 => Fault::Slow { write_us: 0, flush_us },
        1 => Fault::Slow { write_us, flush_us: 0 },
        _ => Fault::Slow { write_us: write_us / 2, flush_us: flush_us / 2 },
    }
}

fn errors(random: &mut StdRng) -> Fault {
    let (writes, flushes) =
        *[(true, false), (false, true), (true, true)].choose(random).unwrap_or(&(true, true));
    let millis = random.random_range(1_000..=3_000);
    Fault::Errors { writes, flushes, one_in: random.random_range(1..=3), millis }
}

/// Fits the 15 bytes that the kernel keeps of a name.
fn process(random: &mut StdRng) -> String {
    let name = NAMES.choose(random).copied().unwrap_or(NAMES[0]);
    format!("{name}-{}", random.random_range(1..=99))
}

fn seconds(random: &mut StdRng, (from, to): (f64, f64)) -> Duration {
    Duration::from_secs_f64(random.random_range(from..to))
}

impl Fault {
    /// Whether it is done to one member only.
    pub const fn is_of_one_member(&self) -> bool {
        !matches!(self, Self::Load { .. } | Self::Hogs { within: false, .. })
    }
}

impl Plan {
    /// The same for so long.
    pub fn lasting(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, planned) in self.faults.iter().enumerate() {
            let joint = if at == 0 { "" } else { " + " };
            write!(out, "{joint}{}", planned.fault)?;
            if planned.fault.is_of_one_member() {
                write!(out, " at member {}", planned.member)?;
            }
        }
        if self.faults.is_empty() { out.write_str("nothing") } else { Ok(()) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = |writes: bool, flushes: bool| match (writes, flushes) {
            (true, false) => "writes",
            (false, true) => "flushes",
            _ => "writes and flushes",
        };
        match *self {
            Self::Load { rate, clients } => write!(out, "{rate} puts/s of {clients} clients"),
            Self::Buffered { waiting_mib } => write!(out, "buffered writes, {waiting_mib} MiB waiting"),
            Self::Fsync { threads, kib, writes, whole, pod } => {
                let call = if whole { "fsync" } else { "fdatasync" };
                let place = if pod { " in a pod" } else { "" };
                write!(out, "{threads} × ({writes} × {kib} KiB, {call}){place}")
            }
            Self::Direct { threads, kib } => write!(out, "{threads} × {kib} KiB direct"),
            Self::Metadata { touches } => write!(out, "{touches} inodes/s changed"),
            Self::Slow { write_us, flush_us } => {
                write!(out, "writes +{} ms, flushes +{} ms", write_us / 1_000, flush_us / 1_000)
            }
            Self::Errors { writes, flushes, one_in, millis } => {
                write!(out, "one in {one_in} {} fails for {millis} ms", kinds(writes, flushes))
            }
            Self::Throttle { writes } => write!(out, "limit of {writes} writes/s"),
            Self::Hogs { threads, urgent, within } => {
                let place = if within { " in its cgroup" } else { "" };
                write!(out, "{threads} busy loops, {urgent} more urgent{place}")
            }
            Self::Quota { percent } => write!(out, "{percent} % of the CPU it uses"),
            Self::Stop { millis, leaves } => {
                write!(out, "stopped for {millis} ms{}", if leaves { ", sender gone" } else { "" })
            }
            Self::Full { left_mib, kib_per_second } => {
                write!(out, "{left_mib} MiB left, {kib_per_second} KiB/s go on")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::{CLASSES, STRETCHES};
    use super::*;

    fn all() -> impl Iterator<Item = Plan> {
        let classes = CLASSES.into_iter().chain(STRETCHES);
        classes.flat_map(|class| (1..=200).map(move |number| plan(5, class, number, 1)))
    }

    #[test]
    fn a_seed_gives_the_same_runs_and_another_one_others() {
        let runs = |seed| (1..=20).map(|n| plan(seed, Class::NeighbourFsync, n, 1)).collect::<Vec<_>>();
        assert_eq!(runs(7), runs(7));
        assert_ne!(runs(7), runs(8));
        assert_ne!(
            plan(7, Class::Stopped, 1, 1),
            plan(7, Class::Stopped, 1, 2),
            "again is not the same again"
        );
        assert_eq!(order(7, &CLASSES, 20), order(7, &CLASSES, 20));
        assert_eq!(
            order(7, &CLASSES, 3)[..],
            order(7, &CLASSES, 20)[..3 * CLASSES.len()],
            "more runs come after"
        );
    }

    #[test]
    fn every_class_comes_once_before_any_comes_again() {
        let order = order(3, &CLASSES, 4);
        for (at, round) in order.chunks(CLASSES.len()).enumerate() {
            let mut classes: Vec<Class> = round.iter().map(|(class, _)| *class).collect();
            classes.sort_unstable();
            assert_eq!(classes, CLASSES);
            assert!(round.iter().all(|(_, number)| *number as usize == at + 1));
        }
    }

    #[test]
    fn runs_stay_within_their_bounds() {
        for plan in all() {
            let last = plan.faults.last().map_or(Duration::ZERO, |planned| planned.after);
            assert!(plan.hold >= last + Duration::from_secs(4), "{plan}");
            assert!(plan.settle + plan.hold <= Duration::from_secs(10), "{plan}");
            for planned in &plan.faults {
                assert!(planned.member < MEMBERS && planned.process.len() <= 15, "{planned:?}");
            }
        }
    }

    #[test]
    fn every_member_and_both_filesystems_are_hit() {
        for seed in 0..20 {
            let media = media(seed);
            assert!(media.contains(&Medium::Ext4) && media.contains(&Medium::Xfs));
            let hit = |class| (1..=100).map(move |n| plan(seed, class, n, 1).faults[0].member);
            for member in 0..MEMBERS {
                assert!(hit(Class::NeighbourDirect).any(|one| one == member));
            }
            assert!(hit(Class::NeighbourMetadata).all(|one| media[one] == Medium::Ext4));
        }
    }

    #[test]
    fn the_two_of_a_pair_can_be_told_apart() {
        for number in 1..=300 {
            let plan = plan(2, Class::Pairs, number, 1);
            let [one, two] = &plan.faults[..] else { panic!("{plan}: not two") };
            assert_ne!(one.process, two.process);
            if matches!(two.fault, Fault::Fsync { .. }) {
                assert_ne!(one.member, two.member, "{plan}");
            }
        }
    }

    #[test]
    fn nothing_happens_in_calm_and_something_in_all_others() {
        for plan in all() {
            let calm = matches!(plan.class, Class::Calm | Class::CalmStretch);
            assert_eq!(plan.faults.is_empty(), calm, "{}", plan.class);
            assert!(!plan.to_string().is_empty());
        }
    }
}
