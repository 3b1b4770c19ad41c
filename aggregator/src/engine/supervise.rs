//! Keeps the engine's child process running.
//!
//! A thread of its own starts the child and waits for it: the kernel ends the child when the *thread* that started it
//! ends, so this must not be a pool's thread. A crash is answered by a new child after a growing pause. What the child
//! writes to standard error is logged, and its last lines explain a failure in [`Facts`]. A missing library is looked
//! for again from time to time; everything else in the aggregator goes on meanwhile.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etcdmon_service::backoff::Backoff;
use etcdmon_service::logging::ErrorChain;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::child::{KEY_VARIABLE, PARENT_VARIABLE, READER_KEY_VARIABLE};
use super::library::locate;
use crate::store::Endpoint;

/// How long a child may take until it answers; opening a large store takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a child may take to end in order before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A child that ran this long was healthy: the next pause is the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Pauses before a new child.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How often the thread looks whether the child still runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Lines of standard error that are kept to explain a failure.
const KEPT_LINES: usize = 20;

/// How to start the child.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that has the `engine` subcommand: the aggregator itself.
    pub program: PathBuf,
    /// Directory of the store.
    pub path: PathBuf,
    /// The library as configured; `None` = looked for in the usual places.
    pub library: Option<PathBuf>,
    /// Most memory that all queries together may take, in bytes.
    pub memory_bytes: u64,
}

/// How the child is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The endpoint answers.
    pub running: bool,
    /// Process id while a child exists.
    pub pid: Option<u32>,
    /// Children that ended without being told to.
    pub restarts: u64,
    /// Why the last child ended or could not start.
    pub last_error: Option<String>,
}

/// The child's keeper. Dropped without [`Supervisor::stop`], it kills the child.
pub struct Supervisor {
    stop: Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
    facts: watch::Receiver<Facts>,
    endpoint: watch::Receiver<Option<Endpoint>>,
}

impl Supervisor {
    /// Starts the thread; it starts the child.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(options: Options) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let (facts_in, facts) = watch::channel(Facts::default());
        let (endpoint_in, endpoint) = watch::channel(None);
        let keeper =
            Keeper { options, stopped, facts: facts_in, endpoint: endpoint_in, port: 0, generation: 0 };
        let thread = std::thread::Builder::new().name("engine-keeper".to_owned()).spawn(|| keeper.run())?;
        Ok(Self { stop, thread: Mutex::new(Some(thread)), facts, endpoint })
    }

    /// How the child is, now and as it changes.
    pub fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.clone()
    }

    /// Where the engine answers; `None` while it does not.
    pub fn endpoint(&self) -> watch::Receiver<Option<Endpoint>> {
        self.endpoint.clone()
    }

    /// Ends the child in order and waits for it. Further calls do nothing.
    pub async fn stop(&self) {
        // A keeper that is gone needs no word.
        let _ = self.stop.send(());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                error!("engine keeper panicked");
            }
        }
    }
}

/// State of the keeper's thread.
struct Keeper {
    options: Options,
    stopped: Receiver<()>,
    facts: watch::Sender<Facts>,
    endpoint: watch::Sender<Option<Endpoint>>,
    /// Port of the child before.
    port: u16,
    generation: u64,
}

/// What ended a wait.
enum Wake {
    Stop,
    Time,
}

