//! Thin binding of `libchdb.so`, loaded at run time.
//!
//! Traps that shape this file: `chdb_connect` gives NULL without a reason (the text goes to stderr); a connection runs
//! one statement at a time; binary rows must go through the insert stream, never inline in a statement; after
//! `chdb_shutdown` succeeded the engine cannot be opened again in the process. Every call may block: call from a thread
//! that may.

use std::ffi::{CStr, CString, NulError, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What went wrong at the library's border.
#[derive(Debug, thiserror::Error)]
pub enum FfiError {
    /// The file is not a library that can be loaded here, or lacks a symbol.
    #[error("load {path}")]
    Load {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        #[source]
        source: libloading::Error,
    },
    /// An argument holds a NUL byte.
    #[error("argument holds a nul byte")]
    Nul(#[from] NulError),
    /// `chdb_connect` gave NULL; the engine has written the reason to stderr.
    #[error("engine refused to open {argument}")]
    Connect {
        /// The last argument that was given, which names the store.
        argument: String,
    },
    /// The engine refused the statement: `Code: N. DB::Exception: …`.
    #[error("{0}")]
    Engine(String),
}

impl FfiError {
    /// The engine's error code (`Code: N.`), 0 when there is none.
    pub fn code(&self) -> u32 {
        let Self::Engine(text) = self else { return 0 };
        let digits = text.strip_prefix("Code: ").unwrap_or_default();
        digits.split('.').next().and_then(|code| code.parse().ok()).unwrap_or(0)
    }
}

type RawConnection = *mut c_void;
type RawResult = *mut c_void;
type RawInsert = *mut c_void;

/// The symbols in use, with the types of `chdb.h`.
struct Symbols {
    set_signal_handlers_enabled: unsafe extern "C" fn(c_int),
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    close_conn: unsafe extern "C" fn(*mut RawConnection),
    shutdown: unsafe extern "C" fn() -> c_int,
    query_with_params_n: unsafe extern "C" fn(
        RawConnection,
        *const c_char,
        usize,
        *const c_char,
        usize,
        *const *const c_char,
        *const usize,
        *const *const c_char,
        *const usize,
        usize,
    ) -> RawResult,
    destroy_query_result: unsafe extern "C" fn(RawResult),
    result_buffer: unsafe extern "C" fn(RawResult) -> *mut c_char,
    result_length: unsafe extern "C" fn(RawResult) -> usize,
    result_rows_read: unsafe extern "C" fn(RawResult) -> u64,
    result_rows_written: unsafe extern "C" fn(RawResult) -> u64,
    result_error: unsafe extern "C" fn(RawResult) -> *const c_char,
    stream_insert_n:
        unsafe extern "C" fn(RawConnection, *const c_char, usize, *const c_char, usize) -> RawInsert,
    stream_insert_error: unsafe extern "C" fn(RawInsert) -> *const c_char,
    stream_append: unsafe extern "C" fn(RawInsert, *const c_void, usize) -> c_int,
    stream_done: unsafe extern "C" fn(RawInsert) -> RawResult,
    stream_cancel_insert: unsafe extern "C" fn(RawInsert),
    destroy_insert_stream: unsafe extern "C" fn(RawInsert),
    classify_query_n: unsafe extern "C" fn(
        RawConnection,
        *const c_char,
        usize,
        *const c_char,
        usize,
        *mut RawAnalysis,
    ) -> c_int,
}

/// `chdb_query_analysis_v1`; the library fills no more than `size` bytes.
#[repr(C)]
struct RawAnalysis {
    size: u32,
    statements: u32,
    _flags: u32,
    class: u32,
}

/// What the engine's parser says of a text, without running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Analysis {
    /// Statements in it; 0 when it does not parse.
    pub statements: u32,
    /// 0 = changes nothing anywhere. Anything else writes, or changes the session or the process, or does not parse.
    pub class: u32,
}

/// The loaded library. Never unloaded: the engine's threads outlive every connection.
pub struct Library {
    symbols: Symbols,
}

impl Library {
    /// Loads the library and switches its signal handlers off.
    ///
    /// # Errors
    /// When the file cannot be loaded or lacks a symbol.
    pub fn load(path: &Path) -> Result<Arc<Self>, FfiError> {
        let failed = |source| FfiError::Load { path: path.to_owned(), source };
        // SAFETY: the library's initialisers are those of the engine, which are made to be loaded into a process.
        let library = unsafe { libloading::Library::new(path) }.map_err(failed)?;
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the field's type is the C declaration of this symbol; the library is leaked below, so the
                // address stays valid.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }.map_err(failed)?
            };
        }
        let symbols = Symbols {
            set_signal_handlers_enabled: symbol!("chdb_set_signal_handlers_enabled"),
            connect: symbol!("chdb_connect"),
            close_conn: symbol!("chdb_close_conn"),
            shutdown: symbol!("chdb_shutdown"),
            query_with_params_n: symbol!("chdb_query_with_params_n"),
            destroy_query_result: symbol!("chdb_destroy_query_result"),
            result_buffer: symbol!("chdb_result_buffer"),
            result_length: symbol!("chdb_result_length"),
            result_rows_read: symbol!("chdb_result_rows_read"),
            result_rows_written: symbol!("chdb_result_rows_written"),
            result_error: symbol!("chdb_result_error"),
            stream_insert_n: symbol!("chdb_stream_insert_n"),
            stream_insert_error: symbol!("chdb_stream_insert_error"),
            stream_append: symbol!("chdb_stream_append"),
            stream_done: symbol!("chdb_stream_done"),
            stream_cancel_insert: symbol!("chdb_stream_cancel_insert"),
            destroy_insert_stream: symbol!("chdb_destroy_insert_stream"),
            classify_query_n: symbol!("chdb_classify_query_n"),
        };
        std::mem::forget(library);
        // SAFETY: takes an int and may be called at any time before the first connection.
        unsafe { (symbols.set_signal_handlers_enabled)(0) };
        Ok(Arc::new(Self { symbols }))
    }

    /// Opens a connection; the first one of the process starts the engine. `arguments` are those of
    /// `clickhouse-local`, such as `--path=…`; the first connection's arguments decide for the process.
    ///
    /// # Errors
    /// When the engine refuses; it writes the reason to stderr.
    pub fn connect(self: &Arc<Self>, arguments: &[String]) -> Result<Connection, FfiError> {
        let mut owned = vec![CString::from(c"clickhouse")];
        for argument in arguments {
            owned.push(CString::new(argument.as_str())?);
        }
        let mut pointers: Vec<*mut c_char> =
            owned.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).expect("a handful of arguments");
        // SAFETY: `pointers` holds `count` NUL-terminated strings that live until the call returns.
        let handle = unsafe { (self.symbols.connect)(count, pointers.as_mut_ptr()) };
        if handle.is_null() {
            return Err(FfiError::Connect { argument: arguments.last().cloned().unwrap_or_default() });
        }
        Ok(Connection { library: self.clone(), handle })
    }

    /// Ends the engine for good; true when none of its threads is left. In this version a thread stays behind whenever
    /// the store has a MergeTree table, so false is no fault once every connection is closed.
    pub fn shutdown(&self) -> bool {
        // SAFETY: takes nothing; it does nothing while a connection is open.
        unsafe { (self.symbols.shutdown)() == 0 }
    }

    /// The text behind a pointer that the library gave, `None` for NULL.
    fn text(pointer: *const c_char) -> Option<String> {
        if pointer.is_null() {
            return None;
        }
        // SAFETY: the library gives NUL-terminated strings that live as long as their handle, which the caller holds.
        Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
    }
}

