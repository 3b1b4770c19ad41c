//! Where a local member answers, and how to talk to it.
//!
//! Only addresses that the process itself listens on are used, so no other member is ever asked. Certificates come
//! from the settings, else from etcd's own flags: its server certificate or its peer certificate often serves as a
//! client's as well (kubeadm's do).

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper::Uri;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::discover::{EtcdProcess, TlsFiles};

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
        let host = match host {
            "0.0.0.0" | "" => "127.0.0.1",
            "::" => "::1",
            other => other,
        };
        Some(Self { host: host.to_owned(), port: uri.port_u16()?, tls })
    }

    /// Where a member's metrics are: the metrics URLs, else the client URLs.
    ///
    /// # Errors
    /// When no URL can be used.
    pub fn of_metrics(process: &EtcdProcess) -> Result<Self, EndpointError> {
        let own = Self::best(process, &process.listen_metrics_urls, &[]);
        own.map_or_else(|| Self::of_client(process), Ok)
    }

    /// Where a member serves clients.
    ///
    /// # Errors
    /// When no URL can be used.
    pub fn of_client(process: &EtcdProcess) -> Result<Self, EndpointError> {
        Self::best(process, &process.listen_client_urls, &process.advertise_client_urls)
            .ok_or_else(|| EndpointError::NoUrl(process.listen_client_urls.clone()))
    }

    /// Loopback first, since it needs no network; in another network namespace only what is advertised can be reached.
    fn best(process: &EtcdProcess, listen: &[String], advertise: &[String]) -> Option<Self> {
        let usable = |urls: &[String]| urls.iter().filter_map(|url| Self::parse(url)).collect::<Vec<_>>();
        let mut candidates = if process.shares_network { usable(listen) } else { Vec::new() };
        if candidates.is_empty() {
            candidates = usable(advertise);
        }
        if candidates.is_empty() {
            candidates = usable(listen);
        }
        let local = candidates.iter().position(|one| one.host == "127.0.0.1" || one.host == "localhost");
        (!candidates.is_empty()).then(|| candidates.swap_remove(local.unwrap_or(0)))
    }
}

/// Certificates to try in turn: those of the settings, else etcd's own.
pub fn identities(process: &EtcdProcess, configured: &TlsFiles) -> Vec<TlsFiles> {
    let ca = configured.ca.clone().or_else(|| process.client_tls.ca.clone());
    let with_ca = |files: &TlsFiles| TlsFiles { ca: ca.clone(), ..files.clone() };
    if configured.cert.is_some() {
        return vec![with_ca(configured)];
    }
    let mut found = Vec::new();
    for files in [&process.client_tls, &process.peer_tls] {
        if files.cert.is_some() && files.key.is_some() {
            found.push(with_ca(files));
        }
    }
    if found.is_empty() {
        found.push(TlsFiles { ca, ..TlsFiles::default() });
    }
    found
}

/// TLS settings from files. Without an authority etcd's own certificate is the only one trusted (`--auto-tls`).
///
/// # Errors
/// When a file does not read or the certificates don't fit together.
pub fn tls_config(files: &TlsFiles, protocol: &[u8]) -> Result<ClientConfig, EndpointError> {
    let mut roots = RootCertStore::empty();
    for path in files.ca.iter().chain(files.cert.iter().filter(|_| files.ca.is_none())) {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(EndpointError::Tls)?;
        }
    }
    let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
        .build()
        .map_err(|error| EndpointError::Tls(rustls::Error::General(error.to_string())))?;
    let builder = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LocalVerifier(verifier)));
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(EndpointError::Tls)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: rustls_pki_types::pem::Error) -> EndpointError {
    EndpointError::File { path: path.display().to_string(), source: io::Error::other(error) }
}

/// A stream to etcd, plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a member.
///
/// # Errors
/// When the connection or the TLS handshake fails.
pub async fn connect(
    endpoint: &Endpoint,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Stream>, EndpointError> {
    let failed = |source: io::Error| EndpointError::Connect { address: endpoint.to_string(), source };
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let name =
        ServerName::try_from(endpoint.host.clone()).map_err(|error| failed(io::Error::other(error)))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(failed)?;
    Ok(Box::new(stream))
}

/// Checks the chain as usual but not the name: the address is one that the process itself was found to listen on, and
/// etcd's certificates often name only the address that is advertised, not loopback.
#[derive(Debug)]
struct LocalVerifier(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for LocalVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name is checked last, so an error about it says that the chain is good.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
