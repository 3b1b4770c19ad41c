//! State in an embedded SQLite file: one thread owns the connection, everybody else sends it work and waits.
//!
//! WAL with `synchronous=FULL`: a commit that returned survives kill -9 and power loss. A lock file keeps a second
//! process out; the kernel drops the lock with the process, so there are no stale ones.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Change, Entity, Expected, LogEntry, OutboxItem, StateError, TOLD, kind};

/// Format of the tables; `PRAGMA user_version`.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE entity (
        kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, json TEXT NOT NULL,
        PRIMARY KEY (kind, id)
    ) WITHOUT ROWID;
    CREATE TABLE log (
        number INTEGER PRIMARY KEY AUTOINCREMENT, log TEXT NOT NULL, at_ns INTEGER NOT NULL, json TEXT NOT NULL
    );
    CREATE INDEX log_by_name ON log (log, number);
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT, delivery TEXT NOT NULL, receiver TEXT NOT NULL,
        grouping TEXT NOT NULL, created_at_ns INTEGER NOT NULL, json TEXT NOT NULL
    );
    PRAGMA user_version = 1;
";

/// Requests waiting for the writer; who sends the next one waits.
const QUEUE: usize = 256;

/// Lines kept per log; older ones go when new ones come.
const LOG_LINES_KEPT: i64 = 100_000;

type Reply<T> = oneshot::Sender<Result<T, StateError>>;

enum Request {
    Commit(Vec<Change>, Reply<Vec<i64>>),
    List(&'static str, Reply<Vec<Entity>>),
    Outbox(Reply<Vec<OutboxItem>>),
    Log(&'static str, u32, Reply<Vec<LogEntry>>),
    LogAfter(&'static str, i64, u32, Reply<Vec<LogEntry>>),
}

/// Handle to the state. Cheap to clone; the file is closed when the last one is gone.
#[derive(Debug, Clone)]
pub struct State {
    requests: SyncSender<Request>,
    untold: Arc<AtomicU64>,
}

impl State {
    /// Opens the state in `directory`, making it if need be.
    ///
    /// # Errors
    /// When the directory can't be used or is in use, and when the database is damaged, too new or on a full disk.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let unusable = |source| StateError::Directory { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(unusable)?;
        let lock = lock(directory)?;
        let untold = Arc::<AtomicU64>::default();
        let store = Store::open(directory.join("state.sqlite"), untold.clone())?;
        let (requests, inbox) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                store.serve(&inbox);
                drop(lock);
            })
            .map_err(unusable)?;
        Ok(Self { requests, untold })
    }

    /// Makes all changes or none, durably. Returns the outbox numbers of its [`Change::Enqueue`]s, in their order.
    ///
    /// # Errors
    /// When an entity is not as expected, the disk is full, or SQLite fails otherwise.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<Vec<i64>, StateError> {
        self.ask(|reply| Request::Commit(changes, reply)).await
    }

    /// All entities of a kind, by id.
    ///
    /// # Errors
    /// When SQLite fails.
    pub async fn list(&self, kind: &'static str) -> Result<Vec<Entity>, StateError> {
        self.ask(|reply| Request::List(kind, reply)).await
    }

    /// Everything in the outbox, oldest first.
    ///
    /// # Errors
    /// When SQLite fails.
    pub async fn outbox(&self) -> Result<Vec<OutboxItem>, StateError> {
        self.ask(Request::Outbox).await
    }

    /// The last `limit` lines of a log, newest first.
    ///
    /// # Errors
    /// When SQLite fails.
    pub async fn log(&self, log: &'static str, limit: u32) -> Result<Vec<LogEntry>, StateError> {
        self.ask(|reply| Request::Log(log, limit, reply)).await
    }

    /// The first `limit` lines of a log after line number `after`, oldest first.
    ///
    /// # Errors
    /// When SQLite fails.
    pub async fn log_after(
        &self,
        log: &'static str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LogEntry>, StateError> {
        self.ask(|reply| Request::LogAfter(log, after, limit, reply)).await
    }

    /// Lines of the logs in [`TOLD`] that were lost before they could be stored in ClickHouse, since the process began.
    pub fn untold_lines(&self) -> u64 {
        self.untold.load(Ordering::Relaxed)
    }

    /// Counts such lines that never came as far as a log.
    pub fn count_untold(&self, lines: u64) {
        self.untold.fetch_add(lines, Ordering::Relaxed);
    }

    /// A full queue holds this up, and with it whoever produces changes; the writer never waits for anybody.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StateError> {
        let (reply, answer) = oneshot::channel();
        let mut request = request(reply);
        loop {
            match self.requests.try_send(request) {
                Ok(()) => break,
                Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return Err(StateError::Closed),
                Err(std::sync::mpsc::TrySendError::Full(back)) => {
                    request = back;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        }
        answer.await.unwrap_or(Err(StateError::Closed))
    }
}

