//! What the log says of one boot of etcd, as the verdict needs it.

use std::collections::VecDeque;

use serde_json::Value;

use super::line::{Entry, Level};

/// Lines kept.
const KEPT: usize = 40;

/// Longest text kept of a line.
const TEXT_LIMIT: usize = 600;

/// Messages of an etcd that serves clients, in 3.5 and later and in 3.4. "ready to serve client requests" is not one of them:
/// it comes before the certificates are read.
const SERVING: [&str; 3] =
    ["serving client traffic", "serving client requests on", "serving insecure client requests on"];

/// A line that may tell why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootLine {
    /// `None` for what is no log line, such as a panic's.
    pub level: Option<Level>,
    /// The message and its fields that are text, stack traces and requests left out.
    pub text: String,
}

/// How a process comes up.
#[derive(Debug)]
pub struct Boot {
    /// When it began, Unix nanoseconds.
    pub started_ns: i64,
    /// It serves clients.
    pub ready: bool,
    /// It was told to end.
    pub stopping: bool,
    lines: VecDeque<BootLine>,
}

impl Boot {
    /// A process that began at `started_ns`.
    pub const fn new(started_ns: i64) -> Self {
        Self { started_ns, ready: false, stopping: false, lines: VecDeque::new() }
    }

    /// What may tell why, oldest first.
    pub fn lines(&mut self) -> &[BootLine] {
        self.lines.make_contiguous()
    }

    /// Notes an entry.
    pub fn entry(&mut self, entry: &Entry) {
        let message = entry.message.as_str();
        if SERVING.iter().any(|begin| message.starts_with(begin)) {
            self.ready = true;
            self.lines.clear();
            return;
        }
        if message.starts_with("received signal; shutting down")
            || (message.starts_with("received ") && message.ends_with(" signal, shutting down..."))
        {
            self.stopping = true;
        }
        let least = if self.ready { Level::Error } else { Level::Warn };
        if entry.level < least {
            return;
        }
        let mut text = message.to_owned();
        let telling = |name: &str| !name.contains("request") && !name.contains("response");
        for (name, value) in entry.fields.iter().filter(|(name, _)| telling(name)) {
            if let Value::String(value) = value {
                text = format!("{text}; {name}: {value}");
            }
        }
        self.push(BootLine { level: Some(entry.level), text });
    }

    /// Notes what is no log line: usage texts, panics. Frames of a stack are left out.
    pub fn raw(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        let frame = text.is_empty()
            || text.starts_with(['\t', ' '])
            || text.starts_with("goroutine ")
            || text.starts_with("created by ")
            || (text.ends_with(')') && text.contains('/') && text.contains(".("))
            || text.starts_with("WARNING: ")
            || text.starts_with("[WARNING]");
        if !frame {
            self.push(BootLine { level: None, text: text.to_owned() });
        }
    }

    fn push(&mut self, mut line: BootLine) {
        if line.text.len() > TEXT_LIMIT {
            line.text = line.text.chars().take(TEXT_LIMIT).collect();
        }
        // The first lines of a panic and the last ones of a log matter; a storm of warnings must not push out either.
        if self.lines.back() == Some(&line) {
            return;
        }
        if self.lines.len() == KEPT {
            self.lines.remove(KEPT / 2);
        }
        self.lines.push_back(line);
    }
}
