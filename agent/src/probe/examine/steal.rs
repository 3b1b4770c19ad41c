//! How much of its CPUs the hypervisor gave to others, by samples of `/proc/stat`. Pure but for [`read`].

use std::collections::VecDeque;

use crate::clock::TICKS_PER_SECOND;
use crate::discover::ProcFs;

/// Samples that are kept: seconds.
const KEPT: usize = 16;

/// A sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Time of all CPUs since boot that the hypervisor gave to others.
    pub stolen_ns: u64,
    /// Time of all CPUs since boot without work, waiting for disks included.
    pub idle_ns: u64,
    /// CPUs.
    pub cpus: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Steal {
    samples: VecDeque<(u64, Sample)>,
}

impl Steal {
    /// Takes in a sample of this moment.
    pub fn note(&mut self, at_ns: u64, sample: Sample) {
        if self.samples.back().is_some_and(|(last_ns, _)| *last_ns >= at_ns) {
            return;
        }
        if self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back((at_ns, sample));
    }

    /// Time of one CPU that was stolen in a span, on average: what was stolen between the samples around it, of the average CPU, in
    /// proportion. `None` when there are none around it.
    pub fn during(&self, from_ns: u64, until_ns: u64) -> Option<u64> {
        let (first_ns, first) = self.samples.iter().rev().find(|(at_ns, _)| *at_ns <= from_ns)?;
        let (last_ns, last) = self.samples.iter().find(|(at_ns, _)| *at_ns >= until_ns)?;
        let stolen = u128::from(last.stolen_ns.saturating_sub(first.stolen_ns) / last.cpus.max(1));
        let (span, between) = (u128::from(until_ns.saturating_sub(from_ns)), u128::from(last_ns - first_ns));
        u64::try_from((stolen * span).checked_div(between)?).ok().map(|ns| ns.min(until_ns - from_ns))
    }
}

/// From the text of `/proc/stat`.
fn parse(text: &str) -> Option<Sample> {
    let mut lines = text.lines();
    let all = lines.next()?.strip_prefix("cpu ")?;
    let mut fields = all.split_ascii_whitespace().map(str::parse::<u64>);
    let mut ns_at = |skipped: usize| {
        let ticks = fields.nth(skipped)?.ok()?;
        Some(ticks.saturating_mul(1_000_000_000 / TICKS_PER_SECOND))
    };
    // user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
    let (idle_ns, waiting_ns, stolen_ns) = (ns_at(3)?, ns_at(0)?, ns_at(2)?);
    let cpus = lines.take_while(|line| line.starts_with("cpu")).count() as u64;
    Some(Sample { stolen_ns, idle_ns: idle_ns.saturating_add(waiting_ns), cpus })
}

/// A sample of now.
pub fn read(proc: &ProcFs) -> Option<Sample> {
    parse(&proc.read_root("stat").ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sample(stolen_ns: u64) -> Sample {
        Sample { stolen_ns, idle_ns: 0, cpus: 2 }
    }

    #[test]
    fn what_was_stolen_around_a_span_counts_in_proportion_and_by_cpu() {
        let mut steal = Steal::default();
        for (at_ns, stolen_ns) in [(1_000, 0), (2_000, 400), (3_000, 400)] {
            steal.note(at_ns, sample(stolen_ns));
        }
        assert_eq!(steal.during(1_500, 2_000), Some(100), "half of 400 on two CPUs, for half of the time");
        assert_eq!(steal.during(1_000, 2_000), Some(200));
        assert_eq!(steal.during(1_500, 2_500), Some(100));
        assert_eq!(steal.during(2_100, 2_900), Some(0));
        assert_eq!(steal.during(500, 1_500), None, "not seen from its begin");
        assert_eq!(steal.during(2_500, 3_500), None, "nor to its end");
    }

    #[test]
    fn clocks_and_counters_that_go_back_do_no_harm() {
        let mut steal = Steal::default();
        steal.note(1_000, sample(400));
        steal.note(900, sample(0));
        steal.note(1_000, sample(0));
        steal.note(2_000, sample(u64::MAX));
        assert_eq!(steal.during(1_000, 2_000), Some(1_000), "not more than the span");
        steal.note(3_000, Sample { stolen_ns: 0, idle_ns: 0, cpus: 0 });
        assert_eq!(steal.during(2_000, 3_000), Some(0));
        assert_eq!(steal.during(2_000, 2_000), None, "no time between the samples");
    }

    #[test]
    fn few_samples_are_kept() {
        let mut steal = Steal::default();
        (1..1_000).for_each(|at_ns| steal.note(at_ns, sample(at_ns)));
        assert_eq!(steal.samples.len(), KEPT);
        assert_eq!(steal.during(1, 999), None);
    }

    #[test]
    fn the_kernels_page_is_read() {
        let text =
            "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 8 9 10\nintr 5\n";
        assert_eq!(parse(text), Some(Sample { stolen_ns: 80_000_000, idle_ns: 90_000_000, cpus: 2 }));
        for garbage in ["", "cpu", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x", "intr 1"] {
            assert_eq!(parse(garbage), None, "{garbage:?}");
        }
        assert!(read(&ProcFs::new("/proc")).is_some_and(|sample| sample.cpus > 0));
    }
}
