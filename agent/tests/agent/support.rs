//! What the agent's integration tests share: an aggregator that only remembers, an etcd, an agent.

pub mod agent;
pub mod aggregator;
pub mod etcd;
pub mod journald;
pub mod kernel;
pub mod standin;

use std::time::{Duration, Instant};

/// Held by tests that use up a disk or the CPUs: two of them at once would each see the other's harm.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits until `condition` yields something.
///
/// # Panics
/// When it does not within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// True as root; else says why the test is skipped.
pub fn is_root(test: &str) -> bool {
    // SAFETY: takes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED {test}: needs root for the kernel probes");
    }
    root
}
