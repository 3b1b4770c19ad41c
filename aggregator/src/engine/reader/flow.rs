//! The answer to a statement on its way out of the engine.
//!
//! The engine writes into a pipe, and this end reads it whatever the client does: a write that nobody reads could not be
//! killed. What comes after the statement is to end is thrown away.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::HttpError;

/// Most bytes of an answer.
pub const MAX_BYTES: usize = 256 << 20;

/// An answer up to this size is held until its statement has ended, so that a failure is told as one. A longer one begins
/// before, and a failure breaks it off.
const HEAD_BYTES: usize = 8 << 20;

/// Bytes read from the pipe at once.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces between the pipe and the client; the engine waits while the client is behind, at most until its time is over.
const PIECES: usize = 8;

/// Asks a statement to end, and says why. Cheap to clone.
#[derive(Clone)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<Mutex<Option<HttpError>>>,
}

impl Stop {
    /// Nobody asked yet; when `token` is cancelled, that asks as well.
    pub fn new(token: CancellationToken) -> Self {
        Self { token, reason: Arc::default() }
    }

    /// Asks. The first reason counts.
    pub fn ask(&self, reason: HttpError) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.token.cancel();
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.token.cancelled().await;
    }

    fn take_reason(&self) -> Option<HttpError> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A piece of an answer, or its end: how many rows were read to make it.
enum Piece {
    Bytes(Bytes),
    End(Result<u64, HttpError>),
}

/// An answer on its way. Dropping it ends the statement.
pub struct Flow {
    pieces: mpsc::Receiver<Piece>,
    _ends_the_statement: DropGuard,
}

/// What is known of an answer when its first bytes go to the client.
pub enum Begun {
    /// All of it.
    Whole {
        /// Its bytes.
        bytes: Bytes,
        /// Rows that were read to make it.
        rows_read: u64,
    },
    /// Its beginning; the rest is still to come.
    Long {
        /// The beginning.
        head: Bytes,
        /// The rest.
        rest: Flow,
    },
}

impl Flow {
    /// An answer that comes out of `pipe`, and whose statement ends with `outcome`.
    ///
    /// # Errors
    /// When the pipe can't be read without waiting.
    pub fn new(
        pipe: OwnedFd,
        outcome: oneshot::Receiver<Result<u64, HttpError>>,
        stop: Stop,
    ) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let guard = stop.token.clone().drop_guard();
        tokio::spawn(pump(pipe, outcome, stop, sender));
        Ok(Self { pieces, _ends_the_statement: guard })
    }

    /// Waits for the end, or for more than is held back.
    ///
    /// # Errors
    /// When the statement fails meanwhile.
    pub async fn begin(mut self) -> Result<Begun, HttpError> {
        let mut head = BytesMut::new();
        loop {
            match self.pieces.recv().await {
                Some(Piece::Bytes(bytes)) => head.extend_from_slice(&bytes),
                Some(Piece::End(result)) => {
                    return result.map(|rows_read| Begun::Whole { bytes: head.freeze(), rows_read });
                }
                None => return Err(HttpError::Late),
            }
            if head.len() > HEAD_BYTES {
                return Ok(Begun::Long { head: head.freeze(), rest: self });
            }
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the statement failed: what came so far is not all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        match self.pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End(result)) => result.map(|_rows_read| None),
            None => Err(HttpError::Late),
        }
    }
}

async fn pump(
    mut pipe: pipe::Receiver,
    outcome: oneshot::Receiver<Result<u64, HttpError>>,
    stop: Stop,
    pieces: mpsc::Sender<Piece>,
) {
    let mut total = 0;
    let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
    loop {
        buffer.reserve(PIECE_BYTES);
        match pipe.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => total += count,
        }
        let bytes = buffer.split().freeze();
        if total > MAX_BYTES {
            stop.ask(HttpError::AnswerTooLarge(MAX_BYTES));
        }
        tokio::select! {
            biased;
            () = stop.asked() => {}
            sent = pieces.send(Piece::Bytes(bytes)) => if sent.is_err() { stop.token.cancel() },
        }
    }
    let result = outcome.await.unwrap_or(Err(HttpError::Late));
    let result = match stop.take_reason() {
        // The engine only says that it was killed.
        Some(reason) => Err(reason),
        None => result,
    };
    // Nobody may wait for it any more.
    let _gone = pieces.send(Piece::End(result)).await;
}
