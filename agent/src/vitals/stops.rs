//! For how long a process was stopped. Pure.
//!
//! Signals say to the microsecond when a stop begins and ends, but not whether it came about: a handler may have taken the
//! signal, a debugger lets its process go on without SIGCONT. The state in `/proc/PID/stat` says what is, but only when it is
//! looked at. So signals give the times, and the state corrects what they can't know. Where signals are not seen, the state alone
//! counts, half a sampling interval more or less.

/// A signal may take so long until it strikes, on a node without a free CPU.
const STRIKES_WITHIN_NS: u64 = 500_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Stops {
    total_ns: u64,
    /// Begin of the stop that is on.
    since_ns: Option<u64>,
    /// Up to when it was seen to last.
    seen_until_ns: u64,
    /// When the last one ended.
    ended_ns: u64,
    /// When the state was last looked at.
    sampled_ns: Option<u64>,
}

impl Stops {
    /// Takes in a signal that stops.
    pub const fn stop(&mut self, at_ns: u64) {
        if self.since_ns.is_none() {
            self.since_ns = Some(at_ns);
            self.seen_until_ns = at_ns;
        }
    }

    /// Takes in a signal that continues or kills.
    pub fn go_on(&mut self, at_ns: u64) {
        if let Some(since_ns) = self.since_ns.take() {
            // What was told already is not taken back, though the state lagged behind.
            self.end(since_ns, at_ns.max(self.seen_until_ns));
        }
        self.ended_ns = self.ended_ns.max(at_ns);
    }

    fn end(&mut self, since_ns: u64, at_ns: u64) {
        self.total_ns = self.total_ns.saturating_add(at_ns.saturating_sub(since_ns));
        self.ended_ns = self.ended_ns.max(at_ns);
    }

    /// Takes in the state at a moment; signals up to then were taken in before. `by_signals` = they are seen at all.
    pub fn sample(&mut self, at_ns: u64, is_stopped: bool, by_signals: bool) {
        let before_ns = self.sampled_ns.replace(at_ns);
        // On average a change lies in the middle of the time in which it was not looked for.
        let middle_ns = before_ns.map_or(at_ns, |before_ns| before_ns + at_ns.saturating_sub(before_ns) / 2);
        match (self.since_ns, is_stopped) {
            (None, true) => {
                // One that was continued at this moment may still be shown as stopped.
                if !(by_signals && at_ns.saturating_sub(self.ended_ns) < STRIKES_WITHIN_NS) {
                    self.since_ns = Some(middle_ns.max(self.ended_ns));
                    self.seen_until_ns = at_ns;
                }
            }
            (Some(_), true) => self.seen_until_ns = self.seen_until_ns.max(at_ns),
            (Some(since_ns), false) => {
                let may_still_strike = by_signals
                    && self.seen_until_ns == since_ns
                    && at_ns.saturating_sub(since_ns) < STRIKES_WITHIN_NS;
                if !may_still_strike {
                    self.since_ns = None;
                    let end_ns =
                        if by_signals { self.seen_until_ns } else { middle_ns.max(self.seen_until_ns) };
                    self.end(since_ns, end_ns);
                }
            }
            (None, false) => {}
        }
    }

    /// Time stopped so far, as far as it is certain; never falls.
    pub fn total_ns(&self) -> u64 {
        let open_ns = self.since_ns.map_or(0, |since_ns| self.seen_until_ns.saturating_sub(since_ns));
        self.total_ns.saturating_add(open_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;

    #[test]
    fn signals_between_two_samples_give_the_exact_time() {
        let mut stops = Stops::default();
        stops.sample(S, false, true);
        stops.stop(S + 200 * MS);
        stops.go_on(S + 500 * MS);
        stops.sample(2 * S, false, true);
        assert_eq!(stops.total_ns(), 300 * MS);
    }

    #[test]
    fn a_long_stop_grows_with_each_sample_and_ends_with_sigcont() {
        let mut stops = Stops::default();
        stops.stop(S + 900 * MS);
        stops.sample(2 * S, true, true);
        assert_eq!(stops.total_ns(), 100 * MS);
        stops.stop(2 * S + 5);
        stops.sample(3 * S, true, true);
        assert_eq!(stops.total_ns(), 1_100 * MS);
        stops.go_on(3 * S + 250 * MS);
        stops.sample(4 * S, false, true);
        assert_eq!(stops.total_ns(), 1_350 * MS);
    }

    #[test]
    fn a_signal_that_does_not_strike_counts_for_nothing() {
        let mut stops = Stops::default();
        stops.stop(S);
        stops.sample(S + 100 * MS, false, true);
        assert!(stops.since_ns.is_some(), "it may still strike");
        stops.sample(2 * S, false, true);
        assert_eq!((stops.total_ns(), stops.since_ns), (0, None));
    }

    #[test]
    fn a_debugger_that_lets_go_ends_the_stop_where_it_was_last_seen() {
        let mut stops = Stops::default();
        stops.stop(S);
        stops.sample(2 * S, true, true);
        stops.sample(3 * S, false, true);
        stops.sample(4 * S, false, true);
        assert_eq!(stops.total_ns(), S);
    }

    #[test]
    fn a_state_that_lags_behind_sigcont_begins_no_stop() {
        let mut stops = Stops::default();
        stops.stop(S);
        stops.go_on(S + 300 * MS);
        stops.sample(S + 301 * MS, true, true);
        assert_eq!((stops.total_ns(), stops.since_ns), (300 * MS, None));
        stops.sample(3 * S, true, true);
        assert!(stops.since_ns.is_some(), "stopped by somebody unseen");
    }

    #[test]
    fn without_signals_the_state_counts_to_half_an_interval() {
        let mut stops = Stops::default();
        for (second, is_stopped) in [(1, false), (2, true), (3, true), (4, false), (5, false)] {
            stops.sample(second * S, is_stopped, false);
        }
        assert_eq!(stops.total_ns(), 2 * S);
    }

    proptest! {
        #[test]
        fn the_total_never_falls_and_is_never_more_than_the_time(
            steps in proptest::collection::vec((0..4_u8, 1..900_u64), 1..60), by_signals: bool,
        ) {
            let mut stops = Stops::default();
            let (mut now_ns, mut before_ns) = (0, 0);
            for (what, wait_ms) in steps {
                now_ns += wait_ms * MS;
                match what {
                    0 if by_signals => stops.stop(now_ns),
                    1 if by_signals => stops.go_on(now_ns),
                    _ => stops.sample(now_ns, what == 2, by_signals),
                }
                let total_ns = stops.total_ns();
                prop_assert!(total_ns >= before_ns && total_ns <= now_ns, "{before_ns} {total_ns} {now_ns}");
                before_ns = total_ns;
            }
        }
    }
}
