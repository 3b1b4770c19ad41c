//! Answers about history in their formats, series by series, so that a long answer is never in memory twice.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Problem;
use super::super::extract::bad;
use super::arrow;
use crate::query::{History, Series};
use crate::view::hex;

/// Values over time.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HistoryAnswer {
    /// Begin of the first step.
    pub from: DateTime<Utc>,
    /// End of the last step.
    pub to: DateTime<Utc>,
    /// Length of a step in seconds.
    pub step_seconds: i64,
    /// What was read: `raw`, or rows of `10s`, `1m`, `1h`.
    pub resolution: String,
    /// Begins of the steps, Unix seconds.
    pub at: Vec<i64>,
    /// The series, by cluster, name, member and labels.
    pub series: Vec<SeriesAnswer>,
}

/// One series.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SeriesAnswer {
    /// UUID of its cluster.
    pub cluster: Uuid,
    /// Its values are from so many seconds before the steps: the second time of a comparison; else 0.
    pub offset_seconds: i64,
    /// Metric, or what else it is a series of.
    pub name: String,
    /// Its member, 16 hexadecimal digits; zeros for the node itself, and where members are merged.
    pub member: String,
    /// Agent on the node that it is of; null for a member's.
    pub agent: Option<Uuid>,
    /// What else tells it from others of its name.
    pub labels: BTreeMap<String, String>,
    /// For each column a value for each step; null where it is not known, or there is none. Units are in the names of the
    /// columns, or of the metric.
    #[schema(value_type = BTreeMap<String, Vec<Option<f64>>>)]
    pub values: BTreeMap<String, Vec<Option<f64>>>,
    /// Stretches that are not, or not completely, known.
    pub gaps: Vec<Gap>,
    /// Steps from here on have values of the live stream in them, which are not stored yet; Unix seconds.
    pub live_from: Option<i64>,
}

/// A stretch that is not, or not completely, known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// Begin, Unix seconds.
    pub from: i64,
    /// End, Unix seconds.
    pub to: i64,
    /// Why: as in the ledger (`agent_down`, `attach`, `ring_full` …), or `no_sample`, `not_reported`, `not_stored_yet`.
    pub reason: String,
    /// What was lost, as far as it was counted.
    pub lost: u64,
    /// There are values, but they lack what was lost.
    pub partial: bool,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
    Arrow,
}

impl Format {
    const ALL: [Self; 3] = [Self::Json, Self::Csv, Self::Arrow];

    const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// By the parameter, else by the header Accept, else JSON.
    pub fn choose(wanted: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        match wanted {
            Some("json") => return Ok(Self::Json),
            Some("csv") => return Ok(Self::Csv),
            Some("arrow") => return Ok(Self::Arrow),
            Some(other) => return Err(bad(format!("format: {other:?} is not json, csv or arrow"))),
            None => {}
        }
        let Some(accept) = headers.get(ACCEPT) else { return Ok(Self::Json) };
        let accept = accept.to_str().unwrap_or_default();
        // Names are enough: a client that weighs several of our types takes any of them.
        let mut types = accept.split(',').filter_map(|part| part.split(';').next()).map(str::trim);
        let fits = |name: &str| match name {
            "*/*" | "application/*" | "" => Some(Self::Json),
            "text/*" => Some(Self::Csv),
            name => Self::ALL.into_iter().find(|format| format.media_type().eq_ignore_ascii_case(name)),
        };
        types.find_map(fits).ok_or_else(|| {
            let known = Self::ALL.map(Self::media_type).join(", ");
            Problem::new(StatusCode::NOT_ACCEPTABLE, format!("Accept: this is given as {known}"))
        })
    }
}

