//! What the spool costs the filesystem that it shares with etcd: `spool_device DIR [SECONDS]`, best on a device of its own.
//!
//! Batches of 16 KiB go through the spool as with an aggregator that acknowledges after eight seconds, then as with none; beside it a file is
//! appended to and synced as etcd does with its WAL. The last line of output has the figures, from /proc/diskstats and jbd2's
//! tracepoints (ext4, root).

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etcdmon_agent::spool::{Batch, BatchId, Counts, DiskFiles, Keys, Limits, Spool, WhenFull};

const BATCH_BYTES: usize = 16 << 10;
const BATCHES_PER_SECOND: u64 = 200;
const ACKNOWLEDGED_AFTER: u64 = 8 * BATCHES_PER_SECOND;
const LIMITS: Limits = Limits {
    disk_bytes: 1 << 30,
    ram_bytes: 16 << 20,
    write_bytes_per_second: 0,
    when_full: WhenFull::DropOldest,
};

/// What a device and its journal did.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    writes: f64,
    written_bytes: f64,
    commits: f64,
    handles: f64,
    logged_blocks: f64,
    data_flushes: f64,
}

/// The journal's own tracepoints, in an instance that goes when this is dropped.
struct Trace {
    instance: PathBuf,
    device: String,
}

impl Trace {
    fn start(directory: &Path) -> Result<Self> {
        let device = fs::metadata(directory)?.dev();
        let device = format!("{},{}", libc::major(device), libc::minor(device));
        let instance = PathBuf::from(format!("/sys/kernel/tracing/instances/spool-{}", std::process::id()));
        fs::create_dir(&instance).context("tracefs at /sys/kernel/tracing")?;
        let trace = Self { instance, device };
        fs::write(trace.instance.join("buffer_size_kb"), "8192")?;
        for event in ["jbd2_run_stats", "jbd2_submit_inode_data"] {
            fs::write(trace.instance.join("events/jbd2").join(event).join("enable"), "1")?;
        }
        Ok(trace)
    }

    /// What happened since the last time.
    fn take(&self, directory: &Path, since: Counters) -> Result<(Counters, Counters)> {
        let trace = fs::read_to_string(self.instance.join("trace"))?;
        fs::write(self.instance.join("trace"), "")?;
        let (mut now, device) = (Counters::of_device(directory)?, format!("dev {} ", self.device));
        for line in trace.lines().filter(|line| line.contains(&device)) {
            let field = |name: &str| -> f64 {
                let rest = line.split_once(name).map(|(_, rest)| rest.split_whitespace().next());
                rest.flatten().and_then(|text| text.parse().ok()).unwrap_or(0.0)
            };
            if line.contains("jbd2_run_stats") {
                now.commits += 1.0;
                now.handles += field("handle_count ");
                now.logged_blocks += field("blocks_logged ");
            } else {
                now.data_flushes += 1.0;
            }
        }
        let spent = Counters {
            writes: now.writes - since.writes,
            written_bytes: now.written_bytes - since.written_bytes,
            ..now
        };
        Ok((now, spent))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _gone_or_busy = fs::remove_dir(&self.instance);
    }
}

impl Counters {
    fn of_device(directory: &Path) -> Result<Self> {
        let device = fs::metadata(directory)?.dev();
        let (major, minor) = (libc::major(device).to_string(), libc::minor(device).to_string());
        let stats = fs::read_to_string("/proc/diskstats")?;
        let line = stats
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&major.as_str()) && fields.get(1) == Some(&minor.as_str()))
            .context("the device is not in /proc/diskstats")?;
        let (writes, written_bytes) = (line[7].parse()?, line[9].parse::<f64>()? * 512.0);
        Ok(Self { writes, written_bytes, ..Self::default() })
    }
}

/// Appends and syncs as etcd's WAL does, until told to stop; returns how long each sync took.
fn write_ahead(path: PathBuf, stop: &AtomicBool) -> Result<Vec<Duration>> {
    let file = File::create(path)?;
    // SAFETY: the descriptor is open for the duration of the call, which touches no memory of ours.
    let allocated = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 64 << 20) };
    anyhow::ensure!(allocated == 0, "fallocate: {}", std::io::Error::last_os_error());
    let (mut took, mut offset) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        file.write_all_at(&[7; 2048], offset)?;
        let begin = Instant::now();
        file.sync_data()?;
        took.push(begin.elapsed());
        offset = (offset + 2048) % (64 << 20);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(took)
}

