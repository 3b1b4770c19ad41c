//! Statements of users: the part of the fence that stands in the engine's own process.
//!
//! Whoever shows the reader's key gets here and nowhere else. A statement runs on a connection of its own that is closed
//! afterwards: settings stay with a connection, and so does what a failed statement had already written. In this order:
//!
//! 1. The engine's parser says what the text is: one statement, of the class that changes nothing. `readonly` alone would
//!    let `INTO OUTFILE` write a file. Text that does not parse is never run; [`why_not`] only asks what is wrong with it.
//! 2. Limits, each no higher than here: time, rows, bytes, memory, one thread; nothing spills to disk.
//! 3. `readonly = 1`, last: no writes, no change of a setting, not by a `SETTINGS` clause either.
//! 4. The answer goes through a pipe, whose other end counts ([`flow`]): the engine's memory limit does not count what an
//!    output format makes of a row, and a column with a long name is enough to make gigabytes of nothing.
//! 5. [`watch`]: when its time is over, or nobody waits for the answer any more, the statement is killed from another
//!    connection, and if it does not obey, the process ends and the supervisor starts another.
//!
//! Which tables, functions and formats a user may name is decided before, in [`crate::sql`]; sources of data outside of
//! the store are revoked for the whole process ([`super::child`]).

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use self::flow::{Flow, Stop};
use super::ffi::{Connection, FfiError};
use super::http::{HttpError, Parameters, identifier};
use super::pool::{Pool, PoolError};

pub mod flow;

/// Begin of the statement that shows the tree of another, which is not run.
const TREE: &str = "EXPLAIN AST ";

/// Statements of users at the same time; more wait. Little enough that inserts never wait for them.
pub const STATEMENTS: usize = 2;

/// Highest value of each limit that a request may name. Time in seconds, the rest in rows and bytes.
const CEILINGS: [(&str, u64); 5] = [
    ("max_execution_time", 30),
    ("max_result_rows", 1_000_000),
    ("max_result_bytes", 64 << 20),
    ("max_rows_to_read", 2_000_000_000),
    (MEMORY, 512 << 20),
];

const MEMORY: &str = "max_memory_usage";

/// What else a statement runs under. Small blocks, because time is looked at between them; no machine code is made for
/// a statement that runs once.
const SETTINGS: &str = "implicit_select = 0, max_threads = 1, max_block_size = 16384, allow_ddl = 0, \
    allow_introspection_functions = 0, allow_hyperscan = 0, use_query_cache = 0, log_queries = 0, \
    max_bytes_before_external_group_by = 0, max_bytes_ratio_before_external_group_by = 0, \
    max_bytes_before_external_sort = 0, max_bytes_ratio_before_external_sort = 0, \
    max_bytes_before_external_join = 0, max_bytes_ratio_before_external_join = 0, \
    compile_expressions = 0, compile_aggregate_expressions = 0, compile_sort_description = 0, \
    result_overflow_mode = 'throw', read_overflow_mode = 'throw', timeout_overflow_mode = 'throw', \
    timeout_before_checking_execution_speed = 0, function_sleep_max_microseconds_per_block = 1, \
    function_range_max_elements_in_block = 10000000, \
    max_expanded_ast_elements = 100000";

/// Beyond its time limit a statement gets this long before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a killed statement may take to end before the process does.
const OBEY: Duration = Duration::from_secs(20);

/// How often a statement that does not end is killed again: it may not have begun when it was first.
const KILL_EVERY: Duration = Duration::from_millis(250);

/// Exit code of a process in which a statement could not be ended: `EX_TEMPFAIL` of sysexits.h.
const EXIT_CODE: i32 = 75;

/// Runs statements of users. Cheap to clone.
#[derive(Clone)]
pub struct Readers {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    memory_bytes: u64,
}

/// What a statement is made of.
struct Work {
    parameters: Parameters,
    limits: String,
    /// Where the answer is written to.
    pipe: OwnedFd,
}

impl Readers {
    /// For the engine behind `pool`, whose statements together may take `memory_bytes`.
    pub fn new(pool: Arc<Pool>, memory_bytes: u64) -> Self {
        let permits = Arc::new(Semaphore::new(STATEMENTS));
        Self { pool, permits, stop: CancellationToken::new(), memory_bytes }
    }

