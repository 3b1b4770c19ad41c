//! Why a member is slow, and who did it: from what its agent reports of its last seconds to a verdict. Pure: no I/O, time is
//! an argument.
//!
//! ```text
//! live messages → trail (differences of the last seconds) → facts (a window, summed up) → judge → findings → incidents
//! ```
//!
//! # What a verdict needs
//! Harm comes first: WAL syncs of 10 ms and more that take a part of the time, in several seconds, or something that is harm
//! in itself (a process that was stopped, refused CPU time, requests that failed, a disk without room). Without harm there is
//! no verdict, however busy a neighbour is.
//!
//! Each cause is then judged by its own evidence, so that two causes at once are two findings. But a consequence is no
//! second cause: a slow device makes its queue long, a neighbour on the disk makes the journal slow, somebody on the CPUs makes
//! everything late. Whatever explains another is listed among what was ruled out, with the reason.
//!
//! # Invariants
//! - Shares lie between 0 and 1, whatever the counters say.
//! - A culprit is named only for causes that have one ([`Cause::has_culprit`]).
//! - At most one incident of a member and a cause is open at a time.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::At;

mod facts;
mod incident;
mod judge;
mod shown;
mod trail;
mod watch;

pub use facts::{Cpu, Facts, Harm, Signals, Slow, Storage};
pub use incident::{Incidents, MAX_KEPT, Mention, Place, QUIET, Step, UNHEARD};
pub use judge::judge;
pub use shown::{DiagnosisView, OpenDiagnosis, Shown};
pub use trail::{Sample, Second, Syncs, Trail, Vitals};
pub use watch::Watch;

/// Syncs that take at least this long are slow: etcd's own recommendation.
pub const SLOW: Duration = Duration::from_millis(10);

/// What made a member slow. The names are stable: they stand in API, alerts and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Others' requests on its disk: buffered, syncing or direct.
    DiskNeighbour,
    /// Others' metadata in the journal of its filesystem.
    JournalContention,
    /// No neighbour: the device itself takes long.
    SlowDevice,
    /// Requests or syncs failed.
    DeviceErrors,
    /// An IO limit on its own cgroup.
    IoThrottle,
    /// Others use the CPUs.
    CpuStarvation,
    /// The CPU quota of its own cgroup.
    CpuQuota,
    /// A signal stopped it.
    Stopped,
    /// The hypervisor gave the CPUs to others.
    CpuSteal,
    /// The filesystem of its data directory is nearly full.
    DiskNearlyFull,
    /// etcd's own other work on the disk: snapshot, defragmentation, backend.
    OwnIo,
    /// Slow, and nothing that is known explains it.
    Unknown,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::DiskNeighbour,
        Self::JournalContention,
        Self::SlowDevice,
        Self::DeviceErrors,
        Self::IoThrottle,
        Self::CpuStarvation,
        Self::CpuQuota,
        Self::Stopped,
        Self::CpuSteal,
        Self::DiskNearlyFull,
        Self::OwnIo,
        Self::Unknown,
    ];

    /// The name in API, alerts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DiskNeighbour => "disk_neighbour",
            Self::JournalContention => "journal_contention",
            Self::SlowDevice => "slow_device",
            Self::DeviceErrors => "device_errors",
            Self::IoThrottle => "io_throttle",
            Self::CpuStarvation => "cpu_starvation",
            Self::CpuQuota => "cpu_quota",
            Self::Stopped => "stopped",
            Self::CpuSteal => "cpu_steal",
            Self::DiskNearlyFull => "disk_nearly_full",
            Self::OwnIo => "own_io",
            Self::Unknown => "unknown",
        }
    }

    /// Whether somebody else can be to blame for it.
    pub const fn has_culprit(self) -> bool {
        matches!(
            self,
            Self::DiskNeighbour
                | Self::JournalContention
                | Self::CpuStarvation
                | Self::Stopped
                | Self::DiskNearlyFull
        )
    }
}

/// How sure a finding or a culprit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A guess by what is left.
    Low,
    /// Indirect evidence.
    Medium,
    /// Seen.
    High,
}

impl Confidence {
    /// The word in API and alerts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// How a culprit did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CulpritKind {
    /// By itself: requests of its own, time on CPUs.
    Process,
    /// It wrote to the page cache, and workers of the kernel brought that to the disk.
    Writeback,
    /// By changing metadata, which a journal wrote.
    Journal,
    /// By a signal.
    Signal,
}

/// Somebody who is to blame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DiagnosisCulprit)]
pub struct Culprit {
    /// `process`, `writeback`, `journal` or `signal`.
    pub kind: CulpritKind,
    /// Process id on the member's node; 0 when not known.
    pub process_id: u32,
    /// Name of its thread.
    pub comm: String,
    /// Name of the process and the first word of its command line; empty when not known.
    pub process: String,
    /// Path of its cgroup; empty when not known.
    pub cgroup: String,
    /// Container; empty outside of one.
    pub container_id: String,
    /// Kubernetes pod; empty outside of one.
    pub pod_uid: String,
    /// Its part, 0 to 1: of the wait for the disk, of the journal's metadata, of the node's CPU time.
    pub share: f64,
    /// `high`, `medium` or `low`.
    pub certainty: Confidence,
}

impl Culprit {
    /// Its name for people, with where it runs.
    pub fn name(&self) -> String {
        let what = match (self.process.as_str(), self.comm.as_str()) {
            ("", "") => "an unknown process",
            ("", comm) => comm,
            (process, _) => process,
        };
        let mut name = what.to_owned();
        if self.process_id != 0 {
            name.push_str(&format!(" (pid {})", self.process_id));
        }
        if !self.pod_uid.is_empty() {
            name.push_str(&format!(" in pod {}", self.pod_uid));
        } else if !self.container_id.is_empty() {
            name.push_str(&format!(" in container {}", short(&self.container_id)));
        } else if !matches!(self.cgroup.as_str(), "" | "/") {
            name.push_str(&format!(" in cgroup {}", self.cgroup));
        }
        name
    }
}

/// The first twelve characters, as container tools show an id.
fn short(id: &str) -> &str {
    id.char_indices().nth(12).map_or(id, |(end, _)| &id[..end])
}

/// A value that speaks for a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DiagnosisEvidence)]
pub struct Evidence {
    /// What was measured.
    pub what: String,
    /// The value with its unit.
    pub value: String,
}

/// A cause that was considered and is not it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuledOut {
    /// Which one.
    pub cause: Cause,
    /// Why not.
    pub why: String,
}

/// A verdict on a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What it was.
    pub cause: Cause,
    /// Its part of the harm, 0 to 1.
    pub share: f64,
    /// How sure that is.
    pub confidence: Confidence,
    /// Who did it, the worst first; empty where nobody did, or nobody is known.
    pub culprits: Vec<Culprit>,
    /// In a sentence.
    pub summary: String,
    /// The values behind it.
    pub evidence: Vec<Evidence>,
    /// What it is not, and why.
    pub ruled_out: Vec<RuledOut>,
    /// What a person should do.
    pub next_step: String,
    /// When it began, as far as the window reaches.
    pub onset: At,
    /// How much harm is behind it, in nanoseconds: a window with less of it does not replace what one with more said.
    pub weight_ns: u64,
    /// How many messages in a row must say so before it is believed; at least one.
    pub confirmations: u32,
}

/// A share that is one, whatever was divided by whatever.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests;
