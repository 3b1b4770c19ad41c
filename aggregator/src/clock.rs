//! The time that model, rules and alerts run on.
//!
//! [`At`] rises steadily: a step of the wall clock neither ages a member by an hour nor lets a `for` pass at once. It
//! is counted in Unix nanoseconds of the wall clock as it was when the process started; [`Clock::wall`] turns it into
//! what the wall clock shows now, for people and for what is kept on disk.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

/// A point of steady time, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct At(i64);

impl At {
    /// From nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Time passed since `earlier`; zero when that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The point that lies `span` before.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }

    /// The point that lies `span` later.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// The same point after the clock it is read on moved by `offset_ns`.
    pub const fn shifted(self, offset_ns: i64) -> Self {
        Self(self.0.saturating_add(offset_ns))
    }

    /// As a date, taking the steady clock for the wall clock.
    pub const fn date(self) -> DateTime<Utc> {
        DateTime::from_timestamp_nanos(self.0)
    }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// Reads steady time. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started_at: At,
    started: Instant,
}

impl Clock {
    /// A clock that agrees with the wall clock now.
    pub fn start() -> Self {
        Self { started_at: wall_now(), started: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> At {
        self.started_at.plus(self.started.elapsed())
    }

    /// The steady time of a moment; what was before the start is the start.
    pub fn at(&self, moment: Instant) -> At {
        self.started_at.plus(moment.saturating_duration_since(self.started))
    }

    /// How far the wall clock has stepped away since the start, in nanoseconds.
    pub fn offset_ns(&self) -> i64 {
        wall_now().0.saturating_sub(self.now().0)
    }

    /// What the wall clock, as it goes now, showed at that time.
    pub fn wall(&self, at: At) -> DateTime<Utc> {
        at.shifted(self.offset_ns()).date()
    }
}

fn wall_now() -> At {
    let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos(),
        Err(_before_1970) => 0,
    };
    At(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_never_go_below_zero_or_overflow() {
        let (early, late) = (At::from_nanos(1_000), At::from_nanos(3_000));
        assert_eq!(late.since(early), Duration::from_nanos(2_000));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(At::from_nanos(i64::MAX).plus(Duration::MAX), At::from_nanos(i64::MAX));
        assert_eq!(At::from_nanos(i64::MIN).minus(Duration::MAX), At::from_nanos(i64::MIN));
    }

    #[test]
    fn a_fresh_clock_agrees_with_the_wall_clock() {
        let clock = Clock::start();
        assert!(clock.offset_ns().abs() < 50_000_000, "{}", clock.offset_ns());
    }
}
