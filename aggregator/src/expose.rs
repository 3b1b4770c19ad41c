//! Everything the aggregator tells about itself, declared in one place and written in OpenMetrics form. Names are
//! `etcdmon_aggregator_<part>_<name>_<unit>`; `_total` is added to counters by the encoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::diagnosis::Cause;
use crate::engine::Facts;
use crate::enrol;
use crate::ingest;
use crate::notify::outbox::{Outcome, OutcomeKind};
use crate::rollup;
use crate::sql;
use crate::state::State;
use crate::store::frontier::SOURCES;
use crate::store::{Store, Table};
use crate::tls;
use crate::view::View;

/// Content type of `/metrics`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of the delivery histogram in seconds: the promise is 5, the hard limit 30.
const DELIVERY_BOUNDS: [f64; 10] = [0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Delivery {
    receiver: String,
    result: &'static str,
}

/// What became of notices. Cheap to clone; every clone counts into the same.
#[derive(Debug, Clone)]
pub struct Deliveries {
    attempts: Family<Delivery, Counter>,
    took: Histogram,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self { attempts: Family::default(), took: Histogram::new(DELIVERY_BOUNDS) }
    }
}

impl Deliveries {
    /// Counts an outcome.
    pub fn count(&self, outcome: &Outcome) {
        let result = match outcome.kind {
            OutcomeKind::Delivered => "delivered",
            OutcomeKind::Refused => "refused",
            OutcomeKind::Retry => "retry",
        };
        self.attempts.get_or_create(&Delivery { receiver: outcome.receiver.clone(), result }).inc();
        if outcome.kind == OutcomeKind::Delivered {
            self.took.observe(outcome.took.as_secs_f64());
        }
    }
}

/// What the numbers come from.
#[derive(Clone)]
pub struct Sources {
    /// Clusters, agents, alerts.
    pub view: watch::Receiver<Arc<View>>,
    /// Store.
    pub store: Store,
    /// Rollups.
    pub rollup: Arc<rollup::Counters>,
    /// Alerts, diagnoses, notices on disk.
    pub state: State,
    /// Ingest.
    pub ingest: Arc<ingest::Counters>,
    /// Enrolment.
    pub enrolment: Arc<enrol::Counters>,
    /// Certificates.
    pub certificates: tls::Gauges,
    /// SQL of users.
    pub sql: Arc<sql::Counters>,
    /// Embedded engine, if it is embedded.
    pub engine: Option<watch::Receiver<Facts>>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Everything that `/metrics` shows.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// Of these sources.
    pub fn new(sources: Sources, deliveries: &Deliveries) -> Self {
        let mut registry = Registry::with_prefix("etcdmon_aggregator");
        registry.register("notify_attempts", "Attempts to deliver notices", deliveries.attempts.clone());
        registry.register_with_unit(
            "notify_delivery",
            "From planning a notice to its delivery",
            Unit::Seconds,
            deliveries.took.clone(),
        );
        registry.register_collector(Box::new(sources));
        Self { registry }
    }

    /// As OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!(%error, "metrics not encoded");
        }
        text
    }
}

struct Writer<'a>(DescriptorEncoder<'a>);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Writer<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(clamp(value)).encode(metric)
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> std::fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels.to_vec())?)?;
        }
        Ok(())
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> std::fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(clamp(value)).encode(metric.encode_family(&labels.to_vec())?)?;
        }
        Ok(())
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut writer = Writer(encoder);
        self.process(&mut writer)?;
        self.ingest(&mut writer)?;
        self.security(&mut writer)?;
        self.store(&mut writer)?;
        self.rollup(&mut writer)?;
        self.engine(&mut writer)?;
        self.sql(&mut writer)?;
        self.model(&mut writer)
    }
}

impl Sources {
    fn process(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let version: Labels<'_> = &[("version", env!("CARGO_PKG_VERSION"))];
        writer.gauges("build_info", "Version of the program; always 1", [(version, 1)])?;
        writer.counter("panics", "Tasks that panicked: each is a bug", etcdmon_service::process::panics())
    }

