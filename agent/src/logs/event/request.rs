//! What may be told of a request that a log line prints in full: its operation and its sizes, never its keys.

use serde_json::{Map, Value, json};

use super::super::time::parse_duration_ns;

/// Operations by the field of etcd's `InternalRaftRequest` and of a transaction, the most telling first.
const OPERATIONS: [(&str, &str); 14] = [
    ("txn:<", "txn"),
    ("compare:<", "txn"),
    ("put:<", "put"),
    ("delete_range:<", "delete"),
    ("range:<", "range"),
    ("compaction:<", "compaction"),
    ("lease_grant:<", "lease_grant"),
    ("lease_revoke:<", "lease_revoke"),
    ("lease_checkpoint:<", "lease_checkpoint"),
    ("alarm:<", "alarm"),
    ("authenticate:<", "auth"),
    ("auth_", "auth"),
    ("cluster_version_set:<", "cluster_version"),
    ("cluster_member_attr_set:<", "member_attributes"),
];

/// Adds operation and sizes of a slow apply.
pub fn describe(prefix: &str, request: &str, response: &str, details: &mut Map<String, Value>) {
    let request = without_quoted(request);
    let read_only = prefix.trim().starts_with("read-only");
    let operation = match prefix.trim() {
        "read-only range" => "range",
        "read-only txn" => "txn",
        _ => {
            // prototext writes `put:{`, gogo's text form `put:<`.
            let like_gogo = request.replace(":{", ":<");
            let found = OPERATIONS.iter().find(|(field, _)| like_gogo.contains(field));
            found.map_or("other", |(_, name)| name)
        }
    };
    details.insert("operation".to_owned(), json!(operation));
    details.insert("read_only".to_owned(), json!(read_only));
    let sizes: u64 = numbers(&request, "value_size:").sum();
    if sizes > 0 {
        details.insert("value_size_bytes".to_owned(), json!(sizes));
    }
    let response = without_quoted(response);
    if let Some(count) = numbers(&response, "range_response_count:").next() {
        details.insert("response_count".to_owned(), json!(count));
    }
    if let Some(size) = numbers(&response, "size:").last() {
        details.insert("response_size_bytes".to_owned(), json!(size));
    }
}

/// The details of 3.4's `[read-only range ]request "…" with result "…" took too long (1.2s) to execute`.
pub fn slow_apply_text(message: &str) -> Option<Map<String, Value>> {
    let rest = message.strip_suffix(" to execute")?.strip_suffix(')')?;
    let (rest, took) = rest.rsplit_once(" took too long (")?;
    let (prefix, rest) = rest.split_once("request ")?;
    let (request, rest) = quoted(rest)?;
    let (response, _) = quoted(rest.strip_prefix(" with result ")?)?;
    let mut details = Map::new();
    details.extend(parse_duration_ns(took).map(|ns| ("took_ns".to_owned(), json!(ns))));
    describe(prefix, &request, &response, &mut details);
    let failed = response.starts_with("error:");
    details.insert("failed".to_owned(), json!(failed));
    Some(details)
}

/// The content of a string that Go wrote with `%q`, quotes and backslashes in it as they were, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let rest = text.strip_prefix('"')?;
    let mut content = String::new();
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match (escaped, c) {
            (true, _) => {
                if !matches!(c, '"' | '\\') {
                    content.push('\\');
                }
                content.push(c);
                escaped = false;
            }
            (false, '\\') => escaped = true,
            (false, '"') => return Some((content, &rest[at + 1..])),
            (false, _) => content.push(c),
        }
    }
    None
}

/// The text without what stands between quotes: keys and values are always quoted, with quotes in them escaped.
fn without_quoted(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(4096));
    let (mut inside, mut escaped) = (false, false);
    for c in text.chars() {
        match (inside, escaped, c) {
            (true, true, _) => escaped = false,
            (true, false, '\\') => escaped = true,
            (_, _, '"') => inside = !inside,
            (true, ..) => {}
            (false, ..) => kept.push(c),
        }
    }
    kept
}

/// Numbers that follow a field's name.
fn numbers<'a>(text: &'a str, field: &'a str) -> impl Iterator<Item = u64> + 'a {
    text.match_indices(field).filter_map(move |(at, _)| {
        let word =
            at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric() && text.as_bytes()[at - 1] != b'_';
        let rest = text[at + field.len()..].trim_start();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse().ok().filter(|_| word)
    })
}
