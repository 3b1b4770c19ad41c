//! One line of etcd's log: zap's JSON (3.5 and later, 3.4 with `--logger=zap`), zap's console form, the text of 3.4 and of its
//! raft library.
//!
//! What is not of these forms (usage texts, Go's panics) is no [`Entry`]; it is counted and, while etcd starts, kept for the
//! verdict. Nothing here is stored: [`super::event`] takes from an entry what may be taken.

use serde_json::{Map, Value};

use super::time::{Stamp, parse_stamp};

/// How much a line matters, by etcd's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only for developers.
    Debug,
    /// Life cycle; 3.4's notices too.
    Info,
    /// Degraded.
    Warn,
    /// Failed.
    Error,
    /// etcd ends with it: fatal, panic, critical.
    Fatal,
}

impl Level {
    /// All, rising.
    pub const ALL: [Self; 5] = [Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal];

    /// Label of the series that counts it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "debug" | "DEBUG" | "D" | "T" => Self::Debug,
            "info" | "INFO" | "I" | "N" => Self::Info,
            "warn" | "WARN" | "W" | "WARNING" => Self::Warn,
            "error" | "ERROR" | "E" => Self::Error,
            "fatal" | "FATAL" | "panic" | "PANIC" | "dpanic" | "DPANIC" | "C" => Self::Fatal,
            _ => return None,
        })
    }

    /// From a priority of syslog, as journald keeps it.
    pub const fn of_priority(priority: u8) -> Self {
        match priority {
            0..=2 => Self::Fatal,
            3 => Self::Error,
            4 => Self::Warn,
            5 | 6 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// A parsed line.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// How much it matters.
    pub level: Level,
    /// When etcd wrote it, as far as the line tells.
    pub stamp: Stamp,
    /// The message alone, without package.
    pub message: String,
    /// The fields of a structured line.
    pub fields: Map<String, Value>,
}

impl Entry {
    /// A field that is text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }
}

/// The level of a line of zap's JSON without parsing it: the field comes first in all versions. For lines there is no time for.
pub fn peek_level(line: &[u8]) -> Option<Level> {
    let rest = line.strip_prefix(b"{\"level\":\"")?;
    let end = rest.iter().take(8).position(|byte| *byte == b'"')?;
    Level::of_word(std::str::from_utf8(&rest[..end]).ok()?)
}

/// Parses a line. `None` when it is of no known form.
pub fn parse(line: &[u8]) -> Option<Entry> {
    if line.first() == Some(&b'{') {
        return json(line);
    }
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    console(text).or_else(|| capnslog(text)).or_else(|| raft(text))
}

fn json(line: &[u8]) -> Option<Entry> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else { return None };
    let level = Level::of_word(fields.remove("level")?.as_str()?)?;
    let Some(Value::String(message)) = fields.remove("msg") else { return None };
    let stamp = fields.remove("ts").and_then(|ts| parse_stamp(ts.as_str()?)).unwrap_or_default();
    for noise in ["caller", "stacktrace", "logger"] {
        fields.remove(noise);
    }
    Some(Entry { level, stamp, message, fields })
}

/// `time\tLEVEL\t[logger\t]caller\tmessage[\t{fields}]`.
fn console(text: &str) -> Option<Entry> {
    let mut parts = text.split('\t');
    let stamp = parse_stamp(parts.next()?)?;
    let level = Level::of_word(parts.next()?)?;
    let mut rest: Vec<&str> = parts.collect();
    let fields = match rest.last().filter(|last| last.starts_with('{')).map(|last| serde_json::from_str(last))
    {
        Some(Ok(Value::Object(fields))) => {
            rest.pop();
            fields
        }
        _ => Map::new(),
    };
    let message = rest.pop()?.to_owned();
    Some(Entry { level, stamp, message, fields })
}

