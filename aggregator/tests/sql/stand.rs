//! An aggregator with an embedded engine, as its users see it, and what can be seen of it from outside.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcdmon_aggregator::engine::library::locate;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Token of the API.
pub const TOKEN: &str = "0123456789abcdef";

/// Password of the ClickHouse interface, whose user is `viewer`.
pub const PASSWORD: &str = "fedcba9876543210";

/// Rows of the table `metrics`.
pub const ROWS: u64 = 5_000;

/// A running aggregator; killed when dropped.
pub struct Stand {
    child: Child,
    directory: TempDir,
    /// Address of the API.
    pub api: String,
    /// Address of the ClickHouse interface.
    pub clickhouse: String,
    /// Process id of the engine.
    pub engine: u32,
    /// Address of the engine's own endpoint, and its owner's key.
    pub endpoint: (String, String),
    client: reqwest::Client,
}

/// What a statement came to.
pub struct Outcome {
    pub status: u16,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// What there is for people to ask, and how it is made.
const TABLES: &str = "SELECT database, name, create_table_query FROM system.tables WHERE database NOT IN ('system', \
                      'INFORMATION_SCHEMA', 'information_schema') ORDER BY ALL";

impl Stand {
    /// `None` with the reason printed when the engine's library is not on this machine.
    pub async fn start() -> Option<Self> {
        if let Err(missing) = locate(None) {
            println!("skipped: {missing}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["cwd", "canary", "scratch"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("password"), PASSWORD).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_etcd-monitor-aggregator"))
            .args([
                "--listen-api",
                "127.0.0.1:0",
                "--listen-ingest",
                "127.0.0.1:0",
                "--listen-clickhouse",
                "127.0.0.1:0",
            ])
            .arg("--listen-clickhouse-password-file")
            .arg(path("password"))
            .arg("--state-dir")
            .arg(path("state"))
            .arg("--ready-file")
            .arg(path("ready"))
            .env("ETCD_MONITOR_AGGREGATOR_TOKEN", TOKEN)
            .current_dir(path("cwd"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut stand = Self {
            child,
            directory,
            api: String::new(),
            clickhouse: String::new(),
            engine: 0,
            endpoint: (String::new(), String::new()),
            client: reqwest::Client::new(),
        };
        stand.wait_until_ready().await;
        stand.fill().await;
        Some(stand)
    }

    async fn wait_until_ready(&mut self) {
        let ready = self.directory.path().join("ready");
        let begun = Instant::now();
        let ready: Value = loop {
            if let Some(ready) =
                std::fs::read(&ready).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
            {
                break ready;
            }
            assert!(begun.elapsed() < Duration::from_secs(90), "it does not become ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let text =
            |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("{name}\n{}", self.log())).to_owned();
        (self.api, self.clickhouse) = (text("api"), text("clickhouse"));
        self.engine = u32::try_from(ready["engine_pid"].as_u64().unwrap()).unwrap();
        self.endpoint = (self.engine_url(), self.engine_key("ETCD_MONITOR_ENGINE_KEY"));
        // All steps of the schema, and the times that rows live, which are set once it is whole.
        let (mut last, mut same) = (String::new(), 0);
        while same < 3 {
            assert!(begun.elapsed() < Duration::from_secs(120), "no schema\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(400)).await;
            let now = self.owner(TABLES).await;
            same = if now == last && now.contains(" TTL ") { same + 1 } else { 0 };
            last = now;
        }
    }

    /// Rows to ask for, put there by the engine's owner and not over the way under test.
    async fn fill(&self) {
        let insert = format!(
            "INSERT INTO etcdmon.metrics (agent, epoch, sequence, row, cluster, member, at, name, labels, type, value) \
             SELECT toUUID('00000000-0000-0000-0000-00000000000a'), toUUID('00000000-0000-0000-0000-00000000000e'), 1, \
             number, toString(number % 3), number % 5, now64(9) - number, 'etcd_' || toString(number % 7), '', 'gauge', \
             number / 8 FROM numbers({ROWS})"
        );
        self.owner(&insert).await;
    }

    /// The engine's endpoint, as the aggregator logs it.
    fn engine_url(&self) -> String {
        let log = self.log();
        let line =
            log.lines().find(|line| line.contains("engine started")).unwrap_or_else(|| panic!("{log}"));
        let from = line.find("http://127.0.0.1:").unwrap();
        line[from..].chars().take_while(|letter| !letter.is_whitespace() && *letter != '"').collect()
    }

    /// A key of the engine's endpoint, as only the user that runs both can see it.
    pub fn engine_key(&self, variable: &str) -> String {
        let mut environment = Vec::new();
        let path = format!("/proc/{}/environ", self.engine);
        std::fs::File::open(path).unwrap().read_to_end(&mut environment).unwrap();
        let prefix = format!("{variable}=");
        let mut pairs = environment.split(|byte| *byte == 0);
        let found = pairs.find_map(|pair| pair.strip_prefix(prefix.as_bytes())).unwrap();
        String::from_utf8(found.to_vec()).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a statement as the engine's owner, past everything that is tested here.
    pub async fn owner(&self, sql: &str) -> String {
        let (url, key) = &self.endpoint;
        let request = self.client.post(url).header("x-clickhouse-key", key).body(sql.to_owned());
        let response = request.send().await.unwrap_or_else(|error| panic!("{sql}: {error}\n{}", self.log()));
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{sql}: {text}");
        text
    }

    /// `POST /api/v1/sql` with a body of this kind.
    pub async fn post(&self, content_type: &str, body: impl Into<reqwest::Body>) -> Outcome {
        let request = self.client.post(format!("http://{}/api/v1/sql", self.api)).bearer_auth(TOKEN);
        let begun = Instant::now();
        let response = request.header("content-type", content_type).body(body).send().await.unwrap();
        let status = response.status().as_u16();
        // A body that breaks off is an answer that has no end, which is what a limit may come to.
        let body = drain(response).await;
        Outcome { status, body, took: begun.elapsed() }
    }

    /// A statement with limits and parameters.
    pub async fn ask(&self, request: Value) -> Outcome {
        self.post("application/json", request.to_string()).await
    }

    /// A statement that must be answered, as JSON rows.
    pub async fn rows(&self, query: &str) -> Value {
        let outcome = self.ask(json!({"query": query})).await;
        assert_eq!(outcome.status, 200, "{query}: {}", outcome.text());
        outcome.json()["data"].clone()
    }

    /// Tables with their definitions and rows, as the engine's owner sees them.
    pub async fn books(&self) -> String {
        let rows = "SELECT count(), sum(value), groupBitXor(cityHash64(*)) FROM etcdmon.metrics";
        let others = "SELECT name FROM system.databases ORDER BY name";
        let functions = "SELECT name FROM system.functions WHERE origin != 'System' ORDER BY name";
        let mut all = String::new();
        for sql in [TABLES, rows, others, functions] {
            all.push_str(&self.owner(sql).await);
        }
        all
    }

    /// Every file that must stay as it is, with its size: none may come, go or change.
    pub fn files(&self) -> BTreeMap<PathBuf, u64> {
        let mut files = BTreeMap::new();
        for name in
            ["cwd", "canary", "scratch", "state/clickhouse/user_files", "state/clickhouse/user_scripts"]
        {
            walk(&self.path(name), &mut files);
        }
        files
    }

    /// Whether the engine's process is the one that was started.
    pub fn engine_lives(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.engine)).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ") && !self.log().contains("generation=2")
    }

    /// SIGTERM, and its end.
    pub fn stop(mut self) {
        // SAFETY: kill takes numbers; the child is ours and not reaped yet.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), libc::SIGTERM) };
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
        assert!(!self.log().contains("was killed"), "{}", self.log());
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// What comes of a body until it ends, well or not; a megabyte of it is kept.
pub async fn drain(mut response: reqwest::Response) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        if kept.len() < 1 << 20 {
            kept.extend_from_slice(&piece);
        }
    }
    kept
}

fn walk(path: &Path, files: &mut BTreeMap<PathBuf, u64>) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let meta = entry.metadata().unwrap();
        files.insert(entry.path(), meta.len());
        if meta.is_dir() {
            walk(&entry.path(), files);
        }
    }
}

/// An address that nobody should ask; counts who does.
pub struct Listener {
    pub address: String,
    asked: Arc<AtomicUsize>,
}

impl Listener {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        // Ends with the process: nobody else may get the address meanwhile.
        std::thread::spawn(move || {
            for _connection in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, asked }
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
