//! Telemetry in ClickHouse: the way there, the schema, and the writer that stores every batch exactly once.

mod client;

pub use client::{Client, ClientError, Endpoint, External};