/// `2006-01-02 15:04:05.000000 L | package: message`.
fn capnslog(text: &str) -> Option<Entry> {
    let (head, message) = text.split_once(" | ")?;
    let (stamp, letter) = head.rsplit_once(' ')?;
    let stamp = parse_stamp(stamp)?;
    let level = Level::of_word(letter).filter(|_| letter.len() == 1)?;
    Some(Entry { level, stamp, message: without_package(message).to_owned(), fields: Map::new() })
}

/// `raft2006/01/02 15:04:05 INFO: message`.
fn raft(text: &str) -> Option<Entry> {
    let rest = text.strip_prefix("raft").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))?;
    let (stamp, rest) = rest.split_at_checked(19)?;
    let (word, message) = rest.trim_start().split_once(": ")?;
    let stamp = parse_stamp(stamp)?;
    Some(Entry { level: Level::of_word(word)?, stamp, message: message.to_owned(), fields: Map::new() })
}

/// The message behind `package: `, where a package is a path without blanks.
pub fn without_package(message: &str) -> &str {
    match message.split_once(": ") {
        Some((package, rest))
            if package.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'/') =>
        {
            rest
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_are_read_alike() {
        let lines: [(&str, Level, &str, bool); 7] = [
            (
                r#"{"level":"warn","ts":"2026-11-21T12:26:48.970968Z","caller":"wal/wal.go:1","msg":"slow fdatasync","took":"1.2s"}"#,
                Level::Warn,
                "slow fdatasync",
                true,
            ),
            (
                "2026-11-21T12:26:48.970Z\tINFO\traft\tv3@v3.7.0/raft.go:9\tbecame leader\t{\"term\": 2}",
                Level::Info,
                "became leader",
                true,
            ),
            (
                "2026-11-21 12:26:35.619 I | embed: ready to serve client requests",
                Level::Info,
                "ready to serve client requests",
                false,
            ),
            (
                "raft2026/11/21 12:26:35 INFO: a759d8e1c4eeb940 became leader at term 2",
                Level::Info,
                "a759d8e1c4eeb940 became leader at term 2",
                false,
            ),
            (
                "2026-11-21 12:28:35.414926 C | etcdmain: walpb: crc mismatch",
                Level::Fatal,
                "walpb: crc mismatch",
                false,
            ),
            (
                "2026-11-21 12:26:38.989490 N | etcdserver/api/v3rpc: starting to defragment the storage backend...",
                Level::Info,
                "starting to defragment the storage backend...",
                false,
            ),
            (
                r#"{"level":"fatal","ts":"2026-11-21T12:26:48.970+0100","msg":"x","stacktrace":"a\nb"}"#,
                Level::Fatal,
                "x",
                true,
            ),
        ];
        for (line, level, message, zoned) in lines {
            let entry = parse(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((entry.level, entry.message.as_str()), (level, message));
            assert_eq!(matches!(entry.stamp, Stamp::Utc(_)), zoned, "{line}");
            assert!(!entry.fields.contains_key("stacktrace"));
        }
    }

    #[test]
    fn the_level_is_seen_without_parsing() {
        assert_eq!(peek_level(br#"{"level":"debug","ts":"#), Some(Level::Debug));
        assert_eq!(peek_level(br#"{"level":"panic"}"#), Some(Level::Fatal));
        for other in ["", "{", r#"{"level":"#, r#"{"level":"x"}"#, "plain", r#"{"level":"debugdebugdebug"#] {
            assert_eq!(peek_level(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_log_line_is_nothing() {
        for line in [
            "",
            "panic: tocommit(9) is out of range [lastIndex(3)]",
            "goroutine 1 [running]:",
            "{\"level\":\"warn\"}",
            "{\"level\":7,\"msg\":\"x\"}",
            "{broken",
            "raft",
            "raft2026/11/21",
            "raft2026/11/21 12:26:35é",
            "2026-11-21 12:26:35 | x",
            "flag provided but not defined: -no-such-flag",
            "\u{0}\u{0}\u{0}",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse(&[0xff, 0xfe, b'|']), None);
    }
}
