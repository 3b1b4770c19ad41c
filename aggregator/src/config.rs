//! Settings of the aggregator: the table they come from, and the checked result.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use etcdmon_service::logging::Format;
use etcdmon_service::secret::Secret;
use etcdmon_service::settings::{ByteSize, Faults, Millis, Schema, Setting, Settings, Source};

use crate::agentless::{MAX_TARGETS, Spec, Target};
use crate::notify::channel::Webhook;
use crate::store::Retention;

/// Every setting.
pub const SCHEMA: Schema = Schema { env_prefix: "ETCD_MONITOR_AGGREGATOR", settings: SETTINGS };

const SETTINGS: &[Setting] = &[
    Setting::new("listen.api", "ADDRESS", "127.0.0.1:8460", "Address of the API; one that is not loopback needs a token"),
    Setting::new("listen.ingest", "ADDRESS", "127.0.0.1:8461", "Address that agents send to"),
    Setting::new("listen.token-file", "FILE", "", "File with the bearer token of the API"),
    Setting::new(
        "listen.host-names",
        "NAME",
        "",
        "Host names that requests may use besides loopback names when there is no token; such as that of a proxy before it",
    )
    .list(),
    Setting::new("listen.api-cert-file", "FILE", "", "Certificate of the API; with it the API speaks TLS only"),
    Setting::new("listen.api-key-file", "FILE", "", "Key of that certificate"),
    Setting::new(
        "listen.ingest-tls",
        "MODE",
        "auto",
        "off, on (agents may show a certificate), mutual (they must), or auto: off on loopback without a certificate, else mutual",
    ),
    Setting::new(
        "listen.ingest-cert-file",
        "FILE",
        "",
        "Certificate that agents see; empty = one of the aggregator's own making",
    ),
    Setting::new("listen.ingest-key-file", "FILE", "", "Key of that certificate"),
    Setting::new(
        "listen.ingest-client-ca-file",
        "FILE",
        "",
        "Authority of agents' certificates besides the aggregator's own; they name the agent as urn:etcd-monitor:agent:UUID",
    ),
    Setting::new(
        "listen.ingest-names",
        "NAME",
        "",
        "Names for the certificate of the aggregator's own making, besides the host's name and addresses",
    )
    .list(),
    Setting::new("enrol.enabled", "BOOL", "true", "Whether agents get certificates here for join tokens, where ingest speaks TLS"),
    Setting::new("enrol.certificate-life", "TIME", "720h", "How long an agent's certificate is good; it is renewed after two thirds"),
    Setting::new("token", "TOKEN", "", "Bearer token of the API; give it by environment variable or file, not as a flag").secret(),
    Setting::new("listen.clickhouse", "ADDRESS", "", "Address of a read-only ClickHouse HTTP interface, such as Grafana's data source asks; empty = none"),
    Setting::new("listen.clickhouse-user", "NAME", "viewer", "User of that interface"),
    Setting::new("listen.clickhouse-password-file", "FILE", "", "File with that user's password"),
    Setting::new("state.dir", "DIR", "/var/lib/etcd-monitor/aggregator", "Directory for state and embedded ClickHouse"),
    Setting::new("clickhouse.url", "URL", "", "HTTP interface of a ClickHouse server; empty = embedded engine"),
    Setting::new("clickhouse.user", "NAME", "", "User at that server"),
    Setting::new("clickhouse.password-file", "FILE", "", "File with that user's password"),
    Setting::new("clickhouse.sql-user", "NAME", "", "User at that server for SQL of users, with a profile and grants that only let it read; empty = no SQL"),
    Setting::new("clickhouse.sql-password-file", "FILE", "", "File with that user's password"),
    Setting::new("clickhouse.database", "NAME", "etcdmon", "Database for the tables"),
    Setting::new("clickhouse.library", "FILE", "", "Library of the embedded engine; empty = the usual places"),
    Setting::new("clickhouse.memory-bytes", "SIZE", "2GiB", "Memory that the embedded engine may take"),
    Setting::new("retention.raw", "TIME", "7d", "How long samples, histograms and single syncs are kept as they came"),
    Setting::new("retention.ten-seconds", "TIME", "30d", "How long sums over 10 seconds are kept"),
    Setting::new("retention.minute", "TIME", "90d", "How long sums over a minute are kept"),
    Setting::new("retention.hour", "TIME", "400d", "How long sums over an hour are kept"),
    Setting::new(
        "retention.events",
        "TIME",
        "90d",
        "How long events, autopsies, alerts, diagnoses and the ledger are kept",
    ),
    Setting::new("ingest.batch-interval", "TIME", "2s", "How long agents collect before they close a batch"),
    Setting::new(
        "agentless",
        "CLUSTER",
        "",
        "Cluster to watch without agents: a table with name, endpoints and, if needed, ca-file, cert-file, key-file, server-name, metrics-url, interval; as a flag the same in JSON",
    )
    .list(),
    Setting::new("alert.webhook", "URL", "", "Receiver of alerts, in Alertmanager's webhook format").list(),
    Setting::new("alert.console", "BOOL", "true", "Print alerts on standard output"),
    Setting::new("log.format", "FORMAT", "text", "text or json"),
    Setting::new("log.filter", "FILTER", "info", "Which log lines are shown, such as info or info,etcdmon_aggregator::ingest=debug"),
    Setting::new("ready-file", "FILE", "", "Written once everything listens: a JSON object with addresses and process ids"),
];

