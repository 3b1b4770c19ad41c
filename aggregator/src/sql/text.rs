//! The text of a statement before the engine sees it: its FORMAT clause goes, since the format is an argument of its own,
//! and the few lookups that clients make in system tables are answered by common table expressions of ours.
//!
//! Nothing here is a fence. What comes out is judged as it will run ([`super::gate`]), and a text that was read wrongly
//! here is refused there.

use super::gate::Refusal;

/// Tables of `system` that can be read, as far as they tell about the telemetry and the session.
const LOOKUPS: [(&str, &str); 4] = [
    (
        "settings",
        "SELECT name, value, changed, description, type, default, toUInt8(1) AS readonly FROM system.settings",
    ),
    ("databases", "SELECT name, engine, comment FROM system.databases WHERE name = {database}"),
    (
        "tables",
        "SELECT database, name, engine, comment, total_rows, total_bytes, primary_key, sorting_key, partition_key, \
         toUInt8(0) AS is_temporary FROM system.tables WHERE database = {database}",
    ),
    (
        "columns",
        "SELECT database, table, name, type, position, default_kind, default_expression, comment, is_in_partition_key, \
         is_in_sorting_key, is_in_primary_key FROM system.columns WHERE database = {database}",
    ),
];

/// What the Go driver, and Grafana by it, asks at first: `SELECT displayName(), version(), revision(), timezone()`.
const HELLO: [&str; 16] = [
    "SELECT",
    "displayName",
    "(",
    ")",
    ",",
    "version",
    "(",
    ")",
    ",",
    "revision",
    "(",
    ")",
    ",",
    "timezone",
    "(",
    ")",
];

/// A statement as it is judged and run.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Without FORMAT clause and closing semicolon.
    pub sql: String,
    /// What [`Prepared::sql`] is prefixed with when it runs: definitions of ours, which are not for the gate to judge.
    pub definitions: Vec<(&'static str, String)>,
    /// The FORMAT clause.
    pub format: Option<String>,
}

/// Prepares the text of a user.
///
/// # Errors
/// When it is longer than the engine would parse.
pub fn prepare(text: &str, database: &str) -> Result<Prepared, Refusal> {
    if text.len() > MAX_BYTES {
        return Err(Refusal(format!("a statement has at most {MAX_BYTES} bytes")));
    }
    let tokens = tokens(text);
    let (tokens, end, format) = without_format(text, &tokens);
    let shown = shown(text, tokens, database);
    if let Some(sql) = shown {
        let mut prepared = prepare(&sql, database)?;
        prepared.format = format;
        return Ok(prepared);
    }
    let (sql, definitions) = with_lookups(text, tokens, end, database);
    Ok(Prepared { sql, definitions, format })
}

impl Prepared {
    /// The text that runs.
    pub fn with_definitions(&self) -> String {
        if self.definitions.is_empty() {
            return self.sql.clone();
        }
        let definitions: Vec<String> =
            self.definitions.iter().map(|(name, query)| format!("_system_{name} AS ({query})")).collect();
        let definitions = definitions.join(", ");
        let begins = self.sql.get(..7).unwrap_or_default();
        if begins.eq_ignore_ascii_case("SELECT ") || begins.eq_ignore_ascii_case("SELECT\n") {
            return format!("WITH {definitions} {}", self.sql);
        }
        format!("WITH {definitions} SELECT * FROM ({}\n)", self.sql)
    }
}

/// The engine's own limit on the text of a statement is four times this.
const MAX_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    /// A name in quotes.
    Quoted,
    Mark,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    begin: usize,
    end: usize,
}

impl Token {
    fn text<'a>(&self, all: &'a str) -> &'a str {
        all.get(self.begin..self.end).unwrap_or_default()
    }

    /// The name that it is.
    fn name<'a>(&self, all: &'a str) -> Option<&'a str> {
        let text = self.text(all);
        match self.kind {
            Kind::Word => Some(text),
            Kind::Quoted => {
                text.get(1..text.len().saturating_sub(1)).filter(|name| !name.contains(['\\', '`', '"']))
            }
            Kind::Mark => None,
        }
    }

    fn is(&self, all: &str, word: &str) -> bool {
        self.kind == Kind::Word && self.text(all).eq_ignore_ascii_case(word)
    }
}

