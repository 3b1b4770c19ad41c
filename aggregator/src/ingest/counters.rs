//! What ingest counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the process began, and one gauge. Read with [`AtomicU64::load`] for `/metrics`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches that arrived whole.
    pub batches: AtomicU64,
    /// Rows in batches that decoded.
    pub rows: AtomicU64,
    /// Batches acknowledged: all their rows are durable.
    pub acknowledged: AtomicU64,
    /// Batches refused for good.
    pub refused: AtomicU64,
    /// Rows of kinds that this program does not know.
    pub unknown_rows: AtomicU64,
    /// Batches that their agents may have sent before.
    pub resends: AtomicU64,
    /// Bytes of batches.
    pub bytes: AtomicU64,
    /// Live messages.
    pub live: AtomicU64,
    /// Live messages dropped because the cluster model was behind.
    pub live_dropped: AtomicU64,
    /// Live messages that arrived late.
    pub live_late: AtomicU64,
    /// Late ones that found the cluster model behind: they come again.
    pub live_late_put_off: AtomicU64,
    /// Requests of a kind that this program does not know.
    pub unknown_requests: AtomicU64,
    /// Changes of pace that agents were told.
    pub paces: AtomicU64,
    /// Streams refused at their first message.
    pub handshakes_refused: AtomicU64,
    /// Connections closed because they did not begin as they must.
    pub garbage: AtomicU64,
    /// Agents' certificates that were refused during the handshake.
    pub certificates_refused: Arc<AtomicU64>,
    /// TLS handshakes that failed, refused certificates among them.
    pub tls_failed: AtomicU64,
    /// Gauge: streams open.
    pub streams: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn subtract(gauge: &AtomicU64, value: u64) {
        gauge.fetch_sub(value, Ordering::Relaxed);
    }
}
