//! Hand-made syncs of which every instant is known, and properties that hold for any evidence.

use super::*;

mod culprits;
mod journal;
mod layers;
mod own;
mod properties;
mod sums;
mod throttle;

/// Begin of every window, in nanoseconds.
const START: u64 = 1_000_000_000_000;
const THREAD: u32 = 77;
const PROCESS: u32 = 70;
const INODE: u64 = 500;
const DISK: u32 = 254 << 20;
const PARTITION: u32 = 254 << 20 | 1;
/// Cgroup of the syncing process.
const CGROUP: u64 = 33;
const KIB: u32 = 1024;

/// A moment, microseconds after the begin of the window; negative ones are before it.
fn at(microseconds: i64) -> u64 {
    START.checked_add_signed(microseconds * 1_000).expect("in range")
}

/// A sync of so many microseconds on an ext4 partition.
fn window(latency_us: u64) -> Window {
    Window {
        process_id: PROCESS,
        thread_id: THREAD,
        class: FileClass::Wal,
        start_ns: START,
        latency_ns: latency_us * 1_000,
        run_delay_ns: 0,
        on_cpu_ns: None,
        inode: INODE,
        filesystem: PARTITION,
        log: Log::Jbd2,
        disks: vec![Disk { device: DISK, ..Disk::default() }],
        cgroups: vec![CGROUP],
    }
}

fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

/// Times of a request: queued, issued, completed; `NEVER` = it did not come to that.
const NEVER: i64 = i64::MIN;

fn time(microseconds: i64) -> u64 {
    if microseconds == NEVER { 0 } else { at(microseconds) }
}

/// A write of 4 KiB by somebody.
fn write(name: &str, thread_id: u32, times: [i64; 3]) -> Request {
    Request {
        device: DISK,
        operation: Operation::Write,
        sync: true,
        bytes: 4 * KIB,
        queued_ns: time(times[0]),
        issued_ns: time(times[1]),
        completed_ns: time(times[2]),
        thread_id,
        process_id: thread_id,
        comm: comm(name),
        ..Request::default()
    }
}

/// A write of the syncing thread.
fn own(times: [i64; 3]) -> Request {
    Request { process_id: PROCESS, cgroup: CGROUP, charged: CGROUP, ..write("etcd", THREAD, times) }
}

/// An empty request for a flush.
fn empty(request: Request) -> Request {
    Request { fua: true, bytes: 0, ..request }
}

/// The flush machinery's request.
fn flush(issued: i64, completed: i64) -> Request {
    Request {
        operation: Operation::Flush,
        fua: true,
        bytes: 0,
        thread_id: 0,
        process_id: 0,
        ..write("kworker/0:1H", 0, [NEVER, issued, completed])
    }
}

/// Writeback's of the synced file.
fn writeback(times: [i64; 3]) -> Request {
    Request { inode: INODE, ..write("kworker/u8:2", 900, times) }
}

/// A request of the file that blk-throttle let go at last.
fn late(times: [i64; 3]) -> Request {
    Request { inode: INODE, charged: CGROUP, ..write("kworker/1:1", 901, times) }
}

fn jbd2(times: [i64; 3]) -> Request {
    write("jbd2/vda1-8", 300, times)
}

/// Somebody else's.
fn foreign(times: [i64; 3]) -> Request {
    Request { cgroup: 44, charged: 44, bytes: 64 * KIB, ..write("fio", 600, times) }
}

fn commit(start: i64, end: i64) -> Commit {
    Commit {
        device: PARTITION,
        start_ns: time(start),
        locking_ns: time(start),
        flushing_ns: 0,
        logging_ns: 0,
        end_ns: time(end),
        transaction: 5,
    }
}

/// The parts that are not zero, in microseconds.
fn parts(autopsy: &Autopsy) -> Vec<(&'static str, u64)> {
    let values = Parts::NAMES.into_iter().zip(autopsy.parts.values());
    values.filter(|(_, ns)| *ns > 0).map(|(name, ns)| (name, ns / 1_000)).collect()
}

/// Device, queue and flush of the journal, in microseconds.
fn journal_parts(autopsy: &Autopsy) -> [u64; 3] {
    let JournalParts { device_ns, queue_ns, flush_ns } = autopsy.journal;
    [device_ns / 1_000, queue_ns / 1_000, flush_ns / 1_000]
}

fn examine(window: &Window, requests: &[Request], commits: &[Commit]) -> Autopsy {
    let autopsy = super::autopsy(window, requests, commits, &Counters::default());
    assert_eq!(autopsy.parts.values().iter().sum::<u64>(), window.latency_ns, "{autopsy:?}");
    autopsy
}

/// Parts of a sync of 20 ms.
fn of(requests: &[Request], commits: &[Commit]) -> Vec<(&'static str, u64)> {
    parts(&examine(&window(20_000), requests, commits))
}
