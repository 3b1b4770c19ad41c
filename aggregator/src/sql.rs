//! SQL for people: one read-only SELECT over the telemetry, whoever brings it and however. There is one gate for the REST
//! interface and the ClickHouse endpoint, and it is this module:
//!
//! text → [`text`] (format clause, lookups of clients) → parsed by the engine, under the fence already → [`gate`] (allow-lists
//! over the tree) → run under the fence → bytes as they come.
//!
//! The fence below it does not depend on what is decided here: embedded it is [`crate::engine::reader`], at a server the
//! profile and grants of a user of its own, whose [`standing`] is looked at before it is used.
//!
//! SQL sees every cluster. It has a few turns of its own, so that it takes none from the API's queries, and inserts do not
//! wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::error::SqlError;
pub use self::format::Format;
pub use self::source::{Server, Source};

mod error;
mod format;
pub mod gate;
pub mod native;
mod source;
pub mod standing;
pub mod text;

/// Statements at the same time; more wait for [`WAIT`] and are then sent away.
pub const TURNS: usize = 2;

/// How long a statement waits for its turn.
const WAIT: Duration = Duration::from_secs(5);

/// Longest time of a statement, in seconds: with [`WAIT`] it is less than the API gives a request.
pub const MAX_SECONDS: u64 = 20;

/// After so long an answer gives back its turn, whether or not it was read: its statement has ended by then.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// Most bytes of all parameters together: they travel in an address.
const MAX_PARAMETER_BYTES: usize = 16 << 10;

/// Most bytes of a tree: the engine makes at most 50,000 nodes.
const MAX_TREE_BYTES: usize = 16 << 20;

/// What a statement may take. `None` is the highest value there is; a higher one is lowered to that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time in seconds.
    pub seconds: Option<u64>,
    /// Rows of the answer.
    pub rows: Option<u64>,
    /// Bytes of the answer in the engine's memory.
    pub bytes: Option<u64>,
    /// Rows that are read for it.
    pub rows_read: Option<u64>,
    /// Memory for it, in bytes.
    pub memory_bytes: Option<u64>,
}

/// What somebody asks.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The SQL.
    pub text: String,
    /// The format when the SQL names none.
    pub format: Format,
    /// Values of `{name:Type}` placeholders, as ClickHouse's HTTP interface takes them; see [`parameter`].
    pub parameters: Vec<(String, String)>,
    /// Limits below the highest ones.
    pub limits: Limits,
}

/// What became of statements.
#[derive(Debug, Default)]
pub struct Counters {
    answered: AtomicU64,
    refused: AtomicU64,
    limited: AtomicU64,
    failed: AtomicU64,
    busy: AtomicU64,
}

impl Counters {
    /// (outcome, statements): `answered` (the answer began), `refused` by the gate or its rules, `limited`, `failed`
    /// (their own fault, or the store's), `busy` (no turn to be had).
    pub fn by_outcome(&self) -> [(&'static str, u64); 5] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("answered", value(&self.answered)),
            ("refused", value(&self.refused)),
            ("limited", value(&self.limited)),
            ("failed", value(&self.failed)),
            ("busy", value(&self.busy)),
        ]
    }

