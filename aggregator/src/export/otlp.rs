//! Metrics as OTLP requests, in its official protobuf types.
//!
//! Names are those of Prometheus, units included, so that a number has one name wherever it is looked up. Sums and histograms
//! are cumulative. When counting began is left open, as the protocol allows: most counters are an agent's or an etcd's, and
//! begin anew with those.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::family::{Family, Kind, Label, Point, Value};

/// Most data points in a request. Receivers refuse bodies of more than some megabytes.
pub const MAX_POINTS: usize = 5_000;

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// The message.
    pub body: bytes::Bytes,
    /// Data points in it.
    pub points: u64,
}

/// Requests with all points as of `at_ns` (Unix nanoseconds); none has more than `most`.
pub fn requests(families: &[Family], at_ns: u64, instance: &str, most: usize) -> Vec<Request> {
    let mut requests = Vec::new();
    let (mut metrics, mut points) = (Vec::new(), 0);
    for family in families {
        let mut rest = family.points.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(most - points));
            metrics.push(metric(family, now, at_ns));
            points += now.len();
            rest = later;
            if points == most {
                requests.push(request(std::mem::take(&mut metrics), points, instance));
                points = 0;
            }
        }
    }
    if points > 0 {
        requests.push(request(metrics, points, instance));
    }
    requests
}

fn request(metrics: Vec<Metric>, points: usize, instance: &str) -> Request {
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![
            attribute("service.name", "etcd-monitor-aggregator"),
            attribute("service.instance.id", instance),
            attribute("service.version", version),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "etcd-monitor".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() }];
    let body = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into();
    Request { body, points: points as u64 }
}

fn metric(family: &Family, points: &[Point], at_ns: u64) -> Metric {
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Counter => metric::Data::Sum(Sum {
            data_points: numbers(points, at_ns),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Kind::Gauge | Kind::Unknown => metric::Data::Gauge(Gauge { data_points: numbers(points, at_ns) }),
        Kind::Histogram => metric::Data::Histogram(Histogram {
            data_points: points.iter().filter_map(|point| histogram(point, at_ns)).collect(),
            aggregation_temporality: temporality,
        }),
    };
    let unit = match family.unit() {
        "seconds" => "s",
        "bytes" => "By",
        _ => "1",
    };
    Metric {
        name: family.name.to_string(),
        description: family.help.to_string(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn numbers(points: &[Point], at_ns: u64) -> Vec<NumberDataPoint> {
    let number = |point: &Point| match point.value {
        Value::Number(value) => Some(NumberDataPoint {
            attributes: attributes(&point.labels),
            time_unix_nano: at_ns,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }),
        Value::Histogram(_) => None,
    };
    points.iter().filter_map(number).collect()
}

fn histogram(point: &Point, at_ns: u64) -> Option<HistogramDataPoint> {
    let Value::Histogram(histogram) = &point.value else { return None };
    // Ours count up to a bound, theirs between two.
    let mut before = 0;
    let up_to = histogram.buckets.iter().map(|(_, count)| *count).chain([histogram.count]);
    let between = up_to.map(|count| {
        let more = count.saturating_sub(before);
        before = count;
        more
    });
    Some(HistogramDataPoint {
        attributes: attributes(&point.labels),
        time_unix_nano: at_ns,
        count: histogram.count,
        sum: Some(histogram.sum),
        bucket_counts: between.collect(),
        explicit_bounds: histogram.buckets.iter().map(|(bound, _)| *bound).collect(),
        ..HistogramDataPoint::default()
    })
}

fn attributes(labels: &[Label]) -> Vec<KeyValue> {
    // An empty label is one that is not there.
    labels.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests;
