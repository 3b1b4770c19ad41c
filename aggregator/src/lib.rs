//! The aggregator of etcd-monitor.
//!
//! One data path, read from left to right: [`ingest`] takes batches from agents, [`store`] writes them to ClickHouse
//! exactly once, [`query`] is the only reader of the tables. [`engine`] is the embedded ClickHouse.

pub mod engine;
pub mod query;
pub mod store;
