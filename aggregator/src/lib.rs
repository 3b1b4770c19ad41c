//! The aggregator of etcd-monitor.
//!
//! One data path, read from left to right: [`ingest`] takes batches from agents, [`store`] writes them to ClickHouse
//! exactly once, [`query`] is the only reader of the tables. [`engine`] is the embedded ClickHouse.

pub mod alert;
pub mod clock;
pub mod cluster;
pub mod engine;
pub mod ingest;
pub mod query;
pub mod rule;
pub mod state;
pub mod store;
