//! How many events of a kind are passed on.

use std::collections::BTreeMap;

use crate::clock::SECOND_NS;

/// Events of a kind in a window; what is beyond is counted.
pub const PER_WINDOW: u32 = 20;

/// Length of a window.
pub const WINDOW_NS: i64 = 10 * SECOND_NS;

/// Counts by kind.
#[derive(Debug, Default)]
pub struct Limiter {
    kinds: BTreeMap<&'static str, Window>,
}

#[derive(Debug)]
struct Window {
    begin_ns: i64,
    passed: u32,
    suppressed: u64,
}

impl Limiter {
    /// Whether an event may pass now.
    pub fn admit(&mut self, kind: &'static str, now_ns: i64) -> bool {
        let window = self.kinds.entry(kind).or_insert(Window { begin_ns: now_ns, passed: 0, suppressed: 0 });
        if now_ns.saturating_sub(window.begin_ns) >= WINDOW_NS && window.suppressed == 0 {
            *window = Window { begin_ns: now_ns, passed: 0, suppressed: 0 };
        }
        if window.passed < PER_WINDOW {
            window.passed += 1;
            return true;
        }
        window.suppressed += 1;
        false
    }

    /// Kinds whose window is over, and how many of each did not pass.
    pub fn suppressed(&mut self, now_ns: i64) -> Vec<(&'static str, u64)> {
        let mut found = Vec::new();
        self.kinds.retain(|kind, window| {
            let over = now_ns.saturating_sub(window.begin_ns) >= WINDOW_NS;
            if over && window.suppressed > 0 {
                found.push((*kind, window.suppressed));
            }
            !over
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_and_the_rest_is_counted() {
        let mut limiter = Limiter::default();
        let passed = (0..1000).filter(|at| limiter.admit("a", *at)).count();
        assert_eq!(passed, PER_WINDOW as usize);
        assert!(limiter.admit("b", 5), "kinds do not share");
        assert_eq!(limiter.suppressed(WINDOW_NS - 1), []);
        assert_eq!(limiter.suppressed(WINDOW_NS + 5), [("a", 980)]);
        assert!(limiter.admit("a", WINDOW_NS + 6));
        assert_eq!(limiter.suppressed(3 * WINDOW_NS), []);
    }
}
