//! The read-only ClickHouse HTTP interface for Grafana and other clients of ClickHouse: a port of its own, off unless
//! switched on, with a user name and password of its own. Statements go through the same gate as everybody's
//! ([`crate::sql`]).
//!
//! | request | answer |
//! |---|---|
//! | `GET /ping`, `GET /` without a query | `Ok.` |
//! | `GET` or `POST /?query=…`, body appended | rows, in `default_format` (TabSeparated) unless the statement names one |
//!
//! User and password come as HTTP basic authentication, as `X-ClickHouse-User` and `X-ClickHouse-Key`, or as the parameters
//! `user` and `password`. `param_x` are values of `{x:Type}`. The settings in [`limit`] lower limits; those in [`IGNORED`]
//! mean nothing here; any other is refused, as ClickHouse does for a user that may only read. `compress=1` packs the answer
//! in ClickHouse's own frames, an Accept-Encoding header with gzip as gzip. `client_protocol_version` gives the Native format
//! the form that newer clients read ([`crate::sql::native`]).

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use etcdmon_service::secret::Secret;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

use super::{MAX_BODY_BYTES, remainder};
use crate::engine::http::{HttpError, Parameters, frame};
use crate::sql::native::{NativeError, Rewriter};
use crate::sql::{Format, Limits, Sql, SqlError, Statement};

/// Settings that clients send and that change nothing of an answer here.
const IGNORED: [&str; 13] = [
    "readonly",
    "log_comment",
    "log_queries",
    "enable_http_compression",
    "http_zlib_compression_level",
    "network_compression_method",
    "network_zstd_compression_level",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "cancel_http_readonly_queries_on_client_close",
    "session_check",
    "quota_key",
    "stacktrace",
];

/// Who may ask.
#[derive(Debug, Clone)]
pub struct Account {
    /// Name of the user.
    pub user: String,
    /// SHA-256 of the password.
    digest: [u8; 32],
}

impl Account {
    /// A user with this password.
    pub fn new(user: &str, password: &Secret) -> Self {
        Self { user: user.to_owned(), digest: Sha256::digest(password.reveal()).into() }
    }

    fn is(&self, user: &str, password: &str) -> bool {
        // Digests, and always both, so that the time tells nothing of either.
        let digest = |text: &str| <[u8; 32]>::from(Sha256::digest(text));
        (digest(user) == digest(&self.user)) & (digest(password) == self.digest)
    }
}

#[derive(Clone)]
struct Door {
    sql: Sql,
    account: Arc<Account>,
}

/// The interface for `account`.
pub fn router(sql: Sql, account: Account) -> Router {
    let door = Door { sql, account: Arc::new(account) };
    Router::new()
        .route("/ping", get(ping))
        .route("/", get(answer).post(answer))
        .fallback(|| async { respond_error(StatusCode::NOT_FOUND, &HttpError::NotFound.to_string()) })
        .with_state(door)
        .layer(CompressionLayer::new().gzip(true))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::new())
        .layer(axum::middleware::from_fn(remainder::take_in))
}

async fn ping() -> &'static str {
    "Ok.\n"
}

async fn answer(State(door): State<Door>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(_) => return respond_error(StatusCode::PAYLOAD_TOO_LARGE, &HttpError::TooLarge.to_string()),
    };
    match asked(&door, &head.uri, &head.headers, body).await {
        Ok(response) => response,
        Err(Fault::Password) => {
            let mut response = respond_error(
                StatusCode::UNAUTHORIZED,
                "Code: 516. DB::Exception: Authentication failed: password is incorrect, or there is no such user. \
                 (AUTHENTICATION_FAILED)",
            );
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"etcd-monitor\""));
            response
        }
        Err(Fault::Request(error)) => respond_error(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(Fault::Sql(error)) => {
            let status = match &error {
                SqlError::Refused(_) | SqlError::Off(_) => StatusCode::FORBIDDEN,
                SqlError::Statement { .. } => StatusCode::BAD_REQUEST,
                SqlError::Busy | SqlError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                SqlError::Limit { .. } | SqlError::Failed(_) | SqlError::Broken(_) => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            };
            respond_error(status, &error.for_clickhouse().1)
        }
    }
}

enum Fault {
    Password,
    Request(HttpError),
    Sql(SqlError),
}

impl From<HttpError> for Fault {
    fn from(error: HttpError) -> Self {
        Self::Request(error)
    }
}

