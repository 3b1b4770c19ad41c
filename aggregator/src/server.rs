//! The API's port: accepts connections within bounds and serves them until told to end.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::admin::SOCKET;

/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 512;

/// How long a client may take to say which HTTP it speaks, and to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTP/2 connection without traffic is asked so often whether its client is still there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long the answer to that may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 32 << 10;

/// How long open requests may go on after the order to end.
const GRACE: Duration = Duration::from_secs(5);

/// Pause after a failed accept, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `router` on `listener` until `end`, over TLS when `tls` is given, then lets open requests finish within a grace
/// period.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    end: CancellationToken,
) {
    let tls = tls.map(TlsAcceptor::from);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES as u32)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let (builder, tls, watcher) = (builder.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let Some(stream) = greet(stream, tls).await else {
                tracing::debug!(%peer, "TLS handshake failed");
                return;
            };
            let stream = TokioIo::new(Begun::new(stream, HEAD_TIMEOUT));
            let connection = builder.serve_connection(stream, service).into_owned();
            // Garbage, and clients that go away, are their own business.
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off at shutdown");
    }
}

/// The stream that HTTP runs over; `None` when the handshake fails or takes too long.
async fn greet(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
) -> Option<Either<TcpStream, TlsStream<TcpStream>>> {
    let Some(tls) = tls else { return Some(Either::Left(stream)) };
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
    Some(Either::Right(shaken.ok()?.ok()?))
}

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that breaks unless it says in time which HTTP it speaks: hyper's own limits begin only then.
struct Begun<I> {
    io: I,
    /// Bytes so far, all of them of [`PREFACE`].
    read: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<I> Begun<I> {
    fn new(io: I, time: Duration) -> Self {
        Self { io, read: 0, deadline: Some(Box::pin(tokio::time::sleep(time))) }
    }

    fn note(&mut self, bytes: &[u8]) {
        let rest = &PREFACE[self.read..];
        if bytes.len() < rest.len() && rest.starts_with(bytes) {
            self.read += bytes.len();
        } else {
            self.deadline = None;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Begun<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.deadline else {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        };
        if deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        self.note(&buffer.filled()[before..]);
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Begun<I> {
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The socket of the owner of the state. Without it only the subcommands don't work, so that is no reason to end.
pub fn bind_owners_socket(state_dir: &Path) -> Option<UnixListener> {
    let path = state_dir.join(SOCKET);
    // One of an earlier process: the lock of the state says that it is gone.
    let _absent = std::fs::remove_file(&path);
    let bound = UnixListener::bind(&path).and_then(|listener| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    bound
        .inspect_err(|error| {
            tracing::warn!(%error, path = %path.display(), "no socket for subcommands such as `token create`");
        })
        .ok()
}

/// Serves the owner of the state until `end`.
pub async fn serve_owner(listener: UnixListener, router: Router, end: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned());
    if let Err(error) = served.await {
        tracing::warn!(%error, "the socket for subcommands ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn only_what_may_still_become_http_2_has_a_deadline() {
        let time = Duration::from_millis(50);
        for (begin, is_cut_off) in [("", true), ("PRI * HTTP/2.0", true), ("G", false), ("POST", false)] {
            let (mut client, server) = tokio::io::duplex(64);
            let mut server = Begun::new(server, time);
            client.write_all(begin.as_bytes()).await.unwrap();
            let mut bytes = vec![0; begin.len()];
            server.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, begin.as_bytes());
            let more = tokio::time::timeout(4 * time, server.read_u8()).await;
            assert_eq!(more.is_ok(), is_cut_off, "{begin:?}: {more:?}");
        }
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Begun::new(server, time);
        client.write_all(PREFACE).await.unwrap();
        let mut bytes = [0; 24];
        server.read_exact(&mut bytes[..10]).await.unwrap();
        server.read_exact(&mut bytes[10..]).await.unwrap();
        assert!(tokio::time::timeout(4 * time, server.read_u8()).await.is_err(), "hyper asks from now on");
    }
}
