//! Who may speak to whom: enrolment, certificates of every kind of wrong, rotation, revocation, reload, proxies, secrets.
//! Each refusal must give its reason at both ends. The two real programs, without etcd and without ClickHouse.
//!
//! Tests at a time: 2

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcdmon_tests::authority::{Authority, Pair};
use etcdmon_tests::node::{Agent, Aggregator};
use etcdmon_tests::place::Place;
use etcdmon_tests::suite::run;
use etcdmon_tests::{tools, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(40);

/// Bearer token of the API.
const API_TOKEN: &str = "a-token-for-the-api-in-tests";

/// An aggregator whose ingest wants certificates.
struct Centre {
    aggregator: Aggregator,
    http: reqwest::Client,
}

impl Centre {
    async fn start(place: &Place, flags: &[&str]) -> Result<Self> {
        let mut aggregator = Aggregator::prepare(place, "aggregator", &[])?;
        aggregator.daemon = aggregator
            .daemon
            .args(["--clickhouse-url", "http://127.0.0.1:9", "--listen-ingest-tls", "mutual"])
            .args(flags.iter().copied())
            .env("ETCD_MONITOR_AGGREGATOR_TOKEN", API_TOKEN);
        aggregator.daemon.start().await?;
        Ok(Self { aggregator, http: reqwest::Client::new() })
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
        let url = format!("http://{}{path}", self.aggregator.api);
        let mut request = self.http.request(method.parse()?, url).bearer_auth(API_TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let (status, text) = (response.status().as_u16(), response.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.ask("GET", path, None).await?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(body)
    }

    async fn token(&self, request: Value) -> Result<String> {
        let (status, body) = self.ask("POST", "/api/v1/enrolment/tokens", Some(request)).await?;
        ensure!(status == 201, "{status} {body}");
        Ok(body["token"].as_str().context("a token")?.to_owned())
    }

    async fn metric(&self, name: &str) -> Result<f64> {
        metric(self.get("/metrics").await?.as_str().context("text")?, name)
    }

    async fn says(&self, words: &[&str]) -> Result<()> {
        self.aggregator.daemon.wait_output(words, LIMIT).await
    }

    async fn agent_is_alive(&self, id: &str) -> Result<()> {
        wait::until(&format!("agent {id} alive"), LIMIT, async || {
            let agents = self.get("/api/v1/agents").await?;
            let found = agents["agents"]
                .as_array()
                .context("a list")?
                .iter()
                .any(|a| a["id"] == id && a["alive"] == true);
            Ok(found.then_some(()))
        })
        .await
    }
}

fn metric(page: &str, name: &str) -> Result<f64> {
    let line =
        page.lines().find(|line| line.starts_with(name)).with_context(|| format!("{name} in\n{page}"))?;
    Ok(line.rsplit(' ').next().context("a value")?.parse()?)
}

/// An agent with an id that the test chose.
struct Node {
    agent: Agent,
    id: String,
    state: PathBuf,
    token_file: PathBuf,
}

impl Node {
    fn prepare(place: &Place, centre: &Centre, name: &str, number: u8) -> Result<Self> {
        let nowhere = place.path().join("no-etcd-here");
        let mut agent = Agent::prepare(place, name, "unused", &[nowhere])?;
        let state = place.path().join(format!("{name}-state"));
        let id = format!("00000000-0000-4000-8000-0000000000{number:02x}");
        fs::write(state.join("agent-id"), format!("{id}\n"))?;
        let url = format!("https://{}", centre.aggregator.ingest);
        agent.daemon = agent.daemon.set("--aggregator-url", url).args([
            "--probe-enabled",
            "false",
            "--log-filter",
            "info,etcdmon_agent=debug",
        ]);
        Ok(Self { agent, id, state, token_file: place.path().join(format!("{name}.token")) })
    }

    fn with_token(mut self, token: &str) -> Result<Self> {
        fs::write(&self.token_file, token)?;
        self.agent.daemon =
            self.agent.daemon.set("--enrol-token-file", self.token_file.display().to_string());
        Ok(self)
    }

    fn with_files(mut self, authority: &Authority, pair: &Pair) -> Self {
        let text = |path: &PathBuf| path.display().to_string();
        self.agent.daemon = self
            .agent
            .daemon
            .set("--aggregator-ca-file", text(&authority.file))
            .set("--aggregator-cert-file", text(&pair.certificate))
            .set("--aggregator-key-file", text(&pair.key));
        self
    }

    async fn start(mut self) -> Result<Self> {
        self.agent.daemon.start().await?;
        Ok(self)
    }

    async fn page(&self, path: &str) -> Result<(u16, String)> {
        let response = reqwest::get(format!("http://{}{path}", self.agent.admin)).await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    async fn is_not_ready(&self, words: &str) -> Result<()> {
        let what = format!("/readyz with {words:?}");
        let found = wait::until(&what, LIMIT, async || {
            let (status, text) = self.page("/readyz").await?;
            ensure!(status == 503 && text.contains(words), "{status} {text}");
            Ok(Some(()))
        });
        found.await.with_context(|| self.agent.daemon.tail())
    }

    async fn is_ready(&self) -> Result<()> {
        let found = wait::until("/readyz", LIMIT, async || {
            let (status, text) = self.page("/readyz").await?;
            ensure!(status == 200, "{status} {text}");
            Ok(Some(()))
        });
        found.await.with_context(|| self.agent.daemon.tail())
    }

    async fn metric(&self, name: &str) -> Result<f64> {
        metric(&self.page("/metrics").await?.1, name)
    }

    async fn says(&self, words: &[&str]) -> Result<()> {
        self.agent.daemon.wait_output(words, LIMIT).await
    }
}

/// T1: a token, a certificate, its renewals; streams go on all the while.
#[test]
fn an_agent_enrols_and_renews_without_a_gap() {
    run(async |place| {
        let centre = Centre::start(&place, &["--enrol-certificate-life", "12s"]).await?;
        let token = centre.token(json!({"scope": "lab"})).await?;
        let node = Node::prepare(&place, &centre, "agent", 1)?.with_token(&token)?.start().await?;
        centre.agent_is_alive(&node.id).await?;
        node.is_ready().await?;
        let connections = node.metric("etcdmon_agent_send_connections_total").await?;
        let begun = node.metric("etcdmon_agent_tls_certificate_expiry_seconds").await?;
        // Three lives of a certificate: the first stream must stand all the time.
        wait::until("three renewals", LIMIT, async || {
            let now = node.metric("etcdmon_agent_tls_certificate_expiry_seconds").await?;
            Ok((now - begun >= 24.0).then_some(()))
        })
        .await?;
        ensure!(
            node.metric("etcdmon_agent_send_connections_total").await? == connections,
            "{}",
            node.agent.daemon.tail()
        );
        ensure!(
            !centre.aggregator.daemon.output().contains("stream ended"),
            "{}",
            centre.aggregator.daemon.tail()
        );
        let listed = centre.get("/api/v1/enrolment/certificates").await?;
        let listed = listed["certificates"].as_array().context("a list")?.clone();
        ensure!(
            listed.len() >= 3 && listed.iter().all(|c| c["agent"] == node.id && c["scope"] == "lab"),
            "{listed:?}"
        );
        let mode =
            Command::new("stat").args(["-c", "%a"]).arg(node.state.join("credentials/agent.pem")).output()?;
        ensure!(String::from_utf8_lossy(&mode.stdout).trim() == "600");
        let mode = Command::new("stat")
            .args(["-c", "%a"])
            .arg(centre.aggregator.state.join("enrolment-ca.key"))
            .output()?;
        ensure!(String::from_utf8_lossy(&mode.stdout).trim() == "600");
        Ok(())
    });
}

/// T1: who comes second with a token is refused, and everybody who looks sees that it happened.
#[test]
fn a_stolen_tokens_second_use_is_refused_and_seen() {
    run(async |place| {
        let centre = Centre::start(&place, &[]).await?;
        let token = centre.token(json!({})).await?;
        let first = Node::prepare(&place, &centre, "first", 1)?.with_token(&token)?.start().await?;
        centre.agent_is_alive(&first.id).await?;
        let second = Node::prepare(&place, &centre, "second", 2)?.with_token(&token)?.start().await?;
        second.is_not_ready("the join token is used up").await?;
        second.says(&["no new certificate", "used up"]).await?;
        centre.says(&["enrolment.token_reused", &second.id, &first.id]).await?;
        let events = centre.get("/api/v1/enrolment/events").await?;
        let seen = events["events"]
            .as_array()
            .context("a list")?
            .iter()
            .find(|e| e["kind"] == "enrolment.token_reused");
        let seen = seen.with_context(|| format!("the event in {events}"))?;
        ensure!(seen["agent"] == second.id && seen["used_before_by"] == first.id, "{seen}");
        ensure!(seen["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{seen}");
        ensure!(centre.metric("etcdmon_aggregator_enrol_reused_tokens_total").await? >= 1.0);
        let tokens = centre.get("/api/v1/enrolment/tokens").await?;
        ensure!(
            tokens["tokens"][0]["state"] == "used_up"
                && tokens["tokens"][0]["refused_uses"].as_u64() >= Some(1)
        );
        ensure!(!tokens.to_string().contains(token.split('.').nth(2).context("a secret")?));
        // A new token mends it without a restart.
        fs::write(&second.token_file, centre.token(json!({})).await?)?;
        centre.agent_is_alive(&second.id).await?;
        second.is_ready().await
    });
}

/// T1: an agent whose token names another authority trusts nobody; a token that is none is told.
#[test]
fn a_wrong_pin_and_a_wrong_token_are_refused_at_both_ends() {
    run(async |place| {
        let centre = Centre::start(&place, &[]).await?;
        let token = centre.token(json!({"uses": 5})).await?;
        let (head, pin) = token.rsplit_once('.').context("a pin")?;
        let wrong_pin = format!("{head}.{}", pin.chars().rev().collect::<String>());
        let node = Node::prepare(&place, &centre, "pin", 1)?.with_token(&wrong_pin)?.start().await?;
        node.is_not_ready("not the one that the join token names").await?;
        centre.says(&["TLS handshake failed", "pin of another authority"]).await?;
        let parts: Vec<&str> = token.split('.').collect();
        let wrong_secret = format!("{}.{}.{}.{}", parts[0], parts[1], "0".repeat(64), parts[3]);
        let node = Node::prepare(&place, &centre, "secret", 2)?.with_token(&wrong_secret)?.start().await?;
        node.is_not_ready("the join token is not valid").await?;
        centre.says(&["enrolment refused", "not valid", &node.id]).await?;
        let old = centre.token(json!({"ttl_seconds": 1})).await?;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let node = Node::prepare(&place, &centre, "old", 3)?.with_token(&old)?.start().await?;
        node.is_not_ready("the join token expired on").await?;
        centre.says(&["enrolment refused", "expired on", &node.id]).await
    });
}

/// T1: certificates that were given: every wrong one is refused, and both ends say why.
#[test]
fn given_certificates_that_are_wrong_are_refused_at_both_ends() {
    run(async |place| {
        let ours = Authority::new(place.path(), "ours")?;
        let theirs = Authority::new(place.path(), "theirs")?;
        let server = ours.server("server", &["127.0.0.1"], 0)?;
        let file = |path: &PathBuf| path.display().to_string();
        let centre = Centre::start(
            &place,
            &[
                "--listen-ingest-cert-file",
                &file(&server.certificate),
                "--listen-ingest-key-file",
                &file(&server.key),
                "--listen-ingest-client-ca-file",
                &file(&ours.file),
            ],
        )
        .await?;
        let urn =
            |number: u8| format!("urn:etcd-monitor:agent:00000000-0000-4000-8000-0000000000{number:02x}");
        let node = |name: &str, number| Node::prepare(&place, &centre, name, number);

        let good =
            node("good", 1)?.with_files(&ours, &ours.client("good", &urn(1), -60, 3_600)?).start().await?;
        centre.agent_is_alive(&good.id).await?;

        let foreign = node("foreign", 2)?.with_files(&ours, &theirs.client("foreign", &urn(2), -60, 3_600)?);
        let foreign = foreign.start().await?;
        foreign.is_not_ready("signed by another authority than those that the aggregator trusts").await?;
        centre.says(&["certificate was refused", &foreign.id, "signed by another authority"]).await?;

        let expired = node("expired", 3)?.with_files(&ours, &ours.client("expired", &urn(3), -60, -30)?);
        let expired = expired.start().await?;
        expired.is_not_ready("certificate expired on 20").await?;
        centre.says(&["certificate was refused", &expired.id, "expired on 20"]).await?;

        let young = node("young", 4)?.with_files(&ours, &ours.client("young", &urn(4), 1_800, 3_600)?);
        let young = young.start().await?;
        young.is_not_ready("certificate is not valid before 20").await?;
        centre.says(&["certificate was refused", &young.id, "not valid before 20"]).await?;

        let other =
            node("other", 5)?.with_files(&ours, &ours.client("other", &urn(6), -60, 3_600)?).start().await?;
        other.says(&["may not speak for agent", &other.id]).await?;
        centre.says(&["batch stream refused", "may not speak for agent", &other.id]).await?;

        let nameless = ours.client("nameless", "https://example.invalid/", -60, 3_600)?;
        let nameless = node("nameless", 7)?.with_files(&ours, &nameless).start().await?;
        nameless.says(&["names no agent"]).await?;

        let suspicious =
            node("suspicious", 8)?.with_files(&theirs, &ours.client("suspicious", &urn(8), -60, 3_600)?);
        let suspicious = suspicious.start().await?;
        suspicious.is_not_ready("the aggregator's certificate is signed by another authority").await?;
        centre.says(&["TLS handshake failed", "does not trust the authority"]).await?;

        let mut misnamed =
            node("misnamed", 9)?.with_files(&ours, &ours.client("misnamed", &urn(9), -60, 3_600)?);
        let port = centre.aggregator.ingest.rsplit(':').next().context("a port")?.to_owned();
        misnamed.agent.daemon =
            misnamed.agent.daemon.set("--aggregator-url", format!("https://localhost:{port}"));
        let misnamed = misnamed.start().await?;
        misnamed.is_not_ready("does not match the name in aggregator.url").await?;
        centre.says(&["TLS handshake failed", "not for the name"]).await?;

        let mut bare = node("bare", 10)?;
        bare.agent.daemon = bare.agent.daemon.set("--aggregator-ca-file", file(&ours.file));
        let bare = bare.start().await?;
        bare.says(&["a client certificate is needed"]).await?;
        centre.says(&["stream refused", "a client certificate is needed"]).await?;
        ensure!(centre.metric("etcdmon_aggregator_ingest_refused_certificates_total").await? >= 3.0);
        good.is_ready().await
    });
}

/// T1: a revoked agent loses its streams at once, hears why, and comes back with a token that was made later.
#[test]
fn a_revoked_agent_is_cut_off_and_told_and_may_come_back() {
    run(async |place| {
        let centre = Centre::start(&place, &[]).await?;
        let token = centre.token(json!({"uses": 2})).await?;
        let node = Node::prepare(&place, &centre, "agent", 1)?.with_token(&token)?.start().await?;
        centre.agent_is_alive(&node.id).await?;
        let path = format!("/api/v1/agents/{}/revoke", node.id);
        let (status, _) = centre.ask("POST", &path, None).await?;
        ensure!(status == 200, "{status}");
        node.says(&["certificate revoked by the aggregator"]).await?;
        node.is_not_ready("certificate revoked by the aggregator").await?;
        centre.says(&["stream ended", "certificate revoked by the aggregator"]).await?;
        centre.says(&["certificate was refused", &node.id, "revoked"]).await?;
        // The rest of the old token is of no use to it.
        let events = centre.get("/api/v1/enrolment/events").await?;
        ensure!(events.to_string().contains("agent.revoked"), "{events}");
        fs::write(&node.token_file, centre.token(json!({})).await?)?;
        node.is_ready().await?;
        centre.agent_is_alive(&node.id).await
    });
}

/// T1: certificates are exchanged under way; one that can't be used changes nothing and is counted.
#[test]
fn given_certificates_are_read_again_when_their_files_change() {
    run(async |place| {
        let ours = Authority::new(place.path(), "ours")?;
        let server = ours.server("server", &["127.0.0.1"], 0)?;
        let api = ours.server("api", &["127.0.0.1"], 0)?;
        let file = |path: &PathBuf| path.display().to_string();
        let mut aggregator = Aggregator::prepare(&place, "aggregator", &[])?;
        aggregator.daemon = aggregator
            .daemon
            .args(["--clickhouse-url", "http://127.0.0.1:9"])
            .args(["--listen-ingest-cert-file", &file(&server.certificate)])
            .args(["--listen-ingest-key-file", &file(&server.key)])
            .args(["--listen-ingest-client-ca-file", &file(&ours.file)])
            .args([
                "--listen-api-cert-file",
                &file(&api.certificate),
                "--listen-api-key-file",
                &file(&api.key),
            ])
            .env("ETCD_MONITOR_AGGREGATOR_TOKEN", API_TOKEN);
        aggregator.daemon.start().await?;
        let root = reqwest::Certificate::from_pem(&fs::read(&ours.file)?)?;
        let http = reqwest::Client::builder().tls_certs_only([root]).pool_max_idle_per_host(0).build()?;
        let base = format!("https://{}", aggregator.api);
        let page = async |path: &str| -> Result<String> {
            Ok(http.get(format!("{base}{path}")).bearer_auth(API_TOKEN).send().await?.text().await?)
        };
        let centre = Centre { aggregator, http: reqwest::Client::new() };
        let urn = "urn:etcd-monitor:agent:00000000-0000-4000-8000-000000000001";
        let node = Node::prepare(&place, &centre, "agent", 1)?;
        let node = node.with_files(&ours, &ours.client("client", urn, -60, 3_600)?).start().await?;
        wait::until("the agent", LIMIT, async || {
            Ok(page("/api/v1/agents").await?.contains(&node.id).then_some(()))
        })
        .await?;
        let connections = node.metric("etcdmon_agent_send_connections_total").await?;
        let expiry = |page: &str, name: &str| {
            metric(
                page,
                &format!("etcdmon_aggregator_tls_certificate_expiry_seconds{{certificate=\"{name}\"}}"),
            )
        };
        let before = page("/metrics").await?;
        let (ingest, interface) = (expiry(&before, "ingest")?, expiry(&before, "api")?);
        ours.server("server", &["127.0.0.1"], 1_000)?;
        ours.server("api", &["127.0.0.1"], 2_000)?;
        wait::until("the new certificates", LIMIT, async || {
            let now = page("/metrics").await?;
            Ok((expiry(&now, "ingest")? > ingest && expiry(&now, "api")? > interface).then_some(()))
        })
        .await?;
        fs::write(&server.certificate, "no certificate at all")?;
        wait::until("the failure", LIMIT, async || {
            let now = page("/metrics").await?;
            Ok((metric(&now, "etcdmon_aggregator_tls_reload_failures_total")? >= 1.0).then_some(()))
        })
        .await?;
        centre.says(&["can't be used, the old ones stay in force", "server.crt"]).await?;
        ensure!(
            node.metric("etcdmon_agent_send_connections_total").await? == connections,
            "the stream went on"
        );
        let again = Node::prepare(&place, &centre, "again", 2)?;
        let urn = urn.replace("000001", "000002");
        let again = again.with_files(&ours, &ours.client("again", &urn, -60, 3_600)?).start().await?;
        wait::until("a new agent", LIMIT, async || {
            Ok(page("/api/v1/agents").await?.contains(&again.id).then_some(()))
        })
        .await
    });
}

/// A proxy that speaks CONNECT and wants a name and a password.
async fn proxy(credentials: &'static str) -> Result<(String, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, tunnels) = (listener.local_addr()?.to_string(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&tunnels);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && head.len() < 4_096 {
                    head.push(client.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                if !head.to_lowercase().contains(&credentials.to_lowercase()) {
                    return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                }
                let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let mut server = TcpStream::connect(target).await?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                counter.fetch_add(1, Ordering::Relaxed);
                copy_bidirectional(&mut client, &mut server).await.map(|_| ())
            });
        }
    });
    Ok((address, tunnels))
}

/// Waits for so many tunnels: enrolment has one, and each of the two streams.
async fn through(tunnels: &AtomicUsize, count: usize) -> Result<()> {
    let enough = async || Ok((tunnels.load(Ordering::Relaxed) >= count).then_some(()));
    wait::until("tunnels of enrolment and two streams", LIMIT, enough).await
}

/// S10: through an HTTP proxy with a password, from the settings and from the environment; a wrong one is told.
#[test]
fn agents_go_through_a_proxy() {
    run(async |place| {
        let centre = Centre::start(&place, &[]).await?;
        // "user:hidden-word"
        let (address, tunnels) = proxy("Proxy-Authorization: Basic dXNlcjpoaWRkZW4td29yZA==").await?;
        let token = centre.token(json!({"uses": 3})).await?;
        let url = format!("http://user:hidden-word@{address}");
        let mut node = Node::prepare(&place, &centre, "settings", 1)?.with_token(&token)?;
        node.agent.daemon = node.agent.daemon.env("ETCD_MONITOR_AGENT_AGGREGATOR_PROXY", &url);
        let node = node.start().await?;
        centre.agent_is_alive(&node.id).await?;
        through(&tunnels, 3).await?;
        let before = tunnels.load(Ordering::Relaxed);
        let mut node = Node::prepare(&place, &centre, "environment", 2)?.with_token(&token)?;
        node.agent.daemon = node.agent.daemon.env("HTTPS_PROXY", &url).env("NO_PROXY", "10.0.0.0/8");
        let node = node.start().await?;
        centre.agent_is_alive(&node.id).await?;
        through(&tunnels, before + 3).await?;
        let before = tunnels.load(Ordering::Relaxed);
        let mut node = Node::prepare(&place, &centre, "exception", 3)?.with_token(&token)?;
        node.agent.daemon = node.agent.daemon.env("HTTPS_PROXY", &url).env("NO_PROXY", "127.0.0.0/8");
        let node = node.start().await?;
        centre.agent_is_alive(&node.id).await?;
        ensure!(tunnels.load(Ordering::Relaxed) == before, "an exception goes directly");
        let mut node = Node::prepare(&place, &centre, "wrong", 4)?.with_token(&token)?;
        let wrong = format!("http://user:other-word@{address}");
        node.agent.daemon = node.agent.daemon.env("ETCD_MONITOR_AGENT_AGGREGATOR_PROXY", wrong);
        let node = node.start().await?;
        node.says(&["through proxy", &address, "proxy auth"]).await?;
        ensure!(!node.agent.daemon.output().contains("other-word"), "{}", node.agent.daemon.tail());
        Ok(())
    });
}

/// T1: whatever is secret shows nowhere, at the most talkative level, in no output of either program.
#[test]
fn secrets_show_nowhere() {
    run(async |place| {
        let password = place.path().join("clickhouse-password");
        fs::write(&password, "hidden-clickhouse-word")?;
        let password = password.display().to_string();
        let flags = [
            "--clickhouse-user",
            "somebody",
            "--clickhouse-password-file",
            &password,
            "--log-filter",
            "trace",
        ];
        let mut centre = Centre::start(&place, &flags).await?;
        let token = centre.token(json!({"uses": 2})).await?;
        let secret = token.split('.').nth(2).context("a secret")?.to_owned();
        let mut node = Node::prepare(&place, &centre, "agent", 1)?.with_token(&token)?;
        node.agent.daemon = node.agent.daemon.set("--log-filter", "trace");
        let mut node = node.start().await?;
        centre.agent_is_alive(&node.id).await?;
        let mut by_environment = Node::prepare(&place, &centre, "by-environment", 2)?;
        by_environment.agent.daemon = by_environment
            .agent
            .daemon
            .set("--log-filter", "trace")
            .env("ETCD_MONITOR_AGENT_ENROL_TOKEN", &token)
            .env("ETCD_MONITOR_AGENT_AGGREGATOR_PROXY", "http://user:hidden-proxy-word@127.0.0.1:9");
        let mut by_environment = by_environment.start().await?;
        by_environment.says(&["through proxy 127.0.0.1:9"]).await?;
        let key = fs::read_to_string(node.state.join("credentials/agent.pem"))?;
        let key_line = key.lines().nth(1).context("a key")?.to_owned();
        let authority_key = fs::read_to_string(centre.aggregator.state.join("enrolment-ca.key"))?;
        let authority_line = authority_key.lines().nth(1).context("a key")?.to_owned();

        let mut seen = Vec::new();
        for path in [
            "/metrics",
            "/api/v1/enrolment/tokens",
            "/api/v1/enrolment/events",
            "/api/v1/enrolment/certificates",
            "/api/v1/agents",
            "/readyz",
        ] {
            seen.push((path.to_owned(), centre.get(path).await?.to_string()));
        }
        for path in ["/metrics", "/readyz"] {
            seen.push((format!("agent {path}"), node.page(path).await?.1));
            seen.push((format!("agent by environment {path}"), by_environment.page(path).await?.1));
        }
        let environment = [
            ("ETCD_MONITOR_AGENT_ENROL_TOKEN", token.as_str()),
            ("ETCD_MONITOR_AGENT_AGGREGATOR_PROXY", "http://user:hidden-proxy-word@127.0.0.1:9"),
            ("ETCD_MONITOR_AGENT_AGGREGATOR_URL", "https://127.0.0.1:1"),
            ("ETCD_MONITOR_AGGREGATOR_TOKEN", API_TOKEN),
        ];
        for (program, word) in [
            ("etcd-monitor-agent", "check-config"),
            ("etcd-monitor-agent", "--help"),
            ("etcd-monitor-aggregator", "check-config"),
            ("etcd-monitor-aggregator", "--help"),
        ] {
            let output = Command::new(tools::own(program)?).arg(word).envs(environment).output()?;
            let text =
                [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
            ensure!(output.status.success(), "{program} {word}: {text}");
            seen.push((format!("{program} {word}"), text));
        }
        node.agent.daemon.terminate()?;
        by_environment.agent.daemon.terminate()?;
        centre.aggregator.daemon.terminate()?;
        for file in fs::read_dir(place.path())?.flatten().map(|entry| entry.path()) {
            if file.extension().is_some_and(|ending| ending == "log" || ending == "ready") {
                seen.push((
                    file.display().to_string(),
                    String::from_utf8_lossy(&fs::read(&file)?).into_owned(),
                ));
            }
        }
        ensure!(seen.iter().any(|(_, text)| text.contains("TRACE")), "the talkative level was on");
        for (name, secret) in [
            ("API token", API_TOKEN),
            ("join token", secret.as_str()),
            ("ClickHouse password", "hidden-clickhouse-word"),
            ("proxy password", "hidden-proxy-word"),
            ("agent's key", key_line.as_str()),
            ("authority's key", authority_line.as_str()),
        ] {
            for (place, text) in &seen {
                let line = text.lines().find(|line| line.contains(secret));
                ensure!(line.is_none(), "{name} shows in {place}: {}", line.unwrap_or_default());
            }
        }
        Ok(())
    });
}

/// An administrator on the aggregator's host needs no API token: the socket in the state directory is theirs.
#[test]
fn subcommands_reach_the_running_aggregator() {
    run(async |place| {
        let centre = Centre::start(&place, &[]).await?;
        let state = centre.aggregator.state.display().to_string();
        let command = |words: &[&str]| -> Result<(bool, String)> {
            let binary = tools::own("etcd-monitor-aggregator")?;
            let output = Command::new(binary).args(words).args(["--state-dir", &state]).output()?;
            let text =
                [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
            Ok((output.status.success(), text))
        };
        let (made, token) = command(&["token", "create", "--ttl", "5m", "--scope", "lab"])?;
        ensure!(made && token.starts_with("emt1."), "{token}");
        let node = Node::prepare(&place, &centre, "agent", 1)?.with_token(&token)?.start().await?;
        centre.agent_is_alive(&node.id).await?;
        let (listed, text) = command(&["token", "list"])?;
        ensure!(listed && text.contains("used_up") && text.contains(&node.id), "{text}");
        let (revoked, text) = command(&["agent", "revoke", &node.id])?;
        ensure!(revoked, "{text}");
        node.is_not_ready("certificate revoked by the aggregator").await?;
        let nowhere = place.directory("nowhere")?.display().to_string();
        let (_, text) = {
            let binary = tools::own("etcd-monitor-aggregator")?;
            let output = Command::new(binary).args(["token", "list", "--state-dir", &nowhere]).output()?;
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        ensure!(text.contains("does it run with this state.dir"), "{text}");
        Ok(())
    });
}
