//! The rules: facts in, findings out. Each cause is judged by its own evidence ([`disk`], [`cpu`]); what is a consequence of
//! another is taken back here, with the reason.
//!
//! Where a number comes from stands beside it: measured signatures of the causes, etcd's own deadlines (heartbeat 100 ms, election
//! 1 s, 10 ms recommended for a WAL sync), or what calm and heavily loaded healthy clusters showed.

use super::facts::{Cpu, Facts};
use super::{Cause, Confidence, Evidence, Finding, RuledOut};

mod cpu;
mod disk;
mod split;
mod words;

use split::Split;
use words::{percent, span};

/// Messages that must say the same before an ordinary finding is believed; a burst that straddles two seconds is not an
/// incident yet.
const CONFIRMED: u32 = 2;

/// What is not explained gets more time: its evidence may still be on its way.
const UNKNOWN_CONFIRMED: u32 = 4;

/// What a window says. Empty = no harm, or nothing that deserves a verdict.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let split = Split::of(facts);
    let mut found: Vec<Finding> = Vec::new();
    found.extend(cpu::stopped(facts));
    found.extend(disk::errors(facts));
    found.extend(disk::nearly_full(facts));
    found.extend(cpu::quota(facts));
    if let Some(split) = &split {
        found.extend(disk::throttle(facts, split));
        found.extend(disk::neighbour(facts, split));
        let own = disk::own_io(facts, split, &found);
        found.extend(own);
        let journal = disk::journal(facts, split, &found);
        found.extend(journal);
    }
    let steal = cpu::steal(facts, split.as_ref());
    found.extend(steal);
    let starvation = cpu::starvation(facts, split.as_ref(), &found);
    found.extend(starvation);
    if let Some(split) = &split {
        // Last: whatever else makes a device seem slow is known by now.
        let device = disk::slow_device(facts, split, &found);
        found.extend(device);
    }
    let unknown = unknown(facts, split.as_ref(), &found);
    found.extend(unknown);
    let causes: Vec<Cause> = found.iter().map(|finding| finding.cause).collect();
    for finding in &mut found {
        finding.ruled_out = ruled_out(facts, split.as_ref(), &causes);
    }
    found
}

/// A finding without culprits, evidence and what was ruled out.
fn finding(facts: &Facts, cause: Cause, share: f64, confidence: Confidence) -> Finding {
    Finding {
        cause,
        share: if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 },
        confidence,
        culprits: Vec::new(),
        summary: String::new(),
        evidence: Vec::new(),
        ruled_out: Vec::new(),
        next_step: String::new(),
        onset: facts.since,
        weight_ns: facts.harm.lost_ns,
        confirmations: if facts.harm.is_severe() { 1 } else { CONFIRMED },
    }
}

impl Finding {
    fn with(mut self, what: &str, value: impl Into<String>) -> Self {
        self.evidence.push(Evidence { what: what.to_owned(), value: value.into() });
        self
    }

    fn saying(mut self, summary: String, next_step: &str) -> Self {
        self.summary = summary;
        self.next_step = next_step.to_owned();
        self
    }

    /// The figures that every verdict on slow syncs rests on.
    fn with_syncs(self, facts: &Facts, split: &Split) -> Self {
        let usual =
            facts.usual.map_or_else(|| "not known yet".to_owned(), |usual| span(usual.as_nanos() as u64));
        self.with(
            "slow WAL syncs",
            format!(
                "{} of {} took 10 ms or more, {} of the time went into them",
                facts.wal.slow,
                facts.wal.count,
                percent(facts.harm.lost_share)
            ),
        )
        .with(
            "WAL sync, worst second",
            format!("p50 {}, p99 {}", span(facts.wal.p50_ns), span(facts.wal.p99_ns)),
        )
        .with("WAL sync, usual median", usual)
        .with("where the time of slow syncs went", split.text())
    }
}

fn is_among(found: &[Finding], cause: Cause) -> bool {
    found.iter().any(|finding| finding.cause == cause)
}

/// Slow, for long enough, and nothing of the above.
fn unknown(facts: &Facts, split: Option<&Split>, found: &[Finding]) -> Option<Finding> {
    // A full disk is no reason for slow syncs; anything else is taken for one.
    let is_explained = found.iter().any(|finding| finding.cause != Cause::DiskNearlyFull);
    // Starvation is believed a second later than it begins.
    let starves = facts.cpu.as_ref().is_some_and(Cpu::is_suspect);
    if !facts.harm.is_slow() || facts.harm.bad < 3 || is_explained || starves {
        return None;
    }
    let seen = match split {
        Some(split) => format!("of the time of its slow syncs {}", split.text()),
        None => "none of its slow syncs could be examined".to_owned(),
    };
    let summary = format!(
        "{} is slow ({} of the time goes into slow WAL syncs), and nothing that is known explains it: {seen}",
        facts.member,
        percent(facts.harm.lost_share)
    );
    let next_step = "See what its agent can't do on this node (degraded capabilities), the slow syncs of this member, and \
                     what changed when it began.";
    let unknown =
        Finding { confirmations: UNKNOWN_CONFIRMED, ..finding(facts, Cause::Unknown, 1.0, Confidence::Low) }
            .saying(summary, next_step);
    Some(match split {
        Some(split) => unknown.with_syncs(facts, split),
        None => unknown.with("slow WAL syncs", format!("{} of {}", facts.wal.slow, facts.wal.count)),
    })
}

/// What was considered and is not it: only where something is known.
fn ruled_out(facts: &Facts, split: Option<&Split>, causes: &[Cause]) -> Vec<RuledOut> {
    let mut all: Vec<(Cause, String)> = Vec::new();
    if let Some(split) = split {
        all.extend(disk::why_not(facts, split, causes));
    }
    all.extend(cpu::why_not(facts, split));
    let room = &facts.storage;
    if room.io_errors == 0 && room.sync_errors == 0 && room.free_bytes.is_some() {
        all.push((Cause::DeviceErrors, "no request and no sync failed".to_owned()));
    }
    if let (Some(free), Some(size)) = (room.free_bytes, room.size_bytes) {
        let text = format!("{} of {} are free", words::bytes(free), words::bytes(size));
        all.push((Cause::DiskNearlyFull, text));
    }
    all.into_iter()
        .filter(|(cause, _)| !causes.contains(cause))
        .map(|(cause, why)| RuledOut { cause, why })
        .collect()
}
