//! SQL over REST: one read-only SELECT.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use super::{Context, Problem};
use crate::sql::{self, Answer, Format, Limits, SqlError, Statement};

/// Header that tells how many rows were read for an answer.
const ROWS_READ: HeaderName = HeaderName::from_static("x-rows-read");

/// Media types that ask for a format, with what [`Format::asked`] takes.
const MEDIA_TYPES: [(&str, &str); 7] = [
    ("application/json", "JSON"),
    ("application/x-ndjson", "JSONEachRow"),
    ("text/csv", "csv"),
    ("text/tab-separated-values", "tsv"),
    ("application/vnd.apache.parquet", "Parquet"),
    ("application/vnd.apache.arrow.stream", "ArrowStream"),
    ("application/vnd.apache.arrow.file", "Arrow"),
];

/// A statement.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    /// One SELECT, as ClickHouse knows it.
    #[schema(
        example = "SELECT name, count() AS samples FROM metrics WHERE at > now() - INTERVAL 1 HOUR GROUP BY name"
    )]
    pub query: String,
    /// Format of the answer: `json`, `csv`, `tsv`, `parquet`, `arrow`, or ClickHouse's name of one. A FORMAT clause wins.
    #[serde(default)]
    pub format: Option<String>,
    /// Values of `{name:Type}` in the query.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// Lower limits than the highest.
    #[serde(default)]
    pub limits: SqlLimits,
}

/// What a statement may take; what is left out, or higher than that, is the highest value.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlLimits {
    /// Time in seconds; at most 20.
    #[schema(minimum = 1)]
    pub seconds: Option<u64>,
    /// Rows of the answer; at most 1,000,000.
    #[schema(minimum = 1)]
    pub rows: Option<u64>,
    /// Bytes of the answer before they are written in its format; at most 64 MiB.
    #[schema(minimum = 1)]
    pub bytes: Option<u64>,
    /// Rows that are read for the answer; at most 2,000,000,000.
    #[schema(minimum = 1)]
    pub rows_read: Option<u64>,
    /// Memory, in bytes; at most 512 MiB or a quarter of the engine's.
    #[schema(minimum = 1)]
    pub memory_bytes: Option<u64>,
}

/// How the answer is to look, for a statement that is sent as plain text.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Format of the answer, as in the JSON body.
    format: Option<String>,
}

/// Answers one read-only SELECT over everything that was stored, of all clusters.
///
/// The answer comes as it is made. It has the format that the statement's FORMAT clause names, else `format`, else what the
/// Accept header asks for, else JSON.
#[utoipa::path(
    post, path = "/api/v1/sql", tag = "sql", operation_id = "sql",
    params(Asked),
    request_body(content((SqlRequest = "application/json"), (String = "text/plain"))),
    responses(
        (status = 200, description = "Rows, in the format asked for", content_type = "application/json", body = serde_json::Value),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "The statement is wrong, in ClickHouse's words"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "The statement names what may not be named"),
        (status = 415, body = Problem, content_type = "application/problem+json", description = "The body is neither JSON nor plain text"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "The statement would take more than it may"),
        (status = 501, body = Problem, content_type = "application/problem+json", description = "There is no user for SQL at the ClickHouse server"),
        (status = 502, body = Problem, content_type = "application/problem+json", description = "ClickHouse failed"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "ClickHouse is not there, or all turns are taken"),
    )
)]
pub async fn sql(
    State(context): State<Context>,
    Parameters(asked): Parameters<Asked>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    same_origin(&headers)?;
    let mut request = request(&headers, &body)?;
    request.format = request.format.or(asked.format);
    let format = match &request.format {
        Some(name) => Format::asked(name).ok_or_else(|| unknown_format(name))?,
        None => accepted(&headers).unwrap_or_else(|| Format::asked("JSON").expect("a format of the list")),
    };
    let mut parameters = Vec::with_capacity(request.parameters.len());
    for (name, value) in &request.parameters {
        parameters.push((name.clone(), sql::parameter(value).map_err(SqlError::from)?));
    }
    let statement = Statement { text: request.query, format, parameters, limits: limits(request.limits)? };
    let answer = context.shared.sql.ask(statement).await?;
    Ok(respond(answer))
}

