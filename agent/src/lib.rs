//! The node agent of etcd-monitor: finds etcd, measures its writes and syncs in the kernel, collects what etcd and the node say,
//! and carries all of it to the aggregator without unaccounted loss.
//!
//! ```text
//! discover ─┬→ collect (a task a source) ─┐
//!           └→ probe (own thread) ────────┴→ hub → encode → spool (own thread) → send ══ aggregator
//! ```
//!
//! One current-thread runtime runs everything but the two threads. [`hub`] owns what is known; everybody else sends it
//! notes. What goes back along the path (pace, acknowledgement, account of drops) goes over channels made in [`Agent::build`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcdmon_proto::v1;
use etcdmon_service::logging::ErrorChain;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod admin;
pub mod allow;
pub mod autopsy;
pub mod clock;
pub mod collect;
pub mod config;
pub mod connect;
pub mod discover;
pub mod ebpf;
pub mod encode;
pub mod enrol;
pub mod fact;
pub mod hub;
pub mod logs;
pub mod patience;
pub mod priority;
pub mod probe;
pub mod reload;
pub mod send;
pub mod spool;
pub mod state;
pub mod telemetry;
pub mod vitals;

use clock::Reading;
use collect::Collectors;
use collect::member::{MetricsCollector, StatusCollector};
use config::{Config, TokenSource};
use connect::tls::Trust;
use connect::{Connector, Credentials};
use discover::exec::{self, ProcessEvent, Watched};
use discover::{Change, Discovery, EtcdProcess, MemberIdentity, ProcFs, ProcessId, SCAN_PERIOD, wal};
use ebpf::ProbeConfig;
use enrol::Enrolment;
use hub::told::Told;
use hub::{Hub, NOTES_LIMIT, Note, Parts};
use logs::LogsHandle;
use logs::verdict::Exit;
use patience::Patience;
use probe::{Dumps, ProbeHandle, ProbeSettings, Tuning};
use send::batches::BatchSender;
use send::live::LiveSender;
use spool::thread::SpoolHandle;
use spool::{DiskFiles, Files, NoFiles};
use state::{State, StateError};
use telemetry::Telemetry;

/// How long a batch gathers facts until the aggregator says otherwise.
const FIRST_BATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Time at the end in which batches may still be sent before they go to disk.
const SEND_GRACE: Duration = Duration::from_secs(3);

/// Time at the end for everything else.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why the agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another agent has the state directory.
    #[error(transparent)]
    State(StateError),
    /// The admin address.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `/proc`, or a thread.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The agent, wired but not running.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    agent_id: [u8; 16],
    /// Held for its lock.
    state: Option<State>,
    epoch: [u8; 16],
    boot_id: [u8; 16],
    admin: admin::Bound,
    discovery: Discovery,
    proc: ProcFs,
    telemetry: Arc<Telemetry>,
    settings: watch::Receiver<Config>,
    reload: watch::Sender<Config>,
    probes: ProbeHandle,
    logs: LogsHandle,
    spool: SpoolHandle,
    notes: mpsc::Sender<Note>,
    inbox: mpsc::Receiver<Note>,
    hub: Hub,
    interval: watch::Sender<Duration>,
    live: send::live::Inlet,
}

