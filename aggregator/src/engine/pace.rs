//! Keeps the engine's writes to a rate, on a disk that is somebody else's too.
//!
//! libchdb 26.7 takes `max_local_write_bandwidth_for_server` and does not keep to it, and merges know no limit of a
//! statement. All its writes come through [`super::failstop`], so they are paced there: whoever wrote more than its share waits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So much may be written at once after a pause, in time at the full rate.
const BURST_NS: u64 = 1_000_000_000;

/// The longest that one write waits: nobody may take it for a hang.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Bytes a second; 0 = no limit.
static RATE: AtomicU64 = AtomicU64::new(0);

/// When all that was written so far would be done at the full rate, in nanoseconds since [`begin`].
static DONE_AT: AtomicU64 = AtomicU64::new(0);

/// From now on this process writes so many bytes a second to regular files; 0 = as many as it can.
pub fn set(bytes_per_second: u64) {
    begin();
    RATE.store(bytes_per_second, Ordering::Relaxed);
}

/// Whether there is a limit.
pub fn is_limited() -> bool {
    RATE.load(Ordering::Relaxed) > 0
}

/// Takes note of a write, and waits as long as it must.
pub fn wrote(bytes: u64) {
    let rate = RATE.load(Ordering::Relaxed);
    let now = u64::try_from(begin().elapsed().as_nanos()).unwrap_or(u64::MAX);
    let done_at = |before: u64| before.max(now).saturating_add(cost(bytes, rate));
    let before = DONE_AT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| Some(done_at(before)));
    let ahead = done_at(before.unwrap_or(0)) - now;
    let wait = Duration::from_nanos(ahead.saturating_sub(BURST_NS)).min(LONGEST_WAIT);
    if !wait.is_zero() {
        std::thread::sleep(wait);
    }
}

/// Time that bytes take at a rate.
fn cost(bytes: u64, rate: u64) -> u64 {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

fn begin() -> &'static Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    BEGIN.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_together_keep_to_the_rate_after_a_burst() {
        // 64 MB/s, of which a second's worth may come at once; then eight threads write 32 MB more.
        set(64_000_000);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..12).for_each(|_| wrote(1_000_000)));
            }
        });
        let took = began.elapsed();
        set(0);
        assert!(took >= Duration::from_millis(400), "96 MB took {took:?}");
        assert!(took <= Duration::from_secs(5), "{took:?}");
        assert_eq!((cost(0, 5), cost(5, 5), cost(1, 0)), (0, 1_000_000_000, 1_000_000_000));
    }
}
