//! The admin address, on loopback: `/livez`, `/readyz`, `/metrics`, `/probes` (what they are, cost and missed), and where it
//! is allowed `PUT /probes?enabled=BOOL`.
//! `POST /debug/dump` makes the flight recorder keep its last minute.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::connect::Faults;
use crate::probe::ProbeHandle;
use crate::probe::flight::Trigger;
use crate::telemetry::Telemetry;

/// Connections at the same time; more have to wait.
const CONNECTIONS: usize = 16;

/// Time for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a whole connection, so that idle ones don't use up the places.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// What the pages show.
#[derive(Debug)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
    registry: Registry,
    ready: Arc<AtomicBool>,
    probes: ProbeHandle,
    control: bool,
    faults: Faults,
}

/// A bound address, not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Binds the address.
///
/// # Errors
/// When it is taken.
pub async fn bind(address: SocketAddr) -> io::Result<Bound> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(Bound { listener, address })
}

impl Admin {
    /// `ready` says whether the agent works; `control` whether the probes may be switched.
    pub fn new(
        telemetry: Arc<Telemetry>,
        ready: Arc<AtomicBool>,
        probes: ProbeHandle,
        control: bool,
        faults: Faults,
    ) -> Self {
        let registry = telemetry.registry();
        Self { telemetry, registry, ready, probes, control, faults }
    }

    /// Serves until `stop`.
    pub async fn serve(self, bound: Bound, stop: CancellationToken) {
        let admin = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = bound.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept on the admin address failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let admin = Arc::clone(&admin);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let admin = Arc::clone(&admin);
                    async move { Ok::<_, Infallible>(admin.answer(&request).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = serve_for(connection, CONNECTION_TIMEOUT).await {
                    tracing::debug!(%error, "admin connection ended");
                }
                drop(place);
            });
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") => self.readiness(),
            (&Method::GET, "/metrics") => {
                let page = self.telemetry.page(&self.registry);
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                respond(StatusCode::OK, kind, page.into())
            }
            (&Method::GET, "/probes") => match self.probes.report().await {
                Some(report) => respond(StatusCode::OK, "application/json", format!("{report:#}\n").into()),
                None => text(StatusCode::NOT_FOUND, "the probes are not loaded: /metrics says why\n"),
            },
            (&Method::PUT, "/probes") if self.control => self.switch(request.uri().query()).await,
            (&Method::PUT, "/probes") => text(
                StatusCode::FORBIDDEN,
                "switching probes is not allowed here: set listen.admin-control\n",
            ),
            (&Method::POST, "/debug/dump") => {
                if self.probes.dumps().ask(None, Trigger::Asked) {
                    text(StatusCode::ACCEPTED, "dump asked for; the event flight.dumped tells its end\n")
                } else {
                    text(StatusCode::SERVICE_UNAVAILABLE, "the probes are too busy\n")
                }
            }
            (_, "/livez" | "/readyz" | "/metrics" | "/probes" | "/debug/dump") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
            }
            _ => text(StatusCode::NOT_FOUND, "not found: try /livez, /readyz or /metrics\n"),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        if etcdmon_service::process::panics() > 0 {
            return text(StatusCode::SERVICE_UNAVAILABLE, "a task panicked\n");
        }
        if !self.ready.load(Ordering::Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
        }
        // A refused certificate is not mended by waiting, and until then nothing arrives: somebody must act.
        if let Some(fault) = self.faults.current() {
            return text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {fault}\n"));
        }
        // Facts for people; an aggregator that is away is no reason to be restarted.
        let streams = ["batches", "live"].map(|stream| {
            let (state, failures) = self.telemetry.breaker_of(stream);
            format!("aggregator {stream}: breaker {}, failures {failures}\n", state.name())
        });
        respond(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from(format!("ok\n{}", streams.concat())))
    }

    async fn switch(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let enabled = match query {
            Some("enabled=true") => true,
            Some("enabled=false") => false,
            _ => return text(StatusCode::BAD_REQUEST, "expected ?enabled=true or ?enabled=false\n"),
        };
        match self.probes.enable(enabled).await {
            Ok(()) => text(StatusCode::OK, if enabled { "probes on\n" } else { "probes off\n" }),
            Err(error) => text(StatusCode::CONFLICT, &format!("{error}\n")),
        }
    }
}

/// Serves a connection until its time is over. A request that is under way then is still answered.
async fn serve_for<S>(
    connection: http1::Connection<TokioIo<TcpStream>, S>,
    time: Duration,
) -> Result<(), hyper::Error>
where
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: std::error::Error + Send + Sync + 'static,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = tokio::time::sleep(time) => connection.as_mut().graceful_shutdown(),
    }
    tokio::time::timeout(HEAD_TIMEOUT, connection).await.unwrap_or(Ok(()))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
