//! What a member says of itself: its `/metrics` page and its Status.

use std::time::Duration;

use etcdmon_etcd::Gauges;
use etcdmon_etcd::exposition::Table;
use etcdmon_etcd::scrape::Scraper;
use etcdmon_etcd::status::{Status, StatusClient};
use etcdmon_service::logging::ErrorChain;

use super::{CollectError, Collector, address};
use crate::clock::Reading;
use crate::discover::{EtcdProcess, ProcessId, TlsFiles};
use crate::fact::{Fact, Lost, Samples};
use crate::hub::Note;
use crate::probe::ProbeHandle;

/// The member list changes rarely: it is asked for on every so many collections.
const MEMBERS_EVERY: u64 = 10;

/// Scrapes one member's `/metrics`.
#[derive(Debug)]
pub struct MetricsCollector {
    id: ProcessId,
    period: Duration,
    scraper: Result<Scraper, String>,
    table: Table,
    probe: ProbeHandle,
}

impl MetricsCollector {
    /// For a process, with the certificates of the settings if there are any.
    /// `probe` tells what was counted in the kernel at the moment of a scrape.
    pub fn new(process: &EtcdProcess, configured: &TlsFiles, period: Duration, probe: ProbeHandle) -> Self {
        let scraper = address::of_metrics(process)
            .map(|endpoint| Scraper::new(endpoint, address::access(process, configured)))
            .map_err(|error| error.to_string());
        Self { id: process.id, period, scraper, table: Table::default(), probe }
    }
}

impl Collector for MetricsCollector {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        let at_head = || (self.probe.wal_syncs(self.id), Reading::now().mono_ns);
        let page = match &mut self.scraper {
            Ok(scraper) => scraper.page(at_head).await.map_err(|error| ErrorChain(&error).to_string()),
            Err(error) => Err(error.clone()),
        };
        let (page, (own_wal_syncs, mono_ns)) = match page {
            Ok(page) => page,
            Err(error) => {
                let outcome = Err(error);
                return Ok(vec![Note::Scraped { process: self.id, outcome, own_wal_syncs: None }]);
            }
        };
        let mut gauges = Gauges::default();
        let scraped = self.table.read(&page, |name, _labels, value| gauges.watch(name, value));
        let mut facts =
            vec![Fact::Samples(Samples { process: Some(self.id), mono_ns, values: scraped.changed })];
        for (count, reason) in [(scraped.refused, "series_limit"), (scraped.malformed, "malformed")] {
            if count > 0 {
                facts.push(Fact::Lost(Lost {
                    process: Some(self.id),
                    wall_ns: now.wall_ns,
                    stream: "metric",
                    reason: reason.to_owned(),
                    count: count as u64,
                }));
            }
        }
        let outcome = Ok(gauges);
        Ok(vec![Note::Scraped { process: self.id, outcome, own_wal_syncs }, Note::Facts(facts)])
    }
}

/// Asks one member for its Status, and now and then for the members it knows.
#[derive(Debug)]
pub struct StatusCollector {
    id: ProcessId,
    period: Duration,
    client: Result<StatusClient, String>,
    round: u64,
}

impl StatusCollector {
    /// For a process, with the certificates of the settings if there are any.
    pub fn new(process: &EtcdProcess, configured: &TlsFiles, period: Duration) -> Self {
        let client = address::of_client(process)
            .map(|endpoint| StatusClient::new(endpoint, address::access(process, configured)))
            .map_err(|error| error.to_string());
        Self { id: process.id, period, client, round: 0 }
    }

    async fn ask(&mut self) -> Result<Status, String> {
        let client = self.client.as_mut().map_err(|error| error.clone())?;
        client.status().await.map_err(|error| ErrorChain(&error).to_string())
    }
}

impl Collector for StatusCollector {
    fn name(&self) -> &'static str {
        "status"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, _now: Reading) -> Result<Vec<Note>, CollectError> {
        let outcome = self.ask().await;
        let good = outcome.is_ok();
        let mut notes = vec![Note::Status { process: self.id, outcome: outcome.map(Box::new) }];
        if good
            && self.round.is_multiple_of(MEMBERS_EVERY)
            && let Ok(client) = &mut self.client
        {
            match client.members().await {
                Ok(peers) => notes.push(Note::Peers { process: self.id, peers }),
                Err(error) => tracing::debug!(error = %ErrorChain(&error), "member list not had"),
            }
        }
        self.round += u64::from(good);
        Ok(notes)
    }
}
