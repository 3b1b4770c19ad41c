//! The port.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, ServerTlsConfig};

use super::{Counters, Service};

/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long a connection may take until it shows what it is.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that have not yet shown what they are.
const MAX_STRANGERS: usize = 256;

/// Streams within one connection: an agent needs two.
const STREAMS_PER_CONNECTION: u32 = 16;

/// How often a silent connection is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Bytes in flight to us: a window of batches fits.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Serves agents until `stop`, over TLS when `tls` is given. Connections that do not begin like a gRPC client's are
/// closed before they cost anything.
///
/// # Errors
/// When the TLS configuration is not usable.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    tls: Option<ServerTlsConfig>,
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
    let over_tls = tls.is_some();
    if let Some(tls) = tls {
        server = server.tls_config(tls)?;
    }
    let (known, incoming) = mpsc::channel(16);
    let accept = accept(listener, known, counters, over_tls, stop.clone());
    let router = server.add_service(service.into_server());
    let serve = router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned());
    let (served, ()) = tokio::join!(serve, accept);
    served
}

async fn accept(
    listener: TcpListener,
    known: mpsc::Sender<io::Result<TcpStream>>,
    counters: Arc<Counters>,
    over_tls: bool,
    stop: CancellationToken,
) {
    let strangers = Arc::new(tokio::sync::Semaphore::new(MAX_STRANGERS));
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
        let (known, counters) = (known.clone(), counters.clone());
        tokio::spawn(async move {
            let familiar = tokio::time::timeout(PREFACE_TIMEOUT, is_familiar(&stream, over_tls)).await;
            drop(permit);
            if familiar.unwrap_or(false) {
                // A closed channel means the server is stopping.
                let _ = known.send(Ok(stream)).await;
            } else {
                Counters::add(&counters.garbage, 1);
                tracing::debug!(%peer, "connection does not begin like an agent's, closed");
            }
        });
    }
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
