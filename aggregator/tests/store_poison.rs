//! Rows that ClickHouse will never take cost themselves alone: found, kept as files, accounted for; nobody waits (S10).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::DateTime;
use etcdmon_aggregator::query::{LedgerAccount, Query, TimeRange};
use etcdmon_aggregator::store::{Client, Decoded, Store, Table, Unstorable};
use support::{Agent, NOON, cluster, engine, number, store_with, stored_and_doubled};

async fn execute(client: &Client, sql: &str) {
    client.connect().unwrap().query_raw(sql).execute().await.unwrap();
}

async fn write_all(store: &Store, batches: &[Decoded], again: bool) {
    let writes = batches.iter().map(|batch| store.write(batch.clone(), again));
    let all = futures::future::try_join_all(writes);
    tokio::time::timeout(Duration::from_secs(90), all).await.expect("nobody waits for ever").unwrap();
}

async fn books(client: &Client) -> Vec<LedgerAccount> {
    let at = |second| DateTime::from_timestamp(second, 0).unwrap();
    let range = TimeRange { from: at(NOON), to: at(NOON + 3_600) };
    Query::new(client.clone()).ledger(cluster(), None, range, range.to).await.unwrap()
}

fn unstorable(books: &[LedgerAccount], stream: &str) -> u64 {
    let rows = books.iter().filter(|account| account.stream == stream);
    rows.filter_map(|account| account.dropped.get("unstorable")).sum()
}

fn files(directory: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == ending)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_rows_that_are_refused_for_their_values_cost_only_themselves() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let directory = engine.path().join("unstorable");
    let options = Unstorable { directory: Some(directory.clone()), ..Unstorable::default() };
    let (store, _stop) = store_with(&client, options);
    let mut good = Agent::new();
    write_all(&store, &[good.decoded(6, NOON)], false).await;
    // Latencies are 1,000,000 ns plus the row's number: only the batch of 600 rows has these two.
    execute(&client, "ALTER TABLE syncs ADD CONSTRAINT picky CHECK latency_ns NOT IN (1000377, 1000501)")
        .await;
    let batches: Vec<_> = (0..6)
        .map(|number| Agent::new().decoded(if number == 2 { 600 } else { 300 }, NOON + number))
        .collect();
    write_all(&store, &batches, false).await;
    let all = 7 * 6 + 7 * (5 * 300 + 600);
    let books_now = books(&client).await;
    assert_eq!(unstorable(&books_now, "sync_row"), 2);
    assert_eq!(number(&client, "SELECT count() FROM syncs").await, 6 + 5 * 300 + 600 - 2);
    assert_eq!(store.counters().rows_unstorable[Table::Syncs as usize].load(Ordering::Relaxed), 2);
    assert_eq!(stored_and_doubled(&client).await, (all, 0), "2 rows less, 2 accounts more");
    assert_eq!((files(&directory, "native").len(), files(&directory, "json").len()), (2, 2));
    let about = std::fs::read_to_string(&files(&directory, "json")[0]).unwrap();
    assert!(about.contains("\"code\": 469") && about.contains("picky"), "{about}");
    // Sent again: the same end, nothing doubled, not even in the books.
    write_all(&store, &batches, true).await;
    assert_eq!(unstorable(&books(&client).await, "sync_row"), 2);
    assert_eq!(stored_and_doubled(&client).await, (all, 0));
    // What was set aside can be stored once the cause is mended.
    execute(&client, "ALTER TABLE syncs DROP CONSTRAINT picky").await;
    let rows = std::fs::read(&files(&directory, "native")[0]).unwrap();
    let connection = client.connect().unwrap();
    let mut insert = connection.insert_formatted_with("INSERT INTO syncs FORMAT Native");
    insert.send(rows.into()).await.unwrap();
    insert.end().await.unwrap();
    assert_eq!(stored_and_doubled(&client).await, (all + 1, 0));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_column_stops_no_other_table_and_is_waited_for() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let directory = engine.path().join("unstorable");
    let patience = Duration::from_secs(4);
    let options = Unstorable { directory: Some(directory.clone()), schema_patience: patience };
    let (store, _stop) = store_with(&client, options);
    let mut agent = Agent::new();
    write_all(&store, &[agent.decoded(6, NOON)], false).await;
    execute(&client, "ALTER TABLE events DROP COLUMN details").await;
    // Somebody mends it in time: nothing is lost.
    let batch = [agent.decoded(60, NOON)];
    let mend = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            number(&client, "SELECT count() FROM metrics").await,
            66,
            "the other tables wait for nobody"
        );
        assert_eq!(number(&client, "SELECT count() FROM ledger").await, 6, "but the account comes last");
        execute(&client, "ALTER TABLE events ADD COLUMN details String").await;
    };
    tokio::join!(write_all(&store, &batch, false), mend);
    assert_eq!(stored_and_doubled(&client).await, (7 * 66, 0));
    assert!(files(&directory, "native").is_empty());
    // Nobody does: after a while the events are set aside, all of them, and the next ones at once.
    execute(&client, "ALTER TABLE events DROP COLUMN details").await;
    for _ in 0..3 {
        write_all(&store, &[agent.decoded(60, NOON)], false).await;
    }
    assert_eq!(unstorable(&books(&client).await, "event"), 180, "the node's own among them");
    assert_eq!(store.counters().rows_unstorable[Table::Events as usize].load(Ordering::Relaxed), 180);
    assert_eq!(number(&client, "SELECT count() FROM events").await, 66);
    // Mended: stored again.
    execute(&client, "ALTER TABLE events ADD COLUMN details String").await;
    write_all(&store, &[agent.decoded(60, NOON)], false).await;
    assert_eq!(number(&client, "SELECT count() FROM events").await, 126);
    engine.supervisor.stop().await;
}