    fn count(&self, error: Option<&SqlError>) {
        let counter = match error {
            None => &self.answered,
            Some(SqlError::Refused(_)) => &self.refused,
            Some(SqlError::Limit { .. }) => &self.limited,
            Some(SqlError::Busy) => &self.busy,
            Some(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The way to ask. Cheap to clone.
#[derive(Clone)]
pub struct Sql {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    database: String,
    turns: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Sql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sql").field("database", &self.shared.database).finish_non_exhaustive()
    }
}

/// An answer as it comes. Dropping it ends the statement.
pub struct Answer {
    /// Its format.
    pub format: Format,
    /// Name of the statement, for logs.
    pub id: Uuid,
    /// Rows that were read for it, when it is known by now: short answers are whole before they begin.
    pub rows_read: Option<u64>,
    body: reqwest::Response,
    turn: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("format", &self.format).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Answer {
    /// Its bytes. An error means that what came so far is not all.
    pub fn into_bytes(self) -> impl Stream<Item = Result<Bytes, SqlError>> + Send + 'static {
        self.bytes_within(LONGEST_ANSWER)
    }

    fn bytes_within(self, longest: Duration) -> impl Stream<Item = Result<Bytes, SqlError>> + Send + 'static {
        let Self { body, turn, .. } = self;
        // The turn is given back with the last byte. Nobody asks for that one while a client does not read, so somebody else
        // looks at the clock.
        let read = CancellationToken::new();
        let reading = read.clone().drop_guard();
        tokio::spawn(async move {
            let _read_or_not = tokio::time::timeout(longest, read.cancelled()).await;
            drop(turn);
        });
        let pieces = body.bytes_stream().map(|piece| piece.map_err(SqlError::Broken));
        stream::unfold((Box::pin(pieces), reading), |(mut pieces, reading)| async move {
            pieces.next().await.map(|piece| (piece, (pieces, reading)))
        })
        // Some ask again after the end.
        .fuse()
    }
}

impl Sql {
    /// Asks `source` about `database`.
    pub fn new(source: Source, database: &str) -> Self {
        let shared = Shared {
            source,
            database: database.to_owned(),
            turns: Arc::new(Semaphore::new(TURNS)),
            counters: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Name of the database that is asked about.
    pub fn database(&self) -> &str {
        &self.shared.database
    }

    /// What became of statements.
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Looks whether the user at a server is fit for this, so that one who is not is told at the start and not with the
    /// first question.
    ///
    /// # Errors
    /// When it is not, or the server can't be asked.
    pub async fn check(&self) -> Result<(), SqlError> {
        self.shared.source.check(&self.shared.database).await
    }

    /// Judges a statement and begins to run it.
    ///
    /// # Errors
    /// When it is refused, fails, exceeds a limit, or the store is away.
    pub async fn ask(&self, statement: Statement) -> Result<Answer, SqlError> {
        let result = self.begin(statement).await;
        self.shared.counters.count(result.as_ref().err());
        result
    }

    async fn begin(&self, statement: Statement) -> Result<Answer, SqlError> {
        let Shared { source, database, turns, .. } = self.shared.as_ref();
        let prepared = text::prepare(&statement.text, database)?;
        let format = match &prepared.format {
            None => statement.format,
            Some(name) => Format::by_name(name).ok_or_else(|| unknown_format(name))?,
        };
        let bytes: usize = statement.parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_PARAMETER_BYTES {
            let text = format!("parameters have at most {MAX_PARAMETER_BYTES} bytes together");
            return Err(gate::Refusal(text).into());
        }
        let turn = tokio::time::timeout(WAIT, turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| SqlError::Busy)?.map_err(|_| SqlError::Busy)?;
        source.check(database).await?;
        let limits = statement.limits;
        let seconds = limits.seconds.map_or(MAX_SECONDS, |seconds| seconds.min(MAX_SECONDS));
        let limits = Limits { seconds: Some(seconds), ..limits };
        let ask =
            |sql, format| source::Ask { sql, database, format, parameters: &statement.parameters, limits };
        let tree =
            source.fetch(ask(format!("{EXPLAIN}{}", prepared.sql), "JSONCompactEachRow"), EXPLAIN).await?;
        let verdict = gate::judge(lines(&tree)?.iter().map(String::as_str), database)?;
        if let Some(format) = verdict.format {
            return Err(gate::Refusal(format!(
                "FORMAT {format} must stand at the very end of the statement"
            ))
            .into());
        }
        let (id, body) = source.begin(ask(prepared.with_definitions(), format.name()), "").await?;
        let rows_read = source::rows_read(&body);
        Ok(Answer { format, id, rows_read, body, turn })
    }
}

/// Begin of the statement that gives the tree; it is on the first line, so that positions in errors can be put right.
const EXPLAIN: &str = "EXPLAIN AST ";

fn unknown_format(name: &str) -> SqlError {
    gate::Refusal(format!("the format {name:?} is not answered here; these are: {}", Format::names())).into()
}

/// The lines of a tree, each in a JSON array of its own.
fn lines(tree: &[u8]) -> Result<Vec<String>, SqlError> {
    let unreadable = |_| SqlError::Failed("the engine's tree of the statement can't be read".to_owned());
    let rows = serde_json::Deserializer::from_slice(tree).into_iter::<[String; 1]>();
    rows.map(|row| row.map(|[line]| line)).collect::<Result<_, _>>().map_err(unreadable)
}

/// A value as ClickHouse's HTTP interface takes one for a placeholder: text as it is, with its line breaks, tabs and
/// backslashes escaped; null as `\N`; a list as `[…]`, with quoted texts.
///
/// # Errors
/// For objects, which no type of a placeholder can take.
pub fn parameter(value: &Value) -> Result<String, gate::Refusal> {
    match value {
        Value::Null => Ok("\\N".to_owned()),
        Value::String(text) => {
            Ok(text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r"))
        }
        Value::Array(items) => {
            let items: Result<Vec<String>, gate::Refusal> = items.iter().map(element).collect();
            Ok(format!("[{}]", items?.join(",")))
        }
        Value::Object(_) => {
            Err(gate::Refusal("a parameter is text, a number, true, false, null or a list".to_owned()))
        }
        other => Ok(other.to_string()),
    }
}

fn element(value: &Value) -> Result<String, gate::Refusal> {
    match value {
        Value::Null => Ok("NULL".to_owned()),
        Value::String(text) => Ok(text::literal(text)),
        other => parameter(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_written_as_clickhouse_reads_them() {
        let written = |value| parameter(&value).unwrap();
        assert_eq!(written(json!("a\tb\\c\nd'e")), "a\\tb\\\\c\\nd'e");
        assert_eq!(written(json!(1.5)), "1.5");
        assert_eq!(written(json!(null)), "\\N");
        assert_eq!(written(json!(["it's", 2, [true]])), "['it\\'s',2,[true]]");
        assert!(parameter(&json!({"a": 1})).is_err() && parameter(&json!([{}])).is_err());
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_gives_back_its_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let time = Duration::from_millis(100);
        let answer = |longest| {
            let turn = turns.clone().try_acquire_owned().unwrap();
            let body = axum::http::Response::new("1\n").into();
            let format = Format::by_name("TSV").unwrap();
            Answer { format, id: Uuid::nil(), rows_read: None, body, turn }.bytes_within(longest)
        };
        let next = || tokio::time::timeout(10 * time, turns.acquire());
        let unread = answer(time);
        assert!(turns.try_acquire().is_err(), "it is being answered");
        assert!(next().await.is_ok(), "its time is over");
        drop(unread);
        let dropped = answer(Duration::MAX);
        drop(dropped);
        assert!(next().await.is_ok(), "its reader is gone");
        let bytes: Vec<_> = answer(Duration::MAX).collect().await;
        assert_eq!(bytes.into_iter().next().unwrap().unwrap(), "1\n");
        assert!(next().await.is_ok(), "it is read");
    }

    #[test]
    fn a_tree_is_read_line_by_line_and_nothing_else_is_a_tree() {
        assert_eq!(lines(b"[\"SelectQuery\"]\n[\" a\\nb\"]\n").unwrap(), ["SelectQuery", " a\nb"]);
        for bad in [&b"SelectQuery"[..], b"[1]", b"[\"a\",\"b\"]", b"[\"a\""] {
            assert!(lines(bad).is_err(), "{bad:?}");
        }
    }
}
