//! Metrics pushed to a receiver by OTLP over HTTP, in protobuf.
//!
//! HTTP and not gRPC, since every receiver of OTLP takes it (a collector, Prometheus itself, the vendors' own addresses), and
//! proxies on the way do too. What can't be delivered waits in a bounded queue and is tried again with growing pauses; when the
//! queue is full the oldest goes, which a newer value of the same counter makes good. Whatever is dropped is counted. Nothing
//! else in the process ever waits for a receiver.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcdmon_service::backoff::Backoff;
use futures::future::BoxFuture;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, Response, StatusCode, Url, redirect};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::family::Family;
use super::otlp::{MAX_POINTS, Request, requests};
use crate::config::KeyPairFiles;
use crate::notify::retry::retry_after;

/// A receiver that has not answered after this long counts as failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is not there after this long never comes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pauses between attempts; a receiver may ask for longer ones, up to [`LONGEST_PAUSE`].
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Longest pause that a receiver is granted.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Bytes that may wait; the oldest is dropped beyond.
const QUEUE_BYTES: usize = 16 << 20;

/// How much of an answer is read, in bytes.
const ANSWER_BYTES: usize = 64 << 10;

/// Largest file of headers, in bytes.
const HEADERS_BYTES: u64 = 16 << 10;

/// Where to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whole URL, such as `http://collector:4318/v1/metrics`.
    pub endpoint: String,
    /// Lines `Name: value`, read again before every request.
    pub headers_file: Option<PathBuf>,
    /// How often.
    pub interval: Duration,
    /// Authorities of the receiver's certificate; `None` = the usual ones.
    pub authority_file: Option<PathBuf>,
    /// What is shown to the receiver.
    pub key_pair: Option<KeyPairFiles>,
}

/// Why nothing can be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The address is none.
    #[error("export.otlp-endpoint: {0:?} is not an http or https URL")]
    Endpoint(String),
    /// A file can't be used.
    #[error("read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate, key, or the HTTP client can't be used.
    #[error("HTTP client for OTLP")]
    Client(#[source] reqwest::Error),
}

/// What became of data points.
#[derive(Debug, Default)]
pub struct Counters {
    /// Taken by the receiver.
    pub delivered: AtomicU64,
    /// Dropped because the queue was full.
    pub dropped_full: AtomicU64,
    /// Dropped because the receiver refused their request.
    pub dropped_refused: AtomicU64,
    /// Refused by a receiver that took the rest of their request.
    pub dropped_rejected: AtomicU64,
    /// Dropped because the process ended.
    pub dropped_end: AtomicU64,
    /// Attempts that failed and were repeated.
    pub failures: AtomicU64,
    /// Waiting, the request under way included.
    pub waiting: AtomicU64,
}

/// What is pushed: all families, whenever it is asked.
pub type Page = Arc<dyn Fn() -> Vec<Family> + Send + Sync>;

/// The address and the client for it.
#[derive(Debug, Clone)]
pub struct Otlp {
    endpoint: Url,
    headers_file: Option<PathBuf>,
    client: Client,
    counters: Arc<Counters>,
}

/// The task that pushes.
pub struct Push {
    otlp: Otlp,
    interval: Duration,
    instance: String,
    page: Page,
}

enum Delivery {
    Taken { rejected: u64 },
    Refused,
}

/// Why an attempt failed.
struct Failure {
    what: String,
    after: Option<Duration>,
    again: bool,
}

