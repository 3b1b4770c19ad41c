//! Samples of series.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use etcdmon_proto::convert::{CodingError, undelta_i64};
use etcdmon_proto::v1;

use super::common::{Checker, MemberFacts, Rows};
use super::{DecodeError, message};
use crate::store::block::{Column, Dictionary};
use crate::store::table::Table;

const SECTION: &str = "metric";

/// What rows need of a series: the member, and the numbers of its texts in the dictionaries.
struct SeriesFacts<'a> {
    member: &'a MemberFacts,
    name: u32,
    labels: u32,
    kind: u32,
}

/// Rows of `metrics`.
pub fn metrics(rows: &mut Rows, section: &v1::Section) -> Result<(), DecodeError> {
    let check = Checker::new(SECTION, section);
    let columns: v1::Metrics = message(SECTION, &section.payload)?;
    let (mut names, mut labels, mut kinds) = (Texts::default(), Texts::default(), Dictionary::default());
    let mut series = Vec::with_capacity(columns.series.len());
    for one in &columns.series {
        series.push(SeriesFacts {
            member: rows.members.at_plus_one(SECTION, one.member_plus_one)?,
            name: names.number(Cow::Borrowed(&one.name)),
            labels: labels.number(labels_json(check, &one.label)?),
            kind: kinds.number(kind_name(one.r#type)),
        });
    }
    let (mut names, mut labels) = (names.dictionary(check.rows), labels.dictionary(check.rows));
    let mono = undelta_i64(check.column("mono_ns_delta", &columns.mono_ns_delta)?);
    let at = rows.timeline.walls(SECTION, "mono_ns_delta", &mono)?;
    let mut common = rows.members.columns(check.rows);
    for (index, at) in check.column("series_index", &columns.series_index)?.iter().zip(at) {
        let column = "series_index";
        let found = series.get(*index as usize);
        let one = found.ok_or(DecodeError::Reference { section: SECTION, column, index: *index })?;
        common.push(one.member, at);
        names.push_number(one.name);
        labels.push_number(one.labels);
        kinds.push_number(one.kind);
    }
    let value = Column::F64(check.owned("value", columns.value)?);
    rows.add(
        Table::Metrics,
        common,
        vec![Column::Text(names), Column::Text(labels), Column::Text(kinds), value],
    );
    Ok(())
}

/// Texts of many series, each once. Keys are borrowed: a batch names thousands.
#[derive(Default)]
struct Texts<'a> {
    numbers: HashMap<Cow<'a, str>, u32>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: Cow<'a, str>) -> u32 {
        let next = u32::try_from(self.numbers.len()).expect("a batch has fewer than 2^32 series");
        *self.numbers.entry(text).or_insert(next)
    }

    /// A dictionary of them with room for so many rows.
    fn dictionary(self, rows: usize) -> Dictionary {
        let mut values = vec![String::new(); self.numbers.len()];
        for (text, number) in self.numbers {
            values[number as usize] = text.into_owned();
        }
        Dictionary::of(values, rows)
    }
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
fn labels_json(check: Checker, pairs: &[String]) -> Result<Cow<'static, str>, DecodeError> {
    if pairs.is_empty() {
        return Ok(Cow::Borrowed("{}"));
    }
    if !pairs.len().is_multiple_of(2) {
        let (found, expected) = (pairs.len(), pairs.len() + 1);
        return Err(check.bad(CodingError::Length { column: "series.label", found, expected }));
    }
    let labels: BTreeMap<&str, &str> =
        pairs.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    Ok(Cow::Owned(serde_json::to_string(&labels).expect("a map of strings is always JSON")))
}
