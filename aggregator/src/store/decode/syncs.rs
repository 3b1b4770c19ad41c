//! Syncs: histograms a second, and rows of their own.

use etcdmon_proto::convert::undelta_i64;
use etcdmon_proto::v1;

use super::common::{Checker, Rows, class_name};
use super::{DecodeError, message, time};
use crate::store::block::{Column, Dictionary, Value};
use crate::store::table::Table;

/// Rows of `sync_histograms`.
pub fn histograms(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    const SECTION: &str = "sync_histogram";
    let check = Checker::new(SECTION, section);
    let columns: v1::SyncHistograms = message(SECTION, &section.payload)?;
    let mut common = rows.members.columns(check.rows);
    let at = time::counted(check, "second_delta", &columns.second_delta, time::SECOND_NS)?;
    for (member, at) in check.column("member", &columns.member)?.iter().zip(at) {
        common.push(rows.members.at(SECTION, *member)?, at);
    }
    let (buckets, counts) =
        check.histograms(&columns.bucket_len, &columns.bucket_delta, columns.bucket_count)?;
    let hook = |hook| v1::Hook::try_from(hook).map_or("unknown", v1::Hook::name);
    let rest = vec![
        Column::Text(check.names("file_class", &columns.file_class, class_name)?),
        Column::Text(check.names("hook", &columns.hook, hook)?),
        Column::Histogram(buckets),
        Column::U64(counts),
        Column::U64(check.owned("sum_ns", columns.sum_ns)?),
        Column::U64(check.owned("errors", columns.errors)?),
        Column::U64(check.owned("run_delay_ns", columns.run_delay_ns)?),
    ];
    rows.add(Table::SyncHistograms, common, rest);
    Ok(())
}

/// Rows of `syncs`.
pub fn syncs(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    const SECTION: &str = "sync";
    let check = Checker::new(SECTION, section);
    let columns: v1::Syncs = message(SECTION, &section.payload)?;
    let start = undelta_i64(check.column("start_mono_ns_delta", &columns.start_mono_ns_delta)?);
    let at = rows.timeline.walls(SECTION, "start_mono_ns_delta", &start)?;
    let (mut common, mut pid) = (rows.members.columns(check.rows), Vec::with_capacity(check.rows));
    for (member, at) in check.column("member", &columns.member)?.iter().zip(at) {
        let member = rows.members.at(SECTION, *member)?;
        common.push(member, at);
        pid.push(member.pid);
    }
    let reason = |reason| v1::SyncReason::try_from(reason).map_or("unknown", v1::SyncReason::name);
    let class: Dictionary = check.names("file_class", &columns.file_class, class_name)?;
    let rest = vec![
        Column::Text(class),
        Column::Same(Value::Uuid(rows.boot), check.rows),
        // `walls` refused negative ones.
        Column::U64(start.iter().map(|start| start.unsigned_abs()).collect()),
        Column::U64(check.owned("latency_ns", columns.latency_ns)?),
        Column::U32(pid),
        Column::U32(check.owned("thread_id", columns.thread_id)?),
        Column::U64(check.owned("run_delay_ns", columns.run_delay_ns)?),
        Column::U64(check.owned("written_bytes", columns.written_bytes)?),
        Column::U64(check.owned("inode", columns.inode)?),
        Column::U32(check.owned("device", columns.device)?),
        Column::I32(check.owned("result", columns.result)?),
        Column::Text(check.names("reason", &columns.reason, reason)?),
        Column::Same(Value::U32(columns.sample_every), check.rows),
        Column::Same(Value::U64(columns.slow_ns), check.rows),
    ];
    rows.add(Table::Syncs, common, rest);
    Ok(())
}
