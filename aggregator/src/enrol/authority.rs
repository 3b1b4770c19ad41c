//! The aggregator's own small authority. ECDSA P-256; its key never leaves the state directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PublicKey, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::token::hex;
use crate::tls::{AgentCertificate, agent_urn, pin};

/// File of the authority's key.
const KEY_FILE: &str = "enrolment-ca.key";

/// File of its certificate. Further certificates in it are trusted, and told to agents, but sign nothing.
const CERTIFICATE_FILE: &str = "enrolment-ca.crt";

/// How long an authority lives.
const AUTHORITY_LIFE: Duration = Duration::from_hours(10 * 365 * 24);

/// How long the aggregator's own certificate lives; it is made anew with every start and every [`SERVER_RENEWAL`].
const SERVER_LIFE: Duration = Duration::from_hours(90 * 24);

/// When a running aggregator makes itself a new one.
pub const SERVER_RENEWAL: Duration = Duration::from_hours(30 * 24);

/// Certificates begin so much earlier, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// Largest request for a certificate that is looked at, in bytes.
const LARGEST_REQUEST: usize = 4 << 10;

/// Why the authority can't be had, or can't sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// One of its files.
    #[error("{attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content of one of its files.
    #[error("{path} does not hold what it must: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A certificate that could not be made.
    #[error("sign a certificate")]
    Sign(#[source] rcgen::Error),
    /// A request that can't be granted.
    #[error("the request for a certificate is not one: {0}")]
    Request(String),
}

/// The authority. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    trusted: Vec<CertificateDer<'static>>,
    pin: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Authority").field("pin", &self.inner.pin).finish_non_exhaustive()
    }
}

/// A public key from a request, and what names it.
#[derive(Debug)]
pub struct RequestedKey {
    key: PublicKey,
    /// SHA-256 of it, as hexadecimal digits.
    pub digest: String,
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// What it says.
    pub facts: AgentCertificate,
}

impl Authority {
    /// Reads the authority from the state directory, or makes one.
    ///
    /// # Errors
    /// When its files can't be read, written or used.
    pub fn open(directory: &Path, now: DateTime<Utc>) -> Result<Self, AuthorityError> {
        let (key_path, certificate_path) = (directory.join(KEY_FILE), directory.join(CERTIFICATE_FILE));
        if !key_path.exists() && !certificate_path.exists() {
            make(&key_path, &certificate_path, now)?;
        }
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| AuthorityError::File {
                attempt: "read",
                path: path.to_owned(),
                source,
            })
        };
        let content = |path: &Path, what: &dyn std::fmt::Display| AuthorityError::Content {
            path: path.to_owned(),
            what: what.to_string(),
        };
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|error| content(&key_path, &error))?;
        let text = read(&certificate_path)?;
        let trusted: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let trusted = trusted.map_err(|error| content(&certificate_path, &error))?;
        let first = trusted.first().ok_or_else(|| content(&certificate_path, &"no certificate"))?;
        let own = pin(first).ok_or_else(|| content(&certificate_path, &"not a certificate"))?;
        if own != hex(&Sha256::digest(key.subject_public_key_info())) {
            return Err(content(&certificate_path, &"the first certificate does not belong to the key"));
        }
        let issuer =
            Issuer::from_ca_cert_der(first, key).map_err(|error| content(&certificate_path, &error))?;
        Ok(Self { inner: Arc::new(Inner { issuer, trusted, pin: own }) })
    }

    /// SHA-256 of its public key: see [`pin`].
    pub fn pin(&self) -> &str {
        &self.inner.pin
    }

    /// The certificates that are to be trusted, its own first.
    pub fn trusted(&self) -> &[CertificateDer<'static>] {
        &self.inner.trusted
    }

    /// A certificate for an agent, good for a client only.
    ///
    /// # Errors
    /// When signing fails.
    pub fn agent_certificate(
        &self,
        agent: Uuid,
        key: &RequestedKey,
        now: DateTime<Utc>,
        life: Duration,
    ) -> Result<Signed, AuthorityError> {
        let mut params = leaf(&agent.to_string(), now, life, ExtendedKeyUsagePurpose::ClientAuth);
        let urn = agent_urn(agent).try_into().map_err(AuthorityError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(urn)];
        let certificate = params.signed_by(&key.key, &self.inner.issuer).map_err(AuthorityError::Sign)?;
        let der = certificate.der().clone();
        let facts = AgentCertificate::parse(&der)
            .ok_or_else(|| AuthorityError::Request("the key makes no readable certificate".to_owned()))?;
        Ok(Signed { der, facts })
    }

    /// A certificate of the aggregator's own for these names and addresses, with a new key that is nowhere on disk.
    ///
    /// # Errors
    /// When signing fails.
    pub fn server_certificate(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        now: DateTime<Utc>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let mut params =
            leaf("etcd-monitor aggregator", now, SERVER_LIFE, ExtendedKeyUsagePurpose::ServerAuth);
        let names = names.iter().filter_map(|name| name.as_str().try_into().ok().map(SanType::DnsName));
        params.subject_alt_names = names.chain(addresses.iter().copied().map(SanType::IpAddress)).collect();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let certificate = params.signed_by(&key, &self.inner.issuer).map_err(AuthorityError::Sign)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.inner.trusted.first().cloned());
        Ok((chain, key.into()))
    }
}

