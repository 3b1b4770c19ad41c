//! Graceful end: the first SIGTERM or SIGINT cancels a token, a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal, as a shell would report an interrupted program.
const ENDED_BY_SIGNAL: i32 = 130;

/// A token that is cancelled by the first SIGTERM or SIGINT. Call it inside a tokio runtime.
///
/// # Errors
/// When the signal handlers can't be installed.
pub fn token() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if cancel.is_cancelled() {
                tracing::warn!(signal = name, "second signal: ending now");
                std::process::exit(ENDED_BY_SIGNAL);
            }
            tracing::info!(signal = name, "shutting down");
            crate::systemd::stopping();
            cancel.cancel();
        }
    });
    Ok(token)
}
