//! Samples of series.

use std::collections::BTreeMap;

use etcdmon_proto::convert::{CodingError, undelta_i64};
use etcdmon_proto::v1;

use super::common::{Checker, CommonColumns, Rows};
use super::{DecodeError, message};
use crate::store::block::{Column, Dictionary};
use crate::store::table::Table;

const SECTION: &str = "metric";

/// Numbers of a series' texts in the dictionaries.
struct SeriesTexts {
    name: u32,
    labels: u32,
    kind: u32,
}

/// Rows of `metrics`.
pub fn metrics(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    let check = Checker::new(SECTION, section);
    let columns: v1::Metrics = message(SECTION, &section.payload)?;
    let (mut names, mut labels, mut kinds) =
        (Dictionary::default(), Dictionary::default(), Dictionary::default());
    let mut series = Vec::with_capacity(columns.series.len());
    for one in &columns.series {
        series.push((
            rows.members.at_plus_one(SECTION, one.member_plus_one)?,
            SeriesTexts {
                name: names.number(&one.name),
                labels: labels.number(&labels_json(check, &one.label)?),
                kind: kinds.number(kind_name(one.r#type)),
            },
        ));
    }
    let mono = undelta_i64(check.column("mono_ns_delta", &columns.mono_ns_delta)?);
    let at = rows.timeline.walls(SECTION, "mono_ns_delta", &mono)?;
    let mut common = CommonColumns::default();
    for (index, at) in check.column("series_index", &columns.series_index)?.iter().zip(at) {
        let column = "series_index";
        let found = series.get(*index as usize);
        let (member, texts) =
            found.ok_or(DecodeError::Reference { section: SECTION, column, index: *index })?;
        common.push(member, at);
        names.push_number(texts.name);
        labels.push_number(texts.labels);
        kinds.push_number(texts.kind);
    }
    let value = Column::F64(check.column("value", &columns.value)?.to_vec());
    rows.add(
        Table::Metrics,
        common,
        vec![Column::Text(names), Column::Text(labels), Column::Text(kinds), value],
    );
    Ok(())
}

fn kind_name(kind: i32) -> &'static str {
    match v1::MetricType::try_from(kind) {
        Ok(v1::MetricType::Counter) => "counter",
        Ok(v1::MetricType::Gauge) => "gauge",
        Ok(v1::MetricType::Unspecified) => "unspecified",
        Err(_) => "unknown",
    }
}

/// Label names and values in turn as a JSON object, sorted by name, so that a series always has the same text.
fn labels_json(check: Checker, pairs: &[String]) -> Result<String, DecodeError> {
    if !pairs.len().is_multiple_of(2) {
        let (found, expected) = (pairs.len(), pairs.len() + 1);
        return Err(check.bad(CodingError::Length { column: "series.label", found, expected }));
    }
    let labels: BTreeMap<&str, &str> =
        pairs.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    Ok(serde_json::to_string(&labels).expect("a map of strings is always JSON"))
}
