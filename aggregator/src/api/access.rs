//! Who may ask.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use etcdmon_service::secret::Secret;
use sha2::{Digest as _, Sha256};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};

use super::Problem;

/// Paths that need no token: probes have none, and they tell nothing about clusters.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// What a request must show.
#[derive(Debug, Clone)]
pub enum Access {
    /// This bearer token.
    Token {
        /// Its SHA-256: comparing digests takes the same time wherever the texts differ.
        digest: [u8; 32],
    },
    /// Nothing: the connection came over a socket that only the owner of the state can open.
    Owner,
    /// A loopback host name, or one of these.
    Loopback {
        /// Further host names, lower case, without port.
        host_names: Vec<String>,
    },
}

impl Access {
    /// By the settings: a token if there is one, else the host name.
    pub fn new(token: Option<&Secret>, host_names: &[String]) -> Self {
        match token {
            Some(token) => Self::Token { digest: Sha256::digest(token.reveal()).into() },
            None => {
                Self::Loopback { host_names: host_names.iter().map(|name| name.to_lowercase()).collect() }
            }
        }
    }

    fn refusal(&self, headers: &HeaderMap, uri: &Uri) -> Option<Problem> {
        match self {
            Self::Owner => None,
            Self::Token { .. } if OPEN.contains(&uri.path()) => None,
            Self::Token { digest } => {
                let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
                let fits = shown.is_some_and(|token| <[u8; 32]>::from(Sha256::digest(token)) == *digest);
                (!fits).then(|| {
                    Problem::new(
                        StatusCode::UNAUTHORIZED,
                        "a valid bearer token is needed: Authorization: Bearer TOKEN",
                    )
                })
            }
            Self::Loopback { host_names } => {
                let host = uri.host().or_else(|| headers.get(HOST)?.to_str().ok());
                let fits = host.is_some_and(|host| is_local(host, host_names));
                (!fits).then(|| {
                    Problem::new(
                        StatusCode::MISDIRECTED_REQUEST,
                        "without a token the API answers only under a loopback host name; see the settings \
                         listen.host-names and listen.token-file",
                    )
                })
            }
        }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn is_local(host: &str, host_names: &[String]) -> bool {
    let name = without_port(host).to_lowercase();
    let address: Option<IpAddr> = name.trim_start_matches('[').trim_end_matches(']').parse().ok();
    name == "localhost"
        || name.ends_with(".localhost")
        || address.is_some_and(|address| address.is_loopback())
        || host_names.contains(&name)
}

fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split(':').next().unwrap_or(host)
}

/// Proof that a request came from somebody who may change something.
#[derive(Debug, Clone, Copy)]
pub struct Administrator(());

impl<S: Send + Sync> FromRequestParts<S> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| {
            Problem::new(
                StatusCode::FORBIDDEN,
                "without a token of its own the API changes nothing: set listen.token-file, or use the subcommands of \
                 etcd-monitor-aggregator on its host",
            )
        })
    }
}

/// Lets a request through or refuses it.
pub async fn check(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    // On loopback anybody on the host may ask, and any web page can post; so changes need more than that.
    if !matches!(*access, Access::Loopback { .. }) {
        request.extensions_mut().insert(Administrator(()));
    }
    match access.refusal(request.headers(), request.uri()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

/// Adds the bearer token to the OpenAPI description.
pub fn describe(description: &mut utoipa::openapi::OpenApi) {
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    description.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    let nothing = SecurityRequirement::default();
    let token = SecurityRequirement::new("bearer", Vec::<String>::new());
    description.security = Some(vec![nothing, token]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_are_local_and_others_are_not() {
        for host in
            ["localhost", "LOCALHOST:8460", "127.0.0.1:1", "127.8.9.1", "[::1]:8460", "[::1]", "a.localhost"]
        {
            assert!(is_local(host, &[]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1:8460",
            "[fe80::1]",
            "",
            ":",
            "[",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_local(host, &[]), "{host}");
        }
        assert!(is_local("Monitor.example:443", &["monitor.example".to_owned()]));
    }

    #[test]
    fn the_scheme_of_a_token_is_bearer_in_any_case() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for wrong in ["", "abc", "Basic abc", "Bearer"] {
            assert_eq!(bearer(wrong), None, "{wrong}");
        }
    }
}
