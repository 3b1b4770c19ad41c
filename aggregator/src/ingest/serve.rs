//! The port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use etcdmon_service::logging::ErrorChain;
use rustls::AlertDescription;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::peer::{Connection, Peer};
use super::refusals::Refusals;
use super::{Counters, Service};
use crate::enrol::Enrolments;
use crate::tls::{AgentCertificate, OwnCertificate};

/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long a connection may take until it shows what it is, its TLS handshake included.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that have not yet shown what they are.
const MAX_STRANGERS: usize = 256;

/// How long a connection without a certificate lasts where streams need one: long enough to enrol.
const STRANGERS_TIME: Duration = Duration::from_secs(60);

/// Streams within one connection: an agent needs two.
const STREAMS_PER_CONNECTION: u32 = 16;

/// How often a silent connection is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Bytes in flight to us: a window of batches fits.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The port over TLS.
#[derive(Clone)]
pub struct TlsPort {
    /// What a handshake works with.
    pub config: Arc<rustls::ServerConfig>,
    /// The aggregator's certificate, where it made that itself.
    pub own: Option<OwnCertificate>,
    /// Enrolment, where it is offered.
    pub enrolments: Option<Enrolments>,
    /// Whether streams need a certificate: then who has none may not stay.
    pub required: bool,
}

impl fmt::Debug for TlsPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsPort").field("required", &self.required).finish_non_exhaustive()
    }
}

/// Serves agents until `stop`, over TLS when `tls` is given. Connections that do not begin like a gRPC client's are
/// closed before they cost anything.
///
/// # Errors
/// When the server can't be set up.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    tls: Option<TlsPort>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let counters = service.counters();
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(16 << 10)
        .tcp_nodelay(true);
    let (known, incoming) = mpsc::channel(16);
    let enrolments = tls.as_ref().and_then(|tls| tls.enrolments.clone()).map(Enrolments::into_server);
    let accept = accept(listener, known, counters, tls, stop.clone());
    let router = server.add_service(service.into_server()).add_optional_service(enrolments);
    let serve = router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned());
    let (served, ()) = tokio::join!(serve, accept);
    served
}

async fn accept(
    listener: TcpListener,
    known: mpsc::Sender<io::Result<Connection>>,
    counters: Arc<Counters>,
    tls: Option<TlsPort>,
    stop: CancellationToken,
) {
    let strangers = Arc::new(tokio::sync::Semaphore::new(MAX_STRANGERS));
    let refusals = Arc::new(Refusals::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, or a client that was gone already: neither ends the listener.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(permit) = strangers.clone().try_acquire_owned() else {
            Counters::add(&counters.garbage, 1);
            continue;
        };
        let (known, counters, tls) = (known.clone(), counters.clone(), tls.clone());
        let refusals = Arc::clone(&refusals);
        tokio::spawn(async move {
            let greet = greet(stream, peer, tls.as_ref(), &counters, &refusals);
            let greeted = tokio::time::timeout(PREFACE_TIMEOUT, greet).await;
            drop(permit);
            if let Ok(Some(connection)) = greeted {
                // A closed channel means the server is stopping.
                let _ = known.send(Ok(connection)).await;
            }
        });
    }
}

/// Finds out what a connection is. `None`, and counted, when it is none of an agent's.
async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<&TlsPort>,
    counters: &Counters,
    refusals: &Refusals,
) -> Option<Connection> {
    if !is_familiar(&stream, tls.is_some()).await {
        Counters::add(&counters.garbage, 1);
        tracing::debug!(peer = %address, "connection does not begin like an agent's, closed");
        return None;
    }
    let Some(tls) = tls else {
        return Some(Connection::new(Box::new(stream), Peer { address, certificate: None }, None));
    };
    // Delay means nothing to a connection that can't set it.
    let _unset = stream.set_nodelay(true);
    if let (Some(own), Ok(local)) = (&tls.own, stream.local_addr()) {
        own.cover(local.ip());
    }
    match TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream).await {
        Ok(stream) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.and_then(|der| AgentCertificate::parse(der)).map(Arc::new);
            let time = (tls.required && certificate.is_none()).then_some(STRANGERS_TIME);
            Some(Connection::new(Box::new(stream), Peer { address, certificate }, time))
        }
        Err(error) => {
            Counters::add(&counters.tls_failed, 1);
            let reason = reason(&error);
            if let Some(silent) = refusals.admit(address.ip(), &reason, Instant::now()) {
                tracing::warn!(peer = %address, reason, silent, "TLS handshake failed");
            }
            None
        }
    }
}

/// Words for a handshake that failed: whose certificate was not accepted by whom.
fn reason(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::AlertReceived(alert)) = tls else { return ErrorChain(error).to_string() };
    let words = match alert {
        AlertDescription::UnknownCA => {
            "the agent does not trust the authority that signed the aggregator's certificate"
        }
        AlertDescription::BadCertificate => {
            "the agent did not accept the aggregator's certificate: it is not for the name in aggregator.url"
        }
        AlertDescription::CertificateExpired => {
            "the aggregator's certificate is not valid at the agent's time"
        }
        AlertDescription::AccessDenied => "the agent's join token carries the pin of another authority",
        other => return format!("the agent ended the handshake: {other:?}"),
    };
    words.to_owned()
}

/// Whether the connection begins as it must, without taking anything from it.
async fn is_familiar(stream: &TcpStream, over_tls: bool) -> bool {
    let mut seen = [0; PREFACE.len()];
    let mut before = 0;
    loop {
        let Ok(length) = stream.peek(&mut seen).await else { return false };
        let begin = &seen[..length];
        if over_tls {
            return begin.first() == Some(&TLS_HANDSHAKE);
        }
        if length == PREFACE.len() || !PREFACE.starts_with(begin) || begin.is_empty() {
            return begin == PREFACE;
        }
        // Part of the preface: peek returns at once as long as anything is there, so wait for the rest by the clock.
        if length == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        before = length;
    }
}
