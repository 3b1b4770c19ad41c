//! Prometheus's text form (0.0.4) and OpenMetrics (1.0.0), whichever the reader prefers.
//!
//! Own code, because the client library of our agents writes OpenMetrics only and can't be read back for OTLP. Both forms are
//! checked by Prometheus's own parser in the suite `exports`.

use std::fmt::Write as _;

use super::family::{Family, Kind, Label, Value};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own text form.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// What the header `Accept` prefers; Prometheus's form when it has no preference.
    pub fn accepted(accept: Option<&str>) -> Self {
        let preference = |kinds: &[&str]| {
            let offers = accept.unwrap_or("*/*").split(',').map(|offer| {
                let mut parts = offer.split(';').map(str::trim);
                let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
                let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f64>().ok());
                (kind, quality.unwrap_or(1.0))
            });
            offers.filter(|(kind, _)| kinds.contains(&kind.as_str())).map(|(_, q)| q).fold(0.0, f64::max)
        };
        let open = preference(&["application/openmetrics-text"]);
        if open > 0.0 && open >= preference(&["text/plain", "text/*"]) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The header `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The whole page.
    pub fn write(self, families: &[Family]) -> String {
        let mut text = String::new();
        for family in families {
            self.family(&mut text, family);
        }
        if self == Self::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn family(self, text: &mut String, family: &Family) {
        let (name, kind) = self.head(family);
        let help = self.help(&family.help);
        // Writing into a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}");
        let _ = writeln!(text, "# TYPE {name} {kind}");
        if self == Self::OpenMetrics && !family.unit().is_empty() && name.ends_with(family.unit()) {
            let _ = writeln!(text, "# UNIT {name} {}", family.unit());
        }
        for point in &family.points {
            match &point.value {
                Value::Number(value) => self.sample(text, &family.name, "", &point.labels, None, *value),
                Value::Histogram(histogram) => {
                    let name = &family.name;
                    for (bound, count) in &histogram.buckets {
                        let bound = self.bound(*bound);
                        self.sample(text, name, "_bucket", &point.labels, Some(&bound), *count as f64);
                    }
                    let count = histogram.count as f64;
                    self.sample(text, name, "_bucket", &point.labels, Some("+Inf"), count);
                    self.sample(text, name, "_sum", &point.labels, None, histogram.sum);
                    self.sample(text, name, "_count", &point.labels, None, count);
                }
            }
        }
    }

    /// Name and type as the lines of the head have them.
    fn head(self, family: &Family) -> (&str, &'static str) {
        let unknown = match self {
            Self::Prometheus => "untyped",
            Self::OpenMetrics => "unknown",
        };
        match (family.kind, self) {
            (Kind::Counter, Self::Prometheus) => (&family.name, "counter"),
            // A counter's family is called without `_total`; one whose samples have other names can't be one here.
            (Kind::Counter, Self::OpenMetrics) => match family.name.strip_suffix("_total") {
                Some(name) => (name, "counter"),
                None => (&family.name, unknown),
            },
            (Kind::Gauge, _) => (&family.name, "gauge"),
            (Kind::Histogram, _) => (&family.name, "histogram"),
            (Kind::Unknown, _) => (&family.name, unknown),
        }
    }

    fn help(self, help: &str) -> String {
        let escaped = help.replace('\\', "\\\\").replace('\n', "\\n");
        if self == Self::OpenMetrics { escaped.replace('"', "\\\"") } else { escaped }
    }

    /// A bucket's bound as the label `le` has it; OpenMetrics wants a point in it.
    fn bound(self, bound: f64) -> String {
        let text = number(bound);
        let whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        if self == Self::OpenMetrics && whole { format!("{text}.0") } else { text }
    }

    fn sample(
        self,
        text: &mut String,
        name: &str,
        suffix: &str,
        labels: &[Label],
        bound: Option<&str>,
        value: f64,
    ) {
        text.push_str(name);
        text.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        let labels = labels.iter().map(|(name, value)| (name.as_ref(), value.as_str())).chain(bound);
        for (number, (name, value)) in labels.enumerate() {
            let value = value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
            let _ = write!(text, "{}{name}=\"{value}\"", if number == 0 { '{' } else { ',' });
        }
        if text.ends_with('"') {
            text.push('}');
        }
        let _ = writeln!(text, " {}", number(value));
    }
}

/// A number as both forms have it.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