    /// Kills what runs and waits for it, so that the store can be closed.
    pub async fn close(&self) {
        self.permits.close();
        self.stop.cancel();
        let all_ended = async {
            while self.permits.available_permits() < STATEMENTS {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // One that does not end is cut off with the process.
        let _cut_off = tokio::time::timeout(PATIENCE, all_ended).await;
    }

    /// Begins the statement of a request: its answer, as it comes. Dropping that ends the statement.
    ///
    /// # Errors
    /// When the request is none that could be run, or the engine ends.
    pub async fn run(&self, parameters: Parameters) -> Result<Flow, HttpError> {
        let id = parameters.query_id.clone().ok_or(HttpError::Malformed("query_id is missing"))?;
        let (limits, seconds) = limits(&parameters.settings, self.memory_bytes)?;
        let closed = |_| HttpError::Pool(PoolError::Closed);
        let permit = self.permits.clone().acquire_owned().await.map_err(closed)?;
        let stop = Stop::new(self.stop.child_token());
        let (pipe, written) = std::io::pipe().map_err(HttpError::Pipe)?;
        let (ended, outcome) = oneshot::channel();
        let flow = Flow::new(pipe.into(), outcome, stop.clone()).map_err(HttpError::Pipe)?;
        let deadline = Duration::from_secs(seconds) + PATIENCE;
        let over = CancellationToken::new();
        tokio::spawn(watch(self.pool.clone(), id, deadline, stop, over.clone()));
        let pool = self.pool.clone();
        let work = Work { parameters, limits, pipe: written.into() };
        let thread = tokio::task::spawn_blocking(move || {
            let _until_the_end = (permit, over.drop_guard());
            // The pipe is closed when this returns, so that its other end sees the end.
            run(&pool, work)
        });
        tokio::spawn(async move {
            let result = thread.await.unwrap_or_else(|error| Err(HttpError::Pool(PoolError::Thread(error))));
            // Nobody may wait for it any more.
            let _gone = ended.send(result);
        });
        Ok(flow)
    }
}

/// The limits as settings, and how long the statement may take in seconds.
fn limits(asked: &[(String, String)], memory_bytes: u64) -> Result<(String, u64), HttpError> {
    let known = |name: &String| CEILINGS.iter().any(|(known, _)| known == name);
    if let Some((name, _)) = asked.iter().find(|(name, _)| !known(name)) {
        return Err(HttpError::Fixed(name.clone()));
    }
    let mut set = SETTINGS.to_owned();
    let mut seconds = 0;
    for (name, ceiling) in CEILINGS {
        // A quarter, so that two statements leave room for inserts and merges.
        let ceiling = if name == MEMORY { ceiling.min(memory_bytes / 4) } else { ceiling };
        let value = match asked.iter().find(|(asked, _)| asked == name) {
            None => ceiling,
            Some((_, value)) => match value.parse::<u64>() {
                // Zero would mean no limit.
                Ok(value) if value > 0 => value.min(ceiling),
                _ => return Err(HttpError::Malformed("a limit is a whole number above zero")),
            },
        };
        if name == "max_execution_time" {
            seconds = value;
        }
        set.push_str(&format!(", {name} = {value}"));
    }
    Ok((set, seconds))
}

/// Runs the statement to its end; how many rows it read.
fn run(pool: &Pool, work: Work) -> Result<u64, HttpError> {
    let Work { parameters, limits, pipe } = work;
    let mut connection = pool.apart()?;
    let text = &parameters.query;
    let analysis = connection.classify(text).map_err(HttpError::Engine)?;
    for statement in [
        format!("USE {}", identifier(parameters.database.as_deref().unwrap_or("default"))),
        format!("SET {limits}"),
        "SET readonly = 1".to_owned(),
    ] {
        connection.query(&statement, "Null", &[]).map_err(HttpError::Engine)?;
    }
    match analysis.statements {
        // With its name in front, so that positions are those of a statement that runs.
        0 => return Err(why_not(&mut connection, &parameters.tagged(text))),
        1 if analysis.class == 0 => {}
        1 => return Err(HttpError::OnlyReads),
        _ => return Err(HttpError::OneStatement),
    }
    let format =
        parameters.default_format.as_deref().filter(|name| is_format(name)).unwrap_or("TabSeparated");
    if text.starts_with(TREE) {
        // Short, and nobody's output options may take effect: they would belong to the statement that is looked at.
        let answer = connection
            .query(&parameters.tagged(text), format, &parameters.bound)
            .map_err(HttpError::Engine)?;
        File::from(pipe).write_all(answer.as_ref()).map_err(HttpError::Pipe)?;
        return Ok(answer.rows_read());
    }
    let sql = format!(
        "{}\nINTO OUTFILE '/proc/self/fd/{}' TRUNCATE FORMAT {format}",
        parameters.tagged(text),
        pipe.as_raw_fd()
    );
    // Still one statement: what was added belongs to the text as a whole.
    if connection.classify(&sql).map_err(HttpError::Engine)?.statements != 1 {
        return Err(HttpError::OneStatement);
    }
    let answer = connection.query(&sql, "TabSeparated", &parameters.bound).map_err(HttpError::Engine)?;
    Ok(answer.rows_read())
}

/// A name that is nothing but a name.
fn is_format(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What the engine says about text that does not parse. The text is handed over as a value, so that nothing of it runs.
fn why_not(connection: &mut Connection, text: &str) -> HttpError {
    let value = text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\0', "\\0");
    let bound = [("text".to_owned(), value)];
    match connection.query("SELECT formatQuery({text:String})", "Null", &bound) {
        Err(FfiError::Engine(words)) => {
            // The statement that asked is nobody's business.
            let words = match words.split_once(": In scope SELECT formatQuery(") {
                Some((words, _)) => format!("{words}. (SYNTAX_ERROR)"),
                None => words,
            };
            HttpError::Engine(FfiError::Engine(words))
        }
        Err(error) => HttpError::Engine(error),
        Ok(_) => HttpError::Malformed("statement does not parse"),
    }
}

/// Sees to it that a statement ends.
async fn watch(pool: Arc<Pool>, id: String, deadline: Duration, stop: Stop, over: CancellationToken) {
    tokio::select! {
        biased;
        () = over.cancelled() => return,
        () = stop.asked() => {}
        () = tokio::time::sleep(deadline) => stop.ask(HttpError::Late),
    }
    let killing = async {
        loop {
            let (pool, id) = (pool.clone(), id.clone());
            // Not in the pool: a statement must end while every connection of the pool is busy.
            let _killed_later = tokio::task::spawn_blocking(move || kill(&pool, &id)).await;
            tokio::time::sleep(KILL_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        () = over.cancelled() => {}
        _never = killing => {}
        () = tokio::time::sleep(OBEY) => {
            eprintln!("error: statement {id} does not end although it was killed: ending, so that it does");
            // SAFETY: `_exit` runs no destructors; what is stored is on disk, and the supervisor starts another process.
            unsafe { libc::_exit(EXIT_CODE) }
        }
    }
}

/// Kills the statement of this id, if it runs. Ids hold no quote: [`Parameters`] checks them.
fn kill(pool: &Pool, id: &str) -> Result<(), HttpError> {
    let sql = format!("KILL QUERY WHERE startsWith(query, '/* query_id:{id} */') ASYNC");
    pool.apart()?.query(&sql, "Null", &[]).map(drop).map_err(HttpError::Engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<(String, u64), HttpError> {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        limits(&pairs, 1 << 30)
    }

    #[test]
    fn a_request_lowers_limits_and_never_raises_them() {
        let (set, seconds) = asked(&[]).unwrap();
        assert_eq!(seconds, 30);
        assert!(set.contains("max_memory_usage = 268435456"), "a quarter of the memory: {set}");
        let (set, seconds) =
            asked(&[("max_execution_time", "3"), ("max_result_rows", "99999999999")]).unwrap();
        assert_eq!(seconds, 3);
        assert!(set.contains("max_execution_time = 3") && set.contains("max_result_rows = 1000000"), "{set}");
    }

    #[test]
    fn a_request_sets_nothing_else() {
        for bad in
            [("readonly", "0"), ("max_threads", "8"), ("max_execution_time", "0"), ("max_result_rows", "-1")]
        {
            assert!(asked(&[bad]).is_err(), "{bad:?}");
        }
        assert!(asked(&[("max_result_bytes", "1, readonly = 0")]).is_err());
    }
}
