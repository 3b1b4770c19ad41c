//! What a certificate says.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What precedes an agent's id in the URI of its certificate.
const URN: &str = "urn:etcd-monitor:agent:";

/// The URI that names an agent in its certificate.
pub fn agent_urn(agent: Uuid) -> String {
    format!("{URN}{agent}")
}

/// An agent's certificate, as far as we look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCertificate {
    /// The agent that it names; `None` when it names none.
    pub agent: Option<Uuid>,
    /// Serial number, lower-case hexadecimal digits without leading zeros.
    pub serial: String,
    /// Valid from.
    pub not_before: DateTime<Utc>,
    /// Valid to.
    pub not_after: DateTime<Utc>,
}

impl AgentCertificate {
    /// Reads a certificate. `None` when it is none.
    ///
    /// The agent is named by the URI `urn:etcd-monitor:agent:UUID` among the alternative names, or by a common name that is
    /// a UUID.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_rest, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let time = |time: x509_parser::time::ASN1Time| DateTime::from_timestamp(time.timestamp(), 0);
        Some(Self {
            agent: named(&certificate),
            serial: format!("{:x}", certificate.tbs_certificate.serial),
            not_before: time(validity.not_before)?,
            not_after: time(validity.not_after)?,
        })
    }
}

fn named(certificate: &X509Certificate<'_>) -> Option<Uuid> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(URN),
        _ => None,
    });
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    uris.chain(common).find_map(|text| Uuid::try_parse(text).ok()).filter(|id| !id.is_nil())
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo, DER) as hexadecimal digits: what join tokens carry, and
/// what `openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum` prints. `None` when it is no certificate.
pub fn pin(der: &[u8]) -> Option<String> {
    let (_rest, certificate) = X509Certificate::from_der(der).ok()?;
    let digest = Sha256::digest(certificate.public_key().raw);
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> AgentCertificate {
        let mut params = CertificateParams::default();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        AgentCertificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn an_agent_is_named_by_its_uri_or_by_a_common_name() {
        let id = Uuid::from_u128(7);
        let by_uri = certificate(|params| {
            params.subject_alt_names = vec![SanType::URI(agent_urn(id).try_into().unwrap())];
        });
        let by_name =
            certificate(|params| params.distinguished_name.push(DnType::CommonName, id.to_string()));
        assert_eq!((by_uri.agent, by_name.agent), (Some(id), Some(id)));
    }

    #[test]
    fn other_names_name_no_agent() {
        for text in ["urn:etcd-monitor:agent:", "urn:etcd-monitor:agent:nobody", "https://example.com/"] {
            let found = certificate(|params| {
                params.subject_alt_names = vec![SanType::URI(text.try_into().unwrap())];
                params.distinguished_name.push(DnType::CommonName, "node1");
            });
            assert_eq!(found.agent, None, "{text}");
        }
        assert_eq!(AgentCertificate::parse(b"nonsense"), None);
        assert_eq!(pin(b"nonsense"), None);
    }
}
