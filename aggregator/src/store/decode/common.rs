//! What every kind of row has in common.

use etcdmon_proto::convert::{CodingError, check_length, undelta_buckets};
use etcdmon_proto::v1;
use uuid::Uuid;

use super::time::TimeLine;
use super::{BatchId, ClusterNames, DecodeError, Decoded};
use crate::store::block::{Block, Column, Dictionary, Histograms, Value};
use crate::store::table::Table;

/// Most values that one histogram may hold: far beyond what a machine does in a second, and low enough that the sum over
/// any number of stored rows stays in 64 bits.
const MAX_COUNT: u64 = 1 << 40;

/// What rows need of a member.
pub struct MemberFacts {
    /// Number of its cluster among the batch's clusters.
    cluster: u32,
    /// etcd's id.
    pub id: u64,
    /// Process id.
    pub pid: u32,
}

/// The batch's members, and the node itself.
pub struct Members {
    members: Vec<MemberFacts>,
    node: MemberFacts,
    /// Our names of the clusters, as text.
    clusters: Dictionary,
}

impl Members {
    /// From the batch's list. A cluster id of 0 (etcd's identity not known yet) and the node itself go under the nil UUID.
    pub fn new(members: &[v1::Member], names: &dyn ClusterNames) -> Self {
        let mut clusters = Dictionary::default();
        let mut cluster = |id| {
            let name = if id == 0 { Uuid::nil() } else { names.cluster_uuid(id) };
            clusters.number(&name.to_string())
        };
        let facts = members
            .iter()
            .map(|member| MemberFacts {
                cluster: cluster(member.cluster_id),
                id: member.member_id,
                pid: member.process.as_ref().map_or(0, |process| process.pid),
            })
            .collect();
        let node = MemberFacts { cluster: cluster(0), id: 0, pid: 0 };
        Self { members: facts, node, clusters }
    }

    /// Columns for so many rows of members.
    pub fn columns(&self, rows: usize) -> CommonColumns {
        let (member, at) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        CommonColumns { cluster: self.clusters.clone(), member, at }
    }

    /// The member at a position.
    pub fn at(&self, section: &'static str, index: u32) -> Result<&MemberFacts, DecodeError> {
        let column = "member";
        self.members.get(index as usize).ok_or(DecodeError::Reference { section, column, index })
    }

    /// The member at a position counted from one; 0 is the node.
    pub fn at_plus_one(&self, section: &'static str, index: u32) -> Result<&MemberFacts, DecodeError> {
        match index.checked_sub(1) {
            None => Ok(&self.node),
            Some(position) => self.members.get(position as usize).ok_or(DecodeError::Reference {
                section,
                column: "member_plus_one",
                index,
            }),
        }
    }
}

/// The batch being decoded.
pub struct Rows {
    id: BatchId,
    /// Kernel boot of the batch's monotonic times.
    pub boot: Uuid,
    /// Its members.
    pub members: Members,
    /// Monotonic to wall time.
    pub timeline: TimeLine,
    /// Rows of unknown kinds.
    pub unknown: u64,
    blocks: Vec<Block>,
}

impl Rows {
    /// An empty one.
    pub fn new(id: BatchId, boot: Uuid, members: Members, timeline: TimeLine) -> Self {
        Self { id, boot, members, timeline, unknown: 0, blocks: Vec::new() }
    }

    /// Adds a section's rows: `common` as filled, `rest` the columns of the table after the common seven.
    pub fn add(&mut self, table: Table, common: CommonColumns, rest: Vec<Column>) {
        let rows = common.at.len();
        if rows == 0 {
            return;
        }
        // A kind may come in several sections: numbers go on.
        let earlier = self.blocks.iter().position(|block| block.table == table);
        let first = earlier.map_or(0, |position| self.blocks[position].rows());
        let numbers = (0u32..).skip(first).take(rows).collect();
        let mut columns = vec![
            Column::Same(Value::Uuid(self.id.agent), rows),
            Column::Same(Value::Uuid(self.id.epoch), rows),
            Column::Same(Value::U64(self.id.sequence), rows),
            Column::U32(numbers),
            Column::Text(common.cluster),
            Column::U64(common.member),
            Column::Time(common.at),
        ];
        columns.extend(rest);
        let block = Block::new(table, columns);
        match earlier {
            Some(position) => self.blocks[position].append(&block),
            None => self.blocks.push(block),
        }
    }

