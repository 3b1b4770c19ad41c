//! The telemetry that an aggregator left behind, asked past the aggregator: its own engine program over its directory.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::wait;

/// Tables whose rows carry (agent, epoch, sequence, row).
pub const TABLES: [&str; 7] =
    ["sync_histograms", "syncs", "writes", "metrics", "events", "ledger", "autopsies"];

/// Limit for the engine to open its store, and for each answer.
const LIMIT: Duration = Duration::from_secs(60);

/// Key of the engine's endpoint, which nobody else uses.
const KEY: &str = "key-of-the-lab";

/// A running engine. Dropping it kills it; nothing is written that would matter.
#[derive(Debug)]
pub struct Engine {
    _process: Process,
    url: String,
    http: reqwest::Client,
}

impl Engine {
    /// Runs `command`, the words of [`crate::node::Aggregator::engine_command`], after that aggregator has ended.
    ///
    /// # Errors
    /// When the engine does not open the store.
    pub async fn open(command: &[String], log: &Path) -> Result<Self> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let mut child = Command::new(program);
        child.args(arguments).env("ETCD_MONITOR_ENGINE_KEY", KEY);
        let mut process = Process::start("engine", child, log, &[])?;
        let port = wait::until("the engine to open its store", LIMIT, async || {
            let output = process.output();
            let line = output
                .lines()
                .rev()
                .find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["port"].as_u64());
            if line.is_none() {
                process.check_running()?;
            }
            Ok(line)
        })
        .await
        .with_context(|| process.output())?;
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        Ok(Self { _process: process, url: format!("http://127.0.0.1:{port}"), http })
    }

    /// The answer to a question, tab separated.
    ///
    /// # Errors
    /// When it refuses; the message has its reason.
    pub async fn ask(&self, sql: &str) -> Result<String> {
        let request = self.http.post(&self.url).header("x-clickhouse-key", KEY).body(sql.to_owned());
        let response = request.send().await.context("ask the engine")?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status.is_success(), "{sql}: {status}: {text}");
        Ok(text)
    }

    /// Rows of a table, and how many of them are there more than once.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    pub async fn doubled(&self, table: &str) -> Result<(u64, u64)> {
        let text = self
            .ask(&format!(
                "SELECT count(), count() - uniqExact((agent, epoch, sequence, row)) FROM etcdmon.{table}"
            ))
            .await?;
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(rows)), Some(Ok(doubled))) => Ok((rows, doubled)),
            _ => anyhow::bail!("{table}: {text}"),
        }
    }
}
