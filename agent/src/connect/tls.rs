//! TLS towards the aggregator. Files are read with every connection, so renewed certificates are picked up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::ConnectError;
use super::certificate::{Validity, pin};

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authorities of the public web.
    Web,
    /// The authorities of a PEM file.
    File(PathBuf),
    /// The authorities of a PEM file that may come later; those of the public web until then.
    FileOrWeb(PathBuf),
    /// The one authority whose public key has this SHA-256, whichever certificate shows it.
    Pin(String),
}

/// A certificate with its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    /// The key; may be the same file.
    pub key: PathBuf,
}

/// Settings of a handshake, and the life of the certificate that is shown in it.
#[derive(Debug, Clone)]
pub struct Client {
    /// As rustls takes it.
    pub config: Arc<ClientConfig>,
    /// Of the certificate that is shown; `None` when none is.
    pub own: Option<Validity>,
}

impl Client {
    /// Reads the files.
    ///
    /// # Errors
    /// When one can't be read or used.
    pub fn read(trust: &Trust, identity: Option<&IdentityFiles>) -> Result<Self, ConnectError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(ConnectError::Setup)?;
        let file = match trust {
            Trust::File(path) => Some(path),
            Trust::FileOrWeb(path) => Some(path).filter(|path| path.exists()),
            Trust::Web | Trust::Pin(_) => None,
        };
        let builder = match (trust, file) {
            (_, Some(path)) => builder.with_root_certificates(authorities(path)?),
            (Trust::Pin(pin), None) => {
                let verifier = Arc::new(Pinned { pin: pin.clone(), provider });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
            (_, None) => {
                let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<RootCertStore>();
                builder.with_root_certificates(roots)
            }
        };
        let (mut config, own) = match identity {
            None => (builder.with_no_client_auth(), None),
            Some(files) => {
                let chain = certificates(&files.certificate)?;
                let own = chain.first().and_then(|leaf| Validity::of(leaf));
                let key = PrivateKeyDer::from_pem_file(&files.key)
                    .map_err(|error| unreadable(&files.key, error))?;
                (builder.with_client_auth_cert(chain, key).map_err(ConnectError::Setup)?, own)
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // What is shown must be looked at each time: a resumed session would hide that it was exchanged.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), own })
    }
}

fn unreadable(path: &Path, error: rustls_pki_types::pem::Error) -> ConnectError {
    let path = path.display().to_string();
    match error {
        rustls_pki_types::pem::Error::Io(source) => ConnectError::File { path, source },
        other => ConnectError::Content { path, what: other.to_string() },
    }
}

/// The certificates of a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let found = found.map_err(|error| unreadable(path, error))?;
    if found.is_empty() {
        let what = "no certificate in PEM form".to_owned();
        return Err(ConnectError::Content { path: path.display().to_string(), what });
    }
    Ok(found)
}

fn authorities(path: &Path) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(ConnectError::Setup)?;
    }
    Ok(roots)
}

/// Trusts the authority that a join token names: the aggregator must show its certificate along with its own.
#[derive(Debug)]
struct Pinned {
    pin: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|der| pin(der).as_deref() == Some(self.pin.as_str()));
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let mut roots = RootCertStore::empty();
        roots.add(authority.ok_or(refused)?.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
