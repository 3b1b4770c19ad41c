//! Who is at the other end of a connection, and what that allows.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use chrono::Utc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::Status;
use tonic::transport::server::Connected;
use uuid::Uuid;

use crate::enrol::Standing;
use crate::tls::AgentCertificate;

/// A certificate that is not on the book is looked at again after so long, whatever the book says meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Facts of a connection, with every request that comes over it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The other end.
    pub address: SocketAddr,
    /// The certificate that it showed; checked during the handshake.
    pub certificate: Option<Arc<AgentCertificate>>,
}

/// What streams need to begin.
#[derive(Debug, Clone, Default)]
pub enum Door {
    /// Nothing: the port is plain.
    #[default]
    Open,
    /// A certificate that still counts.
    Certificates {
        /// Which do.
        standing: Standing,
        /// Whether a stream without one is refused.
        required: bool,
    },
}

/// The right to a stream.
#[derive(Debug, Clone)]
pub struct Pass(Option<Shown>);

/// What was shown for it.
#[derive(Debug, Clone)]
struct Shown {
    certificate: Arc<AgentCertificate>,
    /// Whether it was handed out here, as far as that was known when the stream began.
    is_own: bool,
    standing: Standing,
}

impl Door {
    /// Whether this peer may open a stream.
    ///
    /// # Errors
    /// With the status that ends the stream.
    pub fn admit(&self, peer: Option<&Peer>) -> Result<Pass, Status> {
        let Self::Certificates { standing, required } = self else { return Ok(Pass(None)) };
        let certificate = peer.and_then(|peer| peer.certificate.clone());
        let Some(certificate) = certificate else {
            let refusal = "a client certificate is needed here: enrol the agent with a join token, or give it \
                           aggregator.cert-file and aggregator.key-file";
            return if *required { Err(Status::unauthenticated(refusal)) } else { Ok(Pass(None)) };
        };
        let is_own = standing.is_own(&certificate);
        match standing.end_of_stream(&certificate, is_own, Utc::now()) {
            Some(reason) => Err(Status::permission_denied(reason)),
            None => Ok(Pass(Some(Shown { certificate, is_own, standing: standing.clone() }))),
        }
    }
}

impl Pass {
    /// Whether its holder is this agent: an agent writes only as itself.
    ///
    /// # Errors
    /// With the status that ends the stream.
    pub fn check(&self, agent: Uuid) -> Result<(), Status> {
        let Some(Shown { certificate, .. }) = &self.0 else { return Ok(()) };
        match certificate.agent {
            Some(own) if own == agent => Ok(()),
            Some(own) => Err(Status::permission_denied(format!(
                "the certificate is that of agent {own}, it may not speak for agent {agent}"
            ))),
            None => Err(Status::permission_denied(format!(
                "the certificate names no agent: it needs the URI {} among its alternative names",
                crate::tls::agent_urn(agent)
            ))),
        }
    }

    /// Waits until the pass counts no more, and says why.
    pub async fn ended(&self) -> Status {
        let Some(Shown { certificate, is_own, standing }) = &self.0 else {
            return std::future::pending().await;
        };
        let mut changes = standing.changes();
        loop {
            let now = Utc::now();
            if let Some(reason) = standing.end_of_stream(certificate, *is_own, now) {
                return Status::permission_denied(reason);
            }
            let left = (certificate.not_after - now).to_std().unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
            tokio::select! {
                // The standing outlives every stream.
                _ = changes.changed() => {}
                () = tokio::time::sleep(left + Duration::from_millis(1)) => {}
            }
        }
    }
}

/// Bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection with its facts. One that has a deadline breaks when it is over: strangers may enrol, and not stay.
pub struct Connection {
    io: Box<dyn Io>,
    peer: Peer,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    /// With its facts, and how long it may last.
    pub fn new(io: Box<dyn Io>, peer: Peer, time: Option<Duration>) -> Self {
        Self { io, peer, deadline: time.map(|time| Box::pin(tokio::time::sleep(time))) }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let over = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        if over {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    const AGENT: Uuid = Uuid::from_u128(1);

    fn peer(agent: Option<Uuid>, seconds_left: i64) -> Peer {
        let now = Utc::now();
        let not_after = now + chrono::TimeDelta::seconds(seconds_left);
        let certificate =
            AgentCertificate { agent, serial: "1".to_owned(), not_before: DateTime::UNIX_EPOCH, not_after };
        Peer { address: "127.0.0.1:1".parse().unwrap(), certificate: Some(Arc::new(certificate)) }
    }

    fn door(required: bool) -> (Door, Standing) {
        let standing = Standing::default();
        (Door::Certificates { standing: standing.clone(), required }, standing)
    }

    #[test]
    fn an_agent_writes_only_as_itself() {
        let (door, _) = door(true);
        let pass = door.admit(Some(&peer(Some(AGENT), 60))).unwrap();
        assert!(pass.check(AGENT).is_ok());
        let refusal = pass.check(Uuid::from_u128(2)).unwrap_err();
        assert!(refusal.message().contains("may not speak for agent 00000000-0000-0000-0000-000000000002"));
        let nameless = door.admit(Some(&peer(None, 60))).unwrap();
        assert!(nameless.check(AGENT).unwrap_err().message().contains("names no agent"));
    }

    #[test]
    fn without_a_certificate_there_is_a_stream_only_where_none_is_needed() {
        let stranger = Peer { certificate: None, ..peer(None, 0) };
        assert_eq!(door(true).0.admit(Some(&stranger)).unwrap_err().code(), tonic::Code::Unauthenticated);
        assert!(door(false).0.admit(Some(&stranger)).unwrap().check(AGENT).is_ok());
        assert!(Door::Open.admit(None).unwrap().check(AGENT).is_ok());
    }

    #[tokio::test]
    async fn a_pass_ends_with_a_revocation() {
        let (door, standing) = door(true);
        let pass = door.admit(Some(&peer(Some(AGENT), 3_600))).unwrap();
        let mut ended = std::pin::pin!(pass.ended());
        let still = tokio::time::timeout(Duration::from_millis(50), ended.as_mut()).await;
        assert!(still.is_err());
        standing.note_agent(AGENT, Utc::now());
        let status = ended.await;
        assert!(status.message().starts_with("certificate revoked by the aggregator"), "{status}");
        assert!(door.admit(Some(&peer(Some(AGENT), 3_600))).is_err());
    }
}