impl Push {
    /// Nothing is connected yet. `instance` names this installation to the receiver.
    ///
    /// # Errors
    /// When the address, a certificate or the file of headers can't be used.
    pub fn new(
        settings: &Settings,
        instance: String,
        page: Page,
        counters: Arc<Counters>,
    ) -> Result<Self, PushError> {
        let endpoint = Url::parse(&settings.endpoint)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
            .ok_or_else(|| PushError::Endpoint(settings.endpoint.clone()))?;
        let mut client = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // Headers hold the receiver's secret: it goes where the administrator said, not where a receiver points to.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("etcd-monitor/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.authority_file {
            let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(PushError::Client)?;
            client = client.tls_certs_only(authorities);
        }
        if let Some(pair) = &settings.key_pair {
            let both = [read(&pair.certificate)?, b"\n".to_vec(), read(&pair.key)?].concat();
            client = client.identity(Identity::from_pem(&both).map_err(PushError::Client)?);
        }
        let otlp = Otlp {
            endpoint,
            headers_file: settings.headers_file.clone(),
            client: client.build().map_err(PushError::Client)?,
            counters,
        };
        Ok(Self { otlp, interval: settings.interval, instance, page })
    }

    /// Pushes until `end` is cancelled.
    pub async fn run(self, end: CancellationToken) {
        let counters = Arc::clone(&self.otlp.counters);
        let mut queue = Queue { requests: VecDeque::new(), bytes: 0, counters: Arc::clone(&counters) };
        let mut sending: Option<(u64, BoxFuture<'_, Delivery>)> = None;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if sending.is_none()
                && let Some(request) = queue.pop()
            {
                sending = Some((request.points, Box::pin(self.otlp.deliver(request))));
            }
            let under_way = async {
                match &mut sending {
                    Some((points, delivery)) => (*points, delivery.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = end.cancelled() => break,
                (points, delivery) = under_way => {
                    sending = None;
                    counters.count(points, &delivery);
                }
                _ = ticks.tick() => queue.push(self.look().await),
            }
        }
        counters.dropped_end.fetch_add(counters.waiting.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// What is now, as requests; many points take a while to be written.
    async fn look(&self) -> Vec<Request> {
        let (page, instance) = (Arc::clone(&self.page), self.instance.clone());
        let made = tokio::task::spawn_blocking(move || {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let at_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
            requests(&page(), at_ns, &instance, MAX_POINTS)
        });
        made.await.unwrap_or_else(|panic| {
            tracing::error!(error = %panic, "metrics for OTLP could not be made");
            Vec::new()
        })
    }
}

impl Counters {
    fn count(&self, points: u64, delivery: &Delivery) {
        self.waiting.fetch_sub(points, Ordering::Relaxed);
        match delivery {
            Delivery::Taken { rejected } => {
                let rejected = (*rejected).min(points);
                self.delivered.fetch_add(points - rejected, Ordering::Relaxed);
                self.dropped_rejected.fetch_add(rejected, Ordering::Relaxed);
            }
            Delivery::Refused => {
                self.dropped_refused.fetch_add(points, Ordering::Relaxed);
            }
        }
    }
}

/// Requests that wait, the oldest first.
struct Queue {
    requests: VecDeque<Request>,
    bytes: usize,
    counters: Arc<Counters>,
}

impl Queue {
    fn push(&mut self, requests: Vec<Request>) {
        for request in requests {
            self.bytes += request.body.len();
            self.counters.waiting.fetch_add(request.points, Ordering::Relaxed);
            self.requests.push_back(request);
        }
        while self.bytes > QUEUE_BYTES
            && let Some(oldest) = self.pop()
        {
            self.counters.waiting.fetch_sub(oldest.points, Ordering::Relaxed);
            self.counters.dropped_full.fetch_add(oldest.points, Ordering::Relaxed);
        }
    }

    fn pop(&mut self) -> Option<Request> {
        let oldest = self.requests.pop_front()?;
        self.bytes -= oldest.body.len();
        Some(oldest)
    }
}

impl Otlp {
    /// Tries until the receiver has said yes or no.
    async fn deliver(&self, request: Request) -> Delivery {
        let (mut pauses, mut failures) = (Backoff::new(PAUSES.0, PAUSES.1), 0u64);
        loop {
            let failure = match self.post(&request).await {
                Ok(rejected) => {
                    if failures > 0 {
                        tracing::info!(failures, "the receiver of OTLP takes metrics again");
                    }
                    return Delivery::Taken { rejected };
                }
                Err(failure) => failure,
            };
            if !failure.again {
                tracing::warn!(reason = failure.what, points = request.points, "metrics refused over OTLP");
                return Delivery::Refused;
            }
            failures += 1;
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            // The first failure, then fewer and fewer: a long outage is one story.
            if failures.is_power_of_two() {
                tracing::warn!(
                    reason = failure.what,
                    failures,
                    "metrics not delivered over OTLP, will try again"
                );
            }
            let asked = failure.after.unwrap_or_default().min(LONGEST_PAUSE);
            tokio::time::sleep(pauses.pause().max(asked)).await;
        }
    }

    /// One attempt; gives how many points the receiver left out.
    async fn post(&self, request: &Request) -> Result<u64, Failure> {
        let again = |what: String| Failure { what, after: None, again: true };
        let headers = match &self.headers_file {
            Some(path) => check_headers(path).map_err(again)?,
            None => HeaderMap::new(),
        };
        let answer = self
            .client
            .post(self.endpoint.clone())
            .headers(headers)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(request.body.clone())
            .send()
            .await;
        // The address may hold a secret.
        let response = answer.map_err(|error| again(chain(&error.without_url())))?;
        judge(response).await
    }
}

async fn judge(response: Response) -> Result<u64, Failure> {
    let status = response.status();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = header.and_then(|value| retry_after(value, chrono::Utc::now().timestamp()));
    let body = beginning(response).await;
    if status.is_success() {
        // A body that is not the protocol's own says nothing.
        let partial =
            ExportMetricsServiceResponse::decode(body.as_slice()).ok().and_then(|r| r.partial_success);
        let Some(partial) = partial else { return Ok(0) };
        if !partial.error_message.is_empty() {
            tracing::warn!(reason = partial.error_message, rejected = partial.rejected_data_points, "OTLP");
        }
        return Ok(u64::try_from(partial.rejected_data_points).unwrap_or(0));
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(300)])
        .replace(|letter: char| letter.is_control(), " ");
    // The four that the protocol says to repeat.
    let again = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    Err(Failure { what: format!("status {status}: {}", text.trim()), after, again })
}

async fn beginning(mut response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            _ => break,
        }
    }
    bytes.truncate(ANSWER_BYTES);
    bytes
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The headers of a file: lines `Name: value`; empty lines and those that begin with `#` don't count. Values are never
/// shown.
///
/// # Errors
/// When the file can't be read or a line is no header; the message says which line.
pub fn check_headers(path: &Path) -> Result<HeaderMap, String> {
    let unreadable = |error: std::io::Error| format!("{} can't be read: {error}", path.display());
    if std::fs::metadata(path).map_err(unreadable)?.len() > HEADERS_BYTES {
        return Err(format!("{} is larger than {HEADERS_BYTES} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some((name, value)) = header else {
            return Err(format!("{}: line {} is not `Name: value`", path.display(), number + 1));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn read(path: &Path) -> Result<Vec<u8>, PushError> {
    std::fs::read(path).map_err(|source| PushError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
