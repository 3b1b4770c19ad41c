//! What certificates say, and what is wrong with one that was refused, in words for whoever must mend it.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: OffsetDateTime,
    /// To.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// Of a certificate. `None` when it is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_rest, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        Some(Self { not_before, not_after })
    }
}

/// SHA-256 of a certificate's public key as hexadecimal digits, as join tokens carry it.
pub fn pin(der: &[u8]) -> Option<String> {
    let (_rest, certificate) = X509Certificate::from_der(der).ok()?;
    let digest = Sha256::digest(certificate.public_key().raw);
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A moment, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub OffsetDateTime);

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hour, minute, second) = self.0.to_utc().time().as_hms();
        write!(out, "{} {hour:02}:{minute:02}:{second:02} UTC", self.0.to_utc().date())
    }
}

/// Whose certificate was refused by whom, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Ours, by an administrator.
    #[error("certificate revoked by the aggregator")]
    Revoked,
    /// Ours, too old.
    #[error("certificate expired on {0}")]
    Expired(Moment),
    /// Ours, too young.
    #[error("certificate is not valid before {0}")]
    NotYetValid(Moment),
    /// Ours; the two clocks disagree.
    #[error(
        "certificate is not valid at the aggregator's time; by this node's clock it is: compare the clocks"
    )]
    ClocksDiffer,
    /// Ours.
    #[error("certificate is signed by another authority than those that the aggregator trusts")]
    ForeignAuthority,
    /// Ours, which enrolment has not brought yet.
    #[error("this agent has no certificate yet: {0}")]
    NotEnrolled(String),
    /// Ours, which is not there.
    #[error("the aggregator demands a certificate, and this agent has none")]
    Missing,
    /// Ours, for another reason.
    #[error("the aggregator refused the connection: {0}")]
    Other(String),
    /// The aggregator's.
    #[error(
        "the aggregator's certificate is signed by another authority than those that this agent trusts; see \
         aggregator.ca-file"
    )]
    AggregatorForeign,
    /// The aggregator's.
    #[error("the aggregator's certificate does not match the name in aggregator.url: {0}")]
    AggregatorName(String),
    /// The aggregator's.
    #[error("the aggregator's certificate is not valid now: {0}")]
    AggregatorTime(String),
    /// The aggregator's.
    #[error(
        "the aggregator's authority is not the one that the join token names: wrong aggregator, or wrong token"
    )]
    WrongPin,
    /// The aggregator's, for another reason.
    #[error("the aggregator's certificate can't be used: {0}")]
    AggregatorOther(String),
}

impl Refusal {
    /// From what ended a handshake. `None` when it was no certificate.
    pub fn explain(error: &io::Error, own: Option<Validity>, now: OffsetDateTime) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        match error {
            rustls::Error::AlertReceived(alert) => Self::from_alert(*alert, own, now),
            rustls::Error::InvalidCertificate(error) => Some(Self::from_check(error)),
            _ => None,
        }
    }

    fn from_alert(alert: AlertDescription, own: Option<Validity>, now: OffsetDateTime) -> Option<Self> {
        Some(match alert {
            AlertDescription::CertificateRevoked => Self::Revoked,
            AlertDescription::CertificateExpired => match own {
                Some(own) if own.not_after <= now => Self::Expired(Moment(own.not_after)),
                Some(own) if own.not_before > now => Self::NotYetValid(Moment(own.not_before)),
                _ => Self::ClocksDiffer,
            },
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Self::ForeignAuthority,
            AlertDescription::CertificateRequired => Self::Missing,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Self::Other(format!("{alert:?}")),
            _ => return None,
        })
    }

    fn from_check(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::AggregatorForeign,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::AggregatorName(error.to_string())
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::AggregatorTime(error.to_string()),
            CertificateError::ApplicationVerificationFailure => Self::WrongPin,
            other => Self::AggregatorOther(other.to_string()),
        }
    }

    /// Whether only another certificate helps, which a new join token brings.
    pub const fn needs_enrolment(&self) -> bool {
        matches!(self, Self::Revoked | Self::Expired(_) | Self::ForeignAuthority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    fn io_error(error: rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    fn explain(error: rustls::Error, own: Option<Validity>) -> Option<String> {
        Refusal::explain(&io_error(error), own, OffsetDateTime::UNIX_EPOCH).map(|refusal| refusal.to_string())
    }

    #[test]
    fn every_refusal_says_whose_certificate_and_why() {
        let alert = |alert, own| explain(rustls::Error::AlertReceived(alert), own).expect("explained");
        let epoch = OffsetDateTime::UNIX_EPOCH;
        let around = |from: i64, to: i64| {
            Some(Validity {
                not_before: epoch + Duration::seconds(from),
                not_after: epoch + Duration::seconds(to),
            })
        };
        assert_eq!(
            alert(AlertDescription::CertificateRevoked, None),
            "certificate revoked by the aggregator"
        );
        assert_eq!(
            alert(AlertDescription::CertificateExpired, around(-20, -10)),
            "certificate expired on 1969-12-31 23:59:50 UTC"
        );
        assert_eq!(
            alert(AlertDescription::CertificateExpired, around(10, 20)),
            "certificate is not valid before 1970-01-01 00:00:10 UTC"
        );
        assert!(alert(AlertDescription::CertificateExpired, around(-10, 10)).contains("compare the clocks"));
        assert!(alert(AlertDescription::UnknownCA, None).contains("signed by another authority"));
        let check = |error| explain(rustls::Error::InvalidCertificate(error), None).expect("explained");
        assert!(check(CertificateError::UnknownIssuer).contains("aggregator.ca-file"));
        assert!(check(CertificateError::NotValidForName).contains("does not match the name"));
        assert!(check(CertificateError::ApplicationVerificationFailure).contains("join token"));
        assert_eq!(explain(rustls::Error::AlertReceived(AlertDescription::InternalError), None), None);
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(Refusal::explain(&broken, None, epoch), None);
    }
}
