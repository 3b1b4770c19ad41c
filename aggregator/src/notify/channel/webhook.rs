//! Notices as HTTP requests with Alertmanager's body.

use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use sha2::{Digest as _, Sha256};

use super::{Channel, DeliveryError};
use crate::notify::Notice;
use crate::notify::retry::retry_after;

/// A receiver that has not answered after this long counts as failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is not there after this long never comes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How much of a refusal is shown, in bytes.
const SHOWN_BYTES: usize = 300;

/// Why a webhook can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is none.
    #[error("{0:?} is not an http or https URL")]
    Url(String),
    /// The HTTP client can't be made.
    #[error("HTTP client for webhooks")]
    Client(#[source] reqwest::Error),
}

/// Posts notices to a URL.
#[derive(Debug, Clone)]
pub struct Webhook {
    id: String,
    name: String,
    url: Url,
    client: Client,
}

impl Webhook {
    /// For a receiver at `url`.
    ///
    /// # Errors
    /// When that is no URL of a web server.
    pub fn new(url: &str) -> Result<Self, WebhookError> {
        let parsed = Self::check(url)?;
        let client = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // A page must arrive where the administrator said, not where a receiver points to.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("etcd-monitor/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(WebhookError::Client)?;
        let digest = Sha256::digest(parsed.as_str().as_bytes());
        let id = digest.iter().take(8).fold("webhook:".to_owned(), |id, byte| format!("{id}{byte:02x}"));
        // Path, query and user often hold the receiver's secret.
        let name = match (parsed.host_str(), parsed.port()) {
            (Some(host), Some(port)) => format!("webhook {host}:{port}"),
            (Some(host), None) => format!("webhook {host}"),
            (None, _) => "webhook".to_owned(),
        };
        Ok(Self { id, name, url: parsed, client })
    }

    /// Checks an address.
    ///
    /// # Errors
    /// When it is no URL of a web server.
    pub fn check(url: &str) -> Result<Url, WebhookError> {
        Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
            .ok_or_else(|| WebhookError::Url(url.to_owned()))
    }

    async fn post(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let mut body = notice.body.clone();
        body["receiver"] = "webhook".into();
        let answer = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", &notice.delivery)
            .body(body.to_string())
            .send()
            .await;
        match answer {
            Ok(response) => judge(response).await,
            Err(error) => Err(DeliveryError::Retry { what: describe(&error), after: None }),
        }
    }
}

impl Channel for Webhook {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Result<(), DeliveryError>> {
        Box::pin(self.post(notice))
    }
}

async fn judge(response: Response) -> Result<(), DeliveryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = header.and_then(|value| retry_after(value, chrono::Utc::now().timestamp()));
    let what = format!("status {status}{}", shown(response).await);
    let again = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    Err(if again { DeliveryError::Retry { what, after } } else { DeliveryError::Refused { what } })
}

/// The beginning of what the receiver says, on one line.
async fn shown(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < SHOWN_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            _ => break,
        }
    }
    bytes.truncate(SHOWN_BYTES);
    let text = String::from_utf8_lossy(&bytes).replace(|letter: char| letter.is_control(), " ");
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

/// The error with its causes and without the URL.
fn describe(error: &reqwest::Error) -> String {
    let mut text = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "no answer in time".to_owned(),
        (false, true) => "no connection".to_owned(),
        (false, false) => "request failed".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
