//! Latencies whose percentiles are known exactly: drawn from distributions with a known seed, and recorded from real syncs of a
//! file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::Instant;

use etcdmon_aggregator::query::{Plan, Series};
use etcdmon_histogram::bucket_of;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::rows::Rows;

/// Columns with their shares.
const QUANTILES: [(&str, f64); 6] = [
    ("p50_ns", 0.5),
    ("p90_ns", 0.9),
    ("p95_ns", 0.95),
    ("p99_ns", 0.99),
    ("p999_ns", 0.999),
    ("max_ns", 1.0),
];

/// Real syncs that are recorded; drawn from again and again.
const RECORDED: usize = 200;

/// Latencies by second, member and class.
pub struct Recorded(BTreeMap<(i64, u64, &'static str), Vec<u64>>);

impl Recorded {
    /// Two members with two classes: lognormal, bimodal, heavy-tailed, and recorded.
    pub fn make(begin: i64, seconds: i64) -> Self {
        let seed = std::env::var("ETCD_MONITOR_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
        println!("ETCD_MONITOR_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let real = record();
        let mut all = BTreeMap::new();
        for second in begin..begin + seconds {
            let count = random.random_range(1..16);
            let mut draw = |member, class, value: &mut dyn FnMut(&mut StdRng) -> f64| {
                let values = (0..count).map(|_| value(&mut random).clamp(200.0, 9e10) as u64).collect();
                all.insert((second, member, class), values);
            };
            draw(1, "wal", &mut |random| 1.2e6 * (0.6 * normal(random)).exp());
            draw(1, "backend", &mut |random| {
                if random.random_bool(0.9) {
                    random.random_range(3e5..5e5)
                } else {
                    random.random_range(4e7..6e7)
                }
            });
            draw(2, "wal", &mut |random| 4e5 / random.random_range(1e-4..1.0f64).powf(0.7));
            draw(2, "backend", &mut |random| real[random.random_range(0..real.len())] as f64);
        }
        Self(all)
    }

    /// As histograms of seconds.
    pub fn rows(&self) -> Rows {
        let mut rows = Rows::default();
        for ((second, member, class), values) in &self.0 {
            let mut buckets: BTreeMap<u16, u64> = BTreeMap::new();
            for value in values {
                *buckets.entry(bucket_of(*value) as u16).or_default() += 1;
            }
            let buckets: Vec<(u16, u64)> = buckets.into_iter().collect();
            rows.syncs(*member, class, *second, &buckets);
        }
        rows
    }

    /// The largest relative error of a series' percentiles. Counts must be exact.
    pub fn compare(&self, plan: &Plan, series: &Series) -> f64 {
        let class = series.labels["class"].as_str();
        let mut worst = 0.0f64;
        for (step, at) in plan.steps().enumerate() {
            let mut values: Vec<u64> = self
                .0
                .range((at, 0, "")..(at + plan.step, 0, ""))
                .filter(|((_, member, of), _)| {
                    *of == class && (series.member == 0 || *member == series.member)
                })
                .flat_map(|(_, values)| values.iter().copied())
                .collect();
            values.sort_unstable();
            assert_eq!(
                series.column("count").unwrap()[step],
                values.len() as f64,
                "step {step} of {series:?}"
            );
            for (column, share) in QUANTILES {
                let rank = ((share * values.len() as f64).ceil() as usize).max(1);
                let (exact, found) = (values[rank - 1] as f64, series.column(column).unwrap()[step]);
                worst = worst.max((found - exact).abs() / exact);
            }
        }
        worst
    }
}

/// A draw from the normal distribution, by Box and Muller.
fn normal(random: &mut StdRng) -> f64 {
    let (a, b): (f64, f64) = (random.random_range(1e-12..1.0), random.random_range(0.0..1.0));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// Latencies of real syncs, in nanoseconds.
fn record() -> Vec<u64> {
    let mut file: File = tempfile::tempfile().unwrap();
    let one = |_| {
        file.write_all(&[7; 2_300]).unwrap();
        let began = Instant::now();
        file.sync_data().unwrap();
        u64::try_from(began.elapsed().as_nanos()).unwrap()
    };
    (0..RECORDED).map(one).collect()
}
