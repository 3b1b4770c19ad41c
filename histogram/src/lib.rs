//! The one latency histogram of etcd-monitor.
//!
//! The same bucket numbers are used as kernel array index, on the wire, in ClickHouse and in the API, so a count
//! never has to be re-bucketed on its way. Buckets are log-linear with two significant decimal digits: 90 per
//! decade over nine decades, 100 ns to 100 s, each `[lower, upper)` in nanoseconds.
//!
//! | index | range |
//! |---|---|
//! | 0 | below 100 ns |
//! | 1 ..= 810 | `(10 + m) * 10^(d+1)` ns upwards, with `d = (index-1) / 90`, `m = (index-1) % 90` |
//! | 811 | 100 s and more |
//!
//! Consequences people rely on: every threshold with two significant digits (10 ms, 25 ms, 100 ms, 250 ms …) and
//! etcd's own bucket bounds up to 64 ms are exact edges; the midpoint of a bucket is at most 5 % from any value in
//! it; histograms merge by adding counts. The crate is `no_std` because the kernel programs use it as well.
#![no_std]

/// Number of buckets, underflow and overflow included.
pub const BUCKETS: usize = 812;

/// Buckets per decade: two significant decimal digits give 10..=99.
const PER_DECADE: u64 = 90;

/// Decades covered, from 100 ns up to 100 s.
const DECADES: usize = 9;

/// First value of each decade in nanoseconds, and the end of the last one.
const DECADE_START_NS: [u64; DECADES + 1] = {
    let mut starts = [100; DECADES + 1];
    let mut decade = 1;
    while decade <= DECADES {
        starts[decade] = starts[decade - 1] * 10;
        decade += 1;
    }
    starts
};

/// The bucket that holds a latency of `ns` nanoseconds. Always below [`BUCKETS`].
#[inline(always)]
pub const fn bucket_of(ns: u64) -> usize {
    if ns < 100 {
        return 0;
    }
    // A constant divisor per decade: compilers turn it into a multiplication, and the BPF verifier sees every bound.
    macro_rules! decade {
        ($($index:literal => $step:literal),*) => {
            $(if ns < $step * 100 {
                return (1 + $index * PER_DECADE + (ns / $step - 10)) as usize;
            })*
        };
    }
    decade!(
        0 => 10, 1 => 100, 2 => 1_000, 3 => 10_000, 4 => 100_000, 5 => 1_000_000, 6 => 10_000_000,
        7 => 100_000_000, 8 => 1_000_000_000
    );
    BUCKETS - 1
}

/// Inclusive lower bound of a bucket in nanoseconds.
///
/// # Panics
/// If `bucket` is not below [`BUCKETS`].
pub const fn lower_ns(bucket: usize) -> u64 {
    assert!(bucket < BUCKETS, "bucket out of range");
    if bucket == 0 {
        return 0;
    }
    if bucket == BUCKETS - 1 {
        return DECADE_START_NS[DECADES];
    }
    let position = bucket as u64 - 1;
    (10 + position % PER_DECADE) * (DECADE_START_NS[(position / PER_DECADE) as usize] / 10)
}

/// Exclusive upper bound of a bucket in nanoseconds; `None` for the overflow bucket.
///
/// # Panics
/// If `bucket` is not below [`BUCKETS`].
pub const fn upper_ns(bucket: usize) -> Option<u64> {
    assert!(bucket < BUCKETS, "bucket out of range");
    if bucket == BUCKETS - 1 { None } else { Some(lower_ns(bucket + 1)) }
}

/// The value that stands for a bucket: its midpoint, at most 5 % from any value inside (the lower bound for the
/// overflow bucket).
///
/// # Panics
/// If `bucket` is not below [`BUCKETS`].
pub const fn midpoint_ns(bucket: usize) -> u64 {
    match upper_ns(bucket) {
        Some(upper) => lower_ns(bucket) + (upper - lower_ns(bucket)) / 2,
        None => lower_ns(bucket),
    }
}

/// The latency below which the share `quantile` (0.0 ..= 1.0) of the counted values lies, by the midpoint of the
/// bucket that holds it. `None` when nothing was counted.
///
/// `counts` yields (bucket, count) in rising order of bucket; it is walked twice. Buckets out of range are ignored.
pub fn quantile_ns<I>(counts: I, quantile: f64) -> Option<u64>
where
    I: Iterator<Item = (usize, u64)> + Clone,
{
    let known = counts.filter(|(bucket, count)| *bucket < BUCKETS && *count > 0);
    let total: u64 = known.clone().map(|(_, count)| count).sum();
    // Nearest rank, as etcd's own benchmark reports it.
    let wanted = quantile.clamp(0.0, 1.0) * total as f64;
    let mut seen = 0;
    let mut last = None;
    for (bucket, count) in known {
        seen += count;
        last = Some(midpoint_ns(bucket));
        if seen as f64 >= wanted {
            break;
        }
    }
    last
}

/// How many of the counted values are at least `threshold_ns`, counting whole buckets from the one that holds the
/// threshold: exact when the threshold is a bucket edge.
pub fn count_at_least(counts: impl Iterator<Item = (usize, u64)>, threshold_ns: u64) -> u64 {
    let first = bucket_of(threshold_ns);
    counts.filter(|(bucket, _)| *bucket >= first).map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests;
