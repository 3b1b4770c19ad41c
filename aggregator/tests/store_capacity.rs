//! What forecasts are made from, out of a real engine.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;

use chrono::{DateTime, Utc};
use etcdmon_aggregator::capacity::Sample;
use etcdmon_aggregator::query::{Fill, Query};
use etcdmon_aggregator::store::migrate::migrate;
use support::{MEMBERS, NOON, cluster, engine};

fn sample(at: i64, value: f64) -> Sample {
    Sample { at: at as f64, value }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bins_have_the_extreme_on_the_side_of_the_limit() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    migrate(&client).await.unwrap();
    let connection = client.connect().unwrap();
    let run = async |sql: String| connection.query_raw(&sql).execute().await.unwrap();
    let metric = async |member: u64, name: &str, labels: &str, at: i64, value: f64| {
        run(format!(
            "INSERT INTO metrics (cluster, member, at, name, labels, type, value) VALUES \
             ('{}', {member}, fromUnixTimestamp64Nano({at}000000000, 'UTC'), '{name}', '{labels}', 'gauge', {value})",
            cluster()
        ))
        .await;
    };
    let (total, used) = ("etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes");
    for (at, value) in [(NOON, 100.0), (NOON + 10, 300.0), (NOON + 20, 200.0), (NOON + 300, 250.0)] {
        metric(MEMBERS[0], total, "{}", at, value).await;
        metric(MEMBERS[0], used, "{}", at, value - 1.0).await;
        let data = r#"{"directory":"data"}"#;
        metric(MEMBERS[0], "etcdmon_disk_available_bytes", data, at, 1_000.0 - value).await;
        metric(MEMBERS[0], "etcdmon_disk_available_bytes", r#"{"directory":"wal"}"#, at, 1.0).await;
    }
    metric(MEMBERS[0], "etcd_server_quota_backend_bytes", "{}", NOON, 5_000.0).await;
    metric(MEMBERS[0], "etcd_server_quota_backend_bytes", "{}", NOON + 300, 6_000.0).await;
    metric(MEMBERS[0], total, "{}", NOON - 40 * 86_400, 9e9).await;
    // Raw samples of five days ago may be gone; their minutes are there, one of them twice.
    let earlier = NOON - 5 * 86_400;
    for (at, most, version) in [(earlier, 40.0, 1), (earlier, 50.0, 2), (earlier + 240, 45.0, 1)] {
        run(format!(
            "INSERT INTO metrics_1m (cluster, name, member, labels, at, min, max, version) VALUES \
             ('{}', '{total}', {}, '{{}}', {at}, 1, {most}, {version})",
            cluster(),
            MEMBERS[0]
        ))
        .await;
    }
    metric(MEMBERS[1], total, "{}", NOON, 7.0).await;
    metric(MEMBERS[1], "etcd_server_quota_backend_bytes", "{}", NOON, 0.0).await;

    let query = Query::new(client);
    let now = DateTime::<Utc>::from_timestamp(NOON + 600, 0).unwrap();
    let found = query.fill(cluster(), now).await.unwrap();
    let expected = Fill {
        total: vec![sample(earlier, 50.0), sample(NOON, 300.0), sample(NOON + 300, 250.0)],
        in_use: vec![sample(NOON, 299.0), sample(NOON + 300, 249.0)],
        available: vec![sample(NOON, 700.0), sample(NOON + 300, 750.0)],
        quota: Some(6_000.0),
    };
    assert_eq!(found.get(&MEMBERS[0]), Some(&expected));
    let other = Fill { total: vec![sample(NOON, 7.0)], ..Fill::default() };
    assert_eq!(found.get(&MEMBERS[1]), Some(&other), "a quota of zero is none that is known");
    assert_eq!(found.len(), 2);

    assert_eq!(query.prefix_sizes(cluster()).await.unwrap(), []);
    for (prefix, days_ago, keys, bytes) in [("/a/", 3, 5, 100), ("/a/", 1, 7, 300), ("/b/", 1, 1, 900)] {
        run(format!(
            "INSERT INTO prefix_sizes (cluster, prefix, at, keys, live_bytes, total_bytes) SELECT '{}', '{prefix}', \
             toStartOfHour(now()) - INTERVAL {days_ago} DAY, {keys}, {bytes} / 2, {bytes}",
            cluster()
        ))
        .await;
    }
    let sizes = query.prefix_sizes(cluster()).await.unwrap();
    let told: Vec<_> = sizes
        .iter()
        .map(|size| (size.prefix.as_str(), size.keys, size.live_bytes, size.total_bytes, size.bytes_per_day))
        .collect();
    assert_eq!(told, [("/b/", 1, 450, 900, None), ("/a/", 7, 150, 300, Some(100.0))]);
}
