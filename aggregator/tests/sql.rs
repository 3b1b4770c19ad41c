//! SQL of users, through the real interfaces of a real aggregator with its engine: what is answered, what is refused, and
//! that nothing of it harms anything, judged from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod sql {
    pub mod clients;
    pub mod corpus;
    pub mod stand;
}

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use sql::corpus::{Case, Places, cases, mutations};
use sql::stand::{Listener, Outcome, PASSWORD, ROWS, Stand, TOKEN, drain};

/// Every statement, and more of their mutations.
fn full() -> bool {
    std::env::var_os("ETCD_MONITOR_FULL").is_some()
}

/// What must be the same after any statement.
struct Oracle {
    stand: Stand,
    listener: Listener,
    canary: String,
    files: std::collections::BTreeMap<std::path::PathBuf, u64>,
    books: String,
}

impl Oracle {
    async fn new(stand: Stand) -> (Self, Vec<Case>) {
        let listener = Listener::start();
        let secret = format!("canary-{}", uuid::Uuid::new_v4());
        let file = stand.path("canary").join("secret.txt");
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        let places = Places {
            canary: file.display().to_string(),
            scratch: stand.path("scratch").display().to_string(),
            listener: listener.address.clone(),
        };
        let (files, books) = (stand.files(), stand.books().await);
        (Self { stand, listener, canary: secret, files, books }, cases(&places))
    }

    /// Sends a statement with a second of time, and looks at what came of it.
    async fn send(&self, name: &str, statement: &[u8], refused: Option<bool>) -> Outcome {
        let shown = || String::from_utf8_lossy(&statement[..statement.len().min(300)]).into_owned();
        let outcome = match std::str::from_utf8(statement) {
            Ok(text) => self.stand.ask(json!({"query": text, "limits": {"seconds": 1}})).await,
            Err(_) => self.stand.post("text/plain", statement.to_vec()).await,
        };
        let (status, text) = (outcome.status, outcome.text());
        assert!(!text.contains(&self.canary), "{name}: the canary's file was read: {}", shown());
        let fits = match refused {
            Some(true) => matches!(status, 400 | 403 | 413),
            _ => matches!(status, 200 | 400 | 403 | 413 | 422),
        };
        assert!(fits, "{name}: {status} for {}\n{}", shown(), &text[..text.len().min(600)]);
        if refused == Some(false) {
            assert_ne!(status, 403, "{name}: this may be asked: {}\n{text}", shown());
        }
        // A second, patience, and a loaded machine.
        assert!(outcome.took < Duration::from_secs(15), "{name}: {:?} for {}", outcome.took, shown());
        outcome
    }

    /// An ordinary question is answered at once, and nothing has changed.
    async fn look(&self, name: &str) {
        let begun = Instant::now();
        let answered = self.stand.ask(json!({"query": "SELECT count() AS n FROM metrics"})).await;
        assert_eq!(answered.status, 200, "after {name}: {}\n{}", answered.text(), self.stand.log());
        assert!(begun.elapsed() < Duration::from_secs(10), "after {name}: {:?}", begun.elapsed());
        assert!(self.stand.engine_lives(), "after {name}:\n{}", self.stand.log());
        assert_eq!(self.stand.files(), self.files, "after {name}");
        assert_eq!(self.listener.asked(), 0, "after {name}: somebody was asked");
    }

