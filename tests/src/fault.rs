//! Faults that come from outside: neighbours on a disk, hogs on the processors, stops, full disks, cut connections.
//!
//! kill -9 is [`crate::etcd::Member::kill`], a slow disk [`crate::slow::Delays`], throttles are methods of
//! [`crate::cgroup::Cgroup`].

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Result;

use crate::etcd::Member;
use crate::process::Process;
use crate::tools;

pub mod full;
pub mod insert;
pub mod relay;
pub mod stop;

pub use full::FullDisk;
pub use relay::{Cut, Relay};
pub use stop::Stopped;

/// A neighbour that writes and syncs on the same disk until the guard is dropped.
///
/// # Errors
/// When fio is not installed.
pub fn fio_neighbour(member: &Member, log: &Path) -> Result<Process> {
    let mut command = Command::new(tools::system("fio")?);
    command
        .args(["--name=neighbour", "--rw=randwrite", "--bs=16k", "--size=64m", "--fdatasync=4"])
        .args(["--time_based", "--runtime=3600"])
        .arg(format!("--directory={}", member.disk().path().display()));
    Process::start("fio", command, log, &[])
}

/// Threads that keep processors busy until the guard is dropped.
#[derive(Debug)]
pub struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    /// Starts this many.
    pub fn new(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A hog has nothing that could panic.
            let _finished = thread.join();
        }
    }
}