/// Shortest token that is accepted, in characters.
const SHORTEST_TOKEN: usize = 16;

/// Least memory for the engine, in bytes.
const LEAST_MEMORY: u64 = 256 << 20;

/// Bounds of the life of an agent's certificate. What is shorter than hours is for trying things out.
const CERTIFICATE_LIFE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(8_760));

/// Bounds of what tables keep.
const RETENTION: (Duration, Duration) = (Duration::from_hours(24), Duration::from_hours(24 * 3_650));

/// Bounds of the batch interval.
const BATCH_INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Where telemetry is stored.
#[derive(Debug, Clone)]
pub enum ClickHouse {
    /// The engine as our own child.
    Embedded {
        /// Its library, if not in the usual places.
        library: Option<PathBuf>,
        /// Memory that it may take, in bytes.
        memory_bytes: u64,
    },
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
    },
}

/// The read-only ClickHouse HTTP interface.
#[derive(Debug, Clone)]
pub struct ClickHousePort {
    /// Its address.
    pub address: SocketAddr,
    /// Its user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPairFiles {
    /// The certificate, and what is between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Whether ingest speaks TLS, and what it wants of agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain.
    Off,
    /// TLS; a certificate that an agent shows is checked, and none is needed.
    On,
    /// TLS, and streams need a certificate.
    Mutual,
}

/// TLS of the gRPC ingest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestTls {
    /// Whether, and what it wants.
    pub mode: TlsMode,
    /// What agents see; `None` = made by the aggregator itself.
    pub certificate: Option<KeyPairFiles>,
    /// Authorities of agents' certificates besides the aggregator's own.
    pub client_authorities: Option<PathBuf>,
    /// Further names for a certificate of the aggregator's own making.
    pub names: Vec<String>,
    /// Whether agents get certificates here.
    pub enrolment: bool,
    /// How long such a certificate is good.
    pub certificate_life: Duration,
}

/// The checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the API.
    pub api: SocketAddr,
    /// Address of the gRPC ingest.
    pub ingest: SocketAddr,
    /// TLS of the API.
    pub api_tls: Option<KeyPairFiles>,
    /// TLS of the gRPC ingest.
    pub ingest_tls: IngestTls,
    /// Bearer token of the API.
    pub token: Option<Secret>,
    /// Host names besides loopback names that requests may use when there is no token.
    pub host_names: Vec<String>,
    /// The read-only ClickHouse HTTP interface, if there is to be one.
    pub clickhouse_port: Option<ClickHousePort>,
    /// Directory for state and embedded ClickHouse.
    pub state_dir: PathBuf,
    /// Where telemetry is stored.
    pub clickhouse: ClickHouse,
    /// Database for the tables.
    pub database: String,
    /// How long tables keep rows.
    pub retention: Retention,
    /// How long agents collect before they close a batch.
    pub batch_interval: Duration,
    /// Clusters to watch without agents.
    pub agentless: Vec<(Spec, Target)>,
    /// Receivers of alerts.
    pub webhooks: Vec<String>,
    /// Whether alerts are printed.
    pub console: bool,
    /// How log lines look.
    pub log_format: Format,
    /// Which log lines are shown.
    pub log_filter: String,
    /// See [`etcdmon_service::process::write_ready_file`].
    pub ready_file: Option<PathBuf>,
}

