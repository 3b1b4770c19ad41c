//! Certificates of every kind of right and wrong.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use time::{Duration, OffsetDateTime};

/// An authority of the test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    /// Its certificate.
    pub file: PathBuf,
}

/// Files of a certificate.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// With its files in `directory`.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let file = directory.join(format!("{name}.crt"));
        fs::write(&file, params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, directory: directory.to_owned(), file })
    }

    /// A server's certificate for these names or addresses, good for a day and `extra` seconds.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn server(&self, file: &str, names: &[&str], extra: i64) -> Result<Pair> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params, -60, 86_400 + extra)
    }

    /// A client's certificate with this URI, good from and to so many seconds from now.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn client(&self, file: &str, uri: &str, from: i64, to: i64) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, params, from, to)
    }

    fn sign(&self, file: &str, mut params: CertificateParams, from: i64, to: i64) -> Result<Pair> {
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::seconds(from);
        params.not_after = now + Duration::seconds(to);
        let key = KeyPair::generate()?;
        let pair = Pair {
            certificate: self.directory.join(format!("{file}.crt")),
            key: self.directory.join(format!("{file}.key")),
        };
        fs::write(&pair.certificate, params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }
}