    fn ingest(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let c = &self.ingest;
        writer.counter("ingest_batches", "Batches that arrived whole", read(&c.batches))?;
        writer.counter("ingest_rows", "Rows in batches that decoded", read(&c.rows))?;
        writer.counter("ingest_bytes", "Bytes of batches", read(&c.bytes))?;
        writer.counter(
            "ingest_acknowledged_batches",
            "Batches whose rows are all durable",
            read(&c.acknowledged),
        )?;
        writer.counter("ingest_refused_batches", "Batches refused for good", read(&c.refused))?;
        writer.counter(
            "ingest_unknown_rows",
            "Rows of kinds that this version does not know",
            read(&c.unknown_rows),
        )?;
        writer.counter(
            "ingest_resent_batches",
            "Batches that may have been sent before",
            read(&c.resends),
        )?;
        writer.counter("ingest_live_messages", "Live messages", read(&c.live))?;
        writer.counter(
            "ingest_live_dropped_messages",
            "Live messages that found the model behind",
            read(&c.live_dropped),
        )?;
        writer.counter(
            "ingest_unknown_requests",
            "Requests of a kind that this version does not know",
            read(&c.unknown_requests),
        )?;
        writer.counter("ingest_pace_changes", "Changes of pace that agents were told", read(&c.paces))?;
        writer.counter(
            "ingest_live_late_messages",
            "Live messages that came after a break",
            read(&c.live_late),
        )?;
        writer.counter(
            "ingest_live_late_put_off_messages",
            "Late live messages that found the model behind, and come again",
            read(&c.live_late_put_off),
        )?;
        writer.counter(
            "ingest_handshakes_refused",
            "Streams refused at their first message",
            read(&c.handshakes_refused),
        )?;
        writer.counter(
            "ingest_garbage_connections",
            "Connections that did not begin as they must",
            read(&c.garbage),
        )?;
        writer.gauge("ingest_streams", "Streams open", read(&c.streams))
    }

    fn security(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let (c, e) = (&self.ingest, &self.enrolment);
        writer.counter("ingest_tls_failed_handshakes", "TLS handshakes that failed", read(&c.tls_failed))?;
        writer.counter(
            "ingest_refused_certificates",
            "Agents' certificates refused: expired, revoked, or of another authority",
            read(&c.certificates_refused),
        )?;
        writer.counter("enrol_enrolled_agents", "First certificates handed out", read(&e.enrolled))?;
        writer.counter("enrol_renewed_certificates", "Certificates renewed", read(&e.renewed))?;
        writer.counter("enrol_refused", "Enrolments and renewals refused", read(&e.refused))?;
        writer.counter(
            "enrol_reused_tokens",
            "Tries with a join token that was used up: it is in two places",
            read(&e.tokens_reused),
        )?;
        writer.counter("enrol_limited", "Tries that came too fast", read(&e.limited))?;
        writer.counter("enrol_revoked_agents", "Agents revoked", read(&e.revoked))?;
        writer.counter(
            "tls_reload_failures",
            "Changed TLS files that could not be put in force",
            self.certificates.failures(),
        )?;
        let expiries = self.certificates.expiries();
        let labels: Vec<_> =
            expiries.iter().map(|(name, at)| ([("certificate", *name)], at.timestamp())).collect();
        let values = labels.iter().map(|(label, at)| (label.as_slice(), u64::try_from(*at).unwrap_or(0)));
        writer.gauges("tls_certificate_expiry_seconds", "End of life of a certificate, Unix time", values)
    }

    fn store(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let c = self.store.counters();
        let labels: Vec<_> = Table::ALL.iter().map(|table| (*table, [("table", table.name())])).collect();
        let rows = labels.iter().map(|(table, label)| (label.as_slice(), read(c.rows_stored(*table))));
        writer.counters("store_rows", "Rows stored", rows)?;
        let rows =
            labels.iter().map(|(table, label)| (label.as_slice(), read(&c.rows_unstorable[*table as usize])));
        writer.counters("store_unstorable_rows", "Rows that ClickHouse will never take, set aside", rows)?;
        writer.counter("store_batches", "Batches stored as a whole", read(&c.batches_stored))?;
        writer.counter(
            "store_merged_batches",
            "Batches that came again while they waited",
            read(&c.batches_merged),
        )?;
        writer.counter("store_inserts", "Inserts that ended well", read(&c.inserts))?;
        writer.counter(
            "store_failed_inserts",
            "Inserts that failed or have an unknown outcome",
            read(&c.inserts_failed),
        )?;
        writer.counter(
            "store_presence_checks",
            "Times that tables were asked what they have",
            read(&c.presence_checks),
        )?;
        writer.counter("store_present_rows", "Rows that were there already", read(&c.rows_present))?;
        writer.counter("store_flushes", "Groups of batches stored", read(&c.flushes))?;
        writer.counter("store_flush_nanoseconds", "Time that groups took", read(&c.flush_ns))?;
        writer.gauge("store_waiting_batches", "Batches that wait to be stored", read(&c.batches_waiting))?;
        writer.gauge("store_waiting_bytes", "Memory that waiting batches take", read(&c.bytes_waiting))?;
        writer.gauge("store_ready", "Whether the schema was brought up to date", self.store.is_ready().into())
    }