/// Key, value and source of every setting, secrets masked.
pub type Effective = Vec<(String, String, Source)>;

/// Reads and checks all settings.
///
/// # Errors
/// Every fault at once, each with its key and where the value came from.
pub fn load(
    flags: &ArgMatches,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Config, Effective), Faults> {
    let mut settings = SCHEMA.load(flags, environment)?;
    let effective = settings.effective();
    let ingest: SocketAddr = settings.read("listen.ingest");
    let config = Config {
        api: settings.read("listen.api"),
        ingest,
        api_tls: key_pair(&mut settings, "listen.api-cert-file", "listen.api-key-file"),
        ingest_tls: ingest_tls(&mut settings, ingest),
        token: token(&mut settings),
        host_names: settings.list("listen.host-names"),
        clickhouse_port: clickhouse_port(&mut settings),
        state_dir: settings.read("state.dir"),
        clickhouse: clickhouse(&mut settings),
        database: database(&mut settings),
        retention: retention(&mut settings),
        batch_interval: batch_interval(&mut settings),
        agentless: agentless(&mut settings),
        webhooks: webhooks(&mut settings),
        console: settings.read("alert.console"),
        log_format: settings.read("log.format"),
        log_filter: settings.read("log.filter"),
        ready_file: settings.optional("ready-file"),
    };
    if !config.api.ip().is_loopback() && config.token.is_none() {
        settings.fault(
            "listen.api",
            format!(
                "{} is not loopback, so the API needs a token: put one of at least {SHORTEST_TOKEN} characters into \
                 a file and name it by listen.token-file, or set ETCD_MONITOR_AGGREGATOR_TOKEN",
                config.api
            ),
        );
    }
    if config.api == config.ingest && config.api.port() != 0 {
        settings.fault("listen.ingest", "is the address of listen.api too; each needs its own");
    }
    settings.finish()?;
    Ok((config, effective))
}

fn key_pair(settings: &mut Settings, cert: &'static str, key: &'static str) -> Option<KeyPairFiles> {
    let files: [Option<PathBuf>; 2] = [settings.optional(cert), settings.optional(key)];
    for (name, file) in [cert, key].into_iter().zip(&files) {
        if let Some(Err(error)) = file.as_ref().map(std::fs::File::open) {
            settings.fault(name, format!("can't be read: {error}"));
        }
    }
    match files {
        [Some(certificate), Some(key)] => return Some(KeyPairFiles { certificate, key }),
        [Some(_), None] => settings.fault(cert, format!("needs {key} as well")),
        [None, Some(_)] => settings.fault(key, format!("needs {cert} as well")),
        [None, None] => {}
    }
    None
}

fn ingest_tls(settings: &mut Settings, address: SocketAddr) -> IngestTls {
    let certificate = key_pair(settings, "listen.ingest-cert-file", "listen.ingest-key-file");
    let client_authorities: Option<PathBuf> = settings.optional("listen.ingest-client-ca-file");
    if let Some(Err(error)) = client_authorities.as_ref().map(std::fs::File::open) {
        settings.fault("listen.ingest-client-ca-file", format!("can't be read: {error}"));
    }
    let given = certificate.is_some() || client_authorities.is_some();
    let mode = match settings.read::<String>("listen.ingest-tls").as_str() {
        "off" => TlsMode::Off,
        "on" => TlsMode::On,
        "mutual" => TlsMode::Mutual,
        "auto" if address.ip().is_loopback() && !given => TlsMode::Off,
        "auto" => TlsMode::Mutual,
        other => {
            settings.fault("listen.ingest-tls", format!("{other:?} is not auto, off, on or mutual"));
            TlsMode::Off
        }
    };
    if mode == TlsMode::Off && given {
        settings.fault("listen.ingest-tls", "is off, but certificates are given");
    }
    let enrolment: bool = settings.read("enrol.enabled");
    if mode == TlsMode::Mutual && !enrolment && client_authorities.is_none() {
        settings.fault(
            "enrol.enabled",
            "is false and there is no listen.ingest-client-ca-file: no agent could have a certificate",
        );
    }
    if mode != TlsMode::Off && !enrolment && certificate.is_none() {
        settings.fault("enrol.enabled", "is false, so the aggregator needs listen.ingest-cert-file");
    }
    let Millis(certificate_life) = settings.read("enrol.certificate-life");
    if certificate_life < CERTIFICATE_LIFE.0 || certificate_life > CERTIFICATE_LIFE.1 {
        settings.fault("enrol.certificate-life", "lies outside 5s to 8760h");
    }
    let names = settings.list("listen.ingest-names");
    IngestTls { mode, certificate, client_authorities, names, enrolment, certificate_life }
}

