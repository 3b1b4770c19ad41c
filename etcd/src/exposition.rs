//! The Prometheus text format, as etcd writes it.
//!
//! Parsed once a second for each member, so nothing is allocated for a line that was seen before: the text before the value
//! is the key of a table of known series. What does not parse is counted and skipped.

use std::collections::HashMap;
use std::sync::Arc;

use etcdmon_proto::v1::MetricType;

use crate::series::{Series, Steady};

/// Families that are kept, by prefix of their name.
const KEPT: &[&str] = &["etcd_", "grpc_server_", "process_", "go_gc", "os_fd_"];

/// Most series of one member. etcd 3.6 has about 1,300 with `--metrics=extensive`; label values come from clients.
pub const SERIES_LIMIT: usize = 5_000;

/// Longest name with labels that is kept, in bytes: what is remembered of a hostile page must be bounded too.
const KEY_LIMIT: usize = 4 << 10;

/// A value that did not change is repeated after so many scrapes, unless said otherwise. Nine in ten series of an etcd hardly ever change.
pub const REPEAT_EVERY: u64 = 30;

#[derive(Debug)]
struct Known {
    series: Arc<Series>,
    last: Steady,
}

/// What one scrape yielded.
#[derive(Debug, Default, PartialEq)]
pub struct Scraped {
    /// Samples that changed, or are due to be repeated.
    pub changed: Vec<(Arc<Series>, f64)>,
    /// Samples of families that are kept.
    pub samples: usize,
    /// Lines that are neither a comment nor a sample.
    pub malformed: usize,
    /// Samples beyond [`SERIES_LIMIT`], or with labels of more than 4 KiB.
    pub refused: usize,
}

/// The series of one member.
#[derive(Debug)]
pub struct Table {
    known: HashMap<Box<str>, Known>,
    scrape: u64,
    repeat_every: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self::repeating(REPEAT_EVERY)
    }
}

impl Table {
    /// A table that repeats a value that did not change after so many scrapes.
    pub fn repeating(every: u64) -> Self {
        Self { known: HashMap::new(), scrape: 0, repeat_every: every.max(1) }
    }

    /// Reads a whole page. `watch` is called with name, label text and value of every kept sample.
    pub fn read(&mut self, page: &str, mut watch: impl FnMut(&str, &str, f64)) -> Scraped {
        self.scrape += 1;
        let mut scraped = Scraped::default();
        let mut family = ("", MetricType::Unspecified);
        for line in page.lines() {
            if line.starts_with('#') {
                family = kind_of(line).unwrap_or(family);
                continue;
            }
            if line.is_empty() || !KEPT.iter().any(|prefix| line.starts_with(prefix)) {
                continue;
            }
            let Some((key, name, labels, value)) = split(line) else {
                scraped.malformed += 1;
                continue;
            };
            scraped.samples += 1;
            watch(name, labels, value);
            self.sample(key, (name, labels, value), family, &mut scraped);
        }
        scraped
    }

    fn sample(
        &mut self,
        key: &str,
        (name, labels, value): (&str, &str, f64),
        family: (&str, MetricType),
        scraped: &mut Scraped,
    ) {
        if let Some(known) = self.known.get_mut(key) {
            if known.last.is_due(value, self.scrape, self.repeat_every) {
                scraped.changed.push((Arc::clone(&known.series), value));
            }
            return;
        }
        if self.known.len() >= SERIES_LIMIT || key.len() > KEY_LIMIT {
            scraped.refused += 1;
            return;
        }
        let Some(labels) = parse_labels(labels) else {
            scraped.malformed += 1;
            return;
        };
        let kind = kind_in_family(name, family);
        let last = Steady::sent(value, self.scrape, self.repeat_every, self.known.len() as u64);
        let series = Arc::new(Series { name: name.to_owned(), labels, kind });
        scraped.changed.push((Arc::clone(&series), value));
        self.known.insert(key.into(), Known { series, last });
    }
}

/// `# TYPE name kind`.
fn kind_of(line: &str) -> Option<(&str, MetricType)> {
    let mut words = line.strip_prefix("# TYPE ")?.split_ascii_whitespace();
    let (name, kind) = (words.next()?, words.next()?);
    let kind = match kind {
        // The parts of histograms and summaries only grow, but for the quantiles.
        "counter" | "histogram" | "summary" => MetricType::Counter,
        "gauge" => MetricType::Gauge,
        _ => MetricType::Unspecified,
    };
    Some((name, kind))
}

fn kind_in_family(name: &str, (family, kind): (&str, MetricType)) -> MetricType {
    let part = name.strip_prefix(family).filter(|_| !family.is_empty());
    match part {
        Some("" | "_bucket" | "_sum" | "_count" | "_total") => kind,
        _ => MetricType::Unspecified,
    }
}

/// (text before the value, name, text between the braces, value).
fn split(line: &str) -> Option<(&str, &str, &str, f64)> {
    let name_end = line.find(['{', ' ', '\t'])?;
    let name = &line[..name_end];
    let (labels, key_end) = if line.as_bytes()[name_end] == b'{' {
        let close = name_end + closing_brace(&line[name_end..])?;
        (&line[name_end + 1..close], close + 1)
    } else {
        ("", name_end)
    };
    // A time stamp may follow the value.
    let value = line[key_end..].split_ascii_whitespace().next()?;
    Some((&line[..key_end], name, labels, parse_value(value)?))
}

/// Position of the brace that ends the labels; braces inside of quotes don't.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn parse_value(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

/// Names and values in turn, sorted by name. `None` when the text is not a list of labels.
fn parse_labels(text: &str) -> Option<Vec<String>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let after = after.strip_prefix('"')?;
        let (value, length) = unquote(after)?;
        pairs.push((name.trim().to_owned(), value));
        rest = after[length..].trim_start_matches([',', ' ']);
    }
    pairs.sort();
    Some(pairs.into_iter().flat_map(|(name, value)| [name, value]).collect())
}

/// A label value and how many bytes it took, closing quote included.
fn unquote(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, at + 1)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests;
