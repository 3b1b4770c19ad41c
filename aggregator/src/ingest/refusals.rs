//! Keeps refused connections from filling the log: an agent with an expired certificate tries again for ever, and anybody may
//! knock. All of them are counted; a line comes once a minute, address and reason.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Two lines that say the same are at least this far apart.
const PAUSE: Duration = Duration::from_secs(60);

/// Lines remembered. While there are so many within [`PAUSE`], new ones are not told.
const LINES: usize = 1_024;

/// What was told lately.
#[derive(Debug, Default)]
pub struct Refusals {
    told: Mutex<HashMap<(IpAddr, String), Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    silent: u64,
}

impl Refusals {
    /// Whether this refusal gets a line; the number is how many like it had none since the one before.
    pub fn admit(&self, address: IpAddr, reason: &str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let line = (address, reason.to_owned());
        if let Some(before) = told.get_mut(&line) {
            if now.saturating_duration_since(before.at) < PAUSE {
                before.silent += 1;
                return None;
            }
            before.at = now;
            return Some(std::mem::take(&mut before.silent));
        }
        if told.len() >= LINES {
            told.retain(|_, before| now.saturating_duration_since(before.at) < PAUSE);
        }
        if told.len() >= LINES {
            return None;
        }
        told.insert(line, Told { at: now, silent: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn one_line_a_minute_address_and_reason_says_how_many_had_none() {
        let refusals = Refusals::default();
        let begin = Instant::now();
        assert_eq!(refusals.admit(address(1), "expired", begin), Some(0));
        assert_eq!(refusals.admit(address(1), "expired", begin + PAUSE / 2), None);
        assert_eq!(refusals.admit(address(2), "expired", begin + PAUSE / 2), Some(0));
        assert_eq!(refusals.admit(address(1), "revoked", begin + PAUSE / 2), Some(0));
        assert_eq!(refusals.admit(address(1), "expired", begin + PAUSE / 2), None);
        assert_eq!(refusals.admit(address(1), "expired", begin + PAUSE), Some(2));
        assert_eq!(refusals.admit(address(1), "expired", begin + PAUSE * 2), Some(0));
    }

    #[test]
    fn a_flood_from_everywhere_is_forgotten_after_a_minute() {
        let refusals = Refusals::default();
        let begin = Instant::now();
        let lines = (0..LINES as u32 + 100).filter_map(|number| refusals.admit(address(number), "", begin));
        assert_eq!(lines.count(), LINES);
        assert_eq!(refusals.admit(address(9_999_999), "", begin + PAUSE), Some(0));
        assert_eq!(refusals.told.lock().unwrap().len(), 1);
    }
}
