//! Why members are or were slow, and who did it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{self, Cluster, Parameters};
use super::{Context, Problem};
use crate::diagnosis::DiagnosisView;
use crate::view::hex;

/// Which diagnoses.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiagnosisScope {
    /// Only those in this state: `open` or `closed`.
    state: Option<String>,
    /// Only this member: 16 hexadecimal digits.
    member: Option<String>,
    /// Only those that were not over before this time: RFC 3339, Unix seconds, or before now such as `-1h`.
    from: Option<String>,
    /// Only those that began before this time: RFC 3339, Unix seconds, or before now such as `-1h`.
    to: Option<String>,
    /// Most diagnoses, 1 to 10000; 1000 when left out.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u64>,
}

/// Diagnoses.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Diagnoses {
    /// Newest first.
    pub diagnoses: Vec<DiagnosisView>,
}

/// A scope that was checked.
#[derive(Debug, Default)]
struct Filter {
    is_open: Option<bool>,
    member: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    limit: usize,
}

impl Filter {
    fn new(scope: &DiagnosisScope, now: DateTime<Utc>) -> Result<Self, Problem> {
        let is_open = match scope.state.as_deref() {
            None => None,
            Some("open") => Some(true),
            Some("closed") => Some(false),
            Some(other) => {
                let detail = format!("state: {other:?} is not open or closed");
                return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
            }
        };
        let (from, to) = (
            extract::time("from", scope.from.as_deref(), now)?,
            extract::time("to", scope.to.as_deref(), now)?,
        );
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "from: must lie before to"));
        }
        Ok(Self {
            is_open,
            member: extract::member(scope.member.as_deref())?.map(hex),
            from,
            to,
            limit: usize::try_from(extract::limit(scope.limit)?).unwrap_or(usize::MAX),
        })
    }

    fn fits(&self, diagnosis: &DiagnosisView) -> bool {
        self.is_open.is_none_or(|is_open| is_open == diagnosis.is_open())
            && self.member.as_ref().is_none_or(|member| *member == diagnosis.member)
            && self.to.is_none_or(|to| diagnosis.onset_at < to)
            && self.from.is_none_or(|from| diagnosis.closed_at.is_none_or(|closed_at| closed_at >= from))
    }
}

/// Why members of a cluster are or were slow: one diagnosis per incident (a member and a cause), opened within seconds of its onset,
/// closed after it was over for 10 s. Two causes at once are two. The last 10,000 of 90 days.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/diagnoses", tag = "diagnoses", operation_id = "listDiagnoses",
    params(("cluster" = String, Path, description = "UUID, etcd cluster id or name"), DiagnosisScope),
    responses(
        (status = 200, body = Diagnoses),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "A parameter does not fit"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several clusters have this name"),
    )
)]
pub async fn diagnoses(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Parameters(scope): Parameters<DiagnosisScope>,
) -> Result<Json<Diagnoses>, Problem> {
    let filter = Filter::new(&scope, context.now())?;
    let view = context.shared.view.borrow().clone();
    let all = view.diagnoses.of(cluster.summary.id).iter();
    let found = all.filter(|diagnosis| filter.fits(diagnosis)).take(filter.limit);
    Ok(Json(Diagnoses { diagnoses: found.map(|diagnosis| (**diagnosis).clone()).collect() }))
}

/// Which one.
#[derive(Deserialize)]
pub struct Named {
    id: String,
}

