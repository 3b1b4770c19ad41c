//! What a request asks for: URL parameters, multipart bodies, and whether it is an insert with rows.

use bytes::Bytes;

use super::error::HttpError;

/// Most `{name:Type}` parameters and settings in one request.
const MAX_PARAMETERS: usize = 256;

/// A request's parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// SQL, from the URL and the body.
    pub query: String,
    /// Database to work in.
    pub database: Option<String>,
    /// Format of the answer when the SQL names none.
    pub default_format: Option<String>,
    /// The client's name for the statement.
    pub query_id: Option<String>,
    /// User as a URL parameter.
    pub user: Option<String>,
    /// Key as a URL parameter.
    pub password: Option<String>,
    /// The answer is wanted in compressed frames.
    pub compress: bool,
    /// Revision of the protocol that the client reads answers in the Native format by.
    pub revision: u64,
    /// The body is in compressed frames.
    pub decompress: bool,
    /// Values for placeholders: (name, escaped text).
    pub bound: Vec<(String, String)>,
    /// Settings of this statement.
    pub settings: Vec<(String, String)>,
}

impl Parameters {
    /// Parameters of a URL.
    pub fn from_query(query: &str) -> Result<Self, HttpError> {
        let mut parameters = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            parameters.add(&name, value.into_owned())?;
        }
        Ok(parameters)
    }

    fn add(&mut self, name: &str, value: String) -> Result<(), HttpError> {
        if self.bound.len() + self.settings.len() >= MAX_PARAMETERS {
            return Err(HttpError::TooLarge);
        }
        match name {
            "query" => self.query = value,
            "database" => self.database = Some(value).filter(|name| !name.is_empty()),
            "default_format" => self.default_format = Some(value),
            "query_id" => self.query_id = Some(value).filter(|id| is_query_id(id)),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "compress" => self.compress = value == "1",
            "client_protocol_version" => self.revision = value.parse().unwrap_or(0),
            "decompress" => self.decompress = value == "1",
            // No sessions and no roles, and answers are held back as it is: accepted because clients send them.
            "session_id" | "session_timeout" | "role" | "wait_end_of_query" | "buffer_size" => {}
            _ => match name.strip_prefix("param_") {
                Some(name) => self.bound.push((name.to_owned(), value)),
                None if is_setting(name) => self.settings.push((name.to_owned(), value)),
                None => return Err(HttpError::Malformed("parameter is no setting name")),
            },
        }
        Ok(())
    }

    /// Adds the body of a request that is no insert: SQL, or a form with SQL and placeholders.
    pub fn add_body(&mut self, content_type: Option<&str>, body: Bytes) -> Result<(), HttpError> {
        let boundary = content_type.and_then(multipart_boundary);
        if let Some(boundary) = boundary {
            for (name, value) in parts(boundary, &body)? {
                self.add(&name, value)?;
            }
            return Ok(());
        }
        let body = std::str::from_utf8(&body).map_err(|_| HttpError::Malformed("statement is not UTF-8"))?;
        if !self.query.is_empty() && !body.is_empty() {
            self.query.push('\n');
        }
        self.query.push_str(body);
        Ok(())
    }

    /// `sql` with the statement's name in front, where `system.processes` shows it.
    pub fn tagged(&self, sql: &str) -> String {
        match &self.query_id {
            Some(id) => format!("/* query_id:{id} */ {sql}"),
            None => sql.to_owned(),
        }
    }
}

/// An insert whose rows are the body.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The statement without its FORMAT clause.
    pub sql: String,
    /// Format of the rows.
    pub format: String,
}

impl Plan {
    /// The plan when the URL holds `INSERT … FORMAT x`.
    pub fn insert(parameters: &Parameters) -> Option<Self> {
        let sql = parameters.query.trim_end().trim_end_matches(';').trim_end();
        let verb = skip_comments(sql).get(..6)?;
        if !verb.eq_ignore_ascii_case("INSERT") {
            return None;
        }
        let (rest, format) = sql.rsplit_once(|c: char| c.is_ascii_whitespace())?;
        let (sql, keyword) = rest.trim_end().rsplit_once(|c: char| c.is_ascii_whitespace())?;
        let named =
            !format.is_empty() && format.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !named || !keyword.eq_ignore_ascii_case("FORMAT") {
            return None;
        }
        Some(Self { sql: parameters.tagged(sql), format: format.to_owned() })
    }
}

fn skip_comments(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start();
        let end = match sql.strip_prefix("/*") {
            Some(comment) => comment.split_once("*/"),
            None => sql.strip_prefix("--").and_then(|comment| comment.split_once('\n')),
        };
        match end {
            Some((_, rest)) => sql = rest,
            None => return sql,
        }
    }
}

