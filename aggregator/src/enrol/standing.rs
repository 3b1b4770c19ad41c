//! Whether a certificate still counts. Read during handshakes and by streams, written by the desk.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use crate::tls::AgentCertificate;

/// What is known of certificates. Cheap to clone; every clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    known: Arc<RwLock<Known>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    by_serial: HashMap<String, Serial>,
    revoked_agents: HashMap<Uuid, DateTime<Utc>>,
}

/// A certificate that was handed out here.
#[derive(Debug, Clone)]
pub struct Serial {
    /// For whom.
    pub agent: Uuid,
    /// End of its life.
    pub not_after: DateTime<Utc>,
    /// Why it does not count any more.
    pub revoked: Option<String>,
}

impl Standing {
    /// Replaces all that is known of handed out certificates and revoked agents.
    pub fn replace(&self, by_serial: HashMap<String, Serial>, revoked_agents: HashMap<Uuid, DateTime<Utc>>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Known { by_serial, revoked_agents };
        self.changed();
    }

    /// Notes a certificate that was handed out or revoked.
    pub fn note(&self, serial: &str, standing: Serial) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.by_serial.insert(serial.to_owned(), standing);
        drop(known);
        self.changed();
    }

    /// Notes that an agent was revoked: nothing that was handed out before counts.
    pub fn note_agent(&self, agent: Uuid, revoked_at: DateTime<Utc>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.revoked_agents.insert(agent, revoked_at);
        drop(known);
        self.changed();
    }

    /// Changes with every note.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    /// Why the certificate was revoked, if it was. A certificate that is not on the book (of an authority that the
    /// aggregator was given) falls with its agent when it is older than the revocation.
    pub fn revocation(&self, certificate: &AgentCertificate, _now: DateTime<Utc>) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.revocation(certificate)
    }

    /// Why a stream that began with the certificate must end now, if it must. An agent that has renewed its certificate may
    /// go on with the stream that it opened with the old one, so that rotation makes no gap.
    pub fn end_of_stream(&self, certificate: &AgentCertificate, now: DateTime<Utc>) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = known.revocation(certificate) {
            return Some(format!("certificate revoked by the aggregator: {reason}"));
        }
        let renewed = known.by_serial.contains_key(&certificate.serial)
            && known.by_serial.values().any(|other| {
                Some(other.agent) == certificate.agent && other.revoked.is_none() && other.not_after > now
            });
        (certificate.not_after <= now && !renewed)
            .then(|| format!("certificate expired on {}", certificate.not_after))
    }
}

impl Known {
    fn revocation(&self, certificate: &AgentCertificate) -> Option<String> {
        if let Some(serial) = self.by_serial.get(&certificate.serial) {
            return serial.revoked.clone();
        }
        let revoked_at = self.revoked_agents.get(&certificate.agent?)?;
        (certificate.not_before <= *revoked_at).then(|| format!("its agent was revoked on {revoked_at}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: Uuid = Uuid::from_u128(1);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn certificate(serial: &str, from: i64, to: i64) -> AgentCertificate {
        let serial = serial.to_owned();
        AgentCertificate { agent: Some(AGENT), serial, not_before: at(from), not_after: at(to) }
    }

    fn issued(to: i64, revoked: Option<&str>) -> Serial {
        Serial { agent: AGENT, not_after: at(to), revoked: revoked.map(str::to_owned) }
    }

    #[test]
    fn a_stream_outlives_its_certificate_only_when_the_agent_has_renewed_it() {
        let standing = Standing::default();
        let old = certificate("1", 0, 100);
        standing.note("1", issued(100, None));
        assert_eq!(standing.end_of_stream(&old, at(99)), None);
        assert!(
            standing.end_of_stream(&old, at(100)).unwrap().starts_with("certificate expired on 1970-01-01")
        );
        standing.note("2", issued(200, None));
        assert_eq!(standing.end_of_stream(&old, at(100)), None);
        standing.note("2", issued(200, Some("stolen")));
        assert!(standing.end_of_stream(&old, at(100)).is_some());
        standing.note("1", issued(100, Some("stolen")));
        assert!(standing.end_of_stream(&old, at(50)).unwrap().contains("revoked by the aggregator: stolen"));
    }

    #[test]
    fn a_foreign_certificate_falls_with_its_agent_and_a_later_one_counts() {
        let standing = Standing::default();
        standing.note_agent(AGENT, at(50));
        assert!(standing.revocation(&certificate("77", 10, 100), at(60)).is_some());
        assert_eq!(standing.revocation(&certificate("78", 51, 100), at(60)), None);
        let nobody = AgentCertificate { agent: None, ..certificate("79", 10, 100) };
        assert_eq!(standing.revocation(&nobody, at(60)), None);
        let stranger = certificate("80", 51, 55);
        standing.note("1", issued(200, None));
        assert!(standing.end_of_stream(&stranger, at(56)).is_some(), "renewal is known of our own only");
    }
}
