//! Parameters of requests. Whatever does not fit is a problem that names the parameter.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::{DateTime, TimeDelta, Utc};
use etcdmon_proto::v1::FileClass;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Context, Problem};
use crate::query::{self, TimeRange};
use crate::view::{ClusterView, View};

/// The range when none is asked for.
const DEFAULT_RANGE: TimeDelta = TimeDelta::hours(1);

/// Rows when no limit is asked for.
const DEFAULT_LIMIT: u64 = 1_000;

/// Longest range that may be asked for.
const LONGEST_RANGE: TimeDelta = TimeDelta::days(400);

/// Latest time that may be asked for, Unix seconds: the tables' times end some years later.
const LATEST: i64 = 4_102_444_800;

/// Query parameters of a request.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(query) => Ok(Self(query.0)),
            Err(rejection) => Err(bad(rejection.body_text())),
        }
    }
}

/// The cluster that the path names, by UUID, etcd cluster id or name.
pub struct Cluster(pub ClusterView);

#[derive(Deserialize)]
struct Named {
    cluster: String,
}

impl FromRequestParts<Context> for Cluster {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Self, Problem> {
        let Path(Named { cluster: named }) = Path::<Named>::from_request_parts(parts, context)
            .await
            .map_err(|rejection| bad(rejection.body_text()))?;
        let view = context.shared.view.borrow().clone();
        cluster(&view, &named).cloned().map(Self)
    }
}

/// The cluster of a UUID, etcd cluster id or name.
pub fn cluster<'a>(view: &'a View, named: &str) -> Result<&'a ClusterView, Problem> {
    let fits = |cluster: &&ClusterView| {
        let summary = &cluster.summary;
        named.parse::<Uuid>() == Ok(summary.id) || summary.etcd_cluster_id == named || summary.name == named
    };
    let mut found = view.clusters.values().filter(fits);
    match (found.next(), found.next()) {
        (Some(cluster), None) => Ok(cluster),
        (Some(_), Some(_)) => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("several clusters are called {named:?}; use the id"),
        )),
        (None, _) => Err(Problem::new(StatusCode::NOT_FOUND, format!("no cluster {named:?}"))),
    }
}

/// A JSON body; what does not fit is a problem that says where.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Context> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, context: &Context) -> Result<Self, Problem> {
        match Json::<T>::from_request(request, context).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(Problem::new(rejection.status(), rejection.body_text())),
        }
    }
}

pub(super) fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// A member id of 1 to 16 hexadecimal digits.
pub fn member(text: Option<&str>) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let digits = !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(text, 16).ok().filter(|_| digits);
    id.map(Some).ok_or_else(|| bad(format!("member: {text:?} is not a member id of 16 hexadecimal digits")))
}

/// A file class by its name.
pub fn class(text: Option<&str>) -> Result<Option<FileClass>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let names: Vec<&str> = FileClass::ALL.iter().map(|class| class.name()).collect();
    query::class_by_name(text)
        .map(Some)
        .ok_or_else(|| bad(format!("class: {text:?} is not one of {}", names.join(", "))))
}

/// Several things with commas between them; none when left out.
pub fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Member ids with commas between them.
pub fn members(text: Option<&str>) -> Result<Vec<u64>, Problem> {
    list(text).filter_map(|id| member(Some(id)).transpose()).collect()
}

/// How many rows at most.
pub fn limit(wanted: Option<u64>) -> Result<u64, Problem> {
    let limit = wanted.unwrap_or(DEFAULT_LIMIT);
    if (1..=query::MAX_ROWS).contains(&limit) {
        return Ok(limit);
    }
    Err(bad(format!("limit: {limit} is not between 1 and {}", query::MAX_ROWS)))
}

/// A time range from its two ends.
pub fn range(from: Option<&str>, to: Option<&str>, now: DateTime<Utc>) -> Result<TimeRange, Problem> {
    let to = time("to", to, now)?.unwrap_or(now);
    let default_from = (to - DEFAULT_RANGE).max(DateTime::UNIX_EPOCH);
    let from = time("from", from, now)?.unwrap_or(default_from);
    if from >= to {
        return Err(bad("from: must lie before to"));
    }
    if to.signed_duration_since(from) > LONGEST_RANGE {
        return Err(bad("from: the range is longer than 400 days"));
    }
    Ok(TimeRange { from, to })
}

