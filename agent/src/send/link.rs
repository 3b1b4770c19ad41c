//! One stream's way to an aggregator: where it goes, and when the next attempt may be made.

use std::sync::Arc;
use std::time::Duration;

use etcdmon_proto::v1;
use etcdmon_service::breaker::{Breaker, Policy, State};
use tokio::time::Instant;

use super::SendError;
use super::route::Route;
use crate::clock::mono_ns;
use crate::connect::Connector;
use crate::telemetry::Telemetry;

/// A live stream has to be back before its silence counts, so pauses are short at first; an aggregator that is away for
/// longer is asked every ten seconds or so.
const POLICY: Policy = Policy {
    failures: 8,
    pause: (Duration::from_millis(500), Duration::from_secs(4)),
    open: (Duration::from_secs(5), Duration::from_secs(15)),
    steady_after: Duration::from_secs(5),
};

/// See the module.
#[derive(Debug)]
pub struct Link {
    stream: &'static str,
    connector: Connector,
    route: Route,
    breaker: Breaker,
    telemetry: Arc<Telemetry>,
    stands_since: Option<Instant>,
}

impl Link {
    /// For the stream of this name.
    pub fn new(stream: &'static str, connector: Connector, telemetry: Arc<Telemetry>) -> Self {
        let route = Route::new(connector.url().to_owned());
        let link =
            Self { stream, connector, route, breaker: Breaker::new(POLICY), telemetry, stands_since: None };
        link.show();
        link
    }

    /// Begins an attempt: what to connect with.
    pub fn attempt(&mut self) -> Connector {
        self.breaker.attempt();
        self.show();
        self.connector.to(self.route.url(mono_ns()))
    }

    /// Where it goes at present.
    pub fn url(&mut self) -> &str {
        self.route.url(mono_ns())
    }

    /// The aggregator welcomed this agent.
    pub fn stands(&mut self) {
        self.breaker.succeeded();
        self.stands_since = Some(Instant::now());
        self.show();
    }

    /// Takes a redirect. False when it is not followed.
    pub fn redirect(&mut self, redirect: &v1::Redirect) -> bool {
        let v1::Redirect { url, reason, for_seconds } = redirect;
        match self.route.redirect(url, *for_seconds, mono_ns()) {
            Ok(()) => {
                tracing::info!(stream = self.stream, url, reason, for_seconds, "redirected");
                true
            }
            Err(error) => {
                tracing::warn!(stream = self.stream, url, reason, %error, "redirect not followed");
                false
            }
        }
    }

    /// The attempt, or the stream that it became, is over. Returns the pause until the next one.
    pub fn ended(&mut self, error: &SendError) -> Duration {
        let stood = self.stands_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        if matches!(error, SendError::Redirected) {
            return POLICY.pause.0.mul_f64(rand::random());
        }
        self.route.ended(stood);
        let before = self.breaker.state();
        let pause = self.breaker.failed(stood, rand::random());
        if before == State::Closed && self.breaker.state() == State::Open {
            tracing::warn!(
                stream = self.stream,
                failures = self.breaker.failures(),
                "aggregator asked less often from now on"
            );
        }
        self.show();
        pause
    }

    fn show(&self) {
        self.telemetry.breaker(self.stream, self.breaker.state(), self.breaker.failures());
    }
}
