//! What a disk on FUSE adds to each request, set by a test while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Delay of every flush, and for how long, as parts of a whole: about as many syncs each, in different buckets of etcd,
/// whether a sync needs one flush or two.
const SPREAD: [(Duration, f64); 4] = [
    (Duration::from_micros(2_200), 0.12),
    (Duration::from_millis(5), 0.16),
    (Duration::from_millis(10), 0.27),
    (Duration::from_millis(20), 0.45),
];

/// How fast the disk is by itself, one request at a time. The default adds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Of every write, whatever its size.
    pub write: Duration,
    /// Of every flush.
    pub flush: Duration,
    /// Bytes that it writes in a second; 0 = no limit.
    pub bytes_per_second: u64,
}

impl Pace {
    /// How long a write of so many bytes takes.
    pub fn of_write(&self, bytes: u64) -> Duration {
        match self.bytes_per_second {
            0 => self.write,
            rate => self.write + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate),
        }
    }
}

/// Which requests fail with EIO. The default lets all of them through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Errors {
    /// Writes.
    pub writes: bool,
    /// Flushes.
    pub flushes: bool,
    /// One in so many of them; 0 and 1 = every one.
    pub one_in: u32,
}

/// A request that took longer because it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delayed {
    /// It was a flush, else a write.
    pub flush: bool,
    /// When the delay began.
    pub from: SystemTime,
    /// When it was over.
    pub to: SystemTime,
}

/// What one request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// The disk itself.
    pub(super) base: Duration,
    /// On top of it.
    pub(super) delay: Duration,
    pub(super) fails: bool,
    generation: u64,
    flush: bool,
}

/// What is added to each request; shared with the running filesystem.
#[derive(Debug, Default)]
pub struct Delays {
    program: Mutex<Program>,
    served: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Program {
    pace: Pace,
    errors: Errors,
    /// Requests that could have failed.
    liable: u32,
    write: Duration,
    syncs: Vec<Duration>,
    next: usize,
    /// Counts changes of `syncs`: what was delayed before one is not counted after it.
    generation: u64,
    first_delayed: Option<Instant>,
    log: Option<Vec<Delayed>>,
}

impl Delays {
    /// The disk is this fast from now on.
    pub fn set_pace(&self, pace: Pace) {
        self.program().pace = pace;
    }

    /// How fast the disk is.
    pub fn pace(&self) -> Pace {
        self.program().pace
    }

    /// These requests fail from now on.
    pub fn set_errors(&self, errors: Errors) {
        let mut program = self.program();
        program.errors = errors;
        program.liable = 0;
    }

    /// Every write takes this much longer.
    pub fn set_write(&self, delay: Duration) {
        self.program().write = delay;
    }

    /// Flushes take longer by these delays in turn; an empty list lets them through at once.
    pub fn set_syncs(&self, delays: &[Duration]) {
        let mut program = self.program();
        program.syncs = delays.to_vec();
        program.next = 0;
        program.generation += 1;
        program.first_delayed = None;
    }

    /// For a time, delays that put at least 5 % of the syncs into each of four or more of etcd's buckets; none after.
    pub async fn spread(&self, time: Duration) {
        for (delay, part) in SPREAD {
            self.set_syncs(&[delay]);
            tokio::time::sleep(time.mul_f64(part)).await;
        }
        self.clear();
    }

    /// No delay and no error any more; the disk's own pace stays.
    pub fn clear(&self) {
        self.set_write(Duration::ZERO);
        self.set_syncs(&[]);
        self.set_errors(Errors::default());
    }

    /// As it was made: neither delay nor error nor a pace of its own.
    pub fn reset(&self) {
        self.clear();
        self.set_pace(Pace::default());
    }

