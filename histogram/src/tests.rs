use super::*;

#[test]
fn buckets_tile_the_whole_range_without_gap_or_overlap() {
    for bucket in 0..BUCKETS - 1 {
        let upper = upper_ns(bucket).expect("only the last bucket is open");
        assert_eq!(bucket_of(lower_ns(bucket)), bucket, "lower bound of {bucket}");
        assert_eq!(bucket_of(upper - 1), bucket, "last value of {bucket}");
        assert_eq!(bucket_of(upper), bucket + 1, "first value after {bucket}");
    }
    assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    assert_eq!(upper_ns(BUCKETS - 1), None);
}

#[test]
fn thresholds_people_use_and_etcds_own_edges_are_exact() {
    let milliseconds = [1u64, 2, 4, 8, 16, 32, 64, 10, 20, 25, 50, 70, 100, 150, 250, 300, 500, 1000];
    for ms in milliseconds {
        let edge = ms * 1_000_000;
        assert_eq!(lower_ns(bucket_of(edge)), edge, "{ms} ms");
    }
}

#[test]
fn the_midpoint_is_within_five_percent_of_every_value_in_the_bucket() {
    for bucket in 1..BUCKETS - 1 {
        let (lower, middle) = (lower_ns(bucket) as f64, midpoint_ns(bucket) as f64);
        let last = upper_ns(bucket).expect("bounded") as f64 - 1.0;
        assert!((middle - lower) / lower <= 0.05 + 1e-9, "bucket {bucket}");
        assert!((last - middle) / last <= 0.05, "bucket {bucket}");
    }
}

#[test]
fn a_quantile_is_the_nearest_rank() {
    let counts = [(bucket_of(1_000_000), 98u64), (bucket_of(50_000_000), 1), (bucket_of(90_000_000), 1)];
    assert_eq!(quantile_ns(counts.into_iter(), 0.5), Some(1_050_000));
    assert_eq!(quantile_ns(counts.into_iter(), 0.98), Some(1_050_000));
    assert_eq!(quantile_ns(counts.into_iter(), 0.99), Some(50_500_000));
    assert_eq!(quantile_ns(counts.into_iter(), 1.0), Some(90_500_000));
    assert_eq!(quantile_ns(core::iter::empty(), 0.99), None);
}

#[test]
fn counting_above_an_exact_edge_is_exact() {
    let counts = [(bucket_of(9_999_999), 3u64), (bucket_of(10_000_000), 5), (bucket_of(200_000_000), 7)];
    assert_eq!(count_at_least(counts.into_iter(), 10_000_000), 12);
    assert_eq!(count_at_least(counts.into_iter(), 100_000_000), 7);
}

#[test]
fn buckets_out_of_range_are_ignored() {
    assert_eq!(quantile_ns([(BUCKETS, 5u64), (usize::MAX, 1)].into_iter(), 0.5), None);
}
