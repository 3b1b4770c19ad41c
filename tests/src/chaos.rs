//! Random faults against agents, aggregator and engine under load, and the check of the account after each.
//!
//! [`plan`] makes faults from a seed; [`stand`] is what they hit; [`act`] does them; [`books`] draws the balance at
//! rest on both sides; [`run`] works through a plan on several stands side by side; [`steps`] hits the engine
//! inside an insert and at its other steps; [`life`] kills, hangs, fills and corrupts it in every phase; [`partition`] cuts off many agents for long.
//!
//! What must hold after a fault:
//! - The agent lived: stored + dropped of WAL and directories is what etcd counted, to the last one, nothing is blind,
//!   and with nothing dropped the sum of all classes is what `perf` counted. An agent that was stopped or whose disk
//!   was full lived: the kernel goes on counting, and memory holds what the disk does not take.
//! - The agent died: stored + dropped of all classes is at least what `perf` counted outside the gap and at most what
//!   it counted in all, and every member's blind interval lies inside the gap. The gap ends when the probes are
//!   attached again. It begins ten seconds before a kill; at a SIGTERM, since nothing need be lost then; and where the
//!   agent could not write for a while before it died (it was stopped, its disk was full), ten seconds before that.
//! - In the end no row is in a table twice, and what the ledger says was produced is stored, dropped or blind.

pub mod act;
pub mod books;
pub mod life;
pub mod partition;
pub mod plan;
pub mod run;
pub mod stand;
pub mod steps;
