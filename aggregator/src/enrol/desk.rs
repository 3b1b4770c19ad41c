//! The one owner of the book. Everybody else sends it an order and waits; what an order changes is durable before the
//! answer goes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_service::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;
use uuid::Uuid;

use super::CertificateView;
use super::authority::{Authority, AuthorityError, RequestedKey};
use super::book::{Admission, Book, Issued, NewToken, Record, Refusal, Revocation, Token, TokenView};
use super::standing::Standing;
use super::token::{JoinToken, hex};
use crate::state::{Change, Expected, State, StateError, kind, log};

/// Orders that wait; who sends the next one waits.
const QUEUE: usize = 256;

/// Events of one token's misuse that are kept; further ones are only counted.
const REUSES_TOLD: u32 = 20;

/// What enrolment counts since the process began.
#[derive(Debug, Default)]
pub struct Counters {
    /// First certificates.
    pub enrolled: AtomicU64,
    /// Further certificates.
    pub renewed: AtomicU64,
    /// Tries with a token that is not valid, too old, revoked or for another agent, and other tries that were refused.
    pub refused: AtomicU64,
    /// Tries with a token that was used up: it is in two places.
    pub tokens_reused: AtomicU64,
    /// Tries that came too fast.
    pub limited: AtomicU64,
    /// Agents revoked.
    pub revoked: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The book says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The authority can't sign this.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// It can't be made durable.
    #[error(transparent)]
    State(#[from] StateError),
    /// There are too many tokens.
    #[error("there are too many join tokens; revoked and expired ones go after 30 days")]
    TooManyTokens,
    /// The process is ending.
    #[error("enrolment has ended")]
    Closed,
}

/// Something that happened, for people and for alerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// When.
    pub at: DateTime<Utc>,
    /// What: `token.created`, `token.revoked`, `agent.enrolled`, `agent.renewed`, `agent.revoked`, or `enrolment.token_reused`,
    /// which means that somebody has a token who should not.
    pub kind: String,
    /// The token, if one has to do with it.
    pub token: Option<String>,
    /// The agent, if one has to do with it.
    pub agent: Option<Uuid>,
    /// The agent that had used the token before.
    pub used_before_by: Option<Uuid>,
    /// Address that it came from.
    pub peer: Option<String>,
}

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revoked {
    /// The agent.
    pub agent: Uuid,
    /// Certificates that counted until now.
    pub certificates: usize,
    /// When.
    pub revoked_at: DateTime<Utc>,
}

/// Who asks for a certificate.
#[derive(Debug)]
pub struct Applicant {
    /// The agent.
    pub agent: Uuid,
    /// Its key.
    pub key: RequestedKey,
    /// Its host name, for people.
    pub node: String,
    /// Where it asks from.
    pub peer: String,
}

type Reply<T> = oneshot::Sender<Result<T, DeskError>>;

enum Order {
    MakeToken(NewToken, Reply<(Secret, TokenView)>),
    RevokeToken(String, Reply<Option<TokenView>>),
    Tokens(Reply<Vec<TokenView>>),
    Certificates(Reply<Vec<CertificateView>>),
    Enrol(JoinToken, Applicant, Reply<Issued>),
    Renew(String, Applicant, Reply<Issued>),
    RevokeAgent(Uuid, Reply<Revoked>),
}

/// Sends orders to the desk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DeskHandle {
    orders: mpsc::Sender<Order>,
    state: State,
}

/// The owner of the book.
pub struct Desk {
    book: Book,
    authority: Authority,
    /// Whether tokens carry the authority's pin: it signed the aggregator's certificate too.
    pins: bool,
    life: Duration,
    state: State,
    standing: Standing,
    counters: Arc<Counters>,
    orders: mpsc::Receiver<Order>,
}

/// What the desk works with.
pub struct Parts {
    /// Who signs.
    pub authority: Authority,
    /// Whether the aggregator's own certificate is signed by it.
    pub pins: bool,
    /// How long agents' certificates live.
    pub life: Duration,
    /// Where the book is kept.
    pub state: State,
    /// What handshakes read.
    pub standing: Standing,
    /// What is counted.
    pub counters: Arc<Counters>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Desk").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Desk {
    /// Reads the book from the state.
    ///
    /// # Errors
    /// When the state can't be read.
    pub async fn open(parts: Parts) -> Result<(Self, DeskHandle), StateError> {
        let mut book = Book::default();
        load(&parts.state, &mut book).await?;
        let (by_serial, revoked) = book.standing();
        parts.standing.replace(by_serial, revoked);
        let (sender, orders) = mpsc::channel(QUEUE);
        let handle = DeskHandle { orders: sender, state: parts.state.clone() };
        let Parts { authority, pins, life, state, standing, counters } = parts;
        Ok((Self { book, authority, pins, life, state, standing, counters, orders }, handle))
    }

