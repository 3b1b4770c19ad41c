//! Where telemetry is stored: the embedded engine and its bounds, or a server and how to reach it.

use std::path::PathBuf;
use std::time::Duration;

use etcdmon_service::secret::Secret;
use etcdmon_service::settings::{ByteSize, Millis, Settings};

use super::{KeyPairFiles, key_pair, secret_file};
use crate::notify::channel::Webhook;
use crate::store::External;

/// Least memory for the engine, in bytes.
const LEAST_MEMORY: u64 = 256 << 20;

/// Least room for tables, in bytes.
const LEAST_ROOM: u64 = 64 << 20;

/// Least rate of writing, in bytes a second: below it inserts of busy clusters would take longer than they may.
const LEAST_WRITE_RATE: u64 = 1 << 20;

/// Bounds of the time that the engine may be silent.
const HANG_TIMEOUT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(1));

/// Where telemetry is stored.
#[derive(Debug, Clone)]
pub enum ClickHouse {
    /// The engine as our own child.
    Embedded(Embedded),
    /// A server by URL.
    External {
        /// Its HTTP interface.
        url: String,
        /// User there; empty = the server's default.
        user: String,
        /// Password there; empty = none.
        password: Secret,
        /// User and password for SQL of users; `None` = no SQL.
        sql: Option<(String, Secret)>,
        /// Authority of its certificate; `None` = the public ones.
        authority: Option<PathBuf>,
        /// Certificate to show it.
        certificate: Option<KeyPairFiles>,
        /// Its cluster, whose hosts have the tables; `None` = that server alone.
        cluster: Option<String>,
    },
}

impl ClickHouse {
    /// The server by URL, if it is one.
    pub fn server(&self) -> Option<External> {
        let Self::External { url, user, password, authority, certificate, cluster, .. } = self else {
            return None;
        };
        Some(External {
            url: url.clone(),
            user: user.clone(),
            password: password.reveal().to_owned(),
            authority: authority.clone(),
            certificate: certificate.as_ref().map(|pair| (pair.certificate.clone(), pair.key.clone())),
            cluster: cluster.clone(),
        })
    }
}

/// The embedded engine.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Its library, if not in the usual places.
    pub library: Option<PathBuf>,
    /// Memory that it may take, in bytes.
    pub memory_bytes: u64,
    /// Room that its tables may take, in bytes; `None` = a share of what there is.
    pub max_bytes: Option<u64>,
    /// Most bytes a second that it may write.
    pub max_write_rate: Option<u64>,
    /// What to do when there is an etcd on its disk.
    pub on_etcd_disk: OnEtcdDisk,
    /// How long it may not answer.
    pub hang_timeout: Duration,
}

/// What to do when there is an etcd on the engine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEtcdDisk {
    /// Write slowly.
    Cap,
    /// Nothing.
    Allow,
    /// Don't start.
    Refuse,
}

/// Settings that mean something for a server by URL only.
const OF_A_SERVER: [&str; 8] = [
    "clickhouse.user",
    "clickhouse.password-file",
    "clickhouse.sql-user",
    "clickhouse.sql-password-file",
    "clickhouse.ca-file",
    "clickhouse.cert-file",
    "clickhouse.key-file",
    "clickhouse.cluster",
];

/// Reads and checks `clickhouse.*`.
pub(super) fn clickhouse(settings: &mut Settings) -> ClickHouse {
    let url: Option<String> = settings.optional("clickhouse.url");
    // Checked in both modes, so that a fault shows wherever it is.
    let embedded = embedded(settings);
    let Some(url) = url else {
        for key in OF_A_SERVER {
            if settings.optional::<String>(key).is_some() {
                settings.fault(key, "means nothing without clickhouse.url");
            }
        }
        return ClickHouse::Embedded(embedded);
    };
    if Webhook::check(&url).is_err() {
        settings.fault("clickhouse.url", "is not an http or https URL");
    }
    let password = settings
        .optional("clickhouse.password-file")
        .and_then(|path: PathBuf| secret_file(settings, "clickhouse.password-file", &path))
        .unwrap_or_default();
    let user: String = settings.optional("clickhouse.user").unwrap_or_default();
    let sql = sql_user(settings, &user);
    let authority: Option<PathBuf> = settings.optional("clickhouse.ca-file");
    if let Some(Err(error)) = authority.as_ref().map(std::fs::File::open) {
        settings.fault("clickhouse.ca-file", format!("can't be read: {error}"));
    }
    let certificate = key_pair(settings, "clickhouse.cert-file", "clickhouse.key-file");
    if url.starts_with("http:") && (authority.is_some() || certificate.is_some()) {
        settings.fault("clickhouse.url", "is plain http, but certificates are given");
    }
    let cluster: Option<String> = settings.optional("clickhouse.cluster");
    if cluster.as_deref().is_some_and(|name| !is_plain(name)) {
        settings.fault("clickhouse.cluster", "is not a plain name of letters, digits and underscores");
    }
    ClickHouse::External { url, user, password: Secret::new(password), sql, authority, certificate, cluster }
}

