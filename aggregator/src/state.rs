//! What the aggregator itself must remember: clusters, alerts, notices on their way. Never telemetry.
//!
//! A small portable subset, so that PostgreSQL can stand in for the embedded SQLite: entities `(kind, id, version, json)`
//! with compare-and-swap, append-only logs, and the outbox. One [`Change`] list is one transaction: all of it is durable
//! when [`State::commit`] returns, or nothing of it happened. Alerting needs this, and never ClickHouse.

use std::path::PathBuf;

use serde_json::Value;

mod sqlite;

pub use sqlite::State;

/// Kinds of entities.
pub mod kind {
    /// This installation; one entity with a random id.
    pub const INSTALLATION: &str = "installation";
    /// A cluster of the registry; id = etcd cluster id as 16 hexadecimal digits.
    pub const CLUSTER: &str = "cluster";
    /// An alert; id = its fingerprint.
    pub const ALERT: &str = "alert";
    /// A diagnosis; id = its UUID.
    pub const DIAGNOSIS: &str = "diagnosis";
    /// A cluster that is watched without agents, made over the API; id = its name.
    pub const AGENTLESS: &str = "agentless";
    /// What a receiver was told of a group of alerts; id = receiver and group key.
    pub const NOTICE: &str = "notice";
    /// How far a log's lines are stored in ClickHouse; id = the log.
    pub const TRANSCRIPT: &str = "transcript";
    /// A join token; id = its name.
    pub const JOIN_TOKEN: &str = "join_token";
    /// A certificate of an agent; id = its serial number as hexadecimal digits.
    pub const AGENT_CERTIFICATE: &str = "agent_certificate";
    /// An agent that was revoked; id = its UUID.
    pub const AGENT_REVOCATION: &str = "agent_revocation";
}

/// Names of logs.
pub mod log {
    /// Every change of an alert's state.
    pub const ALERT: &str = "alert";
    /// What became of diagnoses.
    pub const DIAGNOSIS: &str = "diagnosis";
    /// Every delivery, and every notice that was given up.
    pub const NOTIFICATION: &str = "notification";
    /// Every leader change.
    pub const LEADER: &str = "leader";
    /// Join tokens made and misused, agents enrolled and revoked.
    pub const ENROLMENT: &str = "enrolment";
}

/// Logs whose lines go to ClickHouse.
pub const TOLD: [&str; 2] = [log::ALERT, log::DIAGNOSIS];

/// Something kept under a kind and an id.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// What it is.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// 1 at first, one more with every change.
    pub version: u64,
    /// Its content.
    pub json: Value,
}

/// What must be true of an entity for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It does not exist.
    Absent,
    /// It has this version.
    Version(u64),
    /// Nothing: the writer is the only owner of this kind.
    Anything,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Rises by one or more from line to line of any log.
    pub number: i64,
    /// When it was written, in Unix nanoseconds.
    pub at_ns: i64,
    /// Its content.
    pub json: Value,
}

/// A notice waiting for delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxItem {
    /// Rises with time: notices of one group are delivered in this order.
    pub number: i64,
    /// Random id of the delivery, the same on every attempt: a receiver can tell a repetition by it.
    pub delivery: String,
    /// For whom.
    pub receiver: String,
    /// Which group of alerts.
    pub group: String,
    /// When it was written, in Unix nanoseconds.
    pub created_at_ns: i64,
    /// What to deliver.
    pub json: Value,
}

/// One part of a transaction.
#[derive(Debug, Clone)]
pub enum Change {
    /// Writes an entity.
    Put {
        /// What it is.
        kind: &'static str,
        /// Which one.
        id: String,
        /// Condition.
        expected: Expected,
        /// New content.
        json: Value,
    },
    /// Removes an entity; one that does not exist is removed already.
    Delete {
        /// What it is.
        kind: &'static str,
        /// Which one.
        id: String,
    },
    /// Adds a line to a log.
    Append {
        /// Which log.
        log: &'static str,
        /// Unix nanoseconds.
        at_ns: i64,
        /// The line.
        json: Value,
    },
    /// Puts a notice into the outbox; its number is among those that [`State::commit`] returns.
    Enqueue {
        /// Random id of the delivery.
        delivery: String,
        /// For whom.
        receiver: String,
        /// Which group of alerts.
        group: String,
        /// Unix nanoseconds.
        created_at_ns: i64,
        /// What to deliver.
        json: Value,
    },
    /// Takes a notice out of the outbox.
    Dequeue {
        /// Its number.
        number: i64,
    },
}

/// What went wrong with the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Its directory can't be made or used.
    #[error("state directory {path} can't be used")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process works on it.
    #[error("state directory {path} is in use by another aggregator{holder}; give each its own state.dir")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// ` (pid N)`, or empty when that is not known.
        holder: String,
    },
    /// The database file is damaged.
    #[error(
        "state database {path} is damaged ({what}); restore it from a backup, or move it away to begin anew"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        what: String,
    },
    /// It was written by a newer program.
    #[error(
        "state database {path} has format {found}, this program knows up to {known}; upgrade the program"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Newest format known here.
        known: i64,
    },
    /// The disk is full.
    #[error("no space left on the disk of state database {path}")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// An entity was not as expected: somebody else changed it.
    #[error("{kind} {id} was changed by somebody else")]
    Conflict {
        /// Its kind.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// The writer has ended.
    #[error("state is closed")]
    Closed,
    /// Anything else that SQLite reports.
    #[error("state database {path}: {attempt}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        attempt: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

#[cfg(test)]
mod tests;
