//! Bad input: whatever is wrong outside, there is a clear message, no panic, and the rest goes on.
//!
//! Tests at a time: 2

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcdmon_tests::api::{Api, from_now};
use etcdmon_tests::disk::{Disk, Medium};
use etcdmon_tests::etcd::{Certificates, Cluster};
use etcdmon_tests::fault::Stopped;
use etcdmon_tests::load::{Load, Plan};
use etcdmon_tests::node::{Agent, Aggregator, Daemon, data_dirs};
use etcdmon_tests::stand::{Stand, VISIBLE_LIMIT};
use etcdmon_tests::suite::{run, skip_without_root};
use etcdmon_tests::wait;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs a program as a user without any privilege.
const NOBODY: [&str; 6] =
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--pdeathsig=KILL"];

/// Runs a program on what looks like a kernel without BTF: only its own view of the file is covered.
const WITHOUT_BTF: [&str; 5] =
    ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\""];

/// Starts something that must refuse to run, saying each of `words`.
async fn refuses(mut daemon: Daemon, words: &[&str]) -> Result<()> {
    daemon.spawn()?;
    let status = daemon.wait_end(LIMIT).await?;
    ensure!(!status.success(), "it ended with success:\n{}", daemon.tail());
    let output = daemon.output();
    for word in words {
        ensure!(output.contains(word), "{word:?} is not in what it says:\n{output}");
    }
    daemon.check_never_panicked()
}

/// S11: every fault of the settings at once, with key and source, from all layers.
#[test]
fn bad_settings_are_refused_all_at_once() {
    run(async |place| {
        let file = place.path().join("bad.toml");
        fs::write(&file, "[collect]\ninterval = \"soon\"\n[no]\nsuch = 1\n")?;
        let agent = Daemon::new(&place, "etcd-monitor-agent", "bad-agent")?
            .args(["--config".to_owned(), file.display().to_string()])
            .args(["--probe-enabled", "perhaps", "--listen-admin", "nowhere"]);
        refuses(agent, &["no.such", "bad.toml"]).await?;
        fs::write(&file, "[collect]\ninterval = \"soon\"\n")?;
        let agent = Daemon::new(&place, "etcd-monitor-agent", "worse-agent")?
            .args(["--config".to_owned(), file.display().to_string()])
            .args(["--probe-enabled", "perhaps", "--listen-admin", "nowhere"])
            .env("ETCD_MONITOR_AGENT_SPOOL_MAX_BYTES", "much");
        refuses(agent, &["collect.interval", "probe.enabled", "listen.admin", "SPOOL_MAX_BYTES"]).await?;
        let aggregator = Daemon::new(&place, "etcd-monitor-aggregator", "bad-aggregator")?.args([
            "--listen-api",
            "nowhere",
            "--ingest-batch-interval",
            "soon",
        ]);
        refuses(aggregator, &["listen.api", "ingest.batch-interval"]).await?;
        let open = Daemon::new(&place, "etcd-monitor-aggregator", "open-aggregator")?.args([
            "--listen-api",
            "0.0.0.0:0",
            "--state-dir",
            &place.path().join("open").to_string_lossy(),
        ]);
        refuses(open, &["token"]).await
    });
}

