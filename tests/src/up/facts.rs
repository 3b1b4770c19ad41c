//! The live line: what can be read back over the API at this moment.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use crate::api::{Api, seen};

/// Without a terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Redraws one line on a terminal; elsewhere prints a line now and then.
#[derive(Debug, Default)]
pub(super) struct Screen {
    printed: Option<Instant>,
}

impl Screen {
    pub(super) fn show(&mut self, line: &str) {
        let mut out = std::io::stdout().lock();
        let written = if out.is_terminal() {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else if self.printed.is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
            self.printed = Some(Instant::now());
            writeln!(out, "{line}")
        } else {
            Ok(())
        };
        // Nobody may be reading any more; that is no reason to stop.
        let _nobody_reads = written;
    }
}

/// Syncs seen and stored since the start, the 99th percentile of each member, alerts that fire.
pub(super) async fn line(api: &Api, id: &str, since: SystemTime) -> Result<String> {
    let seen = seen(&api.ledger(id, since).await?);
    let stored = api.stored(id, since, &[]).await?;
    let mut members = Vec::new();
    for member in api.members(id).await? {
        let p99 = match member["id"].as_str() {
            Some(member) => api.recent_p99_ns(id, member).await?,
            None => None,
        };
        let name = member["name"].as_str().unwrap_or("?");
        let leads = if member["is_leader"] == true { "*" } else { "" };
        members.push(format!("{name}{leads} {}", p99.map_or("-".to_owned(), milliseconds)));
    }
    members.sort();
    let firing = api.alerts(Some("firing")).await?;
    let names = firing.iter().filter_map(|alert| alert["name"].as_str());
    Ok(format!(
        "syncs {seen} seen, {stored} stored | WAL p99 {} | alerts {}",
        members.join(", "),
        counted(names)
    ))
}

/// Each name once, with how often it came.
fn counted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut counts = BTreeMap::<&str, u32>::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let shown: Vec<String> = counts
        .into_iter()
        .map(|(name, count)| if count == 1 { name.to_owned() } else { format!("{name} x{count}") })
        .collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.1} ms", Duration::from_nanos(ns).as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_of_the_same_name_are_counted() {
        assert_eq!(counted(["b", "a", "b"].into_iter()), "a, b x2");
        assert_eq!(counted(std::iter::empty()), "none");
    }

    #[test]
    fn durations_are_shown_in_milliseconds() {
        assert_eq!(milliseconds(1_250_000), "1.2 ms");
    }
}