/// One diagnosis.
#[utoipa::path(
    get, path = "/api/v1/clusters/{cluster}/diagnoses/{id}", tag = "diagnoses", operation_id = "getDiagnosis",
    params(
        ("cluster" = String, Path, description = "UUID, etcd cluster id or name"),
        ("id" = String, Path, description = "Its UUID"),
    ),
    responses(
        (status = 200, body = DiagnosisView),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster or diagnosis"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Several clusters have this name"),
    )
)]
pub async fn diagnosis(
    State(context): State<Context>,
    Cluster(cluster): Cluster,
    Path(named): Path<Named>,
) -> Result<Json<DiagnosisView>, Problem> {
    let view = context.shared.view.borrow().clone();
    let wanted = named.id.parse::<Uuid>().ok();
    let found = view.diagnoses.of(cluster.summary.id).iter().find(|one| Some(one.id) == wanted);
    let missing = || Problem::new(StatusCode::NOT_FOUND, format!("no diagnosis {:?}", named.id));
    found.map(|one| Json((**one).clone())).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{Cause, Confidence};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn diagnosis(onset: i64, closed: Option<i64>) -> DiagnosisView {
        DiagnosisView {
            id: Uuid::nil(),
            member: hex(0xa1),
            state: if closed.is_some() { "closed" } else { "open" }.to_owned(),
            cause: Cause::SlowDevice,
            opened_at: at(onset + 3),
            onset_at: at(onset),
            updated_at: at(onset + 9),
            closed_at: closed.map(at),
            share: 0.9,
            confidence: Confidence::High,
            culprit: None,
            culprits: Vec::new(),
            summary: String::new(),
            evidence: Vec::new(),
            ruled_out: Vec::new(),
            next_step: String::new(),
        }
    }

    fn fits(scope: DiagnosisScope) -> [bool; 2] {
        let filter = Filter::new(&scope, DateTime::UNIX_EPOCH).unwrap();
        [diagnosis(0, Some(30)), diagnosis(60, None)].map(|one| filter.fits(&one))
    }

    fn time(second: i64) -> Option<String> {
        Some(at(second).to_rfc3339())
    }

    #[test]
    fn a_scope_without_bounds_is_everything() {
        assert_eq!(fits(DiagnosisScope::default()), [true, true]);
    }

    #[test]
    fn state_and_member_choose() {
        let state = |state: &str| DiagnosisScope { state: Some(state.to_owned()), ..Default::default() };
        assert_eq!((fits(state("open")), fits(state("closed"))), ([false, true], [true, false]));
        let member = |member: &str| DiagnosisScope { member: Some(member.to_owned()), ..Default::default() };
        assert_eq!((fits(member("a1")), fits(member("a2"))), ([true, true], [false, false]));
    }

    #[test]
    fn a_range_chooses_whatever_went_on_in_it() {
        let range = |from, to| DiagnosisScope { from, to, ..Default::default() };
        assert_eq!(fits(range(time(10), time(20))), [true, false]);
        assert_eq!(fits(range(time(31), None)), [false, true], "over before");
        assert_eq!(fits(range(None, time(60))), [true, false], "not begun yet");
        assert_eq!(fits(range(time(1_000), None)), [false, true], "one that is open goes on");
    }

    #[test]
    fn what_does_not_fit_names_the_parameter() {
        let cases = [
            (DiagnosisScope { state: Some("done".to_owned()), ..Default::default() }, "state: \"done\""),
            (DiagnosisScope { member: Some("x".to_owned()), ..Default::default() }, "member: \"x\""),
            (DiagnosisScope { from: Some("soon".to_owned()), ..Default::default() }, "from: \"soon\""),
            (DiagnosisScope { from: time(5), to: time(5), ..Default::default() }, "from: must lie before to"),
            (DiagnosisScope { limit: Some(0), ..Default::default() }, "limit: 0"),
        ];
        for (scope, expected) in cases {
            let problem = Filter::new(&scope, DateTime::UNIX_EPOCH).expect_err(expected);
            assert!(problem.status == 400 && problem.detail.contains(expected), "{problem:?}");
        }
    }

    #[test]
    fn it_is_shown_as_it_is_promised() {
        let json = serde_json::to_value(diagnosis(0, None)).unwrap();
        let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let promised = [
            "id",
            "member",
            "state",
            "cause",
            "opened_at",
            "onset_at",
            "updated_at",
            "closed_at",
            "share",
            "confidence",
            "culprit",
            "culprits",
            "summary",
            "evidence",
            "ruled_out",
            "next_step",
        ];
        assert!(promised.iter().all(|field| fields.contains(field)), "{fields:?}");
        assert_eq!((&json["cause"], &json["confidence"]), (&"slow_device".into(), &"high".into()));
        assert!(json["culprit"].is_null() && json["closed_at"].is_null());
    }
}
