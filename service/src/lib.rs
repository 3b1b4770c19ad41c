//! What agent and aggregator both need to be a well-behaved process, free of domain words.
//!
//! - [`settings`]: default < file < environment < flag, every fault reported at once with its source;
//! - [`logging`]: tracing to standard error, and errors with their whole chain of causes;
//! - [`shutdown`]: one cancellation token for a graceful end, a second signal ends at once;
//! - [`backoff`]: growing pauses with jitter;
//! - [`breaker`]: the same for one peer that is asked again and again, with rare attempts while it is away;
//! - [`memory`]: what was freed goes back to the system;
//! - [`process`]: ready file, panic counter, TLS provider;
//! - [`foreign`]: files whose paths somebody else chose;
//! - [`secret`]: values that never show in logs;
//! - [`systemd`]: ready, alive and stopping, told to a supervisor that wants to know.

pub mod backoff;
pub mod breaker;
pub mod foreign;
pub mod logging;
pub mod memory;
pub mod process;
pub mod secret;
pub mod settings;
pub mod shutdown;
pub mod systemd;
