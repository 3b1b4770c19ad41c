//! An insert whose rows are the request's body.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::super::ffi::{Answer, Connection, FfiError, InsertStream};
use super::frames::Frames;
use super::request::{Parameters, Plan};
use super::{BODY_TIMEOUT, Endpoint, HttpError, keep, prepare, respond_written};

/// Pieces of a body between its reader and the engine; the reader waits when the engine is behind.
const PIECES: usize = 16;

/// What the body's reader tells the thread that feeds the engine. A channel that closes before `End` is a body that did
/// not end well.
enum Piece {
    Rows(Bytes),
    End,
}

/// Streams the body into the engine. Nothing is stored unless the body ends as it should.
pub async fn run(
    endpoint: &Arc<Endpoint>,
    parameters: Parameters,
    plan: Plan,
    body: Incoming,
) -> Result<Response<Full<Bytes>>, HttpError> {
    let query_id = parameters.query_id.clone();
    let decompress = parameters.decompress;
    let (pieces, received) = mpsc::channel(PIECES);
    let (shared, announced) = (endpoint.clone(), endpoint.inserts.announce(query_id.as_deref()));
    let abandoned = announced.token();
    let work = move |connection: &mut Connection| {
        let result = prepare(connection, &parameters).and_then(|()| {
            let stream = shared.inserts.begin(&announced, || connection.insert(&plan.sql, &plan.format));
            stream.map_or(Ok(None), |stream| feed(stream?, received))
        });
        let keep = keep(connection, &parameters, matches!(result, Ok(Some(_))));
        (result, keep)
    };
    // Both at once: when the engine refuses early, the channel closes and the reader stops.
    let read = async {
        tokio::select! {
            () = abandoned.cancelled() => Err(HttpError::Abandoned),
            result = read(body, decompress, pieces) => result,
        }
    };
    let (read, stored) = tokio::join!(read, endpoint.pool.run(work));
    match stored?.map_err(HttpError::Engine)? {
        Some(answer) => Ok(respond_written(&answer, query_id)),
        None => Err(read.err().unwrap_or(HttpError::Truncated)),
    }
}

/// Feeds the engine; `None` when the body broke off and the insert was cancelled.
fn feed(
    mut stream: InsertStream<'_>,
    mut received: mpsc::Receiver<Piece>,
) -> Result<Option<Answer>, FfiError> {
    loop {
        match received.blocking_recv() {
            Some(Piece::Rows(rows)) => stream.append(&rows)?,
            Some(Piece::End) => return stream.finish().map(Some),
            None => {
                stream.cancel();
                return Ok(None);
            }
        }
    }
}

async fn read(mut body: Incoming, decompress: bool, pieces: mpsc::Sender<Piece>) -> Result<(), HttpError> {
    let mut frames = Frames::default();
    loop {
        let next = tokio::time::timeout(BODY_TIMEOUT, body.frame()).await.map_err(|_| HttpError::Slow)?;
        let Some(frame) = next else { break };
        let Ok(rows) = frame.map_err(|_| HttpError::Truncated)?.into_data() else { continue };
        if !decompress {
            if pieces.send(Piece::Rows(rows)).await.is_err() {
                return Ok(());
            }
            continue;
        }
        frames.push(&rows);
        while let Some(rows) = frames.next_frame()? {
            if pieces.send(Piece::Rows(rows)).await.is_err() {
                return Ok(());
            }
        }
    }
    frames.finish()?;
    // A closed channel means the engine refused: its error is the answer.
    let _ = pieces.send(Piece::End).await;
    Ok(())
}