    /// Flushes answered since the start, delayed or not.
    pub fn flushes(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Requests that failed as they were told to, since the start.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// When the first delayed flush since the last [`Delays::set_syncs`] was answered: the moment from which the disk
    /// was slow for those who use it.
    pub fn slow_since(&self) -> Option<Instant> {
        self.program().first_delayed
    }

    /// Notes each delay from now on.
    pub fn start_log(&self) {
        self.program().log = Some(Vec::new());
    }

    /// What was noted since [`Delays::start_log`], in the order of their ends; nothing is noted any more.
    pub fn stop_log(&self) -> Vec<Delayed> {
        self.program().log.take().unwrap_or_default()
    }

    pub(super) fn of_write(&self, bytes: u64) -> Cost {
        let mut program = self.program();
        let fails = program.errors.writes && program.is_unlucky();
        let (base, delay) = (program.pace.of_write(bytes), program.write);
        Cost { base, delay, fails, generation: program.generation, flush: false }
    }

    pub(super) fn of_flush(&self) -> Cost {
        let mut program = self.program();
        let fails = program.errors.flushes && program.is_unlucky();
        let turn = program.next;
        program.next += 1;
        let delay = program.syncs.get(turn % program.syncs.len().max(1)).copied().unwrap_or_default();
        Cost { base: program.pace.flush, delay, fails, generation: program.generation, flush: true }
    }

    /// The request was answered; its delay began at `from`.
    pub(super) fn answered(&self, cost: Cost, from: SystemTime) {
        if cost.flush {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
        if cost.fails {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        if cost.delay.is_zero() {
            return;
        }
        let mut program = self.program();
        if cost.flush && program.generation == cost.generation {
            program.first_delayed.get_or_insert_with(Instant::now);
        }
        if let Some(log) = &mut program.log {
            log.push(Delayed { flush: cost.flush, from, to: SystemTime::now() });
        }
    }

    fn program(&self) -> MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Program {
    fn is_unlucky(&mut self) -> bool {
        self.liable += 1;
        self.liable.is_multiple_of(self.errors.one_in.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Duration = Duration::from_millis(1);

    #[test]
    fn a_flush_delayed_before_a_change_is_not_counted_after_it() {
        let delays = Delays::default();
        let two = Duration::from_millis(2);
        delays.set_syncs(&[ONE, two]);
        let [first, second, third] = [(); 3].map(|()| delays.of_flush());
        assert_eq!((first.delay, second.delay, third.delay), (ONE, two, ONE));
        delays.clear();
        assert_eq!(delays.of_flush().delay, Duration::ZERO);
        delays.answered(first, SystemTime::now());
        assert_eq!(delays.slow_since(), None);
        delays.set_syncs(&[ONE]);
        delays.answered(delays.of_flush(), SystemTime::now());
        assert!(delays.slow_since().is_some());
    }

    #[test]
    fn a_write_takes_as_long_as_its_bytes() {
        let pace = Pace { write: ONE, flush: ONE, bytes_per_second: 1 << 20 };
        assert_eq!(pace.of_write(1 << 20), ONE + Duration::from_secs(1));
        assert_eq!(Pace::default().of_write(1 << 30), Duration::ZERO);
        let delays = Delays::default();
        delays.set_pace(pace);
        delays.clear();
        assert_eq!(delays.of_write(0).base, ONE, "its pace is the disk's own");
    }

    #[test]
    fn one_in_so_many_fails_and_only_of_the_kind_that_was_meant() {
        let delays = Delays::default();
        delays.set_errors(Errors { writes: true, flushes: false, one_in: 3 });
        let failed: Vec<bool> = (0..6).map(|_| delays.of_write(1).fails).collect();
        assert_eq!(failed, [false, false, true, false, false, true]);
        assert!(!delays.of_flush().fails);
        delays.set_errors(Errors { flushes: true, ..Errors::default() });
        assert!(delays.of_flush().fails && delays.of_flush().fails && !delays.of_write(1).fails);
        delays.clear();
        assert!(!delays.of_flush().fails);
    }

    #[test]
    fn only_what_was_delayed_is_noted_and_only_while_it_is_asked_for() {
        let delays = Delays::default();
        delays.set_write(ONE);
        let now = SystemTime::now();
        delays.answered(delays.of_write(1), now);
        delays.start_log();
        delays.answered(delays.of_write(1), now);
        delays.answered(delays.of_flush(), now);
        let log = delays.stop_log();
        assert_eq!(log.iter().map(|one| (one.flush, one.from)).collect::<Vec<_>>(), [(false, now)]);
        assert!(delays.stop_log().is_empty());
    }
}