    /// Works until every handle is gone.
    pub async fn run(mut self) {
        while let Some(order) = self.orders.recv().await {
            let now = Utc::now();
            // Who no longer waits for an answer does not need it.
            match order {
                Order::MakeToken(wanted, reply) => drop(reply.send(self.make_token(now, wanted).await)),
                Order::RevokeToken(id, reply) => drop(reply.send(self.revoke_token(now, &id).await)),
                Order::Tokens(reply) => drop(reply.send(Ok(self.book.tokens(now)))),
                Order::Certificates(reply) => drop(reply.send(Ok(self.book.certificates(now)))),
                Order::Enrol(token, who, reply) => drop(reply.send(self.enrol(now, &token, who).await)),
                Order::Renew(serial, who, reply) => drop(reply.send(self.renew(now, &serial, who).await)),
                Order::RevokeAgent(agent, reply) => drop(reply.send(self.revoke_agent(now, agent).await)),
            }
        }
    }

    async fn make_token(
        &mut self,
        now: DateTime<Utc>,
        wanted: NewToken,
    ) -> Result<(Secret, TokenView), DeskError> {
        let pin = if self.pins { self.authority.pin() } else { "" };
        let token = JoinToken::random(pin);
        let mut records = self.book.outdated(now);
        records.push(self.book.make_token(now, &token, wanted).ok_or(DeskError::TooManyTokens)?);
        let event = json!({"kind": "token.created", "token": token.id});
        self.commit(now, records, vec![event]).await?;
        tracing::info!(token = token.id, "join token made");
        let view = self.book.token(&token.id, now).ok_or(DeskError::Closed)?;
        Ok((token.text(), view))
    }

    async fn revoke_token(&mut self, now: DateTime<Utc>, id: &str) -> Result<Option<TokenView>, DeskError> {
        let Some(record) = self.book.revoke_token(now, id) else { return Ok(None) };
        self.commit(now, vec![record], vec![json!({"kind": "token.revoked", "token": id})]).await?;
        tracing::info!(token = id, "join token revoked");
        Ok(self.book.token(id, now))
    }

    async fn enrol(
        &mut self,
        now: DateTime<Utc>,
        token: &JoinToken,
        who: Applicant,
    ) -> Result<Issued, DeskError> {
        let admission = match self.book.admit(now, token, who.agent, &who.key.digest) {
            Ok(admission) => admission,
            Err(refusal) => return Err(self.refuse(now, token, &who, refusal).await),
        };
        let (agent, peer, node) = (who.agent, who.peer.clone(), who.node.clone());
        let issued = self.issue(now, admission, who, "agent.enrolled").await?;
        Counters::add(&self.counters.enrolled);
        tracing::info!(%agent, node, token = token.id, peer, serial = issued.serial, "agent enrolled");
        Ok(issued)
    }

    async fn refuse(
        &mut self,
        now: DateTime<Utc>,
        token: &JoinToken,
        who: &Applicant,
        refusal: Refusal,
    ) -> DeskError {
        Counters::add(&self.counters.refused);
        let (agent, peer) = (who.agent, who.peer.as_str());
        let Refusal::UsedUp { by, .. } = refusal else {
            tracing::warn!(%agent, peer, token = token.id, reason = %refusal, "enrolment refused");
            return refusal.into();
        };
        Counters::add(&self.counters.tokens_reused);
        tracing::error!(
            %agent, peer, token = token.id, used_before_by = %by, kind = "enrolment.token_reused",
            "a join token was used a second time: it is in two places, and either of the two agents may be a stranger"
        );
        let told = self.book.token(&token.id, now).map_or(0, |view| view.refused_uses);
        if told < REUSES_TOLD {
            let event = json!({
                "kind": "enrolment.token_reused", "token": token.id, "agent": agent,
                "used_before_by": by, "peer": peer,
            });
            let records = self.book.reused(&token.id).into_iter().collect();
            if let Err(error) = self.commit(now, records, vec![event]).await {
                return error;
            }
        }
        refusal.into()
    }

    async fn renew(&mut self, now: DateTime<Utc>, serial: &str, who: Applicant) -> Result<Issued, DeskError> {
        let admission = self.book.renew(now, who.agent, serial, &who.key.digest).inspect_err(|refusal| {
            Counters::add(&self.counters.refused);
            tracing::warn!(agent = %who.agent, peer = who.peer, reason = %refusal, "renewal refused");
        })?;
        let agent = who.agent;
        let who = Applicant { node: self.book.node(serial), ..who };
        let issued = self.issue(now, admission, who, "agent.renewed").await?;
        Counters::add(&self.counters.renewed);
        tracing::info!(%agent, serial = issued.serial, until = %issued.not_after, "certificate renewed");
        Ok(issued)
    }

