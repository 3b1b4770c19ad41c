//! The engine's HTTP endpoint on loopback: as much of ClickHouse's HTTP interface as its clients use.
//!
//! The unmodified `clickhouse` crate is the client that counts; `curl` works as well.
//!
//! | request | meaning |
//! |---|---|
//! | `GET /ping` | `Ok.` once the engine is open; no key needed |
//! | `GET /health` | `Ok.` when the engine has run a statement just now, beside the pool of connections |
//! | `POST /?…` with SQL in the body | runs it; rows in `default_format` unless the SQL names a format |
//! | `POST /?…` as `multipart/form-data` | parts `query` and `param_<name>` |
//! | `POST /?query=INSERT … FORMAT x` with rows in the body | insert, streamed; `decompress=1`: in ClickHouse's frames |
//!
//! Other URL parameters are settings of this statement alone. The key comes as `X-ClickHouse-Key` or as a bearer token.
//! Errors carry the engine's own text, its code in `X-ClickHouse-Exception-Code`, and no status 200. The engine cannot
//! be given a query id, so a statement's SQL is prefixed with a comment `/* query_id:<id> */`, which
//! `system.processes.query` then begins with.
//!
//! There are two keys. The reader's leads to [`super::reader`] alone, whatever the request holds.
//!
//! Whatever a client does costs at most its own request: headers, SQL, frames and idle time are bounded, and an insert
//! whose body does not end well is cancelled.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::abandon::ABANDON_HEADER;
use self::abandon::Inserts;
pub use self::error::HttpError;
use self::error::respond_error;
pub use self::frames::frame;
use self::request::Plan;
pub use self::request::{Parameters, identifier};
use super::ffi::{Answer, Connection, FfiError};
use super::pool::{Keep, Pool, PoolError};
use super::pulse;
use super::reader::Readers;
use super::reader::flow::Begun;

mod abandon;
mod error;
mod frames;
mod insert;
mod request;

/// Most bytes of SQL and parameters in one request.
const MAX_STATEMENT_BYTES: usize = 4 << 20;

/// Most bytes of request line and headers.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long a client may take for its headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may pause within its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long statements in flight may take once a stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a response; a failure after it began breaks it off.
type Body = UnsyncBoxBody<Bytes, HttpError>;

/// The endpoint's state: the engine and the keys its clients must show.
pub struct Endpoint {
    pool: Arc<Pool>,
    readers: Readers,
    keys: Keys,
    inserts: Arc<Inserts>,
}

/// What clients show.
pub struct Keys {
    /// May do everything.
    pub owner: String,
    /// May read, within the bounds of [`super::reader`].
    pub reader: String,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Owner,
    Reader,
}

impl Endpoint {
    /// An endpoint for the engine behind `pool` and `readers`.
    pub fn new(pool: Arc<Pool>, readers: Readers, keys: Keys) -> Self {
        Self { pool, readers, keys, inserts: Arc::default() }
    }
}

/// Serves until `stop`, then lets statements in flight end.
pub async fn serve(listener: TcpListener, endpoint: Arc<Endpoint>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Small answers to small questions: waiting to fill a packet only costs time.
                let _ = stream.set_nodelay(true);
                connections.spawn(converse(TokioIo::new(stream), peer, endpoint.clone(), stop.clone()));
            }
            // Out of file descriptors, or a client that was gone already: neither ends the listener.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await;
}

