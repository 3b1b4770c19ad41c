//! What an alert brings along so that its reader need not look it up.

use std::time::Duration;

use super::Labels;

/// The values behind a verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// The value that was judged, in the unit that the rule's annotations name (seconds for latencies, members for
    /// counts).
    pub value: f64,
    /// Annotations: `value`, `threshold`, `window`, `count` and `description`, as far as they apply.
    pub annotations: Labels,
}

impl Evidence {
    /// With a description in one sentence.
    pub fn new(value: f64, description: impl Into<String>) -> Self {
        Self { value, annotations: Labels::from([("description".to_owned(), description.into())]) }
    }

    /// With one more annotation.
    pub fn with(mut self, name: &str, text: impl Into<String>) -> Self {
        self.annotations.insert(name.to_owned(), text.into());
        self
    }
}

/// A span for people: two or three significant digits and a unit.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    if seconds >= 100.0 {
        format!("{seconds:.0} s")
    } else if seconds >= 1.0 {
        trimmed(seconds, "s")
    } else if seconds >= 1e-3 {
        trimmed(seconds * 1e3, "ms")
    } else {
        trimmed(seconds * 1e6, "µs")
    }
}

fn trimmed(number: f64, unit: &str) -> String {
    let text = if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.1}") };
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}
