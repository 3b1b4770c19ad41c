//! The only reader of the telemetry tables.
//!
//! Every question is bounded: a time range, a limit on rows, a deadline and a memory cap in the engine. Values that come
//! from outside are bound as parameters, never pasted into SQL. Nothing here is needed for alerting, which reads the
//! live stream; a query simply fails while ClickHouse is away.

use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_proto::v1::FileClass;
use uuid::Uuid;

use crate::store::{Client, ClientError, Retention};

mod autopsies;
mod capacity;
mod events;
mod latency;
mod ledger;
mod metrics;
mod series;
mod syncs;

pub use autopsies::{SlowSync, SlowSyncFilter};
pub use capacity::{Fill, PrefixSize};
pub use events::{Event, EventFilter};
pub use latency::{Latency, LatencyBucket};
pub use ledger::{Blind, LedgerAccount};
pub use metrics::MetricSample;
pub use series::{
    Apart, Ask, DEFAULT_POINTS, Function, Gap, Group, History, MAX_POINTS, MAX_VALUES, MetricScope,
    OthersScope, Plan, PlanError, Question, Resolution, Series, SyncScope,
};
pub use syncs::{Sync, SyncCount, SyncFilter};

/// Most rows a single answer may hold; a larger limit is cut to this.
pub const MAX_ROWS: u64 = 10_000;

/// Longest time a query may run in the engine.
const MAX_EXECUTION: Duration = Duration::from_secs(10);

/// Most memory a query may take in the engine, in bytes.
const MAX_MEMORY_BYTES: u64 = 512 << 20;

/// A question that found no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// ClickHouse is not there now; asking again later can help.
    #[error("telemetry store is not available")]
    Unavailable(#[source] ClientError),
    /// The answer would be larger than [`MAX_ROWS`] allows or takes too long; a narrower range helps.
    #[error("answer too large or too slow, ask for a narrower range")]
    TooMuch(#[source] Option<clickhouse::error::Error>),
    /// The answer would have more than one answer may have.
    #[error("the answer has more than {limit} {what}: take longer steps, a narrower range, or fewer series")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// ClickHouse refused or lost the query.
    #[error("query {name} failed")]
    Failed {
        /// Which question.
        name: &'static str,
        /// What ClickHouse or the connection said.
        #[source]
        source: clickhouse::error::Error,
    },
}

/// Half-open range of wall time: `from <= t < to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// Inclusive begin.
    pub from: DateTime<Utc>,
    /// Exclusive end.
    pub to: DateTime<Utc>,
}

/// Handle to the tables. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Query {
    client: Client,
    retention: Retention,
}

/// The file class of a name as the API and the tables write it (`wal`, `backend` …).
pub fn class_by_name(name: &str) -> Option<FileClass> {
    FileClass::ALL.into_iter().find(|class| class.name() == name)
}

impl Query {
    /// Reads through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, retention: Retention::default() }
    }

    /// Knows how long the rows of each table are kept.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// How long the rows of each table are kept.
    pub const fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Whether ClickHouse answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), QueryError> {
        let _: Vec<u8> = self.select("ping", "SELECT toUInt8(1)").fetch().await?;
        Ok(())
    }

    fn select(&self, name: &'static str, sql: impl Into<String>) -> Select {
        Select { client: self.client.clone(), name, sql: sql.into(), parameters: Vec::new() }
    }
}

/// A SELECT on its way: SQL with `{name:Type}` placeholders and their values.
struct Select {
    client: Client,
    name: &'static str,
    sql: String,
    parameters: Vec<(&'static str, Value)>,
}

#[derive(Clone, Debug)]
enum Value {
    Signed(i64),
    Unsigned(u64),
    Text(String),
    Numbers(Vec<u64>),
    Texts(Vec<String>),
}

impl Select {
    /// Adds SQL text. Only literals of this program go in.
    fn sql(mut self, text: &'static str) -> Self {
        self.sql.push_str(text);
        self
    }

    fn unsigned(mut self, name: &'static str, value: u64) -> Self {
        self.parameters.push((name, Value::Unsigned(value)));
        self
    }

    fn text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.parameters.push((name, Value::Text(value.into())));
        self
    }