/// S10: without an aggregator the agent says so, spools, and delivers when there is one. S11, T4: a segment that was
/// damaged meanwhile is told and skipped, not a reason to stop.
#[test]
fn an_unreachable_aggregator_and_a_damaged_spool_lose_only_what_was_damaged() {
    if skip_without_root("probes") {
        return;
    }
    run(async |place| {
        let cluster = Cluster::builder("spool").members(1).start(&place).await?;
        let _load = Load::start(&cluster, &Plan::default())?;
        let mut aggregator = Aggregator::prepare(&place, "aggregator", &[])?;
        let mut agent = Agent::prepare(&place, "agent", &aggregator.ingest, &data_dirs(&cluster))?;
        agent.daemon.start().await?;
        agent.daemon.wait_output(&["aggregator"], LIMIT).await.context("a word about the aggregator")?;
        let state = place.path().join("agent-state");
        let segment =
            wait::until("a spool segment on disk", LIMIT, async || Ok(largest_file(&state))).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        agent.daemon.terminate()?;
        damage(&segment)?;
        agent.daemon.start().await?;
        let since = from_now();
        aggregator.daemon.start().await?;
        let api = aggregator.client()?;
        let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
        wait::until("stored syncs", VISIBLE_LIMIT, async || {
            Ok((api.stored(&id, since, &["wal"]).await? > 0).then_some(()))
        })
        .await?;
        wait::until("the damage in the account", LIMIT, async || {
            let rows = api.ledger(&id, since - Duration::from_secs(120)).await?;
            let told =
                rows.iter().any(|row| row.dropped.get("spool_corrupt").is_some_and(|count| *count > 0));
            ensure!(told, "{rows:?}");
            Ok(Some(()))
        })
        .await?;
        agent.daemon.wait_output(&["warn", "corrupt"], LIMIT).await?;
        agent.daemon.check_healthy()?;
        aggregator.daemon.check_healthy()
    });
}

/// The largest file below a directory: a segment, as everything else there is small.
fn largest_file(directory: &Path) -> Option<PathBuf> {
    let mut stack = vec![directory.to_owned()];
    let mut largest = None;
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => stack.push(entry.path()),
                Ok(data) if data.len() > 4096 => largest = largest.max(Some((data.len(), entry.path()))),
                _small_or_gone => {}
            }
        }
    }
    largest.map(|(_, path)| path)
}

/// Overwrites the first data found behind the head of a file.
fn damage(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).context("the segment is empty")?;
    // Late enough to be in a batch: a segment begins with a table.
    let late = u64::try_from(used / 4 * 3)?;
    file.seek(SeekFrom::Start(late))?;
    file.write_all(&[0xa5; 64])?;
    Ok(())
}

/// S8: certificates that etcd does not trust: the member's scrape is told as failed with its reason, its syncs are
/// measured all the same. A member that answers nobody (SIGSTOP) is told too.
#[test]
fn wrong_certificates_and_a_stopped_member_are_told_and_the_rest_goes_on() {
    if skip_without_root("probes") {
        return;
    }
    run(async |place| {
        let since = from_now();
        let cluster = Cluster::builder("certs").members(1).tls(true).start(&place).await?;
        let _load = Load::start(&cluster, &Plan::default())?;
        let foreign = Certificates::new(&place.directory("foreign")?)?;
        let aggregator = Aggregator::start(&place, "aggregator", &[]).await?;
        let mut agent = Agent::prepare(&place, "agent", &aggregator.ingest, &data_dirs(&cluster))?;
        agent.daemon = agent.daemon.args([
            format!("--etcd-ca-file={}", foreign.authority.display()),
            format!("--etcd-cert-file={}", foreign.client.display()),
            format!("--etcd-key-file={}", foreign.client_key.display()),
        ]);
        agent.daemon.start().await?;
        let api = aggregator.client()?;
        let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
        scrape_error(&api, &id, "certificate").await?;
        wait::until("syncs without a scrape", VISIBLE_LIMIT, async || {
            Ok((api.stored(&id, since, &["wal"]).await? > 0).then_some(()))
        })
        .await?;
        agent.daemon.check_healthy()?;
        agent.daemon.terminate()?;
        agent.daemon.check_never_panicked()?;

        let mut agent = Agent::start(&place, "agent-2", &aggregator.ingest, &cluster).await?;
        scrape_ok(&api, &id).await?;
        {
            let _stopped = Stopped::new(&cluster.members[0])?;
            scrape_error(&api, &id, "").await?;
        }
        scrape_ok(&api, &id).await?;
        agent.daemon.check_healthy()
    });
}

async fn scrape_ok(api: &Api, id: &str) -> Result<()> {
    wait::until("scrape_ok", LIMIT, async || {
        let members = api.members(id).await?;
        ensure!(members.iter().all(|member| member["scrape_ok"] == true), "{members:?}");
        Ok(Some(()))
    })
    .await
}

