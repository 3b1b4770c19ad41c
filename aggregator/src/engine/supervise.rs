//! Keeps the engine's child process running.
//!
//! A thread of its own starts the child and waits for it: the kernel ends the child when the *thread* that started it
//! ends, so this must not be a pool's thread. A child that crashes, hangs, takes too much memory or does not get on with
//! its start ([`super::pulse`]) is answered by a new one after a growing pause, and counted by what it was. What the child
//! writes to standard error is logged, and its last lines explain a failure in [`Facts`]. A missing library is looked
//! for again from time to time; everything else in the aggregator goes on meanwhile.
//!
//! Where the engine answers, and the key for it, also lie in a file of the store that only its owner can read: for
//! subcommands on the same host.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
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

use super::address;
use super::child::{KEPT_FREE_BYTES, KEY_VARIABLE, PARENT_VARIABLE, READER_KEY_VARIABLE};
use super::failstop;
use super::library::locate;
use super::pulse::{Memory, Progress, Pulse, kernel_kills};
use super::room::{self, Room};
use crate::store::Endpoint;

/// How long a child may do nothing, or leave the health query unanswered, unless told otherwise.
pub const HANG_AFTER: Duration = Duration::from_secs(30);

/// How often it is said that a child is still starting, and that one that was killed has not ended.
const SAY_EVERY: Duration = Duration::from_secs(10);

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
    /// How long a child may do nothing, or leave the health query unanswered.
    pub hang_after: Duration,
    /// Most bytes a second that it may write; `None` = as fast as it can.
    pub write_bytes_per_second: Option<u64>,
}

impl Options {
    /// Of this program with its store there, all else as it is by default.
    pub fn new(program: PathBuf, path: PathBuf) -> Self {
        Self {
            program,
            path,
            library: None,
            memory_bytes: 2 << 30,
            hang_after: HANG_AFTER,
            write_bytes_per_second: None,
        }
    }
}

/// Why a child ended without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fall {
    /// It ended by itself, or somebody killed it.
    Crash,
    /// It could not write to its disk and ended, so that nothing is taken for stored.
    Write,
    /// It took too much memory, or the kernel ran out of it.
    Memory,
    /// It no longer answered.
    Hang,
    /// It did not get to answer at all.
    Start,
}

impl Fall {
    /// All of them, in the order of [`Facts::falls`].
    pub const ALL: [Self; 5] = [Self::Crash, Self::Write, Self::Memory, Self::Hang, Self::Start];

    /// Its name in metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Write => "write",
            Self::Memory => "memory",
            Self::Hang => "hang",
            Self::Start => "start",
        }
    }
}

