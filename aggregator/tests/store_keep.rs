//! What becomes of a store over the years: parts that can't be read, days that are too many, copies, upgrades, servers by
//! URL with TLS (T4, M6).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;
#[path = "store/tls_proxy.rs"]
mod tls_proxy;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use etcdmon_aggregator::store::migrate::migrate;
use etcdmon_aggregator::store::upkeep::Options;
use etcdmon_aggregator::store::{Client, External, Retention};
use support::{
    Agent, NOON, care, engine, engine_in, eventually, look_after, number, program, store, stored_and_doubled,
};

const DAY: i64 = 86_400;

/// Directory of the only active part of a table.
async fn part(client: &Client, table: &str) -> PathBuf {
    let sql = format!(
        "SELECT path FROM system.parts WHERE database = 'etcdmon' AND table = '{table}' AND active LIMIT 1"
    );
    client.connect().unwrap().query_raw(&sql).fetch_one::<String>().await.unwrap().into()
}

/// Turns a byte in the middle of a file.
fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(file, bytes).unwrap();
}

fn data_file(part: &Path) -> PathBuf {
    ["data.bin", "at.bin"].map(|name| part.join(name)).into_iter().find(|file| file.exists()).unwrap()
}

/// What the ledger says of a stream: produced, dropped as corrupt, and all rows of its table.
async fn account(client: &Client, stream: &str, table: &str) -> (u64, u64, u64) {
    let sum =
        |condition: &str| format!("SELECT sum(count) FROM ledger WHERE stream = '{stream}' AND {condition}");
    let produced = number(client, &sum("kind = 'produced'")).await;
    let corrupt = number(client, &sum("reason = 'corrupt'")).await;
    (produced, corrupt, number(client, &format!("SELECT count() FROM {table}")).await)
}