async fn converse(
    stream: TokioIo<tokio::net::TcpStream>,
    _peer: SocketAddr,
    endpoint: Arc<Endpoint>,
    stop: CancellationToken,
) {
    let service = service_fn(move |request| {
        let endpoint = endpoint.clone();
        async move { Ok::<_, Infallible>(answer(&endpoint, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES.max(512 << 10))
        .max_headers(64)
        .serve_connection(stream, service);
    tokio::pin!(connection);
    tokio::select! {
        // A client that breaks off is its own business.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(endpoint: &Arc<Endpoint>, request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::GET && request.uri().path() == "/ping" {
        return Response::new(Full::new(Bytes::from_static(b"Ok.\n"))).map(whole);
    }
    run(endpoint, request).await.unwrap_or_else(|error| respond_error(&error).map(whole))
}

fn whole(body: Full<Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed_unsync()
}

async fn run(endpoint: &Arc<Endpoint>, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
    let (head, body) = request.into_parts();
    let is_health = head.method == Method::GET && head.uri.path() == pulse::PATH;
    if head.uri.path() != "/" && !is_health {
        return Err(HttpError::NotFound);
    }
    let head_bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head_bytes + head.uri.query().unwrap_or_default().len() > MAX_STATEMENT_BYTES {
        return Err(HttpError::TooLarge);
    }
    let mut parameters = Parameters::from_query(head.uri.query().unwrap_or_default())?;
    let client = authenticate(endpoint, &head.headers, &parameters)?;
    if is_health {
        let pool = endpoint.pool.clone();
        let checked = tokio::task::spawn_blocking(move || pool.check()).await;
        checked.map_err(PoolError::Thread)??;
        return Ok(Response::new(Full::new(Bytes::from_static(b"Ok.\n"))).map(whole));
    }
    if client == Client::Reader {
        return read(endpoint, &head.headers, parameters, body).await;
    }
    if let Some(query_id) = head.headers.get(ABANDON_HEADER).and_then(|value| value.to_str().ok()) {
        let (endpoint, query_id) = (endpoint.clone(), query_id.to_owned());
        // On a thread of its own: it waits for statements that are about to begin.
        let added = tokio::task::spawn_blocking(move || endpoint.inserts.abandon(&query_id)).await;
        added.map_err(|error| HttpError::Pool(PoolError::Thread(error)))?;
    }
    if let Some(plan) = Plan::insert(&parameters) {
        return insert::run(endpoint, parameters, plan, body).await.map(|response| response.map(whole));
    }
    parameters.add_body(content_type(&head.headers), read_statement(body).await?)?;
    if head.method == Method::GET {
        parameters.settings.push(("readonly".to_owned(), "1".to_owned()));
    }
    query(endpoint, parameters).await.map(|response| response.map(whole))
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

async fn read(
    endpoint: &Endpoint,
    headers: &HeaderMap,
    mut parameters: Parameters,
    body: Incoming,
) -> Result<Response<Body>, HttpError> {
    parameters.add_body(content_type(headers), read_statement(body).await?)?;
    let query_id = parameters.query_id.clone();
    let (head, rest) = match endpoint.readers.run(parameters).await?.begin().await? {
        Begun::Whole { bytes, rows_read } => return Ok(respond(bytes, query_id, rows_read, 0).map(whole)),
        Begun::Long { head, rest } => (head, rest),
    };
    let rest = stream::try_unfold(rest, |mut rest| async move {
        Ok::<_, HttpError>(rest.next().await?.map(|bytes| (Frame::data(bytes), rest)))
    });
    let all = stream::StreamExt::chain(stream::once(async move { Ok(Frame::data(head)) }), rest);
    Ok(Response::new(StreamBody::new(all).boxed_unsync()))
}

async fn query(endpoint: &Endpoint, parameters: Parameters) -> Result<Response<Full<Bytes>>, HttpError> {
    let sql = parameters.tagged(&parameters.query);
    let query_id = parameters.query_id.clone();
    let format = parameters.default_format.clone().unwrap_or_else(|| "TabSeparated".to_owned());
    let work = move |connection: &mut Connection| {
        let result = prepare(connection, &parameters)
            .and_then(|()| connection.query(&sql, &format, &parameters.bound))
            .map(|answer| (answer.rows_read(), answer.rows_written(), Bytes::from_owner(answer)));
        let keep = keep(connection, &parameters, result.is_ok());
        (result, keep)
    };
    let (rows_read, rows_written, bytes) = endpoint.pool.run(work).await?.map_err(HttpError::Engine)?;
    Ok(respond(bytes, query_id, rows_read, rows_written))
}

fn authenticate(
    endpoint: &Endpoint,
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<Client, HttpError> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = headers
        .get("x-clickhouse-key")
        .map(|value| value.as_bytes())
        .or_else(|| bearer?.strip_prefix("Bearer ").map(str::as_bytes))
        .or_else(|| parameters.password.as_deref().map(str::as_bytes))
        .unwrap_or_default();
    let keys = [(&endpoint.keys.owner, Client::Owner), (&endpoint.keys.reader, Client::Reader)];
    let found = keys.into_iter().find(|(key, _)| !key.is_empty() && same(shown, key.as_bytes()));
    found.map(|(_, client)| client).ok_or(HttpError::Key)
}

/// Compares in a time that does not tell how much of a secret was right.
fn same(shown: &[u8], key: &[u8]) -> bool {
    shown.len() == key.len() && shown.iter().zip(key).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

async fn read_statement(body: Incoming) -> Result<Bytes, HttpError> {
    let collected =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_STATEMENT_BYTES).collect()).await;
    match collected.map_err(|_| HttpError::Slow)? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(HttpError::TooLarge),
        Err(_) => Err(HttpError::Truncated),
    }
}

/// Gives the connection the statement's database and settings.
fn prepare(connection: &mut Connection, parameters: &Parameters) -> Result<(), FfiError> {
    // `USE` at every statement: the pool does not tell who had the connection before.
    let database = parameters.database.as_deref().unwrap_or("default");
    connection.query(&format!("USE {}", request::identifier(database)), "Null", &[])?;
    if parameters.settings.is_empty() {
        return Ok(());
    }
    connection.query(&request::set_statement(&parameters.settings), "Null", &[])?;
    Ok(())
}

/// A connection whose settings were changed, or on which something failed, is not given to the next one.
fn keep(_connection: &Connection, parameters: &Parameters, succeeded: bool) -> Keep {
    if succeeded && parameters.settings.is_empty() { Keep::Yes } else { Keep::No }
}

fn respond(
    body: impl Into<Bytes>,
    query_id: Option<String>,
    rows_read: u64,
    rows_written: u64,
) -> Response<Full<Bytes>> {
    let summary = format!(r#"{{"read_rows":"{rows_read}","written_rows":"{rows_written}"}}"#);
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    for (name, value) in [("x-clickhouse-summary", Some(summary)), ("x-clickhouse-query-id", query_id)] {
        // An id that is no header value is simply not echoed.
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            headers.insert(name, value);
        }
    }
    response
}

fn respond_written(answer: &Answer, query_id: Option<String>) -> Response<Full<Bytes>> {
    respond(Bytes::new(), query_id, 0, answer.rows_written())
}
