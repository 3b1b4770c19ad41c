//! The embedded ClickHouse: `libchdb` in a supervised child process behind a small HTTP endpoint on loopback.
//!
//! The child is this program with the hidden subcommand `engine`. A crash of the engine costs the child alone; memory
//! limits apply to it alone; and the only client code is that for a real server. [`supervise`] runs in the aggregator,
//! [`child`] in the child. Nothing in the aggregator but storing and querying depends on it.

pub mod address;
pub mod child;
pub mod failstop;
pub mod ffi;
pub mod http;
pub mod library;
pub mod pace;
pub mod pool;
pub mod pulse;
pub mod reader;
pub mod room;
pub mod supervise;

pub use child::{ChildArgs, ChildError};
pub use room::Room;
pub use supervise::{Facts, Fall, HANG_AFTER, Options, Supervisor};