/// How the child is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The endpoint answers.
    pub running: bool,
    /// Process id while a child exists.
    pub pid: Option<u32>,
    /// How long a child has been starting, and what it has read so far, in bytes; `None` when it is not starting.
    pub starting: Option<(Duration, u64)>,
    /// Memory of its own that it takes, in bytes; 0 while there is none.
    pub memory_bytes: u64,
    /// Room on the disk of its store.
    pub room: Option<Room>,
    /// Children that ended without being told to.
    pub restarts: u64,
    /// The same by why they did, in the order of [`Fall::ALL`].
    pub falls: [u64; Fall::ALL.len()],
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
        let keeper = Keeper {
            options,
            stopped,
            stopping: Cell::new(false),
            facts: facts_in,
            endpoint: endpoint_in,
            port: 0,
            generation: 0,
            kernel_kills: None,
            room_at: Instant::now(),
            announced: false,
        };
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
    /// It was told to stop.
    stopping: Cell<bool>,
    facts: watch::Sender<Facts>,
    endpoint: watch::Sender<Option<Endpoint>>,
    /// Port of the child before.
    port: u16,
    generation: u64,
    /// Of the kernel, before this child.
    kernel_kills: Option<u64>,
    /// When the disk is to be looked at.
    room_at: Instant,
    /// The file with the child's address was written.
    announced: bool,
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
            // Never another engine's: this one held the store when it wrote its own.
            if std::mem::take(&mut self.announced) {
                address::forget(&self.options.path);
            }
            self.facts.send_modify(|facts| {
                facts.running = false;
                facts.pid = None;
                facts.memory_bytes = 0;
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
        self.look_at_room();
        self.kernel_kills = kernel_kills();
        let started = match self.spawn() {
            Ok(started) => started,
            Err(reason) => {
                self.fail(reason, None);
                return false;
            }
        };
        let Started { mut child, stdout, stderr, key, reader_key } = started;
        self.facts.send_modify(|facts| facts.pid = Some(child.id()));
        let port = self.await_port(&mut child, &stdout);
        self.facts.send_modify(|facts| facts.starting = None);
        let port = match port {
            Ok(port) => port,
            Err(what) => return self.end(&mut child, &stderr, Fall::Start, &what),
        };
        self.port = port;
        self.generation += 1;
        let url = format!("http://127.0.0.1:{port}");
        info!(pid = child.id(), %url, generation = self.generation, "engine started");
        let mut pulse = Pulse::new(port, &key, self.options.hang_after, Instant::now());
        let endpoint = Endpoint { url, key, reader_key, generation: self.generation };
        self.announced = true;
        if let Err(error) = address::write(&self.options.path, &endpoint) {
            warn!(%error, "no file with the engine's address; `store` subcommands can't find it");
        }
        self.endpoint.send_replace(Some(endpoint));
        self.facts.send_modify(|facts| facts.running = true);
        let mut memory = Memory::new(self.options.memory_bytes, Instant::now());
        loop {
            match child.try_wait() {
                Ok(None) => {}
                _ => return self.end(&mut child, &stderr, Fall::Crash, "ended"),
            }
            let now = Instant::now();
            if let Some(silent) = pulse.beat(now) {
                let what = format!("did not answer for {} s and was killed", silent.as_secs());
                return self.end(&mut child, &stderr, Fall::Hang, &what);
            }
            if let Some((taken, limit)) = memory.look(child.id(), now) {
                let what = format!(
                    "took {} MiB of memory, {} MiB at most, and was killed",
                    taken >> 20,
                    limit >> 20
                );
                return self.end(&mut child, &stderr, Fall::Memory, &what);
            }
            self.facts.send_if_modified(|facts| {
                std::mem::replace(&mut facts.memory_bytes, memory.taken_bytes) != memory.taken_bytes
            });
            self.look_at_room();
            if matches!(self.wait(LOOK_EVERY), Wake::Stop) {
                self.endpoint.send_replace(None);
                if let Err(reason) = terminate(&mut child) {
                    self.fail(reason, None);
                }
                return true;
            }
        }
    }

    /// Looks at the disk once a second, and says when it runs full and when it has room again.
    fn look_at_room(&mut self) {
        let now = Instant::now();
        if now < self.room_at {
            return;
        }
        self.room_at = now + Duration::from_secs(1);
        let Some(room) = room::of(&self.options.path, KEPT_FREE_BYTES) else { return };
        let was_full = self.facts.borrow().room.as_ref().is_some_and(|room| room.full);
        match (was_full, room.full) {
            (false, true) => warn!(
                free_bytes = room.free_bytes,
                "the disk of the telemetry store is full: nothing is stored until there is room; agents keep what they have"
            ),
            (true, false) => {
                info!(free_bytes = room.free_bytes, "the disk of the telemetry store has room again")
            }
            _ => {}
        }
        self.facts.send_if_modified(|facts| facts.room.replace(room) != facts.room);
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
            .arg("--write-bytes-per-second")
            .arg(self.options.write_bytes_per_second.unwrap_or(0).to_string())
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

    /// The port that the child announces, or why there is none: it ended, does nothing, or the keeper is to stop.
    fn await_port(&mut self, child: &mut Child, stdout: &Receiver<String>) -> Result<u16, String> {
        let mut progress = Progress::new(self.options.hang_after, Instant::now());
        let mut say_after = SAY_EVERY;
        loop {
            match stdout.recv_timeout(LOOK_EVERY) {
                Ok(line) => {
                    let announced: Option<serde_json::Value> = serde_json::from_str(&line).ok();
                    let port = announced.as_ref().and_then(|it| it.get("port")?.as_u64());
                    if let Some(port) = port.and_then(|port| u16::try_from(port).ok()) {
                        return Ok(port);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("did not start".to_owned()),
            }
            let now = Instant::now();
            if let Some(still) = progress.look(child.id(), now) {
                return Err(format!("did nothing for {} s of its start and was killed", still.as_secs()));
            }
            let age = progress.age(now);
            self.facts.send_if_modified(|facts| {
                let whole = Duration::from_secs(age.as_secs());
                facts.starting.replace((whole, progress.read_bytes)) != facts.starting
            });
            if age >= say_after {
                say_after += SAY_EVERY;
                info!(seconds = age.as_secs(), read_bytes = progress.read_bytes, "engine is still starting");
            }
            self.look_at_room();
            if !matches!(child.try_wait(), Ok(None)) || self.stop_asked() {
                return Err("did not start".to_owned());
            }
        }
    }

    /// Reaps a child that ended or must end; true when the keeper is to stop.
    fn end(&self, child: &mut Child, stderr: &Stderr, fall: Fall, what: &str) -> bool {
        // Nobody may find it any more; one that has ended is not there to be killed.
        self.endpoint.send_replace(None);
        let _ = child.kill();
        let (killed_at, mut say_after) = (Instant::now(), SAY_EVERY);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) => {}
                Err(_) => break None,
            }
            // One that waits for its disk in the kernel ends when that answers.
            if killed_at.elapsed() >= say_after {
                say_after += SAY_EVERY;
                warn!(
                    pid = child.id(),
                    seconds = killed_at.elapsed().as_secs(),
                    "killed, and has not ended: it may wait for its disk"
                );
            }
            if matches!(self.wait(LOOK_EVERY), Wake::Stop) {
                return true;
            }
        };
        let short_of_memory = status.and_then(|status| status.signal()) == Some(libc::SIGKILL)
            && kernel_kills().zip(self.kernel_kills).is_some_and(|(now, before)| now > before);
        let fall = match fall {
            Fall::Crash if short_of_memory => Fall::Memory,
            Fall::Crash | Fall::Start if status.and_then(|it| it.code()) == Some(failstop::EXIT_CODE) => {
                Fall::Write
            }
            fall => fall,
        };
        let status = status.map_or_else(|| "gone".to_owned(), |status| status.to_string());
        let mut reason = format!("{what}: {status}");
        if fall == Fall::Memory && short_of_memory {
            reason += " while the kernel was out of memory";
        }
        let last_words = stderr.last_words();
        if !last_words.is_empty() {
            reason = format!("{reason}: {last_words}");
        }
        self.fail(reason, Some(fall));
        self.stop_asked()
    }

    fn fail(&self, reason: String, fall: Option<Fall>) {
        let news = self.facts.borrow().last_error.as_deref() != Some(reason.as_str());
        if news {
            error!(%reason, fall = fall.map(Fall::name), "engine is not running");
        } else {
            debug!(%reason, "engine is still not running");
        }
        self.facts.send_modify(|facts| {
            if let Some(fall) = fall {
                facts.restarts += 1;
                facts.falls[fall as usize] += 1;
            }
            facts.last_error = Some(reason);
        });
    }

    fn wait(&self, time: Duration) -> Wake {
        if self.stopping.get() {
            return Wake::Stop;
        }
        match self.stopped.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Wake::Time,
            // The handle is gone: nobody is left to use the engine.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                // The word comes once, and is asked for in several places.
                self.stopping.set(true);
                Wake::Stop
            }
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
