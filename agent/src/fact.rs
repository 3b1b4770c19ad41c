//! What the sources of the agent say, on its way to `encode`.

use std::sync::Arc;

pub use etcdmon_etcd::Series;
use etcdmon_proto::v1::{FileClass, Hook, SyncReason};

use crate::autopsy::Autopsy;
use crate::clock::Reading;
use crate::discover::{Placement, ProcessId};

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// Both clocks of the node.
    TimeBase(Reading),
    /// A second of one member's syncs of one class.
    SyncSecond(SyncSecond),
    /// A single sync.
    Sync(SyncRow),
    /// A slow sync that was examined.
    SlowSync(Box<SlowSync>),
    /// A second of one member's writes of one class.
    WriteSecond(WriteSecond),
    /// Samples of one source.
    Samples(Samples),
    /// Something that happened.
    Event(Event),
    /// Something that was lost before it got here.
    Lost(Lost),
    /// A stretch in which nothing was seen.
    Blind(Blind),
}

impl Fact {
    /// The process it is about; `None` = the node itself.
    pub const fn process(&self) -> Option<ProcessId> {
        match self {
            Self::TimeBase(_) => None,
            Self::SyncSecond(fact) => Some(fact.process),
            Self::Sync(fact) => Some(fact.process),
            Self::SlowSync(fact) => Some(fact.process),
            Self::WriteSecond(fact) => Some(fact.process),
            Self::Samples(fact) => fact.process,
            Self::Event(fact) => fact.process,
            Self::Lost(fact) => fact.process,
            Self::Blind(fact) => Some(fact.process),
        }
    }
}

/// Syncs of one process and class that ended in one wall-aligned second.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncSecond {
    /// Who.
    pub process: ProcessId,
    /// Class of the files.
    pub class: FileClass,
    /// Begin of the second, Unix seconds.
    pub second: i64,
    /// (bucket, count), rising.
    pub buckets: Vec<(u16, u64)>,
    /// Exact sum of the latencies.
    pub sum_ns: u64,
    /// Syncs among them that failed.
    pub errors: u64,
    /// Time that the syncing threads waited for a CPU.
    pub run_delay_ns: u64,
    /// Which hook saw them.
    pub hook: Hook,
}

/// One sync.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncRow {
    /// Who.
    pub process: ProcessId,
    /// Class of the file.
    pub class: FileClass,
    /// Begin.
    pub start_mono_ns: u64,
    /// End minus begin.
    pub latency_ns: u64,
    /// Thread.
    pub thread_id: u32,
    /// Time the thread waited for a CPU.
    pub run_delay_ns: u64,
    /// Bytes written to the file since its last sync.
    pub written_bytes: u64,
    /// Inode number.
    pub inode: u64,
    /// (major << 20) | minor.
    pub device: u32,
    /// 0 or a negative errno.
    pub result: i32,
    /// Why it has a row.
    pub reason: SyncReason,
}

/// A slow sync, where its time went, and who else used its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowSync {
    /// Who.
    pub process: ProcessId,
    /// Class of the file.
    pub class: FileClass,
    /// Begin.
    pub start_mono_ns: u64,
    /// End minus begin.
    pub latency_ns: u64,
    /// Thread.
    pub thread_id: u32,
    /// Inode number.
    pub inode: u64,
    /// (major << 20) | minor.
    pub device: u32,
    /// What slow meant.
    pub threshold_ns: u64,
    /// What came of examining it.
    pub autopsy: Autopsy,
    /// Its culprits by name, in their order; as far as they could still be asked.
    pub names: Vec<CulpritName>,
}

/// Who a culprit is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CulpritName {
    /// Name of the process and the first word of its command line.
    pub process: String,
    /// Its cgroup, container, pod.
    pub placement: Placement,
}

/// Writes of one process and class in one wall-aligned second.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteSecond {
    /// Who.
    pub process: ProcessId,
    /// Class of the files.
    pub class: FileClass,
    /// Begin of the second, Unix seconds.
    pub second: i64,
    /// Bytes, complete.
    pub written_bytes: u64,
    /// Time of this second in which calls were seen.
    pub observed_ns: u64,
    /// Calls seen.
    pub calls: u64,
    /// (bucket, count) of the calls' latency, rising.
    pub buckets: Vec<(u16, u64)>,
    /// Exact sum of the calls' latencies.
    pub sum_ns: u64,
    /// `sync_file_range` calls seen.
    pub sync_file_range_calls: u64,
}

/// Samples taken together.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// Whose; `None` = the node's.
    pub process: Option<ProcessId>,
    /// When.
    pub mono_ns: u64,
    /// What.
    pub values: Vec<(Arc<Series>, f64)>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// To whom; `None` = the node.
    pub process: Option<ProcessId>,
    /// When.
    pub mono_ns: u64,
    /// Stable name, such as `member.started`.
    pub kind: &'static str,
    /// Details, an object.
    pub details: serde_json::Value,
}

/// Facts that were lost before they got here.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// Whose; `None` = not known or the node's.
    pub process: Option<ProcessId>,
    /// Wall clock at which it was noticed, Unix nanoseconds.
    pub wall_ns: i64,
    /// Stream of the ledger.
    pub stream: &'static str,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A stretch in which a process was not watched.
#[derive(Debug, Clone, PartialEq)]
pub struct Blind {
    /// Who.
    pub process: ProcessId,
    /// Begin, Unix nanoseconds.
    pub from_ns: i64,
    /// End, Unix nanoseconds.
    pub to_ns: i64,
    /// Syncs of the WAL in it, by etcd's own count.
    pub count: u64,
    /// `agent_down` or `attach`.
    pub reason: &'static str,
    /// Ids of the member at that time, when the process is gone and only the checkpoint knows them.
    pub ids: Option<(u64, u64)>,
}
