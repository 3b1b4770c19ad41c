//! Join tokens, agents' certificates, and their end.
//!
//! Whatever changes something here needs an administrator: who shows the API's bearer token, or comes over the socket in
//! the state directory, which only its owner can open. Without a token the API on loopback only tells.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::Administrator;
use super::extract::Body;
use super::{Context, Problem};
use crate::enrol::{CertificateView, DeskError, DeskHandle, EventView, NewToken, Revoked, TokenView};

/// Life of a token when none is asked for, in seconds.
const DEFAULT_TTL_SECONDS: u64 = 3_600;

/// Bounds of the life of a token, in seconds.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 1..=30 * 24 * 3_600;

/// Most uses of a token.
const MOST_USES: u32 = 10_000;

/// Longest label, in characters.
const LONGEST_SCOPE: usize = 64;

/// Events that are shown.
const EVENTS: u32 = 1_000;

/// What a join token should be like.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// How long it is good, in seconds; one hour unless given, at most 30 days.
    #[serde(default = "default_ttl")]
    #[schema(default = 3600, minimum = 1, maximum = 2_592_000)]
    pub ttl_seconds: u64,
    /// For how many agents; one unless given.
    #[serde(default = "default_uses")]
    #[schema(default = 1, minimum = 1, maximum = 10_000)]
    pub uses: u32,
    /// Label of the agents that enrol with it: letters, digits and `-_./`.
    #[serde(default)]
    pub scope: String,
    /// The only agent that may use it. Such a token also replaces a certificate that is still good.
    #[serde(default)]
    pub agent: Option<Uuid>,
}

const fn default_ttl() -> u64 {
    DEFAULT_TTL_SECONDS
}

const fn default_uses() -> u32 {
    1
}

impl TokenRequest {
    fn check(self) -> Result<NewToken, Problem> {
        let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
        if !TTL_SECONDS.contains(&self.ttl_seconds) {
            return Err(bad("ttl_seconds: lies outside 1 to 2592000"));
        }
        if self.uses == 0 || self.uses > MOST_USES {
            return Err(bad("uses: lies outside 1 to 10000"));
        }
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
        if self.scope.len() > LONGEST_SCOPE || !self.scope.chars().all(plain) {
            return Err(bad("scope: is not a label of at most 64 letters, digits and -_./"));
        }
        if self.agent.is_some() && self.uses != 1 {
            return Err(bad("uses: a token for one agent has one use"));
        }
        let life = Duration::from_secs(self.ttl_seconds);
        Ok(NewToken { life, uses: self.uses, scope: self.scope, agent: self.agent })
    }
}

/// A join token that was just made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The whole token, for `enrol.token-file` of an agent. It is shown this once.
    pub token: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub view: TokenView,
}

/// All join tokens.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    /// Newest first; those long over are left out.
    pub tokens: Vec<TokenView>,
}

/// All certificates.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Certificates {
    /// Newest first; those long over are left out.
    pub certificates: Vec<CertificateView>,
}

/// What happened.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// Newest first, at most 1,000.
    pub events: Vec<EventView>,
}

/// Makes a join token.
#[utoipa::path(
    post, path = "/api/v1/enrolment/tokens", tag = "enrolment", operation_id = "createJoinToken",
    request_body = TokenRequest,
    responses(
        (status = 201, body = CreatedToken),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "It can't be like that"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "The API has no token, so nothing can be changed over it"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Agents don't enrol here"),
    )
)]
pub async fn create_token(
    State(context): State<Context>,
    _administrator: Administrator,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<CreatedToken>), Problem> {
    let (token, view) = desk(&context)?.make_token(request.check()?).await?;
    let created = CreatedToken { token: token.reveal().clone(), view };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(created)))
}

