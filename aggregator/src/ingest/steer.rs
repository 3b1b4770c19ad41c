//! What goes back to the agents besides acknowledgements: the pace that the store can take, and redirects.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use etcdmon_proto::v1;
use tokio::sync::watch;
use uuid::Uuid;

use super::Options;

/// How much of the memory for waiting batches is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The store keeps up.
    Normal = 0,
    /// Batches pile up.
    High = 1,
    /// Memory is nearly used up.
    Critical = 2,
}

/// Shares of the memory, in percent, at which a level begins, and below which it ends.
const HIGH: (u64, u64) = (20, 10);
const CRITICAL: (u64, u64) = (60, 40);

impl Level {
    const ALL: [Self; 3] = [Self::Normal, Self::High, Self::Critical];

    /// The level after `percent` of the memory was seen in use. Levels are left later than they are entered, so that
    /// agents are not told something else with every insert.
    pub const fn next(self, percent: u64) -> Self {
        if percent >= CRITICAL.0 || (matches!(self, Self::Critical) && percent >= CRITICAL.1) {
            Self::Critical
        } else if percent >= HIGH.0 || (!matches!(self, Self::Normal) && percent >= HIGH.1) {
            Self::High
        } else {
            Self::Normal
        }
    }

    /// What agents are asked for. Longer intervals make larger batches, which cost the store less a row; a smaller window
    /// leaves them in the agents' spools instead of our memory.
    pub fn pace(self, options: &Options) -> v1::Pace {
        let (times, share, reason) = match self {
            Self::Normal => (1, 1, "the store keeps up"),
            Self::High => (2, 2, "batches wait for the store"),
            Self::Critical => (4, 8, "memory for waiting batches is nearly used up"),
        };
        v1::Pace {
            batch_interval_ms: milliseconds(options.batch_interval).saturating_mul(times),
            window_batches: (options.window_batches / share).max(1),
            reason: reason.to_owned(),
        }
    }
}

/// A span as the wire has it.
pub fn milliseconds(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

/// The level that all streams share.
#[derive(Debug, Default)]
pub struct Pressure(AtomicU8);

impl Pressure {
    /// Notes that `used` of `whole` bytes are in use. Returns the level.
    pub fn note(&self, used: u64, whole: u64) -> Level {
        let percent = used.saturating_mul(100) / whole.max(1);
        let now = Level::ALL.get(usize::from(self.0.load(Ordering::Relaxed))).copied();
        let next = now.unwrap_or(Level::Normal).next(percent);
        self.0.store(next as u8, Ordering::Relaxed);
        next
    }
}

/// Which of an agent's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Batches.
    Batches,
    /// Live summaries.
    Live,
}

/// Where agents are to take their streams. Cheap to read: a stream is told when something changed.
#[derive(Debug)]
pub struct Redirects {
    wanted: Mutex<HashMap<(Uuid, StreamKind), v1::Redirect>>,
    changed: watch::Sender<()>,
}

impl Default for Redirects {
    fn default() -> Self {
        Self { wanted: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Redirects {
    /// Asks an agent to take a stream elsewhere, now and whenever it opens it here; `None` takes that back.
    pub fn set(&self, agent: Uuid, stream: StreamKind, redirect: Option<v1::Redirect>) {
        {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            match redirect {
                Some(redirect) => wanted.insert((agent, stream), redirect),
                None => wanted.remove(&(agent, stream)),
            };
        }
        self.changed.send_replace(());
    }

    /// What to tell an agent.
    pub fn of(&self, agent: Uuid, stream: StreamKind) -> Option<v1::Redirect> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).get(&(agent, stream)).cloned()
    }

    /// Yields when something changed; at once for the first time.
    pub fn watch(&self) -> watch::Receiver<()> {
        let mut receiver = self.changed.subscribe();
        receiver.mark_changed();
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_with_the_memory_in_use_and_fall_later() {
        let pressure = Pressure::default();
        let levels: Vec<Level> =
            [0, 19, 20, 15, 9, 60, 45, 39, 15, 5, 100, 0].map(|used| pressure.note(used, 100)).to_vec();
        use Level::{Critical, High, Normal};
        let expected =
            [Normal, Normal, High, High, Normal, Critical, Critical, High, High, Normal, Critical, Normal];
        assert_eq!(levels, expected);
    }

    #[test]
    fn under_pressure_batches_come_less_often_and_fewer_at_a_time_but_never_none() {
        let options = Options::default();
        let paces = Level::ALL.map(|level| level.pace(&options));
        assert!(paces.is_sorted_by_key(|pace| pace.batch_interval_ms));
        assert!(paces.iter().rev().is_sorted_by_key(|pace| pace.window_batches));
        let least = Level::Critical.pace(&Options { window_batches: 1, ..options });
        assert_eq!(least.window_batches, 1);
    }
}
