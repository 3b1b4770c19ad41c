//! Agents and the aggregator, run as their users run them: the built binaries, flags, a ready file, signals.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::api::Api;
use crate::etcd::Cluster;
use crate::place::{Place, free_port};
use crate::process::Process;
use crate::{tools, wait};

/// Limit for a binary to say that it is ready; the aggregator has a ClickHouse to start.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Limit for a graceful end.
const END_LIMIT: Duration = Duration::from_secs(20);

/// One of our binaries with what it takes to start it again.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    name: String,
    launcher: Vec<String>,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    ready_file: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Prepares a start; nothing runs yet. Its log and ready file lie in `place` and carry `name`.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn new(place: &Place, binary: &str, name: &str) -> Result<Self> {
        Ok(Self {
            process: None,
            name: name.to_owned(),
            launcher: Vec::new(),
            binary: tools::own(binary)?,
            arguments: Vec::new(),
            environment: Vec::new(),
            ready_file: place.path().join(format!("{name}.ready")),
            log: place.path().join(format!("{name}.log")),
        })
    }

    /// Adds flags.
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a flag to a value, in place of the one it was given before.
    pub fn set(mut self, flag: &str, value: impl Into<String>) -> Self {
        match self.arguments.iter().position(|argument| argument == flag) {
            Some(index) => self.arguments[index + 1] = value.into(),
            None => self.arguments.extend([flag.to_owned(), value.into()]),
        }
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Runs it through another program, such as `setpriv …`.
    pub fn through<T: Into<String>>(mut self, launcher: impl IntoIterator<Item = T>) -> Self {
        self.launcher = launcher.into_iter().map(Into::into).collect();
        self
    }

    /// Where the ready file is to appear, for those who can't write where it is by default.
    pub fn ready_file(mut self, path: PathBuf) -> Self {
        self.ready_file = path;
        self
    }

    /// Starts it without waiting for anything.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&mut self) -> Result<()> {
        // An old ready file must not be taken for the new process's.
        let _absent = fs::remove_file(&self.ready_file);
        let mut words = self.launcher.clone();
        words.push(self.binary.to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(&self.arguments)
            .arg("--ready-file")
            .arg(&self.ready_file)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::start(&self.name, command, &self.log, &[])?);
        Ok(())
    }

    /// Starts it and waits for its ready file; returns what that says.
    ///
    /// # Errors
    /// When it ends instead, or is not ready in time.
    pub async fn start(&mut self) -> Result<Value> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Waits for the ready file.
    ///
    /// # Errors
    /// When the process ends instead, or is not ready in time.
    pub async fn wait_ready(&mut self) -> Result<Value> {
        let process = self.process.as_mut().with_context(|| format!("{} was not started", self.name))?;
        let (path, mut dead) = (&self.ready_file, None);
        let ready = wait::until(&format!("{} to be ready", self.name), READY_LIMIT, async || {
            if let Err(error) = process.check_running() {
                dead = Some(error);
                return Ok(Some(Value::Null));
            }
            let text = fs::read_to_string(path).context("no ready file")?;
            Ok(Some(serde_json::from_str(&text)?))
        })
        .await;
        match dead {
            Some(error) => Err(error),
            None => ready.with_context(|| crate::place::tail(&self.log, crate::process::TAIL_LINES)),
        }
    }

    /// The process.
    ///
    /// # Errors
    /// When it was killed and not started again.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} is not running", self.name))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let process = self.process.as_mut().with_context(|| format!("{} was not started", self.name))?;
        wait::until(&format!("{} to end", self.name), limit, async || Ok(process.ended())).await
    }

    /// Waits until it has printed something in which all these words occur, in any case of letters.
    ///
    /// # Errors
    /// When it does not within `limit`; the message has the end of its log.
    pub async fn wait_output(&self, words: &[&str], limit: Duration) -> Result<()> {
        let says = |line: &str| {
            let line = line.to_lowercase();
            words.iter().all(|word| line.contains(&word.to_lowercase()))
        };
        let what = format!("a line of {} with {words:?}", self.name);
        wait::until(&what, limit, async || Ok(self.output().lines().any(says).then_some(())))
            .await
            .with_context(|| self.tail())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM; waits for a graceful end.
    ///
    /// # Errors
    /// When it does not end in time or not with success.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let status = process.terminate(END_LIMIT)?;
        anyhow::ensure!(status.success(), "{} ended on SIGTERM with {status}\n{}", self.name, self.tail());
        Ok(())
    }

    /// All it has printed.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of what it has printed.
    pub fn tail(&self) -> String {
        crate::place::tail(&self.log, crate::process::TAIL_LINES)
    }

    /// An error when it panicked or ended.
    ///
    /// # Errors
    /// See above; the message has the end of its log.
    pub fn check_healthy(&mut self) -> Result<()> {
        self.check_never_panicked()?;
        self.process()?.check_running()
    }

    /// An error when it ever panicked.
    ///
    /// # Errors
    /// See above; the message has the end of its log.
    pub fn check_never_panicked(&self) -> Result<()> {
        anyhow::ensure!(!self.output().contains("panicked"), "{} panicked\n{}", self.name, self.tail());
        Ok(())
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub daemon: Daemon,
    /// Its admin address, `127.0.0.1:…`.
    pub admin: String,
}