/// The user for SQL of users, who must not be the one that writes.
fn sql_user(settings: &mut Settings, writer: &str) -> Option<(String, Secret)> {
    let user: Option<String> = settings.optional("clickhouse.sql-user");
    let password_file: Option<PathBuf> = settings.optional("clickhouse.sql-password-file");
    if user.is_none() && password_file.is_some() {
        settings.fault("clickhouse.sql-password-file", "means nothing without clickhouse.sql-user");
    }
    if user.as_deref().is_some_and(|user| user == writer) {
        settings.fault(
            "clickhouse.sql-user",
            "is clickhouse.user, which writes; SQL of users needs one that only reads",
        );
    }
    let password = password_file
        .and_then(|path| secret_file(settings, "clickhouse.sql-password-file", &path))
        .unwrap_or_default();
    user.map(|user| (user, Secret::new(password)))
}

fn embedded(settings: &mut Settings) -> Embedded {
    let library: Option<PathBuf> = settings.optional("clickhouse.library");
    let ByteSize(memory_bytes) = settings.read("clickhouse.memory-bytes");
    let max_bytes = settings.optional("clickhouse.max-bytes").map(|ByteSize(bytes)| bytes);
    let max_write_rate = settings.optional("clickhouse.max-write-rate").map(|ByteSize(bytes)| bytes);
    let Millis(hang_timeout) = settings.read("clickhouse.hang-timeout");
    if memory_bytes < LEAST_MEMORY {
        settings.fault("clickhouse.memory-bytes", "the engine needs at least 256MiB");
    }
    if library.as_ref().is_some_and(|path| !path.is_file()) {
        settings.fault("clickhouse.library", "is no file");
    }
    if max_bytes.is_some_and(|bytes| bytes < LEAST_ROOM) {
        settings.fault("clickhouse.max-bytes", "is less than 64MiB");
    }
    if max_write_rate.is_some_and(|bytes| bytes < LEAST_WRITE_RATE) {
        settings.fault("clickhouse.max-write-rate", "is less than 1MiB a second");
    }
    if hang_timeout < HANG_TIMEOUT.0 || hang_timeout > HANG_TIMEOUT.1 {
        settings.fault("clickhouse.hang-timeout", "lies outside 5s to 1h");
    }
    let on_etcd_disk = match settings.read::<String>("clickhouse.on-etcd-disk").as_str() {
        "cap" => OnEtcdDisk::Cap,
        "allow" => OnEtcdDisk::Allow,
        "refuse" => OnEtcdDisk::Refuse,
        other => {
            settings.fault("clickhouse.on-etcd-disk", format!("{other:?} is not cap, allow or refuse"));
            OnEtcdDisk::Cap
        }
    };
    Embedded { library, memory_bytes, max_bytes, max_write_rate, on_etcd_disk, hang_timeout }
}

/// Reads and checks the database's name.
pub(super) fn database(settings: &mut Settings) -> String {
    let name: String = settings.read("clickhouse.database");
    if !is_plain(&name) {
        settings.fault("clickhouse.database", "is not a plain name of letters, digits and underscores");
    }
    name
}

fn is_plain(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !name.is_empty() && name.chars().all(plain) && !name.starts_with(|letter: char| letter.is_ascii_digit())
}
