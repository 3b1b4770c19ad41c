//! What became of alerts and diagnoses comes into ClickHouse exactly once, whoever dies in between.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use etcdmon_aggregator::state::{Change, State, kind, log};
use etcdmon_aggregator::store::{Client, Store};
use etcdmon_aggregator::transcript::Transcript;
use etcdmon_aggregator::view::{ClusterSummary, ClusterView, LeaderView, View};
use serde_json::json;
use support::{engine, eventually, number};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CLUSTER: Uuid = Uuid::from_u128(0xc1);

fn alert(state: &str, at_ns: i64) -> Change {
    let json = json!({
        "fingerprint": "0123456789abcdef", "state": state, "value": 0.25, "started_at": "2026-11-21T10:00:00Z",
        "labels": {"alertname": "EtcdSlow", "severity": "critical", "cluster_id": CLUSTER, "member": "00000000000000a1"},
        "annotations": {"summary": "it's slow"},
    });
    Change::Append { log: log::ALERT, at_ns, json }
}

fn diagnosis(transition: &str, at_ns: i64) -> Change {
    let diagnosis = json!({
        "cluster": CLUSTER, "id": Uuid::from_u128(5), "member": "00000000000000a1", "state": "open", "cause": "disk_neighbour",
        "opened_at": "2026-11-21T10:00:00Z", "onset_at": "2026-11-21T09:59:58Z", "updated_at": "2026-11-21T10:00:00Z",
        "closed_at": null, "share": 0.75, "confidence": "high", "culprit": null, "culprits": [], "summary": "rsync",
        "evidence": [], "ruled_out": [], "next_step": "stop it",
    });
    Change::Append {
        log: log::DIAGNOSIS,
        at_ns,
        json: json!({"transition": transition, "diagnosis": diagnosis}),
    }
}

/// A view with one cluster of one member.
fn view() -> View {
    let summary = ClusterSummary {
        id: CLUSTER,
        etcd_cluster_id: "00000000000000c1".to_owned(),
        name: "it's \"prod\"\n".to_owned(),
        members: 1,
        leader: None,
        state: "ok".to_owned(),
        last_seen: None,
        diagnoses: Vec::new(),
    };
    let member = json!({
        "id": "00000000000000a1", "name": "m\\1", "running": true, "health": "healthy", "source": "agent", "is_leader": true,
        "is_learner": false, "version": "3.6.16", "raft_term": 1, "raft_index": 1, "raft_applied_index": 1, "db_size_bytes": 1,
        "db_in_use_bytes": 1, "quota_bytes": 1, "agent": null, "node": "n1", "last_seen": null, "scrape_ok": true,
        "scrape_error": "", "errors": [], "degraded": [], "process": null, "peer_urls": [], "client_urls": [], "data_dir": "",
        "boot_failure": null,
    });
    let members = vec![serde_json::from_value(member).unwrap()];
    let cluster = ClusterView { summary, leader: LeaderView::default(), members };
    View { clusters: BTreeMap::from([(CLUSTER, cluster)]), ..View::default() }
}

async fn tell(state: &State, store: &Store, client: &Client, rows: (u64, u64)) {
    let (_sender, views) = watch::channel(Arc::new(view()));
    let installation = Uuid::from_u128(9);
    let transcript =
        Transcript::load(state.clone(), store.clone(), installation, views, client.clone()).await.unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(transcript.run(stop.clone()));
    let told = async || {
        let lines = state.list(kind::TRANSCRIPT).await.unwrap();
        let cursors: Vec<i64> = lines.iter().filter_map(|line| line.json["number"].as_i64()).collect();
        // Each log's last line is known to be stored.
        let mut last = Vec::new();
        for log in [log::ALERT, log::DIAGNOSIS] {
            last.extend(state.log(log, 1).await.unwrap().first().map(|line| line.number));
        }
        cursors.len() == last.len() && last.iter().all(|number| cursors.contains(number))
    };
    eventually("everything is told", told).await;
    stop.cancel();
    task.await.unwrap();
    let alerts = number(client, "SELECT count() FROM alerts").await;
    let diagnoses = number(client, "SELECT count() FROM diagnoses").await;
    assert_eq!((alerts, diagnoses), rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transitions_are_stored_once_and_with_names() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    let (store, _stop) = support::store(&client);
    eventually("the schema is there", async || store.is_ready()).await;
    let second = 1_000_000_000;
    let at = support::NOON * second;
    // Two of one moment, and one from before that came later: a clock was set back.
    let lines = vec![
        alert("pending", at),
        alert("firing", at),
        diagnosis("opened", at),
        alert("resolved", at - second),
    ];
    state.commit(lines).await.unwrap();
    tell(&state, &store, &client, (3, 1)).await;
    // Killed after rows were stored and before that was noted.
    state.commit(vec![Change::Delete { kind: kind::TRANSCRIPT, id: log::ALERT.to_owned() }]).await.unwrap();
    state.commit(vec![alert("pending", at), diagnosis("closed", at + second)]).await.unwrap();
    engine.kill().await;
    tell(&state, &store, &client, (4, 2)).await;
    let shown = "SELECT count() FROM v_alerts WHERE cluster = 'it\\'s \"prod\"\\n' AND member = 'm\\\\1' AND rule = 'EtcdSlow' \
                 AND severity = 'critical' AND summary = 'it\\'s slow' AND started_at = '2026-11-21 10:00:00' AND value = 0.25";
    assert_eq!(number(&client, shown).await, 4);
    let shown = "SELECT count() FROM v_diagnoses WHERE cause = 'disk_neighbour' AND share = 0.75 AND summary = 'rsync' \
                 AND state IN ('opened', 'closed') AND member_id = '00000000000000a1'";
    assert_eq!(number(&client, shown).await, 2);
    assert_eq!(
        number(&client, "SELECT count() FROM v_members WHERE node = 'n1' AND etcd_version = '3.6.16'").await,
        1
    );
    assert_eq!(state.untold_lines(), 0);
    engine.supervisor.stop().await;
}