fn is_setting(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// An id goes into a comment, so it must not end one.
fn is_query_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 200
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

/// `name` as a quoted identifier.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// One `SET` for all settings. Names were checked by [`is_setting`].
pub fn set_statement(settings: &[(String, String)]) -> String {
    let assign = |(name, value): &(String, String)| {
        format!("{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    };
    format!("SET {}", settings.iter().map(assign).collect::<Vec<_>>().join(", "))
}

fn multipart_boundary(content_type: &str) -> Option<&str> {
    let mut fields = content_type.split(';').map(str::trim);
    if !fields.next()?.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = fields.find_map(|field| field.strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"')).filter(|boundary| !boundary.is_empty() && boundary.len() <= 200)
}

/// (name, value) of each part of a form.
fn parts(boundary: &str, body: &[u8]) -> Result<Vec<(String, String)>, HttpError> {
    const BAD: HttpError = HttpError::Malformed("multipart body does not parse");
    let body = std::str::from_utf8(body).map_err(|_| BAD)?;
    let opening = format!("--{boundary}\r\n");
    let between = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(opening.as_str()).ok_or(BAD)?;
    let mut found = Vec::new();
    loop {
        if found.len() > MAX_PARAMETERS {
            return Err(HttpError::TooLarge);
        }
        let (part, after) = rest.split_once(between.as_str()).ok_or(BAD)?;
        let (head, value) = part.split_once("\r\n\r\n").ok_or(BAD)?;
        found.push((part_name(head).ok_or(BAD)?.to_owned(), value.to_owned()));
        if after.starts_with("--") {
            return Ok(found);
        }
        rest = after.strip_prefix("\r\n").ok_or(BAD)?;
    }
}

fn part_name(head: &str) -> Option<&str> {
    let disposition = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    disposition
        .split(';')
        .find_map(|field| field.trim().strip_prefix("name="))
        .map(|name| name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_insert_with_rows_is_told_from_other_statements() {
        let plan = |sql: &str| Plan::insert(&Parameters { query: sql.to_owned(), ..Parameters::default() });
        let insert = plan("INSERT INTO `t`(`a`) FORMAT RowBinary").unwrap();
        assert_eq!((insert.sql.as_str(), insert.format.as_str()), ("INSERT INTO `t`(`a`)", "RowBinary"));
        assert!(plan("/* x */ insert into t format\nNative ;").is_some());
        assert!(plan("SELECT 1 FORMAT CSV").is_none());
        assert!(plan("INSERT INTO t VALUES (1)").is_none());
        assert!(plan("").is_none());
    }

    #[test]
    fn a_query_id_that_could_end_the_comment_is_dropped() {
        let parameters = Parameters::from_query("query_id=a*%2F+DROP").unwrap();
        assert_eq!(parameters.query_id, None);
        let parameters = Parameters::from_query("query_id=etcdmon-1").unwrap();
        assert_eq!(parameters.tagged("SELECT 1"), "/* query_id:etcdmon-1 */ SELECT 1");
    }

    #[test]
    fn settings_are_quoted_and_their_names_checked() {
        let parameters = Parameters::from_query("max_threads=1%27%3B").unwrap();
        assert_eq!(set_statement(&parameters.settings), "SET max_threads = '1\\';'");
        assert!(Parameters::from_query("a%3Db=1").is_err());
        let many: String = (0..300).map(|n| format!("s{n}=1&")).collect();
        assert!(Parameters::from_query(&many).is_err());
    }

    #[test]
    fn a_form_gives_query_and_placeholders() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n--B\r\n\
                    Content-Disposition: form-data; name=\"param_a\"\r\n\r\nx\r\n--B--\r\n";
        let mut parameters = Parameters::default();
        parameters.add_body(Some("multipart/form-data; boundary=B"), Bytes::from(body)).unwrap();
        assert_eq!(parameters.query, "SELECT {a:String}");
        assert_eq!(parameters.bound, [("a".to_owned(), "x".to_owned())]);
        let cut = Bytes::from(body[..body.len() - 7].to_owned());
        assert!(Parameters::default().add_body(Some("multipart/form-data; boundary=B"), cut).is_err());
    }

    proptest! {
        #[test]
        fn no_request_panics(query in ".{0,200}", content in ".{0,60}", body in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(mut parameters) = Parameters::from_query(&query) {
                let _ = Plan::insert(&parameters);
                let _ = parameters.add_body(Some(&content), Bytes::from(body.clone()));
                let _ = parameters.add_body(Some("multipart/form-data; boundary=B"), Bytes::from(body));
                let _ = Plan::insert(&parameters);
            }
        }
    }
}
