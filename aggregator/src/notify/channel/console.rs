//! Notices as lines on standard output.

use std::io::Write as _;

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Channel, DeliveryError};
use crate::notify::Notice;

/// Prints a line per alert.
#[derive(Debug, Clone, Copy, Default)]
pub struct Console;

impl Channel for Console {
    fn id(&self) -> &str {
        "console"
    }

    fn name(&self) -> &str {
        "console"
    }

    fn deliver<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Result<(), DeliveryError>> {
        Box::pin(async move {
            let mut output = std::io::stdout().lock();
            for line in lines(&notice.body) {
                // Whoever closed our standard output does not want the lines.
                if writeln!(output, "{line}").is_err() {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// One line per alert of a notice.
fn lines(body: &Value) -> Vec<String> {
    let alerts = body["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
    alerts.iter().map(line).collect()
}

fn line(alert: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let label = |name: &str| text(&alert["labels"][name]);
    let mut subject = format!("cluster={}", label("cluster"));
    for name in ["member_name", "member"] {
        if !label(name).is_empty() {
            subject.push_str(&format!(" {name}={}", label(name)));
        }
    }
    let note = |name: &str| text(&alert["annotations"][name]);
    format!(
        "ALERT {} {} {} {subject} since={} {}: {}",
        text(&alert["status"]),
        label("severity"),
        label("alertname"),
        text(&alert["startsAt"]),
        note("summary"),
        note("description"),
    )
    // What comes from foreign names must not break the line.
    .replace(|letter: char| letter.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_names_what_where_and_since_when_and_stays_one_line() {
        let body = json!({"alerts": [{
            "status": "firing", "startsAt": "2026-01-01T00:00:00Z",
            "labels": {"alertname": "EtcdFsyncSlow", "severity": "critical", "cluster": "prod", "member_name": "a\nb"},
            "annotations": {"summary": "slow", "description": "p99 212 ms"},
        }]});
        assert_eq!(
            lines(&body),
            [
                "ALERT firing critical EtcdFsyncSlow cluster=prod member_name=a b since=2026-01-01T00:00:00Z slow: p99 212 ms"
            ]
        );
        assert!(lines(&json!({"alerts": 3})).is_empty());
        assert_eq!(lines(&json!({"alerts": [{}]})).len(), 1);
    }
}
