//! The way to ClickHouse: a server by URL, or the embedded engine behind its loopback endpoint. One code path: both
//! give a client of the official `clickhouse` crate.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::server::{self, External, ServerFault};
use crate::tls::TlsError;

/// No client, and why.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The embedded engine is not running; it says why in its facts.
    #[error("embedded engine is not running")]
    NotRunning,
    /// The server does not answer.
    #[error("clickhouse does not answer")]
    Unreachable(#[source] clickhouse::error::Error),
    /// The server answers, and can't be used.
    #[error(transparent)]
    Server(ServerFault),
}

/// Where the embedded engine answers now.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://127.0.0.1:<port>`
    pub url: String,
    /// What its clients must show.
    pub key: String,
    /// What those must show who may only read.
    pub reader_key: String,
    /// Rises with every start of the child: work that an earlier generation began is over.
    pub generation: u64,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Gives clients to whoever talks to ClickHouse. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    source: Source,
    database: String,
    cluster: Option<String>,
}

#[derive(Clone)]
enum Source {
    External(Box<clickhouse::Client>),
    Embedded(Box<Embedded>),
}

#[derive(Clone)]
struct Embedded {
    endpoint: watch::Receiver<Option<Endpoint>>,
    /// The client of the newest generation seen, so that its connections are reused.
    newest: Arc<Mutex<Option<(u64, clickhouse::Client)>>>,
}

impl Embedded {
    fn connect(&self) -> Result<clickhouse::Client, ClientError> {
        let endpoint = self.endpoint.borrow().clone().ok_or(ClientError::NotRunning)?;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.as_ref() {
            Some((generation, client)) if *generation == endpoint.generation => Ok(client.clone()),
            _ => {
                let client = embedded_client(&endpoint);
                *newest = Some((endpoint.generation, client.clone()));
                Ok(client)
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match &self.source {
            Source::External(_) => "external",
            Source::Embedded(_) => "embedded",
        };
        f.debug_struct("Client").field("source", &source).field("database", &self.database).finish()
    }
}

impl Client {
    /// A server by URL. Nothing is connected yet.
    ///
    /// # Errors
    /// When a certificate or key can't be used.
    pub fn external(server: &External, database: &str) -> Result<Self, TlsError> {
        let source = Source::External(Box::new(server::client(server)?));
        Ok(Self { source, database: database.to_owned(), cluster: server.cluster.clone() })
    }

    /// The embedded engine, wherever it answers at the moment.
    pub fn embedded(endpoint: watch::Receiver<Option<Endpoint>>, database: &str) -> Self {
        let embedded = Embedded { endpoint, newest: Arc::default() };
        Self { source: Source::Embedded(Box::new(embedded)), database: database.to_owned(), cluster: None }
    }

    /// The cluster that has the tables, when it is more than one server.
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Looks whether ClickHouse is there and can be used.
    ///
    /// # Errors
    /// With what is wrong.
    pub async fn probe(&self) -> Result<(), ClientError> {
        match &self.source {
            Source::External(client) => server::probe(client).await,
            Source::Embedded(embedded) => embedded.connect().map(drop),
        }
    }

    /// Name of the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// A client that works in the database.
    ///
    /// # Errors
    /// When the embedded engine is not running. An external server is not asked.
    pub fn connect(&self) -> Result<clickhouse::Client, ClientError> {
        Ok(self.connect_without_database()?.with_database(&self.database))
    }

    /// A client with no database, to create one.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_without_database(&self) -> Result<clickhouse::Client, ClientError> {
        match &self.source {
            Source::External(client) => Ok(client.as_ref().clone()),
            Source::Embedded(embedded) => embedded.connect(),
        }
    }

    /// Generation of the embedded engine; always 0 for an external server.
    ///
    /// # Errors
    /// When the embedded engine is not running.
    pub fn generation(&self) -> Result<u64, ClientError> {
        match &self.source {
            Source::External(_) => Ok(0),
            Source::Embedded(embedded) => {
                embedded.endpoint.borrow().as_ref().map(|it| it.generation).ok_or(ClientError::NotRunning)
            }
        }
    }
}

/// Loopback: bytes are cheaper to copy than to compress.
fn embedded_client(endpoint: &Endpoint) -> clickhouse::Client {
    clickhouse::Client::default()
        .with_url(&endpoint.url)
        .with_user("default")
        .with_password(&endpoint.key)
        .with_compression(clickhouse::Compression::None)
}
