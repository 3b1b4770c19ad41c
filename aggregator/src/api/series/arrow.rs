//! History as an Arrow IPC stream: a row for each series and step, a record batch for each series.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampSecondArray,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use axum::body::Bytes;

use super::render::reason;
use crate::query::{History, Plan, Series};
use crate::view::hex;

type Piece = Result<Bytes, std::io::Error>;

/// The stream, piece by piece.
pub fn stream(history: History) -> Box<dyn Iterator<Item = Piece> + Send> {
    let (plan, columns) = (history.plan, history.columns());
    let schema = Arc::new(schema(&columns));
    let mut writer = match StreamWriter::try_new(Vec::new(), &schema) {
        Ok(writer) => writer,
        Err(error) => return Box::new(std::iter::once(Err(failed(error)))),
    };
    let mut series = history.series.into_iter();
    let mut has_ended = false;
    Box::new(std::iter::from_fn(move || {
        if has_ended {
            return None;
        }
        let written = match series.next() {
            Some(series) => batch(&plan, &columns, &schema, &series).and_then(|batch| writer.write(&batch)),
            None => {
                has_ended = true;
                writer.finish()
            }
        };
        has_ended |= written.is_err();
        Some(written.map(|()| Bytes::from(std::mem::take(writer.get_mut()))).map_err(failed))
    }))
}

fn failed(error: ArrowError) -> std::io::Error {
    std::io::Error::other(error)
}

fn schema(columns: &[&'static str]) -> Schema {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let mut fields = vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Second, Some("UTC".into())), false),
        text("cluster", false),
        Field::new("offset_seconds", DataType::Int64, false),
        text("name", false),
        text("member", false),
        text("agent", true),
        text("labels", false),
    ];
    fields.extend(columns.iter().map(|name| Field::new(*name, DataType::Float64, true)));
    fields.push(text("gap", true));
    fields.push(Field::new("live", DataType::Boolean, false));
    Schema::new(fields)
}

fn batch(
    plan: &Plan,
    columns: &[&'static str],
    schema: &Arc<Schema>,
    series: &Series,
) -> Result<RecordBatch, ArrowError> {
    let steps: Vec<i64> = plan.steps().collect();
    let count = steps.len();
    let same = |text: &str| Arc::new(StringArray::from(vec![text; count])) as ArrayRef;
    let labels =
        serde_json::to_string(&series.labels).map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
    let agent = series.agent.map(|agent| agent.to_string());
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(TimestampSecondArray::from(steps.clone()).with_timezone("UTC")),
        same(&series.cluster.to_string()),
        Arc::new(Int64Array::from(vec![series.offset_seconds; count])),
        same(&series.name),
        same(&hex(series.member)),
        Arc::new(StringArray::from(vec![agent.as_deref(); count])),
        same(&labels),
    ];
    for name in columns {
        let values = series.column(name);
        let value = |step| values?.get(step).copied().filter(|value: &f64| value.is_finite());
        arrays.push(Arc::new(Float64Array::from((0..count).map(value).collect::<Vec<Option<f64>>>())));
    }
    arrays.push(Arc::new(StringArray::from(
        steps.iter().map(|at| reason(series, *at)).collect::<Vec<Option<&str>>>(),
    )));
    let is_live = |at: &i64| series.live_from.is_some_and(|from| *at >= from);
    arrays.push(Arc::new(BooleanArray::from(steps.iter().map(is_live).collect::<Vec<bool>>())));
    RecordBatch::try_new(Arc::clone(schema), arrays)
}
