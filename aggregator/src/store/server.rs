//! A ClickHouse server by URL: TLS, credentials, a circuit breaker, and what is wrong with it in words.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use etcdmon_service::breaker::{Breaker, Policy, State};
use etcdmon_service::logging::ErrorChain;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower::Service;

use super::client::ClientError;
use crate::tls::{self, TlsError};

/// How long a connection may take, its handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Servers close idle connections after three seconds or later.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between TCP's own looks at an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connections that fail in a row open the breaker: then one is tried every 5 to 60 seconds.
const POLICY: Policy = Policy {
    failures: 5,
    pause: (Duration::ZERO, Duration::ZERO),
    open: (Duration::from_secs(5), Duration::from_secs(60)),
    steady_after: Duration::from_secs(1),
};

/// Least version that has all that is asked of it: year and month.
const LEAST_VERSION: (u32, u32) = (24, 8);

/// A server by URL.
#[derive(Clone, Default)]
pub struct External {
    /// `http://` or `https://` URL of the HTTP interface.
    pub url: String,
    /// User; empty = the server's default.
    pub user: String,
    /// Password; never logged.
    pub password: String,
    /// Authority of its certificate; `None` = the public ones.
    pub authority: Option<PathBuf>,
    /// Certificate and key to show it.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Its cluster, whose hosts have the tables.
    pub cluster: Option<String>,
}

/// A client for it. Nothing is connected yet.
///
/// # Errors
/// When a certificate or key can't be used.
pub fn client(server: &External) -> Result<clickhouse::Client, TlsError> {
    let mut http = HttpConnector::new();
    http.set_keepalive(Some(KEEPALIVE));
    http.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls_config(server)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    let guarded = Guarded { connector, gate: Arc::new(Mutex::new(Gate::new())) };
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(guarded);
    // Compressed inserts: a server is usually across a network.
    let mut client = clickhouse::Client::with_http_client(http)
        .with_url(&server.url)
        .with_compression(clickhouse::Compression::Lz4);
    if !server.user.is_empty() {
        client = client.with_user(&server.user);
    }
    if !server.password.is_empty() {
        client = client.with_password(&server.password);
    }
    if server.cluster.is_some() {
        client =
            super::cluster::settings().fold(client, |client, (name, value)| client.with_setting(name, value));
    }
    Ok(client)
}

fn tls_config(server: &External) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match &server.authority {
        Some(path) => tls::add_authorities(&mut roots, path)?,
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &server.certificate else { return Ok(builder.with_no_client_auth()) };
    let (chain, private) = tls::read_key_pair(certificate, key)?;
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|source| TlsError::Unusable { path: certificate.clone(), source })
}

/// What is wrong with a server, in words.
#[derive(Debug, thiserror::Error)]
pub enum ServerFault {
    /// It does not know user and password.
    #[error("clickhouse refuses user and password (clickhouse.user, clickhouse.password-file)")]
    Credentials,
    /// The user may not do what is needed.
    #[error("clickhouse does not let this user do what is needed: {0}")]
    Rights(String),
    /// Certificates: its own, or ours.
    #[error(
        "clickhouse's TLS can't be agreed on; see clickhouse.ca-file, and clickhouse.cert-file if it wants to see a certificate: {0}"
    )]
    Certificate(String),
    /// Something else answers.
    #[error("clickhouse.url is not the HTTP interface of a ClickHouse: {0}")]
    NotClickHouse(String),
    /// It lacks what is asked of it.
    #[error("clickhouse {0} is too old: {major}.{minor} or later is needed", major = LEAST_VERSION.0, minor = LEAST_VERSION.1)]
    TooOld(String),
}

/// Asks a server who it is, before anything is done there.
///
/// # Errors
/// With what is wrong with it, or that it does not answer.
pub async fn probe(client: &clickhouse::Client) -> Result<(), ClientError> {
    let asked = client.query_raw("SELECT version()").fetch_one::<String>();
    let answer = tokio::time::timeout(CONNECT_TIMEOUT * 2, asked).await;
    match answer.unwrap_or(Err(clickhouse::error::Error::TimedOut)) {
        Ok(version) => judge_version(&version).map_err(ClientError::Server),
        Err(error) => Err(judge(error)),
    }
}

fn judge_version(version: &str) -> Result<(), ServerFault> {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(year)), Some(Ok(month))) if (year, month) >= LEAST_VERSION => Ok(()),
        (Some(Ok(_)), Some(Ok(_))) => Err(ServerFault::TooOld(version.to_owned())),
        _ => Err(ServerFault::NotClickHouse(format!("it says its version is {:?}", shortened(version)))),
    }
}

fn judge(error: clickhouse::error::Error) -> ClientError {
    use clickhouse::error::Error;
    let fault = match &error {
        Error::BadResponse(text) => match code(text) {
            Some(192 | 193 | 194 | 516) => Some(ServerFault::Credentials),
            Some(497) => Some(ServerFault::Rights(shortened(text))),
            Some(_) => None,
            None => Some(ServerFault::NotClickHouse(format!("it answers {:?}", shortened(text)))),
        },
        Error::Network(source) => {
            let chain = ErrorChain(source.as_ref()).to_string();
            let of_tls = ["invalid peer certificate", "received fatal alert", "received corrupt message"];
            of_tls.iter().any(|words| chain.contains(words)).then_some(ServerFault::Certificate(chain))
        }
        Error::TimedOut => None,
        other => Some(ServerFault::NotClickHouse(format!("its answer does not parse: {other}"))),
    };
    match fault {
        Some(fault) => ClientError::Server(fault),
        None => ClientError::Unreachable(error),
    }
}

