//! Events and the ledger.

use etcdmon_proto::convert::undelta_i64;
use etcdmon_proto::v1;

use super::common::{Checker, Rows};
use super::{DecodeError, message, time};
use crate::store::block::{Column, Dictionary};
use crate::store::table::Table;

/// Rows of `events`.
pub fn events(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    const SECTION: &str = "event";
    let check = Checker::new(SECTION, section);
    let columns: v1::Events = message(SECTION, &section.payload)?;
    let mono = undelta_i64(check.column("mono_ns_delta", &columns.mono_ns_delta)?);
    let at = rows.timeline.walls(SECTION, "mono_ns_delta", &mono)?;
    let mut common = rows.members.columns(check.rows);
    for (member, at) in check.column("member_plus_one", &columns.member_plus_one)?.iter().zip(at) {
        common.push(rows.members.at_plus_one(SECTION, *member)?, at);
    }
    let kinds = texts(check, "kind", &columns.kind)?;
    let details = check.owned("details_json", columns.details_json)?;
    rows.add(Table::Events, common, vec![Column::Text(kinds), Column::Long(details)]);
    Ok(())
}

/// Rows of `ledger`.
pub fn ledger(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    const SECTION: &str = "ledger";
    let check = Checker::new(SECTION, section);
    let columns: v1::Ledger = message(SECTION, &section.payload)?;
    let at = time::counted(check, "minute_delta", &columns.minute_delta, time::MINUTE_NS)?;
    let mut common = rows.members.columns(check.rows);
    for (member, at) in check.column("member_plus_one", &columns.member_plus_one)?.iter().zip(at) {
        common.push(rows.members.at_plus_one(SECTION, *member)?, at);
    }
    let kind = |kind| v1::LedgerKind::try_from(kind).map_or("unknown", v1::LedgerKind::name);
    let rest = vec![
        Column::Text(texts(check, "stream", &columns.stream)?),
        Column::Text(check.names("kind", &columns.kind, kind)?),
        Column::Text(texts(check, "reason", &columns.reason)?),
        Column::U64(check.owned("count", columns.count)?),
        Column::Time(time::optional(check, "blind_from_ns", &columns.blind_from_ns)?),
        Column::Time(time::optional(check, "blind_to_ns", &columns.blind_to_ns)?),
    ];
    rows.add(Table::Ledger, common, rest);
    Ok(())
}

fn texts(check: Checker, column: &'static str, values: &[String]) -> Result<Dictionary, DecodeError> {
    let mut texts = Dictionary::default();
    check.column(column, values)?.iter().for_each(|value| texts.push(value));
    Ok(texts)
}
