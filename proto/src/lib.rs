//! The contract between agent and aggregator.
//!
//! The messages are specified in `proto/etcdmon/v1/*.proto`; [`v1`] is generated from them and committed, so that
//! building needs no protobuf compiler. A test fails when the generated code is stale or when a field that was
//! published changed (`tests/contract.rs` says how to renew both). [`convert`] holds the codings that both ends share:
//! delta-coded columns and sparse histograms. Nothing here does I/O.

pub mod convert;
mod generation;

pub use generation::{GENERATIONS, NoCommonGeneration, agree};

/// Protocol generation 1.
#[expect(missing_docs, clippy::all, clippy::allow_attributes, reason = "generated; the .proto files carry the documentation")]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/etcdmon.v1.rs");
}

/// The newest protocol generation this crate speaks.
pub const PROTOCOL: u32 = *GENERATIONS.end();

/// Largest batch payload that may travel, in bytes. An agent closes a batch long before; the aggregator refuses more.
pub const MAX_BATCH_BYTES: usize = 4 << 20;

/// Largest gRPC message either side accepts: a batch and its envelope.
pub const MAX_MESSAGE_BYTES: usize = MAX_BATCH_BYTES + (64 << 10);

impl v1::FileClass {
    /// Every class that a file can have, in wire order.
    pub const ALL: [Self; 6] =
        [Self::Wal, Self::Backend, Self::Snapshot, Self::Defrag, Self::Directory, Self::Other];

    /// The class's name in tables, API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Wal => "wal",
            Self::Backend => "backend",
            Self::Snapshot => "snapshot",
            Self::Defrag => "defrag",
            Self::Directory => "directory",
            Self::Other => "other",
        }
    }
}

impl v1::Hook {
    /// The hook's name in tables, API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Filesystem => "filesystem",
            Self::Syscall => "syscall",
        }
    }
}

impl v1::SyncReason {
    /// The reason's name in tables, API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Slow => "slow",
            Self::Sample => "sample",
            Self::Flight => "flight",
        }
    }
}

impl v1::CulpritOrigin {
    /// The origin's name in tables, API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Process => "process",
            Self::Itself => "itself",
            Self::Writeback => "writeback",
            Self::Journal => "journal",
        }
    }
}

impl v1::Certainty {
    /// The certainty's name in tables, API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl v1::LedgerKind {
    /// The kind's name in tables, API and UI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Produced => "produced",
            Self::Dropped => "dropped",
            Self::Blind => "blind",
        }
    }
}