fn lock(directory: &Path) -> Result<File, StateError> {
    let unusable = |source| StateError::Directory { path: directory.to_owned(), source };
    let path = directory.join("lock");
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Only a courtesy: the message does without the pid when it can't be read.
            let _unreadable = file.read_to_string(&mut text);
            let pid = text.trim();
            let holder = if pid.is_empty() { String::new() } else { format!(" (pid {pid})") };
            return Err(StateError::InUse { path: directory.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    // The pid is a courtesy too: a full disk will be told by the database with a better message.
    let _unwritable =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(file)
}

struct Store {
    path: PathBuf,
    connection: Connection,
    untold: Arc<AtomicU64>,
}

impl Store {
    fn open(path: PathBuf, untold: Arc<AtomicU64>) -> Result<Self, StateError> {
        let connection = Connection::open(&path).map_err(|e| failure(&path, "open", e))?;
        let store = Self { path, connection, untold };
        let fail = |attempt, error| failure(&store.path, attempt, error);
        store
            .connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                 PRAGMA wal_autocheckpoint = 500; PRAGMA journal_size_limit = 4194304;",
            )
            .map_err(|e| fail("configure", e))?;
        store.check()?;
        let format: i64 = store
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(|e| fail("read the format", e))?;
        match format {
            0 => store
                .connection
                .execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))
                .map_err(|e| fail("create the tables", e))?,
            FORMAT => {}
            found => return Err(StateError::TooNew { path: store.path.clone(), found, known: FORMAT }),
        }
        Ok(store)
    }

    fn check(&self) -> Result<(), StateError> {
        let found: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|e| failure(&self.path, "check", e))?;
        if found == "ok" {
            return Ok(());
        }
        let what = found.lines().last().unwrap_or_default().to_owned();
        Err(StateError::Corrupt { path: self.path.clone(), what })
    }

    fn serve(mut self, inbox: &Receiver<Request>) {
        // A caller that no longer waits for its answer does not need it.
        while let Ok(request) = inbox.recv() {
            match request {
                Request::Commit(changes, reply) => drop(reply.send(self.commit(changes))),
                Request::List(kind, reply) => drop(reply.send(self.list(kind))),
                Request::Outbox(reply) => drop(reply.send(self.outbox())),
                Request::Log(log, limit, reply) => drop(reply.send(self.log(log, limit))),
                Request::LogAfter(log, after, limit, reply) => {
                    drop(reply.send(self.log_after(log, after, limit)));
                }
            }
        }
    }

    fn commit(&mut self, changes: Vec<Change>) -> Result<Vec<i64>, StateError> {
        let path = &self.path;
        let transaction =
            self.connection.transaction().map_err(|e| failure(path, "begin a transaction", e))?;
        let (mut numbers, mut untold) = (Vec::new(), 0);
        for change in changes {
            numbers.extend(apply(&transaction, path, change, &mut untold)?);
        }
        transaction.commit().map_err(|e| failure(path, "commit", e))?;
        self.untold.fetch_add(untold, Ordering::Relaxed);
        Ok(numbers)
    }

    fn list(&self, kind: &str) -> Result<Vec<Entity>, StateError> {
        self.select(
            "list entities",
            "SELECT kind, id, version, json FROM entity WHERE kind = ?1 ORDER BY id",
            [kind],
            |row| {
                Ok(Entity {
                    kind: row.get(0)?,
                    id: row.get(1)?,
                    version: row.get::<_, i64>(2)?.unsigned_abs(),
                    json: json(row, 3)?,
                })
            },
        )
    }

    fn outbox(&self) -> Result<Vec<OutboxItem>, StateError> {
        const SQL: &str =
            "SELECT number, delivery, receiver, grouping, created_at_ns, json FROM outbox ORDER BY number";
        self.select("read the outbox", SQL, [], |row| {
            Ok(OutboxItem {
                number: row.get(0)?,
                delivery: row.get(1)?,
                receiver: row.get(2)?,
                group: row.get(3)?,
                created_at_ns: row.get(4)?,
                json: json(row, 5)?,
            })
        })
    }

    fn log(&self, log: &str, limit: u32) -> Result<Vec<LogEntry>, StateError> {
        const SQL: &str = "SELECT number, at_ns, json FROM log WHERE log = ?1 ORDER BY number DESC LIMIT ?2";
        self.select("read a log", SQL, params![log, limit], |row| {
            Ok(LogEntry { number: row.get(0)?, at_ns: row.get(1)?, json: json(row, 2)? })
        })
    }

    fn log_after(&self, log: &str, after: i64, limit: u32) -> Result<Vec<LogEntry>, StateError> {
        const SQL: &str =
            "SELECT number, at_ns, json FROM log WHERE log = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
        self.select("read a log", SQL, params![log, after, limit], |row| {
            Ok(LogEntry { number: row.get(0)?, at_ns: row.get(1)?, json: json(row, 2)? })
        })
    }

    fn select<T>(
        &self,
        attempt: &'static str,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StateError> {
        let rows = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map(parameters, read)?.collect()
        };
        rows().map_err(|e| failure(&self.path, attempt, e))
    }
}

