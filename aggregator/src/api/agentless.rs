//! Clusters that are watched without agents. The only part of the API that changes anything so far: it names files that this
//! program then reads and addresses that it then asks, so it needs the token even on loopback.

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use etcdmon_service::logging::ErrorChain;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::Body;
use super::{Context, Problem};
use crate::agentless::{ChangeError, Edit, Spec, TargetView};

/// Everything that is watched without agents.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Targets {
    /// By name.
    pub agentless: Vec<TargetView>,
}

/// Shows that the request may change something.
pub struct MayChange;

impl FromRequestParts<Context> for MayChange {
    type Rejection = Problem;

    async fn from_request_parts(_parts: &mut Parts, context: &Context) -> Result<Self, Problem> {
        if context.shared.has_token {
            // The request would not have come so far without it.
            return Ok(Self);
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "changes need a token, which this aggregator does not have; set listen.token-file, or name the cluster in the \
             settings under agentless",
        ))
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let status = match &error {
            ChangeError::Spec(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ChangeError::Unknown(_) => StatusCode::NOT_FOUND,
            ChangeError::Taken(_)
            | ChangeError::Settings(_)
            | ChangeError::TooMany
            | ChangeError::Conflict => StatusCode::CONFLICT,
            ChangeError::State(_) | ChangeError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, ErrorChain(&error).to_string())
    }
}

/// Clusters that are watched without agents, with what their endpoints answer now.
#[utoipa::path(
    get, path = "/api/v1/agentless", tag = "agentless", operation_id = "listAgentless",
    responses(
        (status = 200, body = Targets),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
    )
)]
pub async fn list(State(context): State<Context>) -> Json<Targets> {
    Json(Targets { agentless: context.shared.agentless.targets().to_vec() })
}

/// One of them.
#[utoipa::path(
    get, path = "/api/v1/agentless/{name}", tag = "agentless", operation_id = "getAgentless",
    params(("name" = String, Path, description = "Name")),
    responses(
        (status = 200, body = TargetView),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
    )
)]
pub async fn one(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<TargetView>, Problem> {
    let targets = context.shared.agentless.targets();
    let found = targets.iter().find(|target| target.spec.name == name).cloned();
    found.map(Json).ok_or_else(|| ChangeError::Unknown(name).into())
}

/// Watches a cluster without agents, from now on and after every restart.
#[utoipa::path(
    post, path = "/api/v1/agentless", tag = "agentless", operation_id = "addAgentless",
    request_body = Spec,
    responses(
        (status = 201, description = "Watched from now on; Location says where it is shown"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "This aggregator has no token, so nobody may change anything"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The name is taken, or there are too many"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Not usable; every fault is named"),
    )
)]
pub async fn add(
    _may: MayChange,
    State(context): State<Context>,
    Body(spec): Body<Spec>,
) -> Result<Response, Problem> {
    let location = format!("/api/v1/agentless/{}", spec.name);
    context.shared.agentless.add(spec).await?;
    // A checked name has only letters that a header takes.
    let location = HeaderValue::from_str(&location).unwrap_or(HeaderValue::from_static("/api/v1/agentless"));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

/// Changes how a cluster is watched; what is left out stays, an empty text takes a value away.
#[utoipa::path(
    patch, path = "/api/v1/agentless/{name}", tag = "agentless", operation_id = "editAgentless",
    params(("name" = String, Path, description = "Name")), request_body = Edit,
    responses(
        (status = 204, description = "Its endpoints are asked anew"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "This aggregator has no token, so nobody may change anything"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "It stands in the settings, or was changed at the same time"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Not usable; every fault is named"),
    )
)]
pub async fn edit(
    _may: MayChange,
    State(context): State<Context>,
    Path(name): Path<String>,
    Body(edit): Body<Edit>,
) -> Result<StatusCode, Problem> {
    context.shared.agentless.edit(&name, edit).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stops watching a cluster without agents. What is stored of it stays.
#[utoipa::path(
    delete, path = "/api/v1/agentless/{name}", tag = "agentless", operation_id = "removeAgentless",
    params(("name" = String, Path, description = "Name")),
    responses(
        (status = 204, description = "No longer watched"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "No valid token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "This aggregator has no token, so nobody may change anything"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such cluster"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "It stands in the settings"),
    )
)]
pub async fn remove(
    _may: MayChange,
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    context.shared.agentless.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