fn token(settings: &mut Settings) -> Option<Secret> {
    let direct: Option<String> = settings.optional("token");
    let file: Option<PathBuf> = settings.optional("listen.token-file");
    if matches!(settings.source("token"), Source::Flag(_)) {
        settings.fault("token", "a flag shows the token to every user of the host; use listen.token-file");
    }
    let (key, text) = match (direct, file) {
        (Some(_), Some(_)) => {
            settings.fault("token", "is given together with listen.token-file; give one of them");
            return None;
        }
        (Some(text), None) => ("token", text),
        (None, Some(path)) => ("listen.token-file", secret_file(settings, "listen.token-file", &path)?),
        (None, None) => return None,
    };
    if text.chars().count() < SHORTEST_TOKEN || !text.chars().all(|letter| letter.is_ascii_graphic()) {
        settings.fault(
            key,
            format!("the token needs at least {SHORTEST_TOKEN} printable ASCII characters, without spaces"),
        );
    }
    Some(Secret::new(text))
}

fn clickhouse_port(settings: &mut Settings) -> Option<ClickHousePort> {
    let address: Option<SocketAddr> = settings.optional("listen.clickhouse");
    let file: Option<PathBuf> = settings.optional("listen.clickhouse-password-file");
    let user: String = settings.read("listen.clickhouse-user");
    let Some(address) = address else {
        if file.is_some() {
            settings.fault("listen.clickhouse-password-file", "means nothing without listen.clickhouse");
        }
        return None;
    };
    let Some(file) = file else {
        settings.fault("listen.clickhouse", "needs listen.clickhouse-password-file");
        return None;
    };
    let password = secret_file(settings, "listen.clickhouse-password-file", &file)?;
    if password.chars().count() < SHORTEST_TOKEN {
        let fault = format!("the password needs at least {SHORTEST_TOKEN} characters");
        settings.fault("listen.clickhouse-password-file", fault);
    }
    if user.is_empty() {
        settings.fault("listen.clickhouse-user", "is empty");
    }
    Some(ClickHousePort { address, user, password: Secret::new(password) })
}

fn secret_file(settings: &mut Settings, key: &'static str, path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) => {
            settings.fault(key, format!("{} can't be read: {error}", path.display()));
            None
        }
    }
}