fn json(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Value> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Makes one change; the number of the outbox row when it was an enqueue.
fn apply(
    transaction: &Connection,
    path: &Path,
    change: Change,
    untold: &mut u64,
) -> Result<Option<i64>, StateError> {
    let fail = |attempt| move |e| failure(path, attempt, e);
    match change {
        Change::Put { kind, id, expected, json } => {
            put(transaction, kind, &id, expected, &json)
                .map_err(fail("write an entity"))?
                .then_some(())
                .ok_or(StateError::Conflict { kind, id })?;
        }
        Change::Delete { kind, id } => {
            transaction
                .prepare_cached("DELETE FROM entity WHERE kind = ?1 AND id = ?2")
                .and_then(|mut sql| sql.execute([kind, &id]))
                .map_err(fail("remove an entity"))?;
        }
        Change::Append { log, at_ns, json } => {
            *untold += append(transaction, log, at_ns, &json).map_err(fail("append to a log"))?;
        }
        Change::Enqueue { delivery, receiver, group, created_at_ns, json } => {
            transaction
                .prepare_cached(
                    "INSERT INTO outbox (delivery, receiver, grouping, created_at_ns, json) VALUES (?1, ?2, ?3, ?4, ?5)",
                )
                .and_then(|mut sql| {
                    sql.execute(params![delivery, receiver, group, created_at_ns, json.to_string()])
                })
                .map_err(fail("write to the outbox"))?;
            return Ok(Some(transaction.last_insert_rowid()));
        }
        Change::Dequeue { number } => {
            transaction
                .prepare_cached("DELETE FROM outbox WHERE number = ?1")
                .and_then(|mut sql| sql.execute([number]))
                .map_err(fail("remove from the outbox"))?;
        }
    }
    Ok(None)
}

/// False when the entity is not as expected.
fn put(
    transaction: &Connection,
    kind: &str,
    id: &str,
    expected: Expected,
    json: &Value,
) -> rusqlite::Result<bool> {
    let version: Option<i64> = transaction
        .prepare_cached("SELECT version FROM entity WHERE kind = ?1 AND id = ?2")?
        .query_row([kind, id], |row| row.get(0))
        .optional()?;
    let as_expected = match expected {
        Expected::Anything => true,
        Expected::Absent => version.is_none(),
        Expected::Version(wanted) => version.and_then(|v| u64::try_from(v).ok()) == Some(wanted),
    };
    if as_expected {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO entity (kind, id, version, json) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![kind, id, version.unwrap_or(0) + 1, json.to_string()])?;
    }
    Ok(as_expected)
}

