//! Small duties of a process: ready file, panic counter, TLS provider.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Makes aws-lc-rs the one TLS provider of the process. Call it first in `main`; a second call changes nothing.
pub fn install_tls_provider() {
    // An error says that a provider is installed already: ours, since nobody else installs one.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Counts and logs every panic from here on. A task that panicked must make readiness false: see [`panics`].
pub fn count_panics() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%panic, "a task panicked: this is a bug in etcd-monitor");
        default_hook(panic);
    }));
}

/// Panics since [`count_panics`].
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Writes `content` to `path` so that a reader sees all of it or no file at all.
///
/// # Errors
/// When the directory can't be written.
pub fn write_ready_file(path: &Path, content: &serde_json::Value) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, format!("{content}\n"))?;
    std::fs::rename(&temporary, path)
}