/// The account of all rows of a table, which the generated batches don't have.
async fn announce(client: &Client, stream: &str, table: &str) {
    let sql = format!(
        "INSERT INTO ledger SELECT agent, generateUUIDv4(), 0, rowNumberInAllBlocks(), cluster, member, minute, '{stream}', \
         'produced', '', count, 0, 0 FROM (SELECT agent, cluster, member, toStartOfMinute(at) AS minute, count() AS count \
         FROM {table} GROUP BY agent, cluster, member, minute)"
    );
    client.connect().unwrap().query_raw("TRUNCATE TABLE ledger").execute().await.unwrap();
    client.connect().unwrap().query_raw(&sql).execute().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_cant_be_read_are_set_aside_told_and_accounted_for() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    store.write(agent.decoded(600, NOON), false).await.unwrap();
    store.write(agent.decoded(300, NOON + DAY), false).await.unwrap();
    announce(&client, "sync_row", "syncs").await;
    let (facts, stop) = look_after(&client, care(&engine));
    // One way: a question stumbles over it.
    damage(&data_file(&part(&client, "syncs").await));
    let question = "SELECT sum(cityHash64(*)) FROM syncs";
    let refused = client.connect().unwrap().query_raw(question).fetch_one::<u64>().await.unwrap_err();
    assert!(refused.to_string().contains("Code: "), "{refused}");
    eventually("the part is set aside", async || facts.borrow().lost_parts == 1).await;
    eventually("its rows are accounted for", async || facts.borrow().lost_rows > 0).await;
    number(&client, question).await;
    let (produced, corrupt, left) = account(&client, "sync_row", "syncs").await;
    assert_eq!((produced, corrupt), (900, 900 - left));
    assert!(left == 300 || left == 600, "{left}");
    let lost = facts.borrow().parts[0].clone();
    assert_eq!((lost.table.as_str(), lost.rows), ("syncs", Some(corrupt)));
    // The other: it is found when the store is opened.
    let broken = part(&client, "writes").await;
    let file = data_file(&broken);
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(10).unwrap();
    engine.kill().await;
    eventually("the part is set aside", async || facts.borrow().lost_parts == 2).await;
    assert!(facts.borrow().parts[0].reason.starts_with("broken"), "{:?}", facts.borrow().parts);
    let told = number(&client, "SELECT count() FROM events WHERE kind = 'store.part_lost'").await;
    assert_eq!(told, 2);
    stop.cancel();
    // Another process knows of both, and writes nothing off again.
    let (facts, _stop) = look_after(&client, care(&engine));
    eventually("it was weighed", async || facts.borrow().bytes.is_some()).await;
    assert_eq!((facts.borrow().lost_parts, facts.borrow().trouble.clone()), (0, None));
    assert_eq!(account(&client, "sync_row", "syncs").await, (produced, corrupt, left));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_set_aside_is_told_of_once_that_can_be_done() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    store.write(agent.decoded(600, NOON), false).await.unwrap();
    let (facts, _stop) = look_after(&client, care(&engine));
    eventually("it was weighed", async || facts.borrow().bytes.is_some()).await;
    let run = async |sql: &str| client.connect().unwrap().query_raw(sql).execute().await;
    run("RENAME TABLE events TO events_away").await.unwrap();
    damage(&data_file(&part(&client, "syncs").await));
    run("SELECT sum(cityHash64(*)) FROM syncs").await.unwrap_err();
    let detached = "SELECT count() FROM system.detached_parts WHERE database = 'etcdmon' AND table = 'syncs'";
    eventually("the part is set aside", async || number(&client, detached).await == 1).await;
    eventually("it can't be told", async || facts.borrow().trouble.is_some()).await;
    run("RENAME TABLE events_away TO events").await.unwrap();
    eventually("it is told", async || facts.borrow().lost_parts == 1).await;
    assert_eq!(number(&client, "SELECT count() FROM events WHERE kind = 'store.part_lost'").await, 1);
    assert_eq!(facts.borrow().parts[0].rows, Some(600));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_have_expired_are_not_written_off_with_a_part_that_is_found_later() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    migrate(&client).await.unwrap();
    let run = async |sql: &str| client.connect().unwrap().query_raw(sql).execute().await.unwrap();
    // Of a minute ten days ago: its account is still there, its rows are not, and there is a part of it that nobody told of.
    let minute = chrono::Utc::now() - chrono::TimeDelta::days(10);
    let at = minute.timestamp_nanos_opt().unwrap();
    run(&format!(
        "INSERT INTO ledger SELECT generateUUIDv4(), generateUUIDv4(), 0, 0, 'c', 1, \
         toStartOfMinute(fromUnixTimestamp64Nano({at}, 'UTC')), 'sync_row', 'produced', '', 100, 0, 0"
    ))
    .await;
    let path = "SELECT data_paths[1] FROM system.tables WHERE database = 'etcdmon' AND name = 'syncs'";
    let path: String = client.connect().unwrap().query_raw(path).fetch_one().await.unwrap();
    let part = Path::new(&path).join(format!("detached/broken_{}_1_1_0", minute.format("%Y%m%d")));
    std::fs::create_dir(&part).unwrap();
    std::fs::write(part.join("count.txt"), "100").unwrap();
    std::fs::write(part.join("minmax_at.idx"), [at.to_le_bytes(), at.to_le_bytes()].concat()).unwrap();
    let options = Options { retention: Retention::default(), ..care(&engine) };
    let (facts, stop) = look_after(&client, options.clone());
    let accounted = "SELECT count() FROM events WHERE kind = 'store.loss_accounted'";
    eventually("the part is accounted for", async || number(&client, accounted).await == 1).await;
    assert_eq!((facts.borrow().lost_parts, facts.borrow().lost_rows), (1, 0));
    assert_eq!(account(&client, "sync_row", "syncs").await, (100, 0, 0));
    stop.cancel();
    // It is known for as long as it lies there.
    run("INSERT INTO events SELECT * REPLACE (at - toIntervalDay(40) AS at) FROM events").await;
    run("ALTER TABLE events DELETE WHERE at > now() - toIntervalDay(1) SETTINGS mutations_sync = 1").await;
    assert_eq!(number(&client, accounted).await, 1);
    let (facts, _stop) = look_after(&client, options);
    eventually("it was weighed", async || facts.borrow().bytes.is_some()).await;
    assert_eq!((facts.borrow().lost_parts, facts.borrow().trouble.clone()), (0, None));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_days_go_when_the_store_is_too_large_and_never_the_newest() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    for day in 0..4 {
        store.write(agent.decoded(3_000, NOON + day * DAY), false).await.unwrap();
    }
    let days = async || number(&client, "SELECT uniqExact(toDate(at)) FROM metrics").await;
    assert_eq!(days().await, 4);
    let events = number(&client, "SELECT count() FROM events").await;
    let size = "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = 'etcdmon' AND active";
    // One day is not enough, two are.
    let of_a_day = format!("{size} AND table != 'events' AND partition_id = '20261121'");
    let budget = number(&client, size).await - number(&client, &of_a_day).await * 3 / 2;
    let (facts, stop) = look_after(&client, Options { max_bytes: Some(budget), ..care(&engine) });
    eventually("days are dropped", async || facts.borrow().days.len() == 2).await;
    let upkeep = facts.borrow().clone();
    assert_eq!((days().await, upkeep.days.len()), (2, 2), "{upkeep:?}");
    assert_eq!((upkeep.days[1].begin.as_str(), upkeep.days[0].begin.as_str()), ("2026-11-21", "2026-11-22"));
    assert!(upkeep.bytes.unwrap() <= budget && number(&client, size).await <= budget + 100_000, "{upkeep:?}");
    assert_eq!(number(&client, "SELECT count() FROM ledger WHERE at < toDate('2026-11-23')").await, 0);
    stop.cancel();
    // However small: the newest day stays, and so do events, which also say what was dropped.
    let (facts, _stop) = look_after(&client, Options { max_bytes: Some(1), ..care(&engine) });
    eventually("another day is dropped", async || facts.borrow().dropped_partitions > 0).await;
    assert_eq!(days().await, 1);
    let told = async || number(&client, "SELECT count() FROM events WHERE kind = 'store.retention'").await;
    eventually("it is told", async || told().await == 3).await;
    assert_eq!(number(&client, "SELECT count() FROM events WHERE kind != 'store.retention'").await, events);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_go_although_nothing_can_be_told_and_are_told_later() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    for day in 0..3 {
        store.write(agent.decoded(300, NOON + day * DAY), false).await.unwrap();
    }
    let run = async |sql: &str| client.connect().unwrap().query_raw(sql).execute().await.unwrap();
    run("RENAME TABLE events TO events_away").await;
    let (facts, _stop) = look_after(&client, Options { max_bytes: Some(1), ..care(&engine) });
    eventually("days are dropped", async || facts.borrow().days.len() == 2).await;
    eventually("it can't be told", async || facts.borrow().trouble.is_some()).await;
    run("RENAME TABLE events_away TO events").await;
    let told = "SELECT count() FROM events WHERE kind = 'store.retention'";
    eventually("it is told", async || number(&client, told).await == 2).await;
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_on_a_disk_that_it_shares_writes_slowly() {
    use etcdmon_aggregator::engine::{Options, Supervisor};
    if let Err(missing) = etcdmon_aggregator::engine::library::locate(None) {
        return println!("skipped: {missing}");
    }
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new(program(), directory.path().join("clickhouse"));
    let slow = Supervisor::start(Options { write_bytes_per_second: Some(1 << 20), ..options }).unwrap();
    let mut endpoint = slow.endpoint();
    tokio::time::timeout(Duration::from_secs(60), endpoint.wait_for(Option::is_some)).await.unwrap().unwrap();
    let client = Client::embedded(slow.endpoint(), "default").connect().unwrap();
    let run = async |sql: &str| client.query_raw(sql).execute().await.unwrap();
    run("CREATE TABLE noise (value UInt64) ENGINE = MergeTree ORDER BY tuple()").await;
    let began = std::time::Instant::now();
    // 4 MB that don't compress: a second's worth at once, the rest in three seconds.
    run("INSERT INTO noise SELECT sipHash64(number) FROM numbers(524288)").await;
    assert!(began.elapsed() >= Duration::from_millis(2_500), "{:?}", began.elapsed());
    assert_eq!(slow.facts().borrow().restarts, 0);
    slow.stop().await;
}

fn run(state: &Path, words: &[&str]) -> Output {
    Command::new(program()).arg("--state-dir").arg(state).arg("store").args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Rows and checksums of every table.
async fn content(client: &Client) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    for table in [
        "sync_histograms",
        "syncs",
        "writes",
        "metrics",
        "events",
        "ledger",
        "autopsies",
        "schema_migrations",
    ] {
        let rows = number(client, &format!("SELECT count() FROM {table}")).await;
        let sum = number(client, &format!("SELECT sum(cityHash64(toString(tuple(*)))) FROM {table}")).await;
        all.push((rows, sum));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_restored_whole_and_overwrites_nothing() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    store.write(agent.decoded(1_000, NOON), false).await.unwrap();
    let before = content(&client).await;
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    let copy_text = copy.to_str().unwrap();
    // While the engine is in use.
    let made = run(engine.path(), &["backup", copy_text]);
    assert!(made.status.success() && said(&made).contains("copied to"), "{}", said(&made));
    let again = run(engine.path(), &["backup", copy_text]);
    assert!(!again.status.success() && said(&again).contains("never overwritten"), "{}", said(&again));
    let running = run(engine.path(), &["restore", copy_text]);
    assert!(!running.status.success() && said(&running).contains("stop it first"), "{}", said(&running));
    engine.supervisor.stop().await;
    // A store with rows is not touched.
    let full = run(engine.path(), &["restore", copy_text]);
    assert!(!full.status.success() && said(&full).contains("empty store only"), "{}", said(&full));
    let nothing = run(engine.path(), &["restore", place.path().to_str().unwrap()]);
    assert!(!nothing.status.success() && said(&nothing).contains("no copy of a store"), "{}", said(&nothing));
    // Into an empty one, and into one that was only begun.
    let state = tempfile::tempdir().unwrap();
    let restored = run(state.path(), &["restore", copy_text]);
    assert!(restored.status.success() && said(&restored).contains("sync_histograms"), "{}", said(&restored));
    let checked = run(state.path(), &["check", "--verify"]);
    assert!(
        checked.status.success() && said(&checked).contains("as their checksums say"),
        "{}",
        said(&checked)
    );
    let engine = engine_in(state).await;
    let client = engine.client("etcdmon");
    assert_eq!(content(&client).await, before);
    // Broken parts are named.
    damage(&data_file(&part(&client, "syncs").await));
    let checked = run(engine.path(), &["check", "--verify"]);
    assert!(!checked.status.success() && said(&checked).contains("syncs/"), "{}", said(&checked));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_the_first_schema_is_upgraded_and_keeps_its_rows() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let bare = client.connect_without_database().unwrap();
    let run = async |sql: &str| bare.clone().with_database("etcdmon").query_raw(sql).execute().await.unwrap();
    bare.query_raw("CREATE DATABASE etcdmon").execute().await.unwrap();
    run("CREATE TABLE schema_migrations (version UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC') \
         DEFAULT now64(3)) ENGINE = MergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1")
    .await;
    // As the program before any other step made it.
    let schema = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/store/schema");
    let checksums = std::fs::read_to_string(schema.join("checksums.txt")).unwrap();
    for (number, name) in [(1, "0001_raw"), (2, "0002_autopsies")] {
        let sql = std::fs::read_to_string(schema.join(format!("{name}.sql"))).unwrap();
        for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            run(statement).await;
        }
        let checksum = checksums.lines().find_map(|line| line.strip_suffix(&format!(" {name}"))).unwrap();
        run(&format!(
            "INSERT INTO schema_migrations (version, name, checksum) SELECT {number}, '{name}', '{checksum}'"
        ))
        .await;
    }
    let identity = "toUUID('00000000-0000-0000-0000-00000000000a') AS agent, generateUUIDv4(1) AS epoch, number AS sequence, 0 AS row, \
                    '00000000-0000-0001-0000-0000000000c1' AS cluster, 161 AS member, \
                    toDateTime64('2026-11-21 10:00:00', 9, 'UTC') + number AS at";
    for (table, columns) in [
        (
            "sync_histograms",
            "'wal' AS class, 'filesystem' AS hook, map(100, 3) AS buckets, 3 AS count, 3000 AS sum_ns",
        ),
        ("metrics", "'node_load' AS name, '{}' AS labels, 'gauge' AS type, number / 2 AS value"),
        ("events", "'member.started' AS kind, '{}' AS details"),
        ("ledger", "'sync' AS stream, 'produced' AS kind, '' AS reason, 3 AS count"),
    ] {
        let names = columns.split(", ").filter_map(|column| Some(column.rsplit_once(" AS ")?.1));
        let names: Vec<&str> = names.collect();
        run(&format!(
            "INSERT INTO {table} (agent, epoch, sequence, row, cluster, member, at, {}) SELECT {identity}, {columns} FROM numbers(500)",
            names.join(", ")
        ))
        .await;
    }
    let (store, _stop) = store(&client);
    eventually("the schema is up to date", async || store.is_ready()).await;
    assert_eq!(stored_and_doubled(&client).await, (4 * 500, 0));
    assert_eq!(number(&client, "SELECT sum(buckets[100]) FROM sync_histograms").await, 1_500);
    assert_eq!(number(&client, "SELECT toUInt64(sum(value)) FROM metrics").await, 500 * 499 / 4);
    // And it goes on from there.
    let mut agent = Agent::new();
    store.write(agent.decoded(100, NOON), false).await.unwrap();
    assert_eq!(stored_and_doubled(&client).await, (4 * 500 + 7 * 100, 0));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_tls_is_used_and_its_faults_are_said_in_words() {
    let Some(engine) = engine().await else { return };
    let (url, key) = engine.endpoint();
    let proxy = tls_proxy::start(url.trim_start_matches("http://"), false).await;
    let wants_certificate = tls_proxy::start(url.trim_start_matches("http://"), true).await;
    let server = External {
        url: proxy.url(),
        user: "default".to_owned(),
        password: key.clone(),
        authority: Some(proxy.authority()),
        ..External::default()
    };
    let client = Client::external(&server, "by_tls").unwrap();
    client.probe().await.unwrap();
    let (store, _stop) = store(&client);
    let mut agent = Agent::new();
    store.write(agent.decoded(500, NOON), false).await.unwrap();
    assert_eq!(stored_and_doubled(&client).await, (7 * 500, 0));
    let mutual = External {
        url: wants_certificate.url(),
        authority: Some(wants_certificate.authority()),
        ..server.clone()
    };
    let shown = External { certificate: Some(wants_certificate.client()), ..mutual.clone() };
    Client::external(&shown, "by_tls").unwrap().probe().await.unwrap();
    let web = tls_proxy::web_server().await;
    let plain = proxy.url().replace("https", "http");
    let cases = [
        (
            "a wrong password",
            External { password: "wrong".to_owned(), ..server.clone() },
            "refuses user and password",
        ),
        (
            "a foreign authority",
            External { authority: Some(wants_certificate.authority()), ..server.clone() },
            "clickhouse.ca-file",
        ),
        ("the public authorities", External { authority: None, ..server.clone() }, "clickhouse.ca-file"),
        ("no certificate to show", mutual, "clickhouse.cert-file"),
        ("plain words to TLS", External { url: plain, authority: None, ..server.clone() }, "does not answer"),
        ("something else", External { url: web, ..server.clone() }, "not the HTTP interface of a ClickHouse"),
        ("nobody", External { url: "https://127.0.0.1:9".to_owned(), ..server.clone() }, "does not answer"),
    ];
    for (what, server, expected) in cases {
        let client = Client::external(&server, "by_tls").unwrap();
        let probed = tokio::time::timeout(Duration::from_secs(30), client.probe()).await.unwrap();
        let error = etcdmon_service::logging::ErrorChain(&probed.unwrap_err()).to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
    let missing = External { authority: Some("/nowhere".into()), ..server };
    assert!(Client::external(&missing, "by_tls").unwrap_err().to_string().contains("/nowhere"));
    engine.supervisor.stop().await;
}
