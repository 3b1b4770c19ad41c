//! What happens on a disk: every request, who submitted it, what it was for, and every commit of the journal, against
//! what the kernel itself counts.

use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use etcdmon_agent::{
    autopsy::evidence::{Commit, Operation, Request},
    clock::mono_ns,
    ebpf::{Lost, Position, ProbeConfig, Probes, disks_of},
};

use crate::{
    NEVER, WAL, config,
    disk::{Disk, Kind},
    order, set_up, set_up_with,
    writer::Writer,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// What /sys/block/DEVICE/stat counts (Documentation/block/stat.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    reads: u64,
    read_sectors: u64,
    writes: u64,
    write_sectors: u64,
    discards: u64,
    discard_sectors: u64,
    /// Flushes that went to the disk, however many waited for each.
    flushes: u64,
}

impl Counts {
    fn of_kernel(disk: &Disk) -> (Self, u64) {
        let text = std::fs::read_to_string(format!("/sys/block/{}/stat", disk.name())).expect("there");
        let word =
            |at: usize| text.split_whitespace().nth(at).and_then(|word| word.parse().ok()).expect("number");
        let counts = Self {
            reads: word(0),
            read_sectors: word(2),
            writes: word(4),
            write_sectors: word(6),
            discards: word(11),
            discard_sectors: word(13),
            flushes: word(15),
        };
        (counts, word(8))
    }

    fn requests(self) -> u64 {
        self.reads + self.writes + self.discards + self.flushes
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            read_sectors: self.read_sectors - earlier.read_sectors,
            writes: self.writes - earlier.writes,
            write_sectors: self.write_sectors - earlier.write_sectors,
            discards: self.discards - earlier.discards,
            discard_sectors: self.discard_sectors - earlier.discard_sectors,
            flushes: self.flushes - earlier.flushes,
        }
    }

    /// Counts as the kernel does: what a task submits to flush is a write of nothing.
    fn of(requests: &[Request]) -> Self {
        let mut counts = Self::default();
        for request in requests {
            let sectors = u64::from(request.bytes / 512);
            match request.operation {
                Operation::Read => {
                    counts.reads += 1;
                    counts.read_sectors += sectors;
                }
                Operation::Write => {
                    counts.writes += 1;
                    counts.write_sectors += sectors;
                }
                Operation::Flush if request.process_id == 0 => counts.flushes += 1,
                Operation::Flush => counts.writes += 1,
                Operation::Discard => {
                    counts.discards += 1;
                    counts.discard_sectors += sectors;
                }
                Operation::Other => panic!("nobody asked for {request:?}"),
            }
        }
        counts
    }
}

/// Everything dirty is written, and nothing happens any more.
fn rest(disk: &Disk) -> Counts {
    let directory = File::open(disk.directory()).expect("mounted");
    // SAFETY: a descriptor of ours.
    assert_eq!(unsafe { libc::syncfs(directory.as_raw_fd()) }, 0);
    let begin = Instant::now();
    let mut last = Counts::of_kernel(disk);
    let mut still = 0;
    while still < 5 {
        assert!(begin.elapsed() < DEADLINE, "{} does not come to rest", disk.name());
        std::thread::sleep(Duration::from_millis(20));
        let now = Counts::of_kernel(disk);
        still = if now == last && now.1 == 0 { still + 1 } else { 0 };
        last = now;
    }
    last.0
}

/// A disk that is watched, with a process that is.
struct Scene {
    probes: Probes,
    writer: Writer,
    disk: Disk,
    position: Position,
    commits: Position,
}

impl Scene {
    fn new() -> Option<Self> {
        Self::with(&config(1, NEVER), || Disk::new(Kind::Ext4))
    }

    /// As on kernels before 6.5.
    fn by_bio() -> Option<Self> {
        let config = ProbeConfig { block_io_start: false, ..config(1, NEVER) };
        Self::with(&config, || Disk::new(Kind::Ext4))
    }

    /// Where the kernel does not take the programs of typed tracepoints.
    fn by_helpers(block_io_start: bool) -> Option<Self> {
        let config = ProbeConfig { typed: false, block_io_start, ..config(1, NEVER) };
        Self::with(&config, || Disk::new(Kind::Ext4))
    }

    fn on_xfs() -> Option<Self> {
        Self::with(&config(1, NEVER), || Disk::new(Kind::Xfs))
    }

