//! When a failed delivery is tried again. Pure.

use std::time::Duration;

use etcdmon_service::backoff::Backoff;

/// First pause after a failure.
const FIRST: Duration = Duration::from_millis(500);

/// Longest pause while the receiver has been failing for less than [`PATIENCE`]: when it comes back within that time, the
/// notice arrives seconds later.
const MOST_AT_FIRST: Duration = Duration::from_secs(5);

/// Longest pause after that.
const MOST_LATER: Duration = Duration::from_secs(60);

/// See [`MOST_AT_FIRST`].
const PATIENCE: Duration = Duration::from_secs(600);

/// A receiver that asks for more quiet than this gets this.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// The pauses of one delivery.
#[derive(Debug, Clone)]
pub struct Pauses {
    early: Backoff,
    late: Backoff,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { early: Backoff::new(FIRST, MOST_AT_FIRST), late: Backoff::new(MOST_AT_FIRST, MOST_LATER) }
    }
}

impl Pauses {
    /// The pause after a failure, `failing_for` after the first attempt, when the receiver asked for `asked`.
    pub fn next(&mut self, failing_for: Duration, asked: Option<Duration>) -> Duration {
        let own = if failing_for < PATIENCE { self.early.pause() } else { self.late.pause() };
        own.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

/// The value of a `Retry-After` header: seconds, or a date. `now` is the wall time in Unix seconds.
pub fn retry_after(value: &str, now: i64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    Some(Duration::from_secs(u64::try_from(date.timestamp() - now).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_five_seconds_for_ten_minutes() {
        let mut pauses = Pauses::default();
        let mut total = Duration::ZERO;
        while total < Duration::from_secs(599) {
            let pause = pauses.next(total, None);
            assert!(pause <= MOST_AT_FIRST, "{pause:?} after {total:?}");
            total += pause;
        }
        let late: Vec<_> = (0..10).map(|_| pauses.next(PATIENCE, None)).collect();
        assert!(
            late.iter().all(|pause| *pause <= MOST_LATER) && late.last() > Some(&MOST_AT_FIRST),
            "{late:?}"
        );
    }

    #[test]
    fn what_the_receiver_asks_for_is_honoured_within_bounds() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(Duration::ZERO, Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(pauses.next(Duration::ZERO, Some(Duration::MAX)), LONGEST_ASKED);
        assert!(pauses.next(Duration::ZERO, Some(Duration::ZERO)) > Duration::ZERO);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(" 7 ", 0), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 1_000), Some(Duration::ZERO));
        for nonsense in ["", "soon", "-5", "1e9", "99999999999999999999999"] {
            assert_eq!(retry_after(nonsense, 0), None, "{nonsense}");
        }
    }
}
