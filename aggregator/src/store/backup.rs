//! Copies of the embedded store, made and read by the engine itself (`BACKUP`, `RESTORE`), and a look at all of its parts.
//!
//! A copy is a directory: what the engine writes, and a manifest that says which steps of the schema it has, so that a
//! program that is too old for it refuses before anything is touched. A copy of a store in use is what each table had at one
//! moment. It never overwrites: neither a directory with something in it, nor a store with rows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::client::{Client, ClientError};
use super::migrate::{Applied, MigrateError, check};
use crate::engine::room;

/// File beside what the engine writes.
const MANIFEST: &str = "etcd-monitor-backup.json";

/// Room that must be left where a copy goes, in bytes: an engine that can't write ends itself.
const SPARE_BYTES: u64 = 64 << 20;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why there is no copy, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// ClickHouse is not there.
    #[error(transparent)]
    Unavailable(#[from] ClientError),
    /// The directory is there already and not empty.
    #[error("{0} is there already: a copy is never overwritten")]
    Exists(PathBuf),
    /// Nothing in there says that it is a copy.
    #[error("{0} is no copy of a store: it has no etcd-monitor-backup.json")]
    NoCopy(PathBuf),
    /// The copy is of another program.
    #[error("this copy can't be restored by this program")]
    Foreign(#[source] MigrateError),
    /// There is not enough room for a copy.
    #[error("the copy may need {needed} MB and {path} has {free} MB free")]
    NoRoom {
        /// Where it would go.
        path: PathBuf,
        /// MB that it may need.
        needed: u64,
        /// MB that are free.
        free: u64,
    },
    /// The store has rows.
    #[error(
        "the store has {rows} rows in {table}: a copy is restored into an empty store only (move {path} away first)"
    )]
    NotEmpty {
        /// A table with rows.
        table: String,
        /// How many.
        rows: u64,
        /// The store.
        path: PathBuf,
    },
    /// The engine refused or lost a statement.
    #[error("{what} failed")]
    Statement {
        /// What was tried.
        what: &'static str,
        /// What the engine or the connection said.
        #[source]
        source: clickhouse::error::Error,
    },
    /// A file can't be read or written.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is said of a copy beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// Version of the program that made it.
    program: String,
    made_at: DateTime<Utc>,
    /// Name of the database in it.
    database: String,
    /// Steps of its schema: number and checksum.
    steps: Vec<Applied>,
}

/// How far it is, or what it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clickhouse::Row, Deserialize)]
pub struct Progress {
    /// Files of the copy so far.
    pub files: u64,
    /// Bytes of the copy so far.
    pub bytes: u64,
}

/// A table as it is.
#[derive(Clone, Debug, PartialEq, Eq, clickhouse::Row, Deserialize)]
pub struct TableState {
    /// Its name.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Active parts.
    pub parts: u64,
    /// Bytes of active parts.
    pub bytes: u64,
    /// Parts that are set aside.
    pub detached: u64,
}

