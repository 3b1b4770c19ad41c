//! What the product knows, for other people's monitoring: `/metrics` in Prometheus's text form and OpenMetrics, and pushed by
//! OTLP. All three are written from the same [`Family`] values, so a number never depends on who asks for it.
//!
//! Sources are the [view](crate::view) of now, what the store [tallied](crate::store::Tally) on its way, and the aggregator's
//! own counters ([`crate::expose`]): nothing here asks an etcd or ClickHouse. What nobody reports now is left out, so that a
//! series ends instead of standing still.

mod family;
mod fleet;
mod otlp;
mod push;
mod sampled;
mod text;

pub use family::{Families, Family, Histogram, Kind, Label, Point, Value};
pub use fleet::fleet;
pub use push::{Counters, Otlp, Push, PushError, Settings, check_headers};
pub use sampled::sampled;
pub use text::Format;
