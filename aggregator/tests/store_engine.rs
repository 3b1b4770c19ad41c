//! The embedded engine's endpoint: the unmodified `clickhouse` crate works with it, and hostile requests cost nothing
//! but themselves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use support::{Engine, engine, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone, Debug, PartialEq, clickhouse::Row, Serialize, Deserialize)]
struct Sample {
    number: u64,
    text: String,
    value: f64,
    pairs: Vec<(u16, u64)>,
    #[serde(with = "clickhouse::serde::uuid")]
    id: uuid::Uuid,
}

fn client(engine: &Engine) -> clickhouse::Client {
    let (url, key) = engine.endpoint();
    clickhouse::Client::default().with_url(url).with_user("default").with_password(key)
}

async fn create(client: &clickhouse::Client) {
    let sql = "CREATE TABLE samples (number UInt64, text LowCardinality(String), value Float64, \
               pairs Map(UInt16, UInt64), id UUID) ENGINE = MergeTree ORDER BY number";
    client.query_raw(sql).execute().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clickhouse_crate_works_unmodified() {
    let Some(engine) = engine().await else { return };
    let client = client(&engine);
    create(&client).await;
    let sample = |number: u64| Sample {
        number,
        text: format!("tab\t quote' back\\ {}", number % 7),
        value: number as f64 / 3.0,
        pairs: vec![(1, number), (800, 2)],
        id: uuid::Uuid::from_u128(number.into()),
    };
    let mut begin = 0;
    for compression in [clickhouse::Compression::Lz4, clickhouse::Compression::None] {
        for validation in [true, false] {
            let client = client.clone().with_compression(compression).with_validation(validation);
            let mut insert = client.insert::<Sample>("samples").await.unwrap();
            for number in begin..begin + 20_000 {
                insert.write(&sample(number)).await.unwrap();
            }
            insert.end().await.unwrap();
            begin += 20_000;
            let rows: Vec<Sample> = client
                .query("SELECT ?fields FROM samples WHERE number >= ? ORDER BY number LIMIT 5")
                .bind(begin - 3)
                .fetch_all()
                .await
                .unwrap();
            assert_eq!(rows, (begin - 3..begin).map(sample).collect::<Vec<_>>());
        }
    }
    let rows: Vec<Sample> =
        client.query("SELECT ?fields FROM samples ORDER BY number").fetch_all().await.unwrap();
    assert_eq!(rows.len(), 80_000);
    // Values of parameters stay values.
    let nasty = "a'; DROP TABLE samples; --\t\n\\";
    let echoed: String =
        client.query_raw("SELECT {value:String}").param("value", nasty).fetch_one().await.unwrap();
    assert_eq!(echoed, nasty);
    let threads = "SELECT toString(getSetting('max_threads'))";
    let set: String = client.query_raw(threads).with_setting("max_threads", "3").fetch_one().await.unwrap();
    assert_eq!(set, "3");
    for _ in 0..20 {
        let after: String = client.query_raw(threads).fetch_one().await.unwrap();
        assert_ne!(after, "3", "a setting outlived its statement");
    }
    let refused = client.query_raw("SELECT nonsense FROM nowhere").execute().await.unwrap_err().to_string();
    assert!(refused.contains("Code: 60. DB::Exception"), "{refused}");
    let running: String = client
        .query_raw("SELECT query FROM system.processes WHERE query LIKE '%query_id:my-id%'")
        .with_setting("query_id", "my-id")
        .fetch_one()
        .await
        .unwrap();
    assert!(running.starts_with("/* query_id:my-id */ SELECT"), "{running}");
    engine.supervisor.stop().await;
}

/// Sends bytes, gives what comes back until the other side closes or two seconds of silence.
async fn raw(engine: &Engine, bytes: &[u8]) -> String {
    let (url, _) = engine.endpoint();
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    // The endpoint may close while we still send.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_cost_only_themselves() {
    let Some(engine) = engine().await else { return };
    let client = client(&engine);
    create(&client).await;
    let (_, key) = engine.endpoint();
    let post = |target: &str, headers: &str, body: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let good = format!("x-clickhouse-key: {key}\r\n");
    let wrong = format!("x-clickhouse-key: {}x\r\n", &key[1..]);
    let bearer = format!("authorization: Bearer {key}\r\n");
    let huge_header = format!("{good}x-huge: {}\r\n", "h".repeat(2 << 20));
    let many_headers: String = (0..500).map(|number| format!("x-{number}: y\r\n")).collect();
    let huge_body = "SELECT 1 -- ".to_owned() + &"x".repeat(6 << 20);
    let cases = [
        (post("/", "", "SELECT 1"), "403"),
        (post("/", &wrong, "SELECT 1"), "403"),
        (post("/", &bearer, "SELECT 1"), "200"),
        (post("/", &good, "SELECT 1"), "200"),
        (post("/elsewhere", &good, "SELECT 1"), "404"),
        (post("/?a%20b=1", &good, "SELECT 1"), "400"),
        (
            post("/", &format!("{good}content-type: multipart/form-data; boundary=B\r\n"), "--B\r\nrubbish"),
            "400",
        ),
        (post("/", &huge_header, "SELECT 1"), "431"),
        (post("/", &format!("{good}{many_headers}"), "SELECT 1"), "431"),
        (post("/", &good, &huge_body), "413"),
        (post("/?query=INSERT+INTO+samples+FORMAT+Native&decompress=1", &good, &"z".repeat(100)), "400"),
        (post("/?query=INSERT+INTO+samples+FORMAT+Native", &good, &"z".repeat(1_000)), "500"),
        ("\x16\x03\x01 TLS, or something\r\n\r\n".to_owned(), "400"),
    ];
    for (request, expected) in cases {
        let answer = raw(&engine, request.as_bytes()).await;
        let shown: String = request.chars().take(120).collect();
        assert_eq!(status(&answer), expected, "{shown}\n{answer}");
    }
    // What is refused before its body was read must not be followed by another request on the same connection.
    let refused = format!("POST / HTTP/1.1\r\nhost: x\r\n{wrong}content-length: 100\r\n\r\n");
    let answer = raw(&engine, refused.as_bytes()).await;
    assert!(status(&answer) == "403" && answer.contains("connection: close\r\n"), "{answer}");
    // A body that ends early, one way and the other.
    let target = "/?query=INSERT+INTO+samples(number)+FORMAT+TSV";
    let chunked =
        format!("POST {target} HTTP/1.1\r\nhost: x\r\n{good}transfer-encoding: chunked\r\n\r\n2\r\n1\n\r\n");
    let short = format!("POST {target} HTTP/1.1\r\nhost: x\r\n{good}content-length: 100\r\n\r\n1\n2\n");
    for request in [chunked, short] {
        let (url, _) = engine.endpoint();
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        eventually("the insert begins", async || inserts_running(&client).await == 1).await;
        drop(stream);
        eventually("the insert is cancelled", async || inserts_running(&client).await == 0).await;
    }
    let rows: u64 = client.query_raw("SELECT count() FROM samples").fetch_one().await.unwrap();
    assert_eq!(rows, 0, "a body that was cut off left rows");
    assert_eq!(engine.supervisor.facts().borrow().restarts, 0);
    engine.supervisor.stop().await;
}

async fn inserts_running(client: &clickhouse::Client) -> u64 {
    let sql = "SELECT count() FROM system.processes WHERE query LIKE '%INTO samples%' AND query NOT LIKE '%processes%'";
    client.query_raw(sql).fetch_one().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_is_given_up_ends_at_once_or_never_begins() {
    let Some(engine) = engine().await else { return };
    let client = client(&engine);
    create(&client).await;
    let (url, key) = engine.endpoint();
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let insert = format!(
        "POST /?query_id=lost&query=INSERT+INTO+samples(number)+FORMAT+TSV HTTP/1.1\r\nhost: x\r\n\
         x-clickhouse-key: {key}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n1\n\r\n"
    );
    stream.write_all(insert.as_bytes()).await.unwrap();
    eventually("the insert begins", async || inserts_running(&client).await == 1).await;
    let began = Instant::now();
    let abandoning = client.clone().with_header("x-etcdmon-abandon", "lost");
    abandoning
        .query_raw("KILL QUERY WHERE startsWith(query, {tag:String}) SYNC")
        .param("tag", "/* query_id:lost */")
        .execute()
        .await
        .unwrap();
    eventually("the insert is over", async || inserts_running(&client).await == 0).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // The rest of it arrives late, and all of it once more.
    let _ = stream.write_all(b"0\r\n\r\n").await;
    let again = client
        .insert_formatted_with("INSERT INTO samples(number) FORMAT TSV")
        .with_setting("query_id", "lost");
    let mut again = again;
    let sent = async {
        again.send(bytes::Bytes::from_static(b"5\n")).await?;
        again.end().await
    };
    assert!(sent.await.is_err());
    let rows: u64 = client.query_raw("SELECT count() FROM samples").fetch_one().await.unwrap();
    assert_eq!(rows, 0);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_library_is_said_and_harms_nothing() {
    use etcdmon_aggregator::engine::{Options, Supervisor};
    let directory = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start(Options {
        library: Some(directory.path().join("libchdb.so")),
        ..Options::new(support::program(), directory.path().join("clickhouse"))
    })
    .unwrap();
    let mut facts = supervisor.facts();
    let facts = facts.wait_for(|facts| facts.last_error.is_some()).await.unwrap().clone();
    assert!(!facts.running);
    let said = facts.last_error.unwrap();
    assert!(said.contains("libchdb.so") && said.contains("cargo xtask setup"), "{said}");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_use_is_said_and_tried_again() {
    use etcdmon_aggregator::engine::{Options, Supervisor};
    let Some(engine) = engine().await else { return };
    let second =
        Supervisor::start(Options::new(support::program(), engine.path().join("clickhouse"))).unwrap();
    let mut facts = second.facts();
    let said = facts.wait_for(|facts| facts.last_error.is_some()).await.unwrap().last_error.clone().unwrap();
    assert!(said.contains("lock"), "{said}");
    engine.supervisor.stop().await;
    let mut endpoint = second.endpoint();
    tokio::time::timeout(Duration::from_secs(60), endpoint.wait_for(Option::is_some)).await.unwrap().unwrap();
    second.stop().await;
}
