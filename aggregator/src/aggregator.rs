//! Wires the parts and runs them. The data path in one screen:
//!
//! agents → ingest ─┬→ store → query → API
//!    or agentless  │    ↑ rollup
//!                  └→ evaluation (model → rules → alerts → notices) → outbox → channels
//!
//! Order of the end: readiness false → ingest and polling stop → store drains → evaluation commits → outbox delivers what is due →
//! engine ends → API last, so that probes see the truth to the end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use etcdmon_service::process::write_ready_file;
use etcdmon_service::systemd;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::agentless::{self, Agentless};
use crate::api::{self, Access, Health, StoreFacts};
use crate::clock::Clock;
use crate::config::{ClickHouse, Config, Embedded, OnEtcdDisk};
use crate::engine::room::{Neighbour, etcd_beside};
use crate::engine::{Options as EngineOptions, Supervisor};
use crate::evaluate::{self, Evaluation};
use crate::export::{self, Push, PushError};
use crate::expose::{Deliveries, Sources};
use crate::ingest::{self, LiveFact, Service};
use crate::notify::channel::{Channels, Console, Webhook, WebhookError};
use crate::notify::outbox::{Outbox, Outcome};
use crate::query::Query;
use crate::registry::Registry;
use crate::rollup::{self, Roller};
use crate::rule::Profile;
use crate::server;
use crate::sql::{self, Sql};
use crate::state::{State, StateError};
use crate::store::upkeep::{self, Caretaker};
use crate::store::{Client, Store, Unstorable};
use crate::tls;
use crate::transcript::Transcript;
use crate::view::View;

/// Live messages between ingest and evaluation; what finds no room is dropped and counted, and heals with the next one.
const LIVE_QUEUE: usize = 4_096;

/// Orders between evaluation and outbox; a full queue holds the evaluation up, and the outbox never waits for anybody.
const ORDER_QUEUE: usize = 1_024;

/// Outcomes on their way back; what finds no room only lacks in metrics and `notified_at`.
const OUTCOME_QUEUE: usize = 1_024;

/// What the engine may write on etcd's disk unless told otherwise, in bytes a second.
const WRITE_RATE_ON_ETCD_DISK: u64 = 8 << 20;

