//! Classes of faults, and what a verdict on them must say.

use std::fmt;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A kind of run. All that is random about a run is in its [plan](super::plan::Plan).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Nothing but the usual load.
    Calm,
    /// Many puts that a healthy cluster bears.
    HeavyLoad,
    /// Another process writes to the member's disk; the kernel's workers carry it there.
    NeighbourBuffered,
    /// Another process writes and syncs.
    NeighbourFsync,
    /// Another process writes past the page cache.
    NeighbourDirect,
    /// Another process changes only metadata, which the filesystem's journal has to carry.
    NeighbourMetadata,
    /// A neighbour that writes and syncs, in the cgroup of a Kubernetes pod.
    NeighbourPod,
    /// The disk itself takes long.
    SlowDevice,
    /// The disk answers with errors for a while.
    DeviceErrors,
    /// The member's cgroup may write to its disk only so often.
    IoThrottle,
    /// Another process keeps all CPUs busy.
    CpuHogs,
    /// The member's cgroup has less CPU time than it needs.
    CpuQuota,
    /// A process stops the member for a moment.
    Stopped,
    /// A process fills the member's disk up to a few MiB.
    DiskFull,
    /// Two of them at once.
    Pairs,
    /// Calm for long.
    CalmStretch,
    /// Heavy load for long.
    HeavyStretch,
}

/// What a diagnosis may be asked to name, by the API's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Others' requests on the member's disk.
    DiskNeighbour,
    /// Others' metadata in its filesystem's journal.
    JournalContention,
    /// The device takes long, and nobody else uses it.
    SlowDevice,
    /// The device answers with errors.
    DeviceErrors,
    /// Its own cgroup's IO limit.
    IoThrottle,
    /// Others use the CPUs.
    CpuStarvation,
    /// Its own cgroup's CPU quota.
    CpuQuota,
    /// A signal stopped it.
    Stopped,
    /// Its filesystem has little room left.
    DiskNearlyFull,
}

/// Those with several random runs, in the order of the table.
pub const CLASSES: [Class; 15] = [
    Class::Calm,
    Class::HeavyLoad,
    Class::NeighbourBuffered,
    Class::NeighbourFsync,
    Class::NeighbourDirect,
    Class::NeighbourMetadata,
    Class::NeighbourPod,
    Class::SlowDevice,
    Class::DeviceErrors,
    Class::IoThrottle,
    Class::CpuHogs,
    Class::CpuQuota,
    Class::Stopped,
    Class::DiskFull,
    Class::Pairs,
];

/// One run each, of many minutes.
pub const STRETCHES: [Class; 2] = [Class::CalmStretch, Class::HeavyStretch];

/// What the gate tries.
pub const GATE: [Class; 4] = [Class::Calm, Class::NeighbourFsync, Class::SlowDevice, Class::Stopped];

impl Class {
    /// Its name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::HeavyLoad => "heavy_load",
            Self::NeighbourBuffered => "neighbour_buffered",
            Self::NeighbourFsync => "neighbour_fsync",
            Self::NeighbourDirect => "neighbour_direct",
            Self::NeighbourMetadata => "neighbour_metadata",
            Self::NeighbourPod => "neighbour_pod",
            Self::SlowDevice => "slow_device",
            Self::DeviceErrors => "device_errors",
            Self::IoThrottle => "io_throttle",
            Self::CpuHogs => "cpu_hogs",
            Self::CpuQuota => "cpu_quota",
            Self::Stopped => "stopped",
            Self::DiskFull => "disk_full",
            Self::Pairs => "pairs",
            Self::CalmStretch => "calm_stretch",
            Self::HeavyStretch => "heavy_stretch",
        }
    }

    /// The class of this name.
    ///
    /// # Errors
    /// When there is none; the message names them all.
    pub fn named(name: &str) -> Result<Self> {
        let all = || CLASSES.into_iter().chain(STRETCHES);
        all().find(|class| class.name() == name).with_context(|| {
            format!("no class {name}: {}", all().map(Self::name).collect::<Vec<_>>().join(", "))
        })
    }

    /// What its runs are to be found out as, in words.
    pub const fn expectation(self) -> &'static str {
        match self {
            Self::Calm | Self::HeavyLoad | Self::CalmStretch | Self::HeavyStretch => "no verdict",
            Self::NeighbourBuffered | Self::NeighbourFsync | Self::NeighbourDirect => {
                "disk_neighbour, the process"
            }
            Self::NeighbourMetadata => "journal_contention, the process",
            Self::NeighbourPod => "disk_neighbour, the process and its pod",
            Self::SlowDevice => "slow_device, nobody",
            Self::DeviceErrors => "device_errors, nobody",
            Self::IoThrottle => "io_throttle, nobody",
            Self::CpuHogs => "cpu_starvation, the process",
            Self::CpuQuota => "cpu_quota, nobody",
            Self::Stopped => "stopped, the sender",
            Self::DiskFull => "disk_nearly_full, the process that fills it",
            Self::Pairs => "both causes, each with its culprit",
        }
    }

    /// Whether nothing is wrong in it.
    pub const fn is_healthy(self) -> bool {
        matches!(self, Self::Calm | Self::HeavyLoad | Self::CalmStretch | Self::HeavyStretch)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl Cause {
    /// Its name on the API.
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
            Self::DiskNearlyFull => "disk_nearly_full",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_in_files_and_lead_back() {
        for class in CLASSES.into_iter().chain(STRETCHES) {
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
            assert_eq!(Class::named(class.name()).unwrap(), class);
        }
        assert!(Class::named("calmer").unwrap_err().to_string().contains("neighbour_pod"));
        assert_eq!(serde_json::to_value(Cause::DiskNearlyFull).unwrap(), Cause::DiskNearlyFull.name());
    }
}