impl Agent {
    /// Opens state and spool, binds the admin address, loads the probes. What can't be had is reported as degraded; only
    /// what makes no sense to go on without is an error.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let io_error = |what| move |source| StartError::Io { what, source };
        let proc = ProcFs::new("/proc");
        let boot_id = proc.boot_id().map_err(io_error("read the boot id"))?;
        let discovery = Discovery::new(proc.clone(), config.only_data_dir.clone())
            .map_err(io_error("read the boot id"))?;
        let admin = admin::bind(config.admin)
            .await
            .map_err(|source| StartError::Listen { address: config.admin, source })?;
        let (notes, inbox) = mpsc::channel(NOTES_LIMIT);
        let telemetry = Arc::new(Telemetry::default());
        let (state, files) = open_state(&config, &notes)?;
        let agent_id = state.as_ref().map_or_else(uuid::Uuid::new_v4, |state| state.agent_id).into_bytes();
        let epoch = uuid::Uuid::new_v4().into_bytes();
        let dropped = Arc::new(Mutex::new(encode::Account::default()));
        let (spool, recovery) = spool::thread::start(
            files,
            config.spool,
            config.spool_keys.clone(),
            epoch,
            Arc::clone(&dropped),
            Arc::clone(&telemetry),
        )
        .map_err(io_error("open the spool"))?;
        report_recovery(&recovery, &notes);
        let probes = probe::start(probe_settings(&config), notes.clone(), Arc::clone(&telemetry))
            .map_err(io_error("start the probes' thread"))?;
        let logs = logs::start(proc.clone(), places(&config), notes.clone())
            .map_err(io_error("start the logs' thread"))?;
        let (interval, batch_interval) = watch::channel(FIRST_BATCH_INTERVAL);
        let (live_sender, live) = send::live::outlet();
        let parts = Parts {
            agent_id,
            epoch,
            boot_id,
            sampling: config.sampling,
            checkpoint: recovery.checkpoint,
            dropped,
            spool: spool.clone(),
            batch_interval,
            live: live_sender,
            dumps: probes.dumps(),
            telemetry: Arc::clone(&telemetry),
        };
        let hub = Hub::new(parts, Reading::now());
        let (reload, settings) = watch::channel(config.clone());
        Ok(Self {
            config,
            settings,
            reload,
            agent_id,
            state,
            epoch,
            boot_id,
            admin,
            discovery,
            proc,
            telemetry,
            probes,
            logs,
            spool,
            notes,
            inbox,
            hub,
            interval,
            live,
        })
    }

    /// Where the admin address is.
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Where settings go that change while the agent runs; see [`reload`].
    pub fn reload(&self) -> watch::Sender<Config> {
        self.reload.clone()
    }

    /// Where dumps of the flight recorder are asked for.
    pub fn dumps(&self) -> Dumps {
        self.probes.dumps()
    }

    /// How the aggregator is reached, and what keeps the certificate for that where enrolment is wanted.
    fn connector(&self) -> (Connector, Option<Enrolment>) {
        let plain = Connector::new(&self.config.aggregator);
        let (tls, tokens) = (&self.config.aggregator.tls, &self.config.join_token);
        if tls.cert.is_some() || !self.config.aggregator.url.starts_with("https:") || self.state.is_none() {
            return (plain, None);
        }
        let files = match enrol::Files::open(&self.config.state_dir) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(%error, "no place for credentials in state.dir, so no enrolment");
                return (plain, None);
            }
        };
        // Without a token and without a certificate from an earlier one, none is wanted.
        if *tokens == TokenSource::default() && !files.identity().certificate.exists() {
            return (plain, None);
        }
        let trust = tls.ca.clone().map_or_else(|| Trust::FileOrWeb(files.authorities()), Trust::File);
        let connector = plain.with(Credentials::Enrolled(files.identity()), trust);
        let telemetry = Arc::clone(&self.telemetry);
        let enrolment = Enrolment::new(self.agent_id, files, tokens.clone(), connector.clone(), telemetry);
        (connector, Some(enrolment))
    }

    /// Runs until `stop`, then drains from left to right: no new facts, the last batch, sent or spooled.
    pub async fn run(self, stop: CancellationToken) {
        let ready = Arc::new(AtomicBool::new(true));
        let (stop_admin, stop_hub, stop_send) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (connector, enrolment) = self.connector();
        let page = admin::Admin::new(
            Arc::clone(&self.telemetry),
            Arc::clone(&ready),
            self.probes.clone(),
            self.config.admin_control,
            connector.faults(),
        );
        let senders = TaskTracker::new();
        senders.spawn(page.serve(self.admin, stop_admin.clone()));
        let hello = send::hello(self.agent_id, self.epoch, self.boot_id, &self.config.allowed_commands);
        if let Some(enrolment) = enrolment {
            senders.spawn(enrolment.run(stop_send.clone()));
        }
        let batches = BatchSender::new(
            connector.clone(),
            hello.clone(),
            self.spool.clone(),
            self.interval,
            self.notes.clone(),
            Arc::clone(&self.telemetry),
        );
        senders.spawn(batches.run(stop_send.clone()));
        let live =
            LiveSender::new(connector, hello, self.live, self.notes.clone(), Arc::clone(&self.telemetry));
        senders.spawn(live.run(stop_send.clone()));
        senders.close();
        let hub = tokio::spawn(self.hub.run(self.inbox, stop_hub.clone()));
        let spool_ticks = tokio::spawn(tick_spool(self.spool.clone(), stop_send.clone()));

        let collectors =
            Collectors::new(self.config.periods, self.notes.clone(), Arc::clone(&self.telemetry));
        let watch = Watch {
            collectors,
            config: self.config,
            proc: self.proc,
            notes: self.notes,
            probes: self.probes.clone(),
            collecting: HashMap::new(),
            settings: self.settings,
            logs: self.logs,
            watched: Watched::default(),
            unnamed: Vec::new(),
            identities: Patience::default(),
            silent: Vec::new(),
            told: Told::default(),
        };
        watch.run(self.discovery, &stop).await;

        ready.store(false, Ordering::Relaxed);
        in_grace("probes", STOP_GRACE, self.probes.stop()).await;
        stop_hub.cancel();
        in_grace("last batch", STOP_GRACE, async { drop(hub.await) }).await;
        in_grace("sending", SEND_GRACE, all_sent(&self.telemetry)).await;
        stop_send.cancel();
        stop_admin.cancel();
        in_grace("senders", STOP_GRACE, senders.wait()).await;
        spool_ticks.abort();
        in_grace("spool", STOP_GRACE, self.spool.close()).await;
        drop(self.state);
    }
}

