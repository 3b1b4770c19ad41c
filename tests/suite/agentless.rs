//! Agentless: clusters without an agent are seen, stored and paged for, at no cost to their raft log and disks.
//!
//! Tests at a time: 2

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etcdmon_tests::api::{Api, from_now};
use etcdmon_tests::disk::Medium;
use etcdmon_tests::etcd::{Certificates, Cluster};
use etcdmon_tests::metrics::WAL_FSYNC;
use etcdmon_tests::node::{Agent, Aggregator};
use etcdmon_tests::oracle::SyncCount;
use etcdmon_tests::place::{Place, free_port};
use etcdmon_tests::receiver::Receiver;
use etcdmon_tests::stand::VISIBLE_LIMIT;
use etcdmon_tests::suite::{by_tier, run};
use etcdmon_tests::{tools, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const VERSIONS: [&str; 4] = ["3.4.23", "3.5.35", "3.6.16", "3.7.3"];

const LIMIT: Duration = Duration::from_secs(30);

/// What the aggregator is told to watch.
fn spec(name: &str, endpoints: &[String], certificates: Option<&Certificates>) -> Value {
    let mut spec = json!({"name": name, "endpoints": endpoints, "interval": "1s"});
    if let Some(files) = certificates {
        spec["ca-file"] = json!(files.authority);
        spec["cert-file"] = json!(files.client);
        spec["key-file"] = json!(files.client_key);
    }
    spec
}

/// A prepared aggregator that watches these.
fn watching(place: &Place, webhooks: &[String], specs: &[Value]) -> Result<Aggregator> {
    let mut aggregator = Aggregator::prepare(place, "aggregator", webhooks)?;
    let flags = specs.iter().flat_map(|spec| ["--agentless".to_owned(), spec.to_string()]);
    aggregator.daemon = aggregator.daemon.args(flags);
    Ok(aggregator)
}

/// Members of a cluster once all of them please `accept`.
async fn members(
    api: &Api,
    cluster: &str,
    count: usize,
    what: &str,
    accept: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>> {
    wait::until(what, LIMIT, async || {
        let members = api.members(cluster).await?;
        ensure!(members.len() == count && members.iter().all(&accept), "{members:#?}");
        Ok(Some(members))
    })
    .await
}

/// The endpoints of a cluster that is watched without agents.
async fn endpoints(api: &Api, name: &str) -> Result<Vec<Value>> {
    let all = api.agentless().await?;
    let found =
        all.iter().find(|target| target["spec"]["name"] == name).context("not among what is watched")?;
    Ok(found["endpoints"].as_array().cloned().unwrap_or_default())
}

/// Committed index, applied index and WAL syncs of a member.
async fn marks(cluster: &Cluster) -> Result<(f64, f64, u64)> {
    let metrics = cluster.metrics(0).await?;
    let index = |name: &str| metrics.value(&format!("etcd_server_proposals_{name}_total"));
    Ok((index("committed")?, index("applied")?, metrics.count(WAL_FSYNC)?))
}

/// S14, S8: etcd 3.4 to 3.7 over mutual TLS: metrics are stored under the member, the leader is shown, the books meet; and
/// with everything asked for once a second an idle cluster's raft index and count of syncs stand still.
#[test]
fn every_version_is_watched_without_an_agent_and_at_no_cost_to_it() {
    run(async |place| {
        let since = from_now();
        let start = async |version: &str| -> Result<(String, Cluster)> {
            let name = format!("v{}", version.replace('.', "-"));
            let builder = Cluster::builder(&name).members(1).version(version).tls(true);
            Ok((name, builder.medium(Medium::Directory).start(&place).await?))
        };
        let [first, second, third, last] = VERSIONS;
        let clusters = tokio::try_join!(start(first), start(second), start(third), start(last))?;
        let clusters: [_; 4] = clusters.into();
        let specs: Vec<Value> = clusters
            .iter()
            .map(|(name, cluster)| spec(name, &cluster.endpoints(), cluster.certificates()))
            .collect();
        let mut aggregator = watching(&place, &[], &specs)?;
        aggregator.daemon.start().await?;
        let api = aggregator.client()?;
        for (name, cluster) in &clusters {
            let (id, member) = (cluster.id().await?, format!("{:016x}", cluster.member_id(0).await?));
            let ours = api.wait_cluster(id, LIMIT).await?;
            let seen = members(&api, name, 1, "the member to be seen", |member| {
                member["source"] == "agentless"
                    && member["health"] == "healthy"
                    && member["is_leader"] == true
            })
            .await?;
            ensure!(seen[0]["id"] == member && seen[0]["version"] == cluster.version, "{seen:?}");
            let says = |word: &str| seen[0]["degraded"].to_string().contains(word);
            ensure!(says("kernel") && says("not available without an agent"), "{seen:?}");
            wait::until("stored metrics", VISIBLE_LIMIT, async || {
                let stored = api.current(&ours, "etcd_server_has_leader").await?;
                ensure!(
                    stored.len() == 1 && stored[0]["member"] == member && stored[0]["value"] == 1.0,
                    "{stored:?}"
                );
                Ok(Some(()))
            })
            .await?;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut before = Vec::new();
        for (_, cluster) in &clusters {
            let perf = place.path().join(format!("perf-{}", cluster.version));
            let syncs =
                tools::is_root().then(|| SyncCount::start(cluster.members[0].pid().unwrap_or(0), &perf));
            before.push((marks(cluster).await?, syncs.transpose()?));
        }
        let cost = |endpoint: &Value| (endpoint["requests"].as_u64(), endpoint["bytes"].as_u64());
        let mut asked = Vec::new();
        for (name, _) in &clusters {
            asked.push(cost(&endpoints(&api, name).await?[0]));
        }
        let span = by_tier(Duration::from_secs(30), Duration::from_secs(300));
        tokio::time::sleep(span).await;
        for (((name, cluster), (marks_before, syncs)), asked) in clusters.iter().zip(before).zip(asked) {
            let after = marks(cluster).await?;
            ensure!(
                after == marks_before,
                "{name}: committed, applied, WAL syncs moved: {marks_before:?}, {after:?}"
            );
            if let Some(syncs) = syncs {
                let syncs = syncs.stop()?;
                ensure!(syncs == 0, "{name}: perf saw {syncs} syncs of an idle member");
            }
            let now = cost(&endpoints(&api, name).await?[0]);
            let rate = |now: Option<u64>, before: Option<u64>| {
                (now.unwrap_or(0) - before.unwrap_or(0)) as f64 / span.as_secs_f64()
            };
            let (requests, bytes) = (rate(now.0, asked.0), rate(now.1, asked.1));
            println!("etcd {}: {requests:.1} requests/s, {:.0} KiB/s", cluster.version, bytes / 1024.0);
            ensure!(requests > 1.5, "{name} was hardly asked: {requests} requests/s");
        }
        let ours = api.cluster(clusters[0].1.id().await?).await?;
        let rows = api.ledger(&ours, since).await?;
        let metric = rows.iter().filter(|row| row.stream == "metric").map(|row| row.produced).sum::<u64>();
        ensure!(metric > 0 && rows.iter().all(|row| row.dropped.is_empty()), "{rows:?}");
        aggregator.daemon.check_healthy()
    });
}

/// Between the aggregator and a member: passes connections on, or refuses them.
struct Way {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Way {
    async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let way = Self { port: listener.local_addr()?.port(), open: Arc::new(AtomicBool::new(true)) };
        let open = way.open.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let open = open.clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let copied = tokio::io::copy_bidirectional(&mut near, &mut far);
                    let closed = async {
                        while open.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    };
                    // Ends when either side does, or the way is closed.
                    tokio::select! { _ = copied => {}, () = closed => {} }
                });
            }
        });
        Ok(way)
    }
}

