//! Percentiles of etcd's own histograms, which have a counter for each upper bound (`le`), as Prometheus reads them: by
//! interpolation within the bucket. Where the bounds lie decides how far off that may be: `docs/api/series.md`.

/// Percentile of the counts (upper bound, cumulative count), by rising bound, the last one infinite.
///
/// NaN when nothing was counted, or there is no infinite bound. A percentile in the infinite bucket is the highest
/// finite bound: it is at least that.
pub fn quantile(buckets: &[(f64, f64)], quantile: f64) -> f64 {
    let Some((highest, observed)) = buckets.last().copied() else { return f64::NAN };
    if !highest.is_infinite() || buckets.len() < 2 || observed.is_nan() || observed <= 0.0 {
        return f64::NAN;
    }
    let rank = quantile.clamp(0.0, 1.0) * observed;
    let finite = &buckets[..buckets.len() - 1];
    // Counters of one scrape can differ by what came between: a count never falls with the bound.
    let mut below = (0.0, 0.0f64);
    for (position, (upper, count)) in finite.iter().copied().enumerate() {
        let count = count.max(below.1);
        if count >= rank {
            if position == 0 && upper <= 0.0 {
                return upper;
            }
            let inside = count - below.1;
            let share = if inside > 0.0 { (rank - below.1) / inside } else { 1.0 };
            return below.0 + (upper - below.0) * share;
        }
        below = (upper, count);
    }
    below.0
}

#[cfg(test)]
mod tests {
    use super::quantile;

    const ETCD: [(f64, f64); 5] =
        [(0.001, 50.0), (0.002, 90.0), (0.004, 99.0), (0.008, 99.0), (f64::INFINITY, 100.0)];

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn percentiles_are_interpolated_as_prometheus_does() {
        // promql's histogram_quantile of these counts.
        for (q, expected) in [(0.5, 0.001), (0.25, 0.0005), (0.7, 0.0015), (0.95, 0.002 + 0.002 * 5.0 / 9.0)]
        {
            assert!(near(quantile(&ETCD, q), expected), "{q}: {}", quantile(&ETCD, q));
        }
        assert!(near(quantile(&ETCD, 0.999), 0.008), "beyond all bounds: at least the highest");
    }

    #[test]
    fn nothing_counted_has_no_percentile() {
        assert!(quantile(&[], 0.5).is_nan());
        assert!(quantile(&[(0.001, 0.0), (f64::INFINITY, 0.0)], 0.5).is_nan());
        assert!(quantile(&[(0.001, 3.0), (0.002, 3.0)], 0.5).is_nan(), "without a total");
        assert!(quantile(&[(f64::INFINITY, 3.0)], 0.5).is_nan(), "without a bound");
        assert!(quantile(&[(0.001, f64::NAN), (f64::INFINITY, f64::NAN)], 0.5).is_nan());
    }

    #[test]
    fn a_count_that_falls_is_taken_for_the_one_before() {
        let torn = [(0.001, 10.0), (0.002, 9.0), (0.004, 20.0), (f64::INFINITY, 20.0)];
        assert!(near(quantile(&torn, 0.75), 0.002 + 0.002 * 0.5));
    }
}
