//! Agents' certificates, checked during the handshake: who signed, whether it is its time, whether it was revoked.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use chrono::Utc;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::AgentCertificate;
use super::identity::provider;
use crate::enrol::Standing;

/// Checks agents' certificates. A certificate that is not shown is for the services to miss: enrolment needs none.
#[derive(Debug)]
pub struct AgentVerifier {
    signed: ArcSwap<Signed>,
    standing: Standing,
    refused: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Signed(Arc<dyn ClientCertVerifier>);

impl AgentVerifier {
    /// With the authorities of the moment. `refused` counts.
    ///
    /// # Errors
    /// When there is no authority.
    pub fn new(roots: RootCertStore, standing: Standing, refused: Arc<AtomicU64>) -> Result<Self, Error> {
        Ok(Self { signed: ArcSwap::from_pointee(signed(roots)?), standing, refused })
    }

    /// Trusts these authorities from now on.
    ///
    /// # Errors
    /// When there is none.
    pub fn trust(&self, roots: RootCertStore) -> Result<(), Error> {
        self.signed.store(Arc::new(signed(roots)?));
        Ok(())
    }

    fn refuse(&self, end_entity: &CertificateDer<'_>, error: &Error) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let facts = AgentCertificate::parse(end_entity);
        let agent = facts.as_ref().and_then(|facts| facts.agent).map(|agent| agent.to_string());
        let serial = facts.as_ref().map(|facts| facts.serial.as_str());
        let reason = reason(error, facts.as_ref());
        tracing::warn!(agent, serial, reason, "an agent's certificate was refused");
    }
}

fn signed(roots: RootCertStore) -> Result<Signed, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    Ok(Signed(verifier))
}

/// Words for what is wrong with a certificate.
fn reason(error: &Error, facts: Option<&AgentCertificate>) -> String {
    let Error::InvalidCertificate(error) = error else { return error.to_string() };
    match (error, facts) {
        (CertificateError::Revoked, _) => "revoked".to_owned(),
        (CertificateError::Expired | CertificateError::ExpiredContext { .. }, Some(facts)) => {
            format!("expired on {}", facts.not_after)
        }
        (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }, Some(facts)) => {
            format!("not valid before {}", facts.not_before)
        }
        (CertificateError::UnknownIssuer | CertificateError::BadSignature, _) => {
            "signed by another authority".to_owned()
        }
        (other, _) => other.to_string(),
    }
}

impl ClientCertVerifier for AgentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the authorities may change while a client still holds the hints.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.signed.load().0.verify_client_cert(end_entity, intermediates, now);
        let judged = verified.and_then(|verified| {
            let facts = AgentCertificate::parse(end_entity)
                .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
            match self.standing.revocation(&facts, Utc::now()) {
                Some(_why) => Err(Error::InvalidCertificate(CertificateError::Revoked)),
                None => Ok(verified),
            }
        });
        judged.inspect_err(|error| self.refuse(end_entity, error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.load().0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.load().0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.load().0.supported_verify_schemes()
    }
}