    fn with(config: &ProbeConfig, disk: impl FnOnce() -> Result<Disk, String>) -> Option<Self> {
        let (probes, disk) = set_up_with(config, disk)?;
        let writer = Writer::start(&disk.directory());
        probes.watch_devices(&[disk.device_number()]).expect("a disk");
        assert_eq!(probes.facts().attached, Vec::<&str>::new(), "nobody is watched");
        crate::watch(&probes, &disk, &writer);
        assert!(probes.facts().attached.contains(&"block_rq_complete"));
        assert_eq!(probes.facts().degraded, []);
        let mut scene =
            Self { probes, writer, disk, position: Position::default(), commits: Position::default() };
        rest(&scene.disk);
        scene.requests();
        scene.commits();
        Some(scene)
    }

    /// What came since the last call.
    fn requests(&mut self) -> Vec<Request> {
        let mut found = Vec::new();
        self.position = self.probes.requests(self.position, &mut found);
        assert_eq!(self.position.overwritten(), 0);
        found
    }

    fn commits(&mut self) -> Vec<Commit> {
        let mut found = Vec::new();
        self.commits = self.probes.commits(self.commits, &mut found);
        assert_eq!(self.commits.overwritten(), 0);
        found
    }

    fn inode(&self, file: &str) -> u64 {
        std::fs::metadata(self.disk.directory().join(file)).expect("written").ino()
    }
}

fn name(request: &Request) -> String {
    let end = request.comm.iter().position(|byte| *byte == 0).unwrap_or(16);
    String::from_utf8_lossy(&request.comm[..end]).into_owned()
}

/// Seen to the last one and none lost, or as many lost as are missing. While somebody else comes to a hook or leaves it, as tests beside this one do, the kernel
/// passes over a few events; such a request is found to have no end when its place is used again.
fn assert_all_seen(probes: &Probes, seen: &[Request], counted: Counts) {
    let found = Counts::of(seen);
    if found == counted {
        assert_eq!((probes.requests_under_way(), crate::lost(probes)), (vec![], vec![]));
        return;
    }
    let losses = probes.losses();
    let lost: u64 = losses.iter().filter(|loss| loss.lost == Lost::Request).map(|loss| loss.count).sum();
    let stuck = probes.requests_under_way().len() as u64;
    eprintln!("{found:?} of {counted:?}: {losses:?}, {stuck} without an end so far");
    let missing = counted.requests().checked_sub(found.requests()).expect("no more than there were");
    assert!((1..=lost + stuck).contains(&missing), "{missing} missing");
    assert!(missing * 100 <= counted.requests(), "{missing} of {counted:?}");
}

/// The times of a request that completed are in order, and it says who wanted it.
fn is_whole(request: &Request, device: u32) {
    assert_eq!(request.device, device, "{request:?}");
    assert!(request.queued_ns > 0 && request.queued_ns <= request.issued_ns, "{request:?}");
    assert!(request.issued_ns <= request.completed_ns, "{request:?}");
    let of_the_kernel = request.operation == Operation::Flush && request.process_id == 0;
    assert!(of_the_kernel || (request.thread_id != 0 && request.comm[0] != 0), "{request:?}");
}

#[test]
fn every_request_is_seen_to_the_last_as_the_kernel_counts_them() {
    if let Some(scene) = Scene::new() {
        all_are_seen(scene);
    }
}

#[test]
fn older_kernels_see_every_request_as_well() {
    if let Some(scene) = Scene::by_bio() {
        let attached = scene.probes.facts().attached;
        assert!(attached.contains(&"block_getrq") && !attached.contains(&"block_io_start"));
        all_are_seen(scene);
    }
}

#[test]
fn programs_that_ask_helpers_see_every_request_as_well() {
    for block_io_start in [true, false] {
        if let Some(scene) = Scene::by_helpers(block_io_start) {
            all_are_seen(scene);
        }
    }
}

#[test]
fn on_xfs_every_request_is_seen_as_well() {
    if let Some(scene) = Scene::on_xfs() {
        all_are_seen(scene);
    }
}

