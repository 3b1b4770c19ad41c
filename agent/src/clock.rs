//! The node's clocks. Facts carry the monotonic clock; pure code is handed its time by the callers of this module.

use std::time::Duration;

/// Nanoseconds in a second.
pub const SECOND_NS: i64 = 1_000_000_000;

/// Kernel clock ticks in a second (`USER_HZ`): 100 on every architecture that etcd-monitor supports.
pub const TICKS_PER_SECOND: u64 = 100;

/// One reading of both clocks, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`.
    pub mono_ns: u64,
    /// Unix time in nanoseconds.
    pub wall_ns: i64,
}

impl Reading {
    /// Both clocks now.
    pub fn now() -> Self {
        // The wall clock is read between two readings of the monotonic one, so that being preempted in between shows
        // as a long gap; three tries make a gap of a scheduler's slice unlikely.
        let mut best = Self::once();
        for _ in 0..2 {
            if best.1 < 20_000 {
                break;
            }
            let again = Self::once();
            if again.1 < best.1 {
                best = again;
            }
        }
        best.0
    }

    fn once() -> (Self, u64) {
        let before = clock_ns(libc::CLOCK_MONOTONIC);
        let wall_ns = clock_ns(libc::CLOCK_REALTIME);
        let after = clock_ns(libc::CLOCK_MONOTONIC);
        let gap = after.saturating_sub(before).unsigned_abs();
        (Self { mono_ns: (before + (after - before) / 2).unsigned_abs(), wall_ns }, gap)
    }

    /// Wall clock minus monotonic clock.
    pub const fn wall_minus_mono_ns(self) -> i64 {
        self.wall_ns - self.mono_ns as i64
    }

    /// Time until the wall clock reaches the next whole second.
    pub const fn until_next_second(self) -> Duration {
        Duration::from_nanos((SECOND_NS - self.wall_ns.rem_euclid(SECOND_NS)) as u64)
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn mono_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC).unsigned_abs()
}

/// How well the wall clock is kept, as the kernel was told by whoever keeps it (NTP, PTP).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Discipline {
    /// False when nobody keeps it.
    pub synchronized: bool,
    /// What is still to be corrected; 0 when steered in another way than by the kernel's own loop, as chrony does.
    pub offset_seconds: f64,
    /// Bound of the error; grows by 500 us a second while nobody keeps the clock.
    pub max_error_seconds: f64,
    /// Estimate of the error.
    pub estimated_error_seconds: f64,
    /// How much faster the clock is made to run than its hardware does.
    pub frequency_ratio: f64,
}

impl Discipline {
    /// Read only: nothing is adjusted. `None` where it may not be asked.
    pub fn now() -> Option<Self> {
        // SAFETY: all zeros is a valid timex, and with `modes` 0 it is only read into.
        let mut state: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: `state` is valid for the duration of the call.
        if unsafe { libc::adjtimex(&raw mut state) } < 0 {
            return None;
        }
        let fraction = if state.status & libc::STA_NANO != 0 { 1e9 } else { 1e6 };
        Some(Self {
            synchronized: state.status & libc::STA_UNSYNC == 0,
            offset_seconds: state.offset as f64 / fraction,
            max_error_seconds: state.maxerror as f64 / 1e6,
            estimated_error_seconds: state.esterror as f64 / 1e6,
            // In units of 2^-16 ppm.
            frequency_ratio: state.freq as f64 / 65_536.0 / 1e6,
        })
    }
}

/// CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).unsigned_abs())
}

/// Unix time at which a process began that the kernel says began `start_ticks` after boot.
pub fn process_start_wall_ns(start_ticks: u64) -> i64 {
    let boot_ns = clock_ns(libc::CLOCK_REALTIME) - clock_ns(libc::CLOCK_BOOTTIME);
    let since_boot = i64::try_from(start_ticks).unwrap_or(i64::MAX);
    boot_ns.saturating_add(since_boot.saturating_mul(SECOND_NS / TICKS_PER_SECOND as i64))
}

fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call.
    let outcome = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(outcome, 0, "the clocks used here exist on every Linux");
    time.tv_sec * SECOND_NS + time.tv_nsec
}