/// Words, quoted names and marks; strings are marks, comments nothing.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let at = |position: usize| bytes.get(position).copied().unwrap_or(0);
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
    let mut found = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        let begin = position;
        let kind = match (at(position), at(position + 1)) {
            (byte, _) if byte.is_ascii_whitespace() => {
                position += 1;
                continue;
            }
            (b'-', b'-') | (b'#', b' ' | b'!') => {
                position = text[position..].find('\n').map_or(bytes.len(), |length| position + length);
                continue;
            }
            (b'/', b'*') => {
                position =
                    text[position + 2..].find("*/").map_or(bytes.len(), |length| position + length + 4);
                continue;
            }
            (quote @ (b'\'' | b'`' | b'"'), _) => {
                position = after_quoted(bytes, position, quote);
                if quote == b'\'' { Kind::Mark } else { Kind::Quoted }
            }
            (byte, _) if word(byte) => {
                while word(at(position)) {
                    position += 1;
                }
                Kind::Word
            }
            _ => {
                position += 1;
                Kind::Mark
            }
        };
        found.push(Token { kind, begin, end: position });
    }
    found
}

/// Behind the closing quote, or the end.
fn after_quoted(bytes: &[u8], begin: usize, quote: u8) -> usize {
    let mut position = begin + 1;
    while let Some(&byte) = bytes.get(position) {
        position += match byte {
            b'\\' => 2,
            _ if byte == quote && bytes.get(position + 1) == Some(&quote) => 2,
            _ if byte == quote => return position + 1,
            _ => 1,
        };
    }
    bytes.len()
}

/// What is left of the tokens and where it ends, without `FORMAT x` and semicolons at the end.
fn without_format<'a>(text: &str, tokens: &'a [Token]) -> (&'a [Token], usize, Option<String>) {
    let without_semicolons = |mut tokens: &'a [Token]| {
        while let [rest @ .., last] = tokens {
            if last.text(text) != ";" {
                break;
            }
            tokens = rest;
        }
        tokens
    };
    let mut tokens = without_semicolons(tokens);
    let mut format = None;
    if let [rest @ .., keyword, name] = tokens
        && keyword.is(text, "FORMAT")
        && name.kind == Kind::Word
        && !rest.is_empty()
    {
        format = Some(name.text(text).to_owned());
        tokens = without_semicolons(rest);
    }
    let end = tokens.last().map_or(text.len(), |last| last.end);
    (tokens, end, format)
}

/// The query that answers `SHOW DATABASES`, `SHOW TABLES` and `DESCRIBE`, which clients ask with.
fn shown(text: &str, tokens: &[Token], database: &str) -> Option<String> {
    if tokens.iter().map(|token| token.text(text)).eq(HELLO) {
        // The name of the host is not for everybody.
        return Some("SELECT 'etcd-monitor' AS display_name, version(), revision(), timezone()".to_owned());
    }
    let [first, rest @ ..] = tokens else { return None };
    if first.is(text, "SHOW") {
        let [what, rest @ ..] = rest else { return None };
        if what.is(text, "DATABASES") && rest.is_empty() {
            return Some("SELECT name FROM system.databases ORDER BY name".to_owned());
        }
        let of = match rest {
            [] => database,
            [from, name] if from.is(text, "FROM") || from.is(text, "IN") => name.name(text)?,
            _ => return None,
        };
        let query = format!("SELECT name FROM system.tables WHERE database = {} ORDER BY name", literal(of));
        return what.is(text, "TABLES").then_some(query);
    }
    if !first.is(text, "DESCRIBE") && !first.is(text, "DESC") {
        return None;
    }
    let rest = match rest {
        [table, rest @ ..] if table.is(text, "TABLE") && !rest.is_empty() => rest,
        rest => rest,
    };
    let (of, table) = match rest {
        [table] => (database, table.name(text)?),
        [of, dot, table] if dot.text(text) == "." => (of.name(text)?, table.name(text)?),
        _ => return None,
    };
    Some(format!(
        "SELECT name, type, default_kind AS default_type, default_expression, comment, '' AS codec_expression, \
         '' AS ttl_expression FROM system.columns WHERE database = {} AND table = {} ORDER BY position",
        literal(of),
        literal(table)
    ))
}