fn all_are_seen(mut scene: Scene) {
    let before = rest(&scene.disk);
    scene.requests();
    scene.writer.carry_out(order("write+fdatasync", WAL, 200, 2_300));
    scene.writer.carry_out(order("pwrite+fdatasync", "member/snap/db", 50, 40_960));
    scene.writer.carry_out(order("threads", "member/wal/x", 200, 512));
    scene.writer.carry_out(order("write", "member/big", 100, 100_000));
    scene.writer.carry_out(order("direct", "member/direct", 300, 4_096));
    scene.writer.carry_out(order("direct-read", "member/direct", 200, 4_096));
    rest(&scene.disk);
    let trimmed = Command::new("fstrim").arg(scene.disk.directory()).status();
    eprintln!("fstrim: {trimmed:?}");
    let counted = rest(&scene.disk).since(before);
    let requests = scene.requests();
    eprintln!("{counted:?}");
    assert_all_seen(&scene.probes, &requests, counted);
    assert!(counted.writes > 500 && counted.reads >= 200 && counted.flushes > 100, "{counted:?}");
    requests.iter().for_each(|request| is_whole(request, scene.disk.device_number()));
}

#[test]
fn a_direct_write_is_its_threads_and_a_flush_too() {
    let scenes = [Scene::new(), Scene::by_bio(), Scene::by_helpers(true), Scene::on_xfs()];
    for mut scene in scenes.into_iter().flatten() {
        direct_writes_are_their_threads(&mut scene);
    }
}

fn direct_writes_are_their_threads(scene: &mut Scene) {
    scene.writer.carry_out(order("direct", "member/direct", 50, 4_096));
    rest(&scene.disk);
    scene.requests();
    // The blocks are there: nothing but data is written.
    scene.writer.carry_out(order("direct", "member/direct", 50, 4_096));
    let pid = scene.writer.pid();
    let ours: Vec<Request> =
        scene.requests().into_iter().filter(|request| request.process_id == pid).collect();
    assert_eq!(ours.len(), 50, "{ours:?}");
    for request in &ours {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/task/{}/comm", request.thread_id));
        assert_eq!(comm.expect("a thread of it").trim_end(), name(request));
        assert_eq!((request.operation, request.bytes, request.error), (Operation::Write, 4_096, 0));
        assert!(request.sync && !request.meta && !request.fua);
        assert_eq!(request.inode, 0, "nobody asks when a task submits by itself");
        assert_ne!(request.cgroup, 0);
    }
    // The first one has times to write, the second one nothing.
    scene.writer.carry_out(order("fsync", "member/direct", 1, 0));
    rest(&scene.disk);
    scene.requests();
    scene.writer.carry_out(order("fsync", "member/direct", 1, 0));
    let flushes = scene.requests().into_iter().filter(|request| request.operation == Operation::Flush);
    let (ours, kernels): (Vec<_>, Vec<_>) = flushes.partition(|request| request.process_id != 0);
    let [own] = &ours[..] else { panic!("{ours:?}") };
    assert_eq!((own.process_id, own.bytes), (pid, 0));
    assert!(kernels.iter().any(|flush| flush.issued_ns == own.issued_ns), "{own:?} {kernels:?}");
}

#[test]
fn writeback_is_a_kworkers_and_names_the_file() {
    let scenes = [Scene::new(), Scene::by_bio(), Scene::by_helpers(true), Scene::on_xfs()];
    for mut scene in scenes.into_iter().flatten() {
        writeback_names_the_file(&mut scene);
    }
}

fn writeback_names_the_file(scene: &mut Scene) {
    scene.writer.carry_out(order("write", "member/log", 100, 40_960));
    rest(&scene.disk);
    let inode = scene.inode("member/log");
    let requests = scene.requests();
    let of_file: Vec<&Request> = requests.iter().filter(|request| request.inode == inode).collect();
    let bytes: u64 = of_file.iter().map(|request| u64::from(request.bytes)).sum();
    assert_eq!(bytes, 100 * 40_960, "{requests:?}");
    let pid = scene.writer.pid();
    for request in of_file {
        assert!(name(request).starts_with("kworker/"), "{request:?}");
        assert_ne!(request.process_id, pid);
    }
}

