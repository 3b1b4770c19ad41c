//! The first message of a stream.

use std::time::Duration;

use etcdmon_proto::{GENERATIONS, NoCommonGeneration, agree, v1};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::peer::Pass;

/// How long an agent may take for its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest version or node name that is kept, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Most commands that are kept of those an agent allows.
const MAX_COMMANDS: usize = 64;

/// What an agent said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloFacts {
    /// The protocol generation that both sides will speak.
    pub protocol: u32,
    /// The agent.
    pub agent: Uuid,
    /// Its process.
    pub epoch: Uuid,
    /// Kernel boot; nil when it did not say.
    pub boot: Uuid,
    /// Program version, for people.
    pub version: String,
    /// Host name as the agent sees it, for people.
    pub node: String,
    /// Commands that the node allows.
    pub allowed_commands: Vec<String>,
}

/// A message that may be a Hello.
pub trait MaybeHello {
    /// The Hello, if it is one.
    fn hello(self) -> Option<v1::Hello>;
}

impl MaybeHello for v1::BatchRequest {
    fn hello(self) -> Option<v1::Hello> {
        match self.message {
            Some(v1::batch_request::Message::Hello(hello)) => Some(hello),
            _ => None,
        }
    }
}

impl MaybeHello for v1::LiveRequest {
    fn hello(self) -> Option<v1::Hello> {
        match self.message {
            Some(v1::live_request::Message::Hello(hello)) => Some(hello),
            _ => None,
        }
    }
}

/// Waits for the first message and checks it.
///
/// # Errors
/// With the status that ends the stream.
pub async fn admit<M: MaybeHello>(
    stream: &mut Streaming<M>,
    pass: &Pass,
    stop: &CancellationToken,
) -> Result<HelloFacts, Status> {
    let first = tokio::select! {
        first = tokio::time::timeout(HELLO_TIMEOUT, stream.message()) => first,
        () = stop.cancelled() => return Err(Status::unavailable("aggregator is stopping")),
    };
    let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
    let hello = first.and_then(MaybeHello::hello);
    let facts = check(hello.ok_or_else(|| Status::invalid_argument("first message is no hello"))?)?;
    pass.check(facts.agent)?;
    Ok(facts)
}

/// Checks a Hello.
pub fn check(hello: v1::Hello) -> Result<HelloFacts, Status> {
    let protocol = agree(&GENERATIONS, &(hello.protocol_min..=hello.protocol_max)).map_err(|error| {
        let advice = match error {
            NoCommonGeneration::WeAreOlder { .. } => "upgrade the aggregator",
            NoCommonGeneration::TheyAreOlder { .. } => "upgrade the agent",
            NoCommonGeneration::Nothing { .. } => "the agent's hello is corrupt",
        };
        Status::failed_precondition(format!(
            "agent {} speaks protocol {} to {}, aggregator {} speaks {} to {}: {advice}",
            shortened(hello.agent_version.clone()),
            hello.protocol_min,
            hello.protocol_max,
            env!("CARGO_PKG_VERSION"),
            GENERATIONS.start(),
            GENERATIONS.end(),
        ))
    })?;
    let id = |what: &str, bytes: &[u8]| {
        let id = Uuid::from_slice(bytes).ok().filter(|id| !id.is_nil());
        id.ok_or_else(|| Status::invalid_argument(format!("hello: {what} is no id of 16 bytes")))
    };
    Ok(HelloFacts {
        protocol,
        agent: id("agent_id", &hello.agent_id)?,
        epoch: id("epoch", &hello.epoch)?,
        boot: if hello.boot_id.is_empty() { Uuid::nil() } else { id("boot_id", &hello.boot_id)? },
        version: shortened(hello.agent_version),
        node: shortened(hello.node_name),
        allowed_commands: hello.allowed_commands.into_iter().take(MAX_COMMANDS).map(shortened).collect(),
    })
}

fn shortened(mut name: String) -> String {
    if name.len() > MAX_NAME_BYTES {
        let end = (0..=MAX_NAME_BYTES).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        name.truncate(end);
    }
    name
}