fn code(text: &str) -> Option<u32> {
    text.strip_prefix("Code: ")?.split('.').next()?.parse().ok()
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Connects, unless too many connections failed lately: a server in trouble is not asked all the time.
#[derive(Clone)]
struct Guarded {
    connector: HttpsConnector<HttpConnector>,
    gate: Arc<Mutex<Gate>>,
}

type Connected = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Guarded {
    type Response = Connected;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connected, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let gate = self.gate.clone();
        let lock = move || gate.lock().unwrap_or_else(PoisonError::into_inner).begin(Instant::now());
        if let Err(resting) = lock() {
            return Box::pin(async { Err(resting.into()) });
        }
        let (gate, connecting) = (self.gate.clone(), self.connector.call(uri));
        Box::pin(async move {
            let outcome = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            let outcome = outcome.unwrap_or_else(|_| Err("connecting took too long".into()));
            let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
            match &outcome {
                Ok(_) => gate.succeeded(Instant::now()),
                Err(error) => {
                    let cause = error.source().map(ToString::to_string);
                    gate.failed(Instant::now(), rand::random(), cause.unwrap_or_else(|| error.to_string()));
                }
            }
            outcome
        })
    }
}

/// The breaker with its clock.
struct Gate {
    breaker: Breaker,
    not_before: Option<Instant>,
    connected_at: Option<Instant>,
    last_error: String,
}

/// No connection is tried for now.
#[derive(Debug, thiserror::Error)]
#[error(
    "clickhouse could not be reached {failures} times in a row and is left alone for {seconds} s more: {last_error}"
)]
struct Resting {
    failures: u32,
    seconds: u64,
    last_error: String,
}

impl Gate {
    const fn new() -> Self {
        Self {
            breaker: Breaker::new(POLICY),
            not_before: None,
            connected_at: None,
            last_error: String::new(),
        }
    }

    fn begin(&mut self, now: Instant) -> Result<(), Resting> {
        if let Some(until) = self.not_before.filter(|until| now < *until) {
            let seconds = until.duration_since(now).as_secs();
            let last_error = self.last_error.clone();
            return Err(Resting { failures: self.breaker.failures(), seconds, last_error });
        }
        self.breaker.attempt();
        if self.breaker.state() == State::HalfOpen {
            // Others wait for what becomes of this one.
            self.not_before = Some(now + CONNECT_TIMEOUT);
        }
        Ok(())
    }

    fn succeeded(&mut self, now: Instant) {
        if self.breaker.state() != State::Closed {
            tracing::info!("clickhouse can be reached again");
        }
        self.breaker.succeeded();
        (self.not_before, self.connected_at) = (None, Some(now));
    }

    fn failed(&mut self, now: Instant, draw: f64, error: String) {
        let lasted = self.connected_at.take().map_or(Duration::ZERO, |at| now.duration_since(at));
        let was_open = self.breaker.state() != State::Closed;
        let pause = self.breaker.failed(lasted, draw);
        if self.breaker.state() == State::Open {
            if !was_open {
                tracing::warn!(error, "clickhouse can't be reached, tries become rare");
            }
            self.not_before = Some(now + pause);
        }
        self.last_error = error;
    }
}

#[cfg(test)]
mod tests {
    use clickhouse::error::Error;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_server_is_said_in_words() {
        let said = |error| ErrorChain(&judge(error)).to_string();
        let bad = |text: &str| said(Error::BadResponse(text.to_owned()));
        assert!(
            bad("Code: 516. DB::Exception: default: Authentication failed")
                .contains("clickhouse.password-file")
        );
        assert!(
            bad("Code: 497. DB::Exception: etcdmon: Not enough privileges")
                .contains("does not let this user")
        );
        assert!(
            bad("<html>nginx</html>").contains("not the HTTP interface of a ClickHouse: it answers \"<html>")
        );
        assert!(bad("Code: 210. DB::Exception: busy").contains("does not answer"));
        assert!(said(Error::NotEnoughData).contains("not the HTTP interface"));
        assert!(
            said(Error::Network("invalid peer certificate: UnknownIssuer".into()))
                .contains("clickhouse.ca-file")
        );
        assert!(said(Error::Network("connection refused".into())).contains("does not answer"));
        assert!(judge_version("26.7.2.1").is_ok() && judge_version("24.8.1.1").is_ok());
        assert!(judge_version("23.12.1").unwrap_err().to_string().contains("24.8 or later"));
        assert!(matches!(judge_version("banana"), Err(ServerFault::NotClickHouse(_))));
    }

    #[test]
    fn a_server_in_trouble_is_left_alone_and_tried_by_one() {
        let (mut gate, mut now) = (Gate::new(), Instant::now());
        for _ in 0..5 {
            gate.begin(now).unwrap();
            gate.failed(now, 1.0, "refused".to_owned());
        }
        let said = gate.begin(now).unwrap_err().to_string();
        assert!(said.contains("left alone") && said.contains("refused"), "{said}");
        now += Duration::from_secs(61);
        gate.begin(now).unwrap();
        assert!(gate.begin(now).is_err(), "one at a time");
        gate.succeeded(now);
        gate.begin(now).unwrap();
    }
}
