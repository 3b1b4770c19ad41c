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
    Setting::new("token", "TOKEN", "", "Bearer token of the API; give it by environment variable or file, not as a flag").secret(),
    Setting::new("state.dir", "DIR", "/var/lib/etcd-monitor/aggregator", "Directory for state and embedded ClickHouse"),
    Setting::new("clickhouse.url", "URL", "", "HTTP interface of a ClickHouse server; empty = embedded engine"),
    Setting::new("clickhouse.user", "NAME", "", "User at that server"),
    Setting::new("clickhouse.password-file", "FILE", "", "File with that user's password"),
    Setting::new("clickhouse.database", "NAME", "etcdmon", "Database for the tables"),
    Setting::new("clickhouse.library", "FILE", "", "Library of the embedded engine; empty = the usual places"),
    Setting::new("clickhouse.memory-bytes", "SIZE", "2GiB", "Memory that the embedded engine may take"),
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
    },
}

/// The checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the API.
    pub api: SocketAddr,
    /// Address of the gRPC ingest.
    pub ingest: SocketAddr,
    /// Bearer token of the API.
    pub token: Option<Secret>,
    /// Host names besides loopback names that requests may use when there is no token.
    pub host_names: Vec<String>,
    /// Directory for state and embedded ClickHouse.
    pub state_dir: PathBuf,
    /// Where telemetry is stored.
    pub clickhouse: ClickHouse,
    /// Database for the tables.
    pub database: String,
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
    let config = Config {
        api: settings.read("listen.api"),
        ingest: settings.read("listen.ingest"),
        token: token(&mut settings),
        host_names: settings.list("listen.host-names"),
        state_dir: settings.read("state.dir"),
        clickhouse: clickhouse(&mut settings),
        database: database(&mut settings),
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
    let library: Option<PathBuf> = settings.optional("clickhouse.library");
    let memory: ByteSize = settings.read("clickhouse.memory-bytes");
    let Some(url) = url else {
        for (key, given) in
            [("clickhouse.user", user.is_some()), ("clickhouse.password-file", password_file.is_some())]
        {
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
    ClickHouse::External { url, user: user.unwrap_or_default(), password: Secret::new(password) }
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
