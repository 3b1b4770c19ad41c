//! Files that are read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_service::logging::ErrorChain;
use tokio_util::sync::CancellationToken;

use super::TlsError;

/// How often files are looked at. Kubernetes exchanges the link above them, so only asking again shows a change.
const PERIOD: Duration = Duration::from_secs(2);

/// What `/metrics` tells of certificates. Cheap to clone; every clone is the same.
#[derive(Clone, Default)]
pub struct Gauges {
    expiries: Arc<Mutex<Vec<Expiry>>>,
    failures: Arc<AtomicU64>,
}

type Expiry = (&'static str, Box<dyn Fn() -> Option<DateTime<Utc>> + Send>);

impl std::fmt::Debug for Gauges {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Gauges").field("failures", &self.failures()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Reloading {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Reloading").field("watched", &self.watched.len()).finish_non_exhaustive()
    }
}

impl Gauges {
    /// Shows the end of a certificate's life under a name.
    pub fn watch(&self, name: &'static str, expiry: impl Fn() -> Option<DateTime<Utc>> + Send + 'static) {
        self.lock().push((name, Box::new(expiry)));
    }

    /// Name and end of life of every certificate.
    pub fn expiries(&self) -> Vec<(&'static str, DateTime<Utc>)> {
        self.lock().iter().filter_map(|(name, expiry)| Some((*name, expiry()?))).collect()
    }

    /// Files that could not be put in force since the process began.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Expiry>> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes a change of a file visible.
type Signature = Vec<Option<(u64, u64, i64, i64, u64)>>;

/// Files that belong together, and what to do when one of them changes.
pub struct Watched {
    files: Vec<PathBuf>,
    seen: Signature,
    apply: Box<dyn Fn() -> Result<(), TlsError> + Send>,
}

impl Watched {
    /// `apply` reads the files and puts them in force, or says why it can't. It has been called once already.
    pub fn new(files: Vec<PathBuf>, apply: impl Fn() -> Result<(), TlsError> + Send + 'static) -> Self {
        let seen = signature(&files);
        Self { files, seen, apply: Box::new(apply) }
    }

    /// Looks at the files. `None` when nothing changed.
    fn look(&mut self) -> Option<Result<(), TlsError>> {
        let now = signature(&self.files);
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some((self.apply)())
    }
}

fn signature(files: &[PathBuf]) -> Signature {
    let of = |path: &PathBuf| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.dev(), facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.len()))
    };
    files.iter().map(of).collect()
}

/// Everything that is watched.
#[derive(Default)]
pub struct Reloading {
    watched: Vec<Watched>,
    gauges: Gauges,
}

impl Reloading {
    /// With a place for its counts.
    pub fn new(gauges: Gauges) -> Self {
        Self { watched: Vec::new(), gauges }
    }

    /// Watches further files.
    pub fn add(&mut self, watched: Watched) {
        self.watched.push(watched);
    }

    /// Looks at everything once.
    pub fn look(&mut self) {
        for watched in &mut self.watched {
            let files = watched.files.iter().map(|path: &PathBuf| Path::display(path).to_string());
            let files = files.collect::<Vec<_>>().join(", ");
            match watched.look() {
                None => {}
                Some(Ok(())) => tracing::info!(files, "TLS files changed, new connections get them"),
                Some(Err(error)) => {
                    self.gauges.failures.fetch_add(1, Ordering::Relaxed);
                    let error = ErrorChain(&error).to_string();
                    tracing::warn!(
                        files,
                        error,
                        "TLS files changed and can't be used, the old ones stay in force"
                    );
                }
            }
        }
    }

    /// Looks every few seconds, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.look(),
            }
        }
    }
}
