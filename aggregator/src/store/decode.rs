//! From the bytes of a batch to blocks of rows.
//!
//! Everything is checked before anything is stored: a column that does not fit its section refuses the whole batch with
//! section and column named. A row's number is its position among the rows of its table in the batch, so it is the same
//! on every resend. Sections of a kind that this program does not know are counted.

use std::sync::Arc;

use etcdmon_proto::convert::CodingError;
use etcdmon_proto::v1;
use prost::Message;
use uuid::Uuid;

use super::block::Block;
use super::table::Table;

mod account;
mod autopsies;
mod common;
mod metrics;
mod syncs;
mod time;
mod writes;

use self::common::{Members, Rows};
use self::time::TimeLine;

/// Most rows in one batch; agents close a batch long before.
pub const MAX_BATCH_ROWS: usize = 500_000;

/// Most different days in one batch: each costs an insert of its own.
pub const MAX_BATCH_DAYS: usize = 64;

/// Names a batch for all time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// The agent.
    pub agent: Uuid,
    /// The agent process that made the batch.
    pub epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
}

impl std::fmt::Display for BatchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.agent, self.epoch, self.sequence)
    }
}

/// Gives clusters their lasting names.
pub trait ClusterNames: Send + Sync + 'static {
    /// The UUID of the cluster with this etcd cluster id. The same id gives the same UUID, also after a restart.
    fn cluster_uuid(&self, etcd_cluster_id: u64) -> Uuid;
}

impl<T: ClusterNames + ?Sized> ClusterNames for Arc<T> {
    fn cluster_uuid(&self, etcd_cluster_id: u64) -> Uuid {
        (**self).cluster_uuid(etcd_cluster_id)
    }
}

/// A batch that can be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Its identity.
    pub id: BatchId,
    /// Rows by table; no block is empty, no table comes twice.
    pub blocks: Vec<Block>,
    /// Rows in sections of a kind that is not known here.
    pub unknown_rows: u64,
}

impl Decoded {
    /// Rows to store.
    pub fn rows(&self) -> usize {
        self.blocks.iter().map(Block::rows).sum()
    }

    /// Heap bytes, roughly.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(Block::bytes).sum()
    }
}

