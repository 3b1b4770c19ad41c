//! Sums on a real engine: whatever comes late, twice or in between kills, they are what the raw rows say (M6).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "rollup/model.rs"]
mod model;
#[path = "rollup/random.rs"]
mod random;
#[path = "store/support.rs"]
mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_aggregator::rollup::{Options, Roller};
use etcdmon_aggregator::store::migrate::{MIGRATIONS, migrate};
use etcdmon_aggregator::store::{Client, Decoded, Retention, Store, Unstorable};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use random::Agent;
use support::{NOON, engine, number};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A minute before an hour, and 20 before a day, a week and a month: 2026-11-30 23:40 UTC.
const BEGIN: i64 = 1_796_082_000;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

fn options() -> Options {
    Options { gentle: false, ..Options::new(Duration::from_secs(2), Retention::default()) }
}

/// An aggregator's store and rollups.
struct Centre {
    store: Store,
    writer: JoinHandle<()>,
    roller: Roller,
}

impl Centre {
    async fn start(client: &Client) -> Self {
        let (store, writer) = Store::start(client.clone(), Unstorable::default(), CancellationToken::new());
        support::eventually("the schema is there", async || store.is_ready()).await;
        let roller = Roller::new(client.clone(), store.frontier(), options());
        Self { store, writer, roller }
    }

    /// Works until nothing is left to do.
    async fn settle(&mut self, now: DateTime<Utc>) {
        for _ in 0..1_000 {
            let walked = self.roller.walk(now).await.unwrap();
            if !self.roller.heal(now).await.unwrap() && !walked {
                return;
            }
        }
        panic!("the rollups never come to an end");
    }
}

/// All sums in one text, to be compared with itself later.
async fn everything(client: &Client) -> String {
    let mut all = String::new();
    for (level, _) in model::LEVELS {
        for (source, sums) in model::COUNTED {
            all += &format!("{:?}", model::counted_found(client, source, sums, level).await);
        }
        all += &format!("{:?}", model::sampled_found(client, level).await);
    }
    all
}

