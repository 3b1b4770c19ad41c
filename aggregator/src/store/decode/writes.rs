//! Writes, counted a second.

use etcdmon_proto::v1;

use super::common::{Checker, Rows, class_name};
use super::{DecodeError, message, time};
use crate::store::block::Column;
use crate::store::table::Table;

/// Rows of `writes`.
pub fn writes(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    const SECTION: &str = "write";
    let check = Checker::new(SECTION, section);
    let columns: v1::Writes = message(SECTION, &section.payload)?;
    let mut common = rows.members.columns(check.rows);
    let at = time::counted(check, "second_delta", &columns.second_delta, time::SECOND_NS)?;
    for (member, at) in check.column("member", &columns.member)?.iter().zip(at) {
        common.push(rows.members.at(SECTION, *member)?, at);
    }
    let (buckets, _) = check.histograms(&columns.bucket_len, &columns.bucket_delta, columns.bucket_count)?;
    let rest = vec![
        Column::Text(check.names("file_class", &columns.file_class, class_name)?),
        Column::U64(check.owned("written_bytes", columns.written_bytes)?),
        Column::U64(check.owned("observed_ns", columns.observed_ns)?),
        Column::U64(check.owned("calls", columns.calls)?),
        Column::Histogram(buckets),
        Column::U64(check.owned("sum_ns", columns.sum_ns)?),
        Column::U64(check.owned("sync_file_range_calls", columns.sync_file_range_calls)?),
    ];
    rows.add(Table::Writes, common, rest);
    Ok(())
}
