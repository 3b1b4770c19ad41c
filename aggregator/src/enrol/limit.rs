//! How often strangers may try.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Tries that an address has at once, and the time in which one comes back.
const ADDRESS: (f64, Duration) = (20.0, Duration::from_secs(3));

/// The same for all addresses together: signing is cheap, and a whole fleet may start at once.
const ALL: (f64, Duration) = (400.0, Duration::from_millis(20));

/// Addresses that are remembered; when they are used up, all of them share what is left for everybody.
const ADDRESSES: usize = 10_000;

/// Buckets of tries, by address and for all.
#[derive(Debug)]
pub struct Limit {
    all: Bucket,
    by_address: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant, (most, period): (f64, Duration)) -> bool {
        let back = now.saturating_duration_since(self.at).as_secs_f64() / period.as_secs_f64();
        self.left = (self.left + back).min(most);
        self.at = now;
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }

    fn is_full(&self, now: Instant, (most, period): (f64, Duration)) -> bool {
        let back = now.saturating_duration_since(self.at).as_secs_f64() / period.as_secs_f64();
        self.left + back >= most
    }
}

impl Limit {
    /// Full buckets.
    pub fn new(now: Instant) -> Self {
        Self { all: Bucket { left: ALL.0, at: now }, by_address: HashMap::new() }
    }

    /// Whether this address may try now.
    pub fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.by_address.len() >= ADDRESSES {
            self.by_address.retain(|_, bucket| !bucket.is_full(now, ADDRESS));
        }
        if self.by_address.len() < ADDRESSES || self.by_address.contains_key(&address) {
            let bucket = self.by_address.entry(address).or_insert(Bucket { left: ADDRESS.0, at: now });
            if !bucket.take(now, ADDRESS) {
                return false;
            }
        }
        self.all.take(now, ALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn one_address_does_not_use_up_what_others_need() {
        let begin = Instant::now();
        let mut limit = Limit::new(begin);
        let granted = (0..1_000).filter(|_| limit.take(address(1), begin)).count();
        assert_eq!(granted, 20);
        assert!(limit.take(address(2), begin));
        assert!(!limit.take(address(1), begin + Duration::from_secs(2)));
        assert!(limit.take(address(1), begin + Duration::from_secs(4)), "it comes back with time");
    }

    #[test]
    fn many_addresses_together_are_bounded_in_tries_and_in_memory() {
        let begin = Instant::now();
        let mut limit = Limit::new(begin);
        let granted = (0..50_000).filter(|number| limit.take(address(*number), begin)).count();
        assert_eq!(granted, 400);
        assert!(limit.by_address.len() <= ADDRESSES);
        let later = begin + Duration::from_secs(60);
        assert!(limit.take(address(60_000), later));
        assert!(limit.by_address.len() < ADDRESSES, "full buckets are forgotten");
    }
}