fn port_of(url: &str) -> Result<u16> {
    Ok(url.rsplit(':').next().context("a port")?.parse()?)
}

/// S14, A1, H1: without an agent, a member that is killed pages and one that hangs counts as unresponsive, while one that only
/// the aggregator can't reach is `unreachable` with its peers' word for it, and pages nobody.
#[test]
fn a_killed_member_pages_and_one_that_is_only_cut_off_does_not() {
    run(async |place| {
        let builder = Cluster::builder("tls").tls(true).medium(Medium::Directory);
        let mut cluster = builder.start(&place).await?;
        let id = cluster.id().await?;
        let way = Way::to(port_of(cluster.members[2].client_url())?).await?;
        let mut given = cluster.endpoints();
        given.truncate(1);
        given.push(format!("https://127.0.0.1:{}", way.port));
        let receiver = Receiver::start().await?;
        let specs = [spec("blue", &given, cluster.certificates())];
        let mut aggregator = watching(&place, &[receiver.url()], &specs)?;
        aggregator.daemon.start().await?;
        let api = aggregator.client()?;
        let ours = api.wait_cluster(id, LIMIT).await?;
        members(&api, "blue", 3, "two given members and a found one", |member| member["health"] == "healthy")
            .await?;
        ensure!(endpoints(&api, "blue").await?.len() == 3, "a member is asked at two endpoints");

        way.open.store(false, Ordering::Relaxed);
        let cut_off = format!("{:016x}", cluster.member_id(2).await?);
        let unreachable = wait::until("the member to be unreachable", LIMIT, async || {
            let members = api.members(&ours).await?;
            Ok(members
                .into_iter()
                .find(|member| member["id"] == cut_off && member["health"] == "unreachable"))
        })
        .await?;
        let reason = unreachable["scrape_error"].to_string();
        ensure!(reason.contains("2 of 2 other members are connected with it"), "{reason}");
        tokio::time::sleep(Duration::from_secs(4)).await;
        ensure!(receiver.deliveries().is_empty(), "{}", receiver.summary());
        way.open.store(true, Ordering::Relaxed);
        members(&api, "blue", 3, "the way to be open again", |member| member["health"] == "healthy").await?;

        let killed = format!("{:016x}", cluster.member_id(1).await?);
        let begun = Instant::now();
        cluster.members[1].kill();
        receiver.wait_for("EtcdMemberDown", "firing", LIMIT, |labels| labels["member"] == killed).await?;
        println!("kill to page: {:.1} s", begun.elapsed().as_secs_f64());
        cluster.members[1].start()?;
        receiver
            .wait_for("EtcdMemberDown", "resolved", 2 * LIMIT, |labels| labels["member"] == killed)
            .await?;

        cluster.members[0].process()?.signal(libc::SIGSTOP)?;
        let stopped = wait::until("the stopped member to be noticed", LIMIT, async || {
            let members = api.members(&ours).await?;
            Ok(members
                .into_iter()
                .find(|member| member["health"] == "unresponsive" || member["health"] == "down"))
        })
        .await;
        cluster.members[0].process()?.signal(libc::SIGCONT)?;
        let reason = stopped?["scrape_error"].to_string();
        ensure!(reason.contains("did not answer"), "{reason}");
        aggregator.daemon.check_healthy()
    });
}

