//! The child process: opens the engine and serves its endpoint until it is told to stop.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failstop;
use super::ffi::{FfiError, Library};
use super::http::{Endpoint, Keys, serve};
use super::pace;
use super::pool::Pool;
use super::reader::Readers;

/// Environment variable that carries the key clients must show.
pub const KEY_VARIABLE: &str = "ETCD_MONITOR_ENGINE_KEY";

/// Environment variable that carries the key of those who may only read; without one there are none.
pub const READER_KEY_VARIABLE: &str = "ETCD_MONITOR_ENGINE_READER_KEY";

/// Environment variable that carries the process id of the parent; the child ends with it.
pub const PARENT_VARIABLE: &str = "ETCD_MONITOR_ENGINE_PARENT";

/// Below this much room the engine begins neither insert nor merge, so that it need not be ended by [`failstop`], and alerts still
/// find room for their state.
pub const KEPT_FREE_BYTES: u64 = 128 << 20;

/// For the kernel's choice of whom to kill: as if it took half of the memory more.
const OOM_SCORE: &str = "500";

/// What the child is told on its command line.
#[derive(Clone, Debug)]
pub struct ChildArgs {
    /// Directory of the store.
    pub path: PathBuf,
    /// The engine library.
    pub library: PathBuf,
    /// Most memory that all queries together may take, in bytes.
    pub memory_bytes: u64,
    /// Port that the endpoint had before, to keep when it is free; 0 = any.
    pub port: u16,
    /// Most bytes a second that it may write; 0 = as fast as it can.
    pub write_bytes_per_second: u64,
}

/// Why the child ended early.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// No key in the environment.
    #[error("environment variable {KEY_VARIABLE} is not set")]
    NoKey,
    /// The parent was gone before the child could tie itself to it.
    #[error("parent process is gone")]
    Orphan,
    /// The store's directory or configuration could not be written.
    #[error("prepare {path}")]
    Prepare {
        /// Directory or file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The engine did not open the store.
    #[error("open engine")]
    Engine(#[from] FfiError),
    /// Listener, signals or runtime.
    #[error("serve endpoint")]
    Io(#[from] io::Error),
}

/// Runs the child: prints `{"port":N}` on standard output once the endpoint answers. On SIGTERM it closes the store and
/// ends the process with exit code 0.
///
/// # Errors
/// When the engine cannot be opened; the engine itself has written its reason to standard error.
pub fn run(arguments: &ChildArgs) -> Result<(), ChildError> {
    end_with_parent()?;
    go_first();
    let key = env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()).ok_or(ChildError::NoKey)?;
    let reader = env::var(READER_KEY_VARIABLE).unwrap_or_default();
    let config = write_config(arguments)?;
    failstop::arm();
    pace::set(arguments.write_bytes_per_second);
    let library = Library::load(&arguments.library)?;
    let connect = vec![format!("--config-file={}", config.display()), path_argument(&arguments.path)];
    let pool = Pool::open(library, connect)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let readers = Readers::new(pool.clone(), arguments.memory_bytes);
    let endpoint = Endpoint::new(pool.clone(), readers.clone(), Keys { owner: key, reader });
    runtime.block_on(async {
        run_endpoint(endpoint, arguments.port).await?;
        readers.close().await;
        pool.close().await;
        Ok::<_, ChildError>(())
    })?;
    // The store is closed. Threads of the engine may be left, and the destructors of an ordinary exit would race them.
    // SAFETY: `_exit` ends the process; nothing of ours is left to be written.
    unsafe { libc::_exit(0) }
}

fn path_argument(path: &Path) -> String {
    format!("--path={}", path.display())
}

async fn run_endpoint(endpoint: Endpoint, port: u16) -> Result<(), ChildError> {
    let listener = listen(port).await?;
    let port = listener.local_addr()?.port();
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                // Ctrl-C reaches the whole group; the parent decides when its store may end.
                _ = interrupt.recv() => {}
            }
        }
        stopping.cancel();
    });
    announce(port)?;
    serve(listener, Arc::new(endpoint), stop).await;
    Ok(())
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(at(port)).await {
        Err(_) if port != 0 => TcpListener::bind(at(0)).await,
        result => result,
    }
}

fn announce(port: u16) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::json!({ "port": port }))?;
    out.flush()
}

/// Ties the child's life to its parent's, so that no engine is left behind that holds the store's lock.
fn end_with_parent() -> Result<(), ChildError> {
    // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(ChildError::Io(io::Error::last_os_error()));
    }
    let Some(parent) = env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse::<i32>().ok()) else {
        return Ok(());
    };
    // SAFETY: getppid has no preconditions.
    if unsafe { libc::getppid() } == parent { Ok(()) } else { Err(ChildError::Orphan) }
}

