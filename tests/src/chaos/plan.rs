//! The catalogue of faults, and random sequences of them. Pure: the same seed gives the same plan.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::fault::Cut;

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The agent.
    Agent,
    /// The aggregator; its engine dies with it.
    Aggregator,
    /// The engine alone.
    Engine,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and a start after the time.
    Killed(Victim),
    /// SIGTERM, and a start after the time. Not for the engine.
    Ended(Victim),
    /// SIGSTOP, and SIGCONT after the time.
    Stopped(Victim),
    /// No block is free under its state directory. The engine's is the aggregator's.
    Full(Victim),
    /// The path between agent and aggregator.
    Cut(Cut),
}

use Fault::{Cut as Link, Ended, Full, Killed, Stopped};
use Victim::{Agent, Aggregator, Engine};

/// Faults that occur alone, and those that overlap: each begins while the one before it still holds.
pub const CATALOGUE: [&[Fault]; 33] = [
    &[Killed(Agent)],
    &[Killed(Aggregator)],
    &[Killed(Engine)],
    &[Ended(Agent)],
    &[Ended(Aggregator)],
    &[Stopped(Agent)],
    &[Stopped(Aggregator)],
    &[Stopped(Engine)],
    &[Full(Agent)],
    &[Full(Aggregator)],
    &[Link(Cut::Reset)],
    &[Link(Cut::Silent)],
    &[Link(Cut::AnswersLost)],
    &[Link(Cut::RequestsHeld)],
    &[Link(Cut::Reset), Killed(Agent)],
    &[Link(Cut::Silent), Killed(Aggregator)],
    &[Link(Cut::Silent), Ended(Agent)],
    &[Link(Cut::AnswersLost), Killed(Aggregator)],
    &[Link(Cut::AnswersLost), Killed(Engine)],
    &[Link(Cut::AnswersLost), Killed(Agent)],
    &[Stopped(Engine), Killed(Agent)],
    &[Stopped(Engine), Killed(Aggregator)],
    &[Stopped(Engine), Killed(Engine)],
    &[Stopped(Engine), Ended(Aggregator)],
    &[Stopped(Agent), Killed(Aggregator)],
    &[Stopped(Agent), Killed(Agent)],
    &[Stopped(Aggregator), Killed(Engine)],
    &[Full(Agent), Link(Cut::Silent)],
    &[Full(Agent), Killed(Aggregator)],
    &[Full(Agent), Link(Cut::Reset), Killed(Agent)],
    &[Full(Aggregator), Killed(Engine)],
    &[Full(Aggregator), Killed(Agent)],
    &[Killed(Agent), Killed(Aggregator)],
];

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// What.
    pub fault: Fault,
    /// When it begins, from the moment the load goes on.
    pub from: Duration,
    /// How long it holds.
    pub hold: Duration,
}

/// A stretch of load with one or several overlapping faults in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the plan, from 1.
    pub number: usize,
    /// In the order in which they begin.
    pub faults: Vec<Timed>,
    /// How long the load goes on once all of them are over.
    pub after: Duration,
}

impl Event {
    /// Whether the agent's process dies in it.
    pub fn agent_dies(&self) -> bool {
        self.faults.iter().any(|timed| matches!(timed.fault, Killed(Agent) | Ended(Agent)))
    }
}

/// Events from a seed. Every entry of the catalogue comes once before any comes again.
pub fn plan(seed: u64, events: usize) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut deck: Vec<&[Fault]> = Vec::new();
    (1..=events)
        .map(|number| {
            if deck.is_empty() {
                deck.extend(CATALOGUE);
                deck.shuffle(&mut random);
            }
            event(&mut random, number, deck.pop().unwrap_or(CATALOGUE[0]))
        })
        .collect()
}

fn event(random: &mut StdRng, number: usize, faults: &[Fault]) -> Event {
    let dies = faults.contains(&Killed(Agent));
    // Syncs that are too old to die with an agent need some time before its death, though not each time.
    let mut from = seconds(random, 1.0, if dies { 13.0 } else { 4.0 });
    let mut timed: Vec<Timed> = Vec::new();
    for fault in faults {
        let hold = match fault {
            Killed(_) | Ended(_) => seconds(random, 0.2, 4.0),
            // Mostly short, at times long.
            Stopped(_) if random.random_bool(0.25) => seconds(random, 8.0, 20.0),
            Stopped(_) => seconds(random, 1.0, 8.0),
            Full(_) => seconds(random, 3.0, 9.0),
            Link(_) => seconds(random, 2.0, 12.0),
        };
        if let Some(earlier) = timed.last() {
            from = earlier.from + earlier.hold.mul_f64(random.random_range(0.2..0.8));
        }
        timed.push(Timed { fault: *fault, from, hold });
    }
    Event { number, faults: timed, after: seconds(random, 1.0, 3.0) }
}

fn seconds(random: &mut StdRng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(random.random_range(from..to))
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, timed) in self.faults.iter().enumerate() {
            let joint = if index == 0 { "" } else { " + " };
            let (from, hold) = (timed.from.as_secs_f64(), timed.hold.as_secs_f64());
            write!(out, "{joint}{} at {from:.1} s for {hold:.1} s", timed.fault)?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (victim, what) = match self {
            Killed(victim) => (victim, "killed"),
            Ended(victim) => (victim, "terminated"),
            Stopped(victim) => (victim, "stopped"),
            Full(victim) => (victim, "disk full"),
            Link(cut) => return write!(out, "link cut {}", words(*cut)),
        };
        let name = match victim {
            Agent => "agent",
            Aggregator => "aggregator",
            Engine => "engine",
        };
        write!(out, "{name} {what}")
    }
}

const fn words(cut: Cut) -> &'static str {
    match cut {
        Cut::Reset => "(reset)",
        Cut::Silent => "(silent)",
        Cut::AnswersLost => "(answers lost)",
        Cut::RequestsHeld => "(requests held)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_and_another_one_another() {
        assert_eq!(plan(7, 50), plan(7, 50));
        assert_ne!(plan(7, 50), plan(8, 50));
        assert_eq!(plan(7, 20), plan(7, 50)[..20], "a longer plan begins like a shorter one");
    }

    #[test]
    fn all_of_the_catalogue_occurs() {
        let events = plan(1, CATALOGUE.len());
        for entry in CATALOGUE {
            let same = |event: &Event| event.faults.iter().map(|timed| timed.fault).eq(entry.iter().copied());
            assert_eq!(events.iter().filter(|event| same(event)).count(), 1, "{entry:?}");
        }
    }

    #[test]
    fn faults_of_one_event_overlap() {
        for event in plan(3, 200) {
            for pair in event.faults.windows(2) {
                assert!(pair[1].from > pair[0].from && pair[1].from < pair[0].from + pair[0].hold, "{event}");
            }
        }
    }
}
