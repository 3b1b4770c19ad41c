//! A receiver of webhooks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A notice as it arrived.
#[derive(Clone)]
pub struct Notice {
    pub at: Instant,
    pub key: String,
    pub body: Value,
}

impl Notice {
    pub fn alerts(&self, name: &str) -> Vec<&Value> {
        let alerts = self.body["alerts"].as_array().unwrap();
        alerts.iter().filter(|alert| alert["labels"]["alertname"] == name).collect()
    }

    fn says(&self, name: &str, status: &str) -> bool {
        self.alerts(name).iter().any(|alert| alert["status"] == status)
    }
}

type Notices = Arc<Mutex<Vec<Notice>>>;

/// A server on loopback that takes everything.
pub struct Receiver {
    url: String,
    notices: Notices,
    server: JoinHandle<()>,
}

/// An address that nobody listens on yet.
pub struct Reserved(std::net::SocketAddr);

async fn take(State(notices): State<Notices>, headers: HeaderMap, body: String) {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let body = serde_json::from_str(&body).unwrap();
    notices.lock().unwrap().push(Notice { at: Instant::now(), key, body });
}

impl Receiver {
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub async fn reserve() -> Reserved {
        Reserved(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let notices = Notices::default();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).with_state(notices.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, notices, server }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub async fn wait_for(&self, name: &str, status: &str, patience: Duration) -> Notice {
        let begun = Instant::now();
        loop {
            if let Some(notice) = self.all().into_iter().find(|notice| notice.says(name, status)) {
                return notice;
            }
            assert!(
                begun.elapsed() < patience,
                "no {name} {status} within {patience:?}: {:?}",
                self.bodies()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn count(&self, name: &str, status: &str) -> usize {
        self.all().iter().filter(|notice| notice.says(name, status)).count()
    }

    pub fn keys(&self, name: &str, status: &str) -> BTreeSet<String> {
        self.all().into_iter().filter(|notice| notice.says(name, status)).map(|notice| notice.key).collect()
    }

    fn all(&self) -> Vec<Notice> {
        self.notices.lock().unwrap().clone()
    }

    fn bodies(&self) -> Vec<Value> {
        self.all().into_iter().map(|notice| notice.body).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Reserved {
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.0)
    }

    pub async fn open(self) -> Receiver {
        Receiver::on(TcpListener::bind(self.0).await.unwrap())
    }
}