/// Should the host run out of memory, the engine is what can be started anew at no loss: before the aggregator, and before
/// an etcd next door. A process may always make itself a better victim.
fn go_first() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        eprintln!("warning: oom_score_adj stays as it is: {error}");
    }
}

/// Writes the engine's configuration beside its data. It depends on the settings alone, so a store opens the same way
/// each time.
fn write_config(arguments: &ChildArgs) -> Result<PathBuf, ChildError> {
    let prepare = |path: &Path, result: io::Result<()>| {
        result.map_err(|source| ChildError::Prepare { path: path.to_owned(), source })
    };
    prepare(&arguments.path, fs::create_dir_all(&arguments.path))?;
    let users = arguments.path.join("etcd-monitor-users.xml");
    prepare(&users, fs::write(&users, USERS))?;
    let file = arguments.path.join("etcd-monitor-engine.xml");
    prepare(&file, fs::write(&file, config(arguments, &users)))?;
    Ok(file)
}

/// The one user of the process. Nothing of ours reads data from outside the store, so nobody can: every source of it is
/// revoked, for our own statements as well.
const USERS: &str = "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default>\
    <password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota><grants>\
    <query>GRANT ALL ON *.*</query>\
    <query>REVOKE FILE, URL, REMOTE, S3, MYSQL, POSTGRES, SQLITE, ODBC, JDBC, HDFS, MONGO, REDIS, AZURE, HIVE, KAFKA, \
    NATS, RABBITMQ, YTSAURUS, ARROW FLIGHT ON *.*</query>\
    </grants></default></users></clickhouse>\n";

/// Caches are sized for a small neighbour of etcd, not for a database host. A part that can't be read is set aside and told
/// ([`crate::store::upkeep`]), however many there are: a table must not refuse to open for that. Backups may go anywhere,
/// since only the owner of the store can order one.
fn config(arguments: &ChildArgs, users: &Path) -> String {
    let (memory, slow) = (arguments.memory_bytes, arguments.write_bytes_per_second > 0);
    let settings = [
        ("max_server_memory_usage", memory),
        ("mark_cache_size", memory / 16),
        ("uncompressed_cache_size", 0),
        ("background_pool_size", if slow { 2 } else { 4 }),
        ("background_schedule_pool_size", 4),
    ];
    let mut xml = String::from("<clickhouse>\n");
    for (name, value) in settings {
        // Writing to a String cannot fail.
        let _ = writeln!(xml, "  <{name}>{value}</{name}>");
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        xml,
        "  <merge_tree><max_suspicious_broken_parts>1000000</max_suspicious_broken_parts>\
         <max_suspicious_broken_parts_bytes>{bytes}</max_suspicious_broken_parts_bytes></merge_tree>\n  \
         <backups><allowed_path>/</allowed_path></backups>\n  \
         <storage_configuration><disks><default><keep_free_space_bytes>{KEPT_FREE_BYTES}</keep_free_space_bytes></default>\
         </disks></storage_configuration>",
        bytes = i64::MAX
    );
    // Writing to a String cannot fail.
    let _ = writeln!(xml, "  <users_config>{}</users_config>", escaped(&users.display().to_string()));
    xml.push_str("</clickhouse>\n");
    xml
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Parses the arguments that follow the subcommand `engine`.
///
/// # Errors
/// With a sentence about the first argument that does not parse or is missing.
pub fn parse_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<ChildArgs, String> {
    let mut arguments = arguments.into_iter();
    let (mut path, mut library, mut memory_bytes, mut port, mut write_bytes_per_second) =
        (None, None, None, 0, 0);
    while let Some(flag) = arguments.next() {
        let flag = flag.to_string_lossy().into_owned();
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || value.to_string_lossy().parse::<u64>().map_err(|error| format!("{flag}: {error}"));
        match flag.as_str() {
            "--path" => path = Some(PathBuf::from(value)),
            "--library" => library = Some(PathBuf::from(value)),
            "--memory-bytes" => memory_bytes = Some(number()?),
            "--write-bytes-per-second" => write_bytes_per_second = number()?,
            "--port" => port = u16::try_from(number()?).map_err(|error| format!("{flag}: {error}"))?,
            _ => return Err(format!("unknown argument {flag}")),
        }
    }
    Ok(ChildArgs {
        path: path.ok_or("--path is missing")?,
        library: library.ok_or("--library is missing")?,
        memory_bytes: memory_bytes.ok_or("--memory-bytes is missing")?,
        port,
        write_bytes_per_second,
    })
}