impl Agent {
    /// An agent that sees only the given data directories and sends to `ingest`; not started yet.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn prepare(place: &Place, name: &str, ingest: &str, data_dirs: &[PathBuf]) -> Result<Self> {
        let admin = format!("127.0.0.1:{}", free_port()?);
        let state = place.directory(&format!("{name}-state"))?;
        let daemon = Daemon::new(place, "etcd-monitor-agent", name)?
            .args([
                "--aggregator-url".to_owned(),
                format!("http://{ingest}"),
                "--listen-admin".to_owned(),
                admin.clone(),
            ])
            .args(["--state-dir".to_owned(), state.display().to_string()])
            .args(
                data_dirs
                    .iter()
                    .flat_map(|path| ["--discovery-only-data-dir".to_owned(), path.display().to_string()]),
            );
        Ok(Self { daemon, admin })
    }

    /// Starts one agent for all members of a cluster. What it needs to talk to them it finds in their flags.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(place: &Place, name: &str, ingest: &str, cluster: &Cluster) -> Result<Self> {
        let mut agent = Self::prepare(place, name, ingest, &data_dirs(cluster))?;
        agent.daemon.start().await?;
        Ok(agent)
    }
}

/// Data directories of all members.
pub fn data_dirs(cluster: &Cluster) -> Vec<PathBuf> {
    cluster.members.iter().map(super::etcd::Member::data_dir).collect()
}

/// A running aggregator with the embedded engine.
#[derive(Debug)]
pub struct Aggregator {
    /// The process.
    pub daemon: Daemon,
    /// Address of the API, `127.0.0.1:…`.
    pub api: String,
    /// Address for agents, `127.0.0.1:…`.
    pub ingest: String,
    /// Its state directory.
    pub state: PathBuf,
}

impl Aggregator {
    /// An aggregator on free ports that stay the same over restarts; not started yet.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn prepare(place: &Place, name: &str, webhooks: &[String]) -> Result<Self> {
        let api = format!("127.0.0.1:{}", free_port()?);
        let ingest = format!("127.0.0.1:{}", free_port()?);
        let state = place.directory(&format!("{name}-state"))?;
        let daemon = Daemon::new(place, "etcd-monitor-aggregator", name)?
            .args(["--listen-api", &api, "--listen-ingest", &ingest])
            .args(["--state-dir".to_owned(), state.display().to_string()])
            .args(webhooks.iter().flat_map(|url| ["--alert-webhook".to_owned(), url.clone()]));
        Ok(Self { daemon, api, ingest, state })
    }

    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(place: &Place, name: &str, webhooks: &[String]) -> Result<Self> {
        let mut aggregator = Self::prepare(place, name, webhooks)?;
        aggregator.daemon.start().await?;
        Ok(aggregator)
    }

    /// A client of its API.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn client(&self) -> Result<Api> {
        Api::new(&format!("http://{}", self.api))
    }

    /// Process id of its engine: the child that runs `engine`.
    ///
    /// # Errors
    /// When there is none at the moment.
    pub fn engine_pid(&mut self) -> Result<u32> {
        let parent = self.daemon.process()?.pid();
        fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
            .find(|pid| {
                parent_of(*pid) == Some(parent) && command_line(*pid).iter().any(|word| word == "engine")
            })
            .context("the aggregator has no engine process")
    }

    /// The command line of its engine, as words.
    ///
    /// # Errors
    /// When there is none at the moment.
    pub fn engine_command(&mut self) -> Result<Vec<String>> {
        let mut words = command_line(self.engine_pid()?);
        words.retain(|word| !word.is_empty());
        Ok(words)
    }

    /// kill -9 of the engine alone.
    ///
    /// # Errors
    /// When there is none at the moment.
    pub fn kill_engine(&mut self) -> Result<()> {
        let pid = self.engine_pid()?;
        // SAFETY: plain system call; the process was just seen as a child of our aggregator.
        let result = unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        anyhow::ensure!(result == 0, "kill the engine: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}
