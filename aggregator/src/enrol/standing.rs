//! Whether a certificate still counts. Read during handshakes and by streams, written by the desk.

use std::collections::{HashMap, HashSet};
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
    /// Serial numbers of an agent's certificates.
    by_agent: HashMap<Uuid, HashSet<String>>,
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
        let mut known = Known { revoked_agents, ..Known::default() };
        by_serial.into_iter().for_each(|(serial, standing)| known.insert(serial, standing));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        self.changed();
    }

    /// Notes a certificate that was handed out or revoked.
    pub fn note(&self, serial: &str, standing: Serial) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(serial.to_owned(), standing);
        drop(known);
        self.changed();
    }

    /// Forgets a certificate that expired long ago. Nobody's right changes with that.
    pub fn forget(&self, serial: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).forget(serial);
    }

    /// Whether a certificate was handed out here, and not so long ago that it is forgotten.
    pub fn is_own(&self, certificate: &AgentCertificate) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_serial.contains_key(&certificate.serial)
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
    /// go on with the stream that it opened with the old one, so that rotation makes no gap. `is_own` says whether the old one
    /// was handed out here when the stream began: renewal is known of our own only, and an old one is forgotten in the end.
    pub fn end_of_stream(
        &self,
        certificate: &AgentCertificate,
        is_own: bool,
        now: DateTime<Utc>,
    ) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = known.revocation(certificate) {
            return Some(format!("certificate revoked by the aggregator: {reason}"));
        }
        if certificate.not_after > now {
            return None;
        }
        let renewed = is_own && certificate.agent.is_some_and(|agent| known.has_valid(agent, now));
        (!renewed).then(|| format!("certificate expired on {}", certificate.not_after))
    }
}

impl Known {
    fn insert(&mut self, serial: String, standing: Serial) {
        self.by_agent.entry(standing.agent).or_default().insert(serial.clone());
        self.by_serial.insert(serial, standing);
    }

    fn forget(&mut self, serial: &str) {
        let Some(standing) = self.by_serial.remove(serial) else { return };
        let Some(serials) = self.by_agent.get_mut(&standing.agent) else { return };
        serials.remove(serial);
        if serials.is_empty() {
            self.by_agent.remove(&standing.agent);
        }
    }

    fn has_valid(&self, agent: Uuid, now: DateTime<Utc>) -> bool {
        let serials = self.by_agent.get(&agent).into_iter().flatten();
        serials
            .filter_map(|serial| self.by_serial.get(serial))
            .any(|it| it.revoked.is_none() && it.not_after > now)
    }

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
        let end = |now| standing.end_of_stream(&old, true, at(now));
        assert_eq!(end(99), None);
        assert!(end(100).unwrap().starts_with("certificate expired on 1970-01-01"));
        standing.note("2", issued(200, None));
        assert_eq!(end(100), None);
        standing.note("2", issued(200, Some("stolen")));
        assert!(end(100).is_some());
        standing.note("1", issued(100, Some("stolen")));
        assert!(end(50).unwrap().contains("revoked by the aggregator: stolen"));
    }

    #[test]
    fn a_stream_outlives_the_memory_of_its_certificate() {
        let standing = Standing::default();
        let old = certificate("1", 0, 100);
        standing.replace([("1".to_owned(), issued(100, None))].into(), HashMap::new());
        assert!(standing.is_own(&old));
        standing.note("2", issued(200, None));
        standing.forget("1");
        assert!(!standing.is_own(&old));
        assert_eq!(standing.end_of_stream(&old, true, at(150)), None);
        assert!(standing.end_of_stream(&old, true, at(200)).is_some(), "that of the renewal as well");
        standing.forget("2");
        assert!(standing.end_of_stream(&old, true, at(150)).is_some());
        assert!(standing.known.read().unwrap().by_agent.is_empty());
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
        let is_own = standing.is_own(&stranger);
        assert!(
            standing.end_of_stream(&stranger, is_own, at(56)).is_some(),
            "renewal is known of our own only"
        );
    }
}
