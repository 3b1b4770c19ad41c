//! How the agent reaches an aggregator: addresses, TLS, certificates.
//!
//! A [`Connector`] is all that the senders know of it: they ask for a client and get one, or the reason why not.

use std::path::Path;
use std::time::Duration;

use etcdmon_proto::{MAX_MESSAGE_BYTES, v1};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::config::AggregatorConfig;

/// Time for a connection; the answer to Hello has the same time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A dead peer is noticed after about twice this time.
const KEEPALIVE: Duration = Duration::from_secs(5);

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
    /// The address, the network or the handshake.
    #[error("connect to aggregator")]
    Transport(#[source] tonic::transport::Error),
}

/// A connection that speaks of streams.
pub type Client = v1::ingest_client::IngestClient<Channel>;

/// Makes connections to one aggregator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    config: AggregatorConfig,
}

impl Connector {
    /// To the aggregator of the settings.
    pub const fn new(config: AggregatorConfig) -> Self {
        Self { config }
    }

    /// The aggregator's address.
    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// The same credentials for another aggregator.
    #[must_use]
    pub fn to(&self, url: &str) -> Self {
        Self { config: AggregatorConfig { url: url.to_owned(), ..self.config.clone() } }
    }

    /// Connects. TLS files are read each time, so renewed certificates are picked up.
    ///
    /// # Errors
    /// When a file can't be read, nobody listens, or either side refuses the other.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        let mut endpoint = Endpoint::from_shared(self.config.url.clone())
            .map_err(ConnectError::Transport)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        if self.config.url.starts_with("https:") {
            endpoint = endpoint.tls_config(tls(&self.config)?).map_err(ConnectError::Transport)?;
        }
        let channel = endpoint.connect().await.map_err(ConnectError::Transport)?;
        Ok(Client::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }
}

fn tls(config: &AggregatorConfig) -> Result<ClientTlsConfig, ConnectError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ConnectError::File { path: path.display().to_string(), source })
    };
    let mut tls = match &config.tls.ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    if let (Some(cert), Some(key)) = (&config.tls.cert, &config.tls.key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}
