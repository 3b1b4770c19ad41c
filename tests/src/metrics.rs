//! etcd's own metrics as an oracle: the Prometheus text format, read independently of the product.

use std::time::Duration;

use anyhow::{Context, Result};

/// WAL syncs as etcd counts them: record syncs and directory syncs.
pub const WAL_FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds";

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<(String, f64)>,
}

impl Metrics {
    /// Parses the text. Lines that are no samples are passed over.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                Some((series.to_owned(), value.parse().ok()?))
            })
            .collect();
        Self { samples }
    }

    /// The value of a series, labels included as they are printed.
    ///
    /// # Errors
    /// When it is not there.
    pub fn value(&self, series: &str) -> Result<f64> {
        self.samples
            .iter()
            .find(|(name, _)| name == series)
            .map(|(_, value)| *value)
            .with_context(|| format!("no {series} in the metrics"))
    }

    /// Observations of a histogram.
    ///
    /// # Errors
    /// When it is not there.
    pub fn count(&self, histogram: &str) -> Result<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count, printed as a float"
        )]
        self.value(&format!("{histogram}_count")).map(|value| value as u64)
    }

    /// Cumulative buckets of a histogram without other labels: upper edge in seconds, observations up to it; the
    /// last edge is infinite.
    pub fn buckets(&self, histogram: &str) -> Vec<(f64, f64)> {
        let prefix = format!("{histogram}_bucket{{le=\"");
        self.samples
            .iter()
            .filter_map(|(series, value)| {
                let edge = series.strip_prefix(&prefix)?.strip_suffix("\"}")?;
                Some((if edge == "+Inf" { f64::INFINITY } else { edge.parse().ok()? }, *value))
            })
            .collect()
    }
}

/// Share of each bucket of a histogram in what came between two scrapes.
pub fn shares_between(before: &Metrics, after: &Metrics, histogram: &str) -> Vec<f64> {
    let mut previous = 0.0;
    let counts: Vec<f64> = after
        .buckets(histogram)
        .iter()
        .zip(before.buckets(histogram))
        .map(|((_, after), (_, before))| {
            let cumulative = after - before;
            let count = cumulative - previous;
            previous = cumulative;
            count
        })
        .collect();
    normalised(&counts)
}

/// Each count as a share of all.
pub fn normalised(counts: &[f64]) -> Vec<f64> {
    let sum: f64 = counts.iter().sum();
    counts.iter().map(|count| count / sum.max(1.0)).collect()
}

/// Reads a metrics page.
///
/// # Errors
/// When nobody answers within two seconds.
pub async fn scrape(client: &reqwest::Client, url: &str) -> Result<Metrics> {
    let text = client
        .get(url)
        .timeout(Duration::from_secs(2))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .with_context(|| format!("scrape {url}"))?
        .text()
        .await?;
    Ok(Metrics::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_with_its_last_edge() {
        let text =
            "# TYPE h histogram\nh_bucket{le=\"0.001\"} 3\nh_bucket{le=\"+Inf\"} 5\nh_sum 0.5\nh_count 5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.buckets("h"), [(0.001, 3.0), (f64::INFINITY, 5.0)]);
        assert_eq!(metrics.count("h").unwrap(), 5);
        assert!(metrics.value("absent").unwrap_err().to_string().contains("absent"));
    }
}
