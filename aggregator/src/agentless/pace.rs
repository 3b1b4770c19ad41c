//! How long to wait before an endpoint is asked again. Pure.

use std::time::Duration;

/// An etcd that needs long for an answer is asked so much more seldom that at most one part in so many of its time goes
/// into answering us.
const REST_FACTOR: u32 = 10;

/// The slowest that an endpoint which answers is asked.
const SLOWEST: Duration = Duration::from_secs(60);

/// The slowest that an endpoint which does not answer is tried, unless its period is longer anyway.
pub const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Part of the pause that is left to chance, so that endpoints are not asked in step.
const JITTER: f64 = 0.2;

/// The pace of one kind of question to one endpoint.
#[derive(Debug, Clone)]
pub struct Pace {
    period: Duration,
    failures: u32,
}

impl Pace {
    /// With the period of an endpoint that is well.
    pub const fn new(period: Duration) -> Self {
        Self { period, failures: 0 }
    }

    /// Pause after an attempt that took so long. `chance` is a random number from 0 to 1.
    pub fn after(&mut self, took: Duration, answered: bool, chance: f64) -> Duration {
        let pause = if answered {
            self.failures = 0;
            (took * REST_FACTOR).min(SLOWEST).max(self.period)
        } else {
            self.failures = self.failures.saturating_add(1);
            let grown = self.period.saturating_mul(1 << (self.failures - 1).min(8));
            grown.min(TRY_AGAIN).max(self.period)
        };
        pause.mul_f64(1.0 - JITTER / 2.0 + JITTER * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(pace: &mut Pace, took: Duration, answered: bool) -> Duration {
        pace.after(took, answered, 0.5)
    }

    #[test]
    fn who_answers_fast_is_asked_at_its_period_and_who_is_slow_more_seldom() {
        let mut pace = Pace::new(SECOND);
        assert_eq!(after(&mut pace, Duration::from_millis(2), true), SECOND);
        assert_eq!(after(&mut pace, Duration::from_millis(500), true), 5 * SECOND);
        assert_eq!(after(&mut pace, 100 * SECOND, true), SLOWEST);
        assert_eq!(after(&mut pace, Duration::from_millis(2), true), SECOND, "well again");
    }

    #[test]
    fn who_does_not_answer_is_tried_ever_more_seldom_up_to_a_bound() {
        let mut pace = Pace::new(SECOND);
        let pauses: Vec<u64> = (0..40).map(|_| after(&mut pace, 3 * SECOND, false).as_secs()).collect();
        assert_eq!(pauses[..6], [1, 2, 4, 8, 10, 10]);
        assert_eq!(pauses[39], 10);
        assert_eq!(after(&mut pace, Duration::ZERO, true), SECOND);
        let mut seldom = Pace::new(60 * SECOND);
        assert_eq!(after(&mut seldom, SECOND, false), 60 * SECOND, "never faster than its period");
    }

    #[test]
    fn chance_moves_the_pause_by_a_tenth_at_most() {
        let mut pace = Pace::new(SECOND);
        assert_eq!(pace.after(Duration::ZERO, true, 0.0), Duration::from_millis(900));
        assert_eq!(pace.after(Duration::ZERO, true, 1.0), Duration::from_millis(1_100));
    }
}
