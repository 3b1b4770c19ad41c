//! Samples of everything that is not traced: etcd's process, its disks, the node, and what etcd says of itself.
//!
//! A source is a [`Collector`] in a file of its own. Each runs on its own period in a task of its own, so a slow source delays only
//! itself; a collection that takes longer than its period is not stacked up on, the periods in between are skipped.
//! No collector costs etcd a raft entry or a sync ([`etcdmon_etcd`] says how).
//! [`schedule`] measures what each costs and slows down what costs too much; [`sheet`] keeps what did not change from being sent.
//!
//! # What is missing is absent
//! A file that is not there, not readable or of another form costs only the series that come from it: they are absent, never zero.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Reading;
use crate::discover::{EtcdProcess, ProcFs};
use crate::hub::Note;
use crate::telemetry::Telemetry;

pub mod address;
pub mod cgroup;
pub mod disk;
pub mod member;
pub mod network;
pub mod node;
pub mod process;
mod procfile;
pub mod schedule;
pub mod sheet;
pub mod threads;

/// Why a source yielded nothing.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A file of `/proc` or `/sys`.
    #[error("read {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file in another form than expected.
    #[error("{path} is not of the expected form")]
    Form {
        /// Which.
        path: String,
    },
    /// The process is gone; discovery will notice.
    #[error("process is gone")]
    Gone,
}

/// One source of samples.
pub trait Collector: Send {
    /// Name for the log and for degraded capabilities.
    fn name(&self) -> &'static str;

    /// Time between two collections.
    fn period(&self) -> Duration;

    /// Collects once.
    fn collect(&mut self, now: Reading) -> impl Future<Output = Result<Vec<Note>, CollectError>> + Send;
}

/// Period of each collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// etcd's `/metrics`.
    pub metrics: Duration,
    /// Status and the member list.
    pub status: Duration,
    /// etcd's process.
    pub process: Duration,
    /// Its threads.
    pub threads: Duration,
    /// Its cgroup.
    pub cgroup: Duration,
    /// Its data and WAL directories.
    pub disk: Duration,
    /// CPU, memory and clock of the node.
    pub node: Duration,
    /// Interfaces and TCP of the node.
    pub network: Duration,
}

/// Starts collectors, each in a task of its own.
#[derive(Debug, Clone)]
pub struct Collectors {
    /// When each runs.
    pub periods: Periods,
    notes: mpsc::Sender<Note>,
    telemetry: Arc<Telemetry>,
}

impl Collectors {
    /// Collectors that tell `notes` what they found.
    pub const fn new(periods: Periods, notes: mpsc::Sender<Note>, telemetry: Arc<Telemetry>) -> Self {
        Self { periods, notes, telemetry }
    }

    /// Starts one, until `cancel`.
    pub fn start(&self, collector: impl Collector + 'static, cancel: &CancellationToken) {
        let (notes, telemetry) = (self.notes.clone(), Arc::clone(&self.telemetry));
        tokio::spawn(schedule::run(collector, notes, telemetry, cancel.clone()));
    }

    /// Starts those that read what the kernel says of the node.
    pub fn start_node(&self, cancel: &CancellationToken) {
        self.start(node::NodeCollector::new(self.periods.node), cancel);
        self.start(network::NetworkCollector::new(self.periods.network), cancel);
    }

    /// Starts those that read what the kernel says of an etcd process.
    pub fn start_process(&self, proc: &ProcFs, process: &EtcdProcess, cancel: &CancellationToken) {
        self.start(process::ProcessCollector::new(proc, process.id, self.periods.process), cancel);
        self.start(threads::ThreadsCollector::new(proc, process.id, self.periods.threads), cancel);
        self.start(cgroup::CgroupCollector::new(proc, process, self.periods.cgroup), cancel);
        self.start(disk::DiskCollector::new(proc, process, self.periods.disk), cancel);
    }
}

#[cfg(test)]
mod tests;
