use super::*;

#[test]
fn signed_columns_survive_the_round_trip_even_at_the_ends_of_their_range() {
    let values = [5, -3, i64::MAX, i64::MIN, 0, 1_700_000_000_000_000_000];
    assert_eq!(undelta_i64(&delta_i64(values)), values);
    assert!(delta_i64([]).is_empty());
}

#[test]
fn a_falling_column_is_refused_with_its_name() {
    assert_eq!(delta_u64("mono_ns", &[3, 2]), Err(CodingError::OutOfRange { column: "mono_ns", row: 1 }));
    assert_eq!(
        undelta_u64("mono_ns", &[u64::MAX, 1]),
        Err(CodingError::OutOfRange { column: "mono_ns", row: 1 })
    );
}

#[test]
fn histograms_survive_the_round_trip() {
    let mut counts = vec![0u64; BUCKETS];
    counts[0] = 7;
    counts[17] = 1;
    counts[BUCKETS - 1] = 3;
    let message = v1::Histogram::from_counts(&counts, 99);
    assert_eq!(message.pairs(), Ok(vec![(0, 7), (17, 1), (811, 3)]));
}

#[test]
fn hostile_histograms_are_refused() {
    assert_eq!(dense(&[812], &[1]), Err(CodingError::Bucket { bucket: 812 }));
    assert_eq!(
        dense(&[u32::MAX, u32::MAX], &[1, 1]),
        Err(CodingError::Bucket { bucket: u64::from(u32::MAX) })
    );
    assert_eq!(dense(&[5, 0], &[1, 1]), Err(CodingError::Bucket { bucket: 5 }));
    assert_eq!(dense(&[5], &[]), Err(CodingError::Length { column: "bucket_count", found: 0, expected: 1 }));
}
