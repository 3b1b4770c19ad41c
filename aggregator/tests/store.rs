//! Storing on a real engine: everything that is stored reads back, nothing is stored twice, whatever dies (S10, T4).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/proxy.rs"]
mod proxy;
#[path = "store/support.rs"]
mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_aggregator::query::{LedgerAccount, Query, SlowSyncFilter, SyncFilter, TimeRange};
use etcdmon_aggregator::store::{Client, External, Store, migrate};
use etcdmon_proto::v1::FileClass;
use proxy::Mishap;
use support::{Agent, MEMBERS, NOON, cluster, engine, eventually, number, store, stored_and_doubled};

fn range(from: i64, to: i64) -> TimeRange {
    let at = |second| DateTime::<Utc>::from_timestamp(second, 0).unwrap();
    TimeRange { from: at(from), to: at(to) }
}

fn by_url(url: String, password: String) -> External {
    External { url, user: "default".to_owned(), password, ..External::default() }
}

async fn write_all(store: &Store, batches: Vec<etcdmon_aggregator::store::Decoded>, again: bool) {
    let writes = batches.into_iter().map(|batch| store.write(batch, again));
    futures::future::try_join_all(writes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_reads_back() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    store.write(agent.decoded(60, NOON), false).await.unwrap();
    assert_eq!(stored_and_doubled(&client).await, (420, 0));
    let query = Query::new(client.clone());
    query.ping().await.unwrap();
    let hour = range(NOON, NOON + 3_600);

    let filter =
        SyncFilter { member: Some(MEMBERS[1]), class: Some(FileClass::Backend), range: hour, limit: 100 };
    let syncs = query.syncs(cluster(), &filter).await.unwrap();
    // Rows 1, 7, 13 … are the second member's backend.
    assert_eq!(syncs.len(), 10);
    let newest = &syncs[0];
    assert_eq!((newest.thread_id, newest.latency_ns, newest.result), (40 + 55, 1_000_055, -5));
    assert_eq!(newest.at.timestamp_nanos_opt(), Some(NOON * 1_000_000_000 + 55_000));
    assert_eq!((newest.inode, newest.device, newest.written_bytes), (1 << 33 | 55, 8 << 20 | 1, 55 * 2_300));
    assert_eq!((newest.reason.as_str(), newest.sample_every, newest.slow_ns), ("sample", 100, 10_000_000));
    assert_eq!(newest.agent, agent.id);

    let slow_filter = SlowSyncFilter { member: Some(MEMBERS[1]), class: None, range: hour, limit: 7 };
    let slow = query.slow_syncs(cluster(), &slow_filter).await.unwrap();
    // Rows 59, 57 … are the second member's, and have a culprit each.
    assert_eq!(slow.iter().map(|sync| sync.thread_id).collect::<Vec<_>>(), [99, 97, 95, 93, 91, 89, 87]);
    let newest = &slow[0];
    assert_eq!(newest.at().timestamp_nanos_opt(), Some(NOON * 1_000_000_000 + 59_000));
    let parts = [
        newest.on_cpu_ns,
        newest.run_queue_ns,
        newest.journal_ns,
        newest.queue_ns,
        newest.device_ns,
        newest.flush_ns,
        newest.throttle_ns,
        newest.steal_ns,
    ];
    assert_eq!(parts, [1, 2, 3, 4, 5, 6, 7, 8].map(|ms| ms * 1_000_000));
    assert_eq!((newest.latency_ns, newest.unexplained_ns), (45_000_059, 9_000_059));
    assert_eq!(
        (newest.journal_flush_ns, newest.cpu_quota_ns, newest.wait_ns),
        (250_000, 1_500_000, 16_000_000)
    );
    assert_eq!(
        (newest.gaps.as_str(), newest.threshold_ns, newest.agent),
        ("requests,overwritten", 10_000_000, agent.id)
    );
    let culprits: serde_json::Value = serde_json::from_str(&newest.culprits).unwrap();
    assert_eq!((&culprits[0]["process_id"], &culprits[0]["wait_ns"]), (&629.into(), &4_000_000.into()));
    assert_eq!(culprits[0]["cgroup"], "/a \"quoted\" cgroup\n");

    let counts = query.sync_counts(cluster(), None, hour).await.unwrap();
    assert_eq!(counts.iter().map(|count| count.count).sum::<u64>(), 60 * 3);
    assert_eq!(counts.iter().map(|count| count.errors).sum::<u64>(), 20);
    assert_eq!(counts.iter().filter(|count| count.member == MEMBERS[0] && count.class == "wal").count(), 1);

    let latency = query.latency(cluster(), None, None, hour).await.unwrap();
    assert_eq!((latency.count, latency.sum_ns, latency.errors), (180, (0..60).sum::<u64>() * 10, 20));
    assert_eq!(latency.max_ns, Some(etcdmon_histogram::midpoint_ns(300)));
    assert_eq!(latency.buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 180);
    let one = query.latency(cluster(), Some(MEMBERS[0]), Some(FileClass::Wal), hour).await.unwrap();
    assert_eq!(one.count, 30);

    let now = DateTime::<Utc>::from_timestamp(NOON + 1, 0).unwrap();
    let metrics = query.current_metrics(cluster(), None, None, now).await.unwrap();
    assert_eq!(metrics.len(), 3);
    let node = metrics.iter().find(|sample| sample.name == "node_load").unwrap();
    assert_eq!((node.member, node.value), (0, 57.0 / 8.0));
    assert_eq!(node.labels["quote"], "a\"b\\c\n");
    let named = query.current_metrics(cluster(), Some(MEMBERS[0]), Some("etcd_a"), now).await.unwrap();
    assert_eq!(named.len(), 1);

    let ledger = query.ledger(cluster(), None, hour, now).await.unwrap();
    let stored = |stream: &str| -> u64 {
        ledger.iter().filter(|account| account.stream == stream).map(|account| account.stored).sum()
    };
    let streams = ["sync", "sync_row", "write", "metric", "event", "autopsy"];
    assert_eq!(streams.map(stored), [180, 60, 60, 60, 60, 60]);
    let produced: u64 = ledger.iter().map(|account| account.produced).sum();
    let dropped: u64 = ledger.iter().flat_map(|account| account.dropped.values()).sum();
    let blind: u64 = ledger.iter().flat_map(|account| &account.blind).map(|blind| blind.count).sum();
    assert_eq!(produced + dropped + blind, (0..60).sum::<u64>());
    let interval = ledger.iter().find_map(|account| account.blind.first()).unwrap();
    assert_eq!((interval.from.timestamp(), interval.reason.as_str()), (NOON, "agent_down"));

    let other = uuid::Uuid::from_u128(9);
    assert!(query.syncs(other, &filter).await.unwrap().is_empty());
    assert_eq!(query.latency(other, None, None, hour).await.unwrap().p99_ns, None);
    engine.supervisor.stop().await;
    assert_eq!(engine.supervisor.facts().borrow().last_error, None, "the engine did not end in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_sent_before_it_died_is_not_blind() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut before = Agent::new();
    store.write(before.decoded(60, NOON), false).await.unwrap();
    let mut after = Agent { epoch: uuid::Uuid::new_v4(), ..before.clone() };
    // The row of the second in which it begins came after what was kept; the last second is outside.
    let (from_ns, to_ns) = (NOON * 1_000_000_000 + 3_000_000, (NOON + 4) * 1_000_000_000);
    store.write(after.was_down(0, from_ns, to_ns, 100), false).await.unwrap();
    let known = number(
        &client,
        &format!(
            "SELECT sum(count) FROM sync_histograms WHERE member = {} AND class IN ('wal', 'directory') AND \
             at < fromUnixTimestamp64Nano({to_ns}, 'UTC')",
            MEMBERS[0]
        ),
    )
    .await;
    assert!((1..100).contains(&known), "{known}");
    let hour = range(NOON, NOON + 3_600);
    let ledger = Query::new(client.clone()).ledger(cluster(), None, hour, hour.to).await.unwrap();
    let blind =
        ledger.iter().flat_map(|account| &account.blind).find(|blind| blind.to.timestamp() == NOON + 4);
    let blind = blind.unwrap();
    assert_eq!((blind.count, blind.from.timestamp()), (100 - known, NOON + 4), "{blind:?}");
    engine.supervisor.stop().await;
}

/// What is left of a batch when aggregator and agent both died half way through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_account_never_came_are_produced_and_said_to_be_unannounced() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut before = Agent::new();
    store.write(before.decoded(60, NOON), false).await.unwrap();
    client.connect().unwrap().query_raw("TRUNCATE TABLE ledger").execute().await.unwrap();
    let mut after = Agent { epoch: uuid::Uuid::new_v4(), ..before.clone() };
    store.write(after.decoded(6, NOON + 1), false).await.unwrap();
    let hour = range(NOON, NOON + 3_600);
    let ledger = Query::new(client.clone()).ledger(cluster(), None, hour, hour.to).await.unwrap();
    let sum = |stream: &str, count: fn(&LedgerAccount) -> u64| -> u64 {
        ledger.iter().filter(|account| account.stream == stream).map(count).sum()
    };
    let streams = ["sync", "sync_row", "write", "metric", "event"];
    assert_eq!(streams.map(|stream| sum(stream, |it| it.unannounced)), [180, 60, 60, 60, 60]);
    assert_eq!(streams.map(|stream| sum(stream, |it| it.stored)), [198, 66, 66, 66, 66]);
    let announced: u64 = ledger.iter().map(|it| it.produced - it.unannounced).sum();
    assert_eq!(announced, number(&client, "SELECT sum(count) FROM ledger WHERE kind = 'produced'").await);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_at_any_time_is_stored_once() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (first, stop) = store(&client);
    let mut agent = Agent::new();
    let batches: Vec<_> = (0..5).map(|number| agent.decoded(24, NOON + number)).collect();
    let all = (5 * 7 * 24, 0);
    // Twice at the same time, then flagged, then without the flag, then by another process.
    tokio::join!(write_all(&first, batches.clone(), false), write_all(&first, batches.clone(), true));
    assert_eq!(stored_and_doubled(&client).await, all);
    assert!(first.counters().batches_merged.load(Ordering::Relaxed) > 0);
    write_all(&first, batches.clone(), true).await;
    write_all(&first, batches.clone(), false).await;
    assert_eq!(stored_and_doubled(&client).await, all);
    assert!(first.counters().rows_present.load(Ordering::Relaxed) >= 2 * 5 * 7 * 24);
    stop.cancel();
    let (second, _stop) = store(&client);
    write_all(&second, batches.clone(), true).await;
    engine.kill().await;
    write_all(&second, batches, true).await;
    assert_eq!(stored_and_doubled(&client).await, all);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_stored_in_part_is_completed() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    let batch = agent.decoded(90, NOON);
    let mut part = batch.clone();
    part.blocks.truncate(3);
    part.blocks[0] = part.blocks[0].select(&[0, 5, 7, 89]);
    part.blocks[1] = part.blocks[1].select(&(0..45).collect::<Vec<_>>());
    store.write(part, false).await.unwrap();
    assert_eq!(stored_and_doubled(&client).await, (4 + 45 + 90, 0));
    store.write(batch, true).await.unwrap();
    assert_eq!(stored_and_doubled(&client).await, (7 * 90, 0));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_engines_lose_and_double_nothing() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    const AGENTS: usize = 4;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load: Vec<_> = (0..AGENTS)
        .map(|_| {
            let (store, done, mut agent) = (store.clone(), done.clone(), Agent::new());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let batches =
                        (0..4).map(|_| agent.decoded(2_000, NOON + agent.sequence as i64)).collect();
                    write_all(&store, batches, false).await;
                }
                agent.sequence
            })
        })
        .collect();
    // On a busy machine the one that was seen is over before the kill arrives.
    let hit = || store.counters().inserts_failed.load(Ordering::Relaxed) > 0;
    let mut rounds = 0;
    while rounds < 5 || (!hit() && rounds < 40) {
        // In the middle of an insert: right when one is seen in the engine.
        eventually("an insert runs", async || {
            let Ok(client) = client.connect() else { return false };
            let sql = "SELECT count() FROM system.processes WHERE query LIKE '%INSERT INTO%' AND query NOT LIKE '%processes%'";
            client.query_raw(sql).fetch_one::<u64>().await.is_ok_and(|running| running > 0)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(7 * (rounds % 5))).await;
        engine.kill().await;
        rounds += 1;
    }
    done.store(true, Ordering::Relaxed);
    let mut batches = 0;
    for agent in load {
        batches += agent.await.unwrap();
    }
    assert!(hit(), "no insert was hit");
    assert_eq!(stored_and_doubled(&client).await, (batches * 7 * 2_000, 0));
    assert_eq!(engine.supervisor.facts().borrow().restarts, rounds);
    engine.supervisor.stop().await;
}

