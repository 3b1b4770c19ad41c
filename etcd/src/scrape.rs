//! etcd's own `/metrics`, over one kept connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;

use crate::USER_AGENT;
use crate::endpoint::{self, Endpoint, EndpointError};
use crate::tls::Access;

/// Time for one scrape, connecting included, unless said otherwise. Below the period of a second, so that a slow etcd
/// never has two at once.
pub const SCRAPE_TIMEOUT: Duration = Duration::from_millis(900);

/// Most bytes of a page. etcd writes about 150 KiB.
const PAGE_LIMIT: usize = 8 << 20;

/// Most bytes of any other answer.
const PROBE_LIMIT: usize = 64 << 10;

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
    #[error("/metrics did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// Scrapes one member.
#[derive(Debug)]
pub struct Scraper {
    endpoint: Endpoint,
    access: Access,
    timeout: Duration,
    attempt: usize,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Scraper {
    /// For an endpoint, with what it is talked to.
    pub const fn new(endpoint: Endpoint, access: Access) -> Self {
        Self { endpoint, access, timeout: SCRAPE_TIMEOUT, attempt: 0, connection: None }
    }

    /// With another time for one scrape.
    pub const fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// One page, and what `at_head` yields: it is called when the first bytes arrive, which is just after etcd read its
    /// counters. After a failure the next call connects anew, with the next certificate.
    ///
    /// # Errors
    /// When it does not come in full and in time.
    pub async fn page<T>(&mut self, at_head: impl FnOnce() -> T) -> Result<(String, T), ScrapeError> {
        let attempt = tokio::time::timeout(self.timeout, self.try_page(at_head)).await;
        let outcome = attempt.unwrap_or(Err(ScrapeError::Timeout(self.timeout)));
        if outcome.is_err() {
            self.connection = None;
            self.attempt += 1;
        }
        outcome
    }

    /// Asks for another path and gives the status of the answer alone, such as that of `/livez`. Not for `/health` or
    /// `/readyz`: both read through raft.
    ///
    /// # Errors
    /// When no answer comes in time.
    pub async fn probe(&mut self, path: &'static str) -> Result<StatusCode, ScrapeError> {
        let attempt = tokio::time::timeout(self.timeout, self.fetch(path, PROBE_LIMIT, || ())).await;
        let outcome = attempt.unwrap_or(Err(ScrapeError::Timeout(self.timeout)));
        if outcome.is_err() {
            self.connection = None;
        }
        outcome.map(|(status, ..)| status)
    }

    async fn try_page<T>(&mut self, at_head: impl FnOnce() -> T) -> Result<(String, T), ScrapeError> {
        let (status, body, head) = self.fetch("/metrics", PAGE_LIMIT, at_head).await?;
        if status != StatusCode::OK {
            return Err(ScrapeError::Status(status));
        }
        let page = String::from_utf8(body.into()).map_err(|_not_text| ScrapeError::Text)?;
        Ok((page, head))
    }

    async fn fetch<T>(
        &mut self,
        path: &'static str,
        limit: usize,
        at_head: impl FnOnce() -> T,
    ) -> Result<(StatusCode, Bytes, T), ScrapeError> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await.map_err(ScrapeError::Http)?;
        let request = Request::get(path)
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, USER_AGENT)
            .body(Empty::new())
            .expect("path and headers are well-formed");
        let response = connection.send_request(request).await.map_err(ScrapeError::Http)?;
        let (head, status) = (at_head(), response.status());
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(ScrapeError::Page)?;
        self.connection = Some(connection);
        Ok((status, body.to_bytes(), head))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, ScrapeError> {
        let tls = self.access.for_attempt(&self.endpoint, self.attempt, b"http/1.1")?;
        let stream = endpoint::connect(&self.endpoint, tls, || ()).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(ScrapeError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to /metrics ended");
            }
        });
        Ok(sender)
    }
}