    async fn end(self) {
        self.look("all").await;
        assert_eq!(self.stand.books().await, self.books, "tables or rows changed");
        self.stand.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_statements_are_refused_or_bounded_and_harm_nothing() {
    let Some(stand) = Stand::start().await else { return };
    let (oracle, cases) = Oracle::new(stand).await;
    // Those that are refused cost milliseconds; those that run may take all their time.
    let chosen: Vec<&Case> = cases
        .iter()
        .enumerate()
        .filter(|(number, case)| full() || case.refused || number % 8 == 0)
        .map(|(_, case)| case)
        .collect();
    let begun = Instant::now();
    let sent = futures::stream::iter(chosen.iter().enumerate()).map(|(number, case)| {
        let oracle = &oracle;
        async move {
            oracle.send(&case.name, &case.statement, Some(case.refused)).await;
            if !case.refused || number % 20 == 0 {
                oracle.look(&case.name).await;
            }
        }
    });
    // As many at once as have turns.
    sent.buffer_unordered(2).collect::<Vec<()>>().await;
    let refused = chosen.iter().filter(|case| case.refused).count();
    println!("{refused} refused, {} bounded, in {:?}", chosen.len() - refused, begun.elapsed());
    oracle.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutations_of_hostile_statements_harm_nothing() {
    let Some(stand) = Stand::start().await else { return };
    let (oracle, cases) = Oracle::new(stand).await;
    let seed = std::env::var("ETCD_MONITOR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u32>);
    println!("seed {seed}");
    let count = if full() { 2_000 } else { 100 };
    let refused: Vec<Case> = cases.iter().filter(|case| case.refused).cloned().collect();
    let mutated = mutations(&refused, seed.into(), count);
    let sent = futures::stream::iter(mutated.iter().enumerate()).map(|(number, statement)| {
        let oracle = &oracle;
        async move {
            oracle.send(&format!("seed {seed}, mutation {number}"), statement, None).await;
            if number % 50 == 0 {
                oracle.look(&format!("seed {seed}, mutation {number}")).await;
            }
        }
    });
    sent.buffer_unordered(2).collect::<Vec<()>>().await;
    oracle.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_answered_in_every_format_and_errors_say_what_to_do() {
    let Some(stand) = Stand::start().await else { return };
    let rows = stand.rows("SELECT count() AS n, uniqExact(name) AS names FROM metrics").await;
    assert_eq!((&rows[0]["n"], &rows[0]["names"]), (&json!(ROWS), &json!(7)));
    for (format, kind, begin) in [
        ("json", "application/json", &b"{"[..]),
        ("csv", "text/csv", b"\"n\"\n1"),
        ("tsv", "text/tab-separated-values", b"n\n1"),
        ("JSONEachRow", "application/x-ndjson", b"{\"n\":1}"),
        ("parquet", "application/vnd.apache.parquet", b"PAR1"),
        ("arrow", "application/vnd.apache.arrow.stream", b"\xff\xff\xff\xff"),
        ("Arrow", "application/vnd.apache.arrow.file", b"ARROW1"),
    ] {
        let answer = stand.ask(json!({"query": "SELECT 1 AS n", "format": format})).await;
        assert_eq!(answer.status, 200, "{format}: {}", answer.text());
        assert!(answer.body.starts_with(begin), "{format}: {}", answer.text());
        let response = raw(&stand, "?format=", format).await;
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with(kind), "{format}");
    }
    let parameters = json!({"name": "etcd_1", "members": [1, 2]});
    let query =
        "SELECT count() AS n FROM metrics WHERE name = {name:String} AND member IN {members:Array(UInt64)}";
    let answer = stand.ask(json!({"query": query, "parameters": parameters})).await;
    let expected =
        stand.owner("SELECT count() FROM etcdmon.metrics WHERE name = 'etcd_1' AND member IN (1, 2)").await;
    assert_eq!(
        answer.json()["data"][0]["n"],
        json!(expected.trim().parse::<u64>().unwrap()),
        "{}",
        answer.text()
    );
    for (request, status, words) in [
        (
            json!({"query": "SELECT 1 +\n FROM FROM"}),
            400,
            "failed at position 22 (end of query) (line 2, col 11)",
        ),
        (json!({"query": "SELECT ("}), 400, "failed at position 8"),
        (json!({"query": "SELECT nope FROM metrics"}), 400, "nope"),
        (json!({"query": "SELECT {x:UInt8}"}), 400, "`x` is not set"),
        (json!({"query": "SELECT hostName()"}), 403, "the function \"hostName\" is not allowed here"),
        (json!({"query": "SELECT * FROM system.processes"}), 403, "system.processes"),
        (json!({"query": "DROP TABLE metrics"}), 403, "only SELECT"),
        (json!({"query": "SELECT * FROM metrics", "limits": {"rows": 10}}), 422, "add LIMIT"),
        (
            json!({"query": "SELECT * FROM metrics", "limits": {"rows_read": 10}}),
            422,
            "name the cluster first",
        ),
        (
            json!({"query": "SELECT count() FROM numbers(1900000000) a, numbers(10) b", "limits": {"seconds": 1}}),
            422,
            "narrower",
        ),
        (json!({"query": "SELECT 1", "limits": {"rows": 0}}), 400, "above zero"),
        (json!({"query": "SELECT 1", "format": "Template"}), 400, "not one of"),
        (json!({"query": "SELECT 1", "parameters": {"x": {}}}), 403, "a parameter is"),
    ] {
        let answer = stand.ask(request.clone()).await;
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{request}: {detail}");
        assert!(detail.contains(words), "{request}: {detail}");
    }
    let anonymous = reqwest::Client::new().post(format!("http://{}/api/v1/sql", stand.api)).body("SELECT 1");
    assert_eq!(anonymous.send().await.unwrap().status(), 401, "without the token");
    let foreign = reqwest::Client::new().post(format!("http://{}/api/v1/sql", stand.api)).bearer_auth(TOKEN);
    let foreign = foreign.header("origin", "http://evil.example").body("SELECT 1");
    assert_eq!(foreign.send().await.unwrap().status(), 403, "from another origin");
    stand.stop();
}

async fn raw(stand: &Stand, key: &str, value: &str) -> reqwest::Response {
    let url = format!("http://{}/api/v1/sql{key}{value}", stand.api);
    reqwest::Client::new().post(url).bearer_auth(TOKEN).body("SELECT 1 AS n").send().await.unwrap()
}

/// A long answer comes while it is made, one that is too long breaks off, and one that nobody reads is ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_stream_break_off_at_their_limit_and_end_with_their_reader() {
    let Some(stand) = Stand::start().await else { return };
    let url = format!("http://{}/api/v1/sql", stand.api);
    let post = |query: String| {
        reqwest::Client::new().post(&url).bearer_auth(TOKEN).json(&json!({"query": query})).send()
    };
    let response =
        post("SELECT number, toString(number) AS text FROM numbers(900000) FORMAT JSONEachRow".into());
    let text = response.await.unwrap().text().await.unwrap();
    assert_eq!(text.lines().count(), 900_000);
    assert!(text.ends_with("{\"number\":899999,\"text\":\"899999\"}\n"), "{}", &text[text.len() - 100..]);
    // A name of two thousand letters a row: gigabytes that no limit of the engine counts.
    let name = "x".repeat(2_000);
    let response =
        post(format!("SELECT 1 AS `{name}` FROM numbers(1000000) FORMAT JSONEachRow")).await.unwrap();
    let before = resident(stand.engine);
    let mut got = 0;
    let mut response = response;
    let ended = loop {
        match response.chunk().await {
            Ok(Some(piece)) => got += piece.len(),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert!(!ended && got <= 260 << 20, "{got} bytes, whole: {ended}");
    let grown = resident(stand.engine).saturating_sub(before);
    assert!(grown < 400 << 20, "the engine grew by {grown} bytes");
    // Both turns, and nobody reads: gone with the connections.
    let slow = "SELECT count() FROM numbers(1900000000) a, numbers(100) b";
    let waiting = [post(slow.into()), post(slow.into())]
        .map(|sent| tokio::spawn(tokio::time::timeout(Duration::from_millis(500), sent)));
    for gone in waiting {
        assert!(gone.await.unwrap().is_err());
    }
    let begun = Instant::now();
    assert_eq!(stand.rows("SELECT 1 AS n").await[0]["n"], json!(1));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "their turns were still taken after {:?}",
        begun.elapsed()
    );
    let running = "SELECT count() FROM system.processes WHERE query LIKE '%numbers(190%' AND query NOT LIKE '%processes%'";
    assert_eq!(stand.owner(running).await.trim(), "0");
    assert!(stand.engine_lives());
    stand.stop();
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// Two statements that take all they may: inserts and the API go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_do_not_wait_for_statements_of_users() {
    let Some(stand) = Stand::start().await else { return };
    let slow =
        json!({"query": "SELECT sum(sipHash64(number)) FROM numbers(1900000000)", "limits": {"seconds": 6}});
    let insert = "INSERT INTO etcdmon.events (at, kind) SELECT now64(9), 'x' FROM numbers(1000)";
    let alone = median(&stand, insert).await;
    let busy = async { futures::join!(stand.ask(slow.clone()), stand.ask(slow.clone())) };
    let measured = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let beside = median(&stand, insert).await;
        // A third statement is told to come back rather than made to wait for long.
        let begun = Instant::now();
        let third = stand.ask(json!({"query": "SELECT 1"})).await;
        (beside, third, begun.elapsed())
    };
    let ((first, second), (beside, third, waited)) = futures::join!(busy, measured);
    assert_eq!((first.status, second.status), (422, 422), "{}{}", first.text(), second.text());
    println!("an insert takes {alone:?} alone, {beside:?} beside two statements");
    assert!(beside < Duration::from_secs(1), "{beside:?}");
    assert!(
        third.status == 200 || (third.status == 503 && waited < Duration::from_secs(8)),
        "{}",
        third.text()
    );
    let metrics = reqwest::Client::new().get(format!("http://{}/metrics", stand.api)).bearer_auth(TOKEN);
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("sql_statements_total{outcome=\"limited\"} 2"), "{metrics}");
    stand.stop();
}

async fn median(stand: &Stand, sql: &str) -> Duration {
    let mut took = Vec::new();
    for _ in 0..9 {
        let begun = Instant::now();
        stand.owner(sql).await;
        took.push(begun.elapsed());
    }
    took.sort();
    took[4]
}

/// A server's user that may do more than read is not used. The engine's reader stands in for a server: its statements are
/// fenced, but its grants are those of everybody there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_user_that_may_more_than_read_is_refused_with_the_reason() {
    use etcdmon_aggregator::sql::{Format, Limits, Server, Source, Sql, SqlError, Statement};
    let Some(stand) = Stand::start().await else { return };
    etcdmon_service::process::install_tls_provider();
    let (url, key) = (stand.endpoint.0.clone(), stand.engine_key("ETCD_MONITOR_ENGINE_READER_KEY"));
    let server =
        Server { url, user: "default".to_owned(), password: etcdmon_service::secret::Secret::new(key) };
    let sql = Sql::new(Source::server(Some(server)).unwrap(), "etcdmon");
    let statement = Statement {
        text: "SELECT 1".to_owned(),
        format: Format::by_name("JSON").unwrap(),
        parameters: Vec::new(),
        limits: Limits::default(),
    };
    let refused = sql.ask(statement.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, SqlError::Off(text) if text.contains("more rights than reading")),
        "{refused}"
    );
    let nobody = Sql::new(Source::server(None).unwrap(), "etcdmon");
    let off = nobody.ask(statement).await.unwrap_err().to_string();
    assert!(off.contains("clickhouse.sql-user"), "{off}");
    stand.stop();
}

