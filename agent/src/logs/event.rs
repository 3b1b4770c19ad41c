//! What a line of etcd's log says, as a typed event.
//!
//! [`recognize`] knows the messages of etcd 3.4 to 3.7, structured and as text, by a table ([`table`]), and gives each a stable kind.
//! Of a line only what the table names is taken, each value by its type: durations as nanoseconds, ids as 16 hexadecimal
//! digits, numbers, words of a small alphabet, and the errors of messages that can't hold a key. So keys and values never leave
//! the node: of a request its operation and its sizes are told, nothing else ([`request`]).

use serde_json::{Map, Value, json};

use super::line::Entry;
use super::time::parse_duration_ns;

mod request;
mod table;

pub use table::kinds;
use table::{Shape, TEXT, TextRow, ZAP, ZapRow};

/// Longest text taken from a line.
const TEXT_LIMIT: usize = 200;

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub struct Recognized {
    /// Stable name, such as `etcd.slow_apply`.
    pub kind: &'static str,
    /// Details.
    pub details: Map<String, Value>,
}

/// How a value is taken from a line. What does not fit is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    /// Hexadecimal, to 16 digits.
    Id,
    /// A duration of Go, to nanoseconds.
    Ns,
    /// A number.
    Number,
    /// A yes or no.
    Bool,
    /// Up to 64 characters of names, versions, addresses and paths of etcd's own.
    Word,
    /// A list of words.
    Words,
    /// An error text of a message that can't hold a key.
    Cause,
}

/// The event of a line; `None` for one that has none.
pub fn recognize(entry: &Entry) -> Option<Recognized> {
    if let Some(row) = ZAP.iter().find(|row| row.matches(&entry.message)) {
        return Some(of_fields(row, entry));
    }
    if let Some((operation, _)) = entry
        .message
        .strip_prefix("trace[")
        .and_then(|rest| rest.split_once("] "))
        .map(|(_, rest)| (rest, ()))
    {
        return Some(trace(operation, entry));
    }
    if let Some(details) = request::slow_apply_text(&entry.message) {
        return Some(Recognized { kind: "etcd.slow_apply", details });
    }
    TEXT.iter().find_map(|row| of_text(row, &entry.message))
}

fn of_fields(row: &ZapRow, entry: &Entry) -> Recognized {
    let mut details = Map::new();
    for (field, name, take) in row.fields {
        if let Some(value) = entry.fields.get(*field).and_then(|value| taken(value, *take)) {
            details.insert((*name).to_owned(), value);
        }
    }
    for (name, value) in row.fixed {
        details.insert((*name).to_owned(), json!(value));
    }
    match row.shape {
        Shape::Plain => {}
        Shape::SlowApply => {
            let prefix = entry.text("prefix").unwrap_or_default();
            let request = entry.text("request").unwrap_or_default();
            request::describe(prefix, request, entry.text("response").unwrap_or_default(), &mut details);
            let failed = entry.text("error").is_some_and(|error| !error.is_empty());
            details.insert("failed".to_owned(), json!(failed));
        }
    }
    Recognized { kind: row.kind, details }
}

fn of_text(row: &TextRow, message: &str) -> Option<Recognized> {
    let values = capture(row.pattern, message)?;
    let mut details = Map::new();
    for ((name, take), value) in row.captures.iter().zip(values) {
        if name.is_empty() {
            continue;
        }
        if let Some(value) = taken(&Value::String(value.to_owned()), *take) {
            details.insert((*name).to_owned(), value);
        }
    }
    for (name, value) in row.fixed {
        details.insert((*name).to_owned(), json!(value));
    }
    Some(Recognized { kind: row.kind, details })
}

/// A trace of a slow operation: which step took longest. Steps are told in etcd's own words, which are the part between
/// quotes; what follows can name keys.
fn trace(operation: &str, entry: &Entry) -> Recognized {
    let operation: String =
        operation.chars().take_while(|c| c.is_ascii_alphabetic() || *c == ' ').take(40).collect();
    let mut details = Map::new();
    details.insert("operation".to_owned(), json!(operation.trim()));
    let took = entry.text("duration").and_then(parse_duration_ns);
    details.extend(took.map(|took| ("took_ns".to_owned(), json!(took))));
    let steps = entry.fields.get("steps").and_then(Value::as_array).into_iter().flatten();
    let longest = steps.filter_map(|step| step_of(step.as_str()?)).max_by_key(|(_, took)| *took);
    if let Some((step, took)) = longest {
        details.insert("longest_step".to_owned(), json!(step));
        details.insert("longest_step_ns".to_owned(), json!(took));
    }
    Recognized { kind: "etcd.trace", details }
}

/// `trace[1] 'read index received'  (duration: 1.2ms)`.
fn step_of(text: &str) -> Option<(String, u64)> {
    let (_, rest) = text.split_once('\'')?;
    let (step, rest) = rest.split_once("' ")?;
    let duration = rest.rsplit_once("(duration: ")?.1.trim_end_matches(')');
    let plain = step.chars().all(|c| c.is_ascii_alphanumeric() || " '.,-/()".contains(c));
    plain.then(|| (step.chars().take(80).collect(), parse_duration_ns(duration).unwrap_or(0)))
}

fn taken(value: &Value, take: Take) -> Option<Value> {
    let text = value.as_str();
    match take {
        Take::Id => id(text?).map(Value::String),
        Take::Ns => parse_duration_ns(text?).map(|ns| json!(ns)),
        Take::Number => match value {
            Value::Number(_) => Some(value.clone()),
            _ => text?.parse::<i64>().ok().map(|number| json!(number)),
        },
        Take::Bool => value.as_bool().map(Value::Bool),
        Take::Word => word(text?).map(Value::String),
        Take::Words => {
            let parts = value.as_array()?.iter().filter_map(|part| word(part.as_str()?));
            Some(Value::Array(parts.take(16).map(Value::String).collect()))
        }
        Take::Cause => {
            let cause: String = text?.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect();
            (!cause.is_empty()).then_some(Value::String(cause))
        }
    }
}

/// An id of etcd in 16 digits.
fn id(text: &str) -> Option<String> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits).map(|id| format!("{id:016x}"))
}

fn word(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-+[] ".contains(&byte);
    ((1..=128).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
}

/// What stands for each `{}` of a pattern; `None` when the text is not of its form. A value ends where the pattern's next
/// literal begins.
fn capture<'a>(pattern: &str, text: &'a str) -> Option<Vec<&'a str>> {
    let mut literals = pattern.split("{}");
    let mut rest = text.strip_prefix(literals.next()?)?;
    let mut values = Vec::new();
    for literal in literals {
        if literal.is_empty() {
            values.push(rest);
            return Some(values);
        }
        let (value, after) = rest.split_once(literal)?;
        values.push(value);
        rest = after;
    }
    rest.is_empty().then_some(values)
}

#[cfg(test)]
mod tests;