fn clickhouse(settings: &mut Settings) -> ClickHouse {
    let url: Option<String> = settings.optional("clickhouse.url");
    let user: Option<String> = settings.optional("clickhouse.user");
    let password_file: Option<PathBuf> = settings.optional("clickhouse.password-file");
    let sql_user: Option<String> = settings.optional("clickhouse.sql-user");
    let sql_password_file: Option<PathBuf> = settings.optional("clickhouse.sql-password-file");
    let library: Option<PathBuf> = settings.optional("clickhouse.library");
    let memory: ByteSize = settings.read("clickhouse.memory-bytes");
    let Some(url) = url else {
        for (key, given) in [
            ("clickhouse.user", user.is_some()),
            ("clickhouse.password-file", password_file.is_some()),
            ("clickhouse.sql-user", sql_user.is_some()),
            ("clickhouse.sql-password-file", sql_password_file.is_some()),
        ] {
            if given {
                settings.fault(key, "means nothing without clickhouse.url");
            }
        }
        if memory.0 < LEAST_MEMORY {
            settings.fault("clickhouse.memory-bytes", "the engine needs at least 256MiB");
        }
        if library.as_ref().is_some_and(|path| !path.is_file()) {
            settings.fault("clickhouse.library", "is no file");
        }
        return ClickHouse::Embedded { library, memory_bytes: memory.0 };
    };
    if Webhook::check(&url).is_err() {
        settings.fault("clickhouse.url", "is not an http or https URL");
    }
    let password = password_file
        .and_then(|path| secret_file(settings, "clickhouse.password-file", &path))
        .unwrap_or_default();
    if sql_user.is_none() && sql_password_file.is_some() {
        settings.fault("clickhouse.sql-password-file", "means nothing without clickhouse.sql-user");
    }
    if sql_user.is_some() && sql_user == user {
        settings.fault(
            "clickhouse.sql-user",
            "is clickhouse.user, which writes; SQL of users needs one that only reads",
        );
    }
    let sql_password = sql_password_file
        .and_then(|path| secret_file(settings, "clickhouse.sql-password-file", &path))
        .unwrap_or_default();
    let sql = sql_user.map(|user| (user, Secret::new(sql_password)));
    ClickHouse::External { url, user: user.unwrap_or_default(), password: Secret::new(password), sql }
}

fn database(settings: &mut Settings) -> String {
    let name: String = settings.read("clickhouse.database");
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if name.is_empty() || !name.chars().all(plain) || name.starts_with(|letter: char| letter.is_ascii_digit())
    {
        settings.fault("clickhouse.database", "is not a plain name of letters, digits and underscores");
    }
    name
}

fn retention(settings: &mut Settings) -> Retention {
    let mut read = |key: &'static str| {
        let Millis(time) = settings.read(key);
        if time < RETENTION.0 || time > RETENTION.1 {
            settings.fault(key, "lies outside 1d to 3650d");
        }
        time
    };
    let retention = Retention {
        raw: read("retention.raw"),
        ten_seconds: read("retention.ten-seconds"),
        minute: read("retention.minute"),
        hour: read("retention.hour"),
        events: read("retention.events"),
    };
    // Each sum is made from the finer one, which must still be there when a row comes late.
    for (key, time, finer, than) in [
        ("retention.ten-seconds", retention.ten_seconds, "retention.raw", retention.raw),
        ("retention.minute", retention.minute, "retention.ten-seconds", retention.ten_seconds),
        ("retention.hour", retention.hour, "retention.minute", retention.minute),
    ] {
        if time < than {
            settings.fault(
                key,
                format!(
                    "is shorter than {finer}; coarser sums are kept at least as long as what they are made of"
                ),
            );
        }
    }
    retention
}

fn batch_interval(settings: &mut Settings) -> Duration {
    let Millis(interval) = settings.read("ingest.batch-interval");
    if interval < BATCH_INTERVAL.0 || interval > BATCH_INTERVAL.1 {
        settings.fault("ingest.batch-interval", "lies outside 100ms to 1m");
    }
    interval
}

fn agentless(settings: &mut Settings) -> Vec<(Spec, Target)> {
    let specs: Vec<Spec> = settings.list("agentless");
    if specs.len() > MAX_TARGETS {
        settings.fault("agentless", format!("has more than {MAX_TARGETS} clusters"));
    }
    let mut checked: Vec<(Spec, Target)> = Vec::new();
    for spec in specs {
        if checked.iter().any(|(known, _)| known.name == spec.name) {
            settings.fault("agentless", format!("{:?} is given twice", spec.name));
        }
        match spec.check() {
            Ok(target) => checked.push((spec, target)),
            Err(faults) => {
                for fault in faults {
                    settings.fault("agentless", format!("{:?}: {fault}", spec.name));
                }
            }
        }
    }
    checked
}

fn webhooks(settings: &mut Settings) -> Vec<String> {
    let urls: Vec<String> = settings.list("alert.webhook");
    for (position, url) in urls.iter().enumerate() {
        if Webhook::check(url).is_err() {
            settings.fault("alert.webhook", format!("number {} is not an http or https URL", position + 1));
        }
        if urls.iter().take(position).any(|other| other == url) {
            settings.fault("alert.webhook", format!("number {} is given twice", position + 1));
        }
    }
    urls
}

#[cfg(test)]
mod tests;