/// S14: what an agent watches is left to it: the poller stands down and says so, nothing is stored twice; when the agent is
/// gone the poller takes over.
#[test]
fn an_agent_beside_it_is_left_alone() {
    run(async |place| {
        let cluster = Cluster::builder("both").members(1).medium(Medium::Directory).start(&place).await?;
        let mut aggregator = watching(&place, &[], &[spec("both", &cluster.endpoints(), None)])?;
        aggregator.daemon.start().await?;
        let mut agent = Agent::start(&place, "agent", &aggregator.ingest, &cluster).await?;
        let api = aggregator.client()?;
        let ours = api.wait_cluster(cluster.id().await?, LIMIT).await?;
        members(&api, &ours, 1, "the agent to be believed", |member| member["source"] == "agent").await?;
        wait::until("the poller to stand down", LIMIT, async || {
            let endpoints = endpoints(&api, "both").await?;
            ensure!(endpoints.iter().all(|endpoint| endpoint["state"] == "stands_down"), "{endpoints:?}");
            Ok(Some(()))
        })
        .await?;
        // What was polled before is over by then: a batch interval, and the minute's rows of the ledger begin with the agent's.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let produced = async |agentless: bool| -> Result<u64> {
            let pseudo = api.agents().await?.iter().find(|agent| agent["node"] == "agentless").cloned();
            let pseudo = pseudo.context("no pseudo-agent")?["id"].clone();
            let path = format!("/api/v1/clusters/{ours}/ledger");
            let rows = api.get(&path).await?["rows"].as_array().cloned().unwrap_or_default();
            let rows =
                rows.iter().filter(|row| row["stream"] == "metric" && (row["agent"] == pseudo) == agentless);
            Ok(rows.filter_map(|row| row["produced"].as_u64()).sum())
        };
        let polled = produced(true).await?;
        wait::until("rows of the agent", VISIBLE_LIMIT, async || {
            Ok((produced(false).await? > 0).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let later = produced(true).await?;
        ensure!(later == polled, "{} samples were stored beside the agent's", later - polled);
        agent.daemon.kill();
        members(&api, &ours, 1, "the poller to take over", |member| {
            member["source"] == "agentless" && member["health"] == "healthy"
        })
        .await?;
        wait::until("rows of the poller", VISIBLE_LIMIT, async || {
            Ok((produced(true).await? > later).then_some(()))
        })
        .await?;
        aggregator.daemon.check_healthy()
    });
}

/// What a listener does with whoever connects.
#[derive(Clone, Copy)]
enum Manner {
    Hang,
    Garbage,
    /// A page of metrics that has no end.
    Endless,
}

async fn misbehave(manner: Manner) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            match manner {
                Manner::Hang => kept.push(stream),
                Manner::Garbage => {
                    // Whether it is read is the other side's business.
                    let _gone = stream.write_all(&[0xff, 0x00, 0x13, b'\n'].repeat(10_000)).await;
                }
                Manner::Endless => drop(tokio::spawn(endless(stream))),
            }
        }
    });
    Ok(port)
}

