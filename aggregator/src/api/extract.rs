//! Parameters of requests. Whatever does not fit is a problem that names the parameter.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Context, Problem};
use crate::query::{self, TimeRange};
use crate::view::ClusterView;

/// The range when none is asked for.
const DEFAULT_RANGE: TimeDelta = TimeDelta::hours(1);

/// Rows when no limit is asked for.
const DEFAULT_LIMIT: u64 = 1_000;

/// Longest range that may be asked for.
const LONGEST_RANGE: TimeDelta = TimeDelta::days(400);

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
        let fits = |cluster: &&ClusterView| {
            let summary = &cluster.summary;
            named.parse::<Uuid>() == Ok(summary.id)
                || summary.etcd_cluster_id == named
                || summary.name == named
        };
        let mut found = view.clusters.values().filter(fits);
        match (found.next(), found.next()) {
            (Some(cluster), None) => Ok(Self(cluster.clone())),
            (Some(_), Some(_)) => Err(Problem::new(
                StatusCode::CONFLICT,
                format!("several clusters are called {named:?}; use the id"),
            )),
            (None, _) => Err(Problem::new(StatusCode::NOT_FOUND, format!("no cluster {named:?}"))),
        }
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

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// A member id of 1 to 16 hexadecimal digits.
pub fn member(text: Option<&str>) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let digits = !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(text, 16).ok().filter(|_| digits);
    id.map(Some).ok_or_else(|| bad(format!("member: {text:?} is not a member id of 16 hexadecimal digits")))
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
    let to = time("to", to)?.unwrap_or(now);
    let default_from = to.checked_sub_signed(DEFAULT_RANGE).unwrap_or(to);
    let from = time("from", from)?.unwrap_or(default_from);
    if from >= to {
        return Err(bad("from: must lie before to"));
    }
    if to.signed_duration_since(from) > LONGEST_RANGE {
        return Err(bad("from: the range is longer than 400 days"));
    }
    Ok(TimeRange { from, to })
}

/// A point of time that may be left out.
pub fn time(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    // A plus sign that was not percent-encoded arrives as a space.
    let time =
        DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc3339(&text.replace(' ', "+")));
    time.map(|time| Some(time.to_utc()))
        .map_err(|_| bad(format!("{name}: {text:?} is not an RFC 3339 time, such as 2026-01-31T12:00:00Z")))
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
            (None, Some("17"), "to: \"17\""),
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
    fn members_are_hexadecimal() {
        assert_eq!(member(Some("00000000000000ff")).unwrap(), Some(255));
        assert_eq!(member(None).unwrap(), None);
        for bad in ["", "xyz", "+1", "10000000000000000"] {
            assert!(member(Some(bad)).is_err(), "{bad}");
        }
    }
}