/// Copies the store into `directory`, which must be absent or empty. `watch` is told of progress.
///
/// # Errors
/// When there is something already, too little room, or the engine fails; what was written by then stays.
pub async fn backup(
    client: &Client,
    directory: &Path,
    watch: impl Fn(Progress),
) -> Result<Progress, BackupError> {
    let file = |source| BackupError::File { path: directory.to_owned(), source };
    match fs::read_dir(directory).map(|entries| entries.count()) {
        // The engine makes it, and refuses one that it finds.
        Ok(0) => fs::remove_dir(directory).map_err(file)?,
        Ok(_) => return Err(BackupError::Exists(directory.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file(error)),
    }
    let connection = client.connect()?;
    let needed: u64 = tables(client).await?.iter().map(|table| table.bytes).sum();
    if let Some(room) = room::of(directory, 0)
        && room.free_bytes < needed + SPARE_BYTES
    {
        let (needed, free) = (needed.div_ceil(1_000_000), room.free_bytes / 1_000_000);
        return Err(BackupError::NoRoom { path: directory.to_owned(), needed, free });
    }
    let steps = read_steps(&connection).await?;
    let sql = format!("BACKUP DATABASE {} TO File({})", identifier(client.database()), literal(directory));
    let done = watched(&connection, "backup", &sql, watch).await?;
    let manifest = Manifest {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: Utc::now(),
        database: client.database().to_owned(),
        steps,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| file(error.into()))?;
    fs::write(directory.join(MANIFEST), text).map_err(file)?;
    sync_filesystem(directory).map_err(file)?;
    Ok(done)
}

/// Restores a copy into a store without rows; its tables are as in the copy afterwards. `store` names it in messages.
///
/// # Errors
/// When it is no copy, of a newer program, the store has rows, or the engine fails.
pub async fn restore(
    client: &Client,
    directory: &Path,
    store: &Path,
    watch: impl Fn(Progress),
) -> Result<Progress, BackupError> {
    let manifest = read_manifest(directory)?;
    check(&manifest.steps).map_err(BackupError::Foreign)?;
    let occupied =
        tables(client).await?.into_iter().find(|table| table.rows > 0 && table.table != "schema_migrations");
    if let Some(TableState { table, rows, .. }) = occupied {
        return Err(BackupError::NotEmpty { table, rows, path: store.to_owned() });
    }
    let bare = client.connect_without_database()?;
    let database = identifier(client.database());
    let run = |what, sql: String| {
        let query = bare.query_raw(&sql);
        async move { query.execute().await.map_err(|source| BackupError::Statement { what, source }) }
    };
    run("drop the empty database", format!("DROP DATABASE IF EXISTS {database} SYNC")).await?;
    let from = literal(directory);
    let sql = format!("RESTORE DATABASE {} AS {database} FROM File({from})", identifier(&manifest.database));
    watched(&bare, "restore", &sql, watch).await
}

/// All tables of the store.
///
/// # Errors
/// When the engine does not answer.
pub async fn tables(client: &Client) -> Result<Vec<TableState>, BackupError> {
    let connection = client.connect_without_database()?;
    let query = connection
        .query_raw(
            "SELECT t.name AS table, toUInt64(ifNull(t.total_rows, 0)) AS rows, p.parts AS parts, p.bytes AS bytes, \
             d.detached AS detached FROM system.tables AS t \
             LEFT JOIN (SELECT table, count() AS parts, sum(bytes_on_disk) AS bytes FROM system.parts \
             WHERE database = {database:String} AND active GROUP BY table) AS p ON p.table = t.name \
             LEFT JOIN (SELECT table, count() AS detached FROM system.detached_parts \
             WHERE database = {database:String} GROUP BY table) AS d ON d.table = t.name \
             WHERE t.database = {database:String} AND t.engine LIKE '%MergeTree' ORDER BY t.name",
        )
        .param("database", client.database());
    query.fetch_all().await.map_err(|source| BackupError::Statement { what: "look at the tables", source })
}

/// Reads all of a table and compares it with its checksums. Parts that don't pass, with what is wrong.
///
/// # Errors
/// When the engine does not answer.
pub async fn verify(client: &Client, table: &str) -> Result<Vec<(String, String)>, BackupError> {
    #[derive(clickhouse::Row, Deserialize)]
    struct Checked {
        part_path: String,
        is_passed: u8,
        message: String,
    }
    let checked: Vec<Checked> = client
        .connect()?
        .query_raw(&format!("CHECK TABLE {}", identifier(table)))
        .with_setting("check_query_single_value_result", "0")
        .fetch_all()
        .await
        .map_err(|source| BackupError::Statement { what: "check a table", source })?;
    Ok(checked
        .into_iter()
        .filter(|part| part.is_passed == 0)
        .map(|part| (part.part_path, part.message))
        .collect())
}

fn read_manifest(directory: &Path) -> Result<Manifest, BackupError> {
    let path = directory.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::NoCopy(directory.to_owned()));
        }
        Err(source) => return Err(BackupError::File { path, source }),
    };
    serde_json::from_slice(&bytes).map_err(|error| BackupError::File { path, source: error.into() })
}

/// Steps of the schema that a store has; none when it was never used.
async fn read_steps(client: &clickhouse::Client) -> Result<Vec<Applied>, BackupError> {
    let query = client.query_raw("SELECT DISTINCT version, checksum FROM schema_migrations ORDER BY version");
    query
        .fetch_all()
        .await
        .map_err(|source| BackupError::Statement { what: "read schema_migrations", source })
}

/// Runs a backup or restore and tells how far it is meanwhile.
async fn watched(
    client: &clickhouse::Client,
    what: &'static str,
    sql: &str,
    watch: impl Fn(Progress),
) -> Result<Progress, BackupError> {
    let failed = |source| BackupError::Statement { what, source };
    let last = "SELECT toUInt64(num_files) AS files, toUInt64(total_size) AS bytes FROM system.backups \
                ORDER BY start_time DESC LIMIT 1";
    let look = async || client.query_raw(last).fetch_optional::<Progress>().await;
    let statement = client.query_raw(sql).execute();
    tokio::pin!(statement);
    loop {
        tokio::select! {
            done = &mut statement => {
                done.map_err(failed)?;
                return Ok(look().await.map_err(failed)?.unwrap_or_default());
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                if let Ok(Some(progress)) = look().await {
                    watch(progress);
                }
            }
        }
    }
}

/// Sees to it that what was written survives a power cut.
fn sync_filesystem(directory: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let directory = fs::File::open(directory)?;
    // SAFETY: the descriptor is open for the call.
    if unsafe { libc::syncfs(directory.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

fn literal(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\\', "\\\\").replace('\'', "\\'"))
}
