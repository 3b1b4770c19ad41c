//! `etcdmon-lab up`: the whole product on a real cluster, for people to look at or, with `--check`, as a proof.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::{Api, from_now};
use crate::etcd::{Builder, Certificates, Client, Cluster};
use crate::load::{Load, Plan};
use crate::node::{Agent, Aggregator};
use crate::place::Place;
use crate::stand::{Stand, VISIBLE_LIMIT};
use crate::{tools, wait};

mod facts;

use facts::Screen;

/// The member whose disk can be slowed.
const SLOW_MEMBER: usize = 0;

/// Delay of each flush of that disk in the check; beyond every threshold.
const SLOW: Duration = Duration::from_millis(150);

/// Limit of the wait for the page in the check. A page is promised in 5 s; here it only has to come.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// Puts a second on a cluster of our own.
const SMALL_LOAD: u32 = 40;

/// Lines of each log that are shown when something fails.
const SHOWN_LINES: usize = 25;

/// Files for a cluster with TLS.
#[derive(Debug)]
pub struct Tls {
    /// Authority that signed its certificates.
    pub authority: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What is asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// Prove the main job and end.
    pub check: bool,
    /// Watch this cluster instead of one of our own; no load is put on it.
    pub endpoints: Vec<String>,
    /// How it is talked to over https.
    pub tls: Option<Tls>,
    /// No load on a cluster of our own either.
    pub no_load: bool,
}

/// Runs until a signal comes, or the check is done. Everything started is down when it returns.
///
/// # Errors
/// When something does not start, or the check fails; the ends of the logs have been printed then.
pub async fn up(options: &Options) -> Result<()> {
    if !tools::is_root() {
        tell_what_is_missing();
    }
    let place = Arc::new(Place::new()?);
    let outcome = tokio::select! {
        outcome = run(options, &place) => outcome,
        name = ended_by() => match options.check {
            true => Err(anyhow::anyhow!("ended by {}", name?)),
            false => name.map(|name| println!("\n{name}: taking all down")),
        },
    };
    if outcome.is_err() {
        eprintln!("{}", place.log_tails(SHOWN_LINES));
    }
    outcome
}

async fn run(options: &Options, place: &Arc<Place>) -> Result<()> {
    if !options.endpoints.is_empty() {
        ensure!(
            !options.check,
            "--check slows a disk, so it needs a cluster of its own: leave out --endpoints"
        );
        return watch(&options.endpoints, options.tls.as_ref(), place).await;
    }
    println!("starting 3 members of etcd {}, an aggregator, an agent …", tools::default_version()?);
    if options.check && !tools::is_root() {
        bail!("--check needs root: without it no sync is measured in the kernel and no disk can be slowed");
    }
    let plan = Plan { rate: Some(SMALL_LOAD), ..Plan::default() };
    let cluster = Cluster::builder("etcd").slow_disk(SLOW_MEMBER);
    if options.check {
        return check(Stand::start(place, cluster, &plan).await?).await;
    }
    let stand = Stand::begin(place, cluster, &plan).await?;
    if options.no_load {
        stand.load.pause().await?;
    }
    print_urls(&stand.aggregator, &stand.agent, &stand.cluster.endpoints(), place);
    show_facts(&stand.api, &stand.id, stand.since).await
}

/// Only a cluster with a load on it, until a signal comes.
///
/// # Errors
/// When it does not start.
pub async fn cluster(builder: Builder, rate: u32) -> Result<()> {
    let place = Place::new()?;
    let cluster = builder.slow_disk(SLOW_MEMBER).start(&place).await?;
    let _load = Load::start(&cluster, &Plan { rate: Some(rate), ..Plan::default() })?;
    for member in &cluster.members {
        println!(
            "{}  {}  {}  pid {}",
            member.name,
            member.client_url(),
            member.data_dir().display(),
            member.pid()?
        );
    }
    println!("Ctrl-C takes all of it down.");
    println!("{}: taking all down", ended_by().await?);
    Ok(())
}

