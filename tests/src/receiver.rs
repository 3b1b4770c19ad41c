//! A webhook receiver on loopback that records what it gets and when, and can be told to misbehave.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::place::free_port;
use crate::wait;

/// How requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Behaviour {
    /// 200 at once.
    Accept,
    /// 500 at once.
    Fail,
    /// No answer at all.
    Hang,
}

/// One request that was accepted.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// When it had arrived in full.
    pub at: Instant,
    /// The same by the wall clock.
    pub wall: SystemTime,
    /// The body.
    pub body: Value,
}

impl Delivery {
    /// Alerts of the body with this name in this state (`firing` or `resolved`).
    pub fn alerts(&self, name: &str, status: &str) -> Vec<&Value> {
        self.body["alerts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|alert| alert["labels"]["alertname"] == name && alert["status"] == status)
            .collect()
    }
}

#[derive(Debug, Default)]
struct Shared {
    behaviour: AtomicU8,
    deliveries: Mutex<Vec<Delivery>>,
    refused: Mutex<u64>,
}

/// A receiver. Dropping it closes its port.
#[derive(Debug)]
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    server: Option<Server>,
}

/// A thread with a runtime of its own: when it has ended, so have its connections, those kept alive included.
#[derive(Debug)]
struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Receiver {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When none is free.
    pub async fn start() -> Result<Self> {
        let mut receiver = Self { port: free_port()?, shared: Arc::default(), server: None };
        receiver.up().await?;
        Ok(receiver)
    }

    /// Where to send to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Closes the port: connections are refused from here on.
    pub fn down(&mut self) {
        if let Some(server) = self.server.take() {
            // An error means that it has ended by itself; joining tells whether it panicked.
            let _ended = server.stop.send(());
            if server.thread.join().is_err() {
                eprintln!("the receiver panicked");
            }
        }
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// When it was taken meanwhile.
    pub async fn up(&mut self) -> Result<()> {
        self.down();
        let listener = wait::until("the receiver's port", Duration::from_secs(5), async || {
            Ok(Some(TcpListener::bind(("127.0.0.1", self.port))?))
        })
        .await?;
        listener.set_nonblocking(true)?;
        let router = Router::new().route("/hook", post(take)).with_state(self.shared.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let outcome = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::select! {
                    outcome = axum::serve(listener, router) => outcome,
                    _stop = stopped => Ok(()),
                }
            });
            if let Err(error) = outcome {
                eprintln!("receiver: {error}");
            }
        });
        self.server = Some(Server { stop, thread });
        Ok(())
    }

    /// Changes how requests are answered.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.behaviour.store(behaviour as u8, Ordering::SeqCst);
    }

    /// All that was accepted, in order of arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests that were answered with an error.
    pub fn refused(&self) -> u64 {
        *self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the first delivery that carries this alert in this state and whose labels please `accept`.
    ///
    /// # Errors
    /// When none comes within `limit`; the message says what came instead.
    pub async fn wait_for(
        &self,
        name: &str,
        status: &str,
        limit: Duration,
        accept: impl Fn(&Value) -> bool,
    ) -> Result<Delivery> {
        let what = format!("a webhook with {name} {status}");
        wait::until(&what, limit, async || {
            let found = self
                .deliveries()
                .into_iter()
                .find(|delivery| delivery.alerts(name, status).iter().any(|alert| accept(&alert["labels"])));
            Ok(found)
        })
        .await
        .with_context(|| format!("what came: {}", self.summary()))
    }

    /// Names and states of all alerts that came.
    pub fn summary(&self) -> String {
        let all: Vec<String> = self
            .deliveries()
            .iter()
            .flat_map(|delivery| delivery.body["alerts"].as_array().cloned().unwrap_or_default())
            .map(|alert| format!("{} {}", alert["labels"]["alertname"], alert["status"]))
            .collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.down();
    }
}

async fn take(State(shared): State<Arc<Shared>>, body: String) -> StatusCode {
    match shared.behaviour.load(Ordering::SeqCst) {
        hang if hang == Behaviour::Hang as u8 => std::future::pending().await,
        fail if fail == Behaviour::Fail as u8 => {
            *shared.refused.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _accept => {
            let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
            let delivery = Delivery { at: Instant::now(), wall: SystemTime::now(), body };
            shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
            StatusCode::OK
        }
    }
}
