use super::*;

const PAGE: &str = "\
# HELP etcd_server_has_leader Whether or not a leader exists. 1 is existence, 0 is not.
# TYPE etcd_server_has_leader gauge
etcd_server_has_leader 1
# TYPE etcd_disk_wal_fsync_duration_seconds histogram
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 10
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 12
etcd_disk_wal_fsync_duration_seconds_sum 0.25
etcd_disk_wal_fsync_duration_seconds_count 12
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{grpc_type=\"unary\",grpc_code=\"O\\\"K}\\\\\"} 7 1700000000000
# TYPE go_gc_duration_seconds summary
go_gc_duration_seconds{quantile=\"0\"} NaN
# TYPE promhttp_metric_handler_requests_total counter
promhttp_metric_handler_requests_total{code=\"200\"} 3
";

fn read(table: &mut Table, page: &str) -> Scraped {
    table.read(page, |_, _, _| {})
}

#[test]
fn the_families_that_are_kept_are_read_with_labels_and_type() {
    let mut watched = Vec::new();
    let scraped =
        Table::default().read(PAGE, |name, labels, value| watched.push(format!("{name}|{labels}|{value}")));
    assert_eq!((scraped.samples, scraped.malformed, scraped.refused), (7, 0, 0));
    let names: Vec<_> = scraped.changed.iter().map(|(series, _)| series.name.as_str()).collect();
    assert!(!names.contains(&"promhttp_metric_handler_requests_total"));
    let (handled, value) = &scraped.changed[5];
    assert_eq!(handled.labels, ["grpc_code", "O\"K}\\", "grpc_type", "unary"]);
    assert_eq!((handled.kind, *value), (MetricType::Counter, 7.0));
    assert_eq!(scraped.changed[0].0.kind, MetricType::Gauge);
    assert_eq!(scraped.changed[4].0.kind, MetricType::Counter);
    assert!(scraped.changed[6].1.is_nan());
    assert_eq!(watched[0], "etcd_server_has_leader||1");
}

#[test]
fn what_did_not_change_is_repeated_only_now_and_then_and_not_all_at_once() {
    let mut table = Table::default();
    assert_eq!(read(&mut table, PAGE).changed.len(), 7);
    let repeats: Vec<usize> = (0..3 * REPEAT_EVERY).map(|_| read(&mut table, PAGE).changed.len()).collect();
    for window in repeats[REPEAT_EVERY as usize..].windows(REPEAT_EVERY as usize) {
        assert_eq!(window.iter().sum::<usize>(), 7, "each once, NaN included");
    }
    assert!(repeats.iter().all(|count| *count <= 1), "spread over the period: {repeats:?}");
    let changed = PAGE.replace("_count 12", "_count 13");
    let scraped = read(&mut table, &changed);
    assert!(scraped.changed.iter().any(|(series, value)| series.name.ends_with("_count") && *value == 13.0));
}

#[test]
fn malformed_lines_are_counted_and_skipped() {
    let page = "etcd_a\netcd_b{x=\"1\" 3\netcd_c nothing\netcd_d{x} 1\netcd_e{x=\"1\"}\netcd_f 2\n\u{0}\netcd_g{=\"\"} 1";
    let scraped = read(&mut Table::default(), page);
    assert_eq!(scraped.malformed, 5);
    let names: Vec<_> = scraped.changed.iter().map(|(series, _)| series.name.as_str()).collect();
    assert_eq!(names, ["etcd_f", "etcd_g"]);
}

#[test]
fn infinities_and_great_numbers_are_values() {
    let scraped = read(&mut Table::default(), "etcd_a +Inf\netcd_b -Inf\netcd_c 1.8446744073709552e+19\n");
    let values: Vec<_> = scraped.changed.iter().map(|(_, value)| *value).collect();
    assert_eq!(values, [f64::INFINITY, f64::NEG_INFINITY, 18_446_744_073_709_552_000.0]);
}

#[test]
fn series_beyond_the_limit_are_refused_and_counted() {
    let page: String = (0..SERIES_LIMIT + 3).map(|n| format!("etcd_x{{n=\"{n}\"}} 1\n")).collect();
    let mut table = Table::default();
    assert_eq!(read(&mut table, &page).refused, 3);
    assert_eq!(read(&mut table, &page).refused, 3);
}

#[test]
fn labels_of_any_length_are_not_remembered() {
    let page = format!("etcd_x{{n=\"{}\"}} 1\netcd_y 1\n", "a".repeat(5_000));
    let scraped = read(&mut Table::default(), &page);
    assert_eq!((scraped.refused, scraped.changed.len()), (1, 1));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(etcd_[a-z{}\"=\\\\, 0-9.+NaInf#é-]{0,40}\n){0,8}") {
        let _scraped = read(&mut Table::default(), &text);
    }
}