/// A point of time that may be left out: RFC 3339, Unix seconds, or how long before `now`.
pub fn time(name: &str, text: Option<&str>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    // A plus sign that was not percent-encoded arrives as a space.
    let written = || {
        DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc3339(&text.replace(' ', "+")))
    };
    let time = match (text, text.strip_prefix('-')) {
        ("now", _) => Some(now),
        (_, Some(ago)) if !ago.starts_with(|c: char| c.is_ascii_digit()) => None,
        (_, Some(ago)) if ago.ends_with(|c: char| c.is_ascii_lowercase()) => {
            parse_span(ago).and_then(|span| now.checked_sub_signed(span))
        }
        _ => match text.parse::<f64>() {
            Ok(seconds) if seconds.is_finite() => unix(seconds),
            _ => written().ok().map(|time| time.to_utc()),
        },
    };
    let time = time.ok_or_else(|| {
        bad(format!(
            "{name}: {text:?} is no time: RFC 3339 such as 2026-01-31T12:00:00Z, Unix seconds, or before now such as -1h"
        ))
    })?;
    if !(0..=LATEST).contains(&time.timestamp()) {
        return Err(bad(format!("{name}: {text:?} is not between the years 1970 and 2100")));
    }
    Ok(Some(time))
}

/// Unix seconds with fractions, to the microsecond, which is what such a number holds.
fn unix(seconds: f64) -> Option<DateTime<Utc>> {
    let micros = (seconds * 1e6).round();
    // Beyond a few hundred thousand years the conversion saturates, and no such date exists.
    DateTime::from_timestamp_micros(micros as i64)
}

/// A length of time that may be left out: seconds, or numbers with units such as `90s`, `15m`, `1h30m`, `7d`, `2w`.
pub fn span(name: &str, text: Option<&str>) -> Result<Option<TimeDelta>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let span = text.parse::<u32>().ok().map(|seconds| TimeDelta::seconds(seconds.into()));
    span.or_else(|| parse_span(text)).map(Some).ok_or_else(|| {
        bad(format!("{name}: {text:?} is no length of time, such as 90s, 15m, 1h30m, 7d or 2w"))
    })
}

fn parse_span(text: &str) -> Option<TimeDelta> {
    let (mut rest, mut total) = (text, TimeDelta::zero());
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        total = total.checked_add(&TimeDelta::try_seconds(number.checked_mul(seconds)?)?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    #[test]
    fn the_default_range_is_the_last_hour() {
        let range = range(None, None, now()).unwrap();
        assert_eq!((range.to, range.to - range.from), (now(), TimeDelta::hours(1)));
    }

    #[test]
    fn bad_ranges_name_the_parameter() {
        for (from, to, expected) in [
            (Some("yesterday"), None, "from: \"yesterday\""),
            (None, Some("-1x"), "to: \"-1x\""),
            (Some("-"), None, "from: \"-\""),
            (Some("--1h"), None, "from: \"--1h\""),
            (Some("inf"), None, "from: \"inf\""),
            (Some("9e99"), None, "from: \"9e99\""),
            (Some("-99999999999999999d"), None, "from: \"-9"),
            (Some("2023-11-14T22:13:20Z"), Some("2023-11-14T22:13:20Z"), "before to"),
            (Some("2000-01-01T00:00:00Z"), None, "400 days"),
        ] {
            let problem = range(from, to, now()).expect_err(expected);
            assert!(problem.status == 400 && problem.detail.contains(expected), "{problem:?}");
        }
        assert!(range(Some("2023-11-14T22:00:00 00:00"), None, now()).is_ok(), "a plus that became a space");
        assert!(range(None, Some("-262143-01-01T00:00:00Z"), now()).is_err());
    }

    #[test]
    fn times_are_written_in_three_ways() {
        let at = |text| time("from", Some(text), now()).unwrap().unwrap();
        assert_eq!(at("2023-11-14T22:13:20Z"), now());
        assert_eq!(at("1700000000"), now());
        assert_eq!(at("1700000000.5") - now(), TimeDelta::milliseconds(500));
        assert_eq!(at("now"), now());
        assert_eq!(now() - at("-1h30m"), TimeDelta::minutes(90));
        let before = time("from", Some("-60"), now()).unwrap_err();
        assert!(before.detail.contains("1970"), "without a unit it is Unix seconds: {before:?}");
        assert_eq!(time("from", None, now()).unwrap(), None);
    }

    #[test]
    fn lengths_of_time_have_units_or_are_seconds() {
        let seconds = |text| span("step", Some(text)).map(|it| it.unwrap().num_seconds());
        for (text, expected) in [("15", 15), ("90s", 90), ("5m", 300), ("1h30m", 5_400), ("2w", 1_209_600)] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for bad in
            ["", "s", "1.5m", "-5m", "5y", "5m3", "99999999999999999999s", "9223372036854775807w", "5 m"]
        {
            assert!(span("step", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_have_commas() {
        assert_eq!(members(Some("a1, a2,,")).unwrap(), [0xa1, 0xa2]);
        assert!(members(None).unwrap().is_empty());
        assert!(members(Some("a1;a2")).is_err());
    }

    #[test]
    fn members_are_hexadecimal() {
        assert_eq!(member(Some("00000000000000ff")).unwrap(), Some(255));
        assert_eq!(member(None).unwrap(), None);
        for bad in ["", "xyz", "+1", "10000000000000000"] {
            assert!(member(Some(bad)).is_err(), "{bad}");
        }
    }
}
