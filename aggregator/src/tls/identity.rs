//! What a port presents: a certificate with its key, and the rustls configuration around it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{AgentCertificate, TlsError};

/// A certificate with its key that can be exchanged while connections come and go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    current: Arc<ArcSwap<Presented>>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Presented {
    /// As rustls takes it.
    pub key: Arc<CertifiedKey>,
    /// End of its life; `None` when that could not be read.
    pub not_after: Option<DateTime<Utc>>,
}

impl Presented {
    /// From a chain and its key.
    ///
    /// # Errors
    /// When they don't fit each other.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let not_after =
            chain.first().and_then(|leaf| AgentCertificate::parse(leaf)).map(|leaf| leaf.not_after);
        let key = Arc::new(CertifiedKey::from_der(chain, key, &provider())?);
        Ok(Self { key, not_after })
    }

    /// From PEM files.
    ///
    /// # Errors
    /// When a file can't be read or used.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let (chain, key) = read_key_pair(certificate, key)?;
        Self::new(chain, key).map_err(|source| TlsError::Unusable { path: certificate.to_owned(), source })
    }
}

/// A certificate with what is between it and its authority, and its key.
pub type KeyPair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A certificate and its key from PEM files.
///
/// # Errors
/// When a file can't be read or is not PEM. Whether they fit each other is not looked at.
pub fn read_key_pair(certificate: &Path, key: &Path) -> Result<KeyPair, TlsError> {
    let chain = read_certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        rustls_pki_types::pem::Error::Io(source) => TlsError::Read { path: key.to_owned(), source },
        _ => TlsError::Pem { path: key.to_owned(), what: "private key" },
    })?;
    Ok((chain, private))
}

/// The certificates of a PEM file, at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::Pem { path: path.to_owned(), what: "certificate" };
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(none)
}

/// Adds the authorities of a PEM file.
///
/// # Errors
/// When it can't be read, or holds none.
pub fn add_authorities(store: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    for certificate in read_certificates(path)? {
        store.add(certificate).map_err(|source| TlsError::Authority { path: PathBuf::from(path), source })?;
    }
    Ok(())
}

impl Identity {
    /// Begins with this one.
    pub fn new(presented: Presented) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(presented)) }
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Presented> {
        self.current.load_full()
    }

    /// Puts another one in force.
    pub fn replace(&self, presented: Presented) {
        self.current.store(Arc::new(presented));
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

/// The one provider of the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's configuration without resumption of sessions.
///
/// # Errors
/// Never with the provider of this program; rustls checks it all the same.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