    async fn issue(
        &mut self,
        now: DateTime<Utc>,
        admission: Admission,
        who: Applicant,
        kind: &str,
    ) -> Result<Issued, DeskError> {
        let (superseded, scope, token) = match admission {
            Admission::Again(issued) => return Ok(issued),
            Admission::Fresh { superseded, scope, token } => (superseded, scope, token),
        };
        let signed = self.authority.agent_certificate(who.agent, &who.key, now, self.life)?;
        let issued = Issued {
            serial: signed.facts.serial,
            agent: who.agent,
            key: who.key.digest,
            scope,
            token: token.clone(),
            node: who.node,
            issued_at: now,
            not_before: signed.facts.not_before,
            not_after: signed.facts.not_after,
            der: hex(&signed.der),
            revoked_at: None,
            revoked_because: String::new(),
        };
        let mut records = self.book.outdated(now);
        records.extend(superseded.into_iter().map(Record::Certificate));
        if kind == "agent.enrolled" {
            records.extend(self.book.used(now, &token, &issued));
        }
        records.push(Record::Certificate(issued.clone()));
        let event = json!({"kind": kind, "token": token, "agent": who.agent, "peer": who.peer});
        self.commit(now, records, vec![event]).await?;
        Ok(issued)
    }

    async fn revoke_agent(&mut self, now: DateTime<Utc>, agent: Uuid) -> Result<Revoked, DeskError> {
        let records = self.book.revoke_agent(now, agent);
        let certificates = records.len() - 1;
        self.commit(now, records, vec![json!({"kind": "agent.revoked", "agent": agent})]).await?;
        Counters::add(&self.counters.revoked);
        tracing::warn!(%agent, certificates, "agent revoked");
        Ok(Revoked { agent, certificates, revoked_at: now })
    }

    /// Makes records and events durable, then applies them and tells the handshakes.
    async fn commit(
        &mut self,
        now: DateTime<Utc>,
        records: Vec<Record>,
        events: Vec<Value>,
    ) -> Result<(), DeskError> {
        let at_ns = now.timestamp_nanos_opt().unwrap_or(i64::MAX);
        let mut changes: Vec<Change> = records.iter().map(change).collect();
        changes.extend(events.into_iter().map(|json| Change::Append { log: log::ENROLMENT, at_ns, json }));
        self.state.commit(changes).await?;
        for record in records {
            match &record {
                Record::Certificate(issued) => self.standing.note(&issued.serial, issued.standing()),
                Record::Revocation(revocation) => self.standing.note_agent(revocation.agent, revocation.at),
                Record::ForgetCertificate(serial) => self.standing.forget(serial),
                Record::Token(_) | Record::ForgetToken(_) => {}
            }
            self.book.apply(record);
        }
        Ok(())
    }
}

fn change(record: &Record) -> Change {
    let put = |kind, id: String, json: Result<Value, serde_json::Error>| {
        // These types are plain structures of text and numbers.
        let json = json.expect("a record always encodes");
        Change::Put { kind, id, expected: Expected::Anything, json }
    };
    match record {
        Record::Token(token) => put(kind::JOIN_TOKEN, token.id().to_owned(), serde_json::to_value(token)),
        Record::Certificate(issued) => {
            put(kind::AGENT_CERTIFICATE, issued.serial.clone(), serde_json::to_value(issued))
        }
        Record::Revocation(revocation) => {
            put(kind::AGENT_REVOCATION, revocation.agent.to_string(), serde_json::to_value(revocation))
        }
        Record::ForgetToken(id) => Change::Delete { kind: kind::JOIN_TOKEN, id: id.clone() },
        Record::ForgetCertificate(serial) => {
            Change::Delete { kind: kind::AGENT_CERTIFICATE, id: serial.clone() }
        }
    }
}

async fn load(state: &State, book: &mut Book) -> Result<(), StateError> {
    for entity in state.list(kind::JOIN_TOKEN).await? {
        read(&entity.id, Token::deserialize(&entity.json).map(Record::Token), book);
    }
    for entity in state.list(kind::AGENT_CERTIFICATE).await? {
        read(&entity.id, Issued::deserialize(&entity.json).map(Record::Certificate), book);
    }
    for entity in state.list(kind::AGENT_REVOCATION).await? {
        read(&entity.id, Revocation::deserialize(&entity.json).map(Record::Revocation), book);
    }
    Ok(())
}

