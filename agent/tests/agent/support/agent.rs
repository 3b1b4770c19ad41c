//! The real agent, as a process.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wait_for;

#[derive(Debug)]
pub struct Agent {
    pub child: Child,
    pub admin: SocketAddr,
    pub log: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    /// Scoped to etcds below `directory`, its state there as well.
    pub fn start(directory: &Path, aggregator: SocketAddr, more: &[&str]) -> Self {
        Self::start_for(directory, &format!("http://{aggregator}"), more)
    }

    /// The same for an aggregator with a URL of its own.
    pub fn start_for(directory: &Path, aggregator_url: &str, more: &[&str]) -> Self {
        Self::start_by(&[], directory, aggregator_url, more)
    }

    /// Started by a program that executes what its last arguments say.
    pub fn start_under(wrapper: &[&str], directory: &Path, aggregator: SocketAddr, more: &[&str]) -> Self {
        Self::start_by(wrapper, directory, &format!("http://{aggregator}"), more)
    }

    fn start_by(wrapper: &[&str], directory: &Path, aggregator_url: &str, more: &[&str]) -> Self {
        let ready = directory.join("agent.ready");
        let _ = std::fs::remove_file(&ready);
        let log = directory.join("agent.log");
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let mut words = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_etcd-monitor-agent")]);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .arg("--state-dir")
            .arg(directory.join("agent"))
            .arg("--discovery-only-data-dir")
            .arg(directory)
            .arg("--ready-file")
            .arg(&ready)
            .args(["--listen-admin", "127.0.0.1:0", "--log-filter", "info,etcdmon_agent=debug"])
            .arg(format!("--aggregator-url={aggregator_url}"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        let text = wait_for("agent is ready", Duration::from_secs(20), || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("agent ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            std::fs::read_to_string(&ready).ok()
        });
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["pid"], child.id());
        let admin = value["admin"].as_str().unwrap().parse().unwrap();
        Self { child, admin, log }
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        wait_for("agent ends", Duration::from_secs(20), || self.child.try_wait().unwrap())
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a process of ours that has not been waited for.
        let outcome = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(outcome, 0);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// A page of the admin address.
    pub fn page(&self, path: &str) -> String {
        super::etcd::http_get(self.admin.port(), path).unwrap()
    }

    /// One of its own metrics.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.page("/metrics");
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no {name} in {page}"))
    }
}
