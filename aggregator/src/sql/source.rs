//! Where statements run: the embedded engine by its reader's key, or a server by a user of its own.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use etcdmon_service::logging::ErrorChain;
use etcdmon_service::secret::Secret;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, Url, redirect};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use super::{Limits, MAX_TREE_BYTES, SqlError, standing};
use crate::store::Endpoint;

/// A connection that is not there after this long never comes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest silence of a store that still runs a statement.
const READ_TIMEOUT: Duration = Duration::from_secs(45);

/// Most bytes of an error that are read.
const ERROR_BYTES: usize = 64 << 10;

/// How long a server's user that was found fit counts as fit.
const FIT_FOR: Duration = Duration::from_secs(60);

/// A ClickHouse server, and the user there that may only read.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its HTTP interface.
    pub url: String,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// Where statements run.
pub struct Source {
    client: Client,
    place: Place,
}

enum Place {
    Embedded(watch::Receiver<Option<Endpoint>>),
    Server { server: Server, fit_since: Mutex<Option<Instant>> },
    Nowhere(&'static str),
}

/// A statement as a store gets it.
pub struct Ask<'a> {
    /// The text.
    pub sql: String,
    /// Database that names without one are looked up in.
    pub database: &'a str,
    /// Format of the answer.
    pub format: &'a str,
    /// Values of placeholders.
    pub parameters: &'a [(String, String)],
    /// Limits.
    pub limits: Limits,
}

impl Source {
    /// The embedded engine, wherever it answers at the moment.
    ///
    /// # Errors
    /// When the HTTP client can't be made.
    pub fn embedded(endpoint: watch::Receiver<Option<Endpoint>>) -> Result<Self, reqwest::Error> {
        // Loopback without TLS: a machine without any authority's certificate will do.
        let client = builder().tls_certs_only([]).build()?;
        Ok(Self { client, place: Place::Embedded(endpoint) })
    }

    /// A server; `None` when there is no user for SQL.
    ///
    /// # Errors
    /// When the HTTP client can't be made.
    pub fn server(server: Option<Server>) -> Result<Self, reqwest::Error> {
        let is_plain = server.as_ref().is_none_or(|server| server.url.starts_with("http:"));
        let builder = if is_plain { builder().tls_certs_only([]) } else { builder() };
        let place = match server {
            Some(server) => Place::Server { server, fit_since: Mutex::default() },
            None => Place::Nowhere(
                "SQL needs a user of its own at the ClickHouse server, which may only read: set clickhouse.sql-user and \
                 clickhouse.sql-password-file",
            ),
        };
        Ok(Self { client: builder.build()?, place })
    }

    /// Looks whether the user at a server may only read, at most once a minute.
    ///
    /// # Errors
    /// When it may more, or the server can't be asked.
    pub async fn check(&self, database: &str) -> Result<(), SqlError> {
        let Place::Server { fit_since, .. } = &self.place else { return Ok(()) };
        let mut fit_since = fit_since.lock().await;
        if fit_since.is_some_and(|since| since.elapsed() < FIT_FOR) {
            return Ok(());
        }
        *fit_since = None;
        let ask = |sql: &str| Ask {
            sql: sql.to_owned(),
            database,
            format: "TabSeparatedRaw",
            parameters: &[],
            limits: Limits::default(),
        };
        let grants = self.fetch(ask(standing::GRANTS), "").await?;
        let settings = self.fetch(ask(standing::SETTINGS), "").await?;
        standing::judge(&String::from_utf8_lossy(&grants), &String::from_utf8_lossy(&settings))
            .map_err(|unfit| SqlError::Off(unfit.to_string()))?;
        *fit_since = Some(Instant::now());
        Ok(())
    }

    /// The whole of a short answer.
    pub async fn fetch(&self, ask: Ask<'_>, before: &str) -> Result<Vec<u8>, SqlError> {
        let (_id, response) = self.begin(ask, before).await?;
        read(response, MAX_TREE_BYTES).await
    }

    /// Begins an answer. `before` is what stands in front of the user's own text.
    pub async fn begin(&self, ask: Ask<'_>, before: &str) -> Result<(Uuid, Response), SqlError> {
        let id = Uuid::new_v4();
        let (request, tag) = self.request(ask, id)?;
        let response =
            request.send().await.map_err(|error| SqlError::Unavailable(ErrorChain(&error).to_string()))?;
        if response.status().is_success() {
            return Ok((id, response));
        }
        let text = read(response, ERROR_BYTES).await?;
        let before = format!("{tag}{before}");
        Err(SqlError::from_engine(&String::from_utf8_lossy(&text), &before))
    }

    /// The request, and what the store puts in front of its text.
    fn request(&self, ask: Ask<'_>, id: Uuid) -> Result<(RequestBuilder, String), SqlError> {
        let id = id.simple().to_string();
        let mut pairs: Vec<(String, String)> =
            [("database", ask.database), ("default_format", ask.format), ("query_id", id.as_str())]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        pairs.extend(ask.parameters.iter().map(|(name, value)| (format!("param_{name}"), value.clone())));
        let post = |url: &str, pairs: &[(String, String)]| {
            let mut url =
                Url::parse(url).map_err(|error| SqlError::Off(format!("address of the store: {error}")))?;
            url.query_pairs_mut().extend_pairs(pairs);
            Ok::<_, SqlError>(self.client.post(url))
        };
        let (request, tag) = match &self.place {
            Place::Embedded(endpoint) => {
                let endpoint = endpoint.borrow().clone();
                let endpoint = endpoint
                    .ok_or_else(|| SqlError::Unavailable("embedded engine is not running".to_owned()))?;
                pairs.extend(settings(ask.limits));
                let request = post(&endpoint.url, &pairs)?.header("x-clickhouse-key", endpoint.reader_key);
                (request, format!("/* query_id:{id} */ "))
            }
            Place::Server { server, .. } => {
                // Its profile has the limits, and a user that may only read may not change them. Errors come first, as long
                // as the answer fits into the server's buffer.
                pairs.push(("wait_end_of_query".to_owned(), "1".to_owned()));
                pairs.push(("buffer_size".to_owned(), (8 << 20).to_string()));
                let request = post(&server.url, &pairs)?.header("x-clickhouse-user", &server.user);
                (request.header("x-clickhouse-key", server.password.reveal()), String::new())
            }
            Place::Nowhere(reason) => return Err(SqlError::Off((*reason).to_owned())),
        };
        Ok((request.body(ask.sql), tag))
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(redirect::Policy::none())
        // The store is where the settings say, and loopback goes through no proxy.
        .no_proxy()
}

/// The limits as settings of ClickHouse.
fn settings(limits: Limits) -> impl Iterator<Item = (String, String)> {
    let named = [
        ("max_execution_time", limits.seconds),
        ("max_result_rows", limits.rows),
        ("max_result_bytes", limits.bytes),
        ("max_rows_to_read", limits.rows_read),
        ("max_memory_usage", limits.memory_bytes),
    ];
    named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_string())))
}

/// Rows that were read for an answer, if its head tells.
pub fn rows_read(response: &Response) -> Option<u64> {
    let summary = response.headers().get("x-clickhouse-summary")?.to_str().ok()?;
    let summary: serde_json::Value = serde_json::from_str(summary).ok()?;
    summary.get("read_rows")?.as_str()?.parse().ok()
}

async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, SqlError> {
    let mut all = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(SqlError::Broken)? {
        all.extend_from_slice(&piece);
        if all.len() > most {
            return Err(SqlError::Failed("the store says more than it should".to_owned()));
        }
    }
    Ok(all.into())
}
