//! Carries batches and the live summary to the aggregator.
//!
//! Two streams on two connections, so that a full batch stream never delays the live one. Both begin with Hello, both come
//! back after a break with growing, jittered pauses and a circuit breaker ([`link`]), both can be redirected ([`route`]). A batch stays in flight until the aggregator says that it is durable; after a
//! break what is in flight is sent again, byte-identical.

use std::future::Future;
use std::time::Duration;

use etcdmon_proto::{GENERATIONS, NoCommonGeneration, agree, v1};

use crate::allow::AllowList;
use crate::connect::{CONNECT_TIMEOUT, ConnectError};

pub mod batches;
pub mod late;
pub mod link;
pub mod live;
pub mod route;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The aggregator ended the stream with an error.
    #[error("stream to aggregator: {}: {}", .0.code(), .0.message())]
    Stream(Box<tonic::Status>),
    /// The aggregator ended the stream.
    #[error("the aggregator closed the stream")]
    Closed,
    /// Hello was not answered by Welcome in time.
    #[error("the aggregator did not answer the greeting")]
    NoWelcome,
    /// The aggregator speaks no generation that this agent speaks.
    #[error("the aggregator asks for a protocol that this agent does not speak")]
    Protocol(#[source] NoCommonGeneration),
    /// The aggregator named another one.
    #[error("redirected to another aggregator")]
    Redirected,
    /// Batches are taken but never acknowledged.
    #[error("no batch was acknowledged for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// The greeting of both streams.
pub fn hello(agent_id: [u8; 16], epoch: [u8; 16], boot_id: [u8; 16], allowed: &AllowList) -> v1::Hello {
    v1::Hello {
        agent_id: agent_id.to_vec(),
        epoch: epoch.to_vec(),
        protocol_min: *GENERATIONS.start(),
        protocol_max: *GENERATIONS.end(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        node_name: node_name(),
        boot_id: boot_id.to_vec(),
        allowed_commands: allowed.names(),
    }
}

/// The host name, for people.
pub fn node_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Checks a Welcome against what this agent speaks.
fn check(welcome: &v1::Welcome) -> Result<(), SendError> {
    agree(&GENERATIONS, &(welcome.protocol..=welcome.protocol))
        .map(|_generation| ())
        .map_err(SendError::Protocol)
}

/// Limits the time until a stream stands.
async fn in_time<T>(work: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
    tokio::time::timeout(CONNECT_TIMEOUT, work).await.unwrap_or(Err(SendError::NoWelcome))
}
