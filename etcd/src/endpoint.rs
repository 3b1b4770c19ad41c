//! Where a member answers, and the way there.

use std::fmt;
use std::io;
use std::sync::Arc;

use hyper::Uri;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why a member could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// None of the process's URLs can be used.
    #[error("no usable URL among {0:?}")]
    NoUrl(Vec<String>),
    /// A certificate or key does not read.
    #[error("read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Certificates that don't fit together.
    #[error("certificates for etcd")]
    Tls(#[source] rustls::Error),
    /// No connection.
    #[error("connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One address of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host, an address where the URL had a wildcard.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.authority())
    }
}

impl Endpoint {
    /// `host:port`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// From a URL in etcd's flags. `None` for what is not http(s) over TCP.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']);
        Some(Self { host: host.to_owned(), port: uri.port_u16()?, tls })
    }

    /// From a URL that a process of this host listens on: a wildcard becomes loopback.
    pub fn parse_listened(url: &str) -> Option<Self> {
        let mut endpoint = Self::parse(url)?;
        match endpoint.host.as_str() {
            "0.0.0.0" | "" => endpoint.host = "127.0.0.1".to_owned(),
            "::" => endpoint.host = "::1".to_owned(),
            _ => {}
        }
        Some(endpoint)
    }

    /// Whether the host stands for every address of its own machine, and so for none from elsewhere.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }
}

/// A stream to etcd, plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a member. `reached` is called once its host has accepted the connection: what goes wrong or takes for ever
/// after that is not the network's fault.
///
/// # Errors
/// When the connection or the TLS handshake fails.
pub async fn connect(
    endpoint: &Endpoint,
    tls: Option<Arc<ClientConfig>>,
    reached: impl FnOnce(),
) -> Result<Box<dyn Stream>, EndpointError> {
    let failed = |source: io::Error| EndpointError::Connect { address: endpoint.to_string(), source };
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    reached();
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let name =
        ServerName::try_from(endpoint.host.clone()).map_err(|error| failed(io::Error::other(error)))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(failed)?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(endpoint: Option<Endpoint>) -> String {
        endpoint.map_or_else(|| "none".to_owned(), |endpoint| endpoint.to_string())
    }

    #[test]
    fn urls_of_etcd_become_endpoints_and_others_do_not() {
        assert_eq!(shown(Endpoint::parse("https://etcd-1.example:2379")), "https://etcd-1.example:2379");
        assert_eq!(shown(Endpoint::parse("http://[::1]:2379")), "http://[::1]:2379");
        for odd in ["unix://localhost:m1", "http://nothing", "%%%", "", "ftp://a:1"] {
            assert_eq!(Endpoint::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_wildcard_is_loopback_only_for_who_runs_on_the_same_host() {
        assert_eq!(shown(Endpoint::parse_listened("http://0.0.0.0:2379")), "http://127.0.0.1:2379");
        assert_eq!(shown(Endpoint::parse_listened("http://[::]:2379")), "http://[::1]:2379");
        assert!(Endpoint::parse("http://0.0.0.0:2379").expect("an endpoint").is_wildcard());
        assert!(!Endpoint::parse("http://10.0.0.1:2379").expect("an endpoint").is_wildcard());
    }
}