/// Why the aggregator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// An address can't be listened on.
    #[error("listen on {address} ({key})")]
    Listen {
        /// The setting.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS of a port can't be set up.
    #[error(transparent)]
    Tls(#[from] tls::PrepareError),
    /// A webhook can't be used.
    #[error("alert.webhook")]
    Webhook(#[from] WebhookError),
    /// The HTTP client for SQL can't be made.
    #[error("HTTP client for SQL")]
    Sql(#[source] reqwest::Error),
    /// Metrics can't be pushed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The engine's keeper can't be started.
    #[error("start the engine's keeper")]
    Engine(#[source] std::io::Error),
    /// TLS towards ClickHouse can't be set up.
    #[error("clickhouse.ca-file, clickhouse.cert-file, clickhouse.key-file")]
    ClickHouse(#[source] tls::TlsError),
    /// There is an etcd on the engine's disk.
    #[error(
        "state.dir {state_dir} is on the disk of etcd {pid} ({data_dir}), and clickhouse.on-etcd-disk is refuse: move it, use a server by clickhouse.url, or let it write slowly there with cap"
    )]
    OnEtcdDisk {
        /// Where the store would be.
        state_dir: PathBuf,
        /// Process id of the etcd.
        pid: u32,
        /// Its data directory.
        data_dir: PathBuf,
    },
    /// The ready file can't be written.
    #[error("write ready file {path}")]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// An aggregator that is built and listens, but does not serve yet.
pub struct Aggregator {
    config: Config,
    api: TcpListener,
    ingest: TcpListener,
    clickhouse: Option<(TcpListener, axum::Router)>,
    sql: Sql,
    engine: Option<Supervisor>,
    caretaker: Option<Caretaker>,
    store: (Store, JoinHandle<()>),
    stop_store: CancellationToken,
    stop_ingest: CancellationToken,
    service: Service,
    poller: agentless::Runner,
    roller: Roller,
    transcript: Transcript,
    health: Health,
    router: axum::Router,
    owners_router: axum::Router,
    owners_socket: Option<UnixListener>,
    ports: tls::Ports,
    evaluation: Evaluation,
    outbox: Outbox,
    push: Option<Push>,
    facts: mpsc::Receiver<LiveFact>,
    outcomes: mpsc::Receiver<Outcome>,
}

impl Aggregator {
    /// Opens the state, binds the addresses and puts everything together.
    ///
    /// # Errors
    /// When state, addresses or receivers can't be used. A store that is not there is no error: it is waited for.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let clock = Clock::start();
        let state = State::open(&config.state_dir)?;
        let registry = Registry::load(&state).await?;
        let api = listen("listen.api", config.api).await?;
        let ingest = listen("listen.ingest", config.ingest).await?;
        let (engine, client, sql, beside) = connect(&config)?;
        let clickhouse = match &config.clickhouse_port {
            Some(port) => {
                let account = api::clickhouse::Account::new(&port.user, &port.password);
                let router = api::clickhouse::router(sql.clone(), account);
                Some((listen("listen.clickhouse", port.address).await?, router))
            }
            None => None,
        };
        let (stop_store, stop_ingest) = (CancellationToken::new(), CancellationToken::new());
        let unstorable =
            Unstorable { directory: Some(config.state_dir.join("unstorable")), ..Unstorable::default() };
        let store = Store::start(client.clone(), unstorable, stop_store.clone());
        let rolling = rollup::Options::new(config.batch_interval, config.retention);
        let roller = Roller::new(client.clone(), store.0.frontier(), rolling);
        let (live, facts) = mpsc::channel(LIVE_QUEUE);
        let ingest_counters = Arc::new(ingest::Counters::default());
        let ports = tls::prepare(&config, &state, &ingest_counters).await?;
        let options = ingest::Options {
            batch_interval: config.batch_interval,
            door: ports.door.clone(),
            counters: ingest_counters,
            ..ingest::Options::default()
        };
        let service = Service::new(
            store.0.clone(),
            Arc::new(registry.clone()),
            live.clone(),
            options,
            stop_ingest.clone(),
        );
        let channels = channels(&config)?;
        let (orders, order_inbox) = mpsc::channel(ORDER_QUEUE);
        let (outcome_sender, outcomes) = mpsc::channel(OUTCOME_QUEUE);
        let mut outbox = Outbox::new(channels.clone(), state.clone(), clock, order_inbox, outcome_sender);
        outbox.restore(state.outbox().await?);
        let (view, views) = watch::channel(Arc::new(View { made_at: clock.now(), ..View::default() }));
        let installation = registry.installation();
        let parts = agentless::Parts {
            installation,
            clock,
            store: store.0.clone(),
            registry: registry.clone(),
            live,
            view: views.clone(),
            batch_interval: config.batch_interval,
        };
        let transcript = Transcript::load(
            state.clone(),
            store.0.clone(),
            registry.installation(),
            views.clone(),
            client.clone(),
        )
        .await?;
        let (agentless, poller) = Agentless::load(parts, state.clone(), config.agentless.clone()).await?;
        let deliveries = Deliveries::default();
        let instance = registry.installation().to_string();
        let evaluation = Evaluation::restore(evaluate::Parts {
            clock,
            profile: Profile::default_profile(),
            registry,
            state: state.clone(),
            receivers: channels.iter().map(|channel| channel.id().to_owned()).collect(),
            external_url: external_url(&api, config.api_tls.is_some()),
            outbox: orders,
            deliveries: deliveries.clone(),
            view,
        })
        .await?;
        let engine_facts = engine.as_ref().map(Supervisor::facts);
        let (caretaker, upkeep) = match &config.clickhouse {
            ClickHouse::Embedded(embedded) => {
                let path = config.state_dir.join("clickhouse");
                let options = upkeep::Options {
                    path,
                    max_bytes: embedded.max_bytes,
                    author: author(&installation),
                    retention: config.retention,
                    look_every: upkeep::LOOK_EVERY,
                };
                let (caretaker, upkeep) = Caretaker::new(client.clone(), options);
                (Some(caretaker), Some(upkeep))
            }
            ClickHouse::External { .. } => (None, None),
        };
        let health = Health::new(store.0.clone(), engine_facts.clone());
        let otlp_counters = config.otlp.as_ref().map(|_| Arc::new(export::Counters::default()));
        if config.export_members {
            store.0.tally().keep_newest();
        }
        let sources = Arc::new(Sources {
            clock,
            view: views.clone(),
            store: store.0.clone(),
            rollup: roller.counters(),
            state: state.clone(),
            ingest: service.counters(),
            enrolment: Arc::clone(&ports.counters),
            certificates: ports.gauges.clone(),
            sql: sql.counters(),
            engine: engine_facts.clone(),
            upkeep: upkeep.clone(),
            deliveries,
            otlp: otlp_counters.clone(),
            samples: config.export_members,
        });
        let push = match (&config.otlp, otlp_counters) {
            (Some(settings), Some(counters)) => {
                let page = Arc::clone(&sources);
                Some(Push::new(settings, instance, Arc::new(move || page.families()), counters)?)
            }
            _ => None,
        };
        let owners_socket = server::bind_owners_socket(&config.state_dir);
        let (router, owners_router) = api::routers(api::Parts {
            clock,
            view: views,
            query: Query::new(client).with_retention(config.retention),
            sql: sql.clone(),
            health: health.clone(),
            store: StoreFacts { engine: engine_facts, upkeep, beside },
            exposition: sources,
            agentless,
            desk: ports.desk(),
            access: Access::new(config.token.as_ref(), &config.host_names),
        });
        Ok(Self {
            config,
            api,
            ingest,
            clickhouse,
            sql,
            engine,
            caretaker,
            store,
            stop_store,
            stop_ingest,
            service,
            poller,
            roller,
            transcript,
            health,
            router,
            owners_router,
            owners_socket,
            ports,
            evaluation,
            outbox,
            push,
            facts,
            outcomes,
        })
    }

    /// Where the API listens.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn api_address(&self) -> std::io::Result<SocketAddr> {
        self.api.local_addr()
    }

    /// Where the ingest listens.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn ingest_address(&self) -> std::io::Result<SocketAddr> {
        self.ingest.local_addr()
    }

    /// Serves until `end` is cancelled, then ends in order.
    ///
    /// # Errors
    /// When the ready file can't be written.
    pub async fn run(mut self, end: CancellationToken) -> Result<(), StartError> {
        let ready = self.ready_content();
        let (stop_evaluation, stop_outbox, stop_api) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        self.ports.start(&self.stop_ingest);
        let api = server::serve(self.api, self.router, self.ports.api.clone(), stop_api.clone());
        let api = tokio::spawn(api);
        if let Some(socket) = self.owners_socket {
            tokio::spawn(server::serve_owner(socket, self.owners_router, stop_api.clone()));
        }
        let clickhouse = self.clickhouse.map(|(listener, router)| {
            tokio::spawn(server::serve(listener, router, self.ports.api.clone(), stop_api.clone()))
        });
        tokio::spawn(check_sql(self.sql));
        let tls = self.ports.ingest.clone();
        let ingest = tokio::spawn(ingest::serve(self.ingest, self.service, tls, self.stop_ingest.clone()));
        let poller = tokio::spawn(self.poller.run(self.stop_ingest.clone()));
        let roller = tokio::spawn(self.roller.run(self.stop_store.clone()));
        let transcript = tokio::spawn(self.transcript.run(self.stop_store.clone()));
        let store = self.store.0.clone();
        let caretaker =
            self.caretaker.map(|it| tokio::spawn(it.run(move || store.is_ready(), self.stop_store.clone())));
        let evaluation =
            tokio::spawn(self.evaluation.run(self.facts, self.outcomes, stop_evaluation.clone()));
        let outbox = tokio::spawn(self.outbox.run(stop_outbox.clone()));
        let push = self.push.map(|push| tokio::spawn(push.run(self.stop_ingest.clone())));
        self.health.set_serving(true);
        tracing::info!(api = ready["api"].as_str(), ingest = ready["ingest"].as_str(), "serving");
        // The telemetry store may still be on its way: agents and alerts don't wait for it, so neither do units.
        systemd::ready("serving");
        let ready_file = self.config.ready_file.clone();
        let announced = announce(ready_file, ready, self.engine.as_ref(), &end).await;
        if announced.is_ok() {
            end.cancelled().await;
        }
        self.health.set_serving(false);
        self.stop_ingest.cancel();
        match ingest.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "ingest ended with an error"),
            Err(error) => tracing::error!(%error, "ingest ended abnormally"),
        }
        ended("agentless", poller).await;
        if let Some(push) = push {
            ended("push", push).await;
        }
        self.stop_store.cancel();
        ended("rollup", roller).await;
        ended("transcript", transcript).await;
        ended("store", self.store.1).await;
        if let Some(caretaker) = caretaker {
            ended("upkeep", caretaker).await;
        }
        stop_evaluation.cancel();
        ended("evaluation", evaluation).await;
        stop_outbox.cancel();
        ended("outbox", outbox).await;
        if let Some(engine) = &self.engine {
            engine.stop().await;
        }
        stop_api.cancel();
        ended("api", api).await;
        if let Some(port) = clickhouse {
            ended("clickhouse interface", port).await;
        }
        tracing::info!("ended");
        announced
    }

    fn ready_content(&self) -> serde_json::Value {
        let text =
            |listener: &TcpListener| listener.local_addr().map_or_else(|_| String::new(), |a| a.to_string());
        let clickhouse = self.clickhouse.as_ref().map(|(listener, _)| text(listener));
        json!({
            "api": text(&self.api), "ingest": text(&self.ingest), "clickhouse": clickhouse,
            "pid": std::process::id(), "engine_pid": null,
        })
    }
}

