//! Ratios of slots with and without probes, and how far to trust them.

/// One slot of the benchmark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Whether the probes were attached.
    pub(super) probed: bool,
    /// Acknowledged puts.
    pub(super) puts: f64,
    /// CPU time of the host in microseconds.
    pub(super) cpu_us: f64,
}

/// Resamplings for an interval.
const RESAMPLINGS: usize = 2_000;

/// Mean of a measure over the slots with probes, divided by that over those without.
pub(super) fn ratio(slots: &[Slot], measure: impl Fn(&Slot) -> f64) -> f64 {
    let mean = |probed: bool| {
        let chosen: Vec<f64> = slots.iter().filter(|slot| slot.probed == probed).map(&measure).collect();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred slots")]
        let count = chosen.len() as f64;
        chosen.iter().sum::<f64>() / count
    };
    mean(true) / mean(false)
}

/// The 95 % interval of that ratio by resampling the slots with replacement.
pub(super) fn interval(slots: &[Slot], measure: impl Fn(&Slot) -> f64) -> (f64, f64) {
    let mut ratios: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let drawn: Vec<Slot> =
                (0..slots.len()).map(|_| slots[rand::random_range(0..slots.len())]).collect();
            ratio(&drawn, &measure)
        })
        .filter(|ratio| ratio.is_finite())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |per_mille: usize| ratios.get(ratios.len() * per_mille / 1000).copied().unwrap_or(f64::NAN);
    (at(25), at(975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_more_work_is_found_within_its_interval() {
        let slots: Vec<Slot> = (0..400)
            .map(|index| {
                let probed = index % 2 == 0;
                let noise = f64::from(index % 7);
                Slot { probed, puts: 1000.0, cpu_us: if probed { 110.0 } else { 100.0 } + noise }
            })
            .collect();
        let cpu = |slot: &Slot| slot.cpu_us;
        let (low, high) = interval(&slots, cpu);
        assert!(low < 1.097 && 1.097 < high && high - low < 0.02, "{low} .. {high}");
        assert!((ratio(&slots, |slot| slot.puts) - 1.0).abs() < 1e-9);
    }
}
