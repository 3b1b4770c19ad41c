//! A circuit breaker with growing, jittered pauses, for one peer that is asked again and again.
//!
//! While closed, an attempt that failed is followed by a pause drawn from all of a nominal length that doubles (full jitter):
//! clients that lost the same peer at the same moment come back spread over that length. After [`Policy::failures`] failures in
//! a row the breaker opens: attempts become rare. An attempt out of the open state is a probe; if it fails the breaker stays
//! open for longer, if it succeeds all begins anew. Pure: time and randomness are handed in.

use std::time::Duration;

/// When to open, and for how long to pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row that open the breaker.
    pub failures: u32,
    /// First and longest nominal pause while closed.
    pub pause: (Duration, Duration),
    /// First and longest nominal time open.
    pub open: (Duration, Duration),
    /// A success counts once it lasted this long: a peer that takes a connection and drops it has not recovered.
    pub steady_after: Duration,
}

/// Whether attempts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// As usual.
    #[default]
    Closed,
    /// A single attempt shows whether the peer is back.
    HalfOpen,
    /// None for now.
    Open,
}

impl State {
    /// Its name in status texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }

    /// Its value as a metric.
    pub const fn value(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: Policy,
    failures: u32,
    state: State,
}

impl Breaker {
    /// Closed, nothing failed yet.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, failures: 0, state: State::Closed }
    }

    /// An attempt begins.
    pub fn attempt(&mut self) {
        if self.state == State::Open {
            self.state = State::HalfOpen;
        }
    }

    /// The attempt succeeded: the peer answers.
    pub const fn succeeded(&mut self) {
        self.state = State::Closed;
    }

    /// The attempt failed, or what it began ended after having lasted for `lasted`. Returns the pause until the next one;
    /// `draw` is random, in 0..1.
    pub fn failed(&mut self, lasted: Duration, draw: f64) -> Duration {
        if lasted >= self.policy.steady_after {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let draw = draw.clamp(0.0, 1.0);
        match self.failures.checked_sub(self.policy.failures) {
            None => {
                self.state = State::Closed;
                doubled(self.policy.pause, self.failures - 1).mul_f64(draw)
            }
            // An open breaker keeps still for at least half of its time.
            Some(times) => {
                self.state = State::Open;
                doubled(self.policy.open, times).mul_f64(0.5 + draw / 2.0)
            }
        }
    }

    /// Whether attempts are made.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

fn doubled((first, most): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times)).min(most)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    const NONE: Duration = Duration::ZERO;

    const POLICY: Policy = Policy {
        failures: 4,
        pause: (Duration::from_millis(500), Duration::from_secs(4)),
        open: (Duration::from_secs(5), Duration::from_secs(15)),
        steady_after: Duration::from_secs(5),
    };

    #[test]
    fn it_opens_after_enough_failures_probes_and_closes_on_success() {
        let mut breaker = Breaker::new(POLICY);
        let pauses: Vec<_> = (0..7).map(|_| breaker.failed(NONE, 1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 5_000, 10_000, 15_000, 15_000]);
        assert_eq!((breaker.state(), breaker.failures()), (State::Open, 7));
        breaker.attempt();
        assert_eq!(breaker.state(), State::HalfOpen);
        breaker.failed(NONE, 1.0);
        assert_eq!(breaker.state(), State::Open, "the probe failed");
        breaker.attempt();
        breaker.succeeded();
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(breaker.failed(Duration::from_secs(60), 1.0).as_millis(), 500, "begun anew");
    }

    #[test]
    fn a_peer_that_takes_connections_and_drops_them_has_not_recovered() {
        let mut breaker = Breaker::new(POLICY);
        for _ in 0..10 {
            breaker.attempt();
            breaker.succeeded();
            breaker.failed(Duration::from_secs(1), 0.0);
        }
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn pauses_are_drawn_from_the_whole_length_and_open_times_from_its_upper_half() {
        let mut breaker = Breaker::new(POLICY);
        assert_eq!(breaker.failed(NONE, 0.0), NONE);
        let pauses: Vec<_> = (0..4).map(|_| breaker.failed(NONE, 0.0).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 2_500, 5_000]);
    }

    /// A hundred clients lose their peer in the same instant; it is back after a while.
    #[test]
    fn a_hundred_clients_do_not_come_back_in_the_same_instant() {
        for (seed, outage_ms) in [(1, 0.0), (2, 300.0), (3, 2_000.0), (4, 8_000.0), (5, 60_000.0)] {
            let mut random = StdRng::seed_from_u64(seed);
            let mut arrivals: Vec<f64> = (0..100)
                .map(|_| {
                    let mut breaker = Breaker::new(POLICY);
                    let mut at_ms = 0.0;
                    let mut lasted = Duration::from_secs(3600);
                    loop {
                        at_ms += breaker.failed(lasted, random.random()).as_secs_f64() * 1e3;
                        lasted = NONE;
                        if at_ms >= outage_ms {
                            return at_ms;
                        }
                    }
                })
                .collect();
            arrivals.sort_by(f64::total_cmp);
            let in_window =
                |from: f64| arrivals.iter().filter(|at| (from..from + 50.0).contains(*at)).count();
            let worst = arrivals.iter().map(|at| in_window(*at)).max().unwrap_or_default();
            assert!(worst <= 25, "{worst} within 50 ms after an outage of {outage_ms} ms");
            let last = arrivals[99] - outage_ms;
            assert!(last <= 15_000.0, "the last after {last} ms");
        }
    }
}
