//! etcd's own `/metrics`, over one kept connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;

use super::endpoint::{self, Endpoint, EndpointError};
use crate::discover::TlsFiles;

/// Time for connecting, and for one scrape. Below the period, so that a slow etcd never has two at once.
pub const SCRAPE_TIMEOUT: Duration = Duration::from_millis(900);

/// Most bytes of a page. etcd writes about 150 KiB.
const PAGE_LIMIT: usize = 8 << 20;

/// Why a scrape failed.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// No connection.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The exchange broke off.
    #[error("read /metrics")]
    Http(#[source] hyper::Error),
    /// Not 200.
    #[error("/metrics answered {0}")]
    Status(StatusCode),
    /// Too long, or broken off.
    #[error("page of /metrics: {0}")]
    Page(Box<dyn std::error::Error + Send + Sync>),
    /// Not UTF-8.
    #[error("page of /metrics is not UTF-8")]
    Text,
    /// No answer in time.
    #[error("/metrics did not answer within {} ms", SCRAPE_TIMEOUT.as_millis())]
    Timeout,
}

/// Scrapes one member.
#[derive(Debug)]
pub struct Scraper {
    endpoint: Endpoint,
    identities: Vec<TlsFiles>,
    next_identity: usize,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Scraper {
    /// For an endpoint, with the certificates to try.
    pub const fn new(endpoint: Endpoint, identities: Vec<TlsFiles>) -> Self {
        Self { endpoint, identities, next_identity: 0, connection: None }
    }

    /// One page, and what `at_head` yields: it is called when the first bytes arrive, which is just after etcd read its
    /// counters. After a failure the next call connects anew, with the next certificate.
    ///
    /// # Errors
    /// When it does not come in full and in time.
    pub async fn page<T>(&mut self, at_head: impl FnOnce() -> T) -> Result<(String, T), ScrapeError> {
        let attempt = tokio::time::timeout(SCRAPE_TIMEOUT, self.try_page(at_head)).await;
        let outcome = attempt.unwrap_or(Err(ScrapeError::Timeout));
        if outcome.is_err() {
            self.connection = None;
            self.next_identity += 1;
        }
        outcome
    }

    async fn try_page<T>(&mut self, at_head: impl FnOnce() -> T) -> Result<(String, T), ScrapeError> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await.map_err(ScrapeError::Http)?;
        let request = Request::get("/metrics")
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, concat!("etcd-monitor-agent/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .expect("path and headers are well-formed");
        let response = connection.send_request(request).await.map_err(ScrapeError::Http)?;
        let head = at_head();
        if response.status() != StatusCode::OK {
            return Err(ScrapeError::Status(response.status()));
        }
        let body =
            Limited::new(response.into_body(), PAGE_LIMIT).collect().await.map_err(ScrapeError::Page)?;
        self.connection = Some(connection);
        let page = String::from_utf8(body.to_bytes().into()).map_err(|_not_text| ScrapeError::Text)?;
        Ok((page, head))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, ScrapeError> {
        let tls = tls_for(&self.endpoint, &self.identities, self.next_identity, b"http/1.1")?;
        let stream = endpoint::connect(&self.endpoint, tls).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(ScrapeError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to /metrics ended");
            }
        });
        Ok(sender)
    }
}

/// TLS settings of the attempt with this number; read anew each time, so renewed certificates are picked up.
///
/// # Errors
/// When a file does not read.
pub fn tls_for(
    endpoint: &Endpoint,
    identities: &[TlsFiles],
    attempt: usize,
    protocol: &[u8],
) -> Result<Option<Arc<ClientConfig>>, EndpointError> {
    if !endpoint.tls {
        return Ok(None);
    }
    let none = TlsFiles::default();
    let files = if identities.is_empty() { &none } else { &identities[attempt % identities.len()] };
    Ok(Some(Arc::new(endpoint::tls_config(files, protocol)?)))
}
