//! The one place that asks etcd: what the agent asks its local members and the aggregator asks members without an agent.
//!
//! Stands at the very left of the data path, in both programs: [`scrape`] fetches a page of `/metrics`, [`exposition`]
//! makes series and [`gauges`] of it, [`status`] asks for Status and member list.
//!
//! **Invariant:** nothing here goes through raft and nothing makes etcd sync: metrics, Status and the member list are answered
//! from the member's own memory. `/health` of 3.4 is a linearizable read and `Maintenance.Alarm` a proposal, even to look:
//! neither is asked.
//!
//! **Invariant:** whatever etcd answers is foreign: bounded in size, time and number of series, and never a reason to panic.

pub mod endpoint;
pub mod exposition;
pub mod gauges;
pub mod scrape;
pub mod series;
pub mod status;
pub mod tls;

pub use endpoint::{Endpoint, EndpointError};
pub use gauges::Gauges;
pub use series::Series;
pub use tls::{Access, Names, TlsFiles};

/// How we introduce ourselves in etcd's log.
pub(crate) const USER_AGENT: &str = concat!("etcd-monitor/", env!("CARGO_PKG_VERSION"));