/// Commits as /proc/fs/jbd2 counts them.
fn commits_of_kernel(disk: &Disk) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/fs/jbd2/{}-8/info", disk.name())).expect("a journal");
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn every_commit_is_seen_with_its_phases_and_its_requests() {
    let Some(mut scene) = Scene::new() else { return };
    let before = commits_of_kernel(&scene.disk);
    for round in 0..40 {
        // A file that grows needs the journal.
        scene.writer.carry_out(order("write+fsync", "member/log", 1, 10_000 + round));
    }
    rest(&scene.disk);
    let counted = commits_of_kernel(&scene.disk) - before;
    let commits = scene.commits();
    assert_eq!(commits.len() as u64, counted);
    assert!(counted >= 40, "{counted}");
    let requests = scene.requests();
    let thread = format!("jbd2/{}-8", scene.disk.name());
    for commit in &commits {
        let times =
            [commit.start_ns, commit.locking_ns, commit.flushing_ns, commit.logging_ns, commit.end_ns];
        assert!(times[0] > 0 && times.is_sorted(), "{commit:?}");
        assert_eq!(commit.device, scene.disk.device_number());
        let of_commit: Vec<&Request> = requests
            .iter()
            .filter(|request| name(request) == thread && (times[0]..=times[4]).contains(&request.queued_ns))
            .collect();
        assert!(of_commit.iter().any(|request| request.fua), "a commit block: {commit:?} {of_commit:?}");
        assert!(of_commit.iter().all(|request| request.completed_ns <= times[4]), "{commit:?} {of_commit:?}");
    }
    assert!(commits.windows(2).all(|pair| pair[0].transaction < pair[1].transaction));
    assert_eq!(scene.probes.commits_under_way(), []);
}

#[test]
fn other_disks_are_not_recorded() {
    let Some(mut scene) = Scene::new() else { return };
    let other = match Disk::new(Kind::Ext4) {
        Ok(other) => other,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let mut foreign = Writer::start(&other.directory());
    for _ in 0..20 {
        foreign.carry_out(order("write+fsync", "member/log", 5, 10_000));
        scene.writer.carry_out(order("write+fsync", "member/log", 5, 10_000));
    }
    rest(&other);
    rest(&scene.disk);
    let device = scene.disk.device_number();
    let requests = scene.requests();
    assert!(requests.len() > 100 && requests.iter().all(|request| request.device == device));
    assert!(scene.commits().iter().all(|commit| commit.device == device));
    let pid = foreign.pid();
    // A disk that is watched later is known from then on, and one that is no longer watched is not.
    scene.probes.watch_devices(&[other.device_number()]).expect("a disk");
    scene.requests();
    let switched_ns = mono_ns();
    foreign.carry_out(order("direct", "member/direct", 20, 4_096));
    scene.writer.carry_out(order("direct", "member/direct", 20, 4_096));
    rest(&other);
    // The filesystem reads its maps of blocks when it likes: what began before may end now.
    let requests: Vec<Request> =
        scene.requests().into_iter().filter(|request| request.queued_ns >= switched_ns).collect();
    assert!(requests.iter().filter(|request| request.process_id == pid).count() >= 20);
    let strangers: Vec<&Request> =
        requests.iter().filter(|request| request.device != other.device_number()).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert_eq!(crate::lost(&scene.probes), []);
}

#[test]
fn four_threads_at_full_speed_are_read_meanwhile_without_a_gap() {
    let Some(mut scene) = Scene::new() else { return };
    let before = rest(&scene.disk);
    let mut all = scene.requests();
    all.clear();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            for _ in 0..4 {
                scene.writer.carry_out(order("threads", "member/wal/x", 500, 512));
            }
        });
        while !load.is_finished() {
            let position = scene.probes.requests(scene.position, &mut all);
            assert_eq!(position.overwritten(), 0);
            scene.position = position;
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let counted = rest(&scene.disk).since(before);
    scene.position = scene.probes.requests(scene.position, &mut all);
    eprintln!("{} requests", all.len());
    assert_all_seen(&scene.probes, &all, counted);
    all.iter().for_each(|request| is_whole(request, scene.disk.device_number()));
}

#[test]
fn what_is_not_read_in_time_is_overwritten_and_counted() {
    let Some(mut scene) = Scene::new() else { return };
    let since = scene.position;
    let mut total = 0;
    for _ in 0..10 {
        scene.writer.carry_out(order("direct", "member/direct", 1_000, 4_096));
        total += scene.requests().len() as u64;
    }
    rest(&scene.disk);
    total += scene.requests().len() as u64;
    assert!(total >= 10_000, "{total}");
    let mut found = Vec::new();
    let position = scene.probes.requests(since, &mut found);
    assert_eq!(found.len(), 8_192);
    assert_eq!(position.overwritten() + 8_192, total);
    assert!(found.is_sorted_by_key(|request| request.completed_ns / 1_000_000));
}

