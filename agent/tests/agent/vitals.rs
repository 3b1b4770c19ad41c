//! What an etcd gets of its node, from the kernel to the live stream. S3, S6.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use etcdmon_proto::v1::{self, CulpritOrigin, SectionKind};

use crate::disk::{Disk, Kind};
use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, Running, sections};
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::{alone, is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

fn vitals(server: &Running) -> Option<v1::LiveVitals> {
    server.aggregator.live()?.members.first()?.vitals.clone()
}

fn start(directory: &Path) -> Option<(Etcd, Running, Agent)> {
    let etcd = Etcd::start(VERSIONS[2], directory)?;
    let server = Aggregator::start();
    let agent = Agent::start(directory, server.address, &[]);
    wait_for("agent watches etcd", LIMIT, || agent.log().contains("watching syncs").then_some(()));
    Some((etcd, server, agent))
}

fn send(pid: u32, signal: i32) {
    // SAFETY: numbers; the process is a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

#[test]
fn a_short_stop_of_etcd_is_measured_and_its_sender_named() {
    if !is_root("a_short_stop_of_etcd_is_measured_and_its_sender_named") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some((etcd, server, agent)) = start(directory.path()) else { return };
    let first = wait_for("vitals", LIMIT, || {
        vitals(&server).filter(|vitals| vitals.on_cpu_ns_total.is_some() && vitals.disk_size_bytes.is_some())
    });
    println!("{first:?}");
    assert_eq!(first.stopped_ns_total, Some(0));
    assert!(first.run_delay_ns_total.is_some() && first.node_idle_ns_total.is_some() && first.node_cpus > 0);
    assert!(first.disk_free_bytes.is_some() && first.disk_free_bytes <= first.disk_size_bytes);
    wait_for("disks are known", LIMIT, || vitals(&server).filter(|vitals| vitals.io_errors_total == Some(0)));
    assert_eq!((first.sync_errors_total, first.last_errno), (Some(0), 0));
    let begin = std::time::Instant::now();
    send(etcd.pid(), libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(300));
    send(etcd.pid(), libc::SIGCONT);
    let at_most = begin.elapsed();
    let stopped = wait_for("the stop is told", LIMIT, || {
        vitals(&server).filter(|vitals| vitals.stopped_ns_total > Some(0) && vitals.signals.len() >= 2)
    });
    let lasted = Duration::from_nanos(stopped.stopped_ns_total.unwrap());
    assert!(lasted >= Duration::from_millis(300) && lasted <= at_most, "{lasted:?} of {at_most:?}");
    let told: Vec<_> = stopped.signals.iter().map(|one| (one.signal, one.sender_process_id)).collect();
    assert_eq!(told, [(19, std::process::id()), (18, std::process::id())]);
    let sender = &stopped.signals[0];
    println!("{sender:?}");
    assert!(!sender.sender_comm.is_empty() && !sender.sender_process.is_empty());
    etcd.put(5);
    let later = wait_for("it runs on", LIMIT, || {
        vitals(&server).filter(|vitals| vitals.on_cpu_ns_total > stopped.on_cpu_ns_total)
    });
    assert_eq!(later.stopped_ns_total, stopped.stopped_ns_total);
    send(etcd.pid(), libc::SIGKILL);
    let last = wait_for("its end is told", LIMIT, || {
        let member = server.aggregator.live()?.members.first()?.clone();
        member.vitals.filter(|vitals| !member.running && vitals.signals.len() >= 3)
    });
    assert_eq!(last.signals[2].signal, 9);
    assert!(agent.stop().success());
}

/// Threads of this process that do something until they are told to end.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(count: usize, work: impl Fn(usize, u64) + Clone + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |number: usize| {
            let (work, stop) = (work.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                (0..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(|round| work(number, round));
            })
        };
        let threads = (0..count).map(thread).collect();
        Self { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// A disk of its own, or a word why not.
fn disk() -> Option<Disk> {
    Disk::on_disk(Kind::Ext4).inspect_err(|reason| println!("skipped: {reason}")).ok()
}

#[test]
fn who_fills_the_journal_is_named_while_it_makes_syncs_slow() {
    if !is_root("who_fills_the_journal_is_named_while_it_makes_syncs_slow") {
        return;
    }
    let _alone = alone();
    let Some(disk) = disk() else { return };
    let directory = disk.directory().join("node");
    std::fs::create_dir(&directory).unwrap();
    let Some((etcd, server, agent)) = start(&directory) else { return };
    wait_for("vitals", LIMIT, || vitals(&server));
    assert!(vitals(&server).unwrap().journal_users.is_empty(), "nobody is looked for without a reason");
    let place = disk.directory().join("neighbour");
    std::fs::create_dir(&place).unwrap();
    let churn = |place: PathBuf| {
        move |thread: usize, round: u64| {
            let made = place.join(format!("{thread}-{}", round % 500));
            if round % 1_000 < 500 {
                let _there = std::fs::create_dir(&made);
            } else {
                let _gone = std::fs::remove_dir(&made);
            }
            if round.is_multiple_of(50) {
                std::fs::File::open(&place).and_then(|directory| directory.sync_all()).unwrap();
            }
        }
    };
    let neighbour = Busy::start(3, churn(place));
    let own = std::process::id();
    let is_own = |user: &v1::LiveCulprit| user.process_id == own && user.origin() == CulpritOrigin::Journal;
    let begin = std::time::Instant::now();
    let users = loop {
        etcd.put(20);
        let vitals = vitals(&server).unwrap();
        if vitals.journal_users.iter().any(is_own) {
            break vitals.journal_users;
        }
        if begin.elapsed() > LIMIT {
            let live = server.aggregator.live().unwrap();
            let slow = live.members[0].slow_syncs.clone().unwrap_or_default();
            let parts = slow.parts_total.unwrap_or_default();
            // Nobody waits for a journal that gets no CPU to do anything, and on a fast disk nobody waits at all.
            assert!(parts.journal_ns <= slow.latency_ns_total / 2, "nobody is named: {parts:?}");
            println!("skipped: syncs don't wait for the journal here: {parts:?}");
            return;
        }
    };
    println!("{users:#?}");
    let found = users.iter().find(|user| is_own(user)).unwrap();
    assert!(found.bytes_total > 0 && !found.comm.is_empty() && !found.process.is_empty());
    assert!(users.iter().all(|user| user.bytes_total <= found.bytes_total), "it is the worst");
    let is_culprit = |columns: &v1::Autopsies| {
        let mut culprits = columns.culprit_origin.iter().zip(&columns.culprit_process_id);
        culprits.any(|(origin, pid)| *origin == CulpritOrigin::Journal as i32 && *pid == own)
    };
    let waits = || {
        let slow = server.aggregator.live().unwrap().members[0].slow_syncs.clone().unwrap_or_default();
        let parts = slow.parts_total.unwrap_or_default();
        let journal = parts.journal_device_ns + parts.journal_queue_ns + parts.journal_flush_ns;
        (journal, slow.latency_ns_total)
    };
    let (begin, before) = (std::time::Instant::now(), waits());
    while !sections(&server.aggregator.batches(), SectionKind::Autopsy).iter().any(is_culprit) {
        etcd.put(20);
        if begin.elapsed() > LIMIT {
            // The disk is quick enough by now that nobody waits for the journal's requests.
            let now = waits();
            let (journal_ns, latency_ns) = (now.0 - before.0, now.1 - before.1);
            assert!(journal_ns <= latency_ns / 2, "not a culprit: {journal_ns} of {latency_ns} ns");
            println!("skipped: of {latency_ns} ns of slow syncs {journal_ns} waited for the journal");
            break;
        }
    }
    drop(neighbour);
    wait_for("nobody is looked for any more", LIMIT, || {
        vitals(&server).filter(|vitals| vitals.journal_users.is_empty())
    });
    wait_for("the hook is gone", LIMIT, || agent.log().contains("journal no more").then_some(()));
    assert!(agent.stop().success());
}

#[test]
fn who_fills_the_disk_is_named_while_it_is_nearly_full() {
    if !is_root("who_fills_the_disk_is_named_while_it_is_nearly_full") {
        return;
    }
    let _alone = alone();
    let Some(disk) = disk() else { return };
    let directory = disk.directory().join("node");
    std::fs::create_dir(&directory).unwrap();
    let Some((_etcd, server, agent)) = start(&directory) else { return };
    let first =
        wait_for("vitals", LIMIT, || vitals(&server).filter(|vitals| vitals.disk_free_bytes.is_some()));
    println!("{:?} of {:?} bytes free", first.disk_free_bytes, first.disk_size_bytes);
    assert!(first.disk_fillers.is_empty(), "{first:?}");
    // Slowly enough to be seen while it does.
    let path = disk.directory().join("filler");
    let room = first.disk_free_bytes.unwrap();
    let file = Arc::new(std::fs::File::create(path).unwrap());
    let step = vec![1; (room / 100) as usize];
    let filler = Busy::start(1, move |_, round| {
        if round < 96 {
            (&*file).write_all(&step).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    });
    let own = std::process::id();
    let found = wait_for("who fills it", LIMIT, || {
        let vitals = vitals(&server)?;
        // etcd itself has just made its files.
        let filler =
            vitals.disk_fillers.iter().find(|filler| filler.origin() == CulpritOrigin::Process)?.clone();
        let nearly_full = vitals.disk_free_bytes? < vitals.disk_size_bytes? / 10;
        nearly_full.then_some((filler, vitals.disk_grown_by_others_bytes_per_s))
    });
    println!("{found:?}");
    assert_eq!((found.0.process_id, found.0.origin()), (own, CulpritOrigin::Process));
    assert!(found.1 > Some(room / 100), "{found:?}");
    drop(filler);
    assert!(agent.stop().success());
}

/// A group of version 1 of its own, removed when dropped; `None`, with a word, where there is none.
struct Group(PathBuf);

impl Group {
    fn new(controller: &str) -> Option<Self> {
        let path =
            PathBuf::from(format!("/sys/fs/cgroup/{controller}/etcdmon-vitals-{}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                println!("skipped: {}: {error}", path.display());
                None
            }
        }
    }

    fn set(&self, file: &str, value: &str) {
        std::fs::write(self.0.join(file), value).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes in it end a moment after they are killed.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_quota_and_who_has_the_cpus_are_told() {
    if !is_root("a_quota_and_who_has_the_cpus_are_told") {
        return;
    }
    let _alone = alone();
    let Some(group) = Group::new("cpu") else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some((etcd, server, agent)) = start(directory.path()) else { return };
    let first =
        wait_for("vitals", LIMIT, || vitals(&server).filter(|vitals| vitals.on_cpu_ns_total.is_some()));
    assert_eq!((first.cpu_quota_millicpus, first.cpu_throttled_ns_total), (None, None));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let hogs = Busy::start(2 * cpus, |_, _| std::hint::spin_loop());
    let users = wait_for("users of CPUs", LIMIT, || {
        etcd.put(20);
        let vitals = vitals(&server)?;
        vitals.cpu_users.iter().any(|user| user.process_id == std::process::id()).then_some(vitals)
    });
    println!("{:#?}", users.cpu_users);
    let own = users.cpu_users.iter().find(|user| user.process_id == std::process::id()).unwrap();
    assert!(own.on_cpu_ns > 100_000_000 && own.threads > 2 && !own.process.is_empty(), "{own:?}");
    assert!(users.cpu_users.iter().all(|user| user.process_id != etcd.pid()));
    drop(hogs);
    let before = vitals(&server).unwrap();
    group.set("cpu.cfs_quota_us", "5000");
    group.set("cgroup.procs", &etcd.pid().to_string());
    let throttled = wait_for("the quota strikes", LIMIT, || {
        let _slow = etcd.try_ctl(&["endpoint", "health"]);
        let vitals = vitals(&server)?;
        (vitals.cpu_throttled_ns_total > Some(50_000_000)).then_some(vitals)
    });
    let delay = |vitals: &v1::LiveVitals| vitals.run_delay_ns_total.unwrap();
    println!("{} ns waited for a CPU meanwhile", delay(&throttled) - delay(&before));
    println!(
        "{:?} millicpus, {:?} ns in {:?} periods refused",
        throttled.cpu_quota_millicpus,
        throttled.cpu_throttled_ns_total,
        throttled.cpu_throttled_periods_total
    );
    assert_eq!(throttled.cpu_quota_millicpus, Some(50));
    let stat = std::fs::read_to_string(group.0.join("cpu.stat")).unwrap();
    let kernels: u64 =
        stat.lines().find_map(|line| line.strip_prefix("throttled_time ")).unwrap().parse().unwrap();
    assert!(throttled.cpu_throttled_ns_total <= Some(kernels), "{stat}");
    assert!(agent.stop().success());
    drop(etcd);
}

#[test]
fn a_limit_of_io_is_told() {
    if !is_root("a_limit_of_io_is_told") {
        return;
    }
    let _alone = alone();
    let (Some(group), Some(disk)) = (Group::new("blkio"), disk()) else { return };
    let directory = disk.directory().join("node");
    std::fs::create_dir(&directory).unwrap();
    let Some((etcd, server, agent)) = start(&directory) else { return };
    wait_for("no limit", LIMIT, || vitals(&server).filter(|vitals| vitals.io_limited == Some(false)));
    group.set("cgroup.procs", &etcd.pid().to_string());
    let number = disk.device_number();
    group.set("blkio.throttle.write_bps_device", &format!("{}:{} 1048576", number >> 20, number & 0xf_ffff));
    wait_for("the limit", LIMIT, || vitals(&server).filter(|vitals| vitals.io_limited == Some(true)));
    assert!(agent.stop().success());
    drop(etcd);
}

#[test]
fn errors_of_the_disk_are_counted() {
    if !is_root("errors_of_the_disk_are_counted") {
        return;
    }
    let _alone = alone();
    let disk = match Disk::failing(Kind::Ext4) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let directory = tempfile::tempdir().unwrap();
    // Only etcd's directories are on the disk that fails, so that the agent goes on.
    let data = disk.directory().join("data");
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&data, directory.path().join("data")).unwrap();
    let Some((_etcd, server, agent)) = start(directory.path()) else { return };
    wait_for("no errors", LIMIT, || vitals(&server).filter(|vitals| vitals.io_errors_total == Some(0)));
    let mut file = std::fs::File::create(disk.directory().join("big")).unwrap();
    let step = vec![1; 4 << 20];
    let failed = wait_for("errors", LIMIT, || {
        let _fails = file.write_all(&step).and_then(|()| file.sync_data());
        vitals(&server).filter(|vitals| vitals.io_errors_total > Some(0))
    });
    println!("{:?} requests, errno {}", failed.io_errors_total, failed.last_errno);
    assert!([libc::ENOSPC, libc::EIO].contains(&failed.last_errno), "{failed:?}");
    assert!(agent.stop().success());
}
