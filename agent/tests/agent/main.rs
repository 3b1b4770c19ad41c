//! The whole agent as a process, against real etcds and an aggregator that remembers everything.
//!
//! Runs as root for the kernel probes; tests that need what is not there are skipped with the reason.
#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod adverse;
mod boot;
#[path = "../probes/disk.rs"]
#[expect(dead_code, reason = "shared with the tests of the probes")]
mod disk;
mod flight;
mod foreign;
mod journal;
mod lacking;
mod links;
mod logs;
mod reload;
mod slow_syncs;
mod spool;
mod stream;
mod support;
mod turnover;
mod vitals;