async fn in_grace(what: &str, grace: Duration, work: impl Future<Output = ()>) {
    if tokio::time::timeout(grace, work).await.is_err() {
        tracing::warn!(what, seconds = grace.as_secs(), "not finished within the grace period");
    }
}

async fn all_sent(telemetry: &Telemetry) {
    while telemetry.connected.get() == 1 && telemetry.waiting_batches() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn tick_spool(spool: SpoolHandle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        spool.tick();
    }
}

/// Without a usable state directory the agent goes on with a passing identity and batches in memory only.
fn open_state(
    config: &Config,
    notes: &mpsc::Sender<Note>,
) -> Result<(Option<State>, Box<dyn Files>), StartError> {
    let opened = State::open(&config.state_dir).and_then(|state| {
        let files = DiskFiles::open(&state.spool_dir).map_err(|source| StateError::Io {
            verb: "create",
            path: state.spool_dir.clone(),
            source,
        })?;
        Ok((state, files))
    });
    match opened {
        Ok((state, files)) => Ok((Some(state), Box::new(files))),
        Err(taken @ StateError::Taken { .. }) => Err(StartError::State(taken)),
        Err(error) => {
            let degraded = v1::Degradation {
                capability: "state".to_owned(),
                reason: ErrorChain(&error).to_string(),
                remedy: "make state.dir writable; until then a restart loses what was not sent".to_owned(),
            };
            let _empty_yet = notes.try_send(Note::Degraded(degraded));
            Ok((None, Box::new(NoFiles)))
        }
    }
}

fn report_recovery(recovery: &spool::Recovery, notes: &mpsc::Sender<Note>) {
    if recovery.batches > 0 {
        tracing::info!(batches = recovery.batches, "an earlier agent left batches, they are sent first");
    }
    let now = Reading::now();
    let facts = recovery.corruptions.iter().map(|corruption| {
        fact::Fact::Event(fact::Event {
            process: None,
            mono_ns: now.mono_ns,
            kind: "spool.corrupt",
            details: serde_json::json!({
                "segment": corruption.file.to_string(), "offset": corruption.offset,
                "bytes": corruption.bytes, "what": corruption.what,
            }),
        })
    });
    let facts: Vec<fact::Fact> = facts.collect();
    if !facts.is_empty() {
        let _empty_yet = notes.try_send(Note::Facts(facts));
    }
    if recovery.sealed_batches > 0 {
        let degraded = v1::Degradation {
            capability: "spool.sealed".to_owned(),
            reason: format!("{} spooled batches are encrypted with another key", recovery.sealed_batches),
            remedy: "name their key in spool.old-key-file and restart the agent; they are kept until their room is \
                     needed, then dropped as spool_sealed"
                .to_owned(),
        };
        let _empty_yet = notes.try_send(Note::Degraded(degraded));
    }
}

/// Says that a member shares its device with the spool, as on most nodes: whoever wonders about its disk may want to know. Partitions of one
/// disk are different devices here.
fn spool_device(state_dir: &Path, process: &EtcdProcess) -> Option<fact::Event> {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|data| data.dev());
    let spool = device(state_dir)?;
    let (wal, data) =
        (device(&process.wal_dir_here) == Some(spool), device(&process.data_dir_here) == Some(spool));
    (wal || data).then(|| fact::Event {
        process: Some(process.id),
        mono_ns: Reading::now().mono_ns,
        kind: "spool.device",
        details: serde_json::json!({
            "device": format!("{}:{}", libc::major(spool), libc::minor(spool)),
            "shared_with_wal": wal,
            "shared_with_data": data,
        }),
    })
}