async fn scrape_error(api: &Api, id: &str, reason: &str) -> Result<()> {
    wait::until(&format!("a scrape error with {reason:?}"), LIMIT, async || {
        let members = api.members(id).await?;
        let told = |member: &serde_json::Value| {
            let error = member["scrape_error"].as_str().unwrap_or_default().to_lowercase();
            member["scrape_ok"] == false && !error.is_empty() && error.contains(reason)
        };
        ensure!(members.iter().any(told), "{members:?}");
        Ok(Some(()))
    })
    .await
}

/// T3, S10: garbage on every port of both processes.
#[test]
fn garbage_on_the_ports_changes_nothing() {
    if skip_without_root("probes") {
        return;
    }
    run(async |place| {
        let mut stand =
            Stand::start(&place, Cluster::builder("garbage").members(1), &Plan::default()).await?;
        let ports =
            [stand.aggregator.api.clone(), stand.aggregator.ingest.clone(), stand.agent.admin.clone()];
        for port in &ports {
            for round in 0..20 {
                let junk: Vec<u8> = (0..4096).map(|_| rand::random()).collect();
                let heads: [&[u8]; 4] = [
                    b"",
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    b"GET /api/v1/clusters/%ff/../..?from=yesterday HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"POST /etcdmon.v1.Ingest/Batches HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                ];
                let mut stream = TcpStream::connect(port)?;
                stream.set_write_timeout(Some(Duration::from_secs(2)))?;
                // The far end may close at once: that is one of the right answers.
                let _closed = stream.write_all(heads[round % 4]).and_then(|()| stream.write_all(&junk));
            }
        }
        let paths =
            ["/api/v1/clusters/none/members", "/api/v1/alerts?state=odd", "/nowhere", "/api/v1/clusters/%00"];
        for path in paths {
            let (status, body) = stand.api.raw(path).await?;
            ensure!((400..500).contains(&status), "{path}: {status}: {body}");
        }
        let bad_time = format!("/api/v1/clusters/{}/syncs/count?from=yesterday", stand.id);
        let (status, body) = stand.api.raw(&bad_time).await?;
        ensure!(status == 400 && body.contains("from"), "{bad_time}: {status}: {body}");
        stand.agent.daemon.check_healthy()?;
        stand.aggregator.daemon.check_healthy()?;
        ensure!(stand.api.raw("/healthz").await?.0 == 200);
        let before = stand.api.stored(&stand.id, stand.since, &[]).await?;
        wait::until("more stored syncs", VISIBLE_LIMIT, async || {
            Ok((stand.api.stored(&stand.id, stand.since, &[]).await? > before).then_some(()))
        })
        .await?;
        stand.finish()
    });
}

/// S10, T4: the disk under both state directories runs full while they work: told and survived. The agent keeps what
/// it can in memory; once there is room again everything goes on without a restart.
#[test]
fn disks_that_run_full_are_told_and_survived() {
    if skip_without_root("loop devices") {
        return;
    }
    run(async |place| {
        let since = from_now();
        let cluster = Cluster::builder("full").members(1).start(&place).await?;
        let _load = Load::start(&cluster, &Plan::default())?;
        let disk = Disk::with_size(&place.directory("small")?, Medium::Ext4, false, 256 << 20)?;
        let directory = |name: &str| disk.path().join(name).to_string_lossy().into_owned();
        let mut aggregator = Aggregator::prepare(&place, "aggregator", &[])?;
        aggregator.daemon = aggregator.daemon.set("--state-dir", directory("aggregator"));
        aggregator.daemon.start().await?;
        let mut agent = Agent::prepare(&place, "agent", &aggregator.ingest, &data_dirs(&cluster))?;
        agent.daemon = agent.daemon.set("--state-dir", directory("agent"));
        agent.daemon.start().await?;
        let api = aggregator.client()?;
        let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
        let stored = async || api.stored(&id, since, &["wal"]).await;
        wait::until("stored syncs", VISIBLE_LIMIT, async || Ok((stored().await? > 0).then_some(()))).await?;

        let filler = fill(disk.path())?;
        aggregator.daemon.wait_output(&["space"], LIMIT).await?;
        agent.daemon.wait_output(&["space"], LIMIT).await?;
        agent.daemon.check_healthy()?;
        aggregator.daemon.check_healthy()?;
        ensure!(api.raw("/healthz").await?.0 == 200);

        fs::remove_file(filler)?;
        // The engine may have ended for want of room, and be about to start.
        let before =
            wait::until("an answer", Duration::from_secs(60), async || Ok(stored().await.ok())).await?;
        wait::until("more stored syncs", Duration::from_secs(60), async || {
            Ok((stored().await? > before).then_some(()))
        })
        .await?;
        agent.daemon.check_healthy()?;
        aggregator.daemon.check_healthy()
    });
}