    fn rollup(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let c = &self.rollup;
        let labels = SOURCES.map(|source| [("source", source.name())]);
        let each = |values: &[AtomicU64; SOURCES.len()]| {
            let values: Vec<u64> = values.iter().map(read).collect();
            labels.iter().map(|label| label.as_slice()).zip(values).collect::<Vec<_>>()
        };
        writer.gauges(
            "rollup_lag_seconds",
            "How far the newest finished minute is behind",
            each(&c.lag_seconds),
        )?;
        writer.gauges(
            "rollup_marked_minutes",
            "Minutes with late rows that wait to be recomputed",
            each(&c.marks_waiting),
        )?;
        writer.counters("rollup_minutes", "Minutes recomputed in their turn", each(&c.minutes))?;
        writer.counters("rollup_late_minutes", "Minutes recomputed for late rows", each(&c.late_minutes))?;
        writer.counters(
            "rollup_too_late_minutes",
            "Minutes with rows that came when their neighbours were no longer kept: not in the sums",
            each(&c.too_late_minutes),
        )?;
        writer.counter(
            "transcript_lost_lines",
            "Transitions of alerts and diagnoses that were lost before they were stored",
            self.state.untold_lines(),
        )?;
        writer.counter("rollup_failures", "Steps that failed and are taken again", read(&c.failures))?;
        writer.counter("rollup_busy_nanoseconds", "Time in statements", read(&c.busy_ns))
    }

    fn engine(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let Some(facts) = &self.engine else { return Ok(()) };
        let facts = facts.borrow().clone();
        writer.gauge("engine_running", "Whether the embedded engine answers", facts.running.into())?;
        writer.counter("engine_restarts", "Times that it ended without being told to", facts.restarts)
    }

    fn sql(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let outcomes = self.sql.by_outcome().map(|(outcome, count)| ([("outcome", outcome)], count));
        let values = outcomes.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.counters("sql_statements", "Statements of users, by what became of them", values)
    }

    fn model(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let view = self.view.borrow().clone();
        writer.gauge("clusters", "Clusters known", view.clusters.len() as u64)?;
        let alive = view.agents.iter().filter(|agent| agent.alive).count();
        writer.gauge("agents_alive", "Agents that sent something in the last 5 s", alive as u64)?;
        writer.gauge("agents_silent", "Agents that fell silent", (view.agents.len() - alive) as u64)?;
        writer.gauge(
            "live_lost_messages",
            "Live messages of present agent processes that did not arrive, neither in time nor late",
            view.live_lost,
        )?;
        let faults = [
            ("stale", view.faults.stale),
            ("refused", view.faults.refused),
            ("corrupt", view.faults.corrupt),
            ("reset", view.faults.resets),
        ];
        let labels = faults.map(|(kind, count)| ([("kind", kind)], count));
        let values = labels.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.counters("live_faults", "What was wrong with live messages", values)?;
        let mut alerts: Vec<([(&str, &str); 2], u64)> = Vec::new();
        for state in ["pending", "firing"] {
            for severity in ["critical", "warning", "info"] {
                let count = view.alerts.iter().filter(|a| a.state == state && a.severity == severity).count();
                alerts.push(([("state", state), ("severity", severity)], count as u64));
            }
        }
        let values = alerts.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.gauges("alerts", "Alerts by state and severity", values)?;
        let open = Cause::ALL.map(|cause| {
            let count = view.diagnoses.open().filter(|diagnosis| diagnosis.cause == cause).count();
            ([("cause", cause.name())], count as u64)
        });
        let values = open.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.gauges("diagnoses_open", "Diagnoses that are open, by cause", values)?;
        writer.counter(
            "diagnoses_refused",
            "Diagnoses that were not opened because there were too many",
            view.diagnoses.refused(),
        )
    }
}