    fn texts(mut self, name: &'static str, values: &[String]) -> Self {
        self.parameters.push((name, Value::Texts(values.to_vec())));
        self
    }

    /// Values for `{cluster:String}`.
    fn cluster(self, cluster: Uuid) -> Self {
        self.text("cluster", cluster.to_string())
    }

    /// Values for [`IN_RANGE`].
    fn range(mut self, range: TimeRange) -> Self {
        self.parameters.push(("from", Value::Signed(nanoseconds(range.from))));
        self.parameters.push(("to", Value::Signed(nanoseconds(range.to))));
        self
    }

    /// ` AND member = …` when a member is asked for.
    fn member(self, member: Option<u64>) -> Self {
        match member {
            Some(member) => self.sql(" AND member = {member:UInt64}").unsigned("member", member),
            None => self,
        }
    }

    fn numbers(mut self, name: &'static str, values: &[u64]) -> Self {
        self.parameters.push((name, Value::Numbers(values.to_vec())));
        self
    }

    /// ` AND member IN …` when some members are asked for.
    fn members(self, members: &[u64]) -> Self {
        self.sql(in_members(members)).numbers("members", members)
    }

    /// ` AND class = …` when a class is asked for.
    fn class(self, class: Option<FileClass>) -> Self {
        match class {
            Some(class) => self.sql(" AND class = {class:String}").text("class", class.name()),
            None => self,
        }
    }

    /// All rows of the answer.
    async fn fetch<T>(self) -> Result<Vec<T>, QueryError>
    where
        T: clickhouse::RowOwned + clickhouse::RowRead,
    {
        let client = self.client.connect().map_err(QueryError::Unavailable)?;
        let mut query = client
            .query_raw(&self.sql)
            .with_setting("max_execution_time", MAX_EXECUTION.as_secs().to_string())
            .with_setting("max_memory_usage", MAX_MEMORY_BYTES.to_string());
        for (name, value) in &self.parameters {
            query = match value {
                Value::Signed(value) => query.param(name, value),
                Value::Unsigned(value) => query.param(name, value),
                Value::Text(value) => query.param(name, value),
                Value::Numbers(values) => query.param(name, values),
                Value::Texts(values) => query.param(name, values),
            };
        }
        // The engine's own limit comes first; this one is for a connection that went silent.
        let answer =
            tokio::time::timeout(MAX_EXECUTION + Duration::from_secs(5), query.fetch_all::<T>()).await;
        answer.unwrap_or(Err(clickhouse::error::Error::TimedOut)).map_err(|error| failed(self.name, error))
    }
}

/// SQL condition on `member` when some are asked for; its value is `{members:Array(UInt64)}`.
const fn in_members(members: &[u64]) -> &'static str {
    if members.is_empty() { "" } else { " AND member IN {members:Array(UInt64)}" }
}

/// SQL condition on `at`; its values come from [`Select::range`].
const IN_RANGE: &str =
    " at >= fromUnixTimestamp64Nano({from:Int64}, 'UTC') AND at < fromUnixTimestamp64Nano({to:Int64}, 'UTC')";

fn failed(name: &'static str, error: clickhouse::error::Error) -> QueryError {
    use clickhouse::error::Error;
    // Codes of the limits set above: time, rows, result size, memory.
    const LIMITS: [&str; 4] = ["Code: 159.", "Code: 158.", "Code: 396.", "Code: 241."];
    match error {
        Error::TimedOut => QueryError::TooMuch(Some(Error::TimedOut)),
        Error::BadResponse(text) if LIMITS.iter().any(|code| text.starts_with(code)) => {
            QueryError::TooMuch(Some(Error::BadResponse(text)))
        }
        Error::Network(source) => QueryError::Unavailable(ClientError::Unreachable(Error::Network(source))),
        source => QueryError::Failed { name, source },
    }
}

/// Nanoseconds since the Unix epoch, cut to what a `DateTime64(9)` can hold.
fn nanoseconds(time: DateTime<Utc>) -> i64 {
    time.timestamp_nanos_opt().unwrap_or(if time.timestamp() < 0 { 0 } else { i64::MAX })
}

fn wall(nanoseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(nanoseconds)
}