/// Stores batches over a way on which every table's first inserts have a mishap.
async fn stored_in_spite_of(mishap: Mishap) {
    let Some(engine) = engine().await else { return };
    let (url, password) = engine.endpoint();
    let (port, left) = proxy::start(url.trim_start_matches("http://"), [mishap; 8]).await;
    let server = by_url(format!("http://127.0.0.1:{port}"), password);
    let client = Client::external(&server, "etcdmon").unwrap();
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    for second in 0..3 {
        write_all(&store, (0..3).map(|_| agent.decoded(600, NOON + second)).collect(), false).await;
        assert_eq!(stored_and_doubled(&client).await, (agent.sequence * 7 * 600, 0));
    }
    assert!(left.lock().unwrap().is_empty());
    assert!(store.counters().inserts_failed.load(Ordering::Relaxed) >= 8);
    // What arrives late has arrived by now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stored_and_doubled(&client).await, (agent.sequence * 7 * 600, 0));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_double_nothing() {
    stored_in_spite_of(Mishap::AnswerLost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_that_arrive_after_they_were_given_up_double_nothing() {
    stored_in_spite_of(Mishap::Late(Duration::from_millis(2_500))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_have_partitions_of_their_own() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    let midnight = NOON + 14 * 3_600;
    let batches = vec![agent.decoded(600, midnight - 10), agent.decoded(60, midnight + 86_400)];
    write_all(&store, batches.clone(), false).await;
    assert_eq!(stored_and_doubled(&client).await, (7 * 660, 0));
    let parts = "SELECT uniqExact(partition) FROM system.parts WHERE active AND database = 'etcdmon' AND table = 'writes'";
    assert_eq!(number(&client, parts).await, 3);
    // One insert for each table and day: two tables reach over midnight.
    assert_eq!(store.counters().inserts.load(Ordering::Relaxed), 2 * 3 + 5 * 2);
    write_all(&store, batches, true).await;
    assert_eq!(stored_and_doubled(&client).await, (7 * 660, 0));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_twice_changes_nothing() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("other`name");
    migrate::migrate(&client).await.unwrap();
    migrate::migrate(&client).await.unwrap();
    assert_eq!(
        number(&client, "SELECT count() FROM schema_migrations").await,
        migrate::MIGRATIONS.len() as u64
    );
    client
        .connect()
        .unwrap()
        .query_raw("INSERT INTO schema_migrations (version, name, checksum) SELECT 99, 'later', 'x'")
        .execute()
        .await
        .unwrap();
    let refused = migrate::migrate(&client).await.unwrap_err();
    assert!(matches!(refused, migrate::MigrateError::Newer { found: 99, .. }), "{refused}");
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_by_url_is_the_same() {
    let Some(engine) = engine().await else { return };
    let (url, password) = engine.endpoint();
    let client = Client::external(&by_url(url, password), "by_url").unwrap();
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    let batch = agent.decoded(3_000, NOON);
    store.write(batch.clone(), false).await.unwrap();
    store.write(batch, true).await.unwrap();
    assert_eq!(stored_and_doubled(&client).await, (7 * 3_000, 0));
    let query = Query::new(client);
    assert_eq!(query.latency(cluster(), None, None, range(NOON, NOON + 3_600)).await.unwrap().count, 9_000);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_while_the_store_is_away() {
    let Some(engine) = engine().await else { return };
    // A server that is not there, at first.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (url, password) = engine.endpoint();
    let server = by_url(format!("http://127.0.0.1:{port}"), password);
    let client = Client::external(&server, "late").unwrap();
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    let batch = agent.decoded(12, NOON);
    let write = store.write(batch, false);
    tokio::pin!(write);
    let early = tokio::time::timeout(Duration::from_secs(2), write.as_mut()).await;
    assert!(early.is_err(), "acknowledged while the store was away");
    assert!(!store.is_ready());
    // Now it comes: a proxy on that port.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let target = url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut inward, _)) = listener.accept().await {
            let mut outward = tokio::net::TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut inward, &mut outward).await });
        }
    });
    write.await.unwrap();
    assert!(store.is_ready());
    assert_eq!(stored_and_doubled(&client).await, (7 * 12, 0));
    engine.supervisor.stop().await;
}
