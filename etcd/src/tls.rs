//! Certificates: which files, and whom they let us trust.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcdmon_service::foreign::{self, CERTIFICATE_BYTES};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::endpoint::{Endpoint, EndpointError};

/// Files for one of etcd's TLS sides, as this process can open them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: Option<PathBuf>,
    /// Private key.
    pub key: Option<PathBuf>,
    /// Authorities that sign the clients' certificates; by convention also etcd's own.
    pub ca: Option<PathBuf>,
}

/// Which name a server's certificate must have.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Names {
    /// That of the address.
    #[default]
    Address,
    /// This one, for addresses that the certificate does not name, such as a tunnel's.
    As(ServerName<'static>),
    /// None in particular. Only for an address that is known to be the member's own, such as one that its process was
    /// found to listen on: etcd's certificates often name only the address that is advertised, not loopback.
    Any,
}

/// With what and how a member is talked to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Access {
    /// Certificates to try in turn.
    pub identities: Vec<TlsFiles>,
    /// Whom to trust.
    pub names: Names,
}

impl Access {
    /// TLS settings of the attempt with this number; read anew each time, so renewed certificates are picked up.
    ///
    /// # Errors
    /// When a file does not read.
    pub fn for_attempt(
        &self,
        endpoint: &Endpoint,
        attempt: usize,
        protocol: &[u8],
    ) -> Result<Option<Arc<ClientConfig>>, EndpointError> {
        if !endpoint.tls {
            return Ok(None);
        }
        let none = TlsFiles::default();
        let tried = attempt % self.identities.len().max(1);
        let files = self.identities.get(tried).unwrap_or(&none);
        Ok(Some(Arc::new(tls_config(files, &self.names, protocol)?)))
    }
}

/// TLS settings from files. Without an authority etcd's own certificate is the only one trusted (`--auto-tls`).
///
/// # Errors
/// When a file does not read or the certificates don't fit together.
pub fn tls_config(files: &TlsFiles, names: &Names, protocol: &[u8]) -> Result<ClientConfig, EndpointError> {
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
        .with_custom_certificate_verifier(Arc::new(Verifier { chain: verifier, names: names.clone() }));
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(EndpointError::Tls)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(path, error))
}

/// The path may be the word of a process that only calls itself etcd.
fn read(path: &Path) -> Result<Vec<u8>, EndpointError> {
    foreign::read(path, CERTIFICATE_BYTES)
        .map_err(|error| EndpointError::File { path: path.display().to_string(), source: error.into() })
}

fn unreadable(path: &Path, error: rustls_pki_types::pem::Error) -> EndpointError {
    EndpointError::File { path: path.display().to_string(), source: io::Error::other(error) }
}

/// Checks the chain as usual, and the name as [`Names`] says.
#[derive(Debug)]
struct Verifier {
    chain: Arc<WebPkiServerVerifier>,
    names: Names,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = match &self.names {
            Names::As(name) => name,
            Names::Address | Names::Any => server_name,
        };
        // The name is checked last, so an error about it says that the chain is good.
        match self.chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.names == Names::Any => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