/// The text with `system.x` as the name of a definition of ours, and those definitions.
fn with_lookups(
    text: &str,
    tokens: &[Token],
    end: usize,
    database: &str,
) -> (String, Vec<(&'static str, String)>) {
    let mut definitions: Vec<(&'static str, String)> = Vec::new();
    let mut sql = String::with_capacity(end);
    let mut copied = 0;
    for (index, window) in tokens.windows(3).enumerate() {
        let [system, dot, table] = window else { continue };
        let qualified =
            index.checked_sub(1).and_then(|before| tokens.get(before)).is_some_and(|t| t.text(text) == ".");
        if qualified || system.name(text) != Some("system") || dot.text(text) != "." {
            continue;
        }
        let Some((name, query)) = LOOKUPS.iter().find(|(name, _)| table.name(text) == Some(name)) else {
            continue;
        };
        if definitions.iter().all(|(known, _)| known != name) {
            definitions.push((name, query.replace("{database}", &literal(database))));
        }
        sql.push_str(&text[copied..system.begin]);
        sql.push_str("_system_");
        sql.push_str(name);
        copied = table.end;
    }
    sql.push_str(&text[copied..end]);
    (sql, definitions)
}

/// `text` as a string of SQL.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prepared(text: &str) -> Prepared {
        prepare(text, "etcdmon").unwrap()
    }

    #[test]
    fn a_format_clause_at_the_end_is_taken_off() {
        for (text, sql, format) in [
            ("SELECT 1", "SELECT 1", None),
            ("SELECT 1;", "SELECT 1", None),
            ("SELECT 1 format CSV ; -- bye", "SELECT 1", Some("CSV")),
            ("SELECT 1 /* ; */ FORMAT JSON", "SELECT 1", Some("JSON")),
            ("SELECT 'FORMAT CSV'", "SELECT 'FORMAT CSV'", None),
            ("SELECT 'it''s \\' FORMAT x' FORMAT TSV", "SELECT 'it''s \\' FORMAT x'", Some("TSV")),
            ("SELECT 1 -- FORMAT CSV", "SELECT 1", None),
            ("FORMAT CSV", "FORMAT CSV", None),
            ("", "", None),
        ] {
            let found = prepared(text);
            assert_eq!((found.sql.as_str(), found.format.as_deref()), (sql, format), "{text}");
        }
    }

    #[test]
    fn lookups_in_system_tables_become_definitions_of_ours() {
        let found = prepared(
            "SELECT name FROM system.tables t JOIN `system`.`columns` c ON c.table = t.name FORMAT JSON",
        );
        assert_eq!(found.sql, "SELECT name FROM _system_tables t JOIN _system_columns c ON c.table = t.name");
        let runs = found.with_definitions();
        assert!(runs.starts_with("WITH _system_tables AS (SELECT database, name"), "{runs}");
        assert!(runs.contains("WHERE database = 'etcdmon'") && runs.ends_with("c.table = t.name"), "{runs}");
        let with = prepared("WITH 1 AS x SELECT x, name FROM system.tables").with_definitions();
        assert!(
            with.ends_with(" SELECT * FROM (WITH 1 AS x SELECT x, name FROM _system_tables\n)"),
            "{with}"
        );
        for untouched in [
            "SELECT 'system.tables'",
            "SELECT * FROM system.parts",
            "SELECT a.system.tables",
            "SELECT -- system.tables\n 1",
        ] {
            assert_eq!(prepared(untouched).with_definitions(), untouched);
        }
    }

    #[test]
    fn clients_that_ask_by_show_and_describe_get_an_answer() {
        assert!(prepared("show databases").sql.contains("FROM _system_databases"));
        assert!(prepared("SHOW TABLES FROM \"etcdmon\" FORMAT JSON").sql.contains("database = 'etcdmon'"));
        let described = prepared("DESC TABLE etcdmon.`metrics`;").sql;
        assert!(described.contains("database = 'etcdmon' AND table = 'metrics'"), "{described}");
        for other in ["SHOW CREATE TABLE metrics", "SHOW GRANTS", "DESCRIBE (SELECT 1)", "SHOW"] {
            assert_eq!(prepared(other).sql, other);
        }
    }

    #[test]
    fn the_go_drivers_first_question_is_answered_without_the_name_of_the_host() {
        let found = prepared("SELECT displayName(), version(), revision(), timezone()").sql;
        assert!(found.starts_with("SELECT 'etcd-monitor' AS display_name"), "{found}");
        assert_eq!(prepared("SELECT displayName()").sql, "SELECT displayName()");
    }

    #[test]
    fn too_long_a_statement_is_refused() {
        assert!(prepare(&" ".repeat(70_000), "etcdmon").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~äß\n'`\"\\\\$#/*;.]{0,80}") {
            let _ = prepare(&text, "etcdmon");
        }

        #[test]
        fn text_without_format_and_system_stays_as_it_is(text in "(SELECT|x|'a''b'|`q`|, |\\(|\\)| ){0,20}z") {
            prop_assert_eq!(prepared(&text).sql, text);
        }
    }
}
