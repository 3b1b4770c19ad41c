use std::borrow::Cow;

use super::super::family::{Families, Histogram};
use super::*;

fn labels(pairs: &[(&'static str, &str)]) -> Vec<Label> {
    pairs.iter().map(|(name, value)| (Cow::Borrowed(*name), (*value).to_owned())).collect()
}

fn page() -> Vec<Family> {
    let mut families = Families::default();
    families.counter("a_bytes_total", "Bytes\nwith \"a\" \\", &labels(&[("k", "x\"y\\z\n")]), 3.0);
    families.gauge("b", "A gauge", &[], f64::NAN);
    families.counter("c_success", "A counter by another name", &[], 1.0);
    families.counter("a_bytes_total", "Another help", &labels(&[("k", "2")]), 4.5);
    let histogram = Histogram { buckets: vec![(0.25, 1), (1.0, 3)], sum: 2.5, count: 4 };
    families.add("d_seconds", "Times", Kind::Histogram, labels(&[("k", "v")]), Value::Histogram(histogram));
    families.into_vec()
}

#[test]
fn prometheus_text_is_as_its_parser_wants_it() {
    let expected = "\
# HELP a_bytes_total Bytes\\nwith \"a\" \\\\
# TYPE a_bytes_total counter
a_bytes_total{k=\"x\\\"y\\\\z\\n\"} 3
a_bytes_total{k=\"2\"} 4.5
# HELP b A gauge
# TYPE b gauge
b NaN
# HELP c_success A counter by another name
# TYPE c_success counter
c_success 1
# HELP d_seconds Times
# TYPE d_seconds histogram
d_seconds_bucket{k=\"v\",le=\"0.25\"} 1
d_seconds_bucket{k=\"v\",le=\"1\"} 3
d_seconds_bucket{k=\"v\",le=\"+Inf\"} 4
d_seconds_sum{k=\"v\"} 2.5
d_seconds_count{k=\"v\"} 4
";
    assert_eq!(Format::Prometheus.write(&page()), expected);
}

#[test]
fn open_metrics_has_units_its_own_family_names_and_an_end() {
    let expected = "\
# HELP a_bytes Bytes\\nwith \\\"a\\\" \\\\
# TYPE a_bytes counter
# UNIT a_bytes bytes
a_bytes_total{k=\"x\\\"y\\\\z\\n\"} 3
a_bytes_total{k=\"2\"} 4.5
# HELP b A gauge
# TYPE b gauge
b NaN
# HELP c_success A counter by another name
# TYPE c_success unknown
c_success 1
# HELP d_seconds Times
# TYPE d_seconds histogram
# UNIT d_seconds seconds
d_seconds_bucket{k=\"v\",le=\"0.25\"} 1
d_seconds_bucket{k=\"v\",le=\"1.0\"} 3
d_seconds_bucket{k=\"v\",le=\"+Inf\"} 4
d_seconds_sum{k=\"v\"} 2.5
d_seconds_count{k=\"v\"} 4
# EOF
";
    assert_eq!(Format::OpenMetrics.write(&page()), expected);
}

#[test]
fn the_reader_chooses_the_format() {
    let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                        text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Format::accepted(Some(prometheus_2)), Format::OpenMetrics);
    for other in [None, Some("*/*"), Some("text/plain"), Some("text/html, */*;q=0.1"), Some("nonsense;;,q=")]
    {
        assert_eq!(Format::accepted(other), Format::Prometheus, "{other:?}");
    }
    let prefers_text = "application/openmetrics-text;q=0.2, text/plain;q=0.9";
    assert_eq!(Format::accepted(Some(prefers_text)), Format::Prometheus);
    assert_eq!(Format::accepted(Some("application/openmetrics-text;q=0")), Format::Prometheus);
}
