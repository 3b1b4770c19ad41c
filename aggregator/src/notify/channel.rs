//! Ways to reach somebody. This is the one place to add one.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::Notice;

mod console;
mod webhook;

pub use console::Console;
pub use webhook::{Webhook, WebhookError};

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Trying again can help.
    #[error("{what}")]
    Retry {
        /// What happened.
        what: String,
        /// How long the receiver wants to be left alone.
        after: Option<Duration>,
    },
    /// The receiver does not want it, now or later.
    #[error("{what}")]
    Refused {
        /// What happened.
        what: String,
    },
}

/// A way to reach somebody.
pub trait Channel: Send + Sync {
    /// Identifies the receiver in the state, over restarts and whatever the order of settings; without spaces.
    fn id(&self) -> &str;

    /// For logs and metrics; never shows credentials.
    fn name(&self) -> &str;

    /// Delivers one notice. Returns within seconds, whatever the receiver does.
    fn deliver<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Result<(), DeliveryError>>;
}

/// All channels of the process.
pub type Channels = Vec<Arc<dyn Channel>>;