/// Writes the ready file; with an embedded engine it waits for that to say what became of it.
async fn announce(
    path: Option<PathBuf>,
    mut content: serde_json::Value,
    engine: Option<&Supervisor>,
    end: &CancellationToken,
) -> Result<(), StartError> {
    let Some(path) = path else { return Ok(()) };
    if let Some(engine) = engine {
        let mut facts = engine.facts();
        let settled = facts.wait_for(|facts| facts.running || facts.last_error.is_some());
        tokio::select! {
            facts = settled => content["engine_pid"] = facts.ok().and_then(|facts| facts.pid).into(),
            () = end.cancelled() => return Ok(()),
        }
    }
    write_ready_file(&path, &content).map_err(|source| StartError::ReadyFile { path, source })
}

async fn ended(name: &'static str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(task = name, %error, "a task ended abnormally");
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

/// The API's address for links in notices; by the host's name when it listens on every address.
fn external_url(api: &TcpListener, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    let Ok(address) = api.local_addr() else { return String::new() };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if address.ip().is_unspecified() && !host.trim().is_empty() {
        return format!("{scheme}://{}:{}", host.trim(), address.port());
    }
    format!("{scheme}://{address}")
}

/// Says at the start whether SQL can be answered; statements look again.
async fn check_sql(sql: Sql) {
    if let Err(error @ (sql::SqlError::Off(_) | sql::SqlError::Unavailable(_))) = sql.check().await {
        tracing::warn!(%error, "SQL of users is not answered");
    }
}

/// How the aggregator signs what it tells of its own store: as an agent of itself.
fn author(installation: &Uuid) -> Uuid {
    // Agents that watch without agents are made from the same id, in another way.
    Uuid::from_u128(installation.as_u128() ^ 0x73_746f_7265)
}

fn connect(config: &Config) -> Result<(Option<Supervisor>, Client, Sql, Option<Neighbour>), StartError> {
    match &config.clickhouse {
        ClickHouse::Embedded(embedded) => {
            let (options, beside) = engine_options(config, embedded)?;
            let supervisor = Supervisor::start(options).map_err(StartError::Engine)?;
            let client = Client::embedded(supervisor.endpoint(), &config.database);
            let source = sql::Source::embedded(supervisor.endpoint()).map_err(StartError::Sql)?;
            Ok((Some(supervisor), client, Sql::new(source, &config.database), beside))
        }
        ClickHouse::External { url, sql, .. } => {
            let server = config.clickhouse.server().unwrap_or_default();
            let client = Client::external(&server, &config.database).map_err(StartError::ClickHouse)?;
            let reader = sql.as_ref().map(|(user, password)| sql::Server {
                url: url.clone(),
                user: user.clone(),
                password: password.clone(),
            });
            let source = sql::Source::server(reader).map_err(StartError::Sql)?;
            Ok((None, client, Sql::new(source, &config.database), None))
        }
    }
}

/// How the embedded engine is started, and the etcd on its disk, if there is one.
fn engine_options(
    config: &Config,
    embedded: &Embedded,
) -> Result<(EngineOptions, Option<Neighbour>), StartError> {
    let program = std::env::current_exe().map_err(StartError::Engine)?;
    let beside = etcd_beside(&config.state_dir);
    let mut write_bytes_per_second = embedded.max_write_rate;
    if let Some(Neighbour { pid, data_dir }) = &beside {
        let data_dir = data_dir.clone();
        match embedded.on_etcd_disk {
            OnEtcdDisk::Refuse => {
                return Err(StartError::OnEtcdDisk {
                    state_dir: config.state_dir.clone(),
                    pid: *pid,
                    data_dir,
                });
            }
            OnEtcdDisk::Cap => {
                write_bytes_per_second = Some(embedded.max_write_rate.unwrap_or(WRITE_RATE_ON_ETCD_DISK));
            }
            OnEtcdDisk::Allow => {}
        }
        tracing::warn!(
            etcd = pid, data_dir = %data_dir.display(), write_bytes_per_second,
            "the telemetry store is on the disk of an etcd: each slows the other down; put state.dir on another disk"
        );
    }
    let options = EngineOptions {
        library: embedded.library.clone(),
        memory_bytes: embedded.memory_bytes,
        hang_after: embedded.hang_timeout,
        write_bytes_per_second,
        ..EngineOptions::new(program, config.state_dir.join("clickhouse"))
    };
    Ok((options, beside))
}

fn channels(config: &Config) -> Result<Channels, StartError> {
    let mut channels = Channels::new();
    if config.console {
        channels.push(Arc::new(Console));
    }
    for url in &config.webhooks {
        channels.push(Arc::new(Webhook::new(url)?));
    }
    Ok(channels)
}
