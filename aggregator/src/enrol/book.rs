//! What was handed out to whom, and who may have what. Pure: every question comes with its time, and an answer that
//! changes something is a list of [`Record`]s, which the desk makes durable before it applies them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::standing::Serial;
use super::token::JoinToken;

/// Most tokens on the book.
const MOST_TOKENS: usize = 10_000;

/// Most certificates of one agent that count at the same time.
const MOST_CERTIFICATES: usize = 8;

/// Tokens stay on the book so long after their end, for whoever looks into what happened.
const TOKEN_KEPT: Duration = Duration::from_hours(30 * 24);

/// Certificates stay on the book so long after their end: until nobody's clock can take them for valid.
const CERTIFICATE_KEPT: Duration = Duration::from_hours(24);

/// What an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// How long it is good.
    pub life: Duration,
    /// For how many agents.
    pub uses: u32,
    /// Label of the agents that enrol with it, for people.
    pub scope: String,
    /// The only agent that may use it; a token for one agent may replace a certificate that still counts.
    pub agent: Option<Uuid>,
}

/// A token on the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    id: String,
    digest: String,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    uses: u32,
    scope: String,
    agent: Option<Uuid>,
    revoked_at: Option<DateTime<Utc>>,
    used: Vec<Use>,
    refused_uses: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Use {
    agent: Uuid,
    key: String,
    serial: String,
    at: DateTime<Utc>,
}

/// A token, as the API shows it: without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its name, part of its text.
    pub id: String,
    /// `active`, `used_up`, `expired` or `revoked`.
    pub state: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// End of its life.
    pub expires_at: DateTime<Utc>,
    /// For how many agents it is.
    pub uses: u32,
    /// The agents that enrolled with it.
    pub used_by: Vec<Uuid>,
    /// Tries to use it after it was used up. More than none means that it is in two places: one of them may be a thief's.
    pub refused_uses: u32,
    /// Label of the agents that enrol with it.
    pub scope: String,
    /// The only agent that may use it; null = any.
    pub agent: Option<Uuid>,
}

/// A certificate on the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Serial number, hexadecimal digits.
    pub serial: String,
    /// For whom.
    pub agent: Uuid,
    /// SHA-256 of its public key.
    pub key: String,
    /// Label of the token that began it.
    pub scope: String,
    /// Id of that token.
    pub token: String,
    /// Host name that the agent gave, for people.
    pub node: String,
    /// When it was signed.
    pub issued_at: DateTime<Utc>,
    /// Valid from.
    pub not_before: DateTime<Utc>,
    /// Valid to.
    pub not_after: DateTime<Utc>,
    /// The certificate, DER as hexadecimal digits: an answer that was lost can be given again.
    pub der: String,
    /// When it stopped to count before its end.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Why.
    pub revoked_because: String,
}

/// A certificate, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateView {
    /// Serial number, hexadecimal digits.
    pub serial: String,
    /// For which agent.
    pub agent: Uuid,
    /// Host name that the agent gave when it asked.
    pub node: String,
    /// Label of the token that the agent enrolled with.
    pub scope: String,
    /// Id of that token.
    pub token: String,
    /// When it was signed.
    pub issued_at: DateTime<Utc>,
    /// End of its life.
    pub not_after: DateTime<Utc>,
    /// `valid`, `expired` or `revoked`.
    pub state: String,
    /// Why it was revoked; empty when it was not.
    pub reason: String,
}

/// An agent that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Which.
    pub agent: Uuid,
    /// When.
    pub at: DateTime<Utc>,
}

/// A change of the book.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A token as it is now.
    Token(Token),
    /// A certificate as it is now.
    Certificate(Issued),
    /// An agent was revoked.
    Revocation(Revocation),
    /// A token that nobody asks for any more.
    ForgetToken(String),
    /// A certificate that no clock takes for valid any more.
    ForgetCertificate(String),
}

/// Why an agent gets no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Never made here, forgotten, or with another secret: who guesses does not learn which.
    #[error("the join token is not valid")]
    Unknown,
    /// Too old.
    #[error("the join token expired on {0}")]
    Expired(DateTime<Utc>),
    /// Revoked by an administrator.
    #[error("the join token was revoked on {0}")]
    Revoked(DateTime<Utc>),
    /// Others were there before.
    #[error("the join token is used up; it was last used on {last}")]
    UsedUp {
        /// By which agent.
        by: Uuid,
        /// When.
        last: DateTime<Utc>,
    },
    /// For somebody else.
    #[error("the join token is for another agent")]
    OtherAgent,
    /// It was made before the agent was revoked.
    #[error("agent {agent} was revoked on {at}; it needs a join token that was made after that")]
    AgentRevoked {
        /// The agent.
        agent: Uuid,
        /// When.
        at: DateTime<Utc>,
    },
    /// Somebody is this agent already.
    #[error(
        "agent {agent} has a certificate that is valid until {until}; to replace it, revoke the agent, or use a join \
         token that was made for this agent"
    )]
    HasCertificate {
        /// The agent.
        agent: Uuid,
        /// End of its certificate.
        until: DateTime<Utc>,
    },
    /// It asks too often.
    #[error("agent {0} has {MOST_CERTIFICATES} valid certificates already")]
    TooMany(Uuid),
    /// A certificate that was not handed out here.
    #[error(
        "the certificate of this connection is not one of this aggregator; it is renewed where it came from"
    )]
    NotOurs,
}