    /// The batch as decoded.
    pub fn finish(self) -> Decoded {
        Decoded { id: self.id, blocks: self.blocks, unknown_rows: self.unknown }
    }
}

/// The columns that differ from row to row in every table.
pub struct CommonColumns {
    cluster: Dictionary,
    member: Vec<u64>,
    at: Vec<i64>,
}

impl CommonColumns {
    /// Appends a row.
    pub fn push(&mut self, member: &MemberFacts, at: i64) {
        self.cluster.push_number(member.cluster);
        self.member.push(member.id);
        self.at.push(at);
    }
}

/// A checker of columns for one section.
#[derive(Clone, Copy)]
pub struct Checker {
    /// Name of the section.
    pub section: &'static str,
    /// Rows announced.
    pub rows: usize,
}

impl Checker {
    /// For a section.
    pub fn new(name: &'static str, section: &v1::Section) -> Self {
        Self { section: name, rows: section.rows as usize }
    }

    /// The column, which has as many rows as announced.
    pub fn column<'a, T>(self, column: &'static str, values: &'a [T]) -> Result<&'a [T], DecodeError> {
        check_length(column, values, self.rows).map_err(|source| self.bad(source))?;
        Ok(values)
    }

    /// The same, to keep.
    pub fn owned<T>(self, column: &'static str, values: Vec<T>) -> Result<Vec<T>, DecodeError> {
        self.column(column, &values)?;
        Ok(values)
    }

    /// Wraps what a coding function found wrong.
    pub fn bad(self, source: CodingError) -> DecodeError {
        DecodeError::Column { section: self.section, source }
    }

    /// A text column of names that repeat.
    pub fn names<T: Copy + PartialEq>(
        self,
        column: &'static str,
        values: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Result<Dictionary, DecodeError> {
        let mut names = Dictionary::default();
        let mut last: Option<(T, u32)> = None;
        for value in self.column(column, values)? {
            let number = match last {
                Some((same, number)) if same == *value => number,
                _ => names.number(name(*value)),
            };
            last = Some((*value, number));
            names.push_number(number);
        }
        Ok(names)
    }

    /// Histograms of all rows, and how many values each holds.
    pub fn histograms(
        self,
        lengths: &[u32],
        deltas: &[u32],
        counts: Vec<u64>,
    ) -> Result<(Histograms, Vec<u64>), DecodeError> {
        let lengths = self.column("bucket_len", lengths)?;
        let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
        for (column, found) in [("bucket_delta", deltas.len()), ("bucket_count", counts.len())] {
            if found as u64 != total {
                // `total` fits: it is compared with the length of something in memory only when it is wrong.
                let expected = usize::try_from(total).unwrap_or(usize::MAX);
                return Err(self.bad(CodingError::Length { column, found, expected }));
            }
        }
        let mut buckets = Vec::with_capacity(deltas.len());
        let (mut ends, mut totals) = (Vec::with_capacity(self.rows), Vec::with_capacity(self.rows));
        let mut begin = 0;
        for (row, length) in lengths.iter().enumerate() {
            let end = begin + *length as usize;
            undelta_buckets(&deltas[begin..end], &mut buckets).map_err(|source| self.bad(source))?;
            let total = counts[begin..end].iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
            let total = total.filter(|total| *total <= MAX_COUNT);
            totals.push(total.ok_or(self.bad(CodingError::OutOfRange { column: "bucket_count", row }))?);
            ends.push(end as u64);
            begin = end;
        }
        Ok((Histograms::of(ends, buckets, counts), totals))
    }
}

/// Name of a file class in tables.
pub fn class_name(class: i32) -> &'static str {
    v1::FileClass::try_from(class).map_or("unknown", v1::FileClass::name)
}
