//! A few connections to the engine, shared by all requests.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::ffi::{Connection, FfiError, Library};

/// Statements that may run at the same time; more wait for a connection. More connections cost memory and threads but
/// bring no throughput.
pub const CONNECTIONS: usize = 8;

/// What becomes of a connection after a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// As it was before: others may use it.
    Yes,
    /// Its settings were changed or something failed: closed, a new one costs 0.1 ms.
    No,
}

/// The pool. One connection is held beside it, because the engine shuts down with its last connection.
pub struct Pool {
    library: Arc<Library>,
    arguments: Vec<String>,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
    keeper: Mutex<Option<Connection>>,
}

/// The pool is closed, or a statement's thread died.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The engine is shutting down.
    #[error("engine is shutting down")]
    Closed,
    /// The thread that ran the statement panicked.
    #[error("statement thread died")]
    Thread(#[source] tokio::task::JoinError),
    /// No connection could be opened.
    #[error("open connection")]
    Open(#[source] FfiError),
}

impl Pool {
    /// Opens the engine.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn open(library: Arc<Library>, arguments: Vec<String>) -> Result<Arc<Self>, FfiError> {
        let keeper = library.connect(&arguments)?;
        Ok(Arc::new(Self {
            library,
            arguments,
            permits: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
            keeper: Mutex::new(Some(keeper)),
        }))
    }

    /// Runs `work` with a connection on a thread that may block. A caller that goes away while it waits for a
    /// connection leaves nothing behind; once started, the work runs to its end.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn run<T, F>(self: &Arc<Self>, work: F) -> Result<T, PoolError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> (T, Keep) + Send + 'static,
    {
        let pool = self.clone();
        // Taken before the thread is, so that waiting requests hold no threads.
        let permit = self.permits.acquire().await.map_err(|_| PoolError::Closed)?;
        permit.forget();
        let returned = Returned(pool.clone());
        let thread = tokio::task::spawn_blocking(move || {
            let _returned = returned;
            let mut connection = pool.take()?;
            let (value, keep) = work(&mut connection);
            if keep == Keep::Yes {
                pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            Ok(value)
        });
        thread.await.map_err(PoolError::Thread)?
    }

    /// A connection that is not one of the pool's, closed when it is dropped. May block.
    ///
    /// # Errors
    /// When the engine refuses, or is shutting down.
    pub fn apart(&self) -> Result<Connection, PoolError> {
        if self.permits.is_closed() {
            return Err(PoolError::Closed);
        }
        self.library.connect(&self.arguments).map_err(PoolError::Open)
    }

    fn take(&self) -> Result<Connection, PoolError> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
        self.library.connect(&self.arguments).map_err(PoolError::Open)
    }

    /// Runs the health query on the connection that is held beside the pool, however busy the others are. Blocks the thread.
    ///
    /// # Errors
    /// When the engine is shutting down, or refuses.
    pub fn check(&self) -> Result<(), PoolError> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = keeper.as_mut().ok_or(PoolError::Closed)?;
        connection.query("SELECT 1", "Null", &[]).map(drop).map_err(PoolError::Open)
    }

    /// Waits until no statement runs, closes every connection and shuts the engine down. Statements that come later
    /// are refused.
    pub async fn close(&self) {
        let all = u32::try_from(CONNECTIONS).expect("a small number");
        if let Ok(permits) = self.permits.acquire_many(all).await {
            permits.forget();
        }
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.library.shutdown();
    }
}

/// Gives a permit back when the statement's thread ends, however it ends and whether or not anyone still waits.
struct Returned(Arc<Pool>);

impl Drop for Returned {
    fn drop(&mut self) {
        self.0.permits.add_permits(1);
    }
}