/// Leaves no block free; room is made again by removing the file.
fn fill(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("filler");
    let mut file = fs::File::create(&path)?;
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0xff; size]).is_ok() {}
    }
    Ok(path)
}

/// S1, S2, S13: without root, without BTF: eBPF is reported as degraded with the reason, everything else works.
#[test]
fn without_privilege_or_btf_the_agent_is_degraded_and_says_why() {
    if skip_without_root("becoming nobody") {
        return;
    }
    run(async |place| {
        let cluster = Cluster::builder("plain").members(1).start(&place).await?;
        let aggregator = Aggregator::start(&place, "aggregator", &[]).await?;
        let api = aggregator.client()?;

        let mut no_btf = Agent::prepare(&place, "no-btf", &aggregator.ingest, &data_dirs(&cluster))?;
        no_btf.daemon = no_btf.daemon.through(WITHOUT_BTF);
        no_btf.daemon.start().await?;
        degraded(&no_btf.daemon, &api, "btf").await?;
        no_btf.daemon.check_healthy()?;
        no_btf.daemon.terminate()?;

        let state = place.directory("nobody")?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777))?;
        let mut nobody = Agent::prepare(&place, "no-root", &aggregator.ingest, &data_dirs(&cluster))?;
        nobody.daemon = nobody
            .daemon
            .set("--state-dir", state.to_string_lossy())
            .ready_file(state.join("ready"))
            .through(NOBODY);
        nobody.daemon.start().await?;
        degraded(&nobody.daemon, &api, "cap_bpf").await?;
        nobody.daemon.check_healthy()?;
        nobody.daemon.terminate()
    });
}

/// The reason is in the log, and over the API too.
async fn degraded(daemon: &Daemon, api: &Api, reason: &str) -> Result<()> {
    daemon.wait_output(&[reason], LIMIT).await?;
    wait::until("the degraded state over the API", LIMIT, async || {
        let agents = api.agents().await?;
        let told = agents.iter().any(|agent| agent["degraded"].as_array().is_some_and(|all| !all.is_empty()));
        ensure!(told, "{agents:?}");
        Ok(Some(()))
    })
    .await
}

/// T4: no engine library: the message names the file, and what needs no engine works.
#[test]
fn a_missing_engine_library_is_named() {
    run(async |place| {
        let mut aggregator = Aggregator::prepare(&place, "aggregator", &[])?;
        aggregator.daemon = aggregator.daemon.env("ETCD_MONITOR_LIBCHDB", "/nonexistent/libchdb.so");
        aggregator.daemon.spawn()?;
        aggregator.daemon.wait_output(&["/nonexistent/libchdb.so"], LIMIT).await?;
        let api = aggregator.client()?;
        wait::until("the API", LIMIT, async || Ok((api.raw("/healthz").await?.0 == 200).then_some(())))
            .await?;
        let (status, body) = api.raw("/readyz").await?;
        ensure!(body.contains("libchdb.so") || status == 503, "/readyz hides the store: {status}: {body}");
        ensure!(api.alerts(None).await?.is_empty(), "alerts need no engine");
        aggregator.daemon.check_healthy()
    });
}
