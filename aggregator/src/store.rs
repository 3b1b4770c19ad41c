//! Telemetry in ClickHouse: the way there, the schema, and the writer that stores every batch exactly once.
//!
//! A batch travels [`decode`] → [`Store::write`] (queue, memory budget) → group → one insert for each table and day →
//! stored. Its identity is (agent, epoch, sequence), that of a row adds its position in the batch; both are columns of
//! every table. [`frontier`] sees to it that the rollups miss none. Wherever the outcome of an insert is not known, the table itself is asked, never a window of time.

mod aside;
pub mod block;
mod client;
mod counters;
pub mod decode;
mod flush;
pub mod frontier;
mod isolate;
pub mod migrate;
mod presence;
mod refusal;
pub mod retention;
mod seen;
mod settle;
pub mod table;
mod unit;
mod writer;

pub use client::{Client, ClientError, Endpoint, External};
pub use counters::Counters;
pub use decode::{BatchId, ClusterNames, DecodeError, Decoded};
pub use isolate::Options as Unstorable;
pub use retention::Retention;
pub use table::Table;
pub use writer::{Stopping, Store};
