//! A real Prometheus on loopback that scrapes what it is told to and, where its build can, takes OTLP.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::place::{Place, free_port};
use crate::process::{self, Process};
use crate::{tools, wait};

/// It has to be ready by then.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A series' labels, its name among them, and its newest value.
pub type Sample = (BTreeMap<String, String>, f64);

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    process: Option<Process>,
    address: String,
    directory: PathBuf,
    takes_otlp: bool,
    http: reqwest::Client,
}

/// True, with the reason printed, when there is no Prometheus on this machine.
pub fn skip_without() -> bool {
    let missing = tools::prometheus("prometheus").and(tools::prometheus("promtool")).is_err();
    if missing {
        println!("skipped: there is no Prometheus (setup unpacks Debian's where it can be had)");
    }
    missing
}

impl Prometheus {
    /// One that scrapes `/metrics` of `target` (`host:port`) every second, under the job `scraped`; nothing runs yet.
    ///
    /// # Errors
    /// When no port is free, or its files can't be written.
    pub fn prepare(place: &Place, target: &str) -> Result<Self> {
        // Another call may have installed it already; all install the same.
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = place.directory("prometheus")?;
        let settings = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: scraped, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(directory.join("prometheus.yml"), settings)?;
        // Debian builds it without.
        let help = process::run(Command::new(tools::prometheus("prometheus")?).arg("--help"))?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        Ok(Self {
            process: None,
            address: format!("127.0.0.1:{}", free_port()?),
            directory,
            takes_otlp: help.contains("web.enable-otlp-receiver"),
            http,
        })
    }

    /// Where it takes OTLP, if it does.
    pub fn otlp(&self) -> Option<String> {
        self.takes_otlp.then(|| format!("http://{}/api/v1/otlp/v1/metrics", self.address))
    }

    /// Starts it, with what it had before.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(tools::prometheus("prometheus")?);
        command
            .arg(format!("--config.file={}", self.directory.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", self.directory.join("data").display()))
            .arg(format!("--web.listen-address={}", self.address))
            .args(self.takes_otlp.then_some("--web.enable-otlp-receiver"));
        let mut process = Process::start("prometheus", command, &self.log(), &[])?;
        let url = format!("http://{}/-/ready", self.address);
        wait::until("Prometheus to be ready", READY_LIMIT, async || {
            process.check_running()?;
            Ok(self.http.get(&url).send().await?.status().is_success().then_some(()))
        })
        .await?;
        self.process = Some(process);
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    fn log(&self) -> PathBuf {
        self.directory.join("prometheus.log")
    }

    /// What its API says to a path.
    ///
    /// # Errors
    /// When it does not answer, or says that something is wrong.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let url = reqwest::Url::parse_with_params(&format!("http://{}{path}", self.address), parameters)?;
        let answer: Value = self.http.get(url).send().await?.json().await?;
        ensure!(answer["status"] == "success", "{path} {parameters:?}: {answer}");
        Ok(answer["data"].clone())
    }

    /// The value of an expression now.
    ///
    /// # Errors
    /// When it is none that Prometheus can evaluate.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let data = self.get("/api/v1/query", &[("query", expression)]).await?;
        let series = data["result"].as_array().context("no result")?;
        let sample = |one: &Value| {
            let labels = serde_json::from_value(one["metric"].clone())?;
            let value = one["value"][1].as_str().context("no value")?;
            Ok((labels, value.parse().with_context(|| value.to_owned())?))
        };
        series.iter().map(sample).collect()
    }

    /// The value of an expression that has one.
    ///
    /// # Errors
    /// When it has none, or several.
    pub async fn number(&self, expression: &str) -> Result<f64> {
        let found = self.query(expression).await?;
        match found.as_slice() {
            [(_, value)] => Ok(*value),
            others => anyhow::bail!("{expression} has {} values: {others:?}", others.len()),
        }
    }
}

/// What promtool has to say of a page of metrics, a line each; nothing when all is well.
///
/// # Errors
/// When the page is none that Prometheus can read.
pub fn check(directory: &Path, page: &str) -> Result<Vec<String>> {
    let file = directory.join("metrics.txt");
    fs::write(&file, page)?;
    let output = Command::new(tools::prometheus("promtool")?)
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file)?)
        .output()
        .context("run promtool")?;
    let text = [output.stdout, output.stderr].concat();
    let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    // 3 = read, but not as it should be.
    ensure!(matches!(output.status.code(), Some(0 | 3)), "promtool: {}: {lines:?}", output.status);
    ensure!(output.status.success() == lines.is_empty(), "promtool: {}: {lines:?}", output.status);
    Ok(lines)
}
