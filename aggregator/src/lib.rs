//! The aggregator of etcd-monitor.
//!
//! One data path, read from left to right: [`ingest`] takes batches from agents, [`store`] writes them to ClickHouse
//! exactly once, [`rollup`] keeps sums of them, [`query`] is the only reader of the tables. [`engine`] is the embedded ClickHouse. Beside it the live
//! path, which needs no ClickHouse: [`ingest`] → [`cluster`] (the model) → [`diagnosis`] and [`rule`] → [`alert`] → [`notify`],
//! driven by [`evaluate`] and kept in [`state`]. [`transcript`] stores what became of alerts and diagnoses. [`api`] shows both. [`agentless`] feeds both with clusters where no agent may run.

pub mod admin;
pub mod agentless;
mod aggregator;
pub mod alert;
pub mod api;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod diagnosis;
pub mod engine;
pub mod enrol;
pub mod evaluate;
pub mod expose;
pub mod ingest;
pub mod notify;
pub mod query;
pub mod registry;
pub mod rollup;
pub mod rule;
pub mod server;
pub mod sql;
pub mod state;
pub mod store;
pub mod tls;
pub mod transcript;
pub mod view;

pub use aggregator::{Aggregator, StartError};