impl From<SqlError> for Fault {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

async fn asked(door: &Door, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Result<Response, Fault> {
    let mut parameters = Parameters::from_query(uri.query().unwrap_or_default())?;
    authenticate(&door.account, headers, &parameters)?;
    if parameters.decompress {
        return Err(HttpError::Malformed("compressed statements are not taken here").into());
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    parameters.add_body(kind, body)?;
    if parameters.query.trim().is_empty() {
        return Ok("Ok.\n".into_response());
    }
    let database = parameters.database.as_deref().unwrap_or_default();
    if !["", "default", door.sql.database()].contains(&database) {
        let text = format!(
            "Database {database} does not exist; there is {}. (UNKNOWN_DATABASE)",
            door.sql.database()
        );
        return Err(SqlError::Statement { code: 81, text }.into());
    }
    let format = parameters.default_format.as_deref().unwrap_or("TabSeparated");
    let format = Format::by_name(format)
        .ok_or(HttpError::Malformed("default_format is none of those answered here"))?;
    let mut limits = Limits::default();
    for (name, value) in &parameters.settings {
        limit(&mut limits, name, value)?;
    }
    let statement = Statement { text: parameters.query, format, parameters: parameters.bound, limits };
    let answer = door.sql.ask(statement).await?;
    let (format, id, rows_read) = (answer.format, answer.id, answer.rows_read);
    let mut bytes = answer.into_bytes().boxed();
    if format.name() == "Native" && parameters.revision > 0 {
        bytes = rewritten(bytes, parameters.revision).await?;
    }
    let body = if parameters.compress {
        Body::from_stream(bytes.map(|piece| piece.map(|piece| frame(&piece))))
    } else {
        Body::from_stream(bytes)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    let summary = rows_read.map(|rows| format!(r#"{{"read_rows":"{rows}"}}"#));
    for (name, value) in [
        ("x-clickhouse-format", Some(format.name().to_owned())),
        ("x-clickhouse-query-id", Some(id.to_string())),
        ("x-clickhouse-summary", summary),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

type Pieces = BoxStream<'static, Result<Bytes, SqlError>>;

/// The answer's blocks for a client of this revision. The first piece is looked at before the answer begins, because a type
/// that can't be written shows there.
async fn rewritten(mut pieces: Pieces, revision: u64) -> Result<Pieces, SqlError> {
    let failed = |error: NativeError| SqlError::Statement { code: 50, text: error.to_string() };
    let mut rewriter = Rewriter::new(revision);
    let first = match pieces.next().await {
        Some(piece) => rewriter.push(&piece?).map_err(failed)?,
        None => Bytes::new(),
    };
    let rest = stream::try_unfold(Some((pieces, rewriter)), move |state| async move {
        let Some((mut pieces, mut rewriter)) = state else { return Ok(None) };
        match pieces.next().await {
            Some(piece) => Ok(Some((rewriter.push(&piece?).map_err(failed)?, Some((pieces, rewriter))))),
            None => Ok(Some((rewriter.finish().map_err(failed)?, None))),
        }
    });
    // An empty piece would end a body that is sent in chunks.
    let all = stream::once(async { Ok(first) }).chain(rest);
    Ok(all.try_filter(|piece| std::future::ready(!piece.is_empty())).boxed())
}

/// Lowers a limit by a setting.
fn limit(limits: &mut Limits, name: &str, value: &str) -> Result<(), HttpError> {
    let limit = match name {
        "max_execution_time" => &mut limits.seconds,
        "max_result_rows" => &mut limits.rows,
        "max_result_bytes" => &mut limits.bytes,
        "max_rows_to_read" => &mut limits.rows_read,
        "max_memory_usage" => &mut limits.memory_bytes,
        _ if IGNORED.contains(&name) => return Ok(()),
        _ => return Err(HttpError::Fixed(name.to_owned())),
    };
    // Some clients send seconds with a fraction; zero means no limit, which is the highest there is.
    let number: f64 = value.parse().map_err(|_| HttpError::Malformed("a limit is a number"))?;
    *limit = (number > 0.0).then_some(number.ceil() as u64);
    Ok(())
}

fn authenticate(account: &Account, headers: &HeaderMap, parameters: &Parameters) -> Result<(), Fault> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let basic = text(AUTHORIZATION.as_str()).as_deref().and_then(basic);
    let (user, password) = match (text("x-clickhouse-user"), text("x-clickhouse-key"), basic) {
        (None, None, Some(basic)) => basic,
        (None, None, None) => {
            (parameters.user.clone().unwrap_or_default(), parameters.password.clone().unwrap_or_default())
        }
        (user, key, _) => (user.unwrap_or_default(), key.unwrap_or_default()),
    };
    if account.is(&user, &password) { Ok(()) } else { Err(Fault::Password) }
}

fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn respond_error(status: StatusCode, text: &str) -> Response {
    let code =
        text.strip_prefix("Code: ").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(1002u32);
    let body = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    let mut response = (status, body).into_response();
    response.headers_mut().insert("x-clickhouse-exception-code", HeaderValue::from(code));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_user_with_the_right_password_gets_in() {
        let account = Account::new("viewer", &Secret::new("0123456789abcdef"));
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        let encode = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        let none = Parameters::default();
        let may = |headers: &HeaderMap, parameters: &Parameters| {
            authenticate(&account, headers, parameters).is_ok()
        };
        assert!(may(&with("authorization", &encode("viewer:0123456789abcdef")), &none));
        let mut headers = with("x-clickhouse-user", "viewer");
        assert!(!may(&headers, &none));
        headers.insert("x-clickhouse-key", HeaderValue::from_static("0123456789abcdef"));
        assert!(may(&headers, &none));
        assert!(may(
            &HeaderMap::new(),
            &Parameters::from_query("user=viewer&password=0123456789abcdef").unwrap()
        ));
        for bad in ["viewer:", "viewer:0123456789abcdeg", ":0123456789abcdef", "Viewer:0123456789abcdef"] {
            assert!(!may(&with("authorization", &encode(bad)), &none), "{bad}");
        }
        assert!(!may(&with("authorization", "Basic %%%"), &none) && !may(&HeaderMap::new(), &none));
    }

    #[test]
    fn settings_lower_limits_or_are_refused() {
        let mut limits = Limits::default();
        limit(&mut limits, "max_execution_time", "1.5").unwrap();
        limit(&mut limits, "max_result_rows", "0").unwrap();
        limit(&mut limits, "log_queries", "1").unwrap();
        assert_eq!(limits, Limits { seconds: Some(2), ..Limits::default() });
        assert!(
            limit(&mut limits, "max_threads", "4").is_err()
                && limit(&mut limits, "max_result_rows", "x").is_err()
        );
    }
}