fn batch(sequence: u64, now: u64) -> Batch {
    Batch {
        id: BatchId { epoch: [1; 16], sequence },
        payload: vec![sequence as u8; BATCH_BYTES].into(),
        counts: Counts::default(),
        span_ns: (0, 0),
        oldest_mono_ns: now,
        coverage: Vec::new(),
    }
}

/// Pushes in real time; with `acknowledge` each batch goes after eight seconds.
fn push(spool: &mut Spool<DiskFiles>, from: u64, seconds: u64, acknowledge: bool) -> u64 {
    let (begin, mut taken) = (Instant::now(), VecDeque::new());
    let batches = seconds * BATCHES_PER_SECOND;
    for number in 0..batches {
        let due = Duration::from_micros(number * 1_000_000 / BATCHES_PER_SECOND);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let now = (from + number) * 1_000_000_000 / BATCHES_PER_SECOND;
        spool.push(batch(from + number, now), now);
        if number % BATCHES_PER_SECOND == 0 {
            spool.tick(now);
        }
        if acknowledge {
            taken.extend(spool.take().0.map(|outgoing| outgoing.id));
            if taken.len() as u64 > ACKNOWLEDGED_AFTER {
                taken.pop_front().map(|id| spool.acknowledge(id));
            }
        }
    }
    taken.into_iter().for_each(|id| _ = spool.acknowledge(id));
    from + batches
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = PathBuf::from(arguments.next().context("usage: spool_device DIR [SECONDS]")?);
    let seconds = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(30);
    let files = DiskFiles::open(&directory.join("spool"))?;
    let (mut spool, _) = Spool::open(files, LIMITS, Keys::default(), [1; 16])?;
    let mut figures = Vec::new();
    let trace = Trace::start(&directory)?;
    let mut next = 1;
    for (phase, spooling, acknowledge) in [
        ("alone", false, false),
        ("acknowledged", true, true),
        ("backlog", true, false),
        ("drained", false, true),
    ] {
        let stop = Arc::new(AtomicBool::new(false));
        let (before, _) = trace.take(&directory, Counters::default())?;
        let writer = {
            let (stop, path) = (Arc::clone(&stop), directory.join("wal"));
            std::thread::spawn(move || write_ahead(path, &stop))
        };
        if spooling {
            next = push(&mut spool, next, seconds, acknowledge);
        } else {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(seconds) {
                let now = next * 1_000_000_000 / BATCHES_PER_SECOND;
                for _batch in 0..if acknowledge { 2 * BATCHES_PER_SECOND } else { 0 } {
                    if let Some(outgoing) = spool.take().0 {
                        spool.acknowledge(outgoing.id);
                    }
                }
                spool.tick(now);
                next += BATCHES_PER_SECOND;
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut took = writer.join().expect("does not panic")?;
        let (_, spent) = trace.take(&directory, before)?;
        took.sort();
        let syncs = took.len() as f64;
        let quantile = |share: f64| took[((syncs - 1.0) * share) as usize].as_secs_f64() * 1e3;
        for (name, value, unit) in [
            ("device_writes", spent.writes, "writes"),
            ("device_written", spent.written_bytes / 1e6, "MB"),
            ("journal_commits", spent.commits, "commits"),
            ("journal_handles", spent.handles, "handles"),
            ("journal_logged", spent.logged_blocks, "blocks"),
            ("commit_data_flushes", spent.data_flushes, "flushes"),
            ("wal_syncs", syncs, "syncs"),
            ("wal_sync_p50", quantile(0.5), "ms"),
            ("wal_sync_p99", quantile(0.99), "ms"),
        ] {
            println!("{phase} {name} {value:.2} {unit}");
            figures.push(serde_json::json!({
                "name": format!("{phase}_{name}"), "value": value, "unit": unit, "goal": null, "better": "lower",
            }));
        }
    }
    println!("{}", serde_json::json!({ "bench": "spool_device", "figures": figures }));
    Ok(())
}
