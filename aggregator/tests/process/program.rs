//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_etcd-monitor-aggregator");

/// Nobody listens there: ClickHouse is away for the whole test.
const NO_CLICKHOUSE: &str = "http://127.0.0.1:9";

/// A running aggregator; killed when dropped.
pub struct Program {
    child: Child,
    directory: TempDir,
    state: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Address of the API.
    pub api: String,
    /// Address of the ingest.
    pub ingest: String,
}

impl Program {
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[]).await
    }

    pub async fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        Self::launch(directory, state, arguments, environment).await
    }

    /// With its state in a directory of the test's own.
    pub async fn start_in(state: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch(tempfile::tempdir().unwrap(), state.to_owned(), arguments, environment).await
    }

    async fn launch(
        directory: TempDir,
        state: PathBuf,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let environment: Vec<_> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let child = spawn(&directory, &state, &arguments, &environment, "127.0.0.1:0", "127.0.0.1:0");
        let mut program = Self {
            child,
            directory,
            state,
            arguments,
            environment,
            api: String::new(),
            ingest: String::new(),
        };
        program.wait_until_ready().await;
        program
    }

    async fn wait_until_ready(&mut self) {
        let path = self.directory.path().join("ready");
        for _ in 0..1_500 {
            if let Ok(text) = std::fs::read_to_string(&path) {
                let ready: Value = serde_json::from_str(&text).unwrap();
                self.api = ready["api"].as_str().unwrap().to_owned();
                self.ingest = ready["ingest"].as_str().unwrap().to_owned();
                assert_eq!(ready["pid"], self.child.id());
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended at once: {status}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not become ready\n{}", self.log());
    }

    /// kill -9, then the same program on the same state.
    pub async fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(self.directory.path().join("ready")).unwrap();
        self.child = spawn(
            &self.directory,
            &self.state,
            &self.arguments,
            &self.environment,
            "127.0.0.1:0",
            "127.0.0.1:0",
        );
        self.wait_until_ready().await;
    }

    pub fn state_dir(&self) -> &str {
        self.state.to_str().unwrap()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Waits for words in the log.
    pub async fn log_says(&self, words: &str) {
        for _ in 0..1_000 {
            if self.log().contains(words) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{words:?} is not in the log:\n{}", self.log());
    }

    /// SIGTERM; its log once it has ended well.
    pub async fn stop(mut self) -> String {
        let terminated = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(terminated.success());
        for _ in 0..1_500 {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}\n{}", self.log());
                return self.log();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not end\n{}", self.log());
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn ask(&self, path: &str) -> (u16, Value) {
        self.ask_with(path, "accept", "*/*").await
    }

    pub async fn ask_with(&self, path: &str, header: &str, value: &str) -> (u16, Value) {
        let request = reqwest::Client::new().get(format!("http://{}{path}", self.api)).header(header, value);
        let response = request.send().await.unwrap();
        let (status, kind) = (response.status().as_u16(), response.headers()["content-type"].clone());
        let text = response.text().await.unwrap();
        if status >= 400 {
            assert_eq!(kind, "application/problem+json", "{path}: {text}");
        }
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status, body)
    }

    /// Any method, with a JSON body unless that is null.
    pub async fn send(&self, method: &str, path: &str, body: &Value, token: Option<&str>) -> (u16, Value) {
        let url = format!("http://{}{path}", self.api);
        let mut request = reqwest::Client::new().request(method.parse().unwrap(), url);
        if !body.is_null() {
            request = request.json(body);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
    }

    pub async fn text(&self, path: &str) -> String {
        reqwest::get(format!("http://{}{path}", self.api)).await.unwrap().text().await.unwrap()
    }

    /// Asks until the answer fits; at most 20 s.
    pub async fn eventually(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..400 {
            last = self.get(path).await;
            if fits(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} never fits: {last}\n{}", self.log());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn spawn(
    directory: &TempDir,
    state: &Path,
    arguments: &[String],
    environment: &[(String, String)],
    api: &str,
    ingest: &str,
) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(directory.path().join("log")).unwrap();
    let mut command = Command::new(BINARY);
    if !arguments.iter().any(|argument| argument == "--clickhouse-url") {
        command.args(["--clickhouse-url", NO_CLICKHOUSE]);
    }
    command
        .args(["--listen-api", api, "--listen-ingest", ingest, "--log-filter", "debug,h2=info,hyper=info"])
        .arg("--state-dir")
        .arg(state)
        .arg("--ready-file")
        .arg(directory.path().join("ready"))
        .args(arguments)
        .envs(environment.iter().cloned())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Runs it until it ends by itself: exit code, and everything it said.
pub fn check(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        Command::new(BINARY).args(arguments).envs(environment.iter().copied()).output().unwrap();
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (status.code(), text)
}

/// A file system that can be filled; unmounted when dropped.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` without the right to mount.
    pub fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes every byte that is left.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
