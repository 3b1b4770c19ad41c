//! What goes wrong with a request, and how it is said.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Response, StatusCode};

use super::super::ffi::FfiError;
use super::super::pool::PoolError;
use super::frames::FrameError;

/// A request that was not answered with rows.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Another path than `/` and `/ping`.
    #[error("Code: 404. DB::Exception: There is no handler for this path")]
    NotFound,
    /// No key, or a wrong one.
    #[error("Code: 516. DB::Exception: Authentication failed: wrong key")]
    Key,
    /// SQL, parameters or a frame beyond the limits.
    #[error("Code: 307. DB::Exception: Request is too large")]
    TooLarge,
    /// The body paused for too long.
    #[error("Code: 209. DB::Exception: Timeout while reading the request")]
    Slow,
    /// The body ended before its end.
    #[error("Code: 210. DB::Exception: Request body was cut off")]
    Truncated,
    /// The client gave the insert up.
    #[error("Code: 394. DB::Exception: Insert was given up")]
    Abandoned,
    /// A part of the request that does not parse.
    #[error("Code: 36. DB::Exception: {0}")]
    Malformed(&'static str),
    /// A reader's statement that is not one that only reads.
    #[error(
        "Code: 164. DB::Exception: Only statements that read are answered here: SELECT, without INTO OUTFILE. (READONLY)"
    )]
    OnlyReads,
    /// Several statements in a reader's request.
    #[error("Code: 62. DB::Exception: One statement at a time is answered here. (SYNTAX_ERROR)")]
    OneStatement,
    /// A reader's statement took too long.
    #[error("Code: 159. DB::Exception: Timeout exceeded: the statement was ended. (TIMEOUT_EXCEEDED)")]
    Late,
    /// What a reader's statement answers is too large.
    #[error("Code: 396. DB::Exception: The answer is larger than {0} bytes. (TOO_MANY_ROWS_OR_BYTES)")]
    AnswerTooLarge(usize),
    /// No pipe for a reader's answer.
    #[error("Code: 74. DB::Exception: Cannot make a pipe: {0}")]
    Pipe(std::io::Error),
    /// A setting that a reader may not change.
    #[error("Code: 164. DB::Exception: Cannot modify '{0}' setting in readonly mode. (READONLY)")]
    Fixed(String),
    /// A frame of a compressed body is damaged.
    #[error("Code: 271. DB::Exception: {0}")]
    Frame(#[from] FrameError),
    /// The engine is shutting down, or could not open a connection.
    #[error("Code: 210. DB::Exception: {0}")]
    Pool(#[from] PoolError),
    /// The engine refused the statement.
    #[error("{0}")]
    Engine(FfiError),
}

impl HttpError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Key => StatusCode::FORBIDDEN,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Truncated
            | Self::Abandoned
            | Self::Malformed(_)
            | Self::OnlyReads
            | Self::OneStatement
            | Self::Fixed(_)
            | Self::Frame(_) => StatusCode::BAD_REQUEST,
            Self::Pool(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Late | Self::AnswerTooLarge(_) | Self::Pipe(_) | Self::Engine(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

/// The response that tells a client, in the words and headers of ClickHouse. It ends the connection: the body may not have been
/// read to its end, and a client that sends its next request while we close would take that for an outage.
pub fn respond_error(error: &HttpError) -> Response<Full<Bytes>> {
    let mut text = error.to_string();
    let code = text
        .strip_prefix("Code: ")
        .and_then(|rest| rest.split('.').next())
        .and_then(|code| code.parse().ok());
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert("x-clickhouse-exception-code", HeaderValue::from(code.unwrap_or(1002u32)));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
