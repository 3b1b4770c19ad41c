//! How the agent reaches an aggregator: addresses, proxies, TLS, certificates.
//!
//! A [`Connector`] is all that the senders know of it: they ask for a client and get one, or the reason why not. A
//! certificate that was refused on either side is a reason of its own ([`Refusal`]): it stays on the agent's `/readyz`
//! until a connection stands, because waiting does not mend it.

use std::sync::Arc;
use std::time::Duration;

use etcdmon_proto::{MAX_MESSAGE_BYTES, v1};
use hyper::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::config::AggregatorConfig;

pub mod certificate;
pub mod proxy;
pub mod tls;

pub use certificate::Refusal;
use proxy::{Environment, Proxies};
use tls::{Client as TlsClient, IdentityFiles, Trust};

/// Time for a connection; the answer to Hello has the same time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A dead peer is noticed after about twice this time.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How long the aggregator's first word is waited for. In TLS 1.3 a client has finished its part before the server looks
/// at its certificate: a refusal comes in place of that word.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A TLS file.
    #[error("read {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The content of a TLS file.
    #[error("{path} can't be used: {what}")]
    Content {
        /// Which.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// TLS files that don't go together.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
    /// The address is none.
    #[error("{0} is no address of an aggregator")]
    Url(String),
    /// Nobody there.
    #[error("connect to aggregator")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The proxy is not there, or does not let us through.
    #[error("connect to aggregator through proxy {proxy}")]
    Proxy {
        /// Its address.
        proxy: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody answers in time.
    #[error("connect to aggregator: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    /// A certificate is not accepted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The TLS handshake.
    #[error("TLS handshake with aggregator")]
    Handshake(#[source] std::io::Error),
    /// There is no certificate yet.
    #[error("this agent is not enrolled yet")]
    NotEnrolled,
    /// HTTP/2.
    #[error("connect to aggregator")]
    Transport(#[source] tonic::transport::Error),
}

/// A connection that speaks of streams.
pub type Client = v1::ingest_client::IngestClient<Channel>;

/// What is wrong with a certificate on this way, and how long it has been; shared with `/readyz` and enrolment.
#[derive(Debug, Clone)]
pub struct Faults(watch::Sender<Option<Refusal>>);

impl Default for Faults {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Faults {
    /// The present one.
    pub fn current(&self) -> Option<Refusal> {
        self.0.borrow().clone()
    }

    /// Told with every change.
    pub fn changes(&self) -> watch::Receiver<Option<Refusal>> {
        self.0.subscribe()
    }

    /// A certificate is expected to be good again.
    pub fn clear(&self) {
        self.note(None);
    }

    /// Something is wrong that only a person mends.
    pub fn set(&self, fault: Refusal) {
        self.note(Some(&fault));
    }

    fn note(&self, fault: Option<&Refusal>) {
        self.0.send_if_modified(|known| {
            let changed = known.as_ref() != fault;
            if changed {
                *known = fault.cloned();
            }
            changed
        });
    }
}

/// With what an agent shows who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// With nothing.
    #[default]
    None,
    /// With files that somebody else keeps.
    Given(IdentityFiles),
    /// With what enrolment has left here; until then there is no connection.
    Enrolled(IdentityFiles),
}

/// Makes connections to one aggregator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    url: String,
    /// The settings say https: nobody may redirect to less.
    secure: bool,
    trust: Trust,
    credentials: Credentials,
    proxies: Proxies,
    faults: Faults,
}

impl Connector {
    /// To the aggregator of the settings, without enrolment.
    pub fn new(config: &AggregatorConfig) -> Self {
        let files = &config.tls;
        let credentials = match (&files.cert, &files.key) {
            (Some(certificate), Some(key)) => {
                Credentials::Given(IdentityFiles { certificate: certificate.clone(), key: key.clone() })
            }
            _ => Credentials::None,
        };
        let trust = files.ca.clone().map_or(Trust::Web, Trust::File);
        let environment = Environment::read(|name| std::env::var(name).ok());
        let proxies = Proxies::new(config.proxy.as_ref(), &environment);
        let (url, secure) = (config.url.clone(), config.url.starts_with("https:"));
        let faults = Faults::default();
        Self { inner: Arc::new(Inner { url, secure, trust, credentials, proxies, faults }) }
    }

    /// The same way with other credentials, another trust, and faults of its own.
    #[must_use]
    pub fn with(&self, credentials: Credentials, trust: Trust) -> Self {
        let faults = Faults::default();
        Self { inner: Arc::new(Inner { credentials, trust, faults, ..(*self.inner).clone() }) }
    }

    /// The aggregator's address.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.inner.trust
    }

    /// What is wrong with a certificate.
    pub fn faults(&self) -> Faults {
        self.inner.faults.clone()
    }

    /// The same credentials for another aggregator.
    #[must_use]
    pub fn to(&self, url: &str) -> Self {
        Self { inner: Arc::new(Inner { url: url.to_owned(), ..(*self.inner).clone() }) }
    }

    /// Connects. TLS files are read each time, so renewed certificates are picked up.
    ///
    /// # Errors
    /// When a file can't be read, nobody listens, or either side refuses the other.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        Ok(Client::new(self.channel().await?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Connects, for any service. The connection is not made anew when it breaks.
    ///
    /// # Errors
    /// As [`Connector::client`].
    pub async fn channel(&self) -> Result<Channel, ConnectError> {
        let uri: Uri = self.inner.url.parse().map_err(|_| ConnectError::Url(self.inner.url.clone()))?;
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.stream(&uri)).await;
        let connected = connected.unwrap_or(Err(ConnectError::Timeout));
        match &connected {
            Ok(_) => self.inner.faults.note(None),
            Err(ConnectError::Refused(refusal)) => self.inner.faults.note(Some(refusal)),
            // Says nothing about certificates.
            Err(_) => {}
        }
        let mut stream = Some(TokioIo::new(connected?));
        // tonic refuses https without TLS settings of its own; the handshake is done already.
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(ConnectError::Transport)?
            .origin(uri)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        });
        endpoint.connect_with_connector(once).await.map_err(ConnectError::Transport)
    }

    async fn stream(&self, uri: &Uri) -> Result<Box<dyn Io>, ConnectError> {
        let plain = uri.scheme_str() != Some("https");
        if plain && self.inner.secure {
            return Err(ConnectError::Url(format!("{uri} (the settings say https)")));
        }
        let tls = if plain { None } else { Some(self.tls()?) };
        let tcp = self.inner.proxies.connect(uri).await?.into_inner();
        let Some(tls) = tls else { return Ok(Box::new(tcp)) };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Url(uri.to_string()))?;
        let explained = |error: std::io::Error| {
            let refusal = Refusal::explain(&error, tls.own, OffsetDateTime::now_utc());
            refusal.map_or(ConnectError::Handshake(error), ConnectError::Refused)
        };
        let shaken = TlsConnector::from(Arc::clone(&tls.config)).connect(name, tcp).await;
        let mut stream = BufReader::new(shaken.map_err(explained)?);
        if tls.own.is_some()
            && let Ok(Err(error)) = tokio::time::timeout(FIRST_WORD, stream.fill_buf()).await
        {
            return Err(explained(error));
        }
        Ok(Box::new(stream))
    }

    fn tls(&self) -> Result<TlsClient, ConnectError> {
        match &self.inner.credentials {
            Credentials::None => TlsClient::read(&self.inner.trust, None),
            Credentials::Given(files) => TlsClient::read(&self.inner.trust, Some(files)),
            Credentials::Enrolled(files) if !files.certificate.exists() => Err(ConnectError::NotEnrolled),
            Credentials::Enrolled(files) => TlsClient::read(&self.inner.trust, Some(files)),
        }
    }
}

/// Bytes in both directions.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