/// A batch that can never be stored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The payload is no batch.
    #[error("batch does not decode: {0}")]
    Batch(prost::DecodeError),
    /// The payload names another agent than the stream.
    #[error("batch belongs to another agent")]
    ForeignAgent,
    /// An id has not 16 bytes.
    #[error("batch {0} has not 16 bytes")]
    Id(&'static str),
    /// A section's payload is no message of its kind.
    #[error("section {section} does not decode: {source}")]
    Section {
        /// Name of the section.
        section: &'static str,
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// A column is too short, too long, or leaves its range.
    #[error("section {section}: {source}")]
    Column {
        /// Name of the section.
        section: &'static str,
        /// What is wrong, with the column named.
        source: CodingError,
    },
    /// A row refers to a member or series that is not there.
    #[error("section {section}: column {column} refers to {index}, which does not exist")]
    Reference {
        /// Name of the section.
        section: &'static str,
        /// Name of the column.
        column: &'static str,
        /// The position referred to.
        index: u32,
    },
    /// A time is not between the years 2000 and 2200.
    #[error("section {section}: column {column} leaves the range of time at row {row}")]
    Time {
        /// Name of the section.
        section: &'static str,
        /// Name of the column.
        column: &'static str,
        /// Row, from 0.
        row: usize,
    },
    /// Facts with monotonic times, and nothing that turns them into wall time.
    #[error("section {section}: batch has no time base")]
    NoTimeBase {
        /// Name of the section.
        section: &'static str,
    },
    /// More rows than [`MAX_BATCH_ROWS`] or more days than [`MAX_BATCH_DAYS`].
    #[error("batch has more than {most} {what}")]
    TooMuch {
        /// Rows or days.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

/// Decodes and checks a batch.
///
/// # Errors
/// When the batch can never be stored; the agent then counts its rows as dropped.
pub fn decode(id: BatchId, payload: &[u8], names: &dyn ClusterNames) -> Result<Decoded, DecodeError> {
    let batch = v1::Batch::decode(payload).map_err(DecodeError::Batch)?;
    if id_of("agent id", &batch.agent_id)? != id.agent {
        return Err(DecodeError::ForeignAgent);
    }
    let announced: usize = batch.sections.iter().map(|section| section.rows as usize).sum();
    if announced > MAX_BATCH_ROWS {
        return Err(DecodeError::TooMuch { what: "rows", most: MAX_BATCH_ROWS });
    }
    let boot = if batch.boot_id.is_empty() { Uuid::nil() } else { id_of("boot id", &batch.boot_id)? };
    let members = Members::new(&batch.members, names);
    let timeline = TimeLine::new(&batch.sections)?;
    let mut rows = Rows::new(id, boot, members, timeline);
    for section in &batch.sections {
        match section.kind() {
            v1::SectionKind::TimeBase => {}
            v1::SectionKind::SyncHistogram => syncs::histograms(&mut rows, section)?,
            v1::SectionKind::Sync => syncs::syncs(&mut rows, section)?,
            v1::SectionKind::Write => writes::writes(&mut rows, section)?,
            v1::SectionKind::Metric => metrics::metrics(&mut rows, section)?,
            v1::SectionKind::Event => account::events(&mut rows, section)?,
            v1::SectionKind::Ledger => account::ledger(&mut rows, section)?,
            v1::SectionKind::Autopsy => autopsies::autopsies(&mut rows, section)?,
            // A kind of a later version, which prost gives as the default.
            v1::SectionKind::Unspecified => rows.unknown += u64::from(section.rows),
        }
    }
    let decoded = rows.finish();
    check_days(&decoded)?;
    Ok(decoded)
}

/// The UUID in 16 bytes.
fn id_of(what: &'static str, bytes: &[u8]) -> Result<Uuid, DecodeError> {
    Uuid::from_slice(bytes).map_err(|_| DecodeError::Id(what))
}

/// Day of a wall time, counted from the Unix epoch: the partition of its row.
pub fn day_of(wall_ns: i64) -> i64 {
    const DAY_NS: i64 = 86_400_000_000_000;
    wall_ns.div_euclid(DAY_NS)
}

fn check_days(decoded: &Decoded) -> Result<(), DecodeError> {
    let mut days: Vec<i64> =
        decoded.blocks.iter().flat_map(|block| block.times()).map(|time| day_of(*time)).collect();
    days.sort_unstable();
    days.dedup();
    if days.len() > MAX_BATCH_DAYS {
        return Err(DecodeError::TooMuch { what: "days", most: MAX_BATCH_DAYS });
    }
    Ok(())
}

/// Decodes the message of a section.
fn message<M: Message + Default>(section: &'static str, payload: &[u8]) -> Result<M, DecodeError> {
    M::decode(payload).map_err(|source| DecodeError::Section { section, source })
}

/// The table that a section's rows go to, by name: `None` for time bases and unknown kinds.
pub fn table_of(kind: v1::SectionKind) -> Option<Table> {
    match kind {
        v1::SectionKind::SyncHistogram => Some(Table::SyncHistograms),
        v1::SectionKind::Sync => Some(Table::Syncs),
        v1::SectionKind::Write => Some(Table::Writes),
        v1::SectionKind::Metric => Some(Table::Metrics),
        v1::SectionKind::Event => Some(Table::Events),
        v1::SectionKind::Ledger => Some(Table::Ledger),
        v1::SectionKind::Autopsy => Some(Table::Autopsies),
        v1::SectionKind::TimeBase | v1::SectionKind::Unspecified => None,
    }
}

#[cfg(test)]
mod tests;
