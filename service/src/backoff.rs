//! Growing pauses between attempts, with jitter so that many clients do not come back in step.

use std::time::Duration;

/// Pauses that double from `first` up to `most`; each is drawn between half and all of its nominal length.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    nominal: Duration,
}

impl Backoff {
    /// A fresh series.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, nominal: first }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let nominal = self.nominal.min(self.most);
        self.nominal = (nominal * 2).min(self.most);
        nominal.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    /// Begins anew after a success.
    pub const fn reset(&mut self) {
        self.nominal = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_begin_anew_after_a_reset() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        let mut nominal = first;
        for _ in 0..10 {
            let pause = backoff.pause();
            assert!(pause >= nominal / 2 && pause <= nominal, "{pause:?} of nominal {nominal:?}");
            nominal = (nominal * 2).min(most);
        }
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