/// A connection is a session: one statement at a time, `SET` and `USE` stay.
pub struct Connection {
    library: Arc<Library>,
    handle: *mut RawConnection,
}

// SAFETY: the engine lets any thread use a connection as long as only one does so at a time; `&mut self` on every
// statement sees to that.
unsafe impl Send for Connection {}

impl Connection {
    fn raw(&self) -> RawConnection {
        // SAFETY: `handle` came from `chdb_connect`, is not NULL and is closed only in `drop`.
        unsafe { *self.handle }
    }

    /// Runs statements that carry no binary rows and gives their whole answer. `parameters` are (name, value as
    /// escaped text) for `{name:Type}` placeholders.
    ///
    /// # Errors
    /// With the engine's own text.
    pub fn query(
        &mut self,
        sql: &str,
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Answer, FfiError> {
        let names: Vec<*const c_char> = parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: every pointer comes with its length and lives until the call returns; the connection is open.
        let handle = unsafe {
            (self.library.symbols.query_with_params_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        Answer::take(&self.library, handle)
    }

    /// What kind of statements `sql` holds. Nothing is run; text that does not parse is an answer, not an error.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub fn classify(&mut self, sql: &str) -> Result<Analysis, FfiError> {
        let size = u32::try_from(size_of::<RawAnalysis>()).expect("16 bytes");
        let mut raw = RawAnalysis { size, statements: 0, _flags: 0, class: u32::MAX };
        // SAFETY: the text comes with its length, no target database is named, and `raw` lives until the call returns
        // and says how large it is.
        let state = unsafe {
            (self.library.symbols.classify_query_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                std::ptr::null(),
                0,
                &raw mut raw,
            )
        };
        if state == 0 {
            Ok(Analysis { statements: raw.statements, class: raw.class })
        } else {
            Err(FfiError::Engine("statement could not be classified".to_owned()))
        }
    }

    /// Begins an insert. `sql` is the statement without its FORMAT clause.
    ///
    /// # Errors
    /// With the engine's own text.
    pub fn insert(&mut self, sql: &str, format: &str) -> Result<InsertStream<'_>, FfiError> {
        // SAFETY: both strings come with their length; the connection is open and stays borrowed by the stream.
        let handle = unsafe {
            (self.library.symbols.stream_insert_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        let stream = InsertStream { connection: self, handle };
        match stream.error() {
            Some(text) => Err(FfiError::Engine(text)),
            None => Ok(stream),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used afterwards.
        unsafe { (self.library.symbols.close_conn)(self.handle) };
    }
}

/// An insert that takes rows. Dropped without [`InsertStream::finish`], it is cancelled; blocks that the engine had
/// already written stay (the engine writes after about a million rows).
pub struct InsertStream<'a> {
    connection: &'a mut Connection,
    handle: RawInsert,
}

impl InsertStream<'_> {
    fn symbols(&self) -> &Symbols {
        &self.connection.library.symbols
    }

    fn error(&self) -> Option<String> {
        // SAFETY: the handle is never NULL and lives until `drop`.
        Library::text(unsafe { (self.symbols().stream_insert_error)(self.handle) })
    }

    /// Hands over bytes of the insert's format, cut anywhere. Blocks while the engine is behind.
    ///
    /// # Errors
    /// With the engine's own text.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FfiError> {
        // SAFETY: the engine copies `bytes` before it returns.
        if unsafe { (self.symbols().stream_append)(self.handle, bytes.as_ptr().cast(), bytes.len()) } == 0 {
            return Ok(());
        }
        Err(FfiError::Engine(self.error().unwrap_or_else(|| "insert failed without a reason".to_owned())))
    }

    /// Ends the insert: once this returned, the rows are in the table.
    ///
    /// # Errors
    /// With the engine's own text.
    pub fn finish(self) -> Result<Answer, FfiError> {
        // SAFETY: the handle is open; `drop` frees it afterwards.
        let answer = unsafe { (self.symbols().stream_done)(self.handle) };
        Answer::take(&self.connection.library, answer)
    }

    /// Gives the insert up.
    pub fn cancel(self) {
        // SAFETY: the handle is open; `drop` frees it afterwards.
        unsafe { (self.symbols().stream_cancel_insert)(self.handle) };
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        // SAFETY: required for every handle, finished or not; it is not used afterwards.
        unsafe { (self.symbols().destroy_insert_stream)(self.handle) };
    }
}

/// The answer to a statement: its bytes and how many rows it read and wrote.
pub struct Answer {
    library: Arc<Library>,
    handle: RawResult,
}

// SAFETY: an answer is materialised memory of its own; the engine does not touch it after it was given.
unsafe impl Send for Answer {}

impl Answer {
    fn take(library: &Arc<Library>, handle: RawResult) -> Result<Self, FfiError> {
        if handle.is_null() {
            return Err(FfiError::Engine("engine gave no result".to_owned()));
        }
        let answer = Self { library: library.clone(), handle };
        // SAFETY: the handle is open.
        match Library::text(unsafe { (answer.library.symbols.result_error)(handle) }) {
            Some(text) if !text.is_empty() => Err(FfiError::Engine(text)),
            _ => Ok(answer),
        }
    }

    /// Rows that were read to make the answer.
    pub fn rows_read(&self) -> u64 {
        // SAFETY: the handle is open.
        unsafe { (self.library.symbols.result_rows_read)(self.handle) }
    }

    /// Rows that an insert took in. Rows dropped as duplicates count as well: no proof of storage.
    pub fn rows_written(&self) -> u64 {
        // SAFETY: the handle is open.
        unsafe { (self.library.symbols.result_rows_written)(self.handle) }
    }
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the handle is open.
        let buffer = unsafe { (self.library.symbols.result_buffer)(self.handle) };
        if buffer.is_null() {
            return &[];
        }
        // SAFETY: the buffer has that many bytes and lives as long as the handle, which `self` owns.
        unsafe {
            std::slice::from_raw_parts(buffer.cast(), (self.library.symbols.result_length)(self.handle))
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used afterwards.
        unsafe { (self.library.symbols.destroy_query_result)(self.handle) };
    }
}