/// Checks a request for a certificate (PKCS #10, DER): its signature proves that the asker has the key.
///
/// # Errors
/// When it is too large, does not parse, is not signed by its own key, or has a kind of key that is not wanted.
pub fn requested_key(request: &[u8]) -> Result<RequestedKey, AuthorityError> {
    if request.len() > LARGEST_REQUEST {
        return Err(AuthorityError::Request(format!("it has more than {LARGEST_REQUEST} bytes")));
    }
    let parsed = CertificateSigningRequestParams::from_der(&request.into())
        .map_err(|error| AuthorityError::Request(error.to_string()))?;
    let key = parsed.public_key;
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&key.algorithm()) {
        return Err(AuthorityError::Request("its key is none of ECDSA P-256, P-384 and Ed25519".to_owned()));
    }
    let digest = hex(&Sha256::digest(key.der_bytes()));
    Ok(RequestedKey { key, digest })
}

fn moment(time: DateTime<Utc>) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.timestamp()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn leaf(name: &str, now: DateTime<Utc>, life: Duration, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(now - BACKDATED);
    params.not_after = moment(now + life);
    params.serial_number = Some(serial());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

/// 128 random bits, positive and without leading zeros.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn make(key_path: &Path, certificate_path: &Path, now: DateTime<Utc>) -> Result<(), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // A name of its own: a certificate of another installation is then told apart by its issuer already.
    let name = format!("etcd-monitor enrolment {}", hex(&rand::random::<[u8; 4]>()));
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(now - BACKDATED);
    params.not_after = moment(now + AUTHORITY_LIFE);
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?;
    // The certificate first: with it alone the next start says what is missing instead of making another authority.
    write(certificate_path, &certificate.pem(), 0o644)?;
    write(key_path, &key.serialize_pem(), 0o600)?;
    tracing::info!(certificate = %certificate_path.display(), "made an authority for agents' certificates");
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let written = || -> io::Result<()> {
        // A file left by a crash may have other rights.
        let _absent = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    written().map_err(|source| AuthorityError::File { attempt: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn request() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn it_stays_the_same_and_its_key_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let made = Authority::open(directory.path(), now()).unwrap();
        let again = Authority::open(directory.path(), now()).unwrap();
        assert_eq!((made.pin(), made.trusted()), (again.pin(), again.trusted()));
        let mode = fs::metadata(directory.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
        let error = Authority::open(directory.path(), now()).unwrap_err();
        assert!(error.to_string().contains(KEY_FILE), "{error}");
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Authority::open(one.path(), now()).unwrap();
        Authority::open(two.path(), now()).unwrap();
        fs::copy(one.path().join(KEY_FILE), two.path().join(KEY_FILE)).unwrap();
        let error = Authority::open(two.path(), now()).unwrap_err();
        assert!(error.to_string().contains("does not belong to the key"), "{error}");
    }

    #[test]
    fn an_agents_certificate_names_it_and_lives_as_long_as_it_should() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path(), now()).unwrap();
        let agent = Uuid::from_u128(9);
        let key = requested_key(&request()).unwrap();
        let signed = authority.agent_certificate(agent, &key, now(), Duration::from_secs(60)).unwrap();
        assert_eq!(signed.facts.agent, Some(agent));
        assert_eq!((signed.facts.not_after - now()).num_seconds(), 60);
        assert!(signed.facts.not_before < now());
    }

    #[test]
    fn a_request_that_is_not_signed_by_its_key_is_refused() {
        let mut broken = request();
        let last = broken.len() - 1;
        broken[last] ^= 1;
        for bad in [broken, vec![0; LARGEST_REQUEST + 1], b"nonsense".to_vec(), Vec::new()] {
            assert!(matches!(requested_key(&bad), Err(AuthorityError::Request(_))), "{} bytes", bad.len());
        }
    }
}