#[test]
fn a_request_that_fails_says_how() {
    let Some(mut scene) = Scene::with(&config(1, NEVER), || Disk::failing(Kind::Ext4)) else { return };
    let mut errors = Vec::new();
    for round in 0..300 {
        scene.writer.carry_out(order("write", "member/big", 1, 1 << 20));
        let directory = File::open(scene.disk.directory()).expect("mounted");
        // SAFETY: a descriptor of ours. It fails when the disk does.
        unsafe { libc::syncfs(directory.as_raw_fd()) };
        errors.extend(scene.requests().into_iter().filter(|request| request.error != 0));
        if !errors.is_empty() {
            eprintln!("failed after {round} MiB");
            break;
        }
    }
    assert!(!errors.is_empty(), "the device should have failed");
    for request in &errors {
        assert!([-libc::ENOSPC, -libc::EIO].contains(&request.error), "{request:?}");
    }
    // Those that were read are no more than were counted: the disk goes on failing.
    let counted = scene.probes.request_failures();
    let sum: u64 = counted.iter().map(|failures| failures.count).sum();
    assert!(sum >= errors.len() as u64, "{sum} counted, {} read", errors.len());
    for failures in counted {
        assert_eq!(failures.device, scene.disk.device_number());
        assert!([libc::ENOSPC, libc::EIO].contains(&failures.errno), "{failures:?}");
    }
}

#[test]
fn hooks_of_disks_go_with_the_last_process() {
    let Some(mut scene) = Scene::new() else { return };
    let pid = scene.writer.pid();
    let of_disks = |probes: &Probes| {
        let attached = probes.facts().attached;
        attached.into_iter().filter(|event| event.starts_with("block_") || event.starts_with("jbd2_")).count()
    };
    assert_eq!(of_disks(&scene.probes), 9);
    scene.probes.remove_target(pid);
    assert_eq!(scene.probes.facts().attached, Vec::<&str>::new());
    scene.writer.carry_out(order("direct", "member/direct", 20, 4_096));
    assert_eq!(scene.requests(), []);
    assert_eq!(scene.probes.requests_under_way(), []);
    // They come back with the next one, without being told the disks again.
    crate::watch(&scene.probes, &scene.disk, &scene.writer);
    assert_eq!(of_disks(&scene.probes), 9);
    scene.writer.carry_out(order("direct", "member/direct", 20, 4_096));
    assert!(scene.requests().len() >= 20);
    scene.probes.watch_devices(&[]).expect("none");
    assert_eq!(of_disks(&scene.probes), 0);
    assert_eq!(crate::lost(&scene.probes), []);
}

#[test]
fn too_many_disks_are_refused() {
    let Some((probes, _disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let devices: Vec<u32> = (1..=65).collect();
    assert!(probes.watch_devices(&devices).is_err());
    assert!(probes.watch_devices(&devices[..64]).is_ok());
}

#[test]
fn the_disks_of_a_directory_are_its_own_and_what_carries_it() {
    let Some((_probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let pid = std::process::id();
    // The image is in memory, which has no disk.
    assert_eq!(disks_of(pid, &disk.directory()).expect("mounted"), [disk.device_number()]);
    let image = disk.directory().join("image");
    File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("create");
    let upper = Loop::new(&image);
    let mut found = Vec::new();
    for number in disks_of_device(&upper.0) {
        found.push(number);
    }
    assert_eq!(found.last(), Some(&disk.device_number()), "{found:?}");
    assert_eq!(found.len(), 2);
}

/// A loop device with nothing on it.
struct Loop(PathBuf);

impl Loop {
    fn new(image: &Path) -> Self {
        let done = Command::new("losetup").args(["--find", "--show"]).arg(image).output().expect("losetup");
        assert!(done.status.success());
        Self(PathBuf::from(String::from_utf8_lossy(&done.stdout).trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

fn disks_of_device(device: &Path) -> Vec<u32> {
    let place = tempfile::tempdir().expect("temporary directory");
    let run = |program: &str, arguments: &[&Path]| {
        let status = Command::new(program).args(arguments).status().expect("run");
        assert!(status.success(), "{program}");
    };
    run("mkfs.ext4", &[Path::new("-q"), device]);
    run("mount", &[device, place.path()]);
    let found = disks_of(std::process::id(), place.path());
    run("umount", &[place.path()]);
    found.expect("mounted")
}
