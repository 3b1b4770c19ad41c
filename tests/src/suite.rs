//! What every suite does around its tests.

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;

use crate::place::Place;
use crate::tools;

/// Lines of each log that a failed test shows.
const SHOWN_LINES: usize = 20;

/// Whether the long tier was asked for with `ETCD_MONITOR_FULL=1`.
pub fn full() -> bool {
    std::env::var("ETCD_MONITOR_FULL").is_ok_and(|value| value == "1")
}

/// Picks by tier.
pub fn by_tier<T>(gate: T, full_tier: T) -> T {
    if full() { full_tier } else { gate }
}

/// True, with the reason printed, when a test can't run because this process is not root.
pub fn skip_without_root(what_for: &str) -> bool {
    if tools::is_root() {
        return false;
    }
    println!("skipped: needs root for {what_for}");
    true
}

/// Runs a test in a place of its own. When it fails, the logs in the place are shown before they go.
///
/// # Panics
/// When the test fails.
pub fn run<T: Future<Output = Result<()>>>(test: impl FnOnce(Arc<Place>) -> T) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only threads and a poller");
    let place = Arc::new(Place::new().expect("the temporary directory is writable"));
    let outcome = runtime.block_on(test(place.clone()));
    if let Err(error) = outcome {
        eprintln!("{}", place.log_tails(SHOWN_LINES));
        panic!("{error:#}");
    }
}
