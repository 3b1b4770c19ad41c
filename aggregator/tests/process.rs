//! The aggregator as a process, without ClickHouse: alerts must need none. Agents are live streams over the real port,
//! receivers real HTTP servers on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod process {
    pub mod agent;
    pub mod program;
    pub mod receiver;
}

use std::time::{Duration, Instant};

use process::agent::{Agent, Member};
use process::program::{Program, check};
use process::receiver::Receiver;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_slow_pages_in_less_than_five_seconds_and_its_end_is_told() {
    let receiver = Receiver::start().await;
    let program = Program::start(&["--alert-webhook", &receiver.url()]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(4).await;
    let injected = Instant::now();
    agent.change(|members| members[0].slow());
    let page = receiver.wait_for("EtcdFsyncSlow", "firing", 10 * SECOND).await;
    let took = page.at - injected;
    assert!(took < 5 * SECOND, "{took:?}");
    println!("injection to delivery: {took:?}");
    let alert = &page.alerts("EtcdFsyncSlow")[0];
    assert_eq!(alert["labels"]["severity"], "critical");
    assert_eq!(alert["labels"]["member"], "0000000000000001");
    assert!(alert["annotations"]["next_step"].as_str().unwrap().len() > 20);
    let shown = program.get("/api/v1/alerts?state=firing").await;
    let shown = shown["alerts"].as_array().unwrap();
    let critical = shown.iter().find(|alert| alert["severity"] == "critical").unwrap();
    assert_eq!(critical["fingerprint"], alert["fingerprint"]);
    program
        .eventually("/api/v1/alerts", |all| {
            all["alerts"].as_array().unwrap().iter().any(|a| !a["notified_at"].is_null())
        })
        .await;
    agent.change(|members| members[0] = Member::quick(1));
    receiver.wait_for("EtcdFsyncSlow", "resolved", 60 * SECOND).await;
    assert_eq!(receiver.count("EtcdFsyncSlow", "firing"), 1, "told once");
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_member_is_diagnosed_and_its_alert_carries_why_across_a_crash() {
    let mut program = Program::start(&[]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(4).await;
    let id = program.get("/api/v1/clusters").await["clusters"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/clusters/{id}/diagnoses");
    assert_eq!(program.get(&path).await["diagnoses"], serde_json::json!([]), "calm");
    agent.change(|members| members[0].slow_beside(4_242));
    let open = format!("{path}?state=open&member=1");
    let found = program.eventually(&open, |all| all["diagnoses"][0]["cause"] == "disk_neighbour").await;
    let diagnosis = found["diagnoses"][0].clone();
    assert_eq!((&diagnosis["state"], &diagnosis["member"]), (&"open".into(), &"0000000000000001".into()));
    assert_eq!(
        (&diagnosis["culprit"]["process_id"], &diagnosis["culprit"]["kind"]),
        (&4_242.into(), &"process".into())
    );
    assert!(
        diagnosis["summary"].as_str().unwrap().contains("backup (pid 4242) in pod pod-77"),
        "{diagnosis}"
    );
    let one = format!("{path}/{}", diagnosis["id"].as_str().unwrap());
    assert_eq!(program.get(&one).await["cause"], "disk_neighbour");
    for summary in [&format!("/api/v1/clusters/{id}"), &format!("/api/v1/clusters/{id}/members")] {
        let shown = program.get(summary).await;
        let of_member = &shown["members"][0]["diagnoses"];
        let briefs = if of_member.is_null() { &shown["diagnoses"] } else { of_member };
        assert_eq!(briefs[0]["id"], diagnosis["id"], "{shown}");
    }
    // The alert fires before the diagnosis opens, and has it afterwards.
    let carries = |alert: &&Value| {
        alert["name"] == "EtcdFsyncSlow" && alert["annotations"]["diagnosis_id"] == diagnosis["id"]
    };
    let carrying = |all: &Value| all["alerts"].as_array().unwrap().iter().find(carries).cloned();
    let path_of_alerts = "/api/v1/alerts?state=firing";
    let alerts = program.eventually(path_of_alerts, |all| carrying(all).is_some()).await;
    let notes = &carrying(&alerts).unwrap()["annotations"];
    assert_eq!((&notes["cause"], &notes["diagnosis_state"]), (&"disk_neighbour".into(), &"open".into()));
    assert!(notes["culprit"].as_str().unwrap().starts_with("backup (pid 4242)"), "{notes}");
    assert!(
        notes["diagnosis_url"].as_str().unwrap().ends_with(&one) && !notes["next_step"].is_null(),
        "{notes}"
    );
    let metrics = program.text("/metrics").await;
    assert!(metrics.contains("etcdmon_aggregator_diagnoses_open{cause=\"disk_neighbour\"} 1"), "{metrics}");
    for (bad, status) in [
        (format!("{path}?state=done"), 400),
        (format!("{path}/{}", uuid::Uuid::nil()), 404),
        (format!("{path}/nonsense"), 404),
        ("/api/v1/clusters/none/diagnoses".to_owned(), 404),
    ] {
        assert_eq!(program.ask(&bad).await.0, status, "{bad}");
    }
    program.kill_and_restart().await;
    assert_eq!(program.get(&open).await["diagnoses"][0]["id"], diagnosis["id"], "kept");
    drop(agent);
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    let closed = program.eventually(&one, |one| one["state"] == "closed").await;
    assert!(!closed["closed_at"].is_null() && closed["culprit"] == diagnosis["culprit"], "{closed}");
    assert_eq!(program.get(&open).await["diagnoses"], serde_json::json!([]));
    drop(agent);
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_pages_and_a_silent_agent_makes_it_unknown() {
    let receiver = Receiver::start().await;
    let program = Program::start(&["--alert-webhook", &receiver.url()]).await;
    let first = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    let second = Agent::connect(&program.ingest, 2, &[Member::quick(2)]).await;
    first.for_seconds(2).await;
    let cluster = program.get("/api/v1/clusters").await["clusters"][0].clone();
    assert_eq!((&cluster["state"], &cluster["leader"]), (&"ok".into(), &"0000000000000001".into()));
    second.change(|members| members[0].running = false);
    receiver.wait_for("EtcdMemberDown", "firing", 10 * SECOND).await;
    drop(second);
    let path = "/api/v1/alerts?state=firing";
    let lost = program.eventually(path, |all| !all["alerts"][0]["unknown"].is_null()).await;
    assert_eq!(lost["alerts"][0]["name"], "EtcdMemberDown");
    let id = cluster["id"].as_str().unwrap();
    let members = program.get(&format!("/api/v1/clusters/{id}/members")).await;
    let healths: Vec<&str> =
        members["members"].as_array().unwrap().iter().map(|m| m["health"].as_str().unwrap()).collect();
    assert_eq!(healths, ["healthy", "unknown"]);
    assert_eq!(receiver.count("EtcdMemberDown", "resolved"), 0);
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_change_is_seen_at_once() {
    let program = Program::start(&[]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1), Member::quick(2)]).await;
    agent.for_seconds(2).await;
    let id = program.get("/api/v1/clusters").await["clusters"][0]["id"].as_str().unwrap().to_owned();
    agent.change(|members| members.iter_mut().for_each(|member| (member.leader, member.term) = (2, 3)));
    let begun = Instant::now();
    let path = format!("/api/v1/clusters/{id}/leader");
    let leader = program.eventually(&path, |leader| leader["leader"] == "0000000000000002").await;
    assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
    assert_eq!((&leader["term"], &leader["changes"][0]["from"]), (&3.into(), &"0000000000000001".into()));
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_down_is_told_seconds_after_it_is_back() {
    let receiver = Receiver::reserve().await;
    let program = Program::start(&["--alert-webhook", &receiver.url()]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    agent.change(|members| members[0].running = false);
    agent.for_seconds(15).await;
    let back = Instant::now();
    let receiver = receiver.open().await;
    let page = receiver.wait_for("EtcdMemberDown", "firing", 10 * SECOND).await;
    assert!(page.at - back < 7 * SECOND, "{:?}", page.at - back);
    program.stop().await;
}

/// kill -9 at any moment between the breach and the delivery loses nothing; the same delivery may come twice only where
/// the receiver's answer was lost, and then under one key.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_breach_and_delivery_loses_no_page_and_makes_no_second_one() {
    let kills = [0, 500, 1_500, 2_500, 4_000].map(kill_after);
    futures::future::join_all(kills).await;
}

async fn kill_after(pause: u64) {
    let receiver = Receiver::start().await;
    let mut program = Program::start(&["--alert-webhook", &receiver.url()]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    agent.change(|members| members[0].running = false);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    program.kill_and_restart().await;
    drop(agent);
    let mut gone = Member::quick(1);
    gone.running = false;
    let agent = Agent::connect(&program.ingest, 1, &[gone]).await;
    receiver.wait_for("EtcdMemberDown", "firing", 15 * SECOND).await;
    agent.for_seconds(4).await;
    let keys = receiver.keys("EtcdMemberDown", "firing");
    assert_eq!(keys.len(), 1, "killed {pause} ms after the breach: {keys:?}");
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_on_its_way_when_the_process_died_is_delivered_by_the_next() {
    let reserved = Receiver::reserve().await;
    let mut program = Program::start(&["--alert-webhook", &reserved.url()]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    agent.change(|members| members[0].running = false);
    program.eventually("/api/v1/alerts?state=firing", |all| all["alerts"][0]["state"] == "firing").await;
    agent.for_seconds(3).await;
    program.kill_and_restart().await;
    // No agent any more: the page must come from the outbox alone, and the alert must not be resolved by the silence.
    drop(agent);
    let receiver = reserved.open().await;
    receiver.wait_for("EtcdMemberDown", "firing", 10 * SECOND).await;
    tokio::time::sleep(12 * SECOND).await;
    assert_eq!(receiver.count("EtcdMemberDown", "resolved"), 0, "silence is no end");
    let shown = program.get("/api/v1/alerts?state=firing").await;
    assert_eq!(shown["alerts"].as_array().unwrap().len(), 1);
    assert!(!shown["alerts"][0]["unknown"].is_null());
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_clusters_survive_kill_9() {
    let mut program = Program::start(&[]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    let before = program.eventually("/api/v1/clusters", |all| !all["clusters"][0].is_null()).await;
    program.kill_and_restart().await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    let after = program.eventually("/api/v1/clusters", |all| !all["clusters"][0].is_null()).await;
    assert_eq!(before["clusters"][0]["id"], after["clusters"][0]["id"]);
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_clickhouse_it_is_ready_says_so_and_answers_what_it_can() {
    let program = Program::start(&[]).await;
    let ready = program.get("/readyz").await;
    assert_eq!((&ready["ready"], &ready["store"]["status"]), (&true.into(), &"starting".into()));
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    let all = program.eventually("/api/v1/clusters", |all| !all["clusters"][0].is_null()).await;
    let id = all["clusters"][0]["id"].as_str().unwrap();
    let (status, problem) = program.ask(&format!("/api/v1/clusters/{id}/latency")).await;
    assert_eq!((status, &problem["status"]), (503, &503.into()), "{problem}");
    for named in ["0000000000000abc", "etcd-00000000"] {
        assert_eq!(program.get(&format!("/api/v1/clusters/{named}")).await["id"], id);
    }
    let agents = program.get("/api/v1/agents").await;
    assert_eq!(
        (&agents["agents"][0]["node"], &agents["agents"][0]["alive"]),
        (&"node1".into(), &true.into())
    );
    assert_eq!(agents["agents"][0]["allowed_commands"], serde_json::json!(["snapshot"]));
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_api_port_harms_nobody() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let program = Program::start(&[]).await;
    let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let long = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(100_000));
    for bytes in [
        &b"\r\n\r\n"[..],
        b"garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnoise that is no frame at all, however long it may be",
        &noise,
        long.as_bytes(),
    ] {
        let mut stream = tokio::net::TcpStream::connect(&program.api).await.unwrap();
        // The server may close before it has read all.
        let _closed = stream.write_all(bytes).await;
        let _closed = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(15 * SECOND, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection is not closed");
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("200 OK"), "{text}");
    }
    assert_eq!(program.get("/healthz").await["status"], "ok");
    let metrics = program.text("/metrics").await;
    assert!(metrics.contains("etcdmon_aggregator_panics_total 0"), "{metrics}");
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_do_not_keep_the_api_from_others() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let program = Program::start(&[]).await;
    let connect = || tokio::net::TcpStream::connect(&program.api);
    let (mut half, mut idle) = (connect().await.unwrap(), connect().await.unwrap());
    half.write_all(b"PRI").await.unwrap();
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..510 {
        silent.push(connect().await.unwrap());
    }
    let health = tokio::time::timeout(15 * SECOND, program.get("/healthz")).await;
    assert_eq!(health.expect("no permit is left")["status"], "ok");
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(5 * SECOND, half.read_to_end(&mut bytes)).await;
    assert!(end.is_ok(), "half a preface is kept");
    let end = tokio::time::timeout(30 * SECOND, idle.read_to_end(&mut bytes)).await;
    assert!(end.is_ok(), "a client that answers no ping is kept");
    program.stop().await;
}

/// S14: clusters to be watched without agents come and go over the API, with the token alone, and outlive a restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_without_agents_is_changed_over_the_api_and_kept() {
    let token = [("ETCD_MONITOR_AGGREGATOR_TOKEN", "0123456789abcdef")];
    let fixed = r#"{"name":"fixed","endpoints":["http://127.0.0.1:9"]}"#;
    let mut program = Program::start_with(&["--agentless", fixed], &token).await;
    let all = "/api/v1/agentless";
    let green = serde_json::json!({"name": "green", "endpoints": ["http://127.0.0.1:9"]});
    assert_eq!(program.send("POST", all, &green, None).await.0, 401);
    let (status, problem) =
        program.send("POST", all, &serde_json::json!({"name": "G", "endpoints": []}), Some(token[0].1)).await;
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("name:"), "{problem}");
    assert_eq!(program.send("POST", all, &green, Some(token[0].1)).await.0, 201);
    assert_eq!(program.send("POST", all, &green, Some(token[0].1)).await.0, 409, "twice");
    let edit =
        serde_json::json!({"interval": "2s", "endpoints": ["http://127.0.0.1:9", "http://127.0.0.1:10"]});
    assert_eq!(program.send("PATCH", "/api/v1/agentless/green", &edit, Some(token[0].1)).await.0, 204);
    assert_eq!(
        program.send("PATCH", "/api/v1/agentless/fixed", &edit, Some(token[0].1)).await.0,
        409,
        "by the settings"
    );
    let bad = serde_json::json!({"ca_file": "relative"});
    assert_eq!(program.send("PATCH", "/api/v1/agentless/green", &bad, Some(token[0].1)).await.0, 422);
    program.kill_and_restart().await;
    let (status, shown) = program.send("GET", all, &Value::Null, Some(token[0].1)).await;
    let names: Vec<_> =
        shown["agentless"].as_array().unwrap().iter().map(|one| one["spec"]["name"].clone()).collect();
    assert_eq!((status, names), (200, vec!["fixed".into(), "green".into()]));
    let green = &shown["agentless"][1];
    assert_eq!((&green["spec"]["interval"], green["endpoints"].as_array().unwrap().len()), (&"2s".into(), 2));
    assert_eq!((&green["origin"], &shown["agentless"][0]["origin"]), (&"api".into(), &"settings".into()));
    assert_eq!(
        program.send("DELETE", "/api/v1/agentless/green", &Value::Null, Some(token[0].1)).await.0,
        204
    );
    assert_eq!(
        program.send("DELETE", "/api/v1/agentless/green", &Value::Null, Some(token[0].1)).await.0,
        404
    );
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_a_foreign_host_name_refused() {
    let token = [("ETCD_MONITOR_AGGREGATOR_TOKEN", "0123456789abcdef")];
    let program = Program::start_with(&[], &token).await;
    for (path, status) in
        [("/api/v1/clusters", 401), ("/metrics", 401), ("/", 401), ("/healthz", 200), ("/readyz", 200)]
    {
        assert_eq!(program.ask(path).await.0, status, "{path}");
    }
    let with = |value: &'static str| program.ask_with("/api/v1/clusters", "authorization", value);
    assert_eq!(with("Bearer 0123456789abcdef").await.0, 200);
    for wrong in ["Bearer 0123456789abcdeg", "Bearer 0123456789abcdef0", "Bearer ", "Basic 0123456789abcdef"]
    {
        let (status, problem) = with(wrong).await;
        assert_eq!((status, &problem["title"]), (401, &"Unauthorized".into()), "{wrong}");
    }
    program.stop().await;

    let program = Program::start(&["--listen-host-names", "monitor.example"]).await;
    let host = |value: &'static str| program.ask_with("/", "host", value);
    assert_eq!(host("evil.example").await.0, 421);
    for good in ["localhost:8460", "monitor.example"] {
        assert_eq!(host(good).await.0, 200, "{good}");
    }
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_aggregator_on_the_same_state_is_told_who_has_it() {
    let program = Program::start(&[]).await;
    let (code, text) = check(
        &[
            "--state-dir",
            program.state_dir(),
            "--listen-api",
            "127.0.0.1:0",
            "--listen-ingest",
            "127.0.0.1:0",
        ],
        &[],
    );
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("in use by another aggregator (pid "), "{text}");
    let (code, text) = check(&["--state-dir", "/proc/nowhere"], &[]);
    assert!(code == Some(1) && text.contains("/proc/nowhere can't be used"), "{text}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let (code, text) = check(&["--state-dir", path, "--listen-api", &program.api], &[]);
    assert!(code == Some(1) && text.contains("listen.api") && text.contains("in use"), "{text}");
    program.stop().await;
}

#[test]
fn bad_settings_end_it_with_code_78_and_all_faults() {
    let (code, text) = check(
        &["--listen-api", "0.0.0.0:1", "--alert-webhook", "nonsense", "--log-format", "xml"],
        &[("ETCD_MONITOR_AGGREGATOR_INGEST_BATCH_INTERVAL", "never")],
    );
    assert_eq!(code, Some(78), "{text}");
    for expected in [
        "4 faults",
        "listen.api",
        "alert.webhook",
        "log.format",
        "ingest.batch-interval",
        "environment variable",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let (code, text) = check(&["--log-filter", "==", "--state-dir", "/nonexistent"], &[]);
    assert!(code == Some(78) && text.contains("log.filter"), "{text}");
    let (code, text) = check(
        &["check-config", "--listen-api", "127.0.0.1:1"],
        &[("ETCD_MONITOR_AGGREGATOR_TOKEN", "0123456789abcdef")],
    );
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("listen.api = \"127.0.0.1:1\" (flag --listen-api)"), "{text}");
    assert!(text.contains("token = \"***\"") && !text.contains("0123456789"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_a_clear_error_at_start() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state.sqlite"), vec![0x5a; 20_000]).unwrap();
    let path = directory.path().to_str().unwrap();
    let (code, text) =
        check(&["--state-dir", path, "--listen-api", "127.0.0.1:0", "--listen-ingest", "127.0.0.1:0"], &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("is damaged") && text.contains("restore it from a backup"), "{text}");
}

/// A full disk under the state: pages go out all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_disk_does_not_stop_a_page() {
    let Some(disk) = process::program::SmallDisk::mount() else {
        println!("skipped: a small file system can't be mounted here (needs root)");
        return;
    };
    let receiver = Receiver::start().await;
    let program = Program::start_in(disk.path(), &["--alert-webhook", &receiver.url()], &[]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    disk.fill();
    agent.change(|members| members[0].running = false);
    let begun = Instant::now();
    let page = receiver.wait_for("EtcdMemberDown", "firing", 15 * SECOND).await;
    assert!(page.at - begun < 8 * SECOND, "{:?}", page.at - begun);
    assert!(program.log().contains("no space left on the disk of state database"), "{}", program.log());
    disk.free();
    program.log_says("the state can be written again").await;
    agent.for_seconds(3).await;
    assert_eq!(receiver.keys("EtcdMemberDown", "firing").len(), 1, "and it is told once");
    program.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_the_description_answers_and_every_error_is_a_problem() {
    let program = Program::start(&[]).await;
    let description = program.get("/api/openapi.json").await;
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id), "{path}: a second one of this id");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{path} has no words");
            let responses = &operation["responses"];
            assert!(["200", "201", "204"].iter().any(|code| responses.get(code).is_some()), "{path}");
        }
        let operation = &item["get"];
        if operation.is_null() {
            let (status, _) = program.ask(&path.replace("{id}", "nobody")).await;
            assert_eq!(status, 405, "{path}");
            continue;
        }
        let (status, body) = program.ask(&path.replace("{cluster}", "nobody")).await;
        let parameters = operation["parameters"].as_array();
        let is_asked_for = |it: &serde_json::Value| it["in"] == "query" && it["required"] == true;
        let expected = match path.contains('{') {
            true => 404,
            false if parameters.is_some_and(|parameters| parameters.iter().any(is_asked_for)) => 400,
            false => 200,
        };
        assert_eq!(status, expected, "{path}: {body}");
        assert!(
            operation["responses"].get(status.to_string()).is_some(),
            "{path}: {status} is not documented"
        );
    }
    check_references(&description, &description);
    for (path, status) in [
        ("/nope", 404),
        ("/api/v1/alerts?state=odd", 400),
        ("/api/v1/alerts?stat=firing", 400),
        ("/%ff", 404),
    ] {
        let (found, problem) = program.ask(path).await;
        assert_eq!((found, &problem["status"]), (status, &status.into()), "{path}");
        assert!(problem["detail"].as_str().unwrap().len() > 5, "{path}");
    }
    let client = reqwest::Client::new();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let url = format!("http://{}/api/v1/clusters", program.api);
        let request = client.request(method.parse().unwrap(), url).body("x".repeat(200_000));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert!(response.headers().contains_key("x-request-id") && response.headers().contains_key("allow"));
    }
    program.stop().await;
}

/// A client that still sends when it is answered must be able to read the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_that_nobody_wants_is_taken_in_before_the_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let program = Program::start(&[]).await;
    let mut stream = tokio::net::TcpStream::connect(&program.api).await.unwrap();
    let (half, head) = (
        vec![b'x'; 1 << 20],
        format!(
            "POST /api/v1/clusters HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            program.api,
            2 << 20
        ),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&half).await.unwrap();
    tokio::time::sleep(SECOND / 2).await;
    stream.write_all(&half).await.expect("the connection is still there");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer, not a reset");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    program.stop().await;
}

/// Every `$ref` of the description leads somewhere.
fn check_references(value: &Value, root: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                let pointer = reference.trim_start_matches('#');
                assert!(root.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            fields.values().for_each(|value| check_references(value, root));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(value, root)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_in_order_and_a_dead_receiver_does_not_hold_it_up() {
    let reserved = Receiver::reserve().await;
    let program = Program::start(&["--alert-webhook", &reserved.url()]).await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    agent.for_seconds(1).await;
    agent.change(|members| members[0].running = false);
    agent.for_seconds(5).await;
    let begun = Instant::now();
    let log = program.stop().await;
    assert!(begun.elapsed() < 20 * SECOND, "{:?}", begun.elapsed());
    assert!(log.contains("undelivered notices stay in the outbox"), "{log}");
    assert!(log.trim_end().lines().last().unwrap().contains("ended"), "{log}");
}