fn respond(answer: Answer) -> Response {
    let (content_type, rows_read) = (answer.format.content_type(), answer.rows_read);
    let mut response = Response::new(Body::from_stream(answer.into_bytes()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(rows) = rows_read {
        headers.insert(ROWS_READ, HeaderValue::from(rows));
    }
    response
}

/// A web page of somebody else may send a simple request to loopback; it could not read the answer, but it could keep the
/// engine busy.
fn same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(origin) = text(ORIGIN) else { return Ok(()) };
    let host = origin.split_once("://").map(|(_, host)| host);
    if host.is_some() && host.map(str::to_lowercase) == text(HOST).map(str::to_lowercase) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "SQL is not answered to pages of another origin"))
}

fn request(headers: &HeaderMap, body: &[u8]) -> Result<SqlRequest, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("text/plain");
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => serde_json::from_slice(body).map_err(|error| bad(error.to_string())),
        "text/plain" => match std::str::from_utf8(body) {
            Ok(text) => Ok(SqlRequest { query: text.to_owned(), ..SqlRequest::default() }),
            Err(error) => Err(bad(format!("the statement is not UTF-8: {error}"))),
        },
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is JSON (application/json) with a field query, or the statement itself (text/plain)",
        )),
    }
}

fn accepted(headers: &HeaderMap) -> Option<Format> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|wanted| {
        let wanted = wanted.split(';').next().unwrap_or_default().trim();
        let (_, name) = MEDIA_TYPES.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(wanted))?;
        Format::asked(name)
    })
}

fn limits(asked: SqlLimits) -> Result<Limits, Problem> {
    let SqlLimits { seconds, rows, bytes, rows_read, memory_bytes } = asked;
    if [seconds, rows, bytes, rows_read, memory_bytes].contains(&Some(0)) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "limits: each is above zero"));
    }
    Ok(Limits { seconds, rows, bytes, rows_read, memory_bytes })
}

fn unknown_format(name: &str) -> Problem {
    let detail =
        format!("format: {name:?} is not one of json, csv, tsv, parquet, arrow, {}", Format::names());
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

impl From<SqlError> for Problem {
    fn from(error: SqlError) -> Self {
        let status = match &error {
            SqlError::Off(_) => StatusCode::NOT_IMPLEMENTED,
            SqlError::Unavailable(_) | SqlError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            SqlError::Refused(_) => StatusCode::FORBIDDEN,
            SqlError::Limit { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            SqlError::Statement { .. } => StatusCode::BAD_REQUEST,
            SqlError::Failed(_) | SqlError::Broken(_) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn pages_of_another_origin_are_sent_away() {
        assert!(same_origin(&headers(&[(HOST, "localhost:1")])).is_ok());
        assert!(same_origin(&headers(&[(HOST, "localhost:1"), (ORIGIN, "http://LOCALHOST:1")])).is_ok());
        for origin in ["http://evil.example", "null", "", "http://localhost:2"] {
            let found = same_origin(&headers(&[(HOST, "localhost:1"), (ORIGIN, origin)]));
            assert!(found.is_err(), "{origin}");
        }
    }

    #[test]
    fn the_body_is_json_or_the_statement_itself() {
        let json = headers(&[(CONTENT_TYPE, "application/json; charset=utf-8")]);
        assert_eq!(request(&json, br#"{"query": "SELECT 1"}"#).unwrap().query, "SELECT 1");
        assert_eq!(request(&json, br#"{"query": 1}"#).unwrap_err().status, 400);
        assert_eq!(request(&json, br#"{"sql": "SELECT 1"}"#).unwrap_err().status, 400);
        assert_eq!(request(&headers(&[]), b"SELECT 1").unwrap().query, "SELECT 1");
        assert_eq!(request(&headers(&[]), b"SELECT '\xff'").unwrap_err().status, 400);
        assert_eq!(request(&headers(&[(CONTENT_TYPE, "text/html")]), b"").unwrap_err().status, 415);
    }

    #[test]
    fn the_accept_header_asks_for_a_format() {
        let accept = |value| accepted(&headers(&[(ACCEPT, value)])).map(Format::name);
        assert_eq!(accept("text/html, text/csv;q=0.9"), Some("CSVWithNames"));
        assert_eq!(accept("application/vnd.apache.arrow.stream"), Some("ArrowStream"));
        assert_eq!(accept("*/*"), None);
    }
}