fn read(id: &str, record: Result<Record, serde_json::Error>, book: &mut Book) {
    match record {
        Ok(record) => book.apply(record),
        Err(error) => tracing::error!(id, %error, "enrolment record in the state does not parse, skipped"),
    }
}

impl DeskHandle {
    async fn ask<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, DeskError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_closed| DeskError::Closed)?;
        answer.await.unwrap_or(Err(DeskError::Closed))
    }

    /// Makes a token. Its text is shown this once.
    ///
    /// # Errors
    /// When there are too many, or the state can't be written.
    pub async fn make_token(&self, wanted: NewToken) -> Result<(Secret, TokenView), DeskError> {
        self.ask(|reply| Order::MakeToken(wanted, reply)).await
    }

    /// Revokes a token; `None` when there is none of this id.
    ///
    /// # Errors
    /// When the state can't be written.
    pub async fn revoke_token(&self, id: &str) -> Result<Option<TokenView>, DeskError> {
        self.ask(|reply| Order::RevokeToken(id.to_owned(), reply)).await
    }

    /// All tokens, newest first.
    ///
    /// # Errors
    /// When the process is ending.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, DeskError> {
        self.ask(Order::Tokens).await
    }

    /// All certificates on the book, newest first.
    ///
    /// # Errors
    /// When the process is ending.
    pub async fn certificates(&self) -> Result<Vec<CertificateView>, DeskError> {
        self.ask(Order::Certificates).await
    }

    /// The last events, newest first.
    ///
    /// # Errors
    /// When the state can't be read.
    pub async fn events(&self, limit: u32) -> Result<Vec<EventView>, DeskError> {
        let lines = self.state.log(log::ENROLMENT, limit).await?;
        Ok(lines.into_iter().map(|line| event(line.at_ns, &line.json)).collect())
    }

    /// A first certificate.
    ///
    /// # Errors
    /// When the token does not admit the agent, or the state can't be written.
    pub async fn enrol(&self, token: JoinToken, who: Applicant) -> Result<Issued, DeskError> {
        self.ask(|reply| Order::Enrol(token, who, reply)).await
    }

    /// A further certificate for the bearer of the one with this serial number.
    ///
    /// # Errors
    /// When that is not on the book, or the state can't be written.
    pub async fn renew(&self, serial: String, who: Applicant) -> Result<Issued, DeskError> {
        self.ask(|reply| Order::Renew(serial, who, reply)).await
    }

    /// Revokes an agent.
    ///
    /// # Errors
    /// When the state can't be written.
    pub async fn revoke_agent(&self, agent: Uuid) -> Result<Revoked, DeskError> {
        self.ask(|reply| Order::RevokeAgent(agent, reply)).await
    }
}

fn event(at_ns: i64, json: &Value) -> EventView {
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let id = |key: &str| json[key].as_str().and_then(|text| text.parse().ok());
    EventView {
        at: DateTime::from_timestamp_nanos(at_ns),
        kind: text("kind").unwrap_or_default(),
        token: text("token"),
        agent: id("agent"),
        used_before_by: id("used_before_by"),
        peer: text("peer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_certificate_that_the_book_forgets_is_forgotten_by_handshakes() {
        let directory = tempfile::tempdir().unwrap();
        let now = Utc::now();
        let standing = Standing::default();
        let parts = Parts {
            authority: Authority::open(directory.path(), now).unwrap(),
            pins: false,
            life: Duration::from_secs(5),
            state: State::open(directory.path()).unwrap(),
            standing: standing.clone(),
            counters: Arc::default(),
        };
        let (mut desk, _handle) = Desk::open(parts).await.unwrap();
        let issued = Issued {
            serial: "1".to_owned(),
            agent: Uuid::from_u128(1),
            key: String::new(),
            scope: String::new(),
            token: String::new(),
            node: String::new(),
            issued_at: now,
            not_before: now,
            not_after: now + desk.life,
            der: String::new(),
            revoked_at: None,
            revoked_because: String::new(),
        };
        let facts = crate::tls::AgentCertificate {
            agent: Some(issued.agent),
            serial: issued.serial.clone(),
            not_before: issued.not_before,
            not_after: issued.not_after,
        };
        desk.commit(now, vec![Record::Certificate(issued)], Vec::new()).await.unwrap();
        assert!(standing.is_own(&facts));
        let wanted = NewToken { life: desk.life, uses: 1, scope: String::new(), agent: None };
        desk.make_token(now + chrono::TimeDelta::days(2), wanted).await.unwrap();
        assert!(desk.book.certificates(now).is_empty() && !standing.is_own(&facts));
    }
}