/// A process called etcd that can't be looked at. `full`: as many are waited for as may be.
fn silence(process: ProcessId, full: bool) -> v1::Degradation {
    let more = if full { "; further processes are not looked at" } else { "" };
    v1::Degradation {
        capability: "discovery".to_owned(),
        reason: format!("memory or files of etcd (pid {}) do not answer{more}", process.pid),
        remedy: "look whether this is an etcd of yours, and whether its filesystem hangs".to_owned(),
    }
}

/// What this process has no right to see of an etcd.
fn hidden(process: &EtcdProcess) -> Option<v1::Degradation> {
    process.is_hidden.then(|| v1::Degradation {
        capability: "discovery.details".to_owned(),
        reason: format!("of etcd (pid {}): {}", process.id.pid, process.notes.join("; ")),
        remedy: "give the agent CAP_SYS_PTRACE; until then etcd is known by its flags alone".to_owned(),
    })
}

const fn tuning(config: &Config) -> Tuning {
    Tuning {
        sampling: config.sampling,
        dump_latency: config.dump_latency,
        write_slot: config.write_slot,
        write_period: config.write_period,
    }
}

/// Where logs are, as the settings say.
fn places(config: &Config) -> logs::find::Places {
    let mut places = logs::find::Places::default();
    if !config.journal_dirs.is_empty() {
        places.journals.clone_from(&config.journal_dirs);
    }
    places
}

fn probe_settings(config: &Config) -> ProbeSettings {
    ProbeSettings {
        enabled: config.probes_enabled,
        // The kernel hands over every sync, for the flight recorder; which of them have a row is decided here.
        config: ProbeConfig {
            slow_threshold: Duration::from_nanos(config.sampling.slow_ns),
            sample_every: 1,
            ..ProbeConfig::default()
        },
        flight_bytes: config.flight_bytes,
        tuning: tuning(config),
    }
}

/// What the kernel tells next; nothing, for ever, when it does not.
async fn next_event(events: &mut Option<mpsc::Receiver<ProcessEvent>>) -> ProcessEvent {
    if let Some(told) = events {
        if let Some(event) = told.recv().await {
            return event;
        }
        *events = None;
    }
    std::future::pending().await
}

/// Follows discovery: starts and ends what belongs to each etcd process.
struct Watch {
    config: Config,
    proc: ProcFs,
    notes: mpsc::Sender<Note>,
    probes: ProbeHandle,
    logs: LogsHandle,
    /// Processes whose end the kernel is to tell.
    watched: Watched,
    collectors: Collectors,
    settings: watch::Receiver<Config>,
    /// Processes, and what ends their collectors.
    collecting: HashMap<ProcessId, (EtcdProcess, CancellationToken)>,
    /// Processes whose WAL named no ids yet.
    unnamed: Vec<EtcdProcess>,
    /// What their WALs say; a data directory may be on a filesystem that hangs.
    identities: Patience<Option<MemberIdentity>>,
    /// Processes that kept silent at the last scan.
    silent: Vec<ProcessId>,
    told: Told,
}

