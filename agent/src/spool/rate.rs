//! How fast the spool may write.

/// A bucket of bytes that fills over time. A write is allowed while it isn't empty and may overdraw it, so a large one is not
/// held up for ever; the debt is waited off before the next.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes a second; 0 = no limit.
    rate: u64,
    burst: i64,
    level: i64,
    filled_at_ns: Option<u64>,
}

impl Bucket {
    /// A full one.
    pub fn new(bytes_per_second: u64, burst_bytes: u64) -> Self {
        let burst = i64::try_from(burst_bytes).unwrap_or(i64::MAX);
        Self { rate: bytes_per_second, burst, level: burst, filled_at_ns: None }
    }

    /// Whether something may be written now.
    pub fn allows(&mut self, now_mono_ns: u64) -> bool {
        if self.rate == 0 {
            return true;
        }
        let since = now_mono_ns.saturating_sub(self.filled_at_ns.unwrap_or(now_mono_ns));
        let gained = u128::from(since) * u128::from(self.rate) / 1_000_000_000;
        // What is below a byte is not thrown away with the time it took.
        if gained > 0 || self.filled_at_ns.is_none() {
            let gained = i64::try_from(gained).unwrap_or(i64::MAX);
            self.level = self.level.saturating_add(gained).min(self.burst);
            self.filled_at_ns = Some(now_mono_ns);
        }
        self.level > 0
    }

    /// Takes what was written.
    pub fn spend(&mut self, bytes: u64) {
        if self.rate > 0 {
            self.level = self.level.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_is_allowed_than_the_rate_and_one_burst() {
        let mut bucket = Bucket::new(1_000, 500);
        let mut written = 0;
        for now in (0..10_000_000_000).step_by(1_000_000) {
            if bucket.allows(now) {
                bucket.spend(300);
                written += 300;
            }
        }
        assert!((10_000..=10_800).contains(&written), "{written}");
    }

    #[test]
    fn a_write_above_the_burst_is_paid_off_afterwards() {
        let mut bucket = Bucket::new(1_000, 500);
        assert!(bucket.allows(0));
        bucket.spend(2_500);
        assert!(!bucket.allows(1_999_000_000));
        assert!(bucket.allows(2_002_000_000));
        assert!(Bucket::new(0, 0).allows(0), "0 = no limit");
    }
}
