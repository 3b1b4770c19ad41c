//! `store backup|restore|check`: the telemetry store copied, brought back, looked at.
//!
//! The engine does it, wherever it runs: that of the running aggregator, which goes on meanwhile, or one of our own when no
//! aggregator runs. A store is restored into only while no aggregator runs: it would store into it at once.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::sync::watch;

use super::AdminError;
use crate::config::{ClickHouse, Config, Embedded};
use crate::engine::{Options, Supervisor, address};
use crate::store::backup::{self, BackupError, Progress, TableState};
use crate::store::{Client, Endpoint};

/// How long an engine of our own may take to say what becomes of it; a large store takes its time.
const START_TIMEOUT: Duration = Duration::from_secs(600);

/// The subcommand.
pub fn command() -> Command {
    let directory = |help: &'static str| {
        Arg::new("directory").value_name("DIR").required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    let verify = Arg::new("verify")
        .long("verify")
        .action(ArgAction::SetTrue)
        .help("Read everything and compare it with its checksums");
    Command::new("store")
        .about("The telemetry store of the embedded engine")
        .subcommand_required(true)
        .subcommand(
            Command::new("backup")
                .about("Copy it, also while the aggregator runs")
                .arg(directory("Where to; must be absent or empty")),
        )
        .subcommand(
            Command::new("restore")
                .about("Bring a copy back into an empty store, while no aggregator runs")
                .arg(directory("The copy")),
        )
        .subcommand(Command::new("check").about("Show tables, parts and sizes").arg(verify))
}

/// Runs it. `None` when it is none of ours.
pub async fn run(config: &Config, flags: &ArgMatches) -> Option<Result<String, AdminError>> {
    let (name, flags) = flags.subcommand()?;
    let directory = flags.try_get_one::<PathBuf>("directory").ok().flatten().cloned();
    Some(match (name, directory) {
        ("backup", Some(directory)) => do_backup(config, &directory).await,
        ("restore", Some(directory)) => do_restore(config, &directory).await,
        ("check", _) => check(config, flags.get_flag("verify")).await,
        _ => return None,
    })
}

async fn do_backup(config: &Config, directory: &Path) -> Result<String, AdminError> {
    let directory = absolute(directory)?;
    let opened = Opened::open(config).await?;
    let outcome = backup::backup(&opened.client, &directory, say).await;
    opened.close().await;
    let Progress { files, bytes } = outcome?;
    Ok(format!("copied to {}: {files} files, {}", directory.display(), megabytes(bytes)))
}

async fn do_restore(config: &Config, directory: &Path) -> Result<String, AdminError> {
    let directory = absolute(directory)?;
    let opened = Opened::open(config).await?;
    if opened.engine.is_none() {
        return Err(AdminError::Refused(
            "the aggregator runs: stop it first, it would store into what is restored".to_owned(),
        ));
    }
    let store = store_path(config);
    let outcome = match backup::restore(&opened.client, &directory, &store, say).await {
        Ok(_) => backup::tables(&opened.client).await,
        Err(error) => Err(error),
    };
    opened.close().await;
    let tables = outcome?;
    Ok(format!("restored from {}\n{}", directory.display(), table_text(&tables)))
}

async fn check(config: &Config, verify: bool) -> Result<String, AdminError> {
    let opened = Opened::open(config).await?;
    let outcome = look(&opened.client, verify).await;
    opened.close().await;
    let (tables, broken) = outcome?;
    let mut text = table_text(&tables);
    if !broken.is_empty() {
        let parts: Vec<String> = broken.iter().map(|(part, why)| format!("  {part}: {why}")).collect();
        return Err(AdminError::Refused(format!(
            "{text}\n\nparts that can't be read:\n{}",
            parts.join("\n")
        )));
    }
    if verify {
        text += "\n\nall parts are as their checksums say";
    }
    Ok(text)
}

type Broken = Vec<(String, String)>;

async fn look(client: &Client, verify: bool) -> Result<(Vec<TableState>, Broken), BackupError> {
    let tables = backup::tables(client).await?;
    let mut broken = Vec::new();
    if verify {
        for table in &tables {
            let parts = backup::verify(client, &table.table).await?;
            broken.extend(parts.into_iter().map(|(part, why)| (format!("{}/{part}", table.table), why)));
        }
    }
    Ok((tables, broken))
}

/// The engine of the running aggregator, or one of our own.
struct Opened {
    client: Client,
    engine: Option<Supervisor>,
}

impl Opened {
    async fn open(config: &Config) -> Result<Self, AdminError> {
        let ClickHouse::Embedded(embedded) = &config.clickhouse else {
            return Err(AdminError::Refused(
                "this is for the embedded engine; a server by clickhouse.url has BACKUP and RESTORE of its own".to_owned(),
            ));
        };
        let path = store_path(config);
        if let Some(endpoint) = address::read(&path)
            && answers(&endpoint).await
        {
            let (_sender, endpoint) = watch::channel(Some(endpoint));
            return Ok(Self { client: Client::embedded(endpoint, &config.database), engine: None });
        }
        Self::start(embedded, path, &config.database).await
    }

    async fn start(embedded: &Embedded, path: PathBuf, database: &str) -> Result<Self, AdminError> {
        let refused = |reason: String| AdminError::Refused(reason);
        let program =
            std::env::current_exe().map_err(|error| refused(format!("find this program: {error}")))?;
        let options = Options {
            library: embedded.library.clone(),
            memory_bytes: embedded.memory_bytes,
            hang_after: embedded.hang_timeout,
            ..Options::new(program, path)
        };
        let engine =
            Supervisor::start(options).map_err(|error| refused(format!("start the engine: {error}")))?;
        let mut facts = engine.facts();
        let settled = facts.wait_for(|facts| facts.running || facts.last_error.is_some());
        let last_error = match tokio::time::timeout(START_TIMEOUT, settled).await {
            Ok(Ok(facts)) if facts.running => None,
            Ok(Ok(facts)) => facts.last_error.clone(),
            _ => Some("it takes too long to start".to_owned()),
        };
        if let Some(reason) = last_error {
            engine.stop().await;
            return Err(refused(format!("the engine does not open the store: {reason}")));
        }
        Ok(Self { client: Client::embedded(engine.endpoint(), database), engine: Some(engine) })
    }

    async fn close(self) {
        if let Some(engine) = self.engine {
            engine.stop().await;
        }
    }
}

async fn answers(endpoint: &Endpoint) -> bool {
    let client =
        reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(5)).build();
    let Ok(client) = client else { return false };
    let asked =
        client.get(format!("{}/health", endpoint.url)).header("x-clickhouse-key", &endpoint.key).send().await;
    asked.is_ok_and(|answer| answer.status().is_success())
}

fn store_path(config: &Config) -> PathBuf {
    config.state_dir.join("clickhouse")
}

fn absolute(directory: &Path) -> Result<PathBuf, AdminError> {
    std::path::absolute(directory)
        .map_err(|error| AdminError::Refused(format!("{}: {error}", directory.display())))
}

/// Progress, for whoever watches.
fn say(Progress { files, bytes }: Progress) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{files} files, {} so far", megabytes(bytes));
}

fn table_text(tables: &[TableState]) -> String {
    let mut lines =
        vec![format!("{:<24} {:>14} {:>7} {:>12} {:>9}", "table", "rows", "parts", "size", "detached")];
    for it in tables {
        let size = megabytes(it.bytes);
        lines.push(format!("{:<24} {:>14} {:>7} {size:>12} {:>9}", it.table, it.rows, it.parts, it.detached));
    }
    lines.join("\n")
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
