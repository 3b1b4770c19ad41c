//! Loaded probes, a writer that they watch, and what was found out about both.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use etcdmon_agent::{
    autopsy::evidence::{Commit, Request},
    ebpf::{Position, ProbeConfig, Probes, SyncRecord, TargetCounters, Watch, disks_of},
};

use crate::{
    report::{Kind, Outcome, Report},
    writer::{Order, Writer},
};

/// How long a disk may take to come to rest, in an emulator on a busy machine.
const REST_WITHIN: Duration = Duration::from_secs(120);

/// What the kernel itself counts of a disk (Documentation/block/stat.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskCounts {
    /// Writes that completed.
    pub writes: u64,
    in_flight: u64,
    flushes: u64,
}

impl DiskCounts {
    fn read(disk: &str) -> Result<Self> {
        let path = format!("/sys/block/{disk}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // Flushes are counted from 5.5 on.
        let word = |at: usize| text.split_whitespace().nth(at).and_then(|word| word.parse().ok());
        let word = |at| word(at).with_context(|| format!("word {at} of {path}"));
        Ok(Self { writes: word(4)?, in_flight: word(8)?, flushes: word(15)? })
    }

    /// Has everything dirty written and waits until nothing happens any more.
    ///
    /// # Errors
    /// When that does not come.
    pub fn at_rest(disk: &str) -> Result<Self> {
        // SAFETY: takes nothing.
        unsafe { libc::sync() };
        let begin = Instant::now();
        let (mut last, mut still) = (Self::read(disk)?, 0);
        while still < 5 {
            ensure!(begin.elapsed() < REST_WITHIN, "{disk} does not come to rest");
            std::thread::sleep(Duration::from_millis(50));
            let now = Self::read(disk)?;
            still = if now == last && now.in_flight == 0 { still + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }
}

/// Probes that watch a writer.
pub struct Scene {
    /// The probes.
    pub probes: Probes,
    /// The writer.
    pub writer: Writer,
    /// How it is watched.
    pub watch: Watch,
    directory: PathBuf,
    requests: Position,
    commits: Position,
}

/// Every sync has a record.
pub fn config() -> ProbeConfig {
    let never = Duration::from_secs(1_000_000);
    ProbeConfig { sample_every: 1, slow_threshold: never, ..ProbeConfig::default() }
}

impl Scene {
    /// Begins to watch a new writer in `directory`, with the disks beneath it and `scratch`.
    ///
    /// # Errors
    /// When no writer can be started, or nothing hooks it.
    pub fn begin(probes: Probes, directory: &Path, scratch: &Path) -> Result<Self> {
        for below in ["member/wal", "member/snap"] {
            std::fs::create_dir_all(directory.join(below))
                .with_context(|| format!("create {below} in {}", directory.display()))?;
        }
        let writer = Writer::start(directory)?;
        let watch = probes.add_target(writer.pid(), &[directory.to_owned()])?;
        let mut disks = disks_of(writer.pid(), directory).context("find the disks of the directory")?;
        disks.push(device_of(scratch)?);
        probes.watch_devices(&disks)?;
        Ok(Self::of(probes, writer, watch, directory))
    }

    /// A writer in `directory` that is watched already.
    pub fn of(probes: Probes, writer: Writer, watch: Watch, directory: &Path) -> Self {
        let (requests, commits) = (Position::default(), Position::default());
        Self { probes, writer, watch, directory: directory.to_owned(), requests, commits }
    }

    /// A file of the writer.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The filesystem that the writer works on.
    ///
    /// # Errors
    /// When its directory is gone.
    pub fn filesystem(&self) -> Result<u32> {
        Ok(encoded(std::fs::metadata(&self.directory)?.dev()))
    }

    /// Has orders carried out and says what was counted meanwhile.
    ///
    /// # Errors
    /// When one can't be carried out.
    pub fn count(&mut self, orders: &[Order]) -> Result<TargetCounters> {
        let pid = self.writer.pid();
        let before = self.probes.snapshot(pid).context("watched")?;
        self.writer.carry_out(orders)?;
        Ok(self.probes.snapshot(pid).context("watched")?.since(&before))
    }

    /// Requests that completed since the last call.
    pub fn requests(&mut self) -> Vec<Request> {
        let mut found = Vec::new();
        self.requests = self.probes.requests(self.requests, &mut found);
        found
    }

    /// Commits that ended since the last call.
    pub fn commits(&mut self) -> Vec<Commit> {
        let mut found = Vec::new();
        self.commits = self.probes.commits(self.commits, &mut found);
        found
    }

    /// Every record of a sync; only once.
    pub fn records(&self) -> Vec<SyncRecord> {
        let mut found = Vec::new();
        if let Some(mut records) = self.probes.take_records() {
            records.drain(|record| found.push(record));
        }
        found
    }

    /// Why something is off: its capability's reason, as the agent says it.
    pub fn off(&self, capability: &str) -> Option<String> {
        let degraded = self.probes.facts().degraded;
        degraded.into_iter().find(|off| off.capability == capability).map(|off| off.reason)
    }

    /// Notes what was missed.
    pub fn note_losses(&self, report: &mut Report) {
        for loss in self.probes.losses() {
            report.note(&format!("{} missed {} ({})", loss.program, loss.count, loss.reason));
        }
    }
}

/// The number of a device file, as the agent encodes it.
///
/// # Errors
/// When it is not there.
pub fn device_of(file: &Path) -> Result<u32> {
    let metadata = std::fs::metadata(file).with_context(|| format!("look at {}", file.display()))?;
    Ok(encoded(metadata.rdev()))
}

fn encoded(device: u64) -> u32 {
    libc::major(device) << 20 | libc::minor(device)
}

/// Begins a list of verdicts: what this kernel lacks has its own at once.
pub fn take_stock(report: &mut Report, probes: &Probes) {
    let inventory = probes.inventory();
    for (program, functions) in inventory.programs {
        match functions {
            Ok(functions) => report.expect(Kind::Program, program, Some(&functions.join(", "))),
            Err(reason) => {
                report.expect(Kind::Program, program, None);
                report.verdict(Kind::Program, program, &Outcome::Off(reason));
            }
        }
    }
    for (feature, missing) in inventory.features {
        report.expect(Kind::Feature, feature, None);
        if !missing.is_empty() {
            let reason = format!("this kernel has no {}", missing.join(", "));
            report.verdict(Kind::Feature, feature, &Outcome::Off(reason));
        }
    }
}