/// What an agent gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// What it got before: the answer was lost.
    Again(Issued),
    /// A new certificate; these, which counted until now, are revoked with it.
    Fresh {
        /// Certificates as they are then.
        superseded: Vec<Issued>,
        /// Its label.
        scope: String,
        /// Its token.
        token: String,
    },
}

/// The book.
#[derive(Debug, Default)]
pub struct Book {
    tokens: BTreeMap<String, Token>,
    certificates: HashMap<String, Issued>,
    revocations: HashMap<Uuid, DateTime<Utc>>,
}

impl Book {
    /// Writes a record into it.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Token(token) => drop(self.tokens.insert(token.id.clone(), token)),
            Record::Certificate(issued) => drop(self.certificates.insert(issued.serial.clone(), issued)),
            Record::Revocation(revocation) => drop(self.revocations.insert(revocation.agent, revocation.at)),
            Record::ForgetToken(id) => drop(self.tokens.remove(&id)),
            Record::ForgetCertificate(serial) => drop(self.certificates.remove(&serial)),
        }
    }

    /// What is too old to be kept.
    pub fn outdated(&self, now: DateTime<Utc>) -> Vec<Record> {
        let tokens = self.tokens.values().filter(|token| token.expires_at + TOKEN_KEPT < now);
        let certificates =
            self.certificates.values().filter(|issued| issued.not_after + CERTIFICATE_KEPT < now);
        tokens
            .map(|token| Record::ForgetToken(token.id.clone()))
            .chain(certificates.map(|issued| Record::ForgetCertificate(issued.serial.clone())))
            .collect()
    }

    /// A new token. `None` when there are too many.
    pub fn make_token(&self, now: DateTime<Utc>, token: &JoinToken, wanted: NewToken) -> Option<Record> {
        (self.tokens.len() < MOST_TOKENS).then(|| {
            Record::Token(Token {
                id: token.id.clone(),
                digest: token.digest(),
                created_at: now,
                expires_at: now + wanted.life,
                uses: wanted.uses,
                scope: wanted.scope,
                agent: wanted.agent,
                revoked_at: None,
                used: Vec::new(),
                refused_uses: 0,
            })
        })
    }

    /// Revokes a token. `None` when there is none.
    pub fn revoke_token(&self, now: DateTime<Utc>, id: &str) -> Option<Record> {
        let mut token = self.tokens.get(id)?.clone();
        token.revoked_at.get_or_insert(now);
        Some(Record::Token(token))
    }

    /// Whether this token admits this agent with this key.
    ///
    /// # Errors
    /// When it does not.
    pub fn admit(
        &self,
        now: DateTime<Utc>,
        shown: &JoinToken,
        agent: Uuid,
        key: &str,
    ) -> Result<Admission, Refusal> {
        let token = self.tokens.get(&shown.id).filter(|token| shown.fits(&token.digest));
        let token = token.ok_or(Refusal::Unknown)?;
        if let Some(at) = token.revoked_at {
            return Err(Refusal::Revoked(at));
        }
        let before = token.used.iter().find(|used| used.agent == agent && used.key == key);
        let given = before.and_then(|used| self.certificates.get(&used.serial));
        if let Some(given) = given.filter(|given| given.counts(now)) {
            return Ok(Admission::Again(given.clone()));
        }
        if token.agent.is_some_and(|only| only != agent) {
            return Err(Refusal::OtherAgent);
        }
        if let Some(last) = token.used.last().filter(|_| token.used.len() >= token.uses as usize) {
            return Err(Refusal::UsedUp { by: last.agent, last: last.at });
        }
        if token.expires_at <= now {
            return Err(Refusal::Expired(token.expires_at));
        }
        if let Some(at) = self.revocations.get(&agent).filter(|at| **at >= token.created_at) {
            return Err(Refusal::AgentRevoked { agent, at: *at });
        }
        let live = self.live(agent, now);
        if let Some(until) = live.iter().map(|issued| issued.not_after).max()
            && token.agent.is_none()
        {
            return Err(Refusal::HasCertificate { agent, until });
        }
        let superseded = live.into_iter().map(|issued| issued.revoked(now, "superseded by a new enrolment"));
        let (scope, token) = (token.scope.clone(), token.id.clone());
        Ok(Admission::Fresh { superseded: superseded.collect(), scope, token })
    }

    /// Notes that a token was used.
    pub fn used(&self, now: DateTime<Utc>, id: &str, issued: &Issued) -> Option<Record> {
        let mut token = self.tokens.get(id)?.clone();
        let (agent, key, serial) = (issued.agent, issued.key.clone(), issued.serial.clone());
        token.used.push(Use { agent, key, serial, at: now });
        Some(Record::Token(token))
    }

    /// Notes that a token was shown again after it was used up.
    pub fn reused(&self, id: &str) -> Option<Record> {
        let mut token = self.tokens.get(id)?.clone();
        token.refused_uses = token.refused_uses.saturating_add(1);
        Some(Record::Token(token))
    }

    /// Whether the bearer of this certificate gets another one.
    ///
    /// # Errors
    /// When not.
    pub fn renew(
        &self,
        now: DateTime<Utc>,
        agent: Uuid,
        serial: &str,
        key: &str,
    ) -> Result<Admission, Refusal> {
        let current =
            self.certificates.get(serial).filter(|issued| issued.agent == agent && issued.counts(now));
        let current = current.ok_or(Refusal::NotOurs)?;
        let live = self.live(agent, now);
        let half_fresh = |issued: &&&Issued| {
            let life = issued.not_after - issued.issued_at;
            issued.key == key && issued.not_after - now > life / 2
        };
        if let Some(given) = live.iter().find(half_fresh) {
            return Ok(Admission::Again((*given).clone()));
        }
        if live.len() >= MOST_CERTIFICATES {
            return Err(Refusal::TooMany(agent));
        }
        let (scope, token) = (current.scope.clone(), current.token.clone());
        Ok(Admission::Fresh { superseded: Vec::new(), scope, token })
    }

    /// The host name that came with a certificate; empty when it is not on the book.
    pub fn node(&self, serial: &str) -> String {
        self.certificates.get(serial).map(|issued| issued.node.clone()).unwrap_or_default()
    }

    /// Revokes an agent: every certificate it has, and every token that was made until now, for this agent.
    pub fn revoke_agent(&self, now: DateTime<Utc>, agent: Uuid) -> Vec<Record> {
        let live = self.live(agent, now).into_iter();
        let revoked = live.map(|issued| Record::Certificate(issued.revoked(now, "its agent was revoked")));
        std::iter::once(Record::Revocation(Revocation { agent, at: now })).chain(revoked).collect()
    }

    fn live(&self, agent: Uuid, now: DateTime<Utc>) -> Vec<&Issued> {
        self.certificates.values().filter(|issued| issued.agent == agent && issued.counts(now)).collect()
    }

    /// All tokens, newest first.
    pub fn tokens(&self, now: DateTime<Utc>) -> Vec<TokenView> {
        let mut tokens: Vec<TokenView> = self.tokens.values().map(|token| token.view(now)).collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created_at));
        tokens
    }

    /// One token.
    pub fn token(&self, id: &str, now: DateTime<Utc>) -> Option<TokenView> {
        self.tokens.get(id).map(|token| token.view(now))
    }

    /// All certificates, newest first.
    pub fn certificates(&self, now: DateTime<Utc>) -> Vec<CertificateView> {
        let mut all: Vec<CertificateView> =
            self.certificates.values().map(|issued| issued.view(now)).collect();
        all.sort_by_key(|view| std::cmp::Reverse(view.issued_at));
        all
    }

    /// What handshakes need to know.
    pub fn standing(&self) -> (HashMap<String, Serial>, HashMap<Uuid, DateTime<Utc>>) {
        let serials = self.certificates.values().map(|issued| (issued.serial.clone(), issued.standing()));
        (serials.collect(), self.revocations.clone())
    }
}