/// Rounds of writing and recomputing; with `ETCD_MONITOR_FULL=1` many more.
fn rounds() -> usize {
    if std::env::var_os("ETCD_MONITOR_FULL").is_some() { 600 } else { 12 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_are_what_raw_rows_say_whatever_comes_late_or_twice_and_whoever_is_killed() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let seed = std::env::var("ETCD_MONITOR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("ETCD_MONITOR_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut agents: Vec<Agent> = (1..4).map(Agent::new).collect();
    let mut centre = Centre::start(&client).await;
    let (mut now, mut sent, mut resent): (i64, Vec<Decoded>, usize) = (BEGIN, Vec::new(), 0);
    for round in 0..rounds() {
        now += random.random_range(1..240);
        let late = [20, 90, 7_200][random.random_range(0..3)];
        let mut batches: Vec<(Decoded, bool)> = Vec::new();
        for _ in 0..random.random_range(1..4) {
            let agent = random.random_range(0..agents.len());
            let batch = agents[agent].batch(&mut random, (now - late) * 1_000, now * 1_000 + 2_000);
            batches.push((batch.clone(), false));
            sent.push(batch);
        }
        if random.random_bool(0.3) {
            // Flagged as a resend or not.
            batches.push((sent[random.random_range(0..sent.len())].clone(), random.random_bool(0.5)));
            resent += 1;
        }
        let dies = random.random_bool(0.15);
        let store = centre.store.clone();
        let write = tokio::spawn(async move {
            let writes = batches.into_iter().map(|(batch, again)| store.write(batch, again));
            let _stopped = futures::future::join_all(writes).await;
        });
        // While rows are on their way, sometimes cut off in the middle.
        let patience =
            Duration::from_millis(if random.random_bool(0.3) { random.random_range(0..60) } else { 60_000 });
        let heals = random.random_bool(0.5);
        let work = async {
            let _engine_may_be_killed = centre.roller.walk(at(now)).await;
            if heals {
                let _engine_may_be_killed = centre.roller.heal(at(now)).await;
            }
        };
        let _cut_off = tokio::time::timeout(patience, work).await;
        if round % 40 == 6 {
            engine.kill().await;
        }
        if dies {
            // The aggregator, with rows on their way; their agents send them again, or are gone for good.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..80))).await;
            centre.writer.abort();
            write.abort();
            centre = Centre::start(&client).await;
        } else {
            write.await.unwrap();
        }
    }
    assert!(resent > 0);
    centre.settle(at(now + 7_200)).await;
    let buckets = model::check(&client).await;
    let late = number(&client, "SELECT uniqExact(source, minute) FROM rollup_marks").await;
    println!("{} batches, {buckets} buckets, {late} late minutes", sent.len());
    assert!(buckets > 500 && late > 0, "{buckets} buckets, {late} late minutes");
    // What was stored already changes nothing, however it comes again; and what was not is stored now.
    let writes = sent.iter().map(|batch| centre.store.write(batch.clone(), true));
    futures::future::try_join_all(writes).await.unwrap();
    centre.settle(at(now + 7_200)).await;
    model::check(&client).await;
    let before = everything(&client).await;
    let writes = sent.iter().map(|batch| centre.store.write(batch.clone(), false));
    futures::future::try_join_all(writes).await.unwrap();
    centre.settle(at(now + 7_300)).await;
    assert_eq!(everything(&client).await, before, "doubled batches change sums");
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_rows_that_are_gone_stay_in_the_sums() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let mut centre = Centre::start(&client).await;
    let mut random = StdRng::seed_from_u64(7);
    let mut agent = Agent::new(1);
    for minute in 0..5 {
        let from = (NOON + minute * 60) * 1_000;
        centre.store.write(agent.batch(&mut random, from, from + 59_999), false).await.unwrap();
    }
    let now = at(NOON + 7_200);
    centre.settle(now).await;
    let before = everything(&client).await;
    let connection = client.connect().unwrap();
    for table in ["sync_histograms", "writes", "metrics"] {
        let sql = format!("ALTER TABLE {table} DROP PARTITION '2026-11-21'");
        connection.query_raw(&sql).execute().await.unwrap();
    }
    // Marked, read, and found to have fewer rows than what is there.
    connection
        .query_raw("INSERT INTO rollup_marks SELECT source, toDateTime(1795255200 + minute * 60, 'UTC'), 1000000, 0 FROM \
             (SELECT arrayJoin(['sync_histograms', 'writes', 'metrics']) AS source, arrayJoin(range(5)) AS minute)")
        .execute()
        .await
        .unwrap();
    centre.settle(now).await;
    assert_eq!(everything(&client).await, before, "an empty recomputation replaced sums");
    let mut few = agent.batch(&mut random, NOON * 1_000, NOON * 1_000 + 59_999);
    few.blocks.iter_mut().for_each(|block| *block = block.select(&[0]));
    centre.store.write(few, false).await.unwrap();
    centre.settle(now).await;
    let (raw, rolled) = (
        number(&client, "SELECT count() FROM writes").await,
        number(&client, "SELECT sum(version) FROM writes_1m FINAL").await,
    );
    assert!(raw == 1 && rolled > 5, "{raw} raw rows, {rolled} in sums");
    let lost = model::counted_found(&client, "writes", model::COUNTED[1].1, "1h").await;
    assert!(!lost.is_empty());
    // Rows so old that others of their minute may be gone are not in the sums, and are counted.
    let old = agent.batch(&mut random, (NOON - 8 * 86_400) * 1_000, (NOON - 8 * 86_400) * 1_000 + 1_000);
    centre.store.write(old, false).await.unwrap();
    let before = everything(&client).await;
    centre.settle(now).await;
    assert_eq!(everything(&client).await, before);
    let too_late = &centre.roller.counters().too_late_minutes;
    assert!(too_late.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{too_late:?}");
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_before_the_sums_gets_them_before_its_old_rows_go() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    // As the first two steps left it, with rows of the last weeks.
    let bare = client.connect_without_database().unwrap();
    bare.query_raw("CREATE DATABASE etcdmon").execute().await.unwrap();
    let connection = client.connect().unwrap();
    let run = async |sql: &str| {
        connection.query_raw(sql).execute().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    run("CREATE TABLE schema_migrations (version UInt32, name String, checksum String, \
         applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = MergeTree ORDER BY version")
    .await;
    for step in &MIGRATIONS[..2] {
        for statement in step.sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
            run(statement).await;
        }
        let (version, name, checksum) = (step.version, step.name, step.checksum());
        run(&format!(
            "INSERT INTO schema_migrations (version, name, checksum) SELECT {version}, '{name}', '{checksum}'"
        ))
        .await;
    }
    run("INSERT INTO metrics SELECT toUUID('00000000-0000-0000-0000-000000000001'), \
         toUUID('00000000-0000-0000-0000-000000000002'), number, 0, 'c', 1, now64(9) - toIntervalHour(number * 12), 'puts', \
         '{}', 'counter', number FROM numbers(40)")
    .await;
    migrate(&client).await.unwrap();
    let mut centre = Centre::start(&client).await;
    // The minute of the newest row is over by then.
    let now = Utc::now() + chrono::TimeDelta::minutes(3);
    let ttls = "SELECT count() FROM system.tables WHERE database = 'etcdmon' AND match(create_table_query, 'TTL toDateTime')";
    centre.settle(now).await;
    assert_eq!(number(&client, ttls).await, 0, "nobody set them yet");
    let buckets = model::sampled(&client, 60).await;
    assert_eq!(buckets.len(), 40);
    model::same("metrics_1m", &buckets, &model::sampled_found(&client, "1m").await);
    let stop = CancellationToken::new();
    let running = tokio::spawn(centre.roller.run(stop.clone()));
    support::eventually("tables know how long they keep rows", async || number(&client, ttls).await == 18)
        .await;
    stop.cancel();
    running.await.unwrap();
    run("OPTIMIZE TABLE metrics FINAL").await;
    // 20 days are gone down to 7 and what is left of a day.
    let days = number(&client, "SELECT toUInt64(dateDiff('hour', min(at), now())) FROM metrics").await;
    assert!((144..=216).contains(&days), "{days} hours are left");
    model::same("metrics_1m", &buckets, &model::sampled_found(&client, "1m").await);
    // Another time is taken over; the same one touches nothing.
    let shorter = Retention { events: Duration::from_hours(48), ..Retention::default() };
    shorter.apply(&client, |_| true).await.unwrap();
    let two_days = "SELECT count() FROM system.tables WHERE database = 'etcdmon' AND create_table_query LIKE '%toIntervalSecond(172800)%'";
    assert_eq!(number(&client, two_days).await, 5);
    let changes = "SELECT sum(toUInt64(metadata_version)) FROM system.tables WHERE database = 'etcdmon'";
    let before = number(&client, changes).await;
    shorter.apply(&client, |_| true).await.unwrap();
    assert_eq!(number(&client, changes).await, before);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_minutes_are_recomputed_although_a_table_refuses_its_time() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let mut centre = Centre::start(&client).await;
    let now = Utc::now();
    centre.settle(now).await;
    let connection = client.connect().unwrap();
    let run = async |sql: &str| connection.query_raw(sql).execute().await.unwrap();
    run("RENAME TABLE alerts TO alerts_away").await;
    run("CREATE VIEW alerts AS SELECT * FROM alerts_away").await;
    let from = (now.timestamp() / 60 - 60) * 60_000;
    let late = Agent::new(1).batch(&mut StdRng::seed_from_u64(7), from, from + 59_999);
    centre.store.write(late, false).await.unwrap();
    let options = Options { heal_every: Duration::ZERO, ..options() };
    let roller = Roller::new(client.clone(), centre.store.frontier(), options);
    let (counters, stop) = (roller.counters(), CancellationToken::new());
    let running = tokio::spawn(roller.run(stop.clone()));
    support::eventually("the table refuses", async || counters.failures.load(Ordering::Relaxed) > 0).await;
    let healed = async || counters.late_minutes.iter().all(|count| count.load(Ordering::Relaxed) == 1);
    support::eventually("late minutes are recomputed", healed).await;
    stop.cancel();
    running.await.unwrap();
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_minutes_that_are_too_many_for_a_statement_are_recomputed_in_smaller_steps() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    let mut centre = Centre::start(&client).await;
    let (mut random, mut agent) = (StdRng::seed_from_u64(7), Agent::new(1));
    for minute in 0..12 {
        let from = (NOON + minute * 60) * 1_000;
        centre.store.write(agent.batch(&mut random, from, from + 59_999), false).await.unwrap();
    }
    let now = at(NOON + 7_200);
    centre.settle(now).await;
    let connection = client.connect().unwrap();
    let run = async |sql: &str| connection.query_raw(sql).execute().await.unwrap();
    // One source takes nothing any more, another a minute at a time.
    for (source, refuses) in
        [("sync_histograms", "count() > 0"), ("metrics", "uniqExact(toStartOfMinute(at)) > 1")]
    {
        run(&format!(
            "CREATE MATERIALIZED VIEW {source}_trap ENGINE = Memory AS SELECT throwIf({refuses}) AS refused FROM {source}_10s"
        ))
        .await;
    }
    run("INSERT INTO rollup_marks SELECT source, toDateTime(1795255200 + minute * 60, 'UTC'), 1000000, 0 FROM \
         (SELECT arrayJoin(['sync_histograms', 'writes', 'metrics']) AS source, arrayJoin(range(12)) AS minute)")
    .await;
    let counters = centre.roller.counters();
    for _ in 0..8 {
        let refused = centre.roller.heal(now).await.unwrap_err();
        assert!(refused.to_string().contains("sync_histograms"), "{refused}");
    }
    let late: Vec<u64> = counters.late_minutes.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(late, [0, 12, 12]);
    run("DROP TABLE sync_histograms_trap").await;
    centre.settle(now).await;
    assert_eq!(counters.late_minutes[0].load(Ordering::Relaxed), 12);
    model::check(&client).await;
    engine.supervisor.stop().await;
}

/// Series of the next test, and inserts of ten seconds each into parts that are not merged.
const MANY: (u64, u64) = (40_000, 12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_series_in_many_parts_are_summed_within_the_memory_of_a_statement() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    migrate(&client).await.unwrap();
    let connection = client.connect().unwrap();
    connection.query_raw("SYSTEM STOP MERGES etcdmon.metrics").execute().await.unwrap();
    let (series, parts) = MANY;
    let minute = (Utc::now().timestamp() / 60 - 10) * 60;
    for part in 0..parts {
        // Values that no codec makes small.
        let sql = format!(
            "INSERT INTO metrics SELECT toUUID('00000000-0000-0000-0000-000000000001'), generateUUIDv4(), number, rand() AS row, 'c', \
             number % 100, fromUnixTimestamp64Nano(toInt64({minute} + {part} * 10 + intDiv(number, {series})) * 1000000000 + rand(1) % 1000000000, 'UTC'), \
             'puts' || toString(number % {series}), '{{}}', 'counter', rand64() FROM numbers({series} * 10) \
             SETTINGS max_insert_threads = 1, min_insert_block_size_rows = 10000000, min_insert_block_size_bytes = 1000000000"
        );
        connection.query_raw(&sql).execute().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let mut centre = Centre::start(&client).await;
    centre.settle(Utc::now()).await;
    let found = number(&client, "SELECT sum(samples) FROM metrics_1m FINAL").await;
    assert_eq!(found, series * 10 * parts);
    engine.supervisor.stop().await;
}
