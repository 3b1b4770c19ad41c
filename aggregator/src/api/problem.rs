//! Errors as `application/problem+json`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use etcdmon_service::logging::ErrorChain;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{Content, Ref, RefOr};

use super::TIMEOUT;
use crate::query::QueryError;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What went wrong with a request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What exactly is wrong, and what would be right.
    pub detail: String,
}

impl Problem {
    /// With a status and what exactly is wrong.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"etcd-monitor\""));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
        response
    }
}

/// Failures of a question to ClickHouse about a cluster, for the OpenAPI description: one definition for all of them.
pub struct Failures;

impl utoipa::IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        const ALL: [(u16, &str); 7] = [
            (400, "A parameter does not fit"),
            (401, "No valid token"),
            (404, "No such cluster"),
            (409, "Several clusters have this name"),
            (422, "The answer would be too large"),
            (502, "ClickHouse failed"),
            (503, "ClickHouse is not there"),
        ];
        let problem = || Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
        let response = |(status, description): (u16, &str)| {
            let response = ResponseBuilder::new().description(description);
            let response = response.content("application/problem+json", problem()).build();
            (status.to_string(), RefOr::T(response))
        };
        ALL.into_iter().map(response).collect()
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let status = match error {
            QueryError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            QueryError::TooMuch(_) | QueryError::TooMany { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            QueryError::Failed { .. } => StatusCode::BAD_GATEWAY,
        };
        let chain = ErrorChain(&error).to_string();
        if status == StatusCode::BAD_GATEWAY {
            // What ClickHouse says in full is for the log; a reader of the API may not be meant to see its insides.
            tracing::warn!(error = chain, "query failed");
            return Self::new(status, error.to_string());
        }
        Self::new(status, chain)
    }
}

/// Turns every error that is not a problem yet into one: those of the framework are bare text or empty.
pub async fn render(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(CONTENT_TYPE);
    let is_rendered = kind.is_some_and(|kind| {
        kind == PROBLEM_JSON || kind.to_str().is_ok_and(|kind| kind.starts_with("application/json"))
    });
    if !is_error || is_rendered {
        return response;
    }
    let detail = match status {
        StatusCode::METHOD_NOT_ALLOWED => "this path does not know this method; see the Allow header",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too large",
        _ => "the request can't be answered",
    };
    let (parts, _body): (_, Body) = response.into_parts();
    let mut rendered = Problem::new(status, detail).into_response();
    keep_headers(&parts.headers, rendered.headers_mut());
    rendered
}

fn keep_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !matches!(name.as_str(), "content-type" | "content-length") {
            to.insert(name.clone(), value.clone());
        }
    }
}

/// Gives up a request that takes too long.
pub async fn within_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "no answer within 30 s; ask for a narrower range")
                .into_response()
        }
    }
}
