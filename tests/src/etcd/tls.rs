//! Certificates of a cluster: one authority, one certificate for servers and peers, one for clients.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Files of one authority and what it signed.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// Of servers and peers, for 127.0.0.1 and localhost.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// Of a client named `client`.
    pub client: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes all of it in a directory, which must exist.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn new(directory: &Path) -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name.push(DnType::CommonName, "lab authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = parameters.self_signed(&authority_key)?;
        let issuer = Issuer::new(parameters, authority_key);
        let files = Self {
            authority: directory.join("ca.crt"),
            server: directory.join("server.crt"),
            server_key: directory.join("server.key"),
            client: directory.join("client.crt"),
            client_key: directory.join("client.key"),
        };
        fs::write(&files.authority, authority.pem())?;
        sign(&issuer, "member", &files.server, &files.server_key)?;
        sign(&issuer, "client", &files.client, &files.client_key)?;
        Ok(files)
    }
}

fn sign(issuer: &Issuer<'_, KeyPair>, name: &str, certificate: &Path, key: &Path) -> Result<()> {
    let pair = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    // etcd uses its server certificate as a client too, towards itself.
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    fs::write(certificate, parameters.signed_by(&pair, issuer)?.pem())?;
    fs::write(key, pair.serialize_pem())?;
    Ok(())
}
