//! TLS of both ports: certificates that are read again when their files change, and agents' certificates checked.
//!
//! A handshake gets what is in force when it begins; connections that stand go on. A new file that can't be used is
//! counted and told, and what was in force before stays so. Sessions are never resumed: a resumed handshake would skip
//! the check of the certificate, and with it a revocation.

use std::io;
use std::path::PathBuf;

mod certificate;
mod identity;
mod own;
mod port;
mod verify;
mod watch;

pub use certificate::{AgentCertificate, agent_urn, pin};
pub use identity::{Identity, Presented, add_authorities, provider, read_key_pair, server_config};
pub use own::{OwnCertificate, OwnError};
pub use port::{Ports, PrepareError, prepare};
pub use verify::AgentVerifier;
pub use watch::{Gauges, Reloading, Watched};

/// Why TLS files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or lacks what it must have.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key don't fit each other, or are of a kind that is not known here.
    #[error("{path} can't be used as a certificate with its key")]
    Unusable {
        /// The file of the certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The certificate that the aggregator makes itself.
    #[error(transparent)]
    Own(Box<OwnError>),
    /// rustls does not take the settings.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
    /// Authorities that can't be used.
    #[error("{path} holds a certificate that can't be an authority")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}
