//! What the API shows of clusters that are watched without agents.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::point::Mode;
use super::spec::Spec;
use super::watched::{Seen, Watched};
use crate::clock::At;
use crate::view::hex;

/// Where a spec comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The settings; changed there.
    Settings,
    /// The API.
    Api,
}

/// A cluster that is watched without agents.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TargetView {
    /// What was asked for.
    pub spec: Spec,
    /// By whom.
    pub origin: Origin,
    /// Our id of the cluster; null until an endpoint answered.
    pub cluster: Option<Uuid>,
    /// etcd's own cluster id, 16 hexadecimal digits; null until an endpoint answered.
    pub etcd_cluster_id: Option<String>,
    /// Endpoints that were given, and those found through the member list.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// Its URL.
    pub url: String,
    /// Whether it was given; else it was found through the member list.
    pub given: bool,
    /// Member that answers there, 16 hexadecimal digits; null until it did.
    pub member: Option<String>,
    /// `answers`, `failing`, `stands_down` (an agent watches the member, or another endpoint of it is asked), or `new`.
    pub state: String,
    /// Why it is failing, or what is missing.
    pub error: String,
    /// Last answer.
    pub last_answer: Option<DateTime<Utc>>,
    /// Requests so far.
    pub requests: u64,
    /// Bytes of answers so far, without framing and TLS.
    pub bytes: u64,
}

/// A target as it is now.
pub fn target(
    spec: &Spec,
    origin: Origin,
    watched: &Watched,
    cluster: Option<Uuid>,
    covered: &BTreeSet<u64>,
    cost: impl Fn(u64) -> (u64, u64),
    date: impl Fn(At) -> DateTime<Utc>,
) -> TargetView {
    let endpoint = |(number, seen): (&u64, &Seen)| {
        let (requests, bytes) = cost(*number);
        let stands_down = watched.mode(*number, covered) == Mode::Listen;
        let failure = seen.unusable.clone().or(seen.failure.as_ref().map(|failure| failure.text.clone()));
        let state = match (&failure, seen.answers()) {
            (_, true) if stands_down => "stands_down",
            (_, true) => "answers",
            (Some(_), false) => "failing",
            (None, false) => "new",
        };
        EndpointView {
            url: seen.endpoint.to_string(),
            given: seen.given,
            member: seen.member.map(hex),
            state: state.to_owned(),
            error: failure.or_else(|| seen.page_failure.clone()).unwrap_or_default(),
            last_answer: seen.last_answer.map(&date),
            requests,
            bytes,
        }
    };
    TargetView {
        spec: spec.clone(),
        origin,
        cluster,
        etcd_cluster_id: watched.cluster.map(hex),
        endpoints: watched.points.iter().map(endpoint).collect(),
    }
}
