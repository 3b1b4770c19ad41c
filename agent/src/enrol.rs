//! Enrolment: a join token becomes a certificate, and a certificate is renewed before it ends.
//!
//! Everything is in `credentials` in the state directory, for the owner only: `agent.pem` (key and certificate in one file,
//! so that they are exchanged together), `authorities.pem` (whom to trust; absent when the settings say it),
//! `pending.key` (the key of a request that is under way: asked again with the same key, the aggregator gives the same
//! answer, so an answer that was lost costs no second use of the token) and `token-used` (SHA-256 of the token that was
//! used last). Nothing is synced to disk: it may be etcd's. What a power failure takes is enrolled anew.

use std::sync::Arc;
use std::time::Duration;

use etcdmon_proto::v1::{self, enrolment_client::EnrolmentClient};
use etcdmon_service::backoff::Backoff;
use etcdmon_service::logging::ErrorChain;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::config::TokenSource;
use crate::connect::certificate::{Moment, pin};
use crate::connect::tls::Trust;
use crate::connect::{ConnectError, Connector, Credentials, Refusal};
use crate::telemetry::Telemetry;

mod files;
mod token;

pub use files::{Files, Stored};
use token::JoinToken;

/// How often the files and the reasons for another enrolment are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Pauses between tries.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Part of a certificate's life after which it is renewed, and how much earlier it may be: agents that enrolled together
/// do not renew together.
const RENEWAL: (f64, f64) = (2.0 / 3.0, 0.08);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The files.
    #[error("{attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to enrol with.
    #[error("{0}; put a new join token into enrol.token-file")]
    NoToken(&'static str),
    /// The text is no token.
    #[error("what is in enrol.token-file or ETCD_MONITOR_AGENT_ENROL_TOKEN is no join token")]
    NotAToken,
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The aggregator says no.
    #[error("the aggregator refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
    /// The aggregator does not answer.
    #[error("the aggregator gave no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// A key can't be made.
    #[error("make a key")]
    Key(#[source] rcgen::Error),
    /// The answer makes no sense.
    #[error("the aggregator's answer can't be used: {0}")]
    Answer(&'static str),
}

/// Keeps the agent's certificate.
#[derive(Debug)]
pub struct Enrolment {
    agent_id: [u8; 16],
    files: Files,
    tokens: TokenSource,
    connector: Connector,
    telemetry: Arc<Telemetry>,
    /// Part of the life after which this process renews.
    renew_after: f64,
    /// The error that was told last.
    told: Option<String>,
}

impl Enrolment {
    /// For this agent. `connector` is the senders': with the credentials in `files`.
    pub fn new(
        agent_id: [u8; 16],
        files: Files,
        tokens: TokenSource,
        connector: Connector,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let renew_after = RENEWAL.0 - RENEWAL.1 * rand::random::<f64>();
        Self { agent_id, files, tokens, connector, telemetry, renew_after, told: None }
    }

    /// Enrols and renews until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut faults = self.connector.faults().changes();
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => return,
                done = self.step() => match done {
                    Ok(pause) => {
                        backoff.reset();
                        self.told = None;
                        pause
                    }
                    Err(error) => {
                        self.report(&error);
                        backoff.pause()
                    }
                },
            };
            tokio::select! {
                () = stop.cancelled() => return,
                // Its own fault changes wake it up once more, which is harmless: they are told before the pause.
                _ = faults.changed(), if self.told.is_none() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what is due; yields how long nothing is.
    async fn step(&mut self) -> Result<Duration, EnrolError> {
        let now = OffsetDateTime::now_utc();
        let stored = self.files.read()?;
        self.telemetry.certificate_expiry.set(stored.as_ref().map_or(0, |s| s.not_after.unix_timestamp()));
        let refused = self.connector.faults().current().is_some_and(|fault| fault.needs_enrolment());
        let Some(stored) = stored.filter(|stored| stored.not_after > now && !refused) else {
            self.enrol(refused).await?;
            return Ok(Duration::ZERO);
        };
        let due = stored.due(self.renew_after);
        if due > now {
            return Ok(PERIOD.min((due - now).try_into().unwrap_or(Duration::ZERO)));
        }
        self.renew().await?;
        Ok(Duration::ZERO)
    }

    async fn enrol(&mut self, refused: bool) -> Result<(), EnrolError> {
        let text = self.tokens.read().map_err(|source| EnrolError::File {
            attempt: "read",
            path: "enrol.token-file".to_owned(),
            source,
        })?;
        let text = text.ok_or(EnrolError::NoToken("there is no join token"))?;
        let token = JoinToken::parse(text.reveal()).ok_or(EnrolError::NotAToken)?;
        let has_certificate = self.files.read()?.is_some();
        if has_certificate && self.files.was_used(&token) {
            return Err(EnrolError::NoToken(if refused {
                "the certificate is refused and the join token was used already"
            } else {
                "the certificate has expired and the join token was used already"
            }));
        }
        let trust = token.pin.clone().map_or_else(|| self.connector.trust().clone(), Trust::Pin);
        let strangers = self.connector.with(Credentials::None, trust);
        let (key, certificate_request) = self.files.request()?;
        let request = v1::EnrolRequest {
            token: text.reveal().clone(),
            agent_id: self.agent_id.to_vec(),
            certificate_request,
            node_name: crate::send::node_name(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut client = EnrolmentClient::new(strangers.channel().await?);
        let reply = answer(client.enrol(request)).await?;
        let pinned = |der: &Vec<u8>| pin(der) == token.pin;
        if token.pin.is_some() && !reply.authorities.iter().any(pinned) {
            return Err(EnrolError::Answer("the authority of the join token is not in it"));
        }
        let stored = self.files.store(&key, &reply)?;
        self.files.note_used(&token)?;
        self.telemetry.enrolments.inc();
        self.connector.faults().clear();
        tracing::info!(until = %Moment(stored.not_after), "enrolled");
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), EnrolError> {
        let (key, certificate_request) = self.files.request()?;
        let mut client = EnrolmentClient::new(self.connector.channel().await?);
        let reply = answer(client.renew(v1::RenewRequest { certificate_request })).await?;
        let stored = self.files.store(&key, &reply)?;
        self.telemetry.enrolments.inc();
        tracing::info!(until = %Moment(stored.not_after), "certificate renewed");
        Ok(())
    }

    /// Tells a failure once, and what a person must mend also on `/readyz`.
    fn report(&mut self, error: &EnrolError) {
        self.telemetry.enrolment_failures.inc();
        let text = ErrorChain(error).to_string();
        let faults = self.connector.faults();
        let has_certificate = self.files.read().ok().flatten().is_some();
        match error {
            EnrolError::Connect(ConnectError::Refused(refusal)) => faults.set(refusal.clone()),
            // What was wrong with the certificate says more than that there is no token to replace it.
            _ if has_certificate && faults.current().is_some() => {}
            _ if has_certificate => {}
            _ => faults.set(Refusal::NotEnrolled(text.clone())),
        }
        if self.told.as_ref() == Some(&text) {
            tracing::debug!(error = text, "still no new certificate");
        } else {
            tracing::warn!(error = text, "no new certificate from the aggregator");
            self.told = Some(text);
        }
    }
}

async fn answer(
    call: impl Future<Output = Result<tonic::Response<v1::EnrolReply>, tonic::Status>>,
) -> Result<v1::EnrolReply, EnrolError> {
    let answered = tokio::time::timeout(TIMEOUT, call).await.map_err(|_elapsed| EnrolError::Timeout)?;
    answered.map(tonic::Response::into_inner).map_err(|status| EnrolError::Refused(Box::new(status)))
}