impl Keeper {
    fn run(mut self) {
        let mut pauses = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let began = Instant::now();
            let stopping = self.keep_one();
            self.endpoint.send_replace(None);
            self.facts.send_modify(|facts| {
                facts.running = false;
                facts.pid = None;
            });
            if stopping {
                return;
            }
            if began.elapsed() > HEALTHY_AFTER {
                pauses.reset();
            }
            if matches!(self.wait(pauses.pause()), Wake::Stop) {
                return;
            }
        }
    }

    /// Runs one child to its end; true when the keeper is to stop.
    fn keep_one(&mut self) -> bool {
        let started = match self.spawn() {
            Ok(started) => started,
            Err(reason) => {
                self.fail(reason, false);
                return false;
            }
        };
        let Started { mut child, stdout, stderr, key, reader_key } = started;
        self.facts.send_modify(|facts| facts.pid = Some(child.id()));
        let Some(port) = self.await_port(&mut child, &stdout) else {
            return self.end(&mut child, &stderr, "did not start");
        };
        self.port = port;
        self.generation += 1;
        let url = format!("http://127.0.0.1:{port}");
        info!(pid = child.id(), %url, generation = self.generation, "engine started");
        self.endpoint.send_replace(Some(Endpoint { url, key, reader_key, generation: self.generation }));
        self.facts.send_modify(|facts| facts.running = true);
        loop {
            match child.try_wait() {
                Ok(None) => {}
                _ => return self.end(&mut child, &stderr, "ended"),
            }
            if matches!(self.wait(LOOK_EVERY), Wake::Stop) {
                self.endpoint.send_replace(None);
                if let Err(reason) = terminate(&mut child) {
                    self.fail(reason, false);
                }
                return true;
            }
        }
    }

    fn spawn(&self) -> Result<Started, String> {
        let library = locate(self.options.library.as_deref()).map_err(|missing| missing.to_string())?;
        let [key, reader_key] =
            [(); 2].map(|()| format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
        let mut command = Command::new(&self.options.program);
        command
            .arg("engine")
            .arg("--path")
            .arg(&self.options.path)
            .arg("--library")
            .arg(&library)
            .arg("--memory-bytes")
            .arg(self.options.memory_bytes.to_string())
            .arg("--port")
            .arg(self.port.to_string())
            .env(KEY_VARIABLE, &key)
            .env(READER_KEY_VARIABLE, &reader_key)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("start {}: {}", self.options.program.display(), ErrorChain(&error)))?;
        let stdout = read_lines(child.stdout.take().expect("stdout is piped"));
        let stderr = Stderr::capture(child.stderr.take().expect("stderr is piped"));
        Ok(Started { child, stdout, stderr, key, reader_key })
    }

    /// The port that the child announces; `None` when it ends, takes too long, or the keeper is to stop.
    fn await_port(&self, child: &mut Child, stdout: &Receiver<String>) -> Option<u16> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            match stdout.recv_timeout(LOOK_EVERY) {
                Ok(line) => {
                    let announced: Option<serde_json::Value> = serde_json::from_str(&line).ok();
                    let port = announced.as_ref().and_then(|it| it.get("port")?.as_u64());
                    if let Some(port) = port.and_then(|port| u16::try_from(port).ok()) {
                        return Some(port);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if !matches!(child.try_wait(), Ok(None)) || self.stop_asked() {
                return None;
            }
        }
        None
    }

    /// Reaps a child that ended or must end; true when the keeper is to stop.
    fn end(&self, child: &mut Child, stderr: &Stderr, what: &str) -> bool {
        // Kills a child that took too long to start; one that has ended is not there to be killed.
        let _ = child.kill();
        let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let last_words = stderr.last_words();
        let reason = if last_words.is_empty() {
            format!("{what}: {status}")
        } else {
            format!("{what}: {status}: {last_words}")
        };
        self.fail(reason, true);
        self.stop_asked()
    }

    fn fail(&self, reason: String, ended: bool) {
        let news = self.facts.borrow().last_error.as_deref() != Some(reason.as_str());
        if news {
            error!(%reason, "engine is not running");
        } else {
            debug!(%reason, "engine is still not running");
        }
        self.facts.send_modify(|facts| {
            facts.restarts += u64::from(ended);
            facts.last_error = Some(reason);
        });
    }

    fn wait(&self, time: Duration) -> Wake {
        match self.stopped.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Wake::Time,
            // The handle is gone: nobody is left to use the engine.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Wake::Stop,
        }
    }

    fn stop_asked(&self) -> bool {
        matches!(self.wait(Duration::ZERO), Wake::Stop)
    }
}

struct Started {
    child: Child,
    stdout: Receiver<String>,
    stderr: Stderr,
    key: String,
    reader_key: String,
}

/// SIGTERM, then time to close the store, then SIGKILL. An end that was not in order is an error.
fn terminate(child: &mut Child) -> Result<(), String> {
    let pid = i32::try_from(child.id()).expect("process ids fit i32");
    // SAFETY: kill takes numbers; the child is not reaped yet, so its pid is still its own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    let deadline = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Ok(Some(status)) if status.success() => {
                info!("engine stopped");
                return Ok(());
            }
            Ok(Some(status)) => return Err(format!("stopped with {status}")),
            Err(_) => break,
        }
    }
    // A child that ended just now is not there to be killed.
    let _ = child.kill();
    let _ = child.wait();
    Err("did not stop in time and was killed".to_owned())
}

fn read_lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (lines, received) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    received
}

/// Logs what a child writes to standard error and keeps its last lines.
struct Stderr {
    lines: Arc<Mutex<VecDeque<String>>>,
    thread: JoinHandle<()>,
}

impl Stderr {
    fn capture(stream: impl std::io::Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = lines.clone();
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if line.is_empty() {
                    continue;
                }
                warn!(target: "engine", "{line}");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.truncate(KEPT_LINES - 1);
                kept.push_front(line);
            }
        });
        Self { lines, thread }
    }

    /// The line that explains best why a child ended: the newest with an exception or error in it, else the newest.
    fn last_words(&self) -> String {
        // The pipe ends with the child, but a moment may pass until its last lines are read.
        let deadline = Instant::now() + Duration::from_millis(200);
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let telling = lines.iter().find(|line| line.contains("Exception") || line.contains("rror"));
        telling.or(lines.front()).cloned().unwrap_or_default()
    }
}