/// How many old lines went that were not stored in ClickHouse yet, and should have been.
fn append(transaction: &Connection, log: &str, at_ns: i64, json: &Value) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached("INSERT INTO log (log, at_ns, json) VALUES (?1, ?2, ?3)")?
        .execute(params![log, at_ns, json.to_string()])?;
    // All logs share their numbers, so most have far fewer lines than that; where the first one is young there is nothing to count.
    let oldest: i64 = transaction
        .prepare_cached("SELECT min(number) FROM log WHERE log = ?1")?
        .query_row([log], |row| row.get(0))?;
    if transaction.last_insert_rowid() - oldest < LOG_LINES_KEPT {
        return Ok(0);
    }
    let last_to_go: Option<i64> = transaction
        .prepare_cached("SELECT number FROM log WHERE log = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![log, LOG_LINES_KEPT], |row| row.get(0))
        .optional()?;
    let Some(last_to_go) = last_to_go else { return Ok(0) };
    let untold: i64 = match TOLD.contains(&log) {
        true => transaction
            .prepare_cached(
                "SELECT count(*) FROM log WHERE log = ?1 AND number <= ?2 AND number > coalesce((SELECT \
                 json_extract(json, '$.number') FROM entity WHERE kind = ?3 AND id = ?1), 0)",
            )?
            .query_row(params![log, last_to_go, kind::TRANSCRIPT], |row| row.get(0))?,
        false => 0,
    };
    transaction
        .prepare_cached("DELETE FROM log WHERE log = ?1 AND number <= ?2")?
        .execute(params![log, last_to_go])?;
    Ok(untold.unsigned_abs())
}

fn failure(path: &Path, attempt: &'static str, source: rusqlite::Error) -> StateError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StateError::Full { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StateError::Corrupt { path, what: source.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StateError::InUse { path, holder: String::new() }
        }
        _ => StateError::Sqlite { path, attempt, source },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::log;
    use super::*;

    #[test]
    fn each_log_keeps_its_own_lines_however_many_the_others_have() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        let add = |log| append(&connection, log, 0, &json!({})).unwrap();
        let lines = |log: &str| -> i64 {
            connection.query_row("SELECT count(*) FROM log WHERE log = ?1", [log], |row| row.get(0)).unwrap()
        };
        add(log::ENROLMENT);
        let many = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?2) \
                    INSERT INTO log (log, at_ns, json) SELECT ?1, 0, '{}' FROM n";
        connection.execute(many, params![log::ALERT, LOG_LINES_KEPT]).unwrap();
        assert_eq!((add(log::ENROLMENT), lines(log::ENROLMENT)), (0, 2), "the flood was another's");
        assert_eq!((add(log::ALERT), lines(log::ALERT)), (1, LOG_LINES_KEPT), "the first one goes, untold");
        add(log::LEADER);
        assert_eq!((add(log::ALERT), lines(log::ALERT)), (1, LOG_LINES_KEPT));
    }
}