/// The answer, written series by series while it is sent.
pub fn respond(history: History, format: Format) -> Response {
    let chunks: Box<dyn Iterator<Item = Result<Bytes, std::io::Error>> + Send> = match format {
        Format::Json => Box::new(json(history)),
        Format::Csv => Box::new(csv(history)),
        Format::Arrow => Box::new(arrow::stream(history)),
    };
    let mut response = Body::from_stream(stream::iter(chunks)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

/// A JSON object whose last member is the array of series, piece by piece.
fn json(history: History) -> impl Iterator<Item = Result<Bytes, std::io::Error>> + Send {
    let plan = history.plan;
    let head = HistoryAnswer {
        from: time(plan.from),
        to: time(plan.to),
        step_seconds: plan.step,
        resolution: plan.resolution.name().to_owned(),
        at: plan.steps().collect(),
        series: Vec::new(),
    };
    let head = serde_json::to_vec(&head).map_err(std::io::Error::from).map(|mut head| {
        // `[]}` is what the series and the end are put in place of.
        head.truncate(head.len().saturating_sub(2));
        head
    });
    let pieces = history.series.into_iter().enumerate().map(|(position, series)| {
        let mut piece = if position == 0 { Vec::new() } else { vec![b','] };
        serde_json::to_writer(&mut piece, &shown(series))?;
        Ok(piece)
    });
    let all = std::iter::once(head).chain(pieces).chain(std::iter::once(Ok(b"]}".to_vec())));
    all.map(|piece: Result<Vec<u8>, std::io::Error>| piece.map(Bytes::from))
}

fn shown(series: Series) -> SeriesAnswer {
    let known = |value: f64| value.is_finite().then_some(value);
    let columns = series.columns.into_iter();
    let gap = |gap: crate::query::Gap| Gap {
        from: gap.from,
        to: gap.to,
        reason: gap.reason,
        lost: gap.lost,
        partial: gap.partial,
    };
    SeriesAnswer {
        cluster: series.cluster,
        offset_seconds: series.offset_seconds,
        name: series.name,
        member: hex(series.member),
        agent: series.agent,
        labels: series.labels,
        values: columns
            .map(|(name, values)| (name.to_owned(), values.into_iter().map(known).collect()))
            .collect(),
        gaps: series.gaps.into_iter().map(gap).collect(),
        live_from: series.live_from,
    }
}

/// Why a step has no value.
pub fn reason(series: &Series, at: i64) -> Option<&str> {
    let gap = series.gaps.iter().find(|gap| !gap.partial && gap.from <= at && at < gap.to)?;
    Some(&gap.reason)
}

/// A line for each series and step, with the columns of all series (RFC 4180).
fn csv(history: History) -> impl Iterator<Item = Result<Bytes, std::io::Error>> + Send {
    let (plan, columns) = (history.plan, history.columns());
    let fixed = ["at", "cluster", "offset_seconds", "name", "member", "agent", "labels"];
    let head: Vec<&str> = fixed.into_iter().chain(columns.iter().copied()).chain(["gap"]).collect();
    let head = lines(|writer| writer.write_record(&head));
    let pieces = history.series.into_iter().map(move |series| {
        let labels = serde_json::to_string(&series.labels)?;
        let agent = series.agent.map(|agent| agent.to_string()).unwrap_or_default();
        let (cluster, offset) = (series.cluster.to_string(), series.offset_seconds.to_string());
        let member = hex(series.member);
        let values: Vec<Option<&[f64]>> = columns.iter().map(|name| series.column(name)).collect();
        lines(|writer| {
            for (step, at) in plan.steps().enumerate() {
                let at_text = time(at).to_rfc3339_opts(SecondsFormat::Secs, true);
                for field in [&at_text, &cluster, &offset, &series.name, &member, &agent, &labels] {
                    writer.write_field(field)?;
                }
                for column in &values {
                    let value = column.and_then(|values| values.get(step)).filter(|value| value.is_finite());
                    writer.write_field(value.map(|value| format!("{value:?}")).unwrap_or_default())?;
                }
                writer.write_field(reason(&series, at).unwrap_or_default())?;
                writer.write_record(None::<&[u8]>)?;
            }
            Ok(())
        })
    });
    std::iter::once(head).chain(pieces)
}

fn lines(
    write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> Result<(), csv::Error>,
) -> Result<Bytes, std::io::Error> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    write(&mut writer)?;
    let lines = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    Ok(lines.into())
}