impl Token {
    fn view(&self, now: DateTime<Utc>) -> TokenView {
        let state = if self.revoked_at.is_some() {
            "revoked"
        } else if self.used.len() >= self.uses as usize {
            "used_up"
        } else if self.expires_at <= now {
            "expired"
        } else {
            "active"
        };
        TokenView {
            id: self.id.clone(),
            state: state.to_owned(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            uses: self.uses,
            used_by: self.used.iter().map(|used| used.agent).collect(),
            refused_uses: self.refused_uses,
            scope: self.scope.clone(),
            agent: self.agent,
        }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Issued {
    fn counts(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.not_after > now
    }

    fn revoked(&self, now: DateTime<Utc>, why: &str) -> Self {
        Self { revoked_at: Some(now), revoked_because: why.to_owned(), ..self.clone() }
    }

    /// What handshakes need to know of it.
    pub fn standing(&self) -> Serial {
        let revoked = self.revoked_at.map(|_| self.revoked_because.clone());
        Serial { agent: self.agent, not_after: self.not_after, revoked }
    }

    fn view(&self, now: DateTime<Utc>) -> CertificateView {
        let state = match self.revoked_at {
            Some(_) => "revoked",
            None if self.not_after <= now => "expired",
            None => "valid",
        };
        CertificateView {
            serial: self.serial.clone(),
            agent: self.agent,
            node: self.node.clone(),
            scope: self.scope.clone(),
            token: self.token.clone(),
            issued_at: self.issued_at,
            not_after: self.not_after,
            state: state.to_owned(),
            reason: self.revoked_because.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