/// Slows a disk and waits for the page; the line it prints is what the caller looks for.
async fn check(stand: Stand) -> Result<()> {
    let delays = stand.cluster.members[SLOW_MEMBER].delays()?;
    println!("syncs of every member are readable over the API; slowing the disk of one member …");
    delays.set_syncs(&[SLOW]);
    let page = stand
        .receiver
        .wait_for("EtcdFsyncSlow", "firing", PAGE_LIMIT, |labels| labels["severity"] == "critical")
        .await?;
    let breach = delays.slow_since().context("a page came, but no sync was slow yet")?;
    delays.clear();
    let took = page.at.saturating_duration_since(breach);
    // At rest the books must meet. A sync that was under way when the probes were attached has only an end: it is
    // seen, and accounted for as dropped.
    stand.rest().await?;
    let (seen, stored) =
        wait::until("all syncs that were seen to be stored or accounted for", VISIBLE_LIMIT, async || {
            let ledger = stand.api.ledger(&stand.id, stand.since).await?;
            let (seen, stored) =
                (crate::api::seen(&ledger), stand.api.stored(&stand.id, stand.since, &[]).await?);
            ensure!(stored > 0 && seen == stored, "{seen} syncs seen, {stored} stored: {ledger:?}");
            Ok(Some((seen, stored)))
        })
        .await?;
    stand.finish()?;
    println!(
        "main job ok: {seen} syncs seen, {stored} stored, alert delivered in {:.1} s",
        took.as_secs_f64()
    );
    Ok(())
}

/// Agent and aggregator beside somebody else's cluster: the agent sees its members on this machine, the aggregator asks the
/// others over the network.
async fn watch(endpoints: &[String], tls: Option<&Tls>, place: &Arc<Place>) -> Result<()> {
    let since = from_now();
    let mut spec = serde_json::json!({"name": "etcd", "endpoints": endpoints});
    let mut certificates = None;
    if let Some(files) = tls {
        let path = |path: &PathBuf| path.canonicalize().with_context(|| path.display().to_string());
        let (authority, client, client_key) =
            (path(&files.authority)?, path(&files.cert)?, path(&files.key)?);
        for (key, path) in [("ca-file", &authority), ("cert-file", &client), ("key-file", &client_key)] {
            spec[key] = serde_json::json!(path);
        }
        let (server, server_key) = (PathBuf::new(), PathBuf::new());
        certificates = Some(Certificates { authority, server, server_key, client, client_key });
    }
    // Before anything is started: most mistakes are in the address.
    let wanted = Client::new(endpoints, certificates.as_ref())?.ids().await.with_context(|| {
        format!("no etcd answers at {}; for https give --cacert, --cert and --key", endpoints.join(", "))
    })?;
    let mut aggregator = Aggregator::prepare(place, "aggregator", &[])?;
    aggregator.daemon = aggregator.daemon.args(["--agentless".to_owned(), spec.to_string()]);
    aggregator.daemon.start().await?;
    let mut agent = Agent::prepare(place, "agent", &aggregator.ingest, &[])?;
    agent.daemon.start().await?;
    print_urls(&aggregator, &agent, endpoints, place);
    println!(
        "members on other machines are watched without an agent: no sync latencies of theirs, see docs/agentless.md"
    );
    let api = aggregator.client()?;
    let id = api.wait_cluster(wanted.0, VISIBLE_LIMIT).await?;
    show_facts(&api, &id, since).await
}

async fn show_facts(api: &Api, id: &str, since: SystemTime) -> Result<()> {
    let mut screen = Screen::default();
    loop {
        match facts::line(api, id, since).await {
            Ok(line) => screen.show(&line),
            // The aggregator may be busy or restarting; that is a fact too.
            Err(error) => screen.show(&format!("no answer from the API: {error:#}")),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn print_urls(aggregator: &Aggregator, agent: &Agent, endpoints: &[String], place: &Place) {
    println!("etcd        {}", endpoints.join(" "));
    println!("API         http://{}/api/v1/clusters", aggregator.api);
    println!("OpenAPI     http://{}/api/openapi.json", aggregator.api);
    println!("metrics     http://{}/metrics http://{}/metrics", aggregator.api, agent.admin);
    println!("logs        {}/*.log", place.path().display());
    println!("Ctrl-C takes all of it down.");
}

fn tell_what_is_missing() {
    println!("not root, so this is degraded:");
    println!(
        "  - no syncs measured in the kernel: probes need root, or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE"
    );
    println!("  - members share one disk that can't be slowed: loop devices and FUSE need root");
    println!("  - no cgroup of its own for a member");
    println!("  for all of it: sudo -E {}", std::env::args().collect::<Vec<_>>().join(" "));
}

pub(crate) async fn ended_by() -> Result<&'static str> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}