/// The examples of the handbook are what a reader will try first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_handbook_are_answered() {
    let Some(stand) = Stand::start().await else { return };
    let handbook = include_str!("../../docs/sql.md");
    let examples: Vec<&str> =
        handbook.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 5, "{}", examples.len());
    for example in examples {
        let answer = stand.ask(json!({"query": example})).await;
        assert_eq!(answer.status, 200, "{example}: {}", answer.text());
    }
    stand.stop();
}

/// The ClickHouse interface as `curl` sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clickhouse_interface_answers_and_is_fenced_like_the_rest() {
    let Some(stand) = Stand::start().await else { return };
    let client = reqwest::Client::new();
    let url = format!("http://{}", stand.clickhouse);
    assert_eq!(client.get(format!("{url}/ping")).send().await.unwrap().text().await.unwrap(), "Ok.\n");
    let ask = async |query: &str, extra: &str| {
        let request = client.post(format!("{url}/?{extra}")).basic_auth("viewer", Some(PASSWORD));
        let response = request.body(query.to_owned()).send().await.unwrap();
        let code = response
            .headers()
            .get("x-clickhouse-exception-code")
            .map(|code| code.to_str().unwrap().to_owned());
        (response.status().as_u16(), code, String::from_utf8_lossy(&drain(response).await).into_owned())
    };
    assert_eq!(ask("SELECT 1", "").await, (200, None, "1\n".to_owned()));
    assert_eq!(
        ask("FORMAT CSV", "query=SELECT+1,+%27a%27").await.2,
        "1,\"a\"\n",
        "query and body are one text"
    );
    assert_eq!(
        ask("SELECT {x:UInt8} + 1 AS n", "param_x=5&default_format=JSONEachRow").await.2,
        "{\"n\":6}\n"
    );
    assert!(ask("SHOW TABLES", "database=etcdmon").await.2.contains("metrics\n"));
    assert!(ask("DESCRIBE TABLE metrics", "").await.2.starts_with("agent\tUUID\t"));
    assert_eq!(ask("SHOW DATABASES", "database=default").await.2, "etcdmon\n");
    let settings =
        ask("SELECT name, value, readonly FROM system.settings WHERE name = 'max_threads'", "").await;
    assert_eq!(settings.2, "max_threads\t1\t1\n");
    for (query, extra, status, code) in [
        ("SELECT file('x')", "", 403, "497"),
        ("SELECT * FROM system.processes", "", 403, "497"),
        ("SELECT 1", "max_threads=8", 400, "164"),
        ("SELECT 1", "readonly=0&max_execution_time=5&network_compression_method=lz4", 200, ""),
        ("SELECT 1", "database=other", 400, "81"),
        ("SELECT nope", "", 400, "47"),
        ("SELECT number FROM numbers(100)", "max_result_rows=10", 500, "396"),
        ("INSERT INTO metrics VALUES", "", 403, "497"),
    ] {
        let (found, exception, text) = ask(query, extra).await;
        assert_eq!(
            (found, exception.as_deref().unwrap_or_default()),
            (status, code),
            "{query} {extra}: {text}"
        );
        assert!(status == 200 || text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{text}");
    }
    for request in [
        client.post(&url),
        client.post(&url).basic_auth("viewer", Some("wrong")),
        client.post(&url).header("x-clickhouse-user", "viewer"),
        client.post(format!("{url}/?user=default&password=")),
        client.post(&url).bearer_auth(TOKEN),
    ] {
        let response = request.body("SELECT 1").send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["x-clickhouse-exception-code"], "516");
    }
    // As the Go driver reads the Native format: a block's info, its counts, and behind the type that nothing is special.
    let native = client.post(format!("{url}/?default_format=Native&client_protocol_version=54460"));
    let native = native.basic_auth("viewer", Some(PASSWORD)).body("SELECT 1 AS n").send().await.unwrap();
    let expected = b"\x01\x00\x02\xff\xff\xff\xff\x00\x01\x01\x01n\x05UInt8\x00\x01";
    assert_eq!(native.bytes().await.unwrap(), &expected[..]);
    // Packed in ClickHouse's frames: the first byte behind the checksum names LZ4.
    let packed = client.post(format!("{url}/?compress=1")).basic_auth("viewer", Some(PASSWORD));
    let packed = packed.body("SELECT repeat('x', 1000)").send().await.unwrap().bytes().await.unwrap();
    assert!(packed[16] == 0x82 && packed.len() < 200, "{packed:?}");
    let gzip = client.post(&url).basic_auth("viewer", Some(PASSWORD)).header("accept-encoding", "gzip");
    let gzip = gzip.body("SELECT repeat('x', 1000)").send().await.unwrap();
    assert_eq!(gzip.headers()["content-encoding"], "gzip");
    assert!(gzip.bytes().await.unwrap().starts_with(b"\x1f\x8b"));
    stand.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_and_clickhouse_connect_work_as_they_are() {
    let Some(stand) = Stand::start().await else { return };
    let url = format!("http://{}/", stand.clickhouse);
    let user = format!("viewer:{PASSWORD}");
    let curl = std::process::Command::new("curl")
        .args([
            "-sS",
            "--fail",
            "--max-time",
            "20",
            "--compressed",
            "-u",
            &user,
            &url,
            "-d",
            "SELECT count() FROM metrics",
        ])
        .output();
    match curl {
        Err(error) => println!("skipped: curl: {error}"),
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{ROWS}\n"), "{output:?}"),
    }
    match sql::clients::python() {
        Err(reason) => println!("skipped: {reason}"),
        Ok(python) => {
            let output = std::process::Command::new(python)
                .args(["-c", include_str!("sql/connect.py"), &stand.clickhouse, PASSWORD, &ROWS.to_string()])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(seen["rows"], json!(ROWS), "{seen}");
        }
    }
    stand.stop();
}