impl Watch {
    async fn run(mut self, mut discovery: Discovery, stop: &CancellationToken) {
        let mut node = stop.child_token();
        self.collectors.start_node(&node);
        let mut scans = tokio::time::interval(SCAN_PERIOD);
        scans.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let logs = self.logs.clone();
        // First of all: where its log is can be seen only while it lives.
        let began = move |process: &EtcdProcess| logs.appeared(process);
        let mut events = exec::listen(discovery.sighter(), self.watched.clone(), began)
            .inspect_err(|error| tracing::info!(%error, "not told of new processes: /proc is scanned only"))
            .ok();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                told = next_event(&mut events) => {
                    let (changes, exit) = match told {
                        ProcessEvent::Began(process) => (discovery.accept(process), None),
                        ProcessEvent::Ended(pid, status) => {
                            (discovery.ended(pid).into_iter().collect(), Some(Exit::of_status(status)))
                        }
                    };
                    for change in changes {
                        self.follow(change, exit, stop).await;
                    }
                    continue;
                }
                _ = scans.tick() => {}
                Ok(()) = self.settings.changed() => {
                    node = self.tune(&node, stop).await;
                    continue;
                }
            }
            match discovery.scan() {
                Ok(changes) => {
                    for change in changes {
                        self.follow(change, None, stop).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "scan of /proc failed"),
            }
            self.name_unnamed().await;
            self.tell_degraded(&discovery).await;
        }
        for (_, token) in self.collecting.values() {
            token.cancel();
        }
    }

    /// Takes what changed in the settings. Returns what ends the collectors of the node.
    async fn tune(&mut self, node: &CancellationToken, stop: &CancellationToken) -> CancellationToken {
        let new = self.settings.borrow_and_update().clone();
        let old = std::mem::replace(&mut self.config, new);
        self.tell(Note::Sampling(self.config.sampling)).await;
        if !self.probes.tune(tuning(&self.config)) {
            tracing::error!("the probes are too busy to take the new settings: reload once more");
        }
        if old.periods == self.config.periods {
            return node.clone();
        }
        node.cancel();
        self.collectors.periods = self.config.periods;
        let node = stop.child_token();
        self.collectors.start_node(&node);
        let mut collecting = std::mem::take(&mut self.collecting);
        for (process, token) in collecting.values_mut() {
            token.cancel();
            *token = stop.child_token();
            self.collect(process, token);
        }
        self.collecting = collecting;
        node
    }

    /// `exit` is how a process that is gone ended, where the kernel told.
    async fn follow(&mut self, change: Change, exit: Option<Exit>, stop: &CancellationToken) {
        match change {
            Change::Appeared(process) => {
                self.logs.appeared(&process);
                self.watched.add(process.id.pid);
                let answer = self.read_identity(&process);
                let identity = answer.flatten();
                if identity.is_none() {
                    self.unnamed.push((*process).clone());
                }
                let token = stop.child_token();
                self.collecting.insert(process.id, ((*process).clone(), token.clone()));
                self.tell(Note::Appeared(process.clone(), identity)).await;
                // Of a filesystem that does not answer nothing else is asked.
                if let Some(event) = answer.and_then(|_| spool_device(&self.config.state_dir, &process)) {
                    self.tell(Note::Facts(vec![fact::Fact::Event(event)])).await;
                }
                self.probes.add((*process).clone());
                self.collect(&process, &token);
            }
            Change::Gone(process) => {
                if let Some((_, token)) = self.collecting.remove(&process) {
                    token.cancel();
                }
                self.unnamed.retain(|unnamed| unnamed.id != process);
                self.logs.gone(process, exit);
                self.watched.remove(process.pid);
                // Its last counts come first.
                self.probes.remove(process).await;
                self.tell(Note::Gone(process)).await;
            }
        }
    }

    fn collect(&self, process: &EtcdProcess, token: &CancellationToken) {
        let (periods, tls) = (self.collectors.periods, &self.config.etcd_tls);
        let metrics = MetricsCollector::new(process, tls, periods.metrics, self.probes.clone());
        self.collectors.start(metrics, token);
        self.collectors.start(StatusCollector::new(process, tls, periods.status), token);
        self.collectors.start_process(&self.proc, process, token);
    }

    async fn name_unnamed(&mut self) {
        for process in std::mem::take(&mut self.unnamed) {
            match self.read_identity(&process).flatten() {
                Some(identity) => self.tell(Note::Identified(process.id, identity)).await,
                None => self.unnamed.push(process),
            }
        }
    }

    /// `None` while the filesystem does not answer.
    fn read_identity(&self, process: &EtcdProcess) -> Option<Option<MemberIdentity>> {
        let directory = process.wal_dir_here.clone();
        self.identities.ask(process.id, move || wal::read_identity(&directory).ok().flatten())
    }

    /// Says what can't be seen of processes called etcd, and what can again.
    async fn tell_degraded(&mut self, discovery: &Discovery) {
        self.identities.keep(|process| self.collecting.contains_key(&process));
        let (mut silent, mut full) = discovery.silent();
        let (of_files, files_full) = self.identities.silent();
        silent.extend(of_files);
        full |= files_full;
        // One that is silent at two scans in a row is not merely slow.
        let lasting = silent.iter().filter(|process| self.silent.contains(process));
        let mut off: Vec<v1::Degradation> = lasting.map(|process| silence(*process, full)).collect();
        self.silent = silent;
        let processes = self.collecting.values().map(|(process, _)| process);
        off.extend(processes.filter_map(hidden));
        for note in self.told.update(off) {
            self.tell(note).await;
        }
    }

    async fn tell(&self, note: Note) {
        let _hub_ended = self.notes.send(note).await;
    }
}