/// All join tokens, without their secrets.
#[utoipa::path(
    get, path = "/api/v1/enrolment/tokens", tag = "enrolment", operation_id = "listJoinTokens",
    responses(
        (status = 200, body = Tokens),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn tokens(State(context): State<Context>) -> Result<Json<Tokens>, Problem> {
    let tokens = match &context.shared.desk {
        Some(desk) => desk.tokens().await?,
        None => Vec::new(),
    };
    Ok(Json(Tokens { tokens }))
}

/// Revokes a join token. Agents that enrolled with it keep their certificates.
#[utoipa::path(
    delete, path = "/api/v1/enrolment/tokens/{id}", tag = "enrolment", operation_id = "revokeJoinToken",
    params(("id" = String, Path, description = "Id of the token")),
    responses(
        (status = 200, body = TokenView),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "The API has no token, so nothing can be changed over it"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such join token"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Agents don't enrol here"),
    )
)]
pub async fn revoke_token(
    State(context): State<Context>,
    _administrator: Administrator,
    Path(id): Path<String>,
) -> Result<Json<TokenView>, Problem> {
    let revoked = desk(&context)?.revoke_token(&id).await?;
    revoked.map(Json).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no such join token"))
}

/// The certificates that agents got here.
#[utoipa::path(
    get, path = "/api/v1/enrolment/certificates", tag = "enrolment", operation_id = "listAgentCertificates",
    responses(
        (status = 200, body = Certificates),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn certificates(State(context): State<Context>) -> Result<Json<Certificates>, Problem> {
    let certificates = match &context.shared.desk {
        Some(desk) => desk.certificates().await?,
        None => Vec::new(),
    };
    Ok(Json(Certificates { certificates }))
}

/// What happened: tokens made, used and misused, agents enrolled and revoked.
#[utoipa::path(
    get, path = "/api/v1/enrolment/events", tag = "enrolment", operation_id = "listEnrolmentEvents",
    responses(
        (status = 200, body = Events),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn events(State(context): State<Context>) -> Result<Json<Events>, Problem> {
    let events = match &context.shared.desk {
        Some(desk) => desk.events(EVENTS).await?,
        None => Vec::new(),
    };
    Ok(Json(Events { events }))
}

/// Revokes an agent: its streams end, its certificates count no more. With a new join token it may come back.
#[utoipa::path(
    post, path = "/api/v1/agents/{id}/revoke", tag = "enrolment", operation_id = "revokeAgent",
    params(("id" = Uuid, Path, description = "Id of the agent")),
    responses(
        (status = 200, body = Revoked),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "Not an id"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "The API has no token, so nothing can be changed over it"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Agents have no certificates here"),
    )
)]
pub async fn revoke_agent(
    State(context): State<Context>,
    _administrator: Administrator,
    Path(id): Path<String>,
) -> Result<Json<Revoked>, Problem> {
    let agent: Uuid =
        id.parse().map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the id of an agent is a UUID"))?;
    Ok(Json(desk(&context)?.revoke_agent(agent).await?))
}

fn desk(context: &Context) -> Result<&DeskHandle, Problem> {
    context.shared.desk.as_ref().ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "agents don't enrol here: ingest is plain (listen.ingest-tls) or enrol.enabled is false",
        )
    })
}

impl From<DeskError> for Problem {
    fn from(error: DeskError) -> Self {
        let status = match error {
            DeskError::Refused(_) | DeskError::TooManyTokens => StatusCode::CONFLICT,
            DeskError::Authority(_) => StatusCode::BAD_REQUEST,
            DeskError::State(_) | DeskError::Closed => {
                tracing::error!(error = %etcdmon_service::logging::ErrorChain(&error), "enrolment failed");
                return Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the state can't be written now; try again",
                );
            }
        };
        Self::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_is_not_given_is_safe_and_what_it_can_t_be_is_refused() {
        let plain: TokenRequest = serde_json::from_str("{}").unwrap();
        let wanted = plain.check().unwrap();
        assert_eq!((wanted.life, wanted.uses, wanted.agent), (Duration::from_secs(3_600), 1, None));
        for (json, expected) in [
            (r#"{"ttl_seconds": 0}"#, "ttl_seconds"),
            (r#"{"ttl_seconds": 99999999}"#, "ttl_seconds"),
            (r#"{"uses": 0}"#, "uses"),
            (r#"{"scope": "a b"}"#, "scope"),
            (r#"{"uses": 2, "agent": "00000000-0000-0000-0000-000000000001"}"#, "one agent"),
        ] {
            let request: TokenRequest = serde_json::from_str(json).unwrap();
            let problem = request.check().unwrap_err();
            assert!(problem.detail.contains(expected), "{json}: {}", problem.detail);
        }
        assert!(
            serde_json::from_str::<TokenRequest>(r#"{"ttl": "1h"}"#).is_err(),
            "unknown fields are faults"
        );
    }
}
