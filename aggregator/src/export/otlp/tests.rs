use std::borrow::Cow;

use super::super::family::{Families, Histogram as Counts};
use super::*;

fn page() -> Vec<Family> {
    let mut families = Families::default();
    for number in 0..7 {
        let labels = [(Cow::Borrowed("k"), number.to_string()), (Cow::Borrowed("empty"), String::new())];
        families.counter("a_bytes_total", "A", &labels, f64::from(number));
    }
    families.gauge("b_seconds", "B", &[], 1.5);
    let histogram = Counts { buckets: vec![(0.25, 1), (1.0, 3)], sum: 2.5, count: 4 };
    families.add("c_seconds", "C", Kind::Histogram, Vec::new(), Value::Histogram(histogram));
    families.into_vec()
}

fn metrics(request: &Request) -> Vec<Metric> {
    let message = ExportMetricsServiceRequest::decode(request.body.clone()).unwrap();
    message.resource_metrics[0].scope_metrics[0].metrics.clone()
}

#[test]
fn every_kind_is_what_the_protocol_calls_it() {
    let requests = requests(&page(), 17, "me", 100);
    assert_eq!((requests.len(), requests[0].points), (1, 9));
    let metrics = metrics(&requests[0]);
    let units: Vec<_> = metrics.iter().map(|metric| (metric.name.as_str(), metric.unit.as_str())).collect();
    assert_eq!(units, [("a_bytes_total", "By"), ("b_seconds", "s"), ("c_seconds", "s")]);
    let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("{:?}", metrics[0].data) };
    assert!(sum.is_monotonic && sum.aggregation_temporality == AggregationTemporality::Cumulative as i32);
    let point = &sum.data_points[3];
    assert_eq!((point.time_unix_nano, point.attributes.len()), (17, 1), "an empty label is none");
    assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
    let Some(metric::Data::Histogram(histogram)) = &metrics[2].data else { panic!("{:?}", metrics[2].data) };
    let point = &histogram.data_points[0];
    assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 2, 1][..], &[0.25, 1.0][..]));
    assert_eq!((point.count, point.sum), (4, Some(2.5)));
}

#[test]
fn many_points_are_many_requests_and_none_is_lost() {
    let requests = requests(&page(), 17, "me", 2);
    assert_eq!(requests.iter().map(|request| request.points).collect::<Vec<_>>(), [2, 2, 2, 2, 1]);
    let names: Vec<String> = requests.iter().flat_map(metrics).map(|metric| metric.name).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(super::requests(&[], 17, "me", 2).is_empty());
}