async fn endless(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 1_024];
    let _read = stream.read(&mut request).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n").await?;
    let lines = "etcd_x{label=\"value\"} 1\n".repeat(4_096);
    loop {
        stream.write_all(lines.as_bytes()).await?;
    }
}

fn resident_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse::<u64>()? / 1_024)
}

/// S14, S11: an authority that signed nothing, endpoints that hang, send garbage or pages without end: each is named with its
/// reason, costs a bounded amount of memory, and does the others no harm. Changes over the API need the token.
#[test]
fn endpoints_that_misbehave_are_named_and_bounded() {
    run(async |place| {
        let cluster =
            Cluster::builder("bad").members(1).tls(true).medium(Medium::Directory).start(&place).await?;
        let own = cluster.certificates().context("it has TLS")?;
        let foreign = Certificates::new(&place.directory("foreign")?)?;
        let wrong = Certificates { authority: foreign.authority, ..own.clone() };
        let local = |port: u16| vec![format!("http://127.0.0.1:{port}")];
        let mut huge = spec("huge", &cluster.endpoints(), Some(own));
        huge["metrics-url"] = json!(local(misbehave(Manner::Endless).await?)[0]);
        let specs = [
            spec("wrong", &cluster.endpoints(), Some(&wrong)),
            spec("hangs", &local(misbehave(Manner::Hang).await?), None),
            spec("garbage", &local(misbehave(Manner::Garbage).await?), None),
            spec("nobody", &local(free_port()?), None),
            huge,
        ];
        let mut aggregator = watching(&place, &[], &specs)?;
        aggregator.daemon.start().await?;
        let (api, pid) = (aggregator.client()?, aggregator.daemon.process()?.pid());
        let before = resident_mib(pid)?;
        for (name, words) in [
            ("wrong", "invalid peer certificate"),
            ("hangs", "although the connection was accepted"),
            ("garbage", "Maintenance.Status"),
            ("nobody", "refused"),
            ("huge", "length limit exceeded"),
        ] {
            wait::until(&format!("{name} to be named"), LIMIT, async || {
                let endpoints = endpoints(&api, name).await?;
                ensure!(endpoints[0]["error"].to_string().contains(words), "{endpoints:?}");
                Ok(Some(()))
            })
            .await?;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let after = resident_mib(pid)?;
        println!("memory with hostile endpoints: {before} MiB, later {after} MiB");
        ensure!(after < before + 96, "memory grew from {before} to {after} MiB");
        let members = api.members(&api.cluster(cluster.id().await?).await?).await?;
        ensure!(members[0]["health"] == "healthy", "its metrics are endless, but it answers: {members:?}");
        ensure!(members[0]["errors"].to_string().contains("metrics not had"), "{members:?}");
        let post = reqwest::Client::builder()
            .no_proxy()
            .build()?
            .post(format!("http://{}/api/v1/agentless", aggregator.api));
        let answer = post.json(&json!({"name": "more", "endpoints": ["http://127.0.0.1:1"]})).send().await?;
        ensure!(answer.status() == 403, "{answer:?}");
        aggregator.daemon.check_healthy()
    });
}
