//! The aggregator's certificate where it makes that itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use etcdmon_service::logging::ErrorChain;

use super::TlsError;
use super::identity::{Identity, Presented};
use crate::enrol::{Authority, AuthorityError};

/// Most addresses in the certificate.
const MOST_ADDRESSES: usize = 64;

/// A certificate that always is for the address at which it is asked for: a host may have many, and get new ones. Cheap
/// to clone.
#[derive(Debug, Clone)]
pub struct OwnCertificate {
    authority: Authority,
    names: Arc<[String]>,
    addresses: Arc<Mutex<BTreeSet<IpAddr>>>,
    identity: Identity,
}

/// Why it can't be made.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The authority did not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// rustls does not take it.
    #[error("use the aggregator's own certificate")]
    Unusable(#[source] rustls::Error),
}

impl OwnCertificate {
    /// Makes one for these names and addresses.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn new(
        authority: Authority,
        names: Vec<String>,
        addresses: BTreeSet<IpAddr>,
    ) -> Result<Self, OwnError> {
        let presented = make(&authority, &names, &addresses)?;
        let addresses = Arc::new(Mutex::new(addresses));
        Ok(Self { authority, names: names.into(), addresses, identity: Identity::new(presented) })
    }

    /// What the port presents.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Makes sure that it is for this address of the host too.
    pub fn cover(&self, address: IpAddr) {
        let address = address.to_canonical();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() < MOST_ADDRESSES && addresses.insert(address) {
            self.replace(&addresses);
        }
    }

    /// Makes it anew, with a new life.
    pub fn renew(&self) {
        self.replace(&self.addresses.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn replace(&self, addresses: &BTreeSet<IpAddr>) {
        match make(&self.authority, &self.names, addresses) {
            Ok(presented) => self.identity.replace(presented),
            Err(error) => tracing::error!(error = %ErrorChain(&error), "the old certificate stays in force"),
        }
    }
}

fn make(
    authority: &Authority,
    names: &[String],
    addresses: &BTreeSet<IpAddr>,
) -> Result<Presented, OwnError> {
    let addresses: Vec<IpAddr> = addresses.iter().copied().collect();
    let (chain, key) = authority.server_certificate(names, &addresses, Utc::now())?;
    Presented::new(chain, key).map_err(OwnError::Unusable)
}

impl From<OwnError> for TlsError {
    fn from(error: OwnError) -> Self {
        Self::Own(Box::new(error))
    }
}
